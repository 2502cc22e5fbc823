//! `flotilla check` and `flotilla bench`, without browsers.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use flotilla_tests::{
    command::{self, Output, flotilla},
    place,
    skip::skip,
};
use serde_json::{Value, json};

/// A committed model and PyTorch's results for it.
fn golden(name: &str) -> (String, String) {
    let folder = place::file("models").join(name);
    (folder.display().to_string(), folder.join("io.safetensors").display().to_string())
}

/// The rows that a check prints, and its output. Without CI variables, whatever runs this test.
fn check(home: &Path, arguments: &[&str]) -> (Vec<Value>, Output) {
    let output = run(home, &[&["check", "--json"], arguments].concat(), &[("GITHUB_ACTIONS", "")]);
    let rows: Value = match serde_json::from_str(&output.stdout) {
        Ok(rows) => rows,
        Err(error) => panic!("{error}: {output:#?}"),
    };
    (rows.as_array().expect("an array").clone(), output)
}

fn run(home: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    flotilla(home, arguments, environment)
}

/// A copy of a golden in which the last byte of the last number of an output is changed.
fn wrong_golden(folder: &Path, io: &str) -> String {
    let mut bytes = fs::read(io).expect("committed");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let names: Value = serde_json::from_slice(&bytes[8..8 + header]).expect("a header");
    let end = names["out.last_hidden_state"]["data_offsets"][1].as_u64().expect("an offset");
    let number = 8 + header + end as usize - 4;
    bytes[number..number + 4].copy_from_slice(&77f32.to_le_bytes());
    let path = folder.join("wrong.safetensors");
    fs::write(&path, bytes).expect("written");
    path.display().to_string()
}

