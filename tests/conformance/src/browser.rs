//! `browser-runtime` in a real browser: one page that loads, runs and unloads one program after the other.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use flotilla_browsers::{
    Adapter, Build, DesiredBrowser, Kind, adapter,
    owner::{Launch, Limits, Owner, OwnerReport},
};
use flotilla_program::{BlobId, Program};
use flotilla_protocol::{
    Backend, BlobSource, BrowserId, Epoch, FromPage, LoadError, LoadTerms, PlacementId, RunError,
    RunId, ToPage,
};
use flotilla_tensor::Tensor;
use flotilla_tests::{
    place,
    runner::{PageLink, Received, Runner},
};
use tokio::sync::mpsc;

use crate::outcome::{Failure, RuntimeName, Stage};

/// Longest start of a browser.
const START_MAX: Duration = Duration::from_secs(60);
/// Longest end of a browser.
const END_MAX: Duration = Duration::from_secs(20);
/// The one placement of a page.
const PLACEMENT: PlacementId = PlacementId(1);
/// Most reports of an owner that wait.
const REPORTS_MAX: usize = 64;

/// A browser for programs. One that hangs or dies is replaced by the next run.
pub struct Browser {
    build: Build,
    backend: Backend,
    limit: Duration,
    runtime: tokio::runtime::Runtime,
    runner: Runner,
    page: Option<Page>,
    /// How many were started; used in the names of tokens.
    started: u32,
    /// How many programs were loaded and run; used as the numbers of epochs and runs.
    served: u64,
}

struct Page {
    owner: Owner,
    reports: mpsc::Receiver<(BrowserId, OwnerReport)>,
    data: PageLink,
}

/// Why there is no answer: the page cannot be used any more.
struct Gone(String);

/// What a page answers, or the stage at which it was lost.
type Answered<T> = Result<Result<T, Failure>, (Stage, Gone)>;

impl Browser {
    /// Starts the browser of a runtime.
    ///
    /// # Errors
    /// As [`Browser::start`]; or the runtime does not run in a browser.
    pub fn of(runtime: RuntimeName, limit: Duration) -> anyhow::Result<Browser> {
        match runtime {
            RuntimeName::ChromeWebgpu => Browser::start(Kind::Chrome, Backend::WebGpu, limit),
            RuntimeName::FirefoxWebgpu => Browser::start(Kind::Firefox, Backend::WebGpu, limit),
            RuntimeName::ChromeCpu => Browser::start(Kind::Chrome, Backend::Cpu, limit),
            RuntimeName::ChromeWebnn => {
                Browser::start(Build::chrome_webnn(), Backend::WebNn, limit)
            }
            RuntimeName::NativeCpu | RuntimeName::NativeWebgpu => {
                anyhow::bail!("{runtime} does not run in a browser")
            }
        }
    }

    /// Starts a browser; `limit` is the longest time for a load and for a run.
    ///
    /// # Errors
    /// It does not start, or the backend is not available; the error has the browser's message.
    pub fn start(
        build: impl Into<Build>,
        backend: Backend,
        limit: Duration,
    ) -> anyhow::Result<Browser> {
        let build = build.into();
        let runtime = tokio::runtime::Runtime::new().context("cannot start threads")?;
        let runner = Runner::start();
        let mut browser =
            Browser { build, backend, limit, runtime, runner, page: None, started: 0, served: 0 };
        let mut page = browser.open().map_err(anyhow::Error::msg)?;
        let sent = page.data.try_send(&ToPage::Inspect, &[]).map_err(Gone);
        let reports = sent.and_then(|()| {
            page.receive(START_MAX, |message, _| match message {
                FromPage::Backends(reports) => Some(reports),
                _ => None,
            })
        });
        let reports = reports.map_err(|Gone(words)| anyhow::Error::msg(words))?;
        let of_backend = reports.into_iter().filter(|report| report.backend == backend);
        of_backend
            .map(|report| report.outcome.map_err(anyhow::Error::msg))
            // A backend may be offered on one device and refused on another.
            .reduce(|one, other| one.or(other))
            .context("the page does not report the backend")??;
        browser.page = Some(page);
        Ok(browser)
    }

    /// Loads a program, runs it with each of some inputs, and unloads it.
    ///
    /// # Errors
    /// Refusals and failures from the page; a page that hung or died.
    pub fn run(
        &mut self,
        program: &Program,
        blobs: &BTreeMap<BlobId, Bytes>,
        terms: &LoadTerms,
        runs: &[Vec<Tensor>],
    ) -> Result<Vec<Vec<Tensor>>, Failure> {
        let mut page = match self.page.take() {
            Some(page) => page,
            None => self.open().map_err(|words| Failure::new(Stage::Load, words))?,
        };
        let outcome = self.load(&mut page, program, blobs, terms).and_then(|loaded| {
            loaded.map_or_else(|failure| Ok(Err(failure)), |()| self.compute(&mut page, runs))
        });
        match outcome {
            Ok(result) => {
                self.page = Some(page);
                result
            }
            Err((stage, Gone(words))) => {
                self.close(page);
                Err(Failure::new(stage, format!("the page has ended: {words}")))
            }
        }
    }

    /// Ends the browser and waits until no process of it is left.
    pub fn end(mut self) {
        if let Some(page) = self.page.take() {
            self.close(page);
        }
    }

