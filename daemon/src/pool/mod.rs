//! The loop around the fleet core: turns what happens into its events and does what it orders.
//!
//! One task owns the core, the browsers' owners, their links and every waiting request. Everybody else holds a [`Pool`]
//! and sends it commands. `select!` only builds an input; `State::receive` decides what becomes of it.

use std::{
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use flotilla_fleet::{
    Attempt, Batching, Choice, Failure, FailureKind, ModelId, Policy, RequestError, Role, Status,
    TaskId,
};
use flotilla_protocol::{
    AdapterInfo, Backend, BackendReport, BrowserId, Device, Hello, PlacementId, RequestId, Split,
    Tensor, TensorError,
};
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    browser::{
        Adapter, Channel, Facts, Wish,
        fault::{Fault, FaultError},
        owner::{Limits, Outcome, Script},
    },
    catalog::Catalog,
    link::{Inbox, Outbox},
    store::{Health, JobId, Store},
};

mod answers;
mod batch;
mod measure;
mod pages;
mod perform;
mod record;
mod recoveries;
mod speeds;
mod state;
#[cfg(test)]
mod tests;
mod worker;

pub(crate) use batch::{FixedSizes, single_row, takes_tokens};
pub use measure::{Chosen, MeasuredBackend, RefusedBackend};
pub use record::Recorded;
pub(crate) use record::decode_answer;
pub use recoveries::RecoverySummary;
use worker::Told;
pub use worker::{PoolStatus, Worker, WorkerError};

/// Most commands and reports that wait for the loop: the cancellations of a client's longest list, and then some.
const QUEUE_MAX: usize = 4096;

/// What a pool is made with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Browsers to keep.
    pub wishes: Vec<Wish>,
    /// Simulated browsers for requests that allow them as the last resort.
    pub fallback: Vec<Wish>,
    /// How closely browsers are watched.
    pub limits: Limits,
    /// Whether real browsers' pages can be given faults on purpose.
    pub takes_faults: bool,
    /// Longest time from this daemon's start to the answer of a request that an earlier one left open.
    pub resume_timeout: Duration,
    /// Limits and budgets of the core; its slots are made from `wishes`.
    pub fleet: flotilla_fleet::Config,
    /// Which backend is used where several are allowed.
    pub choice: Choice,
    /// The processor that webnn is asked for.
    pub device: Option<Device>,
    /// Where nodes run that webnn does not take; without it such programs are refused.
    pub rest: Option<Backend>,
    /// Data folder in which it is kept what backends were measured; `None` for nowhere.
    pub speeds: Option<PathBuf>,
    /// How requests are joined.
    pub batching: Batching,
    /// How often a page's main thread shows that it lives.
    pub heartbeat: Duration,
    /// The program that has the `guardian` subcommand.
    pub guardian: PathBuf,
    /// Marks processes as this data directory's.
    pub data_dir_id: String,
}

impl Options {
    /// The browser of each slot and what the slot is for, in the order of the core's slots.
    pub(super) fn slots(&self) -> impl Iterator<Item = (&Wish, Role)> {
        let regular = self.wishes.iter().map(|wish| (wish, Role::Regular));
        regular.chain(self.fallback.iter().map(|wish| (wish, Role::Fallback)))
    }
}

/// What is agreed about requests.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Longest time to their answers.
    pub timeout: Duration,
    /// What is done when something fails.
    pub policy: Policy,
    /// The recorded job that they are; they are then [`flotilla_fleet::Persistence::Record`].
    pub job: Option<JobId>,
    /// Told once the job is recorded; dropped if it never is.
    pub recorded: Option<mpsc::Sender<()>>,
}

impl From<Duration> for Terms {
    fn from(timeout: Duration) -> Terms {
        Terms { timeout, policy: Policy::default(), job: None, recorded: None }
    }
}

/// What a client wants computed.
#[derive(Clone, Debug)]
pub enum Input {
    /// One row of token ids; may be joined with others into a batch.
    Tokens(Vec<u32>),
    /// All inputs of the program, in its order; runs alone.
    Tensors(Vec<Tensor>),
}

