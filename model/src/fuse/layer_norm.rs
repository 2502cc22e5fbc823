//! Layer normalization: `gamma * (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) + beta` over the last dimension.
//! Source: Ba et al., "Layer Normalization", eq. 3.

use crate::graph::{Data, Draft, Formula, Links, Origin, Uses};
use flotilla_program::{Binary, LayerNorm, Op, Reduce, ReduceKind, Step, Unary, ValueId, dim::Dim};

/// A mean written as a sum and a factor may carry a rounded factor.
const RECIPROCAL_TOLERANCE: f32 = 1e-6;

pub(super) fn apply(draft: &mut Draft, uses: &Uses) -> usize {
    let mut links = Links::of(draft, uses);
    let mut found = 0;
    for index in 0..draft.nodes.len() {
        let formula = Formula { draft, links: &links };
        let [output] = draft.nodes[index].outputs[..] else { continue };
        let Some(norm) = recognize(&formula, output) else { continue };
        let gamma = flattened(draft, norm.gamma);
        let beta = flattened(draft, norm.beta);
        let op = Op::LayerNorm(LayerNorm { epsilon: norm.epsilon, residual: false });
        links.rewrite(draft, index, op, vec![norm.x, gamma, beta]);
        found += 1;
    }
    found
}

/// `LayerNorm(a + b)` reads both terms itself when the sum is used nowhere else.
pub(super) fn apply_residual(draft: &mut Draft, uses: &Uses) -> usize {
    let mut links = Links::of(draft, uses);
    let mut found = 0;
    for index in 0..draft.nodes.len() {
        let node = &draft.nodes[index];
        let Op::LayerNorm(LayerNorm { epsilon, residual: false }) = node.op else { continue };
        let (x, gamma, beta) = (node.inputs[0], node.inputs[1], node.inputs[2]);
        let formula = Formula { draft, links: &links };
        let Some((a, b)) = formula.binary(x, Binary::Add) else { continue };
        if links.uses(x) != 1
            || draft.shape(a) != draft.shape(x)
            || draft.shape(b) != draft.shape(x)
        {
            continue;
        }
        let op = Op::LayerNorm(LayerNorm { epsilon, residual: true });
        links.rewrite(draft, index, op, vec![a, gamma, beta, b]);
        found += 1;
    }
    found
}

struct Recognized {
    x: ValueId,
    gamma: ValueId,
    beta: ValueId,
    epsilon: f32,
}

fn recognize(formula: &Formula<'_>, output: ValueId) -> Option<Recognized> {
    for (scaled, beta) in formula.either(output, Binary::Add) {
        for (normalized, gamma) in formula.either(scaled, Binary::Mul) {
            let Some((x, epsilon)) = normalization(formula, normalized) else { continue };
            let length = formula.draft.shape(x).last()?;
            if is_row(formula.draft, gamma, length) && is_row(formula.draft, beta, length) {
                return Some(Recognized { x, gamma, beta, epsilon });
            }
        }
    }
    None
}

/// `d / sqrt(mean(d^2) + eps)` with `d = x - mean(x)`: gives `x` and `eps`.
fn normalization(formula: &Formula<'_>, normalized: ValueId) -> Option<(ValueId, f32)> {
    let mut readings: Vec<(ValueId, ValueId)> = formula
        .either(normalized, Binary::Mul)
        .into_iter()
        .filter_map(|(deviation, factor)| Some((deviation, inverse_root(formula, factor)?)))
        .collect();
    if let Some((deviation, root)) = formula.binary(normalized, Binary::Div)
        && let Some((variance, epsilon)) =
            formula.unary(root, Unary::Sqrt).and_then(|sum| formula.shifted(sum))
    {
        readings.push((deviation, variance));
        return readings.pop().and_then(|(d, v)| Some((deviation_of(formula, d, v)?, epsilon)));
    }
    readings.into_iter().find_map(|(deviation, sum)| {
        let (variance, epsilon) = sum_with_epsilon(formula, sum)?;
        Some((deviation_of(formula, deviation, variance)?, epsilon))
    })
}

