//! Which slots hold a model, and which models move from one browser to another.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_protocol::{BrowserId, PlacementId};

use super::slots::Slots;
use crate::{
    event::{Batching, ModelId, SlotId},
    state::TransactionId,
};

/// A model on its way to another browser. It is loaded there, then the new assignment is recorded, then the old placement
/// goes; whatever fails before that is recorded leaves everything as it was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Migration {
    pub(super) from: BrowserId,
    pub(super) to: BrowserId,
    pub(super) placement: PlacementId,
    /// The new assignment's, once it is being recorded.
    transaction: Option<TransactionId>,
}

/// Every model, the slots that hold it or will, and migrations.
#[derive(Debug, Default)]
pub(super) struct Assignments {
    models: BTreeMap<ModelId, Batching>,
    /// Models that are no longer served.
    removed: BTreeSet<ModelId>,
    slots: BTreeMap<ModelId, BTreeSet<usize>>,
    migrations: BTreeMap<ModelId, Migration>,
}

impl Assignments {
    pub(super) fn models(&self) -> impl Iterator<Item = ModelId> + '_ {
        self.models.keys().copied()
    }

    pub(super) fn contains(&self, model: ModelId) -> bool {
        self.models.contains_key(&model)
    }

    pub(super) fn batching(&self, model: ModelId) -> Option<Batching> {
        self.models.get(&model).copied()
    }

    /// Whether a slot holds a model, or will.
    pub(super) fn has(&self, model: ModelId, slot: usize) -> bool {
        self.slots.get(&model).is_some_and(|slots| slots.contains(&slot))
    }

    /// The slots of a model, as in its record; `None` for one that is not served.
    pub(super) fn slots_of(&self, model: ModelId) -> Option<Vec<SlotId>> {
        Some(self.slots.get(&model)?.iter().map(|&slot| SlotId(slot as u32)).collect())
    }

    pub(super) fn is_removed(&self, model: ModelId) -> bool {
        self.removed.contains(&model)
    }

    pub(super) fn migrates(&self, model: ModelId) -> bool {
        self.migrations.contains_key(&model)
    }

    /// The migration that a placement is loaded for, and its model.
    pub(super) fn migration_of(&self, placement: PlacementId) -> Option<(ModelId, Migration)> {
        self.migrations
            .iter()
            .find(|(_, migration)| migration.placement == placement)
            .map(|(&model, &migration)| (model, migration))
    }

    /// Models on their way to a browser.
    pub(super) fn migrating_to(&self, browser: BrowserId) -> Vec<ModelId> {
        self.migrations
            .iter()
            .filter(|(_, migration)| migration.to == browser)
            .map(|(&model, _)| model)
            .collect()
    }

    /// Models on their way anywhere.
    pub(super) fn migrating(&self) -> Vec<ModelId> {
        self.migrations.keys().copied().collect()
    }

    /// Whether a transaction records the end of a model's migration.
    pub(super) fn is_recorded_by(&self, model: ModelId, transaction: TransactionId) -> bool {
        self.migrations
            .get(&model)
            .is_some_and(|migration| migration.transaction == Some(transaction))
    }

    /// The slots of a model once its migration has ended.
    pub(super) fn slots_after(
        &self,
        model: ModelId,
        from: Option<usize>,
        to: usize,
    ) -> Vec<SlotId> {
        let mut slots = self.slots.get(&model).cloned().unwrap_or_default();
        if let Some(from) = from {
            slots.remove(&from);
        }
        slots.insert(to);
        slots.into_iter().map(|slot| SlotId(slot as u32)).collect()
    }

    /// A model is to be served. False for one that was already, of which only the batching has changed, and for one that was
    /// removed, which is not served again.
    pub(super) fn add_model(&mut self, model: ModelId, batching: Batching) -> bool {
        if self.is_removed(model) {
            return false;
        }
        if self.models.insert(model, batching).is_some() {
            return false;
        }
        self.slots.entry(model).or_default();
        true
    }

    /// A model is no longer served; false for one that was not.
    pub(super) fn remove_model(&mut self, model: ModelId) -> bool {
        let was_served = self.models.remove(&model).is_some();
        if was_served {
            self.slots.remove(&model);
            self.removed.insert(model);
        }
        was_served
    }

    /// A slot is no longer desired; gives the models that it held.
    pub(super) fn remove_slot(&mut self, index: usize) -> Vec<ModelId> {
        let mut held = Vec::new();
        for (&model, slots) in &mut self.slots {
            if slots.remove(&index) {
                held.push(model);
            }
        }
        held
    }

    /// Gives a model the slots that it lacks, as far as there are slots that can hold it; gives the new ones, or `None`
    /// where it lacks none.
    pub(super) fn complete(
        &mut self,
        model: ModelId,
        slots: &Slots,
        redundancy: Option<u32>,
    ) -> Option<Vec<usize>> {
        let desired = slots.desired().count();
        let wanted = match redundancy {
            Some(factor) => (factor.max(1) as usize).min(desired),
            None => desired,
        };
        let assigned = self.slots.get_mut(&model)?;
        let missing = wanted.saturating_sub(assigned.len());
        if missing == 0 {
            return None;
        }
        let mut able: Vec<(bool, usize, usize)> = (0..slots.len())
            .filter(|index| !assigned.contains(index) && slots.may_serve(*index, model))
            .filter(|&index| slots.live(index).is_none_or(|live| live.recycling().is_none()))
            .map(|index| {
                let live = slots.live(index);
                let held = live.map_or(0, |live| live.placements().count());
                // Those that are up come first: they can load at once.
                (live.is_none(), held, index)
            })
            .collect();
        able.sort_unstable();
        let chosen: Vec<usize> = able.into_iter().take(missing).map(|(.., index)| index).collect();
        assigned.extend(chosen.iter().copied());
        Some(chosen)
    }

    /// Takes a model from a slot whose browser is gone or about to go, where another one is up and can hold it: then the
    /// model need not wait for the slot's next browser.
    pub(super) fn leave(&mut self, model: ModelId, index: usize, slots: &Slots) -> bool {
        let Some(assigned) = self.slots.get_mut(&model) else { return false };
        let other_is_up = (0..slots.len()).any(|other| {
            other != index
                && !assigned.contains(&other)
                && slots.get(other).usable().is_some()
                && slots.may_serve(other, model)
        });
        other_is_up && assigned.remove(&index)
    }

    pub(super) fn begin_migration(
        &mut self,
        model: ModelId,
        from: BrowserId,
        to: BrowserId,
        placement: PlacementId,
    ) {
        self.migrations.insert(model, Migration { from, to, placement, transaction: None });
    }

    /// A migration's end is being recorded.
    pub(super) fn migration_recorded_by(&mut self, model: ModelId, transaction: TransactionId) {
        if let Some(migration) = self.migrations.get_mut(&model) {
            migration.transaction = Some(transaction);
        }
    }

    /// A migration is over without success.
    pub(super) fn undo_migration(&mut self, model: ModelId) -> Option<Migration> {
        self.migrations.remove(&model)
    }

    /// A migration has ended: `home` says which slot a browser is on.
    pub(super) fn finish_migration(
        &mut self,
        model: ModelId,
        home: impl Fn(BrowserId) -> Option<usize>,
    ) -> Option<Migration> {
        let migration = self.migrations.remove(&model)?;
        let assigned = self.slots.entry(model).or_default();
        if let Some(from) = home(migration.from) {
            assigned.remove(&from);
        }
        if let Some(to) = home(migration.to) {
            assigned.insert(to);
        }
        Some(migration)
    }
}
