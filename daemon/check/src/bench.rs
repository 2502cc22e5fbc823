//! How fast one model is: browsers x backends x batch x concurrency, in interleaved rounds.
//!
//! All browsers are open at once and take turns, so that other load on the machine affects all of them equally.

use std::{path::PathBuf, time::Instant};

use flotilla::inputs;
use flotilla_browsers::{Adapter, Channel};
use flotilla_protocol::{Backend, Device, Split};
use flotilla_reference::compare;
use flotilla_tensor::Tensor;
use futures_util::future::try_join_all;
use serde::Serialize;

use crate::{
    Given, Host, Settings, Status, Subject, Target, percentile, run::RunFailed, session::Session,
};

/// Fewest requests of a round.
const REQUESTS_MIN: usize = 4;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rows of a request.
    pub batches: Vec<i64>,
    /// Requests at once.
    pub concurrencies: Vec<usize>,
    /// Number of rounds; every row has one turn in each.
    pub rounds: u32,
    /// Sizes of dimensions, the seed of the inputs, and how far answers may be off: wrong answers are not timed.
    pub given: Given,
    /// How browsers are started.
    pub settings: Settings,
    /// webnn has rows only where a page offers it.
    pub webnn_if_offered: bool,
}

/// Median, smallest and largest of the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Median.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

/// Times of all requests in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Times {
    /// Half of them took no longer.
    pub p50: f64,
    /// 95 % of them took no longer.
    pub p95: f64,
    /// The shortest.
    pub min: f64,
    /// The longest.
    pub max: f64,
}

/// Result for a model in one browser on one backend, with one batch size and concurrency.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Name of the model.
    pub model: String,
    /// Where it was read from.
    pub path: PathBuf,
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
    /// Chromium's route to WebGPU.
    pub webgpu_adapter: Option<Adapter>,
    /// Whether the browser was simulated by native code.
    pub simulated: bool,
    /// Rows of a request.
    pub batch: i64,
    /// Requests at once.
    pub concurrency: usize,
    /// How it ended.
    pub status: Status,
    /// Why it has no figures.
    pub reason: Option<String>,
    /// Types and shapes of the inputs.
    pub inputs: Option<String>,
    /// Largest absolute error of the first run.
    pub max_abs_err: Option<f64>,
    /// From request to answer.
    pub latency_ms: Option<Times>,
    /// Inside the page.
    pub run_ms: Option<Times>,
    /// Rows answered in a second, by round.
    pub rows_per_s: Option<Spread>,
    /// Rounds that are in the figures.
    pub rounds: u32,
    /// Requests that are in the figures.
    pub requests: usize,
    /// From the order to load until the model answered, in milliseconds.
    pub load_ms: Option<f64>,
    /// Bytes of the model's weights, as the page reads them.
    pub weights_bytes: Option<u64>,
    /// Bytes of memory that the backend holds them in: buffers of a device, or memory of the page.
    pub device_bytes: Option<u64>,
    /// Memory of the browser's processes (PSS) at the end; of this process where there is no browser.
    pub memory_bytes: Option<u64>,
}

/// One of the rows while it is measured.
struct Cell {
    row: Row,
    /// Index of its open session; `None` if it has none.
    session: Option<usize>,
    inputs: Vec<Tensor>,
    latencies_ms: Vec<f64>,
    runs_ms: Vec<f64>,
    rows_per_s: Vec<f64>,
}

