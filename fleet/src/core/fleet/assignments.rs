//! What follows when models are assigned to slots and move between browsers.

use flotilla_protocol::{BrowserId, PlacementId};

use super::Fleet;
use crate::{
    event::{Action, ModelId},
    recovery::{Failure, FailureKind},
};

impl Fleet {
    /// Gives a model the slots that it lacks; gives the new ones.
    pub(super) fn complete_assignment(&mut self, model: ModelId) -> Vec<usize> {
        let redundancy = self.config.redundancy_factor;
        let Some(chosen) = self.assignments.complete(model, &self.slots, redundancy) else {
            return Vec::new();
        };
        self.journal.assignment_changed(model);
        chosen
    }

    /// Gives a model the slots that it lacks, and places it there.
    pub(super) fn complete_and_place(&mut self, model: ModelId) {
        for index in self.complete_assignment(model) {
            self.place(index, model);
        }
    }

    /// A slot's browser is gone or about to go: models that need not wait for its next one are assigned elsewhere.
    pub(super) fn leave_assignments(&mut self, index: usize) {
        if self.config.redundancy_factor.is_none() || self.slots.get(index).is_fallback() {
            return;
        }
        let models: Vec<ModelId> = self.assignments.models().collect();
        for model in models {
            if self.assignments.leave(model, index, &self.slots) {
                self.complete_and_place(model);
            }
        }
    }

    /// Begins to move a model.
    pub(super) fn migrate(&mut self, model: ModelId, from: BrowserId, to: BrowserId) {
        let index = match self.migration_target(model, from, to) {
            Ok(index) => index,
            Err(failure) => {
                let failure = Some(failure);
                self.order(Action::Migrated { model, from, to, failure });
                return;
            }
        };
        self.place(index, model);
        let Some(placement) = self.slots.placement(index, model) else { return };
        let is_refused = placement.is_refused();
        self.assignments.begin_migration(model, from, to, placement.id());
        if is_refused {
            let words = "no backend of the browser runs the model";
            self.undo_migration(model, Failure::new(FailureKind::UnsupportedOperation, words));
        }
    }

    fn migration_target(
        &self,
        model: ModelId,
        from: BrowserId,
        to: BrowserId,
    ) -> Result<usize, Failure> {
        let refused = |words: &str| Err(Failure::new(FailureKind::UnsupportedOperation, words));
        if self.assignments.migrates(model) {
            return refused("a migration of the model is in progress already");
        }
        let from = self.slots.home(from).and_then(|index| self.slots.placement(index, model));
        if from.is_none_or(|placement| placement.ready_on().is_none()) {
            return refused("the model is not ready on the browser to migrate from");
        }
        let Some(index) = self.slots.home(to) else {
            return refused("the browser to migrate to does not exist");
        };
        match self.slots.get(index).usable() {
            Some(live) if live.placement(model).is_none() => Ok(index),
            Some(_) => refused("the browser to migrate to has the model already"),
            None => refused("the browser to migrate to is not ready"),
        }
    }

    /// A placement has been loaded; one of a migration answers only once the new assignment is recorded.
    pub(super) fn migration_loaded(&mut self, id: PlacementId, index: usize) {
        let Some((model, migration)) = self.assignments.migration_of(id) else { return };
        if let Some(placement) = self.slots.change_placement(index, model) {
            placement.withhold();
        }
        let from = self.slots.home(migration.from);
        let slots = self.assignments.slots_after(model, from, index);
        match self.journal.record_migration(model, slots) {
            Ok(transaction) => {
                self.assignments.migration_recorded_by(model, transaction.id);
                self.order(Action::Commit(transaction));
            }
            Err(conflict) => {
                let failure = Failure::new(FailureKind::Overloaded, conflict.to_string());
                self.undo_migration(model, failure);
            }
        }
    }

    /// The new assignment is recorded: the new placement answers, the old one goes.
    pub(super) fn finish_migration(&mut self, model: ModelId) {
        let home = |browser| self.slots.home(browser);
        let Some(migration) = self.assignments.finish_migration(model, home) else { return };
        let (from, to) = (migration.from, migration.to);
        if let Some(index) = self.slots.home(to)
            && self.slots.placement(index, model).is_some_and(|each| each.backend().is_some())
        {
            if let Some(placement) = self.slots.change_placement(index, model) {
                placement.answer();
            }
            self.measurements.open(index, model);
        }
        if let Some(index) = self.slots.home(from) {
            let placement = self.slots.placement(index, model);
            if placement.is_some_and(|each| each.ready_on().is_some()) {
                if let Some(placement) = self.slots.change_placement(index, model) {
                    placement.leave();
                }
                self.unload_ended(index);
            } else {
                // Not ready at this moment, so nothing runs on it.
                self.unplace(index, model);
            }
        }
        self.order(Action::Migrated { model, from, to, failure: None });
    }

    /// Leaves everything as it was before a migration.
    pub(super) fn undo_migration(&mut self, model: ModelId, failure: Failure) {
        // A new assignment that is still being recorded is followed by a record of the old one as soon as it is confirmed.
        let Some(migration) = self.assignments.undo_migration(model) else { return };
        let (from, to) = (migration.from, migration.to);
        if let Some(index) = self.slots.home(to) {
            self.unplace(index, model);
        }
        self.order(Action::Migrated { model, from, to, failure: Some(failure) });
    }

    /// A placement failed to load; if it was a migration's, that is over.
    pub(super) fn migration_failed_on(&mut self, id: PlacementId, failure: &Failure) {
        if let Some((model, _)) = self.assignments.migration_of(id) {
            self.undo_migration(model, failure.clone());
        }
    }

    /// Unloads placements that get no more runs and have none any more.
    pub(super) fn unload_ended(&mut self, index: usize) {
        for model in self.slots.ended_placements(index, &self.runs) {
            self.unplace(index, model);
        }
        let Some(browser) = self.slots.live(index).map(|live| live.browser()) else { return };
        for placement in self.slots.take_left(index, &self.runs) {
            self.journal.placement_gone(placement);
            self.order(Action::Unload { browser, placement });
        }
    }

    pub(super) fn unplace(&mut self, index: usize, model: ModelId) {
        self.cancel_measurement_of(index, model);
        if let Some((browser, placement)) = self.slots.unplace(index, model) {
            self.journal.placement_gone(placement);
            self.order(Action::Unload { browser, placement });
        }
    }
}
