//! A browser for oneself: `pool.acquire_worker("task")` gives one until it is dropped.

use std::time::Duration;

use flotilla_fleet::{Failure, FailureKind, ModelId, Policy, RequestError, TaskId};
use flotilla_protocol::BrowserId;
use serde::Serialize;
use tokio::sync::{oneshot, watch};

use super::{Answer, AnswerError, Command, Input, Pool, Terms};

/// Why a task has no browser, or no longer.
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
    #[error("worker of task {task} is gone: {failure}")]
    Gone { task: String, failure: Failure },
    #[error(transparent)]
    Answer(AnswerError),
    #[error("the pool has ended")]
    PoolEnded,
}

/// What the pool's workers are doing.
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

/// What the pool tells a waiting or working task.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    Waits,
    Has(BrowserId),
    Over(WorkerError),
}

/// A task's browser. Nobody else's requests run on it; dropping this gives it back.
#[derive(Debug)]
pub struct Worker {
    pool: Pool,
    task: TaskId,
    browser: BrowserId,
    told: watch::Receiver<Told>,
    // Dropped with the worker: that is the release.
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
        let policy = Policy { task: Some(self.task), ..Policy::default() };
        let terms = Terms { timeout, policy, job: None, recorded: None };
        match self.pool.run(model, input, terms).await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.over(error).await),
        }
    }

    /// Waits until the browser is taken away.
    pub async fn lost(&self) -> WorkerError {
        let mut told = self.told.clone();
        let over = told.wait_for(|told| matches!(told, Told::Over(_))).await;
        match over.as_deref() {
            Ok(Told::Over(error)) => error.clone(),
            Ok(Told::Waits | Told::Has(_)) | Err(_) => WorkerError::PoolEnded,
        }
    }

    /// What a failed computation says, once it is known whether the browser was taken away.
    async fn over(&self, error: AnswerError) -> WorkerError {
        match error {
            AnswerError::Request(RequestError::TaskEnded { .. }) => self.lost().await,
            other => WorkerError::Answer(other),
        }
    }
}

impl Pool {
    /// Waits for a browser that nobody else uses and keeps it for a task, for at most `worker_timeout` altogether.
    ///
    /// # Errors
    /// None was free in time, or the pool has ended.
    pub async fn acquire_worker(&self, task: &str) -> Result<Worker, WorkerError> {
        let (reply, acquired) = oneshot::channel();
        let (held, released) = oneshot::channel();
        let command = Command::Acquire { name: task.to_owned(), reply, released };
        self.commands.send(command).await.map_err(|_| WorkerError::PoolEnded)?;
        let (task, mut told) = acquired.await.map_err(|_| WorkerError::PoolEnded)?;
        let news = told.wait_for(|told| !matches!(told, Told::Waits)).await;
        let browser = match news.as_deref() {
            Ok(Told::Has(browser)) => *browser,
            Ok(Told::Over(error)) => return Err(error.clone()),
            Ok(Told::Waits) | Err(_) => return Err(WorkerError::PoolEnded),
        };
        drop(news);
        Ok(Worker { pool: self.clone(), task, browser, told, _held: held })
    }

    /// What the workers are doing; `None` once the pool has ended.
    pub async fn get_pool_status(&self) -> Option<PoolStatus> {
        let (reply, status) = oneshot::channel();
        self.commands.send(Command::Workers { reply }).await.ok()?;
        status.await.ok()
    }
}

/// What is told to a task whose browser is taken away.
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
