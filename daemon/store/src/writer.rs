//! The thread that owns the files.
//!
//! It takes what waits, writes it as one group, and reports the outcome. Relaxed transactions are confirmed at once and written
//! with the next critical one or after `sync_interval`. In between it does [`upkeep`].

mod upkeep;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Instant,
};

use flotilla_fleet::state::{Durability, Key, Outcome, Partition, TransactionId, Value, Version};
use flotilla_protocol::RequestId;
use rusqlite::types::Value as Cell;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    AskError, Options, QUEUE_MAX,
    crash::{Step, point},
    file::FileError,
    files::{Files, Purpose},
    job::{self, Claim, Commit, Job, JobId, JobRequest, JobState, OpenRequest},
    journal::{self, Stored, number},
    log::{AuditEntry, RecoveryEntry},
    recover::recover,
    report::{Health, OpenReport, Remedy, Report},
    row::{Change, Found, Row, Table},
};
use upkeep::Walker;

/// Most commands that are written together.
const GROUP_MAX: usize = 256;
/// Most writes that wait while the disk refuses them.
const PENDING_MAX: usize = QUEUE_MAX;

type Answer<T> = oneshot::Sender<Result<T, AskError>>;

/// Commands to the thread.
#[derive(Debug)]
pub(crate) enum Command {
    Commit(Commit),
    Audit(AuditEntry),
    Recovery(RecoveryEntry),
    Claim {
        job: Box<Job>,
        reply: Answer<Claim>,
    },
    Job {
        id: JobId,
        reply: Answer<Option<JobState>>,
    },
    Abandon(JobId),
    Flush {
        reply: Answer<()>,
    },
    Close {
        reply: Answer<()>,
    },
    #[cfg(test)]
    LimitPages(u32),
}

/// Something that is to be written, in the order in which it came.
enum Pending {
    Commit {
        id: TransactionId,
        durability: Durability,
        changes: Vec<(Key, Stored)>,
        rest: Vec<Change>,
    },
    Rows(Vec<Change>),
}

impl Pending {
    /// Whether its sender waits for it.
    fn is_critical(&self) -> bool {
        matches!(self, Pending::Commit { durability: Durability::Critical, .. })
    }
}

enum Disk {
    Open(Box<Files>),
    /// Neither file could be used the last time.
    Lost(String),
}

/// Numbers of the last entries of tables that are only added to.
#[derive(Clone, Copy)]
struct Entries {
    audit: i64,
    recoveries: i64,
    set_aside: i64,
}

/// The result of the loop: the reply to the caller that closed the store, sent once another process can open it.
type Closed = Option<(Answer<()>, Result<(), AskError>)>;

pub(crate) struct Writer {
    options: Options,
    disk: Disk,
    /// Changes that are in the journal and not in the table of records.
    overlay: BTreeMap<Key, Stored>,
    /// Removed records whose rows are still there, for a copy that could lack the removal.
    tombs: BTreeSet<Key>,
    transactions: u64,
    sequence: i64,
    pending: Vec<Pending>,
    /// Jobs among `pending`.
    claimed: BTreeMap<JobId, Job>,
    flushes: Vec<Answer<()>>,
    /// When pending writes that no caller waits for are written.
    flush_at: Option<Instant>,
    entries: Entries,
    walker: Walker,
    verify_at: Instant,
    sweep_at: Instant,
    report_sender: mpsc::Sender<Report>,
    health: Health,
    health_sender: watch::Sender<Health>,
}

