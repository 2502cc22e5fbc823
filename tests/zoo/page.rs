//! A page of Chrome that runs models with onnxruntime-web, and its server.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{self, DefaultBodyLimit, State},
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use flotilla::browser::{
    Adapter, Build, DesiredBrowser, Kind, adapter,
    owner::{Launch, Limits, Owner, OwnerReport},
};
use flotilla_model::golden::Golden;
use flotilla_protocol::{Backend, BrowserId};
use flotilla_tensor::{DType, NamedTensor, Tensor};
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpListener,
    sync::{Mutex, mpsc},
    time::timeout,
};

/// Longest start of the browser.
const START_MAX: Duration = Duration::from_secs(60);
/// Longest end of it.
const END_MAX: Duration = Duration::from_secs(20);
/// How long the page's request for the next job stays open.
const QUESTION_MAX: Duration = Duration::from_secs(20);
/// Most reports of the browser's owner, and most answers of the page, that wait.
const REPORTS_MAX: usize = 64;
/// Bytes for the length of the head of a frame.
const HEAD_LENGTH_BYTES: usize = 4;

/// What a page needs to start.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// onnxruntime-web's files.
    pub(crate) dist: PathBuf,
    /// The program that watches over the browser.
    pub(crate) flotilla: PathBuf,
    /// Where the browser's WebGPU adapter comes from.
    pub(crate) adapter: Adapter,
}

/// A model to run, with the data sets that it is given.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// onnxruntime-web's name of its provider.
    pub(crate) provider: &'static str,
    /// The ONNX file.
    pub(crate) model: PathBuf,
    /// Inputs, and outputs whose names are the requested ones.
    pub(crate) sets: Arc<[Golden]>,
}

/// How a model ended in the page.
#[derive(Debug)]
pub(crate) enum Ended {
    /// No session could be created, for this reason.
    Refused(String),
    /// A run or the page failed, for this reason.
    Failed(String),
    /// It ran.
    Ran(Ran),
}

/// Times, and the outputs of each data set.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The browser's name of its WebGPU adapter, if that is used.
    pub(crate) adapter: Option<String>,
    pub(crate) load_ms: f64,
    pub(crate) first_ms: f64,
    pub(crate) run_ms: f64,
    pub(crate) sets: Vec<Vec<NamedTensor>>,
}

/// A tensor in a frame; its elements come after the head, tensor after tensor.
#[derive(Debug, Serialize, Deserialize)]
struct Port {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
}

/// The head of the frame that the page answers with.
#[derive(Debug, Deserialize)]
#[serde(tag = "tell", rename_all = "lowercase")]
enum Report {
    Refused { reason: String },
    Failed { reason: String },
    Ran { adapter: Option<String>, load_ms: f64, first_ms: f64, run_ms: f64, sets: Vec<Vec<Port>> },
}

/// The description of a job for the page.
#[derive(Debug, Serialize)]
struct Order {
    provider: &'static str,
    /// The requested outputs of each data set.
    sets: Vec<Vec<String>>,
}

/// The state of the server for the page.
struct Served {
    /// onnxruntime-web's files.
    dist: PathBuf,
    /// Jobs that the page does not have yet.
    jobs: Mutex<mpsc::Receiver<Job>>,
    /// The job that it has.
    job: RwLock<Option<Job>>,
    answers: mpsc::Sender<Bytes>,
}

/// A page that is open.
pub(crate) struct Page {
    /// Name and version of the browser.
    pub(crate) browser: String,
    jobs: mpsc::Sender<Job>,
    answers: mpsc::Receiver<Bytes>,
    reports: mpsc::Receiver<(BrowserId, OwnerReport)>,
    owner: Owner,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Page {
    /// Starts Chrome.
    pub(crate) async fn open(place: &Place) -> anyhow::Result<Page> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on a port")?;
        let origin = format!("http://{}", listener.local_addr()?);
        let (jobs, waiting) = mpsc::channel(1);
        let (answer_sender, answers) = mpsc::channel(REPORTS_MAX);
        let served = Arc::new(Served {
            dist: place.dist.clone(),
            jobs: Mutex::new(waiting),
            job: RwLock::new(None),
            answers: answer_sender,
        });
        let router = Router::new()
            .route("/runner/", get(index))
            .route("/runner/{file}", get(script))
            .route("/runner/ort/{file}", get(ort))
            .route("/runner/job/next", get(next))
            .route("/runner/job/model", get(model))
            .route("/runner/job/inputs/{set}", get(inputs))
            .route("/runner/job/answer", post(answer))
            .layer(DefaultBodyLimit::disable())
            .with_state(served);
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        let (sender, mut reports) = mpsc::channel(REPORTS_MAX);
        let build = Build::from(Kind::Chrome);
        let owner = Owner::launch(launch(&build, origin, place), sender);
        let begun = timeout(START_MAX, reports.recv()).await;
        let version = match begun.context("the browser does not start")? {
            Some((_, OwnerReport::Started(facts))) => facts.version,
            other => bail!("{build} does not start: {other:?}"),
        };
        let browser = format!("{build} {version}");
        Ok(Page { browser, jobs, answers, reports, owner, server })
    }

