//! State of the pool's loop and the handling of each input.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use flotilla_browsers::{
    BROWSERS_MAX, DesiredBrowser, Facts,
    fault::FaultError,
    owner::{Owner, OwnerReport},
};
use flotilla_fleet::{
    BrowserStage, Choice, Event, Failure, FailureKind, Fleet, LeaseId, ModelId, RequestError, Role,
    Slot, SlotId, state::TransactionId,
};
use flotilla_protocol::{Backend, BackendReport, BrowserId, Epoch, PlacementId, RequestId, RunId};
use flotilla_store::{JobId, OpenRequest, Report, Store};
use flotilla_tensor::Tensor;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    AnswerError, BrowserView, Command, Decisions, Loaded, NewRequest, Options, PoolStatus,
    Provenance, Recorded, Share, View, record, recoveries::Recoveries, speeds::Speeds,
    worker::LeaseStatus,
};
use crate::{
    batch::{self, Input},
    catalog::{Catalog, Model},
    link::{Greeting, LinkReport, Outbox},
};

/// Console lines of a page that are logged in a second.
const CONSOLE_LINES_MAX: u32 = 50;

/// Number of latest inputs whose handling times are kept.
const DECISIONS_KEPT: usize = 1024;

/// Longest sleep of the loop when the core has no timeout.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

pub(super) struct Queues {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) links: mpsc::Receiver<LinkReport>,
    pub(super) greetings: mpsc::Receiver<Greeting>,
    pub(super) owners: mpsc::Receiver<(BrowserId, OwnerReport)>,
    pub(super) released: mpsc::Receiver<LeaseId>,
    /// Reports of the store; never any without one.
    pub(super) stored: mpsc::Receiver<Report>,
}

pub(super) enum Received {
    Command(Command),
    Link(LinkReport),
    Greeting(Greeting),
    Owner(BrowserId, OwnerReport),
    Released(LeaseId),
    Stored(Report),
    Time,
}

/// How far a browser is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It, or its new page, starts.
    Starting,
    /// The page's address is open; a link or the report about backends may be missing.
    Opened,
    /// The core was told that it can be used.
    Up,
    /// It has failed, which the core was told; the core will end it.
    Down,
}

/// A browser from its launch to its kill.
pub(super) struct Browser {
    pub(super) desired: DesiredBrowser,
    pub(super) owner: Owner,
    /// Tokens of the links that are not open yet: control, data.
    pub(super) tokens: (Option<String>, Option<String>),
    /// A copy of the control link's token: it identifies the page when it reports a failure over HTTP.
    pub(super) page: String,
    pub(super) control: Option<Outbox>,
    pub(super) data: Option<Outbox>,
    pub(super) facts: Option<Facts>,
    pub(super) backends: Vec<BackendReport>,
    pub(super) stage: Stage,
    /// Probes under way.
    pub(super) probes: BTreeMap<RunId, Backend>,
    /// Runs that measure and are under way.
    pub(super) measures: BTreeMap<RunId, ModelId>,
    /// The epoch of the probe's program on each backend on which the page has loaded it.
    pub(super) probe_epochs: BTreeMap<Backend, Epoch>,
    /// Times that it was loaded.
    pub(super) probe_loads: u64,
    pub(super) console: Console,
}

/// Rate limit for logging a page's console.
#[derive(Default)]
pub(super) struct Console {
    /// The current second since the pool began.
    second: u64,
    /// Lines of that second.
    lines: u32,
    dropped: u64,
}

impl Console {
    /// Whether one more line is logged at this time, and how many were dropped before it.
    pub(super) fn admits(&mut self, now: Duration) -> Option<u64> {
        if now.as_secs() != self.second {
            (self.second, self.lines) = (now.as_secs(), 0);
        }
        self.lines += 1;
        if self.lines > CONSOLE_LINES_MAX {
            self.dropped += 1;
            return None;
        }
        Some(std::mem::take(&mut self.dropped))
    }
}

pub(super) struct Placement {
    pub(super) browser: BrowserId,
    pub(super) model: ModelId,
    pub(super) backend: Backend,
    pub(super) epoch: Epoch,
    pub(super) ready: Option<Loaded>,
    pub(super) progress: (u64, u64),
}

/// A run that a page computes or has computed.
pub(super) struct Flight {
    pub(super) browser: BrowserId,
    pub(super) placement: PlacementId,
    pub(super) epoch: Epoch,
    pub(super) requests: Vec<RequestId>,
    /// Rows that the page computes: those of the requests, and padding rows up to the program's fixed number. None if the run
    /// is one request of tensors.
    pub(super) rows: Option<usize>,
    pub(super) done: Option<(Arc<Vec<Tensor>>, Arc<Provenance>)>,
}

