//! ONNX files that are damaged or hostile: each is refused at once and by name, in bounded memory, and the model next to it
//! is checked and served as if they did not exist.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use flotilla_tests::{
    command,
    daemon::Daemon,
    model,
    onnx::{BOOL, FLOAT, INT64, Sketch, integers, words},
    place,
};
use serde_json::{Value, json};

/// Most processor time to refuse a model, starting the program included.
const REFUSAL_MAX: Duration = Duration::from_secs(1);
/// Most memory of the whole program, in KiB: enough for a small model, but not for sizes that a file merely claims.
const ADDRESSES_KIB_MAX: u64 = 4 << 20;

/// Longest reason, bytes.
const REASON_MAX: usize = 4096;

/// `y = relu(x)`, a valid model.
fn good() -> Sketch {
    Sketch::default().input("x", &[2]).node("Relu", &["x"], &["y"]).output("y", &[2])
}

/// Enlarges an image.
fn resized(scale: f32) -> Vec<u8> {
    let scales: Vec<u8> = [1.0, 1.0, scale, scale].iter().flat_map(|n| n.to_le_bytes()).collect();
    Sketch::new(18)
        .input("x", &[1, 1, 8, 8])
        .initializer("scales", FLOAT, &[4], &scales)
        .node("Resize", &["x", "", "scales"], &["y"])
        .output("y", &[1, 1, 8, 8])
        .bytes()
}

/// Ten iterations inside of ten iterations, and so on: a million additions to a constant, in a file of a few hundred bytes.
fn turns() -> Vec<u8> {
    let body = |sketch: Sketch| {
        let sketch = sketch.input_of(INT64, "turn", &[]).input_of(BOOL, "go", &[]);
        let sketch = sketch.input("p", &[1]).node("Identity", &["go"], &["on"]);
        sketch.output_of(BOOL, "on", &[]).output("q", &[1]).attribute("body")
    };
    let mut inner = body(Sketch::default().node("Add", &["p", "p"], &["q"]));
    for _ in 0..5 {
        let turn = Sketch::default().node_with("", "Loop", &["ten", "true", "p"], &["q"], &[inner]);
        inner = body(turn);
    }
    Sketch::default()
        .initializer("ten", INT64, &[], &10i64.to_le_bytes())
        .initializer("true", BOOL, &[], &[1])
        .initializer("one", FLOAT, &[1], &1f32.to_le_bytes())
        .node_with("", "Loop", &["ten", "true", "one"], &["y"], &[inner])
        .output("y", &[1])
        .bytes()
}

/// An operator with an attribute as long as the file.
fn long_attribute(op: &str, attribute: Vec<u8>) -> Vec<u8> {
    let sketch = Sketch::default().input("x", &[2, 4]);
    sketch.node_with("", op, &["x"], &["y"], &[attribute]).output("y", &[2, 4]).bytes()
}

