//! What follows when requests come and end.

use flotilla_protocol::{RequestId, RunId};

use super::{Fleet, Phase};
use crate::{
    core::{
        escalation::Target,
        requests::{Ended, NewRequest},
    },
    event::{Action, Persistence, RequestError},
    recovery::Attempt,
};

impl Fleet {
    pub(super) fn accept(&mut self, new: NewRequest) {
        let id = new.id;
        if self.requests.contains(id) {
            // The id is taken: whatever this is, it must not end the request that has it.
            return;
        }
        if let Some(error) = self.refusal(&new) {
            self.order(Action::Fail { request: id, error });
            return;
        }
        if self.requests.accept(new, self.now) {
            self.journal.accept(id);
        }
    }

    /// Why a request cannot be accepted.
    fn refusal(&self, new: &NewRequest) -> Option<RequestError> {
        match self.phase {
            Phase::Draining | Phase::Drained => return Some(RequestError::Draining),
            Phase::New | Phase::Serving => {}
        }
        if !self.assignments.contains(new.model) {
            return Some(RequestError::UnknownModel);
        }
        if new.deadline <= self.now {
            return Some(RequestError::DeadlineExceeded { tried: Vec::new() });
        }
        if let Some(lease) = new.policy.lease {
            let held = self.leases.held_by(lease);
            if held.is_none_or(|slot| self.slots.get(slot).is_removed()) {
                return Some(RequestError::LeaseEnded { tried: Vec::new() });
            }
        }
        // What an earlier daemon has accepted is not refused by this one.
        if new.policy.persistence == Persistence::Recorded {
            return None;
        }
        if !new.policy.fallback_to_simulation
            && let Some(reason) = self.slots.unplaceable(new.model, self.now)
        {
            return Some(RequestError::Unplaceable { reason });
        }
        let (queued, limit) = (self.requests.queue().len(), self.config.queue_max);
        (queued >= limit).then_some(RequestError::Overloaded { queued, limit })
    }

    /// The client has gone: the request ends and nothing is reported. One that is recorded goes on: its client may ask
    /// again.
    pub(super) fn cancel(&mut self, id: RequestId) {
        if self.requests.contains(id) && !self.requests.is_recorded(id) {
            self.remove(id);
        }
    }

    /// Fails every request whose deadline is reached.
    pub(super) fn expire_requests(&mut self) {
        while let Some(id) = self.requests.overdue(self.now) {
            let ended = self.requests.expire(id);
            self.ended(id, ended, false);
        }
    }

    /// Fails the waiting requests of models that were removed, and of those that no browser runs and none will.
    pub(super) fn fail_unplaceable(&mut self) {
        for model in self.requests.queue().models() {
            if self.assignments.is_removed(model) {
                for id in self.requests.queue().of(model).collect::<Vec<_>>() {
                    self.fail(id, |tried| RequestError::ModelRemoved { tried });
                }
                continue;
            }
            let Some(reason) = self.slots.unplaceable(model, self.now) else { continue };
            let waiting: Vec<RequestId> = self.requests.queue().of(model).collect();
            for id in waiting {
                let Some(request) = self.requests.get(id) else { continue };
                if request.target() == Target::Fallback {
                    continue;
                }
                if request.policy().fallback_to_simulation && request.is_untried() {
                    self.simulate_unplaceable(id, &reason);
                    continue;
                }
                self.fail(id, |tried| match tried.is_empty() {
                    true => RequestError::Unplaceable { reason: reason.clone() },
                    false => RequestError::Failed { tried },
                });
            }
        }
    }

    /// Fails every accepted request: there is no time to answer any.
    pub(super) fn fail_all(&mut self) {
        for id in self.requests.ids() {
            if self.requests.is_ending(id) {
                self.report(id);
            } else if self.requests.is_recorded(id) {
                // Its record stays open: the next daemon answers it.
                self.remove(id);
                self.order(Action::Fail { request: id, error: RequestError::Draining });
            } else {
                self.fail(id, |_| RequestError::Draining);
            }
        }
    }

    /// Gives a request its part of a run's results, once that is recorded if it is to be.
    pub(super) fn answer(&mut self, id: RequestId, run: RunId) {
        let ended = self.requests.answer(id, run);
        self.ended(id, ended, true);
    }

    /// Ends a request with an error.
    pub(super) fn fail(&mut self, id: RequestId, error: impl FnOnce(Vec<Attempt>) -> RequestError) {
        let ended = self.requests.fail(id, error);
        self.ended(id, ended, false);
    }

    fn ended(&mut self, id: RequestId, ended: Option<Ended>, succeeded: bool) {
        let Some(Ended { left, step, report }) = ended else { return };
        if let Some(run) = left {
            self.leave(run, id);
        }
        if let Some(step) = step {
            self.step_ended(id, step, succeeded);
        }
        match report {
            Some(report) => self.order(report),
            None => self.journal.end(id),
        }
    }

    /// Reports a request's end.
    pub(super) fn report(&mut self, id: RequestId) {
        if let Some(report) = self.requests.report(id) {
            self.order(report);
        }
    }

    /// Ends a request of which nothing is to be reported.
    fn remove(&mut self, id: RequestId) {
        if let Some(run) = self.requests.remove(id) {
            self.leave(run, id);
        }
    }

    /// A request no longer waits for its run.
    pub(super) fn leave(&mut self, run: RunId, request: RequestId) {
        if self.runs.leave(run, request) {
            self.order(Action::Abandon { run });
        }
    }
}
