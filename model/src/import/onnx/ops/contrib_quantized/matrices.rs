//! Products of quantized matrices and convolutions, with floats or quantized integers as results.

use anyhow::{Result, bail, ensure};
use flotilla_program::dim::Dim;
use flotilla_tensor::DType;

use super::{
    check_bytes,
    pool::{channels_first, channels_last},
    single_scale, single_zero,
};
use crate::import::onnx::{
    contract::Labelled,
    facts::Var,
    ops::{
        quantize::{Dynamic, check_result_scale, check_zero_type, dynamic},
        quantized::{centred, convolved, requantized},
    },
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("DynamicQuantizeMatMul", dynamic_quantize_matmul),
    ("MatMulInteger16", matmul_integer16),
    ("MatMulIntegerToFloat", matmul_integer_to_float),
    ("QGemm", gemm),
    ("QLinearConv", conv),
];

/// A scale or zero point of one element, of one for each column, or of one for each column of each matrix, so that it
/// broadcasts to a product.
fn per_column(
    w: &mut Wiring<'_, '_>,
    index: usize,
    columns: &Dim,
    what: &str,
) -> Result<Option<Var>> {
    let Some(var) = w.optional(index) else { return Ok(None) };
    let shape = w.shape(var);
    if shape.iter().all(|dim| *dim == Dim::Fixed(1)) {
        return w.reshape(var, &[]).map(Some);
    }
    let text = w.walk.shape_text(&shape);
    match shape.as_slice() {
        [own] | [.., Dim::Fixed(1), own] => {
            w.same(&format!("the elements of {what} and the columns"), own, columns)?;
        }
        _ => bail!("{what} has the shape {text}, one element or one for each column is needed"),
    }
    Ok(Some(var))
}

/// The scale and the zero point of the right operand at these places.
fn of_columns(
    w: &mut Wiring<'_, '_>,
    b: Var,
    columns: &Dim,
    [scale, zero]: [usize; 2],
) -> Result<(Var, Option<Var>)> {
    check_bytes(w, b, "the right operand")?;
    w.input(scale)?;
    let Some(scales) = per_column(w, scale, columns, "its scale")? else {
        bail!("operand {scale} is missing")
    };
    ensure!(w.dtype(scales).is_float(), "a scale of type {:?}", w.dtype(scales));
    let scales = w.cast(scales, DType::F32)?;
    let zeros = per_column(w, zero, columns, "its zero point")?;
    if let Some(zeros) = zeros {
        check_zero_type(w, b, zeros)?;
    }
    Ok((scales, zeros))
}

/// The columns of a right operand.
fn columns(w: &Wiring<'_, '_>, b: Var) -> Result<Dim> {
    match w.shape(b).as_slice() {
        [.., _, columns] => Ok(columns.clone()),
        shape => bail!("a right operand of {} dimensions", shape.len()),
    }
}

/// `a @ b` of floats, where `a` is quantized with the scale for its range. Source: onnxruntime, "DynamicQuantizeMatMul".
fn dynamic_quantize_matmul(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (a, b, bias) = (w.input(0)?, w.input(1)?, w.optional(4));
    let dtype = w.dtype(a);
    let columns = columns(w, b)?;
    let (b_scale, b_zero) = of_columns(w, b, &columns, [2, 3])?;
    let Dynamic { q, scale, zero } = dynamic(w, a)?;
    let (a, b) = (centred(w, q, Some(zero))?, centred(w, b, b_zero)?);
    let sums = w.matmul(a, b)?;
    Ok(vec![scaled(w, sums, [scale, b_scale], bias, dtype)?])
}

/// `sums * a * b + bias`, where the bias has one element for each column.
pub(super) fn scaled(
    w: &mut Wiring<'_, '_>,
    sums: Var,
    [a, b]: [Var; 2],
    bias: Option<Var>,
    dtype: DType,
) -> Result<Var> {
    let sums = w.cast(sums, DType::F32)?;
    let scale = w.mul(a, b)?;
    let mut result = w.mul(sums, scale)?;
    if let Some(bias) = bias {
        let (of_bias, of_sums) = (w.shape(bias), w.shape(result));
        let ([own], Some(columns)) = (of_bias.as_slice(), of_sums.last()) else {
            bail!("a bias of shape {}", w.walk.shape_text(&of_bias))
        };
        w.same("the elements of the bias and the columns", own, columns)?;
        let bias = w.cast(bias, DType::F32)?;
        result = w.add(result, bias)?;
    }
    w.cast(result, dtype)
}

