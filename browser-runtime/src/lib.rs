//! Executes Programs: on WebGPU and on the cpu, as wasm in a page and as native code elsewhere.
//!
//! [`Runtime`] loads programs and [`Placement`] runs them; [`Peer`] does both for the messages of a data link, over
//! whatever transport carries them. On `wasm32` the module `page` exports the entry points of the runner page.

#![expect(
    clippy::result_large_err,
    reason = "loading fails once, and its error carries every fact"
)]

mod backend;
#[cfg(any(target_arch = "wasm32", test))]
mod buckets;
#[cfg(any(target_arch = "wasm32", test))]
mod deciding;
mod faults;
pub mod fetch;
mod flow;
#[cfg(target_arch = "wasm32")]
pub mod page;
mod peer;
mod platform;
mod ports;
pub mod probe;
mod runtime;
#[cfg(any(target_arch = "wasm32", test))]
mod split;
mod stage;
#[cfg(any(target_arch = "wasm32", test))]
mod usual;
mod weights;

pub use faults::Faults;
pub use fetch::{BlobFetcher, BlobStream, MemoryBlobs};
pub use peer::{Losses, Message, Peer};
pub use platform::now_us;
pub use runtime::{Options, Placement, Runtime, computing_nodes};
