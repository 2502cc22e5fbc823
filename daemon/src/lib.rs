//! The daemon as a library: pool, links, models, HTTP. The binary `flotilla` is a command line over it.
//!
//! `fleet` decides, this crate executes: [`pool`] is the loop around the core. Real browsers are driven by the crate [`browser`],
//! and the state that outlives the daemon is kept by the crate [`store`].

mod batch;
pub mod catalog;
pub mod client;
pub mod config;
pub mod embed;
pub mod folder;
pub mod http;
pub mod inputs;
mod link;
pub mod local;
mod mapped;
pub mod measure;
pub mod pool;
pub mod pull;
pub mod simulated;
mod token;
mod usual;
pub mod weights;

pub use flotilla_browsers as browser;
pub use flotilla_store as store;
