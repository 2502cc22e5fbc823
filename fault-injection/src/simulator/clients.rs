//! Plays clients: they ask, lose patience, go away, and count what they get.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use flotilla_fleet::{Attempt, Event, FailureKind, Instant, ModelId, RequestError, Rung};
use flotilla_protocol::{RequestId, RunId};

use super::{
    durations::Durations,
    faults::What,
    invariants::{Invariant, Judge, Violation},
    pages::STALE,
    pool::RunState,
    world::{Core, Happening, World},
};

/// How many times as many clients come while a peak lasts.
const PEAK_FACTOR: f64 = 20.0;
/// How long a peak lasts.
const PEAK: Duration = Duration::from_secs(10);
/// Requests that one client in ten sends together, at most and on average over all.
const TOGETHER_MAX: u64 = 6;
const REQUESTS_PER_CLIENT: f64 = 1.3;

/// A request that has not ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) model: ModelId,
    pub(super) rows: u32,
    pub(super) length: u32,
    asked_at: Instant,
    deadline: Instant,
    run: Option<RunId>,
    /// It has been in a run.
    dispatched: bool,
    failed: Option<(FailureKind, Instant)>,
}

/// Everybody who asks, and what they got.
#[derive(Debug, Default)]
pub(super) struct Clients {
    open: BTreeMap<RequestId, Request>,
    deadlines: BTreeSet<(Instant, RequestId)>,
    /// Those that wait for their first run, the oldest first.
    fresh: BTreeMap<ModelId, BTreeSet<(Instant, RequestId)>>,
    fresh_count: u64,
    running: u64,
    /// Models that the core was told of.
    known: BTreeSet<ModelId>,
    peak_until: Instant,
    pub(super) sent: u64,
    pub(super) answered: u64,
    pub(super) failed: BTreeMap<&'static str, u64>,
    pub(super) cancelled: u64,
    /// Gone with a daemon that was killed.
    pub(super) lost: u64,
    /// Found no daemon.
    pub(super) unreachable: u64,
    pub(super) latency: Durations,
    pub(super) recoveries: BTreeMap<(FailureKind, Rung), Durations>,
}

impl Clients {
    /// How many requests have not ended.
    pub(super) fn open(&self) -> u64 {
        self.open.len() as u64
    }

    /// How many of them are in a run.
    pub(super) fn running(&self) -> u64 {
        self.running
    }

    pub(super) fn learn(&mut self, model: ModelId) {
        self.known.insert(model);
    }

    /// The daemon is gone, and with it every request and what it knew.
    pub(super) fn lose_daemon(&mut self) {
        self.lost += self.open.len() as u64;
        self.open.clear();
        self.deadlines.clear();
        self.fresh.clear();
        self.fresh_count = 0;
        self.running = 0;
        self.known.clear();
    }

    fn accept(&mut self, id: RequestId, request: Request) {
        self.sent += 1;
        self.deadlines.insert((request.deadline, id));
        self.fresh.entry(request.model).or_default().insert((request.asked_at, id));
        self.fresh_count += 1;
        self.open.insert(id, request);
    }

    /// A request is in a run from now on.
    pub(super) fn start_run(
        &mut self,
        id: RequestId,
        run: RunId,
        judge: &mut Judge,
    ) -> Result<Request, Violation> {
        let request = judge.some(Invariant::OneAnswer, self.open.get_mut(&id), || {
            format!("{id} runs in {run} though it has ended or was never asked")
        })?;
        let before = request.run.replace(run);
        judge.holds(Invariant::OneRun, before.is_none(), || {
            format!("{id} is in {run} and in {before:?}")
        })?;
        self.running += 1;
        if !request.dispatched {
            request.dispatched = true;
            self.fresh_count -= 1;
            if let Some(fresh) = self.fresh.get_mut(&request.model) {
                fresh.remove(&(request.asked_at, id));
            }
        }
        Ok(*request)
    }

    /// A request's run has ended without results.
    pub(super) fn lose_run(&mut self, id: RequestId, run: RunId, why: FailureKind, now: Instant) {
        let Some(request) = self.open.get_mut(&id) else { return };
        if request.run == Some(run) {
            request.run = None;
            request.failed.get_or_insert((why, now));
            self.running -= 1;
        }
    }

