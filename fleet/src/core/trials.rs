//! Which backend is the fastest: each that is allowed is measured once, one after the other in the whole fleet, beside
//! whatever answers meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use flotilla_protocol::{Backend, BrowserId, Epoch, PlacementId, RunId};

use super::{
    Fleet, Phase,
    browsers::{Berth, BrowserState, Live},
    placements::{Placement, Stage},
    status::{Account, By},
};
use crate::{
    config::{Choice, Slot},
    event::{Action, Instant, ModelId},
    recovery::{Failure, FailureKind, Repair, repair},
};

/// Runs of a backend that count; the shortest stands for it, because whatever else a machine does only adds to a run.
const RUNS: usize = 3;
/// Runs before these: the first one pays for caches.
const WARM_UP: usize = 1;
/// A backend that takes so many times as long as the fastest so far is not run again.
const HOPELESS: u32 = 2;
/// Of backends that take up to so many percent more than the fastest one, the list's first is used.
const ALIKE_PERCENT: u32 = 10;
/// A run that measures waits so long for a moment in which nothing else runs, starts or loads.
const QUIET_MAX: Duration = Duration::from_secs(5);
/// What the first run on a backend is expected to take: others are asked meanwhile if they can be.
const FIRST_RUN: Duration = Duration::from_secs(1);
/// How many berths are looked at after an event for one that has something to be measured.
const BERTHS_AT_ONCE: usize = 8;

/// A backend that is being measured on a browser, or is about to take the place of another one.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) model: ModelId,
    pub(super) backend: Backend,
    /// The placement that answers, or one beside it.
    pub(super) placement: PlacementId,
    epoch: Epoch,
    stage: TrialStage,
    times: Vec<Duration>,
}

#[derive(Debug)]
enum TrialStage {
    /// Loaded beside the placement that answers.
    Loading { until: Instant },
    /// Waits for a quiet moment, at most until `due`.
    Waiting { due: Instant },
    /// The page is busy with it.
    Running { measure: RunId, until: Instant },
}

impl Trial {
    pub(super) fn is_loading(&self) -> bool {
        matches!(self.stage, TrialStage::Loading { .. })
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.stage, TrialStage::Running { .. })
    }

    /// Whether what befalls the browser may be its doing.
    pub(super) fn is_busy(&self) -> bool {
        self.is_loading() || self.is_running()
    }

    pub(super) fn loads_until(&mut self, limit: Instant) {
        if let TrialStage::Loading { until } = &mut self.stage {
            *until = limit;
        }
    }

    /// When it has waited or taken long enough.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        match self.stage {
            TrialStage::Loading { until } | TrialStage::Running { until, .. } => Some(until),
            // One that is overdue waits for a load to end, not for time.
            TrialStage::Waiting { due } => Some(due).filter(|&due| due > now),
        }
    }

    /// How long the page is expected to be busy with it.
    pub(super) fn expected(&self) -> Duration {
        match self.stage {
            TrialStage::Running { .. } => self.times.last().copied().unwrap_or(FIRST_RUN),
            TrialStage::Loading { .. } | TrialStage::Waiting { .. } => Duration::ZERO,
        }
    }
}

/// What is known of backends, and what is yet to be found out.
#[derive(Debug)]
pub(super) struct Trials {
    /// For each slot the first one that is like it: what is measured in one browser is true of all like it.
    classes: Vec<usize>,
    measured: BTreeMap<(usize, ModelId, Backend), Duration>,
    /// Models that no input can be made up for.
    unmeasurable: BTreeMap<ModelId, String>,
    /// Placements that may not be on their best backend.
    open: BTreeSet<(usize, ModelId)>,
    /// The berth that has a trial.
    under_way: Option<usize>,
    /// Where the next look begins.
    cursor: (usize, ModelId),
}

impl Trials {
    pub(super) fn new(slots: &[Slot]) -> Trials {
        let like = |slot: &Slot| {
            let same = |other: &Slot| (&other.kind, other.role) == (&slot.kind, slot.role);
            slots.iter().position(same).unwrap_or_default()
        };
        Trials {
            classes: slots.iter().map(like).collect(),
            measured: BTreeMap::new(),
            unmeasurable: BTreeMap::new(),
            open: BTreeSet::new(),
            under_way: None,
            cursor: (0, ModelId(0)),
        }
    }

    /// A placement answers; whether on its best backend is to be seen.
    pub(super) fn open(&mut self, index: usize, model: ModelId) {
        self.open.insert((index, model));
    }

    /// The trial under way is over, however it ended.
    pub(super) fn end(&mut self) {
        self.under_way = None;
    }

