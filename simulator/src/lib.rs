//! The fleet simulator: the real core in virtual time, with seeded faults and load, and invariants after every step.

pub mod broken;
mod clients;
mod core;
pub mod defects;
mod durations;
mod faults;
mod invariants;
mod plan;
mod pool;
mod random;
mod report;
mod schedule;
mod simulation;
mod store;
mod trace;

pub use self::{
    core::Core,
    durations::Durations,
    faults::{Fault, FaultKind, Scope},
    invariants::{Invariant, Violation},
    plan::{Guarantee, Load, Plan},
    report::{Report, Requests, Simulated, Transactions, simulate},
    simulation::Simulation,
    trace::Trace,
};
