//! Runs the ONNX backend test suite: see `docs/conformance.md`.

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
#[cfg(feature = "browsers")]
use flotilla_conformance::browser::Browser;
use flotilla_conformance::{
    case::Index,
    expected::{Expected, Surprises},
    export,
    guard::quiet_panics,
    native::Native,
    outcome::RuntimeName,
    readme,
    report::{Report, Summary},
    suite::{Judged, Suite},
};
use flotilla_protocol::Backend;
use regex::Regex;

/// Most unexpected failures that are printed unless all are requested.
const SHOWN_MAX: usize = 20;

/// Runs the ONNX backend test suite.
#[derive(Parser, Debug)]
#[command(name = "flotilla-conformance")]
struct Arguments {
    /// Where to run: native-cpu, native-webgpu, chrome-webgpu, firefox-webgpu, chrome-cpu,
    /// chrome-webnn.
    #[arg(long, value_name = "RUNTIME,..", value_delimiter = ',', default_value = "native-cpu")]
    runtime: Vec<RuntimeName>,
    /// Only cases whose name this regular expression matches.
    #[arg(long, value_name = "REGEX", default_value = "")]
    filter: Regex,
    /// List every failure with the stage at which it happened and the reason.
    #[arg(long)]
    list_failures: bool,
    /// Print only JSON on stdout.
    #[arg(long)]
    json: bool,
    /// Print a table of expected failures of this run, by reason; reasons that the committed table knows are kept.
    #[arg(long)]
    bless: bool,
    /// File that the counts are written to, as JSON.
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
    /// File whose table of coverage is written anew.
    #[arg(long, value_name = "FILE")]
    readme: Option<PathBuf>,
    /// Folder of exported cases, instead of the one that is made below the target folder.
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
    /// Longest time for one case.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    limit: u64,
    /// Cases at a time on native runtimes; default: one per core.
    #[arg(long, value_name = "COUNT")]
    threads: Option<usize>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    quiet_panics();
    let cases = match &arguments.cases {
        Some(cases) => cases.clone(),
        None => export::cases().context("the cases cannot be exported")?,
    };
    let index = Index::read(&cases)?;
    let all = index.cases.len();
    let suite = Suite::new(&cases, index, |name| arguments.filter.is_match(name));
    let chosen = suite.in_scope.len() + suite.out_of_scope.len();
    ensure!(chosen > 0, "no case is called {}", arguments.filter);
    let expected = Expected::committed()?;
    let mut results = Vec::new();
    for &runtime in &arguments.runtime {
        results.push((runtime, run(&arguments, &suite, runtime)?));
    }
    let reports: Vec<Report> =
        results.iter().map(|(runtime, judged)| Report::new(*runtime, &suite, judged)).collect();
    let surprises: Vec<(RuntimeName, Surprises)> = results
        .iter()
        .map(|(runtime, judged)| (*runtime, expected.surprises(*runtime, judged, chosen == all)))
        .collect();
    if let Some(path) = &arguments.summary {
        let summaries: Vec<Summary> = reports.iter().map(Report::summary).collect();
        let text = serde_json::to_string_pretty(&summaries)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(readme) = &arguments.readme {
        ensure!(chosen == all, "the README's table is about all cases");
        readme::replace(readme, &readme::table(&reports))?;
    }
    if arguments.bless {
        say(&expected.written_anew(&results));
    } else if arguments.json {
        say(&serde_json::to_string_pretty(&reports)?);
    } else {
        for (report, (runtime, surprises)) in reports.iter().zip(&surprises) {
            say(&report.text(arguments.list_failures));
            print_surprises(*runtime, surprises, arguments.list_failures);
        }
    }
    let as_expected = surprises.iter().all(|(_, surprises)| surprises.is_empty());
    Ok(if as_expected { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the differences from the table of expected failures, unless all failures were listed already.
fn print_surprises(runtime: RuntimeName, surprises: &Surprises, listed: bool) {
    let Surprises { failures, passes, unused } = surprises;
    if !failures.is_empty() {
        eprintln!("{runtime}: {} unexpected failures", failures.len());
        let shown = if listed { 0 } else { SHOWN_MAX };
        failures.iter().take(shown).for_each(|line| eprintln!("  {line}"));
        if failures.len() > SHOWN_MAX && !listed {
            eprintln!("  and others: --list-failures");
        }
    }
    for case in passes {
        eprintln!("{runtime}: {case} passes: remove it from the table");
    }
    for pattern in unused {
        eprintln!("{runtime}: no case is called {pattern}: remove it from the table");
    }
}

#[expect(clippy::print_stdout, reason = "results go to stdout")]
fn say(text: &str) {
    println!("{text}");
}

fn run(arguments: &Arguments, suite: &Suite, runtime: RuntimeName) -> anyhow::Result<Vec<Judged>> {
    let (done, total) = (AtomicUsize::new(0), suite.in_scope.len());
    let progress = |_: &Judged| {
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(200) {
            eprintln!("{runtime}: {done} of {total}");
        }
    };
    let limit = Duration::from_secs(arguments.limit);
    match runtime {
        RuntimeName::NativeCpu => native(arguments, suite, Backend::Cpu, limit, &progress),
        RuntimeName::NativeWebgpu => native(arguments, suite, Backend::WebGpu, limit, &progress),
        #[cfg(feature = "browsers")]
        RuntimeName::ChromeWebgpu
        | RuntimeName::FirefoxWebgpu
        | RuntimeName::ChromeCpu
        | RuntimeName::ChromeWebnn => {
            Browser::of(runtime, limit).map(|browser| suite.run_browser(browser, limit, &progress))
        }
        #[cfg(not(feature = "browsers"))]
        RuntimeName::ChromeWebgpu
        | RuntimeName::FirefoxWebgpu
        | RuntimeName::ChromeCpu
        | RuntimeName::ChromeWebnn => {
            anyhow::bail!("this program was built without browsers")
        }
    }
    .with_context(|| format!("{runtime} is not available"))
}

fn native(
    arguments: &Arguments,
    suite: &Suite,
    backend: Backend,
    limit: Duration,
    progress: &(dyn Fn(&Judged) + Sync),
) -> anyhow::Result<Vec<Judged>> {
    if let Some(reason) = Native::new(backend).missing() {
        bail!("{reason}");
    }
    let threads =
        arguments.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    Ok(suite.run_native(backend, threads, limit, progress))
}
