//! Campaigns against simulated browsers.

use flotilla_tests::{daemon::Daemon, model};
use serde_json::{Value, json};

use crate::{chaos, check_sound, report, scenario};

const POOL: [&str; 2] = ["--simulate", "chrome=1,firefox=1"];

#[test]
fn crash_storm_loses_nothing() {
    let home = tempfile::tempdir().expect("a folder");
    let storm = ["--scenario", "crash-storm", "--duration", "5s", "--seed", "7"];
    let report = check_sound(&chaos(home.path(), &[&POOL[..], &storm].concat(), &[]));
    assert_eq!(report["scenario"], "crash-storm");
    assert_eq!(report["faults"][0]["fault"], "kill_browser");
    let next = &report["faults"][0]["ms_to_next_right"];
    assert_eq!(next["count"], report["faults"][0]["scheduled"], "{report:#}");
    assert_eq!(report["faults"][0]["never_right"], 0, "{report:#}");
    // 20 a second, on average.
    assert!((60..150).contains(&report["sent"].as_u64().expect("a count")), "{report:#}");
}

#[test]
fn a_seed_repeats_load_and_faults() {
    let home = tempfile::tempdir().expect("a folder");
    let fault = json!({
        "what": { "kill": { "process": "browser" } },
        "when": { "every_ms": 300 },
        "chance": 0.5,
    });
    let path = scenario(home.path(), &json!({ "name": "coins", "faults": [fault] }));
    let run = |seed: &str| {
        let arguments = ["--scenario", &path, "--duration", "3s", "--load", "50/s", "--seed", seed];
        let report = check_sound(&chaos(home.path(), &[&POOL[..], &arguments].concat(), &[]));
        (report["sent"].clone(), report["faults"][0]["scheduled"].clone())
    };
    let first = run("1");
    assert_eq!(first, run("1"));
    assert_ne!(first, run("2"), "another seed, another load");
}

#[test]
fn a_bad_network_loses_nothing() {
    let home = tempfile::tempdir().expect("a folder");
    let link = |how: Value, toward: &str, frames: u32, at_ms: u32| {
        json!({
            "what": { "link": { "how": how, "link": "data", "toward": toward, "frames": frames } },
            "when": { "at_ms": [at_ms] },
        })
    };
    let faults = [
        link(json!({ "delay": { "by_ms": 100 } }), "any", 4, 300),
        link(json!("duplicate"), "daemon", 4, 900),
        link(json!("reorder"), "daemon", 2, 1500),
        link(json!({ "replay": { "after_ms": 400 } }), "daemon", 4, 2100),
        link(json!({ "throttle": { "bytes_per_s": 50_000 } }), "page", 4, 2700),
        link(json!("drop"), "any", 1, 3300),
        link(json!("truncate"), "daemon", 1, 4500),
        link(json!({ "corrupt": { "bits": 3 } }), "daemon", 1, 5700),
        link(json!({ "corrupt": { "bits": 1 } }), "page", 1, 6900),
    ];
    let path = scenario(home.path(), &json!({ "name": "bad network", "faults": faults }));
    let arguments = ["--scenario", &path, "--duration", "9s", "--load", "40/s"];
    let report = check_sound(&chaos(home.path(), &[&POOL[..], &arguments].concat(), &[]));
    assert_eq!(report["faults_fired"]["link_delay"], 4, "{report:#}");
    assert_eq!(report["faults_fired"]["link_corrupt"], 2, "{report:#}");
}

