//! Which backend is the fastest: each that is allowed is measured once, one after the other in the whole fleet, beside
//! whatever answers meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use flotilla_protocol::{Backend, Epoch, PlacementId, RunId};

use super::{
    placement::{Placement, fit},
    status::{Account, By},
};
use crate::{
    config::{Choice, Slot},
    event::{Instant, ModelId},
};

/// Runs of a backend that count. The shortest is the backend's time, because other work of the machine only lengthens runs.
const RUNS: usize = 3;
/// Runs before these: the first one pays for caches.
const WARM_UP: usize = 1;
/// A backend this many times slower than the fastest so far is not run again.
const HOPELESS: u32 = 2;
/// Backends within this share of the fastest count as equal; the configured order decides.
const ALIKE_PERCENT: u32 = 10;
/// Longest wait of a measuring run for a moment in which nothing else runs, starts or loads.
const QUIET_MAX: Duration = Duration::from_secs(5);
/// What the first run on a backend is expected to take: others are asked meanwhile if they can be.
const FIRST_RUN: Duration = Duration::from_secs(1);
/// Placements that are examined after an event, in search of one to be measured.
const SLOTS_AT_ONCE: usize = 8;

/// A backend that is being measured on a browser, or is about to take the place of another one.
#[derive(Debug)]
pub(super) struct Measurement {
    model: ModelId,
    backend: Backend,
    /// The placement that answers, or one beside it.
    placement: PlacementId,
    epoch: Epoch,
    stage: Stage,
    times: Vec<Duration>,
}

#[derive(Debug)]
enum Stage {
    /// Loaded beside the placement that answers.
    Loading { until: Instant },
    /// Waits for a quiet moment, at most until `due`.
    Waiting { due: Instant },
    /// The page is busy with it.
    Running { measure: RunId, until: Instant },
}

/// What a measurement has taken too long for.
pub(super) enum Overdue {
    Load(PlacementId),
    Run(RunId),
}

impl Measurement {
    /// The measurement of a placement that is loaded for it.
    pub(super) fn of_load(
        model: ModelId,
        backend: Backend,
        placement: PlacementId,
        until: Instant,
    ) -> Measurement {
        let stage = Stage::Loading { until };
        Measurement { model, backend, placement, epoch: Epoch(1), stage, times: Vec::new() }
    }

    /// The measurement of the placement that answers.
    pub(super) fn of_present(
        model: ModelId,
        backend: Backend,
        present: &Placement,
        now: Instant,
    ) -> Measurement {
        let stage = Stage::Waiting { due: now.after(QUIET_MAX) };
        let (placement, epoch) = (present.id(), present.epoch());
        Measurement { model, backend, placement, epoch, stage, times: Vec::new() }
    }

    pub(super) fn model(&self) -> ModelId {
        self.model
    }

    pub(super) fn backend(&self) -> Backend {
        self.backend
    }

