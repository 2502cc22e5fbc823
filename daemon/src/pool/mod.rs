//! The loop around the fleet core: turns what happens into events for the core, and executes its actions.
//!
//! One task owns the core, the browsers' owners, their links and every waiting request. Other tasks hold a [`Pool`] and send it
//! commands. `select!` only builds an input; `State::receive` handles it.

use std::{
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use flotilla_browsers::{
    Adapter, Channel, DesiredBrowser, Facts,
    fault::{Fault, FaultError},
    owner::{Limits, Outcome, Script},
};
use flotilla_fleet::{
    Attempt, Failure, FailureKind, LeaseId, ModelId, Policy, RequestError, Role, SlotId, Status,
};
use flotilla_protocol::{
    AdapterInfo, Backend, BackendReport, BrowserId, Device, LoadReport, PlacementId, RequestId,
    Split,
};
use flotilla_store::{Health, JobId, Store};
use flotilla_tensor::Tensor;
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    catalog::{Catalog, Model, ModelError, NewModel},
    link::Inbox,
};

mod answers;
mod measure;
mod pages;
mod perform;
mod record;
mod recoveries;
mod settings;
mod speeds;
mod state;
#[cfg(test)]
mod tests;
mod worker;

use crate::batch;
pub use crate::batch::{BatchError, Input};
pub use crate::link::Memory;
pub use measure::{Chosen, MeasuredBackend, RefusedBackend};
pub use record::Recorded;
pub(crate) use record::decode_answer;
pub use recoveries::RecoverySummary;
pub use settings::{BackendSettings, Settings, WebNnSettings};
use worker::LeaseStatus;
pub use worker::{PoolStatus, Worker, WorkerError};

/// Most commands and reports that wait for the loop: the cancellations of a client's longest list, and then some.
const QUEUE_MAX: usize = 4096;

/// Options of a pool.
#[derive(Clone, Debug)]
pub struct Options {
    /// Browsers to keep.
    pub browsers: Vec<DesiredBrowser>,
    /// Simulated browsers for requests that allow them as the last resort.
    pub fallback: Vec<DesiredBrowser>,
    /// How closely browsers are watched.
    pub limits: Limits,
    /// Longest time from this daemon's start to the answer of a request that an earlier one left open.
    pub resume_timeout: Duration,
    /// Limits and budgets of the core; its slots are made from `browsers`.
    pub fleet: flotilla_fleet::Config,
    /// How `browsers` use their backends; the lists of those were made from it.
    pub backends: BackendSettings,
    /// What whoever starts the pool chooses.
    pub settings: Settings,
    /// How often a page's main thread sends a heartbeat.
    pub heartbeat: Duration,
    /// The program that has the `guardian` subcommand.
    pub guardian: PathBuf,
    /// Marks processes as this data directory's.
    pub data_dir_id: String,
}

impl Options {
    /// The browser of each slot and what the slot is for, in the order of the core's slots.
    pub(super) fn slots(&self) -> impl Iterator<Item = (&DesiredBrowser, Role)> {
        let regular = self.browsers.iter().map(|desired| (desired, Role::Regular));
        regular.chain(self.fallback.iter().map(|desired| (desired, Role::Fallback)))
    }
}

/// Terms of requests: time limit, recovery policy, recording.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Longest time to their answers.
    pub timeout: Duration,
    /// What is done when something fails.
    pub policy: Policy,
    /// The recorded job that they are; they are then [`flotilla_fleet::Persistence::Record`].
    pub job: Option<JobId>,
    /// Receives a message once the job is recorded; dropped if it never is.
    pub recorded: Option<mpsc::Sender<()>>,
}

impl From<Duration> for Terms {
    fn from(timeout: Duration) -> Terms {
        Terms { timeout, policy: Policy::default(), job: None, recorded: None }
    }
}

