//! What outlives the daemon: the fleet's records, requests with their inputs and results, the audit trail.
//!
//! One thread owns two SQLite files. A transaction is a few rows of a journal, durable in the first file and then in its copy
//! before it is confirmed; transactions that wait together are written together. From time to time the journal is folded into the
//! table of records. Every row has a checksum, at opening and in the background all are verified, and what is wrong in one file is
//! repaired from the other.

mod crash;
mod file;
mod files;
mod job;
mod journal;
mod lock;
mod log;
mod recover;
mod report;
mod row;
mod view;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::{
        LazyLock,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    time::{Duration, Instant, SystemTime},
};

use flotilla_fleet::state::{Key, Value, Version};
use tokio::sync::{mpsc, oneshot, watch};

pub use job::{Claim, Commit, Content, Job, JobId, JobRequest, JobState, OpenRequest, Payload};
pub use lock::LockError;
pub use log::{AuditEntry, RecoveryEntry};
pub use recover::RecoverError;
pub use report::{CopyHealth, Finding, Health, OpenReport, RecordName, Remedy, Report, Which};
pub use view::{RecordView, Snapshot, Verified, VerifiedFile, ViewError, duration, repair, verify};

use files::Paths;
use writer::{Command, Writer};

/// Most transactions, jobs and queries that wait for the writer.
const QUEUE_MAX: usize = 1024;

/// Where the state is and how it is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of `state.sqlite`.
    pub dir: PathBuf,
    /// Folder of `state-copy.sqlite`, by preference on another disk; `None` for a single copy.
    pub copy_dir: Option<PathBuf>,
    /// Longest time until a relaxed transaction is on disk.
    pub sync_interval: Duration,
    /// Time between two slices of the background verification.
    pub verify_interval: Duration,
    /// Rows of the journal at which it is folded into the records.
    pub journal_rows_max: u64,
    /// Longest time without a try to write a copy that fell behind.
    pub copy_retry_interval: Duration,
    /// How long audit and recoveries are kept.
    pub log_keep: Duration,
    /// Most pages of 4096 bytes that the first file may have.
    pub pages_max: Option<u32>,
}

impl Options {
    /// Two copies under a data folder.
    pub fn of(home: &Path) -> Options {
        let dir = home.join("state");
        Options {
            copy_dir: Some(dir.clone()),
            dir,
            sync_interval: Duration::from_millis(500),
            verify_interval: Duration::from_secs(1),
            journal_rows_max: 8192,
            copy_retry_interval: Duration::from_secs(10),
            log_keep: Duration::from_secs(7 * 24 * 3600),
            pages_max: None,
        }
    }

    /// The same, with the copies that the options ask for: the second one in its own folder if one is given, none if the
    /// redundancy factor is 1.
    pub fn with_copies(self, copy_dir: Option<PathBuf>, redundancy_factor: Option<u32>) -> Options {
        let copy_dir = match (copy_dir, redundancy_factor) {
            (Some(dir), _) => Some(dir),
            (None, Some(0 | 1)) => None,
            (None, _) => self.copy_dir,
        };
        Options { copy_dir, ..self }
    }

    fn paths(&self) -> Paths {
        Paths {
            first: self.dir.join("state.sqlite"),
            copy: self.copy_dir.as_ref().map(|dir| dir.join("state-copy.sqlite")),
        }
    }
}

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum OpenError {
    #[error("the state's folder {} cannot be made: {source}", .path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("the state cannot be used: {0}")]
    Recover(#[from] RecoverError),
    #[error("the state cannot be read: {0}")]
    Read(String),
    #[error("the state's thread cannot be started: {0}")]
    Thread(#[source] std::io::Error),
}

/// Why the store does not accept a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Its queue is full.
    #[error("the state's queue is full")]
    Full,
    /// Its thread has ended.
    #[error("the state is closed")]
    Closed,
}

/// Why a query to the store failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// It was not accepted.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// It could not be read.
    #[error("the state cannot be read: {0}")]
    Read(String),
}

/// What a store held when it was opened.
#[derive(Debug)]
pub struct Opened {
    /// Every record.
    pub records: Vec<(Key, Version, Value)>,
    /// The highest transaction; later ones are named after it.
    pub transactions: u64,
    /// Requests without an outcome.
    pub open_requests: Vec<OpenRequest>,
    /// What was found wrong, and what was done about it.
    pub report: OpenReport,
    /// Reports from now on. They must be received: the writer waits when the channel is full.
    pub reports: mpsc::Receiver<Report>,
}

/// A handle of an open store. When the last one is dropped, what waits is written and the files are closed.
#[derive(Clone, Debug)]
pub struct Store {
    commands: SyncSender<Command>,
    health: watch::Receiver<Health>,
}

