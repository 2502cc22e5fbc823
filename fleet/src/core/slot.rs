//! One slot over time: its browser, what failed there, and its repair.

use std::{collections::BTreeMap, mem, time::Duration};

use flotilla_protocol::{Backend, BrowserId};

use super::{live::Live, placement::Placement};
use crate::{
    config::{Config, Role, Slot},
    event::{Instant, ModelId},
    recovery::{Failure, FailureKind, Repair},
};

/// The wait before a restart doubles up to this.
const RESTART_DELAY_MAX: Duration = Duration::from_secs(60);

/// Rest of a slot after the last failed start that `restarts_max` allows, and the longest rest. It doubles with each further
/// failed start.
const REST_MIN: Duration = Duration::from_secs(60);
const REST_MAX: Duration = Duration::from_secs(15 * 60);

/// New pages that a browser may need between two answers before it is replaced.
const RESETS_MAX: u32 = 1;

/// A slot, the state of its browser, and what is remembered from one browser to the next.
#[derive(Debug)]
pub(super) struct SlotState {
    spec: Slot,
    state: BrowserState,
    launched_at: Instant,
    /// Starts in a row that led to no ready placement.
    failed_starts: u32,
    last_failure: Option<Failure>,
    /// When a browser or a run failed here last.
    failed_at: Option<Instant>,
    /// Browsers in a row that failed during a load, and the last failure.
    load_failures: BTreeMap<(ModelId, Backend), (u32, Failure)>,
    /// Measurements of a backend that failed, and the last failure.
    measure_failures: BTreeMap<(ModelId, Backend), (u32, Failure)>,
    /// New pages that its browser was given since it answered a run last.
    resets: u32,
    repair: Option<RepairUnderWay>,
    /// Why the slot is no longer desired. Its browser may still have runs.
    removal: Option<String>,
}

/// The state of a slot's browser.
#[derive(Debug, Default)]
pub(super) enum BrowserState {
    /// There is none; one is launched as soon as it is needed.
    #[default]
    Wanted,
    /// Launched, or given a new page; its page has not reported yet.
    Starting { browser: BrowserId, until: Instant },
    /// Loads and runs models.
    Ready(Live),
    /// Missed heartbeats: gets no new work, and is replaced at `until`.
    Suspect { live: Live, until: Instant },
    /// Its last browser is gone; the next one is launched at `relaunch_at`.
    Recovering { relaunch_at: Instant },
    /// Rests after too many failed starts: nothing waits for it. It is launched again at `until`, because the cause may be
    /// over by then.
    Retired { failure: Failure, until: Instant },
    /// Ended because the fleet was drained.
    Stopped,
    /// Ended because the slot was removed.
    Removed,
}

/// A repair under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct RepairUnderWay {
    pub(super) browser: BrowserId,
    pub(super) failure: FailureKind,
    pub(super) repair: Repair,
    pub(super) since: Instant,
}

impl BrowserState {
    fn live(&self) -> Option<&Live> {
        match self {
            BrowserState::Ready(live) | BrowserState::Suspect { live, .. } => Some(live),
            BrowserState::Wanted
            | BrowserState::Starting { .. }
            | BrowserState::Recovering { .. }
            | BrowserState::Retired { .. }
            | BrowserState::Stopped
            | BrowserState::Removed => None,
        }
    }

    /// Name as in records.
    pub(super) fn name(&self) -> &'static str {
        match self {
            BrowserState::Wanted => "wanted",
            BrowserState::Starting { .. } => "starting",
            BrowserState::Ready(_) => "ready",
            BrowserState::Suspect { .. } => "suspect",
            BrowserState::Recovering { .. } => "recovering",
            BrowserState::Retired { .. } => "retired",
            BrowserState::Stopped => "stopped",
            BrowserState::Removed => "removed",
        }
    }
}

/// What can be read of a slot.
impl SlotState {
    pub(super) fn new(spec: Slot) -> SlotState {
        SlotState {
            spec,
            state: BrowserState::default(),
            launched_at: Instant::default(),
            failed_starts: 0,
            last_failure: None,
            failed_at: None,
            load_failures: BTreeMap::new(),
            measure_failures: BTreeMap::new(),
            resets: 0,
            repair: None,
            removal: None,
        }
    }

    pub(super) fn spec(&self) -> &Slot {
        &self.spec
    }

    pub(super) fn state(&self) -> &BrowserState {
        &self.state
    }

    pub(super) fn browser(&self) -> Option<BrowserId> {
        match &self.state {
            BrowserState::Starting { browser, .. } => Some(*browser),
            BrowserState::Ready(live) | BrowserState::Suspect { live, .. } => Some(live.browser()),
            BrowserState::Wanted
            | BrowserState::Recovering { .. }
            | BrowserState::Retired { .. }
            | BrowserState::Stopped
            | BrowserState::Removed => None,
        }
    }

