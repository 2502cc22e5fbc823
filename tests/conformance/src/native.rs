//! `browser-runtime` as native code.

use flotilla_browser_runtime::{MemoryBlobs, Options, Runtime};
use flotilla_protocol::{Backend, BlobSource, LoadTerms};
use flotilla_tensor::Tensor;

use crate::{
    outcome::{Failure, Stage},
    prepare::Trial,
};

/// Loads and runs one program after the other; no state is kept between them. Stays on the thread that made it.
pub struct Native {
    runtime: Runtime,
    backend: Backend,
}

impl Native {
    /// On one backend.
    pub fn new(backend: Backend) -> Native {
        Native { runtime: Runtime::native(Options::default()), backend }
    }

    /// Why the backend is not available, if it is not.
    pub fn missing(&mut self) -> Option<String> {
        let reports = pollster::block_on(self.runtime.inspect());
        reports.into_iter().find(|report| report.backend == self.backend)?.outcome.err()
    }

    /// Loads and runs.
    ///
    /// # Errors
    /// Refusals and failures of the runtime.
    pub fn run(&mut self, trial: &Trial) -> Result<Vec<Tensor>, Failure> {
        let blobs = trial.blobs.iter().map(|(&id, bytes)| (id, bytes.to_vec())).collect();
        let mut blobs = MemoryBlobs { blobs, chunk_bytes: 0 };
        let source = BlobSource { url_prefix: String::new() };
        let mut ignored = |_, _| {};
        let program = trial.program.clone();
        let terms = LoadTerms::default();
        let load =
            self.runtime.load(self.backend, program, &terms, &mut blobs, &source, &mut ignored);
        let mut placement =
            pollster::block_on(load).map_err(|error| Failure::of(Stage::Load, &error))?;
        let (outputs, _) = pollster::block_on(placement.run(&trial.inputs))
            .map_err(|error| Failure::of(Stage::Run, &error))?;
        Ok(outputs)
    }
}
