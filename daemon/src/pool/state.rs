//! What the pool's loop holds, and what it does with each input.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use flotilla_fleet::{Action, Attempt, Event, Failure, FailureKind, Fleet, ModelId, Slot};
use flotilla_protocol::{
    AdapterInfo, Backend, BackendReport, BlobSource, BrowserId, Epoch, FromPage, Hello, Level,
    Link, LoadError, PlacementId, RequestId, RunError, RunId, RunReport, Tensor, ToPage, encode,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Answer, AnswerError, BrowserView, Command, Input, NewRequest, Options, Provenance, Reply, View,
    batch,
};
use crate::{
    browser::{
        Facts, Kind, Wish,
        fault::FaultError,
        owner::{Launch, Limits, Owner, OwnerReport},
    },
    catalog::Catalog,
    link::{LinkId, LinkReport, Outbox},
};

/// Longest sleep of the loop when the core names no time.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

pub(super) struct Queues {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) links: mpsc::Receiver<LinkReport>,
    pub(super) owners: mpsc::Receiver<(BrowserId, OwnerReport)>,
}

enum Received {
    Command(Command),
    Link(LinkReport),
    Owner(BrowserId, OwnerReport),
    Time,
}

/// A browser from its launch to its kill.
struct Browser {
    wish: Wish,
    owner: Owner,
    /// Tokens of the links that are not open yet: control, data.
    tokens: (Option<String>, Option<String>),
    /// The control link's token again: by it the page is known when it reports a failure over HTTP.
    page: String,
    control: Option<Outbox>,
    data: Option<Outbox>,
    facts: Option<Facts>,
    backends: Vec<BackendReport>,
    is_up: bool,
    down: bool,
}

struct Placement {
    browser: BrowserId,
    model: ModelId,
    backend: Backend,
    epoch: Epoch,
    ready: Option<(AdapterInfo, u64)>,
    progress: (u64, u64),
}

/// A run that a page computes, or has computed.
struct Flight {
    placement: PlacementId,
    requests: Vec<RequestId>,
    tensors: bool,
    done: Option<(Vec<Tensor>, RunReport, Option<Arc<Provenance>>)>,
}

struct Waiting {
    model: ModelId,
    input: Input,
    reply: oneshot::Sender<Reply>,
}

pub(super) struct State {
    options: Options,
    catalog: Arc<Catalog>,
    origin: String,
    fleet: Fleet,
    begin: Instant,
    owners: mpsc::Sender<(BrowserId, OwnerReport)>,
    change: watch::Sender<u64>,
    browsers: BTreeMap<BrowserId, Browser>,
    placements: BTreeMap<PlacementId, Placement>,
    flights: BTreeMap<RunId, Flight>,
    waiting: BTreeMap<RequestId, Waiting>,
    ending: Vec<tokio::task::JoinHandle<()>>,
    drained: bool,
}

impl State {
    pub(super) fn new(
        options: Options,
        catalog: Arc<Catalog>,
        origin: String,
        owners: mpsc::Sender<(BrowserId, OwnerReport)>,
        change: watch::Sender<u64>,
    ) -> State {
        let slots = options
            .wishes
            .iter()
            .map(|wish| Slot { kind: wish.kind.name().to_owned(), backends: wish.backends.clone() })
            .collect();
        let fleet = Fleet::new(flotilla_fleet::Config { slots, ..options.fleet.clone() });
        State {
            options,
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
            ending: Vec::new(),
            drained: false,
        }
    }

    /// The loop. Ends when the pool has drained and no browser's process is left.
    pub(super) async fn run(mut self, mut queues: Queues) {
        let models: Vec<ModelId> = self.catalog.models.iter().map(|model| model.id).collect();
        self.event(Event::Wake);
        for model in models {
            self.event(Event::ModelAdded { model, batching: self.options.batching });
        }
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
    }

    fn now(&self) -> flotilla_fleet::Instant {
        flotilla_fleet::Instant(self.begin.elapsed())
    }

    fn receive(&mut self, received: Received) {
        match received {
            Received::Command(command) => self.command(command),
            Received::Link(report) => self.link(report),
            Received::Owner(browser, report) => self.owner(browser, report),
            Received::Time => self.event(Event::Wake),
        }
    }

