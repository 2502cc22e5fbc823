//! What the core orders, done.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_browser_runtime::probe;
use flotilla_fleet::{Action, Event, Failure, FailureKind, ModelId, SlotId, TaskId};
use flotilla_protocol::{
    Backend, BlobSource, BrowserId, Epoch, LoadTerms, PlacementId, RequestId, RunId, Tensor,
    ToPage, encode,
};
use serde_json::json;

use super::{
    Input, batch, measure,
    state::{Browser, Console, Flight, Placement, State, Waiting},
    worker::{self, Told},
};
use crate::browser::owner::{Launch, Owner};

impl State {
    /// Does what the core orders. An order that cannot be carried out becomes the event that says so.
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
                if let Err(failure) = self.send(browser, &ToPage::Unload { placement }, &[]) {
                    // What the page holds is freed with the page, which is about to be found out.
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
            Action::Acquired { task, browser } => self.acquired(task, browser),
            Action::Revoked { task, failure } => self.revoked(task, failure),
            Action::Migrated { model, from, to, failure } => {
                let name = self.catalog.models[model.0 as usize].name.clone();
                let reason = failure.as_ref().map(ToString::to_string).unwrap_or_default();
                self.audit("migrate", name, &reason, json!({ "from": from.0, "to": to.0 }));
                if let Some(reply) = self.migrations.remove(&(model, from, to)) {
                    // Whoever asked may have gone.
                    let _ = reply.send(failure.map_or(Ok(()), Err));
                }
            }
            Action::Recovered(recovery) => self.recovered(&recovery),
            Action::Drained => self.drained = true,
        }
        Ok(())
    }

    fn launch(&mut self, browser: BrowserId, slot: SlotId) -> Result<(), Event> {
        let Some((wish, _)) = self.options.slots().nth(slot.0 as usize) else {
            let words = format!("there is no slot {}", slot.0);
            let failure = Failure::new(FailureKind::DriverUnresponsive, words);
            return Err(Event::BrowserDown { browser, failure });
        };
        let wish = wish.clone();
        let tokens = (crate::token::random(), crate::token::random());
        let launch = Launch {
            browser,
            wish: wish.clone(),
            origin: self.origin.clone(),
            tokens: tokens.clone(),
            guardian: self.options.guardian.clone(),
            data_dir_id: self.options.data_dir_id.clone(),
            limits: self.options.limits,
            takes_faults: self.options.takes_faults,
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
            opened: false,
            is_up: false,
            down: false,
            probes: BTreeMap::new(),
            measures: BTreeMap::new(),
            probe_epochs: BTreeMap::new(),
            probe_loads: 0,
            console: Console::default(),
        };
        self.audit("launch", browser.to_string(), "", json!({ "kind": entry.wish.build }));
        self.browsers.insert(browser, entry);
        Ok(())
    }

    fn kill(&mut self, browser: BrowserId, reason: &str) {
        let Some(entry) = self.browsers.remove(&browser) else { return };
        tracing::debug!(%browser, %reason, "browser is ended");
        let name = entry.facts.as_ref().map_or(&entry.wish.build.name, |facts| &facts.name);
        self.audit("kill", browser.to_string(), reason, json!({ "kind": name }));
        self.forget_page(browser);
        self.ending.push(entry.owner.end());
    }

    /// What a page held is gone: its placements, and the runs on them.
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
            return Err(gone("the browser is not there".to_owned()));
        };
        let tokens = (crate::token::random(), crate::token::random());
        entry.page = tokens.0.clone();
        entry.tokens = (Some(tokens.0.clone()), Some(tokens.1.clone()));
        // Dropping the outboxes ends the old page's links, whatever it is busy with.
        (entry.control, entry.data) = (None, None);
        entry.backends.clear();
        entry.probes.clear();
        entry.measures.clear();
        entry.probe_epochs.clear();
        (entry.opened, entry.is_up) = (false, false);
        entry.owner.reset(tokens).map_err(|error| gone(error.to_string()))
    }

    /// Loads the probe's program if the page does not hold it, and runs it.
    fn probe(&mut self, browser: BrowserId, backend: Backend, run: RunId) -> Result<(), Event> {
        let failed = |failure| Event::ProbeFailed { browser, probe: run, failure };
        let broken = |words: String| failed(Failure::new(FailureKind::UnsupportedOperation, words));
        let placement = probe::placement(backend);
        let Some(entry) = self.browsers.get_mut(&browser) else {
            return Err(failed(Failure::new(FailureKind::BrowserExited, "it is not there")));
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
            let program = probe::program().to_bytes().map_err(|error| broken(error.to_string()))?;
            let blobs = BlobSource { url_prefix: format!("{}/blobs", self.origin) };
            let device = self.options.device.filter(|_| backend == Backend::WebNn);
            let terms = LoadTerms { device, ..LoadTerms::default() };
            let load = ToPage::Load { placement, epoch, backend, program, blobs, terms };
            self.send(browser, &load, &[]).map_err(failed)?;
        }
        let inputs = probe::inputs(run).map_err(|error| broken(error.to_string()))?;
        self.send(browser, &ToPage::Run { run, placement, epoch }, &inputs).map_err(failed)
    }

    fn acquired(&mut self, task: TaskId, browser: BrowserId) {
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        entry.browser = Some(browser);
        // The task may have given up waiting, and then its release is on its way.
        let _ = entry.told.send(Told::Has(browser));
        let name = entry.name.clone();
        self.audit("acquire", browser.to_string(), "", json!({ "task": name }));
    }

    fn revoked(&mut self, task: TaskId, failure: Failure) {
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
        // The task may have ended in this moment.
        let _ = entry.told.send(Told::Over(over));
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
            terms: self.terms(model, backend),
        };
        self.send(browser, &load, &[]).map_err(|failure| Event::PlacementFailed {
            browser,
            placement,
            epoch,
            failure,
        })
    }

    /// What is wished for when a model is loaded on a backend.
    pub(super) fn terms(&self, model: ModelId, backend: Backend) -> LoadTerms {
        let is_webnn = backend == Backend::WebNn;
        LoadTerms {
            device: self.options.device.filter(|_| is_webnn),
            rest: self.options.rest.filter(|_| is_webnn),
            sizes: measure::usual_sizes(&self.catalog.models[model.0 as usize]),
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
        let program = &self.catalog.models[first.model.0 as usize].program;
        let inputs: Vec<&Input> = waiting.iter().map(|waiting| &waiting.input).collect();
        let tensors = batch::join(program, &inputs)
            .map_err(|error| failed(FailureKind::UnsupportedOperation, error.to_string()))?;
        let wanted = batch::wanted(program, &tensors);
        let is_tensors = matches!(first.input, Input::Tensors(_));
        let rows = batch::FixedSizes::of(program).rows.unwrap_or(requests.len());
        self.send(browser, &ToPage::Run { run, placement, epoch }, &tensors)
            .map_err(|failure| Event::RunFailed { browser, run, epoch, failure })?;
        let flight = Flight {
            browser,
            placement,
            epoch,
            requests,
            rows,
            tensors: is_tensors,
            wanted,
            done: None,
        };
        self.flights.insert(run, flight);
        Ok(())
    }

    /// Never waits: a page that does not take its frames in time has failed.
    pub(super) fn send(
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
}
