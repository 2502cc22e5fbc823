//! Fuses the factors, terms and activation that follow a convolution into it. Factors and terms of whole channels go into
//! its weights and its bias.

use crate::graph::{Data, Draft, Formula, Links, Origin, Uses};
use flotilla_program::{Binary, Conv, Op, Unary, ValueId, dim::Dim};
use flotilla_tensor::{DType, decode, encode};

pub(super) fn apply(draft: &mut Draft, uses: &Uses) -> usize {
    let mut links = Links::of(draft, uses);
    let mut found = 0;
    for index in 0..draft.nodes.len() {
        let [output] = draft.nodes[index].outputs[..] else { continue };
        if !matches!(draft.nodes[index].op, Op::Elementwise(_)) {
            continue;
        }
        let formula = Formula { draft, links: &links };
        let Some(Absorbed { mut conv, mut inputs, change }) = recognize(&formula, output) else {
            continue;
        };
        match change {
            Change::Activation(function) => conv.activation = Some(function),
            Change::Residual(term) => {
                inputs.push(term);
                conv.residual = true;
            }
            Change::Constants { weights, bias } => {
                if let Some(weights) = weights {
                    let shape = draft.shape(inputs[1]).to_vec();
                    inputs[1] = constant(draft, shape, &weights);
                }
                if let Some(bias) = bias {
                    let bias = constant(draft, vec![Dim::Fixed(bias.len() as i64)], &bias);
                    if conv.bias {
                        inputs[2] = bias;
                    } else {
                        inputs.insert(2, bias);
                    }
                    conv.bias = true;
                }
            }
        }
        links.rewrite(draft, index, Op::Conv(conv), inputs);
        found += 1;
    }
    found
}

struct Absorbed {
    conv: Conv,
    inputs: Vec<ValueId>,
    change: Change,
}

enum Change {
    Activation(Unary),
    Residual(ValueId),
    /// New weights and a new bias, if they change.
    Constants {
        weights: Option<Vec<f32>>,
        bias: Option<Vec<f32>>,
    },
}

fn recognize(formula: &Formula<'_>, output: ValueId) -> Option<Absorbed> {
    let draft = formula.draft;
    let convolved = |id: ValueId| {
        let (conv, inputs) = convolution(formula, id)?;
        let keeps_shape = draft.shape(id) == draft.shape(output);
        keeps_shape.then(|| (conv, inputs.to_vec()))
    };
    if let Some((function, source)) = formula.any_unary(output)
        && function != Unary::Not
        && let Some((conv, inputs)) = convolved(source)
    {
        return Some(Absorbed { conv, inputs, change: Change::Activation(function) });
    }
    for (source, bound) in formula.either(output, Binary::Max) {
        if draft.uniform_float(bound) == Some(0.0)
            && let Some((conv, inputs)) = convolved(source)
        {
            return Some(Absorbed { conv, inputs, change: Change::Activation(Unary::Relu) });
        }
    }
    for (source, factor) in formula.either(output, Binary::Mul) {
        let Some((conv, inputs)) = convolved(source) else { continue };
        if let Some(change) = scaled(formula, &conv, &inputs, factor) {
            return Some(Absorbed { conv, inputs, change });
        }
    }
    for (source, term) in formula.either(output, Binary::Add) {
        let Some((conv, inputs)) = convolved(source) else { continue };
        if let Some(change) = shifted(formula, &conv, &inputs, term) {
            return Some(Absorbed { conv, inputs, change });
        }
        if !conv.residual && draft.shape(term) == draft.shape(output) {
            return Some(Absorbed { conv, inputs, change: Change::Residual(term) });
        }
    }
    None
}

/// A convolution of floats that is used only here and has no activation yet.
fn convolution<'f>(formula: &'f Formula<'_>, id: ValueId) -> Option<(Conv, &'f [ValueId])> {
    if formula.links.uses(id) != 1 || formula.draft.value(id).dtype != DType::F32 {
        return None;
    }
    let (conv, inputs) = formula.produced(id, |op| match op {
        Op::Conv(conv) => Some(conv.clone()),
        _ => None,
    })?;
    conv.activation.is_none().then_some((conv, inputs))
}

/// The factor of each channel goes into weights that nothing else uses.
fn scaled(
    formula: &Formula<'_>,
    conv: &Conv,
    inputs: &[ValueId],
    factor: ValueId,
) -> Option<Change> {
    let (draft, weights) = (formula.draft, inputs[1]);
    if conv.residual || formula.links.uses(weights) != 1 {
        return None;
    }
    let channels = channels(draft, weights)?;
    let factor = per_channel(draft, factor, channels, draft.shape(inputs[0]).len())?;
    let mut weights = floats(draft, weights)?;
    let each = weights.len() / channels;
    for (weights, factor) in weights.chunks_exact_mut(each.max(1)).zip(&factor) {
        weights.iter_mut().for_each(|weight| *weight *= factor);
    }
    let bias = match conv.bias {
        true => Some(floats(draft, inputs[2])?.iter().zip(&factor).map(|(a, b)| a * b).collect()),
        false => None,
    };
    Some(Change::Constants { weights: Some(weights), bias })
}

/// The term of each channel goes into the bias.
fn shifted(
    formula: &Formula<'_>,
    conv: &Conv,
    inputs: &[ValueId],
    term: ValueId,
) -> Option<Change> {
    let draft = formula.draft;
    let channels = channels(draft, inputs[1])?;
    let mut bias = per_channel(draft, term, channels, draft.shape(inputs[0]).len())?;
    if conv.bias {
        let own = floats(draft, inputs[2])?;
        bias.iter_mut().zip(own).for_each(|(term, own)| *term += own);
    }
    Some(Change::Constants { weights: None, bias: Some(bias) })
}

/// How many channels the result has.
fn channels(draft: &Draft, weights: ValueId) -> Option<usize> {
    usize::try_from(draft.shape(weights).first()?.as_fixed()?).ok().filter(|&channels| channels > 0)
}

/// The elements of a constant that has one per channel of a value of this rank, or one for all.
fn per_channel(draft: &Draft, id: ValueId, channels: usize, rank: usize) -> Option<Vec<f32>> {
    let shape = draft.shape(id);
    let missing = rank.checked_sub(shape.len())?;
    let all_but_channels_are_one = shape.iter().enumerate().all(|(axis, dim)| {
        dim.as_fixed() == Some(1)
            || (axis + missing == 1 && dim.as_fixed() == Some(channels as i64))
    });
    let elements = all_but_channels_are_one.then(|| floats(draft, id)).flatten()?;
    match elements.as_slice() {
        [one] => Some(vec![*one; channels]),
        _ => Some(elements),
    }
}

/// The elements of a constant of 32-bit floats.
fn floats(draft: &Draft, id: ValueId) -> Option<Vec<f32>> {
    if draft.value(id).dtype != DType::F32 {
        return None;
    }
    let data = draft.constant(id)?;
    // Narrow weights are not converted to wide ones.
    if data.dtype != DType::F32 {
        return None;
    }
    Some(decode(&data.bytes, f32::from_le_bytes))
}

fn constant(draft: &mut Draft, shape: Vec<Dim>, elements: &[f32]) -> ValueId {
    let bytes = encode(elements, f32::to_le_bytes);
    draft.add_value(DType::F32, shape, Origin::Constant(Data::new(DType::F32, bytes)))
}
