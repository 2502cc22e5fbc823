//! Whether models run in each browser and backend, whether their numbers are right, and how long they take.
//!
//! A [`Subject`] is a model with inputs and right outputs; a [`Target`] is a browser and a backend; [`check`] makes one [`Row`]
//! of the two. Every row has a browser of its own, so that crashes and memory of other models do not affect it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Instant,
};

use flotilla_browsers::{Adapter, Channel};
use flotilla_protocol::{Backend, Device, Split};
use serde::Serialize;

pub mod bench;
pub mod finding;
pub mod github;
pub mod history;
pub mod junit;
mod native;
pub mod recorded;
pub mod reference;
pub mod run;
pub mod session;
pub mod subject;
pub mod target;

use finding::Finding;
use flotilla_reference::{
    Arithmetic,
    compare::{self, Bounds, Difference, Divergence, Wrong},
};
use history::{Comparison, Entry, History, Key};
use reference::Source;
use run::RunFailed;
pub use session::Settings;
use session::{Facts, Session};
pub use subject::{Allowance, Given, Subject, SubjectError};
pub use target::{DEFAULT_HOSTS, Host, Target, targets};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It ran, and its numbers are right.
    Pass,
    /// It failed, or its numbers are wrong.
    Fail,
    /// The importer, the browser or the backend does not support the model.
    Refused,
    /// This machine does not have the browser.
    Skipped,
}

impl Status {
    /// Name as in tables.
    pub fn name(self) -> &'static str {
        match self {
            Status::Pass => "pass",
            Status::Fail => "fail",
            Status::Refused => "refused",
            Status::Skipped => "skipped",
        }
    }
}

/// In-page times in milliseconds; absent if the check ended earlier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// The first run after the load.
    pub first: Option<f64>,
    /// Median of the further runs.
    pub p50: Option<f64>,
    /// 95th percentile of the further runs.
    pub p95: Option<f64>,
}

/// One model in one browser on one backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Name of the model.
    pub model: String,
    /// Where it was read from.
    pub path: PathBuf,
    /// blake3 over its files; nothing for one that cannot be imported.
    pub model_hash: Option<String>,
    /// The browser.
    pub browser: String,
    /// Its own version; this program's where there is no browser.
    pub browser_version: Option<String>,
    /// Its release channel; nothing where there is no browser.
    pub browser_channel: Option<Channel>,
    /// The backend.
    pub backend: Backend,
    /// What it ran on, as the browser names it.
    pub adapter: Option<String>,
    /// The processor requested from webnn; browsers do not report where they compute.
    pub device: Option<Device>,
    /// Which nodes ran elsewhere, if not all ran on the backend.
    pub split: Option<Split>,
    /// Backends that the browser's page offers, if it has reported them.
    #[serde(skip)]
    pub offers: Option<Vec<Backend>>,
    /// Chromium's route to WebGPU.
    pub webgpu_adapter: Option<Adapter>,
    /// Whether the browser was simulated by native code.
    pub simulated: bool,
    /// How it ended.
    pub status: Status,
    /// Why it did not pass.
    pub reason: Option<String>,
    /// Where the right answers come from.
    pub reference: Option<Source>,
    /// The version of the reference.
    pub reference_version: Option<String>,
    /// Why a preferred reference was not used.
    pub reference_reason: Option<String>,
    /// Where another reference does not agree.
    pub findings: Vec<Finding>,
    /// The arithmetic that the model is computed in.
    pub arithmetic: Option<Arithmetic>,
    /// Roundings on the longest way to an output.
    pub roundings: Option<u32>,
    /// Allowed errors of the output with the most roundings.
    pub bounds: Option<Bounds>,
    /// Types and shapes of the inputs.
    pub inputs: Option<String>,
    /// Sizes that were chosen for symbolic dimensions.
    pub dims: BTreeMap<String, i64>,
    /// Largest absolute error; nothing where it did not run or where the error is not finite.
    pub max_abs_err: Option<f64>,
    /// Largest absolute error as a part of its output's largest number.
    pub max_rel_err: Option<f64>,
    /// Root mean square of an output's errors as a part of that of its numbers, the largest of all outputs.
    pub rms_err: Option<f64>,
    /// The part of an output's elements that are off by more than 1 % of themselves and by more than 1e-5, the largest of all
    /// outputs.
    pub elements_off: Option<f64>,
    /// [`Row::rms_err`] in decibels, where numbers are rounded to 8 bits.
    pub snr_db: Option<f64>,
    /// The part of the rows of such an output whose largest number is where the right one is.
    pub top_agreement: Option<f64>,
    /// Largest error in units in the last place.
    pub max_ulp: Option<u64>,
    /// The first element that is wrong.
    pub first_divergence: Option<Divergence>,
    /// In-page times.
    pub latency_ms: Latency,
    /// Runs that are in them, the first included.
    pub runs: u32,
    /// Recorded runs that were compared, the first of them included.
    pub cases: usize,
    /// From the order to load until the model answered, in milliseconds.
    pub load_ms: Option<f64>,
    /// Bytes of the model's files, without descriptions such as `config.json`.
    pub model_bytes: Option<u64>,
    /// Bytes of the model's weights, as the page reads them.
    pub weights_bytes: Option<u64>,
    /// Bytes of memory that the backend holds them in: buffers of a device, or memory of the page.
    pub device_bytes: Option<u64>,
    /// Memory of the browser's processes (PSS) after the runs; of this process where there is no browser.
    pub memory_bytes: Option<u64>,
    /// Comparison with earlier checks, if there are any.
    pub history: Option<Comparison>,
    /// How long the check took.
    pub seconds: f64,
}

