//! `flotilla simulate`: the fleet in virtual time, with seeded faults.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::Args;
use flotilla_fleet::Fleet;
use flotilla_simulator::{
    Durations, Fault, Plan, Report, Simulated, Violation, simulate as run_seed,
};
use serde::Serialize;

/// Violations after which no further seeds are played.
const VIOLATIONS_MAX: usize = 10;
/// Default number of browsers if only the hours are given.
const BROWSERS: u32 = 1000;
/// Default hours if only the number of browsers is given.
const HOURS: f64 = 24.0;

#[derive(Args)]
pub(crate) struct Options {
    /// Browsers of the fleet. Without this and --hours each seed draws a small fleet with its own load and faults.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    browsers: Option<u32>,
    /// Virtual hours to simulate.
    #[arg(long, value_name = "HOURS")]
    hours: Option<f64>,
    /// The first seed.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// How many seeds to simulate as run_seed, one after the other.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    seeds: u64,
    /// Requests per second of a fleet of that size, on average.
    #[arg(long, value_name = "RATE/s", value_parser = rate)]
    load: Option<f64>,
    /// Faults instead of the usual ones: a JSON list such as [{"what":"hang","odds":0.5,"from_s":60,"until_s":600}].
    /// Odds are times per hour (for each browser, or for the fleet) or percent of the occasions.
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,
    /// Print all events and actions, on stderr.
    #[arg(long)]
    trace: bool,
    /// Print only JSON. Fields named wall_s or *_per_s depend on the machine, all others on the seed alone.
    #[arg(long)]
    json: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    match number.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(rate),
        _ => Err(format!("{text:?} is not a rate such as 20/s")),
    }
}

/// What is printed.
#[derive(Serialize)]
struct Output {
    seed: u64,
    seeds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    browsers: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hours: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    load: Option<String>,
    simulated_hours: f64,
    #[serde(flatten)]
    report: Report,
    violations: Vec<Found>,
    wall_s: f64,
    simulated_hours_per_s: f64,
    events_per_s: f64,
}

/// An invariant that did not hold.
#[derive(Serialize)]
struct Found {
    seed: u64,
    invariant: &'static str,
    at_s: f64,
    event: u64,
    detail: String,
    /// The command that replays it.
    replay: String,
}

impl Found {
    fn new(seed: u64, violation: Violation, replay: String) -> Found {
        Found {
            seed,
            invariant: violation.invariant.name(),
            at_s: violation.at.0.as_secs_f64(),
            event: violation.step,
            detail: violation.detail,
            replay,
        }
    }
}

impl Options {
    /// The size of the fleet, where the seed does not draw it.
    fn size(&self) -> Option<(u32, f64)> {
        match (self.browsers, self.hours) {
            (None, None) => None,
            (browsers, hours) => Some((browsers.unwrap_or(BROWSERS), hours.unwrap_or(HOURS))),
        }
    }

    fn load(&self) -> f64 {
        self.load.unwrap_or(20.0)
    }

    fn plan(&self, seed: u64, faults: Option<&[Fault]>) -> anyhow::Result<Plan> {
        let mut plan = match self.size() {
            Some((browsers, hours)) => {
                let life = Duration::try_from_secs_f64(hours * 3600.0)
                    .with_context(|| format!("cannot simulate {hours} hours"))?;
                Plan::sized(browsers, life, self.load())
            }
            None => Plan::drawn(seed),
        };
        if let Some(faults) = faults {
            plan.faults = faults.to_vec();
        }
        Ok(plan)
    }

    /// The command that replays one seed.
    fn replay(&self, seed: u64) -> String {
        let size = match self.size() {
            Some((browsers, hours)) => {
                format!(" --browsers {browsers} --hours {hours} --load {}/s", self.load())
            }
            None => String::new(),
        };
        let faults = match &self.faults {
            Some(path) => format!(" --faults {}", path.display()),
            None => String::new(),
        };
        format!("flotilla simulate{size}{faults} --seed {seed} --trace")
    }
}

pub(crate) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    // The simulation never waits, so it has a thread of its own and does not block the others.
    tokio::task::spawn_blocking(move || simulate(&options)).await?
}

