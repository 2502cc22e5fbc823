//! Commands to a browser through its driver after its first page is open, and the checks that run meanwhile.
//!
//! Every command has a time limit. A driver executes the commands of a session one after the other, so if one is not answered
//! in time, none after it will be: the browser is then reported as failed, and its owner kills it.

use std::time::{Duration, Instant};

use fantoccini::{Client, error::CmdError};
use flotilla_fleet::{Failure, FailureKind};
use flotilla_protocol::BrowserId;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http_body_util::Empty;
use hyper::Uri;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval, timeout},
};

use super::{Limits, Order, OwnerReport, Script, cut};
use crate::{
    Kind,
    fault::{Fault, FaultError, Means},
    guardian,
};

/// Longest wait for a script's result. Drivers themselves give up after 30 s and report it.
const SCRIPT_MAX: Duration = Duration::from_secs(40);
/// Longest time between two reports of memory that does not change.
const MEMORY_QUIET_MAX: Duration = Duration::from_secs(10);
/// A change of memory that is reported within a second, as a fraction of the last reported value.
const MEMORY_CHANGE_MIN: f64 = 0.05;

/// The browser and the settings of a conversation.
pub(super) struct Conversation<'a> {
    pub(super) browser: BrowserId,
    pub(super) kind: Kind,
    /// `http://127.0.0.1:PORT`, where the runner page is.
    pub(super) origin: &'a str,
    pub(super) session: &'a Client,
    pub(super) driver_port: u16,
    /// Of the browser's main process, where it is known.
    pub(super) pid: Option<u32>,
    pub(super) guardian: Option<u32>,
    pub(super) limits: Limits,
    pub(super) takes_faults: bool,
    pub(super) reports: &'a mpsc::Sender<(BrowserId, OwnerReport)>,
}

enum Event {
    Script(Script),
    Order(Order),
    CommandEnded(CommandOutcome),
    PollDriver,
}

/// How a command ended.
enum CommandOutcome {
    Done,
    PageOpened,
    Failed(Failure),
}

/// A command that was sent and is not answered yet.
type PendingCommand = BoxFuture<'static, CommandOutcome>;