/// Which browser and backend computed an answer, and how long it took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Name of the browser's build.
    pub browser: String,
    /// The browser's own version.
    pub browser_version: String,
    /// Its release channel, if path or version show it.
    #[serde(default)]
    pub browser_channel: Channel,
    /// Name of the browser in this pool.
    pub browser_id: String,
    /// Where in the page it ran.
    pub backend: Backend,
    /// The processor requested from webnn; browsers do not report where they compute.
    #[serde(default)]
    pub device: Option<Device>,
    /// Which nodes ran elsewhere, if not all ran on the backend.
    #[serde(default)]
    pub split: Option<Split>,
    /// Why this backend was used.
    #[serde(default)]
    pub chosen: Chosen,
    /// What the backend ran on, as the browser names it.
    pub adapter: String,
    /// Chromium's route to WebGPU, where one was taken; browsers report little or nothing about software adapters.
    pub webgpu_adapter: Option<Adapter>,
    /// Why a preferred backend was not used; `None` when the first preference was.
    pub fallback: Option<String>,
    /// Whether the browser was simulated by native code.
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
    /// The browser and run that computed them.
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
    Rows(#[from] BatchError),
    #[error("results of run {run} are no longer in memory")]
    Lost { run: String },
}

/// Why the models that are served were not changed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum ModelChangeError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("model {name:?} is not served here")]
    Unknown { name: String },
    #[error("the pool has ended")]
    PoolEnded,
}

/// A browser as it is now.
#[derive(Clone, Debug)]
pub struct BrowserView {
    /// Name in this pool.
    pub browser: BrowserId,
    /// What is known about it, once it runs.
    pub facts: Option<Facts>,
    /// Backends that its page offers, once it has reported them.
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
    /// Health of the recorded state; `None` if none is kept.
    pub store: Option<Health>,
    /// Recoveries since the pool was started.
    pub recoveries: Vec<RecoverySummary>,
    /// How long the loop has taken for its latest inputs.
    pub decisions: Decisions,
}

/// How long the pool's loop takes to handle an input: the core's decision and its orders. Every command to the pool waits
/// behind this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Decisions {
    /// Number of latest inputs in these figures.
    pub inputs: usize,
    /// Median, in microseconds.
    pub p50_us: u64,
    /// 99th percentile by the nearest rank, in microseconds.
    pub p99_us: u64,
    /// The longest, in microseconds.
    pub max_us: u64,
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
    /// The processor requested from webnn.
    pub device: Option<Device>,
    /// How the load went.
    pub report: LoadReport,
}

#[derive(Debug)]
pub(crate) enum Command {
    Run {
        model: ModelId,
        terms: Terms,
        requests: Vec<NewRequest>,
    },
    AddModel {
        new: Box<NewModel>,
        reply: oneshot::Sender<Result<Arc<Model>, ModelError>>,
    },
    RemoveModel {
        name: String,
        reply: oneshot::Sender<bool>,
    },
    AddBrowser {
        desired: DesiredBrowser,
        reply: oneshot::Sender<Option<SlotId>>,
    },
    RemoveBrowser {
        slot: SlotId,
        reply: oneshot::Sender<bool>,
    },
    WaitJob {
        job: JobId,
        reply: oneshot::Sender<()>,
    },
    Acquire {
        name: String,
        reply: oneshot::Sender<(LeaseId, watch::Receiver<LeaseStatus>)>,
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
    input: Arc<Input>,
    reply: oneshot::Sender<Result<Share, AnswerError>>,
}

type Reply = Result<Answer, AnswerError>;

/// A request's share of a run's results. The task that waits for it copies its rows: the loop copies no tensors.
#[derive(Clone, Debug)]
struct Share {
    results: Arc<Vec<Tensor>>,
    /// Index of the row and number of rows; `None` for one request of tensors, which gets all results.
    row: Option<(usize, usize)>,
    provenance: Arc<Provenance>,
}

impl Share {
    /// Copies the rows and blocks meanwhile.
    fn answer(self) -> Reply {
        let Share { results, row, provenance } = self;
        let outputs = match row {
            Some((index, rows)) => batch::row(&results, index, rows)?,
            None => Arc::unwrap_or_clone(results),
        };
        Ok(Answer { outputs, provenance })
    }

