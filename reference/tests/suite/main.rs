//! Tests of the engines' answers and of the allowed differences.

mod engines;
mod faults;
mod precision;
mod sketch;
