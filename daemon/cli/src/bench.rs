//! `flotilla bench`.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use flotilla::browser::Builds;
use flotilla_check::{Status, bench};

use crate::{
    USAGE,
    check::{
        Inputs, Places, backend_cell, browser_cell, memory_cell, open, shown_name, wrong_usage,
    },
    embed::print_json,
    progress, table,
};

#[derive(Args)]
pub(crate) struct Options {
    /// An .onnx file or a model's folder.
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<PathBuf>,
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    inputs: Inputs,
    /// Rows of a request. A model whose first dimension is fixed has figures for that one alone.
    #[arg(long, value_name = "ROWS,..", value_delimiter = ',', default_values_t = [1, 8],
          value_parser = clap::value_parser!(i64).range(1..=65536))]
    batch: Vec<i64>,
    /// Requests at once.
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_values_t = [1, 4],
          value_parser = concurrency)]
    concurrency: Vec<usize>,
    /// Times that every browser, backend, batch and concurrency has its turn.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Print only JSON: one array with an object per row.
    #[arg(long)]
    json: bool,
}

fn concurrency(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=256).contains(&count) => Ok(count),
        Ok(_) | Err(_) => Err("a number from 1 to 256 is needed".to_owned()),
    }
}

pub(crate) async fn run(options: Options, builds: &Builds) -> anyhow::Result<ExitCode> {
    let targets = options.places.targets(builds)?;
    if let Some(wrong) = wrong_usage(&options.models, &[]) {
        eprintln!("flotilla: {wrong}");
        return Ok(ExitCode::from(USAGE));
    }
    let settings = bench::Options {
        batches: options.batch.clone(),
        concurrencies: options.concurrency.clone(),
        rounds: options.rounds,
        given: options.inputs.given(None),
        settings: options.places.settings(),
        webnn_if_offered: options.places.webnn_if_offered(),
    };
    let mut rows = Vec::new();
    let mut broken = false;
    for model in &options.models {
        let name = shown_name(model, &options.models);
        let subject = match open(model, &name, options.inputs.given(None)).await {
            Ok(subject) => subject,
            Err(reason) => {
                eprintln!("flotilla: {name} is refused: {reason}");
                broken = true;
                continue;
            }
        };
        let line = progress::line();
        let report_progress = |words: &str| line.set_message(words.to_owned());
        rows.extend(bench::bench(&subject, &targets, &settings, &report_progress).await);
        line.finish_and_clear();
    }
    if options.json {
        print_json(&serde_json::to_value(&rows)?)?;
    } else {
        print(&rows);
    }
    let failed = |row: &bench::Row| matches!(row.status, Status::Fail | Status::Refused);
    Ok(if broken || rows.iter().any(failed) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[expect(clippy::print_stdout, reason = "a command's result")]
fn print(rows: &[bench::Row]) {
    let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
    let header = [
        "model", "browser", "backend", "batch", "at once", "status", "median", "p95", "in page",
        "rows/s", "spread", "memory",
    ];
    table::print(&header, &cells);
    for row in rows {
        if let Some(reason) = &row.reason {
            println!(
                "\n{} {} in {} on {}, batch {}, {} at once: {reason}",
                row.model,
                row.status.name(),
                row.browser,
                row.backend,
                row.batch,
                row.concurrency
            );
        }
    }
}

fn cells(row: &bench::Row) -> Vec<String> {
    let ms = |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{ms:.2} ms"));
    let rate = row.rows_per_s;
    vec![
        row.model.clone(),
        browser_cell(&row.browser, row.browser_version.as_deref()),
        backend_cell(row.backend, row.webgpu_adapter, row.device, row.split.as_ref()),
        row.batch.to_string(),
        row.concurrency.to_string(),
        row.status.name().to_owned(),
        ms(row.latency_ms.map(|times| times.p50)),
        ms(row.latency_ms.map(|times| times.p95)),
        ms(row.run_ms.map(|times| times.p50)),
        rate.map_or("-".to_owned(), |rate| format!("{:.1}", rate.median)),
        rate.map_or("-".to_owned(), |rate| format!("{:.1} .. {:.1}", rate.min, rate.max)),
        memory_cell(row.memory_bytes),
    ]
}
