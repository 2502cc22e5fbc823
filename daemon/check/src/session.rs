//! One model loaded on one target. All its numbers are measured on that target.

use std::{sync::Arc, time::Duration};

use flotilla::{
    catalog::Catalog,
    http,
    local::{Local, LocalOptions},
    pool::{Answer, BackendSettings, Input, View, WebNnSettings},
};
use flotilla_browsers::{Adapter, Build, Channel, Kind, adapter, guardian};
use flotilla_fleet::{Budget, Config, FailureSort, ModelId, StepBudgets};
use flotilla_protocol::{Backend, Device, Split};
use flotilla_tensor::Tensor;

use crate::{
    Status,
    native::Native,
    run::{Run, RunFailed},
    subject::Subject,
    target::{Host, Target},
};

/// Longest start of a browser, its page included.
const START_MAX: Duration = Duration::from_secs(60);
/// Longer than any check, so that no probe runs while something is measured.
const NO_PROBES: Duration = Duration::from_secs(24 * 3600);

/// What sessions are opened with.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Where Chromium's WebGPU adapter comes from.
    pub adapter: Adapter,
    /// Longest load and longest run.
    pub timeout: Duration,
    /// How webnn is used.
    pub webnn: WebNnSettings,
}

/// What is known about a target.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The browser's name; it differs from the target's if another browser takes its place.
    pub name: Option<String>,
    /// The browser's own version; this program's where there is no browser.
    pub version: Option<String>,
    /// Its release channel.
    pub channel: Option<Channel>,
    /// What the backend runs on, as the browser names it.
    pub adapter: Option<String>,
    /// Chromium's route to WebGPU, where one was taken.
    pub webgpu_adapter: Option<Adapter>,
    /// From the order to load until the model answers, in milliseconds.
    pub load_ms: Option<f64>,
    /// Bytes of the model's blobs, all of which the page has read.
    pub weights_bytes: Option<u64>,
    /// Bytes of memory that the backend holds the model's constants in.
    pub device_bytes: Option<u64>,
    /// The processor requested from webnn.
    pub device: Option<Device>,
    /// Which nodes run elsewhere, if not all run on the backend.
    pub split: Option<Split>,
    /// Backends that the page offers, once it has reported them.
    pub offers: Option<Vec<Backend>>,
}

/// Why there is no session.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Whether the browser failed, so that it is not known whether it supports the model.
    pub is_failure: bool,
    /// The message of the browser, the driver or the runtime.
    pub reason: String,
    /// What was known by then.
    pub facts: Facts,
}

impl Refusal {
    /// The status of a row.
    pub fn status(&self) -> Status {
        if self.is_failure { Status::Fail } else { Status::Refused }
    }
}

/// A model that is loaded on a target.
pub struct Session {
    target: Target,
    settings: Settings,
    facts: Facts,
    host: Running,
}

enum Running {
    Pool(Box<Local>, ModelId),
    Native(Native),
}

impl Session {
    /// Starts the target's browser with this model and nothing else.
    ///
    /// # Errors
    /// The browser does not start, or it or its backend refuses the model.
    pub async fn open(
        subject: &Subject,
        target: &Target,
        settings: Settings,
    ) -> Result<Session, Refusal> {
        let (facts, host) = match &target.host {
            Host::Native => native(subject, target, settings).await?,
            Host::Browser(build) => pool(subject, target, settings, build, false).await?,
            Host::Simulated => pool(subject, target, settings, &Kind::Chrome.into(), true).await?,
        };
        Ok(Session { target: target.clone(), settings, facts, host })
    }

    /// What is known about the target.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Runs the model once.
    ///
    /// # Errors
    /// The run failed, took too long, or was computed elsewhere.
    pub async fn run(&self, inputs: &[Tensor]) -> Result<Run, RunFailed> {
        match &self.host {
            Running::Native(native) => {
                let run = native.run(inputs.to_vec());
                let limit = self.settings.timeout;
                let late = |_| format!("it took longer than {} s", limit.as_secs());
                Ok(tokio::time::timeout(limit, run).await.map_err(late)??)
            }
            Running::Pool(local, model) => {
                let input = Input::Tensors(inputs.to_vec());
                let answer = local.pool.run(*model, input, self.settings.timeout).await;
                Ok(self.owned(answer.map_err(RunFailed::of)?)?)
            }
        }
    }

