//! What follows when models are loaded on browsers.

use flotilla_protocol::{BrowserId, Epoch, PlacementId};

use super::Fleet;
use crate::{
    core::{
        placement::{LoadFailed, Placement, Stage},
        slot::BrowserState,
    },
    event::{Action, Batching, ModelId},
    recovery::{Failure, FailureKind},
};

impl Fleet {
    pub(super) fn add_model(&mut self, model: ModelId, batching: Batching) {
        if self.assignments.add_model(model, batching) {
            self.complete_and_place(model);
        }
    }

    /// A model is no longer served: its waiting requests fail, and its placements are unloaded when nothing runs on them.
    pub(super) fn remove_model(&mut self, model: ModelId) {
        let failure = Failure::new(FailureKind::UnsupportedOperation, "the model was removed");
        self.undo_migration(model, failure);
        if !self.assignments.remove_model(model) {
            return;
        }
        self.journal.assignment_changed(model);
        self.measurements.forget_model(model);
        self.speeds.forget_model(model);
        for index in 0..self.slots.len() {
            self.cancel_measurement_of(index, model);
            self.slots.change(index).forget_model(model);
            let Some(placement) = self.slots.placement(index, model) else { continue };
            if placement.ready_on().is_some() {
                if let Some(placement) = self.slots.change_placement(index, model) {
                    placement.leave();
                }
                self.unload_ended(index);
            } else if !placement.is_leaving() {
                // Not ready at this moment, so nothing runs on it.
                self.unplace(index, model);
            }
            // What was waited for may have been this model.
            if self.slots.live(index).is_some_and(|live| live.is_settled()) {
                self.end_repair(index, true);
            }
        }
    }

    /// Makes a placement wait for its turn on a slot's browser, if that is up.
    pub(super) fn place(&mut self, index: usize, model: ModelId) {
        self.slots.touch(index);
        let slot = self.slots.get(index);
        if slot.live().is_none_or(|live| live.placement(model).is_some()) {
            return;
        }
        let refusals = slot.unfit_backends(model, self.config.load_restarts_max);
        let first = self.measurements.first(index, slot.spec(), model, &refusals);
        self.slots.place(index, model, Stage::first(first), refusals);
    }

    /// How a placement begins anew, on the best of the backends that it does not refuse.
    pub(super) fn first_stage(&self, index: usize, model: ModelId, placement: &Placement) -> Stage {
        let slot = self.slots.get(index).spec();
        Stage::first(self.measurements.first(index, slot, model, placement.refusals()))
    }

    /// Starts the next load on every browser that was touched, is ready and loads nothing.
    pub(super) fn load_due(&mut self) {
        for index in self.slots.pending(self.now) {
            let BrowserState::Ready(live) = self.slots.get(index).state() else { continue };
            if live.loads() || live.recycling().is_some() || !live.has_waiting() {
                continue;
            }
            let browser = live.browser();
            let until = self.now.after(self.config.load_timeout);
            let next = self.slots.change_live(index).and_then(|live| live.next_load());
            let Some((model, placement)) = next else { continue };
            let Some(backend) = placement.start_load(until) else { continue };
            let (placement, epoch) = (placement.id(), placement.epoch());
            self.order(Action::Place { browser, placement, epoch, model, backend });
        }
    }

    pub(super) fn placement_progress(&mut self, browser: BrowserId, id: PlacementId, epoch: Epoch) {
        let limit = self.now.after(self.config.load_timeout);
        if let Some(index) = self.measured_load(browser, id, epoch) {
            let live = self.slots.change_live(index);
            if let Some(measurement) = live.and_then(|live| live.measurement_mut()) {
                measurement.load_proceeds(limit);
            }
            return;
        }
        if let Some((index, model)) = self.slots.loading(browser, id, epoch)
            && let Some(placement) = self.slots.change_placement(index, model)
        {
            placement.load_proceeds(limit);
        }
    }

    pub(super) fn placement_ready(&mut self, browser: BrowserId, id: PlacementId, epoch: Epoch) {
        if let Some(index) = self.measured_load(browser, id, epoch) {
            self.measurement_loaded(index);
            return;
        }
        let Some((index, model)) = self.slots.loading(browser, id, epoch) else { return };
        let placement = self.slots.change_placement(index, model);
        let Some(backend) = placement.and_then(Placement::load_succeeded) else { return };
        let slot = self.slots.change(index);
        slot.load_succeeded(model, backend);
        if let Some(live) = slot.live_mut() {
            live.load_succeeded(self.now);
            if live.is_settled() {
                self.end_repair(index, true);
            }
        }
        self.measurements.open(index, model);
        self.migration_loaded(id, index);
    }

    pub(super) fn placement_failed(
        &mut self,
        browser: BrowserId,
        id: PlacementId,
        epoch: Epoch,
        failure: Failure,
    ) {
        if let Some(index) = self.measured_load(browser, id, epoch) {
            self.measurement_failed(index, &failure);
            return;
        }
        let Some((index, model)) = self.slots.loading(browser, id, epoch) else { return };
        let placement = self.slots.change_placement(index, model);
        match placement.and_then(|placement| placement.load_failed(&failure)) {
            Some(LoadFailed::NextBackend) => {
                self.use_next_backend(index, model);
                self.migration_failed_on(id, &failure);
            }
            Some(LoadFailed::TryAgain) => self.slots.change(index).distrust(&failure, self.now),
            Some(LoadFailed::BrowserSuspected) => self.browser_down(index, failure),
            None => {}
        }
    }

    fn use_next_backend(&mut self, index: usize, model: ModelId) {
        let Some(placement) = self.slots.placement(index, model) else { return };
        let stage = self.first_stage(index, model, placement);
        if let Some(old) = self.slots.replace_placement(index, model, stage) {
            self.journal.placement_gone(old);
        }
    }
}
