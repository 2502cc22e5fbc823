//! Fault injection: faults as plain data, and what causes them in real processes and connections.

pub mod bert;
pub mod campaign;
pub mod daemon;
pub mod driver;
pub mod faults;
pub mod firing;
mod forward;
pub mod process;
pub mod proxy;
pub mod questions;
pub mod report;
pub mod scenarios;
