//! The commands, as a script runs them.

use std::{net::TcpListener, path::Path};

use flotilla_tests::{
    command::{Output, flotilla},
    daemon::Daemon,
    model::{self, MINILM, difference, floats},
};
use serde_json::{Value, json};

const HAPPY: [&str; 3] = ["That is a happy person", "That is a happy dog", "Today is a sunny day"];

#[test]
fn embed_prints_only_json() {
    let Some(minilm) = model::minilm() else { return };
    let minilm = minilm.display().to_string();
    let home = tempfile::tempdir().expect("a folder");
    let references = model::references();
    let pool = ["--simulate", "chrome=1,firefox=1", "--model", &minilm, "--json"];
    let output = flotilla(home.path(), &[&["embed"], &HAPPY[..], &pool].concat(), &[]);
    let rows = output.json();
    for (row, want) in rows.as_array().expect("a list").iter().zip(&references[..3]) {
        assert_eq!(row["text"], *want.text);
        assert_eq!(row["tokens"], want.input_ids.len());
        assert_eq!(row["simulated"], true);
        assert_eq!(row["runs"][0]["simulated"], true);
        assert!(difference(&floats(&row["embedding"]), &want.embedding) <= 1e-5, "{}", want.text);
    }
    assert_eq!(rows.as_array().map(Vec::len), Some(3));

    // The same from a running daemon, and as a table.
    let daemon = Daemon::ready(&["--simulate", "chrome=1", "--models", &minilm]);
    let url = daemon.url("");
    let connect = ["embed", HAPPY[0], HAPPY[1], "--connect", &url];
    let rows = flotilla(home.path(), &[&connect[..], &["--json"]].concat(), &[]).json();
    for (row, want) in rows.as_array().expect("a list").iter().zip(&references) {
        assert_eq!((&row["text"], &row["simulated"]), (&json!(want.text), &json!(true)));
        assert!(difference(&floats(&row["embedding"]), &want.embedding) <= 1e-5, "{}", want.text);
    }
    let table = flotilla(home.path(), &connect, &[]);
    assert_eq!(table.code, Some(0), "{table:?}");
    assert!(table.stdout.contains("0.6946") && table.stdout.contains("simulated"), "{table:?}");
}

#[test]
fn demo_shows_the_numbers() {
    let Some(minilm) = model::minilm() else { return };
    let minilm = minilm.display().to_string();
    let home = tempfile::tempdir().expect("a folder");
    let demo = ["demo", "--simulate", "chrome=1,firefox=1", "--model", &minilm, "--rounds", "2"];
    let lines = flotilla(home.path(), &[&demo[..], &["--json"]].concat(), &[]).json();
    let lines = lines.as_array().expect("an array");
    assert_eq!(lines.len(), 2);
    for (line, browser) in lines.iter().zip(["chrome", "firefox"]) {
        assert_eq!(line["browser"], browser);
        assert_eq!(line["simulated"], true);
        check_demo_line(line);
    }
    let table = flotilla(home.path(), &demo, &[]);
    assert_eq!(table.code, Some(0), "{table:?}");
    for part in ["0.6946", "0.2569", "simulated", "chrome", "firefox"] {
        assert!(table.stdout.contains(part), "{table:?} does not show {part}");
    }
}

fn check_demo_line(line: &Value) {
    for field in ["browser", "browser_version", "backend", "adapter"] {
        assert!(line[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {line}");
    }
    for field in ["first_ms", "median_ms"] {
        assert!(line[field].as_f64().is_some_and(|ms| ms > 0.0), "{field}: {line}");
    }
    let similarities = floats(&line["similarities"]);
    assert!(difference(&similarities, &[0.6946, 0.2569]) < 1e-3, "{line}");
    assert!(line["max_abs_err"].as_f64().is_some_and(|error| error < 1e-4), "{line}");
}

#[test]
fn doctor_reports_what_each_browser_offers() {
    let home = tempfile::tempdir().expect("a folder");
    let doctor = ["doctor", "--simulate", "chrome=1,firefox=1"];
    let system = flotilla(home.path(), &[&doctor[..], &["--json"]].concat(), &[]).json();
    assert_eq!(system["models"], json!([]));
    assert_eq!(system["data_folder"], home.path().display().to_string());
    let browsers = system["browsers"].as_array().expect("browsers");
    assert_eq!(browsers.len(), 2);
    for (report, kind) in browsers.iter().zip(["chrome", "firefox"]) {
        assert_eq!((&report["browser"], &report["simulated"]), (&json!(kind), &json!(true)));
        assert_eq!(report["error"], Value::Null, "{report}");
        let backends = report["backends"].as_array().expect("backends");
        for backend in backends {
            // Either what it runs on, or the message of refusal.
            let offered = backend["adapter"].is_string();
            assert_ne!(offered, backend["refused"].is_string(), "{backend}");
        }
        assert!(
            backends.iter().any(|b| b["backend"] == "cpu" && b["adapter"].is_string()),
            "{report}"
        );
    }
    let table = flotilla(home.path(), &doctor, &[]);
    assert_eq!(table.code, Some(0), "{table:?}");
    assert!(table.stdout.contains("refused") && table.stdout.contains("offered"), "{table:?}");
}

#[test]
fn pull_copies_and_checks_a_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small").display().to_string();
    let pull = |arguments: &[&str]| flotilla(folder.path(), &[&["pull"], arguments].concat(), &[]);
    // serve finds the model where pull puts it.
    let output = pull(&[&small]);
    assert_eq!(output.code, Some(0), "{output:?}");
    let pulled = folder.path().join("models").join("small");
    assert!(pulled.join("flotilla.json").is_file(), "{output:?}");
    let again = pull(&[&small]);
    assert_eq!(again.code, Some(0), "{again:?}");
    let embed = ["embed", "x", "--simulate", "chrome=1"];
    let found = flotilla(folder.path(), &embed, &[]);
    assert!(found.stderr.contains("small has no tokenizer.json"), "{found:?}");

    let empty = folder.path().join("nothing");
    std::fs::create_dir(&empty).expect("a folder");
    let output = pull(&[&empty.display().to_string()]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("nothing"), "{output:?}");
}

#[test]
fn a_port_in_use_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small").display().to_string();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let serve = ["serve", "--simulate", "chrome=1", "--models", &small, "--port", &port];
    let output = flotilla(folder.path(), &serve, &[]);
    assert_eq!(output.code, Some(1), "{output:?}");
    for part in [&port, "in use", "--port"] {
        assert!(output.stderr.contains(part), "{output:?} does not say {part}");
    }
}

