//! What the fleet is made with: slots, limits and budgets.

use std::time::Duration;

use flotilla_protocol::{Backend, Incarnation};

use crate::{
    ids::SlotId,
    recovery::{StepBudgets, Strategy},
};

/// One desired browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Kind of browser. The core shows it and compares it with other slots' kinds, no more.
    pub kind: String,
    /// Backends in order of preference.
    pub backends: Vec<Backend>,
    /// Which of them is used, of those that the page offers and that can load the model.
    pub choice: Choice,
    /// What its browser is for.
    pub role: Role,
}

/// Which backend is used where several are allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Choice {
    /// The first of the list.
    #[default]
    First,
    /// The one that is measured to be the fastest; the list decides between those that are about as fast. Until all are
    /// measured, the first of the list answers.
    Fastest,
}

/// What a slot's browser is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// Answers requests.
    #[default]
    Regular,
    /// A simulated browser, launched when a request that allows it has no other way left.
    Fallback,
}

/// Limits and budgets. Every queue, retry and wait has its limit here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Which life of the daemon this is; ids begin with it.
    pub incarnation: Incarnation,
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
    /// A browser without a heartbeat for this long is suspected: it gets no new work, and the requests that it has go
    /// elsewhere if they can.
    pub suspect_after: Duration,
    /// A browser without a heartbeat for this long is replaced.
    pub heartbeat_timeout: Duration,
    /// A run that takes this many times longer than expected is hedged: its requests go elsewhere if they can.
    pub straggler_factor: u32,
    /// No run is hedged before this time.
    pub straggler_min: Duration,
    /// Longest wait for a browser's new page.
    pub reset_timeout: Duration,
    /// A browser that has computed nothing for this long is probed.
    pub probe_interval: Duration,
    /// Longest probe.
    pub probe_timeout: Duration,
    /// A browser whose process tree holds more than this many bytes is replaced; `None` for no limit.
    pub memory_bytes_max: Option<u64>,
    /// A browser is replaced after this time; `None` for never.
    pub recycle_age: Option<Duration>,
    /// A browser is replaced after this many runs; `None` for never.
    pub recycle_jobs: Option<u64>,
    /// Most clients that have a browser for themselves at once; `None` for as many as there are browsers.
    pub workers_max: Option<u32>,
    /// Slots whose browsers clients may have for themselves; `None` for all.
    pub worker_slots: Option<Vec<SlotId>>,
    /// Recovery strategy of requests that name none.
    pub strategy: Strategy,
    /// What a request may spend on recovery.
    pub step_budgets: StepBudgets,
    /// Browsers that hold a model ready; `None` for all. With 1 there is no warm standby: a failover loads first.
    pub redundancy_factor: Option<u32>,
    /// Starts of a slot that fail one after the other before the slot is given up.
    pub restarts_max: u32,
    /// Wait before the second start in a row; doubles with each further one.
    pub restart_delay: Duration,
    /// Browsers that may fail while one model loads on one backend, before that backend is given up for the model. Lower
    /// than `restarts_max`, so that a model that crashes its page changes to the next backend before its slot is retired.
    pub load_restarts_max: u32,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            incarnation: Incarnation::default(),
            slots: Vec::new(),
            queue_max: 4096,
            runs_in_flight_max: 2,
            batch_delay: Duration::ZERO,
            start_timeout: Duration::from_secs(60),
            load_timeout: Duration::from_secs(120),
            run_timeout: Duration::from_secs(120),
            suspect_after: Duration::from_secs(3),
            heartbeat_timeout: Duration::from_secs(12),
            straggler_factor: 10,
            straggler_min: Duration::from_secs(2),
            reset_timeout: Duration::from_secs(20),
            probe_interval: Duration::from_secs(15),
            probe_timeout: Duration::from_secs(10),
            memory_bytes_max: None,
            recycle_age: None,
            recycle_jobs: None,
            workers_max: None,
            worker_slots: None,
            strategy: Strategy::default(),
            step_budgets: StepBudgets::default(),
            redundancy_factor: None,
            restarts_max: 5,
            restart_delay: Duration::from_millis(250),
            load_restarts_max: 2,
        }
    }
}
