//! Work of the writer when no command waits: it folds the journal, verifies rows, forgets what has expired, and makes a copy
//! anew that fell behind.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use flotilla_fleet::state::{Key, Outcome, Value};
use flotilla_protocol::RequestId;
use rusqlite::types::Value as Cell;

use crate::{
    file::{File, FileError, meta_row},
    files::{Copy, Files, Purpose},
    job::{Job, JobId},
    journal::{self, number},
    report::{Finding, Remedy, Report, Which},
    row::{Change, Found, Row, Table},
};

use super::{Disk, Writer, payload_removal};

/// Time between two searches for what has expired.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Most jobs or log entries that are forgotten at once, so that a commit does not wait long.
const SWEEP_MAX: usize = 256;
/// Rows that are verified at once, for the same reason.
const SLICE: usize = 128;

impl Writer {
    /// Does what is due.
    pub(super) fn upkeep(&mut self) {
        let now = Instant::now();
        if self.sweep_at <= now {
            self.sweep_at = now + SWEEP_INTERVAL.min(self.options.copy_retry_interval);
            self.retry_copy();
            if let Err(error) = self.sweep() {
                self.upkeep_failed(&error);
            }
        }
        if self.verify_at <= now {
            self.verify_at = now + self.options.verify_interval;
            if let Err(error) = self.verify_slice() {
                self.upkeep_failed(&error);
            }
        }
    }

    fn upkeep_failed(&mut self, error: &FileError) {
        match error {
            FileError::Damaged(reason) => {
                if let Err(error) = self.heal(reason) {
                    tracing::error!(%error, "the state's files could not be repaired");
                }
            }
            FileError::Full(_) | FileError::Refused(_) => {
                tracing::warn!(%error, "maintenance of the state's files failed");
            }
        }
    }

    /// Folds the journal into the records.
    pub(super) fn checkpoint(&mut self) -> Result<(), FileError> {
        let tombs = std::mem::take(&mut self.tombs);
        let mut changes: Vec<Change> = tombs
            .iter()
            .filter(|key| !self.overlay.contains_key(key))
            .map(|&key| Change::Delete(Table::Records, journal::key_cells(key).into()))
            .collect();
        if self.overlay.is_empty() && changes.is_empty() {
            return Ok(());
        }
        changes.extend(self.overlay.iter().map(|(&key, stored)| Change::Put(stored.row(key))));
        changes.push(Change::Put(meta_row("transactions", number(self.transactions))));
        changes.push(Change::ForgetJournal(i64::MAX));
        let was = self.health.copy.clone();
        if let Err(error) =
            self.files().and_then(|files| files.write(&[], &changes, Purpose::Checkpoint))
        {
            self.tombs = tombs;
            return Err(error);
        }
        // A removed record keeps its row until the next checkpoint, because a copy that misses this write still has the older
        // record.
        self.tombs = std::mem::take(&mut self.overlay)
            .into_iter()
            .filter(|(_, stored)| stored.body.is_none())
            .map(|(key, _)| key)
            .collect();
        self.health.journal_rows = 0;
        self.note_copy(&was);
        Ok(())
    }

    /// The same where no caller takes the error: it is logged, and the journal is kept.
    pub(super) fn checkpoint_or_warn(&mut self) {
        if let Err(error) = self.checkpoint() {
            tracing::warn!(%error, "cannot fold the journal into the state's files");
        }
    }

    fn retry_copy(&mut self) {
        let interval = self.options.copy_retry_interval;
        let was = self.health.copy.clone();
        let Disk::Open(files) = &mut self.disk else { return };
        if let Copy::Behind { tried, .. } = &files.copy
            && tried.elapsed() >= interval
        {
            match files.restore_copy() {
                Ok(()) => tracing::info!("the state's second copy is in step again"),
                Err(error) => tracing::debug!(%error, "the state's second copy is still behind"),
            }
            self.walker = Walker::default();
            self.note_copy(&was);
        }
    }

