//! What the fleet is made with: slots, limits and budgets.

use std::time::Duration;

use flotilla_protocol::Backend;

/// The wish for one browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Kind, for messages; the daemon knows what it means.
    pub kind: String,
    /// Backends in order of preference. The first that the page offers *and* that loads the model is used.
    pub backends: Vec<Backend>,
}

/// Limits and budgets. Every queue, retry and wait has its limit here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Browsers to keep.
    pub slots: Vec<Slot>,
    /// Most requests that wait; further ones are refused at once.
    pub queue_max: u32,
    /// Most runs in flight on one browser: one computes, the next is already there.
    pub runs_in_flight_max: u32,
    /// Longest wait of a request for others to join its batch while a browser is idle.
    pub batch_delay: Duration,
    /// Longest start of a browser, from launch to both links.
    pub start_timeout: Duration,
    /// Longest load of a placement without progress.
    pub load_timeout: Duration,
    /// Longest run.
    pub run_timeout: Duration,
    /// A browser without a heartbeat for this long is replaced.
    pub heartbeat_timeout: Duration,
    /// Tries of a request after its first one.
    pub retries_max: u32,
    /// Starts of a slot that fail one after the other before the slot is given up.
    pub restarts_max: u32,
    /// Wait before the second start in a row; doubles with each further one.
    pub restart_delay: Duration,
    /// Restarts of a browser that one model may cost while it loads on a backend, before that backend is given up for
    /// it. Lower than `restarts_max`, so that a model that crashes its page falls back before its slot is lost.
    pub load_restarts_max: u32,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            slots: Vec::new(),
            queue_max: 4096,
            runs_in_flight_max: 2,
            batch_delay: Duration::ZERO,
            start_timeout: Duration::from_secs(60),
            load_timeout: Duration::from_secs(120),
            run_timeout: Duration::from_secs(120),
            heartbeat_timeout: Duration::from_secs(20),
            retries_max: 1,
            restarts_max: 5,
            restart_delay: Duration::from_millis(250),
            load_restarts_max: 2,
        }
    }
}
