//! Executes the core's actions.

use std::collections::BTreeMap;

use flotilla_browser_runtime::probe;
use flotilla_browsers::owner::{Launch, Owner};
use flotilla_fleet::{Action, Event, Failure, FailureKind, LeaseId, ModelId, SlotId};
use flotilla_protocol::{
    Backend, BlobSource, BrowserId, Epoch, LoadTerms, PlacementId, RequestId, RunId,
};
use serde_json::json;

use super::{
    state::{Browser, Console, Flight, Placement, Stage, State, Waiting},
    worker::{self, LeaseStatus},
};
use crate::{
    batch::{self, Input},
    catalog::Model,
    link::{Inputs, Loadable, Order},
    simulated, usual,
};

impl State {
    /// Executes an action of the core. If that fails, returns the event to report.
    pub(super) fn perform(&mut self, action: Action) -> Result<(), Event> {
        match action {
            Action::Launch { browser, slot } => return self.launch(browser, slot),
            Action::Kill { browser, reason } => self.kill(browser, &reason),
            Action::Reset { browser, reason } => return self.reset(browser, &reason),
            Action::Probe { browser, backend, probe } => {
                return self.probe(browser, backend, probe);
            }
            Action::Place { browser, placement, epoch, model, backend } => {
                return self.place(browser, placement, epoch, model, backend);
            }
            Action::Measure { browser, placement, epoch, model, measure } => {
                return self.measure(browser, placement, epoch, model, measure);
            }
            Action::Keep { browser, model, backend, took } => {
                self.keep(browser, model, backend, took);
            }
            Action::Unload { browser, placement } => {
                self.placements.remove(&placement);
                if let Err(failure) = self.send(browser, Order::Unload { placement }) {
                    // The page is failing, which will be detected; its placements are freed with it.
                    tracing::debug!(%browser, %failure, "a placement could not be unloaded");
                }
            }
            Action::Dispatch { browser, placement, epoch, run, requests } => {
                return self.dispatch(browser, placement, epoch, run, requests);
            }
            Action::Abandon { run } => {
                self.flights.remove(&run);
            }
            Action::Answer { request, run, tried } => self.answer(request, run, &tried),
            Action::Fail { request, error } => self.reply(request, Err(error.into())),
            Action::Commit(transaction) => return self.commit(transaction),
            Action::Acquired { lease: task, browser } => self.acquired(task, browser),
            Action::Revoked { lease: task, failure } => self.revoked(task, failure),
            Action::Migrated { model, from, to, failure } => {
                let name = self.model(model).map(|model| model.name.clone()).unwrap_or_default();
                let reason = failure.as_ref().map(ToString::to_string).unwrap_or_default();
                self.audit("migrate", name, &reason, json!({ "from": from.0, "to": to.0 }));
                if let Some(reply) = self.migrations.remove(&(model, from, to)) {
                    // The caller may have stopped waiting.
                    let _ = reply.send(failure.map_or(Ok(()), Err));
                }
            }
            Action::Recovered(recovery) => self.recovered(&recovery),
            Action::Drained => self.drained = true,
        }
        Ok(())
    }

    fn launch(&mut self, browser: BrowserId, slot: SlotId) -> Result<(), Event> {
        let Some((desired, _)) = self.desired.get(slot.0 as usize) else {
            let words = format!("there is no slot {}", slot.0);
            let failure = Failure::new(FailureKind::DriverUnresponsive, words);
            return Err(Event::BrowserDown { browser, failure });
        };
        let desired = desired.clone();
        let tokens = (crate::token::random(), crate::token::random());
        let launch = Launch {
            browser,
            desired: desired.clone(),
            origin: self.origin.clone(),
            tokens: tokens.clone(),
            guardian: self.options.guardian.clone(),
            data_dir_id: self.options.data_dir_id.clone(),
            limits: self.options.limits,
            takes_faults: self.options.settings.takes_faults,
        };
        let start = if desired.simulated { simulated::launch } else { Owner::launch };
        let entry = Browser {
            desired,
            owner: start(launch, self.owners.clone()),
            page: tokens.0.clone(),
            tokens: (Some(tokens.0), Some(tokens.1)),
            control: None,
            data: None,
            facts: None,
            backends: Vec::new(),
            stage: Stage::Starting,
            probes: BTreeMap::new(),
            measures: BTreeMap::new(),
            probe_epochs: BTreeMap::new(),
            probe_loads: 0,
            console: Console::default(),
        };
        self.audit("launch", browser.to_string(), "", json!({ "kind": entry.desired.build }));
        self.browsers.insert(browser, entry);
        Ok(())
    }

    fn kill(&mut self, browser: BrowserId, reason: &str) {
        let Some(entry) = self.browsers.remove(&browser) else { return };
        tracing::debug!(%browser, %reason, "browser is ended");
        let name = entry.facts.as_ref().map_or(&entry.desired.build.name, |facts| &facts.name);
        self.audit("kill", browser.to_string(), reason, json!({ "kind": name }));
        self.forget_page(browser);
        self.ending.push(entry.owner.end());
    }

    /// Forgets a page's placements and the runs on them.
    fn forget_page(&mut self, browser: BrowserId) {
        let placements = &self.placements;
        self.flights.retain(|_, flight| {
            placements.get(&flight.placement).is_some_and(|placement| placement.browser != browser)
        });
        self.placements.retain(|_, placement| placement.browser != browser);
    }

