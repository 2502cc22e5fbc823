//! Recurrent layers with quantized weights.

use anyhow::{Result, ensure};
use flotilla_program::dim::Dim;
use flotilla_tensor::DType;

use super::check_bytes;
use crate::import::onnx::{
    facts::Var,
    ops::{
        dequantize::dequantized,
        quantize::{Dynamic, check_zero_type, dynamic},
        recurrent,
    },
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[("DynamicQuantizeLSTM", lstm)];

/// The layer of the standard with weights `[directions, inputs, 4 * hidden]` and one scale for each direction, or one for
/// each column of each direction.
///
/// onnxruntime quantizes the inputs of all steps together and the state of each step. The first is done here, too; the state
/// stays a float, which is closer to what the file's author quantized, and differs from onnxruntime by its rounding.
fn lstm(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    ensure!(w.rank(x) == 3, "an input of {} dimensions, 3 are needed", w.rank(x));
    let Dynamic { q, scale, zero } = dynamic(w, x)?;
    let rounded = dequantized(w, q, scale, Some(zero), 0, 1)?;
    let weights = weights(w, 1, [8, 9], "W")?;
    let recurrence = self::weights(w, 2, [10, 11], "R")?;
    let mut inputs = w.inputs.to_vec();
    inputs.truncate(8);
    inputs[..3].copy_from_slice(&[Some(rounded), Some(weights), Some(recurrence)]);
    let mut layer = Wiring {
        node: w.node,
        opset: w.opset,
        name: w.name.clone(),
        inputs: &inputs,
        scope: w.scope,
        walk: w.walk,
        read: std::mem::take(&mut w.read),
    };
    let results = recurrent::lstm(&mut layer)?;
    w.read = layer.read;
    Ok(results)
}

/// Weights as floats `[directions, 4 * hidden, inputs]`.
fn weights(
    w: &mut Wiring<'_, '_>,
    index: usize,
    [scale, zero]: [usize; 2],
    what: &str,
) -> Result<Var> {
    let q = w.input(index)?;
    check_bytes(w, q, what)?;
    let shape = w.shape(q);
    ensure!(shape.len() == 3, "{what} has {} dimensions, 3 are needed", shape.len());
    let zero = w.input(zero)?;
    check_zero_type(w, q, zero)?;
    let scale = w.input(scale)?;
    ensure!(w.dtype(scale).is_float(), "the scale of {what} is of type {:?}", w.dtype(scale));
    let mut along = |var: Var| -> Result<Var> {
        let own = w.shape(var);
        let text = w.walk.shape_text(&own);
        let columns = match own.len() {
            1 => Dim::Fixed(1),
            2 => w.same("the columns of the weights and their parameters", &own[1], &shape[2])?,
            _ => anyhow::bail!("a parameter of {what} has the shape {text}"),
        };
        let directions = w.same("the directions of the weights", &own[0], &shape[0])?;
        w.reshape(var, &[directions, Dim::Fixed(1), columns])
    };
    let (scale, zero) = (along(scale)?, along(zero)?);
    let weights = dequantized(w, q, scale, Some(zero), 0, 1)?;
    let weights = w.transpose(weights, &[0, 2, 1])?;
    w.cast(weights, DType::F32)
}