    /// Runs a model. After an error the page cannot be used any more.
    pub(crate) async fn run(&mut self, job: Job, limit: Duration) -> anyhow::Result<Ended> {
        self.jobs.send(job).await.context("the server has ended")?;
        let answer = timeout(limit, self.next()).await.ok();
        read(&answer.with_context(|| format!("the page has not answered within {limit:?}"))??)
    }

    /// The page's next answer, unless the browser fails before.
    async fn next(&mut self) -> anyhow::Result<Bytes> {
        loop {
            tokio::select! {
                answer = self.answers.recv() => return answer.context("the server has ended"),
                report = self.reports.recv() => match report {
                    Some((_, OwnerReport::Failed(failure))) => bail!("{}", failure.detail),
                    // Reports on memory are not used here.
                    Some(_) => {}
                    None => bail!("the browser's owner has ended"),
                },
            }
        }
    }

    /// Ends the browser.
    pub(crate) async fn end(self) {
        let ended = timeout(END_MAX, self.owner.end()).await;
        self.server.abort();
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => eprintln!("the browser's owner has failed: {error}"),
            Err(_) => eprintln!("the browser has not ended within {END_MAX:?}"),
        }
    }
}

fn launch(build: &Build, origin: String, place: &Place) -> Launch {
    Launch {
        browser: BrowserId(1),
        desired: DesiredBrowser {
            build: build.clone(),
            simulated: false,
            backends: vec![Backend::WebGpu, Backend::Cpu],
            adapter: adapter::decide(place.adapter, build),
        },
        origin,
        // The page has no links.
        tokens: ("control".to_owned(), "data".to_owned()),
        guardian: place.flotilla.clone(),
        data_dir_id: "zoo".to_owned(),
        limits: Limits::default(),
        takes_faults: false,
    }
}

/// Decodes an answer.
fn read(frame: &[u8]) -> anyhow::Result<Ended> {
    let cut = "the page's answer is cut short";
    let (length, rest) = frame.split_first_chunk::<HEAD_LENGTH_BYTES>().context(cut)?;
    let (head, mut elements) =
        rest.split_at_checked(u32::from_le_bytes(*length) as usize).context(cut)?;
    Ok(match serde_json::from_slice(head).context("the page's answer is not valid")? {
        Report::Refused { reason } => Ended::Refused(reason),
        Report::Failed { reason } => Ended::Failed(reason),
        Report::Ran { adapter, load_ms, first_ms, run_ms, sets } => {
            let mut tensor = |Port { name, dtype, shape }: Port| {
                let length = dtype.tensor_bytes(&shape).context(cut)?;
                let (bytes, rest) = elements.split_at_checked(length as usize).context(cut)?;
                elements = rest;
                Ok(NamedTensor::new(name, Tensor { dtype, shape, bytes: bytes.to_vec() }))
            };
            let sets = sets.into_iter().map(|ports| ports.into_iter().map(&mut tensor).collect());
            let sets = sets.collect::<anyhow::Result<_>>()?;
            ensure!(elements.is_empty(), "the page's answer has more elements than its tensors");
            Ended::Ran(Ran { adapter, load_ms, first_ms, run_ms, sets })
        }
    })
}

/// Tensors as a frame: the length of the head, the head, and their elements.
fn frame(tensors: &[NamedTensor]) -> Result<Vec<u8>, serde_json::Error> {
    let ports = tensors.iter().map(|NamedTensor { name, tensor }| Port {
        name: name.clone(),
        dtype: tensor.dtype,
        shape: tensor.shape.clone(),
    });
    let mut head = serde_json::to_vec(&ports.collect::<Vec<_>>())?;
    // Elements start at an offset that is aligned for every type.
    while !(HEAD_LENGTH_BYTES + head.len()).is_multiple_of(8) {
        head.push(b' ');
    }
    let mut frame = (head.len() as u32).to_le_bytes().to_vec();
    frame.extend(head);
    tensors.iter().for_each(|named| frame.extend(&named.tensor.bytes));
    Ok(frame)
}

/// Every answer of the server: its type, and isolation from other origins, which onnxruntime-web's memory needs.
fn served(content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-embedder-policy"), "require-corp"),
    ];
    (headers, body.into()).into_response()
}

async fn index() -> Response {
    served("text/html", include_str!("page/index.html"))
}

async fn script(extract::Path(name): extract::Path<String>) -> Result<Response, StatusCode> {
    let text = match name.as_str() {
        "page.js" => include_str!("page/page.js"),
        "worker.js" => WORKER,
        _ => return Err(StatusCode::NOT_FOUND),
    };
    Ok(served("text/javascript", text))
}