/// The value of `1 / sqrt(..)`, if it is a single value.
fn inverse_root(formula: &Formula<'_>, factor: ValueId) -> Option<ValueId> {
    let node = formula.links.producer(formula.draft, factor)?;
    let Op::Elementwise(expr) = &node.op else { return None };
    match expr.steps.as_slice() {
        // `rsqrt(x + eps)` in one expression, as the lowering of RMS normalization makes it.
        [
            Step::Input(0),
            Step::Float(_),
            Step::Binary(Binary::Add, 0, 1),
            Step::Unary(Unary::Rsqrt, 2),
        ] => Some(factor),
        [Step::Input(_), Step::Unary(Unary::Rsqrt, 0)] => Some(factor),
        [Step::Input(_), Step::Unary(Unary::Recip, 0)] => formula
            .unary(factor, Unary::Recip)
            .filter(|&root| formula.unary(root, Unary::Sqrt).is_some()),
        _ => None,
    }
}

/// The variance and the epsilon under the root.
fn sum_with_epsilon(formula: &Formula<'_>, root: ValueId) -> Option<(ValueId, f32)> {
    let node = formula.links.producer(formula.draft, root)?;
    let Op::Elementwise(expr) = &node.op else { return None };
    if let [
        Step::Input(0),
        Step::Float(epsilon),
        Step::Binary(Binary::Add, 0, 1),
        Step::Unary(Unary::Rsqrt, 2),
    ] = expr.steps.as_slice()
    {
        return Some((node.inputs[0], *epsilon));
    }
    let sum = formula.unary(root, Unary::Rsqrt).or_else(|| formula.unary(root, Unary::Sqrt))?;
    formula.shifted(sum)
}

/// `x`, when `deviation` is `x - mean(x)` and `variance` the mean of its square, both over the last dimension.
fn deviation_of(formula: &Formula<'_>, deviation: ValueId, variance: ValueId) -> Option<ValueId> {
    let squared = mean_over_last(formula, variance)?;
    if square_of(formula, squared)? != deviation {
        return None;
    }
    let (x, mean) = formula.binary(deviation, Binary::Sub)?;
    (mean_over_last(formula, mean)? == x).then_some(x)
}

fn square_of(formula: &Formula<'_>, id: ValueId) -> Option<ValueId> {
    if let Some(base) = formula.unary(id, Unary::Square) {
        return Some(base);
    }
    let node = formula.links.producer(formula.draft, id)?;
    let Op::Elementwise(expr) = &node.op else { return None };
    match expr.steps.as_slice() {
        [Step::Input(0), Step::Binary(Binary::Mul, 0, 0)] => Some(node.inputs[0]),
        [Step::Input(0), Step::Float(2.0), Step::Binary(Binary::Pow, 0, 1)] => Some(node.inputs[0]),
        _ => None,
    }
}

/// The operand of a mean over the last dimension: a mean, or a sum divided by the dimension.
fn mean_over_last(formula: &Formula<'_>, id: ValueId) -> Option<ValueId> {
    let of = |id: ValueId, wanted: ReduceKind| {
        let (axes, inputs) = formula.produced(id, |op| match op {
            Op::Reduce(Reduce { kind, axes }) if *kind == wanted => Some(axes.clone()),
            _ => None,
        })?;
        let rank = formula.draft.shape(inputs[0]).len();
        (axes.len() == 1 && axes[0] as usize + 1 == rank).then_some(inputs[0])
    };
    if let Some(source) = of(id, ReduceKind::Mean) {
        return Some(source);
    }
    let (sum, factor) = formula.scaled(id)?;
    let source = of(sum, ReduceKind::Sum)?;
    let length = formula.draft.shape(source).last()?.as_fixed()? as f32;
    ((factor * length - 1.0).abs() <= RECIPROCAL_TOLERANCE).then_some(source)
}

/// Whether a constant has `length` elements along its last dimension, and only 1 along the others.
pub(super) fn is_row(draft: &Draft, id: ValueId, length: &Dim) -> bool {
    let Some((last, lead)) = draft.shape(id).split_last() else { return false };
    draft.constant(id).is_some()
        && last == length
        && lead.iter().all(|dim| dim.as_fixed() == Some(1))
}

/// A row constant without its leading dimensions.
pub(super) fn flattened(draft: &mut Draft, id: ValueId) -> ValueId {
    let value = draft.value(id).clone();
    if value.shape.len() == 1 {
        return id;
    }
    let data = match value.origin {
        Origin::Constant(data) => data,
        // Callers have checked with `is_row`; an empty constant would be refused by the program's own check.
        Origin::Input | Origin::Node => Data::new(value.dtype, Vec::new()),
    };
    let last = value.shape.last().cloned().into_iter().collect();
    draft.add_value(value.dtype, last, Origin::Constant(data))
}
