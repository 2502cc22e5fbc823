//! Products and convolutions of quantized integers, computed in floats where these are as exact, else in integers of 32 bits.

use anyhow::{Result, bail, ensure};
use flotilla_program::dim::Dim;
use flotilla_tensor::DType;

use super::{
    convolution::convolution,
    dequantize::dequantized,
    quantize::{Quantized, check_result_scale, check_zero_type, saturated},
};
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

/// A parameter of a left operand: one element for all, or one for each row: `[m]` becomes `[m, 1]`.
fn per_row(w: &mut Wiring<'_, '_>, var: Var) -> Result<Var> {
    match w.shape(var).as_slice() {
        shape if is_single(shape) => w.reshape(var, &[]),
        [_] => w.unsqueeze(var, 1),
        _ => Ok(var),
    }
}

/// A parameter of a right operand: one element for all, or one for each column.
fn per_column(w: &mut Wiring<'_, '_>, var: Var) -> Result<Var> {
    match w.shape(var).as_slice() {
        shape if is_single(shape) => w.reshape(var, &[]),
        _ => Ok(var),
    }
}

/// A parameter with one element for all, or one for each channel, which are at `axis` of a value of this rank.
fn per_channel(w: &mut Wiring<'_, '_>, var: Var, axis: usize, rank: usize) -> Result<Var> {
    let shape = w.shape(var);
    match shape.as_slice() {
        shape if is_single(shape) => w.reshape(var, &[]),
        [channels] => {
            let mut along: Vec<Dim> = vec![Dim::Fixed(1); rank];
            along[axis] = channels.clone();
            w.reshape(var, &along)
        }
        _ => bail!("a parameter of the weights has the shape {}", w.walk.shape_text(&shape)),
    }
}

fn is_single(shape: &[Dim]) -> bool {
    shape.iter().all(|dim| *dim == Dim::Fixed(1))
}

/// A parameter of one element.
fn single(w: &mut Wiring<'_, '_>, index: usize, what: &str) -> Result<Var> {
    let var = w.input(index)?;
    let shape = w.shape(var);
    ensure!(
        is_single(&shape),
        "{what} has the shape {}, one element is needed",
        w.walk.shape_text(&shape)
    );
    w.reshape(var, &[])
}

/// A zero point of the type of `x`.
fn zero_of(w: &Wiring<'_, '_>, index: usize, x: Var) -> Result<Option<Var>> {
    let zero = w.optional(index);
    if let Some(zero) = zero {
        check_zero_type(w, x, zero)?;
    }
    Ok(zero)
}

/// `x - zero` in 32 bits.
pub(super) fn centred(w: &mut Wiring<'_, '_>, x: Var, zero: Option<Var>) -> Result<Var> {
    let dtype = w.dtype(x);
    ensure!(
        matches!(dtype, DType::U8 | DType::I8),
        "quantized numbers of type {dtype:?}, U8 or I8 is needed"
    );
    let x = w.cast(x, DType::I32)?;
    match zero {
        Some(zero) => {
            let zero = w.cast(zero, DType::I32)?;
            w.sub(x, zero)
        }
        None => Ok(x),
    }
}

/// The same in floats, which hold it exactly.
fn centred_floats(w: &mut Wiring<'_, '_>, x: Var, zero: Option<Var>) -> Result<Var> {
    let centred = centred(w, x, zero)?;
    w.cast(centred, DType::F32)
}

/// Products of two differences of bytes whose sum is always exact in `F32`: 255 * 255 * 258 is below 2^24.
const EXACT_PRODUCTS_MAX: i64 = 258;

/// Whether sums of `count` products may be computed as `F32`, which is several times faster than in integers: they are exact, or
/// become floats anyway, so that they are rounded as one float is.
fn fits_floats(w: &Wiring<'_, '_>, count: &Dim, becomes_float: bool) -> bool {
    let is_short = count.as_fixed().is_some_and(|count| count <= EXACT_PRODUCTS_MAX);
    is_short || becomes_float || w.becomes_float(0)
}

/// The product of the differences to the zero points at these places: as `F32` if it becomes a float, else as integers.
fn sums_of_products(
    w: &mut Wiring<'_, '_>,
    (a, a_zero): (Var, usize),
    (b, b_zero): (Var, usize),
    becomes_float: bool,
) -> Result<Var> {
    let a_zero = zero_of(w, a_zero, a)?.map(|zero| per_row(w, zero)).transpose()?;
    let b_zero = zero_of(w, b_zero, b)?.map(|zero| per_column(w, zero)).transpose()?;
    let inner = w.shape(a).last().cloned().unwrap_or(Dim::Fixed(1));
    if !fits_floats(w, &inner, becomes_float) {
        let (a, b) = (centred(w, a, a_zero)?, centred(w, b, b_zero)?);
        return w.matmul(a, b);
    }
    let a = centred_floats(w, a, a_zero)?;
    let is_bytes = matches!(w.dtype(b), DType::U8 | DType::I8);
    let b = if w.constant(b).is_some() && w.rank(b) == 2 && is_bytes {
        // The product reads the bytes themselves.
        let one = w.scalar(DType::F32, 1.0);
        let b_zero = b_zero
            .map(|zero| if w.rank(zero) == 1 { w.unsqueeze(zero, 0) } else { Ok(zero) })
            .transpose()?;
        let scale = match b_zero {
            Some(zero) => {
                let like = w.shape(zero);
                w.broadcast_to(one, &like)?
            }
            None => one,
        };
        dequantized(w, b, scale, b_zero, 1, 1)?
    } else {
        centred_floats(w, b, b_zero)?
    };
    w.matmul(a, b)
}

