//! Operators over whole lines of elements.

use super::{any_axis, written};
use crate::{
    graph::{Graph, Spread},
    proto::{int, ints, text},
    value::{Dim, Facts, Type, count_most},
};

const NUMBERS: &[Type] = &[Type::F32, Type::F32, Type::F16, Type::I32, Type::I64];
const FLOATS: &[Type] = &[Type::F32, Type::F32, Type::F16];

/// Axes of a reduction, some or all.
fn some_axes(g: &mut Graph, shape: &[Dim]) -> Vec<usize> {
    let rank = shape.len();
    let mut axes: Vec<usize> = (0..rank).filter(|_| g.rng.percent(45)).collect();
    if axes.is_empty() {
        axes = (0..rank).collect();
    }
    axes
}

/// The reduced shape.
fn reduced(shape: &[Dim], axes: &[usize], keep: bool) -> Vec<Dim> {
    let mut left = Vec::new();
    for (axis, &dim) in shape.iter().enumerate() {
        match (axes.contains(&axis), keep) {
            (true, true) => left.push(Dim::Fixed(1)),
            (true, false) => {}
            (false, _) => left.push(dim),
        }
    }
    left
}

pub(super) fn reduce(g: &mut Graph) -> Option<()> {
    let op = g.rng.pick(&[
        "ReduceSum",
        "ReduceSum",
        "ReduceMean",
        "ReduceMean",
        "ReduceMax",
        "ReduceMin",
        "ReduceProd",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceSumSquare",
    ]);
    let is_extreme = matches!(op, "ReduceMax" | "ReduceMin");
    let types: &[Type] = match op {
        _ if is_extreme && g.opset >= 20 => &Type::ALL,
        _ if is_extreme && g.opset >= 12 => {
            &[Type::F32, Type::F16, Type::I8, Type::U8, Type::I32, Type::I64]
        }
        "ReduceLogSum" | "ReduceLogSumExp" | "ReduceL2" if g.rng.percent(85) => FLOATS,
        _ => NUMBERS,
    };
    let mut x = g.value_of(types, |value| value.is_filled())?;
    let of = g.of(x);
    if !is_extreme {
        g.sums(of)?;
    }
    match op {
        "ReduceLogSum" => x = g.clipped(x, 1.0, 64.0)?,
        "ReduceProd" => x = g.clipped(x, -2.0, 2.0)?,
        "ReduceLogSumExp" => x = g.clipped(x, -20.0, 20.0)?,
        _ => {}
    }
    let (shape, facts) = (g.shape(x), g.facts(x));
    let axes = some_axes(g, &shape);
    let count = axes.iter().map(|&axis| shape[axis].most()).product::<usize>().max(1);
    let number = count as f64;
    let made = match op {
        "ReduceSum" => facts.sum(count),
        "ReduceMean" if of.is_float() => {
            let sum = facts.sum(count);
            Facts::about(facts.low, facts.high, sum.error / number)
        }
        "ReduceMean" => {
            facts.sum(count).settled(of)?;
            facts.moved()
        }
        "ReduceMax" | "ReduceMin" => facts.moved(),
        "ReduceProd" => {
            let size = facts.size().max(1.0).powi(count as i32);
            let low = if facts.low < 0.0 { -size } else { 0.0 };
            let error = size * (facts.error + 1e-6) * number;
            if of.is_float() { Facts::about(low, size, error) } else { Facts::whole(low, size) }
        }
        "ReduceL1" => Facts {
            low: 0.0,
            ..facts.or(&Facts { low: -facts.high, high: -facts.low, ..facts.clone() }).sum(count)
        },
        "ReduceSumSquare" => {
            let squares = facts.times(&facts);
            Facts { low: 0.0, ..squares.sum(count) }
        }
        "ReduceL2" => {
            if !facts.is_exact() && facts.low < 0.25 {
                return None;
            }
            let size = facts.size() * number.sqrt();
            Facts::about(0.0, size, (facts.error * number + size * 1e-6) * 4.0)
        }
        "ReduceLogSum" => Facts::about(0.0, (64.0 * number).ln(), facts.error * number + 2e-6),
        _ => {
            let more = number.ln();
            Facts::about(facts.low, facts.high + more, facts.error + 4e-6 + facts.size() * 2e-7)
        }
    };
    let made = if of.is_integer() { whole(made, of, op)? } else { made };
    let keep = g.rng.percent(50);
    let mut attributes = vec![];
    if !keep || g.rng.percent(30) {
        attributes.push(int("keepdims", i64::from(keep)));
    }
    let all = axes.len() == shape.len();
    let listed: Vec<i64> = axes.iter().map(|&axis| written(g, axis, shape.len())).collect();
    let listed: Vec<i64> =
        if g.opset < 11 { axes.iter().map(|&axis| axis as i64).collect() } else { listed };
    let as_operand = g.opset >= if op == "ReduceSum" { 13 } else { 18 };
    let mut inputs = vec![x];
    let mut left = reduced(&shape, &axes, keep);
    let mut made = made;
    if all && g.rng.percent(50) {
        if as_operand && g.rng.percent(25) {
            // Without axes nothing is reduced then.
            attributes.push(int("noop_with_empty_axes", 1));
            if !matches!(op, "ReduceSum" | "ReduceMax" | "ReduceMin") {
                return None;
            }
            (left, made) = (shape.clone(), facts.moved());
        }
    } else if as_operand {
        if !listed.is_empty() && g.depth == 0 && g.rng.percent(8) {
            let numbers = listed.iter().map(|&axis| axis as f64).collect::<Vec<_>>();
            inputs.push(g.input(
                Type::I64,
                vec![Dim::Fixed(listed.len())],
                Spread::these(numbers),
            )?);
            g.needs_example = true;
        } else {
            inputs.push(g.row(&listed)?);
        }
    } else {
        attributes.push(ints("axes", listed));
    }
    g.one(op, &inputs, attributes, (of, left, made))?;
    Some(())
}

