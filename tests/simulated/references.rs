//! The references of `flotilla check`: recordings of every kind, other engines, and the rounding of a model's arithmetic.

use std::{
    fs,
    io::{Cursor, Write as _},
    path::{Path, PathBuf},
};

use flotilla_tests::{
    command::{Output, flotilla},
    model::small,
    onnx::{DOUBLE, FLOAT, FLOAT16, INT64, Sketch, tensor_file},
    skip::skip,
};
use half::f16;
use serde_json::{Value, json};

const NATIVE: [&str; 6] = ["--browsers", "native", "--backends", "cpu", "--runs", "1"];

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// `y = x + z` of two numbers, in its own folder.
fn sum(home: &Path) -> String {
    let sketch = Sketch::default().input("x", &[2]).input("z", &[2]);
    let sketch = sketch.node("Add", &["x", "z"], &["y"]).output("y", &[2]);
    written(&home.join("sum"), &sketch)
}

fn written(folder: &Path, sketch: &Sketch) -> String {
    fs::create_dir_all(folder).expect("a folder");
    fs::write(folder.join("model.onnx"), sketch.bytes()).expect("written");
    folder.display().to_string()
}

/// An array of floats as NumPy writes it.
fn npy(values: &[f32]) -> Vec<u8> {
    array("<f4", values.len(), &floats(values))
}

/// The same in NumPy's default width.
fn wide_npy(values: &[f32]) -> Vec<u8> {
    let bytes = values.iter().flat_map(|&value| f64::from(value).to_le_bytes());
    array("<f8", values.len(), &bytes.collect::<Vec<_>>())
}

fn array(kind: &str, length: usize, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({length},), }}\n");
    let begin = [b"\x93NUMPY\x01\x00".as_slice(), &(header.len() as u16).to_le_bytes()].concat();
    [&begin, header.as_bytes(), data].concat()
}

/// NumPy's archive of these arrays.
fn npz(path: &Path, arrays: &[(&str, &[f32])], method: zip::CompressionMethod) -> PathBuf {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    for (name, values) in arrays {
        archive.start_file(format!("{name}.npy"), options).expect("begun");
        archive.write_all(&npy(values)).expect("written");
    }
    fs::write(path, archive.finish().expect("finished").into_inner()).expect("written");
    path.to_owned()
}

/// One of ONNX's folders of test data, with names inside of the files if there are names.
fn test_data(path: &Path, names: [&str; 3], y: &[f32]) -> PathBuf {
    fs::create_dir_all(path).expect("a folder");
    let tensors: [(&str, &str, &[f32]); 3] = [
        ("input_0.pb", names[0], &[1.0, 2.0]),
        ("input_1.pb", names[1], &[10.0, 20.0]),
        ("output_0.pb", names[2], y),
    ];
    for (file, name, values) in tensors {
        let bytes = tensor_file(name, FLOAT, &[2], &floats(values));
        fs::write(path.join(file), bytes).expect("written");
    }
    path.to_owned()
}

