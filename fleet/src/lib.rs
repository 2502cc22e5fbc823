//! Every decision: which browsers live, what is placed where, which request runs next, what follows a failure.
//!
//! The core is one state machine without IO: [`Fleet::handle`] takes an event and the time, [`Fleet::poll_action`] gives
//! what is to be done, [`Fleet::poll_timeout`] says when to call again if nothing happens.

pub mod config;
pub mod core;
pub mod event;
pub mod ids;
pub mod recovery;
pub mod state;

pub use config::{Choice, Config, Role, Slot};
pub use event::{
    Action, Batching, Event, Instant, LeaseId, ModelId, Persistence, Policy, Recovered, Recovery,
    RequestError, SlotId,
};
pub use recovery::{
    Attempt, Budget, Entry, Failure, FailureKind, FailureSort, RecoveryStep, Repair, StepBudgets,
    Strategy,
};

pub use crate::core::{
    Account, BrowserStage, By, Fleet, ModelStatus, PlacementStage, PlacementStatus, RefusalStatus,
    ServingPhase, Sizes, SlotStatus, Status,
};
