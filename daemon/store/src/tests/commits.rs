//! Commits that go well, and those that find no space.

use std::time::Duration;

use flotilla_fleet::state::{TransactionId, Version, Write};

use crate::{
    AskError, AuditEntry, CopyHealth, LockError, OpenError, Options, RecoveryEntry, Remedy, Report,
    Snapshot, Store, SubmitError, Which, verify, writer::Command,
};

use super::{WAIT_MAX, confirmed, critical, key, next, quiet, relaxed, said, says, write};

#[tokio::test]
async fn committed_records_are_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut opened) = Store::open(quiet(dir.path())).unwrap();
    assert!(opened.records.is_empty());
    assert_eq!(opened.transactions, 0);
    store.commit(critical(1, vec![write(1, 1, "a"), write(2, 1, "b")])).unwrap();
    store.commit(critical(2, vec![write(1, 2, "c")])).unwrap();
    let removal = Write { key: key(2), version: Version(2), value: None };
    store.commit(critical(3, vec![removal])).unwrap();
    confirmed(&mut opened, 3).await;
    store.close().await.unwrap();
    assert_eq!(store.commit(critical(4, vec![])), Err(SubmitError::Closed));

    let (_store, opened) = Store::open(quiet(dir.path())).unwrap();
    assert_eq!(says(&opened), said(&[(1, 2, "c")]));
    assert_eq!(opened.transactions, 3);
    assert!(opened.report.findings.is_empty(), "{:?}", opened.report);
}

#[tokio::test]
async fn a_new_record_under_a_removed_key_may_have_a_lower_version() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut opened) = Store::open(quiet(dir.path())).unwrap();
    store.commit(critical(1, vec![write(1, 7, "old")])).unwrap();
    let removal = Write { key: key(1), version: Version(8), value: None };
    store.commit(critical(2, vec![removal])).unwrap();
    confirmed(&mut opened, 2).await;
    store.close().await.unwrap();
    // A core that has just started counts versions from the beginning.
    let (store, mut opened) = Store::open(quiet(dir.path())).unwrap();
    store.commit(critical(3, vec![write(1, 1, "new")])).unwrap();
    confirmed(&mut opened, 3).await;
    store.close().await.unwrap();
    let (_store, opened) = Store::open(quiet(dir.path())).unwrap();
    assert_eq!(says(&opened), said(&[(1, 1, "new")]));
}

#[tokio::test]
async fn relaxed_transactions_are_confirmed_at_once_and_written_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { sync_interval: Duration::from_millis(20), ..quiet(dir.path()) };
    let (store, mut opened) = Store::open(options.clone()).unwrap();
    let mut health = store.health_changes();
    store.commit(relaxed(1, vec![write(1, 1, "a")])).unwrap();
    confirmed(&mut opened, 1).await;
    let written = health.wait_for(|health| health.transactions == 1);
    tokio::time::timeout(WAIT_MAX, written).await.unwrap().unwrap();
    // What another process sees is on disk.
    let snapshot = Snapshot::read(&options).unwrap();
    assert_eq!(snapshot.records(None).len(), 1);
}

#[tokio::test]
async fn relaxed_transactions_are_written_with_the_next_critical_one() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut opened) = Store::open(quiet(dir.path())).unwrap();
    store.commit(relaxed(1, vec![write(1, 1, "a")])).unwrap();
    confirmed(&mut opened, 1).await;
    assert_eq!(Snapshot::read(&quiet(dir.path())).unwrap().records(None).len(), 0);
    store.commit(critical(2, vec![write(2, 1, "b")])).unwrap();
    confirmed(&mut opened, 2).await;
    assert_eq!(Snapshot::read(&quiet(dir.path())).unwrap().records(None).len(), 2);
}

#[tokio::test]
async fn transactions_that_wait_together_share_a_write() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut opened) = Store::open(quiet(dir.path())).unwrap();
    const COUNT: u64 = 200;
    for id in 1..=COUNT {
        store.commit(critical(id, vec![write(id, 1, "a")])).unwrap();
    }
    confirmed(&mut opened, COUNT).await;
    store.close().await.unwrap();
    let health = store.health();
    assert_eq!(health.transactions, COUNT);
    assert!(health.groups < COUNT / 2, "{} writes for {COUNT} transactions", health.groups);
}

#[tokio::test]
async fn the_journal_is_folded_when_it_is_long() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { journal_rows_max: 10, ..quiet(dir.path()) };
    let (store, mut opened) = Store::open(options.clone()).unwrap();
    for version in 1..=50 {
        store.commit(critical(version, vec![write(1, version, "a")])).unwrap();
        confirmed(&mut opened, version).await;
    }
    assert!(store.health().journal_rows <= 12, "{:?}", store.health());
    let records = Snapshot::read(&options).unwrap().records(None);
    assert_eq!(records[0].version, Version(50));
    store.close().await.unwrap();
    let (_store, opened) = Store::open(options).unwrap();
    assert_eq!(says(&opened), said(&[(1, 50, "a")]));
}

