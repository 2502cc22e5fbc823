//! Checks the models of the zoo on every runtime and in onnxruntime-web. Run it with `cargo xtask zoo`, which prepares what it
//! needs; see `docs/zoo.md`.

mod check;
mod expected;
mod models;
mod outcome;
mod page;
mod results;
mod runtime;
mod tables;
mod theirs;

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, ensure};
use clap::Parser;
use flotilla::browser::Adapter;
use flotilla_tests::place;

use crate::{
    check::Checker,
    expected::{Differences, Expected, Seen},
    models::Model,
    outcome::{Outcome, Status},
    page::Place,
    results::{Results, Stored},
    runtime::{Chosen, Provider, Runtime},
    tables::Zoo,
    theirs::Theirs,
};

/// Most differences of a kind that are printed.
const SHOWN_MAX: usize = 100;

/// Checks some 300 ONNX files on every runtime and in onnxruntime-web.
#[derive(Parser, Debug)]
#[command(name = "cargo xtask zoo", bin_name = "cargo xtask zoo")]
struct Arguments {
    /// Only models of these names; one that ends with `*` stands for all that begin so.
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    only: Vec<String>,
    /// Where to run: native-cpu, native-webgpu, chrome-webgpu, firefox-webgpu, chrome-cpu, firefox-cpu, chrome-webnn; or none.
    #[arg(long, value_name = "RUNTIME,..", default_value = "all")]
    runtime: Chosen<Runtime>,
    /// What onnxruntime-web computes with in Chrome: wasm, webgpu; or none.
    #[arg(long, value_name = "PROVIDER,..", default_value = "all")]
    theirs: Chosen<Provider>,
    /// Write the outcomes of this run to the table of expected ones. Kinds that it has are kept.
    #[arg(long)]
    bless: bool,
    /// Write the tables of README.md and docs/zoo.md.
    #[arg(long)]
    readme: bool,
    /// Check again what has been checked with the same program.
    #[arg(long)]
    force: bool,
    /// Print every outcome that is not right, with its reason.
    #[arg(long)]
    list_failures: bool,
    /// Print only JSON on stdout.
    #[arg(long)]
    json: bool,
    /// Longest check of a model on a runtime; a fifth of it is the longest load and the longest run.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(5..=86400))]
    limit: u64,
    /// Where Chromium's WebGPU adapter comes from.
    #[arg(long, value_enum, default_value = "auto")]
    webgpu_adapter: Adapter,
    /// Folder of models. [default: made in target/zoo/models]
    #[arg(long, value_name = "DIR")]
    models: PathBuf,
    /// Folder that results are kept in.
    #[arg(long, value_name = "DIR", hide = true)]
    results: PathBuf,
    /// The program that is checked.
    #[arg(long, value_name = "FILE", hide = true)]
    flotilla: PathBuf,
    /// The folder that onnxruntime-web is installed in.
    #[arg(long, value_name = "DIR", hide = true)]
    rival: PathBuf,
    /// Why onnxruntime-web is not available, if it is not.
    #[arg(long, value_name = "REASON", hide = true)]
    no_theirs: Option<String>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let all = models::list(&arguments.models)?;
    let chosen = models::named(&all, &arguments.only)?;
    let whole = chosen.len() == all.len();
    ensure!(
        whole || !arguments.readme,
        "the tables of the documents are about all models: not with --only"
    );
    let results = Results::open(&arguments.results)?;
    check_ours(&arguments, &chosen, &results)?;
    let theirs = check_theirs(&arguments, &chosen, &results)?;

    let keys = arguments.runtime.0.iter().map(|runtime| runtime.name);
    let keys: Vec<&str> = keys.chain(theirs.iter().map(|provider| provider.key())).collect();
    let stored: Vec<Stored> = chosen.iter().map(|model| results.read(model).of(&keys)).collect();
    let table = place::file("zoo/expected.txt");
    let expected = Expected::read(&table)?;
    let seen = seen(&stored, &arguments.runtime.0);
    let names: Vec<&str> = all.iter().map(|model| model.name.as_str()).collect();
    let differences = expected.differences(&seen, &names);
    let expected = if arguments.bless {
        let blessed = expected.with(&seen, &names);
        fs::write(&table, blessed.to_string())
            .with_context(|| format!("cannot write {}", table.display()))?;
        blessed
    } else {
        expected
    };
    let zoo = Zoo {
        stored: &stored,
        ours: &arguments.runtime.0,
        theirs,
        expected: &expected,
        rival: theirs::version(&arguments.rival),
    };
    if arguments.readme {
        let root = place::workspace();
        tables::replace(&root.join("README.md"), &zoo.short())?;
        tables::replace(&root.join("docs").join("zoo.md"), &zoo.long())?;
    }
    if arguments.json {
        say(&serde_json::to_string_pretty(&stored)?);
    } else {
        if arguments.list_failures {
            say(&zoo.failures());
        }
        say(&zoo.counts());
    }
    print_differences(&differences);
    let is_good = differences.wrong.is_empty() || arguments.bless;
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The results of our runtimes, for the table of expected outcomes.
fn seen<'a>(stored: &'a [Stored], runtimes: &[Runtime]) -> Vec<Seen<'a>> {
    let of_model = |one: &'a Stored| {
        let outcomes =
            runtimes.iter().filter_map(move |runtime| Some((runtime, one.outcome(runtime.name)?)));
        outcomes.map(|(&runtime, outcome)| Seen { model: &one.model, runtime, outcome })
    };
    stored.iter().flat_map(of_model).collect()
}

