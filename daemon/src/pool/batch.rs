//! Joining requests into the tensors of a run, and taking its results apart.

use flotilla_program::Program;
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

/// Whether results can be given to clients: for rows of tokens, a row for each request and every number finite. What a
/// program of tensors may compute is not known here.
pub(super) fn check(outputs: &[Tensor], rows: usize, tensors: bool) -> Result<(), String> {
    if tensors {
        return Ok(());
    }
    for output in outputs {
        if output.shape.first() != Some(&rows) {
            return Err(format!("results of shape {:?} for {rows} rows", output.shape));
        }
        let (numbers, _) = output.bytes.as_chunks::<4>();
        if output.dtype == DType::F32
            && numbers.iter().any(|bytes| !f32::from_le_bytes(*bytes).is_finite())
        {
            return Err("results hold numbers that are not finite".to_owned());
        }
    }
    Ok(())
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
    use flotilla_program::DType as Type;
    program.inputs.iter().any(|port| port.name == "input_ids")
        && program
            .inputs
            .iter()
            .all(|port| port.dtype == Type::I64 && program.value(port.value).shape.len() == 2)
}

/// The values of an output, when it is one row of F32.
pub(crate) fn single_row(output: Option<&Tensor>) -> Option<Vec<f32>> {
    let output = output?;
    (output.dtype == DType::F32 && output.shape.len() == 2 && output.shape[0] == 1)
        .then(|| output.to_f32().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_results_are_refused() {
        let tensor = |values: &[f32]| Tensor::from_f32(vec![2, 2], values).expect("fits");
        let good = [tensor(&[1.0, 2.0, 3.0, 4.0])];
        assert_eq!(check(&good, 2, false), Ok(()));
        assert!(check(&good, 3, false).is_err());
        for bad in [f32::NAN, f32::INFINITY] {
            let bad = [tensor(&[1.0, bad, 3.0, 4.0])];
            assert!(check(&bad, 2, false).is_err());
            assert_eq!(check(&bad, 2, true), Ok(()), "tensors may be anything");
        }
    }
}