    /// Tells the core, and does what it orders.
    fn event(&mut self, event: Event) {
        self.fleet.handle(self.now(), event);
        let mut failures = Vec::new();
        while let Some(action) = self.fleet.poll_action() {
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
            Command::Run { model, timeout, requests } => {
                let deadline = self.now().after(timeout);
                let mut events = Vec::with_capacity(requests.len());
                for NewRequest { request, input, reply } in requests {
                    let (rows, length) = match &input {
                        Input::Tokens(ids) => (1, ids.len() as u32),
                        // Fills a batch by itself, so nothing is joined to it.
                        Input::Tensors(_) => (self.options.batching.rows_max, 1),
                    };
                    self.waiting.insert(request, Waiting { model, input, reply });
                    events.push(Event::Request { request, model, rows, length, deadline });
                }
                self.event(Event::Together(events));
            }
            Command::Cancel { requests } => {
                let open: Vec<RequestId> = requests
                    .map(RequestId)
                    .filter(|request| self.waiting.remove(request).is_some())
                    .collect();
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
            Command::Suffer { browser, fault, reply } => {
                let taken = match self.browsers.get(&browser) {
                    Some(entry) => entry.owner.fault(fault),
                    None => Err(FaultError::NotTaken),
                };
                // Whoever asked may have gone.
                let _ = reply.send(taken);
            }
            Command::LinkHello { hello, outbox, reply } => {
                let admitted = self.hello(&hello, outbox);
                // A link whose task has gone is noticed when its outbox is used.
                let _ = reply.send(admitted);
            }
            Command::PageFailure { token, error } => {
                let browser = self.browsers.iter().find(|(_, browser)| browser.page == token);
                if let Some((&browser, _)) = browser {
                    self.down(browser, Failure::new(FailureKind::PageCrashed, error));
                }
            }
        }
    }

    fn hello(&mut self, hello: &Hello, outbox: Outbox) -> Result<(BrowserId, u32), String> {
        for (&id, browser) in &mut self.browsers {
            let (token, link) = match hello.link {
                Link::Control => (&mut browser.tokens.0, &mut browser.control),
                Link::Data => (&mut browser.tokens.1, &mut browser.data),
            };
            if token.as_deref() != Some(hello.token.as_str()) {
                continue;
            }
            // Single use: nobody else can open this link again.
            *token = None;
            if hello.link == Link::Data {
                let inspect = encode(&ToPage::Inspect, &[]).map_err(|error| error.to_string())?;
                outbox.try_send(inspect.into()).map_err(|error| error.to_string())?;
            }
            *link = Some(outbox);
            return Ok((id, self.options.heartbeat.as_millis() as u32));
        }
        Err("the link's token is unknown or was used before".to_owned())
    }

    fn owner(&mut self, browser: BrowserId, report: OwnerReport) {
        match report {
            OwnerReport::Started(facts) => {
                if let Some(entry) = self.browsers.get_mut(&browser) {
                    tracing::info!(%browser, kind = %facts.kind, version = %facts.version, start_ms = facts.start_ms, "browser started");
                    entry.facts = Some(facts);
                }
                self.check_up(browser);
            }
            OwnerReport::PageOpened | OwnerReport::Memory { .. } => {}
            OwnerReport::Failed(failure) => self.down(browser, failure),
        }
    }

    /// A browser is up when its session stands, both links are open and it has said what it offers.
    fn check_up(&mut self, browser: BrowserId) {
        let Some(entry) = self.browsers.get_mut(&browser) else { return };
        let complete = entry.facts.is_some()
            && entry.control.is_some()
            && entry.data.is_some()
            && !entry.backends.is_empty();
        if !complete || entry.is_up || entry.down {
            return;
        }
        entry.is_up = true;
        let mut backends = Vec::new();
        let mut refused = Vec::new();
        for report in &entry.backends {
            match &report.outcome {
                Ok(_) => backends.push(report.backend),
                Err(words) => refused.push((report.backend, words.clone())),
            }
        }
        self.event(Event::BrowserUp { browser, backends, refused });
    }

    fn down(&mut self, browser: BrowserId, failure: Failure) {
        let Some(entry) = self.browsers.get_mut(&browser) else { return };
        if std::mem::replace(&mut entry.down, true) {
            return;
        }
        tracing::warn!(%browser, %failure, "browser is down");
        self.event(Event::BrowserDown { browser, failure });
    }

    fn link(&mut self, report: LinkReport) {
        match report {
            LinkReport::Closed { browser, id, link, reason } => {
                if !self.has_link(browser, id) {
                    return;
                }
                let gone = self.browsers.get(&browser).and_then(|entry| entry.facts.as_ref()?.pid);
                let failure = match gone {
                    Some(pid) if !crate::guardian::is_alive(pid) => {
                        Failure::new(FailureKind::BrowserExited, format!("process {pid} ended"))
                    }
                    Some(_) | None => Failure::new(
                        FailureKind::ConnectionLost,
                        format!("{link:?} link: {reason}"),
                    ),
                };
                self.down(browser, failure);
            }
            LinkReport::Message { browser, id, message, tensors } => {
                if self.has_link(browser, id) {
                    self.message(browser, message, tensors);
                }
            }
        }
    }

    /// Whether a link is one of the browser's present page: what comes from another one says nothing about it.
    fn has_link(&self, browser: BrowserId, id: LinkId) -> bool {
        self.browsers.get(&browser).is_some_and(|entry| {
            entry.control.iter().chain(&entry.data).any(|link| link.id() == id)
        })
    }

    fn message(&mut self, browser: BrowserId, message: FromPage, tensors: Vec<Tensor>) {
        match message {
            FromPage::Hello(_) => {
                self.down(
                    browser,
                    Failure::new(FailureKind::WrongResult, "the page said hello twice"),
                );
            }
            FromPage::Heartbeat { visible: _ } | FromPage::Pong { nonce: _ } => {
                self.event(Event::Heartbeat { browser })
            }
            FromPage::Console { level, text } => match level {
                Level::Error => tracing::error!(%browser, "console: {text}"),
                Level::Warn => tracing::warn!(%browser, "console: {text}"),
                Level::Info => tracing::info!(%browser, "console: {text}"),
                Level::Debug => tracing::debug!(%browser, "console: {text}"),
            },
            FromPage::Backends(reports) => {
                if let Some(entry) = self.browsers.get_mut(&browser) {
                    entry.backends = reports;
                }
                self.check_up(browser);
            }
            FromPage::LoadProgress { placement, done_bytes, total_bytes } => {
                if let Some(entry) =
                    self.placements.get_mut(&placement).filter(|entry| entry.browser == browser)
                {
                    entry.progress = (done_bytes, total_bytes);
                    let epoch = entry.epoch;
                    self.event(Event::PlacementProgress { placement, epoch });
                }
            }
            FromPage::Loaded { placement, epoch, adapter, load_us } => {
                if let Some(entry) =
                    self.placements.get_mut(&placement).filter(|entry| entry.browser == browser)
                {
                    tracing::info!(%browser, backend = %entry.backend, load_ms = load_us / 1000, "model loaded");
                    entry.ready = Some((adapter, load_us));
                    self.event(Event::PlacementReady { placement, epoch });
                }
            }
            FromPage::LoadFailed { placement, epoch, error } => {
                tracing::warn!(%browser, %error, "load failed");
                self.event(Event::PlacementFailed {
                    placement,
                    epoch,
                    failure: load_failure(&error),
                });
            }
            FromPage::Ran { run, epoch, report } => self.ran(run, epoch, report, tensors),
            FromPage::RunFailed { run, epoch, error } => {
                tracing::warn!(%browser, %error, "run failed");
                self.event(Event::RunFailed { run, epoch, failure: run_failure(&error) });
                self.flights.remove(&run);
            }
            FromPage::DeviceLost { generation, reason } => {
                tracing::warn!(%browser, generation, %reason, "device lost");
                self.event(Event::DeviceLost { browser, reason });
            }
        }
    }

    fn ran(&mut self, run: RunId, epoch: Epoch, report: RunReport, outputs: Vec<Tensor>) {
        // An unknown run was abandoned; the core is told all the same, for it counts what a page is busy with.
        let event = match self.flights.get_mut(&run) {
            Some(flight) => match batch::check(&outputs, flight.requests.len(), flight.tensors) {
                Ok(()) => {
                    flight.done = Some((outputs, report, None));
                    Event::RunDone { run, epoch }
                }
                Err(wrong) => {
                    tracing::warn!(%run, %wrong, "results are refused");
                    let failure = Failure::new(FailureKind::WrongResult, wrong);
                    Event::RunFailed { run, epoch, failure }
                }
            },
            None => Event::RunDone { run, epoch },
        };
        self.event(event);
        self.flights.remove(&run);
    }

    /// Does what the core orders. An order that cannot be carried out becomes the event that says so.
    fn perform(&mut self, action: Action) -> Result<(), Event> {
        match action {
            Action::Launch { browser, slot } => self.launch(browser, slot.0 as usize),
            Action::Kill { browser, reason } => {
                if let Some(entry) = self.browsers.remove(&browser) {
                    tracing::debug!(%browser, %reason, "browser is ended");
                    let placements = &self.placements;
                    self.flights.retain(|_, flight| {
                        placements
                            .get(&flight.placement)
                            .is_some_and(|placement| placement.browser != browser)
                    });
                    self.placements.retain(|_, placement| placement.browser != browser);
                    self.ending.push(entry.owner.end());
                }
            }
            Action::Place { browser, placement, epoch, model, backend } => {
                return self.place(browser, placement, epoch, model, backend);
            }
            Action::Dispatch { browser, placement, epoch, run, requests } => {
                return self.dispatch(browser, placement, epoch, run, requests);
            }
            Action::Abandon { run } => {
                self.flights.remove(&run);
            }
            Action::Answer { request, run, tried } => self.answer(request, run, &tried),
            Action::Fail { request, error } => self.reply(request, Err(error.into())),
            Action::Drained => self.drained = true,
        }
        Ok(())
    }

    fn launch(&mut self, browser: BrowserId, slot: usize) {
        let wish = self.options.wishes[slot].clone();
        let tokens = (crate::token::random(), crate::token::random());
        let launch = Launch {
            browser,
            wish: wish.clone(),
            origin: self.origin.clone(),
            tokens: tokens.clone(),
            guardian: self.options.guardian.clone(),
            data_dir_id: self.options.data_dir_id.clone(),
            limits: Limits::default(),
        };
        let entry = Browser {
            wish,
            owner: Owner::launch(launch, self.owners.clone()),
            page: tokens.0.clone(),
            tokens: (Some(tokens.0), Some(tokens.1)),
            control: None,
            data: None,
            facts: None,
            backends: Vec::new(),
            is_up: false,
            down: false,
        };
        self.browsers.insert(browser, entry);
    }

    fn place(
        &mut self,
        browser: BrowserId,
        placement: PlacementId,
        epoch: Epoch,
        model: ModelId,
        backend: Backend,
    ) -> Result<(), Event> {
        self.placements.insert(
            placement,
            Placement { browser, model, backend, epoch, ready: None, progress: (0, 0) },
        );
        let load = ToPage::Load {
            placement,
            epoch,
            backend,
            program: self.catalog.models[model.0 as usize].program_bytes.clone(),
            blobs: BlobSource { url_prefix: format!("{}/blobs", self.origin) },
        };
        self.send(browser, &load, &[]).map_err(|failure| Event::PlacementFailed {
            placement,
            epoch,
            failure,
        })
    }

    fn dispatch(
        &mut self,
        browser: BrowserId,
        placement: PlacementId,
        epoch: Epoch,
        run: RunId,
        requests: Vec<RequestId>,
    ) -> Result<(), Event> {
        let failed = |kind, detail: String| Event::RunFailed {
            run,
            epoch,
            failure: Failure::new(kind, detail),
        };
        let waiting: Vec<&Waiting> =
            requests.iter().filter_map(|request| self.waiting.get(request)).collect();
        let Some(first) = waiting.first().filter(|_| waiting.len() == requests.len()) else {
            return Err(failed(
                FailureKind::UnsupportedOperation,
                "a request of the run has no input".to_owned(),
            ));
        };
        let program = &self.catalog.models[first.model.0 as usize].program;
        let inputs: Vec<&Input> = waiting.iter().map(|waiting| &waiting.input).collect();
        let tensors = batch::join(program, &inputs)
            .map_err(|error| failed(FailureKind::UnsupportedOperation, error.to_string()))?;
        let is_tensors = matches!(first.input, Input::Tensors(_));
        self.send(browser, &ToPage::Run { run, placement, epoch }, &tensors)
            .map_err(|failure| Event::RunFailed { run, epoch, failure })?;
        self.flights.insert(run, Flight { placement, requests, tensors: is_tensors, done: None });
        Ok(())
    }

    /// Never waits: a page that does not take its frames in time has failed.
    fn send(
        &self,
        browser: BrowserId,
        message: &ToPage,
        tensors: &[Tensor],
    ) -> Result<(), Failure> {
        let frame: Bytes = encode(message, tensors)
            .map_err(|error| Failure::new(FailureKind::UnsupportedOperation, error.to_string()))?
            .into();
        let outbox =
            self.browsers.get(&browser).and_then(|entry| entry.data.as_ref()).ok_or_else(|| {
                Failure::new(FailureKind::ConnectionLost, "the browser has no data link")
            })?;
        outbox
            .try_send(frame)
            .map_err(|error| Failure::new(FailureKind::ConnectionLost, error.to_string()))
    }

    fn answer(&mut self, request: RequestId, run: RunId, tried: &[Attempt]) {
        let answer = self.row(request, run, tried);
        self.reply(request, answer);
    }

    fn row(&mut self, request: RequestId, run: RunId, tried: &[Attempt]) -> Reply {
        let lost = || AnswerError::Lost { run: run.to_string() };
        let flight = self.flights.get(&run).ok_or_else(lost)?;
        let (outputs, report, known) = flight.done.as_ref().ok_or_else(lost)?;
        let rows = flight.requests.len();
        let index = flight.requests.iter().position(|&other| other == request).ok_or_else(lost)?;
        let outputs = batch::row(outputs, index, rows, flight.tensors)?;
        let provenance = match known {
            // Rows of a run that were tried before have their own account.
            Some(provenance) if tried.is_empty() => provenance.clone(),
            Some(_) | None => {
                let placement = flight.placement;
                Arc::new(self.provenance(placement, *report, rows, tried).ok_or_else(lost)?)
            }
        };
        if tried.is_empty()
            && let Some(done) = self.flights.get_mut(&run).and_then(|flight| flight.done.as_mut())
        {
            done.2 = Some(provenance.clone());
        }
        Ok(Answer { outputs, provenance })
    }

    fn provenance(
        &self,
        placement: PlacementId,
        report: RunReport,
        rows: usize,
        tried: &[Attempt],
    ) -> Option<Provenance> {
        let entry = self.placements.get(&placement)?;
        let browser = self.browsers.get(&entry.browser)?;
        let facts = browser.facts.as_ref()?;
        let fallback = self
            .fleet
            .status()
            .slots
            .into_iter()
            .flat_map(|slot| slot.placements)
            .find(|status| status.placement == placement)
            .and_then(|status| status.fallback);
        Some(Provenance {
            browser: browser.wish.kind,
            browser_version: facts.version.clone(),
            browser_id: entry.browser.to_string(),
            backend: entry.backend,
            adapter: entry.ready.as_ref().map(|(adapter, _)| adapter.label()).unwrap_or_default(),
            webgpu_adapter: Some(browser.wish.adapter).filter(|_| {
                let is_chrome = browser.wish.kind == Kind::Chrome && !facts.simulated;
                is_chrome && entry.backend == Backend::WebGpu
            }),
            fallback,
            simulated: facts.simulated,
            run_ms: report.run_us as f64 / 1e3,
            rows,
            pipelines_created: report.pipelines_created,
            tried: Provenance::tried_words(tried),
        })
    }

    fn reply(&mut self, request: RequestId, reply: Reply) {
        if let Some(waiting) = self.waiting.remove(&request) {
            // The client may have gone in this moment; its answer has nowhere to go.
            let _ = waiting.reply.send(reply);
        }
    }

    fn view(&self) -> View {
        let browsers = self
            .browsers
            .iter()
            .map(|(&browser, entry)| BrowserView {
                browser,
                facts: entry.facts.clone(),
                backends: entry.backends.clone(),
            })
            .collect();
        let adapters = self
            .placements
            .iter()
            .filter_map(|(&placement, entry)| {
                entry
                    .ready
                    .as_ref()
                    .map(|(adapter, load_us)| (placement, adapter.clone(), *load_us))
            })
            .collect();
        let loads = self
            .placements
            .values()
            .filter(|entry| entry.ready.is_none())
            .map(|entry| (entry.browser, entry.model, entry.progress.0, entry.progress.1))
            .collect();
        View { status: self.fleet.status(), browsers, adapters, loads }
    }
}

fn load_failure(error: &LoadError) -> Failure {
    let kind = match error {
        LoadError::BackendUnavailable { .. }
        | LoadError::Unsupported { .. }
        | LoadError::Program { .. } => FailureKind::UnsupportedOperation,
        LoadError::Fetch { .. } => FailureKind::ConnectionLost,
        LoadError::Corrupt { .. } => FailureKind::WrongResult,
        LoadError::OutOfMemory { .. } => FailureKind::OutOfMemory,
        LoadError::DeviceLost { .. } => FailureKind::DeviceLost,
    };
    Failure::new(kind, error.to_string())
}

fn run_failure(error: &RunError) -> Failure {
    let kind = match error {
        RunError::NotLoaded { .. } | RunError::Node { .. } => FailureKind::WrongResult,
        RunError::Inputs { .. } => FailureKind::UnsupportedOperation,
        RunError::OutOfMemory { .. } => FailureKind::OutOfMemory,
        RunError::DeviceLost { .. } => FailureKind::DeviceLost,
    };
    Failure::new(kind, error.to_string())
}