fn check(home: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> (Vec<Value>, Output) {
    let variables = [&[("GITHUB_ACTIONS", "")], variables].concat();
    let arguments = [&["check", "--json"], arguments, &NATIVE].concat();
    let output = flotilla(home, &arguments, &variables);
    let rows: Value = match serde_json::from_str(&output.stdout) {
        Ok(rows) => rows,
        Err(error) => panic!("{error}: {output:#?}"),
    };
    (rows.as_array().expect("an array").clone(), output)
}

#[test]
fn recordings_of_every_kind_are_read() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let model = sum(home);
    let (x, z, y): (&[f32], &[f32], &[f32]) = (&[1.0, 2.0], &[10.0, 20.0], &[11.0, 22.0]);
    let stored = zip::CompressionMethod::Stored;
    let deflated = zip::CompressionMethod::Deflated;
    let arrays = home.join("arrays");
    fs::create_dir(&arrays).expect("a folder");
    for (name, values) in [("in.x", x), ("in.z", z), ("out.y", y)] {
        fs::write(arrays.join(format!("{name}.npy")), npy(values)).expect("written");
    }
    let wide = home.join("wide");
    fs::create_dir(&wide).expect("a folder");
    for (name, values) in [("x", x), ("z", z), ("y", y)] {
        fs::write(wide.join(format!("{name}.npy")), wide_npy(values)).expect("written");
    }
    let sets = home.join("sets");
    test_data(&sets.join("test_data_set_0"), ["x", "z", "y"], y);
    test_data(&sets.join("test_data_set_1"), ["", "", ""], y);
    // Without outputs.
    let asked = test_data(&home.join("asked"), ["x", "z", "y"], y);
    fs::remove_file(asked.join("output_0.pb")).expect("removed");
    let recordings = [
        (npz(&home.join("a.npz"), &[("in.x", x), ("in.z", z), ("out.y", y)], stored), "io", 1),
        (npz(&home.join("b.npz"), &[("x", x), ("z", z), ("y", y)], deflated), "io", 1),
        (npz(&home.join("c.npz"), &[("x", x), ("z", z)], stored), "tract", 1),
        (arrays, "io", 1),
        (wide, "io", 1),
        (asked, "tract", 1),
        (sets.join("test_data_set_1"), "io", 1),
        (sets, "io", 2),
    ];
    for (io, reference, cases) in &recordings {
        let io = io.display().to_string();
        let (rows, output) = check(home, &[&model, "--io", &io], &[]);
        let row = &rows[0];
        assert_eq!((&row["status"], output.code), (&json!("pass"), Some(0)), "{io}: {row:#}");
        assert_eq!((&row["reference"], &row["cases"]), (&json!(reference), &json!(cases)));
        assert_eq!((&row["runs"], &row["findings"]), (&json!(2), &json!([])), "{io}");
    }
}

#[test]
fn every_set_of_test_data_must_be_right() {
    let home = tempfile::tempdir().expect("a folder");
    let model = sum(home.path());
    let sets = home.path().join("sets");
    // Named inside of the files, and not in the graph's order.
    test_data(&sets.join("test_data_set_0"), ["z", "x", "y"], &[11.0, 22.0]);
    test_data(&sets.join("test_data_set_10"), ["", "", ""], &[11.0, 23.0]);
    let io = sets.display().to_string();
    let (rows, output) = check(home.path(), &[&model, "--io", &io], &[]);
    assert_eq!((&rows[0]["status"], output.code), (&json!("fail"), Some(1)), "{rows:#?}");
    let reason = rows[0]["reason"].as_str().expect("a reason");
    assert!(reason.starts_with("test_data_set_10: output y[1] is 22, 23 is right"), "{reason}");
}

#[test]
fn recordings_that_are_damaged_are_refused() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let model = sum(home);
    let stored = zip::CompressionMethod::Stored;
    let one: &[f32] = &[1.0];
    let whole = fs::read(npz(&home.join("whole.npz"), &[("x", one)], stored)).expect("written");
    let file = |name: &str, bytes: &[u8]| {
        fs::write(home.join(name), bytes).expect("written");
        home.join(name)
    };
    let folder = |name: &str, files: &[(&str, &[u8])]| {
        let folder = home.join(name);
        fs::create_dir(&folder).expect("a folder");
        files
            .iter()
            .for_each(|(file, bytes)| fs::write(folder.join(file), bytes).expect("written"));
        folder
    };
    let pb = tensor_file("", FLOAT, &[2], &floats(&[1.0, 2.0]));
    let text = tensor_file("", 8, &[1], &[]);
    let broken = [
        (file("cut.npz", &whole[..whole.len() - 30]), "not an .npz file"),
        (npz(&home.join("other.npz"), &[("w", one)], stored), "tensor w is neither"),
        (npz(&home.join("one.npz"), &[("x", one)], stored), "has no in.z"),
        (folder("cut", &[("x.npy", &npy(&[1.0, 2.0])[..40])]), "cut short"),
        (folder("nothing", &[("readme.txt", b"")]), "it is not a recording"),
        (folder("far", &[("input_0.pb", &pb), ("input_7.pb", &pb)]), "input_7.pb"),
        (folder("garbage", &[("input_0.pb", b"\xff\xff")]), "not an ONNX tensor"),
        (folder("text", &[("input_0.pb", &text)]), "STRING"),
    ];
    for (io, says) in &broken {
        let io = io.display().to_string();
        let (rows, output) = check(home, &[&model, "--io", &io], &[]);
        assert_eq!((&rows[0]["status"], output.code), (&json!("refused"), Some(1)), "{rows:#?}");
        let reason = rows[0]["reason"].as_str().expect("a reason");
        assert!(reason.contains(says) && reason.contains(&io), "{reason:?} does not say {says:?}");
    }
}

