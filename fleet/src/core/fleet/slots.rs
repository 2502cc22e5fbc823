//! What follows when slots are added and removed.

use super::{Fleet, Phase};
use crate::{
    config::Slot,
    core::escalation::Target,
    event::{Action, ModelId, SlotId},
    recovery::{Failure, FailureKind},
};

impl Fleet {
    /// One more browser is desired: it is launched, and models are placed on it.
    pub(super) fn add_slot(&mut self, slot: Slot) {
        self.measurements.add_slot(self.slots.like(&slot));
        let index = self.slots.add(slot);
        if self.phase == Phase::Drained {
            self.slots.change(index).stop();
            return;
        }
        for model in self.assignments.models().collect::<Vec<ModelId>>() {
            self.complete_and_place(model);
        }
        self.record_configuration();
    }

    /// A browser is no longer desired: it is killed at once if it starts, otherwise as soon as it has no runs.
    pub(super) fn remove_slot(&mut self, slot: SlotId, reason: String) {
        let index = slot.0 as usize;
        let is_there = index < self.slots.len() && !self.slots.get(index).is_removed();
        if !is_there || self.phase == Phase::Drained {
            return;
        }
        if let Some(browser) = self.slots.get(index).browser() {
            for model in self.assignments.migrating_to(browser) {
                let failure =
                    Failure::new(FailureKind::BrowserExited, format!("removed: {reason}"));
                self.undo_migration(model, failure);
            }
        }
        self.end_promise(index);
        if let Some(browser) = self.slots.remove(index, reason.clone()) {
            self.order(Action::Kill { browser, reason: format!("removed: {reason}") });
            self.lose_target(browser);
        }
        if self.slots.live(index).is_none() {
            self.end_repair(index, false);
        }
        for model in self.assignments.remove_slot(index) {
            self.journal.assignment_changed(model);
            self.complete_and_place(model);
        }
        for id in self.requests.waiting_for(Target::Slot(index)) {
            self.pass_step(id);
        }
        self.record_configuration();
    }
}