#[test]
fn wrong_answers_are_noticed() {
    let home = tempfile::tempdir().expect("a folder");
    let fault = json!({
        "what": { "page": { "how": "wrong_answers" } },
        "where": { "kind": "firefox" },
        "when": { "at_ms": [500] },
    });
    let path = scenario(home.path(), &json!({ "name": "liar", "faults": [fault] }));
    let arguments = ["--scenario", &path, "--duration", "2s", "--load", "50/s", "--heal", "1s"];
    // Alone: beside another browser it might not be asked for anything.
    let pool = ["--simulate", "firefox=1"];
    let output = chaos(home.path(), &[&pool[..], &arguments].concat(), &[]);
    let report = report(&output);
    assert_eq!(output.code, Some(1), "{report:#}");
    assert!(report["wrong"].as_u64() > Some(0), "{report:#}");
    assert_eq!(report["faults_fired"]["page_wrong_answers"], 1, "{report:#}");
}

#[test]
fn a_fault_that_cannot_happen_is_reported() {
    let home = tempfile::tempdir().expect("a folder");
    // A simulated browser on the cpu has no device to lose.
    let arguments = ["--scenario", "device-loss", "--duration", "3s"];
    let output = chaos(home.path(), &[&POOL[..], &arguments].concat(), &[]);
    let report = report(&output);
    assert_eq!(output.code, Some(2), "{report:#}");
    let missed = &report["faults_missed"][0];
    assert_eq!(missed["fault"], "device_loss", "{report:#}");
    assert!(missed["reason"].as_str().is_some_and(|words| words.contains("not applicable")));
    assert_eq!(report["wrong"], 0, "{report:#}");
}

#[test]
fn scenarios_that_make_no_sense_here_are_refused_before_anything_starts() {
    let home = tempfile::tempdir().expect("a folder");
    let link = json!({ "what": { "link": { "how": "drop" } }, "when": { "at_ms": [1] } });
    let kill = json!({ "what": { "daemon": { "how": "kill" } }, "when": { "at_ms": [1] } });
    let both = scenario(home.path(), &json!({ "name": "both", "faults": [link, kill] }));
    let table: [(&[&str], i32, &str); 4] = [
        (&["--scenario", "calm"], 1, "crash-storm"),
        (&["--scenario", &both, "--duration", "1s"], 1, "cannot happen here"),
        (&["--scenario", "hang", "--duration", "soon"], 2, "unknown unit"),
        (&["--scenario", "hang", "--load", "0/s"], 2, "20/s"),
    ];
    for (arguments, code, words) in table {
        let output = chaos(home.path(), &[&POOL[..], arguments].concat(), &[]);
        assert_eq!(output.code, Some(code), "{output:#?}");
        assert!(output.stderr.contains(words) && output.stdout.is_empty(), "{output:#?}");
    }
}

#[test]
fn a_killed_daemon_answers_what_it_had_accepted() {
    let home = tempfile::tempdir().expect("a folder");
    let kill =
        json!({ "what": { "daemon": { "how": "kill" } }, "when": { "at_ms": [1000, 3500] } });
    let killed = json!({ "name": "killed", "keyed": true, "faults": [kill] });
    let path = scenario(home.path(), &killed);
    let arguments = ["--scenario", &path, "--duration", "6s"];
    let report = check_sound(&chaos(home.path(), &[&POOL[..], &arguments].concat(), &[]));
    assert_eq!(report["faults_fired"]["daemon_kill"], 2, "{report:#}");
    assert_eq!(report["error"], 0, "{report:#}");
}

#[test]
fn a_campaign_can_use_a_running_daemon() {
    let home = tempfile::tempdir().expect("a folder");
    let small = model::small(home.path(), "small").display().to_string();
    let daemon = Daemon::ready(&[&POOL[..], &["--models", &small]].concat());
    let url = daemon.url("");
    let connect = ["--connect", &url, "--model", &small, "--scenario", "crash-storm"];
    let output = chaos(home.path(), &[&connect[..], &["--duration", "2s"]].concat(), &[]);
    let report = report(&output);
    // Its browsers are simulated: they have no processes to kill from outside.
    assert_eq!(output.code, Some(2), "{report:#}");
    assert_eq!((&report["sent"], &report["error"]), (&report["right"], &json!(0)), "{report:#}");
}