pub(super) struct Waiting {
    pub(super) model: Arc<Model>,
    pub(super) input: Arc<Input>,
    pub(super) reply: oneshot::Sender<Result<Share, AnswerError>>,
    /// Its job and its index in the job.
    pub(super) job: Option<(JobId, u32)>,
    /// Its answer, while that is being recorded.
    pub(super) kept: Option<Share>,
}

/// A client that has a browser for itself, or waits for one.
pub(super) struct Task {
    pub(super) name: String,
    pub(super) since: Instant,
    pub(super) browser: Option<BrowserId>,
    pub(super) used_bytes: u64,
    pub(super) status: watch::Sender<LeaseStatus>,
}

/// Open requests of a job, and the senders of the tasks that wait for its end; dropping them wakes those tasks.
#[derive(Default)]
pub(super) struct JobWatch {
    pub(super) open: BTreeSet<RequestId>,
    pub(super) waiting: Vec<oneshot::Sender<()>>,
    /// Receives a message once the job is recorded.
    pub(super) recorded: Option<mpsc::Sender<()>>,
}

pub(super) struct State {
    pub(super) options: Options,
    /// The browser of each slot and what the slot is for. Slots that were removed keep their number.
    pub(super) desired: Vec<(DesiredBrowser, Role)>,
    pub(super) catalog: watch::Sender<Arc<Catalog>>,
    pub(super) origin: String,
    pub(super) fleet: Fleet,
    pub(super) begin: Instant,
    pub(super) owners: mpsc::Sender<(BrowserId, OwnerReport)>,
    pub(super) change: watch::Sender<u64>,
    pub(super) browsers: BTreeMap<BrowserId, Browser>,
    pub(super) placements: BTreeMap<PlacementId, Placement>,
    pub(super) flights: BTreeMap<RunId, Flight>,
    pub(super) waiting: BTreeMap<RequestId, Waiting>,
    pub(super) tasks: BTreeMap<LeaseId, Task>,
    pub(super) task_ids: u64,
    released: mpsc::Sender<LeaseId>,
    pub(super) store: Option<Store>,
    /// Requests that an earlier daemon left open.
    pub(super) left_open: Vec<OpenRequest>,
    /// Jobs with open requests.
    pub(super) jobs: BTreeMap<JobId, JobWatch>,
    /// Jobs that each unconfirmed transaction records.
    pub(super) accepting: BTreeMap<TransactionId, BTreeSet<JobId>>,
    pub(super) recoveries: Recoveries,
    pub(super) speeds: Speeds,
    /// Replies to the callers that wait for a migration.
    pub(super) migrations:
        BTreeMap<(ModelId, BrowserId, BrowserId), oneshot::Sender<Result<(), Failure>>>,
    pub(super) ending: Vec<tokio::task::JoinHandle<()>>,
    pub(super) drained: bool,
    /// How long the latest inputs took, in microseconds.
    decisions: VecDeque<u64>,
    /// The kinds of events and actions that passed here.
    #[cfg(test)]
    pub(super) seen: std::collections::BTreeSet<&'static str>,
}

/// The core's slot for a desired browser.
fn slot(desired: &DesiredBrowser, role: Role, choice: Choice) -> Slot {
    Slot { kind: desired.build.to_string(), backends: desired.backends.clone(), choice, role }
}

impl State {
    pub(super) fn new(
        options: Options,
        catalog: watch::Sender<Arc<Catalog>>,
        origin: String,
        owners: mpsc::Sender<(BrowserId, OwnerReport)>,
        change: watch::Sender<u64>,
        released: mpsc::Sender<LeaseId>,
        recorded: Option<Recorded>,
    ) -> State {
        let desired: Vec<(DesiredBrowser, Role)> =
            options.slots().map(|(desired, role)| (desired.clone(), role)).collect();
        let slots = desired
            .iter()
            .map(|(desired, role)| slot(desired, *role, options.backends.choice))
            .collect();
        let config = flotilla_fleet::Config { slots, ..options.fleet.clone() };
        let task_ids = config.incarnation.first_id();
        let (fleet, store, left_open) = match recorded {
            Some(Recorded { store, opened }) => {
                let fleet = Fleet::restore(config, record::records(&opened));
                (fleet, Some(store), opened.open_requests)
            }
            None => (Fleet::new(config), None, Vec::new()),
        };
        let speeds = Speeds::open(options.settings.speeds.as_deref());
        State {
            options,
            desired,
            speeds,
            catalog,
            origin,
            fleet,
            begin: Instant::now(),
            owners,
            change,
            browsers: BTreeMap::new(),
            placements: BTreeMap::new(),
            flights: BTreeMap::new(),
            waiting: BTreeMap::new(),
            tasks: BTreeMap::new(),
            task_ids,
            released,
            store,
            left_open,
            jobs: BTreeMap::new(),
            accepting: BTreeMap::new(),
            recoveries: Recoveries::default(),
            migrations: BTreeMap::new(),
            ending: Vec::new(),
            drained: false,
            decisions: VecDeque::new(),
            #[cfg(test)]
            seen: std::collections::BTreeSet::new(),
        }
    }

