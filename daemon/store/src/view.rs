//! Access to a store from outside its daemon: read, verified or repaired by a command.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use flotilla_fleet::state::{Key, Partition, TransactionId, Version};
use serde::Serialize;

use crate::{
    LockError, OpenError, Options,
    file::{File, Image},
    files::bad_row,
    job::millis,
    journal::{self, Folded, number},
    lock::Lock,
    log::{AuditEntry, RecoveryEntry},
    recover::recover,
    report::{Finding, OpenReport, Remedy, Which},
    row::{Found, Row, Table},
};

/// Why a store cannot be read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum ViewError {
    #[error("there is no state in {}", .dir.display())]
    Absent { dir: PathBuf },
    #[error("{} cannot be read: {reason}", .path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// A record as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RecordView {
    /// Its partition.
    pub partition: Partition,
    /// Its number in there.
    pub id: u64,
    /// Its version.
    pub version: Version,
    /// Which transaction wrote it.
    pub transaction: TransactionId,
    /// Its value.
    pub body: serde_json::Value,
}

/// A store's contents at one moment; a daemon may go on writing it. Rows that are not what was written are read from the other
/// file.
#[derive(Debug)]
pub struct Snapshot {
    /// The files that can be opened; the first one is read.
    sources: Vec<Source>,
    folded: Folded,
    findings: Vec<Finding>,
}

#[derive(Debug)]
struct Source {
    which: Which,
    path: PathBuf,
    file: File,
}

impl Snapshot {
    /// Reads the first file or, if that cannot be read, the copy.
    ///
    /// # Errors
    /// There is no state, or neither file can be read.
    pub fn read(options: &Options) -> Result<Snapshot, ViewError> {
        let paths = options.paths();
        let mut unreadable = None;
        let mut sources = Vec::new();
        for which in [Which::First, Which::Copy] {
            let Some(path) = paths.of(which).filter(|path| path.exists()) else { continue };
            let path = path.to_owned();
            match File::open_to_read(&path) {
                Ok(file) => sources.push(Source { which, path, file }),
                Err(error) => {
                    let reason = error.to_string();
                    unreadable.get_or_insert(ViewError::Unreadable { path, reason });
                }
            }
        }
        while let Some(source) = sources.first() {
            let read = source.file.together(|file| {
                let records = file.select(Table::Records, "ORDER BY rowid", &[])?;
                let rows = file.select(Table::Journal, "ORDER BY rowid", &[])?;
                Ok((records, rows))
            });
            match read {
                Ok((records, rows)) => {
                    let mut findings = Vec::new();
                    let records = good(&sources, records, &mut findings);
                    let rows = good(&sources, rows, &mut findings);
                    let folded = journal::fold(records, rows, !findings.is_empty());
                    return Ok(Snapshot { sources, folded, findings });
                }
                Err(error) => {
                    let Source { path, .. } = sources.remove(0);
                    let reason = error.to_string();
                    unreadable.get_or_insert(ViewError::Unreadable { path, reason });
                }
            }
        }
        Err(unreadable.unwrap_or_else(|| ViewError::Absent { dir: options.dir.clone() }))
    }

    /// Which file was read.
    pub fn path(&self) -> Option<&std::path::Path> {
        self.sources.first().map(|source| source.path.as_path())
    }

    /// Rows that cannot be shown, because no file has them as they were written.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The records of a partition, or all.
    pub fn records(&self, partition: Option<Partition>) -> Vec<RecordView> {
        let is_wanted = |key: &Key| partition.is_none_or(|partition| partition == key.partition);
        let mut views = Vec::new();
        for (key, stored) in self.folded.records.iter().filter(|(key, _)| is_wanted(key)) {
            let Some(body) = &stored.body else { continue };
            views.push(RecordView {
                partition: key.partition,
                id: key.id,
                version: stored.version,
                transaction: stored.transaction,
                // A body that is not JSON is shown as text.
                body: serde_json::from_str(body)
                    .unwrap_or_else(|_| serde_json::Value::String(body.clone())),
            });
        }
        views
    }

    /// The audit trail since a time, oldest first.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn audit(&mut self, since: SystemTime) -> Result<Vec<AuditEntry>, ViewError> {
        self.since(Table::Audit, since, AuditEntry::from_row)
    }

    /// Failures and their recoveries since a time, oldest first.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn recoveries(&mut self, since: SystemTime) -> Result<Vec<RecoveryEntry>, ViewError> {
        self.since(Table::Recoveries, since, RecoveryEntry::from_row)
    }

    fn since<T>(
        &mut self,
        table: Table,
        since: SystemTime,
        read: impl Fn(&Row) -> Option<T>,
    ) -> Result<Vec<T>, ViewError> {
        let mut unreadable = None;
        for (at, source) in self.sources.iter().enumerate() {
            let parameters = [number(millis(since))];
            match source.file.select(table, "WHERE time_ms >= ? ORDER BY rowid", &parameters) {
                Ok(found) => {
                    let rows = good(&self.sources[at..], found, &mut self.findings);
                    return Ok(rows.iter().filter_map(read).collect());
                }
                Err(error) => {
                    let (path, reason) = (source.path.clone(), error.to_string());
                    unreadable.get_or_insert(ViewError::Unreadable { path, reason });
                }
            }
        }
        unreadable.map_or(Ok(Vec::new()), Err)
    }
}