    /// Bytes that are copied, at most.
    fn bytes(&self) -> usize {
        batch::bytes(&self.results) / self.row.map_or(1, |(_, rows)| rows.max(1))
    }
}

/// Handle of a running pool.
#[derive(Clone, Debug)]
pub struct Pool {
    commands: mpsc::Sender<Command>,
    inbox: Inbox,
    changed: watch::Receiver<u64>,
    served: watch::Receiver<Arc<Catalog>>,
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
            // If the queue is full, the requests are computed although no client waits.
            let _ = self.commands.try_send(Command::Cancel { requests: self.requests.clone() });
        }
    }
}

/// A task that ends when the pool has drained and every browser's processes are gone.
pub type Ended = tokio::task::JoinHandle<()>;

impl Pool {
    /// Starts browsers for a catalog's models; others can be added later. `origin` is where the runner page is served: `http://127.0.0.1:PORT`.
    /// `recorded` is the state that an earlier daemon left; without one nothing outlives this pool.
    pub fn start(
        options: Options,
        catalog: Arc<Catalog>,
        origin: String,
        recorded: Option<Recorded>,
    ) -> (Pool, Ended) {
        let (commands, command_queue) = mpsc::channel(QUEUE_MAX);
        let (inbox, incoming) = Inbox::new(options.settings.memory);
        let (owners, owner_queue) = mpsc::channel(QUEUE_MAX);
        let (releases, release_queue) = mpsc::channel(QUEUE_MAX);
        let (change, changed) = watch::channel(0);
        let (catalog, served) = watch::channel(catalog);
        let first_id = options.fleet.incarnation.first_id();
        let (mut recorded, mut requests, mut stored) = (recorded, first_id, mpsc::channel(1).1);
        if let Some(Recorded { opened, .. }) = &mut recorded {
            // They are lower, unless the data folder's counter of lives was lost.
            requests = requests.max(record::first_request(opened));
            stored = std::mem::replace(&mut opened.reports, stored);
        }
        let store = recorded.as_ref().map(|recorded| recorded.store.clone());
        let state = state::State::new(options, catalog, origin, owners, change, releases, recorded);
        let queues = state::Queues {
            commands: command_queue,
            links: incoming.reports,
            greetings: incoming.greetings,
            owners: owner_queue,
            released: release_queue,
            stored,
        };
        let requests = Arc::new(AtomicU64::new(requests));
        let pool = Pool { commands, inbox, changed, served, requests, store };
        (pool, tokio::spawn(state.run(queues)))
    }