impl Conversation<'_> {
    /// Executes orders and scripts until the driver no longer answers.
    pub(super) async fn failure(
        &self,
        scripts: &mut mpsc::Receiver<Script>,
        orders: &mut mpsc::Receiver<Order>,
    ) -> Failure {
        let http = HttpClient::builder(TokioExecutor::new()).build_http();
        let mut pending: FuturesUnordered<PendingCommand> = FuturesUnordered::new();
        let mut poll = interval(self.limits.driver_poll);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                Some(script) = scripts.recv() => Event::Script(script),
                Some(order) = orders.recv() => Event::Order(order),
                Some(ended) = pending.next() => Event::CommandEnded(ended),
                // A driver that works on a command may not answer others, and that command has its own limit.
                _ = poll.tick(), if pending.is_empty() => Event::PollDriver,
            };
            match event {
                Event::Script(script) => pending.push(execute(self.session.clone(), script)),
                Event::Order(order) => pending.push(self.perform(order)),
                Event::PollDriver => pending.push(self.poll_driver(&http)),
                Event::CommandEnded(CommandOutcome::Done) => {}
                Event::CommandEnded(CommandOutcome::PageOpened) => {
                    if self.reports.send((self.browser, OwnerReport::PageOpened)).await.is_err() {
                        return unresponsive("the pool has ended");
                    }
                }
                Event::CommandEnded(CommandOutcome::Failed(failure)) => return failure,
            }
        }
    }

    /// Reports the memory of the processes under the guardian, in an endless loop.
    pub(super) async fn measure_memory(&self) -> Failure {
        let Some(guardian) = self.guardian else { return std::future::pending().await };
        let mut ticks = interval(self.limits.memory_poll);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reported: Option<Memory> = None;
        loop {
            ticks.tick().await;
            let measuring = tokio::task::spawn_blocking(move || Memory::news(guardian, reported));
            let news = match measuring.await {
                Ok(news) => news,
                Err(error) => {
                    tracing::error!(browser = %self.browser, %error, "memory is no longer measured");
                    return std::future::pending().await;
                }
            };
            let Some(memory) = news else { continue };
            reported = Some(memory);
            let report = OwnerReport::Memory { used_bytes: memory.used_bytes };
            if self.reports.send((self.browser, report)).await.is_err() {
                return unresponsive("the pool has ended");
            }
        }
    }

    fn perform(&self, order: Order) -> PendingCommand {
        let session = self.session.clone();
        let limit = self.limits.page_open_max;
        match order {
            Order::Reset { control, data } => {
                let url = runner_url(self.origin, &control, &data, self.takes_faults);
                async move {
                    match timeout(limit, open_page(&session, &url)).await {
                        Ok(Ok(())) => CommandOutcome::PageOpened,
                        Ok(Err(error)) => CommandOutcome::Failed(unresponsive(format!(
                            "a new page could not be opened: {}",
                            cut(&error.to_string())
                        ))),
                        Err(_) => CommandOutcome::Failed(unresponsive(format!(
                            "a new page was not opened within {limit:?}"
                        ))),
                    }
                }
                .boxed()
            }
            Order::Navigate { url, reply } => navigate(session, url, limit, reply),
            Order::InjectFault { fault, reply } => self.inject(fault, reply),
        }
    }

    fn inject(
        &self,
        fault: Fault,
        reply: oneshot::Sender<Result<(), FaultError>>,
    ) -> PendingCommand {
        let session = self.session.clone();
        match fault.means(self.kind) {
            Means::Kill => {
                let killed = self.pid.map(guardian::kill).ok_or(FaultError::NothingThere);
                // The caller may have stopped waiting.
                let _ = reply.send(killed);
                std::future::ready(CommandOutcome::Done).boxed()
            }
            Means::KillUnder(last) => {
                let found = self.pid.map(|pid| guardian::descendants_named(pid, last));
                let found = found.unwrap_or_default();
                found.iter().copied().for_each(guardian::kill);
                let killed = if found.is_empty() { Err(FaultError::NoPage) } else { Ok(()) };
                // The caller may have stopped waiting.
                let _ = reply.send(killed);
                std::future::ready(CommandOutcome::Done).boxed()
            }
            Means::Address(url) => {
                navigate(session, url.to_owned(), self.limits.page_open_max, reply)
            }
            Means::Script(name, amount) => async move {
                let script = "const done = arguments[arguments.length - 1]; \
                    window.flotillaFault ? flotillaFault(arguments[0], arguments[1]).then(done) : done(null)";
                let arguments = vec![name.into(), amount.into()];
                let result = timeout(SCRIPT_MAX, session.execute_async(script, arguments)).await;
                let (outcome, ended) = match result {
                    Ok(Ok(serde_json::Value::Bool(true))) => (Ok(()), CommandOutcome::Done),
                    Ok(Ok(serde_json::Value::Null)) => (Err(FaultError::NoPage), CommandOutcome::Done),
                    Ok(Ok(_)) => (Err(FaultError::NothingThere), CommandOutcome::Done),
                    Ok(Err(error)) => (Err(driver_words(&error)), CommandOutcome::Done),
                    Err(_) => (Err(late_words()), CommandOutcome::Failed(late())),
                };
                // The caller may have stopped waiting.
                let _ = reply.send(outcome);
                ended
            }
            .boxed(),
        }
    }

    /// Requests the driver's status and, through it, the browser's list of windows; any answer counts as alive. The page takes
    /// no part, so it cannot delay this. When the browser's main process is stopped, its page may go on, because other
    /// processes compute and hold the connections; only this check detects that.
    fn poll_driver(&self, http: &HttpClient<HttpConnector, Empty<bytes::Bytes>>) -> PendingCommand {
        let limit = self.limits.driver_answer_max;
        let uri = Uri::try_from(format!("http://127.0.0.1:{}/status", self.driver_port));
        let (http, session) = (http.clone(), self.session.clone());
        async move {
            let uri = match uri {
                Ok(uri) => uri,
                Err(error) => return CommandOutcome::Failed(unresponsive(error.to_string())),
            };
            match timeout(limit, http.get(uri)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    let words = format!("the driver cannot be asked: {error}");
                    return CommandOutcome::Failed(unresponsive(words));
                }
                Err(_) => {
                    let words = format!("the driver gave no answer within {limit:?}");
                    return CommandOutcome::Failed(unresponsive(words));
                }
            }
            match timeout(limit, session.windows()).await {
                Ok(_) => CommandOutcome::Done,
                Err(_) => {
                    let words = format!("the browser gave its driver no answer within {limit:?}");
                    CommandOutcome::Failed(unresponsive(words))
                }
            }
        }
        .boxed()
    }
}

