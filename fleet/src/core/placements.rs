//! Models on browsers: on which backend, how far, and what to do when a load fails.

use flotilla_protocol::{Backend, BrowserId, Epoch, PlacementId};

use super::{
    Fleet,
    browsers::{Berth, BrowserState, Live},
};
use crate::{
    config::{Choice, Role, Slot},
    event::{Action, Batching, Instant, ModelId},
    recovery::{Failure, FailureKind},
};

/// Loads of a placement on one browser and backend before the browser is suspected instead.
const LOAD_TRIES_MAX: u32 = 2;

/// A model on a browser.
#[derive(Debug)]
pub(super) struct Placement {
    pub(super) id: PlacementId,
    pub(super) epoch: Epoch,
    pub(super) stage: Stage,
    /// Backends of the slot's preference that will not do here, and why.
    pub(super) refusals: Vec<(Backend, String)>,
}

/// How far a placement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waits until the browser loads nothing else. `tries` counts the loads that failed.
    Waiting { backend: Backend, tries: u32 },
    /// Ordered.
    Loading { backend: Backend, tries: u32, until: Instant },
    /// Loaded by a migration that is not recorded yet: answers nothing.
    Staged { backend: Backend },
    /// Answers runs.
    Ready { backend: Backend },
    /// Gets no more runs and is unloaded when those that it has are ended.
    Leaving { backend: Backend },
    /// No backend of the slot will do.
    Refused,
}

impl Placement {
    /// The backend of a load under way.
    pub(super) fn loading_on(&self) -> Option<Backend> {
        match self.stage {
            Stage::Loading { backend, .. } => Some(backend),
            Stage::Waiting { .. }
            | Stage::Staged { .. }
            | Stage::Ready { .. }
            | Stage::Leaving { .. }
            | Stage::Refused => None,
        }
    }

    /// When a load under way has taken too long.
    pub(super) fn load_until(&self) -> Option<Instant> {
        match self.stage {
            Stage::Loading { until, .. } => Some(until),
            Stage::Waiting { .. }
            | Stage::Staged { .. }
            | Stage::Ready { .. }
            | Stage::Leaving { .. }
            | Stage::Refused => None,
        }
    }

    /// The backend that answers runs.
    pub(super) fn ready_on(&self) -> Option<Backend> {
        match self.stage {
            Stage::Ready { backend } => Some(backend),
            Stage::Waiting { .. }
            | Stage::Loading { .. }
            | Stage::Staged { .. }
            | Stage::Leaving { .. }
            | Stage::Refused => None,
        }
    }

    /// The backend that it is or will be on.
    pub(super) fn backend(&self) -> Option<Backend> {
        match self.stage {
            Stage::Waiting { backend, .. }
            | Stage::Loading { backend, .. }
            | Stage::Staged { backend }
            | Stage::Ready { backend }
            | Stage::Leaving { backend } => Some(backend),
            Stage::Refused => None,
        }
    }

    /// Whether a backend will not do here.
    fn refuses(&self, backend: Backend) -> bool {
        self.refusals.iter().any(|&(refused, _)| refused == backend)
    }

    /// Backends of the slot that may yet do here.
    pub(super) fn fit<'a>(&'a self, slot: &'a Slot) -> impl Iterator<Item = Backend> + 'a {
        slot.backends.iter().copied().filter(|&backend| !self.refuses(backend))
    }

    /// Why the backends that the slot prefers to the present one are not used; where there is none, why all are not.
    pub(super) fn fallback(&self, slot: &Slot) -> Option<String> {
        let present = self.backend();
        let reasons: Vec<String> = slot
            .backends
            .iter()
            .take_while(|&&backend| Some(backend) != present)
            .filter_map(|backend| self.refusals.iter().find(|(refused, _)| refused == backend))
            .map(|(backend, reason)| format!("{backend}: {reason}"))
            .collect();
        match (reasons.is_empty(), present) {
            (false, _) => Some(reasons.join("; ")),
            (true, Some(_)) => None,
            (true, None) => Some("no backends are configured".to_owned()),
        }
    }

    pub(super) fn renew(&mut self, backend: Backend) {
        self.epoch = Epoch(self.epoch.0 + 1);
        self.stage = Stage::Waiting { backend, tries: 0 };
    }
}

/// What a failed load leads to.
enum Reaction {
    NextBackend,
    TryAgain,
}

fn reaction(kind: FailureKind) -> Reaction {
    match kind {
        FailureKind::UnsupportedOperation => Reaction::NextBackend,
        FailureKind::ConnectionLost
        | FailureKind::PageCrashed
        | FailureKind::BrowserExited
        | FailureKind::DriverUnresponsive
        | FailureKind::DeviceLost
        | FailureKind::OutOfMemory
        | FailureKind::DeadlineExceeded
        | FailureKind::MemoryLimitExceeded
        | FailureKind::RunRefused
        | FailureKind::WrongResult
        | FailureKind::Overloaded => Reaction::TryAgain,
    }
}

