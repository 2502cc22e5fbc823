//! `flotilla serve` from outside: time to the first answer, and memory.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use flotilla::browser::{Build, guardian::tree_pss_bytes};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::{
    Arguments,
    bridge::Api,
    figures::{Figure, Place, median},
};

/// Starts that are measured for each set of browsers.
const STARTS: usize = 3;
/// Longest wait for the daemon to listen.
const LISTEN_MAX: Duration = Duration::from_secs(120);
/// Longest wait for the daemon to end.
const END_MAX: Duration = Duration::from_secs(60);
pub(crate) const MEBIBYTE: f64 = (1 << 20) as f64;

const CASE: &str = "flotilla serve to first answer";

/// For a set of browsers: the time to the first answer, then the memory of daemon and browsers.
pub(crate) async fn figures(builds: &[Build], model: &str, arguments: &Arguments) -> Vec<Figure> {
    let place = place(builds);
    measure(builds, model, arguments)
        .await
        .unwrap_or_else(|error| vec![Figure::missing(CASE, &place, "ms", &error)])
}

fn place(builds: &[Build]) -> Place {
    Place { browser: names(builds, "+"), backend: "default".to_owned() }
}

pub(crate) fn names(builds: &[Build], between: &str) -> String {
    let names: Vec<&str> = builds.iter().map(|build| build.name.as_str()).collect();
    names.join(between)
}

async fn measure(
    builds: &[Build],
    model: &str,
    arguments: &Arguments,
) -> anyhow::Result<Vec<Figure>> {
    let mut place = place(builds);
    let mut times = Vec::new();
    let mut memory = Vec::new();
    for _ in 0..STARTS {
        let begin = Instant::now();
        let daemon = Daemon::start(&Started {
            builds,
            program: &arguments.flotilla,
            model: &arguments.model,
            home: None,
            options: &["--backends", "webgpu,cpu", "--choose", "order"],
        })
        .await?;
        let measured = async {
            let (answer, _) = daemon.api.embed(model).await?;
            times.push(begin.elapsed().as_secs_f64() * 1e3);
            let run = &answer["flotilla"]["runs"][0];
            let word = |name: &str| run[name].as_str().unwrap_or_default().to_owned();
            place.backend = format!("{} {}", word("backend"), word("adapter"));
            memory = daemon.memory(builds, &place).await?;
            anyhow::Ok(())
        };
        let measured = measured.await;
        daemon.stop().await?;
        measured?;
    }
    let mut figures = vec![Figure::alone(CASE, &place, median(&times)?, "ms")];
    figures.append(&mut memory);
    Ok(figures)
}

/// How a daemon is started.
pub(crate) struct Started<'a> {
    pub(crate) builds: &'a [Build],
    pub(crate) program: &'a Path,
    pub(crate) model: &'a Path,
    /// Its data folder; the user's without.
    pub(crate) home: Option<&'a Path>,
    pub(crate) options: &'a [&'a str],
}

pub(crate) struct Daemon {
    child: Child,
    pub(crate) api: Api,
}

impl Daemon {
    /// Returns once it listens.
    pub(crate) async fn start(started: &Started<'_>) -> anyhow::Result<Daemon> {
        let Started { builds, program, model, home, options } = started;
        let mut child = Command::new(program)
            .args(["serve", "--port", "0", "--browsers", &names(builds, ",")])
            .args(*options)
            .arg("--models")
            .arg(model)
            .envs(home.map(|home| ("FLOTILLA_HOME", home)))
            .env("FLOTILLA_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let stderr = child.stderr.take().context("the daemon has no standard error")?;
        let mut lines = BufReader::new(stderr).lines();
        let mut said = Vec::new();
        let address = async {
            while let Some(line) = lines.next_line().await? {
                if let Some((_, rest)) = line.split_once("listening on ") {
                    return Ok(rest.split_whitespace().next().unwrap_or_default().to_owned());
                }
                said.push(line);
            }
            bail!("the daemon ended: {}", said.join(" | "))
        };
        let address = tokio::time::timeout(LISTEN_MAX, address)
            .await
            .context("the daemon does not listen")??;
        // Its further output is read, so that it never waits for a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Daemon { child, api: Api::new(address) })
    }

    /// Proportional set sizes: of the daemon alone, and of each browser with its child processes.
    async fn memory(&self, builds: &[Build], place: &Place) -> anyhow::Result<Vec<Figure>> {
        let pool = self.api.get("/api/pool").await?;
        let browsers =
            pool["browsers"].as_array().context("the pool does not list its browsers")?;
        let pid = |facts: &serde_json::Value, name: &str| {
            facts[name].as_u64().and_then(|pid| u32::try_from(pid).ok())
        };
        let daemon = self.pid()?;
        let mut figures = Vec::new();
        for (what, field) in [("(PSS)", "Pss:"), ("of its own (anonymous)", "Pss_Anon:")] {
            let case = format!("resident memory {what} of the daemon");
            let bytes = memory_bytes(daemon, "smaps_rollup", field)?;
            figures.push(Figure::alone(&case, place, bytes / MEBIBYTE, "MiB"));
        }
        // With several browsers, only the one that answered has certainly loaded the model.
        if builds.len() == 1 {
            for browser in browsers {
                let root =
                    pid(&browser["facts"], "pid").context("the browser's process is not known")?;
                let bytes = tree_pss_bytes(root) as f64;
                figures.push(Figure::alone(
                    "resident memory (PSS) of the browser",
                    place,
                    bytes / MEBIBYTE,
                    "MiB",
                ));
            }
        }
        Ok(figures)
    }

    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the daemon ended")
    }

    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM).context("the daemon cannot be ended")?;
        }
        tokio::time::timeout(END_MAX, self.child.wait())
            .await
            .context("the daemon does not end")??;
        Ok(())
    }
}

/// A field of a process's `status` or `smaps_rollup` in `/proc`, in bytes, without its children's.
pub(crate) fn memory_bytes(pid: u32, file: &str, field: &str) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/{file}");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let kibibytes =
        line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    Ok(kibibytes.with_context(|| format!("{path} has no field {field}"))? * 1024.0)
}
