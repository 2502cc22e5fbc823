//! What follows from time-outs, probes and limits.

use flotilla_protocol::{Backend, BrowserId, RunId};

use super::{Fleet, Phase};
use crate::{
    core::{
        health::Probe,
        watch::{Finding, Watch, mib},
    },
    event::Action,
    recovery::{Failure, FailureKind, FailureSort, RecoveryStep},
};

/// Probes in a row that may fail before a browser is repaired; one may have met a busy machine.
const PROBE_FAILURES_MAX: u32 = 2;

impl Fleet {
    /// Looks at every browser that was touched or whose time has come, and acts on what it finds.
    pub(super) fn watch_browsers(&mut self) {
        for index in self.slots.pending(self.now) {
            self.slots.touch(index);
            if self.slots.suspect(index, self.now, &self.config) {
                self.hedge(index);
            }
            let watch = Watch {
                now: self.now,
                config: &self.config,
                may_recycle: self.phase == Phase::Serving,
                slots: &self.slots,
                runs: &self.runs,
            };
            if let Some(finding) = watch.finding(index) {
                self.act_on(index, finding);
            }
        }
    }

    fn act_on(&mut self, index: usize, finding: Finding) {
        match finding {
            Finding::Replace(failure) => self.browser_down(index, failure),
            Finding::Reset(failure) => self.page_down(index, failure),
            Finding::Hedge => self.hedge(index),
            Finding::Probe(backend) => self.probe(index, backend),
            Finding::ProbeFailed(failure) => self.probe_failed(index, failure),
            Finding::Recycle(reason) => self.recycle(index, reason),
            Finding::Recycled => self.replace_recycled(index),
        }
    }

    /// Sends the requests of a browser that keeps them waiting to others, where others are ready. The browser may still
    /// end its runs; their results are dropped.
    fn hedge(&mut self, index: usize) {
        let Some(live) = self.slots.change_live(index) else { return };
        live.runs_mut().hedged(self.now);
        let browser = live.browser();
        let runs: Vec<RunId> = live.runs().iter().collect();
        let (waited, head) = (self.now.since(live.runs().head_since()), live.runs().head());
        for id in runs {
            let Some(run) = self.runs.get(id) else { continue };
            let (model, joined, requests) = (run.model, run.joined, run.requests.clone());
            for request in requests {
                let Some(found) = self.requests.get(request) else { continue };
                let recovery = self.recovery();
                if !recovery.is_warm(model, found, browser) {
                    continue;
                }
                if head != Some(id) {
                    self.leave(id, request);
                    self.requests.requeue(request);
                } else if recovery.could_take(found, RecoveryStep::Migrate) {
                    let words = format!("no answer for {waited:?}");
                    let failure = Failure::new(FailureKind::DeadlineExceeded, words);
                    self.leave(id, request);
                    self.escalate(request, browser, &failure, joined);
                }
            }
        }
    }

    fn probe(&mut self, index: usize, backend: Backend) {
        let probe = self.runs.next_id();
        let until = self.now.after(self.config.probe_timeout);
        let Some(live) = self.slots.change_live(index) else { return };
        live.health_mut().begin_probe(Probe { id: probe, backend, until });
        let browser = live.browser();
        self.order(Action::Probe { browser, backend, probe });
    }

    pub(super) fn probe_done(&mut self, browser: BrowserId, probe: RunId) {
        let Some(index) = self.slots.probed(browser, probe) else { return };
        if let Some(live) = self.slots.change_live(index) {
            live.health_mut().end_probe();
            live.computed(self.now);
        }
    }

    pub(super) fn probe_failed(&mut self, index: usize, failure: Failure) {
        let slot = self.slots.change(index);
        slot.distrust(&failure, self.now);
        let failed = slot.live_mut().and_then(|live| live.health_mut().probe_failed(self.now));
        let Some((backend, failures)) = failed else { return };
        // Wrong results are not retried on the same browser.
        let sort = failure.kind.sort();
        if failures >= PROBE_FAILURES_MAX || sort == FailureSort::Numbers {
            self.repair(index, None, backend, failure);
        } else if sort == FailureSort::Device {
            self.device_lost(index, backend, failure);
        }
    }

    pub(super) fn memory(&mut self, browser: BrowserId, used_bytes: u64) {
        let Some(index) = self.slots.home(browser) else { return };
        if let Some(max) = self.config.memory_bytes_max
            && used_bytes > max
        {
            let words = format!("{} used, {} allowed", mib(used_bytes), mib(max));
            self.browser_down(index, Failure::new(FailureKind::MemoryLimitExceeded, words));
            return;
        }
        if let Some(live) = self.slots.change_live(index) {
            live.health_mut().uses(used_bytes);
        }
    }
}
