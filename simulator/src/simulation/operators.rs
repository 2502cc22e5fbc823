//! Simulates operators, who acquire and recycle browsers, migrate models, and add and remove models and slots.

use std::time::Duration;

use flotilla_fleet::{Event, Failure, LeaseId, ModelId};
use flotilla_protocol::BrowserId;

use super::Simulation;
use crate::{
    core::Core,
    invariants::{Invariant, Violation},
    pool::{BrowserState, Lease, PlacementState},
    schedule::Scheduled,
};

/// What an operator may do.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Acquire,
    Migrate,
    Recycle,
    AddModel,
    RemoveModel,
    AddSlot,
    RemoveSlot,
}

/// Frequent operations are in the list twice.
const OPERATIONS: [Operation; 10] = [
    Operation::Acquire,
    Operation::Acquire,
    Operation::Migrate,
    Operation::Migrate,
    Operation::Recycle,
    Operation::Recycle,
    Operation::AddModel,
    Operation::RemoveModel,
    Operation::AddSlot,
    Operation::RemoveSlot,
];

impl<C: Core> Simulation<C> {
    /// Sends an operator's command; schedules the next one.
    pub(super) fn operator_acts(&mut self) -> Result<(), Violation> {
        self.schedule_operation();
        if !self.is_up() || self.is_draining() {
            return Ok(());
        }
        let up: Vec<BrowserId> = self
            .pool
            .browsers
            .iter()
            .filter(|(_, browser)| browser.state == BrowserState::Up)
            .map(|(&id, _)| id)
            .collect();
        match self.random.one_of(&OPERATIONS) {
            Some(Operation::Acquire) => self.acquire(),
            Some(Operation::Recycle) => match self.random.one_of(&up) {
                Some(browser) => self.send(Event::Recycle { browser, reason: "played".to_owned() }),
                None => Ok(()),
            },
            Some(Operation::Migrate) => self.migrate(&up),
            Some(Operation::AddModel) => self.add_model(),
            Some(Operation::RemoveModel) => self.remove_model(),
            Some(Operation::AddSlot) => self.add_slot(),
            Some(Operation::RemoveSlot) => self.remove_slot(),
            None => Ok(()),
        }
    }

    pub(super) fn schedule_operation(&mut self) {
        let per_hour = self.plan.load.operations_per_hour;
        if let Ok(mean) = Duration::try_from_secs_f64(3600.0 / per_hour) {
            let wait = self.random.wait(mean);
            self.schedule_in(wait, Scheduled::Operation);
        }
    }

    fn acquire(&mut self) -> Result<(), Violation> {
        self.operations += 1;
        let lease = LeaseId(self.operations);
        let patience = self.random.ms(1000, 20_000);
        let deadline = self.now.after(patience);
        self.pool.leases.insert(lease, Lease { deadline, browser: None });
        if self.random.chance(70.0) {
            let release = self.random.ms(500, 20_000);
            self.schedule_in(release, Scheduled::Message(Event::Release { lease }));
        }
        self.send(Event::Acquire { lease, deadline })
    }

    fn migrate(&mut self, up: &[BrowserId]) -> Result<(), Violation> {
        let models: Vec<ModelId> = self.pool.models.keys().copied().collect();
        let Some(model) = self.random.one_of(&models) else { return Ok(()) };
        // Usually a migration that is possible, in 10 % of the cases any.
        let is_possible = self.random.chance(90.0);
        let (holding, lacking): (Vec<BrowserId>, Vec<BrowserId>) =
            up.iter().copied().partition(|&browser| self.pool.has_ready(browser, model));
        let (from, to) = match is_possible {
            true => (self.random.one_of(&holding), self.random.one_of(&lacking)),
            false => (self.random.one_of(up), self.random.one_of(up)),
        };
        let (Some(from), Some(to)) = (from, to) else { return Ok(()) };
        if self.pool.migrations.contains_key(&model) {
            return Ok(());
        }
        self.pool.migrations.insert(model, (from, to));
        self.send(Event::Migrate { model, from, to })
    }

