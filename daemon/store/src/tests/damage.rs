//! Flipped bits and torn files: what was confirmed is read correctly or reported as lost, never anything else.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use flotilla_fleet::state::{Version, Write};
use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};

use crate::{Opened, Options, RecordName, Remedy, Report, Store, Which, repair, verify};

use super::{WAIT_MAX, confirmed, critical, key, next, quiet, says, write};

/// Folders as a killed daemon and as a closed one leave them, and the values of their records.
struct Left {
    killed: PathBuf,
    closed: PathBuf,
    says: Vec<(u64, u64, String)>,
}

fn what(id: u64, version: u64) -> String {
    format!("marker-{id}-{version}-{}", "x".repeat(id as usize * 7 % 300))
}

async fn leave(dir: &Path) -> Left {
    let live = dir.join("live");
    let (store, mut opened) = Store::open(quiet(&live)).unwrap();
    let mut transaction = 0;
    let mut says = Vec::new();
    for id in 0..40 {
        for version in 1..=2 {
            transaction += 1;
            let writes = vec![write(id, version, &what(id, version))];
            store.commit(critical(transaction, writes)).unwrap();
        }
        says.push((id, 2, what(id, 2)));
        confirmed(&mut opened, transaction).await;
    }
    // Half of it is folded, half of it is in the journal.
    store.close().await.unwrap();
    let (store, mut opened) = Store::open(quiet(&live)).unwrap();
    for id in 0..20 {
        transaction += 1;
        store.commit(critical(transaction, vec![write(id, 3, &what(id, 3))])).unwrap();
        says[id as usize] = (id, 3, what(id, 3));
    }
    transaction += 1;
    let removal = Write { key: key(39), version: Version(3), value: None };
    store.commit(critical(transaction, vec![removal])).unwrap();
    says.pop();
    confirmed(&mut opened, transaction).await;
    let (killed, closed) = (dir.join("killed"), dir.join("closed"));
    copy_dir(&live, &killed);
    store.close().await.unwrap();
    copy_dir(&live, &closed);
    Left { killed, closed, says }
}