    /// Forgets jobs whose time is over, and old entries of the logs.
    fn sweep(&mut self) -> Result<(), FileError> {
        let now = crate::now_ms();
        let limit = Cell::Integer(SWEEP_MAX as i64);
        let condition = "WHERE expires_ms <= ? ORDER BY expires_ms LIMIT ?";
        let expired =
            self.files()?.first.select(Table::Jobs, condition, &[number(now), limit.clone()])?;
        let mut changes = Vec::new();
        let mut forgotten = Vec::new();
        if !expired.is_empty() {
            // What is only in the journal would come back from there.
            self.checkpoint()?;
        }
        for found in expired {
            let Found::Good(_, row) = found else { continue };
            let Some(job) = Job::from_row(&row) else { continue };
            let Some(requests) = self.ended_requests(&job.id)? else { continue };
            changes.extend(self.job_rows(&job.id)?);
            for request in requests {
                let key = journal::key_cells(Key::request(request));
                changes.push(Change::Delete(Table::Records, key.into()));
                changes.extend(payload_removal(request.0));
                forgotten.push(request);
            }
        }
        let keep = u64::try_from(self.options.log_keep.as_millis()).unwrap_or(u64::MAX);
        let before = number(now.saturating_sub(keep));
        for table in [Table::Audit, Table::Recoveries] {
            let condition = "WHERE time_ms < ? ORDER BY rowid LIMIT ?";
            let parameters = [before.clone(), limit.clone()];
            for found in self.files()?.first.select(table, condition, &parameters)? {
                if let Found::Good(rowid, _) = found {
                    changes.push(Change::DeleteRow(table, rowid));
                }
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        let was = self.health.copy.clone();
        self.files()?.write(&[], &changes, Purpose::Upkeep)?;
        self.note_copy(&was);
        if !forgotten.is_empty() {
            self.send_report(Report::Expired(forgotten));
        }
        Ok(())
    }

    /// The requests of a job, unless one of them is still open.
    fn ended_requests(&mut self, id: &JobId) -> Result<Option<Vec<RequestId>>, FileError> {
        let mut requests = BTreeSet::new();
        for payload in self.payloads(id)? {
            let request = RequestId(payload.number(0));
            match self.record(Key::request(request))? {
                Some(Value::Request { outcome: None, .. }) => return Ok(None),
                Some(Value::Request {
                    outcome: Some(Outcome::Answered | Outcome::Failed(_)),
                    ..
                })
                | Some(
                    Value::Configuration { .. }
                    | Value::Browser { .. }
                    | Value::Placement { .. }
                    | Value::Assignment { .. },
                )
                | None => {
                    requests.insert(request);
                }
            }
        }
        Ok(Some(requests.into_iter().collect()))
    }

    fn verify_slice(&mut self) -> Result<(), FileError> {
        let Disk::Open(files) = &self.disk else { return Ok(()) };
        let suspects = self.walker.step(files)?;
        if self.walker.is_done() {
            self.walker = Walker::default();
            self.health.verified += 1;
        }
        for suspect in suspects {
            if let Some(finding) = self.mend(suspect)? {
                self.found(finding);
            }
        }
        Ok(())
    }

    fn mend(&mut self, suspect: Suspect) -> Result<Option<Finding>, FileError> {
        match suspect {
            Suspect::Bad { which, rowid, row } if row.table == Table::Journal => {
                let finding = crate::files::bad_row(which, &row, Remedy::Repaired);
                // All changes of the journal are in memory, too, and must be folded sooner or later anyway.
                self.checkpoint()?;
                let remove = Change::DeleteRow(Table::Journal, rowid);
                self.files()?.write(&[], &[remove], Purpose::Upkeep)?;
                Ok(Some(finding))
            }
            Suspect::Bad { which, rowid, row } => {
                let newer = journal::key_at(&row, 0).filter(|_| row.table == Table::Records);
                let known = newer.and_then(|key| Some(self.overlay.get(&key)?.row(key)));
                let mut entry = self.entries.set_aside;
                let was = self.health.copy.clone();
                let finding = self.files()?.repair(which, rowid, &row, known, &mut entry)?;
                self.entries.set_aside = entry;
                self.note_copy(&was);
                Ok(finding)
            }
            Suspect::Missing { which, row } => {
                let finding = Finding {
                    file: which,
                    what: format!("a row that the other file has is missing: {}", row.words()),
                    record: None,
                    remedy: Remedy::Repaired,
                };
                let files = self.files()?;
                let change = [Change::Put(row)];
                match (which, &mut files.copy) {
                    (Which::First, _) => files.first.write(&change)?,
                    (Which::Copy, Copy::InStep(copy)) => copy.write(&change)?,
                    (Which::Copy, Copy::None | Copy::Behind { .. }) => {}
                }
                Ok(Some(finding))
            }
        }
    }
}

/// A row that is not what it should be.
#[derive(Debug)]
enum Suspect {
    /// Its checksum is wrong.
    Bad { which: Which, rowid: i64, row: Row },
    /// It is good in the other file and not there in this one.
    Missing { which: Which, row: Row },
}

/// Where the background verification is. It reads through connections of its own, so that it sees the disk and not the caches
/// of the writer's connections.
#[derive(Debug, Default)]
pub(super) struct Walker {
    readers: Option<(File, Option<File>)>,
    /// Tables that are done, of the first file and then of the copy.
    tables: usize,
    after: i64,
}

impl Walker {
    fn is_done(&self) -> bool {
        let files = match &self.readers {
            Some((_, Some(_))) => 2,
            Some((_, None)) => 1,
            None => return false,
        };
        self.tables >= files * Table::ALL.len()
    }

    fn step(&mut self, files: &Files) -> Result<Vec<Suspect>, FileError> {
        if self.readers.is_none() {
            let first = File::open_to_read(&files.first.path)?;
            let copy = match &files.copy {
                Copy::InStep(copy) => Some(File::open_to_read(&copy.path)?),
                Copy::None | Copy::Behind { .. } => None,
            };
            self.readers = Some((first, copy));
        }
        let mut suspects = Vec::new();
        let mut left = SLICE;
        while left > 0 && !self.is_done() {
            let Some((first, copy)) = &self.readers else { break };
            let (which, reader, other) = match (self.tables < Table::ALL.len(), copy) {
                (true, copy) => (Which::First, first, copy.as_ref()),
                (false, Some(copy)) => (Which::Copy, copy, Some(first)),
                (false, None) => break,
            };
            let table = Table::ALL[self.tables % Table::ALL.len()];
            let rows = reader.slice(table, self.after, left)?;
            if rows.len() < left {
                self.tables += 1;
                self.after = 0;
            } else if let Some(Found::Good(rowid, _) | Found::Bad(rowid, _)) = rows.last() {
                self.after = *rowid;
            }
            left -= rows.len();
            for found in rows {
                match found {
                    Found::Bad(rowid, row) => suspects.push(Suspect::Bad { which, rowid, row }),
                    // The two files' `meta` rows may differ.
                    Found::Good(_, row) if table == Table::Meta => drop(row),
                    Found::Good(_, row) => {
                        let Some(other) = other else { continue };
                        let key = &row.cells[..table.key_columns()];
                        if other.get(table, key)?.is_none() {
                            let which = match which {
                                Which::First => Which::Copy,
                                Which::Copy => Which::First,
                            };
                            suspects.push(Suspect::Missing { which, row });
                        }
                    }
                }
            }
        }
        Ok(suspects)
    }
}
