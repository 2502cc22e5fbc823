//! Reduces a failing case to the smallest one that fails in the same way.

use std::collections::{BTreeMap, HashSet};

use flotilla_reference::OnnxFile;
use flotilla_tensor::{NamedTensor, Tensor};
use tract_onnx::pb::{GraphProto, ValueInfoProto};

use crate::{
    case::{Case, reads},
    judge::{Failure, Judge, Outcome, Stage},
    proto::{self, Declared},
};

/// Most rounds of reduction.
const ROUNDS_MAX: usize = 6;

/// The smallest case that fails at the same stage, and its failure.
pub fn smallest(judge: &mut Judge, case: &Case, failure: &Failure) -> (Case, Failure) {
    let mut found = (case.clone(), failure.clone());
    for _ in 0..ROUNDS_MAX {
        let nodes = found.0.nodes();
        single_output(judge, &mut found);
        single_run(judge, &mut found);
        earlier_output(judge, &mut found);
        cut_inputs(judge, &mut found);
        if found.0.nodes() == nodes {
            break;
        }
    }
    found
}

fn fails(judge: &mut Judge, case: &Case, stage: Stage) -> Option<Failure> {
    match judge.judge(case) {
        Outcome::Failed(failure) if failure.stage == stage => Some(failure),
        _ => None,
    }
}

fn take(judge: &mut Judge, found: &mut (Case, Failure), smaller: Case) -> bool {
    match fails(judge, &smaller, found.1.stage) {
        Some(failure) => {
            *found = (smaller, failure);
            true
        }
        None => false,
    }
}

fn single_run(judge: &mut Judge, found: &mut (Case, Failure)) {
    if found.0.runs.len() > 1 {
        let mut smaller = found.0.clone();
        smaller.runs.truncate(1);
        take(judge, found, smaller);
    }
}

fn single_output(judge: &mut Judge, found: &mut (Case, Failure)) {
    let Some(graph) = &found.0.model.graph else { return };
    if graph.output.len() < 2 {
        let smaller = pruned(&found.0);
        take(judge, found, smaller);
        return;
    }
    for output in graph.output.clone() {
        let smaller = with_output(&found.0, output);
        if take(judge, found, smaller) {
            return;
        }
    }
    // They fail only together: keep as few as possible.
    let mut at = 0;
    while let Some(graph) = found.0.model.graph.as_ref().filter(|graph| at < graph.output.len()) {
        let mut outputs = graph.output.clone();
        outputs.remove(at);
        let mut smaller = found.0.clone();
        if let Some(graph) = &mut smaller.model.graph {
            graph.output = outputs;
        }
        let smaller = pruned(&smaller);
        if !take(judge, found, smaller) {
            at += 1;
        }
    }
}

/// The case with one output only.
fn with_output(case: &Case, output: ValueInfoProto) -> Case {
    let mut smaller = case.clone();
    if let Some(graph) = &mut smaller.model.graph {
        graph.output = vec![output];
    }
    pruned(&smaller)
}

/// An earlier value as the only output.
fn earlier_output(judge: &mut Judge, found: &mut (Case, Failure)) {
    let Some(graph) = &found.0.model.graph else { return };
    let names: Vec<String> = graph.node.iter().flat_map(|node| node.output.clone()).collect();
    for name in names {
        let Some(claim) = found.0.claims.get(&name) else { continue };
        let dims = vec![Declared::Nothing; claim.shape.len()];
        let output = proto::port(&name, claim.of, Some(&dims));
        let smaller = with_output(&found.0, output);
        if smaller.nodes() < found.0.nodes() && take(judge, found, smaller) {
            return;
        }
    }
}

/// Values become inputs, with the numbers that they have.
fn cut_inputs(judge: &mut Judge, found: &mut (Case, Failure)) {
    let Some(values) = values(judge, &found.0) else { return };
    let Some(graph) = &found.0.model.graph else { return };
    let outputs: HashSet<String> = graph.output.iter().map(|port| port.name.clone()).collect();
    let names: Vec<String> = graph.node.iter().rev().flat_map(|node| node.output.clone()).collect();
    for name in names {
        let (Some(of), false) =
            (found.0.claims.get(&name).map(|claim| claim.of), outputs.contains(&name))
        else {
            continue;
        };
        let Some(runs) = values.get(&name) else { continue };
        let dims = (0..runs[0].shape.len()).map(|axis| {
            let sizes: Vec<usize> = runs.iter().map(|tensor| tensor.shape[axis]).collect();
            let is_fixed = sizes.iter().all(|size| *size == sizes[0]);
            if is_fixed {
                Declared::Number(sizes[0])
            } else {
                Declared::Name(format!("size {sizes:?}"))
            }
        });
        let dims: Vec<Declared> = dims.collect();
        let mut smaller = found.0.clone();
        if let Some(graph) = &mut smaller.model.graph {
            graph.input.push(proto::port(&name, of, Some(&dims)));
            for node in &mut graph.node {
                for output in node.output.iter_mut().filter(|output| **output == name) {
                    *output = format!("{output} (cut)");
                }
            }
        }
        for (inputs, tensor) in smaller.runs.iter_mut().zip(runs) {
            inputs.push(NamedTensor::new(name.clone(), tensor.clone()));
        }
        let smaller = pruned(&smaller);
        if smaller.nodes() < found.0.nodes() {
            take(judge, found, smaller);
        }
    }
}

/// onnxruntime's numbers for every value, in each run.
fn values(judge: &Judge, case: &Case) -> Option<BTreeMap<String, Vec<Tensor>>> {
    let mut whole = case.clone();
    let graph = whole.model.graph.as_mut()?;
    let known: HashSet<String> = graph.output.iter().map(|port| port.name.clone()).collect();
    let names: Vec<String> = graph.node.iter().flat_map(|node| node.output.clone()).collect();
    for name in names.into_iter().filter(|name| !known.contains(name)) {
        if let Some(claim) = case.claims.get(&name) {
            let dims = vec![Declared::Nothing; claim.shape.len()];
            graph.output.push(proto::port(&name, claim.of, Some(&dims)));
        }
    }
    let file = OnnxFile::from_bytes(whole.bytes()).ok()?;
    let mut values: BTreeMap<String, Vec<Tensor>> = BTreeMap::new();
    for results in judge.answers(&whole, &file).ok()? {
        for NamedTensor { name, tensor } in results {
            values.entry(name).or_default().push(tensor);
        }
    }
    Some(values)
}

/// Without the nodes that no output needs.
fn pruned(case: &Case) -> Case {
    let mut smaller = case.clone();
    let Some(graph) = &mut smaller.model.graph else { return smaller };
    let mut needed: HashSet<String> = graph.output.iter().map(|port| port.name.clone()).collect();
    let mut kept = Vec::new();
    for node in graph.node.drain(..).rev() {
        if node.output.iter().any(|output| needed.contains(output)) {
            needed.extend(reads(&node));
            kept.push(node);
        }
    }
    kept.reverse();
    let GraphProto { node, initializer, input, .. } = graph;
    *node = kept;
    initializer.retain(|tensor| needed.contains(&tensor.name));
    input.retain(|port| needed.contains(&port.name));
    for inputs in &mut smaller.runs {
        inputs.retain(|tensor| needed.contains(&tensor.name));
    }
    smaller
}