    /// The first events: browsers are launched, models are to be served, and requests that an earlier daemon left open go on.
    pub(super) fn begin(&mut self) {
        let models: Vec<ModelId> =
            self.catalog.borrow().models.iter().map(|model| model.id).collect();
        self.event(Event::Wake);
        for model in models {
            self.event(Event::ModelAdded { model, batching: self.options.settings.batching });
        }
        let left_open = std::mem::take(&mut self.left_open);
        self.resume(left_open);
    }

    /// The loop. Ends when the pool has drained and no browser's process is left.
    pub(super) async fn run(mut self, mut queues: Queues) {
        self.begin();
        while !self.drained {
            let wake = self
                .fleet
                .poll_timeout()
                .map_or(SLEEP_MAX, |at| at.since(self.now()))
                .min(SLEEP_MAX);
            let received = tokio::select! {
                Some(command) = queues.commands.recv() => Received::Command(command),
                Some(report) = queues.links.recv() => Received::Link(report),
                Some(greeting) = queues.greetings.recv() => Received::Greeting(greeting),
                Some((browser, report)) = queues.owners.recv() => Received::Owner(browser, report),
                Some(task) = queues.released.recv() => Received::Released(task),
                Some(report) = queues.stored.recv() => Received::Stored(report),
                () = tokio::time::sleep(wake) => Received::Time,
            };
            let begin = Instant::now();
            self.receive(received);
            self.decided(begin.elapsed());
            self.ending.retain(|task| !task.is_finished());
        }
        for task in self.ending.drain(..) {
            if let Err(error) = task.await {
                tracing::error!(%error, "a browser's owner failed");
            }
        }
        if let Some(store) = &self.store {
            // Writes what is still buffered; nothing waits for its confirmations any more.
            let closing = store.close();
            tokio::pin!(closing);
            loop {
                tokio::select! {
                    Some(_) = queues.stored.recv() => {}
                    closed = &mut closing => {
                        if let Err(error) = closed {
                            tracing::error!(%error, "the state could not be closed");
                        }
                        break;
                    }
                }
            }
        }
    }

    /// A model that is served.
    pub(super) fn model(&self, model: ModelId) -> Option<Arc<Model>> {
        self.catalog.borrow().by_id(model).cloned()
    }

    fn decided(&mut self, took: Duration) {
        if self.decisions.len() == DECISIONS_KEPT {
            self.decisions.pop_front();
        }
        self.decisions.push_back(took.as_micros() as u64);
    }

