//! Simulates clients: they send requests with deadlines, cancel them, and repeat them after the daemon was killed.

use std::{collections::BTreeMap, time::Duration};

use flotilla_fleet::{
    Attempt, Event, LeaseId, ModelId, Persistence, Policy, RecoveryStep, RequestError, Strategy,
    state::{Outcome, Value},
};
use flotilla_protocol::{RequestId, RunId};

use super::{
    Simulation,
    pages::{FOREIGN, STALE},
};
use crate::{
    clients::{PEAK, PEAK_FACTOR, Request},
    core::Core,
    faults::FaultKind,
    invariants::{Invariant, Violation},
    pool::RunState,
    schedule::Scheduled,
};

/// Most requests of one client, which one in ten sends together, and the average number over all clients.
const TOGETHER_MAX: u64 = 6;
const REQUESTS_PER_CLIENT: f64 = 1.3;
/// Longest time that a request may wait for its first run while a browser could run it, beyond the time after which a
/// browser is suspected: that browser may be reserved for a lease, or about to be replaced.
const MISSED_MAX: Duration = Duration::from_secs(2);

/// Recorded requests without an outcome, and requests whose daemon was killed before they ended.
pub(super) type TakenOver = (Vec<(RequestId, Value)>, BTreeMap<RequestId, Request>);

impl<C: Core> Simulation<C> {
    /// A client sends requests; schedules the next client.
    pub(super) fn client_arrives(&mut self) -> Result<(), Violation> {
        let peak = self.now < self.clients.peak_until;
        let factor = if peak { PEAK_FACTOR } else { 1.0 };
        let clients_per_second = self.plan.load.per_second * factor / REQUESTS_PER_CLIENT;
        if let Ok(mean) = Duration::try_from_secs_f64(1.0 / clients_per_second)
            && !self.is_draining()
        {
            let wait = self.random.wait(mean);
            self.schedule_in(wait, Scheduled::Request);
        }
        let many = if self.random.chance(10.0) { self.random.range(2, TOGETHER_MAX) } else { 1 };
        if !self.is_up() {
            self.clients.counts.unreachable += many;
            return Ok(());
        }
        let events: Vec<Event> = (0..many).filter_map(|_| self.request(None)).collect();
        self.send_all(events)
    }

    /// A client sends a request to the browser that it has acquired.
    pub(super) fn request_on_lease(&mut self, lease: LeaseId) -> Result<(), Violation> {
        if self.pool.leases.get(&lease).is_none_or(|hold| hold.browser.is_none()) {
            return Ok(());
        }
        let event = self.request(Some(lease));
        self.send_all(event.into_iter().collect())
    }

    pub(super) fn send_all(&mut self, mut events: Vec<Event>) -> Result<(), Violation> {
        match (events.len(), events.pop()) {
            (1, Some(event)) => self.send(event),
            (_, Some(event)) => {
                events.push(event);
                self.send(Event::Together(events))
            }
            (_, None) => Ok(()),
        }
    }

    fn request(&mut self, lease: Option<LeaseId>) -> Option<Event> {
        let model = self.choose_model()?;
        let short = self.fault(FaultKind::DeadlineShort);
        let (from, to) = self.plan.load.patience;
        let patience = match short {
            true => self.random.ms(1, 300),
            false => self.random.ms(from.as_millis() as u64, to.as_millis() as u64),
        };
        let rows = self.random.range(1, self.plan.load.rows_max) as u32;
        let length = self.random.range(1, self.plan.load.length_max) as u32;
        let policy = self.policy(lease);
        let deadline = self.now.after(patience);
        let request = Request::new(self.now, (model, rows, length), deadline, policy);
        Some(self.submit(request))
    }

    /// A served model, or in 5 % of the cases a removed one.
    fn choose_model(&mut self) -> Option<ModelId> {
        let removed: Vec<ModelId> = self.pool.removed_models.iter().copied().collect();
        let models: Vec<ModelId> = self.pool.models.keys().copied().collect();
        let late = !removed.is_empty() && self.random.chance(5.0);
        self.random.one_of(if late { &removed } else { &models })
    }