fn matmul_integer(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (a, b) = (w.input(0)?, w.input(1)?);
    let sums = sums_of_products(w, (a, 2), (b, 3), false)?;
    Ok(vec![w.cast(sums, DType::I32)?])
}

fn qlinear_matmul(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (a, b) = (w.input(0)?, w.input(3)?);
    let sums = sums_of_products(w, (a, 2), (b, 5), true)?;
    let (a_scale, b_scale, y_scale, y_zero) = (w.input(1)?, w.input(4)?, w.input(6)?, w.input(7)?);
    let a_scale = per_row(w, a_scale)?;
    let b_scale = per_column(w, b_scale)?;
    let y_scale = per_row(w, y_scale)?;
    let zero = per_row(w, y_zero)?;
    let scale = joint_scale(w, a_scale, b_scale, y_scale)?;
    Ok(vec![requantized(w, sums, scale, zero)?])
}

/// Sums of the windows of `x`, whose zero point is at `x_zero`, times weights with a zero point for each output channel.
fn sums_of_windows(
    w: &mut Wiring<'_, '_>,
    (x, x_zero): (Var, Option<Var>),
    (weights, weights_zero): (Var, usize),
    bias: Option<Var>,
    becomes_float: bool,
) -> Result<Var> {
    let rank = w.rank(weights);
    let zero = zero_of(w, weights_zero, weights)?;
    let zero = zero.map(|zero| per_channel(w, zero, 0, rank)).transpose()?;
    let count: Dim = w.shape(weights).get(1..).unwrap_or_default().iter().product();
    if !fits_floats(w, &count, becomes_float) {
        let (x, weights) = (centred(w, x, x_zero)?, centred(w, weights, zero)?);
        return convolution(w, x, weights, bias);
    }
    let (x, weights) = (centred_floats(w, x, x_zero)?, centred_floats(w, weights, zero)?);
    let bias = bias.map(|bias| w.cast(bias, DType::F32)).transpose()?;
    convolution(w, x, weights, bias)
}

fn conv_integer(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, weights) = (w.input(0)?, w.input(1)?);
    let zero = match zero_of(w, 2, x)? {
        Some(_) => Some(single(w, 2, "the zero point of the input")?),
        None => None,
    };
    let sums = sums_of_windows(w, (x, zero), (weights, 3), None, false)?;
    Ok(vec![w.cast(sums, DType::I32)?])
}

fn qlinear_conv(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    Ok(vec![convolved(w, x)?])
}

/// The quantized convolution of a node, of an input whose channels are in front of the spatial dimensions.
pub(super) fn convolved(w: &mut Wiring<'_, '_>, x: Var) -> Result<Var> {
    let (weights, bias) = (w.input(3)?, w.optional(8));
    let bias_type = bias.map(|bias| w.dtype(bias));
    ensure!(
        bias_type.is_none_or(|dtype| dtype == DType::I32),
        "a bias of type {bias_type:?}, I32 is needed"
    );
    w.input(2)?;
    zero_of(w, 2, x)?;
    let x_zero = single(w, 2, "the zero point of the input")?;
    let x_scale = single(w, 1, "the scale of the input")?;
    let sums = sums_of_windows(w, (x, Some(x_zero)), (weights, 5), bias, true)?;
    let w_scale = w.input(4)?;
    let w_scale = per_channel(w, w_scale, 1, w.rank(sums))?;
    let y_scale = single(w, 6, "the scale of the result")?;
    let y_zero = single(w, 7, "the zero point of the result")?;
    let scale = joint_scale(w, x_scale, w_scale, y_scale)?;
    requantized(w, sums, scale, y_zero)
}

/// `a * b / y` in 32 bits.
fn joint_scale(w: &mut Wiring<'_, '_>, a: Var, b: Var, y: Var) -> Result<Var> {
    for scale in [a, b, y] {
        ensure!(w.dtype(scale).is_float(), "a scale of type {:?}", w.dtype(scale));
    }
    check_result_scale(w, y)?;
    let (a, b, y) = (w.cast(a, DType::F32)?, w.cast(b, DType::F32)?, w.cast(y, DType::F32)?);
    let product = w.mul(a, b)?;
    w.div(product, y)
}

/// `sums * scale + zero`, rounded to even and saturated to the range of the zero point's type.
/// Source: ONNX operators, "QuantizeLinear".
pub(super) fn requantized(w: &mut Wiring<'_, '_>, sums: Var, scale: Var, zero: Var) -> Result<Var> {
    let to = Quantized::of(w, zero);
    let sums = w.cast(sums, DType::F32)?;
    let scaled = w.mul(sums, scale)?;
    saturated(w, scaled, Some(zero), to)
}
