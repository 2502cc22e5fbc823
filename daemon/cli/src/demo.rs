//! `flotilla demo`: the main job in every browser, with the numbers.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode, sync::Arc, time::Instant};

use anyhow::Context as _;
use clap::Args;
use flotilla::{
    browser::{Adapter, Builds},
    catalog::{Catalog, Model},
    embed::{self, Embedding, Preparation, Text, cosine},
    local::{Local, LocalOptions},
};
use flotilla_check::reference::TextReference;
use flotilla_fleet::Choice;
use flotilla_protocol::Backend;
use serde::Serialize;

use crate::{PoolOptions, progress, serve::paths_or_pulled, table};

const SENTENCES: [&str; 3] =
    ["That is a happy person", "That is a happy dog", "Today is a sunny day"];

/// Largest difference from the reference that is right: f32 sums of hundreds of terms in another order differ by less.
const ERROR_MAX: f64 = 1e-4;

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pool: PoolOptions,
    /// Folder of the model. Default: all-MiniLM-L6-v2 as it was pulled.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Times that the sentences are embedded.
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Print only JSON.
    #[arg(long)]
    json: bool,
}

/// A browser's line.
#[derive(Serialize)]
struct Line {
    browser: String,
    browser_version: String,
    backend: String,
    adapter: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    webgpu_adapter: Option<Adapter>,
    simulated: bool,
    /// The first request: from text to vector, batch of one.
    first_ms: f64,
    /// Median over all requests after the first.
    median_ms: f64,
    /// Cosines of the first sentence with the second and the third.
    similarities: [f64; 2],
    /// Largest absolute difference from the native reference.
    max_abs_err: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback: Option<String>,
}

