//! What follows when backends are measured.

use std::time::Duration;

use flotilla_protocol::{Backend, BrowserId, Epoch, PlacementId, RunId};

use super::{Fleet, Phase};
use crate::{
    config::Choice,
    core::{
        measurements::{Measurement, Next},
        placement::Placement,
        slot::BrowserState,
    },
    event::{Action, ModelId},
    recovery::{Failure, Repair, repair},
};

impl Fleet {
    /// Goes on with the measurement under way, or begins one.
    pub(super) fn advance_measurements(&mut self) {
        if self.phase != Phase::Serving {
            return;
        }
        match self.measurements.under_way() {
            Some(index) => self.advance_measurement(index),
            None => self.begin_measurement(),
        }
    }

    fn begin_measurement(&mut self) {
        for (index, model) in self.measurements.candidates() {
            match self.next_measurement(index, model) {
                Some(Next::Settled) => self.measurements.settled(index, model),
                Some(Next::Load(backend)) => {
                    let placement = self.slots.next_placement_id();
                    let until = self.now.after(self.config.load_timeout);
                    let measurement = Measurement::of_load(model, backend, placement, until);
                    let epoch = measurement.epoch();
                    let Some(live) = self.slots.change_live(index) else { return };
                    live.begin_measurement(measurement);
                    let browser = live.browser();
                    self.measurements.begin(index);
                    self.order(Action::Place { browser, placement, epoch, model, backend });
                    return;
                }
                Some(Next::Measure(backend)) => {
                    let Some(live) = self.slots.change_live(index) else { return };
                    let Some(present) = live.placement(model) else { return };
                    let measurement = Measurement::of_present(model, backend, present, self.now);
                    live.begin_measurement(measurement);
                    self.measurements.begin(index);
                    self.advance_measurement(index);
                    return;
                }
                None => self.measurements.later(index, model),
            }
        }
    }

    /// What is to be done about a placement; `None` for nothing at this moment.
    fn next_measurement(&self, index: usize, model: ModelId) -> Option<Next> {
        let slot = self.slots.get(index);
        let live = match slot.state() {
            BrowserState::Ready(live) => live,
            BrowserState::Suspect { .. } => return None,
            // Whatever is ready on the next browser is looked at then.
            BrowserState::Wanted
            | BrowserState::Starting { .. }
            | BrowserState::Recovering { .. }
            | BrowserState::Retired { .. }
            | BrowserState::Stopped
            | BrowserState::Removed => return Some(Next::Settled),
        };
        let placement = live.placement(model).filter(|placement| placement.ready_on().is_some());
        let Some(placement) = placement else { return Some(Next::Settled) };
        if slot.spec().choice == Choice::First || !self.measurements.is_measurable(model) {
            return Some(Next::Settled);
        }
        let is_busy = live.loads() || live.has_waiting() || live.has_left();
        let is_taken = live.lease().is_some() || live.recycling().is_some();
        if is_busy || is_taken || self.assignments.migrates(model) {
            return None;
        }
        Some(self.measurements.next(index, slot.spec(), model, placement))
    }

    /// Runs the next measurement if the moment is good.
    fn advance_measurement(&mut self, index: usize) {
        let slot = self.slots.get(index);
        let Some(live) = slot.live() else { return };
        let Some(measurement) = live.measurement() else { return };
        let Some(due) = measurement.waits_until() else { return };
        let (model, placement) = (measurement.model(), measurement.placement());
        let (epoch, browser) = (measurement.epoch(), live.browser());
        let answers = live.placement(model).is_some_and(|each| each.ready_on().is_some());
        if !answers || live.lease().is_some() || live.recycling().is_some() {
            return self.cancel_measurement(index);
        }
        let is_quiet = self.runs.is_empty() && self.slots.is_quiet();
        if !slot.is_ready() || live.loads() || (due > self.now && !is_quiet) {
            return;
        }
        // A run before it that hangs must not make it look as if it hung itself.
        let limit = self.config.run_timeout;
        let limit = if live.runs().is_empty() { limit } else { limit * 2 };
        let measure = self.runs.next_id();
        let live = self.slots.change_live(index);
        if let Some(measurement) = live.and_then(|live| live.measurement_mut()) {
            measurement.run(measure, self.now.after(limit));
            self.order(Action::Measure { browser, placement, epoch, model, measure });
        }
    }

    /// Where a placement loads for a measurement, in this epoch.
    pub(super) fn measured_load(
        &mut self,
        browser: BrowserId,
        id: PlacementId,
        epoch: Epoch,
    ) -> Option<usize> {
        let index = self.measurements.under_way()?;
        self.slots.touch(index);
        let live = self.slots.live(index).filter(|live| live.browser() == browser)?;
        let measurement = live.measurement()?;
        let is_it = (measurement.placement(), measurement.epoch()) == (id, epoch);
        (measurement.is_loading() && is_it).then_some(index)
    }

    pub(super) fn measurement_loaded(&mut self, index: usize) {
        let Some(live) = self.slots.change_live(index) else { return };
        live.health_mut().computed_at(self.now);
        let Some(measurement) = live.measurement_mut() else { return };
        measurement.wait(self.now);
        let (model, backend) = (measurement.model(), measurement.backend());
        if self.measurements.is_known(index, model, backend) {
            self.conclude_measurement(index);
        }
    }