    /// Takes a request out; gives the run that it was in.
    fn end(&mut self, id: RequestId) -> Option<Request> {
        let request = self.open.remove(&id)?;
        self.deadlines.remove(&(request.deadline, id));
        if !request.dispatched {
            self.fresh_count -= 1;
            if let Some(fresh) = self.fresh.get_mut(&request.model) {
                fresh.remove(&(request.asked_at, id));
            }
        }
        if request.run.is_some() {
            self.running -= 1;
        }
        Some(request)
    }
}

impl<C: Core> World<C> {
    /// A client comes, and the next one is expected.
    pub(super) fn ask(&mut self) -> Result<(), Violation> {
        let peak = self.now < self.clients.peak_until;
        let factor = if peak { PEAK_FACTOR } else { 1.0 };
        let clients_per_second = self.plan.load.per_second * factor / REQUESTS_PER_CLIENT;
        if let Ok(mean) = Duration::try_from_secs_f64(1.0 / clients_per_second)
            && !self.is_draining()
        {
            let wait = self.random.wait(mean);
            self.later(wait, Happening::Ask);
        }
        let many = if self.random.chance(10.0) { self.random.range(2, TOGETHER_MAX) } else { 1 };
        if !self.is_up() {
            self.clients.unreachable += many;
            return Ok(());
        }
        let mut events: Vec<Event> = (0..many).filter_map(|_| self.request()).collect();
        match (events.len(), events.pop()) {
            (1, Some(event)) => self.tell(event),
            (_, Some(event)) => {
                events.push(event);
                self.tell(Event::Together(events))
            }
            (_, None) => Ok(()),
        }
    }

    fn request(&mut self) -> Option<Event> {
        let request = RequestId(self.clients.sent + 1);
        let models: Vec<ModelId> = self.plan.models.keys().copied().collect();
        let model = self.random.one_of(&models)?;
        let short = self.fault(What::DeadlineShort);
        let load = &self.plan.load;
        let (from, to) = load.patience;
        let patience = match short {
            true => self.random.ms(1, 300),
            false => self.random.ms(from.as_millis() as u64, to.as_millis() as u64),
        };
        let rows = self.random.range(1, load.rows_max) as u32;
        let length = self.random.range(1, load.length_max) as u32;
        let deadline = self.now.after(patience);
        self.clients.accept(
            request,
            Request {
                model,
                rows,
                length,
                asked_at: self.now,
                deadline,
                run: None,
                dispatched: false,
                failed: None,
            },
        );
        if self.fault(What::ClientCancels) {
            let delay = self.random.ms(0, 500);
            self.later(delay, Happening::Tell(Event::Cancel { request }));
        }
        Some(Event::Request { request, model, rows, length, deadline })
    }

    pub(super) fn start_peak(&mut self) {
        self.clients.peak_until = self.now.after(PEAK);
    }

    pub(super) fn cancelled(&mut self, id: RequestId) {
        if self.end_request(id).is_some() {
            self.clients.cancelled += 1;
        }
    }

