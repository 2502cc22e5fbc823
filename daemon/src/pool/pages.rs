//! Inputs from browsers: reports of their owners, links and messages of their pages.

use std::{borrow::Borrow, sync::Arc};

use flotilla_browser_runtime::probe;
use flotilla_browsers::{guardian, owner::OwnerReport};
use flotilla_fleet::{Event, Failure, FailureKind};
use flotilla_protocol::{
    Backend, BrowserId, Epoch, FromPage, Hello, Level, Link, LoadError, PlacementId, RunError,
    RunId, RunReport,
};
use flotilla_tensor::Tensor;

use super::{
    Loaded, measure,
    state::{Placement, Stage, State},
};
use crate::{
    batch,
    link::{LinkId, LinkReport, Order, Outbox, Results},
};

/// Longest console line that is logged.
const CONSOLE_BYTES_MAX: usize = 16 << 10;

impl State {
    pub(super) fn hello(
        &mut self,
        hello: &Hello,
        outbox: Outbox,
    ) -> Result<(BrowserId, u32), String> {
        for (&id, browser) in &mut self.browsers {
            let (token, link) = match hello.link {
                Link::Control => (&mut browser.tokens.0, &mut browser.control),
                Link::Data => (&mut browser.tokens.1, &mut browser.data),
            };
            if token.as_deref() != Some(hello.token.as_str()) {
                continue;
            }
            // Single use: the link cannot be opened again with this token.
            *token = None;
            if hello.link == Link::Data {
                outbox.try_send(Order::Inspect).map_err(|error| error.to_string())?;
            }
            *link = Some(outbox);
            return Ok((id, self.options.heartbeat.as_millis() as u32));
        }
        Err("the link's token is unknown or was used before".to_owned())
    }

    pub(super) fn owner(&mut self, browser: BrowserId, report: OwnerReport) {
        match report {
            OwnerReport::Started(facts) => {
                if let Some(entry) = self.browsers.get_mut(&browser) {
                    tracing::info!(%browser, name = facts.name, version = %facts.version, start_ms = facts.start_ms, "browser started");
                    entry.facts = Some(facts);
                }
                self.opened(browser);
            }
            OwnerReport::PageOpened => self.opened(browser),
            OwnerReport::Memory { used_bytes } => {
                // Kept with the task, because the browser is gone when the task gets the reason for its loss.
                for task in self.tasks.values_mut().filter(|task| task.browser == Some(browser)) {
                    task.used_bytes = used_bytes;
                }
                self.event(Event::Memory { browser, used_bytes });
            }
            OwnerReport::Failed(failure) => self.down(browser, failure),
        }
    }

    /// The page's address is open.
    fn opened(&mut self, browser: BrowserId) {
        if let Some(entry) = self.browsers.get_mut(&browser)
            && entry.stage == Stage::Starting
        {
            entry.stage = Stage::Opened;
        }
        self.check_up(browser);
    }

    /// A browser is up when its session, its page and both links are open and it has reported its backends.
    fn check_up(&mut self, browser: BrowserId) {
        let Some(entry) = self.browsers.get_mut(&browser) else { return };
        let complete = entry.stage == Stage::Opened
            && entry.facts.is_some()
            && entry.control.is_some()
            && entry.data.is_some()
            && !entry.backends.is_empty();
        if !complete {
            return;
        }
        entry.stage = Stage::Up;
        let mut backends = Vec::new();
        let mut refused = Vec::new();
        for backend in Backend::ALL {
            let device = self.options.backends.webnn.device.filter(|_| backend == Backend::WebNn);
            match measure::offer(&entry.backends, backend, device).map(|report| &report.outcome) {
                Some(Ok(_)) => backends.push(backend),
                Some(Err(words)) => refused.push((backend, words.clone())),
                None => {}
            }
        }
        let mut events = self.known_speeds(browser);
        events.push(Event::BrowserUp { browser, backends, refused });
        self.event(Event::Together(events));
    }

    /// The browser itself has failed.
    pub(super) fn down(&mut self, browser: BrowserId, failure: Failure) {
        let Some(entry) = self.browsers.get_mut(&browser) else { return };
        if std::mem::replace(&mut entry.stage, Stage::Down) == Stage::Down {
            return;
        }
        tracing::warn!(%browser, %failure, "browser is down");
        self.event(Event::BrowserDown { browser, failure });
    }

    /// The page has failed; its browser may still work.
    pub(super) fn page_down(&mut self, browser: BrowserId, failure: Failure) {
        let Some(entry) = self.browsers.get(&browser) else { return };
        if let Some(pid) = entry.facts.as_ref().and_then(|facts| facts.pid)
            && !guardian::is_alive(pid)
        {
            let words = format!("process {pid} ended");
            self.down(browser, Failure::new(FailureKind::BrowserExited, words));
            return;
        }
        tracing::warn!(%browser, %failure, "page is down");
        self.event(Event::PageDown { browser, failure });
    }

