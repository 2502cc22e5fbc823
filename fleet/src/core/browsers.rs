//! The life of a browser: started, taken into use, and replaced when it is of no more use.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    time::Duration,
};

use flotilla_protocol::{Backend, BrowserId, RunId};

use super::{Fleet, Phase, placements::Placement, repair::Repairing, trials::Trial};
use crate::{
    config::Role,
    event::{Action, Instant, ModelId, SlotId, TaskId},
    recovery::{Failure, FailureKind, Repair},
};

/// The wait before a restart doubles up to this.
const RESTART_DELAY_MAX: Duration = Duration::from_secs(60);

/// How long a slot rests after the starts that it may fail in a row; twice as long after each further one, up to the second.
const REST_MIN: Duration = Duration::from_secs(60);
const REST_MAX: Duration = Duration::from_secs(15 * 60);

/// What becomes of a slot over time.
#[derive(Debug, Default)]
pub(super) struct Berth {
    pub(super) state: BrowserState,
    /// When its browser was launched last.
    pub(super) launched_at: Instant,
    /// Starts in a row that led to no ready placement.
    pub(super) failed_starts: u32,
    pub(super) last_failure: Option<Failure>,
    /// When a browser or a run failed here last.
    pub(super) failed_at: Option<Instant>,
    /// Browsers in a row that a load cost, and what happened to the last one.
    pub(super) load_restarts: BTreeMap<(ModelId, Backend), (u32, Failure)>,
    /// Times that a backend failed to be measured, and what happened last.
    pub(super) trials_failed: BTreeMap<(ModelId, Backend), (u32, Failure)>,
    /// New pages that its browser was given since it answered a run last.
    pub(super) resets: u32,
    /// What is being repaired.
    pub(super) repairing: Option<Repairing>,
}

/// The state of a slot's browser.
#[derive(Debug, Default)]
pub(super) enum BrowserState {
    /// Not launched, or not any more, and to be launched as soon as it is needed.
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
    /// Rests after too many failed starts: nothing waits for it. It is launched again at `until`, for whatever kept it from
    /// starting may be over.
    Retired { failure: Failure, until: Instant },
    /// Ended because the fleet was drained.
    Stopped,
}

/// A browser whose page has reported.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) browser: BrowserId,
    pub(super) offered: Vec<Backend>,
    /// Why the page does not offer the others.
    pub(super) refused: Vec<(Backend, String)>,
    pub(super) heard_at: Instant,
    /// One per model, loaded in the models' order.
    pub(super) placements: BTreeMap<ModelId, Placement>,
    /// A backend that is being measured beside what answers, or is about to take its place.
    pub(super) trial: Option<Trial>,
    /// Placements whose place was taken: they get no more runs and are unloaded when those that they have are ended.
    pub(super) left: Vec<Placement>,
    /// In the order of dispatch, which is the order in which the page executes them.
    pub(super) runs: VecDeque<RunId>,
    /// When the first of `runs` became the first: its time-out starts here, not while it waited for others.
    pub(super) head_since: Instant,
    /// When the first of `runs` had taken so long that its requests were sent elsewhere where that could be.
    pub(super) hedged_at: Option<Instant>,
    /// Failed runs since the last one that succeeded.
    pub(super) run_failures: u32,
    pub(super) devices_lost: u32,
    /// A placement has been ready: the start was a success.
    pub(super) proven: bool,
    /// When a run or a probe last showed that it computes.
    pub(super) proved_at: Instant,
    /// A probe under way, and when it has taken too long.
    pub(super) probe: Option<(RunId, Backend, Instant)>,
    pub(super) probe_failures: u32,
    /// Memory of the process tree when it was last told.
    pub(super) used_bytes: u64,
    /// Runs that it has ended.
    pub(super) jobs: u64,
    /// How much slower than usual its runs were lately; 1 where they were as usual.
    pub(super) slowness: f64,
    /// Why it gets no more work and is replaced as soon as it has none.
    pub(super) recycling: Option<String>,
    /// The task that has it for itself, or will as soon as its runs have ended.
    pub(super) task: Option<TaskId>,
}

impl BrowserState {
    pub(super) fn browser(&self) -> Option<BrowserId> {
        match self {
            BrowserState::Starting { browser, .. } => Some(*browser),
            BrowserState::Ready(live) | BrowserState::Suspect { live, .. } => Some(live.browser),
            BrowserState::Wanted
            | BrowserState::Recovering { .. }
            | BrowserState::Retired { .. }
            | BrowserState::Stopped => None,
        }
    }

    pub(super) fn live(&self) -> Option<&Live> {
        match self {
            BrowserState::Ready(live) | BrowserState::Suspect { live, .. } => Some(live),
            BrowserState::Wanted
            | BrowserState::Starting { .. }
            | BrowserState::Recovering { .. }
            | BrowserState::Retired { .. }
            | BrowserState::Stopped => None,
        }
    }

