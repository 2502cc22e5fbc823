//! What follows for a request when an attempt has failed.

use flotilla_protocol::{BrowserId, RequestId};

use super::Fleet;
use crate::{
    core::escalation::{self, Cause, Escalation, Step, Target},
    event::{Action, Recovered, Recovery, RequestError},
    recovery::{Failure, FailureKind, RecoveryStep},
};

impl Fleet {
    pub(super) fn recovery(&self) -> escalation::Recovery<'_> {
        escalation::Recovery {
            config: &self.config,
            slots: &self.slots,
            experience: &self.experience,
        }
    }

    /// Lets a request take its next recovery step, or ends it where there is none.
    pub(super) fn escalate(
        &mut self,
        id: RequestId,
        browser: BrowserId,
        failure: &Failure,
        joined: bool,
    ) {
        self.end_step(id, false);
        if !self.requests.attempt_failed(id, browser, failure, self.now) {
            return;
        }
        let slot = self.slots.home(browser).or_else(|| self.slots.repaired(browser));
        let cause = Cause { failure: failure.kind, browser, slot, joined, since: self.now };
        self.next_step(id, cause);
    }

    /// Grants the next step, or ends the request.
    fn next_step(&mut self, id: RequestId, cause: Cause) {
        let Some(request) = self.requests.get(id) else { return };
        let model = request.model();
        if self.assignments.is_removed(model) {
            return self.fail(id, |tried| RequestError::ModelRemoved { tried });
        }
        match self.recovery().next_step(request, cause) {
            Some(step) => self.grant(id, step, cause),
            None => {
                let reason = self.slots.unplaceable(model, self.now);
                self.fail(id, |tried| match tried.is_empty() {
                    // It was to go to a simulated browser because no other would do, and there was none.
                    true => RequestError::Unplaceable {
                        reason: reason.unwrap_or_else(|| "no browser took it in time".to_owned()),
                    },
                    false => RequestError::Failed { tried },
                });
            }
        }
    }

    fn grant(&mut self, id: RequestId, step: Step, cause: Cause) {
        let Step { step, target, warm } = step;
        let Cause { failure, browser, since, .. } = cause;
        let newest_browser = self.slots.newest_browser();
        let until = self.now.after(self.config.step_budgets.budget(step).wait_max);
        let escalation =
            Escalation { step, target, failure, browser, since, newest_browser, warm, until };
        self.requests.grant(id, escalation);
        if target == Target::Fallback {
            for index in self.slots.fallbacks().collect::<Vec<_>>() {
                self.slots.touch(index);
            }
        }
    }

    /// Sends a request that no browser can run to a simulated one, which it allows.
    pub(super) fn simulate_unplaceable(&mut self, id: RequestId, reason: &str) {
        let Some(request) = self.requests.get(id) else { return };
        // No browser has failed it; ids begin at 1.
        let nobody = BrowserId(0);
        let Some(step) = self.recovery().step(request, RecoveryStep::Simulate, nobody) else {
            let reason = reason.to_owned();
            self.fail(id, |_| RequestError::Unplaceable { reason });
            return;
        };
        let failure = FailureKind::UnsupportedOperation;
        let cause = Cause { failure, browser: nobody, slot: None, joined: false, since: self.now };
        self.grant(id, step, cause);
    }

    /// Requests that no browser has taken in time go on to the next recovery step.
    pub(super) fn expire_steps(&mut self) {
        while let Some(id) = self.requests.take_due_step(self.now) {
            self.pass_step(id);
        }
    }

    /// A browser is gone: requests that waited for it go on to the next recovery step.
    pub(super) fn lose_target(&mut self, browser: BrowserId) {
        if self.slots.home(browser).is_some() {
            return;
        }
        for id in self.requests.waiting_for(Target::Browser(browser)) {
            self.pass_step(id);
        }
    }

    pub(super) fn pass_step(&mut self, id: RequestId) {
        let Some(passed) = self.requests.pass_step(id) else { return };
        self.step_ended(id, passed, false);
        let Escalation { failure, browser, since, .. } = passed;
        let slot = self.slots.home(browser);
        self.next_step(id, Cause { failure, browser, slot, joined: false, since });
    }

    fn end_step(&mut self, id: RequestId, succeeded: bool) {
        if let Some(escalation) = self.requests.end_step(id) {
            self.step_ended(id, escalation, succeeded);
        }
    }

    /// A request has left its recovery step: with an answer, or because that failed too.
    pub(super) fn step_ended(&mut self, id: RequestId, ended: Escalation, succeeded: bool) {
        let Escalation { step, failure, browser, since, warm, .. } = ended;
        let took = self.now.since(since);
        self.experience.learn(failure, step, warm, took, succeeded);
        let what = Recovered::Request(id, step);
        self.order(Action::Recovered(Recovery { failure, browser, what, took, succeeded }));
    }
}
