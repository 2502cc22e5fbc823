//! Which slots hold a model, and how a model moves from one browser to another.

use std::collections::BTreeSet;

use flotilla_protocol::{Backend, BrowserId, PlacementId, RunId};

use super::{
    Fleet,
    browsers::BrowserState,
    journal::Pending,
    placements::{Placement, Stage},
};
use crate::{
    event::{Action, ModelId, SlotId},
    recovery::{Failure, FailureKind},
    state::{Durability, Key, Partition, TransactionId, Value},
};

/// A model on its way to another browser. It is loaded there, then the new plan is recorded, then the old placement goes;
/// whatever fails before the plan is recorded leaves everything as it was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Migration {
    pub(super) from: BrowserId,
    pub(super) to: BrowserId,
    pub(super) placement: PlacementId,
    /// The new plan's, once it is being recorded.
    pub(super) transaction: Option<TransactionId>,
}

impl Fleet {
    /// Completes a model's plan with slots that can hold it; gives the new ones.
    pub(super) fn plan(&mut self, model: ModelId) -> Vec<usize> {
        let wanted = match self.config.redundancy_factor {
            Some(factor) => (factor.max(1) as usize).min(self.berths.len()),
            None => self.berths.len(),
        };
        let Some(plan) = self.plans.get(&model) else { return Vec::new() };
        let missing = wanted.saturating_sub(plan.len());
        if missing == 0 {
            return Vec::new();
        }
        let mut able: Vec<(bool, usize, usize)> = (0..self.berths.len())
            .filter(|index| !plan.contains(index) && self.may_serve(*index, model))
            .filter(|&index| {
                self.berths[index].state.live().is_none_or(|live| live.recycling.is_none())
            })
            .map(|index| {
                let live = self.berths[index].state.live();
                let held = live.map_or(0, |live| live.placements.len());
                // Those that are up come first: they can load at once.
                (live.is_none(), held, index)
            })
            .collect();
        able.sort_unstable();
        let chosen: Vec<usize> = able.into_iter().take(missing).map(|(.., index)| index).collect();
        let plan = self.plans.entry(model).or_default();
        plan.extend(chosen.iter().copied());
        self.journal.plan_changed(model);
        chosen
    }

    /// A slot's browser is gone or about to go: models that need not wait for its next one are planned elsewhere.
    pub(super) fn leave_plans(&mut self, index: usize) {
        if self.config.redundancy_factor.is_none() || self.is_fallback(index) {
            return;
        }
        let models: Vec<ModelId> = self.models.keys().copied().collect();
        for model in models {
            let Some(plan) = self.plans.get(&model) else { continue };
            if !plan.contains(&index) {
                continue;
            }
            let is_up = |other: usize| matches!(&self.berths[other].state, BrowserState::Ready(live) if live.recycling.is_none());
            let other_is_up = (0..self.berths.len()).any(|other| {
                other != index
                    && !plan.contains(&other)
                    && is_up(other)
                    && self.may_serve(other, model)
            });
            if !other_is_up {
                continue;
            }
            if let Some(plan) = self.plans.get_mut(&model) {
                plan.remove(&index);
            }
            for chosen in self.plan(model) {
                self.plan_placement(chosen, model);
            }
        }
    }

    /// Begins to move a model.
    pub(super) fn migrate(&mut self, model: ModelId, from: BrowserId, to: BrowserId) {
        match self.migration_target(model, from, to) {
            Ok(index) => {
                self.plan_placement(index, model);
                let live = self.berths[index].state.live();
                let placed = live.and_then(|live| live.placements.get(&model));
                let Some((placement, stage)) = placed.map(|each| (each.id, each.stage)) else {
                    return;
                };
                let migration = Migration { from, to, placement, transaction: None };
                self.migrations.insert(model, migration);
                if stage == Stage::Refused {
                    let words = "no backend of the browser runs the model";
                    self.undo_migration(
                        model,
                        Failure::new(FailureKind::UnsupportedOperation, words),
                    );
                }
            }
            Err(failure) => {
                let failure = Some(failure);
                self.actions.push_back(Action::Migrated { model, from, to, failure });
            }
        }
    }

    fn migration_target(
        &self,
        model: ModelId,
        from: BrowserId,
        to: BrowserId,
    ) -> Result<usize, Failure> {
        let refused = |words: &str| Err(Failure::new(FailureKind::UnsupportedOperation, words));
        if self.migrations.contains_key(&model) {
            return refused("the model is on its way already");
        }
        let is_held = self.homes.get(&from).is_some_and(|&index| {
            self.berths[index].state.live().is_some_and(|live| {
                live.placements.get(&model).is_some_and(|each| each.ready_on().is_some())
            })
        });
        if !is_held {
            return refused("the model is not ready where it is to be taken from");
        }
        match self.homes.get(&to) {
            Some(&index) => match self.berths[index].state.usable() {
                Some(live) if !live.placements.contains_key(&model) => Ok(index),
                Some(_) => refused("the model is where it is to be taken to"),
                None => refused("the browser that it is to be taken to is not ready"),
            },
            None => refused("the browser that it is to be taken to is not there"),
        }
    }

    /// A placement has been loaded; one of a migration answers only once the plan is recorded.
    pub(super) fn staged(
        &mut self,
        id: PlacementId,
        index: usize,
        model: ModelId,
        backend: Backend,
    ) {
        let Some(&migration) =
            self.migrations.get(&model).filter(|migration| migration.placement == id)
        else {
            return;
        };
        self.set_stage(index, model, Stage::Staged { backend });
        let mut slots = self.plans.get(&model).cloned().unwrap_or_default();
        if let Some(from) = self.homes.get(&migration.from) {
            slots.remove(from);
        }
        slots.insert(index);
        match self.record_plan(model, &slots) {
            Ok(transaction) => {
                if let Some(migration) = self.migrations.get_mut(&model) {
                    migration.transaction = Some(transaction);
                }
            }
            Err(failure) => self.undo_migration(model, failure),
        }
    }