/// `y` is the sum of `x` along axes that are an input: a program is made for one value of it.
#[test]
fn a_recorded_input_says_what_must_be_known_at_load() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let sketch = Sketch::default().input("x", &[2, 3]).input_of(INT64, "axes", &[1]);
    let sketch = sketch.node("ReduceSum", &["x", "axes"], &["y"]).output("y", &[-1, -1]);
    let model = written(&home.join("sum"), &sketch);
    let set = |name: &str, axis: i64, shape: [i64; 2], y: &[f32]| {
        let folder = home.join(name);
        fs::create_dir_all(&folder).expect("a folder");
        let x = floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let files = [
            ("input_0.pb", tensor_file("x", FLOAT, &[2, 3], &x)),
            ("input_1.pb", tensor_file("axes", INT64, &[1], &axis.to_le_bytes())),
            ("output_0.pb", tensor_file("y", FLOAT, &shape, &floats(y))),
        ];
        for (file, bytes) in files {
            fs::write(folder.join(file), bytes).expect("written");
        }
        folder.display().to_string()
    };
    let (rows, _) = check(home, &[&model], &[]);
    assert_eq!(rows[0]["status"], "refused", "{rows:#?}");
    assert!(rows[0]["reason"].as_str().is_some_and(|words| words.contains("axes")), "{rows:#?}");
    for io in [set("rows", 1, [2, 1], &[6.0, 15.0]), set("columns", 0, [1, 3], &[5.0, 7.0, 9.0])] {
        let (rows, _) = check(home, &[&model, "--io", &io], &[]);
        assert_eq!(rows[0]["status"], "pass", "{io}: {rows:#?}");
    }
    // The second set must have the same value of what the first one fixes.
    set("both/test_data_set_0", 1, [2, 1], &[6.0, 15.0]);
    set("both/test_data_set_1", 0, [1, 3], &[5.0, 7.0, 9.0]);
    let io = home.join("both").display().to_string();
    let (rows, _) = check(home, &[&model, "--io", &io], &[]);
    let reason = rows[0]["reason"].as_str().expect("a reason");
    assert_eq!(rows[0]["status"], "refused", "{rows:#?}");
    assert!(reason.starts_with("test_data_set_1: ") && reason.contains("axes"), "{reason}");
}

/// Other engines compute a Hugging Face folder, too: our importer writes it as ONNX, and they read that themselves.
#[test]
fn folders_of_hugging_face_are_compared_with_engines_of_others() {
    let home = tempfile::tempdir().expect("a folder");
    let model = small(home.path(), "small").display().to_string();
    let (rows, _) = check(home.path(), &[&model], &[]);
    assert_eq!((&rows[0]["status"], &rows[0]["reference"]), (&json!("pass"), &json!("tract")));
    assert_eq!(rows[0]["arithmetic"], "f32", "{rows:#?}");
    let Ok(library) = flotilla_check::reference::library() else {
        return skip("onnxruntime is not installed: run `cargo xtask setup`");
    };
    let path = library.path().display().to_string();
    let (rows, _) = check(home.path(), &[&model], &[("FLOTILLA_ONNXRUNTIME", &path)]);
    let reported = (&rows[0]["status"], &rows[0]["reference"], &rows[0]["findings"]);
    assert_eq!(reported, (&json!("pass"), &json!("onnxruntime"), &json!([])), "{rows:#?}");
}

