//! `flotilla state`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use flotilla::store::{self, Options as StoreOptions, Snapshot};
use flotilla_fleet::state::Partition;
use serde_json::json;

use crate::{embed::print_json, table};

/// Most characters of a record's body in a table.
const BODY_MAX: usize = 120;

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    place: Place,
    /// Print only JSON.
    #[arg(long, global = true)]
    json: bool,
}

/// Where the daemon keeps its state; the same options as the daemon's.
#[derive(Args)]
pub(crate) struct Place {
    /// Folder of the second copy of the state, if the daemon has that option.
    #[arg(long, value_name = "DIR", env = "FLOTILLA_STATE_COPY", global = true)]
    state_copy: Option<PathBuf>,
    /// 1 if the daemon keeps a single copy.
    #[arg(long, value_name = "N", env = "FLOTILLA_REDUNDANCY_FACTOR", global = true)]
    redundancy_factor: Option<u32>,
}

impl Place {
    pub(crate) fn store(self) -> StoreOptions {
        StoreOptions::of(&flotilla::browser::home_dir())
            .with_copies(self.state_copy, self.redundancy_factor)
    }
}

#[derive(Subcommand)]
enum Command {
    /// Check every row of both files; exit code 1 if something is wrong. Changes nothing, and a daemon may be running.
    Verify,
    /// Show records; a daemon may be running.
    Show {
        /// Only those of this partition.
        #[arg(value_parser = partition)]
        partition: Option<Partition>,
    },
    /// Repair what can be repaired and set the rest aside, as a daemon does when it starts. None may be running.
    Repair,
}

fn partition(name: &str) -> Result<Partition, String> {
    Partition::named(name).ok_or_else(|| {
        let names: Vec<&str> = Partition::ALL.into_iter().map(Partition::name).collect();
        format!("{name:?} is not a partition; they are {}", names.join(", "))
    })
}

pub(crate) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let store = options.place.store();
    // Reading and writing files blocks, so it is not done on the runtime's threads.
    tokio::task::spawn_blocking(move || match options.command {
        Command::Verify => verify(&store, options.json),
        Command::Show { partition } => show(&store, partition, options.json),
        Command::Repair => repair(&store, options.json),
    })
    .await?
}

#[expect(clippy::print_stdout, reason = "a command's result")]
fn verify(store: &StoreOptions, as_json: bool) -> anyhow::Result<ExitCode> {
    let verified = store::verify(store)?;
    let is_sound = verified.is_sound();
    if as_json {
        print_json(&json!({
            "sound": is_sound,
            "in_use": verified.in_use,
            "files": verified.files,
        }))?;
    } else {
        let rows: Vec<Vec<String>> = verified
            .files
            .iter()
            .map(|file| {
                vec![
                    file.path.display().to_string(),
                    file.sound_rows.to_string(),
                    file.rows_behind.to_string(),
                    file.findings.len().to_string(),
                ]
            })
            .collect();
        table::print(&["file", "sound rows", "rows behind", "findings"], &rows);
        for finding in verified.files.iter().flat_map(|file| &file.findings) {
            println!("{finding}");
        }
    }
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(
    store: &StoreOptions,
    partition: Option<Partition>,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let snapshot = Snapshot::read(store)?;
    let records = snapshot.records(partition);
    if as_json {
        print_json(&json!({
            "file": snapshot.path(),
            "records": records,
            "findings": snapshot.findings(),
        }))?;
    } else {
        let rows: Vec<Vec<String>> = records
            .iter()
            .map(|record| {
                let body = record.body.to_string();
                let mut cut: String = body.chars().take(BODY_MAX).collect();
                if cut.len() < body.len() {
                    cut.push('…');
                }
                vec![
                    record.partition.name().to_owned(),
                    record.id.to_string(),
                    record.version.0.to_string(),
                    record.transaction.0.to_string(),
                    cut,
                ]
            })
            .collect();
        table::print(&["partition", "id", "version", "transaction", "record"], &rows);
    }
    Ok(shown(&snapshot))
}

/// Reports what could not be shown.
pub(crate) fn shown(snapshot: &Snapshot) -> ExitCode {
    for finding in snapshot.findings() {
        eprintln!("flotilla: not shown: {finding}");
    }
    if snapshot.findings().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[expect(clippy::print_stdout, reason = "a command's result")]
fn repair(store: &StoreOptions, as_json: bool) -> anyhow::Result<ExitCode> {
    let report = store::repair(store)?;
    if as_json {
        print_json(&json!({
            "rolled_back": report.rolled_back,
            "findings": report.findings,
        }))?;
    } else {
        for finding in &report.findings {
            println!("{finding}");
        }
        for transaction in &report.rolled_back {
            println!("{transaction} was rolled back: it had not been committed");
        }
        if report.findings.is_empty() && report.rolled_back.is_empty() {
            println!("nothing was wrong");
        }
    }
    Ok(ExitCode::SUCCESS)
}