    /// The result of an answer, if this target computed it at the first attempt.
    fn owned(&self, answer: Answer) -> Result<Run, String> {
        let provenance = &answer.provenance;
        let is_own_browser = match &self.target.host {
            Host::Browser(_) => {
                !provenance.simulated && self.facts.name.as_ref() == Some(&provenance.browser)
            }
            Host::Simulated | Host::Native => provenance.simulated,
        };
        let is_own = is_own_browser
            && provenance.backend == self.target.backend
            && provenance.fallback.is_none();
        if !is_own {
            return Err(format!(
                "{} {} answered, simulated: {}, fallback: {:?}",
                provenance.browser, provenance.backend, provenance.simulated, provenance.fallback
            ));
        }
        if !provenance.tried.is_empty() {
            return Err(format!("it was tried before: {}", provenance.tried.join("; ")));
        }
        Ok(Run {
            outputs: answer.outputs,
            run_ms: provenance.run_ms,
            pipelines_created: provenance.pipelines_created,
        })
    }

    /// Memory of the browser's processes (PSS), or of this process if there is no browser process, in bytes. Takes some 50 ms.
    pub async fn memory_bytes(&self) -> Option<u64> {
        let root = match &self.host {
            Running::Native(_) => std::process::id(),
            Running::Pool(local, _) => {
                let view = local.pool.view().await?;
                let facts = view.browsers.first()?.facts.as_ref()?;
                if facts.simulated { std::process::id() } else { facts.guardian_pid? }
            }
        };
        let measuring = tokio::task::spawn_blocking(move || guardian::tree_pss_bytes(root));
        measuring.await.ok().filter(|&bytes| bytes > 0)
    }

    /// Ends the browser.
    pub async fn close(self) {
        match self.host {
            Running::Pool(local, _) => local.stop().await,
            Running::Native(native) => drop(native),
        }
    }
}

async fn native(
    subject: &Subject,
    target: &Target,
    settings: Settings,
) -> Result<(Facts, Running), Refusal> {
    let mut facts = Facts { version: Some(own_version()), ..Facts::default() };
    let open = Native::open(subject.program.clone(), subject.blobs.clone(), target.backend);
    let opened = match tokio::time::timeout(settings.timeout, open).await {
        Ok(opened) => opened,
        Err(_) => Err(format!("the load took longer than {} s", settings.timeout.as_secs())),
    };
    match opened {
        Ok((native, loaded)) => {
            facts.adapter = Some(loaded.adapter.label());
            facts.load_ms = Some(loaded.load_ms);
            facts.weights_bytes = Some(loaded.weights_bytes);
            facts.device_bytes = Some(loaded.device_bytes);
            Ok((facts, Running::Native(native)))
        }
        Err(reason) => Err(Refusal { is_failure: false, reason, facts }),
    }
}

async fn pool(
    subject: &Subject,
    target: &Target,
    settings: Settings,
    build: &Build,
    simulated: bool,
) -> Result<(Facts, Running), Refusal> {
    let refused = |reason: String| Refusal { is_failure: false, reason, facts: Facts::default() };
    let mut catalog = Catalog::default();
    let model = catalog
        .add_program(&subject.name, subject.program.clone(), subject.blobs.clone())
        .map_err(|error| refused(error.to_string()))?;
    if let Some(sizes) = subject.sizes() {
        catalog.expect_sizes(model, sizes);
    }
    let local =
        Local::start(&local_options(target, settings, build, simulated), Arc::new(catalog), 0)
            .await
            .map_err(|error| refused(error.to_string()))?;
    let over = |view: &View| ready_ms(view).is_some() || failure(view).is_some();
    let waited = tokio::time::timeout(START_MAX + settings.timeout, local.pool.wait_until(over));
    let view = waited.await.ok().flatten();
    let facts = view.as_ref().map(|view| facts(view, target, settings)).unwrap_or_default();
    match view.as_ref().map(|view| (failure(view), ready_ms(view))) {
        Some((None, Some(_))) => Ok((facts, Running::Pool(Box::new(local), model))),
        Some((failure, _)) => {
            local.stop().await;
            // The page never reported what it offers, so no load was ordered.
            let is_failure = facts.offers.is_none();
            let kind = view.as_ref().and_then(|view| view.status.slots.first()?.last_failure_kind);
            let is_slow = is_failure && kind.is_some_and(|kind| kind.sort() == FailureSort::Time);
            let slow = if is_slow { "slow start: " } else { "" };
            let reason = format!("{slow}{}", failure.unwrap_or_default());
            Err(Refusal { is_failure, reason, facts })
        }
        None => {
            local.stop().await;
            let reason = format!("no answer within {} s", (START_MAX + settings.timeout).as_secs());
            Err(Refusal { is_failure: facts.offers.is_none(), reason, facts })
        }
    }
}

