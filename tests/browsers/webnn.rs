//! Behaviour that only webnn has: programs in parts.

use flotilla::browser::Build;
use flotilla_tests::{
    command::Output,
    onnx::{FLOAT, INT32, INT64, Sketch, integer, tensor_file},
    skip::has_browsers,
};
use serde_json::{Value, json};

use crate::builds::flotilla;

/// `flotilla check` of a model on webnn alone.
fn check(model: &[u8], more: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("model.onnx");
    std::fs::write(&file, model).expect("written");
    let file = file.display().to_string();
    let check = ["check", &file, "--browsers", "chrome-webnn", "--backends", "webnn", "--json"];
    flotilla(&[&check[..], more].concat(), &[])
}

/// A determinant, which WebNN does not have, between two products, which it has.
fn determinant() -> Vec<u8> {
    let numbers: Vec<u8> = (0..9).flat_map(|at| (0.3f32 + at as f32 % 4.0).to_le_bytes()).collect();
    Sketch::new(17)
        .input("x", &[3, 3])
        .output("y", &[3, 3])
        .initializer("w", FLOAT, &[3, 3], &numbers)
        .node("MatMul", &["x", "w"], &["a"])
        .node("Det", &["a"], &["d"])
        .node("Mul", &["d", "w"], &["b"])
        .node("MatMul", &["b", "w"], &["y"])
        .bytes()
}

#[test]
fn browser_webnn_runs_what_it_takes_and_says_what_ran_elsewhere() {
    if !has_browsers(&[Build::chrome_webnn()]) {
        return;
    }
    // A refusal does not meet the request, so the exit code is 1.
    let refused = check(&determinant(), &[]).stdout;
    let refused: Value = serde_json::from_str(&refused).expect("rows");
    assert_eq!(refused[0]["status"], "refused", "{refused:#}");
    let reason = refused[0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("(Triangular): WebNN has no such operator"), "{reason}");

    let split = check(&determinant(), &["--split"]).json();
    let row = &split[0];
    assert_eq!((&row["status"], &row["split"]["rest"]), (&json!("pass"), &json!("cpu")), "{row:#}");
    assert_eq!(row["split"]["parts"], 2, "{row:#}");
    let elsewhere = row["split"]["elsewhere"].as_array().expect("nodes");
    let operators: Vec<&str> = elsewhere.iter().filter_map(|node| node["op"].as_str()).collect();
    assert_eq!(operators, ["Triangular"], "{row:#}");
}

/// A sum of integers that is reshaped in two ways; one of the results goes into a product.
fn reshaped_twice() -> Vec<u8> {
    let sizes = |sizes: [i64; 2]| sizes.map(i64::to_le_bytes).concat();
    Sketch::new(17)
        .input_of(INT32, "x", &[4])
        .output_of(INT32, "row", &[1, 4])
        .output_of(INT32, "square", &[2, 2])
        .initializer("one_by_four", INT64, &[2], &sizes([1, 4]))
        .initializer("two_by_two", INT64, &[2], &sizes([2, 2]))
        .node("Add", &["x", "x"], &["sum"])
        .node("Reshape", &["sum", "one_by_four"], &["r"])
        .node("Reshape", &["sum", "two_by_two"], &["s"])
        .node("Reshape", &["x", "two_by_two"], &["y"])
        .node("Mul", &["s", "y"], &["product"])
        .node("Neg", &["product"], &["square"])
        .node("Neg", &["r"], &["row"])
        .bytes()
}

#[test]
fn browser_webnn_keeps_integers_that_share_memory_in_the_browser() {
    if !has_browsers(&[Build::chrome_webnn()]) {
        return;
    }
    let row = check(&reshaped_twice(), &[]).json();
    assert_eq!(row[0]["status"], "pass", "{row:#}");
}

fn words(numbers: impl IntoIterator<Item = f32>) -> Vec<u8> {
    numbers.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// Tiles `x`, negates the result, and sums all of it; `repeats` is an input.
fn tiled(last: &str) -> Vec<u8> {
    Sketch::new(17)
        .input("x", &[3])
        .input_of(INT64, "repeats", &[1])
        .output("y", &[-1])
        .output("z", &[])
        .node("Tile", &["x", "repeats"], &["t"])
        .node("Neg", &["t"], &["y"])
        .node_with("", last, &["y"], &["z"], &[integer("keepdims", 0)])
        .bytes()
}

/// A row of `check` for data sets of [`tiled`], each with another number of repeats.
fn check_tiled(last: &str, repeats: &[i64]) -> Value {
    let folder = tempfile::tempdir().expect("a folder");
    let x = [1f32, 2.0, 3.0];
    for (number, &times) in repeats.iter().enumerate() {
        let set = folder.path().join(format!("test_data_set_{number}"));
        std::fs::create_dir(&set).expect("a folder");
        let y = (0..times).flat_map(|_| x.map(|x| -x));
        let write = |name: &str, tensor: Vec<u8>| {
            std::fs::write(set.join(name), tensor).expect("written");
        };
        write("input_0.pb", tensor_file("x", FLOAT, &[3], &words(x)));
        write("input_1.pb", tensor_file("repeats", INT64, &[1], &times.to_le_bytes()));
        write("output_0.pb", tensor_file("y", FLOAT, &[3 * times], &words(y)));
        write("output_1.pb", tensor_file("z", FLOAT, &[], &words([-6.0 * times as f32])));
    }
    let io = folder.path().display().to_string();
    let output = check(&tiled(last), &["--io", &io, "--runs", "1"]);
    let rows: Value = serde_json::from_str(&output.stdout).expect("rows");
    rows[0].clone()
}

/// Data-dependent sizes select a graph: no graph is used for other sizes.
#[test]
fn browser_webnn_takes_sizes_from_the_values_of_inputs() {
    if !has_browsers(&[Build::chrome_webnn()]) {
        return;
    }
    let row = check_tiled("ReduceSum", &[2, 5, 1, 2]);
    assert_eq!((&row["status"], &row["cases"]), (&json!("pass"), &json!(4)), "{row:#}");
    // A value without elements does not concern WebNN, unless something else is made of it.
    let row = check_tiled("ReduceSum", &[2, 0]);
    assert_eq!(row["status"], "refused", "{row:#}");
    let reason = row["reason"].as_str().expect("a reason");
    let says = ["test_data_set_1", "node", "(Reduce)", "tensors without elements"];
    assert!(says.iter().all(|part| reason.contains(part)), "{reason}");
}
