//! Quantized operators of the domain `com.microsoft`, which onnxruntime's optimizer and quantization tools write.
//! Source of every operator: onnxruntime, "Contrib Operator Schemas".

mod attention;
mod elementwise;
mod embedding;
mod matrices;
mod pool;
mod recurrent;
mod weights;

use anyhow::{Result, bail, ensure};
use flotilla_program::dim::Dim;
use flotilla_tensor::DType;

use super::quantize::check_zero_type;
use crate::import::onnx::{
    facts::Var,
    wiring::{Wire, Wiring},
};

/// The families of this folder.
const FAMILIES: &[&[(&str, Wire)]] = &[
    attention::OPERATORS,
    elementwise::OPERATORS,
    embedding::OPERATORS,
    matrices::OPERATORS,
    pool::OPERATORS,
    recurrent::OPERATORS,
    super::quantize::MICROSOFT_OPERATORS,
    weights::OPERATORS,
    REFUSED,
];

/// The function that wires a quantized operator of `com.microsoft`.
pub(super) fn operator(name: &str) -> Option<Wire> {
    let mut all = FAMILIES.iter().flat_map(|family| family.iter());
    all.find(|(known, _)| *known == name).map(|&(_, wire)| wire)
}

/// Operators that exist in layouts or for devices that no page has, and one that is no tensor computation.
const REFUSED: &[(&str, Wire)] = &[
    ("DequantizeBFP", refuse_layout),
    ("DequantizeWithOrder", refuse_layout),
    ("DynamicTimeWarping", refuse_path),
    ("MatMulFpQ4", refuse_layout),
    ("QMoE", refuse_experts),
    ("QOrderedAttention", refuse_layout),
    ("QOrderedGelu", refuse_layout),
    ("QOrderedLayerNormalization", refuse_layout),
    ("QOrderedLongformerAttention", refuse_layout),
    ("QOrderedMatMul", refuse_layout),
    ("QuantizeBFP", refuse_layout),
    ("QuantizeWithOrder", refuse_layout),
];

fn refuse_layout(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    bail!(
        "com.microsoft.{} has a layout of elements that only one kind of device has",
        w.node.op_type
    )
}

fn refuse_experts(_: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    bail!("com.microsoft.QMoE, quantized weights of several experts, is not supported")
}

fn refuse_path(_: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    bail!(
        "com.microsoft.DynamicTimeWarping is not supported: each of its steps depends on the one before, and the length of \
         its result on the data"
    )
}

/// A required operand that has one element, as one of rank 0.
fn single(w: &mut Wiring<'_, '_>, index: usize, what: &str) -> Result<Var> {
    let var = w.input(index)?;
    let shape = w.shape(var);
    ensure!(
        shape.iter().all(|dim| *dim == Dim::Fixed(1)),
        "{what} has the shape {}, one element is needed",
        w.walk.shape_text(&shape)
    );
    w.reshape(var, &[])
}

/// A scale of one element, as `F32`.
fn single_scale(w: &mut Wiring<'_, '_>, index: usize, what: &str) -> Result<Var> {
    let scale = single(w, index, what)?;
    ensure!(w.dtype(scale).is_float(), "{what} is of type {:?}, a float is needed", w.dtype(scale));
    w.cast(scale, DType::F32)
}

/// A zero point of one element for numbers like those of `x`; `None` if it is left out.
fn single_zero(w: &mut Wiring<'_, '_>, index: usize, what: &str, x: Var) -> Result<Option<Var>> {
    let Some(given) = w.optional(index) else { return Ok(None) };
    check_zero_type(w, x, given)?;
    single(w, index, what).map(Some)
}

/// Refuses numbers that are not of 8 bits.
fn check_bytes(w: &Wiring<'_, '_>, x: Var, what: &str) -> Result<()> {
    let dtype = w.dtype(x);
    ensure!(
        matches!(dtype, DType::U8 | DType::I8),
        "{what} is of type {dtype:?}, U8 or I8 is needed"
    );
    Ok(())
}

/// Refuses a value of another shape.
fn check_shape(w: &Wiring<'_, '_>, var: Var, what: &str, wanted: &[usize]) -> Result<()> {
    let shape = w.shape(var);
    let fits = shape.len() == wanted.len()
        && shape.iter().zip(wanted).all(|(dim, &size)| dim.as_fixed() == i64::try_from(size).ok());
    ensure!(fits, "{what} has the shape {}, {wanted:?} is needed", w.walk.shape_text(&shape));
    Ok(())
}

/// A required attribute that is a size.
fn size(w: &Wiring<'_, '_>, name: &str) -> Result<usize> {
    match w.int(name)? {
        Some(size) if (1..=i64::from(i32::MAX)).contains(&size) => Ok(size as usize),
        Some(size) => bail!("{name} is {size}"),
        None => bail!("{name} is missing"),
    }
}

#[cfg(test)]
mod tests;
