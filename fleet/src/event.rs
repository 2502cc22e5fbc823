//! Events that the fleet takes and actions that it orders: its whole interface.

use std::time::Duration;

use flotilla_protocol::{Backend, BrowserId, Epoch, PlacementId, RequestId, RunId};
use serde::{Deserialize, Serialize};

use crate::{
    config::Slot,
    recovery::{Attempt, Failure, FailureKind, RecoveryStep, Strategy},
    state::{Transaction, TransactionId},
};
pub use crate::{
    ids::{Instant, LeaseId, ModelId, SlotId},
    recovery::RequestError,
};

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Nothing but the passing of time.
    Wake,
    /// Events of the same moment: nothing is decided before all are known, so requests that arrive together can share a
    /// run.
    Together(Vec<Event>),
    /// A model is to be served: the core places it on every slot.
    ModelAdded {
        /// The model.
        model: ModelId,
        /// How its requests may be joined.
        batching: Batching,
    },
    /// A model is no longer served. Requests for it that wait fail at once, runs in flight may finish, and its placements are
    /// unloaded when nothing of theirs runs. Its number is never used again: a [`Event::ModelAdded`] with it is ignored.
    ModelRemoved {
        /// The model.
        model: ModelId,
    },
    /// One more browser is desired. Its slot gets the next index; indices are never reused.
    SlotAdded {
        /// The slot.
        slot: Slot,
    },
    /// A browser is no longer desired. It gets no more runs; when those that it has have ended, its lease ends, it is killed,
    /// and the slot stays as `removed`. A lease that has it gets no more runs on it either. Has no effect on a slot that is
    /// not there or is removed already.
    SlotRemoved {
        /// The slot.
        slot: SlotId,
        /// For the log and the status.
        reason: String,
    },
    /// The browser's page has opened both links and reported what it offers.
    BrowserUp {
        /// The browser.
        browser: BrowserId,
        /// Backends that its page offers.
        backends: Vec<Backend>,
        /// Backends that it does not, with the browser's words.
        refused: Vec<(Backend, String)>,
    },
    /// The page has failed, but the browser's process lives: a link closed, or the page crashed.
    PageDown {
        /// The browser.
        browser: BrowserId,
        /// What happened.
        failure: Failure,
    },
    /// The browser has failed: it ended, hangs, or never came up. The core orders its processes to be killed.
    BrowserDown {
        /// The browser.
        browser: BrowserId,
        /// What happened.
        failure: Failure,
    },
    /// The control link's heartbeat, or any other sign of life from the page's main thread.
    Heartbeat {
        /// The browser.
        browser: BrowserId,
    },
    /// How much memory the browser's process tree holds.
    Memory {
        /// The browser.
        browser: BrowserId,
        /// Proportional set size in bytes.
        used_bytes: u64,
    },
    /// The tiny dispatch of [`Action::Probe`] gave the known answer.
    ProbeDone {
        /// The browser.
        browser: BrowserId,
        /// The probe.
        probe: RunId,
    },
    /// The dispatch of [`Action::Probe`] gave another answer, or none.
    ProbeFailed {
        /// The browser.
        browser: BrowserId,
        /// The probe.
        probe: RunId,
        /// What happened.
        failure: Failure,
    },
    /// Weights are arriving or a load otherwise proceeds, so that its time-out starts anew.
    PlacementProgress {
        /// Whose page reports it.
        browser: BrowserId,
        /// The placement.
        placement: PlacementId,
        /// Its life.
        epoch: Epoch,
    },
    /// The placement answers.
    PlacementReady {
        /// Whose page reports it.
        browser: BrowserId,
        /// The placement.
        placement: PlacementId,
        /// Its life.
        epoch: Epoch,
    },
    /// The placement could not be made.
    PlacementFailed {
        /// Whose page reports it.
        browser: BrowserId,
        /// The placement.
        placement: PlacementId,
        /// Its life.
        epoch: Epoch,
        /// What happened.
        failure: Failure,
    },
    /// A client asks.
    Request {
        /// Chosen by the daemon, never reused.
        request: RequestId,
        /// What it asks of.
        model: ModelId,
        /// Rows along the batch dimension.
        rows: u32,
        /// Length of a row (tokens); rows of a batch are padded to the longest.
        length: u32,
        /// When the client no longer wants the answer.
        deadline: Instant,
        /// What is done for it when something fails.
        policy: Policy,
    },
    /// The client has gone.
    Cancel {
        /// Its request.
        request: RequestId,
    },
    /// A run's results have arrived and wait in the daemon for [`Action::Answer`].
    RunDone {
        /// Whose page reports it.
        browser: BrowserId,
        /// The run.
        run: RunId,
        /// The placement's life that answered.
        epoch: Epoch,
    },
    /// A run ended without results.
    RunFailed {
        /// Whose page reports it.
        browser: BrowserId,
        /// The run.
        run: RunId,
        /// The placement's life that failed.
        epoch: Epoch,
        /// What happened.
        failure: Failure,
    },
    /// [`Action::Measure`]'s run gave its results.
    Measured {
        /// The browser.
        browser: BrowserId,
        /// The run.
        measure: RunId,
        /// Inside the page.
        took: Duration,
    },
    /// [`Action::Measure`]'s run gave none.
    MeasureFailed {
        /// The browser.
        browser: BrowserId,
        /// The run.
        measure: RunId,
        /// What happened.
        failure: Failure,
    },
    /// No input can be made up for a model: its backends are chosen by their order.
    Unmeasurable {
        /// The model.
        model: ModelId,
        /// Why.
        reason: String,
    },
    /// How long a model's run takes on a backend of browsers of this kind, as an earlier daemon has measured it.
    SpeedKnown {
        /// The browser.
        browser: BrowserId,
        /// The model.
        model: ModelId,
        /// The backend.
        backend: Backend,
        /// Inside the page.
        took: Duration,
    },
    /// A page lost a GPU device or a WebNN context; its placements on that backend are gone.
    DeviceLost {
        /// The browser.
        browser: BrowserId,
        /// Whose device it was.
        backend: Backend,
        /// The browser's words.
        reason: String,
    },
    /// A transaction is as durable as it must be.
    Committed {
        /// The transaction.
        transaction: TransactionId,
    },
    /// A transaction could not be written; nothing of it is on disk.
    CommitFailed {
        /// The transaction.
        transaction: TransactionId,
        /// The store's words.
        reason: String,
    },
    /// A client wants a browser for itself.
    Acquire {
        /// Chosen by the daemon, never reused.
        lease: LeaseId,
        /// When the client stops waiting for a browser.
        deadline: Instant,
    },
    /// A client no longer needs, or no longer wants, its browser.
    Release {
        /// The client's lease.
        lease: LeaseId,
    },
    /// Replace a browser once its runs have ended.
    Recycle {
        /// The browser.
        browser: BrowserId,
        /// For the record.
        reason: String,
    },
    /// Move a model from one browser to another: load it there, record that, and only then unload it here. Where a step
    /// fails, everything stays as it was.
    Migrate {
        /// The model.
        model: ModelId,
        /// Where it is.
        from: BrowserId,
        /// Where it is to be.
        to: BrowserId,
    },
    /// Accept no more requests, answer those accepted, then end every browser.
    Drain,
}

