//! Every slot, and where each browser and placement is.

use std::collections::BTreeMap;

use flotilla_protocol::{Backend, BrowserId, Epoch, PlacementId, RunId};

use super::{
    index::Index,
    live::Live,
    placement::{Placement, Stage},
    runs::Runs,
    slot::{BrowserState, SlotState},
    watch,
};
use crate::{
    config::{Config, Role, Slot},
    event::{Instant, ModelId},
    recovery::Failure,
    state::{Key, Partition, Value},
};

/// Every slot in order, with an index over them and the homes of browsers and placements.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Vec<SlotState>,
    index: Index,
    /// The slot of each living browser.
    homes: BTreeMap<BrowserId, usize>,
    /// Slot and model of each placement on a living browser.
    placed: BTreeMap<PlacementId, (usize, ModelId)>,
    /// The highest id given away, of each sort.
    browser_ids: u64,
    placement_ids: u64,
}

/// What can be read.
impl Slots {
    /// `first_id` is below all ids that browsers and placements get.
    pub(super) fn new(specs: &[Slot], first_id: u64) -> Slots {
        Slots {
            slots: specs.iter().cloned().map(SlotState::new).collect(),
            index: Index::new(specs.len()),
            homes: BTreeMap::new(),
            placed: BTreeMap::new(),
            browser_ids: first_id,
            placement_ids: first_id,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Slots that are not removed.
    pub(super) fn desired(&self) -> impl Iterator<Item = &SlotState> {
        self.slots.iter().filter(|slot| !slot.is_removed())
    }

    /// The first slot of the same kind and role, or the next index where there is none: what is measured in one browser is
    /// true of all like it.
    pub(super) fn like(&self, spec: &Slot) -> usize {
        let is_like =
            |slot: &SlotState| (&slot.spec().kind, slot.spec().role) == (&spec.kind, spec.role);
        self.slots.iter().position(is_like).unwrap_or(self.slots.len())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &SlotState> {
        self.slots.iter()
    }

    pub(super) fn get(&self, index: usize) -> &SlotState {
        &self.slots[index]
    }

    pub(super) fn live(&self, index: usize) -> Option<&Live> {
        self.slots[index].live()
    }

    /// The placement of a model on a slot's browser.
    pub(super) fn placement(&self, index: usize, model: ModelId) -> Option<&Placement> {
        self.live(index)?.placement(model)
    }

    /// The slot of a living browser.
    pub(super) fn home(&self, browser: BrowserId) -> Option<usize> {
        self.homes.get(&browser).copied()
    }

    /// The slot that a browser was on when it failed, until that is repaired.
    pub(super) fn repaired(&self, browser: BrowserId) -> Option<usize> {
        self.slots.iter().position(|slot| slot.repaired_browser() == Some(browser))
    }

    /// Slot and model of a placement on a living browser.
    pub(super) fn placed(&self, id: PlacementId) -> Option<(usize, ModelId)> {
        self.placed.get(&id).copied()
    }

    /// How many placements there are on living browsers.
    pub(super) fn placed_len(&self) -> usize {
        self.placed.len()
    }

    /// The highest id of a browser so far.
    pub(super) fn newest_browser(&self) -> u64 {
        self.browser_ids
    }

    /// Slots that were changed, or whose time has come.
    pub(super) fn pending(&self, now: Instant) -> Vec<usize> {
        self.index.pending(now)
    }

    /// The earliest time at which a slot has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.index.next_due()
    }

    /// Slots that could take a run, `from` and those after it first.
    pub(super) fn open(&self, model: ModelId, from: usize) -> impl Iterator<Item = usize> + '_ {
        self.index.open(model, from)
    }

    /// Slots of simulated browsers.
    pub(super) fn fallbacks(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.slots.len()).filter(|&index| self.slots[index].is_fallback())
    }

    /// Slots of browsers that are not simulated.
    pub(super) fn regular(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.slots.len()).filter(|&index| !self.slots[index].is_fallback())
    }

    pub(super) fn may_serve(&self, index: usize, model: ModelId) -> bool {
        self.slots[index].may_serve(model)
    }

    /// Why no browser runs a model, or ever will, as far as can be known; `None` while one may.
    pub(super) fn unplaceable(&self, model: ModelId, now: Instant) -> Option<String> {
        if self.slots.iter().any(|slot| slot.may_serve(model)) {
            return None;
        }
        let reasons: Vec<String> = self
            .slots
            .iter()
            .filter(|slot| slot.spec().role == Role::Regular && !slot.is_removed())
            .map(|slot| format!("{}: {}", slot.spec().kind, slot.why_unplaceable(model, now)))
            .collect();
        if reasons.is_empty() {
            return Some("no browsers are configured".to_owned());
        }
        Some(reasons.join("; "))
    }

    /// No browser starts or loads.
    pub(super) fn is_quiet(&self) -> bool {
        self.slots.iter().all(|slot| match slot.state() {
            BrowserState::Starting { .. } => false,
            BrowserState::Ready(live) | BrowserState::Suspect { live, .. } => !live.loads(),
            BrowserState::Wanted
            | BrowserState::Recovering { .. }
            | BrowserState::Retired { .. }
            | BrowserState::Stopped
            | BrowserState::Removed => true,
        })
    }

    /// The slot whose browser has this probe under way.
    pub(super) fn probed(&self, browser: BrowserId, probe: RunId) -> Option<usize> {
        let index = self.home(browser)?;
        let under_way = self.live(index)?.health().probe()?;
        (under_way.id == probe).then_some(index)
    }

    /// The slot whose browser has this measuring run under way.
    pub(super) fn measured(&self, browser: BrowserId, measure: RunId) -> Option<usize> {
        let index = self.home(browser)?;
        let measurement = self.live(index)?.measurement()?;
        measurement.runs_as(measure).then_some(index)
    }
}