    /// Gives a request its id and adds it to the open ones.
    fn submit(&mut self, request: Request) -> Event {
        self.clients.asked += 1;
        self.clients.counts.sent += 1;
        let id = RequestId(self.clients.asked);
        let Request { model, rows, length, deadline, policy, .. } = request;
        self.clients.accept(id, request);
        if self.fault(FaultKind::ClientCancels) {
            let delay = self.random.ms(0, 500);
            self.schedule_in(delay, Scheduled::Message(Event::Cancel { request: id }));
        }
        Event::Request { request: id, model, rows, length, deadline, policy }
    }

    fn policy(&mut self, lease: Option<LeaseId>) -> Policy {
        let load = &self.plan.load;
        let (recorded, simulated, limits_recovery) =
            (load.recorded_percent, load.simulated_percent, load.recovery_limit_percent);
        let persistence = match self.random.chance(recorded) {
            true => Persistence::Record,
            false => Persistence::None,
        };
        let strategy = match self.random.chance(20.0) {
            true => self.random.one_of(&Strategy::ALL),
            false => None,
        };
        let limits_recovery = self.random.chance(limits_recovery);
        let recovery_timeout = limits_recovery.then(|| self.random.ms(500, 20_000));
        let fallback_to_simulation = self.random.chance(simulated);
        Policy { persistence, strategy, recovery_timeout, fallback_to_simulation, lease }
    }

    pub(super) fn start_peak(&mut self) {
        self.clients.peak_until = self.now.after(PEAK);
    }

    /// A restarted daemon resumes recorded requests, and the clients of unrecorded ones send them again.
    pub(super) fn take_over(&mut self) -> Result<(), Violation> {
        if !self.is_up() {
            return Ok(());
        }
        let (open, mut interrupted) = std::mem::take(&mut self.taken_over);
        let mut events = Vec::new();
        for (id, value) in open {
            let Value::Request { model, rows, length, .. } = value else { continue };
            let deadline = self.now.after(self.plan.load.patience.1);
            let policy = Policy { persistence: Persistence::Recorded, ..Policy::default() };
            let asked_at = interrupted.remove(&id).map_or(self.now, |request| request.asked_at);
            let mut request = Request::new(self.now, (model, rows, length), deadline, policy);
            request.asked_at = asked_at;
            self.clients.accept(id, request);
            self.clients.counts.taken_over += 1;
            events.push(Event::Request { request: id, model, rows, length, deadline, policy });
        }
        for (id, request) in interrupted {
            match self.store.outcome(id) {
                // Its client repeats it with the same key and gets the recorded outcome.
                Some(Some(_)) => self.clients.counts.from_record += 1,
                Some(None) => {}
                // It was not recorded yet, so its client sends a new request.
                None => {
                    self.clients.counts.asked_again += 1;
                    let deadline = self.now.after(self.plan.load.patience.1);
                    let policy = Policy { persistence: Persistence::Record, ..request.policy };
                    let what = (request.model, request.rows, request.length);
                    let request = Request::new(self.now, what, deadline, policy);
                    let event = self.submit(request);
                    events.push(event);
                }
            }
        }
        self.send_all(events)
    }

    /// A client has cancelled. A request that is to be recorded continues: its client may repeat it.
    pub(super) fn cancelled(&mut self, id: RequestId) {
        if self.clients.get(id).is_some_and(|request| !request.persists())
            && self.end_request(id).is_some()
        {
            self.clients.counts.cancelled += 1;
        }
    }

