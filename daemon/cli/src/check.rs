//! `flotilla check`.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use flotilla::{
    browser::{Adapter, Builds, SpecError},
    catalog,
    pool::WebNnSettings,
};
use flotilla_check::{
    Allowance, DEFAULT_HOSTS, Given, Host, Row, Settings, Status, Subject, Target,
    finding::Finding, github, history::History, junit, reference::Choice, targets,
};
use flotilla_protocol::{Backend, Device, Split};
use flotilla_reference::Arithmetic;

use crate::{
    Dims, USAGE,
    backends::{Backends, device},
    progress, table,
};

/// Where models are run, and on what.
#[derive(Args, Clone, Debug)]
pub(crate) struct Places {
    /// Browsers: chrome, firefox, edge, chrome-webnn, native (this machine without a browser), simulated, or a name of
    /// flotilla.toml. One that is not installed is skipped, with the reason.
    #[arg(long, value_name = "BROWSER,..", value_delimiter = ',', default_values = DEFAULT_HOSTS)]
    browsers: Vec<String>,
    /// Backends: webgpu, webnn, cpu. Each has a row of its own; none stands in for another. Default: all that a browser's
    /// page offers, webgpu and cpu elsewhere.
    #[arg(long, value_name = "BACKEND,..")]
    backends: Option<Backends>,
    /// The processor requested from webnn. The browser may use another one and does not report it.
    #[arg(long, value_name = "cpu|gpu|npu", value_parser = device)]
    device: Option<Device>,
    /// Run the nodes that webnn does not support on cpu, and report which; without it such a model is refused.
    #[arg(long)]
    split: bool,
    /// Where Chromium's WebGPU adapter comes from.
    #[arg(long, value_enum, default_value = "auto")]
    webgpu_adapter: Adapter,
    /// Longest load and longest run, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86400))]
    timeout: u64,
}

impl Places {
    pub(crate) fn targets(&self, builds: &Builds) -> Result<Vec<Target>, SpecError> {
        let hosts: Result<Vec<Host>, SpecError> =
            self.browsers.iter().map(|name| Host::named(name, builds)).collect();
        let backends = self.backends.as_ref().map_or(&Backend::ALL[..], |backends| &backends.0);
        Ok(targets(&hosts?, backends))
    }

    /// Whether webnn has a row only if a page offers it: few pages do, and no option asks for it.
    pub(crate) fn webnn_if_offered(&self) -> bool {
        self.backends.is_none()
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            adapter: self.webgpu_adapter,
            timeout: Duration::from_secs(self.timeout),
            webnn: WebNnSettings { device: self.device, split: Some(self.split) },
        }
    }
}

/// Inputs of the models, the reference, and how far answers may be off.
#[derive(Args, Clone, Debug)]
pub(crate) struct Inputs {
    #[command(flatten)]
    dims: Dims,
    /// Seed of inputs that are made up.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The source of the right results. Default: recorded outputs, else onnxruntime, else tract, else our own kernels.
    #[arg(long, value_enum, value_name = "WHO")]
    reference: Option<Choice>,
    /// The arithmetic whose rounding decides what may differ: f32, int4, f16, bf16, int8-static, int8-dynamic. Default: the
    /// coarsest that the model's operators and types have.
    #[arg(long, value_name = "CLASS")]
    tolerance: Option<Arithmetic>,
    /// Largest error for each unit of an output's largest number, instead of the arithmetic's bound.
    #[arg(long, value_parser = allowance)]
    rtol: Option<f64>,
    /// Largest error of any number, whatever its size. Default: 1e-5.
    #[arg(long, value_parser = allowance)]
    atol: Option<f64>,
}

impl Inputs {
    pub(crate) fn given(&self, io: Option<PathBuf>) -> Given {
        Given {
            io,
            dims: self.dims.by_name(),
            seed: self.seed,
            reference: self.reference,
            second_opinion: false,
            allowance: Allowance {
                arithmetic: self.tolerance,
                absolute: self.atol,
                relative: self.rtol,
            },
        }
    }
}

fn allowance(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        Ok(_) | Err(_) => Err("a number that is not negative is needed".to_owned()),
    }
}

#[derive(Args)]
pub(crate) struct Options {
    /// An .onnx file or a model's folder.
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<PathBuf>,
    /// Inputs and right outputs: a .safetensors or .npz file or a folder of .npy files with `in.NAME` and `out.NAME`, or ONNX's
    /// `test_data_set_N`; for several models one for each, in their order. Without it inputs are made up.
    #[arg(long, value_name = "PATH")]
    io: Vec<PathBuf>,
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    inputs: Inputs,
    /// Runs after the first one, whose median and 95th percentile are shown.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// Print only JSON: one array with an object per row.
    #[arg(long)]
    json: bool,
    /// Write a JUnit report.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Show latencies beside those of earlier checks, and record them in the data folder.
    #[arg(long)]
    history: bool,
    /// Fail a row whose median latency is so many percent above the recorded one.
    #[arg(long, value_name = "PERCENT", value_parser = allowance)]
    fail_if_slower: Option<f64>,
    /// A browser that is not installed is a failure.
    #[arg(long)]
    strict: bool,
}

