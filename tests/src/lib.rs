//! Suites that cross crates. They drive the release binary as a user does: by its commands and over HTTP.
//!
//! This library supports the suites: it starts the binary, waits for events and never for a fixed time, and ensures that
//! no test leaves a process behind.

pub mod architecture;
pub mod command;
pub mod daemon;
pub mod http;
pub mod model;
pub mod onnx;
pub mod place;
pub mod process;
pub mod python;
pub mod runner;
pub mod skip;