    pub(super) fn answer(
        &mut self,
        id: RequestId,
        run: RunId,
        tried: &[Attempt],
    ) -> Result<(), Violation> {
        let from =
            self.judge.some(Invariant::AnswerFromResults, self.pool.runs.get(&run), || {
                format!("{id} is answered from {run}, which is not there")
            })?;
        self.judge.holds(Invariant::AnswerFromResults, from.state == RunState::Done, || {
            format!("{id} is answered from {run}, which has no results")
        })?;
        self.judge.holds(Invariant::AnswerFromResults, from.requests.contains(&id), || {
            format!("{id} is answered from {run}, which it was not in")
        })?;
        let ended = self.end_request(id);
        let request = self.judge.some(Invariant::OneAnswer, ended, || {
            format!("{id} is answered and has ended before")
        })?;
        self.judge.holds(Invariant::OneRun, request.run == Some(run), || {
            format!("{id} is answered from {run} and was in {:?}", request.run)
        })?;
        let named = tried.iter().all(|attempt| attempt.rung.is_some());
        self.judge.holds(Invariant::Budgets, named, || {
            format!("{id} is answered after an attempt that had no next one: {tried:?}")
        })?;
        self.check_tried(id, tried)?;
        let took = self.now.since(request.asked_at);
        self.clients.answered += 1;
        self.clients.latency.add(took);
        if let (Some(first), Some(Attempt { rung: Some(rung), .. })) = (tried.first(), tried.last())
            && let Some((_, since)) = request.failed
        {
            let recovered = self.clients.recoveries.entry((first.failure.kind, *rung)).or_default();
            recovered.add(self.now.since(since));
        }
        match self.plan.promise {
            Some(promise) if request.asked_at >= promise.from => {
                let kept = tried.is_empty() && took <= promise.within;
                self.judge.holds(Invariant::Healed, kept, || {
                    format!("{id} took {took:?} and {tried:?}, without a fault")
                })
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn fail(&mut self, id: RequestId, error: &RequestError) -> Result<(), Violation> {
        let ended = self.end_request(id);
        let request = self.judge.some(Invariant::OneAnswer, ended, || {
            format!("{id} fails of {error} and has ended before")
        })?;
        let draining = self.is_draining();
        let known = self.clients.known.contains(&request.model);
        let (name, plausible): (_, bool) = match error {
            RequestError::Overloaded { queued, limit } => ("overloaded", queued >= limit),
            RequestError::DeadlineExceeded { tried } => {
                self.check_tried(id, tried)?;
                ("deadline_exceeded", request.deadline <= self.now)
            }
            RequestError::Failed { tried } => {
                self.check_tried(id, tried)?;
                ("failed", !tried.is_empty())
            }
            RequestError::Unplaceable { .. } => ("unplaceable", true),
            RequestError::Draining => ("draining", draining),
            RequestError::UnknownModel => ("unknown_model", !known),
        };
        *self.clients.failed.entry(name).or_default() += 1;
        self.judge.holds(Invariant::OneAnswer, plausible, || {
            format!("{id} fails without a reason: {error}")
        })?;
        match self.plan.promise {
            Some(promise) if request.asked_at >= promise.from => {
                self.judge.holds(Invariant::Healed, draining, || {
                    format!("{id} fails without a fault: {error}")
                })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Attempts stay within the budgets of their rungs, and none is the fault of a stale report.
    fn check_tried(&mut self, id: RequestId, tried: &[Attempt]) -> Result<(), Violation> {
        let stale = tried.iter().any(|attempt| attempt.failure.detail == STALE);
        self.judge.holds(Invariant::StaleReports, !stale, || {
            format!("a report of another epoch cost {id} an attempt: {tried:?}")
        })?;
        let taken = |of: &[Rung]| {
            let rungs = tried.iter().filter_map(|attempt| attempt.rung);
            rungs.filter(|rung| of.contains(rung)).count()
        };
        let retries = taken(&[Rung::Retry, Rung::Migrate]);
        let most = self.plan.config.retries_max as usize;
        self.judge.holds(
            Invariant::Budgets,
            retries <= most && taken(&[Rung::Separate]) <= 1,
            || format!("{id} was tried too often, the limit is {most}: {tried:?}"),
        )
    }

    /// Takes a request out of the world, and out of its run.
    fn end_request(&mut self, id: RequestId) -> Option<Request> {
        let request = self.clients.end(id)?;
        if let Some(run) = request.run
            && let Some(there) = self.pool.runs.get_mut(&run)
        {
            there.waits -= 1;
            self.pool.touched.push(run);
        }
        Some(request)
    }

    /// What holds of the requests after every step.
    pub(super) fn check_requests(&mut self) -> Result<(), Violation> {
        let now = self.now;
        let first = self.clients.deadlines.first().copied();
        self.judge.holds(
            Invariant::Deadline,
            first.is_none_or(|(deadline, _)| deadline > now),
            || format!("{first:?} outlived its deadline"),
        )?;
        let (fresh, most) = (self.clients.fresh_count, u64::from(self.plan.config.queue_max));
        self.judge.holds(Invariant::QueueLimit, fresh <= most, || {
            format!("{fresh} requests wait for their first run, the limit is {most}")
        })?;
        self.check_starvation()
    }

    /// A request that waits for its first run although a browser has nothing to do.
    fn check_starvation(&mut self) -> Result<(), Violation> {
        let mut starved = None;
        for (&model, fresh) in &self.clients.fresh {
            let Some(&(since, id)) = fresh.first() else { continue };
            if since.after(self.plan.config.batch_delay) > self.now {
                continue;
            }
            let idle = self.pool.idle.get(&model).into_iter().flatten();
            if let Some(browser) = idle.copied().find(|&browser| self.is_free(browser)) {
                starved = Some((id, browser));
            }
        }
        self.judge.holds(Invariant::Starvation, starved.is_none(), || {
            format!("{starved:?}: the request waits for a run, the browser is idle and ready")
        })
    }
}
