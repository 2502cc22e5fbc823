//! `flotilla serve`.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Args;
use flotilla::{
    catalog::Catalog,
    local::{Local, Wishes},
    store,
};
use flotilla_fleet::Strategy;
use tokio::signal::unix::{SignalKind, signal};

use super::{PoolOptions, progress};

#[derive(Args)]
pub(super) struct Options {
    #[command(flatten)]
    pool: PoolOptions,
    /// Port on 127.0.0.1; 0 takes a free one.
    #[arg(long, env = "FLOTILLA_PORT", default_value_t = 8484)]
    port: u16,
    /// Models to serve: folders of a model, folders of such folders, or .onnx files. Default: what was pulled.
    #[arg(long, value_name = "DIR", num_args = 1..)]
    models: Vec<PathBuf>,
    /// Most requests that wait; further ones are refused with status 429.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    queue: u32,
    /// Most rows of a batch.
    #[arg(long, value_name = "N", default_value_t = 32)]
    batch_rows: u32,
    /// Longest wait of a request for others to join its batch while a browser is idle.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 0)]
    batch_delay: u64,
    #[command(flatten)]
    reliability: Reliability,
}

/// What is done so that nothing is lost.
#[derive(Args)]
struct Reliability {
    /// How requests recover unless they say otherwise: progressive, immediate or coordinated.
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
    #[arg(long, value_name = "SECONDS", env = "FLOTILLA_IDEMPOTENCY_TTL_S", default_value_t = 24 * 3600)]
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
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
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
    fn apply(&self, wishes: &mut Wishes) {
        let fleet = &mut wishes.fleet;
        fleet.strategy = self.recovery_strategy;
        fleet.redundancy_factor = self.redundancy_factor;
        fleet.memory_bytes_max = self.worker_memory_mb.map(|mib| mib << 20);
        fleet.recycle_jobs = self.recycle_jobs;
        fleet.recycle_age = self.recycle_age.map(Duration::from_secs);
        fleet.probe_interval = Duration::from_secs(self.probe_interval.max(1));
        wishes.worker_timeout = self.worker_timeout_secs.map(Duration::from_secs);
        wishes.fallback_to_simulation = self.fallback_to_simulation;
        wishes.idempotency_ttl = Duration::from_secs(self.idempotency_ttl_s);
        if !self.no_state {
            let mut state = store::Options::of(&flotilla::pull::home_dir());
            state.sync_interval = Duration::from_millis(self.state_sync_interval);
            state.copy_dir = match (&self.state_copy, self.redundancy_factor) {
                (Some(dir), _) => Some(dir.clone()),
                (None, Some(0 | 1)) => None,
                (None, _) => state.copy_dir,
            };
            wishes.state = Some(state);
        }
    }
}

pub(super) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let mut wishes = options.pool.wishes()?;
    wishes.fleet.queue_max = options.queue;
    wishes.fleet.batch_delay = Duration::from_millis(options.batch_delay);
    options.reliability.apply(&mut wishes);
    wishes.batching.rows_max = options.batch_rows.max(1);
    let mut interrupt = signal(SignalKind::interrupt()).context("Ctrl-C cannot be listened for")?;
    let mut terminate =
        signal(SignalKind::terminate()).context("SIGTERM cannot be listened for")?;
    let models = paths_or_pulled(options.models)?;
    let catalog = progress::spinner(
        "importing models",
        tokio::task::spawn_blocking(move || Catalog::open(&models)),
    )
    .await?;
    let local = Local::start(&wishes, Arc::new(catalog), options.port).await?;
    let names: Vec<&str> = local.catalog.models.iter().map(|model| model.name.as_str()).collect();
    tracing::info!("listening on http://{} for {}", local.address, names.join(", "));
    let pool = local.pool.clone();
    let bars = tokio::spawn(progress::loads(pool.clone(), local.catalog.clone()));
    let ready = {
        let pool = pool.clone();
        let address = local.address;
        tokio::spawn(async move {
            let all = |view: &flotilla::pool::View| {
                view.status.models.iter().all(|model| model.ready > 0)
            };
            if pool.wait_until(all).await.is_some() {
                tracing::info!("ready: POST http://{address}/v1/embeddings");
            }
        })
    };
    let signals = tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            // First: whoever reads the line can rely on it.
            pool.drain().await;
            tracing::info!(
                "ending: accepted requests are answered first; once more to end at once"
            );
        }
    });
    let ended = local.ended().await;
    for task in [bars, ready, signals] {
        task.abort();
    }
    ended.context("the pool failed")?;
    tracing::info!("ended");
    Ok(ExitCode::SUCCESS)
}

/// The paths given, or everything that was pulled.
pub(super) fn paths_or_pulled(paths: Vec<PathBuf>) -> anyhow::Result<Vec<PathBuf>> {
    if !paths.is_empty() {
        return Ok(paths);
    }
    let pulled = flotilla::pull::models_dir();
    anyhow::ensure!(
        pulled.is_dir(),
        "no model is there: {} does not exist; run `flotilla pull all-MiniLM-L6-v2`, or name a model with --models",
        pulled.display()
    );
    Ok(vec![pulled])
}
