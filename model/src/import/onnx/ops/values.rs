//! Operators about the types of elements, and constants.

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_program::{Expr, Op, Step};
use flotilla_tensor::DType;
use tract_onnx::pb::tensor_proto::DataType;

use crate::import::onnx::{
    constant::{Constant, element_type, type_name},
    facts::Var,
    strings,
    wiring::{Wire, Wiring},
};

/// The part of the elements that training drops, unless it is given.
const DROPOUT_RATIO: f64 = 0.5;

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("BitCast", bit_cast),
    ("Cast", cast),
    ("CastLike", cast_like),
    ("Constant", constant),
    ("ConstantOfShape", constant_of_shape),
    ("Dropout", dropout),
];

/// The type that an attribute names.
fn target(w: &Wiring<'_, '_>) -> Result<DType> {
    // The first version has the type's name.
    if w.opset < 6 && w.node.op_type == "Cast" {
        let name = w.text("to")?.context("to is missing")?;
        let known = (1..=DataType::Bfloat16 as i32).find(|&number| type_name(number) == name);
        return known
            .and_then(element_type)
            .with_context(|| format!("elements of type {name:?} are not supported"));
    }
    let number = i32::try_from(w.int("to")?.context("to is missing")?)?;
    element_type(number)
        .with_context(|| format!("elements of type {} are not supported", type_name(number)))
}

fn cast(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let has_strings = w.fact(x).strings.is_some();
    if names_strings(w)? {
        ensure!(has_strings, "numbers cannot be written as strings");
        return Ok(vec![x]);
    }
    let to = target(w)?;
    let x = widened(w, x);
    Ok(vec![if has_strings { strings::parsed(w, x, to)? } else { w.cast(x, to)? }])
}

/// Whether the target is the type of strings.
fn names_strings(w: &Wiring<'_, '_>) -> Result<bool> {
    Ok(if w.opset < 6 {
        w.text("to")? == Some("STRING")
    } else {
        w.int("to")? == Some(DataType::String as i64)
    })
}

/// Elements without a `DType` of their own as what they are stored as.
fn widened(w: &mut Wiring<'_, '_>, x: Var) -> Var {
    if w.walk.small(x).is_none() {
        return x;
    }
    let dtype = w.dtype(x);
    match w.constant(x).cloned() {
        Some(constant) => w.known(Constant { small: None, ..constant }),
        None => w.walk.retyped(x, dtype),
    }
}

fn cast_like(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, like) = (w.input(0)?, w.input(1)?);
    let (has_strings, wants) = (w.fact(x).strings.is_some(), w.fact(like).strings.is_some());
    Ok(vec![match (has_strings, wants) {
        (true, true) => x,
        (true, false) => strings::parsed(w, x, w.dtype(like))?,
        (false, true) => bail!("numbers cannot be written as strings"),
        (false, false) => w.cast(x, w.dtype(like))?,
    }])
}

fn constant(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let number = w.node.attribute.first().map_or("", |attribute| attribute.name.as_str());
    let constant = match number {
        "value" => w.tensor("value")?.context("value is missing")?,
        "value_float" => Constant::scalar(DType::F32, w.float(number)?.unwrap_or(0.0).into()),
        "value_floats" => {
            let floats = w.floats(number)?.unwrap_or_default();
            Constant::f32s(&[floats.len()], &floats)
        }
        "value_int" => Constant::integer(w.int(number)?.unwrap_or(0)),
        "value_ints" => {
            let integers = w.ints(number)?.unwrap_or_default();
            Constant::i64s(&[integers.len()], &integers)
        }
        "value_string" => {
            let string = w.string_bytes(number)?;
            Constant::strings(&[], &string)?
        }
        "value_strings" => {
            let strings = w.string_bytes(number)?;
            Constant::strings(&[strings.len()], &strings)?
        }
        other => bail!("a constant in the attribute {other:?} is not supported"),
    };
    Ok(vec![w.known(constant)])
}

/// A constant tensor of one number; 0 in F32 unless it is given.
fn constant_of_shape(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let shape = w.sizes(0)?;
    let number = w.tensor("value")?.unwrap_or_else(|| Constant::scalar(DType::F32, 0.0));
    let number = w.known(Constant { shape: Vec::new(), ..number });
    Ok(vec![w.broadcast_to(number, &shape)?])
}

/// All elements are kept: in inference, and in training with a ratio of zero.
fn dropout(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let training = match w.optional(2) {
        Some(_) => w.known_i64(2)? != 0,
        None => false,
    };
    let ratio = match w.optional(1) {
        Some(ratio) => w.constant(ratio).and_then(|ratio| ratio.floats().first().copied()),
        None => Some(DROPOUT_RATIO),
    };
    if training && ratio.is_none_or(|ratio| ratio > 0.0) {
        bail!("dropout in training mode draws random numbers, which is not supported");
    }
    if !w.wants(1) {
        return Ok(vec![x]);
    }
    // Before version 12 the mask of inference was left open; onnxruntime has zeros.
    let (dtype, shape) = (if w.opset < 10 { w.dtype(x) } else { DType::Bool }, w.shape(x));
    let kept = w.scalar(dtype, if w.opset < 12 { 0.0 } else { 1.0 });
    Ok(vec![x, w.broadcast_to(kept, &shape)?])
}

/// The same bits under another type of the same width.
fn bit_cast(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let (from, to) = (w.dtype(x), target(w)?);
    if from == to {
        return Ok(vec![x]);
    }
    let whole = |dtype: DType| dtype.is_integer();
    let step = match (from.wire_bytes(), to.wire_bytes()) {
        (4, 4) if to != DType::Bool => Step::Bits(to, 0),
        // Integers of the same width have the same bits in another word, and a flag is 0 or 1.
        (a, b) if a == b && whole(to) && !from.is_float() => Step::Cast(to, 0),
        _ => bail!("bits of {from:?} cannot be read as {to:?}"),
    };
    let expr = Expr { steps: vec![Step::Input(0), step] };
    let shape = w.shape(x);
    Ok(vec![w.op(Op::Elementwise(expr), &[x], to, shape)?])
}