/// Files by name, and what the message about each must contain.
fn broken() -> Vec<(&'static str, Vec<u8>, &'static [&'static str])> {
    let whole = fs::read(place::file("models/bert/model.onnx")).expect("committed");
    let with_weight = |sketch: Sketch| {
        sketch.input("x", &[2]).node("Add", &["x", "w"], &["y"]).output("y", &[2]).bytes()
    };
    let external =
        |entries: &[(&str, &str)]| with_weight(Sketch::default().external("w", &[2], entries));
    let cyclic = Sketch::default()
        .input("x", &[2])
        .node("Add", &["x", "b"], &["a"])
        .node("Relu", &["a"], &["b"])
        .output("b", &[2]);
    // Each requests a value of many gigabytes, or of terabytes, that is computed from constants alone.
    let folded_from = |op: &str, inputs: &[&str], long: i64| {
        let ends = [0, long].map(i64::to_le_bytes).concat();
        Sketch::default()
            .initializer("long", INT64, &[1], &long.to_le_bytes())
            .initializer("long-ends", INT64, &[2], &ends)
            .initializer("one", FLOAT, &[1], &1f32.to_le_bytes())
            .initializer("pair", FLOAT, &[2], &[0, 0, 128, 63, 0, 0, 0, 64])
            .initializer("zero", INT64, &[], &0i64.to_le_bytes())
            .initializer("far", INT64, &[], &long.to_le_bytes())
            .initializer("step", INT64, &[], &1i64.to_le_bytes())
            .node(op, inputs, &["y"])
            .output("y", &[long])
            .bytes()
    };
    let folded = |op: &str, inputs: &[&str]| folded_from(op, inputs, 1 << 30);
    let side = vec![1; 4 << 20];
    let crossed = Sketch::default()
        .initializer("column", FLOAT, &[1 << 20, 1], &side)
        .initializer("row", FLOAT, &[1, 1 << 20], &side)
        .node("Add", &["column", "row"], &["y"])
        .output("y", &[1 << 20, 1 << 20]);
    vec![
        ("cut", whole[..whole.len() / 2].to_vec(), &["cut short"]),
        ("empty", Vec::new(), &["no graph"]),
        ("text", b"this is no protobuf".to_vec(), &["not an ONNX file"]),
        ("cyclic", cyclic.bytes(), &["cycle", "node of"]),
        (
            "outside",
            external(&[("location", "../secret.bin")]),
            &["out of the model's folder", "secret.bin"],
        ),
        (
            "absolute",
            external(&[("location", "/etc/passwd")]),
            &["out of the model's folder", "/etc/passwd"],
        ),
        ("missing-data", external(&[("location", "nothing.bin")]), &["nothing.bin"]),
        (
            "past-the-end",
            external(&[("location", "weights.bin"), ("length", "8796093022208")]),
            &["tensor w", "weights.bin"],
        ),
        (
            "larger-than-the-file",
            with_weight(Sketch::default().initializer("w", FLOAT, &[1 << 40], &[0; 8])),
            &["tensor w", "8 bytes", "4398046511104"],
        ),
        (
            "no-data-at-all",
            with_weight(Sketch::default().initializer("w", FLOAT, &[1 << 40], &[])),
            &["tensor w"],
        ),
        (
            "impossible-shape",
            with_weight(Sketch::default().initializer("w", FLOAT, &[i64::MAX, 16], &[0; 8])),
            &["tensor w"],
        ),
        ("dimension", folded_from("Expand", &["one", "long"], 1 << 40), &["y", "1099511627776"]),
        ("zeros", folded("ConstantOfShape", &["long"]), &["y", "over the limit"]),
        ("expanded", folded("Expand", &["one", "long"]), &["y", "over the limit"]),
        ("tiled", folded("Tile", &["pair", "long"]), &["y", "over the limit"]),
        ("padded", folded("Pad", &["pair", "long-ends"]), &["y", "over the limit"]),
        ("enlarged", resized(1e9), &["y", "8000000000"]),
        ("enlarged-beyond-numbers", resized(f32::INFINITY), &["y", "resized"]),
        ("turns", turns(), &["more than 100000 nodes"]),
        (
            "long-equation",
            long_attribute("Einsum", words("equation", &"a".repeat(1 << 20))),
            &["y", "names 1048576 dimensions"],
        ),
        (
            "long-permutation",
            long_attribute("Transpose", integers("perm", &vec![0; 1 << 20])),
            &["y"],
        ),
        ("ranged", folded("Range", &["zero", "far", "step"]), &["y", "over the limit"]),
        ("crossed", crossed.bytes(), &["y", "over the limit"]),
        (
            "from-the-future",
            {
                let sketch = Sketch::new(1000).input("x", &[2]).node("Relu", &["x"], &["y"]);
                sketch.output("y", &[2]).bytes()
            },
            &["operator set", "1000"],
        ),
        (
            "of-strangers",
            {
                let sketch = good().opset("com.example", 1);
                sketch
                    .node_of("com.example", "Frobnicate", &["x"], &["z"])
                    .output("z", &[2])
                    .bytes()
            },
            &["com.example"],
        ),
        (
            "unknown-operator",
            {
                let sketch = Sketch::default().input("x", &[2]).node("Frobnicate", &["x"], &["y"]);
                sketch.output("y", &[2]).bytes()
            },
            &["Frobnicate", "node of y"],
        ),
        (
            "no-such-value",
            {
                let sketch = Sketch::default().input("x", &[2]).node("Relu", &["nobody"], &["y"]);
                sketch.output("y", &[2]).bytes()
            },
            &["nobody"],
        ),
        ("no-such-output", good().output("z", &[2]).bytes(), &["output z"]),
    ]
}

/// A folder with every broken model and a good one.
fn written(folder: &Path) -> (PathBuf, Vec<(PathBuf, &'static [&'static str])>) {
    fs::write(folder.join("secret.bin"), [0; 8]).expect("written");
    let write = |name: &str, bytes: &[u8]| {
        let model = folder.join(name);
        fs::create_dir(&model).expect("a folder");
        fs::write(model.join("weights.bin"), [0; 8]).expect("written");
        fs::write(model.join("model.onnx"), bytes).expect("written");
        model
    };
    let files = broken().into_iter().map(|(name, bytes, says)| (write(name, &bytes), says));
    (write("good-relu", &good().bytes()), files.collect())
}