/// The rows that were found in the first of some files, bad ones as another of them has them. A row that none has is a finding.
fn good(sources: &[Source], found: Vec<Found>, findings: &mut Vec<Finding>) -> Vec<Row> {
    let mut rows = Vec::with_capacity(found.len());
    for found in found {
        match found {
            Found::Good(_, row) => rows.push(row),
            Found::Bad(_, bad) => {
                let key = &bad.cells[..bad.table.key_columns()];
                let other = sources.iter().skip(1).find_map(|source| {
                    // A file that cannot be read does not have the row.
                    match source.file.get(bad.table, key) {
                        Ok(Some(Found::Good(_, row))) => Some(row),
                        Ok(Some(Found::Bad(..)) | None) | Err(_) => None,
                    }
                });
                match other {
                    Some(row) => rows.push(row),
                    None => {
                        let which = sources.first().map_or(Which::First, |source| source.which);
                        findings.push(bad_row(which, &bad, Remedy::None));
                    }
                }
            }
        }
    }
    rows
}

/// What verification of one file gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerifiedFile {
    /// Which file.
    pub file: Which,
    /// Where it is.
    pub path: PathBuf,
    /// Rows whose checksum is right.
    pub sound_rows: usize,
    /// How many rows the other file has and this one has not; they are added when a daemon starts.
    pub rows_behind: usize,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// What verification gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Each file that should be there.
    pub files: Vec<VerifiedFile>,
    /// Whether a daemon has the store open, so that the files may differ while it writes.
    pub in_use: bool,
}

impl Verified {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.files.iter().all(|file| file.findings.is_empty())
    }
}

/// Checks every row of both files against its checksum and SQLite's structures against themselves. Changes nothing.
///
/// # Errors
/// There is no state, or its lock cannot be checked.
pub fn verify(options: &Options) -> Result<Verified, ViewError> {
    let paths = options.paths();
    if ![Which::First, Which::Copy].into_iter().filter_map(|w| paths.of(w)).any(|p| p.exists()) {
        return Err(ViewError::Absent { dir: options.dir.clone() });
    }
    // Held while reading, so that no daemon starts to repair the files meanwhile.
    let lock = match Lock::take(&options.dir) {
        Ok(lock) => Some(lock),
        Err(LockError::Held { .. }) => None,
        Err(error @ LockError::Refused { .. }) => return Err(error.into()),
    };
    let mut files = Vec::new();
    let mut images: Vec<Image> = Vec::new();
    for which in [Which::First, Which::Copy] {
        let Some(path) = paths.of(which) else { continue };
        let finding = |what| Finding { file: which, what, record: None, remedy: Remedy::None };
        let mut findings = Vec::new();
        let mut image = Image::default();
        if path.exists() {
            match File::open_to_read(path) {
                Ok(mut file) => image = file.image(),
                Err(error) => findings.push(finding(error.to_string())),
            }
        } else {
            findings.push(finding("the file is missing".to_owned()));
        }
        findings.extend(image.damage.iter().cloned().map(finding));
        findings.extend(image.bad.iter().map(|(_, row)| bad_row(which, row, Remedy::None)));
        let sound_rows = image.good.len();
        files.push(VerifiedFile {
            file: which,
            path: path.to_owned(),
            sound_rows,
            rows_behind: 0,
            findings,
        });
        images.push(image);
    }
    if let ([first, copy], true) = (&images[..], lock.is_some()) {
        files[0].rows_behind = lacking(first, copy);
        files[1].rows_behind = lacking(copy, first);
    }
    Ok(Verified { files, in_use: lock.is_none() })
}

/// How many good rows of the other file this one lacks.
fn lacking(image: &Image, other: &Image) -> usize {
    other.good.keys().filter(|key| !image.good.contains_key(key)).count()
}

/// Does to a closed store what a daemon does when it opens it.
///
/// # Errors
/// A daemon has it, or neither file can be used.
pub fn repair(options: &Options) -> Result<OpenReport, OpenError> {
    let _lock = Lock::take(&options.dir)?;
    let recovered = recover(&options.paths(), options.pages_max)?;
    recovered.files.close().map_err(|error| OpenError::Read(error.to_string()))?;
    Ok(recovered.report)
}

/// Reads `30s`, `15m`, `1h` or `2d`.
///
/// # Errors
/// It is something else; the message says what is expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 30s, 15m, 1h or 2d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Err(wrong()),
    };
    let count: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| wrong())?;
    count.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [("30s", 30), ("15m", 900), ("1h", 3600), ("2d", 172_800)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
        for wrong in ["", "1", "h", "1w", "-1h", "1.5h", "99999999999999999999d", "1ä"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }
}
