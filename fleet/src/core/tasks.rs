//! Clients that want a browser for themselves.

use super::{Fleet, placements::Stage};
use crate::{
    event::{Action, Instant, RequestError, SlotId, TaskId},
    recovery::{Failure, FailureKind},
};

/// A client's wish for a browser.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    pub(super) deadline: Instant,
    pub(super) state: TaskState,
}

/// How far the wish is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskState {
    /// No browser is free.
    Waiting,
    /// This slot's browser gets no more other work, and is the task's when what it has is ended.
    Promised(usize),
    /// This slot's browser is the task's.
    Holding(usize),
}

impl Fleet {
    pub(super) fn acquire(&mut self, task: TaskId, deadline: Instant) {
        self.tasks.entry(task).or_insert(Task { deadline, state: TaskState::Waiting });
    }

    pub(super) fn release(&mut self, task: TaskId) {
        let Some(Task { state, .. }) = self.tasks.remove(&task) else { return };
        self.end_requests_of(task);
        match state {
            TaskState::Waiting => {}
            TaskState::Promised(index) | TaskState::Holding(index) => {
                if let Some(live) = self.berth_mut(index).state.live_mut() {
                    live.task = None;
                }
            }
        }
    }

    /// The berth whose browser a task has for itself.
    pub(super) fn held_by(&self, task: TaskId) -> Option<usize> {
        match self.tasks.get(&task)?.state {
            TaskState::Holding(index) => Some(index),
            TaskState::Waiting | TaskState::Promised(_) => None,
        }
    }

    /// A task's browser is gone.
    pub(super) fn revoke(&mut self, task: TaskId, failure: &Failure) {
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        match entry.state {
            TaskState::Waiting => {}
            TaskState::Promised(_) => entry.state = TaskState::Waiting,
            TaskState::Holding(_) => {
                self.tasks.remove(&task);
                self.end_requests_of(task);
                self.actions.push_back(Action::Revoked { task, failure: failure.clone() });
            }
        }
    }

    /// Gives browsers to tasks, in the order in which they were asked for.
    pub(super) fn assign_tasks(&mut self) {
        if self.tasks.is_empty() {
            return;
        }
        let waiting: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.state == TaskState::Waiting)
            .map(|(&id, _)| id)
            .collect();
        for task in waiting {
            let promised =
                self.tasks.values().filter(|task| task.state != TaskState::Waiting).count();
            if self.config.workers_max.is_some_and(|max| promised >= max as usize) {
                break;
            }
            let Some(index) = self.freest() else { break };
            if let Some(live) = self.berth_mut(index).state.live_mut() {
                live.task = Some(task);
            }
            if let Some(entry) = self.tasks.get_mut(&task) {
                entry.state = TaskState::Promised(index);
            }
        }
        let promised: Vec<(TaskId, usize)> = self
            .tasks
            .iter()
            .filter_map(|(&id, task)| match task.state {
                TaskState::Promised(index) => Some((id, index)),
                TaskState::Waiting | TaskState::Holding(_) => None,
            })
            .collect();
        for (task, index) in promised {
            let Some(live) = self.berths[index].state.live().filter(|live| live.is_idle()) else {
                continue;
            };
            let browser = live.browser;
            // How long it waited is no part of how long it may have the browser.
            let deadline = self.now.after(self.config.run_timeout);
            if let Some(entry) = self.tasks.get_mut(&task) {
                *entry = Task { deadline, state: TaskState::Holding(index) };
            }
            self.actions.push_back(Action::Acquired { task, browser });
        }
        self.refresh();
    }

    /// The browser with the fewest runs that nobody has for himself.
    fn freest(&self) -> Option<usize> {
        (0..self.berths.len())
            .filter(|&index| !self.is_fallback(index))
            .filter(|&index| {
                let slots = self.config.worker_slots.as_ref();
                slots.is_none_or(|slots| slots.contains(&SlotId(index as u32)))
            })
            .filter_map(|index| {
                let live = self.berths[index].state.usable()?;
                let settled = live
                    .placements
                    .values()
                    .all(|each| matches!(each.stage, Stage::Ready { .. } | Stage::Refused));
                (live.task.is_none() && settled).then_some((live.runs.len(), index))
            })
            .min()
            .map(|(_, index)| index)
    }

    /// Ends tasks whose time is over. A browser that computes for one is given a new page: that ends the computation.
    pub(super) fn expire_tasks(&mut self) {
        let over: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.deadline <= self.now)
            .map(|(&id, _)| id)
            .collect();
        for task in over {
            let late = |words: &str| Failure::new(FailureKind::DeadlineExceeded, words);
            let Some(Task { state, .. }) = self.tasks.get(&task).copied() else { continue };
            match state {
                TaskState::Waiting | TaskState::Promised(_) => {
                    self.release(task);
                    let failure =
                        Failure::new(FailureKind::Overloaded, "no browser was free in time");
                    self.actions.push_back(Action::Revoked { task, failure });
                }
                TaskState::Holding(index) => {
                    let failure = late("the task has had its browser for as long as it may");
                    let is_busy =
                        self.berths[index].state.live().is_some_and(|live| !live.runs.is_empty());
                    self.release(task);
                    self.actions.push_back(Action::Revoked { task, failure: failure.clone() });
                    if is_busy {
                        self.page_down(index, failure);
                    }
                }
            }
        }
    }

    pub(super) fn task_timeout(&self) -> Option<Instant> {
        self.tasks.values().map(|task| task.deadline).min()
    }

    /// The fleet ends, and with it every task's browser.
    pub(super) fn end_tasks(&mut self) {
        for (task, _) in std::mem::take(&mut self.tasks) {
            let failure = Failure::new(FailureKind::BrowserExited, "the daemon is shutting down");
            self.actions.push_back(Action::Revoked { task, failure });
        }
    }

    /// How many tasks hold a browser.
    pub(super) fn holding(&self) -> Vec<TaskId> {
        self.tasks
            .iter()
            .filter(|(_, task)| matches!(task.state, TaskState::Holding(_)))
            .map(|(&id, _)| id)
            .collect()
    }

    fn end_requests_of(&mut self, task: TaskId) {
        let of_task: Vec<_> = self
            .requests
            .iter()
            .filter(|(_, request)| request.policy.task == Some(task))
            .map(|(&id, _)| id)
            .collect();
        for id in of_task {
            self.end_with(id, |tried| RequestError::TaskEnded { tried });
        }
    }
}
