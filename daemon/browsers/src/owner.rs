//! The task that owns one browser: guardian, driver, WebDriver session and the page's address.
//!
//! Others hold an [`Owner`]. Dropping it, or the daemon's death, ends the browser without the session's help: the guardian
//! kills everything under it as soon as its input ends.

mod conversation;

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use fantoccini::{Client, ClientBuilder};
use flotilla_fleet::{Failure, FailureKind};
use flotilla_protocol::BrowserId;
use hyper_util::client::legacy::connect::HttpConnector;
use rustix::process::{Pid, PidfdFlags};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, unix::AsyncFd},
    process::{Child, ChildStdout, Command},
    sync::{mpsc, oneshot},
};

use crate::{
    Channel, DesiredBrowser, DriverPlan, Facts, Kind, chrome,
    fault::{Fault, FaultError},
    firefox, guardian,
    install::{self, Installed},
};
use conversation::{Conversation, runner_url};

/// Longest wait for a guardian to end everything under it before its descendants are killed one by one.
const GUARDIAN_END_MAX: Duration = Duration::from_secs(10);
/// The capability by which a driver reports that another browser takes its browser's place.
pub const SHIM: &str = "flotilla:shim";
/// Longest line of a driver that is read as one.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// Most characters of a driver's output in a message.
const WORDS_MAX: usize = 600;

/// What an owner needs to start its browser.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Name of the browser.
    pub browser: BrowserId,
    /// The browser to start; its `adapter` is not `Auto`.
    pub desired: DesiredBrowser,
    /// `http://127.0.0.1:PORT`, where the runner page and its links are.
    pub origin: String,
    /// Single-use tokens of the two links: control, data.
    pub tokens: (String, String),
    /// The program that has the `guardian` subcommand: this one.
    pub guardian: PathBuf,
    /// Marks the processes as this data directory's.
    pub data_dir_id: String,
    /// How closely it is watched.
    pub limits: Limits,
    /// Whether faults can be injected into its page; never for pages that serve users.
    pub takes_faults: bool,
}

/// How closely a browser is watched, and how long its driver may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time between two checks that the driver answers.
    pub driver_poll: Duration,
    /// Longest wait for that answer.
    pub driver_answer_max: Duration,
    /// Longest wait for a new page to be opened, or for another address.
    pub page_open_max: Duration,
    /// Time between two measurements of the processes' memory.
    pub memory_poll: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            driver_poll: Duration::from_secs(2),
            driver_answer_max: Duration::from_secs(10),
            page_open_max: Duration::from_secs(10),
            memory_poll: Duration::from_secs(1),
        }
    }
}

/// A report of an owner.
#[derive(Debug)]
pub enum OwnerReport {
    /// The session is open and the page's address has been opened.
    Started(Facts),
    /// [`Owner::reset`] was carried out: the address of a new page has been opened and the old page is closed.
    PageOpened,
    /// How much memory the browser, its driver and their guardian hold. Reported when it has changed by a twentieth, else every
    /// ten seconds.
    Memory {
        /// Proportional set size of all processes, in bytes.
        used_bytes: u64,
    },
    /// The browser has failed. Sent at most once; its processes are ended only when the owner is dropped.
    Failed(Failure),
}

/// A script for the page's main thread, and where its result goes.
#[derive(Debug)]
pub struct Script {
    /// Body of an asynchronous function; it calls its last argument with the result.
    pub body: String,
    /// Its other arguments.
    pub arguments: Vec<serde_json::Value>,
    /// The result, or the driver's error message.
    pub reply: oneshot::Sender<Result<serde_json::Value, String>>,
}

/// Handle of a browser's owner task.
#[derive(Debug)]
pub struct Owner {
    // Nothing is sent on it: dropping it is the order to end the browser.
    _alive: oneshot::Sender<()>,
    scripts: mpsc::Sender<Script>,
    orders: mpsc::Sender<Order>,
    task: tokio::task::JoinHandle<()>,
}

/// An order to the owner of a browser.
#[derive(Debug)]
pub enum Order {
    /// [`Owner::reset`].
    Reset {
        /// Token of the new page's control link.
        control: String,
        /// Token of its data link.
        data: String,
    },
    /// [`Owner::navigate`].
    Navigate {
        /// The other address.
        url: String,
        /// Its [`Outcome`].
        reply: oneshot::Sender<Result<(), FaultError>>,
    },
    /// [`Owner::fault`].
    InjectFault {
        /// The fault.
        fault: Fault,
        /// Its [`Outcome`].
        reply: oneshot::Sender<Result<(), FaultError>>,
    },
}

/// Most scripts that wait for a browser, and most orders.
const SCRIPTS_MAX: usize = 16;

/// The outcome of an order, once it is known; dropped if the browser ends first.
pub type Outcome = oneshot::Receiver<Result<(), FaultError>>;

