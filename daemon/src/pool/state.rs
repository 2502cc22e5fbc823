//! What the pool's loop holds, and what it does with each input.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use flotilla_fleet::{
    Event, Failure, FailureKind, Fleet, ModelId, Slot, TaskId, state::TransactionId,
};
use flotilla_protocol::{
    Backend, BackendReport, BrowserId, Epoch, PlacementId, RequestId, RunId, Tensor,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Answer, BrowserView, Command, Input, Loaded, NewRequest, Options, PoolStatus, Provenance,
    Recorded, Reply, View, batch, record, recoveries::Recoveries, speeds::Speeds, worker::Told,
};
use crate::{
    browser::{
        Facts, Wish,
        fault::FaultError,
        owner::{Owner, OwnerReport},
    },
    catalog::Catalog,
    link::{LinkReport, Outbox},
    store::{JobId, OpenRequest, Report, Store},
};

/// Lines of a page's console that are passed on in a second.
const CONSOLE_LINES_MAX: u32 = 50;

/// Longest sleep of the loop when the core names no time.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

pub(super) struct Queues {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) links: mpsc::Receiver<LinkReport>,
    pub(super) owners: mpsc::Receiver<(BrowserId, OwnerReport)>,
    pub(super) released: mpsc::Receiver<TaskId>,
    /// What the store says; nothing ever without one.
    pub(super) stored: mpsc::Receiver<Report>,
}

pub(super) enum Received {
    Command(Command),
    Link(LinkReport),
    Owner(BrowserId, OwnerReport),
    Released(TaskId),
    Stored(Report),
    Time,
}

/// A browser from its launch to its kill.
pub(super) struct Browser {
    pub(super) wish: Wish,
    pub(super) owner: Owner,
    /// Tokens of the links that are not open yet: control, data.
    pub(super) tokens: (Option<String>, Option<String>),
    /// The control link's token again: by it the page is known when it reports a failure over HTTP.
    pub(super) page: String,
    pub(super) control: Option<Outbox>,
    pub(super) data: Option<Outbox>,
    pub(super) facts: Option<Facts>,
    pub(super) backends: Vec<BackendReport>,
    /// The page's address has been opened, since the last time that it was to be.
    pub(super) opened: bool,
    pub(super) is_up: bool,
    pub(super) down: bool,
    /// Probes under way.
    pub(super) probes: BTreeMap<RunId, Backend>,
    /// Runs that measure and are under way.
    pub(super) measures: BTreeMap<RunId, Measure>,
    /// The present life of the probe's program on each backend that the page holds it on.
    pub(super) probe_epochs: BTreeMap<Backend, Epoch>,
    /// Times that it was loaded.
    pub(super) probe_loads: u64,
    pub(super) console: Console,
}

/// How much of a page's console is passed on.
#[derive(Default)]
pub(super) struct Console {
    /// The present second, in seconds since the pool began.
    second: u64,
    /// Lines of that second.
    lines: u32,
    dropped: u64,
}