    pub(super) fn link(&mut self, report: LinkReport) {
        match report {
            LinkReport::Closed { browser, id, link, reason } => {
                if self.has_link(browser, id) {
                    let words = format!("{link:?} link: {reason}");
                    self.page_down(browser, Failure::new(FailureKind::ConnectionLost, words));
                }
            }
            LinkReport::Message { browser, id, message, results, room: _room } => {
                if self.has_link(browser, id) {
                    self.message(browser, message, results);
                }
            }
        }
    }

    /// Whether a link belongs to the browser's current page; reports of other links are ignored.
    fn has_link(&self, browser: BrowserId, id: LinkId) -> bool {
        self.browsers.get(&browser).is_some_and(|entry| {
            entry.control.iter().chain(&entry.data).any(|link| link.id() == id)
        })
    }

    fn message(&mut self, browser: BrowserId, message: FromPage, results: Option<Results>) {
        match message {
            FromPage::Hello(_) => {
                self.down(
                    browser,
                    Failure::new(FailureKind::WrongResult, "the page sent a second hello"),
                );
            }
            FromPage::Heartbeat => self.event(Event::Heartbeat { browser }),
            FromPage::Console { level, text } => self.console(browser, level, &text),
            FromPage::Backends(reports) => {
                if let Some(entry) = self.browsers.get_mut(&browser) {
                    entry.backends = reports;
                }
                self.check_up(browser);
            }
            FromPage::LoadProgress { placement, epoch, done_bytes, total_bytes } => {
                if let Some(entry) = self.loading(browser, placement, epoch) {
                    entry.progress = (done_bytes, total_bytes);
                    self.event(Event::PlacementProgress { browser, placement, epoch });
                }
            }
            FromPage::Loaded { placement, .. } if probe::backend(placement).is_some() => {}
            FromPage::LoadFailed { placement, error, .. }
                if probe::backend(placement).is_some() =>
            {
                let backend = probe::backend(placement);
                self.probes_failed(browser, backend, load_failure(&error));
            }
            FromPage::Loaded { placement, epoch, adapter, split, report } => {
                let requested = self.options.backends.webnn.device;
                if let Some(entry) = self.loading(browser, placement, epoch) {
                    tracing::info!(%browser, backend = %entry.backend, load_ms = report.load_us / 1000, device_bytes = report.device_bytes, "model loaded");
                    if let Some(split) = &split {
                        let (nodes, others) = (split.nodes, split.elsewhere.len());
                        tracing::info!(%browser, backend = %entry.backend, parts = split.parts, nodes, rest = %split.rest, others, "the model is split");
                    }
                    let device = requested.filter(|_| entry.backend == Backend::WebNn);
                    entry.ready = Some(Loaded { placement, adapter, split, device, report });
                    self.event(Event::PlacementReady { browser, placement, epoch });
                }
            }
            FromPage::LoadFailed { placement, epoch, error } => {
                tracing::warn!(%browser, %error, "load failed");
                let failure = load_failure(&error);
                self.event(Event::PlacementFailed { browser, placement, epoch, failure });
            }
            FromPage::Ran { run, epoch, report } => {
                let results =
                    results.unwrap_or_else(|| Err("the results were not checked".to_owned()));
                if self.take_probe(browser, run).is_some() {
                    self.probed(browser, run, results);
                } else if self.take_measure(browser, run).is_some() {
                    self.measured(browser, run, report, results);
                } else {
                    self.ran(browser, run, epoch, report, results);
                }
            }
            FromPage::RunFailed { run, epoch, error } => {
                tracing::warn!(%browser, %error, "run failed");
                let failure = run_failure(&error);
                if let Some(backend) = self.take_probe(browser, run) {
                    self.forget_probe(browser, backend);
                    self.event(Event::ProbeFailed { browser, probe: run, failure });
                } else if let Some(model) = self.take_measure(browser, run) {
                    self.measure_failed(browser, run, model, &error, failure);
                } else if self.is_of(browser, run, epoch) {
                    self.event(Event::RunFailed { browser, run, epoch, failure });
                    self.flights.remove(&run);
                }
            }
            FromPage::DeviceLost { backend, generation, reason } => {
                tracing::warn!(%browser, %backend, generation, %reason, "device lost");
                self.forget_probe(browser, backend);
                self.event(Event::DeviceLost { browser, backend, reason });
            }
        }
    }

    /// Logs a line of a page's console, up to limits of length and rate.
    fn console(&mut self, browser: BrowserId, level: Level, text: &str) {
        let now = self.begin.elapsed();
        let Some(entry) = self.browsers.get_mut(&browser) else { return };
        let Some(dropped) = entry.console.admits(now) else { return };
        if dropped > 0 {
            tracing::warn!(%browser, dropped, "the page writes more to its console than is logged");
        }
        let text = &text[..text.floor_char_boundary(CONSOLE_BYTES_MAX)];
        match level {
            Level::Error => tracing::error!(%browser, "console: {text}"),
            Level::Warn => tracing::warn!(%browser, "console: {text}"),
            Level::Info => tracing::info!(%browser, "console: {text}"),
            Level::Debug => tracing::debug!(%browser, "console: {text}"),
        }
    }