impl Fleet {
    pub(super) fn add_model(&mut self, model: ModelId, batching: Batching) {
        if self.models.insert(model, batching).is_none() {
            self.plans.entry(model).or_default();
            for index in self.plan(model) {
                self.plan_placement(index, model);
            }
        }
    }

    /// Makes a placement wait for its turn on a berth's browser, if that is up.
    pub(super) fn plan_placement(&mut self, index: usize, model: ModelId) {
        let berth = self.berth_mut(index);
        let Some(live) = berth.state.live() else { return };
        if live.placements.contains_key(&model) {
            return;
        }
        self.placements += 1;
        let berth = &self.berths[index];
        let Some(live) = berth.state.live() else { return };
        let mut placement = Placement {
            id: PlacementId(self.placements),
            epoch: Epoch(1),
            stage: Stage::Refused,
            refusals: unfit_backends(
                &self.config.slots[index],
                berth,
                live,
                model,
                self.config.load_restarts_max,
            ),
        };
        placement.stage = self.first_stage(index, model, &placement);
        self.placed.insert(placement.id, (index, model));
        if let Some(live) = self.berths[index].state.live_mut() {
            live.placements.insert(model, placement);
        }
    }

    /// Starts the next load on every browser that was touched, is ready and loads nothing.
    pub(super) fn place_due(&mut self) {
        for index in self.index.pending(self.now) {
            let BrowserState::Ready(live) = &mut self.berths[index].state else { continue };
            if live.loads() || live.recycling.is_some() {
                continue;
            }
            let browser = live.browser;
            let next =
                live.placements.iter_mut().find_map(|(&model, placement)| match placement.stage {
                    Stage::Waiting { backend, tries } => Some((model, placement, backend, tries)),
                    Stage::Loading { .. }
                    | Stage::Staged { .. }
                    | Stage::Ready { .. }
                    | Stage::Leaving { .. }
                    | Stage::Refused => None,
                });
            if let Some((model, placement, backend, tries)) = next {
                let until = self.now.after(self.config.load_timeout);
                placement.stage = Stage::Loading { backend, tries, until };
                let (placement, epoch) = (placement.id, placement.epoch);
                self.index.touch(index);
                self.actions.push_back(Action::Place { browser, placement, epoch, model, backend });
            }
        }
    }

    pub(super) fn placement_progress(&mut self, browser: BrowserId, id: PlacementId, epoch: Epoch) {
        let limit = self.now.after(self.config.load_timeout);
        if let Some((_, trial)) = self.trial_loading(browser, id, epoch) {
            trial.loads_until(limit);
            return;
        }
        if let Some((_, _, placement)) = self.loading(browser, id, epoch)
            && let Stage::Loading { until, .. } = &mut placement.stage
        {
            *until = limit;
        }
    }

    pub(super) fn placement_ready(&mut self, browser: BrowserId, id: PlacementId, epoch: Epoch) {
        if let Some((index, _)) = self.trial_loading(browser, id, epoch) {
            self.trial_loaded(index);
            return;
        }
        let Some((index, model, placement)) = self.loading(browser, id, epoch) else { return };
        let Some(backend) = placement.loading_on() else { return };
        placement.stage = Stage::Ready { backend };
        let now = self.now;
        let berth = self.berth_mut(index);
        berth.failed_starts = 0;
        berth.load_restarts.remove(&(model, backend));
        if let Some(live) = berth.state.live_mut() {
            live.proven = true;
            // The load's last step was a dispatch.
            live.proved_at = now;
        }
        let settled = berth.state.live().is_some_and(|live| {
            live.placements
                .values()
                .all(|placement| matches!(placement.stage, Stage::Ready { .. } | Stage::Refused))
        });
        if settled {
            self.end_repair(index, true);
        }
        self.trials.open(index, model);
        self.staged(id, index, model, backend);
    }

    pub(super) fn placement_failed(
        &mut self,
        browser: BrowserId,
        id: PlacementId,
        epoch: Epoch,
        failure: Failure,
    ) {
        if let Some((index, _)) = self.trial_loading(browser, id, epoch) {
            self.trial_failed(index, &failure);
            return;
        }
        let Some((index, model, placement)) = self.loading(browser, id, epoch) else { return };
        let Stage::Loading { backend, tries, .. } = placement.stage else { return };
        match reaction(failure.kind) {
            Reaction::NextBackend => {
                placement.refusals.push((backend, failure.to_string()));
                self.use_next_backend(index, model);
                self.migration_failed_on(id, &failure);
            }
            Reaction::TryAgain if tries + 1 < LOAD_TRIES_MAX => {
                placement.renew(backend);
                placement.stage = Stage::Waiting { backend, tries: tries + 1 };
                self.distrust(index, &failure);
            }
            Reaction::TryAgain => self.browser_down(index, failure),
        }
    }