    fn took(&self, index: usize, model: ModelId, backend: Backend) -> Option<Duration> {
        self.measured.get(&(self.classes[index], model, backend)).copied()
    }

    /// Of the backends that were measured the one to be used. They come in the order of the slot's list.
    pub(super) fn fastest(
        &self,
        index: usize,
        model: ModelId,
        backends: impl Iterator<Item = Backend>,
    ) -> Option<Backend> {
        let known: Vec<(Backend, Duration)> = backends
            .filter_map(|backend| Some((backend, self.took(index, model, backend)?)))
            .collect();
        let least = known.iter().map(|&(_, took)| took).min()?;
        let alike = least * (100 + ALIKE_PERCENT) / 100;
        known.into_iter().find(|&(_, took)| took <= alike).map(|(backend, _)| backend)
    }
}

/// What is to be done about a placement.
enum Next {
    /// It is where it is to be.
    Settled,
    /// Nothing at this moment.
    Later,
    /// Another backend is loaded: to be measured, or because it is known to be the fastest.
    Load(Backend),
    /// The one that answers is measured.
    Measure(Backend),
}

impl Fleet {
    /// Goes on with the trial under way, or begins one.
    pub(super) fn advance_trials(&mut self) {
        if self.phase != Phase::Serving {
            return;
        }
        match self.trials.under_way {
            Some(index) => self.advance_trial(index),
            None => self.begin_trial(),
        }
    }

    fn begin_trial(&mut self) {
        let from = self.trials.cursor;
        let open = &self.trials.open;
        let some: Vec<(usize, ModelId)> =
            open.range(from..).chain(open.range(..from)).take(BERTHS_AT_ONCE).copied().collect();
        for (index, model) in some {
            match self.next_trial(index, model) {
                Next::Settled => {
                    self.trials.open.remove(&(index, model));
                }
                Next::Later => self.trials.cursor = (index, ModelId(model.0.saturating_add(1))),
                Next::Load(backend) => return self.load_trial(index, model, backend),
                Next::Measure(backend) => return self.measure_present(index, model, backend),
            }
        }
    }

    fn next_trial(&self, index: usize, model: ModelId) -> Next {
        let slot = &self.config.slots[index];
        let live = match &self.berths[index].state {
            BrowserState::Ready(live) => live,
            BrowserState::Suspect { .. } => return Next::Later,
            // Whatever is ready on the next one is looked at then.
            BrowserState::Wanted
            | BrowserState::Starting { .. }
            | BrowserState::Recovering { .. }
            | BrowserState::Retired { .. }
            | BrowserState::Stopped => return Next::Settled,
        };
        let Some(placement) = live.placements.get(&model) else { return Next::Settled };
        let Some(present) = placement.ready_on() else { return Next::Settled };
        if slot.choice == Choice::First || self.trials.unmeasurable.contains_key(&model) {
            return Next::Settled;
        }
        let loads = |each: &Placement| matches!(each.stage, Stage::Waiting { .. });
        let moves = self.migrations.contains_key(&model);
        let busy = live.loads() || live.placements.values().any(loads) || !live.left.is_empty();
        if busy || moves || live.task.is_some() || live.recycling.is_some() {
            return Next::Later;
        }
        let known = |backend| self.trials.took(index, model, backend).is_some();
        let fit: Vec<Backend> = placement.fit(slot).collect();
        if fit.len() < 2 || !fit.contains(&present) {
            return Next::Settled;
        }
        if !known(present) {
            return Next::Measure(present);
        }
        let unknown = fit.iter().copied().find(|&backend| !known(backend));
        let best = unknown.or_else(|| self.trials.fastest(index, model, fit.into_iter()));
        best.filter(|&best| best != present).map_or(Next::Settled, Next::Load)
    }

    fn load_trial(&mut self, index: usize, model: ModelId, backend: Backend) {
        self.placements += 1;
        let placement = PlacementId(self.placements);
        let (epoch, until) = (Epoch(1), self.now.after(self.config.load_timeout));
        let Some(live) = self.berth_mut(index).state.live_mut() else { return };
        let stage = TrialStage::Loading { until };
        live.trial = Some(Trial { model, backend, placement, epoch, stage, times: Vec::new() });
        let browser = live.browser;
        self.trials.under_way = Some(index);
        self.actions.push_back(Action::Place { browser, placement, epoch, model, backend });
    }

