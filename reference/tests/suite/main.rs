//! What engines answer, and what may differ from it.

mod engines;
mod faults;
mod precision;
mod sketch;
