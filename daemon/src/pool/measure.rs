//! Measurements for the fastest backend: generated inputs, and results of earlier daemons.

use std::time::Duration;

use flotilla_fleet::{Account, By, Event, Failure, FailureKind, ModelId};
use flotilla_protocol::{
    Backend, BackendReport, BrowserId, Epoch, PlacementId, RunError, RunId, RunReport,
};
use serde::{Deserialize, Serialize};

use super::{speeds::Key, state::State};
use crate::{
    batch,
    link::{Inputs, Order, Results},
    usual,
};

/// Why a backend was chosen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Chosen {
    /// `only` (no other one is allowed and works), `order` (of the list), `speed` (measured to be the fastest), `order_for_now`
    /// (until all are measured), `unmeasurable` (by order: no input can be generated).
    pub by: String,
    /// The same with what was measured, for people.
    pub words: String,
    /// What was measured in such a browser, the fastest first.
    pub measured: Vec<MeasuredBackend>,
    /// Allowed backends that do not work, and why.
    pub refused: Vec<RefusedBackend>,
}

/// How long a run of usual size takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeasuredBackend {
    /// The backend.
    pub backend: Backend,
    /// Inside the page, in milliseconds; the shortest of some runs.
    pub run_ms: f64,
}

/// A backend that does not work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RefusedBackend {
    /// The backend.
    pub backend: Backend,
    /// Why.
    pub reason: String,
}

impl From<&Account> for Chosen {
    fn from(account: &Account) -> Chosen {
        let times: Vec<String> = account
            .measured
            .iter()
            .map(|(backend, took)| format!("{backend} {:.1} ms", took.as_secs_f64() * 1e3))
            .collect();
        let times = times.join(", ");
        let (by, words) = match &account.by {
            By::Only => ("only", "the only one that is allowed and works".to_owned()),
            By::Order => ("order", "the first of the list that works".to_owned()),
            By::Speed => ("speed", format!("fastest of {times}")),
            By::OrderForNow if times.is_empty() => {
                ("order_for_now", "the first of the list, until all are measured".to_owned())
            }
            By::OrderForNow => (
                "order_for_now",
                format!("the first of the list, until all are measured; so far {times}"),
            ),
            By::Unmeasurable(reason) => (
                "unmeasurable",
                format!("the first of the list: its backends cannot be measured: {reason}"),
            ),
        };
        let measured = account.measured.iter().map(|&(backend, took)| {
            let run_ms = took.as_secs_f64() * 1e3;
            MeasuredBackend { backend, run_ms }
        });
        let refused = account.refused.iter().map(|(backend, reason)| {
            let (backend, reason) = (*backend, reason.clone());
            RefusedBackend { backend, reason }
        });
        Chosen {
            by: by.to_owned(),
            words,
            measured: measured.collect(),
            refused: refused.collect(),
        }
    }
}

impl State {
    pub(super) fn measure(
        &mut self,
        browser: BrowserId,
        placement: PlacementId,
        epoch: Epoch,
        model: ModelId,
        measure: RunId,
    ) -> Result<(), Event> {
        let Some(entry) = self.model(model) else {
            let reason = "the model is no longer served".to_owned();
            return Err(Event::Unmeasurable { model, reason });
        };
        if let Some(reason) = usual::refusal(&entry) {
            return Err(Event::Unmeasurable { model, reason });
        }
        if let Some(entry) = self.browsers.get_mut(&browser) {
            entry.measures.insert(measure, model);
        }
        let inputs = Inputs::Usual(entry);
        self.send(browser, Order::Run { run: measure, placement, epoch, inputs })
            .map_err(|failure| Event::MeasureFailed { browser, measure, failure })
    }

    /// Removes a measuring run and returns its model.
    pub(super) fn take_measure(&mut self, browser: BrowserId, run: RunId) -> Option<ModelId> {
        self.browsers.get_mut(&browser)?.measures.remove(&run)
    }

    pub(super) fn measured(
        &mut self,
        browser: BrowserId,
        measure: RunId,
        report: RunReport,
        results: Results,
    ) {
        let event = match results {
            Ok(results) => {
                batch::discard(batch::bytes(&results), results);
                Event::Measured { browser, measure, took: Duration::from_micros(report.run_us) }
            }
            Err(wrong) => {
                let failure = Failure::new(FailureKind::WrongResult, wrong);
                Event::MeasureFailed { browser, measure, failure }
            }
        };
        self.event(event);
    }

    pub(super) fn measure_failed(
        &mut self,
        browser: BrowserId,
        measure: RunId,
        model: ModelId,
        error: &RunError,
        failure: Failure,
    ) {
        let event = match error {
            // A refused input says nothing about the backend's speed.
            RunError::Inputs { .. } | RunError::Node { .. } => Event::Unmeasurable {
                model,
                reason: format!("the input that was made up is refused: {error}"),
            },
            RunError::NotLoaded { .. }
            | RunError::Unsupported { .. }
            | RunError::OutOfMemory { .. }
            | RunError::DeviceLost { .. }
            | RunError::Backend { .. } => Event::MeasureFailed { browser, measure, failure },
        };
        self.event(event);
    }

