//! Simulates the measurements by which a core finds the fastest backend, and checks what they cost.

use std::time::Duration;

use flotilla_fleet::{Choice, Event, Failure, FailureKind, ModelId, Repair, recovery};
use flotilla_protocol::{Backend, BrowserId, Epoch, PlacementId, RunId};

use super::{
    Simulation,
    pages::{PLAYED, RUN_FAILURES},
};
use crate::{
    core::Core,
    faults::FaultKind,
    invariants::{Invariant, Violation},
    pool::{BrowserState, Placement, PlacementState},
    schedule::Scheduled,
};

impl<C: Core> Simulation<C> {
    /// A placement runs a made-up input to be measured.
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
        self.checker
            .check(Invariant::FreshIds, measure.0 > highest, || format!("{measure} again"))?;
        self.pool.run_highest = measure.0;
        let checker = &mut self.checker;
        let browser =
            checker.require(Invariant::KnownTarget, self.pool.browsers.get_mut(&id), || {
                format!("{id} is measured, which is not there")
            })?;
        let placed = browser.placements.get(&placement).copied();
        let fits = placed.is_some_and(|placed| {
            placed.is_loaded() && (placed.epoch, placed.model) == (epoch, model)
        });
        checker.check(Invariant::KnownTarget, browser.state == BrowserState::Up && fits, || {
            format!("{measure} is sent to {placement} in {epoch}, which is {placed:?} on {id}")
        })?;
        let slot = self.pool.specs.get(browser.slot.0 as usize);
        let is_chosen =
            slot.is_some_and(|slot| slot.choice == Choice::Fastest && slot.backends.len() > 1);
        checker.check(Invariant::Available, is_chosen, || {
            format!("{measure} measures on {id}, whose backends are not to be measured")
        })?;
        browser.measures.insert(measure, placement);
        let hangs = self.fault(FaultKind::RunHangs);
        let took = self.random.ms(5, 100);
        let now = self.now;
        let Some(browser) = self.pool.browsers.get_mut(&id) else { return Ok(()) };
        browser.stuck |= hangs;
        if browser.stuck {
            return Ok(());
        }
        browser.busy_until = browser.busy_until.max(now).after(took);
        let (page, delay) = (browser.page, browser.busy_until.since(now));
        let event = match self.fault(FaultKind::RunFails).then(|| self.random.one_of(&RUN_FAILURES))
        {
            Some(Some(kind)) => {
                let failure = Failure::new(kind, PLAYED);
                Event::MeasureFailed { browser: id, measure, failure }
            }
            Some(None) | None => Event::Measured { browser: id, measure, took },
        };
        self.schedule_in(delay, Scheduled::PageMessage { browser: id, page, event });
        Ok(())
    }

    /// A measurement has ended; called before the core handles that.
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
            // The core orders these repairs itself.
            Repair::Nothing | Repair::ResetPage | Repair::Replace => {}
        }
    }

    /// A placement that answers is unloaded only if another one of its model has been ready, the model migrates or was removed,
    /// or a measurement failed on it.
    pub(super) fn check_unload(
        &mut self,
        id: BrowserId,
        placement: PlacementId,
        placed: Placement,
    ) -> Result<(), Violation> {
        let moves = self.pool.migrations.get(&placed.model).is_some_and(|&(from, _)| from == id);
        let Some(browser) = self.pool.browsers.get_mut(&id) else { return Ok(()) };
        let mut followed = false;
        for other in browser.placements.values_mut().filter(|other| other.model == placed.model) {
            followed |= other.was_ready;
            if other.state == PlacementState::Beside {
                (other.state, other.beside) = (PlacementState::Ready, false);
            }
        }
        let answers = placed.state == PlacementState::Ready && placed.answers;
        let is_removed = self.pool.removed_models.contains(&placed.model);
        let allowed = !answers || followed || moves || placed.failed || is_removed;
        self.checker.check(Invariant::Available, allowed, || {
            format!("{placement} is unloaded from {id}, where nothing has taken its place")
        })
    }

    /// Speeds that earlier daemons have measured in browsers of this kind.
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

    /// Keeps a measurement for this daemon and later ones; each is made once.
    pub(super) fn keep_speed(
        &mut self,
        id: BrowserId,
        model: ModelId,
        backend: Backend,
        took: Duration,
    ) -> Result<(), Violation> {
        let slot = self.pool.spec(id);
        let slot = self.checker.require(Invariant::KnownTarget, slot, || {
            format!("{id} was measured, which is not there")
        })?;
        let before = self.speeds.insert((slot.kind.clone(), model, backend), took);
        self.checker.check(Invariant::Available, before.is_none(), || {
            format!("{model:?} was measured again on {backend} of {}", slot.kind)
        })
    }
}
