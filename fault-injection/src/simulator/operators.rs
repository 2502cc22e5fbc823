//! Plays those who operate the fleet: they want browsers for themselves, move models and replace browsers.

use std::time::Duration;

use flotilla_fleet::{Event, Failure, ModelId, TaskId};
use flotilla_protocol::BrowserId;

use super::{
    invariants::{Invariant, Violation},
    pool::{Hold, Life, Stage},
    world::{Core, Happening, World},
};

/// What an operator may do.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Acquire,
    Migrate,
    Recycle,
}

const OPERATIONS: [Operation; 3] = [Operation::Acquire, Operation::Migrate, Operation::Recycle];

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
                Some(browser) => self.tell(Event::Recycle { browser, reason: "played".to_owned() }),
                None => Ok(()),
            },
            Some(Operation::Migrate) => self.migrate(&up),
            None => Ok(()),
        }
    }

    pub(super) fn expect_operation(&mut self) {
        let per_hour = self.plan.load.operations_per_hour;
        if let Ok(mean) = Duration::try_from_secs_f64(3600.0 / per_hour) {
            let wait = self.random.wait(mean);
            self.later(wait, Happening::Operate);
        }
    }

    fn acquire(&mut self) -> Result<(), Violation> {
        self.operations += 1;
        let task = TaskId(self.operations);
        let patience = self.random.ms(1000, 20_000);
        let deadline = self.now.after(patience);
        self.pool.tasks.insert(task, Hold { deadline, browser: None });
        if self.random.chance(70.0) {
            let release = self.random.ms(500, 20_000);
            self.later(release, Happening::Tell(Event::Release { task }));
        }
        self.tell(Event::Acquire { task, deadline })
    }

    fn migrate(&mut self, up: &[BrowserId]) -> Result<(), Violation> {
        let models: Vec<ModelId> = self.plan.models.keys().copied().collect();
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
        self.tell(Event::Migrate { model, from, to })
    }

    pub(super) fn acquired(&mut self, task: TaskId, id: BrowserId) -> Result<(), Violation> {
        let hold = self.judge.some(Invariant::Tasks, self.pool.tasks.get_mut(&task), || {
            format!("{task:?} gets {id}, and is over or was never asked")
        })?;
        let before = hold.browser.replace(id);
        // How long it waited is no part of how long it may have the browser.
        hold.deadline = self.now.after(self.plan.config.run_timeout);
        self.judge.holds(Invariant::Tasks, before.is_none(), || {
            format!("{task:?} gets {id} and has {before:?}")
        })?;
        let there =
            self.judge.some(Invariant::KnownTarget, self.pool.browsers.get_mut(&id), || {
                format!("{task:?} gets {id}, which is not there")
            })?;
        let slot = there.slot;
        let (life, runs, other) = (there.life, there.in_flight.len(), there.task.replace(task));
        let free = life == Life::Up && runs == 0 && other.is_none();
        self.judge.holds(Invariant::Exclusive, free, || {
            format!("{task:?} gets {id}, which is {life:?}, has {runs} runs and is {other:?}'s")
        })?;
        let may = self.plan.config.worker_slots.as_ref().is_none_or(|slots| slots.contains(&slot));
        self.judge.holds(Invariant::Exclusive, may, || {
            format!("{task:?} gets {id} in {slot:?}, which is not for tasks")
        })?;
        for _ in 0..self.random.range(0, 3) {
            let delay = self.random.ms(1, 5000);
            self.later(delay, Happening::AskTask(task));
        }
        Ok(())
    }

    pub(super) fn revoked(&mut self, task: TaskId, failure: &Failure) -> Result<(), Violation> {
        let there = self.pool.tasks.remove(&task);
        let hold = self.judge.some(Invariant::Tasks, there, || {
            format!("{task:?} loses its browser ({failure}), and is over or was never asked")
        })?;
        self.let_go(task, hold);
        Ok(())
    }

    /// A task is over, and the core is about to know.
    pub(super) fn released(&mut self, task: TaskId) {
        if let Some(hold) = self.pool.tasks.remove(&task) {
            self.let_go(task, hold);
        }
    }

    fn let_go(&mut self, task: TaskId, hold: Hold) {
        if let Some(id) = hold.browser
            && let Some(browser) = self.pool.browsers.get_mut(&id)
            && browser.task == Some(task)
        {
            browser.task = None;
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
            format!("{model:?} is said to be on {to} and is not ready there")
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

    /// Nobody waits for a browser, or keeps one, for longer than was said; who has lost his knows it.
    pub(super) fn check_tasks(&mut self) -> Result<(), Violation> {
        for task in std::mem::take(&mut self.pool.bereft) {
            let there = self.pool.tasks.contains_key(&task);
            self.judge.holds(Invariant::Tasks, !there, || {
                format!("{task:?} has lost its browser and does not know")
            })?;
        }
        let now = self.now;
        let late = self.pool.tasks.iter().find(|(_, hold)| hold.deadline <= now);
        let late = late.map(|(&task, &hold)| (task, hold));
        self.judge.holds(Invariant::Tasks, late.is_none(), || format!("{late:?} is over its time"))
    }
}