/// A model of 64-bit floats takes and returns them; recordings may have either width.
#[test]
fn floats_of_64_bits_are_given_and_come_back() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let sketch = Sketch::default().input_of(DOUBLE, "x", &[2]).input_of(DOUBLE, "z", &[2]);
    let sketch = sketch.node("Add", &["x", "z"], &["y"]).output_of(DOUBLE, "y", &[2]);
    let model = written(&home.join("wide"), &sketch);
    let (rows, _) = check(home, &[&model], &[]);
    let reported = (&rows[0]["status"], &rows[0]["reference"], &rows[0]["inputs"]);
    assert_eq!(
        reported,
        (&json!("pass"), &json!("tract"), &json!("x:F64[2] z:F64[2]")),
        "{rows:#?}"
    );
    assert!(rows[0]["max_ulp"].as_u64() <= Some(1), "{rows:#?}");
    let arrays: [(&str, &[f32]); 3] =
        [("x", &[1.0, 2.0]), ("z", &[10.0, 20.0]), ("y", &[11.0, 22.5])];
    let io = npz(&home.join("io.npz"), &arrays, zip::CompressionMethod::Stored);
    let (rows, _) = check(home, &[&model, "--io", &io.display().to_string()], &[]);
    let reason = rows[0]["reason"].as_str().expect("a reason");
    assert!(reason.starts_with("output y[1] is 22, 22.5 is right"), "{reason}");
}

#[test]
fn the_reference_is_named_and_can_be_chosen() {
    let home = tempfile::tempdir().expect("a folder");
    let model = sum(home.path());
    let of = |arguments: &[&str], variables: &[(&str, &str)]| {
        let (rows, _) = check(home.path(), &[&[model.as_str()], arguments].concat(), variables);
        rows[0].clone()
    };
    // A data folder without the library.
    let row = of(&[], &[]);
    assert_eq!((&row["status"], &row["reference"]), (&json!("pass"), &json!("tract")), "{row:#}");
    assert!(row["reference_version"].as_str().is_some_and(|version| version.starts_with("0.")));
    let reason = row["reference_reason"].as_str().expect("a reason");
    assert!(reason.contains("cargo xtask setup"), "{reason}");
    let broken = [("FLOTILLA_ONNXRUNTIME", "/no/such/libonnxruntime.so")];
    let row = of(&[], &broken);
    assert_eq!((&row["status"], &row["reference"]), (&json!("pass"), &json!("tract")), "{row:#}");
    let reason = row["reference_reason"].as_str().expect("a reason");
    assert!(reason.contains("/no/such/libonnxruntime.so"), "{reason}");
    let row = of(&["--reference", "onnxruntime"], &broken);
    assert_eq!(row["status"], "refused", "{row:#}");
    let reason = row["reason"].as_str().expect("a reason");
    assert!(reason.contains("/no/such/libonnxruntime.so"), "{reason}");
    for (name, reference) in [("tract", "tract"), ("own", "own")] {
        let row = of(&["--reference", name], &[]);
        assert_eq!((&row["status"], &row["reference"]), (&json!("pass"), &json!(reference)));
        assert_eq!(row["reference_reason"], Value::Null, "{row:#}");
    }
    let Ok(library) = flotilla_check::reference::library() else {
        return skip("onnxruntime is not installed: run `cargo xtask setup`");
    };
    let path = library.path().display().to_string();
    let row = of(&[], &[("FLOTILLA_ONNXRUNTIME", &path)]);
    let named = (&row["reference"], &row["reference_version"]);
    assert_eq!(named, (&json!("onnxruntime"), &json!(library.version())), "{row:#}");
    assert_eq!((&row["status"], &row["findings"]), (&json!("pass"), &json!([])), "{row:#}");
    let output = flotilla(
        home.path(),
        &["doctor", "--simulate", "chrome=1", "--json"],
        &[("FLOTILLA_ONNXRUNTIME", &path)],
    );
    assert_eq!(output.json()["reference"]["library"], json!(path), "{output:#?}");
}

