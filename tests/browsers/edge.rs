//! Microsoft Edge: launch, checks, serving and recovery, through the shim if Edge is not installed.

use std::time::Duration;

use flotilla::browser::{Kind, install};
use flotilla_tests::{command, daemon, daemon::Daemon, model, place, process, skip::has_browsers};
use rustix::process::Signal;
use serde_json::json;

/// Longest time until a killed browser is replaced.
const REPLACED_MAX: Duration = Duration::from_secs(90);

/// Chromium behind the shim in place of Edge and its driver; `None` if there is no Chromium.
fn shimmed() -> Option<Vec<(&'static str, String)>> {
    if !has_browsers(&[Kind::Chrome]) {
        return None;
    }
    let chrome = install::find(&Kind::Chrome.into()).expect("it was there");
    let mut environment = daemon::drivers();
    environment.push(("FLOTILLA_EDGE", chrome.browser.display().to_string()));
    let shim = env!("CARGO_BIN_EXE_flotilla-edge-shim").to_owned();
    environment.push(("FLOTILLA_MSEDGEDRIVER", shim));
    Some(environment)
}

fn borrowed<'a>(environment: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    environment.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

#[test]
fn browser_edge_is_checked_through_the_shim_and_never_called_edge() {
    let Some(environment) = shimmed() else { return };
    let home = tempfile::tempdir().expect("a folder");
    let bert = place::file("models/bert");
    let io = bert.join("io.safetensors").display().to_string();
    let bert = bert.display().to_string();
    let check = ["check", &bert, "--io", &io, "--browsers", "edge"];
    let output = command::flotilla(
        home.path(),
        &[&check[..], &["--json"]].concat(),
        &borrowed(&environment),
    );
    let rows = output.json();
    let rows = rows.as_array().expect("rows");
    assert_eq!(rows.len(), 2);
    for row in rows {
        let reported = (&row["browser"], &row["status"], &row["browser_channel"]);
        assert_eq!(reported, (&json!("edge (shim)"), &json!("pass"), &json!("unknown")), "{row:#}");
        assert_eq!(row["webgpu_adapter"].is_string(), row["backend"] == "webgpu", "{row:#}");
    }
    let table = command::flotilla(home.path(), &check, &borrowed(&environment));
    assert_eq!(table.code, Some(0), "{table:?}");
    for text in [&output.stdout, &table.stdout] {
        assert_eq!(text.matches("edge").count(), text.matches("edge (shim)").count(), "{text}");
    }
    let doctor = ["doctor", "--browsers", "edge", "--json"];
    let report = command::flotilla(home.path(), &doctor, &borrowed(&environment)).json();
    assert_eq!(report["browsers"][0]["browser"], "edge (shim)", "{report:#}");
}

#[test]
fn browser_edge_serves_and_is_replaced_when_it_is_killed() {
    let Some(environment) = shimmed() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small").display().to_string();
    let pool = ["--browsers", "edge=1", "--models", &small];
    let daemon = Daemon::start_in(&pool, &borrowed(&environment));
    let old = daemon.wait_all_ready();
    let asked = || daemon.embed("small", json!([[5, 4, 3, 2, 1]])).ok();
    let before = asked();
    let run = &before["flotilla"]["runs"][0];
    assert_eq!((&run["browser"], &run["simulated"]), (&json!("edge (shim)"), &json!(false)));
    assert_eq!((&run["browser_channel"], &run["tried"]), (&json!("unknown"), &json!([])));
    let facts = &old["browsers"][0]["facts"];
    assert_eq!((&facts["name"], &old["browsers"][0]["kind"]), (&run["browser"], &run["browser"]));
    let pid = facts["pid"].as_u64().expect("a process") as u32;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).expect("a process");
    let line = String::from_utf8_lossy(&line).into_owned();
    assert!(line.contains("--enable-features=WebMachineLearningNeuralNetwork"), "{line}");
    process::signal(pid, Signal::KILL);
    daemon.wait_pool("new browser", REPLACED_MAX, |pool| {
        let new = &pool["browsers"][0];
        (new["state"] == "ready" && new["browser"] != old["browsers"][0]["browser"]).then_some(())
    });
    let after = asked();
    assert_eq!(after["flotilla"]["runs"][0]["browser"], "edge (shim)", "{after:#}");
    let same = model::difference(&model::embeddings(&before)[0], &model::embeddings(&after)[0]);
    assert!(same < 1e-6, "{same}");
}
