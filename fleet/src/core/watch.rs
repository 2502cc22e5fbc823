//! What is wrong with a browser that reports nothing itself, found from time-outs, probes and limits.

use flotilla_protocol::Backend;

use super::{
    live::Live,
    measurements::Overdue,
    placement::Placement,
    runs::Runs,
    slot::{BrowserState, SlotState},
    slots::Slots,
};
use crate::{
    config::Config,
    event::Instant,
    recovery::{Failure, FailureKind},
};

/// Above this share of its limit a browser's memory is reason enough to replace it at a good moment.
const MEMORY_SOFT: f64 = 0.85;
/// A browser whose runs lately took this many times longer than usual is replaced at a good moment.
const SLOWNESS_MAX: f64 = 4.0;
/// Runs that must have been measured before slowness counts.
const SLOWNESS_JOBS_MIN: u64 = 50;

/// What is to be done about a browser.
pub(super) enum Finding {
    Replace(Failure),
    Reset(Failure),
    /// Its requests are to go to other browsers where these are ready.
    Hedge,
    Probe(Backend),
    ProbeFailed(Failure),
    /// It is to be replaced at a good moment.
    Recycle(String),
    /// It was to be replaced, and has nothing to do any more.
    Recycled,
}

/// Looks at browsers, and changes nothing.
pub(super) struct Watch<'a> {
    pub(super) now: Instant,
    pub(super) config: &'a Config,
    /// Whether browsers may be recycled: not while the fleet ends.
    pub(super) may_recycle: bool,
    pub(super) slots: &'a Slots,
    pub(super) runs: &'a Runs,
}

impl Watch<'_> {
    pub(super) fn finding(&self, index: usize) -> Option<Finding> {
        let (now, config) = (self.now, self.config);
        let slot = self.slots.get(index);
        match slot.state() {
            BrowserState::Starting { until, .. } if *until <= now => {
                let (what, limit) = match slot.resets() {
                    0 => ("start", config.start_timeout),
                    _ => ("new page", config.reset_timeout),
                };
                return Some(Finding::Replace(late(format!("{what}, after {limit:?}"))));
            }
            BrowserState::Suspect { live, until } if *until <= now => {
                let words =
                    format!("no heartbeat for {:?}", now.since(live.health().heartbeat_at()));
                return Some(Finding::Replace(Failure::new(FailureKind::ConnectionLost, words)));
            }
            BrowserState::Starting { .. }
            | BrowserState::Suspect { .. }
            | BrowserState::Ready(_)
            | BrowserState::Wanted
            | BrowserState::Recovering { .. }
            | BrowserState::Retired { .. }
            | BrowserState::Stopped
            | BrowserState::Removed => {}
        }
        let live = slot.live()?;
        if let Some(run) = live.runs().head()
            && live.runs().head_since().after(config.run_timeout) <= now
        {
            let words = format!("run {run}, after {:?}", config.run_timeout);
            return Some(Finding::Reset(late(words)));
        }
        let overdue_load = live
            .placements()
            .find(|(_, placement)| placement.load_until().is_some_and(|until| until <= now));
        if let Some((_, load)) = overdue_load {
            let words =
                format!("load of {} without progress, after {:?}", load.id(), config.load_timeout);
            return Some(Finding::Replace(late(words)));
        }
        match live.measurement().and_then(|measurement| measurement.overdue(now)) {
            Some(Overdue::Load(placement)) => {
                let limit = config.load_timeout;
                let words = format!("load of {placement} without progress, after {limit:?}");
                return Some(Finding::Replace(late(words)));
            }
            Some(Overdue::Run(run)) => {
                let words = format!("run {run}, which measures, after {:?}", config.run_timeout);
                return Some(Finding::Reset(late(words)));
            }
            None => {}
        }
        // A lease keeps a browser that is to be recycled, but not one whose slot was removed.
        let is_kept = live.lease().is_some() && !slot.is_removed();
        if live.recycling().is_some() && live.runs().is_empty() && !is_kept {
            return Some(Finding::Recycled);
        }
        if hedge_at(live, config, self.runs).is_some_and(|at| at <= now) {
            return Some(Finding::Hedge);
        }
        self.probe_finding(live).or_else(|| self.recycle_finding(index, slot, live))
    }

    fn probe_finding(&self, live: &Live) -> Option<Finding> {
        match live.health().probe() {
            Some(probe) if probe.until <= self.now => {
                let words = format!("probe, after {:?}", self.config.probe_timeout);
                Some(Finding::ProbeFailed(late(words)))
            }
            Some(_) => None,
            None if probe_at(live, self.config)? <= self.now => {
                Some(Finding::Probe(live.probe_backend()?))
            }
            None => None,
        }
    }

    /// Reasons to replace a browser that still works. Only one at a time, and only while others can do its work.
    fn recycle_finding(&self, index: usize, slot: &SlotState, live: &Live) -> Option<Finding> {
        let config = self.config;
        if live.recycling().is_some() || live.lease().is_some() || !self.may_recycle {
            return None;
        }
        let health = live.health();
        let soft = |max: u64| (max as f64 * MEMORY_SOFT) as u64;
        let reason = if config.recycle_jobs.is_some_and(|max| health.jobs() >= max) {
            format!("{} runs served", health.jobs())
        } else if config.recycle_age.is_some_and(|age| slot.launched_at().after(age) <= self.now) {
            format!("in use for {:?}", self.now.since(slot.launched_at()))
        } else if config.memory_bytes_max.is_some_and(|max| health.used_bytes() > soft(max)) {
            format!("{} of memory used", mib(health.used_bytes()))
        } else if health.slowness() > SLOWNESS_MAX && health.jobs() >= SLOWNESS_JOBS_MIN {
            format!("runs take {:.1} times longer than usual", health.slowness())
        } else {
            return None;
        };
        self.others_serve_all(index, live).then_some(Finding::Recycle(reason))
    }

    /// Whether every model that is ready here is ready on another browser too, which is not slower than usual.
    fn others_serve_all(&self, index: usize, live: &Live) -> bool {
        live.placements().filter(|(_, placement)| placement.ready_on().is_some()).all(
            |(model, _)| {
                self.slots.open(model, 0).any(|other| {
                    other != index
                        && self
                            .slots
                            .get(other)
                            .usable()
                            .is_some_and(|other| other.health().slowness() < SLOWNESS_MAX / 2.0)
                })
            },
        )
    }
}