impl Console {
    /// Whether one more line is passed on at this time, and how many were dropped before it.
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

/// A run whose time is measured.
pub(super) struct Measure {
    pub(super) model: ModelId,
    /// What its results must be.
    pub(super) wanted: Vec<batch::Wanted>,
}

/// A run that a page computes, or has computed.
pub(super) struct Flight {
    pub(super) browser: BrowserId,
    pub(super) placement: PlacementId,
    pub(super) epoch: Epoch,
    pub(super) requests: Vec<RequestId>,
    /// Rows that the page computes: those of the requests, and those that a program has more.
    pub(super) rows: usize,
    pub(super) tensors: bool,
    /// What its results must be.
    pub(super) wanted: Vec<batch::Wanted>,
    pub(super) done: Option<(Vec<Tensor>, Arc<Provenance>)>,
}

pub(super) struct Waiting {
    pub(super) model: ModelId,
    pub(super) input: Input,
    pub(super) reply: oneshot::Sender<Reply>,
    /// The job that it is a part of, and which.
    pub(super) job: Option<(JobId, u32)>,
    /// Its answer, while that is being recorded.
    pub(super) kept: Option<Answer>,
}

/// A client that has a browser for itself, or waits for one.
pub(super) struct Task {
    pub(super) name: String,
    pub(super) since: Instant,
    pub(super) browser: Option<BrowserId>,
    pub(super) used_bytes: u64,
    pub(super) told: watch::Sender<Told>,
}

/// What is open of a job, and who waits for its end: their senders are dropped with it.
#[derive(Default)]
pub(super) struct JobWatch {
    pub(super) open: BTreeSet<RequestId>,
    pub(super) waiting: Vec<oneshot::Sender<()>>,
    /// Who waits for its record.
    pub(super) recorded: Option<mpsc::Sender<()>>,
}

pub(super) struct State {
    pub(super) options: Options,
    pub(super) catalog: Arc<Catalog>,
    pub(super) origin: String,
    pub(super) fleet: Fleet,
    pub(super) begin: Instant,
    pub(super) owners: mpsc::Sender<(BrowserId, OwnerReport)>,
    pub(super) change: watch::Sender<u64>,
    pub(super) browsers: BTreeMap<BrowserId, Browser>,
    pub(super) placements: BTreeMap<PlacementId, Placement>,
    pub(super) flights: BTreeMap<RunId, Flight>,
    pub(super) waiting: BTreeMap<RequestId, Waiting>,
    pub(super) tasks: BTreeMap<TaskId, Task>,
    pub(super) task_ids: u64,
    released: mpsc::Sender<TaskId>,
    pub(super) store: Option<Store>,
    /// Requests that an earlier daemon left open.
    left_open: Vec<OpenRequest>,
    /// Jobs with open requests.
    pub(super) jobs: BTreeMap<JobId, JobWatch>,
    /// Jobs that each unconfirmed transaction records.
    pub(super) accepting: BTreeMap<TransactionId, BTreeSet<JobId>>,
    pub(super) recoveries: Recoveries,
    pub(super) speeds: Speeds,
    /// blake3 over each model's program.
    pub(super) hashes: Vec<String>,
    /// Who waits for the end of a migration.
    pub(super) migrations:
        BTreeMap<(ModelId, BrowserId, BrowserId), oneshot::Sender<Result<(), Failure>>>,
    pub(super) ending: Vec<tokio::task::JoinHandle<()>>,
    pub(super) drained: bool,
    /// The kinds of events and actions that passed here.
    #[cfg(test)]
    pub(super) seen: std::collections::BTreeSet<&'static str>,
}

impl State {
    pub(super) fn new(
        options: Options,
        catalog: Arc<Catalog>,
        origin: String,
        owners: mpsc::Sender<(BrowserId, OwnerReport)>,
        change: watch::Sender<u64>,
        released: mpsc::Sender<TaskId>,
        recorded: Option<Recorded>,
    ) -> State {
        let slots = options.slots().map(|(wish, role)| Slot {
            kind: wish.build.to_string(),
            backends: wish.backends.clone(),
            choice: options.choice,
            role,
        });
        let slots = slots.collect();
        let config = flotilla_fleet::Config { slots, ..options.fleet.clone() };
        let (fleet, store, left_open) = match recorded {
            Some(Recorded { store, opened }) => {
                let fleet = Fleet::restore(config, record::records(&opened));
                (fleet, Some(store), opened.open_requests)
            }
            None => (Fleet::new(config), None, Vec::new()),
        };
        let speeds = Speeds::open(options.speeds.as_deref());
        let hash = |bytes: &Vec<u8>| blake3::hash(bytes).to_hex().to_string();
        let hashes = catalog.models.iter().map(|model| hash(&model.program_bytes)).collect();
        State {
            options,
            speeds,
            hashes,
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
            task_ids: 0,
            released,
            store,
            left_open,
            jobs: BTreeMap::new(),
            accepting: BTreeMap::new(),
            recoveries: Recoveries::default(),
            migrations: BTreeMap::new(),
            ending: Vec::new(),
            drained: false,
            #[cfg(test)]
            seen: std::collections::BTreeSet::new(),
        }
    }

