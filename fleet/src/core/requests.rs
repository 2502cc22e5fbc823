//! The life of a request: accepted or refused, retried, and ended exactly once.

use std::time::Duration;

use flotilla_protocol::{BrowserId, RequestId, RunId};

use super::{
    Fleet, Phase,
    ladder::{Climb, Target},
    queue::Place,
};
use crate::{
    event::{Action, Instant, ModelId, Persistence, Policy, RequestError},
    recovery::{Attempt, Rung},
};

/// An accepted request that has not ended.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: RequestId,
    pub(super) model: ModelId,
    /// At least 1.
    pub(super) rows: u32,
    /// At least 1.
    pub(super) length: u32,
    pub(super) deadline: Instant,
    /// The time that recovery may take, where it is what the deadline comes from.
    pub(super) recovery_limit: Option<Duration>,
    pub(super) policy: Policy,
    pub(super) arrival: u64,
    pub(super) arrived_at: Instant,
    pub(super) tried: Vec<Attempt>,
    /// When its first attempt failed.
    pub(super) failed_at: Option<Instant>,
    /// Rungs that it was given, whatever came of them.
    pub(super) granted: Vec<Rung>,
    /// Rungs on which no browser took it in time.
    pub(super) passed: Vec<Rung>,
    /// The rung that it is on.
    pub(super) climb: Option<Climb>,
    pub(super) state: RequestState,
}

/// Where an accepted request is.
#[derive(Clone, Debug)]
pub(super) enum RequestState {
    /// Being recorded; `doomed` is what it ends with once it is.
    Accepting { doomed: Option<RequestError> },
    /// In the queue.
    Queued(Place),
    /// On a browser.
    Running(RunId),
    /// Its end is being recorded.
    Ending(Ending),
}

/// How a request ends.
#[derive(Clone, Debug)]
pub(super) enum Ending {
    Answer(RunId),
    Fail(RequestError),
}

impl Request {
    pub(super) fn tokens(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.length)
    }

    pub(super) fn failed_on(&self, browser: BrowserId) -> bool {
        self.tried.iter().any(|attempt| attempt.browser == browser)
    }

    pub(super) fn is_recorded(&self) -> bool {
        match self.policy.persistence {
            Persistence::None => false,
            Persistence::Record | Persistence::Recorded => true,
        }
    }

    /// Whether any browser with its model may run it, and it may share a run.
    pub(super) fn is_plain(&self) -> bool {
        self.tried.is_empty() && self.climb.is_none() && self.policy.task.is_none()
    }

    /// Browsers that its rung allows.
    pub(super) fn target(&self) -> Target {
        self.climb.map_or(Target::Any, |climb| climb.target)
    }

    /// The attempts, where the request ends without a further one: a rung that was granted but not reached is no rung.
    fn attempts_of_the_end(&self) -> Vec<Attempt> {
        let mut tried = self.tried.clone();
        if let (RequestState::Queued(_), Some(last)) = (&self.state, tried.last_mut()) {
            last.rung = None;
        }
        tried
    }
}