/// How models are checked.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Runs after the first one.
    pub runs: u32,
    /// How browsers are started.
    pub settings: Settings,
    /// Slower than the history by so many percent is a failure.
    pub slower_percent_max: Option<f64>,
}

impl Row {
    /// A row before its check has begun.
    pub fn new(model: &str, path: &Path, target: &Target) -> Row {
        Row {
            model: model.to_owned(),
            path: path.to_owned(),
            model_hash: None,
            browser: target.host.name().to_owned(),
            browser_version: None,
            browser_channel: None,
            backend: target.backend,
            adapter: None,
            device: None,
            split: None,
            offers: None,
            webgpu_adapter: None,
            simulated: target.host == Host::Simulated,
            status: Status::Skipped,
            reason: None,
            reference: None,
            reference_version: None,
            reference_reason: None,
            findings: Vec::new(),
            arithmetic: None,
            roundings: None,
            bounds: None,
            inputs: None,
            dims: BTreeMap::new(),
            max_abs_err: None,
            max_rel_err: None,
            rms_err: None,
            elements_off: None,
            snr_db: None,
            top_agreement: None,
            max_ulp: None,
            first_divergence: None,
            latency_ms: Latency::default(),
            runs: 0,
            cases: 0,
            load_ms: None,
            model_bytes: None,
            weights_bytes: None,
            device_bytes: None,
            memory_bytes: None,
            history: None,
            seconds: 0.0,
        }
    }

    /// The browser and the backend.
    pub fn place(&self) -> String {
        format!("{} on {}", self.browser, self.backend)
    }

    /// The row with this status and reason.
    #[must_use]
    pub fn ended(self, status: Status, reason: impl Into<String>) -> Row {
        Row { status, reason: Some(reason.into()), ..self }
    }

    fn describe(&mut self, subject: &Subject) {
        self.model_hash = Some(subject.hash.clone());
        self.model_bytes = Some(subject.model_bytes);
        self.reference = Some(subject.source);
        self.reference_version.clone_from(&subject.source_version);
        self.reference_reason.clone_from(&subject.source_reason);
        self.findings.clone_from(&subject.findings);
        self.inputs = Some(subject.shapes());
        self.dims.clone_from(&subject.dims);
        let precision = &subject.tolerance.precision;
        self.arithmetic = Some(precision.arithmetic);
        self.roundings = Some(precision.roundings_max());
        let outputs = subject.program.outputs.iter().map(|port| port.name.as_str());
        let coarsest = outputs.max_by_key(|&output| precision.roundings(output));
        self.bounds = coarsest.map(|output| subject.tolerance.bounds(output));
    }