    pub(super) fn placement(&self) -> PlacementId {
        self.placement
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) fn is_loading(&self) -> bool {
        matches!(self.stage, Stage::Loading { .. })
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running { .. })
    }

    /// Whether a browser failure may be caused by this measurement.
    pub(super) fn is_busy(&self) -> bool {
        self.is_loading() || self.is_running()
    }

    /// Until when it waits for a quiet moment, if it waits.
    pub(super) fn waits_until(&self) -> Option<Instant> {
        match self.stage {
            Stage::Waiting { due } => Some(due),
            Stage::Loading { .. } | Stage::Running { .. } => None,
        }
    }

    /// Whether this run is the one under way.
    pub(super) fn runs_as(&self, id: RunId) -> bool {
        matches!(self.stage, Stage::Running { measure, .. } if measure == id)
    }

    /// When it has waited or taken long enough.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        match self.stage {
            Stage::Loading { until } | Stage::Running { until, .. } => Some(until),
            // After that time it waits for a load to end, which no timer brings.
            Stage::Waiting { due } => Some(due).filter(|&due| due > now),
        }
    }

    pub(super) fn overdue(&self, now: Instant) -> Option<Overdue> {
        match self.stage {
            Stage::Loading { until } if until <= now => Some(Overdue::Load(self.placement)),
            Stage::Running { measure, until } if until <= now => Some(Overdue::Run(measure)),
            Stage::Loading { .. } | Stage::Running { .. } | Stage::Waiting { .. } => None,
        }
    }

    /// How long the page is expected to be busy with it.
    pub(super) fn expected(&self) -> Duration {
        match self.stage {
            Stage::Running { .. } => self.times.last().copied().unwrap_or(FIRST_RUN),
            Stage::Loading { .. } | Stage::Waiting { .. } => Duration::ZERO,
        }
    }

    /// Its load proceeds, so its time-out starts anew.
    pub(super) fn load_proceeds(&mut self, limit: Instant) {
        if let Stage::Loading { until } = &mut self.stage {
            *until = limit;
        }
    }

    /// Waits for a quiet moment to run in.
    pub(super) fn wait(&mut self, now: Instant) {
        self.stage = Stage::Waiting { due: now.after(QUIET_MAX) };
    }

    pub(super) fn run(&mut self, measure: RunId, until: Instant) {
        self.stage = Stage::Running { measure, until };
    }

    /// A run took this long. `best` is what the fastest other backend takes. Gives what the backend takes, once that is
    /// known well enough.
    pub(super) fn ran(
        &mut self,
        took: Duration,
        best: Option<Duration>,
        now: Instant,
    ) -> Option<Duration> {
        self.times.push(took);
        self.wait(now);
        let least = self.times.iter().skip(WARM_UP).min().copied()?;
        let is_hopeless = best.is_some_and(|best| least > best * HOPELESS);
        (self.times.len() >= WARM_UP + RUNS || is_hopeless).then_some(least)
    }
}

/// What is known of backends, and what is yet to be found out.
#[derive(Debug)]
pub(super) struct Measurements {
    /// For each slot the first slot of the same kind and role: they share their measurements.
    classes: Vec<usize>,
    took: BTreeMap<(usize, ModelId, Backend), Duration>,
    /// Models that no input can be made up for.
    unmeasurable: BTreeMap<ModelId, String>,
    /// Placements that may not be on their best backend.
    open: BTreeSet<(usize, ModelId)>,
    /// The slot that has a measurement.
    under_way: Option<usize>,
    /// Where the next look begins.
    cursor: (usize, ModelId),
}

/// What is to be measured or loaded next on a browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The placement stays on its backend.
    Settled,
    /// Another backend is loaded: to be measured, or because it is known to be the fastest.
    Load(Backend),
    /// The one that answers is measured.
    Measure(Backend),
}

impl Measurements {
    pub(super) fn new(slots: &[Slot]) -> Measurements {
        let like = |slot: &Slot| {
            let same = |other: &Slot| (&other.kind, other.role) == (&slot.kind, slot.role);
            slots.iter().position(same).unwrap_or_default()
        };
        Measurements {
            classes: slots.iter().map(like).collect(),
            took: BTreeMap::new(),
            unmeasurable: BTreeMap::new(),
            open: BTreeSet::new(),
            under_way: None,
            cursor: (0, ModelId(0)),
        }
    }

    /// The slot that has a measurement.
    pub(super) fn under_way(&self) -> Option<usize> {
        self.under_way
    }

    /// Some of the placements that may not be on their best backend.
    pub(super) fn candidates(&self) -> Vec<(usize, ModelId)> {
        let from = self.cursor;
        let open = &self.open;
        open.range(from..).chain(open.range(..from)).take(SLOTS_AT_ONCE).copied().collect()
    }

    /// What is to be done about a placement, as far as the backends are concerned.
    pub(super) fn next(
        &self,
        index: usize,
        slot: &Slot,
        model: ModelId,
        placement: &Placement,
    ) -> Next {
        let Some(present) = placement.ready_on() else { return Next::Settled };
        let known = |backend| self.took(index, model, backend).is_some();
        let fit: Vec<Backend> = placement.fit(slot).collect();
        if fit.len() < 2 || !fit.contains(&present) {
            return Next::Settled;
        }
        if !known(present) {
            return Next::Measure(present);
        }
        let unknown = fit.iter().copied().find(|&backend| !known(backend));
        let best = unknown.or_else(|| self.fastest(index, model, fit.into_iter()));
        best.filter(|&best| best != present).map_or(Next::Settled, Next::Load)
    }

