//! Leases of browsers: `pool.acquire_worker("task")` returns a browser for exclusive use until it is dropped.

use std::time::Duration;

use flotilla_fleet::{Failure, FailureKind, LeaseId, ModelId, Policy, RequestError};
use flotilla_protocol::BrowserId;
use serde::Serialize;
use tokio::sync::{oneshot, watch};

use super::{Answer, AnswerError, Command, Input, Pool, Terms};

/// Why a task has no browser or lost it.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum WorkerError {
    #[error("worker of task {task} timed out: {used:?} used, {allowed:?} allowed")]
    WorkerTimeout { task: String, used: Duration, allowed: Duration },
    #[error(
        "worker of task {task} took too much memory: {used_bytes} bytes used, {allowed_bytes} allowed"
    )]
    WorkerMemory { task: String, used_bytes: u64, allowed_bytes: u64 },
    #[error("no worker was free for task {task} within {waited:?}")]
    Unavailable { task: String, waited: Duration },
    #[error("worker of task {task} has ended: {failure}")]
    Gone { task: String, failure: Failure },
    #[error(transparent)]
    Answer(AnswerError),
    #[error("the pool has ended")]
    PoolEnded,
}

/// Status of the pool's workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PoolStatus {
    /// Browsers that could be acquired now.
    pub available_workers: usize,
    /// Browsers that are kept.
    pub total_workers: usize,
    /// Tasks that have one.
    pub active_tasks: usize,
    /// Their names.
    pub active_task_ids: Vec<String>,
}

/// Status of a task's lease.
#[derive(Clone, Debug)]
pub(crate) enum LeaseStatus {
    Waiting,
    Granted(BrowserId),
    Ended(WorkerError),
}

/// A task's browser. No other requests run on it; dropping this releases it.
#[derive(Debug)]
pub struct Worker {
    pool: Pool,
    task: LeaseId,
    browser: BrowserId,
    status: watch::Receiver<LeaseStatus>,
    // Dropped with the worker, which releases the lease.
    _held: oneshot::Sender<()>,
}

impl Worker {
    /// The browser.
    pub fn browser(&self) -> BrowserId {
        self.browser
    }

    /// Computes on this browser alone.
    ///
    /// # Errors
    /// The computation failed, or the browser was taken away: for its time or its memory, or because it failed itself.
    pub async fn run(
        &self,
        model: ModelId,
        input: Input,
        timeout: Duration,
    ) -> Result<Answer, WorkerError> {
        let policy = Policy { lease: Some(self.task), ..Policy::default() };
        let terms = Terms { timeout, policy, job: None, recorded: None };
        match self.pool.run(model, input, terms).await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.over(error).await),
        }
    }

    /// Waits until the browser is taken away.
    pub async fn lost(&self) -> WorkerError {
        let mut status = self.status.clone();
        let over = status.wait_for(|status| matches!(status, LeaseStatus::Ended(_))).await;
        match over.as_deref() {
            Ok(LeaseStatus::Ended(error)) => error.clone(),
            Ok(LeaseStatus::Waiting | LeaseStatus::Granted(_)) | Err(_) => WorkerError::PoolEnded,
        }
    }

    /// The error of a failed computation; if the lease has ended, the reason for that.
    async fn over(&self, error: AnswerError) -> WorkerError {
        match error {
            AnswerError::Request(RequestError::LeaseEnded { .. }) => self.lost().await,
            other => WorkerError::Answer(other),
        }
    }
}

impl Pool {
    /// Waits for a free browser and leases it to a task, for at most `worker_timeout` altogether.
    ///
    /// # Errors
    /// None was free in time, or the pool has ended.
    pub async fn acquire_worker(&self, task: &str) -> Result<Worker, WorkerError> {
        let (reply, acquired) = oneshot::channel();
        let (held, released) = oneshot::channel();
        let command = Command::Acquire { name: task.to_owned(), reply, released };
        self.commands.send(command).await.map_err(|_| WorkerError::PoolEnded)?;
        let (task, mut status) = acquired.await.map_err(|_| WorkerError::PoolEnded)?;
        let news = status.wait_for(|status| !matches!(status, LeaseStatus::Waiting)).await;
        let browser = match news.as_deref() {
            Ok(LeaseStatus::Granted(browser)) => *browser,
            Ok(LeaseStatus::Ended(error)) => return Err(error.clone()),
            Ok(LeaseStatus::Waiting) | Err(_) => return Err(WorkerError::PoolEnded),
        };
        drop(news);
        Ok(Worker { pool: self.clone(), task, browser, status, _held: held })
    }

    /// Status of the workers; `None` once the pool has ended.
    pub async fn get_pool_status(&self) -> Option<PoolStatus> {
        let (reply, status) = oneshot::channel();
        self.commands.send(Command::Workers { reply }).await.ok()?;
        status.await.ok()
    }
}

/// The error for a task whose browser is taken away.
pub(super) fn over(
    task: String,
    failure: Failure,
    used: Duration,
    allowed: Duration,
    memory: (u64, u64),
    had_browser: bool,
) -> WorkerError {
    match failure.kind {
        FailureKind::DeadlineExceeded => WorkerError::WorkerTimeout { task, used, allowed },
        FailureKind::MemoryLimitExceeded => {
            let (used_bytes, allowed_bytes) = memory;
            WorkerError::WorkerMemory { task, used_bytes, allowed_bytes }
        }
        FailureKind::Overloaded if !had_browser => WorkerError::Unavailable { task, waited: used },
        FailureKind::Overloaded
        | FailureKind::ConnectionLost
        | FailureKind::PageCrashed
        | FailureKind::BrowserExited
        | FailureKind::DriverUnresponsive
        | FailureKind::DeviceLost
        | FailureKind::OutOfMemory
        | FailureKind::UnsupportedOperation
        | FailureKind::RunRefused
        | FailureKind::WrongResult => WorkerError::Gone { task, failure },
    }
}
