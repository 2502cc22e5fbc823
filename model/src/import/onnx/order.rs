//! Sorts nodes so that each reads only values that exist.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto};

use super::OnnxError;

/// Every value that a node reads: its inputs, and the outer values that its subgraphs use.
pub(super) fn reads(node: &NodeProto) -> Vec<&str> {
    let mut names: Vec<&str> =
        node.input.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    for graph in subgraphs(node) {
        captured(graph, &mut names);
    }
    names
}

/// The graphs in a node's attributes.
pub(super) fn subgraphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(|AttributeProto { g, graphs, .. }| g.iter().chain(graphs))
}

fn captured<'g>(graph: &'g GraphProto, names: &mut Vec<&'g str>) {
    let mut own: HashSet<&str> = graph.input.iter().map(|input| input.name.as_str()).collect();
    own.extend(graph.initializer.iter().map(|tensor| tensor.name.as_str()));
    own.extend(graph.node.iter().flat_map(|node| node.output.iter().map(String::as_str)));
    let inner = graph.node.iter().flat_map(reads);
    let outputs = graph.output.iter().map(|output| output.name.as_str());
    names.extend(inner.chain(outputs).filter(|name| !own.contains(name)));
}

/// Indices of `nodes` in an order in which every node comes after those whose results it reads. The given order is
/// kept if it is valid, as the standard requires.
///
/// # Errors
/// A value that neither a node nor `is_known` provides, or a cycle.
pub(super) fn order(
    nodes: &[NodeProto],
    is_known: impl Fn(&str) -> bool,
) -> Result<Vec<usize>, OnnxError> {
    let mut givers: HashMap<&str, usize> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        givers.extend(
            node.output.iter().filter(|name| !name.is_empty()).map(|name| (name.as_str(), index)),
        );
    }
    let mut waiting = vec![0usize; nodes.len()];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        for value in reads(node) {
            match givers.get(value) {
                Some(&giver) => {
                    waiting[index] += 1;
                    readers[giver].push(index);
                }
                None if is_known(value) => {}
                None => {
                    return Err(OnnxError::Missing {
                        node: node.name.clone(),
                        op: node.op_type.clone(),
                        value: value.to_owned(),
                    });
                }
            }
        }
    }
    let mut ready: std::collections::BTreeSet<usize> =
        (0..nodes.len()).filter(|&index| waiting[index] == 0).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(index) = ready.pop_first() {
        order.push(index);
        for &reader in &readers[index] {
            waiting[reader] -= 1;
            if waiting[reader] == 0 {
                ready.insert(reader);
            }
        }
    }
    if order.len() == nodes.len() {
        return Ok(order);
    }
    // Every remaining node waits for another remaining one, so walking back from any of them ends in a cycle.
    let left: HashSet<usize> = (0..nodes.len()).filter(|&index| waiting[index] > 0).collect();
    let mut seen = HashSet::new();
    let mut at = left.iter().min().copied().unwrap_or_default();
    loop {
        let back = reads(&nodes[at]).into_iter().find_map(|value| {
            givers.get(value).filter(|giver| left.contains(giver)).map(|&giver| (value, giver))
        });
        let (value, giver) = back.unwrap_or(("", at));
        if !seen.insert(at) || value.is_empty() {
            return Err(OnnxError::Cycle {
                node: nodes[at].name.clone(),
                op: nodes[at].op_type.clone(),
                value: value.to_owned(),
            });
        }
        at = giver;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, input: &[&str], output: &[&str]) -> NodeProto {
        NodeProto {
            name: name.to_owned(),
            op_type: "Add".to_owned(),
            input: input.iter().map(|&name| name.to_owned()).collect(),
            output: output.iter().map(|&name| name.to_owned()).collect(),
            ..NodeProto::default()
        }
    }

    #[test]
    fn nodes_come_after_what_they_read() {
        let nodes =
            [node("c", &["b", "x"], &["c"]), node("a", &["x"], &["a"]), node("b", &["a"], &["b"])];
        assert_eq!(order(&nodes, |name| name == "x").expect("an order"), [1, 2, 0]);
    }

    #[test]
    fn cycles_and_holes_are_named() {
        let nodes =
            [node("a", &["b"], &["a"]), node("b", &["a"], &["b"]), node("d", &["b"], &["d"])];
        let error = order(&nodes, |_| false).expect_err("a cycle");
        assert!(matches!(&error, OnnxError::Cycle { node, .. } if node != "d"), "{error}");
        let error = order(&[node("a", &["b"], &["a"])], |_| false).expect_err("a hole");
        assert!(matches!(error, OnnxError::Missing { .. }), "{error}");
    }
}
