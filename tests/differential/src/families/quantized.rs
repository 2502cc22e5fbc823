//! Quantized integers. Scales are powers of two, so that the results are exact.

use super::{any_axis, is_filled, reductions::dot, windows, written};
use crate::{
    graph::{Graph, Spread, Var},
    proto::int,
    value::{Dim, Facts, Type},
};

/// One scale, or one for each position of an axis; powers of two.
fn scales(g: &mut Graph, of: Type, count: Option<usize>) -> Option<(Var, Facts)> {
    let number = |g: &mut Graph| g.rng.pick(&[1.0, 0.5, 0.25, 2.0]);
    let numbers: Vec<f64> = (0..count.unwrap_or(1)).map(|_| number(g)).collect();
    let sizes: Vec<usize> = count.into_iter().collect();
    let scale = g.weights(of, &sizes, Spread::these(numbers))?;
    Some((scale, Facts { grid: Some(2), ..Facts::between(0.25, 2.0) }))
}

/// A zero point with a type and with a scale's shape.
fn zero(g: &mut Graph, of: Type, scale: Var) -> Option<Var> {
    let sizes: Vec<usize> =
        g.shape(scale).iter().map(|dim| dim.same_size()).collect::<Option<_>>()?;
    let spread = match of {
        Type::U8 => Spread::whole(0, 20),
        Type::I8 => Spread::whole(-8, 8),
        _ => Spread::whole(0, 0),
    };
    g.weights(of, &sizes, spread)
}

/// The axis of the scales, unless there is only one.
fn along(g: &mut Graph, shape: &[Dim]) -> Option<usize> {
    if g.opset < 13 || shape.is_empty() || g.rng.percent(50) {
        return None;
    }
    let axis = any_axis(g, shape.len());
    shape[axis].same_size().map(|_| axis)
}

pub(super) fn quantize(g: &mut Graph) -> Option<()> {
    if g.opset < 10 {
        return None;
    }
    let types: &[Type] =
        if g.opset >= 19 { &[Type::F32, Type::F32, Type::F16] } else { &[Type::F32] };
    let x = g.value_of(types, |value| {
        is_filled(value) && value.is_exact() && value.facts.grid.is_some()
    })?;
    let (of, shape) = (g.of(x), g.shape(x));
    let axis = along(g, &shape);
    let count = axis.and_then(|axis| shape[axis].same_size());
    let (scale, _) = scales(g, of, count)?;
    let to = g.rng.pick(&[Type::U8, Type::I8]);
    let mut inputs = vec![x, scale];
    let mut attributes = Vec::new();
    let mut to = to;
    if g.rng.percent(75) {
        inputs.push(zero(g, to, scale)?);
    } else if g.opset >= 21 && g.rng.percent(50) {
        attributes.push(int("output_dtype", to.in_file() as i64));
    } else {
        to = Type::U8;
    }
    if let Some(axis) = axis {
        attributes.push(int("axis", written(g, axis, shape.len())));
    }
    let (low, high) = to.range();
    let q = g.one(
        "QuantizeLinear",
        &inputs,
        attributes.clone(),
        (to, shape.clone(), Facts::whole(low, high)),
    )?;
    if !g.rng.percent(50) {
        return Some(());
    }
    inputs[0] = q;
    attributes.retain(|attribute| attribute.name == "axis");
    widened(g, &inputs, attributes, of)
}

/// `(q - zero) * scale`.
fn widened(
    g: &mut Graph,
    inputs: &[Var],
    attributes: Vec<tract_onnx::pb::AttributeProto>,
    to: Type,
) -> Option<()> {
    let (shape, facts) = (g.shape(inputs[0]), g.facts(inputs[0]));
    let mut made = facts;
    if let Some(&zero) = inputs.get(2) {
        made = made.minus(&g.facts(zero));
    }
    let scale = Facts { grid: Some(2), ..Facts::between(0.25, 2.0) };
    g.one("DequantizeLinear", inputs, attributes, (to, shape, made.times(&scale)))?;
    Some(())
}