/// Measures a model on every target. `progress` gets a description of each step before it begins.
pub async fn bench(
    subject: &Subject,
    targets: &[Target],
    options: &Options,
    progress: &dyn Fn(&str),
) -> Vec<Row> {
    let mut batches: Vec<(i64, Result<Subject, String>)> = Vec::new();
    for &batch in &options.batches {
        batches.push((batch, batched(subject, batch, options).await));
    }
    let mut sessions = Vec::new();
    let mut cells = Vec::new();
    let mut offers: Vec<(Host, Vec<Backend>)> = Vec::new();
    for target in targets {
        let is_webnn = target.backend == Backend::WebNn;
        let is_offered = offers
            .iter()
            .any(|(host, backends)| *host == target.host && backends.contains(&Backend::WebNn));
        if options.webnn_if_offered && is_webnn && !is_offered {
            continue;
        }
        progress(&format!("{}: starting {target}", subject.name));
        let opened = open(subject, target, options.settings).await;
        let (session, refused) = match opened {
            Ok(session) => {
                let offered = session.facts().offers.clone();
                offers.extend(offered.map(|backends| (target.host.clone(), backends)));
                sessions.push(session);
                (Some(sessions.len() - 1), None)
            }
            Err((refused, offered)) => {
                offers.extend(offered.map(|backends| (target.host.clone(), backends)));
                (None, Some(refused))
            }
        };
        for (batch, batched) in &batches {
            for &concurrency in &options.concurrencies {
                let row = Row::new(subject, target, *batch, concurrency);
                let mut cell = Cell::new(row, session);
                match (&refused, batched) {
                    (Some((status, reason)), _) => cell.end(*status, reason),
                    (None, Err(reason)) => cell.end(Status::Skipped, reason),
                    (None, Ok(batched)) => {
                        cell.row.inputs = Some(batched.shapes());
                        cell.inputs = batched.inputs().to_vec();
                        if let Some(session) = session.and_then(|at| sessions.get(at)) {
                            cell.verify(batched, session).await;
                        }
                    }
                }
                cells.push(cell);
            }
        }
    }
    for round in 0..options.rounds {
        progress(&format!("{}: round {} of {}", subject.name, round + 1, options.rounds));
        let count = cells.len();
        for at in 0..count {
            // Every round begins with another row, so that none has the advantage of being first.
            if let Some(cell) = cells.get_mut((at + round as usize) % count.max(1)) {
                let session = cell.session.and_then(|at| sessions.get(at));
                if let (Some(session), Status::Pass) = (session, cell.row.status) {
                    cell.round(session).await;
                }
            }
        }
    }
    let mut memory = Vec::new();
    for session in &sessions {
        memory.push(session.memory_bytes().await);
    }
    for session in sessions {
        session.close().await;
    }
    let finished = cells.into_iter().map(|cell| {
        let memory_bytes = cell.session.and_then(|at| memory.get(at).copied().flatten());
        Row { memory_bytes, ..cell.finish() }
    });
    finished.collect()
}

/// The same model with so many rows, or the reason why it cannot take them.
async fn batched(subject: &Subject, batch: i64, options: &Options) -> Result<Subject, String> {
    match inputs::batch_symbol(&subject.program) {
        Some(symbol) => {
            let sizes = [(symbol.to_owned(), batch)].into();
            let remade = subject.remade(&sizes, &options.given).await;
            remade.map_err(|error| error.to_string())
        }
        None => {
            let fixed = subject.inputs().first().and_then(|tensor| tensor.shape.first().copied());
            match fixed {
                Some(fixed) if fixed as i64 == batch => Ok(subject.clone()),
                Some(fixed) => Err(format!("its first dimension is fixed at {fixed}")),
                None => Err("its first input has no dimension".to_owned()),
            }
        }
    }
}

/// Loads the model. If it is refused, the error also has the backends that the page offers, if they are known.
async fn open(
    subject: &Subject,
    target: &Target,
    settings: Settings,
) -> Result<Session, ((Status, String), Option<Vec<Backend>>)> {
    if let Some(missing) = target.host.missing() {
        return Err(((Status::Skipped, missing), None));
    }
    let opened = Session::open(subject, target, settings).await;
    opened.map_err(|refusal| ((refusal.status(), refusal.reason), refusal.facts.offers))
}

impl Row {
    fn new(subject: &Subject, target: &Target, batch: i64, concurrency: usize) -> Row {
        Row {
            model: subject.name.clone(),
            path: subject.path.clone(),
            browser: target.host.name().to_owned(),
            browser_version: None,
            browser_channel: None,
            backend: target.backend,
            adapter: None,
            device: None,
            split: None,
            webgpu_adapter: None,
            simulated: target.host == Host::Simulated,
            batch,
            concurrency,
            status: Status::Skipped,
            reason: None,
            inputs: None,
            max_abs_err: None,
            latency_ms: None,
            run_ms: None,
            rows_per_s: None,
            rounds: 0,
            requests: 0,
            load_ms: None,
            weights_bytes: None,
            device_bytes: None,
            memory_bytes: None,
        }
    }
}