/// What changes.
impl Slots {
    /// Adds a slot with the next index; gives that.
    pub(super) fn add(&mut self, spec: Slot) -> usize {
        self.slots.push(SlotState::new(spec));
        self.index.add();
        self.slots.len() - 1
    }

    /// A slot is no longer desired; gives a browser that starts there, to be killed.
    pub(super) fn remove(&mut self, index: usize, reason: String) -> Option<BrowserId> {
        let browser = self.change(index).remove(reason)?;
        self.homes.remove(&browser);
        Some(browser)
    }

    /// A slot that is about to be changed.
    pub(super) fn change(&mut self, index: usize) -> &mut SlotState {
        self.index.touch(index);
        &mut self.slots[index]
    }

    /// The browser of a slot that is about to be changed.
    pub(super) fn change_live(&mut self, index: usize) -> Option<&mut Live> {
        self.change(index).live_mut()
    }

    /// The placement of a model that is about to be changed.
    pub(super) fn change_placement(
        &mut self,
        index: usize,
        model: ModelId,
    ) -> Option<&mut Placement> {
        self.change_live(index)?.placement_mut(model)
    }

    /// A slot is to be looked at again.
    pub(super) fn touch(&mut self, index: usize) {
        self.index.touch(index);
    }

    /// Brings the index up to date with every touched slot.
    pub(super) fn refresh(&mut self, now: Instant, config: &Config, runs: &Runs) {
        for index in self.index.take_touched() {
            let slot = &self.slots[index];
            let due = watch::next_due(slot, now, config, runs);
            self.index.set(index, due, slot.open_for(config.runs_in_flight_max));
        }
    }

    /// The records of slots that were changed since the last call, and of what is on them.
    pub(super) fn changed_records(&mut self) -> Vec<(Key, Value)> {
        let mut records = Vec::new();
        for index in self.index.take_unrecorded() {
            let slot = &self.slots[index];
            let key = Key { partition: Partition::Browsers, id: index as u64 };
            records.push((key, browser_value(slot)));
            let Some(live) = slot.live() else { continue };
            for (model, placement) in live.all_placements() {
                let key = Key { partition: Partition::Placements, id: placement.id().0 };
                let value = Value::Placement {
                    browser: live.browser(),
                    model,
                    backend: placement.backend(),
                    epoch: placement.epoch(),
                    state: placement.stage().name().to_owned(),
                };
                records.push((key, value));
            }
        }
        records
    }

    /// Launches a browser; gives its id.
    pub(super) fn launch(&mut self, index: usize, now: Instant, config: &Config) -> BrowserId {
        self.browser_ids += 1;
        let browser = BrowserId(self.browser_ids);
        self.change(index).launch(browser, now, now.after(config.start_timeout));
        self.homes.insert(browser, index);
        browser
    }

    /// A browser has given a sign of life.
    pub(super) fn heartbeat(&mut self, browser: BrowserId, now: Instant) {
        let Some(index) = self.home(browser) else { return };
        if self.slots[index].is_ready() {
            // Not touched: the timer in the index is too early now, which costs one look at the slot later.
            if let Some(live) = self.slots[index].live_mut() {
                live.health_mut().heartbeat(now);
            }
        } else if self.live(index).is_some() {
            self.change(index).trust(now);
        }
    }

    /// Suspects a browser that has missed heartbeats; true if it is suspected from now on.
    pub(super) fn suspect(&mut self, index: usize, now: Instant, config: &Config) -> bool {
        let BrowserState::Ready(live) = self.slots[index].state() else { return false };
        if live.health().heartbeat_at().after(config.suspect_after) > now {
            return false;
        }
        // Counted from now, so that after a suspended daemon wakes up browsers have time for a heartbeat.
        let until = now.after(config.heartbeat_timeout.saturating_sub(config.suspect_after));
        self.change(index).suspect(until);
        true
    }

