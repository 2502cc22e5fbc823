//! The process is killed at every step of commits and checkpoints, and the store opened again.

use std::{
    io::Write as _,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Command, Stdio},
};

use flotilla_fleet::state::Durability;

use crate::{Options, Store, crash::Step, verify};

use super::{confirmed, quiet, says, transaction, write};

/// Environment variable with the folder of the child's store.
const DIR: &str = "FLOTILLA_STORE_TEST_DIR";
/// Pairs of records that the child writes in turn.
const PAIRS: u64 = 5;
/// Transactions of a child that nothing kills.
const COUNT: u64 = 60;

/// Of each two transactions the second is critical.
fn is_critical(id: u64) -> bool {
    id.is_multiple_of(2)
}

#[tokio::test]
#[ignore = "the process that the crash tests start and kill"]
async fn child() {
    let dir = PathBuf::from(std::env::var_os(DIR).expect("the crash tests name a folder"));
    // Folded often, so that checkpoints are reached as well.
    let options = Options { journal_rows_max: 24, ..quiet(&dir) };
    let (store, mut opened) = Store::open(options).unwrap();
    for id in 1..=COUNT {
        let durability = if is_critical(id) { Durability::Critical } else { Durability::Relaxed };
        let (pair, version, what) = (id % PAIRS, id / PAIRS + 1, id.to_string());
        let writes = vec![write(pair, version, &what), write(100 + pair, version, &what)];
        store.commit(transaction(id, durability, writes)).unwrap();
        confirmed(&mut opened, id).await;
        let mut out = std::io::stdout().lock();
        writeln!(out, "confirmed {id}").unwrap();
        out.flush().unwrap();
    }
    store.close().await.unwrap();
}

/// Runs the child until it is killed at the n-th time of a step, and looks at what it left.
fn check(step: Step, count: u32) {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::crashes::child", "--ignored", "--nocapture"])
        .env(DIR, dir.path())
        .env("FLOTILLA_CRASH_AT", format!("{}:{count}", step.name()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let context = format!("{}:{count}", step.name());
    assert_eq!(output.status.signal(), Some(9), "{context}: the crash must happen: {output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let last = |is_counted: fn(u64) -> bool| {
        let ids = printed.lines().filter_map(|line| line.split("confirmed ").nth(1)?.parse().ok());
        ids.filter(|&id: &u64| is_counted(id)).max().unwrap_or(0)
    };
    let (last_critical, last_printed) = (last(is_critical), last(|_| true));

    let (store, opened) = Store::open(quiet(dir.path())).unwrap();
    assert!(opened.report.findings.is_empty(), "{context}: {:?}", opened.report);
    let records = says(&opened);
    let written: u64 = records.iter().map(|(.., what)| what.parse().unwrap()).max().unwrap_or(0);
    assert!(
        written >= last_critical,
        "{context}: {last_critical} was confirmed, {written} is there"
    );
    assert!(written <= last_printed + 2, "{context}: nobody asked for {written} yet");
    // Exactly the transactions up to the last one, each whole.
    let mut expected = Vec::new();
    for side in [0, 100] {
        for pair in 0..PAIRS {
            if let Some(id) = (1..=written).rev().find(|id| id % PAIRS == pair) {
                expected.push((side + pair, id / PAIRS + 1, id.to_string()));
            }
        }
    }
    assert_eq!(records, expected, "{context}");
    assert_eq!(opened.transactions, written, "{context}");
    drop((store, opened));
    // The handle's drop closes the store; until then its lock is held.
    let verified = verify(&quiet(dir.path())).unwrap();
    assert!(verified.is_sound(), "{context}: {verified:?}");
}

#[test]
fn a_commit_is_whole_or_absent_wherever_the_process_dies() {
    for step in Step::ALL {
        let counts = match step {
            Step::BeforeCheckpoint | Step::AmidCheckpoint => [1, 2, 3],
            Step::BeforeBegin
            | Step::AfterBegin
            | Step::AfterChanges
            | Step::BeforeCommit
            | Step::AfterCommit
            | Step::AfterCopy
            | Step::BeforeConfirm => [1, 4, 13],
        };
        for count in counts {
            check(step, count);
        }
    }
}
