//! Which backend answers if several are allowed: measured once, reported with every answer, reused by the next
//! daemon.

use std::time::Duration;

use flotilla_tests::{daemon::Daemon, model, skip};
use serde_json::{Value, json};

/// Longest wait for two backends to be loaded and measured.
const CHOSEN_MAX: Duration = Duration::from_secs(120);

fn runs(answer: &Value) -> Vec<Value> {
    answer["flotilla"]["runs"].as_array().expect("runs").clone()
}

#[test]
fn the_fastest_backend_is_found_beside_the_answers_and_known_to_the_next_daemon() {
    let folder = tempfile::tempdir().expect("a folder");
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path().display().to_string();
    let small = model::small(folder.path(), "small").display().to_string();
    let all = ["--simulate", "chrome=1", "--backends", "webgpu,webnn,cpu", "--models", &small];
    let environment = [("FLOTILLA_HOME", home.as_str())];
    let daemon = Daemon::start_in(&all, &environment);
    daemon.wait_line("ready: ", CHOSEN_MAX);
    let pool = daemon.get("/api/pool").ok();
    let offers = pool["browsers"][0]["backends"].as_array().expect("backends").clone();
    if offers.iter().any(|offer| offer["backend"] == "webgpu" && !offer["refused"].is_null()) {
        skip::skip("this machine gives native code no webgpu");
        return;
    }
    // While backends are measured, requests are answered.
    let first = runs(&daemon.embed("small", json!([1, 2, 3])).ok()).remove(0);
    assert!(first["chosen"]["words"].is_string(), "{first:#}");
    daemon.wait_line("backend chosen", CHOSEN_MAX);
    let answer = daemon.embed("small", json!([1, 2, 3])).ok();
    let run = runs(&answer).remove(0);
    assert_eq!(run["chosen"]["by"], "speed", "{run:#}");
    let measured = run["chosen"]["measured"].as_array().expect("measured").clone();
    assert_eq!(measured.len(), 2, "{run:#}");
    assert!(measured.iter().all(|each| each["run_ms"].as_f64() > Some(0.0)), "{run:#}");
    let (webgpu, cpu) = (ms(&measured, "webgpu"), ms(&measured, "cpu"));
    let want = if webgpu <= cpu * 1.1 { "webgpu" } else { "cpu" };
    assert_eq!(run["backend"], want, "{run:#}");
    let refused = run["chosen"]["refused"].as_array().expect("refused");
    assert_eq!(refused.len(), 1, "{run:#}");
    assert_eq!(refused[0]["backend"], "webnn", "{run:#}");
    assert!(refused[0]["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{run:#}");
    let pool = daemon.get("/api/pool").ok();
    let placements = pool["browsers"][0]["placements"].as_array().expect("placements").clone();
    assert_eq!(placements.len(), 1, "the slower one is unloaded: {pool:#}");
    assert_eq!(placements[0]["chosen"], run["chosen"], "{pool:#}");
    drop(daemon);

    let daemon = Daemon::start_in(&all, &environment);
    daemon.wait_line("ready: ", CHOSEN_MAX);
    let again = runs(&daemon.embed("small", json!([1, 2, 3])).ok()).remove(0);
    assert_eq!(again["backend"], run["backend"], "{again:#}");
    assert_eq!(again["chosen"], run["chosen"], "nothing is measured again: {again:#}");
}

fn ms(measured: &[Value], backend: &str) -> f64 {
    let of_it = measured.iter().find(|each| each["backend"] == backend);
    of_it.and_then(|each| each["run_ms"].as_f64()).unwrap_or(f64::INFINITY)
}

#[test]
fn the_first_of_the_list_is_used_where_that_is_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small").display().to_string();
    let daemon = Daemon::ready(&[
        "--simulate",
        "chrome=1",
        "--hardware-preferences",
        r#"{"priority_list": ["webnn", "cpu"], "device": "npu"}"#,
        "--choose",
        "order",
        "--models",
        &small,
    ]);
    let run = runs(&daemon.embed("small", json!([1, 2, 3])).ok()).remove(0);
    assert_eq!((&run["backend"], &run["chosen"]["by"]), (&json!("cpu"), &json!("only")), "{run:#}");
    assert!(run["fallback"].as_str().is_some_and(|words| words.contains("webnn")), "{run:#}");
    assert_eq!(run["chosen"]["refused"][0]["backend"], "webnn", "{run:#}");
}