    pub(super) fn live_mut(&mut self) -> Option<&mut Live> {
        match self {
            BrowserState::Ready(live) | BrowserState::Suspect { live, .. } => Some(live),
            BrowserState::Wanted
            | BrowserState::Starting { .. }
            | BrowserState::Recovering { .. }
            | BrowserState::Retired { .. }
            | BrowserState::Stopped => None,
        }
    }

    /// A browser that is ready and not about to be replaced.
    pub(super) fn usable(&self) -> Option<&Live> {
        match self {
            BrowserState::Ready(live) if live.recycling.is_none() => Some(live),
            BrowserState::Ready(_)
            | BrowserState::Wanted
            | BrowserState::Starting { .. }
            | BrowserState::Suspect { .. }
            | BrowserState::Recovering { .. }
            | BrowserState::Retired { .. }
            | BrowserState::Stopped => None,
        }
    }
}

impl Live {
    /// Nothing runs or loads on it.
    pub(super) fn is_idle(&self) -> bool {
        self.runs.is_empty() && !self.loads() && !self.is_measured()
    }

    /// A placement loads on it.
    pub(super) fn loads(&self) -> bool {
        self.placements.values().any(|each| each.loading_on().is_some())
            || self.trial.as_ref().is_some_and(Trial::is_loading)
    }

    /// Its page is busy with a run that measures.
    pub(super) fn is_measured(&self) -> bool {
        self.trial.as_ref().is_some_and(Trial::is_running)
    }
}

impl Fleet {
    /// Launches a browser in every slot whose turn it is.
    pub(super) fn launch_due(&mut self) {
        for index in self.index.pending(self.now) {
            let due = match self.berths[index].state {
                BrowserState::Wanted => self.is_wanted(index),
                BrowserState::Recovering { relaunch_at } => relaunch_at <= self.now,
                BrowserState::Retired { until, .. } => until <= self.now && self.is_wanted(index),
                BrowserState::Starting { .. }
                | BrowserState::Ready(_)
                | BrowserState::Suspect { .. }
                | BrowserState::Stopped => false,
            };
            if due {
                self.launch(index);
            }
        }
        self.refresh();
    }

    fn launch(&mut self, index: usize) {
        self.browsers += 1;
        let browser = BrowserId(self.browsers);
        let (now, until) = (self.now, self.now.after(self.config.start_timeout));
        let berth = self.berth_mut(index);
        berth.state = BrowserState::Starting { browser, until };
        berth.launched_at = now;
        berth.resets = 0;
        self.homes.insert(browser, index);
        self.actions.push_back(Action::Launch { browser, slot: SlotId(index as u32) });
    }

    /// Whether a slot's browser runs only what nothing else can.
    pub(super) fn is_fallback(&self, index: usize) -> bool {
        match self.config.slots[index].role {
            Role::Regular => false,
            Role::Fallback => true,
        }
    }

    /// Whether a slot's browser is to be launched at all.
    pub(super) fn is_wanted(&self, index: usize) -> bool {
        !self.is_fallback(index) || self.queue.wants_fallback()
    }

    pub(super) fn browser_up(
        &mut self,
        browser: BrowserId,
        offered: Vec<Backend>,
        refused: Vec<(Backend, String)>,
    ) {
        let Some(&index) = self.homes.get(&browser) else { return };
        let now = self.now;
        let is_fallback = self.is_fallback(index);
        let berth = self.berth_mut(index);
        if !matches!(berth.state, BrowserState::Starting { .. }) {
            // It has reported before; what it offered then is what its placements were chosen by.
            return;
        }
        berth.state = BrowserState::Ready(Live {
            browser,
            offered,
            refused,
            heard_at: now,
            placements: BTreeMap::new(),
            trial: None,
            left: Vec::new(),
            runs: VecDeque::new(),
            head_since: now,
            hedged_at: None,
            run_failures: 0,
            devices_lost: 0,
            proven: false,
            proved_at: now,
            probe: None,
            probe_failures: 0,
            used_bytes: 0,
            jobs: 0,
            slowness: 1.0,
            recycling: None,
            task: None,
        });
        let models: Vec<ModelId> = self.models.keys().copied().collect();
        for &model in &models {
            self.plan(model);
        }
        for model in models {
            if is_fallback || self.plans.get(&model).is_some_and(|plan| plan.contains(&index)) {
                self.plan_placement(index, model);
            }
        }
        // One that is to hold nothing is as ready as it will be.
        if self.berths[index].state.live().is_some_and(|live| live.placements.is_empty()) {
            self.end_repair(index, true);
        }
    }

    pub(super) fn heartbeat(&mut self, browser: BrowserId) {
        let Some(&index) = self.homes.get(&browser) else { return };
        let now = self.now;
        match &mut self.berths[index].state {
            // Its timer is early now, which costs one look at it.
            BrowserState::Ready(live) => live.heard_at = now,
            BrowserState::Suspect { .. } => {
                let berth = self.berth_mut(index);
                berth.state = match mem::take(&mut berth.state) {
                    BrowserState::Suspect { live, .. } => {
                        BrowserState::Ready(Live { heard_at: now, ..live })
                    }
                    other => other,
                };
            }
            BrowserState::Wanted
            | BrowserState::Starting { .. }
            | BrowserState::Recovering { .. }
            | BrowserState::Retired { .. }
            | BrowserState::Stopped => {}
        }
    }