pub(super) fn dequantize(g: &mut Graph) -> Option<()> {
    if g.opset < 10 {
        return None;
    }
    let x = g.value_of(&[Type::U8, Type::I8, Type::I8, Type::I32], |value| {
        is_filled(value) && value.facts.size() < 1e4
    })?;
    let (of, shape) = (g.of(x), g.shape(x));
    let axis = along(g, &shape);
    let count = axis.and_then(|axis| shape[axis].same_size());
    let to = if g.opset >= 19 && g.rng.percent(g.halves) { Type::F16 } else { Type::F32 };
    let (scale, _) = scales(g, to, count)?;
    let mut inputs = vec![x, scale];
    if g.rng.percent(60) {
        inputs.push(zero(g, of, scale)?);
    }
    let attributes = axis.map(|axis| int("axis", written(g, axis, shape.len())));
    widened(g, &inputs, attributes.into_iter().collect(), to)
}

pub(super) fn dynamic(g: &mut Graph) -> Option<()> {
    if g.opset < 11 {
        return None;
    }
    let x = g.value_of(&[Type::F32], |value| {
        is_filled(value) && value.is_exact() && value.facts.size() < 16.0
    })?;
    let (shape, facts) = (g.shape(x), g.facts(x));
    let span = facts.high.max(0.0) - facts.low.min(0.0);
    // If all numbers are zero, it is 1.
    let scale = Facts::about(0.0, (span / 255.0).max(1.0), span * 1e-8);
    // A number between two steps may be rounded to either.
    let step = |low: f64, high: f64| Facts { error: 1.0, ..Facts::whole(low, high) };
    let outputs = vec![
        (Type::U8, shape.clone(), step(0.0, 255.0)),
        (Type::F32, vec![], scale),
        (Type::U8, vec![], step(0.0, 255.0)),
    ];
    let made = g.node("DynamicQuantizeLinear", &[x], vec![], outputs)?;
    if g.rng.percent(60) {
        let error = span / 255.0 * 2.5 + facts.size() * 1e-5;
        let wide = Facts::about(facts.low - error, facts.high + error, error);
        // Other operators would otherwise treat this as an exact value.
        let wide = Facts { error: wide.error.min(1.9e-3), ..wide };
        let y = g.one(
            "DequantizeLinear",
            &[made[0], made[1], made[2]],
            vec![],
            (Type::F32, shape, wide),
        )?;
        g.set_error(y, error);
        g.hide(&[y]);
    }
    g.hide(&made);
    Some(())
}

pub(super) fn products(g: &mut Graph) -> Option<()> {
    if g.opset < 10 {
        return None;
    }
    let x = g.value_of(&[Type::U8, Type::U8, Type::I8], |value| {
        value.rank() > 1 && is_filled(value) && value.is_exact()
    })?;
    let (of, shape) = (g.of(x), g.shape(x));
    let depth = *shape.last()?;
    let columns = g.any_dim();
    if columns.least() == 0 {
        return None;
    }
    let weights_of = if of == Type::I8 { Type::I8 } else { g.rng.pick(&[Type::I8, Type::U8]) };
    // Without VNNI, onnxruntime adds pairs of products in 16 bits.
    let range = if weights_of == Type::I8 { Spread::whole(-60, 60) } else { Spread::whole(0, 200) };
    let y = g.given(weights_of, &[depth, columns], range)?;
    let mut made = shape;
    *made.last_mut()? = columns;
    let (mut a, mut b) = (g.facts(x), g.facts(y));
    if g.rng.percent(55) {
        let mut inputs = vec![x, y];
        if g.rng.percent(60) {
            let zero_a = g.weights(of, &[], Spread::whole(0, 9))?;
            a = a.minus(&g.facts(zero_a));
            inputs.push(zero_a);
            if g.rng.percent(60) {
                let sizes: Vec<usize> =
                    columns.same_size().filter(|_| g.rng.percent(40)).into_iter().collect();
                let zero_b = g.weights(weights_of, &sizes, Spread::whole(0, 9))?;
                b = b.minus(&g.facts(zero_b));
                inputs.push(zero_b);
            }
        }
        let facts = dot(depth.most(), &a, &b);
        g.one("MatMulInteger", &inputs, vec![], (Type::I32, made, facts))?;
        return Some(());
    }
    let number = |g: &mut Graph, numbers: &[f64]| {
        let number = g.rng.pick(numbers);
        g.scalar(Type::F32, number)
    };
    let scale_a = number(g, &[0.5, 1.0])?;
    let scale_b = number(g, &[0.25, 0.5, 1.0])?;
    let scale_y = number(g, &[8.0, 32.0, 64.0])?;
    let zero_a = g.weights(of, &[], Spread::whole(0, 9))?;
    let zero_b = g.weights(weights_of, &[], Spread::whole(0, 9))?;
    let zero_y = g.weights(of, &[], Spread::whole(0, 30))?;
    let inputs = [x, scale_a, zero_a, y, scale_b, zero_b, scale_y, zero_y];
    let (low, high) = of.range();
    g.one("QLinearMatMul", &inputs, vec![], (of, made, Facts::whole(low, high)))?;
    Some(())
}