    fn measure_present(&mut self, index: usize, model: ModelId, backend: Backend) {
        let due = self.now.after(QUIET_MAX);
        let Some(live) = self.berth_mut(index).state.live_mut() else { return };
        let Some(Placement { id, epoch, .. }) = live.placements.get(&model) else { return };
        let (placement, epoch) = (*id, *epoch);
        let stage = TrialStage::Waiting { due };
        live.trial = Some(Trial { model, backend, placement, epoch, stage, times: Vec::new() });
        self.trials.under_way = Some(index);
        self.advance_trial(index);
    }

    /// Runs the next measurement if the moment is good.
    fn advance_trial(&mut self, index: usize) {
        let Some(live) = self.berths[index].state.live() else { return };
        let Some(Trial { model, stage: TrialStage::Waiting { due }, .. }) = &live.trial else {
            return;
        };
        let (model, due) = (*model, *due);
        let answers = live.placements.get(&model).is_some_and(|each| each.ready_on().is_some());
        if !answers || live.task.is_some() || live.recycling.is_some() {
            return self.cancel_trial(index);
        }
        let is_ready = matches!(self.berths[index].state, BrowserState::Ready(_));
        if !is_ready || live.loads() || (due > self.now && !self.is_quiet()) {
            return;
        }
        // Behind a run that hangs it is not what hangs.
        let limit = self.config.run_timeout;
        let limit = if live.runs.is_empty() { limit } else { limit * 2 };
        self.run_ids += 1;
        let (measure, until) = (RunId(self.run_ids), self.now.after(limit));
        let Some(live) = self.berth_mut(index).state.live_mut() else { return };
        let browser = live.browser;
        let Some(trial) = &mut live.trial else { return };
        trial.stage = TrialStage::Running { measure, until };
        let Trial { placement, epoch, .. } = *trial;
        self.actions.push_back(Action::Measure { browser, placement, epoch, model, measure });
    }

    /// Nothing runs, starts or loads anywhere: what is measured now is the backend and not its neighbours.
    fn is_quiet(&self) -> bool {
        self.runs.is_empty()
            && self.berths.iter().all(|berth| match &berth.state {
                BrowserState::Starting { .. } => false,
                BrowserState::Ready(live) | BrowserState::Suspect { live, .. } => !live.loads(),
                BrowserState::Wanted
                | BrowserState::Recovering { .. }
                | BrowserState::Retired { .. }
                | BrowserState::Stopped => true,
            })
    }

    /// A trial that loads, in this life.
    pub(super) fn trial_loading(
        &mut self,
        browser: BrowserId,
        id: PlacementId,
        epoch: Epoch,
    ) -> Option<(usize, &mut Trial)> {
        let index = self.trials.under_way?;
        self.index.touch(index);
        let live = self.berths[index].state.live_mut().filter(|live| live.browser == browser)?;
        let trial = live.trial.as_mut()?;
        let is_it = trial.is_loading() && (trial.placement, trial.epoch) == (id, epoch);
        is_it.then_some((index, trial))
    }

    pub(super) fn trial_loaded(&mut self, index: usize) {
        let (now, due) = (self.now, self.now.after(QUIET_MAX));
        let Some(live) = self.berth_mut(index).state.live_mut() else { return };
        live.proved_at = now;
        let Some(trial) = &mut live.trial else { return };
        trial.stage = TrialStage::Waiting { due };
        let (model, backend) = (trial.model, trial.backend);
        if self.trials.took(index, model, backend).is_some() {
            self.conclude(index);
        }
    }

    pub(super) fn measured(&mut self, browser: BrowserId, measure: RunId, took: Duration) {
        let Some(index) = self.trial_running(browser, measure) else { return };
        let (now, due) = (self.now, self.now.after(QUIET_MAX));
        let Some(live) = self.berth_mut(index).state.live_mut() else { return };
        Fleet::proved(live, now);
        let Some(trial) = &mut live.trial else { return };
        trial.times.push(took);
        trial.stage = TrialStage::Waiting { due };
        let (model, backend) = (trial.model, trial.backend);
        let count = trial.times.len();
        let Some(least) = trial.times.iter().skip(WARM_UP).min().copied() else { return };
        let slot = &self.config.slots[index];
        let others =
            slot.backends.iter().filter_map(|&other| self.trials.took(index, model, other));
        let hopeless = others.min().is_some_and(|best| least > best * HOPELESS);
        if count < WARM_UP + RUNS && !hopeless {
            return;
        }
        self.trials.measured.insert((self.trials.classes[index], model, backend), least);
        self.actions.push_back(Action::Keep { browser, model, backend, took: least });
        self.conclude(index);
    }

    fn trial_running(&self, browser: BrowserId, id: RunId) -> Option<usize> {
        let &index = self.homes.get(&browser)?;
        let trial = self.berths[index].state.live()?.trial.as_ref()?;
        matches!(trial.stage, TrialStage::Running { measure, .. } if measure == id).then_some(index)
    }