fn copy_dir(from: &Path, to: &Path) {
    let (from, to) = (from.join("state"), to.join("state"));
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        // The shared memory beside a file is recreated when the file is opened.
        if !entry.file_name().to_string_lossy().ends_with("-shm") {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Files of a store that hold bytes.
fn files(dir: &Path, start: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir.join("state"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(start))
        .filter(|path| fs::metadata(path).unwrap().len() > 0)
        .collect();
    files.sort();
    files
}

fn flip(path: &Path, seeded: &mut Xoshiro256PlusPlus) -> (u64, u8) {
    let mut bytes = fs::read(path).unwrap();
    let offset = seeded.random_range(..bytes.len() as u64);
    let bit = 1 << seeded.random_range(0..8);
    bytes[offset as usize] ^= bit;
    fs::write(path, bytes).unwrap();
    (offset, bit)
}

async fn open(dir: &Path) -> Opened {
    let (store, opened) = Store::open(quiet(dir)).unwrap();
    store.close().await.unwrap();
    opened
}

fn is_lost(report: &crate::OpenReport) -> bool {
    let lost = |remedy: &Remedy| matches!(remedy, Remedy::SetAside | Remedy::Restored { .. });
    report.findings.iter().any(|finding| lost(&finding.remedy))
}

/// Flips bits in one of the two files, or in its write-ahead log.
async fn flips_in_one(bits: usize, seed: u64, tries: u64) {
    let dir = tempfile::tempdir().unwrap();
    let left = leave(dir.path()).await;
    let mut seeded = Xoshiro256PlusPlus::seed_from_u64(seed);
    for turn in 0..tries {
        let case = dir.path().join(format!("case-{turn}"));
        let from = if turn.is_multiple_of(2) { &left.killed } else { &left.closed };
        copy_dir(from, &case);
        let name = if seeded.random() { "state.sqlite" } else { "state-copy.sqlite" };
        let files = files(&case, name);
        let flips: Vec<_> = (0..bits)
            .map(|_| {
                let path = &files[seeded.random_range(..files.len() as u64) as usize];
                (path.file_name().unwrap().to_owned(), flip(path, &mut seeded))
            })
            .collect();
        let opened = open(&case).await;
        assert_eq!(says(&opened), left.says, "turn {turn}, {flips:?}: {:?}", opened.report);
        // And when it is opened again, nothing is found.
        let again = open(&case).await;
        assert_eq!(says(&again), left.says, "turn {turn}, {flips:?}, second opening");
        assert!(again.report.findings.is_empty(), "turn {turn}, {flips:?}: {:?}", again.report);
        fs::remove_dir_all(case).unwrap();
    }
}

#[tokio::test]
async fn a_bit_that_flips_in_one_file_costs_nothing() {
    flips_in_one(1, 1, 60).await;
}

#[tokio::test]
async fn many_bits_that_flip_in_one_file_cost_nothing() {
    flips_in_one(30, 2, 30).await;
}

#[tokio::test]
async fn bits_that_flip_in_both_files_are_never_believed() {
    let dir = tempfile::tempdir().unwrap();
    let left = leave(dir.path()).await;
    let mut seeded = Xoshiro256PlusPlus::seed_from_u64(3);
    let mut with_loss = 0;
    for turn in 0..30 {
        let case = dir.path().join(format!("case-{turn}"));
        // Without logs: a log that is cut by a flipped bit looks like one that was never written further.
        copy_dir(&left.closed, &case);
        for _ in 0..20 {
            for path in [files(&case, "state.sqlite"), files(&case, "state-copy.sqlite")].concat() {
                flip(&path, &mut seeded);
            }
        }
        let opened = open(&case).await;
        let says = says(&opened);
        // Nothing is invented: each record is one that was written, and an older or missing one is reported.
        for (id, version, text) in &says {
            assert_eq!(*text, what(*id, *version), "turn {turn}");
        }
        if says != left.says {
            assert!(is_lost(&opened.report), "turn {turn}: {:?}", opened.report);
            with_loss += 1;
        }
        fs::remove_dir_all(case).unwrap();
    }
    assert!(with_loss > 0, "this many flips must cost something, or they did not happen");
}

#[tokio::test]
async fn a_torn_file_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let left = leave(dir.path()).await;
    let mut turn = 0;
    for from in [&left.killed, &left.closed] {
        for name in
            ["state.sqlite", "state.sqlite-wal", "state-copy.sqlite", "state-copy.sqlite-wal"]
        {
            let length = fs::metadata(from.join("state").join(name)).map_or(0, |meta| meta.len());
            for end in [0, 1, 100, length / 3, length / 2 + 1, length.saturating_sub(1)] {
                if end >= length {
                    continue;
                }
                turn += 1;
                let case = dir.path().join(format!("case-{turn}"));
                copy_dir(from, &case);
                let file = fs::OpenOptions::new().write(true).open(case.join("state").join(name));
                file.unwrap().set_len(end).unwrap();
                let opened = open(&case).await;
                assert_eq!(says(&opened), left.says, "{name} cut to {end}: {:?}", opened.report);
                fs::remove_dir_all(case).unwrap();
            }
        }
    }
    assert!(turn > 12, "{turn} cuts");
}

/// Changes a letter of a text wherever it is in a file.
fn spoil(path: &Path, text: &str) -> usize {
    let mut bytes = fs::read(path).unwrap();
    let places: Vec<usize> = bytes
        .windows(text.len())
        .enumerate()
        .filter(|(_, window)| *window == text.as_bytes())
        .map(|(place, _)| place)
        .collect();
    for &place in &places {
        bytes[place] ^= 1;
    }
    fs::write(path, bytes).unwrap();
    places.len()
}

async fn two_records(dir: &Path) -> Options {
    let options = quiet(dir);
    let (store, mut opened) = Store::open(options.clone()).unwrap();
    store.commit(critical(1, vec![write(1, 1, "first-marker"), write(2, 1, "second")])).unwrap();
    confirmed(&mut opened, 1).await;
    store.close().await.unwrap();
    options
}

#[tokio::test]
async fn a_record_that_is_wrong_in_one_file_is_repaired_from_the_other() {
    for which in ["state.sqlite", "state-copy.sqlite"] {
        let dir = tempfile::tempdir().unwrap();
        let options = two_records(dir.path()).await;
        assert!(spoil(&options.dir.join(which), "first-marker") > 0);
        assert!(!verify(&options).unwrap().is_sound());
        let report = repair(&options).unwrap();
        assert_eq!(report.findings.len(), 1, "{report:?}");
        assert_eq!(report.findings[0].file.to_string(), which);
        assert_eq!(report.findings[0].remedy, Remedy::Repaired);
        assert_eq!(report.findings[0].record, Some(RecordName(key(1))));
        assert!(verify(&options).unwrap().is_sound());
        assert_eq!(says(&open(dir.path()).await).len(), 2);
    }
}

#[tokio::test]
async fn a_record_that_is_wrong_in_both_files_is_set_aside_and_the_rest_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let options = two_records(dir.path()).await;
    assert!(spoil(&options.dir.join("state.sqlite"), "first-marker") > 0);
    assert!(spoil(&options.dir.join("state-copy.sqlite"), "first-marker") > 0);
    let (store, mut opened) = Store::open(options.clone()).unwrap();
    assert_eq!(says(&opened), super::said(&[(2, 1, "second")]));
    let aside: Vec<Option<RecordName>> = opened
        .report
        .findings
        .iter()
        .filter(|finding| finding.remedy == Remedy::SetAside)
        .map(|finding| finding.record)
        .collect();
    assert_eq!(aside, [Some(RecordName(key(1)))], "{:?}", opened.report);
    // The store works on, and that record can be written again.
    store.commit(critical(2, vec![write(1, 1, "anew")])).unwrap();
    confirmed(&mut opened, 2).await;
    store.close().await.unwrap();
    let opened = open(dir.path()).await;
    assert_eq!(says(&opened), super::said(&[(1, 1, "anew"), (2, 1, "second")]));
    assert!(opened.report.findings.is_empty(), "{:?}", opened.report);
}

