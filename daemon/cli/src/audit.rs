//! `flotilla audit`.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::Args;
use flotilla::store::{self, AuditEntry, Snapshot, ViewError};
use serde_json::json;

use crate::{
    embed::print_json,
    state::{Place, shown},
    table,
};

#[derive(Args)]
pub(crate) struct Options {
    /// How far to look back: 30s, 15m, 1h, 2d.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = store::duration)]
    since: Duration,
    #[command(flatten)]
    place: Place,
    /// Print only JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let now = SystemTime::now();
    let since = now.checked_sub(options.since).unwrap_or(SystemTime::UNIX_EPOCH);
    let store = options.place.store();
    let (snapshot, entries) = tokio::task::spawn_blocking(move || {
        let mut snapshot = Snapshot::read(&store)?;
        let entries = snapshot.audit(since)?;
        Ok::<_, ViewError>((snapshot, entries))
    })
    .await??;
    if options.json {
        print_json(&json!({ "entries": entries, "findings": snapshot.findings() }))?;
    } else {
        let rows: Vec<Vec<String>> = entries.iter().map(|entry| row(entry, now)).collect();
        table::print(&["age", "what", "subject", "reason", "detail"], &rows);
    }
    Ok(shown(&snapshot))
}

fn row(entry: &AuditEntry, now: SystemTime) -> Vec<String> {
    // An entry of the same moment may be a little ahead.
    let age = now.duration_since(entry.time).unwrap_or_default();
    let detail = if entry.detail.is_null() { String::new() } else { entry.detail.to_string() };
    vec![
        format!("{:.1} s", age.as_secs_f64()),
        entry.what.clone(),
        entry.subject.clone(),
        entry.reason.clone(),
        detail,
    ]
}
