//! Plays those who operate the fleet: they want browsers for themselves, move models, replace browsers, and add and remove
//! models and slots.

use std::time::Duration;

use flotilla_fleet::{Event, Failure, LeaseId, ModelId};
use flotilla_protocol::BrowserId;

use super::{
    invariants::{Invariant, Violation},
    pool::{Lease, Life, Stage},
    world::{Core, Occurrence, World},
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

/// What is done often is in the list twice.
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

impl<C: Core> World<C> {
    /// An operator does something, and will again.
    pub(super) fn operate(&mut self) -> Result<(), Violation> {
        self.expect_operation();
        if !self.is_up() || self.is_draining() {
            return Ok(());
        }
        let up: Vec<BrowserId> = self
            .pool
            .browsers
            .iter()
            .filter(|(_, browser)| browser.life == Life::Up)
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

    pub(super) fn expect_operation(&mut self) {
        let per_hour = self.plan.load.operations_per_hour;
        if let Ok(mean) = Duration::try_from_secs_f64(3600.0 / per_hour) {
            let wait = self.random.wait(mean);
            self.later(wait, Occurrence::Operate);
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
            self.later(release, Occurrence::Deliver(Event::Release { lease }));
        }
        self.send(Event::Acquire { lease, deadline })
    }

    fn migrate(&mut self, up: &[BrowserId]) -> Result<(), Violation> {
        let models: Vec<ModelId> = self.pool.models.keys().copied().collect();
        let Some(model) = self.random.one_of(&models) else { return Ok(()) };
        // Mostly what can be done, and now and then what cannot.
        let sensible = self.random.chance(90.0);
        let (holding, lacking): (Vec<BrowserId>, Vec<BrowserId>) =
            up.iter().copied().partition(|&browser| self.pool.has_ready(browser, model));
        let (from, to) = match sensible {
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
        let hold = self.judge.some(Invariant::Leases, self.pool.leases.get_mut(&lease), || {
            format!("{lease:?} gets {id}, and is over or was never asked")
        })?;
        let before = hold.browser.replace(id);
        // How long it waited is no part of how long it may have the browser.
        hold.deadline = self.now.after(self.plan.config.run_timeout);
        self.judge.holds(Invariant::Leases, before.is_none(), || {
            format!("{lease:?} gets {id} and has {before:?}")
        })?;
        let there =
            self.judge.some(Invariant::KnownTarget, self.pool.browsers.get_mut(&id), || {
                format!("{lease:?} gets {id}, which is not there")
            })?;
        let slot = there.slot;
        let is_desired = !self.pool.removed_slots.contains(&slot);
        let (life, runs, other) = (there.life, there.in_flight.len(), there.lease.replace(lease));
        let free = life == Life::Up && runs == 0 && other.is_none();
        self.judge.holds(Invariant::Exclusive, free, || {
            format!("{lease:?} gets {id}, which is {life:?}, has {runs} runs and is {other:?}'s")
        })?;
        self.judge.holds(Invariant::RemovedSlots, is_desired, || {
            format!("{lease:?} gets {id} in {slot:?}, which was removed")
        })?;
        let may = self.plan.config.worker_slots.as_ref().is_none_or(|slots| slots.contains(&slot));
        self.judge.holds(Invariant::Exclusive, may, || {
            format!("{lease:?} gets {id} in {slot:?}, which is not for leases")
        })?;
        for _ in 0..self.random.range(0, 3) {
            let delay = self.random.ms(1, 5000);
            self.later(delay, Occurrence::RequestOnLease(lease));
        }
        Ok(())
    }

    pub(super) fn revoked(&mut self, lease: LeaseId, failure: &Failure) -> Result<(), Violation> {
        let there = self.pool.leases.remove(&lease);
        let hold = self.judge.some(Invariant::Leases, there, || {
            format!("{lease:?} loses its browser ({failure}), and is over or was never asked")
        })?;
        self.let_go(lease, hold);
        Ok(())
    }

    /// A lease is over, and the core is about to know.
    pub(super) fn released(&mut self, lease: LeaseId) {
        if let Some(hold) = self.pool.leases.remove(&lease) {
            self.let_go(lease, hold);
        }
    }

    fn let_go(&mut self, lease: LeaseId, hold: Lease) {
        if let Some(id) = hold.browser
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
        self.judge.holds(Invariant::Migrations, asked == Some((from, to)), || {
            format!("{model:?} has gone from {from} to {to}, and {asked:?} was asked for")
        })?;
        if failure.is_some() {
            return Ok(());
        }
        self.migrations_done += 1;
        let is_there = self.pool.has_ready(to, model);
        self.judge.holds(Invariant::Migrations, is_there, || {
            format!("{model:?} is reported to be on {to} and is not ready there")
        })?;
        if let Some(browser) = self.pool.browsers.get_mut(&from) {
            for placed in browser.placements.values_mut() {
                if placed.model == model && placed.stage == Stage::Ready {
                    placed.stage = Stage::Leaving;
                }
            }
        }
        self.pool.refresh_idle(from, self.now);
        Ok(())
    }

    /// No client waits for a browser, or keeps one, beyond its deadline; the loss of one is reported.
    pub(super) fn check_leases(&mut self) -> Result<(), Violation> {
        for lease in std::mem::take(&mut self.pool.leases_lost) {
            let there = self.pool.leases.contains_key(&lease);
            self.judge.holds(Invariant::Leases, !there, || {
                format!("{lease:?} has lost its browser and does not know")
            })?;
        }
        let now = self.now;
        let late = self.pool.leases.iter().find(|(_, hold)| hold.deadline <= now);
        let late = late.map(|(&lease, &hold)| (lease, hold));
        self.judge.holds(Invariant::Leases, late.is_none(), || format!("{late:?} is over its time"))
    }
}