impl Owner {
    /// Starts a real browser, whatever [`DesiredBrowser::simulated`] is. Reports go to `reports`, with the browser's id.
    pub fn launch(launch: Launch, reports: mpsc::Sender<(BrowserId, OwnerReport)>) -> Owner {
        Owner::spawn(|queues, ended| own(launch, reports, queues, ended))
    }

    /// Gives a browser to another kind of task, such as one that simulates it. The second argument of `own` is ready when
    /// the browser is to be ended; the task ends when nothing of the browser is left.
    pub fn spawn<F>(own: impl FnOnce(Queues, oneshot::Receiver<()>) -> F) -> Owner
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (alive, ended) = oneshot::channel();
        let (scripts, queue) = mpsc::channel(SCRIPTS_MAX);
        let (orders, order_queue) = mpsc::channel(SCRIPTS_MAX);
        let queues = Queues { scripts: queue, orders: order_queue };
        let task = tokio::spawn(own(queues, ended));
        Owner { _alive: alive, scripts, orders, task }
    }

    /// Opens a new page, whose links have these tokens (control, data), and closes the old one even if it is busy. Reported as
    /// [`OwnerReport::PageOpened`] or [`OwnerReport::Failed`].
    ///
    /// # Errors
    /// Too many orders wait, or the browser has ended: nothing will be reported.
    pub fn reset(&self, tokens: (String, String)) -> Result<(), FaultError> {
        let (control, data) = tokens;
        self.order(Order::Reset { control, data })
    }

    /// Navigates the page to another address, where it stays. A simulated browser has no page afterwards.
    ///
    /// # Errors
    /// Too many orders wait, or the browser has ended.
    pub fn navigate(&self, url: String) -> Result<Outcome, FaultError> {
        let (reply, outcome) = oneshot::channel();
        self.order(Order::Navigate { url, reply })?;
        Ok(outcome)
    }

    /// Injects a fault into the browser. The outcome is known when the fault has happened, which may be before it is detected.
    ///
    /// # Errors
    /// Too many orders wait, or the browser has ended.
    pub fn fault(&self, fault: Fault) -> Result<Outcome, FaultError> {
        let (reply, outcome) = oneshot::channel();
        self.order(Order::InjectFault { fault, reply })?;
        Ok(outcome)
    }

    fn order(&self, order: Order) -> Result<(), FaultError> {
        self.orders.try_send(order).map_err(|_| FaultError::NotTaken)
    }

    /// Runs a script in the page. A simulated browser has no page: the reply is dropped.
    ///
    /// # Errors
    /// The script, when too many wait or the browser has ended.
    pub fn execute(&self, script: Script) -> Result<(), Script> {
        self.scripts.try_send(script).map_err(|error| match error {
            mpsc::error::TrySendError::Full(script) | mpsc::error::TrySendError::Closed(script) => {
                script
            }
        })
    }

    /// Orders the end; the returned task ends when nothing of the browser is left.
    pub fn end(self) -> tokio::task::JoinHandle<()> {
        self.task
    }
}

/// What comes from an [`Owner`].
#[derive(Debug)]
pub struct Queues {
    /// From [`Owner::execute`].
    pub scripts: mpsc::Receiver<Script>,
    /// From the other methods.
    pub orders: mpsc::Receiver<Order>,
}

async fn own(
    launch: Launch,
    reports: mpsc::Sender<(BrowserId, OwnerReport)>,
    mut queues: Queues,
    mut ended: oneshot::Receiver<()>,
) {
    let browser = launch.browser;
    let mut process = None;
    let failure = tokio::select! {
        failure = live(launch, &mut process, &mut queues, &reports) => Some(failure),
        _ = &mut ended => None,
    };
    if let Some(failure) = failure {
        // If nothing receives it, the daemon is ending, and with it this browser.
        let _ = reports.send((browser, OwnerReport::Failed(failure))).await;
        let _ = ended.await;
    }
    if let Some(process) = process {
        process.end().await;
    }
}

