//! How long short requests take while the page loads another model.

use std::{path::Path, sync::Arc, time::Instant};

use anyhow::{Context as _, ensure};
use flotilla::{
    catalog::{Catalog, Model},
    local::{Local, LocalOptions},
    pool::{Input, View},
};

use crate::{
    Arguments,
    figures::Figure,
    page::{READY_MAX, Wanted},
};

/// Requests that are measured while nothing loads.
const QUIET: usize = 300;
/// Fewest requests during a load for which the 99th percentile is meaningful.
const BESIDE_MIN: usize = 20;

const CASE: &str = "short request, 99th percentile";

pub(crate) async fn figures(wanted: Wanted, arguments: &Arguments) -> Vec<Figure> {
    let place = wanted.place();
    measure(wanted, arguments)
        .await
        .unwrap_or_else(|error| vec![Figure::missing(CASE, &place, "ms", &error)])
}

async fn measure(wanted: Wanted, arguments: &Arguments) -> anyhow::Result<Vec<Figure>> {
    let place = wanted.place();
    let small = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/bert");
    let paths = [small, arguments.model.clone()];
    let catalog = Arc::new(tokio::task::spawn_blocking(move || Catalog::open(&paths)).await?);
    let [small, large] = catalog.models.as_slice() else {
        anyhow::bail!("{}", catalog.broken.values().cloned().collect::<Vec<_>>().join("; "))
    };
    let (small, large) = (small.clone(), large.clone());
    let options = LocalOptions {
        backends: vec![wanted.backend].into(),
        adapter: wanted.adapter,
        guardian: Some(arguments.flotilla.clone()),
        ..LocalOptions::of([wanted.build.clone()])
    };
    let local = Local::start(&options, catalog, 0).await?;
    let measured = times(&local, &small, &large).await;
    local.stop().await;
    let (beside, quiet) = measured?;
    ensure!(
        beside.len() >= BESIDE_MIN,
        "only {} requests were answered while the model loaded",
        beside.len()
    );
    let (with, without) = (percentile(&beside), percentile(&quiet));
    let case = |what: &str| format!("{CASE}, {what}");
    Ok(vec![
        Figure::alone(&case("alone"), &place, without, "ms"),
        Figure::alone(&case("while MiniLM loads beside it"), &place, with, "ms"),
        Figure::alone(&case("beside / alone"), &place, with / without, "times"),
    ])
}

/// Times of requests of the small model, in milliseconds: while the large one loads, and afterwards.
async fn times(
    local: &Local,
    small: &Model,
    large: &Model,
) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    let ready = |view: &View, model: &Model| {
        view.status.models.iter().any(|status| status.model == model.id && status.ready > 0)
    };
    let pool = &local.pool;
    tokio::time::timeout(READY_MAX, pool.wait_until(|view| ready(view, small)))
        .await
        .context("the small model is not ready")?
        .context("the pool ended")?;
    let ask = async || -> anyhow::Result<f64> {
        let begin = Instant::now();
        pool.run(small.id, Input::Tokens(vec![1, 2, 3]), READY_MAX).await?;
        Ok(begin.elapsed().as_secs_f64() * 1e3)
    };
    let mut beside = Vec::new();
    while !ready(&pool.view().await.context("the pool ended")?, large) {
        beside.push(ask().await?);
    }
    let mut quiet = Vec::new();
    for _ in 0..QUIET {
        quiet.push(ask().await?);
    }
    Ok((beside, quiet))
}

/// The 99th percentile, by the nearest rank.
pub(crate) fn percentile(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * 99).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}
