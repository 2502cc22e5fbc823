//! Products and convolutions of quantized integers, computed in 32 bits.

use anyhow::{Result, bail};
use flotilla_program::{Unary, dim::Dim};
use flotilla_tensor::DType;

use super::convolution::convolution;
use crate::import::onnx::{
    facts::Var,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("MatMulInteger", matmul_integer),
    ("QLinearMatMul", qlinear_matmul),
    ("ConvInteger", conv_integer),
    ("QLinearConv", qlinear_conv),
];

/// `[n]` as `[n, 1]` for the rows of a matrix.
fn per_row(w: &mut Wiring<'_, '_>, x: Var) -> Result<Var> {
    match w.rank(x) {
        1 => w.unsqueeze(x, 1),
        _ => Ok(x),
    }
}

/// `[m]` as `[m, 1, ..]` against a value of this rank whose channels are at `axis`.
fn per_channel(w: &mut Wiring<'_, '_>, x: Var, axis: usize, rank: usize) -> Result<Var> {
    if w.rank(x) != 1 {
        return Ok(x);
    }
    let mut shape: Vec<Dim> = vec![Dim::Fixed(1); rank];
    shape[axis] = w.shape(x)[0].clone();
    w.reshape(x, &shape)
}

/// `x - zero` in 32 bits.
fn centred(w: &mut Wiring<'_, '_>, x: Var, zero: Option<Var>) -> Result<Var> {
    let x = w.cast(x, DType::I32)?;
    match zero {
        Some(zero) => {
            let zero = w.cast(zero, DType::I32)?;
            w.sub(x, zero)
        }
        None => Ok(x),
    }
}

/// A zero point for each row of the first matrix, or one for all.
fn row_zero(w: &mut Wiring<'_, '_>, index: usize) -> Result<Option<Var>> {
    w.optional(index).map(|zero| per_row(w, zero)).transpose()
}

fn matmul_integer(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (a, b) = (w.input(0)?, w.input(1)?);
    let (a_zero, b_zero) = (row_zero(w, 2)?, w.optional(3));
    let (a, b) = (centred(w, a, a_zero)?, centred(w, b, b_zero)?);
    Ok(vec![w.matmul(a, b)?])
}

fn conv_integer(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, weights) = (w.input(0)?, w.input(1)?);
    let x_zero = w.optional(2);
    let weights_zero = channel_zero(w, 3, weights)?;
    let (x, weights) = (centred(w, x, x_zero)?, centred(w, weights, weights_zero)?);
    Ok(vec![convolution(w, x, weights, None)?])
}

/// A zero point for each output channel of weights, or one for all.
fn channel_zero(w: &mut Wiring<'_, '_>, index: usize, weights: Var) -> Result<Option<Var>> {
    let rank = w.rank(weights);
    w.optional(index).map(|zero| per_channel(w, zero, 0, rank)).transpose()
}

fn qlinear_matmul(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (a, b) = (w.input(0)?, w.input(3)?);
    let (a_zero, b_zero) = (row_zero(w, 2)?, w.optional(5));
    let (a, b) = (centred(w, a, a_zero)?, centred(w, b, b_zero)?);
    let product = w.matmul(a, b)?;
    let (a_scale, b_scale, y_scale, y_zero) = (w.input(1)?, w.input(4)?, w.input(6)?, w.input(7)?);
    let a_scale = per_row(w, a_scale)?;
    let y_scale = per_row(w, y_scale)?;
    let zero = per_row(w, y_zero)?;
    let target = w.dtype(y_zero);
    let scale = joint_scale(w, a_scale, b_scale, y_scale)?;
    Ok(vec![requantized(w, product, scale, zero, target)?])
}

fn qlinear_conv(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, weights, bias) = (w.input(0)?, w.input(3)?, w.optional(8));
    let x_zero = w.optional(2);
    let weights_zero = channel_zero(w, 5, weights)?;
    let (x, centred_weights) = (centred(w, x, x_zero)?, centred(w, weights, weights_zero)?);
    let sums = convolution(w, x, centred_weights, bias)?;
    let (x_scale, w_scale, y_scale, y_zero) = (w.input(1)?, w.input(4)?, w.input(6)?, w.input(7)?);
    let w_scale = per_channel(w, w_scale, 1, w.rank(sums))?;
    let target = w.dtype(y_zero);
    let scale = joint_scale(w, x_scale, w_scale, y_scale)?;
    Ok(vec![requantized(w, sums, scale, y_zero, target)?])
}

/// `a * b / y` in 32 bits.
fn joint_scale(w: &mut Wiring<'_, '_>, a: Var, b: Var, y: Var) -> Result<Var> {
    let (a, b, y) = (w.cast(a, DType::F32)?, w.cast(b, DType::F32)?, w.cast(y, DType::F32)?);
    let product = w.mul(a, b)?;
    w.div(product, y)
}

/// `sums * scale + zero`, rounded to even and saturated to the target's range. Source: ONNX operators, "QuantizeLinear".
fn requantized(
    w: &mut Wiring<'_, '_>,
    sums: Var,
    scale: Var,
    zero: Var,
    target: DType,
) -> Result<Var> {
    let (low, high) = match target {
        DType::U8 => (0.0, 255.0),
        DType::I8 => (-128.0, 127.0),
        DType::U16 => (0.0, 65535.0),
        DType::I16 => (-32768.0, 32767.0),
        other => bail!("results of type {other:?}"),
    };
    let sums = w.cast(sums, DType::F32)?;
    let scaled = w.mul(sums, scale)?;
    let rounded = w.unary(Unary::Round, scaled)?;
    let zero = w.cast(zero, DType::F32)?;
    let shifted = w.add(rounded, zero)?;
    let (low, high) = (w.scalar(DType::F32, low), w.scalar(DType::F32, high));
    let above = w.max(shifted, low)?;
    let inside = w.min(above, high)?;
    let whole = w.cast(inside, DType::I32)?;
    w.cast(whole, target)
}
