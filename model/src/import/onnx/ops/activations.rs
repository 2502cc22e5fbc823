//! Activation functions.

use tract_onnx::{
    prelude::{DatumType, OutletId, TractResult},
    tract_hir::internal::tract_core::ops::{
        math,
        nn::{self, Reducer},
    },
};

use crate::import::onnx::{
    library,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] =
    &[("Celu", celu), ("Softmax", softmax), ("Swish", swish), ("SwiGLU", swiglu)];

/// `max(0, x) + min(0, alpha * (exp(x / alpha) - 1))`.
fn celu(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let dtype = w.dtype(x);
    let alpha = f64::from(w.node.get_attr_opt::<f32>("alpha")?.unwrap_or(1.0));
    let (zero, one, alpha) =
        (w.scalar(dtype, 0.0)?, w.scalar(dtype, 1.0)?, w.scalar(dtype, alpha)?);
    let above = w.max(x, zero)?;
    let scaled = w.div(x, alpha)?;
    let power = w.unary(math::exp(), scaled)?;
    let power = w.sub(power, one)?;
    let power = w.mul(alpha, power)?;
    let below = w.min(power, zero)?;
    Ok(vec![w.add(above, below)?])
}

/// `exp(x) / sum(exp(x))`. Half floats are rounded at each step, as numpy does and as hardware that computes with them would.
fn softmax(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    w.rounds_steps = w.walk.bf16.contains(&x);
    if w.dtype(x) == DatumType::F32 && !w.rounds_steps {
        return library::wire(w.walk, w.node, w.inputs, &w.name, w.opset);
    }
    let axis = w.node.get_attr_opt::<i64>("axis")?.unwrap_or(if w.opset < 13 { 1 } else { -1 });
    let axis = w.axis(axis, w.rank(x))?;
    // Before version 13 the dimensions from the axis on were one.
    let axes: Vec<usize> = if w.opset < 13 { (axis..w.rank(x)).collect() } else { vec![axis] };
    let largest = w.reduce(Reducer::Max, x, &axes, true)?;
    let below = w.sub(x, largest)?;
    let power = w.unary(math::exp(), below)?;
    let sum = w.reduce(Reducer::Sum, power, &axes, true)?;
    Ok(vec![w.div(power, sum)?])
}

fn swish(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    Ok(vec![swished(w, x)?])
}

/// The swish of a gate times the other operand.
fn swiglu(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (gate, value) = (w.input(0)?, w.input(1)?);
    let gate = swished(w, gate)?;
    Ok(vec![w.mul(gate, value)?])
}

/// `x * sigmoid(alpha * x)`.
fn swished(w: &mut Wiring<'_, '_>, x: OutletId) -> TractResult<OutletId> {
    let alpha = w.node.get_attr_opt::<f32>("alpha")?.unwrap_or(1.0);
    let inner = if alpha == 1.0 {
        x
    } else {
        let alpha = w.scalar(w.dtype(x), f64::from(alpha))?;
        w.mul(alpha, x)?
    };
    let weight = w.unary(nn::sigmoid(), inner)?;
    w.mul(x, weight)
}
