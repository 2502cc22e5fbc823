//! Runs a scenario against one target: load and faults at the same time, then recovery.
//!
//! Requests arrive at times drawn from the seed, whether or not earlier ones have been answered. Every one of them is awaited.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};
use rustix::process::Signal;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use crate::{
    daemon::{Browser, Daemon, LookError, Reply},
    faults::{Fault, Moment, Scenario, ScenarioError, What},
    firing::{Bell, Firing},
    process::{self, FindError},
    proxy::{Proxy, Rule},
    questions::Questions,
    report::{Asked, Healing, Report, Verdict},
};

/// Wait before a pool is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// No faults begin in the last part of the load: a fault without a request after it could not be distinguished from one that
/// failed.
const QUIET_SHARE: f64 = 0.1;
/// Longest such part.
const QUIET_MAX: Duration = Duration::from_secs(2);
/// Longest wait for the reason why a fault did not happen.
const END_MAX: Duration = Duration::from_secs(1);
/// Questions for each browser when the pool is checked for recovery.
const PROBES_EACH: usize = 4;

/// The plan of a campaign.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Faults.
    pub scenario: Scenario,
    /// Seed of faults and arrivals.
    pub seed: u64,
    /// Begins every idempotency key, so that no two campaigns share one.
    pub run: String,
    /// How long requests are sent.
    pub duration: Duration,
    /// How many a second, on average.
    pub load_per_s: f64,
    /// A request that is not answered for this long is lost: the daemon's own limit, and some grace.
    pub answer_max: Duration,
    /// Longest wait for every browser before the load.
    pub start_max: Duration,
    /// Longest wait for every browser after the faults.
    pub heal_max: Duration,
}

/// A fault that did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum Refused {
    #[error("not applicable: {0}")]
    NotApplicable(String),
    #[error("{0}")]
    Failed(String),
}

/// A fault that was ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injected {
    /// It has happened.
    At(Instant),
    /// It waits for its occasion, which is reported by the bell.
    Armed,
}

/// A pool that can be disturbed.
pub trait Target: Send + Sync + 'static {
    /// The daemon in front of it.
    fn daemon(&self) -> &Daemon;

    /// What its pages' links pass through, if they do.
    fn proxy(&self) -> Option<&Proxy>;

    /// Why a fault cannot happen here at all; `None` if it can.
    fn refuses(&self, what: &What) -> Option<String>;

    /// Makes a fault happen that needs more than a proxy or a signal: everything in pages and simulated browsers, to the
    /// daemon and to drivers. `browser` is given where `what` happens to one.
    fn inject(
        &self,
        browser: Option<&Browser>,
        what: &What,
        bell: &Bell,
    ) -> impl Future<Output = Result<Injected, Refused>> + Send;

    /// Ends the injected faults that still last.
    fn heal(&self) -> impl Future<Output = ()> + Send;
}

