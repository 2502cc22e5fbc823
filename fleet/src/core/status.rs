//! What the fleet shows of itself.

use std::time::Duration;

use flotilla_protocol::{Backend, BrowserId, PlacementId};
use serde::Serialize;

use crate::{
    event::{LeaseId, ModelId, SlotId},
    recovery::FailureKind,
};

/// The fleet at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// Whether it accepts requests.
    pub phase: ServingPhase,
    /// One per slot, in order, with those that were added and removed.
    pub slots: Vec<SlotStatus>,
    /// One per model, in order.
    pub models: Vec<ModelStatus>,
    /// Requests that wait for a browser.
    pub queued: u32,
    /// Requests that are on a browser.
    pub running: u32,
    /// Requests whose acceptance or end is being recorded.
    pub recording: u32,
    /// Clients that have a browser for themselves.
    #[serde(rename = "tasks")]
    pub leases: Vec<LeaseId>,
    /// Transactions that could not be written.
    pub commit_failures: u64,
}

/// Whether the fleet accepts requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServingPhase {
    /// It does.
    Serving,
    /// It answers those that it has accepted, and accepts no more.
    Draining,
    /// Every request has ended, and so have the browsers.
    Drained,
}

/// How far a slot's browser is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BrowserStage {
    /// It is to be launched, or is being launched.
    Starting,
    /// It answers.
    Ready,
    /// It has missed heartbeats.
    Suspect,
    /// It failed and is launched again after a pause.
    Recovering,
    /// It failed to start too often and is launched again after a long pause.
    Retired,
    /// It was ended with the fleet.
    Stopped,
    /// Its slot was removed.
    Removed,
}

/// How far a model on a browser is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlacementStage {
    /// It is to be loaded.
    Waiting,
    /// It is being loaded.
    Loading,
    /// It is loaded beside the one that answers, which it may replace.
    Staged,
    /// It answers.
    Ready,
    /// It answers what it was given and then goes.
    Leaving,
}

/// How much the fleet holds; for checks that it stays bounded.
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
    /// How far it is.
    pub state: BrowserStage,
    /// The state in words, with what it waits for.
    pub words: String,
    /// The last failure here.
    pub last_failure: Option<String>,
    /// The kind of the last failure.
    pub last_failure_kind: Option<FailureKind>,
    /// Starts that failed one after the other until now.
    pub failed_starts: u32,
    /// Runs that its page has not ended.
    pub runs_in_flight: u32,
    /// Runs that it has ended.
    pub jobs: u64,
    /// Memory of its process tree in bytes, as last reported.
    pub used_bytes: u64,
    /// How much slower than usual its runs were lately.
    pub slowness: f64,
    /// Why it gets no more work and is about to be replaced.
    pub recycling: Option<String>,
    /// The client that has it for itself.
    #[serde(rename = "task")]
    pub lease: Option<LeaseId>,
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
    /// How far it is.
    pub state: PlacementStage,
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
