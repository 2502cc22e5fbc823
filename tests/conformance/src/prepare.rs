//! A case becomes programs with their inputs, natively, whatever runtime will run them.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use flotilla_browser_runtime::computing_nodes;
use flotilla_model::{
    import::{self, LoadOptions, MemoryResolver},
    tensor::ReferenceTensor,
};
use flotilla_program::{BlobId, Program};
use flotilla_protocol::Tensor;

use crate::{
    case::{Array, DataSet, Facts},
    compare::compare,
    outcome::{Failure, Outcome, Stage},
};

/// A data set of a case, ready to be run.
#[derive(Clone, Debug)]
pub struct Trial {
    /// What to compute.
    pub program: Program,
    /// Its constants.
    pub blobs: BTreeMap<BlobId, Arc<[u8]>>,
    /// In the program's order.
    pub inputs: Vec<Tensor>,
    /// In the program's order.
    expected: Vec<Array>,
    /// Whether the model cannot be loaded without inputs as an example.
    from_example: bool,
}

/// Imports a case, once per data set: a model that needs an example of its inputs is made for these.
///
/// # Errors
/// What could not be read, imported or lowered.
pub fn prepare(cases: &Path, facts: &Facts) -> Result<Vec<Trial>, Failure> {
    let unread = |error: anyhow::Error| Failure::new(Stage::Read, format!("{error:#}"));
    if let Some(reason) = &facts.no_data {
        return Err(Failure::new(Stage::Read, format!("it has no data: {reason}")));
    }
    if facts.data.is_empty() {
        return Err(Failure::new(Stage::Read, "it has no data"));
    }
    let model = facts.model(cases).map_err(unread)?;
    let resolver = MemoryResolver { files: BTreeMap::from([("model.onnx".to_owned(), model)]) };
    facts
        .data
        .iter()
        .map(|file| {
            let set = facts.data_set(cases, file).map_err(unread)?;
            trial(&facts.name, &resolver, set)
        })
        .collect()
}

fn trial(name: &str, resolver: &MemoryResolver, set: DataSet) -> Result<Trial, Failure> {
    let mut options = LoadOptions::named(name);
    // The model is loaded as by a user, without its inputs, if it can be.
    let mut loaded = import::load(resolver, &options);
    let from_example = loaded.is_err();
    if from_example {
        for Array { name, dtype, shape, bytes } in set.inputs.iter().cloned() {
            options.examples.insert(name.clone(), ReferenceTensor { name, dtype, shape, bytes });
        }
        loaded = import::load(resolver, &options);
    }
    let model = loaded.map_err(|error| Failure::of(Stage::Import, &error))?;
    let program = model.program;
    let find = |arrays: &[Array], direction: &str, name: &str| {
        arrays.iter().find(|array| array.name == name).cloned().ok_or_else(|| {
            Failure::new(Stage::Import, format!("the case has no {direction} called {name}"))
        })
    };
    let inputs = program.inputs.iter().map(|port| {
        let array = find(&set.inputs, "input", &port.name)?;
        Tensor::new(array.dtype, array.shape, array.bytes)
            .map_err(|error| Failure::of(Stage::Read, &error))
    });
    let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
    let expected = program.outputs.iter().map(|port| find(&set.outputs, "output", &port.name));
    let expected = expected.collect::<Result<Vec<_>, _>>()?;
    if expected.len() != set.outputs.len() {
        let reason =
            format!("the program has {} outputs, the case {}", expected.len(), set.outputs.len());
        return Err(Failure::new(Stage::Import, reason));
    }
    Ok(Trial { program, blobs: model.weights.blobs, inputs, expected, from_example })
}

impl Trial {
    /// Compares results with what is expected.
    ///
    /// # Errors
    /// The first difference.
    pub fn verify(&self, outputs: &[Tensor]) -> Result<(), Failure> {
        let wrong = |reason: String| Failure::new(Stage::Compare, reason);
        if outputs.len() != self.expected.len() {
            return Err(wrong(format!(
                "{} outputs, {} expected",
                outputs.len(),
                self.expected.len()
            )));
        }
        outputs
            .iter()
            .zip(&self.expected)
            .try_for_each(|(output, expected)| compare(output, expected).map_err(wrong))
    }
}

/// Runs every data set and compares. The second result is whether the case can only be loaded with inputs as an example.
pub fn judge(
    trials: Result<Vec<Trial>, Failure>,
    run: impl FnMut(&Trial) -> Result<Vec<Tensor>, Failure>,
) -> (Outcome, bool) {
    match trials {
        Ok(trials) => (outcome(&trials, run), trials.iter().any(|trial| trial.from_example)),
        Err(failure) => (Outcome::Failed(failure), false),
    }
}

fn outcome(
    trials: &[Trial],
    mut run: impl FnMut(&Trial) -> Result<Vec<Tensor>, Failure>,
) -> Outcome {
    let mut kernels = 0;
    for trial in trials {
        if let Err(failure) = run(trial).and_then(|outputs| trial.verify(&outputs)) {
            return match failure.stage {
                Stage::Refuse => Outcome::Refused(failure),
                Stage::Read | Stage::Import | Stage::Load | Stage::Run | Stage::Compare => {
                    Outcome::Failed(failure)
                }
            };
        }
        kernels += computing_nodes(&trial.program);
    }
    if kernels == 0 { Outcome::NoKernel } else { Outcome::Passed }
}