impl Store {
    /// Opens the store of a folder, making it if it is not there. This reads and verifies everything, so it takes a while.
    ///
    /// # Errors
    /// Another process has it, it was written by a newer program, or neither file can be used.
    pub fn open(options: Options) -> Result<(Store, Opened), OpenError> {
        std::fs::create_dir_all(&options.dir)
            .map_err(|source| OpenError::Folder { path: options.dir.clone(), source })?;
        let lock = lock::Lock::take(&options.dir)?;
        let recovered = recover::recover(&options.paths(), options.pages_max)?;
        let (commands, queue) = sync_channel(QUEUE_MAX);
        let (report_sender, reports) = mpsc::channel(QUEUE_MAX);
        let (health_sender, health) = watch::channel(Health::default());
        let (records, transactions, report) =
            (recovered.records, recovered.transactions, recovered.report);
        let mut writer = Writer::new(
            options,
            recovered.files,
            transactions,
            &report,
            report_sender,
            health_sender,
        )
        .map_err(|error| OpenError::Read(error.to_string()))?;
        let unfinished = writer
            .forget_unfinished(&report)
            .map_err(|error| OpenError::Read(error.to_string()))?;
        let records: Vec<_> =
            records.into_iter().filter(|(key, ..)| !unfinished.contains(key)).collect();
        let open_requests =
            writer.open_requests(&records).map_err(|error| OpenError::Read(error.to_string()))?;
        std::thread::Builder::new()
            .name("flotilla-store".to_owned())
            .spawn(move || {
                let closed = writer.run(&queue);
                // From here on commits are refused here, and another process may open the files.
                drop(queue);
                drop(lock);
                if let Some((reply, outcome)) = closed {
                    // The caller may have stopped waiting.
                    let _ = reply.send(outcome);
                }
            })
            .map_err(OpenError::Thread)?;
        let opened = Opened { records, transactions, open_requests, report, reports };
        Ok((Store { commands, health }, opened))
    }

    /// Hands a transaction to the writer, which reports its end. Never waits.
    ///
    /// # Errors
    /// The queue is full or the store closed; nothing will be reported.
    pub fn commit(&self, commit: Commit) -> Result<(), SubmitError> {
        self.submit(Command::Commit(commit))
    }

    /// Adds to the audit trail, which is written with what follows. Never waits.
    ///
    /// # Errors
    /// The queue is full or the store closed.
    pub fn audit(&self, entry: AuditEntry) -> Result<(), SubmitError> {
        self.submit(Command::Audit(entry))
    }

    /// Adds to the history of failures, which is written with what follows. Never waits.
    ///
    /// # Errors
    /// The queue is full or the store closed.
    pub fn recovery(&self, entry: RecoveryEntry) -> Result<(), SubmitError> {
        self.submit(Command::Recovery(entry))
    }

    /// Makes a job, unless its key belongs to another one.
    ///
    /// # Errors
    /// The store cannot be queried.
    pub async fn claim(&self, job: Job) -> Result<Claim, AskError> {
        self.ask(|reply| Command::Claim { job: Box::new(job), reply }).await
    }

    /// A job that has not expired, by its name.
    ///
    /// # Errors
    /// The store cannot be queried.
    pub async fn job(&self, id: JobId) -> Result<Option<JobState>, AskError> {
        self.ask(|reply| Command::Job { id, reply }).await
    }

    /// Removes a job whose requests were not accepted.
    ///
    /// # Errors
    /// The queue is full or the store closed.
    pub fn abandon(&self, id: JobId) -> Result<(), SubmitError> {
        self.submit(Command::Abandon(id))
    }

    /// Waits until everything that was handed over before is on disk.
    ///
    /// # Errors
    /// It cannot be written, or the store is closed.
    pub async fn flush(&self) -> Result<(), AskError> {
        self.ask(|reply| Command::Flush { reply }).await
    }

    /// Writes what waits and closes the files, even if there are other handles; returns when another process can open them.
    ///
    /// # Errors
    /// It cannot be written, or the store is closed already.
    pub async fn close(&self) -> Result<(), AskError> {
        self.ask(|reply| Command::Close { reply }).await
    }

    /// Health of the store.
    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    /// The same, for waiting on its changes.
    pub fn health_changes(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    fn submit(&self, command: Command) -> Result<(), SubmitError> {
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => SubmitError::Full,
            TrySendError::Disconnected(_) => SubmitError::Closed,
        })
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, AskError>>) -> Command,
    ) -> Result<T, AskError> {
        let (reply, answer) = oneshot::channel();
        self.submit(command(reply))?;
        answer.await.map_err(|_| SubmitError::Closed)?
    }
}

/// The time by which jobs are made and expire: the system's when this process first asked, and from then on as much later as
/// has passed. A system clock that is set while the daemon runs makes no job expire early or late.
pub fn now() -> SystemTime {
    static BEGIN: LazyLock<(SystemTime, Instant)> =
        LazyLock::new(|| (SystemTime::now(), Instant::now()));
    BEGIN.0 + BEGIN.1.elapsed()
}

/// The same in milliseconds since 1970.
fn now_ms() -> u64 {
    job::millis(now())
}
