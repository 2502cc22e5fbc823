//! Runs in flight.

use std::{collections::BTreeMap, time::Duration};

use flotilla_protocol::{Backend, BrowserId, Epoch, PlacementId, RequestId, RunId};

use crate::event::{Instant, ModelId};

/// An execution that a page has not ended. It stays known when nobody waits for it, because the page is busy with it.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) slot: usize,
    pub(super) browser: BrowserId,
    pub(super) placement: PlacementId,
    pub(super) epoch: Epoch,
    pub(super) model: ModelId,
    pub(super) backend: Backend,
    /// Padding included.
    pub(super) tokens: u64,
    /// Those that still wait for it.
    pub(super) requests: Vec<RequestId>,
    /// More than one request was dispatched.
    pub(super) joined: bool,
    pub(super) expected: Duration,
    pub(super) sent_at: Instant,
    /// Its browser was loading a model when it was sent: how long it takes says nothing of other runs.
    pub(super) beside_load: bool,
}

/// Every run in flight, and the ids of runs.
#[derive(Debug, Default)]
pub(super) struct Runs {
    by_id: BTreeMap<RunId, Run>,
    /// The highest id given away, to a run, a probe or a measurement.
    last_id: u64,
}

impl Runs {
    /// `first_id` is below all ids that runs get.
    pub(super) fn new(first_id: u64) -> Runs {
        Runs { last_id: first_id, ..Runs::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub(super) fn get(&self, id: RunId) -> Option<&Run> {
        self.by_id.get(&id)
    }

    pub(super) fn last_id(&self) -> u64 {
        self.last_id
    }

    /// Whether a run is on a placement.
    pub(super) fn is_on(&self, id: RunId, placement: PlacementId) -> bool {
        self.by_id.get(&id).is_some_and(|run| run.placement == placement)
    }

    /// A run that is in flight on this browser and in this epoch.
    ///
    /// One that is not known belongs to a browser that was killed, to a life of a placement that is over, or was
    /// reported before. An answer in another epoch than the run's, or from another browser, is not the run's answer. All
    /// give `None`.
    pub(super) fn current(&self, browser: BrowserId, id: RunId, epoch: Epoch) -> Option<&Run> {
        self.by_id.get(&id).filter(|run| (run.browser, run.epoch) == (browser, epoch))
    }

    pub(super) fn next_id(&mut self) -> RunId {
        self.last_id += 1;
        RunId(self.last_id)
    }

    pub(super) fn start(&mut self, id: RunId, run: Run) {
        self.by_id.insert(id, run);
    }

    /// Takes a run out that has ended or is lost.
    pub(super) fn end(&mut self, id: RunId) -> Option<Run> {
        self.by_id.remove(&id)
    }

    /// A request no longer waits for its run; true if nobody else does, so that the run is to be abandoned.
    pub(super) fn leave(&mut self, id: RunId, request: RequestId) -> bool {
        let Some(run) = self.by_id.get_mut(&id) else { return false };
        run.requests.retain(|&other| other != request);
        run.requests.is_empty()
    }

    /// The fleet ends, and every run with it.
    pub(super) fn clear(&mut self) {
        self.by_id.clear();
    }
}
