//! What is said to a browser through its driver once its first page is open, and what is noticed meanwhile.
//!
//! Everything that is said has a limit. A driver keeps commands of a session in a row, so one that is not answered in
//! time means that none will be: the browser is of no more use then, and whoever owns it kills it without a word.

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

use super::{
    Kind,
    fault::{Fault, FaultError, Means},
    owner::{Limits, Order, OwnerReport, Script, cut},
};
use crate::guardian;

/// Longest wait for a script's result: drivers give up after 30 s, and say so.
const SCRIPT_MAX: Duration = Duration::from_secs(40);
/// Longest silence about memory that does not change.
const MEMORY_QUIET_MAX: Duration = Duration::from_secs(10);
/// A change of memory that is told within a second, as a part of what was told last.
const MEMORY_CHANGE_MIN: f64 = 0.05;

/// What a conversation needs to know.
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

enum Heard {
    Script(Script),
    Order(Order),
    Said(Said),
    PollDriver,
}

/// How something that was said ended.
enum Said {
    Done,
    PageOpened,
    Failed(Failure),
}

/// Something that was said and is not answered yet.
type Saying = BoxFuture<'static, Said>;

impl Conversation<'_> {
    /// Says what is ordered until the driver no longer answers.
    pub(super) async fn failure(
        &self,
        scripts: &mut mpsc::Receiver<Script>,
        orders: &mut mpsc::Receiver<Order>,
    ) -> Failure {
        let http = HttpClient::builder(TokioExecutor::new()).build_http();
        let mut saying: FuturesUnordered<Saying> = FuturesUnordered::new();
        let mut poll = interval(self.limits.driver_poll);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let heard = tokio::select! {
                Some(script) = scripts.recv() => Heard::Script(script),
                Some(order) = orders.recv() => Heard::Order(order),
                Some(said) = saying.next() => Heard::Said(said),
                // A driver that works on a command may not answer others, and that command has its own limit.
                _ = poll.tick(), if saying.is_empty() => Heard::PollDriver,
            };
            match heard {
                Heard::Script(script) => saying.push(execute(self.session.clone(), script)),
                Heard::Order(order) => saying.push(self.obey(order)),
                Heard::PollDriver => saying.push(self.poll_driver(&http)),
                Heard::Said(Said::Done) => {}
                Heard::Said(Said::PageOpened) => {
                    if self.reports.send((self.browser, OwnerReport::PageOpened)).await.is_err() {
                        return unresponsive("the pool is gone");
                    }
                }
                Heard::Said(Said::Failed(failure)) => return failure,
            }
        }
    }

    /// Tells how much memory the processes under the guardian hold, for ever.
    pub(super) async fn measure_memory(&self) -> Failure {
        let Some(guardian) = self.guardian else { return std::future::pending().await };
        let mut ticks = interval(self.limits.memory_poll);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told: Option<Memory> = None;
        loop {
            ticks.tick().await;
            let measuring = tokio::task::spawn_blocking(move || Memory::news(guardian, told));
            let news = match measuring.await {
                Ok(news) => news,
                Err(error) => {
                    tracing::error!(browser = %self.browser, %error, "memory is not measured any more");
                    return std::future::pending().await;
                }
            };
            let Some(memory) = news else { continue };
            told = Some(memory);
            let report = OwnerReport::Memory { used_bytes: memory.used_bytes };
            if self.reports.send((self.browser, report)).await.is_err() {
                return unresponsive("the pool is gone");
            }
        }
    }

    fn obey(&self, order: Order) -> Saying {
        let session = self.session.clone();
        let limit = self.limits.page_open_max;
        match order {
            Order::Reset { control, data } => {
                let url = runner_url(self.origin, &control, &data, self.takes_faults);
                async move {
                    match timeout(limit, open_page(&session, &url)).await {
                        Ok(Ok(())) => Said::PageOpened,
                        Ok(Err(error)) => Said::Failed(unresponsive(format!(
                            "a new page could not be opened: {}",
                            cut(&error.to_string())
                        ))),
                        Err(_) => Said::Failed(unresponsive(format!(
                            "a new page was not opened within {limit:?}"
                        ))),
                    }
                }
                .boxed()
            }
            Order::Navigate { url, reply } => navigate(session, url, limit, reply),
            Order::Suffer { fault, reply } => self.suffer(fault, reply),
        }
    }

    fn suffer(&self, fault: Fault, reply: oneshot::Sender<Result<(), FaultError>>) -> Saying {
        let session = self.session.clone();
        match fault.means(self.kind) {
            Means::Kill => {
                let killed = self.pid.map(guardian::kill).ok_or(FaultError::NothingThere);
                // Whoever asked may have gone.
                let _ = reply.send(killed);
                std::future::ready(Said::Done).boxed()
            }
            Means::KillUnder(last) => {
                let found = self.pid.map(|pid| guardian::descendants_named(pid, last));
                let found = found.unwrap_or_default();
                found.iter().copied().for_each(guardian::kill);
                let killed = if found.is_empty() { Err(FaultError::NoPage) } else { Ok(()) };
                // Whoever asked may have gone.
                let _ = reply.send(killed);
                std::future::ready(Said::Done).boxed()
            }
            Means::Address(url) => {
                navigate(session, url.to_owned(), self.limits.page_open_max, reply)
            }
            Means::Script(name, amount) => async move {
                let script = "const done = arguments[arguments.length - 1]; \
                    window.flotillaFault ? flotillaFault(arguments[0], arguments[1]).then(done) : done(null)";
                let arguments = vec![name.into(), amount.into()];
                let result = timeout(SCRIPT_MAX, session.execute_async(script, arguments)).await;
                let (outcome, said) = match result {
                    Ok(Ok(serde_json::Value::Bool(true))) => (Ok(()), Said::Done),
                    Ok(Ok(serde_json::Value::Null)) => (Err(FaultError::NoPage), Said::Done),
                    Ok(Ok(_)) => (Err(FaultError::NothingThere), Said::Done),
                    Ok(Err(error)) => (Err(driver_words(&error)), Said::Done),
                    Err(_) => (Err(late_words()), Said::Failed(late())),
                };
                // Whoever asked may have gone.
                let _ = reply.send(outcome);
                said
            }
            .boxed(),
        }
    }

    /// Asks the driver whether it is ready, and through it the browser for its windows; any answer will do. The page is
    /// not asked, so none can delay this. A stopped browser process may leave its page running, for processes of their own
    /// compute and hold the connections; it is noticed here.
    fn poll_driver(&self, http: &HttpClient<HttpConnector, Empty<bytes::Bytes>>) -> Saying {
        let limit = self.limits.driver_answer_max;
        let uri = Uri::try_from(format!("http://127.0.0.1:{}/status", self.driver_port));
        let (http, session) = (http.clone(), self.session.clone());
        async move {
            let uri = match uri {
                Ok(uri) => uri,
                Err(error) => return Said::Failed(unresponsive(error.to_string())),
            };
            match timeout(limit, http.get(uri)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    let words = format!("the driver cannot be asked: {error}");
                    return Said::Failed(unresponsive(words));
                }
                Err(_) => {
                    let words = format!("the driver gave no answer within {limit:?}");
                    return Said::Failed(unresponsive(words));
                }
            }
            match timeout(limit, session.windows()).await {
                Ok(_) => Said::Done,
                Err(_) => {
                    let words = format!("the browser gave its driver no answer within {limit:?}");
                    Said::Failed(unresponsive(words))
                }
            }
        }
        .boxed()
    }
}