#[test]
fn rows_say_who_computed_what_and_how_far_off() {
    let home = tempfile::tempdir().expect("a folder");
    let (bert, io) = golden("bert");
    let browsers = ["--browsers", "native,simulated", "--backends", "cpu", "--runs", "3"];
    let (rows, output) =
        check(home.path(), &[&[bert.as_str(), "--io", &io], &browsers[..]].concat());
    assert_eq!((rows.len(), output.code), (2, Some(0)), "{output:#?}");
    for (row, browser) in rows.iter().zip(["native", "simulated"]) {
        assert_eq!((&row["model"], &row["browser"]), (&json!("bert"), &json!(browser)), "{row:#}");
        assert_eq!((&row["backend"], &row["status"]), (&json!("cpu"), &json!("pass")), "{row:#}");
        assert_eq!(
            (&row["simulated"], &row["reason"]),
            (&json!(browser == "simulated"), &Value::Null)
        );
        assert_eq!((&row["reference"], &row["runs"]), (&json!("io"), &json!(4)));
        assert_eq!(row["inputs"], "input_ids:I64[2,12] attention_mask:I64[2,12]");
        for field in ["browser_version", "adapter", "model_hash"] {
            assert!(row[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {row:#}");
        }
        for field in ["max_abs_err", "max_rel_err"] {
            assert!(row[field].as_f64().is_some_and(|error| error < 1e-5), "{field}: {row:#}");
        }
        for field in ["first", "p50", "p95"] {
            assert!(row["latency_ms"][field].as_f64() > Some(0.0), "{field}: {row:#}");
        }
        assert!(row["latency_ms"]["p95"].as_f64() >= row["latency_ms"]["p50"].as_f64(), "{row:#}");
        assert!(row["memory_bytes"].as_u64() > Some(1 << 20), "{row:#}");
    }
    let mut kept: Vec<String> = fs::read_dir(home.path())
        .expect("a folder")
        .map(|file| file.expect("a file").file_name().to_string_lossy().into_owned())
        .collect();
    kept.sort();
    assert_eq!(kept, ["id", "incarnation"]);
}

#[test]
fn made_up_inputs_are_compared_with_the_reference() {
    let home = tempfile::tempdir().expect("a folder");
    let (bert, _) = golden("bert");
    let native = ["--browsers", "native", "--backends", "cpu", "--runs", "1"];
    let (rows, _) = check(home.path(), &[&[bert.as_str()], &native[..]].concat());
    assert_eq!((&rows[0]["status"], &rows[0]["reference"]), (&json!("pass"), &json!("tract")));
    assert_eq!(rows[0]["dims"], json!({ "batch": 1, "seq": 8 }), "{rows:#?}");
    let dims = ["--dim", "seq=5", "--dim", "batch=3", "--seed", "7"];
    let (rows, _) = check(home.path(), &[&[bert.as_str()], &native[..], &dims].concat());
    assert_eq!(rows[0]["inputs"], "input_ids:I64[3,5] attention_mask:I64[3,5]", "{rows:#?}");
    assert_eq!(rows[0]["status"], "pass");
    // More positions than the model has, a dimension that it does not have, and rows that are too large for any
    // page.
    for (dim, says) in
        [("seq=1000", "1000"), ("sequence=5", "seq"), ("batch=100000000", "over the limit")]
    {
        let (rows, output) =
            check(home.path(), &[&[bert.as_str()], &native[..], &["--dim", dim]].concat());
        assert_eq!((&rows[0]["status"], output.code), (&json!("refused"), Some(1)), "{rows:#?}");
        assert!(
            rows[0]["reason"].as_str().is_some_and(|reason| reason.contains(says)),
            "{rows:#?}"
        );
    }
}

/// A size that is fixed when the model is loaded is not a dimension any more that a benchmark could change.
#[test]
fn dimensions_are_fixed_at_load() {
    let home = tempfile::tempdir().expect("a folder");
    let (bert, io) = golden("bert");
    let native = ["--browsers", "native", "--backends", "cpu"];
    let bench = ["bench", &bert, "--json", "--rounds", "1", "--batch", "1,2"];
    let fixed = ["--concurrency", "1", "--dim", "batch=2", "--dim", "seq=3"];
    let output = run(home.path(), &[&bench[..], &fixed, &native].concat(), &[]);
    let rows = output.json();
    assert_eq!((&rows[0]["status"], &rows[1]["status"]), (&json!("skipped"), &json!("pass")));
    assert_eq!(rows[0]["reason"], "its first dimension is fixed at 2", "{rows:#}");
    assert_eq!(rows[1]["inputs"], "input_ids:I64[2,3] attention_mask:I64[2,3]", "{rows:#}");
    // Recorded inputs must have the size, too.
    for (dim, status) in [("seq=12", "pass"), ("seq=11", "refused")] {
        let (rows, _) =
            check(home.path(), &[&[&bert, "--io", &io, "--dim", dim], &native[..]].concat());
        assert_eq!(rows[0]["status"], status, "{rows:#?}");
    }
    // A name that the model does not have is an error that lists the names.
    let output = run(home.path(), &[&bench[..], &["--dim", "sequence=3"], &native].concat(), &[]);
    assert_eq!(output.code, Some(1), "{output:#?}");
    assert!(output.stderr.contains(r#"sequence; there are ["batch", "seq"]"#), "{output:#?}");
}

#[test]
fn a_wrong_number_is_named_to_people_and_machines() {
    let home = tempfile::tempdir().expect("a folder");
    let (bert, io) = golden("bert");
    let (roberta, right) = golden("roberta");
    let wrong = wrong_golden(home.path(), &io);
    let junit = home.path().join("junit.xml").display().to_string();
    let summary = home.path().join("summary.md").display().to_string();
    let both = [bert.as_str(), &roberta, "--io", &wrong, "--io", &right, "--junit", &junit];
    let places = ["--browsers", "native,edge", "--backends", "cpu", "--runs", "1"];
    let arguments = [&both[..], &places].concat();
    let (rows, output) = check(home.path(), &arguments);
    assert_eq!(output.code, Some(1), "{output:#?}");
    let statuses: Vec<&str> = rows.iter().filter_map(|row| row["status"].as_str()).collect();
    assert_eq!(statuses, ["fail", "skipped", "pass", "skipped"], "{rows:#?}");
    let first = &rows[0]["first_divergence"];
    assert_eq!(
        (&first["output"], &first["index"]),
        (&json!("last_hidden_state"), &json!([1, 11, 31]))
    );
    assert_eq!(first["want"], 77.0, "{first}");
    let reason = rows[0]["reason"].as_str().expect("a reason");
    assert!(
        reason.contains("output last_hidden_state[1, 11, 31]") && reason.contains("77"),
        "{reason}"
    );
    // A larger tolerance makes it right.
    let (rows, output) = check(home.path(), &[&arguments[..], &["--atol", "100"]].concat());
    assert_eq!((&rows[0]["status"], output.code), (&json!("pass"), Some(0)), "{rows:#?}");
    check_junit(Path::new(&junit), [4, 0, 0, 2]);

    // The same under GitHub Actions, as a table.
    let github = [("GITHUB_ACTIONS", "true"), ("GITHUB_STEP_SUMMARY", summary.as_str())];
    let output = run(home.path(), &[&["check"], &arguments[..]].concat(), &github);
    check_junit(Path::new(&junit), [4, 1, 0, 2]);
    let errors = output.stdout.lines().filter(|line| line.starts_with("::error file=")).count();
    let notices = output.stdout.lines().filter(|line| line.starts_with("::notice file=")).count();
    assert_eq!((errors, notices, output.code), (1, 2, Some(1)), "{output:#?}");
    assert!(output.stdout.contains("last_hidden_state[1, 11, 31]"), "{output:#?}");
    let summary = fs::read_to_string(&summary).expect("written");
    assert!(summary.contains("| bert | native") && summary.contains("| fail |"), "{summary}");
    // With --json, standard output has nothing else.
    let output = run(home.path(), &[&["check", "--json"], &arguments[..]].concat(), &github);
    assert!(serde_json::from_str::<Value>(&output.stdout).is_ok(), "{output:#?}");
    assert!(output.stderr.contains("::error file="), "{output:#?}");
}

/// Tests, failures, errors and skips of a report, counted by an independent parser.
fn check_junit(report: &Path, want: [usize; 4]) {
    let script = "import sys, json, xml.etree.ElementTree as tree\n\
                  root = tree.parse(sys.argv[1]).getroot()\n\
                  count = lambda name: len(root.findall('./testsuite/testcase' + name))\n\
                  told = [int(root.get(name)) for name in ('tests', 'failures', 'errors', 'skipped')]\n\
                  print(json.dumps([told, [count(''), count('/failure'), count('/error'), count('/skipped')]]))";
    if Command::new("python3").arg("--version").output().is_err() {
        return skip("python3, which reads the JUnit report, is not installed");
    }
    let mut python = Command::new("python3");
    python.args(["-I", "-c", script]).arg(report);
    let output = command::run(&mut python, Duration::from_secs(30));
    assert_eq!(output.json(), json!([want, want]), "{output:#?}");
}

#[test]
fn a_skip_is_a_failure_only_if_that_is_asked_for() {
    let home = tempfile::tempdir().expect("a folder");
    let (bert, io) = golden("bert");
    let missing = [
        ("GITHUB_ACTIONS", ""),
        ("FLOTILLA_CHROME", "/no/such/chrome"),
        ("FLOTILLA_FIREFOX", "/no/such/firefox"),
    ];
    let skips = ["check", &bert, "--io", &io, "--browsers", "chrome,firefox,edge", "--json"];
    let output = run(home.path(), &skips, &missing);
    let rows = output.json();
    assert_eq!(rows.as_array().map(Vec::len), Some(6), "two backends each");
    for row in rows.as_array().expect("an array") {
        assert_eq!((&row["status"], &row["adapter"]), (&json!("skipped"), &Value::Null), "{row:#}");
        assert_eq!(row["latency_ms"], json!({ "first": null, "p50": null, "p95": null }));
    }
    let reason = rows[0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("/no/such/chrome") && reason.contains("FLOTILLA_CHROME"), "{reason}");
    let output = run(home.path(), &[&skips[..], &["--strict"]].concat(), &missing);
    assert_eq!(output.code, Some(1), "{output:#?}");
    // A refusal by a backend is not a skip.
    let (rows, output) =
        check(home.path(), &[&bert, "--io", &io, "--browsers", "native", "--backends", "webnn"]);
    assert_eq!((&rows[0]["status"], output.code), (&json!("refused"), Some(1)), "{rows:#?}");
    assert!(rows[0]["reason"].as_str().is_some_and(|words| words.contains("webnn")), "{rows:#?}");
}

#[test]
fn a_check_that_is_slower_than_before_fails() {
    let home = tempfile::tempdir().expect("a folder");
    let (bert, io) = golden("bert");
    let native = [bert.as_str(), "--io", &io, "--browsers", "native", "--backends", "cpu"];
    let limit = ["--fail-if-slower", "100000"];
    // There is nothing to compare with yet, and nothing is recorded without a request.
    let (rows, output) = check(home.path(), &[&native[..], &limit].concat());
    assert_eq!((&rows[0]["history"], output.code), (&Value::Null, Some(0)), "{rows:#?}");
    let (rows, _) = check(home.path(), &[&native[..], &["--history"]].concat());
    assert_eq!(rows[0]["history"], Value::Null, "{rows:#?}");
    let (rows, output) = check(home.path(), &[&native[..], &["--history"], &limit].concat());
    assert_eq!((&rows[0]["history"]["checks"], output.code), (&json!(1), Some(0)), "{rows:#?}");

    // A history in which everything was ten thousand times as fast.
    let file = home.path().join("check-history.jsonl");
    let text = fs::read_to_string(&file).expect("written");
    let faster: String = text
        .lines()
        .map(|line| {
            let mut entry: Value = serde_json::from_str(line).expect("an object per line");
            entry["p50_ms"] = json!(entry["p50_ms"].as_f64().expect("a time") / 1e4);
            format!("{entry}\n")
        })
        .collect();
    assert_eq!(faster.lines().count(), 2, "{text}");
    fs::write(&file, &faster).expect("written");
    let slower = [&native[..], &["--history", "--fail-if-slower", "50"]].concat();
    let (rows, output) = check(home.path(), &slower);
    assert_eq!((&rows[0]["status"], output.code), (&json!("fail"), Some(1)), "{rows:#?}");
    let reason = rows[0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("slower than the") && reason.contains("50 % is allowed"), "{reason}");
    assert_eq!(fs::read_to_string(&file).ok(), Some(faster), "a failed check is not recorded");
    // Other inputs have another history.
    let other = [bert.as_str(), "--browsers", "native", "--backends", "cpu"];
    let (rows, output) = check(home.path(), &[&other[..], &["--fail-if-slower", "50"]].concat());
    assert_eq!((&rows[0]["history"], output.code), (&Value::Null, Some(0)), "{rows:#?}");
}

#[test]
fn wrong_usage_ends_with_two() {
    let home = tempfile::tempdir().expect("a folder");
    let (bert, io) = golden("bert");
    let (bert, io) = (bert.as_str(), io.as_str());
    let cases: &[(&[&str], &str)] = &[
        (&["check"], "MODEL"),
        (&["check", "/no/such/model.onnx"], "/no/such/model.onnx does not exist"),
        (&["check", bert, "--io", "/no/such/file"], "/no/such/file does not exist"),
        (&["check", bert, bert, "--io", io], "one for each"),
        (
            &["check", bert, "--browsers", "safari"],
            "chrome, firefox, edge, chrome-webnn, native, simulated",
        ),
        (&["check", bert, "--backends", "cuda"], "webgpu, webnn and cpu"),
        (&["check", bert, "--rtol=-1"], "not negative"),
        (&["check", bert, "--runs", "0"], "--runs"),
        (&["check", bert, "--dim", "seq"], "NAME=N"),
        (&["check", bert, "--fail-if-slower", "fast"], "--fail-if-slower"),
        (&["bench", bert, "--batch", "0"], "--batch"),
        (&["bench", bert, "--concurrency", "1000"], "from 1 to 256"),
        (&["bench", "/no/such/model.onnx"], "does not exist"),
    ];
    for (arguments, says) in cases {
        let output = run(home.path(), arguments, &[]);
        assert_eq!(output.code, Some(2), "{arguments:?}: {output:#?}");
        assert!(output.stderr.contains(says), "{arguments:?}: {output:#?}");
        assert_eq!(output.stdout, "", "{arguments:?}");
    }
    // A file of inputs that does not fit this model is named in the error.
    let (roberta, _) = golden("roberta");
    let truncated: PathBuf = home.path().join("cut.safetensors");
    fs::write(&truncated, &fs::read(io).expect("committed")[..100]).expect("written");
    let truncated = truncated.display().to_string();
    let native = ["--browsers", "native", "--backends", "cpu"];
    for (model, io, says) in
        [(roberta.as_str(), io, "out.pooler_output"), (bert, truncated.as_str(), "cut short")]
    {
        let (rows, output) = check(home.path(), &[&[model, "--io", io], &native[..]].concat());
        assert_eq!((&rows[0]["status"], output.code), (&json!("refused"), Some(1)), "{rows:#?}");
        assert!(
            rows[0]["reason"].as_str().is_some_and(|reason| reason.contains(says)),
            "{rows:#?}"
        );
    }
}

#[test]
fn bench_measures_every_combination() {
    let home = tempfile::tempdir().expect("a folder");
    let (bert, _) = golden("bert");
    let bench = ["bench", &bert, "--browsers", "native,simulated,edge", "--backends", "cpu"];
    let load = ["--batch", "1,2", "--concurrency", "1,3", "--rounds", "2", "--json"];
    let output = run(home.path(), &[&bench[..], &load].concat(), &[]);
    let rows = output.json();
    let rows = rows.as_array().expect("an array");
    assert_eq!(rows.len(), 3 * 2 * 2);
    for row in rows {
        if row["browser"] == "edge" {
            assert_eq!((&row["status"], &row["rows_per_s"]), (&json!("skipped"), &Value::Null));
            continue;
        }
        assert_eq!((&row["status"], &row["rounds"]), (&json!("pass"), &json!(2)), "{row:#}");
        assert_eq!(row["simulated"], row["browser"] == "simulated");
        let (batch, inputs) = (&row["batch"], row["inputs"].as_str().expect("inputs"));
        assert!(inputs.contains(&format!("I64[{batch},8]")), "{row:#}");
        assert!(row["max_abs_err"].as_f64().is_some_and(|error| error < 1e-5), "{row:#}");
        let rate = |name: &str| row["rows_per_s"][name].as_f64().expect("a rate");
        assert!(
            0.0 < rate("min") && rate("min") <= rate("median") && rate("median") <= rate("max")
        );
        for times in ["latency_ms", "run_ms"] {
            let time = |name: &str| row[times][name].as_f64().expect("a time");
            assert!(0.0 < time("min") && time("min") <= time("p50") && time("p50") <= time("p95"));
        }
        assert!(row["run_ms"]["min"].as_f64() <= row["latency_ms"]["min"].as_f64(), "{row:#}");
        assert!(row["requests"].as_u64() >= Some(8), "{row:#}");
    }
    let table = run(home.path(), &[&bench[..], &["--rounds", "1", "--batch", "1"]].concat(), &[]);
    assert_eq!(table.code, Some(0), "{table:#?}");
    assert!(table.stdout.contains("rows/s") && table.stdout.contains("simulated"), "{table:#?}");
}

/// The keys in one of the sections of `action.yml`: names that are indented by two.
fn keys(action: &str, section: &str) -> Vec<String> {
    let lines = action.lines().skip_while(|line| *line != format!("{section}:")).skip(1);
    lines
        .take_while(|line| line.is_empty() || line.starts_with(' '))
        .filter_map(|line| line.strip_prefix("  ").filter(|key| !key.starts_with(' ')))
        .filter_map(|key| Some(key.strip_suffix(':')?.to_owned()))
        .collect()
}

#[test]
fn the_action_hands_its_inputs_to_the_command() {
    let action = fs::read_to_string(place::workspace().join("action.yml")).expect("committed");
    let inputs = keys(&action, "inputs");
    assert_eq!(inputs, ["models", "io", "browsers", "backends", "options", "junit"]);
    for input in &inputs {
        let handed = format!("FLOTILLA_{}: ${{{{ inputs.{input} }}}}", input.to_uppercase());
        assert!(action.contains(&handed), "{handed} is not in\n{action}");
    }
    assert_eq!(
        action.matches("${{ inputs.").count(),
        inputs.len() + 1,
        "the report is an output too"
    );
    assert!(action.contains("\"$GITHUB_ACTION_PATH/.ci/check-models\""), "{action}");

    // The step itself, as a runner starts it: in the workspace, with inputs that a shell must not execute.
    let workspace = tempfile::tempdir().expect("a folder");
    let script = place::workspace().join(".ci/check-models");
    let models = workspace.path().join("my models");
    fs::create_dir(&models).expect("a folder");
    for name in ["bert", "roberta"] {
        let onnx = place::file("models").join(name).join("model.onnx");
        fs::copy(onnx, models.join(format!("{name}.onnx"))).expect("copied");
    }
    let step = |models: &str, options: &str| {
        let mut step = Command::new(&script);
        step.current_dir(workspace.path())
            .env("FLOTILLA_BINARY", place::binary())
            .env("FLOTILLA_HOME", workspace.path())
            .env("GITHUB_ACTIONS", "true")
            .env("GITHUB_STEP_SUMMARY", workspace.path().join("summary.md"))
            .env("FLOTILLA_MODELS", models)
            .env("FLOTILLA_IO", "")
            .env("FLOTILLA_BROWSERS", "native")
            .env("FLOTILLA_BACKENDS", "cpu")
            .env("FLOTILLA_OPTIONS", options)
            .env("FLOTILLA_JUNIT", "report.xml");
        command::run(&mut step, Duration::from_secs(120))
    };
    let output = step("my models/*.onnx\n\n", "--runs 1 --dim seq=4");
    assert_eq!(output.code, Some(0), "{output:#?}");
    check_junit(&workspace.path().join("report.xml"), [2, 0, 0, 0]);
    let output = step("$(touch hacked); `touch hacked`", "");
    assert_eq!(output.code, Some(2), "{output:#?}");
    assert!(output.stderr.contains("$(touch hacked)"), "{output:#?}");
    assert!(!workspace.path().join("hacked").exists(), "a model's name was taken for a command");
}
