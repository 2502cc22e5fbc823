//! The life of a request: accepted or refused, retried, and ended exactly once.

use flotilla_protocol::{BrowserId, RequestId, RunId};

use super::{Fleet, Phase, queue::Place};
use crate::{
    event::{Action, Instant, ModelId, RequestError},
    recovery::{self, Attempt, Budgets, Failure, Rung},
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
    pub(super) arrival: u64,
    pub(super) arrived_at: Instant,
    pub(super) tried: Vec<Attempt>,
    pub(super) state: RequestState,
}

/// Where an accepted request is.
#[derive(Clone, Copy, Debug)]
pub(super) enum RequestState {
    /// In the queue.
    Queued(Place),
    /// On a browser.
    Running(RunId),
}

impl Request {
    pub(super) fn tokens(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.length)
    }

    pub(super) fn failed_on(&self, browser: BrowserId) -> bool {
        self.tried.iter().any(|attempt| attempt.browser == browser)
    }

    /// Says of the latest attempt what came of the wish for another browser, now that the next one is known.
    pub(super) fn name_rung(&mut self, browser: BrowserId) {
        if self.failed_on(browser)
            && let Some(Attempt { rung: Some(rung @ Rung::Migrate), .. }) = self.tried.last_mut()
        {
            *rung = Rung::Retry;
        }
    }

    /// The attempts, where the request ends without a further one: a rung that was granted but not reached is no rung.
    fn attempts_of_the_end(mut self) -> Vec<Attempt> {
        if let (RequestState::Queued(_), Some(last)) = (self.state, self.tried.last_mut()) {
            last.rung = None;
        }
        self.tried
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
    ) {
        if self.requests.contains_key(&id) {
            // The id is taken: whatever this is, it must not end the request that has it.
            return;
        }
        if let Some(error) = self.refusal(model, deadline) {
            self.actions.push_back(Action::Fail { request: id, error });
            return;
        }
        self.arrivals += 1;
        let request = Request {
            id,
            model,
            rows: rows.max(1),
            length: length.max(1),
            deadline,
            arrival: self.arrivals,
            arrived_at: self.now,
            tried: Vec::new(),
            state: RequestState::Queued(Place { fresh: true, arrival: self.arrivals }),
        };
        self.queue.insert(Place { fresh: true, arrival: self.arrivals }, &request);
        self.deadlines.insert((deadline, id));
        self.requests.insert(id, request);
    }

    /// Why a request cannot be accepted.
    fn refusal(&self, model: ModelId, deadline: Instant) -> Option<RequestError> {
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
        if let Some(reason) = self.unplaceable(model) {
            return Some(RequestError::Unplaceable { reason });
        }
        let (queued, limit) = (self.queue.len(), self.config.queue_max);
        (queued >= limit).then_some(RequestError::Overloaded { queued, limit })
    }

    /// The client has gone: the request ends without a word.
    pub(super) fn cancel(&mut self, id: RequestId) {
        // A request that ended before its cancellation arrived is not there any more, which is as well.
        self.end(id);
    }

    /// Fails every request whose deadline is reached.
    pub(super) fn expire_requests(&mut self) {
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= self.now
        {
            self.fail(id, |tried| RequestError::DeadlineExceeded { tried });
        }
    }

    /// Fails the waiting requests of models that no browser runs and none will.
    pub(super) fn fail_unplaceable(&mut self) {
        for model in self.queue.models() {
            let Some(reason) = self.unplaceable(model) else { continue };
            let waiting: Vec<RequestId> = self.queue.of(model).collect();
            for id in waiting {
                self.fail(id, |tried| match tried.is_empty() {
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
            self.fail(id, |_| RequestError::Draining);
        }
    }

    /// Gives a request its part of a run's results.
    pub(super) fn answer(&mut self, id: RequestId, run: RunId) {
        if let Some(request) = self.forget(id) {
            self.actions.push_back(Action::Answer { request: id, run, tried: request.tried });
        }
    }

    /// Lets a request take its next step on the recovery ladder, or fails it where there is none.
    pub(super) fn climb(
        &mut self,
        id: RequestId,
        browser: BrowserId,
        failure: &Failure,
        joined: bool,
    ) {
        let budgets = Budgets { migrate_max: self.config.retries_max };
        let Some(request) = self.requests.get_mut(&id) else { return };
        let rung = recovery::next(failure.kind, joined, &request.tried, budgets);
        request.tried.push(Attempt { browser, failure: failure.clone(), rung });
        match rung {
            Some(_) => self.requeue(id),
            None => {
                if let Some(request) = self.forget(id) {
                    let error = RequestError::Failed { tried: request.tried };
                    self.actions.push_back(Action::Fail { request: id, error });
                }
            }
        }
    }

    /// Puts a request whose run is gone at the front of the queue.
    pub(super) fn requeue(&mut self, id: RequestId) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        let place = Place { fresh: false, arrival: request.arrival };
        request.state = RequestState::Queued(place);
        self.queue.insert(place, request);
    }

    fn fail(&mut self, id: RequestId, error: impl FnOnce(Vec<Attempt>) -> RequestError) {
        if let Some(request) = self.end(id) {
            let error = error(request.attempts_of_the_end());
            self.actions.push_back(Action::Fail { request: id, error });
        }
    }

    /// Takes a request out of the queue, or out of its run, which is abandoned when nobody else waits for it.
    fn end(&mut self, id: RequestId) -> Option<Request> {
        let request = self.forget(id)?;
        match request.state {
            RequestState::Queued(place) => self.queue.remove(place, &request),
            RequestState::Running(run) => self.leave(run, id),
        }
        Some(request)
    }

    fn forget(&mut self, id: RequestId) -> Option<Request> {
        let request = self.requests.remove(&id)?;
        self.deadlines.remove(&(request.deadline, id));
        Some(request)
    }
}