#[test]
fn without_a_browser_the_remedy_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small").display().to_string();
    let nowhere = [
        ("PATH", "/no/such/path"),
        ("FLOTILLA_CHROME", "/no/such/chrome"),
        ("FLOTILLA_FIREFOX", "/no/such/firefox"),
        ("FLOTILLA_EDGE", "/no/such/edge"),
        ("FLOTILLA_CHROME_WEBNN", "/no/such/chromium"),
    ];
    let run = |arguments: &[&str]| flotilla(folder.path(), arguments, &nowhere);
    let check = |output: Output, says: &[&str]| {
        assert_eq!(output.code, Some(1), "{output:?}");
        for part in says {
            assert!(output.stderr.contains(part), "{output:?} does not say {part}");
        }
    };
    let remedy = ["not installed", "cargo xtask setup"];
    let serve = ["serve", "--port", "0", "--models", &small];
    let chrome = [&remedy[..], &["/no/such/chrome", "FLOTILLA_CHROME"]].concat();
    check(run(&[&serve[..], &["--browsers", "chrome=1"]].concat()), &chrome);
    let both = [&remedy[..], &["/no/such/chrome", "/no/such/firefox", "--simulate"]].concat();
    check(run(&serve), &both);
    check(run(&["embed", "x", "--model", &small]), &both);

    let output = run(&["doctor", "--json"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    let system: Value = serde_json::from_str(&output.stdout).expect("JSON");
    for report in system["browsers"].as_array().expect("browsers") {
        // Setup does not install Edge.
        let remedy = if report["browser"] == "edge" { "install it" } else { "cargo xtask setup" };
        let error = report["error"].as_str().unwrap_or_default();
        assert!(error.contains("/no/such/") && error.contains(remedy), "{report}");
    }
    // A simulated browser needs no installation.
    let simulated = run(&["doctor", "--simulate", "chrome=1", "--json"]);
    assert_eq!(simulated.code, Some(0), "{simulated:?}");
}

#[test]
fn wrong_arguments_are_refused_before_anything_starts() {
    let home = tempfile::tempdir().expect("a folder");
    for (arguments, says) in [
        (&["serve", "--no-such-flag"][..], "--no-such-flag"),
        (&["no-such-command"], "no-such-command"),
        (&[], "Usage"),
        (&["embed"], "TEXT"),
        (&["serve", "--browsers", "safari=1"], "chrome, firefox, edge, chrome-webnn"),
        (&["serve", "--browsers", "chrome=0"], "from 1 to"),
        (&["serve", "--simulate", ""], "chrome=1,firefox=1"),
        (&["serve", "--simulate", "chrome=1", "--browsers", "chrome=1"], "cannot be used with"),
        (&["serve", "--backends", "cuda"], "webgpu, webnn and cpu"),
        (&["serve", "--port", "70000"], "70000"),
        (
            &["embed", "x", "--connect", "http://127.0.0.1:1", "--simulate", "chrome=1"],
            "cannot be used with",
        ),
    ] {
        let output = flotilla(home.path(), arguments, &[]);
        assert_eq!(output.code, Some(2), "{arguments:?}: {output:?}");
        assert!(output.stderr.contains(says), "{arguments:?}: {output:?}");
        assert_eq!(output.stdout, "", "{arguments:?}");
    }
    let output = flotilla(home.path(), &["embed", "x", "--connect", "http://127.0.0.1:1"], &[]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("flotilla serve"), "{output:?}");
    assert!(is_empty(home.path()), "something was written");
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

#[test]
fn the_name_of_a_served_model_is_its_folders() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "my model (v2)").display().to_string();
    let daemon = Daemon::ready(&["--simulate", "chrome=1", "--models", &small]);
    assert_eq!(daemon.get("/v1/models").ok()["data"][0]["id"], "my model (v2)");
    assert_ne!(MINILM, "my model (v2)");
    assert_eq!(daemon.embed("my model (v2)", json!([1])).status, 200);
}
