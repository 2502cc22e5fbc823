//! Accepted requests: where each is, what it has tried, and how it ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use flotilla_protocol::{BrowserId, RequestId, RunId};

use super::{
    escalation::{Escalation, Taker, Target},
    queue::{Place, Queue},
};
use crate::{
    event::{Action, Instant, LeaseId, ModelId, Persistence, Policy, RequestError},
    recovery::{Attempt, Failure, RecoveryStep},
    state::{Outcome, Value},
};

/// An accepted request that has not ended.
#[derive(Debug)]
pub(super) struct Request {
    id: RequestId,
    model: ModelId,
    /// At least 1.
    rows: u32,
    /// At least 1.
    length: u32,
    deadline: Instant,
    /// The time that recovery may take, where it is what the deadline comes from.
    recovery_limit: Option<Duration>,
    policy: Policy,
    arrival: u64,
    arrived_at: Instant,
    tried: Vec<Attempt>,
    /// When its first attempt failed.
    failed_at: Option<Instant>,
    /// Recovery steps that it was given, whatever came of them.
    granted: Vec<RecoveryStep>,
    /// Recovery steps on which no browser took it in time.
    passed: Vec<RecoveryStep>,
    /// The recovery step that it is on.
    escalation: Option<Escalation>,
    state: RequestState,
}

/// Where an accepted request is.
#[derive(Clone, Debug)]
enum RequestState {
    /// Being recorded; `error_after` is what it fails with once it is.
    Accepting { error_after: Option<RequestError> },
    /// In the queue.
    Queued(Place),
    /// On a browser.
    Running(RunId),
    /// Its end is being recorded.
    Ending(Ending),
}

/// How a request ends.
#[derive(Clone, Debug)]
enum Ending {
    Answer(RunId),
    Fail(RequestError),
}

/// A request that is to be accepted.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewRequest {
    pub(super) id: RequestId,
    pub(super) model: ModelId,
    pub(super) rows: u32,
    pub(super) length: u32,
    pub(super) deadline: Instant,
    pub(super) policy: Policy,
}

/// What follows from a request's end.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// The run that it no longer waits for.
    pub(super) left: Option<RunId>,
    /// The recovery step that it was on.
    pub(super) step: Option<Escalation>,
    /// What is reported now; `None` where the end is to be recorded first.
    pub(super) report: Option<Action>,
}

/// How many requests are where.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) queued: u32,
    pub(super) running: u32,
    /// Their acceptance or end is being recorded.
    pub(super) recording: u32,
}

/// What can be read of a request.
impl Request {
    pub(super) fn id(&self) -> RequestId {
        self.id
    }

    pub(super) fn model(&self) -> ModelId {
        self.model
    }

    pub(super) fn rows(&self) -> u32 {
        self.rows
    }

    pub(super) fn length(&self) -> u32 {
        self.length
    }

    pub(super) fn tokens(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.length)
    }

    pub(super) fn policy(&self) -> Policy {
        self.policy
    }

    pub(super) fn arrived_at(&self) -> Instant {
        self.arrived_at
    }

    /// No attempt has failed.
    pub(super) fn is_untried(&self) -> bool {
        self.tried.is_empty()
    }

    pub(super) fn failed_on(&self, browser: BrowserId) -> bool {
        self.tried.iter().any(|attempt| attempt.browser == browser)
    }

    /// Recovery steps that it was given, whatever came of them.
    pub(super) fn granted(&self) -> &[RecoveryStep] {
        &self.granted
    }

    /// Whether no browser took it in time on a recovery step.
    pub(super) fn has_passed(&self, step: RecoveryStep) -> bool {
        self.passed.contains(&step)
    }

    /// Whether any browser with its model may run it, and it may share a run.
    pub(super) fn is_plain(&self) -> bool {
        self.tried.is_empty() && self.escalation.is_none() && self.policy.lease.is_none()
    }

    /// Browsers that its recovery step allows.
    pub(super) fn target(&self) -> Target {
        self.escalation.map_or(Target::Any, |escalation| escalation.target)
    }

    fn is_recorded(&self) -> bool {
        match self.policy.persistence {
            Persistence::None => false,
            Persistence::Record | Persistence::Recorded => true,
        }
    }

    /// The attempts, where the request ends without a further one: a recovery step that was granted but not reached was
    /// not taken.
    fn attempts_of_the_end(&self) -> Vec<Attempt> {
        let mut tried = self.tried.clone();
        if let (RequestState::Queued(_), Some(last)) = (&self.state, tried.last_mut()) {
            last.step = None;
        }
        tried
    }

    fn record(&self) -> Value {
        Value::Request {
            model: self.model,
            rows: self.rows,
            length: self.length,
            tried: self.tried.clone(),
            outcome: match &self.state {
                RequestState::Ending(Ending::Answer(_)) => Some(Outcome::Answered),
                RequestState::Ending(Ending::Fail(error)) => Some(Outcome::Failed(error.clone())),
                RequestState::Accepting { .. }
                | RequestState::Queued(_)
                | RequestState::Running(_) => None,
            },
        }
    }
}

