//! Recovery at opening: brings both files to one sound state, whatever their condition.
//!
//! Rows that verify in either file are joined, the newer version of a record winning; what verifies in neither is set aside.
//! A file whose structure is damaged is made anew from all that could be read, and kept under another name. Then the journal is
//! folded into the records, so that a store always begins with an empty one.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use flotilla_fleet::state::{Key, TransactionId, Value, Version};
use rusqlite::types::Value as Cell;

use crate::{
    file::{self, File, FileError, Image, SCHEMA, meta_row},
    files::{
        Copy, Files, Paths, Purpose, bad_row, copy_from, new_beside, refused, replace_keeping,
        set_aside_row,
    },
    journal::{self, Folded, Stored, number},
    report::{Finding, OpenReport, RecordName, Remedy, Which},
    row::{Change, Found, Row, Table},
};

/// Rows that are written before the next ones are read.
const CHUNK: usize = 512;

/// Why the files could not be made one state.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum RecoverError {
    #[error("{} has schema {schema}; this program knows up to {known}: use a newer one", .path.display())]
    Newer { path: PathBuf, schema: i64, known: i64 },
    #[error("{} belongs to another store: move it away or choose another folder for the copy", .path.display())]
    Foreign { path: PathBuf },
    #[error("{}: {reason}", .path.display())]
    Unusable { path: PathBuf, reason: String },
}

/// Records as the fleet takes them.
type Values = Vec<(Key, Version, Value)>;

/// Both files, sound and in step, and their contents.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) files: Files,
    pub(crate) records: Values,
    pub(crate) transactions: u64,
    pub(crate) report: OpenReport,
}

/// What is at a path.
enum Examined {
    Absent,
    Broken(String),
    Read(Box<(File, Image)>),
}

fn examine(path: &Path) -> Result<Examined, FileError> {
    if !path.exists() {
        return Ok(Examined::Absent);
    }
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(FileError::Damaged(reason)) => return Ok(Examined::Broken(reason)),
        Err(error @ (FileError::Full(_) | FileError::Refused(_))) => return Err(error),
    };
    match file.is_empty() {
        // A daemon that was killed before it wrote anything leaves an empty file.
        Ok(true) => {
            file.close()?;
            Ok(Examined::Absent)
        }
        Ok(false) => {
            let image = file.image();
            Ok(Examined::Read(Box::new((file, image))))
        }
        Err(error) => Ok(Examined::Broken(error.to_string())),
    }
}

/// Brings both files to one sound state.
pub(crate) fn recover(paths: &Paths, pages_max: Option<u32>) -> Result<Recovered, RecoverError> {
    let unusable = |path: &Path, error: &dyn std::fmt::Display| RecoverError::Unusable {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let mut report = OpenReport::default();
    let first = examine(&paths.first).map_err(|error| unusable(&paths.first, &error))?;
    refuse_newer(&paths.first, &first)?;
    // A copy that cannot be read is as good as none: the first file is there.
    let second = match &paths.copy {
        Some(path) => examine(path).unwrap_or_else(|error| Examined::Broken(error.to_string())),
        None => Examined::Absent,
    };
    if let Some(path) = &paths.copy {
        refuse_newer(path, &second)?;
    }
    let standing = standing(paths, &first, &second)?;
    let (file, image, identity) = sound_first(paths, first, &second, standing, &mut report)
        .map_err(|error| unusable(&paths.first, &error))?;
    if let Some(pages) = pages_max {
        file.limit_pages(pages).map_err(|error| unusable(&paths.first, &error))?;
    }
    let copy = sound_copy(paths, &file, &image, second, standing, &mut report);
    let mut files = Files::new(paths.clone(), file, copy, identity.generation);
    let (folded, values) = fold(&mut files, &identity, image.meta.transactions, &mut report)
        .map_err(|error| unusable(&paths.first, &error))?;
    report.rolled_back = folded.rolled_back;
    Ok(Recovered { files, records: values, transactions: folded.transactions, report })
}

fn refuse_newer(path: &Path, examined: &Examined) -> Result<(), RecoverError> {
    let Examined::Read(read) = examined else { return Ok(()) };
    match read.1.meta.schema {
        Some(schema) if schema > SCHEMA => {
            Err(RecoverError::Newer { path: path.to_owned(), schema, known: SCHEMA })
        }
        Some(_) | None => Ok(()),
    }
}

/// How the two files relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Either may have what the other lacks.
    Equal,
    /// The first went on without the copy, or there is none to use.
    FirstAhead,
    /// The first is older than the copy, for example restored from a backup, or it is missing.
    CopyAhead,
}

