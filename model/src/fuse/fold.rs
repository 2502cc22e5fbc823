//! Constants are reordered, reshaped and cast here, once, instead of in every run.

use crate::lower::draft::{Data, Draft, Origin};
use flotilla_program::{DType, Op, Step, WORD_BYTES, dim::Dim};

/// Larger constants are not multiplied by broadcasting.
const BROADCAST_BYTES_MAX: usize = 4096;

pub(super) fn apply(draft: &mut Draft) -> usize {
    let mut folded = 0;
    for index in 0..draft.nodes.len() {
        let node = &draft.nodes[index];
        let ([input], [output]) = (node.inputs.as_slice(), node.outputs.as_slice()) else {
            continue;
        };
        let (input, output) = (draft.value(*input), *output);
        let (Origin::Constant(data), Origin::Node) = (&input.origin, &draft.value(output).origin)
        else {
            continue;
        };
        let (Some(from), Some(to)) = (fixed(&input.shape), fixed(draft.shape(output))) else {
            continue;
        };
        let data = match &node.op {
            Op::Reshape => data.clone(),
            Op::Transpose(transpose) => {
                data.reordered(|bytes, width| transposed(bytes, &from, &transpose.perm, width))
            }
            Op::Broadcast if to.iter().product::<usize>() * WORD_BYTES <= BROADCAST_BYTES_MAX => {
                data.reordered(|bytes, width| broadcast(bytes, &from, &to, width))
            }
            Op::Elementwise(expr) => match (expr.steps.as_slice(), input.dtype) {
                ([Step::Input(0), Step::Cast(DType::F32, 0)], DType::I32) => {
                    Data::Bytes(int_to_float(&data.bytes()).into())
                }
                _ => continue,
            },
            _ => continue,
        };
        draft.values[output.index()].origin = Origin::Constant(data);
        folded += 1;
    }
    // A node whose output has become a constant computes nothing.
    let Draft { nodes, values, .. } = draft;
    nodes.retain(|node| {
        node.outputs.iter().any(|output| matches!(values[output.index()].origin, Origin::Node))
    });
    folded
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

fn int_to_float(bytes: &[u8]) -> Vec<u8> {
    bytes
        .chunks_exact(4)
        .flat_map(|chunk| {
            (i32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]) as f32).to_le_bytes()
        })
        .collect()
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