/// For functions whose results are rounded down for integers.
fn whole(facts: Facts, of: Type, op: &str) -> Option<Facts> {
    if matches!(op, "ReduceLogSumExp") || (op == "ReduceL2" && facts.size() > 1e4) {
        return None;
    }
    Facts::whole(facts.low.floor(), facts.high.ceil()).settled(of)
}

pub(super) fn position(g: &mut Graph) -> Option<()> {
    let op = g.rng.pick(&["ArgMax", "ArgMin"]);
    let types = &[Type::F32, Type::F32, Type::F16, Type::I8, Type::U8, Type::I32, Type::I64];
    let x = g.value_of(types, |value| value.is_exact() && value.is_filled() && value.rank() > 0)?;
    let shape = g.shape(x);
    let axis = any_axis(g, shape.len());
    let keep = g.rng.percent(50);
    let at = if g.opset < 11 { axis as i64 } else { written(g, axis, shape.len()) };
    let mut attributes = vec![int("axis", at), int("keepdims", i64::from(keep))];
    if g.opset >= 12 && g.rng.percent(40) {
        attributes.push(int("select_last_index", 1));
    }
    let left = reduced(&shape, &[axis], keep);
    let last = shape[axis].most() as f64 - 1.0;
    g.one(op, &[x], attributes, (Type::I64, left, Facts::whole(0.0, last)))?;
    Some(())
}

pub(super) fn top_k(g: &mut Graph) -> Option<()> {
    if g.opset < 10 {
        return None;
    }
    let types: &[Type] = match g.opset {
        11.. => &[Type::F32, Type::F32, Type::F16, Type::I8, Type::U8, Type::I32, Type::I64],
        _ => &[Type::F32],
    };
    let x = g.value_of(types, |value| value.is_exact() && value.is_filled() && value.rank() > 0)?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let axis = any_axis(g, shape.len());
    // All of them, all but one, or some.
    let size = shape[axis];
    let k = match g.rng.below(4) {
        0 => size,
        1 => Dim::of(&[size], |size| size[0] - 1)?,
        _ => Dim::Fixed(g.rng.between(1, size.least() as i64) as usize),
    };
    let row = match k {
        Dim::Fixed(k) => g.row(&[k as i64])?,
        k => g.row_of_dims(&[k])?,
    };
    let mut attributes = vec![int("axis", written(g, axis, shape.len()))];
    if g.opset >= 11 && g.rng.percent(50) {
        attributes.push(int("largest", 0));
    }
    let mut left = shape.clone();
    left[axis] = k;
    let places = Facts::whole(0.0, size.most() as f64 - 1.0);
    let outputs = vec![(of, left.clone(), facts.moved()), (Type::I64, left, places)];
    g.node("TopK", &[x, row], attributes, outputs)?;
    Some(())
}