    /// The first events: browsers are launched, models are to be served, and what an earlier daemon left open goes on.
    pub(super) fn begin(&mut self) {
        let models: Vec<ModelId> = self.catalog.models.iter().map(|model| model.id).collect();
        self.event(Event::Wake);
        for model in models {
            self.event(Event::ModelAdded { model, batching: self.options.batching });
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
                Some((browser, report)) = queues.owners.recv() => Received::Owner(browser, report),
                Some(task) = queues.released.recv() => Received::Released(task),
                Some(report) = queues.stored.recv() => Received::Stored(report),
                () = tokio::time::sleep(wake) => Received::Time,
            };
            self.receive(received);
            self.ending.retain(|task| !task.is_finished());
        }
        for task in self.ending.drain(..) {
            if let Err(error) = task.await {
                tracing::error!(%error, "a browser's owner failed");
            }
        }
        if let Some(store) = &self.store {
            // What is still buffered; its confirmations are nobody's any more.
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

    pub(super) fn now(&self) -> flotilla_fleet::Instant {
        flotilla_fleet::Instant(self.begin.elapsed())
    }

    pub(super) fn receive(&mut self, received: Received) {
        match received {
            Received::Command(command) => self.command(command),
            Received::Link(report) => self.link(report),
            Received::Owner(browser, report) => self.owner(browser, report),
            Received::Released(task) => {
                if let Some(task) = self.tasks.remove(&task)
                    && let Some(browser) = task.browser
                {
                    let detail = serde_json::json!({ "task": task.name });
                    self.audit("release", browser.to_string(), "", detail);
                }
                self.event(Event::Release { task });
            }
            Received::Stored(report) => self.stored(report),
            Received::Time => self.event(Event::Wake),
        }
    }

    /// Tells the core, and does what it orders.
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
                let program = &self.catalog.models[model.0 as usize].program;
                let rows_max = self.options.batching.rows_max;
                let weight = batch::weight(program, rows_max);
                let length_min = batch::FixedSizes::of(program).length.unwrap_or(0);
                for (index, NewRequest { request, input, reply }) in (0..).zip(requests) {
                    let (rows, length) = match &input {
                        Input::Tokens(ids) => (weight, ids.len().max(length_min) as u32),
                        // Fills a batch by itself, so nothing is joined to it.
                        Input::Tensors(_) => (rows_max, 1),
                    };
                    let job = terms.job.clone().map(|job| (job, index));
                    self.watch(job.as_ref().map(|(job, _)| job), request);
                    self.waiting.insert(request, Waiting { model, input, reply, job, kept: None });
                    let policy = terms.policy;
                    events.push(Event::Request { request, model, rows, length, deadline, policy });
                }
                if let Some(job) = terms.job.and_then(|job| self.jobs.get_mut(&job)) {
                    job.recorded = terms.recorded;
                }
                self.event(Event::Together(events));
            }
            Command::WaitJob { job, reply } => {
                // A job without open requests has ended, which dropping the sender says.
                if let Some(entry) = self.jobs.get_mut(&job) {
                    entry.waiting.push(reply);
                }
            }
            Command::Acquire { name, reply, released } => {
                self.task_ids += 1;
                let task = TaskId(self.task_ids);
                let (told, news) = watch::channel(Told::Waits);
                let since = Instant::now();
                let entry = Task { name, since, browser: None, used_bytes: 0, told };
                self.tasks.insert(task, entry);
                let releases = self.released.clone();
                tokio::spawn(async move {
                    // Nothing is ever sent: the end of the other side is the release.
                    let _ = released.await;
                    // A pool that has ended has released everything.
                    let _ = releases.send(task).await;
                });
                // Whoever asked may have gone, and that is a release.
                let _ = reply.send((task, news));
                let deadline = self.now().after(self.options.fleet.run_timeout);
                self.event(Event::Acquire { task, deadline });
            }
            Command::Migrate { model, from, to, reply } => {
                let key = (model, from, to);
                if self.migrations.contains_key(&key) {
                    let words = "the model is on its way already";
                    // Whoever asked may have gone.
                    let _ = reply.send(Err(Failure::new(FailureKind::Overloaded, words)));
                    return;
                }
                self.migrations.insert(key, reply);
                self.event(Event::Migrate { model, from, to });
            }
            Command::Recycle { browser, reason } => self.event(Event::Recycle { browser, reason }),
            Command::Workers { reply } => {
                // Whoever asked may have gone.
                let _ = reply.send(self.workers());
            }
            Command::Fault { browser, fault, reply } => {
                let outcome = match self.browsers.get(&browser) {
                    Some(entry) => entry.owner.fault(fault),
                    None => Err(FaultError::NotTaken),
                };
                // Whoever asked may have gone.
                let _ = reply.send(outcome);
            }
            Command::Cancel { requests } => {
                // A request that is recorded goes on: its client may come back and ask for the answer.
                let open: Vec<RequestId> = requests
                    .map(RequestId)
                    .filter(|request| {
                        self.waiting.get(request).is_some_and(|waiting| waiting.job.is_none())
                    })
                    .collect();
                for request in &open {
                    self.waiting.remove(request);
                }
                if !open.is_empty() {
                    let events = open.into_iter().map(|request| Event::Cancel { request });
                    self.event(Event::Together(events.collect()));
                }
            }
            Command::View { reply } => {
                // Whoever asked may have gone.
                let _ = reply.send(self.view());
            }
            Command::Drain => self.event(Event::Drain),
            Command::Execute { browser, script } => {
                let Some(entry) = self.browsers.get(&browser) else { return };
                if let Err(script) = entry.owner.execute(script) {
                    // Whoever asked may have gone.
                    let _ = script
                        .reply
                        .send(Err("too many scripts wait, or the browser has ended".to_owned()));
                }
            }
            Command::LinkHello { hello, outbox, reply } => {
                let admitted = self.hello(&hello, outbox);
                // A link whose task has gone is noticed when its outbox is used.
                let _ = reply.send(admitted);
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
        View { status: self.fleet.status(), browsers, loaded, loads, store, recoveries }
    }

    fn workers(&self) -> PoolStatus {
        let status = self.fleet.status();
        let free = status.slots.iter().filter(|slot| {
            slot.state == "ready" && slot.task.is_none() && slot.recycling.is_none()
        });
        let holding = status.tasks.iter().filter_map(|task| self.tasks.get(task));
        PoolStatus {
            available_workers: free.count(),
            total_workers: self.options.wishes.len(),
            active_tasks: status.tasks.len(),
            active_task_ids: holding.map(|task| task.name.clone()).collect(),
        }
    }
}
