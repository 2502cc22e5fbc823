//! Embedding requests in real browsers.

use std::{collections::BTreeSet, time::Instant};

use flotilla::browser::Kind;
use flotilla_tests::{
    command::flotilla,
    daemon::{self, Daemon},
    model::{self, MINILM, difference, embeddings, floats},
    place,
    process::Watched,
    python,
    skip::{BOTH, has_browsers},
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Largest difference from PyTorch's numbers on any backend.
const TOLERANCE: f32 = 1e-4;

fn minilm(kinds: &[Kind]) -> Option<String> {
    if !has_browsers(kinds) {
        return None;
    }
    Some(model::minilm()?.display().to_string())
}

#[test]
fn browser_demo_is_right_on_webgpu() {
    let Some(minilm) = minilm(&BOTH) else { return };
    let home = tempfile::tempdir().expect("a folder");
    let drivers = daemon::drivers();
    let drivers: Vec<(&str, &str)> =
        drivers.iter().map(|(name, path)| (*name, path.as_str())).collect();
    let demo =
        ["demo", "--browsers", "chrome=1,firefox=1", "--model", &minilm, "--rounds", "1", "--json"];
    let lines = flotilla(home.path(), &demo, &drivers).json();
    let lines = lines.as_array().expect("an array");
    assert_eq!(lines.len(), 2);
    for (line, browser) in lines.iter().zip(["chrome", "firefox"]) {
        assert_eq!(line["browser"], browser);
        assert_eq!(
            (&line["simulated"], &line["backend"]),
            (&json!(false), &json!("webgpu")),
            "{line}"
        );
        assert_eq!(line.get("fallback"), None, "{line}");
        let version = line["browser_version"].as_str().unwrap_or_default();
        assert!(version.starts_with(|first: char| first.is_ascii_digit()), "{line}");
        assert!(difference(&floats(&line["similarities"]), &[0.6946, 0.2569]) < 1e-3, "{line}");
        assert!(line["max_abs_err"].as_f64().is_some_and(|error| error < 1e-4), "{line}");
        assert!(
            line["first_ms"].as_f64() > Some(0.0) && line["median_ms"].as_f64() > Some(0.0),
            "{line}"
        );
    }
}

#[test]
fn browser_pool_serves_with_both_on_webgpu() {
    let Some(minilm) = minilm(&BOTH) else { return };
    let mut daemon = Daemon::start(&[
        "--browsers",
        "chrome=1,firefox=1",
        "--backends",
        "webgpu,cpu",
        "--choose",
        "order",
        "--batch-delay",
        "200",
        "--models",
        &minilm,
    ]);
    daemon.wait_all_ready();
    let answer = check_references(&daemon, "webgpu");
    let browsers: BTreeSet<&str> =
        runs(&answer).iter().filter_map(|run| run["browser"].as_str()).collect();
    assert_eq!(browsers, BTreeSet::from(["chrome", "firefox"]), "{answer}");

    // Warm pipelines answer every shape.
    for (rows, length) in [(1, 3), (3, 16), (8, 128)] {
        let input: Vec<Vec<u32>> = (0..rows).map(|seed| model::row(seed, length)).collect();
        let answer = daemon.embed(MINILM, json!(input)).ok();
        assert_eq!(embeddings(&answer).len(), rows);
        for run in runs(&answer) {
            assert_eq!(run["pipelines_created"], 0, "{run}");
        }
    }

    if let Some(python) = python::openai() {
        let references = place::file("models/minilm/reference.json").display().to_string();
        let output = python::script(
            &python,
            "clients/openai_client.py",
            &[&daemon.url(""), &references, MINILM, "1e-4"],
        );
        assert_eq!(output.code, Some(0), "{}\n{}", output.stdout, output.stderr);
    }

    daemon.signal(Signal::INT);
    assert_eq!(daemon.wait_end().code(), Some(0));
}

#[test]
fn browser_pool_serves_on_cpu_and_drains() {
    let Some(minilm) = minilm(&BOTH) else { return };
    let browsers = ["--browsers", "chrome=1,firefox=1", "--backends", "cpu", "--batch-rows", "2"];
    let daemon =
        std::sync::Arc::new(Daemon::start(&[&browsers[..], &["--models", &minilm]].concat()));
    daemon.wait_all_ready();
    check_references(&daemon, "cpu");

    let request = {
        let daemon = daemon.clone();
        let input: Vec<Vec<u32>> = (0..12).map(|seed| model::row(seed, 200)).collect();
        std::thread::spawn(move || daemon.embed(MINILM, json!(input)))
    };
    daemon.wait_pool("running request", std::time::Duration::from_secs(20), |pool| {
        (pool["running"].as_u64() > Some(0)).then_some(())
    });
    daemon.signal(Signal::INT);
    assert_eq!(embeddings(&request.join().expect("an answer").ok()).len(), 12);
    let mut daemon = std::sync::Arc::into_inner(daemon).expect("no other user");
    assert_eq!(daemon.wait_end().code(), Some(0));
}

/// All seven texts in one request, twice, so that every browser computes.
fn check_references(daemon: &Daemon, backend: &str) -> Value {
    let references = model::references();
    let twice = || references.iter().chain(&references);
    let texts: Vec<&str> = twice().map(|row| row.text.as_str()).collect();
    let answer = daemon.embed(MINILM, json!(texts)).ok();
    let got = embeddings(&answer);
    assert_eq!(got.len(), 14);
    for (got, want) in got.iter().zip(twice()) {
        let difference = difference(got, &want.embedding);
        assert!(
            difference <= TOLERANCE,
            "{:?} differs by {difference}: {:#}",
            want.text,
            answer["flotilla"]
        );
    }
    assert_eq!(answer["simulated"], false);
    for run in runs(&answer) {
        assert_eq!((&run["backend"], &run["simulated"]), (&json!(backend), &json!(false)), "{run}");
        assert_eq!(run["fallback"], Value::Null, "{run}");
    }
    answer
}

fn runs(answer: &Value) -> &[Value] {
    answer["flotilla"]["runs"].as_array().expect("runs")
}

#[test]
fn browser_models_come_and_go() {
    if !has_browsers(&BOTH) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let base = model::small(folder.path(), "base").display().to_string();
    let small = model::small(folder.path(), "small");
    let mut daemon = Daemon::ready(&["--browsers", "chrome=1,firefox=1", "--models", &base]);
    let want = embeddings(&daemon.embed("base", json!([1, 2, 3])).ok());
    for _ in 0..2 {
        assert_eq!(daemon.post("/api/models", &json!({ "path": small })).status, 201);
        let pool = daemon.wait_pool("model in both browsers", daemon::READY_MAX, |pool| {
            (placements(pool, "small", "ready") == 2).then(|| pool.clone())
        });
        assert_eq!(placements(&pool, "base", "ready"), 2, "{pool:#}");
        let got = embeddings(&daemon.embed("small", json!([1, 2, 3])).ok());
        assert!(difference(&got[0], &want[0]) < TOLERANCE);
        let removed = daemon.request("DELETE", "/api/models/small", &[], None);
        assert_eq!(removed.ok()["deleted"], true);
        assert_eq!(daemon.embed("small", json!([1, 2, 3])).status, 404);
        daemon.wait_pool("pages without the model", daemon::READY_MAX, |pool| {
            let browsers = pool["browsers"].as_array()?;
            let count = |browser: &Value| browser["placements"].as_array().map_or(0, Vec::len);
            (browsers.iter().map(count).sum::<usize>() == 2).then_some(())
        });
    }
    // A second Chrome comes, the first one goes, process and all.
    let pid = daemon.get("/api/pool").ok()["browsers"][0]["facts"]["pid"].as_u64().expect("a pid");
    let added = daemon.post("/api/browsers", &json!({ "browser": "chrome" }));
    assert_eq!((added.status, &added.json()["slot"]), (201, &json!(2)), "{}", added.text);
    daemon.wait_pool("model in the new browser", daemon::READY_MAX, |pool| {
        (placements(pool, "base", "ready") == 3).then_some(())
    });
    let removed = daemon.request("DELETE", "/api/browsers/0", &[], None);
    assert_eq!(removed.ok()["deleted"], true);
    let first = Watched::open(pid as u32);
    let is_gone = first.is_none_or(|first| first.ends_before(Instant::now() + daemon::READY_MAX));
    assert!(is_gone, "the browser that was removed lives");
    assert_eq!(daemon.embed("base", json!([1, 2, 3])).status, 200);
    daemon.signal(Signal::TERM);
    assert!(daemon.wait_end().success());
}

/// Placements of a model in a state.
fn placements(pool: &Value, model: &str, state: &str) -> usize {
    let browsers = pool["browsers"].as_array().expect("browsers").iter();
    let all = browsers.flat_map(|browser| browser["placements"].as_array().expect("a list"));
    all.filter(|placement| placement["model"] == model && placement["state"] == state).count()
}
