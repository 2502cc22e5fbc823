//! The data link's logic, whatever carries its messages.

use std::collections::BTreeMap;

use flotilla_program::Program;
use flotilla_protocol::{
    AdapterInfo, Backend, BlobSource, Epoch, FromPage, LoadError, LoadTerms, PlacementId, RunError,
    Split, Tensor, ToPage,
};
use futures_channel::mpsc;

use crate::{
    backend::DeviceLoss,
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

/// What is to be loaded as what.
struct Order<'a> {
    placement: PlacementId,
    epoch: Epoch,
    backend: Backend,
    terms: &'a LoadTerms,
}

/// Losses of devices, as messages; they happen between other messages too.
pub struct Losses(mpsc::Receiver<DeviceLoss>);

impl Losses {
    /// The next loss; `None` when the peer is gone.
    pub async fn next(&mut self) -> Option<FromPage> {
        Some(told(self.0.recv().await.ok()?))
    }

    /// A loss that has happened already.
    pub fn try_next(&mut self) -> Option<FromPage> {
        Some(told(self.0.try_recv().ok()?))
    }
}

fn told(loss: DeviceLoss) -> FromPage {
    let DeviceLoss { backend, generation, reason } = loss;
    FromPage::DeviceLost { backend, generation, reason }
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
            ToPage::Load { placement, epoch, backend, program, blobs, terms } => {
                let started = now_us();
                let order = Order { placement, epoch, backend, terms: &terms };
                let message = match self.load(&order, &program, &blobs, send).await {
                    Ok((adapter, split)) => FromPage::Loaded {
                        placement,
                        epoch,
                        adapter,
                        split,
                        load_us: now_us() - started,
                    },
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
        order: &Order<'_>,
        program: &[u8],
        blobs: &BlobSource,
        send: &mut dyn FnMut(FromPage, Vec<Tensor>),
    ) -> Result<(AdapterInfo, Option<Split>), LoadError> {
        let &Order { placement, epoch, backend, terms } = order;
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
        let loaded = self
            .runtime
            .load(backend, program, terms, &mut self.fetcher, blobs, &mut progress)
            .await?;
        let about = (loaded.adapter().clone(), loaded.split().cloned());
        self.placements.insert(placement, (epoch, loaded));
        Ok(about)
    }
}