    fn decisions(&self) -> Decisions {
        let mut sorted: Vec<u64> = self.decisions.iter().copied().collect();
        sorted.sort_unstable();
        let rank = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).copied().unwrap_or_default()
        };
        let (p50_us, p99_us, max_us) = (rank(50), rank(99), rank(100));
        Decisions { inputs: sorted.len(), p50_us, p99_us, max_us }
    }

    pub(super) fn now(&self) -> flotilla_fleet::Instant {
        flotilla_fleet::Instant(self.begin.elapsed())
    }

    pub(super) fn receive(&mut self, received: Received) {
        match received {
            Received::Command(command) => self.command(command),
            Received::Link(report) => self.link(report),
            Received::Greeting(Greeting { hello, outbox, reply }) => {
                let admitted = self.hello(&hello, outbox);
                // A link whose task has gone is noticed when its outbox is used.
                let _ = reply.send(admitted);
            }
            Received::Owner(browser, report) => self.owner(browser, report),
            Received::Released(task) => {
                if let Some(task) = self.tasks.remove(&task)
                    && let Some(browser) = task.browser
                {
                    let detail = serde_json::json!({ "task": task.name });
                    self.audit("release", browser.to_string(), "", detail);
                }
                self.event(Event::Release { lease: task });
            }
            Received::Stored(report) => self.stored(report),
            Received::Time => self.event(Event::Wake),
        }
    }

    /// Passes an event to the core and executes its actions.
    pub(super) fn event(&mut self, event: Event) {
        #[cfg(test)]
        super::tests::see_event(&mut self.seen, &event);
        self.fleet.handle(self.now(), event);
        let mut failures = Vec::new();
        while let Some(action) = self.fleet.poll_action() {
            #[cfg(test)]
            super::tests::see_action(&mut self.seen, &action);
            if let Err(failure) = self.perform(action) {
                failures.push(failure);
            }
        }
        self.change.send_modify(|count| *count += 1);
        for event in failures {
            self.event(event);
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Run { model, terms, requests } => {
                let deadline = self.now().after(terms.timeout);
                let mut events = Vec::with_capacity(requests.len());
                let Some(served) = self.model(model) else {
                    for NewRequest { reply, .. } in requests {
                        // The caller may have stopped waiting.
                        let _ = reply.send(Err(RequestError::UnknownModel.into()));
                    }
                    return;
                };
                let program = &served.program;
                let rows_max = self.options.settings.batching.rows_max;
                let weight = batch::weight(program, rows_max);
                let length_min = batch::FixedSizes::of(program).length.unwrap_or(0);
                for (index, NewRequest { request, input, reply }) in (0..).zip(requests) {
                    let (rows, length) = match &*input {
                        Input::Tokens(ids) => (weight, ids.len().max(length_min) as u32),
                        // Fills a batch by itself, so nothing is joined to it.
                        Input::Tensors(_) => (rows_max, 1),
                    };
                    let job = terms.job.clone().map(|job| (job, index));
                    self.watch(job.as_ref().map(|(job, _)| job), request);
                    let model_of_it = served.clone();
                    let waiting = Waiting { model: model_of_it, input, reply, job, kept: None };
                    self.waiting.insert(request, waiting);
                    let policy = terms.policy;
                    events.push(Event::Request { request, model, rows, length, deadline, policy });
                }
                if let Some(job) = terms.job.and_then(|job| self.jobs.get_mut(&job)) {
                    job.recorded = terms.recorded;
                }
                self.event(Event::Together(events));
            }
            Command::AddModel { new, reply } => {
                let mut catalog = Catalog::clone(&self.catalog.borrow());
                let added = catalog.add(*new);
                if let Ok(model) = &added {
                    self.catalog.send_replace(Arc::new(catalog));
                    self.audit("add_model", model.name.clone(), "", serde_json::json!({}));
                    let batching = self.options.settings.batching;
                    self.event(Event::ModelAdded { model: model.id, batching });
                    let left_open = std::mem::take(&mut self.left_open);
                    self.resume(left_open);
                }
                // The caller may have stopped waiting.
                let _ = reply.send(added);
            }
            Command::RemoveModel { name, reply } => {
                let mut catalog = Catalog::clone(&self.catalog.borrow());
                let removed = catalog.remove(&name);
                if let Some(model) = &removed {
                    // The core's next actions may still refer to it.
                    if let Some(model) = model {
                        self.event(Event::ModelRemoved { model: model.id });
                    }
                    self.catalog.send_replace(Arc::new(catalog));
                    self.audit("remove_model", name, "", serde_json::json!({}));
                }
                // The caller may have stopped waiting.
                let _ = reply.send(removed.is_some());
            }
            Command::AddBrowser { desired, reply } => {
                if self.slots_kept() >= BROWSERS_MAX {
                    // The caller may have stopped waiting.
                    let _ = reply.send(None);
                    return;
                }
                let id = SlotId(self.desired.len() as u32);
                let added = slot(&desired, Role::Regular, self.options.backends.choice);
                self.audit("add_browser", desired.build.to_string(), "", serde_json::json!({}));
                self.desired.push((desired, Role::Regular));
                self.event(Event::SlotAdded { slot: added });
                // The caller may have stopped waiting.
                let _ = reply.send(Some(id));
            }
            Command::RemoveBrowser { slot, reply } => {
                let status = self.fleet.status();
                let mut kept =
                    status.slots.iter().filter(|slot| slot.state != BrowserStage::Removed);
                let is_there = kept.any(|status| status.slot == slot);
                if is_there {
                    let reason = "requested by a client".to_owned();
                    self.audit("remove_browser", slot.0.to_string(), "", serde_json::json!({}));
                    self.event(Event::SlotRemoved { slot, reason });
                }
                // The caller may have stopped waiting.
                let _ = reply.send(is_there);
            }
            Command::WaitJob { job, reply } => {
                // A job without open requests has ended; dropping the sender reports that.
                if let Some(entry) = self.jobs.get_mut(&job) {
                    entry.waiting.push(reply);
                }
            }
            Command::Acquire { name, reply, released } => {
                self.task_ids += 1;
                let task = LeaseId(self.task_ids);
                let (status, news) = watch::channel(LeaseStatus::Waiting);
                let since = Instant::now();
                let entry = Task { name, since, browser: None, used_bytes: 0, status };
                self.tasks.insert(task, entry);
                let releases = self.released.clone();
                tokio::spawn(async move {
                    // Nothing is sent: dropping the other end is the release.
                    let _ = released.await;
                    // A pool that has ended has released everything.
                    let _ = releases.send(task).await;
                });
                // The caller may have stopped waiting, which counts as a release.
                let _ = reply.send((task, news));
                let deadline = self.now().after(self.options.fleet.run_timeout);
                self.event(Event::Acquire { lease: task, deadline });
            }
            Command::Migrate { model, from, to, reply } => {
                let key = (model, from, to);
                if self.migrations.contains_key(&key) {
                    let words = "this migration of the model is in progress already";
                    // The caller may have stopped waiting.
                    let _ = reply.send(Err(Failure::new(FailureKind::Overloaded, words)));
                    return;
                }
                self.migrations.insert(key, reply);
                self.event(Event::Migrate { model, from, to });
            }
            Command::Recycle { browser, reason } => self.event(Event::Recycle { browser, reason }),
            Command::Workers { reply } => {
                // The caller may have stopped waiting.
                let _ = reply.send(self.workers());
            }
            Command::Fault { browser, fault, reply } => {
                let outcome = match self.browsers.get(&browser) {
                    Some(entry) => entry.owner.fault(fault),
                    None => Err(FaultError::NotTaken),
                };
                // The caller may have stopped waiting.
                let _ = reply.send(outcome);
            }
            Command::Cancel { requests } => {
                // A request that is recorded goes on: its client may request the answer later.
                let open: Vec<RequestId> = requests
                    .map(RequestId)
                    .filter(|request| {
                        self.waiting.get(request).is_some_and(|waiting| waiting.job.is_none())
                    })
                    .collect();
                for request in &open {
                    if let Some(waiting) = self.waiting.remove(request) {
                        batch::discard(waiting.input.bytes(), waiting.input);
                    }
                }
                if !open.is_empty() {
                    let events = open.into_iter().map(|request| Event::Cancel { request });
                    self.event(Event::Together(events.collect()));
                }
            }
            Command::View { reply } => {
                // The caller may have stopped waiting.
                let _ = reply.send(self.view());
            }
            Command::Drain => self.event(Event::Drain),
            Command::Execute { browser, script } => {
                let Some(entry) = self.browsers.get(&browser) else { return };
                if let Err(script) = entry.owner.execute(script) {
                    // The caller may have stopped waiting.
                    let _ = script
                        .reply
                        .send(Err("too many scripts wait, or the browser has ended".to_owned()));
                }
            }
            Command::PageFailure { token, error } => {
                let browser = self.browsers.iter().find(|(_, browser)| browser.page == token);
                if let Some((&browser, _)) = browser {
                    self.page_down(browser, Failure::new(FailureKind::PageCrashed, error));
                }
            }
        }
    }
    pub(super) fn view(&self) -> View {
        let browsers = self
            .browsers
            .iter()
            .map(|(&browser, entry)| BrowserView {
                browser,
                facts: entry.facts.clone(),
                backends: entry.backends.clone(),
            })
            .collect();
        let loaded = self.placements.values().filter_map(|entry| entry.ready.clone()).collect();
        let loads = self
            .placements
            .values()
            .filter(|entry| entry.ready.is_none())
            .map(|entry| (entry.browser, entry.model, entry.progress.0, entry.progress.1))
            .collect();
        let store = self.store.as_ref().map(Store::health);
        let recoveries = self.recoveries.summaries();
        let (status, decisions) = (self.fleet.status(), self.decisions());
        View { status, browsers, loaded, loads, store, recoveries, decisions }
    }

    /// Slots that were not removed.
    fn slots_kept(&self) -> usize {
        self.fleet.status().slots.iter().filter(|slot| slot.state != BrowserStage::Removed).count()
    }

    fn workers(&self) -> PoolStatus {
        let status = self.fleet.status();
        let free = status.slots.iter().filter(|slot| {
            slot.state == BrowserStage::Ready && slot.lease.is_none() && slot.recycling.is_none()
        });
        let holding = status.leases.iter().filter_map(|task| self.tasks.get(task));
        PoolStatus {
            available_workers: free.count(),
            total_workers: self.slots_kept() - self.options.fallback.len(),
            active_tasks: status.leases.len(),
            active_task_ids: holding.map(|task| task.name.clone()).collect(),
        }
    }
}