    /// A placement that a browser's page may report about in an epoch.
    fn loading(
        &mut self,
        browser: BrowserId,
        placement: PlacementId,
        epoch: Epoch,
    ) -> Option<&mut Placement> {
        let entry = self.placements.get_mut(&placement);
        entry.filter(|entry| (entry.browser, entry.epoch) == (browser, epoch))
    }

    /// Whether a browser's page may report about a run in an epoch. Abandoned runs are allowed, too: the core counts them to
    /// know whether the page is busy.
    fn is_of(&self, browser: BrowserId, run: RunId, epoch: Epoch) -> bool {
        let Some(flight) = self.flights.get(&run) else { return true };
        let is_own = (flight.browser, flight.epoch) == (browser, epoch);
        if !is_own {
            tracing::warn!(%browser, %run, %epoch, owner = %flight.browser, "a page reports a run of another browser or epoch");
        }
        is_own
    }

    fn ran(
        &mut self,
        browser: BrowserId,
        run: RunId,
        epoch: Epoch,
        report: RunReport,
        results: Results,
    ) {
        if !self.is_of(browser, run, epoch) {
            return;
        }
        let flight = self.flights.get(&run);
        let provenance = flight
            .and_then(|flight| self.provenance(flight.placement, report, flight.requests.len()));
        let event = match (self.flights.get_mut(&run), results) {
            (Some(flight), Ok(results)) => {
                let results = Arc::new(results);
                flight.done = provenance.map(|provenance| (results, provenance.into()));
                Event::RunDone { browser, run, epoch }
            }
            (Some(_), Err(wrong)) => {
                tracing::warn!(%run, %wrong, "results are refused");
                let failure = Failure::new(FailureKind::WrongResult, wrong);
                Event::RunFailed { browser, run, epoch, failure }
            }
            (None, results) => {
                discard(results.unwrap_or_default());
                Event::RunDone { browser, run, epoch }
            }
        };
        self.event(event);
        if let Some((results, _)) = self.flights.remove(&run).and_then(|flight| flight.done) {
            discard(results);
        }
    }

    /// Removes a probe's run and returns its backend.
    fn take_probe(&mut self, browser: BrowserId, run: RunId) -> Option<Backend> {
        self.browsers.get_mut(&browser)?.probes.remove(&run)
    }

    fn probed(&mut self, browser: BrowserId, run: RunId, results: Results) {
        let event = match results {
            Ok(_) => Event::ProbeDone { browser, probe: run },
            Err(wrong) => {
                tracing::warn!(%browser, %wrong, "probe failed");
                let failure = Failure::new(FailureKind::WrongResult, wrong);
                Event::ProbeFailed { browser, probe: run, failure }
            }
        };
        self.event(event);
    }

    /// Every probe of a browser on a backend has failed.
    fn probes_failed(&mut self, browser: BrowserId, backend: Option<Backend>, failure: Failure) {
        let Some(entry) = self.browsers.get_mut(&browser) else { return };
        let failed: Vec<RunId> = entry
            .probes
            .iter()
            .filter(|&(_, &of)| backend == Some(of))
            .map(|(&run, _)| run)
            .collect();
        if let Some(backend) = backend {
            self.forget_probe(browser, backend);
        }
        for probe in failed {
            self.take_probe(browser, probe);
            self.event(Event::ProbeFailed { browser, probe, failure: failure.clone() });
        }
    }

    /// Forgets the probe's program on a backend, so that it is loaded again before the next probe.
    fn forget_probe(&mut self, browser: BrowserId, backend: Backend) {
        if let Some(entry) = self.browsers.get_mut(&browser) {
            entry.probe_epochs.remove(&backend);
        }
    }
}

/// Frees results, which takes milliseconds for large ones, unless another task still holds them.
fn discard(results: impl Borrow<Vec<Tensor>> + Send + 'static) {
    batch::discard(batch::bytes(results.borrow()), results);
}

fn load_failure(error: &LoadError) -> Failure {
    let kind = match error {
        LoadError::BackendUnavailable { .. }
        | LoadError::Unsupported { .. }
        | LoadError::UnsupportedNodes { .. }
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
        RunError::NotLoaded { .. } | RunError::Backend { .. } => FailureKind::WrongResult,
        RunError::Inputs { .. } => FailureKind::UnsupportedOperation,
        RunError::Unsupported { .. } | RunError::Node { .. } => FailureKind::RunRefused,
        RunError::OutOfMemory { .. } => FailureKind::OutOfMemory,
        RunError::DeviceLost { .. } => FailureKind::DeviceLost,
    };
    Failure::new(kind, error.to_string())
}