pub(super) fn convolutions(g: &mut Graph) -> Option<()> {
    if g.opset < 10 {
        return None;
    }
    let x = windows::with_channels(g, &[Type::U8, Type::I8])?;
    let (of, shape) = (g.of(x), g.shape(x));
    if !g.value(x).is_exact() {
        return None;
    }
    let channels = shape[1].same_size()?;
    let outputs = g.rng.between(1, 4) as usize;
    let allowed = windows::Allowed { dilations: true, auto: true, ceil: false };
    let window = windows::Window::any(g, &shape[2..], allowed)?;
    let sizes = [&[outputs, channels], window.kernel.as_slice()].concat();
    let weights_of = if of == Type::I8 { Type::I8 } else { g.rng.pick(&[Type::I8, Type::U8]) };
    let range = if weights_of == Type::I8 { Spread::whole(-30, 30) } else { Spread::whole(0, 60) };
    let weights = g.weights(weights_of, &sizes, range)?;
    let made = window.shape(&shape, Dim::Fixed(outputs))?;
    let attributes = window.attributes(g, false);
    let count = channels * window.taps();
    let (mut a, mut b) = (g.facts(x), g.facts(weights));
    if g.rng.percent(55) {
        let mut inputs = vec![x, weights];
        if g.rng.percent(60) {
            let zero_a = g.weights(of, &[], Spread::whole(0, 9))?;
            a = a.minus(&g.facts(zero_a));
            inputs.push(zero_a);
            if g.rng.percent(40) {
                let zero_b = g.weights(weights_of, &[], Spread::whole(0, 9))?;
                b = b.minus(&g.facts(zero_b));
                inputs.push(zero_b);
            }
        }
        let facts = dot(count, &a, &b);
        g.one("ConvInteger", &inputs, attributes, (Type::I32, made, facts))?;
        return Some(());
    }
    let number = |g: &mut Graph, numbers: &[f64]| {
        let number = g.rng.pick(numbers);
        g.scalar(Type::F32, number)
    };
    let scale_x = number(g, &[0.5, 1.0])?;
    let per_channel = g.rng.percent(50);
    let scale_w = if per_channel {
        let numbers: Vec<f64> = (0..outputs).map(|_| g.rng.pick(&[0.25, 0.5, 1.0])).collect();
        g.constant(Type::F32, &[outputs], Spread::these(numbers))?
    } else {
        number(g, &[0.25, 0.5])?
    };
    let scale_y = number(g, &[4.0, 16.0, 32.0])?;
    let zero_x = g.weights(of, &[], Spread::whole(0, 9))?;
    let zero_w = match per_channel {
        true => g.constant(weights_of, &[outputs], Spread::whole(0, 0))?,
        false => g.constant(weights_of, &[], Spread::whole(0, 9))?,
    };
    let zero_y = g.weights(of, &[], Spread::whole(0, 30))?;
    let mut inputs = vec![x, scale_x, zero_x, weights, scale_w, zero_w, scale_y, zero_y];
    if g.rng.percent(50) {
        inputs.push(g.weights(Type::I32, &[outputs], Spread::whole(-200, 200))?);
    }
    let (low, high) = of.range();
    g.one("QLinearConv", &inputs, attributes, (of, made, Facts::whole(low, high)))?;
    Some(())
}