    /// A browser whose page has reported.
    pub(super) fn live(&self) -> Option<&Live> {
        self.state.live()
    }

    /// A browser that is ready and not about to be replaced.
    pub(super) fn usable(&self) -> Option<&Live> {
        match &self.state {
            BrowserState::Ready(live) if live.recycling().is_none() => Some(live),
            BrowserState::Ready(_)
            | BrowserState::Wanted
            | BrowserState::Starting { .. }
            | BrowserState::Suspect { .. }
            | BrowserState::Recovering { .. }
            | BrowserState::Retired { .. }
            | BrowserState::Stopped
            | BrowserState::Removed => None,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, BrowserState::Ready(_))
    }

    pub(super) fn is_starting(&self) -> bool {
        matches!(self.state, BrowserState::Starting { .. })
    }

    /// Whether its browser is a simulated one, which runs only what nothing else can.
    pub(super) fn is_fallback(&self) -> bool {
        match self.spec.role {
            Role::Regular => false,
            Role::Fallback => true,
        }
    }

    /// Whether a browser is to be launched now.
    pub(super) fn is_due(&self, now: Instant, wants_fallback: bool) -> bool {
        let is_needed = !self.is_fallback() || wants_fallback;
        match self.state {
            BrowserState::Wanted => is_needed,
            BrowserState::Recovering { relaunch_at } => relaunch_at <= now,
            BrowserState::Retired { until, .. } => until <= now && is_needed,
            BrowserState::Starting { .. }
            | BrowserState::Ready(_)
            | BrowserState::Suspect { .. }
            | BrowserState::Stopped
            | BrowserState::Removed => false,
        }
    }

    /// Whether it answers requests of a model or could. One that starts or recovers could: nobody knows yet what its page
    /// offers. One that is ready and does not hold the model could be given it.
    pub(super) fn may_serve(&self, model: ModelId) -> bool {
        if self.is_fallback() || self.is_removed() {
            return false;
        }
        match &self.state {
            BrowserState::Wanted
            | BrowserState::Starting { .. }
            | BrowserState::Recovering { .. } => true,
            BrowserState::Ready(live) | BrowserState::Suspect { live, .. } => {
                live.placement(model).is_none_or(|placement| !placement.is_refused())
            }
            BrowserState::Retired { .. } | BrowserState::Stopped | BrowserState::Removed => false,
        }
    }

    /// Models that its browser could take a run of, from whoever asks.
    pub(super) fn open_for(&self, runs_in_flight_max: u32) -> Vec<ModelId> {
        let Some(live) = self.usable().filter(|live| live.lease().is_none()) else {
            return Vec::new();
        };
        if live.runs().len() >= runs_in_flight_max as usize || self.is_fallback() {
            return Vec::new();
        }
        let is_ready = |(_, placement): &(ModelId, &Placement)| placement.ready_on().is_some();
        live.placements().filter(is_ready).map(|(model, _)| model).collect()
    }

    /// Why it does not serve a model that it may not serve.
    pub(super) fn why_unplaceable(&self, model: ModelId, now: Instant) -> String {
        match &self.state {
            BrowserState::Retired { failure, until } => format!(
                "{} starts failed, the last one: {failure}; it is tried again in {:?}",
                self.failed_starts,
                until.since(now)
            ),
            BrowserState::Ready(live) | BrowserState::Suspect { live, .. } => live
                .placement(model)
                .and_then(|placement| placement.fallback(&self.spec))
                .unwrap_or_else(|| "not placed".to_owned()),
            BrowserState::Wanted
            | BrowserState::Starting { .. }
            | BrowserState::Recovering { .. } => "not started".to_owned(),
            BrowserState::Stopped => "stopped".to_owned(),
            BrowserState::Removed => "removed".to_owned(),
        }
    }

    /// Backends of the slot that cannot be tried on its present browser, and why.
    pub(super) fn unfit_backends(
        &self,
        model: ModelId,
        failures_max: u32,
    ) -> Vec<(Backend, String)> {
        let Some(live) = self.live() else { return Vec::new() };
        let reason = |backend: Backend| {
            if let Some(reason) = live.not_offered(backend) {
                return Some(reason);
            }
            match self.load_failures.get(&(model, backend)) {
                Some((browsers, failure)) if *browsers > failures_max => Some(format!(
                    "not tried again: {browsers} browsers failed while they loaded it, the last one: {failure}"
                )),
                Some(_) | None => self.measuring_given_up(model, backend, failures_max),
            }
        };
        self.spec.backends.iter().filter_map(|&backend| Some((backend, reason(backend)?))).collect()
    }

