//! The state machine.
//!
//! Each component owns its state and can be read alone: `slots` with their browsers, placements and repairs,
//! `assignments` of models to slots, `requests`, `runs`, `leases`, `measurements`, the `journal`, and what was
//! learned (`speed`, `experience`). Its methods say what follows from a change; it knows neither the fleet nor what
//! other components do about that. `dispatch`, `escalation` and `watch` decide from what they read of components.
//! The `fleet` calls components one after the other and turns what they say into calls of others and into actions.
//!
//! # Invariants
//!
//! - Each request that was not cancelled gets exactly one [`Action::Answer`] or [`Action::Fail`], no later than the first
//!   event at or after its deadline; one whose end is being recorded, as soon as the record is confirmed or refused.
//! - A request that is to be recorded is dispatched only after its record is confirmed.
//! - A run is dispatched only to a browser that is ready, onto a placement that is ready, in its present epoch, and never
//!   beyond [`Config::runs_in_flight_max`].
//! - Browser, placement and run ids are never used twice. An answer for a run that is not known, in an epoch that is
//!   not the run's, or from a browser that does not have it, changes nothing; nor does such a report of a placement.
//! - One placement at a time loads on a browser.
//! - One backend at a time is measured in the fleet. While it is, whatever answered before answers.
//! - Nothing is loaded or dispatched for a removed model, and nothing is launched in or dispatched to a removed slot.
//! - After an event at time `t`, [`Fleet::poll_timeout`] is later than `t`: waking at it never spins.
//! - The same events at the same times give the same actions.

mod assignments;
mod dispatch;
mod escalation;
mod experience;
mod fleet;
mod health;
mod index;
mod journal;
mod leases;
mod live;
mod measurements;
mod placement;
mod queue;
mod requests;
mod runs;
mod slot;
mod slots;
mod speed;
mod status;
mod watch;

pub use self::{
    fleet::Fleet,
    status::{
        Account, BrowserStage, By, ModelStatus, PlacementStage, PlacementStatus, RefusalStatus,
        ServingPhase, Sizes, SlotStatus, Status,
    },
};
#[cfg(doc)]
use crate::{config::Config, event::Action};
