//! The cost of campaigns of faults: `flotilla chaos` with real browsers, and the README's table of it.

use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::{
    Arguments, document,
    figures::{Figure, Place},
};

/// A campaign to be measured.
struct Campaign {
    /// What happens, for the table.
    words: &'static str,
    scenario: &'static str,
    /// Browsers that hold the model ready; all of them unless given.
    redundancy: Option<u32>,
    /// The part of `--duration` for which it runs.
    part: u32,
}

const CAMPAIGNS: [Campaign; 8] = [
    Campaign {
        words: "browser killed, warm standby",
        scenario: "crash-storm",
        redundancy: Some(2),
        part: 1,
    },
    Campaign {
        words: "browser killed, no standby",
        scenario: "crash-storm",
        redundancy: Some(1),
        part: 1,
    },
    Campaign { words: "hang (SIGSTOP)", scenario: "hang", redundancy: None, part: 2 },
    Campaign { words: "GPU device lost", scenario: "device-loss", redundancy: None, part: 5 },
    Campaign { words: "socket dropped", scenario: "socket-drop", redundancy: None, part: 5 },
    Campaign { words: "page crashed", scenario: "page-crash", redundancy: None, part: 5 },
    Campaign { words: "memory over its limit", scenario: "memory-hog", redundancy: None, part: 5 },
    Campaign {
        words: "daemon killed and restarted",
        scenario: "daemon-kill",
        redundancy: None,
        part: 5,
    },
];

/// Shortest campaign: in a shorter one, not every fault of every scenario would fire.
const DURATION_MIN_S: u32 = 30;

/// Markers in the README around the table.
const BEGIN: &str =
    "<!-- reliability: written by `cargo xtask bench --groups reliability --readme README.md` -->";
const END: &str = "<!-- end of reliability -->";

/// Runs every campaign; one that could not be measured is a figure with the reason.
pub(crate) fn figures(arguments: &Arguments) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut reports = Vec::new();
    let wanted = |campaign: &&Campaign| {
        arguments.campaigns.is_empty()
            || arguments.campaigns.iter().any(|name| name == campaign.scenario)
    };
    for campaign in CAMPAIGNS.iter().filter(wanted) {
        let seconds = (arguments.duration / campaign.part).max(DURATION_MIN_S);
        eprintln!("playing {} for {seconds} s", campaign.words);
        let place = Place {
            browser: "chrome + firefox".to_owned(),
            backend: format!("{}, {seconds} s", campaign.scenario),
        };
        match play(arguments, campaign, seconds) {
            Ok(report) => {
                figures.extend(of_report(campaign, &place, &report));
                reports.push((campaign, seconds, report));
            }
            Err(error) => figures.push(Figure::missing(campaign.words, &place, "ms", &error)),
        }
    }
    let table = table(&reports);
    let written = write(arguments, &table);
    if let Err(error) = written {
        let place = Place { browser: String::new(), backend: String::new() };
        figures.push(Figure::missing("table", &place, "", &error));
    }
    figures
}

fn play(arguments: &Arguments, campaign: &Campaign, seconds: u32) -> anyhow::Result<Value> {
    let mut command = Command::new(&arguments.flotilla);
    command.args(["chaos", "--browsers", "chrome=1,firefox=1", "--load", "20/s", "--seed", "1"]);
    let duration = format!("{seconds}s");
    command.args(["--scenario", campaign.scenario, "--duration", &duration, "--json"]);
    if let Some(redundancy) = campaign.redundancy {
        command.args(["--redundancy", &redundancy.to_string()]);
    }
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", arguments.flotilla.display()))?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("flotilla chaos ended with {} and no report", output.status))?;
    // If a fault did not fire, the campaign shows nothing about recovery. A lost or wrong answer is part of the
    // result.
    if let Some(missed) = report["faults_missed"].as_array().filter(|missed| !missed.is_empty()) {
        bail!("faults did not fire: {missed:?}");
    }
    Ok(report)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// The figure for all faults of a report together: that of the slowest kind.
fn next_right(report: &Value, quantile: &str) -> f64 {
    let faults = report["faults"].as_array().into_iter().flatten();
    faults.map(|fault| number(&fault["ms_to_next_right"][quantile])).fold(0.0, f64::max)
}

fn fired(report: &Value) -> u64 {
    let fired = report["faults_fired"].as_object().into_iter().flatten();
    fired.filter_map(|(_, count)| count.as_u64()).sum()
}

fn of_report(campaign: &Campaign, place: &Place, report: &Value) -> Vec<Figure> {
    let unharmed = ["lost", "wrong", "duplicated", "error"];
    let bad: f64 = unharmed.iter().map(|name| number(&report[*name])).sum();
    let figure = |what: &str, value, unit| {
        Figure::alone(&format!("{}: {what}", campaign.words), place, value, unit)
    };
    vec![
        figure("sent", number(&report["sent"]), "requests"),
        figure("not answered rightly", bad, "requests"),
        figure("faults", fired(report) as f64, "faults"),
        figure("fault to next right answer, p50", next_right(report, "p50"), "ms"),
        figure("fault to next right answer, p95", next_right(report, "p95"), "ms"),
        figure("answer, p95", number(&report["latency_ms"]["p95"]), "ms"),
        figure("answer, max", number(&report["latency_ms"]["max"]), "ms"),
    ]
}

/// The table as Markdown.
fn table(reports: &[(&Campaign, u32, Value)]) -> String {
    let mut text = String::from(
        "| at 20 requests/s | for | sent | right | error | lost | wrong | duplicated | faults | fault to next right answer, p50 / p95 | answers, p50 / p95 / max |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for (campaign, seconds, report) in reports {
        let counts: Vec<String> = ["sent", "right", "error", "lost", "wrong", "duplicated"]
            .iter()
            .map(|name| report[*name].to_string())
            .collect();
        let latency = &report["latency_ms"];
        text += &format!(
            "| {} | {seconds} s | {} | {} | {} / {} | {} / {} / {} |\n",
            campaign.words,
            counts.join(" | "),
            fired(report),
            ms(next_right(report, "p50")),
            ms(next_right(report, "p95")),
            ms(number(&latency["p50"])),
            ms(number(&latency["p95"])),
            ms(number(&latency["max"])),
        );
    }
    text
}

fn ms(value: f64) -> String {
    if value >= 9_999.5 { format!("{:.1} s", value / 1e3) } else { format!("{value:.0} ms") }
}

fn write(arguments: &Arguments, table: &str) -> anyhow::Result<()> {
    let path = arguments.folder.join("reliability.md");
    std::fs::write(&path, table).with_context(|| format!("cannot write {}", path.display()))?;
    match &arguments.readme {
        Some(readme) => document::replace(readme, BEGIN, END, table),
        None => Ok(()),
    }
}
