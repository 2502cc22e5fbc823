//! Runs in flight and how they end.

use std::time::Duration;

use flotilla_protocol::{Backend, BrowserId, Epoch, PlacementId, RequestId, RunId};

use super::Fleet;
use crate::{
    event::{Action, Instant, ModelId, SlotId},
    recovery::Failure,
};

/// Failed runs in a row after which a browser is replaced, whatever each failure was.
const RUN_FAILURES_MAX: u32 = 3;
/// Weight of a run in its browser's slowness, and the most that one counts for: one outlier is none of the browser's doing.
const SLOWNESS_WEIGHT: f64 = 0.1;
const SLOWNESS_CAP: f64 = 10.0;

/// An execution that a page has not ended. It stays known when nobody waits for it, because the page is busy with it.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) berth: usize,
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

impl Fleet {
    pub(super) fn run_done(&mut self, browser: BrowserId, id: RunId, epoch: Epoch) {
        let Some((run, took)) = self.end_run(browser, id, epoch) else { return };
        let slot = SlotId(run.berth as u32);
        let mut slowness = None;
        if !run.beside_load {
            slowness = self.speeds.slowness(run.model, slot, run.backend, run.tokens, took);
            self.speeds.learn(run.model, slot, run.backend, run.tokens, took);
        }
        let now = self.now;
        let berth = self.berth_mut(run.berth);
        berth.resets = 0;
        if let Some(live) = berth.state.live_mut() {
            Fleet::proved(live, now);
            live.jobs += 1;
            if let Some(slowness) = slowness {
                live.slowness += SLOWNESS_WEIGHT * (slowness.min(SLOWNESS_CAP) - live.slowness);
            }
        }
        for request in run.requests {
            self.answer(request, id);
        }
        self.unload_left(run.berth);
    }

    pub(super) fn run_failed(
        &mut self,
        browser: BrowserId,
        id: RunId,
        epoch: Epoch,
        failure: &Failure,
    ) {
        let Some(run) = self.current_run(browser, id, epoch) else { return };
        let (index, model, backend) = (run.berth, run.model, run.backend);
        let Some(live) = self.berth_mut(index).state.live_mut() else { return };
        // The page says which run it was at, so this one is first in line whatever was thought.
        live.runs.retain(|&other| other != id);
        live.runs.push_front(id);
        // Inputs and sizes that are refused are the request's, and are not counted against the browser.
        if !failure.kind.is_refusal() {
            live.run_failures += 1;
        }
        if live.run_failures >= RUN_FAILURES_MAX {
            self.browser_down(index, failure.clone());
        } else {
            self.repair(index, Some(model), backend, failure.clone());
        }
        // A repair that took the run with it has sent its requests up the ladder.
        if let Some((run, _)) = self.end_run(browser, id, epoch) {
            if !failure.kind.is_refusal() {
                self.distrust(index, failure);
            }
            for request in run.requests {
                self.climb(request, run.browser, failure, run.joined);
            }
        }
        self.unload_left(index);
    }

    /// A run that is in flight on this browser and in this epoch.
    ///
    /// One that is not known belongs to a browser that was killed, to a life of a placement that is over, or was
    /// reported before. An answer in another epoch than the run's, or from another browser, is not the run's answer. All are dropped.
    fn current_run(&self, browser: BrowserId, id: RunId, epoch: Epoch) -> Option<&Run> {
        let run = self.runs.get(&id)?;
        if (run.browser, run.epoch) != (browser, epoch) {
            return None;
        }
        Some(run)
    }

    /// Removes a run that its page has ended, and says how long the page was busy with it.
    fn end_run(&mut self, browser: BrowserId, id: RunId, epoch: Epoch) -> Option<(Run, Duration)> {
        self.current_run(browser, id, epoch)?;
        let run = self.runs.remove(&id)?;
        let live = self.berth_mut(run.berth).state.live_mut()?;
        let busy_since = if live.runs.front() == Some(&id) { live.head_since } else { run.sent_at };
        self.unlist(run.berth, &[id]);
        Some((run, self.now.since(busy_since)))
    }

    /// Takes runs off a browser's list; the clock of the one that is now the first starts.
    pub(super) fn unlist(&mut self, berth: usize, gone: &[RunId]) {
        let now = self.now;
        let Some(live) = self.berth_mut(berth).state.live_mut() else { return };
        let head = live.runs.front().copied();
        live.runs.retain(|run| !gone.contains(run));
        if live.runs.front().copied() != head {
            live.head_since = now;
            live.hedged_at = None;
        }
    }

    /// Ends runs whose browser or placement is gone.
    ///
    /// A page executes in order, so only `head`, the first run of its browser, can have caused or met the failure: its
    /// requests climb the ladder, those of the others had no try yet and go back to the queue as they came.
    pub(super) fn lose_runs(
        &mut self,
        lost: Vec<RunId>,
        head: Option<RunId>,
        browser: BrowserId,
        failure: &Failure,
    ) {
        for id in lost {
            let Some(run) = self.runs.remove(&id) else { continue };
            for request in run.requests {
                if head == Some(id) {
                    self.climb(request, browser, failure, run.joined);
                } else {
                    self.requeue(request);
                }
            }
        }
    }

    /// A request no longer waits for its run, which is abandoned if nobody else does.
    pub(super) fn leave(&mut self, id: RunId, request: RequestId) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        run.requests.retain(|&other| other != request);
        if run.requests.is_empty() {
            self.actions.push_back(Action::Abandon { run: id });
        }
    }
}
