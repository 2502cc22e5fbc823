//! The store's guarantees, under crashes, flipped bits, torn files and a full disk.

mod commits;
mod crashes;
mod damage;
mod jobs;

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use flotilla_fleet::{
    ModelId,
    state::{
        Durability, Key, Outcome, Partition, Transaction, TransactionId, Value, Version, Write,
    },
};
use flotilla_protocol::RequestId;

use crate::{Commit, Job, JobId, Opened, Options, Payload, Report};

/// Longest wait for anything, after which a test fails.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Options under which nothing happens by itself while a test runs.
fn quiet(dir: &Path) -> Options {
    Options {
        sync_interval: Duration::from_secs(3600),
        verify_interval: Duration::from_secs(3600),
        copy_retry_interval: Duration::from_secs(3600),
        ..Options::of(dir)
    }
}

fn key(id: u64) -> Key {
    Key { partition: Partition::Browsers, id }
}

/// A record with the value `what`.
fn value(what: &str) -> Value {
    Value::Browser {
        browser: None,
        kind: "chrome".to_owned(),
        state: what.to_owned(),
        failed_starts: 0,
        last_failure: None,
    }
}

fn write(id: u64, version: u64, what: &str) -> Write {
    Write { key: key(id), version: Version(version), value: Some(value(what)) }
}

fn transaction(id: u64, durability: Durability, writes: Vec<Write>) -> Commit {
    let transaction = Transaction { id: TransactionId(id), durability, writes };
    Commit { transaction, payloads: Vec::new() }
}

fn critical(id: u64, writes: Vec<Write>) -> Commit {
    transaction(id, Durability::Critical, writes)
}

fn relaxed(id: u64, writes: Vec<Write>) -> Commit {
    transaction(id, Durability::Relaxed, writes)
}

/// A transaction that makes or ends a request.
fn request(id: u64, request: u64, outcome: Option<Outcome>, payloads: Vec<Payload>) -> Commit {
    let version = Version(1 + u64::from(outcome.is_some()));
    let value =
        Value::Request { model: ModelId(0), rows: 1, length: 4, tried: Vec::new(), outcome };
    let write = Write { key: Key::request(RequestId(request)), version, value: Some(value) };
    Commit { payloads, ..critical(id, vec![write]) }
}

fn job(id: &str, idempotency_key: Option<&str>, asked: &str, lives: Duration) -> Job {
    let now = SystemTime::now();
    Job {
        id: JobId(id.to_owned()),
        idempotency_key: idempotency_key.map(str::to_owned),
        body_hash: *blake3::hash(asked.as_bytes()).as_bytes(),
        model: "tiny".to_owned(),
        created: now,
        expires: now + lives,
        requests: 1,
        answer: "{}".to_owned(),
    }
}

async fn next(opened: &mut Opened) -> Report {
    tokio::time::timeout(WAIT_MAX, opened.reports.recv())
        .await
        .expect("the store reports in time")
        .expect("the store is open")
}

/// Waits for a transaction to be confirmed.
async fn confirmed(opened: &mut Opened, id: u64) {
    loop {
        match next(opened).await {
            Report::Committed(transaction) if transaction == TransactionId(id) => return,
            Report::CommitFailed { transaction, reason } => {
                panic!("{transaction} failed: {reason}")
            }
            Report::Committed(_)
            | Report::Found(_)
            | Report::Expired(_)
            | Report::CopyBehind(_)
            | Report::CopyInStep => {}
        }
    }
}

/// Values of a store's records, by number.
fn says(opened: &Opened) -> Vec<(u64, u64, String)> {
    opened
        .records
        .iter()
        .map(|(key, version, value)| {
            let Value::Browser { state, .. } = value else {
                panic!("{key} is not a record of these tests")
            };
            (key.id, version.0, state.clone())
        })
        .collect()
}

fn said(records: &[(u64, u64, &str)]) -> Vec<(u64, u64, String)> {
    records.iter().map(|&(id, version, what)| (id, version, what.to_owned())).collect()
}
