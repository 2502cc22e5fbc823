//! The daemon as a library: browsers, links, pool, HTTP. The binary `flotilla` is a thin command line over it.
//!
//! `fleet` decides, this crate executes: [`pool`] is the loop around the core, and everything with a process, a socket or a
//! clock is in this crate.

mod batch;
pub mod browser;
pub mod catalog;
pub mod check;
pub mod client;
pub mod config;
pub mod embed;
pub mod folder;
pub mod guardian;
pub mod http;
pub mod inputs;
mod link;
pub mod local;
pub mod measure;
pub mod pool;
pub mod pull;
pub mod reference;
pub mod store;
mod token;
mod usual;
pub mod weights;
