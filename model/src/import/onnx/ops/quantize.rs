//! Conversion between numbers and quantized integers: `x = (q - zero_point) * scale`.

use anyhow::{Result, bail};
use flotilla_program::{Binary, Op, Quantized, ReduceKind, Unary, dim::Dim};
use flotilla_tensor::DType;

use crate::import::onnx::{
    constant::element_type,
    facts::Var,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("DequantizeLinear", dequantize),
    ("DynamicQuantizeLinear", quantize_dynamic),
    ("QuantizeLinear", quantize),
];

/// `saturate(round(x / scale) + zero_point)`, halves rounded to even.
fn quantize(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, scale) = (w.input(0)?, w.input(1)?);
    let to = match (w.optional(2), output_type(w)?) {
        (Some(zero), _) => w.dtype(zero),
        (None, Some(to)) => to,
        (None, None) => DType::U8,
    };
    let scale = spread(w, x, scale)?;
    let zero = match w.optional(2) {
        Some(zero) => Some(spread(w, x, zero)?),
        None => None,
    };
    let x = if w.dtype(x).is_float() { x } else { w.cast(x, DType::F32)? };
    let scaled = w.binary(Binary::Div, x, scale)?;
    let scaled = w.cast(scaled, DType::F32)?;
    Ok(vec![saturated(w, scaled, zero, to)?])
}

/// `(q - zero_point) * scale`.
fn dequantize(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, scale) = (w.input(0)?, w.input(1)?);
    let to = output_type(w)?.unwrap_or(w.dtype(scale));
    if w.constant(x).is_some() && w.dtype(x).is_integer() && w.rank(x) > 0 {
        let result = dequantized_constant(w, x, scale)?;
        return Ok(vec![w.cast(result, to)?]);
    }
    let mut number = w.cast(x, DType::I32)?;
    if let Some(zero) = w.optional(2) {
        let zero = spread(w, x, zero)?;
        let zero = w.cast(zero, DType::I32)?;
        number = w.sub(number, zero)?;
    }
    let scale = spread(w, x, scale)?;
    let (number, scale) = (w.cast(number, DType::F32)?, w.cast(scale, DType::F32)?);
    let result = w.mul(number, scale)?;
    Ok(vec![w.cast(result, to)?])
}

/// The numbers of a constant's integers, which stay as narrow as they are.
fn dequantized_constant(w: &mut Wiring<'_, '_>, x: Var, scale: Var) -> Result<Var> {
    let (shape, rank) = (w.shape(x), w.rank(x));
    let one = Dim::Fixed(1);
    let axis = w.axis(w.int("axis")?.unwrap_or(1), rank.max(2))?.min(rank - 1);
    let block = w.int("block_size")?.unwrap_or(0);
    // Scales and zero points get as many dimensions as the integers.
    let placed = |w: &mut Wiring<'_, '_>, parameter: Var| -> Result<Var> {
        let own = w.shape(parameter);
        if own.iter().all(|dim| *dim == one) {
            return w.reshape(parameter, &vec![one.clone(); rank]);
        }
        if block > 0 && own.len() == rank {
            return Ok(parameter);
        }
        let ([positions], 0) = (own.as_slice(), block) else {
            bail!(
                "a scale or zero point of shape {} does not fit blocks of {block}",
                w.walk.shape_text(&own)
            );
        };
        let mut along = vec![one.clone(); rank];
        along[axis] = positions.clone();
        w.same("the number of scales and the dimension", positions, &shape[axis])?;
        w.reshape(parameter, &along)
    };
    let scale = w.cast(scale, DType::F32)?;
    let mut operands = vec![x, placed(w, scale)?];
    let zero = w.optional(2);
    if let Some(zero) = zero {
        operands.push(placed(w, zero)?);
    }
    let quantized = Quantized {
        bits: 8,
        signed: false,
        axis: axis as u32,
        block: u32::try_from(block.max(1))?,
        zeros: zero.is_some(),
        levels: None,
    };
    w.op(Op::Dequantize(quantized), &operands, DType::F32, shape)
}

