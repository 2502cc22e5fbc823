//! `flotilla chaos`: faults under load, every answer checked, every request accounted for.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use flotilla::{browser::Builds, catalog::Catalog, local::LocalOptions};
use flotilla_check::reference::TextReference;
use flotilla_fault_injection::{
    bert,
    campaign::{self, Plan, Target},
    daemon::Daemon,
    driver::{self, Control},
    faults::{Scenario, What},
    questions::{self, Questions},
    report::Report,
    scenarios,
};
use flotilla_fleet::Choice;
use flotilla_protocol::Backend;
use tokio::sync::watch;

use crate::{PoolOptions, embed::print_json, progress};

mod child;
mod own;
mod print;
mod remote;

/// A request that is not answered for so long after the daemon's own limit is lost.
const GRACE: Duration = Duration::from_secs(10);
/// Longest wait for every browser before the load.
const START_MAX: Duration = Duration::from_secs(180);
/// Name of the built-in model.
const MODEL: &str = "chaos-bert";
/// Questions beyond the load's, for the time after the faults.
const SPARE: usize = 64;
/// Exit status if a fault did not happen: its recovery was then not tested.
const MISSED: u8 = 2;

#[derive(Args)]
pub(crate) struct Options {
    /// A file, or one of crash-storm, hang, device-loss, flaky-network, corrupt-store, memory-hog, page-crash,
    /// daemon-kill.
    #[arg(long, value_name = "FILE|NAME", required_unless_present = "show")]
    scenario: Option<String>,
    /// Print a built-in scenario as the file that it would be, and do nothing else.
    #[arg(long, value_name = "NAME", conflicts_with = "scenario")]
    show: Option<String>,
    /// Seed of faults, arrivals and inputs: the same seed asks the same questions and schedules the same faults.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How long requests are sent, such as 60s or 5m.
    #[arg(long, value_name = "TIME", default_value = "60s")]
    duration: Span,
    /// How many requests are sent a second, whether or not earlier ones are answered.
    #[arg(long, value_name = "N/s", default_value = "20/s")]
    load: Rate,
    /// Longest time after the faults until every browser is ready and answers rightly.
    #[arg(long, value_name = "TIME", default_value = "120s")]
    heal: Span,
    #[command(flatten)]
    pool: PoolOptions,
    /// Disturb the browsers of a running daemon at this address instead.
    #[arg(long, value_name = "URL", conflicts_with_all = ["browsers", "simulate", "redundancy"], requires = "model")]
    connect: Option<String>,
    /// Folder or file of the model that is asked; a running daemon must serve it. Default: a small built-in BERT.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Browsers that hold the model ready: 1 is no warm standby. Default: all.
    #[arg(long, value_name = "N")]
    redundancy: Option<u32>,
    /// Print only JSON.
    #[arg(long)]
    json: bool,
}

impl Options {
    /// By default webgpu is used, so that there is a device to lose.
    fn local_options(&self, builds: &Builds) -> anyhow::Result<LocalOptions> {
        let mut local_options =
            self.pool.local_options_or(builds, &[Backend::WebGpu, Backend::Cpu])?;
        if self.pool.backends.is_default() {
            local_options.backends.choice = Choice::First;
        }
        Ok(local_options)
    }
}

/// A time with its unit.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Span(Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let factor = match unit {
            "ms" => 0.001,
            "" | "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(format!("{text:?} has an unknown unit; use ms, s, m or h")),
        };
        let number: f64 = number
            .parse()
            .map_err(|_| format!("{text:?} is not a duration; write for example 90s"))?;
        match Duration::try_from_secs_f64(number * factor) {
            Ok(time) if !time.is_zero() => Ok(Span(time)),
            Ok(_) | Err(_) => Err(format!("{text:?} is 0 or too long; write for example 90s")),
        }
    }
}

/// So many a second.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rate(f64);

/// Most requests a second: one process makes and checks them all.
const RATE_MAX: f64 = 10_000.0;

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let number = text.strip_suffix("/s").unwrap_or(text);
        match number.parse::<f64>() {
            Ok(rate) if rate > 0.0 && rate <= RATE_MAX => Ok(Rate(rate)),
            Ok(_) | Err(_) => Err(format!(
                "{text:?} is not a rate above 0 and up to {RATE_MAX}/s; write for example 20/s"
            )),
        }
    }
}