fn standing(paths: &Paths, first: &Examined, second: &Examined) -> Result<Standing, RecoverError> {
    let Examined::Read(copy) = second else { return Ok(Standing::FirstAhead) };
    let copy = &copy.1.meta;
    let Examined::Read(first) = first else { return Ok(Standing::CopyAhead) };
    let first = &first.1.meta;
    if let (Some(store), Some(theirs), Some(path)) = (&first.store, &copy.store, &paths.copy)
        && store != theirs
    {
        return Err(RecoverError::Foreign { path: path.clone() });
    }
    Ok(match (first.generation, copy.generation) {
        (Some(first), Some(copy)) if first > copy => Standing::FirstAhead,
        (Some(first), Some(copy)) if first < copy => Standing::CopyAhead,
        // A generation that cannot be read comes from a damaged page; the rest of that file may well be the newest.
        (Some(_), Some(_)) | (None, _) | (_, None) => Standing::Equal,
    })
}

/// The first file with all good rows of both and no bad one.
fn sound_first(
    paths: &Paths,
    first: Examined,
    second: &Examined,
    standing: Standing,
    report: &mut OpenReport,
) -> Result<(File, Image, Identity), FileError> {
    let source = match (second, standing) {
        (Examined::Read(read), Standing::Equal | Standing::CopyAhead) => Some(&**read),
        (Examined::Read(_), Standing::FirstAhead) | (Examined::Absent | Examined::Broken(_), _) => {
            None
        }
    };
    let meta = |examined: &Examined| match examined {
        Examined::Read(read) => read.1.meta.clone(),
        Examined::Absent | Examined::Broken(_) => file::Meta::default(),
    };
    let (ours, theirs) = (meta(&first), source.map(|read| read.1.meta.clone()).unwrap_or_default());
    let identity = Identity {
        store: ours.store.or(theirs.store).unwrap_or_else(new_name),
        generation: ours.generation.max(theirs.generation).unwrap_or(1),
    };
    let (mut file, mut image, gains) = match first {
        Examined::Read(read) if read.1.damage.is_empty() && standing != Standing::CopyAhead => {
            (read.0, read.1, Gains::Unexpected)
        }
        damaged => {
            let (file, image) = rebuild(paths, damaged, source, standing, &identity, report)?;
            (file, image, Gains::Expected)
        }
    };
    if source.is_some() || !image.bad.is_empty() {
        absorb(&mut file, &image, source, gains, report)?;
        let fixed = file.image();
        if !fixed.bad.is_empty() || !fixed.damage.is_empty() {
            return Err(FileError::Damaged(format!(
                "it could not be repaired: {} rows are wrong; {}",
                fixed.bad.len(),
                fixed.damage.join("; ")
            )));
        }
        image = fixed;
    }
    Ok((file, image, identity))
}

/// A name that no other store has, 128 random bits.
fn new_name() -> String {
    let mut bytes = [0; 16];
    #[expect(
        clippy::expect_used,
        reason = "two stores of one name could be taken for copies of each other"
    )]
    getrandom::fill(&mut bytes).expect("the operating system gives random numbers");
    format!("{:032x}", u128::from_be_bytes(bytes))
}

/// Which store it is, and how often it went on without its copy.
struct Identity {
    store: String,
    generation: i64,
}

/// Whether rows that a file gets from the other one are to be reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gains {
    /// The file should have had them.
    Unexpected,
    /// The file is new.
    Expected,
}

