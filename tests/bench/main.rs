//! Measures Flotilla on this machine, side by side with onnxruntime-web where that is available. Run it with
//! `cargo xtask bench`, which prepares what it needs.

mod beside;
mod bridge;
mod decisions;
mod document;
mod figures;
mod import;
mod large;
mod page;
mod reliability;
mod serve;
mod theirs;
mod transactions;
mod versus;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use flotilla::{
    browser::{Adapter, Build, Kind, Names, adapter},
    catalog::Catalog,
    config::Config,
};
use flotilla_protocol::Backend;

use crate::{
    figures::{Figure, Place},
    page::{Page, Wanted},
};

/// Measures Flotilla, side by side with onnxruntime-web.
#[derive(Parser, Debug)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Arguments {
    /// The model's folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The program that is measured.
    #[arg(long, value_name = "FILE")]
    flotilla: PathBuf,
    /// The page's runtime, for its size.
    #[arg(long, value_name = "DIR")]
    web: PathBuf,
    /// Where minilm.onnx and onnxruntime-web are, and results go.
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    /// Why onnxruntime-web is not available, if it is not.
    #[arg(long, value_name = "REASON")]
    no_theirs: Option<String>,
    /// File with browsers of one's own.
    #[arg(long, value_name = "FILE", env = "FLOTILLA_CONFIG")]
    config: Option<PathBuf>,
    /// Browsers to measure.
    #[arg(long, value_name = "NAME,..", default_value = "chrome,firefox")]
    browsers: Names,
    /// Backends to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["webgpu", "cpu"])]
    backends: Vec<BackendName>,
    /// What to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["minilm", "bridge", "load", "beside", "decisions", "serve", "size", "transactions", "simulator", "import"])]
    groups: Vec<Group>,
    /// How long campaigns of killed browsers last; the others last a fifth of it.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    duration: u32,
    /// Campaigns to play, by scenario; all unless given.
    #[arg(long, value_name = "SCENARIO,..", value_delimiter = ',')]
    campaigns: Vec<String>,
    /// README whose tables, and those of docs/bench.md beside it, are written anew for the groups that are measured.
    #[arg(long, value_name = "FILE")]
    readme: Option<PathBuf>,
    /// Measure nothing: write the tables of `--readme` from the figures of earlier runs.
    #[arg(long, requires = "readme")]
    tables_only: bool,
    /// Print only JSON on stdout.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BackendName {
    #[value(name = "webgpu")]
    WebGpu,
    #[value(name = "webnn")]
    WebNn,
    Cpu,
}

/// Figures that go into one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Group {
    /// In-page run time, against onnxruntime-web.
    Minilm,
    /// What an answer costs besides its run.
    Bridge,
    /// From the order to load to the model being ready.
    Load,
    /// Short requests while another model is loaded in their page.
    Beside,
    /// Decisions while large tensors pass, and what tensors cost on their way.
    Decisions,
    /// Start of the server, and memory.
    Serve,
    /// Memory of a daemon that serves a model of 3 GiB. Needs 7 GB of disk and as much memory, and is measured only when asked
    /// for.
    Large,
    /// Size of what a page loads.
    Size,
    /// Requests per second, recorded and not.
    Transactions,
    /// A day of a thousand browsers in virtual time.
    Simulator,
    /// How the time of an import grows with the file.
    Import,
    /// What campaigns of faults cost. Takes over three times `--duration`, and is measured only when asked for.
    Reliability,
}

impl Group {
    const IN_PAGES: [Group; 3] = [Group::Load, Group::Bridge, Group::Minilm];

    fn name(self) -> &'static str {
        match self {
            Group::Minilm => "minilm",
            Group::Bridge => "bridge",
            Group::Load => "load",
            Group::Beside => "beside",
            Group::Decisions => "decisions",
            Group::Serve => "serve",
            Group::Large => "large",
            Group::Size => "size",
            Group::Transactions => "transactions",
            Group::Simulator => "simulator",
            Group::Import => "import",
            Group::Reliability => "reliability",
        }
    }
}

