//! Runs external programs that fetch: they use the TLS, proxies and certificates that are configured on the machine.

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{MissedTickBehavior, interval};

use super::PullError;

/// How often the bytes on disk are counted while a program runs.
const COUNT_EVERY: Duration = Duration::from_millis(100);

/// A program's name and how to get it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) remedy: &'static str,
}

/// Runs `command` to its end and reports what `arrived` counts meanwhile. Dropping the future ends the program.
pub(super) async fn run(
    program: Program,
    mut command: Command,
    arrived: impl Fn() -> u64,
    total: impl Fn() -> Option<u64>,
    progress: &dyn Fn(u64, Option<u64>),
) -> Result<Output, PullError> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let started = command.spawn();
    let child = started.map_err(|source| PullError::Program {
        program: program.name,
        remedy: program.remedy,
        source,
    })?;
    let mut ended = std::pin::pin!(child.wait_with_output());
    let mut ticks = interval(COUNT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let output = loop {
        tokio::select! {
            output = &mut ended => break output,
            _ = ticks.tick() => progress(arrived(), total()),
        }
    };
    output.map_err(|source| PullError::Program {
        program: program.name,
        remedy: program.remedy,
        source,
    })
}

/// The last line that is not empty; programs print their error last.
pub(super) fn last_line(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    line.unwrap_or("it printed no message").to_owned()
}

/// The bytes of all files below `folder`; files that vanish meanwhile count as 0.
pub(super) fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    bytes.sum()
}
