//! Options for recovery, redundancy and recorded state.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use flotilla::{http, local::LocalOptions, store};
use flotilla_fleet::{Config, Strategy};

/// Options for recovery, redundancy and recorded state.
#[derive(Args)]
pub(crate) struct Reliability {
    /// How requests recover unless they choose otherwise: progressive, immediate or coordinated.
    #[arg(long, value_name = "STRATEGY", env = "FLOTILLA_RECOVERY_STRATEGY", default_value = "progressive", value_parser = strategy)]
    recovery_strategy: Strategy,
    /// Browsers that hold each model ready, and copies of what is recorded. Default: every browser, two copies. With 1
    /// there is no standby: a failover loads the model first.
    #[arg(long, value_name = "N", env = "FLOTILLA_REDUNDANCY_FACTOR")]
    redundancy_factor: Option<u32>,
    /// Longest time until what is not critical is on disk, in milliseconds.
    #[arg(
        long,
        value_name = "MILLISECONDS",
        env = "FLOTILLA_STATE_SYNC_INTERVAL",
        default_value_t = 500
    )]
    state_sync_interval: u64,
    /// Folder of the second copy of the state, by preference on another disk. Default: beside the first.
    #[arg(long, value_name = "DIR", env = "FLOTILLA_STATE_COPY")]
    state_copy: Option<PathBuf>,
    /// Keep no state: requests cannot be recorded, and nothing outlives this daemon.
    #[arg(long)]
    no_state: bool,
    /// How long recorded requests and their answers are kept, in seconds.
    #[arg(long, value_name = "SECONDS", env = "FLOTILLA_IDEMPOTENCY_TTL_S", default_value_t = http::Settings::default().idempotency_ttl.as_secs())]
    idempotency_ttl_s: u64,
    /// Longest run, in seconds; a browser that takes longer gets a new page, then a new process. Default: a third of
    /// --timeout, but at least 10.
    #[arg(long, value_name = "SECONDS", env = "FLOTILLA_WORKER_TIMEOUT_SECS")]
    worker_timeout_secs: Option<u64>,
    /// Most memory of a browser's processes, in MiB; one that takes more is replaced.
    #[arg(long, value_name = "MIB", env = "FLOTILLA_WORKER_MEMORY_MB")]
    worker_memory_mb: Option<u64>,
    /// Replace a browser after this many runs.
    #[arg(long, value_name = "N")]
    recycle_jobs: Option<u64>,
    /// Replace a browser after this many seconds.
    #[arg(long, value_name = "SECONDS")]
    recycle_age: Option<u64>,
    /// Time without any proof of life after which a browser is probed, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = Config::default().probe_interval.as_secs())]
    probe_interval: u64,
    /// Keep a simulated browser for requests that allow it as their last resort.
    #[arg(long)]
    fallback_to_simulation: bool,
}

fn strategy(name: &str) -> Result<Strategy, String> {
    Strategy::ALL.into_iter().find(|strategy| strategy.name() == name).ok_or_else(|| {
        format!("{name:?} is not a strategy; known are progressive, immediate and coordinated")
    })
}

impl Reliability {
    pub(crate) fn apply(&self, local_options: &mut LocalOptions) {
        let fleet = &mut local_options.fleet;
        fleet.strategy = self.recovery_strategy;
        fleet.redundancy_factor = self.redundancy_factor;
        fleet.memory_bytes_max = self.worker_memory_mb.map(|mib| mib << 20);
        fleet.recycle_jobs = self.recycle_jobs;
        fleet.recycle_age = self.recycle_age.map(Duration::from_secs);
        fleet.probe_interval = Duration::from_secs(self.probe_interval.max(1));
        local_options.worker_timeout = self.worker_timeout_secs.map(Duration::from_secs);
        local_options.fallback_to_simulation |= self.fallback_to_simulation;
        local_options.http.idempotency_ttl = Duration::from_secs(self.idempotency_ttl_s);
        if !self.no_state {
            let sync_interval = Duration::from_millis(self.state_sync_interval);
            let state = store::Options::of(&flotilla::browser::home_dir());
            local_options.state = Some(store::Options {
                sync_interval,
                ..state.with_copies(self.state_copy.clone(), self.redundancy_factor)
            });
        }
    }
}
