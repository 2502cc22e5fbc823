//! The cost of recording: requests per second with and without it, and the fleet simulator.

use std::{
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use flotilla_tests::{daemon::Daemon, http, model};
use serde_json::{Value, json};

use crate::{
    Arguments,
    figures::{Figure, Place},
};

/// Clients that run at the same time; each sends the next request when it has the last answer.
const CLIENTS: u64 = 16;
/// How long they send requests.
const ASKING: Duration = Duration::from_secs(8);

/// Requests per second that two simulated browsers answer, recorded and not.
pub(crate) fn figures() -> Vec<Figure> {
    let place = Place {
        browser: "2 simulated browsers".to_owned(),
        backend: format!("cpu, {CLIENTS} clients"),
    };
    let measured = || -> anyhow::Result<[f64; 3]> {
        let folder = tempfile::tempdir()?;
        let small = model::small(folder.path(), "small").display().to_string();
        let plain = ["--simulate", "chrome=2", "--models", &small];
        let daemon = Daemon::ready(&plain);
        let (with, without) = (per_second(&daemon, true)?, per_second(&daemon, false)?);
        drop(daemon);
        let one = [&plain[..], &["--redundancy-factor", "1"]].concat();
        Ok([with, without, per_second(&Daemon::ready(&one), true)?])
    };
    match measured() {
        Ok([with, without, one_copy]) => vec![
            Figure::alone("requests, not recorded", &place, without, "requests/s"),
            Figure::alone("requests, recorded in two copies", &place, with, "requests/s"),
            Figure::alone("requests, recorded in one copy", &place, one_copy, "requests/s"),
        ],
        Err(error) => vec![Figure::missing("requests, recorded", &place, "requests/s", &error)],
    }
}

fn per_second(daemon: &Daemon, recorded: bool) -> anyhow::Result<f64> {
    let answered = AtomicU64::new(0);
    let url = daemon.url("/v1/embeddings");
    let begin = Instant::now();
    let ask = |client: u64| -> anyhow::Result<()> {
        for count in 0.. {
            if begin.elapsed() >= ASKING {
                break;
            }
            let ids: Vec<u64> = (0..8).map(|at| (client * 7 + count * 13 + at) % 200).collect();
            let body = json!({ "model": "small", "input": [ids] }).to_string();
            let key = format!("{client}-{count}");
            let mut headers = vec![("content-type", "application/json")];
            if recorded {
                headers.push(("idempotency-key", key.as_str()));
            }
            let answer = http::request("POST", &url, &headers, Some(body.as_bytes()))?;
            ensure!(answer.status == 200, "status {}: {}", answer.status, answer.text);
            answered.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let clients: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || ask(client))).collect();
        for client in clients {
            client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(())
    })?;
    Ok(answered.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64())
}

/// A day of a thousand browsers in virtual time.
pub(crate) fn simulated(arguments: &Arguments) -> Vec<Figure> {
    let place =
        Place { browser: "1000 browsers, 24 h".to_owned(), backend: "virtual time".to_owned() };
    match day(arguments) {
        Ok(report) => {
            let number = |path: &str| report.pointer(path).and_then(Value::as_f64);
            let sum = |path: &str| {
                let entries = report.pointer(path).and_then(Value::as_object);
                entries.map(|entries| entries.values().filter_map(Value::as_f64).sum())
            };
            let figure = |what: &str, value: Option<f64>, unit| match value {
                Some(value) => Figure::alone(what, &place, value, unit),
                None => Figure::missing(what, &place, unit, &anyhow::anyhow!("not reported")),
            };
            vec![
                figure("simulator, wall time", number("/wall_s"), "s"),
                figure("simulator, events", number("/events"), "events"),
                figure("simulator, requests", number("/requests/sent"), "requests"),
                figure("simulator, faults", sum("/faults"), "faults"),
                figure("simulator, invariants checked", sum("/invariants"), "checks"),
                figure(
                    "simulator, violations",
                    report["violations"].as_array().map(|violations| violations.len() as f64),
                    "violations",
                ),
            ]
        }
        Err(error) => vec![Figure::missing("simulator", &place, "s", &error)],
    }
}

fn day(arguments: &Arguments) -> anyhow::Result<Value> {
    let output = Command::new(&arguments.flotilla)
        .args(["simulate", "--browsers", "1000", "--hours", "24", "--seed", "1", "--json"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", arguments.flotilla.display()))?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("flotilla simulate ended with {} and no report", output.status))
}