    fn record_plan(
        &mut self,
        model: ModelId,
        slots: &BTreeSet<usize>,
    ) -> Result<TransactionId, Failure> {
        let mut draft = crate::state::Draft::default();
        let key = Key { partition: Partition::Plans, id: model.0.into() };
        let slots = slots.iter().map(|&slot| SlotId(slot as u32)).collect();
        draft.write(&self.journal.records, key, Value::Plan { model, slots });
        let transaction =
            self.journal
                .prepare(draft, Durability::Critical, Pending::Plan(model))
                .map_err(|conflict| Failure::new(FailureKind::Overloaded, conflict.to_string()))?;
        let id = transaction.id;
        self.actions.push_back(Action::Commit(transaction));
        Ok(id)
    }

    /// The new plan is recorded: the new placement answers, the old one goes.
    pub(super) fn finish_migration(&mut self, model: ModelId) {
        let Some(Migration { from, to, .. }) = self.migrations.remove(&model) else { return };
        let plan = self.plans.entry(model).or_default();
        if let Some(from) = self.homes.get(&from) {
            plan.remove(from);
        }
        if let Some(&index) = self.homes.get(&to) {
            plan.insert(index);
            let live = self.berths[index].state.live();
            let backend = live.and_then(|live| live.placements.get(&model)?.backend());
            if let Some(backend) = backend {
                self.set_stage(index, model, Stage::Ready { backend });
                self.trials.open(index, model);
            }
        }
        if let Some(&index) = self.homes.get(&from) {
            let live = self.berths[index].state.live();
            let backend = live.and_then(|live| live.placements.get(&model)?.ready_on());
            match backend {
                Some(backend) => {
                    self.set_stage(index, model, Stage::Leaving { backend });
                    self.unload_left(index);
                }
                // Not ready at this moment, so nothing runs on it.
                None => self.unplace(index, model),
            }
        }
        self.actions.push_back(Action::Migrated { model, from, to, failure: None });
    }

    /// Leaves everything as it was before a migration.
    pub(super) fn undo_migration(&mut self, model: ModelId, failure: Failure) {
        // A new plan that is still being recorded is followed by a record of the old one as soon as it is confirmed.
        let Some(migration) = self.migrations.remove(&model) else { return };
        if let Some(&index) = self.homes.get(&migration.to) {
            self.unplace(index, model);
        }
        let Migration { from, to, .. } = migration;
        self.actions.push_back(Action::Migrated { model, from, to, failure: Some(failure) });
    }

    /// A placement failed to load; if it was a migration's, that is over.
    pub(super) fn migration_failed_on(&mut self, id: PlacementId, failure: &Failure) {
        let model = self
            .migrations
            .iter()
            .find(|(_, migration)| migration.placement == id)
            .map(|(&model, _)| model);
        if let Some(model) = model {
            self.undo_migration(model, failure.clone());
        }
    }

    /// A browser or its page is gone, and what was on its way there with it.
    pub(super) fn migrations_lost(&mut self, browser: BrowserId, failure: &Failure) {
        let models: Vec<ModelId> = self
            .migrations
            .iter()
            .filter(|(_, migration)| migration.to == browser)
            .map(|(&model, _)| model)
            .collect();
        for model in models {
            self.undo_migration(model, failure.clone());
        }
    }

    /// Unloads placements that were left and have no runs any more.
    pub(super) fn unload_left(&mut self, index: usize) {
        let Some(live) = self.berths[index].state.live() else { return };
        let left: Vec<ModelId> = live
            .placements
            .iter()
            .filter(|(_, each)| matches!(each.stage, Stage::Leaving { .. }))
            .filter(|(_, each)| {
                let on_it = |run| {
                    self.runs.get(run).is_some_and(|run: &super::Run| run.placement == each.id)
                };
                !live.runs.iter().any(on_it)
            })
            .map(|(&model, _)| model)
            .collect();
        for model in left {
            self.unplace(index, model);
        }
        let runs = &self.runs;
        let Some(live) = self.berths[index].state.live_mut() else { return };
        let browser = live.browser;
        let on_it = |run: &RunId, id| runs.get(run).is_some_and(|run| run.placement == id);
        let gone =
            live.left.extract_if(.., |each| !live.runs.iter().any(|run| on_it(run, each.id)));
        for Placement { id, .. } in gone {
            self.placed.remove(&id);
            self.journal.placement_gone(id);
            self.index.touch(index);
            self.actions.push_back(Action::Unload { browser, placement: id });
        }
    }

    fn unplace(&mut self, index: usize, model: ModelId) {
        self.cancel_trial_of(index, model);
        let Some(live) = self.berth_mut(index).state.live_mut() else { return };
        let browser = live.browser;
        if let Some(placement) = live.placements.remove(&model) {
            self.placed.remove(&placement.id);
            self.journal.placement_gone(placement.id);
            self.actions.push_back(Action::Unload { browser, placement: placement.id });
        }
    }

    fn set_stage(&mut self, index: usize, model: ModelId, stage: Stage) {
        let live = self.berth_mut(index).state.live_mut();
        if let Some(placement) = live.and_then(|live| live.placements.get_mut(&model)) {
            placement.stage = stage;
        }
    }
}