/// A measurement that was reported.
#[derive(Clone, Copy, Debug)]
struct Memory {
    used_bytes: u64,
    resident_bytes: u64,
    at: Instant,
}

impl Memory {
    /// A new measurement, if the resident sets, which are cheap to read, have changed enough or the last report is too old.
    fn news(guardian: u32, reported: Option<Memory>) -> Option<Memory> {
        let resident_bytes = guardian::tree_resident_bytes(guardian);
        let is_news = reported.is_none_or(|reported| {
            let change = resident_bytes.abs_diff(reported.resident_bytes) as f64;
            // Resident sets count shared pages once for each process, so half of that change may already be a full change.
            change > reported.resident_bytes as f64 * MEMORY_CHANGE_MIN / 2.0
                || reported.at.elapsed() >= MEMORY_QUIET_MAX
        });
        if !is_news {
            return None;
        }
        let used_bytes = guardian::tree_pss_bytes(guardian);
        // 0 means that the guardian is ending, which is detected elsewhere.
        (used_bytes > 0).then(|| Memory { used_bytes, resident_bytes, at: Instant::now() })
    }
}

/// The runner page's address with the tokens of its links, and whether it takes faults.
pub(super) fn runner_url(origin: &str, control: &str, data: &str, takes_faults: bool) -> String {
    let faults = if takes_faults { ".faults" } else { "" };
    format!("{origin}/runner/#{control}.{data}{faults}")
}

/// Opens a page in a new tab and closes the old one. Navigating the old tab would work only for a healthy page, not for one
/// that has crashed or whose thread hangs.
async fn open_page(session: &Client, url: &str) -> Result<(), CmdError> {
    let new = session.new_window(true).await?;
    session.close_window().await?;
    session.switch_to_window(new.handle).await?;
    session.goto(url).await
}

fn navigate(
    session: Client,
    url: String,
    limit: Duration,
    reply: oneshot::Sender<Result<(), FaultError>>,
) -> PendingCommand {
    async move {
        let (outcome, ended) = match timeout(limit, session.goto(&url)).await {
            Ok(Ok(())) => (Ok(()), CommandOutcome::Done),
            Ok(Err(error)) => (Err(driver_words(&error)), CommandOutcome::Done),
            Err(_) => (Err(late_words()), CommandOutcome::Failed(late())),
        };
        // The caller may have stopped waiting.
        let _ = reply.send(outcome);
        ended
    }
    .boxed()
}

fn execute(session: Client, Script { body, arguments, reply }: Script) -> PendingCommand {
    async move {
        let (result, ended) = match timeout(SCRIPT_MAX, session.execute_async(&body, arguments))
            .await
        {
            Ok(result) => (result.map_err(|error| cut(&error.to_string())), CommandOutcome::Done),
            Err(_) => (Err(late().to_string()), CommandOutcome::Failed(late())),
        };
        // The caller may have stopped waiting.
        let _ = reply.send(result);
        ended
    }
    .boxed()
}

fn unresponsive(detail: impl Into<String>) -> Failure {
    Failure::new(FailureKind::DriverUnresponsive, detail)
}

fn late() -> Failure {
    unresponsive("the driver let a command lie")
}

fn late_words() -> FaultError {
    FaultError::Driver { words: late().to_string() }
}

fn driver_words(error: &CmdError) -> FaultError {
    FaultError::Driver { words: cut(&error.to_string()) }
}