    fn load(
        &mut self,
        page: &mut Page,
        program: &Program,
        blobs: &BTreeMap<BlobId, Bytes>,
        terms: &LoadTerms,
    ) -> Answered<()> {
        self.served += 1;
        let epoch = Epoch(self.served);
        let program = match program.to_bytes() {
            Ok(program) => program,
            Err(error) => return Ok(Err(Failure::of(Stage::Load, &error))),
        };
        let blobs = blobs.iter().map(|(id, bytes)| (id.to_hex(), bytes.clone()));
        self.runner.offer(blobs.collect());
        let order = ToPage::Load {
            placement: PLACEMENT,
            epoch,
            backend: self.backend,
            program,
            blobs: BlobSource { url_prefix: self.runner.blob_prefix() },
            terms: terms.clone(),
        };
        let sent = page.data.try_send(&order, &[]).map_err(Gone);
        let received = sent.and_then(|()| {
            page.receive(self.limit, |message, _| match message {
                FromPage::Loaded { epoch: loaded, .. } if loaded == epoch => Some(Ok(())),
                FromPage::LoadFailed { epoch: failed, error, .. } if failed == epoch => {
                    let stage = match error {
                        LoadError::UnsupportedNodes { .. } => Stage::Refuse,
                        _ => Stage::Load,
                    };
                    Some(Err(Failure::of(stage, &error)))
                }
                _ => None,
            })
        });
        received.map_err(|gone| (Stage::Load, gone))
    }

    fn compute(&mut self, page: &mut Page, runs: &[Vec<Tensor>]) -> Answered<Vec<Vec<Tensor>>> {
        let epoch = Epoch(self.served);
        let (mut done, mut failed) = (Vec::new(), None);
        for (inputs, at) in runs.iter().zip(0..) {
            let run = RunId(at);
            let order = ToPage::Run { run, placement: PLACEMENT, epoch };
            let sent = page.data.try_send(&order, inputs).map_err(Gone);
            let received = sent.and_then(|()| {
                page.receive(self.limit, |message, outputs| match message {
                    FromPage::Ran { run: done, .. } if done == run => Some(Ok(outputs)),
                    FromPage::RunFailed { run: failed, error, .. } if failed == run => {
                        let stage = match error {
                            RunError::Unsupported { .. } => Stage::Refuse,
                            _ => Stage::Run,
                        };
                        Some(Err(Failure::of(stage, &error)))
                    }
                    _ => None,
                })
            });
            match received.map_err(|gone| (Stage::Run, gone))? {
                Ok(outputs) => done.push(outputs),
                Err(failure) => {
                    failed = Some(failure);
                    break;
                }
            }
        }
        let unload = page.data.try_send(&ToPage::Unload { placement: PLACEMENT }, &[]);
        unload.map_err(|words| (Stage::Run, Gone(words)))?;
        Ok(failed.map_or(Ok(done), Err))
    }

    fn open(&mut self) -> Result<Page, String> {
        self.started += 1;
        let tokens = (format!("control{}", self.started), format!("data{}", self.started));
        let (sender, mut reports) = mpsc::channel(REPORTS_MAX);
        let launch = Launch {
            browser: BrowserId(u64::from(self.started)),
            desired: DesiredBrowser {
                build: self.build.clone(),
                simulated: false,
                backends: vec![self.backend],
                adapter: adapter::decide(Adapter::Auto, &self.build),
            },
            origin: self.runner.origin(),
            tokens: tokens.clone(),
            guardian: place::binary(),
            data_dir_id: "conformance".to_owned(),
            limits: Limits::default(),
            takes_faults: false,
        };
        let owner = {
            let _entered = self.runtime.enter();
            Owner::launch(launch, sender)
        };
        let begun =
            self.runtime.block_on(async { tokio::time::timeout(START_MAX, reports.recv()).await });
        match begun {
            Ok(Some((_, OwnerReport::Started(_)))) => {}
            other => return Err(format!("{} did not start: {other:?}", self.build)),
        }
        let (control, data) = self.runner.try_page(&tokens, START_MAX)?;
        // Unread heartbeats would fill the link.
        std::thread::spawn(move || drain(control));
        Ok(Page { owner, reports, data })
    }

    fn close(&mut self, page: Page) {
        let Page { owner, .. } = page;
        let ended =
            self.runtime.block_on(async { tokio::time::timeout(END_MAX, owner.end()).await });
        if ended.is_err() {
            eprintln!("{} has not ended within {END_MAX:?}", self.build);
        }
    }
}

impl Page {
    /// Waits for a message that `pick` accepts.
    fn receive<T>(
        &mut self,
        limit: Duration,
        mut pick: impl FnMut(FromPage, Vec<Tensor>) -> Option<T>,
    ) -> Result<T, Gone> {
        let deadline = Instant::now() + limit;
        loop {
            match self.data.receive(deadline) {
                Received::Message(message, tensors) => {
                    if let Some(picked) = pick(*message, tensors) {
                        return Ok(picked);
                    }
                }
                Received::Nothing => return Err(Gone(format!("no answer within {limit:?}"))),
                Received::End(words) => return Err(Gone(words)),
            }
            // Reports on memory are not used, but they are read so that the owner does not wait.
            while let Ok((_, report)) = self.reports.try_recv() {
                if let OwnerReport::Failed(failure) = report {
                    return Err(Gone(failure.detail));
                }
            }
        }
    }
}

fn drain(mut control: PageLink) {
    loop {
        match control.receive(Instant::now() + START_MAX) {
            Received::Message(message, _) => {
                if let FromPage::Console { level, text } = *message {
                    eprintln!("page: {level:?}: {text}");
                }
            }
            Received::Nothing | Received::End(_) => return,
        }
    }
}