    fn reset(&mut self, browser: BrowserId, reason: &str) -> Result<(), Event> {
        self.audit("reset", browser.to_string(), reason, json!({}));
        self.forget_page(browser);
        let gone = |words: String| Event::BrowserDown {
            browser,
            failure: Failure::new(FailureKind::DriverUnresponsive, words),
        };
        let Some(entry) = self.browsers.get_mut(&browser) else {
            return Err(gone("the browser has ended".to_owned()));
        };
        let tokens = (crate::token::random(), crate::token::random());
        entry.page = tokens.0.clone();
        entry.tokens = (Some(tokens.0.clone()), Some(tokens.1.clone()));
        // Dropping the outboxes ends the old page's links even if it is busy.
        (entry.control, entry.data) = (None, None);
        entry.backends.clear();
        entry.probes.clear();
        entry.measures.clear();
        entry.probe_epochs.clear();
        if entry.stage != Stage::Down {
            entry.stage = Stage::Starting;
        }
        entry.owner.reset(tokens).map_err(|error| gone(error.to_string()))
    }

    /// Loads the probe's program if the page does not hold it, and runs it.
    fn probe(&mut self, browser: BrowserId, backend: Backend, run: RunId) -> Result<(), Event> {
        let failed = |failure| Event::ProbeFailed { browser, probe: run, failure };
        let placement = probe::placement(backend);
        let Some(entry) = self.browsers.get_mut(&browser) else {
            return Err(failed(Failure::new(FailureKind::BrowserExited, "the browser has ended")));
        };
        let (epoch, is_loaded) = match entry.probe_epochs.get(&backend) {
            Some(&epoch) => (epoch, true),
            None => {
                entry.probe_loads += 1;
                (Epoch(entry.probe_loads), false)
            }
        };
        entry.probe_epochs.insert(backend, epoch);
        entry.probes.insert(run, backend);
        if !is_loaded {
            let blobs = BlobSource { url_prefix: format!("{}/blobs", self.origin) };
            let device = self.options.backends.webnn.device.filter(|_| backend == Backend::WebNn);
            let terms = LoadTerms { device, ..LoadTerms::default() };
            let program = Loadable::Probe;
            let load = Order::Load { placement, epoch, backend, program, blobs, terms };
            self.send(browser, load).map_err(failed)?;
        }
        let inputs = Inputs::Probe;
        self.send(browser, Order::Run { run, placement, epoch, inputs }).map_err(failed)
    }

    fn acquired(&mut self, task: LeaseId, browser: BrowserId) {
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        entry.browser = Some(browser);
        // The task may have stopped waiting; its release then follows.
        let _ = entry.status.send(LeaseStatus::Granted(browser));
        let name = entry.name.clone();
        self.audit("acquire", browser.to_string(), "", json!({ "task": name }));
    }

    fn revoked(&mut self, task: LeaseId, failure: Failure) {
        let Some(entry) = self.tasks.remove(&task) else { return };
        let memory = (entry.used_bytes, self.options.fleet.memory_bytes_max.unwrap_or_default());
        let allowed = self.options.fleet.run_timeout;
        let subject = entry.browser.map_or_else(String::new, |browser| browser.to_string());
        self.audit("revoke", subject, &failure.to_string(), json!({ "task": entry.name }));
        let over = worker::over(
            entry.name,
            failure,
            entry.since.elapsed(),
            allowed,
            memory,
            entry.browser.is_some(),
        );
        // The task may have ended at this moment.
        let _ = entry.status.send(LeaseStatus::Ended(over));
    }

    fn place(
        &mut self,
        browser: BrowserId,
        placement: PlacementId,
        epoch: Epoch,
        model: ModelId,
        backend: Backend,
    ) -> Result<(), Event> {
        let failed = |failure| Event::PlacementFailed { browser, placement, epoch, failure };
        let Some(served) = self.model(model) else {
            let words = "the model is no longer served";
            return Err(failed(Failure::new(FailureKind::UnsupportedOperation, words)));
        };
        self.placements.insert(
            placement,
            Placement { browser, model, backend, epoch, ready: None, progress: (0, 0) },
        );
        let load = Order::Load {
            placement,
            epoch,
            backend,
            blobs: BlobSource { url_prefix: format!("{}/blobs", self.origin) },
            terms: self.terms(&served, backend),
            program: Loadable::Model(served),
        };
        self.send(browser, load).map_err(failed)
    }

    /// Terms of a model's load on a backend.
    pub(super) fn terms(&self, model: &Model, backend: Backend) -> LoadTerms {
        let is_webnn = backend == Backend::WebNn;
        LoadTerms {
            device: self.options.backends.webnn.device.filter(|_| is_webnn),
            rest: self.options.backends.rest().filter(|_| is_webnn),
            sizes: usual::sizes(model),
        }
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
            browser,
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
        let model = first.model.clone();
        let rows = match &*first.input {
            Input::Tensors(_) => None,
            Input::Tokens(_) => {
                Some(batch::FixedSizes::of(&model.program).rows.unwrap_or(requests.len()))
            }
        };
        let inputs = waiting.iter().map(|waiting| waiting.input.clone()).collect();
        let inputs = Inputs::Requests { model, inputs };
        self.send(browser, Order::Run { run, placement, epoch, inputs })
            .map_err(|failure| Event::RunFailed { browser, run, epoch, failure })?;
        self.flights.insert(run, Flight { browser, placement, epoch, requests, rows, done: None });
        Ok(())
    }

    /// Never waits: a page that does not take its frames in time has failed.
    pub(super) fn send(&self, browser: BrowserId, order: Order) -> Result<(), Failure> {
        let outbox =
            self.browsers.get(&browser).and_then(|entry| entry.data.as_ref()).ok_or_else(|| {
                Failure::new(FailureKind::ConnectionLost, "the browser has no data link")
            })?;
        outbox
            .try_send(order)
            .map_err(|error| Failure::new(FailureKind::ConnectionLost, error.to_string()))
    }
}