    fn set_facts(&mut self, facts: &Facts) {
        if let Some(name) = &facts.name {
            self.browser.clone_from(name);
        }
        self.browser_version.clone_from(&facts.version);
        self.browser_channel = facts.channel;
        self.adapter.clone_from(&facts.adapter);
        self.webgpu_adapter = facts.webgpu_adapter;
        self.load_ms = facts.load_ms;
        self.weights_bytes = facts.weights_bytes;
        self.device_bytes = facts.device_bytes;
        self.device = facts.device;
        self.split.clone_from(&facts.split);
        self.offers.clone_from(&facts.offers);
    }

    fn measured(&mut self, difference: Difference) {
        let finite = |number: f64| Some(number).filter(|number| number.is_finite());
        self.max_abs_err = finite(difference.max_abs);
        self.max_rel_err = finite(difference.max_rel);
        self.rms_err = finite(difference.rms_rel);
        self.elements_off = Some(difference.elements_off);
        let is_quantized = self.arithmetic.is_some_and(Arithmetic::is_quantized);
        self.snr_db = difference.snr_db().filter(|_| is_quantized);
        self.top_agreement = difference.top_agreement;
        self.max_ulp = Some(difference.max_ulp);
        self.first_divergence = difference.wrong.as_ref().and_then(Wrong::element).cloned();
    }

    /// Such as `onnxruntime 1.32.0`; nothing for a model that could not be read.
    pub fn reference_name(&self) -> Option<String> {
        let words = [Some(self.reference?.name()), self.reference_version.as_deref()];
        Some(words.into_iter().flatten().collect::<Vec<_>>().join(" "))
    }

    /// The key of comparable latencies; none if it did not run.
    fn key(&self) -> Option<Key> {
        Some(Key {
            model_hash: self.model_hash.clone()?,
            inputs: self.inputs.clone()?,
            browser: self.browser.clone(),
            backend: self.backend,
            adapter: self.adapter.clone(),
            webgpu_adapter: self.webgpu_adapter,
            device: self.device,
            rest: self.split.as_ref().map(|split| split.rest),
        })
    }

    /// Compares it with the history; fails it where it is slower than is allowed.
    fn judge_speed(&mut self, history: &History, slower_percent_max: Option<f64>) {
        let (Some(key), Some(p50_ms)) = (self.key(), self.latency_ms.p50) else { return };
        self.history = history.compare(&key, p50_ms);
        if let (Some(limit), Some(compared), Status::Pass) =
            (slower_percent_max, self.history, self.status)
            && compared.slower_percent > limit
        {
            self.status = Status::Fail;
            self.reason = Some(format!(
                "the median of {p50_ms:.2} ms is {:.0} % slower than the {:.2} ms of {} earlier checks; {limit} % is allowed",
                compared.slower_percent, compared.p50_ms, compared.checks
            ));
        }
    }
}

/// Checks a model on a target. With a history the latency is compared with it; it is recorded by [`record`].
pub async fn check(
    subject: &Subject,
    target: &Target,
    options: Options,
    history: Option<&History>,
) -> Row {
    let begin = Instant::now();
    let mut row = Row::new(&subject.name, &subject.path, target);
    row.describe(subject);
    if let Some(missing) = target.host.missing() {
        return row.ended(Status::Skipped, missing);
    }
    match Session::open(subject, target, options.settings).await {
        Err(refusal) => {
            row.set_facts(&refusal.facts);
            row = row.ended(refusal.status(), refusal.reason);
        }
        Ok(session) => {
            row.set_facts(session.facts());
            match runs(subject, &session, options, &mut row).await {
                Ok(()) => row.status = Status::Pass,
                Err(failed) => row = row.ended(failed.status(), failed.reason),
            }
            row.memory_bytes = session.memory_bytes().await;
            session.close().await;
        }
    }
    if let Some(history) = history {
        row.judge_speed(history, options.slower_percent_max);
    }
    row.seconds = begin.elapsed().as_secs_f64();
    row
}