pub(super) fn softmax(g: &mut Graph) -> Option<()> {
    let op = g.rng.pick(&["Softmax", "Softmax", "LogSoftmax", "Hardmax"]);
    let x = g.value_of(FLOATS, |value| {
        value.is_filled() && value.rank() > 0 && (op != "Hardmax" || value.is_exact())
    })?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    if facts.size() > 300.0 {
        return None;
    }
    let axis = any_axis(g, shape.len());
    let mut attributes = Vec::new();
    let at = if g.opset < 11 { axis as i64 } else { written(g, axis, shape.len()) };
    if g.rng.percent(75) {
        attributes.push(int("axis", at));
    } else if g.opset < 13 && shape.len() < 2 {
        return None;
    }
    let made = match op {
        "Softmax" => Facts::about(0.0, 1.0, facts.error + 1e-6),
        "LogSoftmax" => {
            let span = facts.high - facts.low + (count_most(&shape) as f64).ln();
            Facts::about(-span, 0.0, 2.0 * facts.error + 1e-6 + span * 2e-7)
        }
        _ => Facts::truth(),
    };
    g.one(op, &[x], attributes, (of, shape, made))?;
    Some(())
}

pub(super) fn cumulative(g: &mut Graph) -> Option<()> {
    if g.opset < 11 {
        return None;
    }
    let product = g.opset >= 26 && g.rng.percent(30);
    let types = &[Type::F32, Type::F32, Type::I32, Type::I64];
    let mut x = g.value_of(types, |value| value.is_filled() && value.rank() > 0)?;
    g.sums(g.of(x))?;
    if product {
        x = g.clipped(x, -2.0, 2.0)?;
    }
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let axis = any_axis(g, shape.len());
    let count = shape[axis].most();
    let made = if product {
        let size = facts.size().max(1.0).powi(count as i32);
        let error = size * (facts.error + 1e-6) * count as f64;
        if of.is_float() { Facts::about(-size, size, error) } else { Facts::whole(-size, size) }
    } else {
        facts.sum(count)
    };
    let axis_of = g.rng.pick(&[Type::I64, Type::I32]);
    let at = written(g, axis, shape.len());
    let at = g.scalar(axis_of, at as f64)?;
    let flag = |g: &mut Graph| i64::from(g.rng.percent(40));
    let attributes = vec![int("exclusive", flag(g)), int("reverse", flag(g))];
    let made = if product { made.or(&Facts::whole(1.0, 1.0)) } else { made };
    let op = if product { "CumProd" } else { "CumSum" };
    g.one(op, &[x, at], attributes, (of, shape, made))?;
    Some(())
}

pub(super) fn loss(g: &mut Graph) -> Option<()> {
    if g.opset < 13 {
        return None;
    }
    let softmax = g.rng.percent(50);
    let x = g.value_of(&[Type::F32], |value| {
        value.is_filled() && (2..5).contains(&value.rank()) && value.facts.size() < 50.0
    })?;
    let (shape, facts) = (g.shape(x), g.facts(x));
    let mut left = shape.clone();
    let classes = left.remove(1);
    let target_of = g.rng.pick(&[Type::I64, Type::I32]);
    let last = classes.least() as i64 - 1;
    let target = g.given(target_of, &left, Spread::whole(0, last))?;
    let mut inputs = vec![x, target];
    let weighted = g.rng.percent(40);
    if weighted {
        inputs.push(g.given(Type::F32, &[classes], Spread::Grid(2, 0.5, 2.0))?);
    }
    let reduction = g.rng.pick(&["none", "sum", "mean"]);
    let mut attributes = vec![text("reduction", reduction)];
    // If every target is ignored, the mean has no elements.
    if g.rng.percent(30) && reduction != "mean" {
        attributes.push(int("ignore_index", 0));
    }
    let count = count_most(&left).max(1) as f64;
    let span =
        if softmax { 2.0 * facts.size() + (classes.most() as f64).ln() } else { facts.size() };
    let each = 2.0 * span * if weighted { 2.0 } else { 1.0 };
    let size = if reduction == "sum" { each * count } else { each };
    let error = (facts.error * 2.0 + span * 1e-6) * size / span.max(0.1) + size * 1e-6;
    let out_shape = if reduction == "none" { left } else { vec![] };
    let made = Facts::about(-size, size, error);
    let mut outputs = vec![(Type::F32, out_shape, made)];
    let op = if softmax { "SoftmaxCrossEntropyLoss" } else { "NegativeLogLikelihoodLoss" };
    if softmax && g.rng.percent(50) {
        outputs.push((Type::F32, shape, Facts::about(-span, 0.0, 2.0 * facts.error + span * 1e-6)));
    }
    g.node(op, &inputs, attributes, outputs)?;
    Some(())
}

/// Sums that engines may add in any order.
pub(super) fn dot(count: usize, a: &Facts, b: &Facts) -> Facts {
    a.times(b).sum(count.max(1))
}
