//! Models and slots that are added and removed while the fleet serves.

use flotilla_fleet::{Batching, BrowserStage, Choice, Event, ModelId, Role, Slot, SlotId, Status};
use flotilla_protocol::BrowserId;

use super::Simulation;
use crate::{
    core::Core,
    invariants::{Invariant, Violation},
    plan,
    pool::PlacementState,
};

/// Models that are served at once, at most.
const MODELS_MAX: usize = 4;
/// Ids of added models count from here, above those of the plan.
const ADDED_FROM: u32 = 100;
/// Most slots, including removed ones: for each slot of the plan, and in addition.
const SLOTS_PER_SLOT_MAX: usize = 2;
const SLOTS_BASE: usize = 4;

impl<C: Core> Simulation<C> {
    pub(super) fn add_model(&mut self) -> Result<(), Violation> {
        if self.pool.models.len() >= MODELS_MAX {
            return Ok(());
        }
        self.models_added += 1;
        let model = ModelId(ADDED_FROM + self.models_added);
        let batching = Batching {
            rows_max: self.random.range(1, 16) as u32,
            tokens_max: self.random.range(100, 2000) as u32,
        };
        self.send(Event::ModelAdded { model, batching })
    }

    pub(super) fn remove_model(&mut self) -> Result<(), Violation> {
        let models: Vec<ModelId> = self.clients.known.iter().copied().collect();
        // The last model is removed in 10 % of the cases only.
        if models.len() < 2 && self.random.chance(90.0) {
            return Ok(());
        }
        match self.random.one_of(&models) {
            Some(model) => self.send(Event::ModelRemoved { model }),
            None => Ok(()),
        }
    }

    pub(super) fn add_slot(&mut self) -> Result<(), Violation> {
        let most = self.plan.config.slots.len() * SLOTS_PER_SLOT_MAX + SLOTS_BASE;
        if self.pool.specs.len() >= most {
            return Ok(());
        }
        let choice = self.plan.config.slots.first().map_or(Choice::First, |slot| slot.choice);
        let index = self.random.range(0, 2);
        self.send(Event::SlotAdded { slot: plan::slot(index, choice) })
    }

    pub(super) fn remove_slot(&mut self) -> Result<(), Violation> {
        let desired: Vec<SlotId> = (0..self.pool.specs.len())
            .map(|index| SlotId(index as u32))
            .filter(|slot| !self.pool.removed_slots.contains(slot))
            .collect();
        // Few slots become fewer in 10 % of the cases only.
        let few = (self.plan.config.slots.len() / 2).max(3);
        if desired.len() < few && self.random.chance(90.0) {
            return Ok(());
        }
        match self.random.one_of(&desired) {
            Some(slot) => self.send(Event::SlotRemoved { slot, reason: "played".to_owned() }),
            None => Ok(()),
        }
    }

    /// A model is added; called before the core handles that.
    pub(super) fn model_added(&mut self, model: ModelId, batching: Batching) {
        self.clients.known.insert(model);
        self.pool.models.insert(model, batching);
    }

    /// A model is removed; called before the core handles that.
    pub(super) fn model_removed(&mut self, model: ModelId) {
        self.clients.known.remove(&model);
        self.pool.models.remove(&model);
        self.pool.removed_models.insert(model);
        let browsers: Vec<BrowserId> = self.pool.browsers.keys().copied().collect();
        for id in browsers {
            let Some(browser) = self.pool.browsers.get_mut(&id) else { continue };
            let mut is_there = false;
            for placed in browser.placements.values_mut() {
                if placed.model == model && placed.state == PlacementState::Ready {
                    placed.state = PlacementState::Leaving;
                    is_there = true;
                }
            }
            if is_there {
                self.pool.refresh_idle(id, self.now);
            }
        }
    }

    /// A slot is added; called before the core handles that.
    pub(super) fn slot_added(&mut self, slot: &Slot) {
        let index = SlotId(self.pool.specs.len() as u32);
        self.pool.specs.push(slot.clone());
        self.pool.added_slot = (slot.role == Role::Regular).then_some(index);
    }

    /// A slot is removed; called before the core handles that.
    pub(super) fn slot_removed(&mut self, slot: SlotId) {
        self.pool.removed_slots.insert(slot);
        self.pool.ending_slots.insert(slot);
    }

    /// Checks that a model and a browser's slot, to which something is sent, were not removed.
    pub(super) fn check_served(
        &mut self,
        model: ModelId,
        browser: Option<BrowserId>,
    ) -> Result<(), Violation> {
        let is_removed = self.pool.removed_models.contains(&model);
        self.checker.check(Invariant::RemovedModels, !is_removed, || {
            format!("{model:?} was removed, and is loaded or run on {browser:?}")
        })?;
        browser.map_or(Ok(()), |browser| self.check_desired(browser))
    }

    /// Checks that a browser's slot, to which something is sent, was not removed.
    pub(super) fn check_desired(&mut self, id: BrowserId) -> Result<(), Violation> {
        let slot = self.pool.browsers.get(&id).map(|browser| browser.slot);
        let is_removed = slot.is_some_and(|slot| self.pool.removed_slots.contains(&slot));
        self.checker.check(Invariant::RemovedSlots, !is_removed, || {
            format!("something is sent to {id} in {slot:?}, which was removed")
        })
    }

    /// An added slot has a browser, and the browser of a removed one has runs.
    pub(super) fn check_slots(&mut self) -> Result<(), Violation> {
        if let Some(slot) = self.pool.added_slot.take() {
            let is_launched = self.pool.slots.contains_key(&slot);
            self.checker.check(Invariant::AddedSlots, is_launched, || {
                format!("{slot:?} was added and has no browser")
            })?;
        }
        let there = &self.pool.slots;
        self.pool.ending_slots.retain(|slot| there.contains_key(slot));
        for slot in &self.pool.ending_slots {
            let browser = there.get(slot).and_then(|id| self.pool.browsers.get(id));
            let runs = browser.map_or(0, |browser| browser.in_flight.len());
            self.checker.check(Invariant::RemovedSlots, runs > 0, || {
                format!("{slot:?} was removed, and its browser is there and has no runs")
            })?;
        }
        Ok(())
    }

    /// Removed models and slots are not in the core's status, and no request waits for them.
    pub(super) fn check_changes(&mut self, status: &Status) -> Result<(), Violation> {
        let removed = &self.pool.removed_models;
        if !removed.is_empty() {
            let shown = status.models.iter().find(|shown| removed.contains(&shown.model));
            let waiting = self.clients.waiting_for(removed);
            self.checker.check(
                Invariant::RemovedModels,
                shown.is_none() && waiting.is_none(),
                || format!("of models that were removed, {shown:?} is shown, {waiting:?} waits"),
            )?;
            let unused = self.pool.unused_placement_of_removed();
            self.checker.check(Invariant::RemovedModels, unused.is_none(), || {
                format!("{unused:?} is there without runs, and its model was removed")
            })?;
        }
        for &slot in &self.pool.removed_slots {
            let shown = status.slots.get(slot.0 as usize);
            let has_ended = !self.pool.slots.contains_key(&slot);
            let is_right =
                shown.is_some_and(|shown| (shown.state == BrowserStage::Removed) == has_ended);
            self.checker.check(Invariant::RemovedSlots, is_right, || {
                format!("{slot:?} was removed; it is shown as {shown:?}")
            })?;
        }
        Ok(())
    }
}