#[tokio::test]
async fn a_full_disk_fails_a_commit_as_a_whole_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let pages = 64;
    let options = Options { pages_max: Some(pages), ..quiet(dir.path()) };
    let (store, mut opened) = Store::open(options.clone()).unwrap();
    let large = "x".repeat(40_000);
    let (mut id, mut kept) = (0, 0);
    let reason = loop {
        id += 1;
        store.commit(critical(id, vec![write(id, 1, &large), write(1000 + id, 1, "b")])).unwrap();
        match next(&mut opened).await {
            Report::Committed(_) => kept = id,
            Report::CommitFailed { transaction, reason } => {
                assert_eq!(transaction, TransactionId(id));
                break reason;
            }
            other => panic!("{other:?}"),
        }
        assert!(id < 100, "64 pages cannot hold this much");
    };
    assert!(reason.contains("no space is left"), "{reason}");
    assert!(kept > 0);
    assert!(store.flush().await.is_ok(), "nothing waits, so nothing fails");
    // Nothing of the failed one is there, and there is room for it again.
    let ids = |records: Vec<crate::RecordView>| -> Vec<u64> {
        records.iter().map(|record| record.id).filter(|&id| id < 1000).collect()
    };
    let expected: Vec<u64> = (1..=kept).collect();
    assert_eq!(ids(Snapshot::read(&options).unwrap().records(None)), expected);
    store.submit(Command::LimitPages(pages * 4)).unwrap();
    store.commit(critical(id + 1, vec![write(id, 1, &large)])).unwrap();
    confirmed(&mut opened, id + 1).await;
    store.close().await.unwrap();
    let (_store, opened) = Store::open(Options { pages_max: None, ..options }).unwrap();
    assert_eq!(opened.records.len() as u64, 2 * kept + 1);
    assert!(opened.report.findings.is_empty(), "{:?}", opened.report);
}

#[tokio::test]
async fn a_copy_that_cannot_be_written_stops_nothing_and_catches_up() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other");
    let options = Options {
        copy_dir: Some(other.clone()),
        copy_retry_interval: Duration::from_millis(20),
        ..quiet(dir.path())
    };
    // A file where the copy's folder should be.
    std::fs::write(&other, "in the way").unwrap();
    let (store, mut opened) = Store::open(options.clone()).unwrap();
    assert!(matches!(store.health().copy, CopyHealth::Behind { .. }), "{:?}", store.health());
    store.commit(critical(1, vec![write(1, 1, "a")])).unwrap();
    confirmed(&mut opened, 1).await;
    std::fs::remove_file(&other).unwrap();
    let mut health = store.health_changes();
    let in_step = health.wait_for(|health| health.copy == CopyHealth::InStep);
    tokio::time::timeout(WAIT_MAX, in_step).await.unwrap().unwrap();
    assert_eq!(next(&mut opened).await, Report::CopyInStep);
    store.commit(critical(2, vec![write(2, 1, "b")])).unwrap();
    confirmed(&mut opened, 2).await;
    store.close().await.unwrap();
    // The copy alone is the whole state.
    std::fs::remove_file(options.dir.join("state.sqlite")).unwrap();
    let (_store, opened) = Store::open(options).unwrap();
    assert_eq!(says(&opened), said(&[(1, 1, "a"), (2, 1, "b")]));
    assert_eq!(opened.report.findings[0].remedy, Remedy::Repaired);
}

#[tokio::test]
async fn an_outdated_copy_restores_no_removed_record() {
    let dir = tempfile::tempdir().unwrap();
    let both = quiet(dir.path());
    let alone = Options { copy_dir: None, ..both.clone() };
    let (store, mut opened) = Store::open(both.clone()).unwrap();
    store.commit(critical(1, vec![write(1, 1, "a"), write(2, 1, "b")])).unwrap();
    confirmed(&mut opened, 1).await;
    store.close().await.unwrap();
    let (store, mut opened) = Store::open(alone.clone()).unwrap();
    let removal = Write { key: key(1), version: Version(2), value: None };
    store.commit(critical(2, vec![removal, write(2, 2, "c")])).unwrap();
    confirmed(&mut opened, 2).await;
    store.close().await.unwrap();
    let (_store, opened) = Store::open(both).unwrap();
    assert_eq!(says(&opened), said(&[(2, 2, "c")]));
}

#[tokio::test]
async fn a_newer_copy_replaces_an_older_first_file() {
    let dir = tempfile::tempdir().unwrap();
    let options = quiet(dir.path());
    let first = options.dir.join("state.sqlite");
    let old = dir.path().join("old.sqlite");
    let (store, mut opened) = Store::open(options.clone()).unwrap();
    store.commit(critical(1, vec![write(1, 1, "a")])).unwrap();
    confirmed(&mut opened, 1).await;
    store.close().await.unwrap();
    std::fs::copy(&first, &old).unwrap();
    let (store, mut opened) = Store::open(options.clone()).unwrap();
    store.commit(critical(2, vec![write(1, 2, "b")])).unwrap();
    confirmed(&mut opened, 2).await;
    store.close().await.unwrap();
    std::fs::copy(&old, &first).unwrap();
    let (_store, opened) = Store::open(options).unwrap();
    assert_eq!(says(&opened), said(&[(1, 2, "b")]));
    assert_eq!(opened.transactions, 2);
    assert!(!opened.report.findings.is_empty());
}

