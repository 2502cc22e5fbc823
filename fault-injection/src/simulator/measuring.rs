//! Plays the measurements by which a core finds the fastest backend, and checks what they cost.

use std::time::Duration;

use flotilla_fleet::{Choice, Event, Failure, FailureKind, ModelId, Repair, recovery};
use flotilla_protocol::{Backend, BrowserId, Epoch, PlacementId, RunId};

use super::{
    faults::What,
    invariants::{Invariant, Violation},
    pages::{PLAYED, RUN_FAILURES},
    pool::{Life, Placed, Stage},
    world::{Core, Occurrence, World},
};

impl<C: Core> World<C> {
    /// A placement runs an input that is made up, between whatever else its page has to do.
    pub(super) fn measure(
        &mut self,
        id: BrowserId,
        placement: PlacementId,
        epoch: Epoch,
        model: ModelId,
        measure: RunId,
    ) -> Result<(), Violation> {
        self.check_served(model, Some(id))?;
        let highest = self.pool.run_highest;
        self.judge
            .holds(Invariant::FreshIds, measure.0 > highest, || format!("{measure} again"))?;
        self.pool.run_highest = measure.0;
        let judge = &mut self.judge;
        let browser =
            judge.some(Invariant::KnownTarget, self.pool.browsers.get_mut(&id), || {
                format!("{id} is measured, which is not there")
            })?;
        let placed = browser.placements.get(&placement).copied();
        let fits = placed.is_some_and(|placed| {
            placed.is_loaded() && (placed.epoch, placed.model) == (epoch, model)
        });
        judge.holds(Invariant::KnownTarget, browser.life == Life::Up && fits, || {
            format!("{measure} is sent to {placement} in {epoch}, which is {placed:?} on {id}")
        })?;
        let slot = self.pool.specs.get(browser.slot.0 as usize);
        let is_chosen =
            slot.is_some_and(|slot| slot.choice == Choice::Fastest && slot.backends.len() > 1);
        judge.holds(Invariant::Available, is_chosen, || {
            format!("{measure} measures on {id}, whose backends are not to be measured")
        })?;
        browser.measures.insert(measure, placement);
        let hangs = self.fault(What::RunHangs);
        let took = self.random.ms(5, 100);
        let now = self.now;
        let Some(browser) = self.pool.browsers.get_mut(&id) else { return Ok(()) };
        browser.stuck |= hangs;
        if browser.stuck {
            return Ok(());
        }
        browser.busy_until = browser.busy_until.max(now).after(took);
        let (page, delay) = (browser.page, browser.busy_until.since(now));
        let event = match self.fault(What::RunFails).then(|| self.random.one_of(&RUN_FAILURES)) {
            Some(Some(kind)) => {
                let failure = Failure::new(kind, PLAYED);
                Event::MeasureFailed { browser: id, measure, failure }
            }
            Some(None) | None => Event::Measured { browser: id, measure, took },
        };
        self.later(delay, Occurrence::Page { browser: id, page, event });
        Ok(())
    }

    /// A run that measures has ended, and the core is about to know.
    pub(super) fn measure_over(
        &mut self,
        id: BrowserId,
        measure: RunId,
        failure: Option<FailureKind>,
    ) {
        let Some(browser) = self.pool.browsers.get_mut(&id) else { return };
        let (Some(placement), Some(kind)) = (browser.measures.remove(&measure), failure) else {
            return;
        };
        let Some(placed) = browser.placements.get_mut(&placement) else { return };
        placed.failed = true;
        match recovery::repair(kind) {
            Repair::RenewDevice => self.lose_device_of(placement),
            Repair::Reload => self.lose_placement(placement),
            // The core orders what follows from these.
            Repair::Nothing | Repair::ResetPage | Repair::Replace => {}
        }
    }

    /// What answers is taken away only for what has been ready, for a migration, or because it has failed or its model was
    /// removed.
    pub(super) fn check_unload(
        &mut self,
        id: BrowserId,
        placement: PlacementId,
        placed: Placed,
    ) -> Result<(), Violation> {
        let moves = self.pool.migrations.get(&placed.model).is_some_and(|&(from, _)| from == id);
        let Some(browser) = self.pool.browsers.get_mut(&id) else { return Ok(()) };
        let mut followed = false;
        for other in browser.placements.values_mut().filter(|other| other.model == placed.model) {
            followed |= other.was_ready;
            if other.stage == Stage::Beside {
                (other.stage, other.beside) = (Stage::Ready, false);
            }
        }
        let answers = placed.stage == Stage::Ready && placed.answers;
        let is_removed = self.pool.removed_models.contains(&placed.model);
        let allowed = !answers || followed || moves || placed.failed || is_removed;
        self.judge.holds(Invariant::Available, allowed, || {
            format!("{placement} is unloaded from {id}, where nothing has taken its place")
        })
    }

    /// What earlier daemons have measured in browsers like this one.
    pub(super) fn known_speeds(&self, browser: BrowserId) -> Vec<Event> {
        let Some(slot) = self.pool.spec(browser) else {
            return Vec::new();
        };
        let known = self.speeds.iter().filter(|((kind, ..), _)| *kind == slot.kind);
        known
            .map(|((_, model, backend), &took)| {
                let (model, backend) = (*model, *backend);
                Event::SpeedKnown { browser, model, backend, took }
            })
            .collect()
    }

    /// A daemon keeps what it has measured, for itself and for those after it; each thing once.
    pub(super) fn keep_speed(
        &mut self,
        id: BrowserId,
        model: ModelId,
        backend: Backend,
        took: Duration,
    ) -> Result<(), Violation> {
        let slot = self.pool.spec(id);
        let slot = self.judge.some(Invariant::KnownTarget, slot, || {
            format!("{id} was measured, which is not there")
        })?;
        let before = self.speeds.insert((slot.kind.clone(), model, backend), took);
        self.judge.holds(Invariant::Available, before.is_none(), || {
            format!("{model:?} was measured again on {backend} of {}", slot.kind)
        })
    }
}