    /// Ends a browser and arranges for the next one; its runs are lost and their requests climb the ladder.
    pub(super) fn browser_down(&mut self, index: usize, failure: Failure) {
        let (browser, live) = match mem::take(&mut self.berth_mut(index).state) {
            BrowserState::Starting { browser, .. } => (browser, None),
            BrowserState::Ready(live) | BrowserState::Suspect { live, .. } => {
                (live.browser, Some(live))
            }
            other => {
                self.berth_mut(index).state = other;
                return;
            }
        };
        self.homes.remove(&browser);
        self.actions.push_back(Action::Kill { browser, reason: failure.to_string() });
        self.distrust(index, &failure);
        self.begin_repair(index, browser, failure.kind, Repair::Replace);
        let (now, config) = (self.now, &self.config);
        let berth = &mut self.berths[index];
        let was_repair = berth.resets > 0 && live.is_none();
        if !live.as_ref().is_some_and(|live| live.proven) && !was_repair {
            berth.failed_starts += 1;
        }
        berth.state = if berth.failed_starts >= config.restarts_max.max(1) {
            let rests = berth.failed_starts - config.restarts_max.max(1);
            let until = now.after(doubled(REST_MIN, rests, REST_MAX));
            BrowserState::Retired { failure: failure.clone(), until }
        } else {
            let delay = restart_delay(config.restart_delay, berth.failed_starts);
            BrowserState::Recovering { relaunch_at: now.after(delay) }
        };
        if let Some(live) = &live {
            self.blame_load(index, live, &failure);
        }
        self.lose_browser(index, browser, live, &failure);
    }

    /// What follows from the loss of a browser or its page: placements, runs, plans and tasks are dealt with.
    pub(super) fn lose_browser(
        &mut self,
        index: usize,
        browser: BrowserId,
        live: Option<Live>,
        failure: &Failure,
    ) {
        let Some(live) = live else {
            self.leave_plans(index);
            self.lose_target(browser);
            return;
        };
        for placement in live.placements.values().chain(&live.left) {
            self.placed.remove(&placement.id);
            self.journal.placement_gone(placement.id);
        }
        if live.trial.is_some() {
            self.trials.end();
        }
        self.leave_plans(index);
        self.migrations_lost(browser, failure);
        if let Some(task) = live.task {
            self.revoke(task, failure);
        }
        let head = live.runs.front().copied();
        self.lose_runs(live.runs.into(), head, browser, failure);
        self.lose_target(browser);
    }

    /// Remembers the load that a failure has cut off: a model may be what ends its browsers.
    pub(super) fn blame_load(&mut self, index: usize, live: &Live, failure: &Failure) {
        let load_restarts = &mut self.berths[index].load_restarts;
        for (&model, placement) in &live.placements {
            if let Some(backend) = placement.loading_on() {
                let (restarts, last) =
                    load_restarts.entry((model, backend)).or_insert_with(|| (0, failure.clone()));
                *restarts += 1;
                *last = failure.clone();
            }
        }
        if let Some(trial) = live.trial.as_ref().filter(|trial| trial.is_busy()) {
            self.blame_trial(index, (trial.model, trial.backend), failure);
        }
    }

    /// Remembers that something failed on a slot, so that others are preferred for a while.
    pub(super) fn distrust(&mut self, index: usize, failure: &Failure) {
        let now = self.now;
        let berth = self.berth_mut(index);
        berth.failed_at = Some(now);
        berth.last_failure = Some(failure.clone());
    }

    /// Lets a browser finish what it runs and then replaces it.
    pub(super) fn recycle(&mut self, index: usize, reason: String) {
        if self.phase != Phase::Serving {
            return;
        }
        if let Some(live) = self.berth_mut(index).state.live_mut() {
            live.recycling.get_or_insert(reason);
        }
        self.leave_plans(index);
    }

    /// Replaces a browser that was to be recycled and has nothing to do any more. Not a failure.
    pub(super) fn replace_recycled(&mut self, index: usize) {
        let relaunch_at = self.now;
        let live = self.berths[index].state.live();
        let Some(reason) = live.and_then(|live| live.recycling.clone()) else { return };
        let berth = self.berth_mut(index);
        let live = match mem::replace(&mut berth.state, BrowserState::Recovering { relaunch_at }) {
            BrowserState::Ready(live) | BrowserState::Suspect { live, .. } => live,
            other => {
                berth.state = other;
                return;
            }
        };
        let browser = live.browser;
        self.homes.remove(&browser);
        self.actions.push_back(Action::Kill { browser, reason: format!("recycled: {reason}") });
        // It has neither runs nor a task, and a load that is cut off here is nobody's fault.
        let failure = Failure::new(FailureKind::Overloaded, reason);
        self.lose_browser(index, browser, Some(live), &failure);
    }
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
