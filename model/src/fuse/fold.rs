//! Computes with constants once, here, instead of in every run: reorders, repeats and operators on
//! them.

use crate::graph::{
    Data, Draft, Origin, Uses,
    compute::{Words, compute},
};
use flotilla_program::{Node, Op, ValueId, dim::Dim};
use flotilla_tensor::WORD_BYTES;

/// Larger constants are not enlarged by broadcasting.
const BROADCAST_BYTES_MAX: usize = 4096;

/// Larger constants are not used in computations.
const COMPUTED_BYTES_MAX: usize = 64 << 20;

pub(super) fn apply(draft: &mut Draft, _: &Uses) -> usize {
    folded(draft, false)
}

/// The same, and the numbers of quantized integers that no operator reads itself.
pub(super) fn apply_to_quantized(draft: &mut Draft, _: &Uses) -> usize {
    folded(draft, true)
}

fn folded(draft: &mut Draft, quantized: bool) -> usize {
    let mut folded = 0;
    for index in 0..draft.nodes.len() {
        let &[output] = draft.nodes[index].outputs.as_slice() else { continue };
        if let Some(data) = data(draft, &draft.nodes[index], output, quantized) {
            // The operands may be in a file, and are needed once more at most.
            for input in &draft.nodes[index].inputs {
                draft.constant(*input).iter().for_each(|data| draft.storage.release(&data.bytes));
            }
            let data = data.kept(&draft.storage);
            draft.values[output.index()].origin = Origin::Constant(data);
            folded += 1;
        }
    }
    // A node whose output has become a constant computes nothing.
    let Draft { nodes, values, .. } = draft;
    nodes.retain(|node| {
        node.outputs.iter().any(|output| matches!(values[output.index()].origin, Origin::Node))
    });
    folded
}

/// The result of a node whose operands are constants.
fn data(draft: &Draft, node: &Node, output: ValueId, quantized: bool) -> Option<Data> {
    let to = fixed(draft.shape(output))?;
    let constants: Option<Vec<&Data>> =
        node.inputs.iter().map(|input| draft.constant(*input)).collect();
    let constants = constants.filter(|constants| !constants.is_empty())?;
    let shapes: Vec<Vec<usize>> =
        node.inputs.iter().map(|input| fixed(draft.shape(*input))).collect::<Option<_>>()?;
    match (&node.op, constants.as_slice()) {
        (Op::Reshape, [data]) => return Some((*data).clone()),
        (Op::Transpose(transpose), [data]) => {
            return Some(
                data.reordered(|bytes, width| {
                    transposed(bytes, &shapes[0], &transpose.perm, width)
                }),
            );
        }
        (Op::Broadcast, [data]) => {
            let bytes = to.iter().product::<usize>() * WORD_BYTES;
            return (bytes <= BROADCAST_BYTES_MAX)
                .then(|| data.reordered(|bytes, width| broadcast(bytes, &shapes[0], &to, width)));
        }
        // These would store results that cost nothing to compute, or enlarge them.
        (Op::Range(_) | Op::Sizes(_) | Op::If(_) | Op::Loop(_), _) => return None,
        // Quantized integers stay as narrow as they are, unless there are few of them.
        (Op::Dequantize(_), [integers, ..])
            if !quantized
                && integers.dtype.is_narrow()
                && to.iter().product::<usize>() * WORD_BYTES > BROADCAST_BYTES_MAX =>
        {
            return None;
        }
        _ => {}
    }
    let most = to.iter().product::<usize>() * WORD_BYTES;
    let given: usize = constants.iter().map(|data| data.elements() * WORD_BYTES).sum();
    if most > COMPUTED_BYTES_MAX
        || given > COMPUTED_BYTES_MAX
        || most > given.max(BROADCAST_BYTES_MAX)
            && !(quantized && matches!(node.op, Op::Dequantize(_)))
    {
        return None;
    }
    if constants.iter().any(|data| data.dtype.wire_bytes() > WORD_BYTES) {
        return None;
    }
    let words: Vec<Vec<u32>> = constants.iter().map(|data| data.to_words()).collect();
    let operands: Vec<Words<'_>> = node
        .inputs
        .iter()
        .zip(&shapes)
        .zip(&words)
        .map(|((input, shape), words)| Words { dtype: draft.value(*input).dtype, shape, words })
        .collect();
    // A node that cannot be computed here fails where it runs.
    let result = compute(&node.op, &operands, draft.value(output).dtype, &to).ok()?;
    Some(Data::of_words(draft.value(output).dtype, &result))
}

pub(super) fn fixed(shape: &[Dim]) -> Option<Vec<usize>> {
    shape.iter().map(|dim| usize::try_from(dim.as_fixed()?).ok()).collect()
}

fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (0..shape.len().saturating_sub(1)).rev() {
        strides[axis] = strides[axis + 1] * shape[axis + 1];
    }
    strides
}

fn transposed(bytes: &[u8], from: &[usize], perm: &[u32], width: usize) -> Vec<u8> {
    let from_strides = strides(from);
    let shape: Vec<usize> = perm.iter().map(|&axis| from[axis as usize]).collect();
    let steps: Vec<usize> = perm.iter().map(|&axis| from_strides[axis as usize]).collect();
    strided(bytes, &shape, &steps, width)
}

fn broadcast(bytes: &[u8], from: &[usize], to: &[usize], width: usize) -> Vec<u8> {
    let steps: Vec<usize> = strides(from)
        .into_iter()
        .zip(from)
        .map(|(step, &dim)| if dim == 1 { 0 } else { step })
        .collect();
    strided(bytes, to, &steps, width)
}

/// Elements in the order of `shape`, where a step along each axis moves `steps` elements in `bytes`.
fn strided(bytes: &[u8], shape: &[usize], steps: &[usize], width: usize) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let mut result = Vec::with_capacity(count * width);
    let mut index = vec![0usize; shape.len()];
    let mut at = 0usize;
    for _ in 0..count {
        result.extend_from_slice(&bytes[at * width..][..width]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += steps[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= steps[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reorders_and_repeats() {
        let bytes: Vec<u8> = (0..6).collect();
        assert_eq!(transposed(&bytes, &[2, 3], &[1, 0], 1), [0, 3, 1, 4, 2, 5]);
        assert_eq!(transposed(&bytes, &[1, 3, 2], &[2, 0, 1], 1), [0, 2, 4, 1, 3, 5]);
        assert_eq!(broadcast(&[7, 8], &[2, 1], &[2, 3], 1), [7, 7, 7, 8, 8, 8]);
    }
}