/// A new first file, with what can be read of the damaged one; the copy's rows are still to be added.
fn rebuild(
    paths: &Paths,
    damaged: Examined,
    source: Option<&(File, Image)>,
    standing: Standing,
    identity: &Identity,
    report: &mut OpenReport,
) -> Result<(File, Image), FileError> {
    let path = &paths.first;
    let new = new_beside(path)?;
    let mut file = File::open(&new)?;
    file.create(&identity.store, identity.generation)?;
    let (why, what) = match damaged {
        Examined::Absent => (None, "the file was missing".to_owned()),
        Examined::Broken(reason) => (Some("damaged"), reason),
        Examined::Read(_) if standing == Standing::CopyAhead => {
            (Some("outdated"), "the file is older than its copy".to_owned())
        }
        Examined::Read(read) => {
            let what = read.1.damage.join("; ");
            let empty = file.image();
            absorb(&mut file, &empty, Some(&read), Gains::Expected, report)?;
            note_lost(&mut file, &read.1, source, report)?;
            (Some("damaged"), what)
        }
    };
    file.close()?;
    file::sync(&new).map_err(refused(path))?;
    let finding = |remedy| Finding { file: Which::First, what, record: None, remedy };
    match why {
        Some(why) => {
            let aside = replace_keeping(&new, path, why).map_err(refused(path))?;
            report.findings.push(finding(Remedy::Restored { aside }));
        }
        None => {
            crate::files::replace(&new, path).map_err(refused(path))?;
            if source.is_some() {
                report.findings.push(finding(Remedy::Repaired));
            }
        }
    }
    let mut file = File::open(path)?;
    let image = file.image();
    Ok((file, image))
}

/// Reports the bad rows of a file that is made anew.
fn note_lost(
    file: &mut File,
    damaged: &Image,
    source: Option<&(File, Image)>,
    report: &mut OpenReport,
) -> Result<(), FileError> {
    let empty = Image::default();
    let changes = judge(file, damaged, &empty, source.map(|read| &read.1), report)?;
    file.write(&changes)
}

/// Removes a file's bad rows and adds what only `source` has or has newer.
fn absorb(
    target: &mut File,
    image: &Image,
    source: Option<&(File, Image)>,
    gains: Gains,
    report: &mut OpenReport,
) -> Result<(), FileError> {
    let mut changes: Vec<Change> =
        image.bad.iter().map(|(rowid, row)| Change::DeleteRow(row.table, *rowid)).collect();
    changes.extend(judge(target, image, image, source.map(|read| &read.1), report)?);
    let writing = target.begin()?;
    writing.apply(&changes)?;
    let mut lost = LostRows::default();
    let reported: BTreeSet<(Table, Vec<u8>)> =
        image.bad.iter().map(|(_, row)| (row.table, row.key())).collect();
    if let Some((source, theirs)) = source {
        let mut chunk = Vec::new();
        for ((table, key), place) in &theirs.good {
            let present = image.good.get(&(*table, key.clone()));
            let is_newer = present.is_none_or(|present| present.rank < place.rank);
            if *table == Table::Meta || !is_newer {
                continue;
            }
            let Some(row) = source.row(*table, place.rowid)? else { continue };
            if !reported.contains(&(*table, key.clone())) {
                lost.note(&row, image);
            }
            chunk.push(Change::Put(row));
            if chunk.len() >= CHUNK {
                writing.apply(&chunk)?;
                chunk.clear();
            }
        }
        let transactions = image.meta.transactions.max(theirs.meta.transactions);
        chunk.push(Change::Put(meta_row("transactions", number(transactions))));
        writing.apply(&chunk)?;
    }
    writing.commit()?;
    if gains == Gains::Unexpected {
        report.findings.extend(lost.finding());
    }
    Ok(())
}

/// Rows that a file should have had.
#[derive(Default)]
struct LostRows {
    records: usize,
    transactions: BTreeSet<u64>,
}