#[test]
fn references_that_do_not_agree_are_reported() {
    let home = tempfile::tempdir().expect("a folder");
    let model = sum(home.path());
    let arrays: [(&str, &[f32]); 3] =
        [("x", &[1.0, 2.0]), ("z", &[10.0, 20.0]), ("y", &[11.0, 22.5])];
    let io = npz(&home.path().join("io.npz"), &arrays, zip::CompressionMethod::Stored);
    let io = io.display().to_string();
    let junit = home.path().join("junit.xml").display().to_string();
    let arguments = [model.as_str(), "--io", &io, "--reference", "tract", "--junit", &junit];
    let (rows, output) = check(home.path(), &arguments, &[]);
    // The row is compared with tract, and the recording differs from that.
    assert_eq!((&rows[0]["status"], output.code), (&json!("pass"), Some(0)), "{rows:#?}");
    let finding = &rows[0]["findings"][0];
    assert_eq!(finding["references"][1], "recorded outputs", "{finding:#}");
    assert_eq!(finding["first_divergence"]["index"], json!([1]), "{finding:#}");
    let words = "recorded outputs does not agree with tract";
    let report = fs::read_to_string(&junit).expect("written");
    assert!(report.contains(&format!("<system-out>{words}")), "{report}");
    let github = [("GITHUB_ACTIONS", "true")];
    let output = flotilla(home.path(), &[&["check"], &arguments[..], &NATIVE].concat(), &github);
    let reported = output.stdout.lines().filter(|line| line.contains(words)).count();
    assert_eq!(reported, 2, "in the table and as an annotation: {output:#?}");
    assert!(output.stdout.contains("::warning file="), "{output:#?}");
    // If the row itself fails, the finding reports that another reference agrees with the browser.
    let (rows, _) = check(home.path(), &[&model, "--io", &io], &[]);
    assert_eq!(rows[0]["status"], "fail", "{rows:#?}");
    let references = &rows[0]["findings"][0]["references"];
    assert_eq!(references[0], "recorded outputs", "{rows:#?}");
}

/// `y = tanh(x w)` in half precision: the effect of rounding passes, the effect of a dropped channel does not.
#[test]
fn a_right_model_of_half_precision_passes_and_a_wrong_one_fails() {
    const DEPTH: usize = 64;
    let home = tempfile::tempdir().expect("a folder");
    let half = |value: f32| f16::from_f32(value).to_f32();
    let x: Vec<f32> = (0..DEPTH).map(|at| half((at as f32 * 0.37).sin())).collect();
    let w: Vec<f32> = (0..DEPTH * 8).map(|at| half((at as f32 * 0.11).cos() * 0.3)).collect();
    let bytes = |values: &[f32]| -> Vec<u8> {
        values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect()
    };
    let sketch = Sketch::default().input_of(FLOAT16, "x", &[1, DEPTH as i64]);
    let sketch = sketch.initializer("w", FLOAT16, &[DEPTH as i64, 8], &bytes(&w));
    let sketch = sketch.node("MatMul", &["x", "w"], &["a"]).node("Tanh", &["a"], &["y"]);
    let model = written(&home.path().join("half"), &sketch.output_of(FLOAT16, "y", &[1, 8]));
    let answer = |depth: usize| -> Vec<f32> {
        let sum = |column: usize| (0..depth).map(|k| x[k] * w[k * 8 + column]).sum::<f32>();
        (0..8).map(|column| sum(column).tanh()).collect()
    };
    for (depth, status) in [(DEPTH, "pass"), (DEPTH - 1, "fail")] {
        let set = home.path().join(format!("of-{depth}"));
        fs::create_dir(&set).expect("a folder");
        let input = tensor_file("x", FLOAT16, &[1, DEPTH as i64], &bytes(&x));
        let output = tensor_file("y", FLOAT16, &[1, 8], &bytes(&answer(depth)));
        fs::write(set.join("input_0.pb"), input).expect("written");
        fs::write(set.join("output_0.pb"), output).expect("written");
        let io = set.display().to_string();
        let (rows, _) = check(home.path(), &[&model, "--io", &io], &[]);
        let row = &rows[0];
        assert_eq!(row["status"], status, "{row:#}");
        assert_eq!((&row["arithmetic"], &row["roundings"]), (&json!("f16"), &json!(2)), "{row:#}");
        // As single precision even the right one would fail.
        let (rows, _) = check(home.path(), &[&model, "--io", &io, "--tolerance", "f32"], &[]);
        assert_eq!(rows[0]["arithmetic"], "f32");
        if rows[0]["max_abs_err"].as_f64() > Some(0.0) {
            assert_eq!(rows[0]["status"], "fail", "{rows:#?}");
        }
    }
}