    pub(super) fn answer(
        &mut self,
        id: RequestId,
        run: RunId,
        tried: &[Attempt],
    ) -> Result<(), Violation> {
        let from =
            self.checker.require(Invariant::AnswerFromResults, self.pool.runs.get(&run), || {
                format!("{id} is answered from {run}, which is not there")
            })?;
        let good = from.state == RunState::Done && from.requests.contains(&id);
        self.checker.check(Invariant::AnswerFromResults, good, || {
            format!(
                "{id} is answered from {run}, which is {:?} with {:?}",
                from.state, from.requests
            )
        })?;
        let ended = self.end_request(id);
        let request = self.checker.require(Invariant::OneAnswer, ended, || {
            format!("{id} is answered and has ended before")
        })?;
        self.checker.check(Invariant::OneRun, request.run == Some(run), || {
            format!("{id} is answered from {run} and was in {:?}", request.run)
        })?;
        let is_recorded = request.outcome == Some(Outcome::Answered);
        let may = !request.persists() || is_recorded || request.refused || self.is_hurried();
        self.checker.check(Invariant::RecordedFirst, may, || {
            format!("{id} is answered, and on disk its outcome is {:?}", request.outcome)
        })?;
        let named = tried.iter().all(|attempt| attempt.step.is_some());
        self.checker.check(Invariant::Budgets, named, || {
            format!("{id} is answered after an attempt that had no next one: {tried:?}")
        })?;
        self.check_tried(id, &request, tried)?;
        let took = self.now.since(request.asked_at);
        let counts = &mut self.clients.counts;
        counts.answered += 1;
        counts.latency.add(took);
        if let (Some(first), Some(Attempt { step: Some(step), .. })) = (tried.first(), tried.last())
            && let Some((_, since)) = request.failed
        {
            let recovered = counts.recoveries.entry((first.failure.kind, *step)).or_default();
            recovered.add(self.now.since(since));
        }
        match self.plan.guarantee {
            Some(guarantee) if request.asked_at >= guarantee.from => {
                let kept = tried.is_empty() && took <= guarantee.within;
                self.checker.check(Invariant::Healed, kept, || {
                    format!("{id} took {took:?} and {tried:?}, without a fault")
                })
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn fail(&mut self, id: RequestId, error: &RequestError) -> Result<(), Violation> {
        let ended = self.end_request(id);
        let request = self.checker.require(Invariant::OneAnswer, ended, || {
            format!("{id} fails of {error} and has ended before")
        })?;
        let draining = self.is_draining();
        let known = self.clients.known.contains(&request.model);
        // Its run may have been abandoned as slow, at a time that only the core knows.
        let recovering = |limit: Duration| request.asked_at.after(limit) <= self.now;
        let has_lease = request.policy.lease.is_some();
        let (name, plausible, tried): (_, bool, &[Attempt]) = match error {
            RequestError::Overloaded { queued, limit } => ("overloaded", queued >= limit, &[]),
            RequestError::DeadlineExceeded { tried } => {
                ("deadline_exceeded", request.deadline <= self.now, tried)
            }
            RequestError::Failed { tried } => ("failed", !tried.is_empty(), tried),
            RequestError::Unplaceable { .. } => ("unplaceable", true, &[]),
            RequestError::NotRecorded { .. } => ("not_recorded", request.refused, &[]),
            RequestError::RecoveryTimeout { limit, tried } => {
                ("recovery_timeout", recovering(*limit) && !tried.is_empty(), tried)
            }
            RequestError::LeaseEnded { tried } => ("task_ended", has_lease, tried),
            RequestError::ModelRemoved { tried } => {
                ("model_removed", self.pool.removed_models.contains(&request.model), tried)
            }
            RequestError::Draining => ("draining", draining, &[]),
            RequestError::UnknownModel => ("unknown_model", !known, &[]),
        };
        *self.clients.counts.failed.entry(name).or_default() += 1;
        self.checker.check(Invariant::OneAnswer, plausible, || {
            format!("{id} fails without a reason: {error}; it is {request:?}")
        })?;
        self.check_tried(id, &request, tried)?;
        self.check_recorded_failure(id, &request, error)?;
        match self.plan.guarantee {
            Some(guarantee) if request.asked_at >= guarantee.from => {
                self.checker.check(Invariant::Healed, draining, || {
                    format!("{id} fails without a fault: {error}")
                })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// An error is recorded like an answer, unless the request was refused before it was recorded.
    fn check_recorded_failure(
        &mut self,
        id: RequestId,
        request: &Request,
        error: &RequestError,
    ) -> Result<(), Violation> {
        let is_recorded = match &request.outcome {
            Some(Outcome::Failed(_)) => true,
            Some(Outcome::Answered) | None => false,
        };
        let may = match error {
            RequestError::Overloaded { .. }
            | RequestError::UnknownModel
            | RequestError::NotRecorded { .. }
            // Its record stays open, and the next daemon answers it.
            | RequestError::Draining => true,
            RequestError::DeadlineExceeded { .. }
            | RequestError::Failed { .. }
            | RequestError::Unplaceable { .. }
            | RequestError::RecoveryTimeout { .. }
            | RequestError::LeaseEnded { .. }
            | RequestError::ModelRemoved { .. } => {
                let refused_at_once = request.asked_at == self.now;
                is_recorded || request.refused || refused_at_once || self.is_hurried()
            }
        };
        self.checker.check(Invariant::RecordedFirst, may || !request.persists(), || {
            format!("{id} fails of {error}, and on disk its outcome is {:?}", request.outcome)
        })
    }

    /// Attempts stay within the budgets of their steps, and none was caused by a stale or foreign report.
    fn check_tried(
        &mut self,
        id: RequestId,
        request: &Request,
        tried: &[Attempt],
    ) -> Result<(), Violation> {
        let is_stale = |attempt: &Attempt| [STALE, FOREIGN].contains(&&*attempt.failure.detail);
        let stale = tried.iter().any(is_stale);
        self.checker.check(Invariant::StaleReports, !stale, || {
            format!("a report of another epoch or browser cost {id} an attempt: {tried:?}")
        })?;
        let taken =
            |of: RecoveryStep| tried.iter().filter(|attempt| attempt.step == Some(of)).count();
        let step_budgets = &self.plan.config.step_budgets;
        // A step may be renamed when a browser takes the request, so only the sum is bounded.
        let within = tried.len() <= step_budgets.attempts_max() as usize
            && taken(RecoveryStep::Separate) <= 1;
        self.checker
            .check(Invariant::Budgets, within, || format!("{id} was tried too often: {tried:?}"))?;
        let simulated = taken(RecoveryStep::Simulate);
        let may = request.policy.fallback_to_simulation;
        self.checker.check(Invariant::Fallback, simulated == 0 || may, || {
            format!("{id} went to a simulated browser {simulated} times: {:?}", request.policy)
        })
    }

    /// Removes a request, also from its run.
    fn end_request(&mut self, id: RequestId) -> Option<Request> {
        let request = self.clients.end(id)?;
        if let Some(run) = request.run {
            self.leave_run(run);
        }
        Some(request)
    }

    /// A request no longer waits for a run.
    pub(super) fn leave_run(&mut self, run: RunId) {
        if let Some(there) = self.pool.runs.get_mut(&run) {
            there.waits -= 1;
            self.pool.changed_runs.push(run);
        }
    }

    /// Checks requests after every step.
    pub(super) fn check_requests(&mut self) -> Result<(), Violation> {
        let overdue = self.clients.overdue(self.now);
        self.checker.check(Invariant::Deadline, overdue.is_none(), || {
            format!("{overdue:?} outlived its deadline")
        })?;
        let (queued, most) = (self.clients.queued, u64::from(self.plan.config.queue_max));
        self.checker.check(Invariant::QueueLimit, queued <= most, || {
            format!("{queued} requests wait for their first run, the limit is {most}")
        })?;
        self.check_starvation()
    }

    /// No request waits for its first run while a browser with its model has been idle for long.
    fn check_starvation(&mut self) -> Result<(), Violation> {
        let config = &self.plan.config;
        let patience = config.batch_delay + config.suspect_after + MISSED_MAX;
        let mut starved = None;
        for (model, first_runs) in &self.clients.first_runs {
            let Some(&(since, id)) = first_runs.first() else { continue };
            if since.after(patience) >= self.now || self.pool.migrations.contains_key(model) {
                continue;
            }
            let idle = self.pool.idle.get(model).into_iter().flatten().copied();
            if let Some(browser) = idle.into_iter().find(|&browser| self.is_free(browser, patience))
            {
                starved = Some((id, browser));
            }
        }
        self.checker.check(Invariant::Starvation, starved.is_none(), || {
            format!("{starved:?}: the request waits for a run, the browser is idle and ready")
        })
    }
}