pub(crate) async fn run(options: Options, builds: &Builds) -> anyhow::Result<ExitCode> {
    if let Some(name) = &options.show {
        print_json(&serde_json::to_value(scenario(name)?)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let scenario = scenario(options.scenario.as_deref().context("no scenario is named")?)?;
    let plan = Plan {
        scenario,
        seed: options.seed,
        run: run_name()?,
        duration: options.duration.0,
        load_per_s: options.load.0,
        answer_max: Duration::from_secs(options.pool.timeout) + GRACE,
        start_max: START_MAX,
        heal_max: options.heal.0,
    };
    let folder = tempfile::Builder::new().prefix("flotilla-chaos-").tempdir()?;
    let model = match &options.model {
        Some(model) => model.clone(),
        None => {
            let model = folder.path().join(MODEL);
            bert::write(&model, options.seed)?;
            model
        }
    };
    let (catalog, questions) = {
        let (plan, model) = (plan.clone(), model.clone());
        let work = tokio::task::spawn_blocking(move || ask_reference(&plan, &model));
        progress::spinner("computing the expected answers", work).await??
    };
    let questions = Arc::new(questions);
    let needs_child = |what: &What| matches!(what, What::Daemon { .. } | What::Driver { .. });
    let report = if let Some(url) = &options.connect {
        let name = catalog.models.first().context("no model is available")?.name.clone();
        let remote = Arc::new(remote::Remote::new(Daemon::new(url, name)));
        play(remote, plan, questions).await?
    } else if plan.scenario.faults.iter().any(|fault| needs_child(&fault.what)) {
        let child = Arc::new(
            child::Child::start(&options, builds, &plan.scenario, &model, folder.path()).await?,
        );
        let report = play(child.clone(), plan, questions).await;
        child.stop().await;
        report?
    } else {
        let own = Arc::new(own::Own::start(&options, builds, catalog, &plan.scenario).await?);
        let report = play(own.clone(), plan, questions).await;
        own.stop().await;
        report?
    };
    if options.json {
        print_json(&serde_json::to_value(&report)?)?;
    } else {
        print::print(&report);
    }
    Ok(verdict(&report))
}

/// Runs in front of a real driver until that ends.
pub(crate) async fn faulty_driver(
    real: &Path,
    arguments: &[String],
    control: &Path,
) -> anyhow::Result<ExitCode> {
    let status = driver::run(real, arguments, Control::new(control)).await?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The exit code: failure if the report is not sound, else [`MISSED`] if some fault did not happen, else success.
fn verdict(report: &Report) -> ExitCode {
    if !report.is_sound() {
        ExitCode::FAILURE
    } else if !report.faults_missed.is_empty() {
        ExitCode::from(MISSED)
    } else {
        ExitCode::SUCCESS
    }
}

fn scenario(name: &str) -> anyhow::Result<Scenario> {
    if let Some(scenario) = scenarios::named(name) {
        return Ok(scenario);
    }
    let text = std::fs::read_to_string(name).with_context(|| {
        format!(
            "{name} is neither a file nor a scenario; known are {}",
            scenarios::NAMES.join(", ")
        )
    })?;
    Scenario::parse(&text).with_context(|| name.to_owned())
}

/// A name that no other campaign has.
fn run_name() -> anyhow::Result<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    Ok(format!("chaos-{:016x}", u64::from_le_bytes(bytes)))
}

/// The model, and questions with the right answers of the native reference.
fn ask_reference(plan: &Plan, model: &Path) -> anyhow::Result<(Catalog, Questions)> {
    let catalog = Catalog::open(&[model.to_owned()]);
    if let Some(reason) = catalog.broken.values().next() {
        anyhow::bail!("{reason}");
    }
    let (vocabulary, tokens_max) = {
        let model = catalog.models.first().context("no model is available")?;
        let vocabulary =
            model.vocabulary.context("the model does not declare the size of its vocabulary")?;
        (vocabulary, model.tokens_max)
    };
    let count = campaign::questions_wanted(plan) + SPARE;
    let rows = questions::rows(plan.seed, count, vocabulary, tokens_max)?;
    let mut reference = TextReference::open(model)?;
    let answers = rows.iter().map(|row| reference.embedding(row)).collect::<Result<Vec<_>, _>>()?;
    Ok((catalog, Questions::new(rows, answers)?))
}

/// Runs the plan and shows its progress.
async fn play<T: Target>(
    target: Arc<T>,
    plan: Plan,
    questions: Arc<Questions>,
) -> anyhow::Result<Report> {
    let (sender, mut watched) = watch::channel(campaign::Progress::default());
    let bar = progress::line();
    let shown = {
        let bar = bar.clone();
        tokio::spawn(async move {
            while watched.changed().await.is_ok() {
                let now = watched.borrow_and_update().clone();
                bar.set_message(format!(
                    "{}: {} requests sent, {} faults",
                    now.phase, now.sent, now.fired
                ));
            }
        })
    };
    let report = campaign::run(target, plan, questions, sender).await;
    shown.abort();
    bar.finish_and_clear();
    Ok(report?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_rates_are_read_from_options() {
        let times: [(&str, Option<u64>); 8] = [
            ("60s", Some(60_000)),
            ("5m", Some(300_000)),
            ("1.5s", Some(1500)),
            ("250ms", Some(250)),
            ("7", Some(7000)),
            ("0s", None),
            ("-1s", None),
            ("5 weeks", None),
        ];
        for (text, want) in times {
            let got = text.parse().ok().map(|Span(time)| time);
            assert_eq!(got, want.map(Duration::from_millis), "{text:?}");
        }
        let rates: [(&str, Option<f64>); 5] = [
            ("20/s", Some(20.0)),
            ("0.5/s", Some(0.5)),
            ("3", Some(3.0)),
            ("0/s", None),
            ("x/s", None),
        ];
        for (text, want) in rates {
            assert_eq!(text.parse().ok().map(|Rate(rate)| rate), want, "{text:?}");
        }
    }
}
