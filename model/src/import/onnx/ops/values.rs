//! Operators on single elements that are about their types.

use std::sync::Arc;

use tract_onnx::{
    pb::{TensorProto, tensor_proto::DataType},
    prelude::{DatumType, OutletId, Tensor, TractResult},
    tract_hir::internal::{TractErrorContext as _, bail},
};

use crate::{
    import::onnx::{
        bf16::is_bf16,
        library,
        wiring::{Wire, Wiring},
    },
    lower::element_type,
};
use flotilla_program::{DType, Expr, Op, Step};

/// Of the elements that training drops, unless it is given.
const DROPOUT_RATIO: f32 = 0.5;

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("BitCast", bit_cast),
    ("Cast", cast),
    ("CastLike", cast_like),
    ("Constant", constant),
    ("ConstantOfShape", constant_of_shape),
    ("Dropout", dropout),
    ("Pow", pow),
];

fn cast(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let number = w.node.get_attr::<i32>("to")?;
    let to = if is_bf16(number) { None } else { Some(DataType::try_from(number)?.try_into()?) };
    Ok(vec![converted(w, x, to)?])
}

fn cast_like(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (x, like) = (w.input(0)?, w.input(1)?);
    let to = if w.walk.bf16.contains(&like) { None } else { Some(w.dtype(like)) };
    Ok(vec![converted(w, x, to)?])
}

/// As another type; none stands for BF16.
fn converted(w: &mut Wiring<'_, '_>, x: OutletId, to: Option<DatumType>) -> TractResult<OutletId> {
    let Some(to) = to else {
        let number = w.cast(x, DatumType::F32)?;
        return w.walk.rounded_bf16(&w.name, number);
    };
    if w.dtype(x) == to && w.walk.bf16.contains(&x) {
        // The same numbers, which are not BF16 from here on.
        return w.walk.widened_bf16(&w.name, x);
    }
    if (w.dtype(x), to) == (DatumType::TDim, DatumType::I64) {
        // Sizes are integers already, and those with symbols in them would no longer be known.
        return Ok(x);
    }
    w.cast(x, to)
}

/// A constant; tract's importer reads all types but one.
fn constant(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    match value(w).filter(|proto| is_bf16(proto.data_type)) {
        Some(proto) => {
            let outlet = w.tensor(library::tensor(w.walk, proto)?)?;
            Ok(vec![w.walk.marked_bf16(&w.name, outlet)?])
        }
        None => library::wire(w.walk, w.node, w.inputs, &w.name, w.opset),
    }
}

/// One number everywhere, which is 0 in F32 unless it is given.
fn constant_of_shape(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let shape = w.known_dims(0)?;
    let (number, is_bf16) = match value(w) {
        Some(proto) => (library::tensor(w.walk, proto)?, is_bf16(proto.data_type)),
        None => (Tensor::from(0f32), false),
    };
    let number = w.tensor(number.into_shape(&[])?)?;
    let everywhere = w.broadcast_to(number, &shape)?;
    Ok(vec![if is_bf16 { w.walk.marked_bf16(&w.name, everywhere)? } else { everywhere }])
}

/// Everything is kept, which is what inference does, and training where nothing is to be dropped.
fn dropout(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let training = match w.optional(2) {
        Some(flag) => {
            let flag = w.constant(flag).context("its mode is only known when it runs")?;
            flag.cast_to_scalar::<bool>()?
        }
        None => false,
    };
    let ratio = match w.optional(1) {
        Some(ratio) => w.constant(ratio),
        None => Some(Arc::new(Tensor::from(DROPOUT_RATIO))),
    };
    if training && ratio.is_none_or(|ratio| ratio.cast_to_scalar::<f32>().is_ok_and(|r| r > 0.0)) {
        bail!("what training drops is drawn, which is not supported");
    }
    if !w.wants(1) {
        return Ok(vec![x]);
    }
    let (dtype, shape) = (if w.opset < 10 { w.dtype(x) } else { DatumType::Bool }, w.shape(x));
    let kept = w.tensor(Tensor::from(true))?;
    let kept = w.cast(kept, dtype)?;
    Ok(vec![x, w.broadcast_to(kept, &shape)?])
}

/// The tensor in the attribute `value`.
fn value<'a>(w: &Wiring<'a, '_>) -> Option<&'a TensorProto> {
    let attribute = w.node.attribute.iter().find(|attribute| attribute.name == "value");
    attribute.and_then(|attribute| attribute.t.as_ref())
}

/// The same bits under another type of the same width.
fn bit_cast(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let to: DatumType = DataType::try_from(w.node.get_attr::<i32>("to")?)?.try_into()?;
    let from = w.dtype(x);
    let (Some(source), Some(target)) = (element_type(from), element_type(to)) else {
        bail!("bits of {from:?} cannot be read as {to:?}");
    };
    if source == target {
        return Ok(vec![x]);
    }
    let whole = |dtype: DType| !dtype.is_float() && dtype != DType::Bool;
    let step = match (source.wire_bytes(), target.wire_bytes()) {
        (4, 4) if target != DType::Bool => Step::Bits(target, 0),
        // Of integers of the same width a page has the same bits in another word, and a flag is 0 or 1.
        (a, b) if a == b && whole(target) && !source.is_float() => Step::Cast(target, 0),
        _ => bail!("bits of {from:?} cannot be read as {to:?}"),
    };
    let expr = Expr { steps: vec![Step::Input(0), step] };
    let shape = w.shape(x);
    Ok(vec![w.program_op(Op::Elementwise(expr), &[x], to, shape)?])
}

/// The base decides the result's type; the power is computed in floats if either operand is one.
fn pow(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (base, exponent) = (w.input(0)?, w.input(1)?);
    let (dtype, other) = (w.dtype(base), w.dtype(exponent));
    let common = match (dtype.is_float(), other.is_float()) {
        (true, true) if dtype != other => DatumType::F32,
        (true, _) | (false, false) => dtype,
        (false, true) => DatumType::F32,
    };
    let (base, exponent) = (w.cast(base, common)?, w.cast(exponent, common)?);
    let power = w.pow(base, exponent)?;
    Ok(vec![w.cast(power, dtype)?])
}