/// Who computed an answer, and how long it took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Name of the browser's build.
    pub browser: String,
    /// The browser's own version.
    pub browser_version: String,
    /// Its release channel, as far as path or version tell.
    #[serde(default)]
    pub browser_channel: Channel,
    /// Name of the browser in this pool.
    pub browser_id: String,
    /// Where in the page it ran.
    pub backend: Backend,
    /// The processor that webnn was asked for; where it computes, it does not say.
    #[serde(default)]
    pub device: Option<Device>,
    /// Which nodes ran elsewhere, if not all ran on the backend.
    #[serde(default)]
    pub split: Option<Split>,
    /// Why this backend was used.
    #[serde(default)]
    pub chosen: Chosen,
    /// What the backend ran on, in the browser's words.
    pub adapter: String,
    /// Chromium's route to WebGPU, where one was taken; browsers say little or nothing of software adapters.
    pub webgpu_adapter: Option<Adapter>,
    /// Why a preferred backend was not used; `None` when the first preference was.
    pub fallback: Option<String>,
    /// Whether native code played the browser.
    pub simulated: bool,
    /// In-page time of the run, in milliseconds.
    pub run_ms: f64,
    /// Rows that shared the run.
    pub rows: usize,
    /// Pipelines that this placement created after it was loaded.
    pub pipelines_created: u32,
    /// Failed attempts before this one.
    pub tried: Vec<String>,
}

/// Results of a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The program's outputs; for [`Input::Tokens`] only this row's part, with a batch dimension of 1.
    pub outputs: Vec<Tensor>,
    /// Who computed them.
    pub provenance: Arc<Provenance>,
}

/// Why a request has no results.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum AnswerError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("the pool has ended")]
    PoolEnded,
    #[error("a page's results do not have the declared shape: {0}")]
    Shape(#[from] TensorError),
    #[error("a page's results do not have the declared shape: {got} rows for {want} requests")]
    Rows { got: usize, want: usize },
    #[error("results of run {run} are not there any more")]
    Lost { run: String },
}

/// A browser as it is now.
#[derive(Clone, Debug)]
pub struct BrowserView {
    /// Name in this pool.
    pub browser: BrowserId,
    /// What is known about it, once it runs.
    pub facts: Option<Facts>,
    /// What its page offers, once it has said so.
    pub backends: Vec<BackendReport>,
}

/// The pool as it is now.
#[derive(Clone, Debug)]
pub struct View {
    /// The core's state.
    pub status: Status,
    /// Every browser that is not ended.
    pub browsers: Vec<BrowserView>,
    /// Every placement that is loaded.
    pub loaded: Vec<Loaded>,
    /// Loads under way: model, verified bytes, total bytes.
    pub loads: Vec<(BrowserId, ModelId, u64, u64)>,
    /// How the recorded state is; `None` where none is kept.
    pub store: Option<Health>,
    /// How failures were dealt with since the pool was started.
    pub recoveries: Vec<RecoverySummary>,
}

/// A placement that is loaded.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The placement.
    pub placement: PlacementId,
    /// What it runs on.
    pub adapter: AdapterInfo,
    /// Which nodes run elsewhere, if not all run on its backend.
    pub split: Option<Split>,
    /// The processor that webnn was asked for.
    pub device: Option<Device>,
    /// From the order to load until it answered.
    pub load_us: u64,
}

#[derive(Debug)]
pub(crate) enum Command {
    Run {
        model: ModelId,
        terms: Terms,
        requests: Vec<NewRequest>,
    },
    WaitJob {
        job: JobId,
        reply: oneshot::Sender<()>,
    },
    Acquire {
        name: String,
        reply: oneshot::Sender<(TaskId, watch::Receiver<Told>)>,
        released: oneshot::Receiver<()>,
    },
    Migrate {
        model: ModelId,
        from: BrowserId,
        to: BrowserId,
        reply: oneshot::Sender<Result<(), Failure>>,
    },
    Recycle {
        browser: BrowserId,
        reason: String,
    },
    Workers {
        reply: oneshot::Sender<PoolStatus>,
    },
    Fault {
        browser: BrowserId,
        fault: Fault,
        reply: oneshot::Sender<Result<Outcome, FaultError>>,
    },
    Cancel {
        requests: Range<u64>,
    },
    View {
        reply: oneshot::Sender<View>,
    },
    Drain,
    LinkHello {
        hello: Hello,
        outbox: Outbox,
        reply: oneshot::Sender<Result<(BrowserId, u32), String>>,
    },
    PageFailure {
        token: String,
        error: String,
    },
    Execute {
        browser: BrowserId,
        script: Script,
    },
}

