//! What the fleet shows of itself.

use std::time::Duration;

use flotilla_protocol::{Backend, BrowserId, PlacementId};
use serde::Serialize;

use super::{
    Fleet, Phase,
    browsers::{Berth, BrowserState, Live},
    journal::stage_name,
    requests::RequestState,
};
use crate::{
    event::{ModelId, SlotId, TaskId},
    recovery::FailureKind,
};

/// The fleet at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// `serving`, `draining` or `drained`.
    pub phase: &'static str,
    /// One per configured slot, in order.
    pub slots: Vec<SlotStatus>,
    /// One per model, in order.
    pub models: Vec<ModelStatus>,
    /// Requests that wait for a browser.
    pub queued: u32,
    /// Requests that are on a browser.
    pub running: u32,
    /// Requests whose acceptance or end is being recorded.
    pub recording: u32,
    /// Tasks that have a browser for themselves.
    pub tasks: Vec<TaskId>,
    /// Transactions that could not be written.
    pub commit_failures: u64,
}

/// How much the fleet holds, for whoever watches that it stays bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// Accepted requests that have not ended.
    pub requests: usize,
    /// Runs that no page has ended.
    pub runs: usize,
    /// Placements on living browsers.
    pub placements: usize,
    /// Timers of requests.
    pub timers: usize,
    /// Records in memory.
    pub records: usize,
    /// Transactions that are not confirmed.
    pub transactions: usize,
    /// Actions that nobody has taken yet.
    pub actions: usize,
}

/// A slot and its browser.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlotStatus {
    /// The slot.
    pub slot: SlotId,
    /// Its kind.
    pub kind: String,
    /// Its browser, while it has one.
    pub browser: Option<BrowserId>,
    /// `starting`, `ready`, `suspect`, `recovering`, `retired` or `stopped`.
    pub state: &'static str,
    /// The state in words, with what it waits for.
    pub words: String,
    /// What last went wrong here.
    pub last_failure: Option<String>,
    /// Of which kind that was.
    pub last_failure_kind: Option<FailureKind>,
    /// Starts that failed one after the other until now.
    pub failed_starts: u32,
    /// Runs that its page has not ended.
    pub runs_in_flight: u32,
    /// Runs that it has ended.
    pub jobs: u64,
    /// Memory of its process tree in bytes, when it was last told.
    pub used_bytes: u64,
    /// How much slower than usual its runs were lately.
    pub slowness: f64,
    /// Why it gets no more work and is about to be replaced.
    pub recycling: Option<String>,
    /// The task that has it for itself.
    pub task: Option<TaskId>,
    /// Models that are or will be here.
    pub placements: Vec<PlacementStatus>,
    /// Models that cannot be here.
    pub refused: Vec<RefusalStatus>,
}

/// A model on a browser.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlacementStatus {
    /// The placement.
    pub placement: PlacementId,
    /// The model.
    pub model: ModelId,
    /// Where in the page it runs.
    pub backend: Backend,
    /// `waiting`, `loading`, `staged`, `ready` or `leaving`.
    pub state: &'static str,
    /// Why the backends that the slot prefers to this one are not used; `None` where this is the first choice.
    pub fallback: Option<String>,
    /// Why it is on this backend.
    pub account: Account,
}

/// Why a placement is on its backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Account {
    /// What decided.
    pub by: By,
    /// How long a run of usual size takes on each backend that was measured, the fastest first.
    pub measured: Vec<(Backend, Duration)>,
    /// Backends that are allowed and will not do, and why.
    pub refused: Vec<(Backend, String)>,
}

/// What decided on a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// No other one is allowed, or none of the others will do.
    Only,
    /// The order of the list.
    Order,
    /// It was measured to be the fastest.
    Speed,
    /// The order of the list, until every backend is measured.
    OrderForNow,
    /// The order of the list, because no input can be made up; why.
    Unmeasurable(String),
}

/// A model that no backend of a slot runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RefusalStatus {
    /// The model.
    pub model: ModelId,
    /// Why, for each backend.
    pub reason: String,
}

/// A model over all slots.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelStatus {
    /// The model.
    pub model: ModelId,
    /// Placements that are ready on browsers that are ready.
    pub ready: u32,
    /// Its requests that wait.
    pub queued: u32,
    /// Why it can never be served, when that is known.
    pub unplaceable: Option<String>,
}

impl Fleet {
    /// The fleet as it is after the latest event.
    pub fn status(&self) -> Status {
        let (mut queued, mut running, mut recording) = (0, 0, 0);
        for request in self.requests.values() {
            *match request.state {
                RequestState::Queued(_) => &mut queued,
                RequestState::Running(_) => &mut running,
                RequestState::Accepting { .. } | RequestState::Ending(_) => &mut recording,
            } += 1;
        }
        Status {
            phase: match self.phase {
                Phase::New | Phase::Serving => "serving",
                Phase::Draining => "draining",
                Phase::Drained => "drained",
            },
            slots: (0..self.berths.len()).map(|index| self.slot_status(index)).collect(),
            models: self.models.keys().map(|&model| self.model_status(model)).collect(),
            queued,
            running,
            recording,
            tasks: self.holding(),
            commit_failures: self.journal.failures,
        }
    }

