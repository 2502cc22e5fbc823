//! One page of the browser that has WebNN, and its server.

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use axum::{
    Json, Router,
    extract::{Path, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::{get, post},
};
use flotilla_browsers::{
    Adapter, Build, DesiredBrowser, adapter, guardian,
    owner::{Launch, Limits, Owner, OwnerReport},
};
use flotilla_protocol::{Backend, BrowserId};
use flotilla_tests::place;
use serde::Deserialize;
use serde_json::Value;
use tokio::{net::TcpListener, sync::mpsc, time::timeout};

use crate::{
    outcome::{Judged, Outcome},
    source::Case,
};

/// Longest start of the browser.
const START_MAX: Duration = Duration::from_secs(60);
/// Longest end of it.
const END_MAX: Duration = Duration::from_secs(20);
/// Longest wait for a case. Two of them add 36 million numbers.
const CASE_MAX: Duration = Duration::from_secs(60);
/// Most reports of the browser's owner, and most messages of the page, that wait.
const REPORTS_MAX: usize = 64;

/// The results of a run.
#[derive(Debug)]
pub struct Run {
    /// Name and version of the browser.
    pub browser: String,
    /// The cases in their order.
    pub judged: Vec<Judged>,
}

/// A message of the page.
#[derive(Debug, Deserialize)]
#[serde(tag = "tell", rename_all = "lowercase")]
enum Report {
    Outcome { index: usize, outcome: Outcome, reason: String },
    Broken { reason: String },
}

/// The state of the server for the page.
struct Served {
    files: BTreeMap<&'static str, (&'static str, Vec<u8>)>,
    page_reports: mpsc::Sender<Report>,
}

/// Runs the cases one after the other in one page of `chrome-webnn`.
///
/// # Errors
/// The page has not been built; the disk for temporary files is nearly full; the browser does not start, dies or hangs.
pub async fn run(cases: &[Case]) -> anyhow::Result<Run> {
    // Two cases have constants of more than 100 MB.
    ensure!(
        guardian::place_with_room().is_some(),
        "the disk for temporary files is too full, and so is /dev/shm: the browser would refuse large constants"
    );
    let (page_reports, mut words) = mpsc::channel(REPORTS_MAX);
    let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on a port")?;
    let origin = format!("http://{}", listener.local_addr()?);
    let served = Arc::new(Served { files: files(cases)?, page_reports });
    let router = Router::new()
        .route("/runner/", get(index))
        .route("/runner/{file}", get(file))
        .route("/runner/tell", post(take_report))
        .with_state(served);
    let server = tokio::spawn(async move { axum::serve(listener, router).await });

    let (sender, mut reports) = mpsc::channel(REPORTS_MAX);
    let build = Build::chrome_webnn();
    let owner = Owner::launch(launch(&build, origin), sender);
    let outcome = live(&build, cases, &mut reports, &mut words).await;
    let ended = timeout(END_MAX, owner.end()).await;
    server.abort();
    let run = outcome?;
    ended.context("the browser has not ended")?.context("the browser's owner has failed")?;
    Ok(run)
}

async fn live(
    build: &Build,
    cases: &[Case],
    reports: &mut mpsc::Receiver<(BrowserId, OwnerReport)>,
    words: &mut mpsc::Receiver<Report>,
) -> anyhow::Result<Run> {
    let begun = timeout(START_MAX, reports.recv()).await;
    let version = match begun.context("the browser does not start")? {
        Some((_, OwnerReport::Started(facts))) => facts.version,
        other => bail!("{build} does not start: {other:?}"),
    };
    let mut judged = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let report = timeout(CASE_MAX, next(reports, words)).await;
        let report =
            report.with_context(|| format!("{} did not end within {CASE_MAX:?}", case.name))?;
        match report.with_context(|| case.name.clone())? {
            Report::Outcome { index: of, outcome, reason } => {
                ensure!(of == index, "the page reported case {of}, expected was case {index}");
                judged.push(Judged::new(case, outcome, reason));
            }
            Report::Broken { reason } => bail!("the page is broken at {}: {reason}", case.name),
        }
    }
    Ok(Run { browser: format!("{build} {version}"), judged })
}

/// The page's next message, unless the browser fails before.
async fn next(
    reports: &mut mpsc::Receiver<(BrowserId, OwnerReport)>,
    words: &mut mpsc::Receiver<Report>,
) -> anyhow::Result<Report> {
    loop {
        tokio::select! {
            report = words.recv() => return report.context("the server has ended"),
            report = reports.recv() => match report {
                Some((_, OwnerReport::Failed(failure))) => bail!("{}", failure.detail),
                // Reports on memory are not used here.
                Some(_) => {}
                None => bail!("the browser's owner has ended"),
            },
        }
    }
}

fn launch(build: &Build, origin: String) -> Launch {
    Launch {
        browser: BrowserId(1),
        desired: DesiredBrowser {
            build: build.clone(),
            simulated: false,
            backends: vec![Backend::WebNn],
            adapter: adapter::decide(Adapter::Auto, build),
        },
        origin,
        // The page has no links.
        tokens: ("control".to_owned(), "data".to_owned()),
        guardian: place::binary(),
        data_dir_id: "wpt".to_owned(),
        limits: Limits::default(),
        takes_faults: false,
    }
}

fn files(cases: &[Case]) -> anyhow::Result<BTreeMap<&'static str, (&'static str, Vec<u8>)>> {
    let web = place::target().join("wpt").join("web");
    let built = |name: &str| {
        let path = web.join(name);
        fs::read(&path)
            .with_context(|| format!("{} does not exist: run `cargo xtask wasm`", path.display()))
    };
    let cases: Vec<&Value> = cases.iter().map(|case| &case.json).collect();
    Ok(BTreeMap::from([
        ("page.js", ("text/javascript", include_bytes!("../page.js").to_vec())),
        ("wpt.js", ("text/javascript", built("wpt.js")?)),
        ("wpt_bg.wasm", ("application/wasm", built("wpt_bg.wasm")?)),
        ("cases.json", ("application/json", serde_json::to_vec(&cases)?)),
    ]))
}

async fn index() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/html")], include_str!("../index.html"))
}

async fn file(State(served): State<Arc<Served>>, Path(name): Path<String>) -> impl IntoResponse {
    match served.files.get(name.as_str()) {
        Some((content_type, bytes)) => Ok(([(CONTENT_TYPE, *content_type)], bytes.clone())),
        None => Err(StatusCode::NOT_FOUND),
    }
}

async fn take_report(State(served): State<Arc<Served>>, Json(report): Json<Report>) -> StatusCode {
    match served.page_reports.send(report).await {
        Ok(()) => StatusCode::NO_CONTENT,
        // The run has ended, so nothing receives it.
        Err(_) => StatusCode::GONE,
    }
}