    /// Stores a measurement for the next daemon, and logs the choice of backend that follows from it.
    pub(super) fn keep(
        &mut self,
        browser: BrowserId,
        model: ModelId,
        backend: Backend,
        took: Duration,
    ) {
        let Some(name) = self.model(model).map(|model| model.name.clone()) else { return };
        let run_ms = took.as_secs_f64() * 1e3;
        tracing::info!(%browser, model = name, %backend, run_ms, "backend measured");
        if let Some(key) = self.speed_key(browser, model, backend) {
            match self.speeds.keep(&name, key, took) {
                // Writing may be slow, so it is not done in the loop.
                Ok(Some(line)) => drop(tokio::task::spawn_blocking(move || warn(line.write()))),
                Ok(None) => {}
                Err(error) => warn(Err(error)),
            }
        }
        if let Some((chosen, account)) = self.fleet.chosen(browser, model)
            && account.by == By::Speed
        {
            let why = Chosen::from(&account).words;
            tracing::info!(%browser, model = name, backend = %chosen, "backend chosen: {why}");
        }
    }

    /// What earlier daemons have measured in a browser like this one.
    pub(super) fn known_speeds(&self, browser: BrowserId) -> Vec<Event> {
        let catalog = self.catalog.borrow();
        let models = catalog.models.iter().map(|model| model.id);
        let each = models.flat_map(|model| Backend::ALL.map(|backend| (model, backend)));
        each.filter_map(|(model, backend)| {
            let took = self.speeds.took(&self.speed_key(browser, model, backend)?)?;
            Some(Event::SpeedKnown { browser, model, backend, took })
        })
        .collect()
    }

    fn speed_key(&self, browser: BrowserId, model: ModelId, backend: Backend) -> Option<Key> {
        let entry = self.browsers.get(&browser)?;
        let facts = entry.facts.as_ref()?;
        let model = self.model(model)?;
        let terms = self.terms(&model, backend);
        let report = offer(&entry.backends, backend, terms.device)?;
        let adapter = report.outcome.as_ref().ok()?.label();
        let is_chromium = facts.kind.is_chromium() && !facts.simulated;
        Some(Key {
            program: model.program_hash.clone(),
            browser: facts.name.clone(),
            browser_version: facts.version.clone(),
            simulated: facts.simulated,
            backend,
            device: terms.device,
            rest: terms.rest,
            adapter,
            webgpu_adapter: (is_chromium && backend == Backend::WebGpu)
                .then_some(entry.desired.adapter),
            flotilla: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }
}

fn warn(written: std::io::Result<()>) {
    if let Err(error) = written {
        tracing::warn!(%error, "a measurement is not kept for the next start");
    }
}

/// A page's report on a backend, for the requested processor.
pub(super) fn offer(
    reports: &[BackendReport],
    backend: Backend,
    device: Option<flotilla_protocol::Device>,
) -> Option<&BackendReport> {
    let mut of_it = reports.iter().filter(|report| {
        let is_asked = device.is_none() || report.device.is_none() || report.device == device;
        report.backend == backend && is_asked
    });
    let first = of_it.clone().next();
    of_it.find(|report| report.outcome.is_ok()).or(first)
}

#[cfg(test)]
mod tests {
    use flotilla_protocol::{AdapterInfo, Device};

    use super::*;

    #[test]
    fn a_backend_is_offered_if_the_processor_that_is_asked_for_is() {
        let report = |device, outcome| BackendReport { backend: Backend::WebNn, device, outcome };
        let reports = [
            report(Some(Device::Npu), Err("none".to_owned())),
            report(Some(Device::Cpu), Ok(AdapterInfo::default())),
        ];
        let is_ok =
            |device| offer(&reports, Backend::WebNn, device).map(|report| report.outcome.is_ok());
        assert_eq!(is_ok(None), Some(true));
        assert_eq!(is_ok(Some(Device::Cpu)), Some(true));
        assert_eq!(is_ok(Some(Device::Npu)), Some(false));
        assert_eq!(is_ok(Some(Device::Gpu)), None);
        assert!(offer(&reports, Backend::Cpu, None).is_none());
    }

    #[test]
    fn a_choice_is_described_in_words() {
        let ms = Duration::from_millis;
        let account = |by, measured| Account { by, measured, refused: Vec::new() };
        let measured = vec![(Backend::WebNn, ms(37)), (Backend::Cpu, ms(170))];
        let chosen = Chosen::from(&account(By::Speed, measured));
        assert_eq!(chosen.words, "fastest of webnn 37.0 ms, cpu 170.0 ms");
        assert_eq!(chosen.measured[0].run_ms, 37.0);
        let chosen = Chosen::from(&account(By::OrderForNow, Vec::new()));
        assert_eq!(chosen.by, "order_for_now");
    }
}
