//! Normalizations, with a large epsilon added to variances so that no divisor is small.

use super::{any_axis, is_filled, written};
use crate::{
    graph::{Graph, Spread, Var},
    proto::{float, int, ints},
    value::{Dim, Facts, Type, Value, count_most},
};

/// Added to variances.
const EPSILON: f64 = 0.1;
/// The largest factor by which a small difference grows: `1 / sqrt(EPSILON)`.
const GROWTH: f64 = 3.2;

/// The facts about numbers that are shifted and scaled by statistics of this many.
fn normalized(facts: &Facts, count: usize) -> Facts {
    let size = (count as f64).sqrt().min(2.0 * facts.size() * GROWTH);
    let error = (facts.error * 4.0 + facts.size() * 1e-6) * GROWTH * 2.0;
    Facts::about(-size, size, error)
}

fn is_moderate(value: &Value) -> bool {
    is_filled(value) && value.facts.size() <= 64.0
}

fn scaled(g: &mut Graph, facts: Facts, scale: Var, bias: Option<Var>) -> Facts {
    let facts = facts.times(&g.facts(scale));
    match bias {
        Some(bias) => facts.plus(&g.facts(bias)),
        None => facts,
    }
}

fn factors() -> Spread {
    Spread::Grid(2, -1.5, 1.5)
}

pub(super) fn layer(g: &mut Graph) -> Option<()> {
    if g.opset < 17 {
        return None;
    }
    let root = g.opset >= 23 && g.rng.percent(35);
    let x = g.value_of(&[Type::F32, Type::F32, Type::F16], |value| {
        value.rank() > 0 && is_moderate(value)
    })?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let axis = any_axis(g, shape.len());
    let inner = &shape[axis..];
    let count = count_most(inner);
    let mut attributes =
        vec![int("axis", written(g, axis, shape.len())), float("epsilon", EPSILON)];
    let scale = g.given(of, inner, factors())?;
    let mut inputs = vec![x, scale];
    let mut bias = None;
    if !root && g.rng.percent(70) {
        let added = g.given(of, inner, factors())?;
        inputs.push(added);
        bias = Some(added);
    }
    if root && g.rng.percent(30) {
        attributes.push(int("stash_type", 1));
    }
    let facts = normalized(&facts, count);
    let facts = scaled(g, facts, scale, bias);
    let mut outputs = vec![(of, shape.clone(), facts)];
    if !root && of == Type::F32 && g.rng.percent(25) {
        let of_x = g.facts(x);
        let mut rest = shape;
        rest[axis..].fill(Dim::Fixed(1));
        let error = of_x.error + of_x.size() * 1e-6;
        outputs.push((Type::F32, rest.clone(), Facts::about(of_x.low, of_x.high, error)));
        outputs.push((Type::F32, rest, Facts::about(0.0, GROWTH, error * 40.0 + 1e-6)));
    }
    let op = if root { "RMSNormalization" } else { "LayerNormalization" };
    g.node(op, &inputs, attributes, outputs)?;
    Some(())
}

/// `[n, c, ..]`, with a size of the channels that is the same in every run.
fn with_channels(g: &mut Graph, ranks: std::ops::Range<usize>) -> Option<(Var, usize)> {
    let x = super::windows::with_channels(g, &[Type::F32])?;
    let value = g.value(x);
    let channels = value.shape[1].same_size()?;
    (ranks.contains(&value.rank()) && is_moderate(value)).then_some((x, channels))
}

pub(super) fn batch(g: &mut Graph) -> Option<()> {
    if g.opset < 9 {
        return None;
    }
    let (x, channels) = with_channels(g, 2..6)?;
    let (shape, facts) = (g.shape(x), g.facts(x));
    let sizes = [channels];
    let scale = g.weights(Type::F32, &sizes, factors())?;
    let bias = g.weights(Type::F32, &sizes, factors())?;
    let training = g.opset >= 14 && g.rng.percent(20);
    let given = |g: &mut Graph, spread: Spread| match training {
        // onnxruntime overwrites the old ones with the new ones, those of the file included.
        true => g.input(Type::F32, vec![Dim::Fixed(channels)], spread),
        false => g.weights(Type::F32, &sizes, spread),
    };
    let mean = given(g, Spread::Grid(2, -1.0, 1.0))?;
    let variance = given(g, Spread::Grid(2, 0.25, 2.0))?;
    let mut attributes = vec![float("epsilon", 0.01)];
    let mut outputs = Vec::new();
    if training {
        attributes.extend([int("training_mode", 1), float("momentum", 0.75)]);
        attributes[0] = float("epsilon", EPSILON);
        let of_x = normalized(&facts, count_most(&shape));
        outputs.push((Type::F32, shape, scaled(g, of_x, scale, Some(bias))));
        let moved = facts.size() + 1.0;
        let error = facts.error + moved * 1e-6;
        outputs.push((Type::F32, vec![Dim::Fixed(channels)], Facts::about(-moved, moved, error)));
        let square = moved * moved + 2.0;
        let error = facts.error * moved * 2.0 + square * 2e-6;
        outputs.push((Type::F32, vec![Dim::Fixed(channels)], Facts::about(0.0, square, error)));
    } else {
        let size = (facts.size() + 1.0) * 2.0;
        let of_x = Facts::about(-size, size, facts.error * 2.0 + size * 1e-6);
        outputs.push((Type::F32, shape, scaled(g, of_x, scale, Some(bias))));
    }
    let inputs = [x, scale, bias, mean, variance];
    g.node("BatchNormalization", &inputs, attributes, outputs)?;
    if training {
        g.hide(&[mean, variance]);
    }
    Some(())
}