    /// Ends a browser because of a failure; gives it and what was on it.
    pub(super) fn end(
        &mut self,
        index: usize,
        failure: &Failure,
        now: Instant,
        config: &Config,
    ) -> Option<(BrowserId, Option<Live>)> {
        let ended = self.change(index).end(failure, now, config)?;
        self.homes.remove(&ended.0);
        Some(ended)
    }

    /// Ends a browser that was to be recycled; gives what was on it.
    pub(super) fn recycle(&mut self, index: usize, now: Instant) -> Option<Live> {
        let live = self.change(index).recycle(now)?;
        self.homes.remove(&live.browser());
        Some(live)
    }

    /// Ends every browser; gives those that are to be killed.
    pub(super) fn stop(&mut self) -> Vec<BrowserId> {
        self.homes.clear();
        self.placed.clear();
        (0..self.slots.len()).filter_map(|index| self.change(index).stop()).collect()
    }

    pub(super) fn next_placement_id(&mut self) -> PlacementId {
        self.placement_ids += 1;
        PlacementId(self.placement_ids)
    }

    /// Makes a placement on a slot's browser, if that is up.
    pub(super) fn place(
        &mut self,
        index: usize,
        model: ModelId,
        stage: Stage,
        refusals: Vec<(Backend, String)>,
    ) {
        let id = self.next_placement_id();
        let Some(live) = self.change_live(index) else { return };
        live.insert(model, Placement::new(id, stage, refusals));
        self.placed.insert(id, (index, model));
    }

    /// A placement becomes another one, on another backend; gives the id that it had.
    pub(super) fn replace_placement(
        &mut self,
        index: usize,
        model: ModelId,
        stage: Stage,
    ) -> Option<PlacementId> {
        let id = self.next_placement_id();
        let placement = self.change_placement(index, model)?;
        let old = placement.id();
        placement.restart_as(id, stage);
        self.placed.insert(id, (index, model));
        self.placed.remove(&old);
        Some(old)
    }

    /// Puts a placement into the place of another one, which is unloaded when its runs have ended.
    pub(super) fn supersede(&mut self, index: usize, model: ModelId, successor: Placement) {
        if self.placement(index, model).is_none() {
            return;
        }
        self.placed.insert(successor.id(), (index, model));
        if let Some(live) = self.change_live(index) {
            live.supersede(model, successor);
        }
    }

    /// Takes a placement off its browser; gives both.
    pub(super) fn unplace(
        &mut self,
        index: usize,
        model: ModelId,
    ) -> Option<(BrowserId, PlacementId)> {
        let live = self.change_live(index)?;
        let browser = live.browser();
        let id = live.remove(model)?.id();
        self.placed.remove(&id);
        Some((browser, id))
    }

    /// Models whose placement on a browser is to be unloaded, now that nothing runs on it.
    pub(super) fn ended_placements(&self, index: usize, runs: &Runs) -> Vec<ModelId> {
        let Some(live) = self.live(index) else { return Vec::new() };
        live.placements()
            .filter(|(_, each)| each.is_leaving())
            .filter(|(_, each)| !live.runs().iter().any(|run| runs.is_on(run, each.id())))
            .map(|(model, _)| model)
            .collect()
    }

    /// Takes superseded placements off a browser on which nothing runs any more.
    pub(super) fn take_left(&mut self, index: usize, runs: &Runs) -> Vec<PlacementId> {
        let Some(live) = self.slots[index].live_mut() else { return Vec::new() };
        let gone = live.take_left(|run, placement| runs.is_on(run, placement));
        for id in &gone {
            self.placed.remove(id);
            self.index.touch(index);
        }
        gone
    }

    /// What was on a browser is gone with it; gives the placements.
    pub(super) fn forget_placements(&mut self, live: &Live) -> Vec<PlacementId> {
        let gone: Vec<PlacementId> = live.all_placements().map(|(_, each)| each.id()).collect();
        for id in &gone {
            self.placed.remove(id);
        }
        gone
    }

    /// Where a load that is reported is under way. A report of another epoch is late, one of another browser's page is not
    /// its own: both give `None`.
    pub(super) fn loading(
        &mut self,
        browser: BrowserId,
        id: PlacementId,
        epoch: Epoch,
    ) -> Option<(usize, ModelId)> {
        let (index, model) = self.placed(id)?;
        self.touch(index);
        let live = self.live(index).filter(|live| live.browser() == browser)?;
        let placement = live.placement(model)?;
        let is_it = (placement.id(), placement.epoch()) == (id, epoch);
        (is_it && placement.loading_on().is_some()).then_some((index, model))
    }
}

fn browser_value(slot: &SlotState) -> Value {
    Value::Browser {
        browser: slot.browser(),
        kind: slot.spec().kind.clone(),
        state: slot.state().name().to_owned(),
        failed_starts: slot.failed_starts(),
        last_failure: slot.last_failure().map(ToString::to_string),
    }
}