/// `flotilla check` of these models on the native cpu, with this memory limit: its rows, and its processor time, which is
/// meaningful on a busy machine where elapsed time is not.
fn check(home: &Path, models: &[&Path]) -> (Vec<Value>, Duration) {
    let mut shell = Command::new("sh");
    let limited = format!("ulimit -v {ADDRESSES_KIB_MAX}; \"$0\" check \"$@\" --json; times >&2");
    shell.args(["-c", &limited]).arg(place::binary()).args(models);
    shell.args(["--browsers", "native", "--backends", "cpu", "--runs", "1"]);
    let output = command::run(shell.env("FLOTILLA_HOME", home), Duration::from_secs(120));
    let rows: Value = match serde_json::from_str(&output.stdout) {
        Ok(rows) => rows,
        Err(error) => panic!("{error}: {output:#?}"),
    };
    (rows.as_array().expect("an array").clone(), processor_time(&output.stderr))
}

/// The processor time of a shell's children, which its builtin `times` has printed last as `0m0.52s 0m0.08s`.
fn processor_time(printed: &str) -> Duration {
    let seconds = |time: &str| -> Option<f64> {
        let (minutes, seconds) = time.strip_suffix('s')?.split_once('m')?;
        Some(minutes.parse::<f64>().ok()? * 60.0 + seconds.parse::<f64>().ok()?)
    };
    let line = printed.lines().last().unwrap_or_default();
    let times: Option<Vec<f64>> = line.split_whitespace().map(seconds).collect();
    let times = times.filter(|times| times.len() == 2);
    let times = times.unwrap_or_else(|| panic!("no processor time in {printed:?}"));
    Duration::from_secs_f64(times.iter().sum())
}

#[test]
fn broken_files_are_refused_at_once_and_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let (good, files) = written(folder.path());
    for (file, says) in &files {
        let (rows, took) = check(folder.path(), &[file]);
        assert_eq!(rows[0]["status"], "refused", "{rows:#?}");
        let reason = rows[0]["reason"].as_str().expect("a reason");
        for part in *says {
            assert!(reason.contains(part), "{reason:?} does not say {part:?}");
        }
        assert!(reason.len() < REASON_MAX, "a reason of {} bytes", reason.len());
        assert!(took < REFUSAL_MAX, "{} took {took:?}", file.display());
    }
    let mut all: Vec<&Path> = files.iter().map(|(file, _)| file.as_path()).collect();
    all.insert(all.len() / 2, &good);
    let (rows, _) = check(folder.path(), &all);
    let passed: Vec<&Value> = rows.iter().filter(|row| row["status"] == "pass").collect();
    assert_eq!(passed.len(), 1, "{rows:#?}");
    assert_eq!((passed[0]["model"].as_str(), rows.len()), (Some("good-relu"), all.len()));
}

#[test]
fn broken_files_do_not_disturb_a_served_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small").display().to_string();
    let (_, files) = written(folder.path());
    let mut arguments = vec!["--simulate", "chrome=1", "--models", &small];
    let paths: Vec<String> = files.iter().map(|(file, _)| file.display().to_string()).collect();
    arguments.extend(paths.iter().map(String::as_str));
    let daemon = Daemon::ready(&arguments);
    let health = daemon.get("/healthz").json();
    for (file, says) in &files {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        let models = health["models"].as_array().expect("models");
        let words = models.iter().find(|model| model["id"] == *name).map(|model| &model["error"]);
        let words = words.and_then(Value::as_str).unwrap_or_else(|| panic!("{name}: {health:#}"));
        assert!(says.iter().all(|part| words.contains(part)), "{words:?} does not say {says:?}");
    }
    assert_eq!(daemon.embed("small", json!([1, 2, 3])).status, 200);
}