pub(crate) async fn run(options: Options, builds: &Builds) -> anyhow::Result<ExitCode> {
    let path = match &options.model {
        Some(path) => path.clone(),
        None => flotilla::pull::models_dir().join("all-MiniLM-L6-v2"),
    };
    let path = paths_or_pulled(vec![path])?.remove(0);
    let importing = path.clone();
    let catalog = progress::spinner(
        "importing the model",
        tokio::task::spawn_blocking(move || Catalog::open(&[importing])),
    )
    .await?;
    let catalog = Arc::new(catalog);
    let expected = {
        let (catalog, path) = (catalog.clone(), path.clone());
        let work = tokio::task::spawn_blocking(move || references(&catalog, &path));
        progress::spinner("running the native reference", work).await?
    };
    // A short run in each browser uses the first backend that works; measuring all backends is for servers.
    let mut local_options =
        options.pool.local_options_or(builds, &[Backend::WebGpu, Backend::Cpu])?;
    if options.pool.backends.is_default() {
        local_options.backends.choice = Choice::First;
    }
    let mut lines = Vec::new();
    for build in &local_options.browsers {
        let one = LocalOptions { browsers: vec![build.clone()], ..local_options.clone() };
        let local = Local::start(&one, catalog.clone(), 0).await?;
        let bars = tokio::spawn(progress::loads(local.pool.clone()));
        let line = match &expected {
            Ok(expected) => measure(&local, expected, options.rounds, &one).await,
            // Local::start has already refused a catalog without models; this is the full reason.
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        };
        local.stop().await;
        bars.abort();
        lines.push(line.with_context(|| format!("in {build}"))?);
    }
    if options.json {
        crate::embed::print_json(&serde_json::to_value(&lines)?)?;
    } else {
        print(&lines);
    }
    let wrong: Vec<&Line> = lines.iter().filter(|line| line.max_abs_err > ERROR_MAX).collect();
    for line in &wrong {
        eprintln!(
            "{} on {}: the numbers are wrong: they differ from the reference by {:.1e}, {ERROR_MAX:.0e} is allowed",
            line.browser, line.backend, line.max_abs_err
        );
    }
    Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

type Vectors = BTreeMap<&'static str, Vec<f32>>;

fn references(catalog: &Catalog, path: &std::path::Path) -> anyhow::Result<Vectors> {
    let model = model(catalog)?;
    let encoder = model.text.as_ref().context("the model has no tokenizer.json")?;
    let mut reference = TextReference::open(path)?;
    SENTENCES
        .iter()
        .map(|&sentence| {
            let ids = encoder.encode(sentence)?.ids;
            Ok((sentence, reference.embedding(&ids)?))
        })
        .collect()
}

fn model(catalog: &Catalog) -> anyhow::Result<&Arc<Model>> {
    match catalog.models.first() {
        Some(model) => Ok(model),
        None => {
            anyhow::bail!("{}", catalog.broken.values().cloned().collect::<Vec<_>>().join("; "))
        }
    }
}

async fn measure(
    local: &Local,
    expected: &Vectors,
    rounds: usize,
    local_options: &LocalOptions,
) -> anyhow::Result<Line> {
    let model = model(&local.catalog)?;
    let failed = |view: &flotilla::pool::View| {
        view.status.models.iter().find_map(|model| model.unplaceable.clone())
    };
    let view = local
        .pool
        .wait_until(|view| {
            view.status.models.iter().all(|model| model.ready > 0) || failed(view).is_some()
        })
        .await
        .context("the pool ended before the model was loaded")?;
    if let Some(reason) = failed(&view) {
        anyhow::bail!("{reason}");
    }
    let one = async |sentence: &str| -> anyhow::Result<(f64, Embedding)> {
        let begin = Instant::now();
        let texts = vec![Text::String(sentence.to_owned())];
        let mut embeddings = embed::embed(
            &local.pool,
            model,
            texts,
            Preparation::default(),
            local_options.http.timeout,
        )
        .await?;
        Ok((begin.elapsed().as_secs_f64() * 1e3, embeddings.remove(0)))
    };
    let (first_ms, first) = one(SENTENCES[0]).await?;
    let mut times = Vec::new();
    let mut vectors: Vectors = BTreeMap::new();
    let mut max_abs_err = 0f64;
    for _ in 0..rounds.max(1) {
        for (&sentence, want) in expected {
            let (ms, embedding) = one(sentence).await?;
            times.push(ms);
            for (got, want) in embedding.values.iter().zip(want) {
                max_abs_err = max_abs_err.max(f64::from((got - want).abs()));
            }
            anyhow::ensure!(
                embedding.values.len() == want.len(),
                "the embedding has a wrong length"
            );
            anyhow::ensure!(
                embedding.values.iter().all(|value| value.is_finite()),
                "the embedding is not finite"
            );
            vectors.insert(sentence, embedding.values);
        }
    }
    times.sort_by(f64::total_cmp);
    let similarity = |other: usize| cosine(&vectors[SENTENCES[0]], &vectors[SENTENCES[other]]);
    let provenance = &first.provenance;
    Ok(Line {
        browser: provenance.browser.clone(),
        browser_version: provenance.browser_version.clone(),
        backend: provenance.backend.to_string(),
        adapter: provenance.adapter.clone(),
        webgpu_adapter: provenance.webgpu_adapter,
        simulated: provenance.simulated,
        first_ms,
        median_ms: times[times.len() / 2],
        similarities: [similarity(1), similarity(2)],
        max_abs_err,
        fallback: provenance.fallback.clone(),
    })
}

#[expect(clippy::print_stdout, reason = "a command's result")]
fn print(lines: &[Line]) {
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            let simulated = if line.simulated { " (simulated)" } else { "" };
            vec![
                format!("{} {}{simulated}", line.browser, line.browser_version),
                match line.webgpu_adapter {
                    Some(route) => format!("{} ({})", line.backend, route.name()),
                    None => line.backend.clone(),
                },
                line.adapter.clone(),
                format!("{:.1} ms", line.first_ms),
                format!("{:.1} ms", line.median_ms),
                format!("{:.4} / {:.4}", line.similarities[0], line.similarities[1]),
                format!("{:.1e}", line.max_abs_err),
            ]
        })
        .collect();
    table::print(
        &["browser", "backend", "adapter", "first", "median", "similarities", "max error"],
        &rows,
    );
    for line in lines {
        if let Some(reason) = &line.fallback {
            println!("{}: {} was used because {reason}", line.browser, line.backend);
        }
    }
    println!(
        "\nsimilarities: cosine of {:?} with {:?} and with {:?};\nmax error: largest difference from the native reference",
        SENTENCES[0], SENTENCES[1], SENTENCES[2]
    );
}