impl LostRows {
    fn note(&mut self, row: &Row, image: &Image) {
        match row.table {
            // Journal rows that this file has already folded, and the copy has not, are not a loss.
            Table::Journal => {
                let id = journal::transaction_of(row);
                if id > image.meta.transactions {
                    self.transactions.insert(id);
                }
            }
            Table::Records if row.text(4).is_some() => self.records += 1,
            Table::Records
            | Table::Meta
            | Table::Payloads
            | Table::Jobs
            | Table::Audit
            | Table::Recoveries
            | Table::SetAside => {}
        }
    }

    fn finding(&self) -> Option<Finding> {
        let mut parts = Vec::new();
        if self.records > 0 {
            parts.push(format!("{} records that only the other file has", self.records));
        }
        if let (Some(from), Some(to)) = (self.transactions.first(), self.transactions.last()) {
            parts.push(format!("transactions {from} to {to} that only the other file has"));
        }
        (!parts.is_empty()).then(|| Finding {
            file: Which::First,
            what: parts.join(", "),
            record: None,
            remedy: Remedy::Repaired,
        })
    }
}

/// Reports bad rows; those that neither `sound` nor `source` has go to the table `set_aside`.
fn judge(
    target: &File,
    bad: &Image,
    sound: &Image,
    source: Option<&Image>,
    report: &mut OpenReport,
) -> Result<Vec<Change>, FileError> {
    let mut changes = Vec::new();
    if bad.bad.is_empty() {
        return Ok(changes);
    }
    let mut entry = target.highest(Table::SetAside)?;
    let mut seen = BTreeSet::new();
    for (rowid, row) in &bad.bad {
        if !seen.insert((row.table, *rowid)) {
            continue;
        }
        let key = (row.table, row.key());
        let is_known = sound.good.contains_key(&key)
            || source.is_some_and(|source| source.good.contains_key(&key))
            || row.table == Table::Meta;
        let remedy = if is_known {
            Remedy::Repaired
        } else {
            let reason = "its checksum is wrong and no copy of it is sound";
            changes.push(Change::Put(set_aside_row(&mut entry, Which::First, row, reason)));
            Remedy::SetAside
        };
        report.findings.push(bad_row(Which::First, row, remedy));
    }
    Ok(changes)
}

/// Makes the copy contain exactly what the first file has.
fn sound_copy(
    paths: &Paths,
    first: &File,
    image: &Image,
    second: Examined,
    standing: Standing,
    report: &mut OpenReport,
) -> Copy {
    let Some(path) = &paths.copy else { return Copy::None };
    let mut remake = |second: Examined| -> Result<Copy, FileError> {
        let (damage, is_kept) = match &second {
            Examined::Absent => (None, false),
            Examined::Broken(reason) => (Some(reason.clone()), true),
            Examined::Read(read) => {
                let damage = read.1.damage.join("; ");
                (Some(damage).filter(|damage| !damage.is_empty()), !read.1.damage.is_empty())
            }
        };
        drop(second);
        let mut remedy = Remedy::Repaired;
        if is_kept {
            let aside = file::put_aside(path, "damaged")
                .map_err(|error| FileError::Refused(error.to_string()))?;
            remedy = Remedy::Restored { aside };
        }
        let copy = copy_from(first, path)?;
        if let Some(what) = damage {
            report.findings.push(Finding { file: Which::Copy, what, record: None, remedy });
        }
        Ok(Copy::InStep(copy))
    };
    let outcome = match second {
        Examined::Read(read) if read.1.damage.is_empty() && standing != Standing::FirstAhead => {
            let (mut file, theirs) = *read;
            match catch_up(&mut file, &theirs, first, image) {
                Ok(()) => {
                    for (_, row) in &theirs.bad {
                        report.findings.push(bad_row(Which::Copy, row, Remedy::Repaired));
                    }
                    Ok(Copy::InStep(file))
                }
                Err(_) => remake(Examined::Read(Box::new((file, theirs)))),
            }
        }
        other => remake(other),
    };
    match outcome {
        Ok(copy) => copy,
        Err(error) => {
            tracing::warn!(%error, "the state's second copy cannot be written; going on without it");
            Copy::Behind { reason: error.to_string(), tried: std::time::Instant::now() }
        }
    }
}

