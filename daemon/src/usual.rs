//! Runs of usual size: for measuring backends and for preparing shapes when a model is loaded.

use std::{collections::BTreeMap, sync::Arc};

use flotilla_program::Program;
use flotilla_tensor::{NamedTensor, Tensor};

use crate::{
    batch::{self, FixedSizes, Input},
    catalog::Model,
    inputs,
};

/// Tokens of the text that a text model is measured with; fewer if the model's limit is lower.
const TOKENS: usize = 128;
/// Seed of the inputs.
const SEED: u64 = 0;

/// Why no input can be generated for a model, if that is known without trying.
pub(crate) fn refusal(model: &Model) -> Option<String> {
    let assumption = model.program.assumptions.first()?;
    let input = model.program.inputs.get(assumption.input as usize);
    let name = input.map_or("an input", |port| port.name.as_str());
    Some(format!("{name} decides shapes"))
}

/// An input of usual size, in the program's order: one text for a model of text.
///
/// # Errors
/// None can be generated; the error is the reason.
pub(crate) fn input(model: &Model) -> Result<Vec<Tensor>, String> {
    if let Some(reason) = refusal(model) {
        return Err(reason);
    }
    if batch::takes_tokens(&model.program) {
        let below = model.vocabulary.unwrap_or(2).max(1);
        let ids = (0..length(model)).map(|at| at as u32 * 7919 % below).collect();
        let text = [Arc::new(Input::Tokens(ids))];
        let tensors = batch::join(&model.program, &text).map_err(|error| error.to_string())?;
        return Ok(tensors.into_owned());
    }
    let made = inputs::make(&model.program, model.vocabulary, &BTreeMap::new(), SEED)
        .map_err(|error| error.to_string())?;
    let whole = |NamedTensor { tensor, .. }| match tensor.check() {
        Ok(()) => Ok(tensor),
        Err(error) => Err(error.to_string()),
    };
    made.inputs.into_iter().map(whole).collect()
}

fn length(model: &Model) -> usize {
    let fixed = FixedSizes::of(&model.program).length;
    fixed.unwrap_or_else(|| model.tokens_max.clamp(1, TOKENS))
}

/// Rows of a run with one text.
pub(crate) fn rows(program: &Program) -> usize {
    FixedSizes::of(program).rows.unwrap_or(1)
}

/// Values of the program's symbols in runs of usual size, any for those that a run itself decides; empty if they are not known.
pub(crate) fn sizes(model: &Model) -> Vec<i64> {
    let program = &model.program;
    match &model.sizes {
        Some(sizes) => sizes.clone(),
        None if batch::takes_tokens(program) => {
            let shape = [rows(program), length(model)];
            let bound = program.bind(&vec![&shape[..]; program.inputs.len()]);
            bound.map(inputs::any).unwrap_or_default()
        }
        None => inputs::any(inputs::sizes(program, &BTreeMap::new())),
    }
}