fn simulate(options: &Options) -> anyhow::Result<ExitCode> {
    let output = live(options)?;
    print(&output, options.json)?;
    Ok(if output.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn live(options: &Options) -> anyhow::Result<Output> {
    ensure!(
        options.size().is_some() || options.load.is_none(),
        "--load needs --browsers or --hours: without them each seed draws its own load"
    );
    let faults = options.faults.as_deref().map(read_faults).transpose()?;
    let started = std::time::Instant::now();
    let mut report = Report::default();
    let mut violations = Vec::new();
    for seed in options.seed..options.seed.saturating_add(options.seeds) {
        let plan = options.plan(seed, faults.as_deref())?;
        let Simulated { report: of_seed, violation, trace } =
            run_seed::<Fleet>(seed, plan, options.trace);
        for line in trace.text() {
            eprintln!("{line}");
        }
        report.merge(&of_seed);
        if let Some(violation) = violation {
            let replay = options.replay(seed);
            eprintln!("seed {seed}: {violation}\nreplayed by: {replay}");
            violations.push(Found::new(seed, violation, replay));
        }
        if violations.len() >= VIOLATIONS_MAX {
            eprintln!("{VIOLATIONS_MAX} seeds failed; no more are played");
            break;
        }
    }
    let wall_s = started.elapsed().as_secs_f64();
    let simulated_hours = report.virtual_s / 3600.0;
    let sized = options.size();
    Ok(Output {
        seed: options.seed,
        seeds: options.seeds,
        browsers: sized.map(|(browsers, _)| browsers),
        hours: sized.map(|(_, hours)| hours),
        load: sized.map(|_| format!("{}/s", options.load())),
        simulated_hours,
        simulated_hours_per_s: simulated_hours / wall_s.max(f64::MIN_POSITIVE),
        events_per_s: report.events as f64 / wall_s.max(f64::MIN_POSITIVE),
        report,
        violations,
        wall_s,
    })
}

fn read_faults(path: &Path) -> anyhow::Result<Vec<Fault>> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} is not a list of faults", path.display()))
}

#[expect(clippy::print_stdout, reason = "the report is what the command is for")]
fn print(output: &Output, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(output)?);
        return Ok(());
    }
    let report = &output.report;
    println!("fleet simulator: the real core in virtual time, no browsers and no numerics");
    println!(
        "{:.2} simulated hours in {:.2} s: {:.1} hours/s, {} events, {:.0} events/s",
        output.simulated_hours,
        output.wall_s,
        output.simulated_hours_per_s,
        report.events,
        output.events_per_s
    );
    let requests = &report.requests;
    println!(
        "requests: {} sent, {} answered, {} failed{}, {} cancelled, {} lost with a killed daemon",
        requests.sent,
        requests.answered,
        requests.failed.values().sum::<u64>(),
        listed(&requests.failed),
        requests.cancelled,
        requests.lost_with_daemon,
    );
    println!(
        "recorded: {} requests, {} transactions ({} refused); of killed daemons {} requests were taken over, {} answered \
         from the record, {} asked again",
        requests.recorded,
        report.transactions.confirmed,
        report.transactions.refused,
        requests.taken_over,
        requests.from_record,
        requests.asked_again
    );
    println!("virtual time to the answer: {}", quantiles(&report.latency));
    println!("faults: {}{}", report.faults_fired, listed(&report.faults));
    for ((failure, step), took) in &report.recoveries {
        println!(
            "requests recovered from {}, {}: {} times, {}",
            failure.words(),
            step.words(),
            took.count(),
            quantiles(took)
        );
    }
    for ((failure, repair), took) in &report.repairs {
        println!(
            "browsers recovered from {}, {}: {} times, {}",
            failure.words(),
            repair.name(),
            took.count(),
            quantiles(took)
        );
    }
    println!("invariants checked: {}{}", report.invariants_checked, listed(&report.invariants));
    println!("violations: {}", output.violations.len());
    Ok(())
}

fn listed(counts: &BTreeMap<&'static str, u64>) -> String {
    let items: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    if items.is_empty() { String::new() } else { format!(" ({})", items.join(", ")) }
}

fn quantiles(durations: &Durations) -> String {
    match (durations.percentile(50), durations.percentile(95)) {
        (Some(p50), Some(p95)) => format!("p50 {p50:?}, p95 {p95:?}"),
        _ => "none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::Value;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    /// What is printed as JSON, without what depends on the machine.
    fn printed(arguments: &[&str]) -> Value {
        let arguments = std::iter::once(&"simulate").chain(arguments);
        let options = Command::parse_from(arguments).options;
        let output = live(&options).expect("a life");
        let mut json = serde_json::to_value(&output).expect("JSON");
        let fields = json.as_object_mut().expect("an object");
        fields.retain(|name, _| name != "wall_s" && !name.ends_with("_per_s"));
        json
    }

    #[test]
    fn a_seed_prints_the_same_twice_and_another_seed_something_else() {
        for arguments in
            [&["--seeds", "20"][..], &["--browsers", "30", "--hours", "0.1", "--load", "5/s"]]
        {
            let first = printed(arguments);
            assert_eq!(first["violations"], Value::Array(Vec::new()));
            assert_eq!(first, printed(arguments));
            let other = printed(&[arguments, &["--seed", "40"]].concat());
            assert_ne!(first["trace"], other["trace"]);
        }
    }

    #[test]
    fn the_line_that_replays_a_seed_names_its_world() {
        let replay = |arguments: &[&str]| {
            let arguments = std::iter::once(&"simulate").chain(arguments);
            Command::parse_from(arguments).options.replay(7)
        };
        assert_eq!(replay(&["--seeds", "200"]), "flotilla simulate --seed 7 --trace");
        assert_eq!(
            replay(&["--browsers", "30", "--load", "5/s"]),
            "flotilla simulate --browsers 30 --hours 24 --load 5/s --seed 7 --trace"
        );
    }
}
