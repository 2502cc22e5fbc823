//! `flotilla chaos` as a script runs it: what it counts, what it detects, and its exit codes.

mod browsers;
mod simulated;

use std::path::Path;

use flotilla_tests::command::{Output, flotilla};
use serde_json::{Value, json};

/// Runs `flotilla chaos --json` with these arguments.
fn chaos(home: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    flotilla(home, &[&["chaos", "--json"], arguments].concat(), environment)
}

/// Writes a scenario and returns its path.
fn scenario(folder: &Path, scenario: &Value) -> String {
    let path = folder.join("scenario.json");
    std::fs::write(&path, scenario.to_string()).expect("written");
    path.display().to_string()
}

/// Reads a report however the command ended.
fn report(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{output:#?}"))
}

/// Nothing was lost, wrong or answered twice, every fault fired, and the pool recovered completely.
fn check_sound(output: &Output) -> Value {
    let report = report(output);
    assert_eq!(output.code, Some(0), "{report:#}\n{}", output.stderr);
    for what in ["lost", "wrong", "duplicated"] {
        assert_eq!(report[what], json!(0), "{what}: {report:#}");
    }
    let count = |what: &str| report[what].as_u64().expect("a count");
    assert!(count("right") > 0, "{report:#}");
    assert_eq!(count("sent"), count("right") + count("error"), "{report:#}");
    assert_eq!(report["faults_missed"], json!([]), "{report:#}");
    let fired = report["faults_fired"].as_object().expect("faults");
    assert!(!fired.is_empty(), "{report:#}");
    for (fault, count) in fired {
        assert!(count.as_u64() > Some(0), "{fault}: {report:#}");
    }
    assert_eq!(report["healed"]["converged"], json!(true), "{report:#}");
    report
}
