//! The fleet simulator: the real core in virtual time, with seeded faults and load, and invariants after every step.

mod agenda;
mod asking;
pub mod broken;
mod changes;
mod clients;
pub mod distorted;
mod durations;
mod faults;
mod invariants;
mod measuring;
mod operators;
mod pages;
mod plan;
mod pool;
mod random;
mod report;
mod store;
mod trace;
mod world;

pub use self::{
    durations::Durations,
    faults::{Fault, Scope, What},
    invariants::{Invariant, Violation},
    plan::{Load, Plan, Promise},
    random::Random,
    report::{Played, Report, Requests, Transactions, play},
    trace::Trace,
    world::{Core, World},
};