    /// How much the fleet holds.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            requests: self.requests.len(),
            runs: self.runs.len(),
            placements: self.placed.len(),
            timers: self.deadlines.len() + self.rungs_due.len(),
            records: self.journal.records.len(),
            transactions: self.journal.open(),
            actions: self.actions.len(),
        }
    }

    /// What a record says.
    pub fn record_of(&self, key: crate::state::Key) -> Option<&crate::state::Value> {
        self.journal.records.get(key)
    }

    /// Why a placement is not on its slot's first choice of backends, if it is not, and why it is where it is. `None` for
    /// one that is not there any more.
    pub fn account(&self, id: PlacementId) -> Option<(Option<String>, Account)> {
        let &(index, model) = self.placed.get(&id)?;
        let live = self.berths[index].state.live()?;
        let mut there = live.placements.get(&model).into_iter().chain(&live.left);
        let placement = there.find(|placement| placement.id == id)?;
        let fallback = placement.fallback(&self.config.slots[index]);
        Some((fallback, self.account_of(index, model, placement)))
    }

    /// The backend that a model is on in a browser, and why.
    pub fn chosen(&self, browser: BrowserId, model: ModelId) -> Option<(Backend, Account)> {
        let &index = self.homes.get(&browser)?;
        let placement = self.berths[index].state.live()?.placements.get(&model)?;
        Some((placement.ready_on()?, self.account_of(index, model, placement)))
    }

    fn slot_status(&self, index: usize) -> SlotStatus {
        let (slot, berth) = (&self.config.slots[index], &self.berths[index]);
        let (state, words) = self.describe(berth);
        let live = berth.state.live();
        let (placements, refused) =
            live.map(|live| self.placement_status(index, live)).unwrap_or_default();
        SlotStatus {
            slot: SlotId(index as u32),
            kind: slot.kind.clone(),
            browser: berth.state.browser(),
            state,
            words,
            last_failure: berth.last_failure.as_ref().map(ToString::to_string),
            last_failure_kind: berth.last_failure.as_ref().map(|failure| failure.kind),
            failed_starts: berth.failed_starts,
            runs_in_flight: live.map_or(0, |live| live.runs.len() as u32),
            jobs: live.map_or(0, |live| live.jobs),
            used_bytes: live.map_or(0, |live| live.used_bytes),
            slowness: live.map_or(1.0, |live| live.slowness),
            recycling: live.and_then(|live| live.recycling.clone()),
            task: live.and_then(|live| live.task),
            placements,
            refused,
        }
    }

    fn describe(&self, berth: &Berth) -> (&'static str, String) {
        match &berth.state {
            BrowserState::Wanted => ("starting", "not launched yet".to_owned()),
            BrowserState::Starting { until, .. } => {
                ("starting", format!("waits for its page, for at most {:?}", until.since(self.now)))
            }
            BrowserState::Ready(_) => ("ready", "answers".to_owned()),
            BrowserState::Suspect { live, .. } => {
                ("suspect", format!("not heard of for {:?}", self.now.since(live.heard_at)))
            }
            BrowserState::Recovering { relaunch_at } => {
                ("recovering", format!("is launched anew in {:?}", relaunch_at.since(self.now)))
            }
            BrowserState::Retired { failure, until } => (
                "retired",
                format!(
                    "rests after {} failed starts, is launched anew in {:?}; the last one: {failure}",
                    berth.failed_starts,
                    until.since(self.now)
                ),
            ),
            BrowserState::Stopped => ("stopped", "ended by the daemon".to_owned()),
        }
    }

    fn model_status(&self, model: ModelId) -> ModelStatus {
        let serves = |berth: &&Berth| match &berth.state {
            BrowserState::Ready(live) => {
                live.placements.get(&model).is_some_and(|placement| placement.ready_on().is_some())
            }
            BrowserState::Wanted
            | BrowserState::Starting { .. }
            | BrowserState::Suspect { .. }
            | BrowserState::Recovering { .. }
            | BrowserState::Retired { .. }
            | BrowserState::Stopped => false,
        };
        ModelStatus {
            model,
            ready: self.berths.iter().filter(serves).count() as u32,
            queued: self.queue.len_of(model),
            unplaceable: self.unplaceable(model),
        }
    }

    fn placement_status(
        &self,
        index: usize,
        live: &Live,
    ) -> (Vec<PlacementStatus>, Vec<RefusalStatus>) {
        let slot = &self.config.slots[index];
        let (mut placements, mut refused) = (Vec::new(), Vec::new());
        for (&model, placement) in &live.placements {
            let fallback = placement.fallback(slot);
            let Some(backend) = placement.backend() else {
                refused.push(RefusalStatus { model, reason: fallback.unwrap_or_default() });
                continue;
            };
            placements.push(PlacementStatus {
                placement: placement.id,
                model,
                backend,
                state: stage_name(&placement.stage),
                fallback,
                account: self.account_of(index, model, placement),
            });
        }
        (placements, refused)
    }
}