/// A pool of one browser and one backend without retries: a failure is the result of the check.
fn local_options(
    target: &Target,
    settings: Settings,
    build: &Build,
    simulated: bool,
) -> LocalOptions {
    let never = Budget { tries_max: 0, wait_max: Duration::ZERO };
    let fleet = Config {
        start_timeout: START_MAX,
        load_timeout: settings.timeout,
        probe_interval: NO_PROBES,
        restarts_max: 0,
        load_restarts_max: 0,
        step_budgets: StepBudgets {
            retry: never,
            reset: never,
            migrate: never,
            reconstruct: never,
            simulate: never,
        },
        ..Config::default()
    };
    LocalOptions {
        simulated,
        backends: BackendSettings { webnn: settings.webnn, ..vec![target.backend].into() },
        adapter: settings.adapter,
        http: http::Settings { timeout: settings.timeout, ..http::Settings::default() },
        worker_timeout: Some(settings.timeout),
        fleet,
        ..LocalOptions::of([build.clone()])
    }
}

/// How long the load took, once the model answers.
fn ready_ms(view: &View) -> Option<f64> {
    let is_ready = view.status.models.iter().any(|model| model.ready > 0);
    let loaded = view.loaded.first().filter(|_| is_ready)?;
    Some(loaded.report.load_us as f64 / 1e3)
}

/// Why the slot's browser failed, or why it refuses the model.
fn failure(view: &View) -> Option<String> {
    let refused = view.status.models.iter().find_map(|model| model.unplaceable.clone());
    refused.or_else(|| view.status.slots.iter().find_map(|slot| slot.last_failure.clone()))
}

fn facts(view: &View, target: &Target, settings: Settings) -> Facts {
    let browser = view.browsers.first();
    let reported = browser.and_then(|browser| browser.facts.as_ref());
    let loaded = view.loaded.first();
    let reports = browser.map(|browser| browser.backends.as_slice()).unwrap_or_default();
    let offered = || {
        let mut of_backend = reports.iter().filter(|report| report.backend == target.backend);
        of_backend.find_map(|report| Some(report.outcome.as_ref().ok()?.label()))
    };
    Facts {
        name: reported.filter(|facts| !facts.simulated).map(|facts| facts.name.clone()),
        version: reported.map(|facts| facts.version.clone()),
        channel: reported.filter(|facts| !facts.simulated).map(|facts| facts.channel),
        adapter: loaded.map(|loaded| loaded.adapter.label()).or_else(offered),
        device: settings.webnn.device.filter(|_| target.backend == Backend::WebNn),
        split: loaded.and_then(|loaded| loaded.split.clone()),
        offers: (!reports.is_empty()).then(|| {
            let offered = reports.iter().filter(|report| report.outcome.is_ok());
            offered.map(|report| report.backend).collect()
        }),
        webgpu_adapter: match (&target.host, target.backend) {
            (Host::Browser(build), Backend::WebGpu) if build.kind.is_chromium() => {
                Some(adapter::decide(settings.adapter, build))
            }
            _ => None,
        },
        load_ms: ready_ms(view),
        weights_bytes: loaded.map(|loaded| loaded.report.weights_bytes),
        device_bytes: loaded.map(|loaded| loaded.report.device_bytes),
    }
}

/// The version that is shown if there is no browser.
fn own_version() -> String {
    format!("flotilla {}", env!("CARGO_PKG_VERSION"))
}