    /// A placement with a load under way on this browser and in this epoch. A report of another epoch is late, one of another
    /// browser's page is not its own: both are dropped.
    fn loading(
        &mut self,
        browser: BrowserId,
        id: PlacementId,
        epoch: Epoch,
    ) -> Option<(usize, ModelId, &mut Placement)> {
        let &(index, model) = self.placed.get(&id)?;
        self.index.touch(index);
        let live = self.berths[index].state.live_mut().filter(|live| live.browser == browser)?;
        let placement = live.placements.get_mut(&model)?;
        if (placement.id, placement.epoch) != (id, epoch) {
            return None;
        }
        placement.loading_on().is_some().then_some((index, model, placement))
    }

    fn use_next_backend(&mut self, index: usize, model: ModelId) {
        self.index.touch(index);
        let live = self.berths[index].state.live();
        let Some(placement) = live.and_then(|live| live.placements.get(&model)) else { return };
        let stage = self.first_stage(index, model, placement);
        self.placements += 1;
        let id = PlacementId(self.placements);
        self.placed.insert(id, (index, model));
        let live = self.berths[index].state.live_mut();
        let Some(placement) = live.and_then(|live| live.placements.get_mut(&model)) else { return };
        self.placed.remove(&placement.id);
        self.journal.placement_gone(placement.id);
        (placement.id, placement.epoch, placement.stage) = (id, Epoch(1), stage);
    }

    /// A placement begins on the backend that was measured to be the fastest, or else on the first of the list.
    pub(super) fn first_stage(&self, index: usize, model: ModelId, placement: &Placement) -> Stage {
        let slot = &self.config.slots[index];
        let known = match slot.choice {
            Choice::First => None,
            Choice::Fastest => self.trials.fastest(index, model, placement.fit(slot)),
        };
        match known.or_else(|| placement.fit(slot).next()) {
            Some(backend) => Stage::Waiting { backend, tries: 0 },
            None => Stage::Refused,
        }
    }

    /// Why no browser runs a model, or ever will, as far as can be known; `None` while there is hope.
    pub(super) fn unplaceable(&self, model: ModelId) -> Option<String> {
        if (0..self.berths.len()).any(|index| self.may_serve(index, model)) {
            return None;
        }
        let reasons: Vec<String> = self
            .config
            .slots
            .iter()
            .zip(&self.berths)
            .filter(|(slot, _)| slot.role == Role::Regular)
            .map(|(slot, berth)| {
                format!("{}: {}", slot.kind, hopeless(slot, berth, model, self.now))
            })
            .collect();
        if reasons.is_empty() {
            return Some("no browsers are configured".to_owned());
        }
        Some(reasons.join("; "))
    }

    /// Whether a slot answers requests of a model or could. One that starts or recovers could: nobody knows yet what its
    /// page offers. One that is ready and does not hold the model could be given it.
    pub(super) fn may_serve(&self, index: usize, model: ModelId) -> bool {
        if self.is_fallback(index) {
            return false;
        }
        match &self.berths[index].state {
            BrowserState::Wanted
            | BrowserState::Starting { .. }
            | BrowserState::Recovering { .. } => true,
            BrowserState::Ready(live) | BrowserState::Suspect { live, .. } => live
                .placements
                .get(&model)
                .is_none_or(|placement| placement.stage != Stage::Refused),
            BrowserState::Retired { .. } | BrowserState::Stopped => false,
        }
    }
}

/// Why a slot that may not serve a model does not.
fn hopeless(slot: &Slot, berth: &Berth, model: ModelId, now: Instant) -> String {
    match &berth.state {
        BrowserState::Retired { failure, until } => format!(
            "{} starts failed, the last one: {failure}; it is tried again in {:?}",
            berth.failed_starts,
            until.since(now)
        ),
        BrowserState::Ready(live) | BrowserState::Suspect { live, .. } => live
            .placements
            .get(&model)
            .and_then(|placement| placement.fallback(slot))
            .unwrap_or_else(|| "not placed".to_owned()),
        BrowserState::Wanted | BrowserState::Starting { .. } | BrowserState::Recovering { .. } => {
            "not started".to_owned()
        }
        BrowserState::Stopped => "stopped".to_owned(),
    }
}

/// The slot's backends that cannot be tried on a browser, and why.
fn unfit_backends(
    slot: &Slot,
    berth: &Berth,
    live: &Live,
    model: ModelId,
    load_restarts_max: u32,
) -> Vec<(Backend, String)> {
    let reason = |backend: Backend| {
        if !live.offered.contains(&backend) {
            let words = live.refused.iter().find(|(refused, _)| *refused == backend);
            return Some(match words {
                Some((_, words)) => format!("not offered by the page: {words}"),
                None => "not offered by the page".to_owned(),
            });
        }
        match berth.load_restarts.get(&(model, backend)) {
            Some((restarts, failure)) if *restarts > load_restarts_max => Some(format!(
                "given up after loading it cost {restarts} browsers, the last one: {failure}"
            )),
            Some(_) | None => super::trials::given_up(berth, model, backend, load_restarts_max),
        }
    };
    slot.backends.iter().filter_map(|&backend| Some((backend, reason(backend)?))).collect()
}
