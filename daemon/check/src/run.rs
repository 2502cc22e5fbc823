//! One run of a model, in a browser or natively.

use flotilla::pool::AnswerError;
use flotilla_fleet::{Attempt, RequestError};
use flotilla_tensor::Tensor;

use crate::Status;

/// A run's results.
#[derive(Clone, Debug)]
pub struct Run {
    /// In the program's order.
    pub outputs: Vec<Tensor>,
    /// From decoded inputs to outputs in memory, inside the page, in milliseconds.
    pub run_ms: f64,
    /// Pipelines that were created since the load.
    pub pipelines_created: u32,
}

/// Why a run has no results.
#[derive(Clone, Debug)]
pub struct RunFailed {
    /// Whether the inputs or their sizes are not supported: the row is then refused, as if the model did not load.
    pub is_refused: bool,
    /// The message of the failed part.
    pub reason: String,
}

impl From<String> for RunFailed {
    fn from(reason: String) -> RunFailed {
        RunFailed { is_refused: false, reason }
    }
}

impl RunFailed {
    pub(crate) fn of(error: AnswerError) -> RunFailed {
        if let AnswerError::Request(RequestError::Failed { tried }) = &error
            && let [Attempt { failure, .. }] = tried.as_slice()
            && failure.kind.is_refusal()
        {
            return RunFailed { is_refused: true, reason: failure.detail.clone() };
        }
        error.to_string().into()
    }

    /// The status of a row.
    pub fn status(&self) -> Status {
        if self.is_refused { Status::Refused } else { Status::Fail }
    }
}