/// Every accepted request that has not ended, with the queue and the timers.
#[derive(Debug, Default)]
pub(super) struct Requests {
    by_id: BTreeMap<RequestId, Request>,
    deadlines: BTreeSet<(Instant, RequestId)>,
    /// When a request has waited long enough on its recovery step.
    steps_due: BTreeSet<(Instant, RequestId)>,
    queue: Queue,
    /// How many requests were accepted.
    arrivals: u64,
}

/// What can be read.
impl Requests {
    pub(super) fn get(&self, id: RequestId) -> Option<&Request> {
        self.by_id.get(&id)
    }

    pub(super) fn contains(&self, id: RequestId) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub(super) fn ids(&self) -> Vec<RequestId> {
        self.by_id.keys().copied().collect()
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The waiting requests of a model in order.
    pub(super) fn waiting(&self, model: ModelId) -> impl Iterator<Item = &Request> {
        self.queue.of(model).filter_map(|id| self.by_id.get(&id))
    }

    pub(super) fn timers(&self) -> usize {
        self.deadlines.len() + self.steps_due.len()
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        let deadline = self.deadlines.first().map(|&(deadline, _)| deadline);
        let step = self.steps_due.first().map(|&(until, _)| until);
        deadline.into_iter().chain(step).min()
    }

    /// The request that has outlived its deadline by most.
    pub(super) fn overdue(&self, now: Instant) -> Option<RequestId> {
        self.deadlines.first().filter(|&&(deadline, _)| deadline <= now).map(|&(_, id)| id)
    }

    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for request in self.by_id.values() {
            *match request.state {
                RequestState::Queued(_) => &mut counts.queued,
                RequestState::Running(_) => &mut counts.running,
                RequestState::Accepting { .. } | RequestState::Ending(_) => &mut counts.recording,
            } += 1;
        }
        counts
    }

    /// Whether a request's end is decided, and on its way to the disk.
    pub(super) fn is_ending(&self, id: RequestId) -> bool {
        self.by_id.get(&id).is_some_and(|request| matches!(request.state, RequestState::Ending(_)))
    }

    pub(super) fn is_recorded(&self, id: RequestId) -> bool {
        self.by_id.get(&id).is_some_and(Request::is_recorded)
    }

    /// What is to be written of requests; those that have ended meanwhile are left out.
    pub(super) fn records(&self, ids: &[RequestId]) -> Vec<(RequestId, Value)> {
        ids.iter().filter_map(|&id| Some((id, self.by_id.get(&id)?.record()))).collect()
    }

    /// Requests of a client that has a browser for itself.
    pub(super) fn of_lease(&self, lease: LeaseId) -> Vec<RequestId> {
        self.by_id
            .iter()
            .filter(|(_, request)| request.policy.lease == Some(lease))
            .map(|(&id, _)| id)
            .collect()
    }

    /// Requests whose recovery step waits for this browser or slot.
    pub(super) fn waiting_for(&self, target: Target) -> Vec<RequestId> {
        self.steps_due
            .iter()
            .map(|&(_, id)| id)
            .filter(|id| {
                let escalation = self.by_id.get(id).and_then(|request| request.escalation);
                escalation.is_some_and(|each| each.target == target)
            })
            .collect()
    }
}