    pub(super) fn measured(&mut self, browser: BrowserId, measure: RunId, took: Duration) {
        let Some(index) = self.slots.measured(browser, measure) else { return };
        let slot = self.slots.change(index);
        let spec = slot.spec().clone();
        let Some(live) = slot.live_mut() else { return };
        live.computed(self.now);
        let Some(measurement) = live.measurement_mut() else { return };
        let (model, backend) = (measurement.model(), measurement.backend());
        let best = self.measurements.best(index, model, &spec);
        let Some(took) = measurement.ran(took, best, self.now) else { return };
        self.measurements.learn(index, model, backend, took);
        self.order(Action::Keep { browser, model, backend, took });
        self.conclude_measurement(index);
    }

    /// A backend is known now: it takes the place of the one that answers, or goes.
    fn conclude_measurement(&mut self, index: usize) {
        let Some(measurement) = self.end_measurement(index) else { return };
        let (model, backend) = (measurement.model(), measurement.backend());
        let placement = measurement.placement();
        let slot = self.slots.get(index);
        let Some(live) = slot.live() else { return };
        let browser = live.browser();
        let present = live.placement(model);
        if present.is_some_and(|present| present.id() == placement) {
            return;
        }
        let better = present.filter(|present| {
            let fit = present.fit(slot.spec());
            let fastest = self.measurements.fastest(index, model, fit);
            present.ready_on().is_some() && fastest == Some(backend)
        });
        let Some(present) = better else {
            self.order(Action::Unload { browser, placement });
            return;
        };
        let refusals = present.refusals().to_vec();
        let successor = Placement::loaded(placement, measurement.epoch(), backend, refusals);
        self.slots.change(index).forgive_load(model, backend);
        self.slots.supersede(index, model, successor);
        self.unload_ended(index);
    }

    /// A backend that could not be measured is tried again, and then will not do.
    pub(super) fn measurement_failed(&mut self, index: usize, failure: &Failure) {
        let Some(measurement) = self.end_measurement(index) else { return };
        let (model, backend) = (measurement.model(), measurement.backend());
        let placement = measurement.placement();
        let slot = self.slots.change(index);
        slot.measuring_failed(model, backend, failure);
        slot.distrust(failure, self.now);
        let given_up = if failure.kind.is_refusal() {
            Some(failure.to_string())
        } else {
            slot.measuring_given_up(model, backend, self.config.load_restarts_max)
        };
        let Some(live) = slot.live() else { return };
        let browser = live.browser();
        let is_present = live.placement(model).is_some_and(|present| present.id() == placement);
        if !is_present {
            self.order(Action::Unload { browser, placement });
        }
        match repair(failure.kind) {
            Repair::Reload if !is_present => {}
            // A load beside what answers must not cost the page.
            Repair::ResetPage | Repair::Replace if measurement.is_loading() => {}
            Repair::Nothing
            | Repair::Reload
            | Repair::RenewDevice
            | Repair::ResetPage
            | Repair::Replace => self.repair(index, Some(model), backend, failure.clone()),
        }
        // A repair may have ended the page; the next one's placements know what failed.
        let (Some(present), Some(reason)) = (self.slots.change_placement(index, model), given_up)
        else {
            return;
        };
        present.refuse(backend, reason);
        if is_present {
            self.give_way(index, model);
        }
    }

    /// What answers will not do, and the next backend is loaded in its place.
    fn give_way(&mut self, index: usize, model: ModelId) {
        let Some(present) = self.slots.placement(index, model) else { return };
        let stage = self.first_stage(index, model, present);
        let refusals = present.refusals().to_vec();
        let id = self.slots.next_placement_id();
        self.slots.supersede(index, model, Placement::new(id, stage, refusals));
        self.unload_ended(index);
    }

    /// What is loaded beside is lost with its device.
    pub(super) fn lose_measurement(&mut self, index: usize, backend: Backend, failure: &Failure) {
        let Some(live) = self.slots.live(index) else { return };
        let Some(measurement) = live.measurement().filter(|each| each.backend() == backend) else {
            return;
        };
        let (browser, placement) = (live.browser(), measurement.placement());
        let model = measurement.model();
        let is_present = live.placement(model).is_some_and(|each| each.id() == placement);
        self.end_measurement(index);
        if !is_present {
            self.slots.change(index).measuring_failed(model, backend, failure);
            self.order(Action::Unload { browser, placement });
        }
    }

    pub(super) fn unmeasurable(&mut self, model: ModelId, reason: String) {
        if self.assignments.is_removed(model) {
            return;
        }
        self.measurements.unmeasurable(model, reason);
        if let Some(index) = self.measurements.under_way() {
            self.cancel_measurement_of(index, model);
        }
    }

    pub(super) fn cancel_measurement_of(&mut self, index: usize, model: ModelId) {
        let measurement = self.slots.live(index).and_then(|live| live.measurement());
        if measurement.is_some_and(|measurement| measurement.model() == model) {
            self.cancel_measurement(index);
        }
    }

    /// The measurement ends as if it had not begun.
    fn cancel_measurement(&mut self, index: usize) {
        let Some(measurement) = self.end_measurement(index) else { return };
        let placement = measurement.placement();
        let Some(live) = self.slots.live(index) else { return };
        if live.placement(measurement.model()).is_none_or(|present| present.id() != placement) {
            let browser = live.browser();
            self.order(Action::Unload { browser, placement });
        }
    }

    fn end_measurement(&mut self, index: usize) -> Option<Measurement> {
        let measurement = self.slots.change_live(index)?.end_measurement()?;
        self.measurements.end();
        Some(measurement)
    }
}
