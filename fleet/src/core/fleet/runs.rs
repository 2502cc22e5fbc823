//! What follows when runs are dispatched and end.

use std::time::Duration;

use flotilla_protocol::{BrowserId, Epoch, RunId};

use super::{Fleet, Phase};
use crate::{
    core::{dispatch::Dispatcher, escalation::Taker, runs::Run},
    event::{Action, SlotId},
    recovery::Failure,
};

/// Failed runs in a row after which a browser is replaced, whatever each failure was.
const RUN_FAILURES_MAX: u32 = 3;

impl Fleet {
    pub(super) fn dispatcher(&self) -> Dispatcher<'_> {
        Dispatcher {
            now: self.now,
            config: &self.config,
            may_wait: self.phase == Phase::Serving,
            slots: &self.slots,
            assignments: &self.assignments,
            requests: &self.requests,
            runs: &self.runs,
            leases: &self.leases,
            speeds: &self.speeds,
        }
    }

    /// Dispatches until no waiting request has a browser with room, or all that have wait for others to join them.
    pub(super) fn dispatch_all(&mut self) {
        self.refresh();
        while let Some(run) = self.dispatcher().next() {
            self.dispatch(run);
            self.refresh();
        }
    }

    fn dispatch(&mut self, run: Run) {
        let id = self.runs.next_id();
        let slot = self.slots.change(run.slot);
        let taker = Taker {
            browser: run.browser,
            is_fallback: slot.is_fallback(),
            has_new_page: slot.resets() > 0,
        };
        if let Some(live) = slot.live_mut() {
            live.runs_mut().push(id, self.now);
        }
        for &request in &run.requests {
            self.requests.start(request, id, taker);
        }
        let (browser, placement, epoch) = (run.browser, run.placement, run.epoch);
        let requests = run.requests.clone();
        self.runs.start(id, run);
        self.order(Action::Dispatch { browser, placement, epoch, run: id, requests });
    }

    pub(super) fn run_done(&mut self, browser: BrowserId, id: RunId, epoch: Epoch) {
        let Some((run, took)) = self.end_run(browser, id, epoch) else { return };
        let slot = SlotId(run.slot as u32);
        let mut slowness = None;
        if !run.beside_load {
            slowness = self.speeds.slowness(run.model, slot, run.backend, run.tokens, took);
            self.speeds.learn(run.model, slot, run.backend, run.tokens, took);
        }
        let slot = self.slots.change(run.slot);
        slot.answered();
        if let Some(live) = slot.live_mut() {
            live.computed(self.now);
            live.health_mut().count_run(slowness);
        }
        for request in run.requests {
            self.answer(request, id);
        }
        self.unload_ended(run.slot);
    }

    pub(super) fn run_failed(
        &mut self,
        browser: BrowserId,
        id: RunId,
        epoch: Epoch,
        failure: &Failure,
    ) {
        let Some(run) = self.runs.current(browser, id, epoch) else { return };
        let (index, model, backend) = (run.slot, run.model, run.backend);
        let Some(live) = self.slots.change_live(index) else { return };
        live.runs_mut().make_head(id);
        // Inputs and sizes that are refused are the request's, and are not counted against the browser.
        let failures = match failure.kind.is_refusal() {
            true => live.runs().failures(),
            false => live.runs_mut().count_failure(),
        };
        if failures >= RUN_FAILURES_MAX {
            self.browser_down(index, failure.clone());
        } else {
            self.repair(index, Some(model), backend, failure.clone());
        }
        // Requests of a run that the repair has ended have their recovery step already.
        if let Some((run, _)) = self.end_run(browser, id, epoch) {
            if !failure.kind.is_refusal() {
                self.slots.change(index).distrust(failure, self.now);
            }
            for request in run.requests {
                self.escalate(request, run.browser, failure, run.joined);
            }
        }
        self.unload_ended(index);
    }

    /// Removes a run that its page has ended, and says how long the page was busy with it.
    fn end_run(&mut self, browser: BrowserId, id: RunId, epoch: Epoch) -> Option<(Run, Duration)> {
        self.runs.current(browser, id, epoch)?;
        let run = self.runs.end(id)?;
        let live = self.slots.change_live(run.slot)?;
        let is_head = live.runs().head() == Some(id);
        let busy_since = if is_head { live.runs().head_since() } else { run.sent_at };
        live.runs_mut().remove(&[id], self.now);
        Some((run, self.now.since(busy_since)))
    }

    /// Ends runs whose browser or placement is gone.
    ///
    /// A page executes in order, so only `head`, the first run of its browser, can have caused or met the failure: its
    /// requests go on to a recovery step, those of the others had no attempt yet and go back to the queue as they came.
    pub(super) fn lose_runs(
        &mut self,
        lost: Vec<RunId>,
        head: Option<RunId>,
        browser: BrowserId,
        failure: &Failure,
    ) {
        for id in lost {
            let Some(run) = self.runs.end(id) else { continue };
            for request in run.requests {
                if head == Some(id) {
                    self.escalate(request, browser, failure, run.joined);
                } else {
                    self.requests.requeue(request);
                }
            }
        }
    }
}