/// From acceptance to the end.
impl Requests {
    /// Accepts a request. True if it is to be recorded before it runs.
    pub(super) fn accept(&mut self, new: NewRequest, now: Instant) -> bool {
        let NewRequest { id, model, rows, length, deadline, policy } = new;
        self.arrivals += 1;
        let place = Place { fresh: true, arrival: self.arrivals };
        let request = Request {
            id,
            model,
            rows: rows.max(1),
            length: length.max(1),
            deadline,
            recovery_limit: None,
            policy,
            arrival: self.arrivals,
            arrived_at: now,
            tried: Vec::new(),
            failed_at: None,
            granted: Vec::new(),
            passed: Vec::new(),
            escalation: None,
            state: RequestState::Queued(place),
        };
        self.deadlines.insert((deadline, id));
        match policy.persistence {
            Persistence::None | Persistence::Recorded => {
                self.queue.insert(place, &request);
                self.by_id.insert(id, request);
                false
            }
            Persistence::Record => {
                let state = RequestState::Accepting { error_after: None };
                self.by_id.insert(id, Request { state, ..request });
                self.queue.reserve();
                true
            }
        }
    }

    /// A request is recorded, so it may run. True if its end, which was decided meanwhile, is to be recorded too.
    pub(super) fn recorded(&mut self, id: RequestId) -> bool {
        let Some(request) = self.by_id.get_mut(&id) else { return false };
        let RequestState::Accepting { error_after } = &mut request.state else { return false };
        self.queue.unreserve();
        match error_after.take() {
            Some(error) => {
                request.state = RequestState::Ending(Ending::Fail(error));
                true
            }
            None => {
                let place = Place { fresh: true, arrival: request.arrival };
                request.state = RequestState::Queued(place);
                self.queue.insert(place, request);
                false
            }
        }
    }

    /// A request could not be recorded and ends unrecorded; gives what is reported.
    pub(super) fn not_recorded(&mut self, id: RequestId, reason: &str) -> Option<Action> {
        let request = self.forget(id)?;
        let error = match request.state {
            RequestState::Accepting { error_after: Some(error) } => error,
            RequestState::Accepting { error_after: None }
            | RequestState::Queued(_)
            | RequestState::Running(_)
            | RequestState::Ending(_) => RequestError::NotRecorded { reason: reason.to_owned() },
        };
        Some(Action::Fail { request: id, error })
    }

    /// A browser takes a request, which says what its recovery step has come to.
    pub(super) fn start(&mut self, id: RequestId, run: RunId, taker: Taker) {
        let Some(request) = self.by_id.get_mut(&id) else { return };
        if let RequestState::Queued(place) = request.state {
            self.queue.remove(place, request);
        }
        request.state = RequestState::Running(run);
        let Some(escalation) = &mut request.escalation else { return };
        self.steps_due.remove(&(escalation.until, id));
        escalation.taken_by(taker);
        if let Some(last) = request.tried.last_mut() {
            last.step = Some(escalation.step);
        }
    }

    /// Puts a request whose run is gone at the front of the queue.
    pub(super) fn requeue(&mut self, id: RequestId) {
        let Some(request) = self.by_id.get_mut(&id) else { return };
        let place = Place { fresh: false, arrival: request.arrival };
        request.state = RequestState::Queued(place);
        self.queue.insert(place, request);
    }

    /// Gives a request its part of a run's results.
    pub(super) fn answer(&mut self, id: RequestId, run: RunId) -> Option<Ended> {
        let step = self.end_step(id);
        self.finish(id, Ending::Answer(run), Ended { step, ..Ended::default() })
    }

    /// Ends a request with an error; `None` where its end is decided already, or waits for its acceptance to be recorded.
    pub(super) fn fail(
        &mut self,
        id: RequestId,
        error: impl FnOnce(Vec<Attempt>) -> RequestError,
    ) -> Option<Ended> {
        let request = self.by_id.get_mut(&id)?;
        if let RequestState::Ending(_) = request.state {
            return None;
        }
        let error = error(request.attempts_of_the_end());
        if let RequestState::Accepting { error_after } = &mut request.state {
            *error_after = Some(error);
            self.deadlines.remove(&(request.deadline, id));
            return None;
        }
        let left = self.withdraw(id);
        let step = self.end_step(id);
        self.finish(id, Ending::Fail(error), Ended { left, step, report: None })
    }

    /// Ends a request whose deadline is reached.
    pub(super) fn expire(&mut self, id: RequestId) -> Option<Ended> {
        let limit = self.by_id.get(&id)?.recovery_limit;
        self.fail(id, |tried| match limit {
            Some(limit) => RequestError::RecoveryTimeout { limit, tried },
            None => RequestError::DeadlineExceeded { tried },
        })
    }