pub(super) fn instance(g: &mut Graph) -> Option<()> {
    let (x, channels) = with_channels(g, 3..6)?;
    let (shape, facts) = (g.shape(x), g.facts(x));
    let scale = g.weights(Type::F32, &[channels], factors())?;
    let bias = g.weights(Type::F32, &[channels], factors())?;
    let facts = normalized(&facts, count_most(&shape[2..]));
    let facts = scaled(g, facts, scale, Some(bias));
    let attributes = vec![float("epsilon", EPSILON)];
    g.one("InstanceNormalization", &[x, scale, bias], attributes, (Type::F32, shape, facts))?;
    Some(())
}

pub(super) fn group(g: &mut Graph) -> Option<()> {
    if g.opset < 18 {
        return None;
    }
    let (x, channels) = with_channels(g, 3..6)?;
    let (shape, facts) = (g.shape(x), g.facts(x));
    let divisors: Vec<usize> = (1..=channels).filter(|by| channels % by == 0).collect();
    let groups = g.rng.pick(&divisors);
    let each = if g.opset < 21 { groups } else { channels };
    let scale = g.weights(Type::F32, &[each], factors())?;
    let bias = g.weights(Type::F32, &[each], factors())?;
    let facts = normalized(&facts, count_most(&shape[1..]));
    let facts = scaled(g, facts, scale, Some(bias));
    let attributes = vec![int("num_groups", groups as i64), float("epsilon", EPSILON)];
    g.one("GroupNormalization", &[x, scale, bias], attributes, (Type::F32, shape, facts))?;
    Some(())
}

/// Local response normalization.
pub(super) fn local(g: &mut Graph) -> Option<()> {
    let x = g.value_of(&[Type::F32], |value| value.rank() == 4 && is_moderate(value))?;
    let (shape, facts) = (g.shape(x), g.facts(x));
    let size = g.rng.pick(&[1, 3, 5]);
    let attributes = vec![
        int("size", size),
        float("alpha", 0.05),
        float("beta", g.rng.pick(&[0.75, 0.5])),
        float("bias", g.rng.pick(&[1.0, 2.0])),
    ];
    let bound = facts.size();
    let made = Facts::about(-bound, bound, facts.error * 2.0 + bound * 2e-6);
    g.one("LRN", &[x], attributes, (Type::F32, shape, made))?;
    Some(())
}

pub(super) fn others(g: &mut Graph) -> Option<()> {
    let x = g.value_of(&[Type::F32], |value| {
        value.rank() > 0 && is_moderate(value) && value.is_exact()
    })?;
    let shape = g.shape(x);
    if shape.len() == 4 && g.rng.percent(40) && g.opset >= 9 {
        // For numbers that are all the same, the quotient is one of rounding errors.
        if g.value(x).data.is_none() || shape[0].least() * shape[2].least() * shape[3].least() < 6 {
            return None;
        }
        let attributes = if g.rng.percent(50) { vec![] } else { vec![ints("axes", [0, 2, 3])] };
        let made = Facts::about(-40.0, 40.0, 1e-4);
        g.one("MeanVarianceNormalization", &[x], attributes, (Type::F32, shape, made))?;
        return Some(());
    }
    let axis = any_axis(g, shape.len());
    let order = g.rng.pick(&[1, 2]);
    let attributes = vec![int("axis", written(g, axis, shape.len())), int("p", order)];
    g.one("LpNormalization", &[x], attributes, (Type::F32, shape, Facts::about(-1.0, 1.0, 1e-6)))?;
    Some(())
}
