//! Between numbers and integers that stand for them: `x = (q - zero_point) * scale`.

use tract_onnx::{
    pb::tensor_proto::DataType,
    prelude::{DatumType, OutletId, TDim, TractResult},
    tract_hir::internal::{
        ToDim, bail,
        tract_core::ops::{logic, math, nn::Reducer},
    },
};

use crate::import::onnx::{
    quotient::Quotient,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("DequantizeLinear", dequantize),
    ("DynamicQuantizeLinear", quantize_dynamic),
    ("QuantizeLinear", quantize),
];

/// `saturate(round(x / scale) + zero_point)`, halves rounded to even.
fn quantize(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (x, scale) = (w.input(0)?, w.input(1)?);
    let to = match (w.optional(2), output_type(w)?) {
        (Some(zero), _) => w.dtype(zero),
        (None, Some(to)) => to,
        (None, None) => DatumType::U8,
    };
    let scale = spread(w, x, scale)?;
    let zero = match w.optional(2) {
        Some(zero) => Some(spread(w, x, zero)?),
        None => None,
    };
    let x = if w.dtype(x).is_float() { x } else { w.cast(x, DatumType::F32)? };
    let scaled = w.binary(Quotient, x, scale)?;
    let scaled = w.cast(scaled, DatumType::F32)?;
    Ok(vec![saturated(w, scaled, zero, to)?])
}

/// `(q - zero_point) * scale`.
fn dequantize(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (x, scale) = (w.input(0)?, w.input(1)?);
    let to = output_type(w)?.unwrap_or(w.dtype(scale));
    let mut number = w.cast(x, DatumType::I32)?;
    if let Some(zero) = w.optional(2) {
        let zero = spread(w, x, zero)?;
        let zero = w.cast(zero, DatumType::I32)?;
        number = w.sub(number, zero)?;
    }
    let scale = spread(w, x, scale)?;
    let (number, scale) = (w.cast(number, DatumType::F32)?, w.cast(scale, DatumType::F32)?);
    let result = w.mul(number, scale)?;
    Ok(vec![w.cast(result, to)?])
}

/// Quantized to `U8` with the scale and zero point that span the numbers and zero.
fn quantize_dynamic(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let axes: Vec<usize> = (0..w.rank(x)).collect();
    let zero = w.scalar(DatumType::F32, 0.0)?;
    let low = w.reduce(Reducer::Min, x, &axes, false)?;
    let low = w.min(low, zero)?;
    let high = w.reduce(Reducer::Max, x, &axes, false)?;
    let high = w.max(high, zero)?;
    let steps = w.scalar(DatumType::F32, f64::from(u8::MAX))?;
    let span = w.sub(high, low)?;
    let scale = w.binary(Quotient, span, steps)?;
    // Zeros alone have any scale; this one divides.
    let one = w.scalar(DatumType::F32, 1.0)?;
    let nothing = w.binary(logic::CompEq, scale, zero)?;
    let divisor = w.select(nothing, one, scale)?;
    let offset = w.sub(zero, low)?;
    let offset = w.binary(Quotient, offset, divisor)?;
    let zero_point = saturated(w, offset, None, DatumType::U8)?;
    let scaled = w.binary(Quotient, x, divisor)?;
    let y = saturated(w, scaled, Some(zero_point), DatumType::U8)?;
    Ok(vec![y, scale, zero_point])
}

/// Rounded, moved by the zero point and kept within an integer type.
fn saturated(
    w: &mut Wiring<'_, '_>,
    x: OutletId,
    zero: Option<OutletId>,
    to: DatumType,
) -> TractResult<OutletId> {
    let (low, high) = match to {
        DatumType::U8 => (f64::from(u8::MIN), f64::from(u8::MAX)),
        DatumType::I8 => (f64::from(i8::MIN), f64::from(i8::MAX)),
        DatumType::U16 => (f64::from(u16::MIN), f64::from(u16::MAX)),
        DatumType::I16 => (f64::from(i16::MIN), f64::from(i16::MAX)),
        other => bail!("numbers cannot be quantized to {other:?}"),
    };
    let mut result = w.unary(math::round_half_to_even(), x)?;
    if let Some(zero) = zero {
        let zero = w.cast(zero, DatumType::F32)?;
        result = w.add(result, zero)?;
    }
    let (low, high) = (w.scalar(DatumType::F32, low)?, w.scalar(DatumType::F32, high)?);
    let result = w.max(result, low)?;
    let result = w.min(result, high)?;
    w.cast(result, to)
}

/// The type that the attribute `output_dtype` asks for.
fn output_type(w: &Wiring<'_, '_>) -> TractResult<Option<DatumType>> {
    match w.node.get_attr_opt::<i32>("output_dtype")?.unwrap_or(0) {
        0 => Ok(None),
        number => Ok(Some(DataType::try_from(number)?.try_into()?)),
    }
}

/// A scale or zero point in a shape that broadcasts to that of `x`: one for all, one for each position on an axis, or one
/// for each block of an axis.
fn spread(w: &mut Wiring<'_, '_>, x: OutletId, parameter: OutletId) -> TractResult<OutletId> {
    let (rank, shape) = (w.rank(x), w.shape(parameter));
    let one = 1.to_dim();
    if shape.iter().all(|dim| *dim == one) {
        return w.reshape(parameter, &[]);
    }
    let axis = w.axis(w.node.get_attr_opt::<i64>("axis")?.unwrap_or(1), rank)?;
    let block = w.node.get_attr_opt::<i64>("block_size")?.unwrap_or(0);
    if let [positions] = shape.as_slice()
        && block == 0
    {
        let mut along: Vec<TDim> = vec![one; rank];
        along[axis] = positions.clone();
        return w.reshape(parameter, &along);
    }
    if shape.len() != rank || block <= 0 {
        bail!("a scale or zero point of shape {shape:?} does not fit blocks of {block}");
    }
    let repeated = w.unsqueeze(parameter, axis + 1)?;
    let mut blocks = shape.clone();
    blocks.insert(axis + 1, block.to_dim());
    let repeated = w.broadcast_to(repeated, &blocks)?;
    let mut joined = shape;
    joined[axis] = joined[axis].clone() * block;
    let repeated = w.reshape(repeated, &joined)?;
    // The last block may be cut short.
    let end = w.shape(x)[axis].clone();
    if joined[axis] == end { Ok(repeated) } else { w.slice(repeated, axis, 0, end) }
}