/// The script that runs a model.
pub(crate) const WORKER: &str = include_str!("page/worker.js");

async fn ort(
    State(state): State<Arc<Served>>,
    extract::Path(name): extract::Path<String>,
) -> Result<Response, StatusCode> {
    let content_type = match Path::new(&name).extension().and_then(|end| end.to_str()) {
        Some("mjs") => "text/javascript",
        Some("wasm") => "application/wasm",
        Some(_) | None => return Err(StatusCode::NOT_FOUND),
    };
    let is_plain = Path::new(&name).file_name().is_some_and(|plain| plain == name.as_str());
    let path = state.dist.join(&name);
    match tokio::fs::read(path).await {
        Ok(bytes) if is_plain => Ok(served(content_type, bytes)),
        Ok(_) | Err(_) => Err(StatusCode::NOT_FOUND),
    }
}

async fn next(State(state): State<Arc<Served>>) -> Response {
    let mut jobs = state.jobs.lock().await;
    match timeout(QUESTION_MAX, jobs.recv()).await {
        Ok(Some(job)) => {
            let names =
                |set: &Golden| set.outputs.iter().map(|output| output.name.clone()).collect();
            let order =
                Order { provider: job.provider, sets: job.sets.iter().map(names).collect() };
            *state.job.write().unwrap_or_else(PoisonError::into_inner) = Some(job);
            Json(order).into_response()
        }
        // The page requests again.
        Ok(None) | Err(_) => StatusCode::NO_CONTENT.into_response(),
    }
}

fn current(state: &Served) -> Result<Job, StatusCode> {
    let job = state.job.read().unwrap_or_else(PoisonError::into_inner);
    job.clone().ok_or(StatusCode::NOT_FOUND)
}

async fn model(State(state): State<Arc<Served>>) -> Result<Response, StatusCode> {
    let bytes = tokio::fs::read(current(&state)?.model).await.map_err(|_| StatusCode::NOT_FOUND)?;
    Ok(served("application/octet-stream", bytes))
}

async fn inputs(
    State(state): State<Arc<Served>>,
    extract::Path(set): extract::Path<usize>,
) -> Result<Response, StatusCode> {
    let job = current(&state)?;
    let set = job.sets.get(set).ok_or(StatusCode::NOT_FOUND)?;
    let frame = frame(&set.inputs).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(served("application/octet-stream", frame))
}

async fn answer(State(state): State<Arc<Served>>, body: Bytes) -> StatusCode {
    match state.answers.send(body).await {
        Ok(()) => StatusCode::NO_CONTENT,
        // The run has ended, so nothing receives it.
        Err(_) => StatusCode::GONE,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answered(head: &serde_json::Value, elements: &[u8]) -> anyhow::Result<Ended> {
        let head = head.to_string().into_bytes();
        let length = (head.len() as u32).to_le_bytes();
        read(&[&length[..], &head, elements].concat())
    }

    #[test]
    fn answers_are_taken_apart() {
        let ports = json!([[
            { "name": "a", "dtype": "F32", "shape": [2] },
            { "name": "b", "dtype": "Bool", "shape": [] },
        ], [{ "name": "a", "dtype": "F32", "shape": [0, 3] }]]);
        let head =
            json!({ "tell": "ran", "load_ms": 3, "first_ms": 2, "run_ms": 1, "sets": ports });
        let elements = [0, 0, 128, 63, 0, 0, 0, 64, 1];
        let Ended::Ran(ran) = answered(&head, &elements).expect("an answer") else {
            panic!("it ran");
        };
        let first = Tensor::from_f32(vec![2], &[1.0, 2.0]).expect("fits");
        assert_eq!(ran.sets[0][0], NamedTensor::new("a", first));
        assert_eq!(ran.sets[0][1].tensor.bytes, [1]);
        assert_eq!(ran.sets[1][0].tensor.bytes.len(), 0);
        for elements in [&elements[..8], &[0; 10]] {
            assert!(answered(&head, elements).is_err());
        }
        let refused = json!({ "tell": "refused", "reason": "no" });
        assert!(matches!(answered(&refused, &[]), Ok(Ended::Refused(reason)) if reason == "no"));
        assert!(read(&[1, 0, 0]).is_err());
    }

    #[test]
    fn elements_of_a_frame_lie_where_every_type_may() {
        for name in ["a", "ab", "a longer name"] {
            let tensor = Tensor::from_i64(vec![2], &[1, 2]).expect("fits");
            let frame = frame(&[NamedTensor::new(name, tensor)]).expect("a frame");
            assert!(frame.len().is_multiple_of(8) && frame.ends_with(&2i64.to_le_bytes()));
        }
    }
}