/// Starts the browser and waits for its failure.
async fn live(
    launch: Launch,
    slot: &mut Option<Guarded>,
    queues: &mut Queues,
    reports: &mpsc::Sender<(BrowserId, OwnerReport)>,
) -> Failure {
    let begin = Instant::now();
    let browser = launch.browser;
    let driver_failure = |detail: String| Failure::new(FailureKind::DriverUnresponsive, detail);
    let mark = format!("{}:{}:{}", launch.data_dir_id, std::process::id(), launch.browser);
    let dir = match guardian::folder(&mark) {
        Ok(dir) => dir,
        Err(error) => {
            return driver_failure(format!(
                "cannot make a folder for the browser's profile: {error}"
            ));
        }
    };
    let installed = match install::find(&launch.desired.build) {
        Ok(installed) => installed,
        Err(missing) => return driver_failure(missing.to_string()),
    };
    let plan = plan(&launch, &installed, dir.path());
    let guarded = match Guarded::spawn(&launch, &plan, mark) {
        // The guardian removes the folder.
        Ok(guarded) => slot.insert((guarded, dir.keep()).0),
        Err(error) => {
            return driver_failure(format!(
                "cannot start the guardian {}: {error}",
                launch.guardian.display()
            ));
        }
    };
    let port = match guarded.port(plan.port_after).await {
        Ok(port) => port,
        Err(words) => {
            let log = tail(&plan.dir.join("driver.log"));
            return driver_failure(format!(
                "{} ended before it listened: {words}{log}",
                plan.command[0]
            ));
        }
    };
    let session = ClientBuilder::new(HttpConnector::new())
        .capabilities(plan.capabilities.clone())
        .connect(&format!("http://127.0.0.1:{port}"))
        .await;
    let session = match session {
        Ok(session) => session,
        Err(error) => {
            let words = cut(&error.to_string());
            return Failure::new(
                FailureKind::BrowserExited,
                format!("the browser did not start: {words}"),
            );
        }
    };
    let driver_pid = guarded.driver_pid();
    let pid = browser_pid(&session, driver_pid);
    let (control, data) = &launch.tokens;
    if let Err(error) =
        session.goto(&runner_url(&launch.origin, control, data, launch.takes_faults)).await
    {
        return driver_failure(format!(
            "the runner page could not be opened: {}",
            cut(&error.to_string())
        ));
    }
    let build = &launch.desired.build;
    let version = capability(&session, "browserVersion");
    let facts = Facts {
        name: shown_name(&session, &build.name),
        kind: build.kind,
        channel: Channel::of(build.kind, &installed.browser, &version),
        version,
        simulated: false,
        pid,
        guardian_pid: guarded.child.id(),
        driver_pid,
        start_ms: begin.elapsed().as_millis() as u64,
    };
    if reports.send((browser, OwnerReport::Started(facts))).await.is_err() {
        return driver_failure("the pool has ended".to_owned());
    }
    let conversation = Conversation {
        browser,
        kind: launch.desired.build.kind,
        origin: &launch.origin,
        session: &session,
        driver_port: port,
        pid,
        guardian: guarded.child.id(),
        limits: launch.limits,
        takes_faults: launch.takes_faults,
        reports,
    };
    guarded.failure(&conversation, queues, pid).await
}

fn plan(launch: &Launch, installed: &Installed, dir: &Path) -> DriverPlan {
    let desired = &launch.desired;
    match desired.build.kind {
        Kind::Chrome | Kind::Edge => chrome::plan(installed, desired, dir),
        Kind::Firefox => firefox::plan(installed, desired, dir),
    }
}

/// A guardian and what comes from it.
struct Guarded {
    child: Child,
    output: BufReader<ChildStdout>,
    /// The mark of every process under it.
    mark: String,
    /// The folder that it removes.
    dir: PathBuf,
}

impl Guarded {
    fn spawn(launch: &Launch, plan: &DriverPlan, mark: String) -> std::io::Result<Guarded> {
        let mut child = Command::new(&launch.guardian)
            .arg("guardian")
            .arg("--dir")
            .arg(&plan.dir)
            .arg("--")
            .args(&plan.command)
            .envs(plan.environment.iter().cloned())
            .env("TMPDIR", &plan.dir)
            .env(guardian::MARK, &mark)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // In another process group than the terminal's, so that Ctrl-C does not end it: the daemon drains first.
            .process_group(0)
            .spawn()?;
        let stdout =
            child.stdout.take().ok_or_else(|| std::io::Error::other("no standard output"))?;
        Ok(Guarded { child, output: BufReader::new(stdout), mark, dir: plan.dir.clone() })
    }

    /// The port that the driver prints; its last output if it ends first.
    async fn port(&mut self, after: &str) -> Result<u16, String> {
        let mut last = String::new();
        while let Some(line) = next_line(&mut self.output).await {
            let digits = line
                .split_once(after)
                .map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
            if let Some(port) = digits.and_then(|digits| digits.parse().ok()) {
                return Ok(port);
            }
            last = line;
        }
        Err(cut(&last))
    }

    /// The guardian's first child; others are what the driver started.
    fn driver_pid(&self) -> Option<u32> {
        let guardian = self.child.id()?;
        std::fs::read_to_string(format!("/proc/{guardian}/task/{guardian}/children"))
            .ok()?
            .split_ascii_whitespace()
            .next()?
            .parse()
            .ok()
    }