    pub(super) fn is_measurable(&self, model: ModelId) -> bool {
        !self.unmeasurable.contains_key(&model)
    }

    fn took(&self, index: usize, model: ModelId, backend: Backend) -> Option<Duration> {
        self.took.get(&(self.classes[index], model, backend)).copied()
    }

    pub(super) fn is_known(&self, index: usize, model: ModelId, backend: Backend) -> bool {
        self.took(index, model, backend).is_some()
    }

    /// What the fastest backend of a slot takes, of those that were measured.
    pub(super) fn best(&self, index: usize, model: ModelId, slot: &Slot) -> Option<Duration> {
        slot.backends.iter().filter_map(|&backend| self.took(index, model, backend)).min()
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

    /// The backend that a placement begins on: the one that was measured to be the fastest, or else the first of the list.
    pub(super) fn first(
        &self,
        index: usize,
        slot: &Slot,
        model: ModelId,
        refusals: &[(Backend, String)],
    ) -> Option<Backend> {
        let known = match slot.choice {
            Choice::First => None,
            Choice::Fastest => self.fastest(index, model, fit(slot, refusals)),
        };
        known.or_else(|| fit(slot, refusals).next())
    }

    /// Why a placement is on its backend.
    pub(super) fn account(
        &self,
        index: usize,
        slot: &Slot,
        model: ModelId,
        placement: &Placement,
    ) -> Account {
        let fit: Vec<Backend> = placement.fit(slot).collect();
        let mut measured: Vec<(Backend, Duration)> = fit
            .iter()
            .filter_map(|&backend| Some((backend, self.took(index, model, backend)?)))
            .collect();
        measured.sort_by_key(|&(_, took)| took);
        let is_fastest = self.fastest(index, model, fit.iter().copied()) == placement.backend();
        let by = match (slot.choice, self.unmeasurable.get(&model)) {
            (Choice::First | Choice::Fastest, _) if fit.len() < 2 => By::Only,
            (Choice::First, _) => By::Order,
            (Choice::Fastest, Some(reason)) => By::Unmeasurable(reason.clone()),
            (Choice::Fastest, None) if measured.len() == fit.len() && is_fastest => By::Speed,
            (Choice::Fastest, None) => By::OrderForNow,
        };
        Account { by, measured, refused: placement.refusals().to_vec() }
    }

    /// One more slot; `like` is the first one of the same kind and role.
    pub(super) fn add_slot(&mut self, like: usize) {
        self.classes.push(like);
    }

    /// A model is no longer served.
    pub(super) fn forget_model(&mut self, model: ModelId) {
        self.took.retain(|&(_, of, _), _| of != model);
        self.unmeasurable.remove(&model);
        self.open.retain(|&(_, of)| of != model);
    }

    /// A placement answers; whether on its best backend is to be seen.
    pub(super) fn open(&mut self, index: usize, model: ModelId) {
        self.open.insert((index, model));
    }

    /// A placement is on its best backend.
    pub(super) fn settled(&mut self, index: usize, model: ModelId) {
        self.open.remove(&(index, model));
    }

    /// A placement cannot be measured now: the next look begins behind it.
    pub(super) fn later(&mut self, index: usize, model: ModelId) {
        self.cursor = (index, ModelId(model.0.saturating_add(1)));
    }

    pub(super) fn begin(&mut self, index: usize) {
        self.under_way = Some(index);
    }

    /// The measurement under way is over, however it ended.
    pub(super) fn end(&mut self) {
        self.under_way = None;
    }

    pub(super) fn learn(&mut self, index: usize, model: ModelId, backend: Backend, took: Duration) {
        self.took.insert((self.classes[index], model, backend), took);
    }

    /// What an earlier daemon has measured; what this one has measured itself is newer.
    pub(super) fn learn_before(
        &mut self,
        index: usize,
        model: ModelId,
        backend: Backend,
        took: Duration,
    ) {
        self.took.entry((self.classes[index], model, backend)).or_insert(took);
    }

    pub(super) fn unmeasurable(&mut self, model: ModelId, reason: String) {
        self.unmeasurable.insert(model, reason);
    }
}