/// What is done for a request when something fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Whether the request and its outcome are recorded.
    pub persistence: Persistence,
    /// How it recovers; `None` for [`crate::Config::strategy`].
    pub strategy: Option<Strategy>,
    /// Longest time from its first failure to its answer; `None` for as long as its deadline allows.
    pub recovery_timeout: Option<Duration>,
    /// Whether a simulated browser may answer it as the last resort.
    pub fallback_to_simulation: bool,
    /// Only the browser of this lease may run it.
    pub lease: Option<LeaseId>,
}

/// Whether a request outlives the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Persistence {
    /// It ends with the daemon.
    #[default]
    None,
    /// It is recorded before anything is done for it, and its outcome before it is answered.
    Record,
    /// It was recorded by an earlier daemon.
    Recorded,
}

/// How requests of a model may be joined into one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batching {
    /// Most rows of a run; 1 forbids joining.
    pub rows_max: u32,
    /// Most rows x length of a run, padding included; a single request may exceed it.
    pub tokens_max: u32,
}

/// An order to the daemon, which carries it out and reports back with events.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Start a browser for a slot. Answered by `BrowserUp` or `BrowserDown`.
    Launch {
        /// The new browser.
        browser: BrowserId,
        /// What kind it must be.
        slot: SlotId,
    },
    /// End a browser and everything under it, with or without its help. Not answered; the id is never used again.
    Kill {
        /// The browser.
        browser: BrowserId,
        /// For the log.
        reason: String,
    },
    /// Give a browser a new page, with new links; whatever was loaded is gone. Answered by `BrowserUp` or `BrowserDown`.
    Reset {
        /// The browser.
        browser: BrowserId,
        /// For the log.
        reason: String,
    },
    /// Run something tiny with a known answer. Answered by `ProbeDone` or `ProbeFailed`.
    Probe {
        /// The browser.
        browser: BrowserId,
        /// On which backend.
        backend: Backend,
        /// Name of the probe.
        probe: RunId,
    },
    /// Run a made-up input whose size is usual for the model, so that backends can be compared. Answered by `Measured`,
    /// `MeasureFailed` or `Unmeasurable`.
    Measure {
        /// Where.
        browser: BrowserId,
        /// On which placement; it may be one that answers no requests.
        placement: PlacementId,
        /// Of which life.
        epoch: Epoch,
        /// Its model.
        model: ModelId,
        /// Name of the run.
        measure: RunId,
    },
    /// A model was measured on a backend. To be kept for the next daemon ([`Event::SpeedKnown`]).
    Keep {
        /// Where.
        browser: BrowserId,
        /// The model.
        model: ModelId,
        /// The backend.
        backend: Backend,
        /// The shortest of its runs that count.
        took: Duration,
    },
    /// Free a placement. Not answered.
    Unload {
        /// Where it is.
        browser: BrowserId,
        /// The placement.
        placement: PlacementId,
    },
    /// Write a transaction. Answered by `Committed` or `CommitFailed`.
    Commit(Transaction),
    /// A client has a browser for itself, until [`Event::Release`] or [`Action::Revoked`].
    Acquired {
        /// Its lease.
        lease: LeaseId,
        /// The browser.
        browser: BrowserId,
    },
    /// A client gets no browser, or has it no longer.
    Revoked {
        /// Its lease, which is over.
        lease: LeaseId,
        /// Why.
        failure: Failure,
    },
    /// A migration that was asked for has ended.
    Migrated {
        /// The model.
        model: ModelId,
        /// Where it was.
        from: BrowserId,
        /// Where it was to be.
        to: BrowserId,
        /// Why everything is as before, if it is.
        failure: Option<Failure>,
    },
    /// A failure was dealt with; for logs and records.
    Recovered(Recovery),
    /// Load a model. Answered by `PlacementReady` or `PlacementFailed`.
    Place {
        /// Where.
        browser: BrowserId,
        /// Name of the new placement.
        placement: PlacementId,
        /// Its life.
        epoch: Epoch,
        /// What.
        model: ModelId,
        /// On which backend.
        backend: Backend,
    },
    /// Execute requests as one batch. Answered by `RunDone` or `RunFailed`.
    Dispatch {
        /// Where.
        browser: BrowserId,
        /// On which placement.
        placement: PlacementId,
        /// Of which life.
        epoch: Epoch,
        /// Name of this execution.
        run: RunId,
        /// Its rows, in order.
        requests: Vec<RequestId>,
    },
    /// Forget a run's results: nobody waits for them, though the page may still send them. Its `RunDone` or `RunFailed`
    /// is reported all the same: until then the browser counts as busy with it, so that a hang is still noticed.
    Abandon {
        /// The run.
        run: RunId,
    },
    /// Give a request its part of a run's results. Exactly one of `Answer` and `Fail` is ordered for each request that
    /// was not cancelled.
    Answer {
        /// The request.
        request: RequestId,
        /// The run whose results hold it.
        run: RunId,
        /// Failed attempts before this one.
        tried: Vec<Attempt>,
    },
    /// Tell a client that there will be no answer.
    Fail {
        /// The request.
        request: RequestId,
        /// Why.
        error: RequestError,
    },
    /// Every accepted request is answered and every browser is ordered to end.
    Drained,
}

/// How a failure was dealt with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    /// What had failed.
    pub failure: FailureKind,
    /// Where.
    pub browser: BrowserId,
    /// What was done.
    pub what: Recovered,
    /// From the failure to its end, or to the next failure.
    pub took: Duration,
    /// Whether it helped.
    pub succeeded: bool,
}

/// What recovered, and by which step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recovered {
    /// A request, by a recovery step.
    Request(RequestId, RecoveryStep),
    /// A slot, by a repair of its browser.
    Browser(SlotId, crate::recovery::Repair),
}