impl Cell {
    fn new(row: Row, session: Option<usize>) -> Cell {
        Cell {
            row,
            session,
            inputs: Vec::new(),
            latencies_ms: Vec::new(),
            runs_ms: Vec::new(),
            rows_per_s: Vec::new(),
        }
    }

    fn end(&mut self, status: Status, reason: &str) {
        self.row.status = status;
        self.row.reason = Some(reason.to_owned());
    }

    /// The first run, which is not timed: its numbers must be right.
    async fn verify(&mut self, subject: &Subject, session: &Session) {
        let facts = session.facts();
        if let Some(name) = &facts.name {
            self.row.browser.clone_from(name);
        }
        self.row.browser_version.clone_from(&facts.version);
        self.row.browser_channel = facts.channel;
        self.row.adapter.clone_from(&facts.adapter);
        self.row.webgpu_adapter = facts.webgpu_adapter;
        self.row.device = facts.device;
        self.row.split.clone_from(&facts.split);
        self.row.load_ms = facts.load_ms;
        self.row.weights_bytes = facts.weights_bytes;
        self.row.device_bytes = facts.device_bytes;
        let run = match session.run(&self.inputs).await {
            Ok(run) => run,
            Err(failed) => return self.end(failed.status(), &failed.reason),
        };
        let want = subject.cases.first().map(|case| case.want.as_slice());
        let outputs = subject.named(run.outputs);
        let compared = compare::compare(&outputs, want.unwrap_or_default(), &subject.tolerance)
            .map_err(|error| error.to_string());
        match compared {
            Err(reason) => self.end(Status::Fail, &reason),
            Ok(difference) => {
                self.row.max_abs_err = Some(difference.max_abs).filter(|number| number.is_finite());
                match difference.wrong {
                    Some(wrong) => self.end(Status::Fail, &wrong.to_string()),
                    None => self.row.status = Status::Pass,
                }
            }
        }
    }

    /// One turn: each client sends its next request as soon as the previous one is answered.
    async fn round(&mut self, session: &Session) {
        let clients = self.row.concurrency.max(1);
        let each = REQUESTS_MIN.div_ceil(clients).max(2);
        let inputs = &self.inputs;
        let begin = Instant::now();
        let asking = (0..clients).map(async |_| {
            let mut times = Vec::new();
            for _ in 0..each {
                let asked = Instant::now();
                let run = session.run(inputs).await?;
                times.push((asked.elapsed().as_secs_f64() * 1e3, run.run_ms));
            }
            Ok::<_, RunFailed>(times)
        });
        match try_join_all(asking).await {
            Err(failed) => self.end(failed.status(), &failed.reason),
            Ok(times) => {
                let rows = (clients * each) as f64 * self.row.batch as f64;
                self.rows_per_s.push(rows / begin.elapsed().as_secs_f64());
                for (latency_ms, run_ms) in times.into_iter().flatten() {
                    self.latencies_ms.push(latency_ms);
                    self.runs_ms.push(run_ms);
                }
            }
        }
    }

    fn finish(mut self) -> Row {
        self.row.rounds = self.rows_per_s.len() as u32;
        self.row.requests = self.latencies_ms.len();
        self.row.latency_ms = times(&mut self.latencies_ms);
        self.row.run_ms = times(&mut self.runs_ms);
        self.row.rows_per_s = spread(&mut self.rows_per_s);
        self.row
    }
}

fn times(values: &mut [f64]) -> Option<Times> {
    values.sort_by(f64::total_cmp);
    Some(Times {
        p50: percentile(values, 50.0)?,
        p95: percentile(values, 95.0)?,
        min: *values.first()?,
        max: *values.last()?,
    })
}

fn spread(values: &mut [f64]) -> Option<Spread> {
    values.sort_by(f64::total_cmp);
    Some(Spread { median: percentile(values, 50.0)?, min: *values.first()?, max: *values.last()? })
}