    /// Why a backend is not tried any more, if it failed too often while it was measured.
    pub(super) fn measuring_given_up(
        &self,
        model: ModelId,
        backend: Backend,
        failures_max: u32,
    ) -> Option<String> {
        let (times, failure) = self.measure_failures.get(&(model, backend))?;
        (*times > failures_max).then(|| {
            format!(
                "not tried again: it failed to be measured {times} times, the last time: {failure}"
            )
        })
    }

    pub(super) fn launched_at(&self) -> Instant {
        self.launched_at
    }

    pub(super) fn failed_starts(&self) -> u32 {
        self.failed_starts
    }

    pub(super) fn last_failure(&self) -> Option<&Failure> {
        self.last_failure.as_ref()
    }

    /// When a browser or a run failed here last.
    pub(super) fn failed_at(&self) -> Option<Instant> {
        self.failed_at
    }

    /// New pages that its browser was given since it answered a run last.
    pub(super) fn resets(&self) -> u32 {
        self.resets
    }

    /// Whether a new page would not help. A browser that never worked is better started from nothing, and that of a removed
    /// slot is to end.
    pub(super) fn needs_new_browser(&self) -> bool {
        self.resets >= RESETS_MAX || !self.live().is_some_and(Live::is_proven) || self.is_removed()
    }

    /// Whether it is no longer desired. Its browser may still have runs.
    pub(super) fn is_removed(&self) -> bool {
        self.removal.is_some()
    }

    /// Why it is no longer desired.
    pub(super) fn removal(&self) -> Option<&str> {
        self.removal.as_deref()
    }

    /// The browser that a repair was begun for.
    pub(super) fn repaired_browser(&self) -> Option<BrowserId> {
        self.repair.map(|repair| repair.browser)
    }
}

/// What changes a slot.
impl SlotState {
    pub(super) fn live_mut(&mut self) -> Option<&mut Live> {
        match &mut self.state {
            BrowserState::Ready(live) | BrowserState::Suspect { live, .. } => Some(live),
            BrowserState::Wanted
            | BrowserState::Starting { .. }
            | BrowserState::Recovering { .. }
            | BrowserState::Retired { .. }
            | BrowserState::Stopped
            | BrowserState::Removed => None,
        }
    }

    pub(super) fn launch(&mut self, browser: BrowserId, now: Instant, until: Instant) {
        self.state = BrowserState::Starting { browser, until };
        self.launched_at = now;
        self.resets = 0;
    }

    /// Its page has reported. False for one that has reported before: its placements were chosen by what it offered then.
    pub(super) fn up(
        &mut self,
        offered: Vec<Backend>,
        refused: Vec<(Backend, String)>,
        now: Instant,
    ) -> bool {
        let BrowserState::Starting { browser, .. } = self.state else { return false };
        self.state = BrowserState::Ready(Live::new(browser, offered, refused, now));
        true
    }

    /// A sign of life has ended the suspicion.
    pub(super) fn trust(&mut self, now: Instant) {
        self.state = match mem::take(&mut self.state) {
            BrowserState::Suspect { mut live, .. } => {
                live.health_mut().heartbeat(now);
                BrowserState::Ready(live)
            }
            other => other,
        };
    }

    /// It has missed heartbeats: it gets no new work, and is replaced at `until`.
    pub(super) fn suspect(&mut self, until: Instant) {
        self.state = match mem::take(&mut self.state) {
            BrowserState::Ready(live) => BrowserState::Suspect { live, until },
            other => other,
        };
    }

    /// Ends its browser because of a failure; gives that browser and what was there. The next one is launched after a
    /// delay, or after a rest where too many starts failed in a row.
    pub(super) fn end(
        &mut self,
        failure: &Failure,
        now: Instant,
        config: &Config,
    ) -> Option<(BrowserId, Option<Live>)> {
        let (browser, live) = match mem::take(&mut self.state) {
            BrowserState::Starting { browser, .. } => (browser, None),
            BrowserState::Ready(live) | BrowserState::Suspect { live, .. } => {
                (live.browser(), Some(live))
            }
            other => {
                self.state = other;
                return None;
            }
        };
        self.distrust(failure, now);
        let was_repair = self.resets > 0 && live.is_none();
        if !live.as_ref().is_some_and(Live::is_proven) && !was_repair {
            self.failed_starts += 1;
        }
        let starts_max = config.restarts_max.max(1);
        self.state = if self.is_removed() {
            BrowserState::Removed
        } else if self.failed_starts >= starts_max {
            let until = now.after(doubled(REST_MIN, self.failed_starts - starts_max, REST_MAX));
            BrowserState::Retired { failure: failure.clone(), until }
        } else {
            let delay = restart_delay(config.restart_delay, self.failed_starts);
            BrowserState::Recovering { relaunch_at: now.after(delay) }
        };
        if let Some(live) = &live {
            self.blame_load(live, failure);
        }
        Some((browser, live))
    }