/// Runs a model and compares the outputs of every run: the first case as often as requested, every other one once.
async fn runs(
    subject: &Subject,
    session: &Session,
    options: Options,
    row: &mut Row,
) -> Result<(), RunFailed> {
    let mut later = Vec::new();
    let mut worst = Difference::default();
    let mut wrong: Option<String> = None;
    for (number, case) in subject.cases.iter().enumerate() {
        let times = if number == 0 { options.runs } else { 0 };
        let in_case = |words: String| match &case.label {
            Some(label) => format!("{label}: {words}"),
            None => words,
        };
        row.cases = number + 1;
        for at in 0..=times {
            let run = session.run(&case.inputs).await.map_err(|failed| RunFailed {
                reason: match at {
                    0 => in_case(failed.reason),
                    _ => format!("run {} of {}: {}", at + 1, times + 1, failed.reason),
                },
                ..failed
            })?;
            match (number, at) {
                (0, 0) => row.latency_ms.first = Some(run.run_ms),
                (0, _) => later.push(run.run_ms),
                _ => {}
            }
            row.runs += u32::from(number == 0);
            let outputs = subject.named(run.outputs);
            let difference = compare::compare(&outputs, &case.want, &subject.tolerance)
                .map_err(|error| in_case(error.to_string()))?;
            if let (None, Some(words)) = (&wrong, &difference.wrong) {
                wrong = Some(in_case(words.to_string()));
            }
            worst = worst.and(difference);
        }
    }
    later.sort_by(f64::total_cmp);
    row.latency_ms.p50 = percentile(&later, 50.0);
    row.latency_ms.p95 = percentile(&later, 95.0);
    row.measured(worst);
    wrong.map_or(Ok(()), |wrong| Err(wrong.into()))
}

/// Records the latency of a row that passed.
///
/// # Errors
/// The data folder cannot be written.
pub fn record(row: &Row, history: &mut History) -> std::io::Result<()> {
    let (Status::Pass, Some(key), Some(p50_ms)) = (row.status, row.key(), row.latency_ms.p50)
    else {
        return Ok(());
    };
    let at = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (model, browser_version) = (row.model.clone(), row.browser_version.clone());
    history.record(Entry { at, model, key, browser_version, p50_ms })
}

/// The value that so many percent of the sorted values do not exceed (nearest rank); `None` of none.
pub(crate) fn percentile(sorted: &[f64], percent: f64) -> Option<f64> {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn row(model: &str, status: Status, reason: Option<&str>) -> Row {
        let target = Target { host: Host::Native, backend: Backend::Cpu };
        let mut row = Row::new(model, Path::new(&format!("{model}.onnx")), &target);
        row.status = status;
        row.reason = reason.map(ToOwned::to_owned);
        row
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let values: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!(percentile(&values, 50.0), Some(10.0));
        assert_eq!(percentile(&values, 95.0), Some(19.0));
        assert_eq!(percentile(&[7.0], 95.0), Some(7.0));
        assert_eq!(percentile(&[], 50.0), None);
    }

    #[test]
    fn a_slower_row_fails_and_is_not_recorded() {
        let home = tempfile::tempdir().expect("a folder");
        let mut history = History::open(home.path()).expect("empty");
        let passed = |p50| {
            let mut row = row("m", Status::Pass, None);
            row.model_hash = Some("00".to_owned());
            row.inputs = Some("x:F32[1]".to_owned());
            row.latency_ms.p50 = Some(p50);
            row
        };
        let mut first = passed(10.0);
        first.judge_speed(&history, Some(20.0));
        assert_eq!((first.status, first.history), (Status::Pass, None));
        record(&first, &mut history).expect("written");
        let mut near = passed(11.9);
        near.judge_speed(&history, Some(20.0));
        assert_eq!(near.status, Status::Pass);
        let mut slow = passed(12.1);
        slow.judge_speed(&history, Some(20.0));
        assert_eq!(slow.status, Status::Fail);
        assert!(slow.reason.as_deref().is_some_and(|reason| reason.contains("21 % slower")));
        record(&slow, &mut history).expect("nothing to write");
        assert_eq!(history.compare(&slow.key().expect("it ran"), 10.0).map(|h| h.checks), Some(1));
    }
}