/// A request and where its answer goes.
#[derive(Debug)]
pub(crate) struct NewRequest {
    request: RequestId,
    input: Input,
    reply: oneshot::Sender<Reply>,
}

type Reply = Result<Answer, AnswerError>;

/// Handle of a running pool.
#[derive(Clone, Debug)]
pub struct Pool {
    commands: mpsc::Sender<Command>,
    inbox: Inbox,
    changed: watch::Receiver<u64>,
    requests: Arc<AtomicU64>,
    store: Option<Store>,
}

/// Cancels requests when their client goes away before the answers.
struct Cancel<'a> {
    requests: Range<u64>,
    commands: &'a mpsc::Sender<Command>,
}

impl Drop for Cancel<'_> {
    fn drop(&mut self) {
        if !self.requests.is_empty() {
            // A full queue costs only that the requests are computed for nobody.
            let _ = self.commands.try_send(Command::Cancel { requests: self.requests.clone() });
        }
    }
}

/// What ends when the pool has drained and every browser's processes are gone.
pub type Ended = tokio::task::JoinHandle<()>;

impl Pool {
    /// Starts browsers for a catalog's models. `origin` is where the runner page is served: `http://127.0.0.1:PORT`.
    /// `recorded` is the state that an earlier daemon left; without one nothing outlives this pool.
    pub fn start(
        options: Options,
        catalog: Arc<Catalog>,
        origin: String,
        recorded: Option<Recorded>,
    ) -> (Pool, Ended) {
        let (commands, command_queue) = mpsc::channel(QUEUE_MAX);
        let (inbox, link_queue) = Inbox::new();
        let (owners, owner_queue) = mpsc::channel(QUEUE_MAX);
        let (releases, release_queue) = mpsc::channel(QUEUE_MAX);
        let (change, changed) = watch::channel(0);
        let (mut recorded, mut requests, mut stored) = (recorded, 0, mpsc::channel(1).1);
        if let Some(Recorded { opened, .. }) = &mut recorded {
            requests = record::first_request(opened);
            stored = std::mem::replace(&mut opened.reports, stored);
        }
        let store = recorded.as_ref().map(|recorded| recorded.store.clone());
        let state = state::State::new(options, catalog, origin, owners, change, releases, recorded);
        let queues = state::Queues {
            commands: command_queue,
            links: link_queue,
            owners: owner_queue,
            released: release_queue,
            stored,
        };
        let requests = Arc::new(AtomicU64::new(requests));
        (Pool { commands, inbox, changed, requests, store }, tokio::spawn(state.run(queues)))
    }

    /// Where jobs are recorded, if anywhere.
    pub fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// Waits until a job has no open request.
    pub async fn wait_job(&self, job: &JobId) {
        let (reply, ended) = oneshot::channel();
        // A pool that has ended has no open requests, and nothing is ever sent: the sender is dropped.
        if self.commands.send(Command::WaitJob { job: job.clone(), reply }).await.is_ok() {
            let _ = ended.await;
        }
    }

    /// Moves a model from one browser to another: it is loaded there, that is recorded, and only then it is unloaded here.
    ///
    /// # Errors
    /// What failed on the way; everything is as it was.
    pub async fn migrate(
        &self,
        model: ModelId,
        from: BrowserId,
        to: BrowserId,
    ) -> Result<(), Failure> {
        let (reply, moved) = oneshot::channel();
        let ended = || Failure::new(FailureKind::BrowserExited, "the pool has ended");
        let command = Command::Migrate { model, from, to, reply };
        self.commands.send(command).await.map_err(|_| ended())?;
        moved.await.map_err(|_| ended())?
    }

    /// Replaces a browser as soon as it has ended what it runs.
    pub async fn recycle(&self, browser: BrowserId, reason: &str) {
        // A pool that has ended has no browser left.
        let command = Command::Recycle { browser, reason: reason.to_owned() };
        let _ = self.commands.send(command).await;
    }

    /// Gives a browser a fault on purpose.
    ///
    /// # Errors
    /// It cannot suffer that, or is not there.
    pub async fn fault(&self, browser: BrowserId, fault: Fault) -> Result<(), FaultError> {
        let (reply, outcome) = oneshot::channel();
        let command = Command::Fault { browser, fault, reply };
        self.commands.send(command).await.map_err(|_| FaultError::NotTaken)?;
        let outcome = outcome.await.map_err(|_| FaultError::NotTaken)??;
        // One that kills the browser is not answered by it.
        outcome.await.unwrap_or(Ok(()))
    }