    /// A backend is known now: it takes the place of the one that answers, or goes.
    fn conclude(&mut self, index: usize) {
        let Some(trial) = self.take_trial(index) else { return };
        let slot = &self.config.slots[index];
        let Some(live) = self.berths[index].state.live() else { return };
        let browser = live.browser;
        let present = live.placements.get(&trial.model);
        if present.is_some_and(|present| present.id == trial.placement) {
            return;
        }
        let is_better = present.is_some_and(|present| {
            let fastest = self.trials.fastest(index, trial.model, present.fit(slot));
            present.ready_on().is_some() && fastest == Some(trial.backend)
        });
        if !is_better {
            self.actions.push_back(Action::Unload { browser, placement: trial.placement });
            return;
        }
        let Trial { model, backend, placement: id, epoch, .. } = trial;
        self.berth_mut(index).load_restarts.remove(&(model, backend));
        self.succeed(index, model, |old| Placement {
            id,
            epoch,
            stage: Stage::Ready { backend },
            refusals: old.refusals.clone(),
        });
    }

    /// Puts a placement into the place of another one, which is unloaded when its runs have ended.
    fn succeed(
        &mut self,
        index: usize,
        model: ModelId,
        successor: impl FnOnce(&Placement) -> Placement,
    ) {
        let Some(live) = self.berth_mut(index).state.live_mut() else { return };
        let Some(present) = live.placements.get_mut(&model) else { return };
        let successor = successor(present);
        let id = successor.id;
        let mut old = std::mem::replace(present, successor);
        if let Some(backend) = old.ready_on() {
            old.stage = Stage::Leaving { backend };
        }
        live.left.push(old);
        self.placed.insert(id, (index, model));
        self.unload_left(index);
    }

    /// A backend that could not be measured is tried again, and then will not do.
    pub(super) fn trial_failed(&mut self, index: usize, failure: &Failure) {
        let Some(trial) = self.take_trial(index) else { return };
        let was_load = trial.is_loading();
        let Trial { model, backend, placement, .. } = trial;
        self.blame_trial(index, (model, backend), failure);
        self.distrust(index, failure);
        let given_up = if failure.kind.is_refusal() {
            Some(failure.to_string())
        } else {
            given_up(&self.berths[index], model, backend, self.config.load_restarts_max)
        };
        let Some(live) = self.berths[index].state.live() else { return };
        let browser = live.browser;
        let present = live.placements.get(&model);
        let is_present = present.is_some_and(|present| present.id == placement);
        if !is_present {
            self.actions.push_back(Action::Unload { browser, placement });
        }
        match repair(failure.kind) {
            Repair::Reload if !is_present => {}
            // What answers beside it need not suffer for a load.
            Repair::ResetPage | Repair::Replace if was_load => {}
            Repair::Nothing
            | Repair::Reload
            | Repair::RenewDevice
            | Repair::ResetPage
            | Repair::Replace => self.repair(index, Some(model), backend, failure.clone()),
        }
        // A repair may have ended the page; the next one's placements know what failed.
        let live = self.berths[index].state.live_mut();
        let present = live.and_then(|live| live.placements.get_mut(&model));
        if let (Some(present), Some(reason)) = (present, given_up) {
            present.refusals.push((backend, reason));
            if is_present {
                self.give_way(index, model);
            }
        }
    }

    /// What answers will not do, and the next backend is loaded in its place.
    fn give_way(&mut self, index: usize, model: ModelId) {
        let live = self.berths[index].state.live();
        let Some(present) = live.and_then(|live| live.placements.get(&model)) else { return };
        let (stage, refusals) = (self.first_stage(index, model, present), present.refusals.clone());
        self.placements += 1;
        let id = PlacementId(self.placements);
        self.succeed(index, model, |_| Placement { id, epoch: Epoch(1), stage, refusals });
    }

    pub(super) fn measure_failed(&mut self, browser: BrowserId, measure: RunId, failure: &Failure) {
        if let Some(index) = self.trial_running(browser, measure) {
            self.trial_failed(index, failure);
        }
    }

    /// What is loaded beside is lost with its device.
    pub(super) fn lose_trial(&mut self, index: usize, backend: Backend, failure: &Failure) {
        let Some(live) = self.berths[index].state.live() else { return };
        let Some(trial) = live.trial.as_ref().filter(|trial| trial.backend == backend) else {
            return;
        };
        let (browser, placement, model) = (live.browser, trial.placement, trial.model);
        let is_present = live.placements.get(&model).is_some_and(|each| each.id == placement);
        self.take_trial(index);
        if !is_present {
            self.blame_trial(index, (model, backend), failure);
            self.actions.push_back(Action::Unload { browser, placement });
        }
    }