#[tokio::test]
async fn two_daemons_do_not_share_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _opened) = Store::open(quiet(dir.path())).unwrap();
    match Store::open(quiet(dir.path())) {
        Err(OpenError::Lock(error @ LockError::Held { pid, .. })) => {
            assert_eq!(pid, Some(std::process::id()));
            assert!(error.to_string().contains(&format!("process {}", std::process::id())));
        }
        other => panic!("{other:?}"),
    }
    store.close().await.unwrap();
    assert!(Store::open(quiet(dir.path())).is_ok());
}

#[tokio::test]
async fn a_newer_schema_is_refused_with_both_versions() {
    let dir = tempfile::tempdir().unwrap();
    let options = quiet(dir.path());
    let (store, _opened) = Store::open(options.clone()).unwrap();
    store.close().await.unwrap();
    let mut file = crate::file::File::open(&options.dir.join("state.sqlite")).unwrap();
    let newer = crate::file::meta_row("schema", rusqlite::types::Value::Integer(99));
    file.write(&[crate::row::Change::Put(newer)]).unwrap();
    file.close().unwrap();
    let error = Store::open(options).unwrap_err();
    assert!(error.to_string().contains("has schema 99; this program knows up to 1"), "{error}");
}

#[tokio::test]
async fn the_copy_of_another_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Some(dir.path().join("shared"));
    let options =
        |home: &str| Options { copy_dir: shared.clone(), ..quiet(&dir.path().join(home)) };
    let (store, _opened) = Store::open(options("one")).unwrap();
    store.close().await.unwrap();
    let (store, _opened) = Store::open(Options { copy_dir: None, ..options("two") }).unwrap();
    store.close().await.unwrap();
    let error = Store::open(options("two")).unwrap_err();
    assert!(error.to_string().contains("belongs to another store"), "{error}");
}

#[tokio::test]
async fn audit_and_recoveries_are_kept_for_their_time() {
    let dir = tempfile::tempdir().unwrap();
    let options = quiet(dir.path());
    let (store, _opened) = Store::open(options.clone()).unwrap();
    let now = std::time::SystemTime::now();
    let hour = Duration::from_secs(3600);
    let entry = |time, what: &str| AuditEntry {
        time,
        what: what.to_owned(),
        subject: "browser 3".to_owned(),
        reason: "it hung".to_owned(),
        detail: serde_json::json!({ "pid": 17 }),
    };
    store.audit(entry(now - 30 * 24 * hour, "acquire")).unwrap();
    store.audit(entry(now - 2 * hour, "release")).unwrap();
    store.audit(entry(now, "kill")).unwrap();
    let recovery = RecoveryEntry {
        time: now,
        failure: "device_lost".to_owned(),
        browser: 3,
        what: "migrate".to_owned(),
        took: Duration::from_millis(12),
        succeeded: true,
    };
    store.recovery(recovery).unwrap();
    store.flush().await.unwrap();
    let mut snapshot = Snapshot::read(&options).unwrap();
    let mut whats = |since| -> Vec<String> {
        snapshot.audit(since).unwrap().into_iter().map(|entry| entry.what).collect()
    };
    assert_eq!(whats(now - hour), ["kill"]);
    assert_eq!(whats(now - 3 * hour), ["release", "kill"]);
    let recoveries = snapshot.recoveries(now - hour).unwrap();
    assert_eq!(recoveries.len(), 1);
    assert_eq!((recoveries[0].browser, recoveries[0].succeeded), (3, true));
    drop(snapshot);
    store.close().await.unwrap();
    // The first thing that an opened store does is to forget what is too old.
    let (store, _opened) = Store::open(options.clone()).unwrap();
    store.close().await.unwrap();
    let all = Snapshot::read(&options).unwrap().audit(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(all.len(), 2);
}

#[tokio::test]
async fn a_running_store_can_be_read_and_verified() {
    let dir = tempfile::tempdir().unwrap();
    let options = quiet(dir.path());
    let (store, mut opened) = Store::open(options.clone()).unwrap();
    store.commit(critical(1, vec![write(1, 1, "a")])).unwrap();
    confirmed(&mut opened, 1).await;
    let verified = verify(&options).unwrap();
    assert!(verified.in_use && verified.is_sound(), "{verified:?}");
    assert_eq!(
        verified.files.iter().map(|f| f.file).collect::<Vec<_>>(),
        [Which::First, Which::Copy]
    );
    assert!(matches!(crate::repair(&options), Err(OpenError::Lock(LockError::Held { .. }))));
    store.close().await.unwrap();
    let verified = verify(&options).unwrap();
    assert!(!verified.in_use && verified.is_sound(), "{verified:?}");
    assert_eq!(store.flush().await, Err(AskError::Submit(SubmitError::Closed)));
}
