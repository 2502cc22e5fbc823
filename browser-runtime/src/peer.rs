//! The data link's logic, whatever carries its messages.

use std::collections::BTreeMap;

use flotilla_model::program::Program;
use flotilla_protocol::{
    Backend, BlobSource, Epoch, FromPage, LoadError, PlacementId, RunError, Tensor, ToPage,
};
use futures_channel::mpsc;

use crate::{
    backend::webgpu::DeviceLoss,
    faults::Faults,
    fetch::BlobFetcher,
    platform::now_us,
    runtime::{Options, Placement, Runtime},
};

/// Shortest time between two reports of progress.
const PROGRESS_MIN_US: u64 = 100_000;

/// Answers the messages of a data link, one after the other. Stays on the thread that made it.
pub struct Peer<F> {
    runtime: Runtime,
    fetcher: F,
    placements: BTreeMap<PlacementId, (Epoch, Placement)>,
}

/// Losses of devices, as messages; they happen between other messages too.
pub struct Losses(mpsc::Receiver<DeviceLoss>);

impl Losses {
    /// The next loss; `None` when the peer is gone.
    pub async fn next(&mut self) -> Option<FromPage> {
        let loss = self.0.recv().await.ok()?;
        Some(FromPage::DeviceLost { generation: loss.generation, reason: loss.reason })
    }

    /// A loss that has happened already.
    pub fn try_next(&mut self) -> Option<FromPage> {
        let loss = self.0.try_recv().ok()?;
        Some(FromPage::DeviceLost { generation: loss.generation, reason: loss.reason })
    }
}

impl<F: BlobFetcher> Peer<F> {
    /// A peer without placements.
    pub fn new(options: Options, fetcher: F) -> Peer<F> {
        Peer { runtime: Runtime::new(options), fetcher, placements: BTreeMap::new() }
    }

    /// Where losses of devices are told; to be called once.
    pub fn losses(&mut self) -> Losses {
        Losses(self.runtime.losses())
    }

    /// What this peer can be made to suffer from.
    pub fn faults(&self) -> Faults {
        self.runtime.faults()
    }

    /// Answers one message. `send` may be called any number of times, before this returns too.
    pub async fn handle(
        &mut self,
        message: ToPage,
        tensors: Vec<Tensor>,
        send: &mut dyn FnMut(FromPage, Vec<Tensor>),
    ) {
        match message {
            ToPage::Welcome { .. } | ToPage::Refused { .. } => {}
            ToPage::Inspect => send(FromPage::Backends(self.runtime.inspect().await), Vec::new()),
            ToPage::Load { placement, epoch, backend, program, blobs } => {
                let started = now_us();
                let message = match self
                    .load(placement, epoch, backend, &program, &blobs, send)
                    .await
                {
                    Ok(adapter) => {
                        FromPage::Loaded { placement, epoch, adapter, load_us: now_us() - started }
                    }
                    Err(error) => FromPage::LoadFailed { placement, epoch, error },
                };
                send(message, Vec::new());
            }
            ToPage::Unload { placement } => {
                self.placements.remove(&placement);
            }
            ToPage::Run { run, placement, epoch } => {
                let result = match self.placements.get_mut(&placement) {
                    Some((loaded, placement)) if *loaded == epoch => placement.run(&tensors).await,
                    _ => Err(RunError::NotLoaded { placement, epoch }),
                };
                match result {
                    Ok((mut outputs, report)) => {
                        let faults = self.runtime.faults();
                        faults.delay(report.run_us).await;
                        faults.spoil(&mut outputs);
                        send(FromPage::Ran { run, epoch, report }, outputs);
                    }
                    Err(error) => send(FromPage::RunFailed { run, epoch, error }, Vec::new()),
                }
            }
            ToPage::Ping { nonce } => send(FromPage::Pong { nonce }, Vec::new()),
        }
    }

    async fn load(
        &mut self,
        placement: PlacementId,
        epoch: Epoch,
        backend: Backend,
        program: &[u8],
        blobs: &BlobSource,
        send: &mut dyn FnMut(FromPage, Vec<Tensor>),
    ) -> Result<flotilla_protocol::AdapterInfo, LoadError> {
        // The old life ends first: two copies of a model may not fit.
        self.placements.remove(&placement);
        let program = Program::from_bytes(program)
            .map_err(|error| LoadError::Program { reason: error.to_string() })?;
        let mut reported = now_us();
        let mut progress = |done_bytes, total_bytes| {
            let now = now_us();
            if done_bytes == total_bytes || now - reported >= PROGRESS_MIN_US {
                reported = now;
                send(FromPage::LoadProgress { placement, done_bytes, total_bytes }, Vec::new());
            }
        };
        let loaded =
            self.runtime.load(backend, program, &mut self.fetcher, blobs, &mut progress).await?;
        let adapter = loaded.adapter().clone();
        self.placements.insert(placement, (epoch, loaded));
        Ok(adapter)
    }
}