/// A measurement that was told.
#[derive(Clone, Copy, Debug)]
struct Memory {
    used_bytes: u64,
    resident_bytes: u64,
    at: Instant,
}

impl Memory {
    /// A new measurement, if what is easily had says that it would be another one, or it is time to tell again.
    fn news(guardian: u32, told: Option<Memory>) -> Option<Memory> {
        let resident_bytes = guardian::tree_resident_bytes(guardian);
        let is_news = told.is_none_or(|told| {
            let change = resident_bytes.abs_diff(told.resident_bytes) as f64;
            // Resident sets add shared pages up again and again, so half as much change in them may be as much.
            change > told.resident_bytes as f64 * MEMORY_CHANGE_MIN / 2.0
                || told.at.elapsed() >= MEMORY_QUIET_MAX
        });
        if !is_news {
            return None;
        }
        let used_bytes = guardian::tree_pss_bytes(guardian);
        // Nothing is left when the guardian is ending, which others notice.
        (used_bytes > 0).then(|| Memory { used_bytes, resident_bytes, at: Instant::now() })
    }
}

/// The runner page's address with the tokens of its links, and whether it takes faults.
pub(super) fn runner_url(origin: &str, control: &str, data: &str, takes_faults: bool) -> String {
    let faults = if takes_faults { ".faults" } else { "" };
    format!("{origin}/runner/#{control}.{data}{faults}")
}

/// Opens a page in a new tab and closes the old one. Sending the old one elsewhere would do for a page that works, but
/// neither a crashed page nor one whose thread never comes back goes anywhere.
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
) -> Saying {
    async move {
        let (outcome, said) = match timeout(limit, session.goto(&url)).await {
            Ok(Ok(())) => (Ok(()), Said::Done),
            Ok(Err(error)) => (Err(driver_words(&error)), Said::Done),
            Err(_) => (Err(late_words()), Said::Failed(late())),
        };
        // Whoever asked may have gone.
        let _ = reply.send(outcome);
        said
    }
    .boxed()
}

fn execute(session: Client, Script { body, arguments, reply }: Script) -> Saying {
    async move {
        let (result, said) =
            match timeout(SCRIPT_MAX, session.execute_async(&body, arguments)).await {
                Ok(result) => (result.map_err(|error| cut(&error.to_string())), Said::Done),
                Err(_) => (Err(late().to_string()), Said::Failed(late())),
            };
        // Whoever asked may have gone.
        let _ = reply.send(result);
        said
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