    /// Computes one request, at the latest within `timeout`. Dropping the future cancels the request.
    ///
    /// # Errors
    /// Refused, failed on every attempt, or past its deadline; the error says what was tried.
    pub async fn run(&self, model: ModelId, input: Input, terms: impl Into<Terms>) -> Reply {
        self.run_all(model, vec![input], terms).await?.pop().ok_or(AnswerError::PoolEnded)
    }

    /// Computes requests that arrive together, and so can share runs. Dropping the future cancels them.
    ///
    /// # Errors
    /// The first request that has no answer; the others are cancelled.
    pub async fn run_all(
        &self,
        model: ModelId,
        inputs: Vec<Input>,
        terms: impl Into<Terms>,
    ) -> Result<Vec<Answer>, AnswerError> {
        let count = inputs.len() as u64;
        let first = self.requests.fetch_add(count, Ordering::Relaxed);
        let (requests, answers): (Vec<NewRequest>, Vec<oneshot::Receiver<Reply>>) = (first..)
            .map(RequestId)
            .zip(inputs)
            .map(|(request, input)| {
                let (reply, answer) = oneshot::channel();
                (NewRequest { request, input, reply }, answer)
            })
            .unzip();
        let command = Command::Run { model, terms: terms.into(), requests };
        self.commands.send(command).await.map_err(|_| AnswerError::PoolEnded)?;
        let mut cancel = Cancel { requests: first..first + count, commands: &self.commands };
        let answers = answers
            .into_iter()
            .map(async |answer| answer.await.map_err(|_| AnswerError::PoolEnded)?);
        let answers = try_join_all(answers).await?;
        cancel.requests = 0..0;
        Ok(answers)
    }

    /// The pool as it is now; `None` once it has ended.
    pub async fn view(&self) -> Option<View> {
        let (reply, view) = oneshot::channel();
        self.commands.send(Command::View { reply }).await.ok()?;
        view.await.ok()
    }

    /// Waits until `enough` says yes of the pool, looking whenever something changes. `None` if the pool ends first.
    pub async fn wait_until(&self, mut enough: impl FnMut(&View) -> bool) -> Option<View> {
        let mut changed = self.changed.clone();
        loop {
            changed.mark_unchanged();
            let view = self.view().await?;
            if enough(&view) {
                return Some(view);
            }
            changed.changed().await.ok()?;
        }
    }

    /// Answers what is accepted, accepts no more, then ends every browser. A second call does not wait for answers.
    pub async fn drain(&self) {
        // A pool that has ended has drained.
        let _ = self.commands.send(Command::Drain).await;
    }

    /// A page's failure to start its runtime, in its own words.
    pub async fn page_failure(&self, token: String, error: String) {
        let _ = self.commands.send(Command::PageFailure { token, error }).await;
    }

    /// Runs a script in a browser's page, on its main thread: the body of a function that calls its last argument with
    /// the result.
    ///
    /// # Errors
    /// The driver's words, or that there is no such browser.
    pub async fn execute(
        &self,
        browser: BrowserId,
        body: &str,
        arguments: Vec<serde_json::Value>,
    ) -> Result<serde_json::Value, String> {
        let (reply, result) = oneshot::channel();
        let script = Script { body: body.to_owned(), arguments, reply };
        let gone = || format!("browser {browser} is not there");
        self.commands.send(Command::Execute { browser, script }).await.map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }

    pub(crate) async fn hello(
        &self,
        hello: Hello,
        outbox: Outbox,
    ) -> Result<(BrowserId, u32), String> {
        let (reply, admitted) = oneshot::channel();
        let command = Command::LinkHello { hello, outbox, reply };
        self.commands.send(command).await.map_err(|_| "the pool has ended".to_owned())?;
        admitted.await.map_err(|_| "the pool has ended".to_owned())?
    }

    /// Where links report.
    pub(crate) fn inbox(&self) -> &Inbox {
        &self.inbox
    }
}

impl Provenance {
    fn tried_words(tried: &[Attempt]) -> Vec<String> {
        tried.iter().map(Attempt::to_string).collect()
    }
}