    /// The catalog that is served now.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.served.borrow().clone()
    }

    /// Serves one more model: every browser begins to load it. Requests of an earlier daemon that wait for a model of this
    /// name are accepted.
    ///
    /// # Errors
    /// Another model has its name, or the pool has ended.
    pub async fn add_model(&self, new: NewModel) -> Result<Arc<Model>, ModelChangeError> {
        let (reply, added) = oneshot::channel();
        let command = Command::AddModel { new: Box::new(new), reply };
        self.commands.send(command).await.map_err(|_| ModelChangeError::PoolEnded)?;
        Ok(added.await.map_err(|_| ModelChangeError::PoolEnded)??)
    }

    /// Stops serving a model: waiting requests for it fail, runs in flight are answered, then pages free it.
    ///
    /// # Errors
    /// There is none of this name, or the pool has ended.
    pub async fn remove_model(&self, name: &str) -> Result<(), ModelChangeError> {
        let (reply, removed) = oneshot::channel();
        let command = Command::RemoveModel { name: name.to_owned(), reply };
        self.commands.send(command).await.map_err(|_| ModelChangeError::PoolEnded)?;
        match removed.await.map_err(|_| ModelChangeError::PoolEnded)? {
            true => Ok(()),
            false => Err(ModelChangeError::Unknown { name: name.to_owned() }),
        }
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

    /// Launches one more browser, which loads every model. Nothing if there are [`BROWSERS_MAX`](flotilla_browsers::BROWSERS_MAX) already; None once the pool
    /// has ended.
    pub async fn add_browser(&self, desired: DesiredBrowser) -> Option<Option<SlotId>> {
        let (reply, added) = oneshot::channel();
        self.commands.send(Command::AddBrowser { desired, reply }).await.ok()?;
        added.await.ok()
    }

    /// Ends the browser of a slot once its runs have ended, and launches none in its place. Returns whether there was such a
    /// slot; None once the pool has ended.
    pub async fn remove_browser(&self, slot: SlotId) -> Option<bool> {
        let (reply, removed) = oneshot::channel();
        self.commands.send(Command::RemoveBrowser { slot, reply }).await.ok()?;
        removed.await.ok()
    }

    /// Moves a model from one browser to another: it is loaded there, that is recorded, and only then it is unloaded here.
    ///
    /// # Errors
    /// A step failed; the model stays where it was.
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

    /// Replaces a browser as soon as its runs have ended.
    pub async fn recycle(&self, browser: BrowserId, reason: &str) {
        // A pool that has ended has no browser left.
        let command = Command::Recycle { browser, reason: reason.to_owned() };
        let _ = self.commands.send(command).await;
    }

    /// Injects a fault into a browser.
    ///
    /// # Errors
    /// The fault is not possible in this browser, or there is no such browser.
    pub async fn fault(&self, browser: BrowserId, fault: Fault) -> Result<(), FaultError> {
        let (reply, outcome) = oneshot::channel();
        let command = Command::Fault { browser, fault, reply };
        self.commands.send(command).await.map_err(|_| FaultError::NotTaken)?;
        let outcome = outcome.await.map_err(|_| FaultError::NotTaken)??;
        // If the fault kills the browser, there is no reply.
        outcome.await.unwrap_or(Ok(()))
    }

    /// Computes one request, at the latest within `timeout`. Dropping the future cancels the request.
    ///
    /// # Errors
    /// Refused, failed on every attempt, or past its deadline; the error lists the attempts.
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
        let inputs: Vec<Arc<Input>> = inputs.into_iter().map(Arc::new).collect();
        let (requests, answers): (Vec<NewRequest>, Vec<_>) = (first..)
            .map(RequestId)
            .zip(inputs.iter().cloned())
            .map(|(request, input)| {
                let (reply, answer) = oneshot::channel();
                (NewRequest { request, input, reply }, answer)
            })
            .unzip();
        let command = Command::Run { model, terms: terms.into(), requests };
        self.commands.send(command).await.map_err(|_| AnswerError::PoolEnded)?;
        let mut cancel = Cancel { requests: first..first + count, commands: &self.commands };
        let answers = answers.into_iter().map(async |answer| {
            let share = answer.await.map_err(|_| AnswerError::PoolEnded)??;
            batch::unblocked(share.bytes(), move || share.answer()).await
        });
        let answers = try_join_all(answers).await?;
        cancel.requests = 0..0;
        // Kept until here, so that the loop is never the last to drop them: freeing large inputs takes milliseconds.
        drop(inputs);
        Ok(answers)
    }

    /// The pool as it is now; `None` once it has ended.
    pub async fn view(&self) -> Option<View> {
        let (reply, view) = oneshot::channel();
        self.commands.send(Command::View { reply }).await.ok()?;
        view.await.ok()
    }

    /// Waits until `enough` returns true, checking whenever something changes. `None` if the pool ends first.
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

    /// Reports that a page could not start its runtime, with the page's message.
    pub async fn page_failure(&self, token: String, error: String) {
        let _ = self.commands.send(Command::PageFailure { token, error }).await;
    }

    /// Runs a script in a browser's page, on its main thread: the body of a function that calls its last argument with
    /// the result.
    ///
    /// # Errors
    /// The driver's error message, or that there is no such browser.
    pub async fn execute(
        &self,
        browser: BrowserId,
        body: &str,
        arguments: Vec<serde_json::Value>,
    ) -> Result<serde_json::Value, String> {
        let (reply, result) = oneshot::channel();
        let script = Script { body: body.to_owned(), arguments, reply };
        let gone = || format!("browser {browser} does not exist or has ended");
        self.commands.send(Command::Execute { browser, script }).await.map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
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
