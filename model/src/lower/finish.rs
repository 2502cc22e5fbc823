//! The last step of lowering: dead values are dropped, the rest renumbered, constants packed into blobs.

use super::{
    LowerError,
    counts::check_counts,
    draft::{Data, Draft, Origin},
};
use crate::weights::{Packer, Placed, Weights};
use flotilla_program::{DType, PROGRAM_VERSION, Port, Program, Source, Value, ValueId};

enum Pending {
    Done(Source),
    Constant(Placed, DType),
}

/// Removes nodes that nothing depends on, and the data of constants that no node reads.
pub(crate) fn drop_dead_nodes(draft: &mut Draft) {
    let mut live = vec![false; draft.values.len()];
    for value in draft.results() {
        live[value.index()] = true;
    }
    let mut kept: Vec<_> = std::mem::take(&mut draft.nodes)
        .into_iter()
        .rev()
        .filter(|node| {
            let needed = node.outputs.iter().any(|output| live[output.index()]);
            if needed {
                node.inputs.iter().for_each(|input| live[input.index()] = true);
            }
            needed
        })
        .collect();
    kept.reverse();
    draft.nodes = kept;
    for (value, live) in draft.values.iter_mut().zip(live) {
        if !live && matches!(value.origin, Origin::Constant(_)) {
            value.origin = Origin::Constant(Data::Bytes([].into()));
        }
    }
}

/// Makes the program. Consumes the draft so that each constant can be freed as soon as it is in a blob.
pub(crate) fn finish(mut draft: Draft) -> Result<(Program, Weights), LowerError> {
    drop_dead_nodes(&mut draft);
    check_counts(&draft)?;
    let Draft {
        name,
        symbols,
        values,
        mut nodes,
        mut inputs,
        mut outputs,
        assumptions,
        mut counts,
    } = draft;

    let mut order: Vec<ValueId> = inputs.iter().map(|port| port.value).collect();
    for node in &nodes {
        order.extend(node.inputs.iter().chain(&node.outputs));
    }
    order.extend(outputs.iter().map(|port| port.value));
    order.extend(counts.iter().map(|count| count.value));

    let mut renumbered: Vec<Option<ValueId>> = vec![None; values.len()];
    let mut values: Vec<Option<_>> = values.into_iter().map(Some).collect();
    let mut packer = Packer::default();
    let mut pending: Vec<(DType, Vec<flotilla_program::dim::Dim>, Pending)> = Vec::new();
    for old in order {
        if renumbered[old.index()].is_some() {
            continue;
        }
        let Some(value) = values[old.index()].take() else { continue };
        renumbered[old.index()] = Some(ValueId(pending.len() as u32));
        let source = match value.origin {
            Origin::Input => Pending::Done(Source::Input),
            Origin::Node => Pending::Done(Source::Node),
            Origin::Constant(data) => {
                let stored = data.elements().0.unwrap_or(value.dtype);
                Pending::Constant(pack(&mut packer, data), stored)
            }
        };
        pending.push((value.dtype, value.shape, source));
    }
    let (weights, blobs, shared) = packer.finish();
    let values = pending
        .into_iter()
        .map(|(dtype, shape, source)| {
            let source = match source {
                Pending::Done(source) => source,
                Pending::Constant(placed, stored) => {
                    Source::Constant(placed.resolve(shared, stored))
                }
            };
            Value { dtype, shape, source }
        })
        .collect();
    let mut renumber = |id: &mut ValueId| {
        if let Some(Some(new)) = renumbered.get(id.index()) {
            *id = *new;
        }
    };
    for node in &mut nodes {
        node.inputs.iter_mut().chain(&mut node.outputs).for_each(&mut renumber);
    }
    inputs.iter_mut().chain(&mut outputs).for_each(|Port { value, .. }| renumber(value));
    counts.iter_mut().for_each(|count| renumber(&mut count.value));

    let program = Program {
        version: PROGRAM_VERSION,
        name,
        symbols,
        values,
        nodes,
        inputs,
        outputs,
        assumptions,
        counts,
        allowed_paddings: Vec::new(),
        blobs,
    };
    program.check()?;
    Ok((program, weights))
}

fn pack(packer: &mut Packer, data: Data) -> Placed {
    match data {
        Data::Bytes(bytes) | Data::Narrow(_, bytes) => packer.add(&bytes, Some(bytes.clone())),
        tensor @ Data::Tensor(_) => packer.add(&tensor.elements().1, None),
    }
}
