//! The runtime of a page on this machine, without browser and protocol: one thread that owns it.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_browser_runtime::{BlobFetcher, BlobStream, Options, Placement, Runtime, now_us};
use flotilla_program::{BlobId, Program};
use flotilla_protocol::{AdapterInfo, Backend, BlobSource, LoadTerms, RunError};
use flotilla_tensor::Tensor;
use tokio::sync::{mpsc, oneshot};

use crate::run::{Run, RunFailed};

/// Most runs that wait for the thread.
const RUNS_MAX: usize = 64;
/// Bytes of weights per chunk, as in a page.
const CHUNK_BYTES: usize = 1 << 20;

/// A loaded program. Dropping it ends the thread after its present run.
pub(crate) struct Native {
    runs: mpsc::Sender<Job>,
}

/// What is known once it is loaded.
pub(crate) struct Loaded {
    pub(crate) adapter: AdapterInfo,
    pub(crate) load_ms: f64,
    pub(crate) weights_bytes: u64,
    pub(crate) device_bytes: u64,
}

struct Job {
    inputs: Vec<Tensor>,
    reply: oneshot::Sender<Result<Run, RunFailed>>,
}

impl Native {
    /// Loads a program on a backend.
    pub(crate) async fn open(
        program: Program,
        blobs: BTreeMap<BlobId, Bytes>,
        backend: Backend,
    ) -> Result<(Native, Loaded), String> {
        let (runs, queue) = mpsc::channel(RUNS_MAX);
        let (loaded, load_result) = oneshot::channel();
        std::thread::Builder::new()
            .name(format!("native-{backend}"))
            .spawn(move || {
                match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => runtime.block_on(own(program, blobs, backend, queue, loaded)),
                    // The caller may have stopped waiting.
                    Err(error) => drop(loaded.send(Err(error.to_string()))),
                }
            })
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        let loaded = load_result.await.map_err(|_| panicked())??;
        Ok((Native { runs }, loaded))
    }

    /// Runs it once; runs are executed one after the other.
    pub(crate) async fn run(&self, inputs: Vec<Tensor>) -> Result<Run, RunFailed> {
        let (reply, done) = oneshot::channel();
        self.runs.send(Job { inputs, reply }).await.map_err(|_| panicked())?;
        done.await.map_err(|_| panicked())?
    }
}

fn panicked() -> String {
    "the runtime panicked; its message is on standard error".to_owned()
}

async fn own(
    program: Program,
    blobs: BTreeMap<BlobId, Bytes>,
    backend: Backend,
    mut queue: mpsc::Receiver<Job>,
    loaded: oneshot::Sender<Result<Loaded, String>>,
) {
    let begin = now_us();
    let mut runtime = Runtime::native(Options { backends: vec![backend] });
    let source = BlobSource { url_prefix: String::new() };
    let terms = LoadTerms::default();
    let load = runtime
        .load(backend, program, &terms, &mut Memory { blobs }, &source, &mut |_, _| {})
        .await;
    let mut placement = match load {
        Ok(placement) => placement,
        // The caller may have stopped waiting, here and below.
        Err(error) => return drop(loaded.send(Err(error.to_string()))),
    };
    let load_ms = (now_us() - begin) as f64 / 1e3;
    drop(loaded.send(Ok(Loaded {
        adapter: placement.adapter().clone(),
        load_ms,
        weights_bytes: placement.weights_bytes(),
        device_bytes: placement.device_bytes(),
    })));
    while let Some(Job { inputs, reply }) = queue.recv().await {
        drop(reply.send(run(&mut placement, &inputs).await));
    }
}

async fn run(placement: &mut Placement, inputs: &[Tensor]) -> Result<Run, RunFailed> {
    let (outputs, report) = placement.run(inputs).await.map_err(|error| RunFailed {
        is_refused: matches!(
            error,
            RunError::Inputs { .. } | RunError::Unsupported { .. } | RunError::Node { .. }
        ),
        reason: error.to_string(),
    })?;
    let run_ms = report.run_us as f64 / 1e3;
    Ok(Run { outputs, run_ms, pipelines_created: report.pipelines_created })
}

/// Weights that are in memory.
struct Memory {
    blobs: BTreeMap<BlobId, Bytes>,
}

/// A blob of [`Memory`] and how much of it has been given.
struct Reading {
    blob: Bytes,
    at: usize,
}

impl BlobFetcher for Memory {
    type Stream = Reading;

    async fn open(&mut self, _source: &BlobSource, blob: BlobId) -> Result<Reading, String> {
        let blob = self.blobs.get(&blob).cloned().ok_or("it is not in memory")?;
        Ok(Reading { blob, at: 0 })
    }
}

impl BlobStream for Reading {
    async fn chunk(&mut self) -> Result<Option<Vec<u8>>, String> {
        let end = self.blob.len().min(self.at + CHUNK_BYTES);
        let chunk = self.blob[self.at..end].to_vec();
        self.at = end;
        Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
    }
}