impl Fleet {
    pub(super) fn accept(
        &mut self,
        id: RequestId,
        model: ModelId,
        rows: u32,
        length: u32,
        deadline: Instant,
        policy: Policy,
    ) {
        if self.requests.contains_key(&id) {
            // The id is taken: whatever this is, it must not end the request that has it.
            return;
        }
        if let Some(error) = self.refusal(model, deadline, policy) {
            self.actions.push_back(Action::Fail { request: id, error });
            return;
        }
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
            arrived_at: self.now,
            tried: Vec::new(),
            failed_at: None,
            granted: Vec::new(),
            passed: Vec::new(),
            climb: None,
            state: RequestState::Queued(place),
        };
        self.deadlines.insert((deadline, id));
        match policy.persistence {
            Persistence::None | Persistence::Recorded => {
                self.queue.insert(place, &request);
                self.requests.insert(id, request);
            }
            Persistence::Record => {
                let state = RequestState::Accepting { doomed: None };
                self.requests.insert(id, Request { state, ..request });
                self.queue.reserve();
                self.journal.accept(id);
            }
        }
    }

    /// Why a request cannot be accepted.
    fn refusal(&self, model: ModelId, deadline: Instant, policy: Policy) -> Option<RequestError> {
        match self.phase {
            Phase::Draining | Phase::Drained => return Some(RequestError::Draining),
            Phase::New | Phase::Serving => {}
        }
        if !self.models.contains_key(&model) {
            return Some(RequestError::UnknownModel);
        }
        if deadline <= self.now {
            return Some(RequestError::DeadlineExceeded { tried: Vec::new() });
        }
        if policy.task.is_some_and(|task| self.held_by(task).is_none()) {
            return Some(RequestError::TaskEnded { tried: Vec::new() });
        }
        // What an earlier daemon has accepted is not refused by this one.
        if policy.persistence == Persistence::Recorded {
            return None;
        }
        if !policy.fallback_to_simulation
            && let Some(reason) = self.unplaceable(model)
        {
            return Some(RequestError::Unplaceable { reason });
        }
        let (queued, limit) = (self.queue.len(), self.config.queue_max);
        (queued >= limit).then_some(RequestError::Overloaded { queued, limit })
    }

    /// A request is recorded, so it may run.
    pub(super) fn recorded(&mut self, id: RequestId) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        let RequestState::Accepting { doomed } = &mut request.state else { return };
        self.queue.unreserve();
        match doomed.take() {
            Some(error) => {
                request.state = RequestState::Ending(Ending::Fail(error));
                self.journal.end(id);
            }
            None => {
                let place = Place { fresh: true, arrival: request.arrival };
                request.state = RequestState::Queued(place);
                self.queue.insert(place, request);
            }
        }
    }

    /// The client has gone: the request ends without a word. One that is recorded goes on: its client may ask again.
    pub(super) fn cancel(&mut self, id: RequestId) {
        // A request that ended before its cancellation arrived is not there any more, which is as well.
        if self.requests.get(&id).is_some_and(|request| !request.is_recorded()) {
            self.take_off(id);
            self.forget(id);
        }
    }

    /// Fails every request whose deadline is reached.
    pub(super) fn expire_requests(&mut self) {
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= self.now
        {
            let limit = self.requests.get(&id).and_then(|request| request.recovery_limit);
            self.end_with(id, |tried| match limit {
                Some(limit) => RequestError::RecoveryTimeout { limit, tried },
                None => RequestError::DeadlineExceeded { tried },
            });
        }
    }

    /// Fails the waiting requests of models that no browser runs and none will.
    pub(super) fn fail_unplaceable(&mut self) {
        for model in self.queue.models() {
            let Some(reason) = self.unplaceable(model) else { continue };
            let waiting: Vec<RequestId> = self.queue.of(model).collect();
            for id in waiting {
                let Some(request) = self.requests.get(&id) else { continue };
                if request.target() == Target::Fallback {
                    continue;
                }
                if request.policy.fallback_to_simulation && request.tried.is_empty() {
                    self.simulate_unplaceable(id, &reason);
                    continue;
                }
                self.end_with(id, |tried| match tried.is_empty() {
                    true => RequestError::Unplaceable { reason: reason.clone() },
                    false => RequestError::Failed { tried },
                });
            }
        }
    }

    /// Fails every accepted request: there is no time to answer any.
    pub(super) fn fail_all(&mut self) {
        let all: Vec<RequestId> = self.requests.keys().copied().collect();
        for id in all {
            let Some(request) = self.requests.get(&id) else { continue };
            if let RequestState::Ending(_) = request.state {
                self.tell_end(id);
            } else if request.is_recorded() {
                // Its record stays open: the next daemon answers it.
                self.take_off(id);
                self.forget(id);
                let error = RequestError::Draining;
                self.actions.push_back(Action::Fail { request: id, error });
            } else {
                self.end_with(id, |_| RequestError::Draining);
            }
        }
    }

    /// Gives a request its part of a run's results, once that is recorded if it is to be.
    pub(super) fn answer(&mut self, id: RequestId, run: RunId) {
        self.end_climb(id, true);
        self.finish(id, Ending::Answer(run));
    }

    /// Puts a request whose run is gone at the front of the queue.
    pub(super) fn requeue(&mut self, id: RequestId) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        let place = Place { fresh: false, arrival: request.arrival };
        request.state = RequestState::Queued(place);
        self.queue.insert(place, request);
    }

    /// Ends a request with an error.
    pub(super) fn end_with(
        &mut self,
        id: RequestId,
        error: impl FnOnce(Vec<Attempt>) -> RequestError,
    ) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        if let RequestState::Ending(_) = request.state {
            // Its end is decided, and on its way to the disk.
            return;
        }
        let error = error(request.attempts_of_the_end());
        if let RequestState::Accepting { doomed } = &mut request.state {
            *doomed = Some(error);
            self.deadlines.remove(&(request.deadline, id));
            return;
        }
        self.take_off(id);
        self.end_climb(id, false);
        self.finish(id, Ending::Fail(error));
    }

    fn finish(&mut self, id: RequestId, ending: Ending) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        self.deadlines.remove(&(request.deadline, id));
        request.state = RequestState::Ending(ending);
        if request.is_recorded() {
            self.journal.end(id);
        } else {
            self.tell_end(id);
        }
    }

    /// Tells a request's end.
    pub(super) fn tell_end(&mut self, id: RequestId) {
        let Some(request) = self.forget(id) else { return };
        let RequestState::Ending(ending) = request.state else { return };
        self.actions.push_back(match ending {
            Ending::Answer(run) => Action::Answer { request: id, run, tried: request.tried },
            Ending::Fail(error) => Action::Fail { request: id, error },
        });
    }

    /// Takes a request out of the queue, or out of its run, which is abandoned when nobody else waits for it.
    fn take_off(&mut self, id: RequestId) {
        let Some(request) = self.requests.get(&id) else { return };
        match request.state {
            RequestState::Queued(place) => self.queue.remove(place, request),
            RequestState::Running(run) => self.leave(run, id),
            RequestState::Accepting { .. } | RequestState::Ending(_) => {}
        }
    }

    pub(super) fn forget(&mut self, id: RequestId) -> Option<Request> {
        let request = self.requests.remove(&id)?;
        self.deadlines.remove(&(request.deadline, id));
        if let Some(climb) = request.climb {
            self.rungs_due.remove(&(climb.until, id));
        }
        if let RequestState::Accepting { .. } = request.state {
            self.queue.unreserve();
        }
        Some(request)
    }
}
