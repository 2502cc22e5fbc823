//! Chains of reshapes and transpositions become one each; those without effect are removed.

use crate::graph::{Draft, Links, Uses};
use flotilla_program::{Op, SymbolSource, Transpose, ValueId};

pub(super) fn apply(draft: &mut Draft, uses: &Uses) -> usize {
    let mut links = Links::of(draft, uses);
    let mut rewrites = 0;
    for index in 0..draft.nodes.len() {
        rewrites += usize::from(shorten(draft, &mut links, index));
    }
    rewrites + skip_identities(draft)
}

/// Makes a node read the operand of another node of its kind.
fn shorten(draft: &mut Draft, links: &mut Links, index: usize) -> bool {
    let node = &draft.nodes[index];
    let Some(&input) = node.inputs.first() else { return false };
    let Some(before) = links.producer(draft, input) else { return false };
    let op = match (&before.op, &node.op) {
        (Op::Reshape, Op::Reshape) => Op::Reshape,
        (Op::Transpose(first), Op::Transpose(second)) => {
            let perm = second.perm.iter().map(|&axis| first.perm[axis as usize]).collect();
            Op::Transpose(Transpose { perm })
        }
        _ => return false,
    };
    let source = before.inputs[0];
    links.rewrite(draft, index, op, vec![source]);
    true
}

/// Users of a node without effect use its operand instead.
fn skip_identities(draft: &mut Draft) -> usize {
    let mut replaced: Vec<(ValueId, ValueId)> = Vec::new();
    for node in &draft.nodes {
        let ([input], [output]) = (node.inputs.as_slice(), node.outputs.as_slice()) else {
            continue;
        };
        let identity = match &node.op {
            Op::Reshape | Op::Broadcast => draft.shape(*input) == draft.shape(*output),
            Op::Transpose(transpose) => {
                transpose.perm.iter().enumerate().all(|(to, &from)| to as u32 == from)
            }
            _ => false,
        };
        if identity {
            replaced.push((*output, *input));
        }
    }
    if replaced.is_empty() {
        return 0;
    }
    // Earlier nodes come first, so an operand that was itself replaced is already in the map.
    let mut resolved: std::collections::HashMap<ValueId, ValueId> =
        std::collections::HashMap::new();
    for &(output, input) in &replaced {
        let input = resolved.get(&input).copied().unwrap_or(input);
        resolved.insert(output, input);
    }
    let mut rewrites = 0;
    let mut replace = |id: &mut ValueId| {
        if let Some(&input) = resolved.get(id) {
            *id = input;
            rewrites += 1;
        }
    };
    let Draft { nodes, regions, outputs, symbols, .. } = draft;
    nodes.iter_mut().flat_map(|node| &mut node.inputs).for_each(&mut replace);
    for region in regions {
        region.nodes.iter_mut().flat_map(|node| &mut node.inputs).for_each(&mut replace);
        region.results.iter_mut().for_each(&mut replace);
    }
    for port in outputs {
        replace(&mut port.value);
        port.high.iter_mut().for_each(&mut replace);
    }
    for info in symbols {
        if let SymbolSource::Element { value, .. } = &mut info.source {
            replace(value);
        }
    }
    rewrites
}
