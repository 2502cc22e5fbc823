//! Scaled dot-product attention with its split into heads and back becomes one operator on packed heads.
//! Source: Vaswani et al., "Attention Is All You Need", 3.2.

use crate::graph::{Draft, Formula, Links, Uses, head_dim};
use flotilla_program::{Attention, Binary, MatMul, Op, Softmax, ValueId};

/// `[batch, seq, heads, head_dim]` to `[batch, heads, seq, head_dim]`, and back.
const SWAP_HEADS: [u32; 4] = [0, 2, 1, 3];
/// `[batch, seq, heads, head_dim]` to `[batch, heads, head_dim, seq]`.
const KEYS_AS_COLUMNS: [u32; 4] = [0, 2, 3, 1];

pub(super) fn apply(draft: &mut Draft, uses: &Uses) -> usize {
    let mut links = Links::of(draft, uses);
    let mut found = 0;
    for index in 0..draft.nodes.len() {
        let [output] = draft.nodes[index].outputs[..] else { continue };
        let formula = Formula { draft, links: &links };
        let Some((attention, inputs)) = recognize(&formula, output) else { continue };
        links.rewrite(draft, index, Op::Attention(attention), inputs);
        found += 1;
    }
    found
}

/// From the reshape that joins the heads, finds queries, keys, values and mask.
fn recognize(formula: &Formula<'_>, output: ValueId) -> Option<(Attention, Vec<ValueId>)> {
    let joined = formula.produced(output, |op| matches!(op, Op::Reshape).then_some(()))?.1[0];
    let context = transposed(formula, joined, &SWAP_HEADS)?;
    let (product, operands) = matmul(formula, context)?;
    let (weights, values) = (operands[0], operands[1]);
    if product.alpha != 1.0 || product.transpose_b {
        return None;
    }
    let (v, heads, _) = split(formula, transposed(formula, values, &SWAP_HEADS)?)?;

    let (softmax, inputs) = formula.produced(weights, |op| match op {
        Op::Softmax(Softmax { axis }) => Some(*axis),
        _ => None,
    })?;
    if softmax != 3 {
        return None;
    }
    let (scores, scale, mask) = scores(formula, inputs[0])?;
    let (product, operands) = matmul(formula, scores)?;
    let (q, q_heads, q_scale) = split(formula, transposed(formula, operands[0], &SWAP_HEADS)?)?;
    let order = if product.transpose_b { &SWAP_HEADS } else { &KEYS_AS_COLUMNS };
    let (k, k_heads, k_scale) = split(formula, transposed(formula, operands[1], order)?)?;

    let width = formula.draft.shape(q).last()?.as_fixed()?;
    let consistent = q_heads == heads && k_heads == heads && head_dim(width, heads).is_some();
    if !consistent || formula.draft.shape(output) != formula.draft.shape(q) {
        return None;
    }
    let scale = scale * product.alpha * q_scale * k_scale;
    let mut operands = vec![q, k, v];
    operands.extend(mask);
    Some((Attention { heads, scale, mask: mask.is_some() }, operands))
}

/// The product, its factor and the mask of `factor * product + mask`.
fn scores(formula: &Formula<'_>, id: ValueId) -> Option<(ValueId, f32, Option<ValueId>)> {
    let unmasked = |id: ValueId| match formula.scaled(id) {
        Some((product, factor)) => matmul(formula, product).is_some().then_some((product, factor)),
        None => matmul(formula, id).is_some().then_some((id, 1.0)),
    };
    if let Some((product, factor)) = unmasked(id) {
        return Some((product, factor, None));
    }
    for (sum, mask) in formula.either(id, Binary::Add) {
        if let Some((product, factor)) = unmasked(sum)
            && formula.draft.shape(mask).len() == 4
        {
            return Some((product, factor, Some(unbroadcast(formula, mask))));
        }
    }
    None
}

/// The operand of a mask's broadcast: the operator broadcasts its mask itself.
fn unbroadcast(formula: &Formula<'_>, mask: ValueId) -> ValueId {
    match formula.produced(mask, |op| matches!(op, Op::Broadcast).then_some(())) {
        Some((_, inputs)) if formula.draft.shape(inputs[0]).len() == 4 => inputs[0],
        _ => mask,
    }
}

/// A product without anything fused to it.
fn matmul<'f>(formula: &'f Formula<'_>, id: ValueId) -> Option<(MatMul, &'f [ValueId])> {
    formula.produced(id, |op| match op {
        Op::MatMul(matmul) if !matmul.bias && !matmul.residual && matmul.activation.is_none() => {
            Some(matmul.clone())
        }
        _ => None,
    })
}

fn transposed(formula: &Formula<'_>, id: ValueId, wanted: &[u32]) -> Option<ValueId> {
    let (_, inputs) = formula.produced(id, |op| match op {
        Op::Transpose(transpose) => (transpose.perm == wanted).then_some(()),
        _ => None,
    })?;
    Some(inputs[0])
}

/// The packed source `[batch, seq, heads * head_dim]`, the number of heads and the factor of
/// `factor * reshape(source)`. The factor may be on either side of the reshape.
fn split(formula: &Formula<'_>, id: ValueId) -> Option<(ValueId, u32, f32)> {
    let (id, outer) = formula.scaled(id).unwrap_or((id, 1.0));
    let (_, inputs) = formula.produced(id, |op| matches!(op, Op::Reshape).then_some(()))?;
    let [batch, seq, heads, head_dim] = formula.draft.shape(id) else { return None };
    let [packed_batch, packed_seq, width] = formula.draft.shape(inputs[0]) else { return None };
    let heads = heads.as_fixed()?;
    let splits = batch == packed_batch
        && seq == packed_seq
        && width.as_fixed()? == heads.checked_mul(head_dim.as_fixed()?)?;
    if !splits {
        return None;
    }
    let (source, inner) = formula.scaled(inputs[0]).unwrap_or((inputs[0], 1.0));
    Some((source, u32::try_from(heads).ok()?, outer * inner))
}