fn check_ours(arguments: &Arguments, models: &[&Model], results: &Results) -> anyhow::Result<()> {
    let limit = Duration::from_secs(arguments.limit);
    let checker = Checker::new(&arguments.flotilla, arguments.webgpu_adapter, limit)?;
    for (at, model) in models.iter().enumerate() {
        let stamp = checker.stamp(model)?;
        let mut stored = results.read(model);
        let wanted = |runtime: &&Runtime| !arguments.force && stored.holds(runtime.name, &stamp);
        let (_, left): (Vec<Runtime>, Vec<Runtime>) =
            arguments.runtime.0.iter().partition(|runtime| wanted(runtime));
        for together in check::together(&left) {
            for (runtime, outcome) in checker.check(model, &together) {
                print_progress(at, models.len(), &model.name, runtime.name, outcome.as_ref());
                stored.keep(runtime.name, &stamp, outcome.ok());
            }
            results.write(&stored)?;
        }
    }
    Ok(())
}

/// Returns what onnxruntime-web was checked with: nothing if it is not available.
fn check_theirs<'a>(
    arguments: &'a Arguments,
    models: &[&Model],
    results: &Results,
) -> anyhow::Result<&'a [Provider]> {
    let providers = arguments.theirs.0.as_slice();
    if let (Some(reason), false) = (&arguments.no_theirs, providers.is_empty()) {
        eprintln!("without onnxruntime-web: {reason}");
        return Ok(&[]);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let limit = Duration::from_secs(arguments.limit);
    let place = Place {
        dist: arguments.rival.join(theirs::DIST),
        flotilla: arguments.flotilla.clone(),
        adapter: arguments.webgpu_adapter,
    };
    let mut theirs = Theirs::new(place, &theirs::version(&arguments.rival), limit);
    let checked = runtime.block_on(async {
        for &provider in providers {
            for (at, model) in models.iter().enumerate() {
                let stamp = theirs.stamp(model)?;
                let mut stored = results.read(model);
                if stored.holds(provider.key(), &stamp) && !arguments.force {
                    continue;
                }
                let outcome = theirs.check(model, provider).await?;
                print_progress(at, models.len(), &model.name, provider.key(), Ok(&outcome));
                stored.keep(provider.key(), &stamp, Some(outcome));
                results.write(&stored)?;
            }
        }
        anyhow::Ok(())
    });
    runtime.block_on(theirs.end());
    runtime.shutdown_background();
    checked.map(|()| providers)
}

/// One line of progress.
fn print_progress(
    at: usize,
    of: usize,
    model: &str,
    place: &str,
    outcome: Result<&Outcome, &String>,
) {
    let words = match outcome {
        Ok(Outcome { status, reason: Some(reason), .. }) => format!("{status}: {reason}"),
        Ok(Outcome { status: Status::Pass, max_abs_err: Some(error), .. }) => {
            format!("pass, off by {error:.1e}")
        }
        Ok(Outcome { status, .. }) => status.to_string(),
        Err(missing) => format!("not checked: {missing}"),
    };
    eprintln!("{}/{of} {model} {place}: {words}", at + 1);
}

/// Prints the differences from the table of expected outcomes.
fn print_differences(differences: &Differences) {
    let Differences { wrong, right, other } = differences;
    let kinds = [("newly wrong", wrong), ("newly right", right), ("not as expected", other)];
    for (kind, lines) in kinds {
        lines.iter().take(SHOWN_MAX).for_each(|line| eprintln!("{kind}: {line}"));
        if lines.len() > SHOWN_MAX {
            eprintln!("{kind}: {} others", lines.len() - SHOWN_MAX);
        }
    }
}

#[expect(clippy::print_stdout, reason = "results go to stdout")]
fn say(text: &str) {
    println!("{}", text.trim_end());
}