pub(crate) async fn run(options: Options, builds: &Builds) -> anyhow::Result<ExitCode> {
    let targets = options.places.targets(builds)?;
    if let Some(wrong) = wrong_usage(&options.models, &options.io) {
        eprintln!("flotilla: {wrong}");
        return Ok(ExitCode::from(USAGE));
    }
    let mut history = match options.history || options.fail_if_slower.is_some() {
        true => {
            let home = flotilla::browser::home_dir();
            let opened = History::open(&home);
            Some(
                opened
                    .with_context(|| format!("the history in {} is not usable", home.display()))?,
            )
        }
        false => None,
    };
    let mut rows = Vec::new();
    for (at, model) in options.models.iter().enumerate() {
        let given = options.inputs.given(options.io.get(at).cloned());
        let given = Given { second_opinion: true, ..given };
        let name = shown_name(model, &options.models);
        let checked = check_model(model, &name, given, &targets, &options, history.as_ref()).await;
        if let Some(history) = history.as_mut().filter(|_| options.history) {
            for row in &checked {
                flotilla_check::record(row, history).context("the history cannot be written")?;
            }
        }
        rows.extend(checked);
    }
    report(&rows, &options)?;
    let failed = rows.iter().any(|row| match row.status {
        Status::Pass => false,
        Status::Fail | Status::Refused => true,
        Status::Skipped => options.strict,
    });
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The error in the paths, if any.
pub(crate) fn wrong_usage(models: &[PathBuf], io: &[PathBuf]) -> Option<String> {
    if let Some(missing) = models.iter().chain(io).find(|path| !path.exists()) {
        return Some(format!("{} does not exist", missing.display()));
    }
    let (io, models) = (io.len(), models.len());
    (io != 0 && io != models)
        .then(|| format!("--io is given {io} times for {models} models; give one for each"))
}

/// A model's name, or its path where another one has the same name.
pub(crate) fn shown_name(model: &Path, models: &[PathBuf]) -> String {
    let name = short_name(model);
    let same = models.iter().filter(|other| short_name(other) == name).count();
    if same > 1 { model.display().to_string() } else { name }
}

/// The folder's name for a file that is called like every other one.
fn short_name(model: &Path) -> String {
    match model.file_name().filter(|file| *file == "model.onnx").and(model.parent()) {
        Some(folder) => catalog::name_of(folder),
        None => catalog::name_of(model),
    }
}

/// Reads a model, under the name that is shown for it.
pub(crate) async fn open(model: &Path, name: &str, given: Given) -> Result<Subject, String> {
    let opening = Subject::open(model, &given);
    let opened = progress::spinner(&format!("importing {name}"), opening).await;
    let mut subject = opened.map_err(|error| error.to_string())?;
    name.clone_into(&mut subject.name);
    Ok(subject)
}

async fn check_model(
    model: &Path,
    name: &str,
    given: Given,
    targets: &[Target],
    options: &Options,
    history: Option<&History>,
) -> Vec<Row> {
    let opened = open(model, name, given).await;
    let settings = flotilla_check::Options {
        runs: options.runs,
        settings: options.places.settings(),
        slower_percent_max: options.fail_if_slower,
    };
    let mut rows: Vec<Row> = Vec::new();
    for target in targets {
        let is_webnn = target.backend == Backend::WebNn;
        let is_offered =
            |row: &Row| row.offers.as_ref().is_some_and(|all| all.contains(&Backend::WebNn));
        let mut same = rows.iter().filter(|row| row.browser == target.host.name());
        if options.places.webnn_if_offered() && is_webnn && !same.any(is_offered) {
            continue;
        }
        let row = match &opened {
            Err(reason) => Row::new(name, model, target).ended(Status::Refused, reason.clone()),
            Ok(subject) => {
                let checking = flotilla_check::check(subject, target, settings, history);
                progress::spinner(&format!("{name} in {target}"), checking).await
            }
        };
        rows.push(row);
    }
    rows
}

/// Prints and writes everything about the rows.
fn report(rows: &[Row], options: &Options) -> anyhow::Result<()> {
    if options.json {
        crate::embed::print_json(&serde_json::to_value(rows)?)?;
    } else {
        print(rows);
    }
    if let Some(path) = &options.junit {
        let xml = junit::report(rows, options.strict);
        std::fs::write(path, xml)
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    if std::env::var_os("GITHUB_ACTIONS").is_some_and(|value| value == "true") {
        annotate(rows, options)?;
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "GitHub reads its commands there")]
fn annotate(rows: &[Row], options: &Options) -> anyhow::Result<()> {
    for command in github::annotations(rows, options.strict) {
        // GitHub reads commands from both streams; with --json, stdout has only JSON.
        if options.json {
            eprintln!("{command}");
        } else {
            println!("{command}");
        }
    }
    if let Some(path) = std::env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(github::summary(rows).as_bytes()))
            .with_context(|| format!("the summary {} cannot be written", path.display()))?;
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a command's result")]
fn print(rows: &[Row]) {
    let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
    let header = [
        "model",
        "browser",
        "backend",
        "adapter",
        "status",
        "arithmetic",
        "max error",
        "relative",
        "rms",
        "ulp",
        "first",
        "median",
        "p95",
        "weights",
        "memory",
    ];
    table::print(&header, &cells);
    for alike in rows.chunk_by(|a, b| (&a.model, &a.reason) == (&b.model, &b.reason)) {
        let targets: Vec<String> = alike.iter().map(|row| row.place()).collect();
        if let [Row { model, status, reason: Some(reason), .. }, ..] = alike {
            println!("\n{model} {} in {}: {reason}", status.name(), targets.join(", "));
        }
    }
    for alike in rows.chunk_by(|a, b| a.model == b.model) {
        let with_reference = alike.iter().find_map(|row| Some((row, row.reference_name()?)));
        if let Some((row, reference)) = with_reference {
            let reason = row.reference_reason.as_ref();
            let reason = reason.map_or(String::new(), |reason| format!(": {reason}"));
            println!("\n{} is compared with {reference}{reason}", row.model);
        }
    }
    for (model, finding) in findings(rows) {
        println!("\n{model}: {finding}");
    }
    for row in rows {
        if let Some(compared) = &row.history {
            println!(
                "\n{} in {}: {:+.0} % against the {:.2} ms of {} earlier checks",
                row.model,
                row.place(),
                compared.slower_percent,
                compared.p50_ms,
                compared.checks
            );
        }
    }
}

/// Every model's findings once.
fn findings(rows: &[Row]) -> impl Iterator<Item = (&str, &Finding)> {
    let of_model = rows.chunk_by(|a, b| a.model == b.model).filter_map(|alike| alike.first());
    of_model.flat_map(|row| row.findings.iter().map(|finding| (row.model.as_str(), finding)))
}

fn cells(row: &Row) -> Vec<String> {
    let error = |error: Option<f64>| error.map_or("-".to_owned(), |error| format!("{error:.1e}"));
    vec![
        row.model.clone(),
        browser_cell(&row.browser, row.browser_version.as_deref()),
        backend_cell(row.backend, row.webgpu_adapter, row.device, row.split.as_ref()),
        row.adapter.clone().unwrap_or_else(|| "-".to_owned()),
        row.status.name().to_owned(),
        row.arithmetic.map_or("-".to_owned(), |arithmetic| arithmetic.to_string()),
        error(row.max_abs_err),
        error(row.max_rel_err),
        rms_cell(row),
        row.max_ulp.map_or("-".to_owned(), |ulp| ulp.to_string()),
        ms_cell(row.latency_ms.first),
        ms_cell(row.latency_ms.p50),
        ms_cell(row.latency_ms.p95),
        weights_cell(row),
        memory_cell(row.memory_bytes),
    ]
}

/// The memory that holds the weights, and how many times the size of the model's files it is.
fn weights_cell(row: &Row) -> String {
    match (row.model_bytes, row.device_bytes) {
        (Some(model), Some(device)) if model > 0 => {
            let times = device as f64 / model as f64;
            format!("{:.1} MiB, {times:.2}x", device as f64 / f64::from(1 << 20))
        }
        _ => "-".to_owned(),
    }
}

/// Such as `3.1e-7`, `3.1e-7, 0.20 % off` if elements are off by more than 1 % of themselves; where numbers are rounded to 8 bits such as `1.6e-2, 36 dB, top 97 %`.
fn rms_cell(row: &Row) -> String {
    let Some(rms) = row.rms_err else { return "-".to_owned() };
    let snr = row.snr_db.map(|snr| format!("{snr:.0} dB"));
    let top = row.top_agreement.map(|part| format!("top {:.0} %", (part * 100.0).floor()));
    let off = row.elements_off.filter(|&part| part > 0.0);
    let off = off.map(|part| format!("{:.2} % off", part * 100.0));
    let words = [Some(format!("{rms:.1e}")), off, snr, top];
    words.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

pub(crate) fn browser_cell(name: &str, version: Option<&str>) -> String {
    format!("{name} {}", version.unwrap_or_default()).trim().to_owned()
}

/// Such as `webgpu (gles)`, `webnn (requested npu)`, `webnn+cpu 90+4 nodes`.
pub(crate) fn backend_cell(
    backend: Backend,
    route: Option<Adapter>,
    device: Option<Device>,
    split: Option<&Split>,
) -> String {
    let mut cell = backend.to_string();
    if let Some(split) = split {
        cell = format!("{cell}+{} {}+{} nodes", split.rest, split.nodes, split.elsewhere.len());
    }
    if let Some(route) = route {
        cell = format!("{cell} ({})", route.name());
    }
    match device {
        Some(device) => format!("{cell} (requested {device})"),
        None => cell,
    }
}

pub(crate) fn ms_cell(ms: Option<f64>) -> String {
    ms.map_or("-".to_owned(), |ms| format!("{ms:.1} ms"))
}

pub(crate) fn memory_cell(bytes: Option<u64>) -> String {
    bytes.map_or("-".to_owned(), |bytes| format!("{} MiB", bytes >> 20))
}