/// When a slot next needs a look or a launch.
pub(super) fn next_due(
    slot: &SlotState,
    now: Instant,
    config: &Config,
    runs: &Runs,
) -> Option<Instant> {
    let (live, heartbeat) = match slot.state() {
        BrowserState::Starting { until, .. } => return Some(*until),
        BrowserState::Recovering { relaunch_at } => return Some(*relaunch_at),
        // A fallback that nobody wants is not woken for.
        BrowserState::Retired { until, .. } => return Some(*until).filter(|&at| at > now),
        BrowserState::Wanted | BrowserState::Stopped | BrowserState::Removed => return None,
        BrowserState::Ready(live) => {
            (live, live.health().heartbeat_at().after(config.suspect_after))
        }
        BrowserState::Suspect { live, until } => (live, *until),
    };
    let run = live.runs().head().map(|_| live.runs().head_since().after(config.run_timeout));
    let load = live.placements().filter_map(|(_, each)| Placement::load_until(each)).min();
    let probe = match live.health().probe() {
        Some(probe) => Some(probe.until),
        None => probe_at(live, config),
    };
    // After that time it waits until others can do its work, which no timer brings.
    let age = config
        .recycle_age
        .map(|age| slot.launched_at().after(age))
        .filter(|&at| live.recycling().is_none() && at > now);
    let measurement = live.measurement().and_then(|measurement| measurement.due(now));
    [Some(heartbeat), run, load, probe, age, measurement, hedge_at(live, config, runs)]
        .into_iter()
        .flatten()
        .min()
}

/// When the first run of a browser has taken suspiciously long, and its requests are looked at once more after that.
fn hedge_at(live: &Live, config: &Config, runs: &Runs) -> Option<Instant> {
    let run = runs.get(live.runs().head()?)?;
    if run.requests.is_empty() {
        return None;
    }
    match live.runs().hedged_at() {
        Some(at) => Some(at.after(config.straggler_min)),
        None => {
            let patience = run.expected.saturating_mul(config.straggler_factor);
            Some(live.runs().head_since().after(patience.max(config.straggler_min)))
        }
    }
}

/// When a browser that runs and loads nothing is to be probed.
fn probe_at(live: &Live, config: &Config) -> Option<Instant> {
    let health = live.health();
    let waits = health.probe().is_none() && live.is_idle() && live.probe_backend().is_some();
    let interval = match health.probe_failures() {
        0 => config.probe_interval,
        // Soon again: it decides whether the browser is repaired.
        _ => config.probe_interval / 10,
    };
    waits.then(|| health.proved_at().after(interval))
}

fn late(what: String) -> Failure {
    Failure::new(FailureKind::DeadlineExceeded, what)
}

pub(super) fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