type Measured = Vec<(Group, Figure)>;

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if let (true, Some(readme)) = (arguments.tables_only, &arguments.readme) {
        let mut known = Vec::new();
        for &group in Group::value_variants() {
            let figures = figures::read(&arguments.folder, group.name())?;
            known.extend(figures.map(|figures| (group, figures)));
        }
        document::write(readme, &known)?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let mut measured = runtime.block_on(measure(&arguments))?;
    runtime.shutdown_background();
    measured.sort_by_key(|(group, _)| *group);
    let of_group = |&group: &Group| {
        let figures = measured.iter().filter(|(of, _)| *of == group);
        (group, figures.map(|(_, figure)| figure.clone()).collect::<Vec<Figure>>())
    };
    let groups: Vec<(Group, Vec<Figure>)> = arguments.groups.iter().map(of_group).collect();
    for (group, figures) in &groups {
        figures::write(&arguments.folder, group.name(), figures)?;
    }
    if let Some(readme) = &arguments.readme {
        document::write(readme, &groups)?;
    }
    let figures: Vec<Figure> = measured.into_iter().map(|(_, figure)| figure).collect();
    print(&figures, arguments.json)?;
    let differing = figures
        .iter()
        .filter(|figure| figure.unit == figures::DIFFERENCE)
        // A difference that is NaN counts as well.
        .filter(|figure| {
            figure
                .ours
                .is_none_or(|difference| difference.is_nan() || difference > versus::DIFFERENCE_MAX)
        });
    let mut code = ExitCode::SUCCESS;
    for figure in differing {
        eprintln!(
            "error: {}, {}, {}: the embeddings differ",
            figure.case, figure.browser, figure.backend
        );
        code = ExitCode::FAILURE;
    }
    Ok(code)
}

#[expect(clippy::print_stdout, reason = "a command's result")]
fn print(figures: &[Figure], json: bool) -> anyhow::Result<()> {
    let text = if json { serde_json::to_string_pretty(figures)? } else { figures::table(figures) };
    println!("{text}");
    Ok(())
}

async fn measure(arguments: &Arguments) -> anyhow::Result<Measured> {
    let (config, _) = Config::load(arguments.config.as_deref())?;
    let browsers = config.builds().named(&arguments.browsers)?;
    let worker = arguments.folder.join("theirs.js");
    std::fs::write(&worker, theirs::WORKER)
        .with_context(|| format!("cannot write {}", worker.display()))?;
    let paths = [arguments.model.clone()];
    let mut catalog = tokio::task::spawn_blocking(move || Catalog::open(&paths)).await?;
    // Shape-dependent parts are prepared for the sizes of the first run when the model is loaded.
    if let Some(model) = catalog.models.first().map(|model| model.id) {
        catalog.expect_sizes(model, vec![1, versus::TOKENS[0] as i64]);
    }
    let catalog = Arc::new(catalog);
    let model = catalog
        .models
        .first()
        .with_context(|| catalog.broken.values().cloned().collect::<Vec<_>>().join("; "))?;
    let mut measured = Measured::new();
    if Group::IN_PAGES.iter().any(|group| arguments.groups.contains(group)) {
        for wanted in wanted(&browsers, arguments) {
            measured.extend(in_page(wanted, &catalog, arguments).await);
        }
    }
    if arguments.groups.contains(&Group::Beside) {
        for wanted in wanted(&browsers, arguments) {
            let place = wanted.place();
            eprintln!("measuring loads beside requests in {} on {}", place.browser, place.backend);
            let figures = beside::figures(wanted, arguments).await;
            measured.extend(figures.into_iter().map(|figure| (Group::Beside, figure)));
        }
    }
    if arguments.groups.contains(&Group::Decisions) {
        for wanted in wanted(&browsers, arguments) {
            let place = wanted.place();
            eprintln!("measuring decisions in {} on {}", place.browser, place.backend);
            let figures = decisions::figures(wanted, arguments).await;
            measured.extend(figures.into_iter().map(|figure| (Group::Decisions, figure)));
        }
    }
    if arguments.groups.contains(&Group::Serve) {
        let mut sets: Vec<&[Build]> = browsers.iter().map(std::slice::from_ref).collect();
        if browsers.len() > 1 {
            sets.push(&browsers);
        }
        for set in sets {
            eprintln!("measuring flotilla serve with {}", serve::names(set, "+"));
            let figures = serve::figures(set, &model.name, arguments).await;
            measured.extend(figures.into_iter().map(|figure| (Group::Serve, figure)));
        }
    }
    if arguments.groups.contains(&Group::Large) {
        for build in &browsers {
            eprintln!("measuring a model of 3 GiB in {}", build.name);
            let figures = large::figures(build, arguments).await;
            measured.extend(figures.into_iter().map(|figure| (Group::Large, figure)));
        }
    }
    let groups: [(Group, &(dyn Fn() -> Vec<Figure> + Sync)); 4] = [
        (Group::Transactions, &transactions::figures),
        (Group::Simulator, &|| transactions::simulated(arguments)),
        (Group::Import, &import::figures),
        (Group::Reliability, &|| reliability::figures(arguments)),
    ];
    for (group, figures) in groups {
        if arguments.groups.contains(&group) {
            let figures = tokio::task::block_in_place(figures);
            measured.extend(figures.into_iter().map(|figure| (group, figure)));
        }
    }
    if arguments.groups.contains(&Group::Size) {
        for file in ["runtime_bg.wasm", "runtime_bg.wasm.gz"] {
            measured.push((Group::Size, size(file, arguments)));
        }
    }
    Ok(measured)
}