    pub(super) fn acquired(&mut self, lease: LeaseId, id: BrowserId) -> Result<(), Violation> {
        let entry =
            self.checker.require(Invariant::Leases, self.pool.leases.get_mut(&lease), || {
                format!("{lease:?} gets {id}, and is over or was never asked")
            })?;
        let before = entry.browser.replace(id);
        // The time of waiting does not count.
        entry.deadline = self.now.after(self.plan.config.run_timeout);
        self.checker.check(Invariant::Leases, before.is_none(), || {
            format!("{lease:?} gets {id} and has {before:?}")
        })?;
        let there = self.checker.require(
            Invariant::KnownTarget,
            self.pool.browsers.get_mut(&id),
            || format!("{lease:?} gets {id}, which is not there"),
        )?;
        let slot = there.slot;
        let is_desired = !self.pool.removed_slots.contains(&slot);
        let (state, runs, other) = (there.state, there.in_flight.len(), there.lease.replace(lease));
        let free = state == BrowserState::Up && runs == 0 && other.is_none();
        self.checker.check(Invariant::Exclusive, free, || {
            format!("{lease:?} gets {id}, which is {state:?}, has {runs} runs and is {other:?}'s")
        })?;
        self.checker.check(Invariant::RemovedSlots, is_desired, || {
            format!("{lease:?} gets {id} in {slot:?}, which was removed")
        })?;
        let may = self.plan.config.worker_slots.as_ref().is_none_or(|slots| slots.contains(&slot));
        self.checker.check(Invariant::Exclusive, may, || {
            format!("{lease:?} gets {id} in {slot:?}, which is not for leases")
        })?;
        for _ in 0..self.random.range(0, 3) {
            let delay = self.random.ms(1, 5000);
            self.schedule_in(delay, Scheduled::LeaseRequest(lease));
        }
        Ok(())
    }

    pub(super) fn revoked(&mut self, lease: LeaseId, failure: &Failure) -> Result<(), Violation> {
        let there = self.pool.leases.remove(&lease);
        let entry = self.checker.require(Invariant::Leases, there, || {
            format!("{lease:?} loses its browser ({failure}), and is over or was never asked")
        })?;
        self.end_lease(lease, entry);
        Ok(())
    }

    /// A client has released its lease; called before the core handles that.
    pub(super) fn released(&mut self, lease: LeaseId) {
        if let Some(entry) = self.pool.leases.remove(&lease) {
            self.end_lease(lease, entry);
        }
    }

    fn end_lease(&mut self, lease: LeaseId, entry: Lease) {
        if let Some(id) = entry.browser
            && let Some(browser) = self.pool.browsers.get_mut(&id)
            && browser.lease == Some(lease)
        {
            browser.lease = None;
            self.pool.refresh_idle(id, self.now);
        }
    }

    pub(super) fn migrated(
        &mut self,
        model: ModelId,
        (from, to): (BrowserId, BrowserId),
        failure: Option<&Failure>,
    ) -> Result<(), Violation> {
        let asked = self.pool.migrations.remove(&model);
        self.checker.check(Invariant::Migrations, asked == Some((from, to)), || {
            format!("{model:?} has gone from {from} to {to}, and {asked:?} was asked for")
        })?;
        if failure.is_some() {
            return Ok(());
        }
        self.migrations_done += 1;
        let is_there = self.pool.has_ready(to, model);
        self.checker.check(Invariant::Migrations, is_there, || {
            format!("{model:?} is reported to be on {to} and is not ready there")
        })?;
        if let Some(browser) = self.pool.browsers.get_mut(&from) {
            for placed in browser.placements.values_mut() {
                if placed.model == model && placed.state == PlacementState::Ready {
                    placed.state = PlacementState::Leaving;
                }
            }
        }
        self.pool.refresh_idle(from, self.now);
        Ok(())
    }

    /// No lease outlasts its deadline, and the loss of its browser is reported.
    pub(super) fn check_leases(&mut self) -> Result<(), Violation> {
        for lease in std::mem::take(&mut self.pool.leases_lost) {
            let there = self.pool.leases.contains_key(&lease);
            self.checker.check(Invariant::Leases, !there, || {
                format!("{lease:?} has lost its browser and does not know")
            })?;
        }
        let now = self.now;
        let late = self.pool.leases.iter().find(|(_, entry)| entry.deadline <= now);
        let late = late.map(|(&lease, &entry)| (lease, entry));
        self.checker
            .check(Invariant::Leases, late.is_none(), || format!("{late:?} is over its time"))
    }
}