    fn finish(&mut self, id: RequestId, ending: Ending, ended: Ended) -> Option<Ended> {
        let request = self.by_id.get_mut(&id)?;
        self.deadlines.remove(&(request.deadline, id));
        request.state = RequestState::Ending(ending);
        let report = if request.is_recorded() { None } else { self.report(id) };
        Some(Ended { report, ..ended })
    }

    /// A request's end is recorded, or is not to be; gives what is reported.
    pub(super) fn report(&mut self, id: RequestId) -> Option<Action> {
        let request = self.forget(id)?;
        let RequestState::Ending(ending) = request.state else { return None };
        Some(match ending {
            Ending::Answer(run) => Action::Answer { request: id, run, tried: request.tried },
            Ending::Fail(error) => Action::Fail { request: id, error },
        })
    }

    /// Ends a request of which nothing is to be reported; gives the run that it no longer waits for.
    pub(super) fn remove(&mut self, id: RequestId) -> Option<RunId> {
        let left = self.withdraw(id);
        self.forget(id);
        left
    }

    /// Takes a request out of the queue; gives the run that it is in instead, if it is.
    fn withdraw(&mut self, id: RequestId) -> Option<RunId> {
        let request = self.by_id.get(&id)?;
        match request.state {
            RequestState::Queued(place) => {
                self.queue.remove(place, request);
                None
            }
            RequestState::Running(run) => Some(run),
            RequestState::Accepting { .. } | RequestState::Ending(_) => None,
        }
    }

    fn forget(&mut self, id: RequestId) -> Option<Request> {
        let request = self.by_id.remove(&id)?;
        self.deadlines.remove(&(request.deadline, id));
        if let Some(escalation) = request.escalation {
            self.steps_due.remove(&(escalation.until, id));
        }
        if let RequestState::Accepting { .. } = request.state {
            self.queue.unreserve();
        }
        Some(request)
    }
}

/// Recovery.
impl Requests {
    /// Notes an attempt that failed; a limit of the time for recovery begins with the first one. False for a request that
    /// is not known.
    pub(super) fn attempt_failed(
        &mut self,
        id: RequestId,
        browser: BrowserId,
        failure: &Failure,
        now: Instant,
    ) -> bool {
        let Some(request) = self.by_id.get_mut(&id) else { return false };
        request.tried.push(Attempt { browser, failure: failure.clone(), step: None });
        if request.failed_at.is_none() {
            request.failed_at = Some(now);
            if let Some(limit) = request.policy.recovery_timeout {
                let until = now.after(limit);
                if until < request.deadline {
                    self.deadlines.remove(&(request.deadline, id));
                    (request.deadline, request.recovery_limit) = (until, Some(limit));
                    self.deadlines.insert((until, id));
                }
            }
        }
        true
    }

    /// Puts a request on a recovery step and back into the queue.
    pub(super) fn grant(&mut self, id: RequestId, escalation: Escalation) {
        self.withdraw(id);
        let Some(request) = self.by_id.get_mut(&id) else { return };
        request.granted.push(escalation.step);
        request.escalation = Some(escalation);
        if let Some(last) = request.tried.last_mut() {
            last.step = Some(escalation.step);
        }
        self.steps_due.insert((escalation.until, id));
        self.requeue(id);
    }

    /// A request that has waited long enough on its recovery step.
    pub(super) fn take_due_step(&mut self, now: Instant) -> Option<RequestId> {
        let &(until, id) = self.steps_due.first().filter(|&&(until, _)| until <= now)?;
        self.steps_due.remove(&(until, id));
        Some(id)
    }

    /// No browser takes a request on its recovery step, which ends with that; gives the step.
    pub(super) fn pass_step(&mut self, id: RequestId) -> Option<Escalation> {
        let request = self.by_id.get_mut(&id)?;
        let RequestState::Queued(place) = request.state else { return None };
        let escalation = request.escalation?;
        request.passed.push(escalation.step);
        if let Some(last) = request.tried.last_mut() {
            last.step = None;
        }
        self.queue.remove(place, request);
        self.end_step(id)
    }

    /// A request leaves its recovery step; gives it.
    pub(super) fn end_step(&mut self, id: RequestId) -> Option<Escalation> {
        let escalation = self.by_id.get_mut(&id)?.escalation.take()?;
        self.steps_due.remove(&(escalation.until, id));
        Some(escalation)
    }
}