/// Every browser, backend and route to WebGPU that is to be measured. Beside others, the Chromium whose WebNN computes is measured
/// for WebNN alone.
fn wanted(browsers: &[Build], arguments: &Arguments) -> Vec<Wanted> {
    let mut list = Vec::new();
    let webnn = arguments.backends.contains(&BackendName::WebNn);
    for build in browsers {
        let only_webnn = webnn && build.name == "chrome-webnn";
        for backend in &arguments.backends {
            if only_webnn && *backend != BackendName::WebNn {
                continue;
            }
            let (backend, adapters) = match (backend, build.kind) {
                (BackendName::Cpu, _) => (Backend::Cpu, vec![Adapter::Auto]),
                // Neither Firefox nor a distribution's Chromium has it.
                (BackendName::WebNn, _) if build.name == "firefox" || build.name == "chrome" => {
                    continue;
                }
                (BackendName::WebNn, _) => (Backend::WebNn, vec![Adapter::Auto]),
                (BackendName::WebGpu, Kind::Firefox) => (Backend::WebGpu, vec![Adapter::Auto]),
                (BackendName::WebGpu, Kind::Chrome | Kind::Edge) => {
                    // If the machine has a GPU, it comes first; both software routes are available everywhere.
                    let first = Some(adapter::decide(Adapter::Auto, build))
                        .filter(|adapter| *adapter == Adapter::Hardware);
                    (
                        Backend::WebGpu,
                        first.into_iter().chain([Adapter::Swiftshader, Adapter::Gles]).collect(),
                    )
                }
            };
            list.extend(adapters.into_iter().map(|adapter| Wanted {
                build: build.clone(),
                backend,
                adapter,
            }));
        }
    }
    list
}

/// All measurements in one page.
async fn in_page(wanted: Wanted, catalog: &Arc<Catalog>, arguments: &Arguments) -> Measured {
    let place = wanted.place();
    eprintln!("measuring {} on {}", place.browser, place.backend);
    let wants = |group: Group| arguments.groups.contains(&group);
    let page = match Page::open(wanted, catalog, arguments).await {
        Ok(page) => page,
        Err(error) => {
            let groups = Group::IN_PAGES.into_iter().filter(|&group| wants(group));
            return groups
                .map(|group| (group, Figure::missing(group.name(), &place, "ms", &error)))
                .collect();
        }
    };
    let mut measured = Measured::new();
    if wants(Group::Load) {
        measured.push((Group::Load, Figure::alone("load MiniLM", &page.place, page.load_ms, "ms")));
    }
    if wants(Group::Bridge) {
        let figure = bridge::figure(&page).await;
        let figure = figure.unwrap_or_else(|error| {
            Figure::missing("HTTP request to answer", &page.place, "ms", &error)
        });
        measured.push((Group::Bridge, figure));
    }
    if wants(Group::Minilm) {
        let figures = versus::figures(&page, arguments.no_theirs.as_deref()).await;
        let figures = figures
            .unwrap_or_else(|error| vec![Figure::missing("MiniLM", &page.place, "ms", &error)]);
        measured.extend(figures.into_iter().map(|figure| (Group::Minilm, figure)));
    }
    page.local.stop().await;
    measured
}

fn size(file: &str, arguments: &Arguments) -> Figure {
    let place = Place { browser: "every".to_owned(), backend: "every".to_owned() };
    match std::fs::metadata(arguments.web.join(file)) {
        Ok(metadata) => {
            Figure::alone(&format!("size of {file}"), &place, metadata.len() as f64, "bytes")
        }
        Err(error) => Figure::missing(&format!("size of {file}"), &place, "bytes", &error.into()),
    }
}
