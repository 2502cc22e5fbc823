//! What the fleet shows of itself.

use flotilla_protocol::{Backend, BrowserId, PlacementId};
use serde::Serialize;

use super::{
    Fleet, Phase,
    browsers::{Berth, BrowserState, Live},
    placements::Stage,
};
use crate::{
    config::Slot,
    event::{ModelId, SlotId},
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
    /// Starts that failed one after the other until now.
    pub failed_starts: u32,
    /// Runs that its page has not ended.
    pub runs_in_flight: u32,
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
    /// `waiting`, `loading` or `ready`.
    pub state: &'static str,
    /// Why the backends that the slot prefers to this one are not used; `None` where this is the first choice.
    pub fallback: Option<String>,
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
        let queued = self.queue.len();
        Status {
            phase: match self.phase {
                Phase::New | Phase::Serving => "serving",
                Phase::Draining => "draining",
                Phase::Drained => "drained",
            },
            slots: (0..self.berths.len()).map(|index| self.slot_status(index)).collect(),
            models: self.models.keys().map(|&model| self.model_status(model)).collect(),
            queued,
            running: self.requests.len() as u32 - queued,
        }
    }

    fn slot_status(&self, index: usize) -> SlotStatus {
        let (slot, berth) = (&self.config.slots[index], &self.berths[index]);
        let (state, words) = self.describe(berth);
        let live = berth.state.live();
        let (placements, refused) = live.map(|live| placements(slot, live)).unwrap_or_default();
        SlotStatus {
            slot: SlotId(index as u32),
            kind: slot.kind.clone(),
            browser: berth.state.browser(),
            state,
            words,
            last_failure: berth.last_failure.as_ref().map(ToString::to_string),
            failed_starts: berth.failed_starts,
            runs_in_flight: live.map_or(0, |live| live.runs.len() as u32),
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
            BrowserState::Retired { failure } => (
                "retired",
                format!("given up after {} failed starts: {failure}", berth.failed_starts),
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
}

fn placements(slot: &Slot, live: &Live) -> (Vec<PlacementStatus>, Vec<RefusalStatus>) {
    let (mut placements, mut refused) = (Vec::new(), Vec::new());
    for (&model, placement) in &live.placements {
        let (backend, state) = match placement.stage {
            Stage::Waiting { backend, .. } => (backend, "waiting"),
            Stage::Loading { backend, .. } => (backend, "loading"),
            Stage::Ready { backend } => (backend, "ready"),
            Stage::Refused => {
                refused.push(RefusalStatus {
                    model,
                    reason: placement.fallback(slot).unwrap_or_default(),
                });
                continue;
            }
        };
        let fallback = placement.fallback(slot);
        placements.push(PlacementStatus {
            placement: placement.id,
            model,
            backend,
            state,
            fallback,
        });
    }
    (placements, refused)
}