    /// Executes orders until the browser or its driver ends, or the driver no longer answers.
    async fn failure(
        &mut self,
        conversation: &Conversation<'_>,
        queues: &mut Queues,
        pid: Option<u32>,
    ) -> Failure {
        let guardian = self.child.id();
        let guardian_ended = async {
            match guardian {
                Some(pid) => exit(pid).await,
                None => std::future::pending().await,
            }
            Failure::new(FailureKind::DriverUnresponsive, "the guardian ended")
        };
        let driver_ended = async {
            while next_line(&mut self.output).await.is_some() {}
            Failure::new(FailureKind::DriverUnresponsive, "the driver ended")
        };
        let browser_ended = async {
            match pid {
                Some(pid) => {
                    exit(pid).await;
                    Failure::new(FailureKind::BrowserExited, format!("process {pid} ended"))
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // A guardian ends with its driver, and then the driver's end is the failure to report.
            biased;
            failure = browser_ended => failure,
            failure = driver_ended => failure,
            failure = guardian_ended => failure,
            failure = conversation.failure(&mut queues.scripts, &mut queues.orders) => failure,
            failure = conversation.measure_memory() => failure,
        }
    }

    async fn end(mut self) {
        drop(self.child.stdin.take());
        let guardian = self.child.id();
        match tokio::time::timeout(GUARDIAN_END_MAX, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => return,
            Ok(_) => return self.end_unguarded().await,
            Err(_) => {}
        }
        if let Some(guardian) = guardian {
            tracing::warn!(
                guardian,
                "the guardian does not end; its descendants are killed one by one"
            );
            for pid in guardian::descendants(guardian) {
                guardian::kill(pid);
            }
            guardian::kill(guardian);
        }
        if let Err(error) = self.child.wait().await {
            tracing::warn!(%error, "cannot wait for the guardian to end");
        }
    }

    /// Ends the browser's processes after their guardian was itself killed.
    async fn end_unguarded(&self) {
        let ended = async {
            loop {
                let left = guardian::marked(&self.mark);
                if left.is_empty() {
                    return;
                }
                for pid in left {
                    guardian::kill(pid);
                    exit(pid).await;
                }
            }
        };
        if tokio::time::timeout(GUARDIAN_END_MAX, ended).await.is_err() {
            tracing::warn!(mark = self.mark, "processes without a guardian do not end");
        }
        match tokio::fs::remove_dir_all(&self.dir).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(dir = %self.dir.display(), %error, "a browser's folder could not be removed");
            }
            Ok(()) | Err(_) => {}
        }
    }
}

/// The next line of what driver and browser print, whatever its encoding; `None` at the end. A line that is longer than
/// [`LINE_BYTES_MAX`] comes in pieces.
async fn next_line(output: &mut BufReader<ChildStdout>) -> Option<String> {
    let mut line = Vec::new();
    match output.take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(String::from_utf8_lossy(&line).into_owned()),
    }
}

/// Waits until a process has ended; at once if there is none.
async fn exit(pid: u32) {
    let handle = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK).ok())
        .and_then(watch);
    if let Some(handle) = handle {
        // An error of the handle counts as ended, too.
        let _ = handle.readable().await;
    }
}

#[expect(
    unsafe_code,
    reason = "tokio cannot see that an OwnedFd stays open as long as it is owned"
)]
fn watch(handle: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the AsyncFd, which deregisters it before it is closed.
    unsafe { AsyncFd::register_with_interest(handle, tokio::io::Interest::READABLE) }.ok()
}

fn browser_pid(session: &Client, driver_pid: Option<u32>) -> Option<u32> {
    let reported = session.capabilities().and_then(|capabilities| {
        let names = ["moz:processID", "goog:processID", "ms:processID"];
        let reported = names.iter().find_map(|&name| capabilities.get(name)?.as_u64());
        u32::try_from(reported?).ok()
    });
    // Older drivers do not report it; the browser's main process is their only child.
    reported.or_else(|| guardian::descendants(driver_pid?).into_iter().next())
}

/// A driver that stands in for another browser's reports it, so that its answers are not taken for that browser's.
fn shown_name(session: &Client, name: &str) -> String {
    match session.capabilities().and_then(|capabilities| capabilities.get(SHIM)) {
        Some(_) => format!("{name} (shim)"),
        None => name.to_owned(),
    }
}

fn capability(session: &Client, name: &str) -> String {
    session
        .capabilities()
        .and_then(|capabilities| capabilities.get(name))
        .and_then(serde_json::Value::as_str)
        .unwrap_or("unknown")
        .to_owned()
}

/// The end of a log, for a message.
fn tail(path: &Path) -> String {
    match std::fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => {
            let lines: Vec<&str> = text.lines().rev().take(5).collect();
            format!(
                "; its log ends: {}",
                cut(&lines.into_iter().rev().collect::<Vec<_>>().join(" | "))
            )
        }
        _ => String::new(),
    }
}

fn cut(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(WORDS_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}
