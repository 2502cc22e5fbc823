//! `flotilla doctor`.

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use flotilla::{
    browser::{Adapter, Build, Builds, adapter, install},
    catalog::Catalog,
    local::{Local, LocalOptions},
    pool::View,
};
use flotilla_check::reference::library;
use flotilla_reference::Engine;
use serde_json::{Value, json};

use crate::{PoolOptions, embed::print_json, progress, table};

/// Longest wait for a browser to report what it offers.
const START_MAX: Duration = Duration::from_secs(60);

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pool: PoolOptions,
    /// Time Chromium's software routes to WebGPU and keep the result; the faster one is used from then on.
    #[arg(long, conflicts_with = "simulate")]
    measure: bool,
    /// Print only JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(options: Options, builds: &Builds) -> anyhow::Result<ExitCode> {
    let examined = match (&options.pool.browsers, &options.pool.simulate) {
        (Some(names), _) | (None, Some(names)) => builds.named(names)?,
        (None, None) => builds.all().to_vec(),
    };
    let simulated = options.pool.simulate.is_some();
    if options.measure {
        measure().await?;
    }
    let mut reports = Vec::new();
    for build in &examined {
        reports.push(examine(build, simulated, &options.pool).await);
    }
    let system = json!({
        "flotilla": env!("CARGO_PKG_VERSION"),
        "runner": flotilla_web::missing().map_or("built", |_| "not built: run `cargo xtask wasm`"),
        "data_folder": flotilla::browser::home_dir(),
        "models": pulled(),
        "reference": reference(),
        "browsers": reports,
    });
    if options.json {
        print_json(&system)?;
    } else {
        print(&system);
    }
    let usable = |report: &Value| {
        report["backends"].as_array().into_iter().flatten().any(|b| !b["adapter"].is_null())
    };
    let any = system["browsers"].as_array().into_iter().flatten().any(usable);
    Ok(if any { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Finds out which software route is faster. A machine with a GPU uses neither.
async fn measure() -> anyhow::Result<()> {
    if adapter::has_gpu() {
        eprintln!(
            "this machine shows a GPU: Chromium uses it, and its software routes are not measured"
        );
        return Ok(adapter::Measured::default().store()?);
    }
    let report =
        |route: Adapter, outcome: &Result<f64, flotilla::measure::MeasureError>| match outcome {
            Ok(ms) => eprintln!("chromium, {}: the probe took {ms:.1} ms", route.name()),
            Err(error) => eprintln!("chromium, {}: {error}", route.name()),
        };
    let measured =
        progress::spinner("timing chromium's routes", flotilla::measure::chromium_routes(&report))
            .await;
    Ok(measured.store()?)
}

/// The reference that models are compared with.
fn reference() -> Value {
    match library() {
        Ok(library) => json!({
            "engine": "onnxruntime",
            "version": library.version(),
            "library": library.path(),
        }),
        Err(reason) => json!({
            "engine": "tract",
            "version": Engine::Tract.version(),
            "reason": reason.to_string(),
        }),
    }
}

fn pulled() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(flotilla::pull::models_dir()) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Starts one browser and reads what its page offers.
async fn examine(build: &Build, simulated: bool, options: &PoolOptions) -> Value {
    let mut report = json!({ "browser": build, "simulated": simulated });
    if !simulated {
        match install::find(build) {
            Ok(installed) => {
                report["program"] = json!(installed.browser);
                report["driver"] = json!(installed.driver);
            }
            Err(missing) => {
                report["error"] = json!(missing.to_string());
                return report;
            }
        }
    }
    if build.kind.is_chromium() {
        report["webgpu_adapter"] = json!(adapter::decide(options.webgpu_adapter, build));
        report["measured"] = json!(adapter::Measured::load());
    }
    let local_options = LocalOptions {
        simulated,
        adapter: options.webgpu_adapter,
        fleet: flotilla_fleet::Config { restarts_max: 0, ..flotilla_fleet::Config::default() },
        ..LocalOptions::of([build.clone()])
    };
    let local = match Local::start(&local_options, Arc::new(Catalog::default()), 0).await {
        Ok(local) => local,
        Err(error) => {
            report["error"] = json!(error.to_string());
            return report;
        }
    };
    let known = |view: &View| {
        view.browsers.iter().any(|browser| !browser.backends.is_empty() && browser.facts.is_some())
            || view.status.slots.iter().any(|slot| slot.last_failure.is_some())
    };
    let waited = progress::spinner(&format!("asking {build}"), async {
        tokio::time::timeout(START_MAX, local.pool.wait_until(known)).await
    })
    .await;
    match waited {
        Ok(Some(view)) => describe(&mut report, &view),
        Ok(None) => report["error"] = json!("the pool ended before the browser answered"),
        Err(_) => report["error"] = json!(format!("no answer within {START_MAX:?}")),
    }
    local.stop().await;
    report
}

fn describe(report: &mut Value, view: &View) {
    if let Some(failure) = view.status.slots.iter().find_map(|slot| slot.last_failure.as_ref()) {
        report["error"] = json!(failure);
    }
    for browser in &view.browsers {
        if let Some(facts) = &browser.facts {
            report["browser"] = json!(facts.name);
            report["version"] = json!(facts.version);
            report["channel"] = json!(facts.channel);
            report["start_ms"] = json!(facts.start_ms);
        }
        let backends: Vec<Value> = browser
            .backends
            .iter()
            .map(|report| match &report.outcome {
                Ok(adapter) => json!({
                    "backend": report.backend,
                    "device": report.device,
                    "adapter": adapter.label(),
                    "features": adapter.features,
                    "binding_bytes_max": adapter.binding_bytes_max,
                }),
                Err(words) => json!({
                    "backend": report.backend,
                    "device": report.device,
                    "refused": words,
                }),
            })
            .collect();
        report["backends"] = json!(backends);
    }
}

#[expect(clippy::print_stdout, reason = "a command's result")]
fn print(system: &Value) {
    let word = |value: &Value| value.as_str().unwrap_or("").to_owned();
    println!("flotilla {}; runner {}", word(&system["flotilla"]), word(&system["runner"]));
    let models: Vec<String> = system["models"].as_array().into_iter().flatten().map(word).collect();
    let models = if models.is_empty() {
        "none; run `flotilla pull all-MiniLM-L6-v2`".to_owned()
    } else {
        models.join(", ")
    };
    println!("models in {}: {models}", word(&system["data_folder"]));
    let reference = &system["reference"];
    let (engine, version) = (word(&reference["engine"]), word(&reference["version"]));
    let place = [&reference["library"], &reference["reason"]].map(word).concat();
    println!("reference for ONNX files: {engine} {version} ({place})\n");
    let mut rows = Vec::new();
    let mut errors = Vec::new();
    for report in system["browsers"].as_array().into_iter().flatten() {
        let simulated = if report["simulated"] == true { " (simulated)" } else { "" };
        let channel = word(&report["channel"]);
        let known = if channel == "unknown" { "" } else { channel.as_str() };
        let words = [&word(&report["browser"]), &word(&report["version"]), known];
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let name = format!("{}{simulated}", words.join(" "));
        if let Some(error) = report["error"].as_str() {
            // Too long for a table.
            errors.push(format!("{name}: {error}"));
        }
        for found in report["backends"].as_array().into_iter().flatten() {
            let backend = match found["device"].as_str() {
                Some(device) => format!("{}, {device} requested", word(&found["backend"])),
                None => word(&found["backend"]),
            };
            let (state, words) = match found["refused"].as_str() {
                Some(words) => ("refused", words.to_owned()),
                None => {
                    let features: Vec<String> =
                        found["features"].as_array().into_iter().flatten().map(word).collect();
                    let offered = format!("{} {}", word(&found["adapter"]), features.join(" "));
                    ("offered", offered.trim().to_owned())
                }
            };
            rows.push(vec![name.clone(), backend, state.to_owned(), words]);
        }
    }
    table::print(&["browser", "backend", "state", "adapter, or the browser's words"], &rows);
    for error in errors {
        println!("\n{error}");
    }
}
