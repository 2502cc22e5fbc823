//! `flotilla serve`.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Args;
use flotilla::{
    browser::Builds,
    catalog::{Catalog, Serving},
    local::Local,
    pool::{Memory, Settings},
    weights::WeightFiles,
};
use flotilla_fleet::Config;
use tokio::signal::unix::{SignalKind, signal};

use crate::{Dims, PoolOptions, progress, reliability::Reliability};

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pool: PoolOptions,
    /// Port on 127.0.0.1; 0 takes a free one.
    #[arg(long, env = "FLOTILLA_PORT", default_value_t = 8484)]
    port: u16,
    /// Models to serve: folders of a model, folders of such folders, or .onnx files. Default: what was pulled.
    #[arg(long, value_name = "DIR", num_args = 1..)]
    models: Vec<PathBuf>,
    #[command(flatten)]
    dims: Dims,
    /// Most requests that wait; further ones are refused with status 429.
    #[arg(long, value_name = "N", default_value_t = Config::default().queue_max)]
    queue: u32,
    /// Most rows of a batch.
    #[arg(long, value_name = "N", default_value_t = Settings::default().batching.rows_max)]
    batch_rows: u32,
    /// Longest wait of a request for others to join its batch while a browser is idle.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 0)]
    batch_delay: u64,
    /// Most GiB of models' weights that are kept in the data folder; what is served is kept whatever it takes.
    #[arg(long, value_name = "GIB", default_value_t = 20)]
    weights_cache: u64,
    /// Most MiB of browsers' results that wait to be answered; browsers wait meanwhile.
    #[arg(long, value_name = "MIB", default_value_t = Memory::default().results_bytes_max >> 20)]
    results_memory_mb: usize,
    /// Most MiB of orders that wait to be sent to one browser; a browser that lags behind by more has failed. At least two of
    /// the largest requests should fit.
    #[arg(long, value_name = "MIB", default_value_t = Memory::default().orders_bytes_max >> 20)]
    orders_memory_mb: usize,
    #[command(flatten)]
    reliability: Reliability,
    /// End when standard input is closed.
    #[arg(long, hide = true)]
    until_input_ends: bool,
}

pub(crate) async fn run(options: Options, builds: &Builds) -> anyhow::Result<ExitCode> {
    let mut local_options = options.pool.local_options(builds)?;
    local_options.fleet.queue_max = options.queue;
    local_options.fleet.batch_delay = Duration::from_millis(options.batch_delay);
    local_options.pool.memory = Memory {
        results_bytes_max: options.results_memory_mb.saturating_mul(1 << 20),
        orders_bytes_max: options.orders_memory_mb.saturating_mul(1 << 20),
    };
    options.reliability.apply(&mut local_options);
    local_options.pool.batching.rows_max = options.batch_rows.max(1);
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let models = paths_or_pulled(options.models)?;
    let weights = WeightFiles::new(
        &flotilla::browser::home_dir(),
        options.weights_cache.saturating_mul(1 << 30),
    );
    local_options.http.weights = Some(weights.clone());
    let serving = Serving { dims: options.dims.by_name(), weights: Some(weights) };
    let catalog = progress::spinner(
        "importing models",
        tokio::task::spawn_blocking(move || Catalog::open_for(&models, &serving)),
    )
    .await?;
    let local = Local::start(&local_options, Arc::new(catalog), options.port).await?;
    let names: Vec<&str> = local.catalog.models.iter().map(|model| model.name.as_str()).collect();
    tracing::info!("listening on http://{} for {}", local.address, names.join(", "));
    let pool = local.pool.clone();
    let bars = tokio::spawn(progress::loads(pool.clone()));
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
            // Before the log line, so that the line means that draining has begun.
            pool.drain().await;
            tracing::info!(
                "ending: accepted requests are answered first; a second signal ends at once"
            );
        }
    });
    if options.until_input_ends {
        let pool = local.pool.clone();
        let handle = tokio::runtime::Handle::current();
        // A thread of its own: reading blocks, and must not keep the runtime from ending.
        std::thread::spawn(move || {
            // An input that cannot be read counts as closed, too.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            handle.block_on(pool.drain());
        });
    }
    let ended = local.ended().await;
    for task in [bars, ready, signals] {
        task.abort();
    }
    ended.context("the pool failed")?;
    tracing::info!("ended");
    Ok(ExitCode::SUCCESS)
}

/// The paths given, or everything that was pulled.
pub(crate) fn paths_or_pulled(paths: Vec<PathBuf>) -> anyhow::Result<Vec<PathBuf>> {
    if !paths.is_empty() {
        return Ok(paths);
    }
    let pulled = flotilla::pull::models_dir();
    anyhow::ensure!(
        pulled.is_dir(),
        "no model is available: {} does not exist; run `flotilla pull all-MiniLM-L6-v2`, or name a model with --models",
        pulled.display()
    );
    Ok(vec![pulled])
}