    pub(super) fn cancel_trial_of(&mut self, index: usize, model: ModelId) {
        let trial = self.berths[index].state.live().and_then(|live| live.trial.as_ref());
        if trial.is_some_and(|trial| trial.model == model) {
            self.cancel_trial(index);
        }
    }

    /// The trial ends as if it had not begun.
    fn cancel_trial(&mut self, index: usize) {
        let Some(Trial { model, placement, .. }) = self.take_trial(index) else { return };
        let Some(live) = self.berths[index].state.live() else { return };
        if live.placements.get(&model).is_none_or(|present| present.id != placement) {
            let browser = live.browser;
            self.actions.push_back(Action::Unload { browser, placement });
        }
    }

    fn take_trial(&mut self, index: usize) -> Option<Trial> {
        let trial = self.berth_mut(index).state.live_mut()?.trial.take()?;
        self.trials.end();
        Some(trial)
    }

    /// Remembers a trial that failed, or that something failed on.
    pub(super) fn blame_trial(&mut self, index: usize, of: (ModelId, Backend), failure: &Failure) {
        let failed = &mut self.berth_mut(index).trials_failed;
        let (times, last) = failed.entry(of).or_insert_with(|| (0, failure.clone()));
        *times += 1;
        *last = failure.clone();
    }

    /// What a trial has taken too long for, and whether that is a run.
    pub(super) fn trial_overdue(&self, live: &Live) -> Option<(Failure, bool)> {
        let trial = live.trial.as_ref()?;
        let late = |words: String| Failure::new(FailureKind::DeadlineExceeded, words);
        match trial.stage {
            TrialStage::Loading { until } if until <= self.now => {
                let limit = self.config.load_timeout;
                let words =
                    format!("load of {} without progress, after {limit:?}", trial.placement);
                Some((late(words), false))
            }
            TrialStage::Running { measure, until } if until <= self.now => {
                let limit = self.config.run_timeout;
                Some((late(format!("run {measure}, which measures, after {limit:?}")), true))
            }
            TrialStage::Loading { .. }
            | TrialStage::Running { .. }
            | TrialStage::Waiting { .. } => None,
        }
    }

    pub(super) fn unmeasurable(&mut self, model: ModelId, reason: String) {
        self.trials.unmeasurable.insert(model, reason);
        if let Some(index) = self.trials.under_way {
            self.cancel_trial_of(index, model);
        }
    }

    pub(super) fn speed_known(
        &mut self,
        browser: BrowserId,
        model: ModelId,
        backend: Backend,
        took: Duration,
    ) {
        let Some(&index) = self.homes.get(&browser) else { return };
        // What this daemon has measured itself is newer.
        self.trials.measured.entry((self.trials.classes[index], model, backend)).or_insert(took);
    }

    /// Why a placement is on its backend.
    pub(super) fn account_of(
        &self,
        index: usize,
        model: ModelId,
        placement: &Placement,
    ) -> Account {
        let slot = &self.config.slots[index];
        let fit: Vec<Backend> = placement.fit(slot).collect();
        let mut measured: Vec<(Backend, Duration)> = fit
            .iter()
            .filter_map(|&backend| Some((backend, self.trials.took(index, model, backend)?)))
            .collect();
        measured.sort_by_key(|&(_, took)| took);
        let is_fastest =
            self.trials.fastest(index, model, fit.iter().copied()) == placement.backend();
        let by = match (slot.choice, self.trials.unmeasurable.get(&model)) {
            (Choice::First | Choice::Fastest, _) if fit.len() < 2 => By::Only,
            (Choice::First, _) => By::Order,
            (Choice::Fastest, Some(reason)) => By::Unmeasurable(reason.clone()),
            (Choice::Fastest, None) if measured.len() == fit.len() && is_fastest => By::Speed,
            (Choice::Fastest, None) => By::OrderForNow,
        };
        Account { by, measured, refused: placement.refusals.clone() }
    }
}

/// Why a backend is not tried any more, if it failed too often while it was measured.
pub(super) fn given_up(
    berth: &Berth,
    model: ModelId,
    backend: Backend,
    failures_max: u32,
) -> Option<String> {
    let (times, failure) = berth.trials_failed.get(&(model, backend))?;
    (*times > failures_max).then(|| {
        format!("given up after it failed to be measured {times} times, the last time: {failure}")
    })
}
