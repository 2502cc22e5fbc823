//! Finds inputs of a graph that decide shapes or axes, so that their values must be known when the model is loaded.

use std::collections::HashSet;

use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto};

use super::order::subgraphs;

/// Operands whose values, not only their shapes, decide what is computed. Source: ONNX operators.
const OPERANDS: &[(&str, &[usize])] = &[
    ("AffineGrid", &[1]),
    ("BlackmanWindow", &[0]),
    ("CenterCropPad", &[1]),
    ("Col2Im", &[1, 2]),
    ("ConstantOfShape", &[0]),
    ("CumProd", &[1]),
    ("CumSum", &[1]),
    ("DFT", &[1, 2]),
    ("Dropout", &[1, 2]),
    ("Expand", &[1]),
    ("HammingWindow", &[0]),
    ("HannWindow", &[0]),
    ("If", &[0]),
    ("Loop", &[0, 1]),
    ("MaxUnpool", &[2]),
    ("MelWeightMatrix", &[0, 1, 2, 3, 4]),
    ("NonMaxSuppression", &[2, 3, 4]),
    ("OneHot", &[1]),
    ("Pad", &[1, 3]),
    ("Range", &[0, 1, 2]),
    ("ReduceL1", &[1]),
    ("ReduceL2", &[1]),
    ("ReduceLogSum", &[1]),
    ("ReduceLogSumExp", &[1]),
    ("ReduceMax", &[1]),
    ("ReduceMean", &[1]),
    ("ReduceMin", &[1]),
    ("ReduceProd", &[1]),
    ("ReduceSum", &[1]),
    ("ReduceSumSquare", &[1]),
    ("Reshape", &[1]),
    ("Resize", &[1, 2, 3]),
    ("STFT", &[1, 3]),
    ("SequenceAt", &[1]),
    ("SequenceErase", &[1]),
    ("SequenceInsert", &[2]),
    ("Slice", &[1, 2, 3, 4]),
    ("Split", &[1]),
    ("SplitToSequence", &[1]),
    ("Squeeze", &[1]),
    ("Tile", &[1, 2]),
    ("TopK", &[1]),
    ("Trilu", &[1]),
    ("Unsqueeze", &[1]),
    ("Upsample", &[1]),
];

/// The operands of an operator that decide shapes by their values.
pub(super) fn operands(op: &str) -> &'static [usize] {
    match OPERANDS.binary_search_by_key(&op, |(known, _)| known) {
        Ok(at) => OPERANDS[at].1,
        Err(_) => &[],
    }
}

/// Operators whose results depend only on the shapes of their operands.
const SHAPE_READERS: [&str; 2] = ["Shape", "Size"];

/// Names of all values, inputs among them, that decide shapes.
pub(super) fn deciding(graph: &GraphProto) -> HashSet<&str> {
    let mut nodes = Vec::new();
    let mut passed = Vec::new();
    collect(&graph.node, &mut nodes, &mut passed);
    let mut deciding: HashSet<&str> = HashSet::new();
    for node in &nodes {
        let operands = operands(&node.op_type).iter();
        let operands = operands.filter_map(|&index| node.input.get(index));
        deciding.extend(operands.map(String::as_str).filter(|name| !name.is_empty()));
    }
    loop {
        let before = deciding.len();
        for node in nodes.iter().rev() {
            let decides = node.output.iter().any(|name| deciding.contains(name.as_str()));
            if decides && !SHAPE_READERS.contains(&node.op_type.as_str()) {
                let inputs = node.input.iter().map(String::as_str);
                deciding.extend(inputs.filter(|name| !name.is_empty()));
                let results = subgraphs(node).flat_map(|graph| &graph.output);
                deciding.extend(results.map(|output| output.name.as_str()));
            }
        }
        for &(inner, outer) in &passed {
            if deciding.contains(inner) {
                deciding.insert(outer);
            }
        }
        if deciding.len() == before {
            return deciding;
        }
    }
}

/// All nodes, including those of subgraphs, with names that are unique in the whole graph; and which operand of its node
/// each input of a subgraph is.
fn collect<'g>(
    nodes: &'g [NodeProto],
    all: &mut Vec<&'g NodeProto>,
    passed: &mut Vec<(&'g str, &'g str)>,
) {
    for node in nodes {
        all.push(node);
        let bodies = node.attribute.iter().filter_map(|AttributeProto { g, .. }| g.as_ref());
        for body in bodies {
            let pairs = body.input.iter().zip(&node.input);
            passed.extend(pairs.map(|(inner, outer)| (inner.name.as_str(), outer.as_str())));
            collect(&body.node, all, passed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(op: &str, input: &[&str], output: &str) -> NodeProto {
        NodeProto {
            op_type: op.to_owned(),
            input: input.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output.to_owned()],
            ..NodeProto::default()
        }
    }

    #[test]
    fn the_table_can_be_searched() {
        assert!(OPERANDS.is_sorted_by_key(|(op, _)| op));
    }

    #[test]
    fn values_that_reach_a_shape_decide_and_data_does_not() {
        let graph = GraphProto {
            node: vec![
                node("Shape", &["data"], "shape"),
                node("Gather", &["shape", "which"], "picked"),
                node("Concat", &["picked", "rest"], "target"),
                node("Reshape", &["data", "target"], "out"),
            ],
            ..GraphProto::default()
        };
        let deciding = deciding(&graph);
        for name in ["target", "rest", "which", "picked", "shape"] {
            assert!(deciding.contains(name), "{name}");
        }
        assert!(!deciding.contains("data"));
    }
}
