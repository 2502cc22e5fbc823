//! Campaigns against real browsers. Their names have this prefix so that they run one at a time.

use flotilla_tests::{
    daemon,
    skip::{BOTH, has_browsers},
};
use serde_json::{Value, json};

use crate::{chaos, check_sound, scenario};

/// Injects faults into one browser of each kind for some seconds.
fn play(name: &str, faults: &[Value], duration: &str) -> Option<Value> {
    if !has_browsers(&BOTH) {
        return None;
    }
    let home = tempfile::tempdir().expect("a folder");
    let path = scenario(home.path(), &json!({ "name": name, "faults": faults }));
    let drivers = daemon::drivers();
    let environment: Vec<(&str, &str)> =
        drivers.iter().map(|(name, path)| (*name, path.as_str())).collect();
    let pool = ["--browsers", "chrome=1,firefox=1", "--scenario", &path, "--duration", duration];
    Some(check_sound(&chaos(home.path(), &pool, &environment)))
}

/// A fault of a browser of one kind, once.
fn once(what: &Value, kind: &str, at_ms: u32) -> Value {
    json!({ "what": what, "where": { "kind": kind }, "when": { "at_ms": [at_ms] } })
}

#[test]
fn browser_and_driver_kills_lose_nothing() {
    let kill = |process: &str| json!({ "kill": { "process": process } });
    let faults = [
        once(&kill("browser"), "chrome", 1000),
        once(&kill("browser"), "firefox", 4000),
        once(&kill("driver"), "chrome", 9000),
        once(&kill("renderer"), "chrome", 13_000),
        once(&kill("renderer"), "firefox", 17_000),
    ];
    let Some(report) = play("kills", &faults, "24s") else { return };
    assert_eq!(report["faults_fired"]["kill_browser"], 2, "{report:#}");
    assert_eq!(report["faults_fired"]["kill_renderer"], 2, "{report:#}");
}

#[test]
fn browser_pages_that_crash_or_lose_their_device_lose_nothing() {
    let page = |how: &str| json!({ "page": { "how": how } });
    let faults = [
        once(&page("lose_device"), "chrome", 1000),
        once(&page("crash"), "chrome", 5000),
        once(&page("crash"), "firefox", 9000),
    ];
    let Some(report) = play("pages", &faults, "16s") else { return };
    assert_eq!(report["faults_fired"]["device_loss"], 1, "{report:#}");
    assert_eq!(report["faults_fired"]["page_crash"], 2, "{report:#}");
}