fn matmul_integer_to_float(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (a, b, bias) = (w.input(0)?, w.input(1)?, w.optional(6));
    check_bytes(w, a, "the left operand")?;
    let dtype = w.dtype(w.input(2)?);
    let a_scale = single_scale(w, 2, "the scale of the left operand")?;
    let a_zero = single_zero(w, 4, "the zero point of the left operand", a)?;
    let columns = columns(w, b)?;
    let (b_scale, b_zero) = of_columns(w, b, &columns, [3, 5])?;
    let (a, b) = (centred(w, a, a_zero)?, centred(w, b, b_zero)?);
    let sums = w.matmul(a, b)?;
    Ok(vec![scaled(w, sums, [a_scale, b_scale], bias, dtype)?])
}

/// Sums in 32 bits; the schema says that they may overflow only there.
fn matmul_integer16(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (a, b) = (w.input(0)?, w.input(1)?);
    for operand in [a, b] {
        let dtype = w.dtype(operand);
        ensure!(matches!(dtype, DType::I16 | DType::U16), "an operand of type {dtype:?}");
    }
    let unsigned = w.dtype(a) == DType::U16 && w.dtype(b) == DType::U16;
    let sums = if unsigned { DType::U32 } else { DType::I32 };
    let (a, b) = (w.cast(a, sums)?, w.cast(b, sums)?);
    Ok(vec![w.matmul(a, b)?])
}

/// `alpha * a @ b + c`, where `c` has the scale of the product.
fn gemm(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (a, b) = (w.input(0)?, w.input(3)?);
    check_bytes(w, a, "the left operand")?;
    ensure!(w.rank(a) == 2 && w.rank(b) == 2, "its operands are not matrices");
    let (left, right) = (w.flag("transA")?, w.flag("transB")?);
    let a_scale = single_scale(w, 1, "the scale of the left operand")?;
    let a_zero = single_zero(w, 2, "the zero point of the left operand", a)?;
    let columns = w.dim(b, usize::from(!right));
    let (b_scale, b_zero) = of_columns(w, b, &columns, [4, 5])?;
    let b_zero = match b_zero {
        // Along the rows of a transposed operand.
        Some(zero) if right && w.rank(zero) == 1 => Some(w.unsqueeze(zero, 1)?),
        zero => zero,
    };
    let (a, b) = (centred(w, a, a_zero)?, centred(w, b, b_zero)?);
    let a = Labelled { var: a, labels: if left { vec!['k', 'm'] } else { vec!['m', 'k'] } };
    let b = Labelled { var: b, labels: if right { vec!['n', 'k'] } else { vec!['k', 'n'] } };
    let mut sums = w.contract(a, b, &['m', 'n'])?;
    if let Some(addend) = w.optional(6) {
        ensure!(w.dtype(addend) == DType::I32, "an addend of type {:?}", w.dtype(addend));
        let shape = w.shape(sums);
        sums = w.add(sums, addend)?;
        ensure!(
            w.shape(sums) == shape,
            "an addend of shape {} for a product of shape {}",
            w.walk.shape_text(&w.shape(addend)),
            w.walk.shape_text(&shape)
        );
    }
    let alpha = w.float("alpha")?.unwrap_or(1.0);
    let alpha = w.scalar(DType::F32, f64::from(alpha));
    let a_scale = w.mul(alpha, a_scale)?;
    if w.optional(7).is_none() {
        ensure!(w.optional(8).is_none(), "the result has a zero point and no scale");
        return Ok(vec![scaled(w, sums, [a_scale, b_scale], None, DType::F32)?]);
    }
    let y_scale = single_scale(w, 7, "the scale of the result")?;
    check_result_scale(w, y_scale)?;
    let zero = w.input(8)?;
    check_bytes(w, zero, "the zero point of the result")?;
    let zero = super::single(w, 8, "the zero point of the result")?;
    let scale = w.mul(a_scale, b_scale)?;
    let scale = w.div(scale, y_scale)?;
    Ok(vec![requantized(w, sums, scale, zero)?])
}

/// The standard's operator, also with the channels behind the spatial dimensions; the weights are in its order always.
fn conv(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    if !w.flag("channels_last")? {
        return Ok(vec![convolved(w, x)?]);
    }
    let x = channels_first(w, x)?;
    let y = convolved(w, x)?;
    Ok(vec![channels_last(w, y)?])
}
