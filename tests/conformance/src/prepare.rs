//! Makes programs with their inputs from a case, natively, for any runtime.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use bytes::Bytes;
use flotilla_browser_runtime::computing_nodes;
use flotilla_model::import::{self, LoadOptions, MemoryResolver};
use flotilla_program::{BlobId, Program};
use flotilla_tensor::{NamedTensor, Tensor};

use crate::{
    case::{DataSet, Facts},
    compare::compare,
    outcome::{Failure, Outcome, Stage},
};

/// A data set of a case, ready to be run.
#[derive(Clone, Debug)]
pub struct Trial {
    /// What to compute.
    pub program: Program,
    /// Its constants.
    pub blobs: BTreeMap<BlobId, Bytes>,
    /// In the program's order.
    pub inputs: Vec<Tensor>,
    /// In the program's order.
    expected: Vec<NamedTensor>,
    /// Whether inputs are given as an example when the model is loaded.
    from_example: bool,
    source: Source,
}

/// The source of a trial.
#[derive(Clone, Debug)]
struct Source {
    name: String,
    model: Arc<MemoryResolver>,
    set: Arc<DataSet>,
}

/// Imports a case, once per data set; without its inputs if that is possible, as for a user.
///
/// # Errors
/// A file that could not be read, imported or lowered.
pub fn prepare(cases: &Path, facts: &Facts) -> Result<Vec<Trial>, Failure> {
    let unread = |error: anyhow::Error| Failure::new(Stage::Read, format!("{error:#}"));
    if let Some(reason) = &facts.no_data {
        return Err(Failure::new(Stage::Read, format!("it has no data: {reason}")));
    }
    if facts.data.is_empty() {
        return Err(Failure::new(Stage::Read, "it has no data"));
    }
    let model = facts.model(cases).map_err(unread)?;
    let model = MemoryResolver { files: BTreeMap::from([("model.onnx".to_owned(), model.into())]) };
    let model = Arc::new(model);
    facts
        .data
        .iter()
        .map(|file| {
            let set = Arc::new(facts.data_set(cases, file).map_err(unread)?);
            let source = Source { name: facts.name.clone(), model: model.clone(), set };
            source.trial(false).or_else(|_| source.trial(true))
        })
        .collect()
}

impl Source {
    /// Imports the model, with its inputs as an example or without them.
    fn trial(&self, from_example: bool) -> Result<Trial, Failure> {
        let set = &self.set;
        let mut options = LoadOptions::named(&self.name);
        if from_example {
            let examples = set.inputs.iter().cloned();
            options.examples.extend(examples.map(|NamedTensor { name, tensor }| (name, tensor)));
        }
        let model = import::load(&*self.model, &options)
            .map_err(|error| Failure::of(Stage::Import, &error))?;
        let program = model.program;
        let find = |tensors: &[NamedTensor], direction: &str, name: &str| {
            tensors.iter().find(|tensor| tensor.name == name).cloned().ok_or_else(|| {
                Failure::new(Stage::Import, format!("the case has no {direction} called {name}"))
            })
        };
        let inputs = program.inputs.iter().map(|port| {
            let NamedTensor { tensor, .. } = find(&set.inputs, "input", &port.name)?;
            tensor.check().map_err(|error| Failure::of(Stage::Read, &error))?;
            Ok(tensor)
        });
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let expected = program.outputs.iter().map(|port| find(&set.outputs, "output", &port.name));
        let expected = expected.collect::<Result<Vec<_>, _>>()?;
        if expected.len() != set.outputs.len() {
            let (got, want) = (expected.len(), set.outputs.len());
            let reason = format!("the program has {got} outputs, the case {want}");
            return Err(Failure::new(Stage::Import, reason));
        }
        let (blobs, source) = (model.weights.blobs, self.clone());
        Ok(Trial { program, blobs, inputs, expected, from_example, source })
    }
}

impl Trial {
    /// Compares results with the expected ones. Returns the part of the elements that are off, the largest of all outputs
    /// ([`compare`]).
    ///
    /// # Errors
    /// The first difference.
    pub fn verify(&self, outputs: &[Tensor]) -> Result<f64, Failure> {
        let wrong = |reason: String| Failure::new(Stage::Compare, reason);
        if outputs.len() != self.expected.len() {
            return Err(wrong(format!(
                "{} outputs, {} expected",
                outputs.len(),
                self.expected.len()
            )));
        }
        outputs.iter().zip(&self.expected).try_fold(0.0, |off: f64, (output, expected)| {
            Ok(off.max(compare(output, expected).map_err(wrong)?))
        })
    }
}

/// How a case ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// How it ended.
    pub outcome: Outcome,
    /// Whether it needs its inputs as an example when it is loaded.
    pub from_example: bool,
    /// The part of an output's elements that are off although the output is within its tolerance ([`compare`]).
    pub elements_off: f64,
}

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Verdict {
        Verdict { outcome, from_example: false, elements_off: 0.0 }
    }
}

/// Runs every data set and compares. A program that is made without the case's inputs and refuses to run with them is made
/// again with them as an example.
pub fn judge(
    trials: Result<Vec<Trial>, Failure>,
    mut run: impl FnMut(&Trial) -> Result<Vec<Tensor>, Failure>,
) -> Verdict {
    let (mut from_example, mut elements_off) = (false, 0.0f64);
    let outcome = trials.and_then(|trials| {
        let mut kernels = 0;
        for trial in trials {
            let mut ran = run(&trial);
            let mut trial = trial;
            let is_refused = ran.as_ref().is_err_and(|error| error.stage == Stage::Run);
            if is_refused
                && !trial.from_example
                && let Ok(with_example) = trial.source.trial(true)
            {
                trial = with_example;
                ran = run(&trial);
            }
            from_example |= trial.from_example;
            let off = ran.and_then(|outputs| trial.verify(&outputs))?;
            elements_off = elements_off.max(off);
            kernels += computing_nodes(&trial.program);
        }
        Ok(if kernels == 0 { Outcome::NoKernel } else { Outcome::Passed })
    });
    let outcome = outcome.unwrap_or_else(|failure| match failure.stage {
        Stage::Refuse => Outcome::Refused(failure),
        Stage::Read | Stage::Import | Stage::Load | Stage::Run | Stage::Compare => {
            Outcome::Failed(failure)
        }
    });
    Verdict { outcome, from_example, elements_off }
}
