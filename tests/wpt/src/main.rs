//! Runs web-platform-tests' WebNN cases: see `docs/conformance.md`.

use std::{fs, process::ExitCode};

use anyhow::{Context as _, ensure};
use clap::Parser;
use flotilla_tests::place;
use flotilla_wpt::{
    browser,
    expected::{self, Expected},
    report::Report,
    source,
};

/// Runs web-platform-tests' WebNN cases in chrome-webnn and compares with the table of expected outcomes.
#[derive(Parser, Debug)]
#[command(name = "flotilla-wpt")]
struct Arguments {
    /// Only cases whose name contains this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// Print only JSON on stdout.
    #[arg(long)]
    json: bool,
    /// Print a table of expected outcomes of this run, with the browser's words as reasons.
    #[arg(long)]
    bless: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let Arguments { filter, json, bless } = Arguments::parse();
    let mut cases = source::cases().context("cannot get the cases")?;
    let all = cases.len();
    cases.retain(|case| case.name.contains(&filter));
    ensure!(!cases.is_empty(), "no case is called {filter}");
    let run = browser::run(&cases).await?;
    let report = Report::new(run.browser, &run.judged);
    let text = serde_json::to_string_pretty(&report)? + "\n";
    // A part of the cases would be mistaken for all of them.
    if cases.len() == all {
        let summary = place::target().join("wpt").join("summary.json");
        fs::write(&summary, &text).with_context(|| format!("{}", summary.display()))?;
    }
    if bless {
        say(&expected::written_anew(&run.judged));
    } else if json {
        say(&text);
    } else {
        say(&report.to_string());
    }
    let differences = Expected::committed()?.differences(&run.judged, cases.len() == all);
    for difference in &differences {
        eprintln!("not as expected: {difference}");
    }
    Ok(if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[expect(clippy::print_stdout, reason = "results go to stdout")]
fn say(text: &str) {
    print!("{text}");
}