impl Writer {
    pub(crate) fn new(
        options: Options,
        files: Files,
        transactions: u64,
        report: &OpenReport,
        report_sender: mpsc::Sender<Report>,
        health_sender: watch::Sender<Health>,
    ) -> Result<Writer, FileError> {
        let entries = entries(&files)?;
        let health = Health {
            copy: files.copy_health(),
            findings: report.findings.len() as u64,
            ..Health::default()
        };
        let now = Instant::now();
        let writer = Writer {
            verify_at: now + options.verify_interval,
            sweep_at: now,
            options,
            disk: Disk::Open(Box::new(files)),
            overlay: BTreeMap::new(),
            tombs: BTreeSet::new(),
            transactions,
            sequence: 0,
            pending: Vec::new(),
            claimed: BTreeMap::new(),
            flushes: Vec::new(),
            flush_at: None,
            entries,
            walker: Walker::default(),
            report_sender,
            health,
            health_sender,
        };
        writer.show_health();
        Ok(writer)
    }

    /// Works until the store is closed.
    pub(crate) fn run(mut self, queue: &Receiver<Command>) -> Closed {
        loop {
            let wake = self.wake().saturating_duration_since(Instant::now());
            let closed = match queue.recv_timeout(wake) {
                Ok(command) => self.take_all(command, queue),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    if let Err(error) = self.close() {
                        tracing::error!(%error, "the last changes of the state were not written");
                    }
                    return None;
                }
            };
            if self.must_write() {
                self.write_pending();
            }
            if let Some(reply) = closed {
                // Commands that came in before the queue was closed are still executed.
                while let Ok(command) = queue.try_recv() {
                    self.take(command);
                }
                let outcome = self.close();
                return Some((reply, outcome));
            }
            self.upkeep();
            self.show_health();
        }
    }

    fn take_all(&mut self, first: Command, queue: &Receiver<Command>) -> Option<Answer<()>> {
        let mut next = Some(first);
        for _ in 0..GROUP_MAX {
            match next.take().or_else(|| queue.try_recv().ok()) {
                Some(Command::Close { reply }) => return Some(reply),
                Some(command) => self.take(command),
                None => break,
            }
        }
        None
    }

    fn wake(&self) -> Instant {
        let upkeep = self.verify_at.min(self.sweep_at);
        self.flush_at.map_or(upkeep, |at| at.min(upkeep))
    }

    fn must_write(&self) -> bool {
        !self.flushes.is_empty()
            || self.pending.iter().any(Pending::is_critical)
            || self.flush_at.is_some_and(|at| at <= Instant::now())
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Commit(commit) => self.take_commit(commit),
            Command::Audit(entry) => {
                self.entries.audit += 1;
                let row = entry.row(self.entries.audit);
                self.add_rows(vec![Change::Put(row)]);
            }
            Command::Recovery(entry) => {
                self.entries.recoveries += 1;
                let row = entry.row(self.entries.recoveries);
                self.add_rows(vec![Change::Put(row)]);
            }
            Command::Claim { job, reply } => answer(reply, self.claim(*job)),
            Command::Job { id, reply } => answer(reply, self.job(&id)),
            Command::Abandon(id) => match self.job_rows(&id) {
                Ok(rows) => {
                    self.claimed.remove(&id);
                    self.add_rows(rows);
                }
                Err(error) => tracing::error!(%error, job = %id, "cannot remove an abandoned job"),
            },
            Command::Flush { reply } => self.flushes.push(reply),
            Command::Close { reply } => {
                // The store is already being closed.
                self.flushes.push(reply);
            }
            #[cfg(test)]
            Command::LimitPages(pages) => {
                self.options.pages_max = Some(pages);
                if let Disk::Open(files) = &self.disk {
                    files.first.limit_pages(pages).expect("a limit can be set");
                }
            }
        }
    }

    fn take_commit(&mut self, Commit { transaction, payloads }: Commit) {
        let id = transaction.id;
        let changes = match journal::stored(&transaction) {
            Ok(changes) => changes,
            Err(error) => {
                self.send_report(Report::CommitFailed {
                    transaction: id,
                    reason: error.to_string(),
                });
                return;
            }
        };
        let rows = payloads.iter().map(|payload| payload.row().map(Change::Put));
        let mut rest: Vec<Change> = match rows.collect() {
            Ok(rows) => rows,
            Err(reason) => {
                self.send_report(Report::CommitFailed { transaction: id, reason });
                return;
            }
        };
        for (key, stored) in &changes {
            // Clients cannot ask again for a removed request, so its payloads are removed, too.
            if key.partition == Partition::Requests && stored.body.is_none() {
                rest.extend(payload_removal(key.id));
            }
        }
        match transaction.durability {
            Durability::Critical => {}
            Durability::Relaxed if self.pending.len() >= PENDING_MAX => {
                let reason = match &self.health.failing {
                    Some(reason) => reason.clone(),
                    None => format!("{PENDING_MAX} writes wait already"),
                };
                self.send_report(Report::CommitFailed { transaction: id, reason });
                return;
            }
            Durability::Relaxed => self.send_report(Report::Committed(id)),
        }
        self.pending.push(Pending::Commit {
            id,
            durability: transaction.durability,
            changes,
            rest,
        });
        self.schedule();
    }

    /// Rows that go with whatever is written next.
    fn add_rows(&mut self, rows: Vec<Change>) {
        if self.pending.len() >= PENDING_MAX && self.health.failing.is_some() {
            tracing::error!("the disk refuses writes and too many wait: an entry is dropped");
            return;
        }
        self.pending.push(Pending::Rows(rows));
        self.schedule();
    }

    fn schedule(&mut self) {
        let now = Instant::now();
        let at = self.flush_at.get_or_insert(now + self.options.sync_interval);
        if self.pending.len() >= PENDING_MAX && self.health.failing.is_none() {
            *at = now;
        }
        self.health.waiting = self.pending.len() as u64;
    }

    /// Writes what waits, as one group.
    fn write_pending(&mut self) {
        self.flush_at = None;
        let outcome = match self.try_write() {
            // Both files are made one sound state again, which leaves out nothing that was confirmed.
            Err(FileError::Damaged(reason)) => self.heal(&reason).and_then(|()| self.try_write()),
            outcome => outcome,
        };
        match outcome {
            Ok(()) => {
                point(Step::BeforeConfirm);
                self.health.failing = None;
                self.claimed.clear();
                for pending in std::mem::take(&mut self.pending) {
                    match pending {
                        Pending::Commit { id, durability: Durability::Critical, .. } => {
                            self.send_report(Report::Committed(id));
                        }
                        Pending::Commit { durability: Durability::Relaxed, .. }
                        | Pending::Rows(_) => {}
                    }
                }
                for reply in std::mem::take(&mut self.flushes) {
                    answer(reply, Ok(()));
                }
            }
            Err(error) => self.give_up(&error),
        }
        self.health.waiting = self.pending.len() as u64;
        if self.health.journal_rows >= self.options.journal_rows_max {
            self.checkpoint_or_warn();
        }
    }

    fn give_up(&mut self, error: &FileError) {
        let reason = error.to_string();
        tracing::error!(reason, "the state cannot be written");
        for pending in std::mem::take(&mut self.pending) {
            match pending {
                Pending::Commit { id, durability: Durability::Critical, .. } => {
                    self.send_report(Report::CommitFailed {
                        transaction: id,
                        reason: reason.clone(),
                    });
                }
                confirmed @ (Pending::Commit { durability: Durability::Relaxed, .. }
                | Pending::Rows(_)) => self.pending.push(confirmed),
            }
        }
        for reply in std::mem::take(&mut self.flushes) {
            answer(reply, Err(AskError::Read(reason.clone())));
        }
        if !self.pending.is_empty() {
            self.flush_at = Some(Instant::now() + self.options.sync_interval);
        }
        self.health.failing = Some(reason);
    }

    fn try_write(&mut self) -> Result<(), FileError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        if let Disk::Lost(reason) = &self.disk {
            let reason = reason.clone();
            self.heal(&reason)?;
        }
        let mut sequence = self.sequence;
        let (mut journal, mut rest, mut transactions) = (Vec::new(), Vec::new(), 0);
        for pending in &self.pending {
            match pending {
                Pending::Commit { id, changes, rest: with, .. } => {
                    let rows = journal::rows(*id, changes, &mut sequence)
                        .map_err(|error| FileError::Refused(error.to_string()))?;
                    journal.extend(rows.into_iter().map(Change::Put));
                    rest.extend(with.iter().cloned());
                    transactions += 1;
                }
                Pending::Rows(rows) => rest.extend(rows.iter().cloned()),
            }
        }
        let was = self.health.copy.clone();
        self.files()?.write(&journal, &rest, Purpose::Commit)?;
        self.sequence = sequence;
        self.health.journal_rows += journal.len() as u64;
        self.health.groups += 1;
        self.health.transactions += transactions;
        for pending in &self.pending {
            if let Pending::Commit { id, changes, .. } = pending {
                self.transactions = self.transactions.max(id.0);
                for (key, stored) in changes {
                    let present = self.overlay.get(key);
                    if present.is_none_or(|present| present.version <= stored.version) {
                        self.overlay.insert(*key, stored.clone());
                    }
                }
            }
        }
        self.note_copy(&was);
        Ok(())
    }

    /// The open files.
    fn files(&mut self) -> Result<&mut Files, FileError> {
        match &mut self.disk {
            Disk::Open(files) => Ok(files),
            Disk::Lost(reason) => Err(FileError::Refused(reason.clone())),
        }
    }

    /// Opens the files anew, as at start, after one was found damaged.
    fn heal(&mut self, reason: &str) -> Result<(), FileError> {
        tracing::warn!(reason, "repairing the state's files");
        self.walker = Walker::default();
        // Both files are closed before they are examined.
        self.disk = Disk::Lost(reason.to_owned());
        let recovered = match recover(&self.options.paths(), self.options.pages_max) {
            Ok(recovered) => recovered,
            Err(error) => {
                self.disk = Disk::Lost(error.to_string());
                return Err(FileError::Refused(error.to_string()));
            }
        };
        self.entries = entries(&recovered.files)?;
        self.disk = Disk::Open(Box::new(recovered.files));
        self.overlay.clear();
        self.tombs.clear();
        self.health.journal_rows = 0;
        for finding in recovered.report.findings {
            self.found(finding);
        }
        Ok(())
    }

    fn found(&mut self, finding: crate::Finding) {
        match finding.remedy {
            Remedy::SetAside => tracing::error!(%finding, "the state was damaged"),
            Remedy::None | Remedy::Repaired | Remedy::Restored { .. } => {
                tracing::warn!(%finding, "the state was damaged");
            }
        }
        self.health.findings += 1;
        self.send_report(Report::Found(finding));
    }

    /// Reports when the copy falls behind or catches up.
    fn note_copy(&mut self, was: &crate::CopyHealth) {
        let Disk::Open(files) = &self.disk else { return };
        let now = files.copy_health();
        if *was != now {
            match &now {
                crate::CopyHealth::Behind { reason } => {
                    self.send_report(Report::CopyBehind(reason.clone()));
                }
                crate::CopyHealth::InStep => self.send_report(Report::CopyInStep),
                crate::CopyHealth::None => {}
            }
            self.health.copy = now;
        }
    }

    fn send_report(&self, report: Report) {
        // The receiver may have been dropped; only what is on disk counts.
        let _ = self.report_sender.blocking_send(report);
    }

    fn show_health(&self) {
        self.health_sender.send_if_modified(|shown| {
            let is_new = *shown != self.health;
            if is_new {
                shown.clone_from(&self.health);
            }
            is_new
        });
    }

    fn close(&mut self) -> Result<(), AskError> {
        self.write_pending();
        let mut outcome = match &self.health.failing {
            Some(reason) => Err(AskError::Read(reason.clone())),
            None => Ok(()),
        };
        self.checkpoint_or_warn();
        if let Disk::Open(files) =
            std::mem::replace(&mut self.disk, Disk::Lost("the state is closed".to_owned()))
            && let Err(error) = files.close()
        {
            tracing::error!(%error, "the state's files could not be closed");
            outcome = Err(AskError::Read(error.to_string()));
        }
        self.show_health();
        outcome
    }

    fn claim(&mut self, job: Job) -> Result<Claim, AskError> {
        if let Some(key) = &job.idempotency_key {
            let waiting =
                self.claimed.values().find(|claimed| claimed.idempotency_key.as_ref() == Some(key));
            let present = match waiting {
                Some(waiting) => Some(waiting.clone()),
                None => self.job_of_key(key).map_err(unreadable)?,
            };
            if let Some(present) = present {
                if present.expires > crate::now() {
                    return Ok(if present.body_hash == job.body_hash {
                        Claim::Existing(present)
                    } else {
                        Claim::Different(present)
                    });
                }
                let rows = self.job_rows(&present.id).map_err(unreadable)?;
                self.add_rows(rows);
            }
        }
        if let Some(reason) =
            self.health.failing.clone().filter(|_| self.pending.len() >= PENDING_MAX)
        {
            return Err(AskError::Read(reason));
        }
        self.add_rows(vec![Change::Put(job.row())]);
        self.claimed.insert(job.id.clone(), job);
        Ok(Claim::New)
    }

    fn job_of_key(&mut self, key: &str) -> Result<Option<Job>, FileError> {
        let condition = "WHERE idempotency_key = ?";
        let parameters = [Cell::Text(key.to_owned())];
        let found = self.files()?.first.select(Table::Jobs, condition, &parameters)?;
        let row = match found.into_iter().next() {
            Some(Found::Good(_, row)) => Some(row),
            Some(Found::Bad(_, row)) => self.files()?.get(Table::Jobs, &row.cells[..1])?,
            None => None,
        };
        Ok(row.as_ref().and_then(Job::from_row))
    }

    fn job(&mut self, id: &JobId) -> Result<Option<JobState>, AskError> {
        let job = match self.claimed.get(id) {
            Some(job) => Some(job.clone()),
            None => self
                .files()
                .and_then(|files| files.get(Table::Jobs, &[Cell::Text(id.0.clone())]))
                .map_err(unreadable)?
                .as_ref()
                .and_then(Job::from_row),
        };
        let Some(job) = job.filter(|job| job.expires > crate::now()) else {
            return Ok(None);
        };
        let mut requests: BTreeMap<u32, JobRequest> = BTreeMap::new();
        for payload in self.payloads(id).map_err(unreadable)? {
            let Some((_, index)) = job::job_of(&payload) else { continue };
            let request = RequestId(payload.number(0));
            let outcome = match self.record(Key::request(request)).map_err(unreadable)? {
                Some(Value::Request { outcome, .. }) => outcome,
                // It is written together with its input, so it has been set aside, and the request will never end.
                Some(_) | None => {
                    return Err(AskError::Read(format!("the record of {request} is lost")));
                }
            };
            let entry = requests.entry(index).or_insert(JobRequest {
                request,
                index,
                outcome,
                results: None,
            });
            if payload.text(1) == Some(job::RESULTS) && entry.outcome == Some(Outcome::Answered) {
                entry.results = payload.blob(4).map(<[u8]>::to_vec);
            }
        }
        Ok(Some(JobState { job, requests: requests.into_values().collect() }))
    }

    /// Good payloads of a job.
    fn payloads(&mut self, id: &JobId) -> Result<Vec<Row>, FileError> {
        let parameters = [Cell::Text(id.0.clone())];
        let files = self.files()?;
        let found = files.first.select(Table::Payloads, "WHERE job = ?", &parameters)?;
        let mut rows = Vec::with_capacity(found.len());
        for found in found {
            match found {
                Found::Good(_, row) => rows.push(row),
                Found::Bad(_, row) => rows.extend(files.get(Table::Payloads, &row.cells[..2])?),
            }
        }
        Ok(rows)
    }

    /// A record's value, with changes that are not folded yet.
    fn record(&mut self, key: Key) -> Result<Option<Value>, FileError> {
        let stored = match self.overlay.get(&key) {
            Some(stored) => Some(stored.clone()),
            None => {
                self.files()?.get(Table::Records, &journal::key_cells(key))?.map(|row| Stored {
                    version: Version(row.number(2)),
                    transaction: TransactionId(row.number(3)),
                    body: row.text(4).map(str::to_owned),
                })
            }
        };
        match stored.map(|stored| stored.value()).transpose() {
            Ok(value) => Ok(value.flatten()),
            Err(error) => Err(FileError::Damaged(format!("{key}: {error}"))),
        }
    }

    /// What removes a job with its payloads.
    fn job_rows(&mut self, id: &JobId) -> Result<Vec<Change>, FileError> {
        let mut rows = vec![Change::Delete(Table::Jobs, vec![Cell::Text(id.0.clone())])];
        for payload in self.payloads(id)? {
            rows.push(Change::Delete(Table::Payloads, payload.cells[..2].to_vec()));
        }
        Ok(rows)
    }

    /// Removes jobs that were only partly accepted when the daemon ended; gives the records that went with them.
    pub(crate) fn forget_unfinished(
        &mut self,
        report: &OpenReport,
    ) -> Result<BTreeSet<Key>, FileError> {
        let mut forgotten = BTreeSet::new();
        // Requests may be missing because their rows were set aside, and then the client must get that error.
        if report.findings.iter().any(|finding| finding.remedy == Remedy::SetAside) {
            return Ok(forgotten);
        }
        let condition = "WHERE requests > (SELECT count(DISTINCT job_index) FROM payloads \
                         WHERE payloads.job = jobs.id)";
        let found = self.files()?.first.select(Table::Jobs, condition, &[])?;
        let mut rows = Vec::new();
        for found in found {
            let Found::Good(_, row) = found else { continue };
            let Some(job) = Job::from_row(&row) else { continue };
            for payload in self.payloads(&job.id)? {
                let key = Key::request(RequestId(payload.number(0)));
                rows.push(Change::Delete(Table::Records, journal::key_cells(key).into()));
                forgotten.insert(key);
            }
            rows.extend(self.job_rows(&job.id)?);
        }
        if !rows.is_empty() {
            self.files()?.write(&[], &rows, Purpose::Upkeep)?;
        }
        Ok(forgotten)
    }

    /// Requests without an outcome, with their inputs.
    pub(crate) fn open_requests(
        &mut self,
        records: &[(Key, Version, Value)],
    ) -> Result<Vec<OpenRequest>, FileError> {
        let mut open = Vec::new();
        for (key, _, value) in records {
            if !matches!(value, Value::Request { outcome: None, .. }) {
                continue;
            }
            let payload = [number(key.id), Cell::Text(job::INPUT.to_owned())];
            let input = self.files()?.get(Table::Payloads, &payload)?;
            open.push(OpenRequest {
                request: RequestId(key.id),
                job: input.as_ref().and_then(job::job_of),
                input: input.as_ref().and_then(|row| row.blob(4)).map(<[u8]>::to_vec),
            });
        }
        Ok(open)
    }
}

/// What removes the payloads of a request.
fn payload_removal(request: u64) -> impl Iterator<Item = Change> {
    [job::INPUT, job::RESULTS].into_iter().map(move |part| {
        Change::Delete(Table::Payloads, vec![number(request), Cell::Text(part.to_owned())])
    })
}

fn entries(files: &Files) -> Result<Entries, FileError> {
    Ok(Entries {
        audit: files.first.highest(Table::Audit)?,
        recoveries: files.first.highest(Table::Recoveries)?,
        set_aside: files.first.highest(Table::SetAside)?,
    })
}

fn answer<T>(reply: Answer<T>, outcome: Result<T, AskError>) {
    // The caller may have stopped waiting.
    let _ = reply.send(outcome);
}

fn unreadable(error: FileError) -> AskError {
    AskError::Read(error.to_string())
}