/// Quantized to `U8` with the scale and zero point for the range of the numbers and zero.
fn quantize_dynamic(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let axes: Vec<usize> = (0..w.rank(x)).collect();
    let zero = w.scalar(DType::F32, 0.0);
    let low = w.reduce(ReduceKind::Min, x, &axes, false)?;
    let low = w.min(low, zero)?;
    let high = w.reduce(ReduceKind::Max, x, &axes, false)?;
    let high = w.max(high, zero)?;
    let steps = w.scalar(DType::F32, f64::from(u8::MAX));
    let span = w.sub(high, low)?;
    let scale = w.binary(Binary::Div, span, steps)?;
    // If all numbers are zero, any scale is valid; this one can be divided by, and onnxruntime gives it, too.
    let one = w.scalar(DType::F32, 1.0);
    let nothing = w.binary(Binary::Eq, scale, zero)?;
    let divisor = w.select(nothing, one, scale)?;
    let offset = w.sub(zero, low)?;
    let offset = w.binary(Binary::Div, offset, divisor)?;
    let zero_point = saturated(w, offset, None, DType::U8)?;
    let scaled = w.binary(Binary::Div, x, divisor)?;
    let y = saturated(w, scaled, Some(zero_point), DType::U8)?;
    Ok(vec![y, divisor, zero_point])
}

/// Rounded, shifted by the zero point and kept within an integer type.
fn saturated(w: &mut Wiring<'_, '_>, x: Var, zero: Option<Var>, to: DType) -> Result<Var> {
    let (low, high) = match to {
        DType::U8 => (f64::from(u8::MIN), f64::from(u8::MAX)),
        DType::I8 => (f64::from(i8::MIN), f64::from(i8::MAX)),
        DType::U16 => (f64::from(u16::MIN), f64::from(u16::MAX)),
        DType::I16 => (f64::from(i16::MIN), f64::from(i16::MAX)),
        other => bail!("numbers cannot be quantized to {other:?}"),
    };
    let mut result = w.unary(Unary::Round, x)?;
    if let Some(zero) = zero {
        let zero = w.cast(zero, DType::F32)?;
        result = w.add(result, zero)?;
    }
    let (low, high) = (w.scalar(DType::F32, low), w.scalar(DType::F32, high));
    let result = w.max(result, low)?;
    let result = w.min(result, high)?;
    w.cast(result, to)
}

/// The type in the attribute `output_dtype`.
fn output_type(w: &Wiring<'_, '_>) -> Result<Option<DType>> {
    match w.int("output_dtype")?.unwrap_or(0) {
        0 => Ok(None),
        number => match element_type(i32::try_from(number)?) {
            Some(dtype) => Ok(Some(dtype)),
            None => bail!("elements of type {number} are not supported"),
        },
    }
}

/// A scale or zero point in a shape that broadcasts to that of `x`: one for all, one for each position on an axis, or one
/// for each block of an axis.
fn spread(w: &mut Wiring<'_, '_>, x: Var, parameter: Var) -> Result<Var> {
    let (rank, shape) = (w.rank(x), w.shape(parameter));
    let one = Dim::Fixed(1);
    if shape.iter().all(|dim| *dim == one) {
        return w.reshape(parameter, &[]);
    }
    let axis = w.axis(w.int("axis")?.unwrap_or(1), rank)?;
    let block = w.int("block_size")?.unwrap_or(0);
    if let [positions] = shape.as_slice()
        && block == 0
    {
        let mut along: Vec<Dim> = vec![one; rank];
        along[axis] = positions.clone();
        return w.reshape(parameter, &along);
    }
    if shape.len() != rank || block <= 0 {
        bail!(
            "a scale or zero point of shape {} does not fit blocks of {block}",
            w.walk.shape_text(&shape)
        );
    }
    let repeated = w.unsqueeze(parameter, axis + 1)?;
    let mut blocks = shape.clone();
    blocks.insert(axis + 1, Dim::Fixed(block));
    let repeated = w.broadcast_to(repeated, &blocks)?;
    let mut joined = shape;
    joined[axis] = &joined[axis] * block;
    let repeated = w.reshape(repeated, &joined)?;
    // The last block may be cut short.
    let end = w.shape(x)[axis].clone();
    if joined[axis] == end { Ok(repeated) } else { w.slice(repeated, axis, 0, end) }
}
