//! How long the pool's loop takes to decide while large tensors pass through the daemon, and what tensors cost on their way.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use flotilla::{
    catalog::{Catalog, Model},
    local::{Local, LocalOptions},
    pool::{Decisions, Input, Pool},
};
use flotilla_program::Unary;
use flotilla_tensor::Tensor;
use flotilla_tests::model::elementwise;

use crate::{
    Arguments,
    beside::percentile,
    figures::{Figure, median},
    page::{READY_MAX, Wanted},
};

/// Bytes of the tensors that clients push through while decisions are measured.
const LARGE: usize = 64 << 20;
/// Clients that do so.
const CLIENTS: usize = 2;
/// How long decisions are measured, with those clients and without.
const SPAN: Duration = Duration::from_secs(10);
/// Pause between two decisions that are measured.
const PAUSE: Duration = Duration::from_millis(2);
/// Sizes whose way is measured, in bytes, and how many times each.
const SIZES: [(&str, usize, usize); 3] =
    [("1 KB", 1 << 10, 51), ("1 MB", 1 << 20, 21), ("64 MB", LARGE, 7)];

const CASE: &str = "status of the pool, round trip";

pub(crate) async fn figures(wanted: Wanted, arguments: &Arguments) -> Vec<Figure> {
    let place = wanted.place();
    measure(wanted, arguments)
        .await
        .unwrap_or_else(|error| vec![Figure::missing(CASE, &place, "ms", &error)])
}

async fn measure(wanted: Wanted, arguments: &Arguments) -> anyhow::Result<Vec<Figure>> {
    let place = wanted.place();
    let mut catalog = Catalog::default();
    let program = elementwise("absolute", Unary::Abs);
    catalog.add_program("absolute", program, Default::default())?;
    let model = catalog.models.first().context("the catalog has no model")?.clone();
    let options = LocalOptions {
        backends: vec![wanted.backend].into(),
        adapter: wanted.adapter,
        guardian: Some(arguments.flotilla.clone()),
        ..LocalOptions::of([wanted.build.clone()])
    };
    let local = Local::start(&options, Arc::new(catalog), 0).await?;
    let measured = times(&local.pool, &model).await;
    local.stop().await;
    let Times { quiet, busy, decisions, pushed, ways } = measured?;
    let mut figures = Vec::new();
    for (what, times) in [("alone", &quiet), ("while two clients push 64 MB tensors", &busy)] {
        figures.push(Figure::alone(
            &format!("{CASE}, {what}, median"),
            &place,
            median(times)?,
            "ms",
        ));
        let case = format!("{CASE}, {what}, 99th percentile");
        figures.push(Figure::alone(&case, &place, percentile(times), "ms"));
    }
    let decision = "decision of the loop while two clients push 64 MB tensors";
    let Decisions { p50_us, p99_us, max_us, .. } = decisions;
    for (what, us) in [("median", p50_us), ("99th percentile", p99_us), ("longest", max_us)] {
        figures.push(Figure::alone(&format!("{decision}, {what}"), &place, us as f64 / 1e3, "ms"));
    }
    figures.push(Figure::alone(
        "64 MB tensors answered meanwhile",
        &place,
        pushed as f64,
        "answers",
    ));
    for (name, way) in ways {
        let case = format!("{name} in and out, less in-page time");
        figures.push(Figure::alone(&case, &place, way, "ms"));
    }
    Ok(figures)
}

struct Times {
    quiet: Vec<f64>,
    busy: Vec<f64>,
    decisions: Decisions,
    pushed: usize,
    ways: Vec<(&'static str, f64)>,
}

async fn times(pool: &Pool, model: &Arc<Model>) -> anyhow::Result<Times> {
    let ready = pool.wait_until(|view| view.status.models.iter().any(|model| model.ready > 0));
    tokio::time::timeout(READY_MAX, ready)
        .await
        .context("the model is not ready")?
        .context("the pool ended")?;
    let mut ways = Vec::new();
    for (name, bytes, count) in SIZES {
        let input = tensor(bytes).await?;
        let mut costs = Vec::new();
        for at in 0..=count {
            let (took, run_ms) = ask(pool, model, input.clone()).await?;
            // The first one makes what depends on sizes.
            if at > 0 {
                costs.push(took - run_ms);
            }
        }
        ways.push((name, median(&costs)?));
    }
    let quiet = round_trips(pool).await?;
    let ended = Arc::new(AtomicBool::new(false));
    let input = tensor(LARGE).await?;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (pool, model) = (pool.clone(), model.clone());
        let (ended, input) = (ended.clone(), input.clone());
        clients.spawn(async move {
            let mut pushed = 0;
            while !ended.load(Ordering::Relaxed) {
                ask(&pool, &model, input.clone()).await?;
                pushed += 1;
            }
            anyhow::Ok(pushed)
        });
    }
    let busy = round_trips(pool).await?;
    let decisions = pool.view().await.context("the pool ended")?.decisions;
    ended.store(true, Ordering::Relaxed);
    let mut pushed = 0;
    while let Some(client) = clients.join_next().await {
        pushed += client??;
    }
    ensure!(pushed > CLIENTS, "only {pushed} large tensors passed");
    Ok(Times { quiet, busy, decisions, pushed, ways })
}

/// Round trips through the pool's loop, in milliseconds.
async fn round_trips(pool: &Pool) -> anyhow::Result<Vec<f64>> {
    let mut times = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < SPAN {
        let asked = Instant::now();
        pool.view().await.context("the pool ended")?;
        times.push(asked.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(times)
}

/// The time of a request and that of its run in the page, in milliseconds.
async fn ask(pool: &Pool, model: &Model, input: Tensor) -> anyhow::Result<(f64, f64)> {
    let begin = Instant::now();
    let answer = pool.run(model.id, Input::Tensors(vec![input]), READY_MAX).await?;
    let took = begin.elapsed().as_secs_f64() * 1e3;
    let run_ms = answer.provenance.run_ms;
    // Freeing it takes a while, too.
    tokio::task::spawn_blocking(move || drop(answer)).await?;
    Ok((took, run_ms))
}

async fn tensor(bytes: usize) -> anyhow::Result<Tensor> {
    let values = move || (0..bytes / 4).map(|at| at as f32 - 0.5).collect::<Vec<f32>>();
    Ok(tokio::task::spawn_blocking(move || Tensor::from_f32(vec![bytes / 4], &values())).await??)
}