/// Progress of a campaign.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// What is under way.
    pub phase: &'static str,
    /// Requests sent.
    pub sent: usize,
    /// Faults that have happened.
    pub fired: usize,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum CampaignError {
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    #[error("fault {what} cannot happen here: {reason}")]
    NotHere { what: String, reason: String },
    #[error("{questions} questions are too few for {wanted} requests")]
    Questions { questions: usize, wanted: usize },
    #[error("the pool was not ready within {limit:?}: {missing}")]
    Start { limit: Duration, missing: String },
    #[error("the daemon's recoveries cannot be read: {0}")]
    Recoveries(#[from] LookError),
    #[error("a request's task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// When requests arrive: as often as `load_per_s` on average, independently of each other.
pub fn arrivals(seed: u64, duration: Duration, load_per_s: f64) -> Vec<Duration> {
    // Forked, so that arrivals do not depend on the numbers that inputs are made of.
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed).fork();
    let mut at = Duration::ZERO;
    let next = || {
        // Intervals of a Poisson process.
        let interval_s = -(1.0 - random.random::<f64>()).ln() / load_per_s;
        at += Duration::from_secs_f64(interval_s);
        (at < duration).then_some(at)
    };
    std::iter::from_fn(next).collect()
}

/// Questions that a campaign needs for its load; further ones are for the time after the faults.
pub fn questions_wanted(plan: &Plan) -> usize {
    arrivals(plan.seed, plan.duration, plan.load_per_s).len()
}

/// A process that was stopped and is to go on.
type Stopped = mpsc::Sender<u32>;

/// Most processes that are stopped at once.
const STOPPED_MAX: usize = 4096;

struct Campaign<T> {
    target: Arc<T>,
    plan: Plan,
    questions: Arc<Questions>,
    begin: Instant,
}

/// Runs a scenario.
///
/// # Errors
/// It is not possible with this target, or the pool is not ready in time. Later failures are in the report.
pub async fn run<T: Target>(
    target: Arc<T>,
    plan: Plan,
    questions: Arc<Questions>,
    progress: watch::Sender<Progress>,
) -> Result<Report, CampaignError> {
    let quiet = plan.duration.mul_f64(QUIET_SHARE).min(QUIET_MAX);
    let schedule = plan.scenario.schedule(plan.seed, plan.duration - quiet)?;
    for Fault { what, .. } in &plan.scenario.faults {
        if let Some(reason) = target.refuses(what) {
            return Err(CampaignError::NotHere { what: what.name(), reason });
        }
    }
    let arrivals = arrivals(plan.seed, plan.duration, plan.load_per_s);
    if questions.len() <= arrivals.len() {
        let (questions, wanted) = (questions.len(), arrivals.len() + 1);
        return Err(CampaignError::Questions { questions, wanted });
    }
    progress.send_modify(|progress| progress.phase = "starting");
    if let Err(missing) = whole(target.as_ref(), plan.start_max).await {
        return Err(CampaignError::Start { limit: plan.start_max, missing });
    }
    progress.send_modify(|progress| progress.phase = "load and faults");
    let campaign = Arc::new(Campaign { target, plan, questions, begin: Instant::now() });

    let (bells, firings) = Bell::channel();
    let (stopped, mut stopped_pids) = mpsc::channel(STOPPED_MAX);
    let (stop_counting, counting_ends) = oneshot::channel();
    let ledger = tokio::spawn(count(firings, counting_ends, progress.clone()));
    let mut faults = JoinSet::new();
    for (index, moment) in schedule.0.iter().copied().enumerate() {
        let (campaign, stopped) = (campaign.clone(), stopped.clone());
        let bell = Bell::new(index, bells.clone());
        faults.spawn(async move { (index, campaign.fire(moment, bell, stopped).await) });
    }
    drop((bells, stopped));

    let mut asking = JoinSet::new();
    for (question, at) in arrivals.iter().copied().enumerate() {
        tokio::time::sleep_until((campaign.begin + at).into()).await;
        let asker = campaign.clone();
        asking.spawn(async move { asker.ask(question).await });
        progress.send_modify(|progress| progress.sent += 1);
    }
    let end = campaign.begin + campaign.plan.duration;
    tokio::time::sleep_until(end.into()).await;
    progress.send_modify(|progress| progress.phase = "healing");

    let mut misses = BTreeMap::new();
    // Faults that wait for a browser end with the load; the others have already ended.
    while let Ok(Some(fired)) = tokio::time::timeout(END_MAX, faults.join_next()).await {
        if let (index, Err(refused)) = fired? {
            misses.insert(index, refused.to_string());
        }
    }
    faults.shutdown().await;
    campaign.heal(&mut stopped_pids).await;
    let healed = Instant::now();
    let asked = asking.join_all().await;
    let healing = campaign.converge(healed, arrivals.len()).await;
    drop(stop_counting);
    let firings = ledger.await?;

    let Plan { scenario, seed, duration, load_per_s, .. } = &campaign.plan;
    let mut report = Report {
        scenario: scenario.name.clone(),
        seed: *seed,
        duration_s: duration.as_secs_f64(),
        load_per_s: *load_per_s,
        healed: healing,
        ..Report::default()
    };
    let names: Vec<String> = scenario.faults.iter().map(|fault| fault.what.name()).collect();
    report.count(&asked);
    report.recoveries = campaign.target.daemon().recoveries().await?;
    report.count_faults(&names, &schedule.0, &firings, &misses, &asked);
    Ok(report)
}

/// Collects firings until it is stopped, including those that wait then.
async fn count(
    mut firings: mpsc::Receiver<Firing>,
    mut stop: oneshot::Receiver<()>,
    progress: watch::Sender<Progress>,
) -> Vec<Firing> {
    let mut all = Vec::new();
    loop {
        let firing = tokio::select! {
            biased;
            firing = firings.recv() => firing,
            _ = &mut stop => firings.try_recv().ok(),
        };
        let Some(firing) = firing else { return all };
        all.push(firing);
        progress.send_modify(|progress| progress.fired = all.len());
    }
}

/// Waits until every slot's browser and its placements are ready; the error lists what is missing.
async fn whole(target: &impl Target, limit: Duration) -> Result<usize, String> {
    let end = Instant::now() + limit;
    loop {
        let missing = match target.daemon().browsers().await {
            Ok(browsers) if browsers.is_empty() => "the pool has no browser".to_owned(),
            Ok(browsers) => {
                let missing: Vec<String> = browsers
                    .iter()
                    .filter(|browser| !browser.is_ready)
                    .map(|browser| {
                        format!("slot {} ({}): {}", browser.slot, browser.kind, browser.words)
                    })
                    .collect();
                if missing.is_empty() {
                    return Ok(browsers.len());
                }
                missing.join("; ")
            }
            Err(error) => error.to_string(),
        };
        if Instant::now() >= end {
            return Err(missing);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

impl<T: Target> Campaign<T> {
    /// Sends a question and checks the answer.
    async fn ask(&self, question: usize) -> Asked {
        let sent = Instant::now();
        let key = format!("{}-{question}", self.plan.run);
        let key = self.plan.scenario.keyed.then_some(key.as_str());
        let row = self.questions.row(question);
        let reply = self.target.daemon().ask(row, key, sent + self.plan.answer_max).await;
        let done = Instant::now();
        let (verdict, tried, request) = match reply {
            Reply::Error(words) => (Verdict::Error(words), Vec::new(), None),
            Reply::Lost(words) => (Verdict::Lost(words), Vec::new(), None),
            Reply::Answer { vectors, tried, request } => {
                (self.judge(question, &vectors), tried, request)
            }
        };
        Asked { question, sent, done, verdict, tried, request }
    }

    fn judge(&self, question: usize, vectors: &[Vec<f32>]) -> Verdict {
        let whose = match vectors {
            [vector] => self.questions.whose(vector),
            _ => None,
        };
        if whose == Some(question) { Verdict::Right } else { Verdict::Wrong { whose } }
    }

    /// Makes one occasion's fault happen.
    async fn fire(&self, moment: Moment, bell: Bell, stopped: Stopped) -> Result<(), Refused> {
        tokio::time::sleep_until((self.begin + moment.at).into()).await;
        let fault = &self.plan.scenario.faults[moment.fault];
        match &fault.what {
            What::Link { how, link, toward, frames } => {
                let proxy = self.target.proxy().ok_or_else(|| {
                    Refused::NotApplicable("its pages' links pass through no proxy".to_owned())
                })?;
                proxy.arm(Rule {
                    link: *link,
                    toward: *toward,
                    kind: fault.place.kind.clone(),
                    seed: moment.choice,
                    ..Rule::new(*how, *frames, bell)
                });
                Ok(())
            }
            What::Daemon { .. } | What::Driver { .. } => {
                match self.target.inject(None, &fault.what, &bell).await? {
                    Injected::At(at) => bell.ring_at(at).await,
                    Injected::Armed => {}
                }
                Ok(())
            }
            What::Kill { .. } | What::Stop { .. } | What::Page { .. } => {
                self.hit(fault, moment.choice, &bell, &stopped).await
            }
        }
    }

    /// Makes a fault happen to a browser, as soon as there is one that fits.
    async fn hit(
        &self,
        fault: &Fault,
        choice: u64,
        bell: &Bell,
        stopped: &Stopped,
    ) -> Result<(), Refused> {
        let until = self.begin + self.plan.duration;
        let mut last = "no browser that fits was ready".to_owned();
        let mut unable: BTreeMap<String, String> = BTreeMap::new();
        while Instant::now() < until {
            if let Some(browser) = self.pick(fault, choice, &unable).await? {
                match self.disturb(&browser, &fault.what, bell, stopped).await {
                    Ok(Injected::At(at)) => {
                        bell.ring_at(at).await;
                        return Ok(());
                    }
                    Ok(Injected::Armed) => return Ok(()),
                    // Another browser may support it.
                    Err(Refused::NotApplicable(reason)) => {
                        unable.insert(browser.name.unwrap_or_default(), reason);
                        continue;
                    }
                    // It was ending by itself; another browser is tried.
                    Err(Refused::Failed(reason)) => {
                        tracing::debug!(reason, browser = browser.name, "a fault did not happen");
                        last = reason;
                    }
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Err(Refused::Failed(last))
    }

    /// A ready browser that fits. Browsers in `unable` are skipped, unless there are no others.
    async fn pick(
        &self,
        fault: &Fault,
        choice: u64,
        unable: &BTreeMap<String, String>,
    ) -> Result<Option<Browser>, Refused> {
        let place = &fault.place;
        let Ok(mut fitting) = self.target.daemon().browsers().await else { return Ok(None) };
        let is_all_ready = fitting.iter().all(|browser| browser.is_ready);
        fitting.retain(|browser| {
            browser.is_ready
                && browser.holds
                && place.kind.as_ref().is_none_or(|kind| *kind == browser.kind)
                && place.slot.is_none_or(|slot| slot == browser.slot)
        });
        let reason = |browser: &Browser| unable.get(browser.name.as_deref().unwrap_or_default());
        let reasons: Vec<String> = fitting.iter().filter_map(reason).cloned().collect();
        fitting.retain(|browser| reason(browser).is_none());
        match choice.checked_rem(fitting.len() as u64) {
            Some(index) => Ok(Some(fitting.swap_remove(index as usize))),
            None if is_all_ready && !reasons.is_empty() => {
                Err(Refused::NotApplicable(reasons.join("; ")))
            }
            None => Ok(None),
        }
    }

    async fn disturb(
        &self,
        browser: &Browser,
        what: &What,
        bell: &Bell,
        stopped: &Stopped,
    ) -> Result<Injected, Refused> {
        let signal = |role, signal| {
            let refused = |error: FindError| match error {
                FindError::NotReported { .. } | FindError::Ended { .. } => {
                    Refused::Failed(error.to_string())
                }
                FindError::None { .. } => {
                    Refused::NotApplicable(format!("{}: {error}", browser.kind))
                }
            };
            let pids = process::find(browser.roots, role).map_err(refused)?;
            let at = Instant::now();
            for &pid in &pids {
                process::send(pid, signal).map_err(refused)?;
            }
            Ok((pids, at))
        };
        match what {
            What::Kill { process } if !browser.is_simulated => {
                signal(*process, Signal::KILL).map(|(_, at)| Injected::At(at))
            }
            What::Stop { process, for_ms } if !browser.is_simulated => {
                let (pids, at) = signal(*process, Signal::STOP)?;
                for &pid in &pids {
                    // It is also resumed at the end of the faults, in case this task is ended before.
                    let _ = stopped.send(pid).await;
                }
                bell.ring_at(at).await;
                if let Some(for_ms) = for_ms {
                    tokio::time::sleep(Duration::from_millis(*for_ms)).await;
                    for pid in pids {
                        // It may have been killed meanwhile, because a pool kills browsers that hang.
                        let _ = process::send(pid, Signal::CONT);
                    }
                }
                Ok(Injected::Armed)
            }
            What::Kill { .. }
            | What::Stop { .. }
            | What::Page { .. }
            | What::Link { .. }
            | What::Daemon { .. }
            | What::Driver { .. } => self.target.inject(Some(browser), what, bell).await,
        }
    }

    async fn heal(&self, stopped: &mut mpsc::Receiver<u32>) {
        if let Some(proxy) = self.target.proxy() {
            proxy.heal();
        }
        while let Ok(pid) = stopped.try_recv() {
            // It may have been killed meanwhile.
            let _ = process::send(pid, Signal::CONT);
        }
        self.target.heal().await;
    }

    /// Waits until every browser is ready and a round of questions is answered rightly. After an error the round is repeated;
    /// after a wrong answer it is not.
    async fn converge(&self, healed: Instant, used: usize) -> Healing {
        let end = healed + self.plan.heal_max;
        let mut probes = 0;
        let mut missing = None;
        while missing.is_none() {
            let left = end.saturating_duration_since(Instant::now());
            let browsers = match whole(self.target.as_ref(), left).await {
                Ok(browsers) => browsers,
                Err(words) => {
                    missing = Some(words);
                    break;
                }
            };
            let spare = self.questions.len() - used;
            let round = (0..PROBES_EACH * browsers).map(|probe| self.ask(used + probe % spare));
            let answers = join_all(round).await;
            probes += answers.len();
            let mut words = None;
            for answer in answers {
                match answer.verdict {
                    Verdict::Right => {}
                    Verdict::Error(error) => words = Some(error),
                    Verdict::Wrong { .. } => missing = Some("a wrong answer".to_owned()),
                    Verdict::Lost(loss) => missing = Some(format!("a lost request: {loss}")),
                }
            }
            match words {
                None if missing.is_none() => {
                    let ms = healed.elapsed().as_secs_f64() * 1e3;
                    return Healing { converged: true, ms, probes, missing: None };
                }
                Some(error) if Instant::now() >= end => missing = Some(error),
                Some(_) | None => {}
            }
        }
        let ms = healed.elapsed().as_secs_f64() * 1e3;
        Healing { converged: false, ms, probes, missing }
    }
}
