//! `flotilla check` in real browsers.

use std::collections::BTreeSet;

use flotilla::browser::Kind;
use flotilla_tests::{
    command::flotilla,
    daemon, place,
    skip::{BOTH, has_browsers},
};
use serde_json::json;

#[test]
fn browser_check_agrees_with_pytorch_on_every_backend() {
    if !has_browsers(&BOTH) {
        return;
    }
    let home = tempfile::tempdir().expect("a folder");
    let drivers = daemon::drivers();
    let drivers: Vec<(&str, &str)> =
        drivers.iter().map(|(name, path)| (*name, path.as_str())).collect();
    let models = ["bert", "roberta"].map(|name| place::file("models").join(name));
    let io = models.clone().map(|model| model.join("io.safetensors").display().to_string());
    let models = models.map(|model| model.display().to_string());
    let arguments = [
        "check",
        &models[0],
        &models[1],
        "--io",
        &io[0],
        "--io",
        &io[1],
        "--browsers",
        "chrome,firefox",
        "--runs",
        "3",
        "--json",
    ];
    let rows = flotilla(home.path(), &arguments, &drivers).json();
    let rows = rows.as_array().expect("an array");
    let mut seen = BTreeSet::new();
    for row in rows {
        assert_eq!((&row["status"], &row["simulated"]), (&json!("pass"), &json!(false)), "{row:#}");
        let version = row["browser_version"].as_str().unwrap_or_default();
        assert!(version.starts_with(|first: char| first.is_ascii_digit()), "{row:#}");
        assert!(row["adapter"].is_string() && row["reason"].is_null(), "{row:#}");
        assert!(row["max_abs_err"].as_f64().is_some_and(|error| error < 1e-4), "{row:#}");
        assert!(row["memory_bytes"].as_u64() > Some(50 << 20), "{row:#}");
        for field in ["first", "p50", "p95"] {
            assert!(row["latency_ms"][field].as_f64() > Some(0.0), "{field}: {row:#}");
        }
        let chromes_route = row["browser"] == "chrome" && row["backend"] == "webgpu";
        assert_eq!(row["webgpu_adapter"].is_string(), chromes_route, "{row:#}");
        let word = |field: &str| row[field].as_str().map(ToOwned::to_owned).unwrap_or_default();
        seen.insert((word("model"), word("browser"), word("backend")));
    }
    assert_eq!((rows.len(), seen.len()), (8, 8), "{rows:#?}");
}

#[test]
fn browser_bench_takes_turns() {
    if !has_browsers(&[Kind::Chrome]) {
        return;
    }
    let home = tempfile::tempdir().expect("a folder");
    let drivers = daemon::drivers();
    let drivers: Vec<(&str, &str)> =
        drivers.iter().map(|(name, path)| (*name, path.as_str())).collect();
    let bert = place::file("models/bert").display().to_string();
    let places = ["bench", &bert, "--browsers", "chrome,native", "--backends", "cpu"];
    let load = ["--batch", "1", "--concurrency", "2", "--rounds", "2", "--json"];
    let rows = flotilla(home.path(), &[&places[..], &load].concat(), &drivers).json();
    let rows = rows.as_array().expect("an array");
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert_eq!((&row["status"], &row["simulated"]), (&json!("pass"), &json!(false)), "{row:#}");
        assert!(row["rows_per_s"]["median"].as_f64() > Some(0.0), "{row:#}");
    }
}