    /// Waits for a new page of the same browser; gives what the old page held.
    pub(super) fn reset(
        &mut self,
        failure: &Failure,
        now: Instant,
        until: Instant,
    ) -> Option<Live> {
        let live = match mem::take(&mut self.state) {
            BrowserState::Ready(live) | BrowserState::Suspect { live, .. } => live,
            other => {
                self.state = other;
                return None;
            }
        };
        self.state = BrowserState::Starting { browser: live.browser(), until };
        self.resets += 1;
        self.distrust(failure, now);
        self.blame_load(&live, failure);
        Some(live)
    }

    /// Ends a browser that was to be recycled. Not a failure, so the next one is launched at once, unless the slot was
    /// removed.
    pub(super) fn recycle(&mut self, now: Instant) -> Option<Live> {
        let next = match self.is_removed() {
            true => BrowserState::Removed,
            false => BrowserState::Recovering { relaunch_at: now },
        };
        match mem::replace(&mut self.state, next) {
            BrowserState::Ready(live) | BrowserState::Suspect { live, .. } => Some(live),
            other => {
                self.state = other;
                None
            }
        }
    }

    /// The fleet ends; gives the browser that is to be killed.
    pub(super) fn stop(&mut self) -> Option<BrowserId> {
        let browser = self.browser();
        self.state = match self.is_removed() {
            true => BrowserState::Removed,
            false => BrowserState::Stopped,
        };
        browser
    }

    /// It is no longer desired. A browser that is up gets no more work; one that starts is given, to be killed.
    pub(super) fn remove(&mut self, reason: String) -> Option<BrowserId> {
        if let Some(live) = self.live_mut() {
            live.recycle(reason.clone());
        }
        self.removal = Some(reason);
        if self.live().is_some() {
            return None;
        }
        let browser = self.browser();
        self.state = BrowserState::Removed;
        browser
    }

    /// A model is no longer served, so its failures need not be remembered.
    pub(super) fn forget_model(&mut self, model: ModelId) {
        self.load_failures.retain(|&(of, _), _| of != model);
        self.measure_failures.retain(|&(of, _), _| of != model);
    }

    /// Remembers that something failed here, so that other slots are preferred for a while.
    pub(super) fn distrust(&mut self, failure: &Failure, now: Instant) {
        self.failed_at = Some(now);
        self.last_failure = Some(failure.clone());
    }

    /// Remembers the load or measurement that a failure has cut off: a model may be what ends its browsers.
    fn blame_load(&mut self, live: &Live, failure: &Failure) {
        for (model, placement) in live.placements() {
            if let Some(backend) = placement.loading_on() {
                count(&mut self.load_failures, (model, backend), failure);
            }
        }
        if let Some(measurement) = live.measurement().filter(|each| each.is_busy()) {
            self.measuring_failed(measurement.model(), measurement.backend(), failure);
        }
    }

    pub(super) fn measuring_failed(&mut self, model: ModelId, backend: Backend, failure: &Failure) {
        count(&mut self.measure_failures, (model, backend), failure);
    }

    /// A load on its browser has ended with success, so the start has too.
    pub(super) fn load_succeeded(&mut self, model: ModelId, backend: Backend) {
        self.failed_starts = 0;
        self.forgive_load(model, backend);
    }

    pub(super) fn forgive_load(&mut self, model: ModelId, backend: Backend) {
        self.load_failures.remove(&(model, backend));
    }

    /// Its browser has answered a run.
    pub(super) fn answered(&mut self) {
        self.resets = 0;
    }

    /// A repair has begun; gives one that was under way and has not helped.
    pub(super) fn begin_repair(&mut self, repair: RepairUnderWay) -> Option<RepairUnderWay> {
        self.repair.replace(repair)
    }

    /// Gives the repair that has ended, if one was under way.
    pub(super) fn end_repair(&mut self) -> Option<RepairUnderWay> {
        self.repair.take()
    }
}

fn count(
    failures: &mut BTreeMap<(ModelId, Backend), (u32, Failure)>,
    of: (ModelId, Backend),
    failure: &Failure,
) {
    let (times, last) = failures.entry(of).or_insert_with(|| (0, failure.clone()));
    *times += 1;
    *last = failure.clone();
}

/// Nothing after a success, then the configured delay, doubled with each further failed start up to a limit.
fn restart_delay(first: Duration, failed_starts: u32) -> Duration {
    match failed_starts.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => doubled(first, doublings, RESTART_DELAY_MAX.max(first)),
    }
}

/// A delay that was doubled so often, up to a limit.
fn doubled(first: Duration, doublings: u32, max: Duration) -> Duration {
    let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(max)
}