#[tokio::test]
async fn the_background_verification_repairs_what_it_finds() {
    for (which, name) in [(Which::First, "state.sqlite"), (Which::Copy, "state-copy.sqlite")] {
        let dir = tempfile::tempdir().unwrap();
        let options =
            Options { verify_interval: Duration::from_millis(20), ..two_records(dir.path()).await };
        let (store, mut opened) = Store::open(options.clone()).unwrap();
        assert!(spoil(&options.dir.join(name), "first-marker") > 0);
        let Report::Found(finding) = next(&mut opened).await else { panic!("nothing was found") };
        assert_eq!((finding.file, &finding.remedy), (which, &Remedy::Repaired));
        let before = store.health().verified;
        let mut health = store.health_changes();
        let twice = health.wait_for(|health| health.verified > before + 1);
        tokio::time::timeout(WAIT_MAX, twice).await.unwrap().unwrap();
        assert_eq!(store.health().findings, 1);
        store.close().await.unwrap();
        assert!(verify(&options).unwrap().is_sound());
    }
}

#[tokio::test]
async fn the_background_verification_sets_aside_what_has_no_copy() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        verify_interval: Duration::from_millis(20),
        copy_dir: None,
        ..two_records(dir.path()).await
    };
    let (store, mut opened) = Store::open(options.clone()).unwrap();
    assert!(spoil(&options.dir.join("state.sqlite"), "first-marker") > 0);
    let Report::Found(finding) = next(&mut opened).await else { panic!("nothing was found") };
    assert_eq!(finding.remedy, Remedy::SetAside);
    assert_eq!(finding.record, Some(RecordName(key(1))));
    store.close().await.unwrap();
    let (_store, opened) = Store::open(options).unwrap();
    assert_eq!(says(&opened), super::said(&[(2, 1, "second")]));
}