fn catch_up(copy: &mut File, theirs: &Image, first: &File, image: &Image) -> Result<(), FileError> {
    let mut chunk: Vec<Change> =
        theirs.bad.iter().map(|(rowid, row)| Change::DeleteRow(row.table, *rowid)).collect();
    let writing = copy.begin()?;
    for ((table, key), place) in &image.good {
        let present = theirs.good.get(&(*table, key.clone()));
        if present.is_some_and(|present| present.checksum == place.checksum) {
            continue;
        }
        if let Some(row) = first.row(*table, place.rowid)? {
            chunk.push(Change::Put(row));
        }
        if chunk.len() >= CHUNK {
            writing.apply(&chunk)?;
            chunk.clear();
        }
    }
    writing.apply(&chunk)?;
    writing.commit()
}

/// Folds the journal of the sound first file into its records, in both files.
fn fold(
    files: &mut Files,
    identity: &Identity,
    transactions: u64,
    report: &mut OpenReport,
) -> Result<(Folded, Values), FileError> {
    let records = good_rows(&files.first, Table::Records)?;
    let rows = good_rows(&files.first, Table::Journal)?;
    let damaged = report.findings.iter().any(|finding| {
        finding.file == Which::First
            && matches!(finding.remedy, Remedy::SetAside | Remedy::Restored { .. })
    });
    let mut folded = journal::fold(records, rows, damaged);
    folded.transactions = folded.transactions.max(transactions);
    let mut entry = files.first.highest(Table::SetAside)?;
    let mut changes = Vec::new();
    let mut values = Vec::new();
    let mut lost: BTreeMap<Key, String> = folded.lost.iter().cloned().collect();
    for (&key, stored) in &folded.records {
        match stored.value() {
            Ok(Some(value)) => {
                values.push((key, stored.version, value));
                if folded.touched.contains(&key) {
                    changes.push(Change::Put(stored.row(key)));
                }
            }
            // The journal is empty now, so no older version can come back, and the removed record needs no row.
            Ok(None) => {
                changes.push(Change::Delete(Table::Records, journal::key_cells(key).into()))
            }
            Err(error) => {
                lost.insert(key, format!("{key} is not a record that this program knows: {error}"));
            }
        }
    }
    for (key, reason) in lost {
        let row = folded.records.get(&key).cloned().unwrap_or(Stored {
            version: Version(0),
            transaction: TransactionId(0),
            body: None,
        });
        let row = row.row(key);
        changes.push(Change::Put(set_aside_row(&mut entry, Which::First, &row, &reason)));
        changes.push(Change::Delete(Table::Records, journal::key_cells(key).into()));
        report.findings.push(Finding {
            file: Which::First,
            what: reason,
            record: Some(RecordName(key)),
            remedy: Remedy::SetAside,
        });
    }
    forgive(report, &folded);
    // Rows of the table `meta` may have been among the bad ones.
    changes.extend([
        Change::Put(meta_row("schema", Cell::Integer(SCHEMA))),
        Change::Put(meta_row("store", Cell::Text(identity.store.clone()))),
        Change::Put(meta_row("generation", Cell::Integer(identity.generation))),
        Change::Put(meta_row("transactions", number(folded.transactions))),
    ]);
    changes.push(Change::ForgetJournal(i64::MAX));
    files.write(&[], &changes, Purpose::Checkpoint)?;
    Ok((folded, values))
}

/// A bad record that the journal had in a newer version is repaired after all.
fn forgive(report: &mut OpenReport, folded: &Folded) {
    for finding in &mut report.findings {
        if let (Remedy::SetAside, Some(RecordName(key))) = (&finding.remedy, &finding.record)
            && folded.touched.contains(key)
        {
            finding.remedy = Remedy::Repaired;
        }
    }
}

fn good_rows(file: &File, table: Table) -> Result<Vec<Row>, FileError> {
    let found = file.select(table, "ORDER BY rowid", &[])?;
    Ok(found
        .into_iter()
        .filter_map(|found| match found {
            Found::Good(_, row) => Some(row),
            Found::Bad(..) => None,
        })
        .collect())
}
