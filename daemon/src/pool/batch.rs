//! Joining requests into the tensors of a run, and taking its results apart.

use flotilla_model::program::Program;
use flotilla_protocol::{DType, Tensor};

use crate::pool::{AnswerError, Input};

/// The inputs of a run that answers these requests, in the program's order.
///
/// Rows of tokens become `[rows, longest]` tensors: `input_ids` padded with 0, `attention_mask` 1 where a token is, any
/// other integer input (token types) 0.
pub(super) fn join(program: &Program, inputs: &[&Input]) -> Result<Vec<Tensor>, AnswerError> {
    if let [Input::Tensors(tensors)] = inputs {
        return Ok(tensors.clone());
    }
    let rows: Vec<&[u32]> = inputs
        .iter()
        .filter_map(|input| match input {
            Input::Tokens(ids) => Some(ids.as_slice()),
            // The core never joins a request that fills a batch by itself.
            Input::Tensors(_) => None,
        })
        .collect();
    let longest = rows.iter().map(|ids| ids.len()).max().unwrap_or(0);
    program
        .inputs
        .iter()
        .map(|port| {
            let padded = rows.iter().flat_map(|ids| {
                (0..longest).map(|at| match (port.name.as_str(), ids.get(at)) {
                    ("attention_mask", id) => i64::from(id.is_some()),
                    ("input_ids", Some(&id)) => i64::from(id),
                    _ => 0,
                })
            });
            let values: Vec<i64> = padded.collect();
            Ok(Tensor::from_i64(vec![rows.len(), longest], &values)?)
        })
        .collect()
}

/// Row `index` of a run's results that answered `rows` requests. A run of tensors has one request and all of it.
pub(super) fn row(
    outputs: &[Tensor],
    index: usize,
    rows: usize,
    tensors: bool,
) -> Result<Vec<Tensor>, AnswerError> {
    if tensors {
        return Ok(outputs.to_vec());
    }
    outputs
        .iter()
        .map(|output| {
            let got = output.shape.first().copied().unwrap_or(0);
            if got != rows {
                return Err(AnswerError::Rows { got, want: rows });
            }
            let length = output.bytes.len() / rows;
            let mut shape = output.shape.clone();
            shape[0] = 1;
            Ok(Tensor::new(
                output.dtype,
                shape,
                output.bytes[index * length..(index + 1) * length].to_vec(),
            )?)
        })
        .collect()
}

/// Whether a program takes tokens: its first input is `input_ids` and all are integers `[batch, sequence]`.
pub(crate) fn takes_tokens(program: &Program) -> bool {
    use flotilla_model::program::DType as Type;
    program.inputs.iter().any(|port| port.name == "input_ids")
        && program
            .inputs
            .iter()
            .all(|port| port.dtype == Type::I64 && program.value(port.value).shape.len() == 2)
}

/// The values of the first output, when it is one row of F32.
pub(crate) fn first_row(outputs: &[Tensor]) -> Option<Vec<f32>> {
    let output = outputs.first()?;
    (output.dtype == DType::F32 && output.shape.len() == 2 && output.shape[0] == 1)
        .then(|| output.to_f32().ok())?
}
