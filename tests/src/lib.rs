//! Suites that cross crates. They drive the release binary as a user does: by its commands and over HTTP.
//!
//! This library is what the suites stand on: it starts the binary, waits for what happens and never for time to pass, and
//! sees to it that no test leaves a process behind.

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
