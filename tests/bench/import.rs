//! How the time of an import grows with the file: models of a few kinds, each also with four times the nodes.

use std::time::Instant;

use anyhow::Context as _;
use flotilla_model::import::{LoadOptions, MemoryResolver, load};
use flotilla_tests::onnx::{BOOL, FLOAT, INT64, Sketch, integer, integers};

use crate::figures::{Figure, Place, median};

/// Approximate number of nodes of the smaller model of a kind.
const NODES: usize = 2000;
/// How many times more nodes the larger one has.
const TIMES: usize = 4;
/// Imports of each; the median counts.
const IMPORTS: usize = 5;

/// A kind of model, and a function that makes it with about this many nodes.
type Kind = (&'static str, fn(usize) -> Sketch);

const KINDS: [Kind; 5] = [
    ("element-wise chain", chain),
    ("reshapes by computed shapes", reshapes),
    ("slices of a symbolic dimension, joined", slices),
    ("layers of products and norms", layers),
    ("conditions inside of conditions", conditions),
];

/// The time of the larger import, and its ratio to the smaller one's.
pub(crate) fn figures() -> Vec<Figure> {
    let place = Place { browser: "flotilla".to_owned(), backend: "import".to_owned() };
    let of_kind = |&(name, sketch): &Kind| {
        let case = format!("{name}: {} nodes", NODES * TIMES);
        let growth = format!("{name}: {TIMES} times the nodes");
        match (time(&sketch(NODES)), time(&sketch(NODES * TIMES))) {
            (Ok(small), Ok(large)) => [
                Figure::alone(&case, &place, large, "ms"),
                Figure::alone(&growth, &place, large / small, "times"),
            ],
            (Err(error), _) | (_, Err(error)) => [
                Figure::missing(&case, &place, "ms", &error),
                Figure::missing(&growth, &place, "times", &error),
            ],
        }
    };
    KINDS.iter().flat_map(of_kind).collect()
}

/// Milliseconds of an import.
fn time(sketch: &Sketch) -> anyhow::Result<f64> {
    let mut resolver = MemoryResolver::default();
    resolver.files.insert("model.onnx".to_owned(), sketch.bytes().into());
    let mut times = Vec::new();
    for _ in 0..IMPORTS {
        let begin = Instant::now();
        load(&resolver, &LoadOptions::named("bench")).context("the import")?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    median(&times)
}

fn numbers(numbers: &[i64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn chain(nodes: usize) -> Sketch {
    let mut sketch = Sketch::new(17).input("v0", &[-1, -1, 8]);
    for node in 0..nodes {
        let op = ["Relu", "Neg", "Abs", "Exp"][node % 4];
        sketch = sketch.node(op, &[&format!("v{node}")], &[&format!("v{}", node + 1)]);
    }
    sketch.output(&format!("v{nodes}"), &[-1, -1, 8])
}

/// Blocks of eight nodes: a shape is split, joined again and used for a reshape.
fn reshapes(nodes: usize) -> Sketch {
    let mut sketch = Sketch::new(17)
        .input("v0", &[-1, -1, 8])
        .initializer("first", INT64, &[], &numbers(&[0]))
        .initializer("second", INT64, &[], &numbers(&[1]))
        .initializer("axes", INT64, &[1], &numbers(&[0]))
        .initializer("rest", INT64, &[1], &numbers(&[-1]));
    let blocks = nodes / 8;
    for block in 0..blocks {
        let of = |name: &str| format!("{name}{block}");
        sketch = sketch
            .node("Shape", &[&of("v")], &[&of("shape")])
            .node("Gather", &[&of("shape"), "first"], &[&of("a")])
            .node("Gather", &[&of("shape"), "second"], &[&of("b")])
            .node("Unsqueeze", &[&of("a"), "axes"], &[&of("c")])
            .node("Unsqueeze", &[&of("b"), "axes"], &[&of("d")])
            .node_with(
                "",
                "Concat",
                &[&of("c"), &of("d"), "rest"],
                &[&of("to")],
                &[integer("axis", 0)],
            )
            .node("Reshape", &[&of("v"), &of("to")], &[&of("r")])
            .node("Relu", &[&of("r")], &[&format!("v{}", block + 1)]);
    }
    sketch.output(&format!("v{blocks}"), &[-1, -1, 8])
}

fn slices(nodes: usize) -> Sketch {
    let mut sketch = Sketch::new(17)
        .input("x", &[-1, -1, 2])
        .output("y", &[-1, -1, 2])
        .initializer("axis", INT64, &[1], &numbers(&[1]));
    let names: Vec<String> = (0..nodes).map(|node| format!("v{node}")).collect();
    for (node, name) in names.iter().enumerate() {
        let (from, to) = (format!("from{node}"), format!("to{node}"));
        sketch = sketch
            .initializer(&from, INT64, &[1], &numbers(&[node as i64]))
            .initializer(&to, INT64, &[1], &numbers(&[node as i64 + 3]))
            .node("Slice", &["x", &from, &to, "axis"], &[name]);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    sketch.node_with("", "Concat", &names, &["y"], &[integer("axis", 1)])
}

/// Layers of ten nodes, with the layer normalization that exporters write.
fn layers(nodes: usize) -> Sketch {
    let floats = |floats: &[f32]| floats.iter().flat_map(|number| number.to_le_bytes()).collect();
    let weights: Vec<f32> = (0..256).map(|at| at as f32 / 256.0 - 0.5).collect();
    let bytes: [Vec<u8>; 3] = [floats(&weights), floats(&[1e-5]), floats(&[2.0])];
    let mut sketch = Sketch::new(17)
        .input("v0", &[-1, -1, 16])
        .initializer("w", FLOAT, &[16, 16], &bytes[0])
        .initializer("epsilon", FLOAT, &[], &bytes[1])
        .initializer("two", FLOAT, &[], &bytes[2]);
    let layers = nodes / 10;
    let axes = [integers("axes", &[-1])];
    for layer in 0..layers {
        let of = |name: &str| format!("{name}{layer}");
        sketch = sketch
            .node("MatMul", &[&of("v"), "w"], &[&of("product")])
            .node("Add", &[&of("product"), &of("v")], &[&of("sum")])
            .node_with("", "ReduceMean", &[&of("sum")], &[&of("mean")], &axes)
            .node("Sub", &[&of("sum"), &of("mean")], &[&of("rest")])
            .node("Pow", &[&of("rest"), "two"], &[&of("square")])
            .node_with("", "ReduceMean", &[&of("square")], &[&of("variance")], &axes)
            .node("Add", &[&of("variance"), "epsilon"], &[&of("positive")])
            .node("Sqrt", &[&of("positive")], &[&of("deviation")])
            .node("Div", &[&of("rest"), &of("deviation")], &[&of("normal")])
            .node("Relu", &[&of("normal")], &[&format!("v{}", layer + 1)]);
    }
    sketch.output(&format!("v{layers}"), &[-1, -1, 16])
}

/// A tree of conditions, each with a tree in either branch.
fn conditions(nodes: usize) -> Sketch {
    let branch = |sketch: Sketch| sketch.output("o", &[-1, 4]);
    let mut tree = branch(Sketch::new(17).node("Neg", &["x"], &["o"]));
    let mut count = 1;
    while 2 * count < nodes {
        let branches = [tree.attribute("then_branch"), tree.attribute("else_branch")];
        tree = branch(Sketch::new(17).node_with("", "If", &["c"], &["o"], &branches));
        count = 2 * count + 1;
    }
    let branches = [tree.attribute("then_branch"), tree.attribute("else_branch")];
    Sketch::new(17).input("x", &[-1, 4]).input_of(BOOL, "c", &[]).output("y", &[-1, 4]).node_with(
        "",
        "If",
        &["c"],
        &["y"],
        &branches,
    )
}
