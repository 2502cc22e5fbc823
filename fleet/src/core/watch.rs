//! Time-outs, probes and limits: what is noticed of a browser that says nothing itself.

use std::mem;

use flotilla_protocol::{Backend, BrowserId, RunId};

use super::{
    Fleet, Phase,
    browsers::{Berth, BrowserState, Live},
    placements::Placement,
};
use crate::{
    event::{Action, Instant},
    recovery::{Failure, FailureKind, FailureSort, Rung},
};

/// Probes in a row that may fail before a browser is repaired; one may have met a busy machine.
const PROBE_FAILURES_MAX: u32 = 2;
/// Above this share of its limit a browser's memory is reason enough to replace it at a good moment.
const MEMORY_SOFT: f64 = 0.85;
/// A browser whose runs lately took this many times longer than usual is replaced at a good moment.
const SLOWNESS_MAX: f64 = 4.0;
/// Runs that must have been measured before slowness counts.
pub(super) const SLOWNESS_JOBS_MIN: u64 = 50;

/// What is to be done about a browser.
enum Finding {
    Replace(Failure),
    Reset(Failure),
    Hedge,
    Probe(Backend),
    ProbeFailed(Failure),
    Recycle(String),
    Recycled,
}

impl Fleet {
    /// Looks at every browser that was touched or whose time has come, and acts on what it finds.
    pub(super) fn watch_browsers(&mut self) {
        for index in self.index.pending(self.now) {
            self.index.touch(index);
            self.suspect(index);
            if let Some(finding) = self.finding(index) {
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
            Finding::ProbeFailed(failure) => self.probe_gave(index, failure),
            Finding::Recycle(reason) => self.recycle(index, reason),
            Finding::Recycled => self.replace_recycled(index),
        }
    }

    /// A browser that missed heartbeats gets no new work, and its requests go elsewhere if they can.
    fn suspect(&mut self, index: usize) {
        let (now, config) = (self.now, &self.config);
        let BrowserState::Ready(live) = &self.berths[index].state else { return };
        if live.heard_at.after(config.suspect_after) > now {
            return;
        }
        // Counted from now, so that a daemon that was itself asleep gives its browsers a chance to be heard.
        let until = now.after(config.heartbeat_timeout.saturating_sub(config.suspect_after));
        let state = &mut self.berths[index].state;
        *state = match mem::take(state) {
            BrowserState::Ready(live) => BrowserState::Suspect { live, until },
            other => other,
        };
        self.index.touch(index);
        self.hedge(index);
    }

    fn finding(&self, index: usize) -> Option<Finding> {
        let (now, config) = (self.now, &self.config);
        let late = |what: String| Failure::new(FailureKind::DeadlineExceeded, what);
        let berth = &self.berths[index];
        match &berth.state {
            BrowserState::Starting { until, .. } if *until <= now => {
                let (what, limit) = match berth.resets {
                    0 => ("start", config.start_timeout),
                    _ => ("new page", config.reset_timeout),
                };
                return Some(Finding::Replace(late(format!("{what}, after {limit:?}"))));
            }
            BrowserState::Suspect { live, until } if *until <= now => {
                let words = format!("no heartbeat for {:?}", now.since(live.heard_at));
                return Some(Finding::Replace(Failure::new(FailureKind::ConnectionLost, words)));
            }
            BrowserState::Starting { .. }
            | BrowserState::Suspect { .. }
            | BrowserState::Ready(_)
            | BrowserState::Wanted
            | BrowserState::Recovering { .. }
            | BrowserState::Retired { .. }
            | BrowserState::Stopped => {}
        }
        let live = berth.state.live()?;
        if let Some(run) = live.runs.front()
            && live.head_since.after(config.run_timeout) <= now
        {
            let words = format!("run {run}, after {:?}", config.run_timeout);
            return Some(Finding::Reset(late(words)));
        }
        let load = live
            .placements
            .values()
            .find(|placement| placement.load_until().is_some_and(|until| until <= now));
        if let Some(load) = load {
            let words =
                format!("load of {} without progress, after {:?}", load.id, config.load_timeout);
            return Some(Finding::Replace(late(words)));
        }
        if let Some((failure, is_run)) = self.trial_overdue(live) {
            return Some(if is_run { Finding::Reset(failure) } else { Finding::Replace(failure) });
        }
        if live.recycling.is_some() && live.runs.is_empty() && live.task.is_none() {
            return Some(Finding::Recycled);
        }
        if self.hedge_at(live).is_some_and(|at| at <= now) {
            return Some(Finding::Hedge);
        }
        self.probe_finding(live).or_else(|| self.recycle_finding(index, berth, live))
    }

    fn probe_finding(&self, live: &Live) -> Option<Finding> {
        match live.probe {
            Some((_, _, until)) if until <= self.now => {
                let words = format!("probe, after {:?}", self.config.probe_timeout);
                Some(Finding::ProbeFailed(Failure::new(FailureKind::DeadlineExceeded, words)))
            }
            Some(_) => None,
            None if self.probe_at(live)? <= self.now => Some(Finding::Probe(probe_backend(live)?)),
            None => None,
        }
    }

    /// Reasons to replace a browser that still works. Only one at a time, and only while others can do its work.
    fn recycle_finding(&self, index: usize, berth: &Berth, live: &Live) -> Option<Finding> {
        let config = &self.config;
        if live.recycling.is_some() || live.task.is_some() || self.phase != Phase::Serving {
            return None;
        }
        let soft = |max: u64| (max as f64 * MEMORY_SOFT) as u64;
        let reason = if config.recycle_jobs.is_some_and(|max| live.jobs >= max) {
            format!("{} runs served", live.jobs)
        } else if config.recycle_age.is_some_and(|age| berth.launched_at.after(age) <= self.now) {
            format!("in use for {:?}", self.now.since(berth.launched_at))
        } else if config.memory_bytes_max.is_some_and(|max| live.used_bytes > soft(max)) {
            format!("{} of memory used", mib(live.used_bytes))
        } else if live.slowness > SLOWNESS_MAX && live.jobs >= SLOWNESS_JOBS_MIN {
            format!("runs take {:.1} times longer than usual", live.slowness)
        } else {
            return None;
        };
        self.others_serve_all(index, live).then_some(Finding::Recycle(reason))
    }

    /// Whether every model that is ready here is ready on another browser too, which is not slower than usual.
    fn others_serve_all(&self, index: usize, live: &Live) -> bool {
        live.placements.iter().filter(|(_, placement)| placement.ready_on().is_some()).all(
            |(&model, _)| {
                self.index.open(model, 0).any(|other| {
                    other != index
                        && self.berths[other]
                            .state
                            .usable()
                            .is_some_and(|other| other.slowness < SLOWNESS_MAX / 2.0)
                })
            },
        )
    }

    /// Sends the requests of a browser that keeps them waiting to others, where others are ready. The browser may still
    /// end its runs; their results are dropped.
    fn hedge(&mut self, index: usize) {
        let now = self.now;
        let Some(live) = self.berth_mut(index).state.live_mut() else { return };
        live.hedged_at = Some(now);
        let browser = live.browser;
        let runs: Vec<RunId> = live.runs.iter().copied().collect();
        let waited = now.since(live.head_since);
        let head = runs.first().copied();
        for id in runs {
            let Some(run) = self.runs.get(&id) else { continue };
            let (model, joined, requests) = (run.model, run.joined, run.requests.clone());
            for request in requests {
                if !self.is_ready_elsewhere(model, request, browser) {
                    continue;
                }
                if head == Some(id) {
                    let words = format!("no answer for {waited:?}");
                    let failure = Failure::new(FailureKind::DeadlineExceeded, words);
                    if self.could_take(request, Rung::Migrate) {
                        self.leave(id, request);
                        self.climb(request, browser, &failure, joined);
                    }
                } else {
                    self.leave(id, request);
                    self.requeue(request);
                }
            }
        }
    }

    /// When the first run of a browser has taken suspiciously long, and its requests are looked at once more after that.
    fn hedge_at(&self, live: &Live) -> Option<Instant> {
        let run = self.runs.get(live.runs.front()?)?;
        if run.requests.is_empty() {
            return None;
        }
        match live.hedged_at {
            Some(at) => Some(at.after(self.config.straggler_min)),
            None => {
                let patience = run.expected.saturating_mul(self.config.straggler_factor);
                Some(live.head_since.after(patience.max(self.config.straggler_min)))
            }
        }
    }

    /// When a browser that runs and loads nothing is to be probed.
    fn probe_at(&self, live: &Live) -> Option<Instant> {
        let waits = live.probe.is_none() && live.is_idle() && probe_backend(live).is_some();
        let interval = match live.probe_failures {
            0 => self.config.probe_interval,
            // Soon again: it decides whether the browser is repaired.
            _ => self.config.probe_interval / 10,
        };
        waits.then(|| live.proved_at.after(interval))
    }

    fn probe(&mut self, index: usize, backend: Backend) {
        self.run_ids += 1;
        let probe = RunId(self.run_ids);
        let until = self.now.after(self.config.probe_timeout);
        let Some(live) = self.berth_mut(index).state.live_mut() else { return };
        live.probe = Some((probe, backend, until));
        let browser = live.browser;
        self.actions.push_back(Action::Probe { browser, backend, probe });
    }

    pub(super) fn probe_done(&mut self, browser: BrowserId, probe: RunId) {
        let Some(index) = self.probed(browser, probe) else { return };
        let now = self.now;
        if let Some(live) = self.berth_mut(index).state.live_mut() {
            live.probe = None;
            Fleet::proved(live, now);
        }
    }

    pub(super) fn probe_failed(&mut self, browser: BrowserId, probe: RunId, failure: Failure) {
        if let Some(index) = self.probed(browser, probe) {
            self.probe_gave(index, failure);
        }
    }

    /// The berth of a probe that is under way.
    fn probed(&self, browser: BrowserId, probe: RunId) -> Option<usize> {
        let &index = self.homes.get(&browser)?;
        let (under_way, ..) = self.berths[index].state.live()?.probe?;
        (under_way == probe).then_some(index)
    }

    fn probe_gave(&mut self, index: usize, failure: Failure) {
        self.distrust(index, &failure);
        let now = self.now;
        let Some(live) = self.berth_mut(index).state.live_mut() else { return };
        let Some((_, backend, _)) = live.probe.take() else { return };
        live.proved_at = now;
        live.probe_failures += 1;
        // Numbers do not get right by asking again.
        let sort = failure.kind.sort();
        if live.probe_failures >= PROBE_FAILURES_MAX || sort == FailureSort::Numbers {
            self.repair(index, None, backend, failure);
        } else if sort == FailureSort::Device {
            self.device_lost(index, backend, failure);
        }
    }

    pub(super) fn memory(&mut self, browser: BrowserId, used_bytes: u64) {
        let Some(&index) = self.homes.get(&browser) else { return };
        if let Some(max) = self.config.memory_bytes_max
            && used_bytes > max
        {
            let words = format!("{} used, {} allowed", mib(used_bytes), mib(max));
            self.browser_down(index, Failure::new(FailureKind::MemoryLimitExceeded, words));
            return;
        }
        if let Some(live) = self.berth_mut(index).state.live_mut() {
            live.used_bytes = used_bytes;
        }
    }

    /// When [`Fleet::watch_browsers`] or [`Fleet::launch_due`] next have something to do for a berth.
    pub(super) fn berth_timeout(&self, berth: &Berth) -> Option<Instant> {
        let (live, heartbeat) = match &berth.state {
            BrowserState::Starting { until, .. } => return Some(*until),
            BrowserState::Recovering { relaunch_at } => return Some(*relaunch_at),
            // A fallback that nobody wants is not woken for.
            BrowserState::Retired { until, .. } => return Some(*until).filter(|&at| at > self.now),
            BrowserState::Wanted | BrowserState::Stopped => return None,
            BrowserState::Ready(live) => (live, live.heard_at.after(self.config.suspect_after)),
            BrowserState::Suspect { live, until } => (live, *until),
        };
        let run = live.runs.front().map(|_| live.head_since.after(self.config.run_timeout));
        let load = live.placements.values().filter_map(Placement::load_until).min();
        let probe = match live.probe {
            Some((_, _, until)) => Some(until),
            None => self.probe_at(live),
        };
        // One that is overdue waits for others to be able to do its work.
        let age = self
            .config
            .recycle_age
            .map(|age| berth.launched_at.after(age))
            .filter(|&at| live.recycling.is_none() && at > self.now);
        let trial = live.trial.as_ref().and_then(|trial| trial.due(self.now));
        [Some(heartbeat), run, load, probe, age, trial, self.hedge_at(live)]
            .into_iter()
            .flatten()
            .min()
    }
}

/// The backend that a probe of a browser is to run on: one that its work runs on.
fn probe_backend(live: &Live) -> Option<Backend> {
    live.placements.values().find_map(Placement::ready_on)
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
