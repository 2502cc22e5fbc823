//! Repeated elements are computed once: an expression of one broadcast operand is evaluated before the repetition.

use crate::graph::{Draft, Links, Origin, Uses};
use flotilla_program::{Node, Op, ValueId};

pub(super) fn apply(draft: &mut Draft, uses: &Uses) -> usize {
    let links = Links::of(draft, uses);
    let mut found = 0;
    let nodes = std::mem::take(&mut draft.nodes);
    let sources: Vec<Option<ValueId>> = nodes
        .iter()
        .map(|node| {
            let Op::Elementwise(_) = &node.op else { return None };
            let mut operands =
                node.inputs.iter().filter(|&&input| draft.scalar_step(input).is_none());
            let (operand, None) = (*operands.next()?, operands.next()) else { return None };
            let before = &nodes[links.producer_index(operand)?];
            (matches!(before.op, Op::Broadcast)).then_some(operand)
        })
        .collect();
    let broadcasts: Vec<Option<ValueId>> = sources
        .iter()
        .map(|operand| Some(nodes[links.producer_index((*operand)?)?].inputs[0]))
        .collect();
    for ((mut node, operand), source) in nodes.into_iter().zip(sources).zip(broadcasts) {
        let (Some(operand), Some(source)) = (operand, source) else {
            draft.nodes.push(node);
            continue;
        };
        let output = node.outputs[0];
        let shape = draft.shape(source).to_vec();
        let narrow = draft.add_value(draft.value(output).dtype, shape, Origin::Node);
        node.inputs.iter_mut().filter(|input| **input == operand).for_each(|input| *input = source);
        let name = node.name.clone();
        node.outputs = vec![narrow];
        draft.nodes.push(node);
        draft.nodes.push(Node {
            name,
            op: Op::Broadcast,
            inputs: vec![narrow],
            outputs: vec![output],
        });
        found += 1;
    }
    found
}
