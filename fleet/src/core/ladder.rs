//! How a request goes on after a failure: which rung of the ladder, and on which browsers.

use flotilla_protocol::{BrowserId, RequestId};

use super::{
    Fleet,
    browsers::BrowserState,
    requests::{Request, RequestState},
};
use crate::{
    event::{Action, Instant, ModelId, Recovered, Recovery, RequestError},
    recovery::{Attempt, Entry, Failure, FailureKind, Rung, Strategy, entry},
};

/// A rung that a request is on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Climb {
    pub(super) rung: Rung,
    pub(super) target: Target,
    /// What failed, where and when.
    pub(super) failure: FailureKind,
    pub(super) browser: BrowserId,
    pub(super) since: Instant,
    /// The highest browser id at that time.
    pub(super) horizon: u64,
    /// A browser was ready to take the request at once.
    pub(super) warm: bool,
    /// When the next rung has its turn, if no browser has taken the request by then.
    pub(super) until: Instant,
}

/// Browsers that a rung allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Any,
    /// This one, in its next life of the placement or page.
    Browser(BrowserId),
    /// Whatever browser the slot has next.
    Slot(usize),
    /// None that failed the request.
    Elsewhere,
    /// One that was launched after the failure.
    Newer,
    /// A simulated one of a fallback slot.
    Fallback,
}

impl Fleet {
    /// Lets a request take its next step on the recovery ladder, or ends it where there is none.
    pub(super) fn climb(
        &mut self,
        id: RequestId,
        browser: BrowserId,
        failure: &Failure,
        joined: bool,
    ) {
        let now = self.now;
        self.end_climb(id, false);
        let Some(request) = self.requests.get_mut(&id) else { return };
        request.tried.push(Attempt { browser, failure: failure.clone(), rung: None });
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
        let berth = self.homes.get(&browser).copied().or_else(|| self.last_home(browser));
        self.step(id, failure.kind, browser, berth, joined, now);
    }

    /// The slot of a browser that has just gone.
    fn last_home(&self, browser: BrowserId) -> Option<usize> {
        self.berths
            .iter()
            .position(|berth| berth.repairing.is_some_and(|repair| repair.browser == browser))
    }

    /// Grants the next rung, or ends the request.
    fn step(
        &mut self,
        id: RequestId,
        failure: FailureKind,
        browser: BrowserId,
        berth: Option<usize>,
        joined: bool,
        since: Instant,
    ) {
        let Some(request) = self.requests.get(&id) else { return };
        match self.next_rung(request, failure, browser, berth, joined) {
            Some(step) => self.grant(id, step, failure, browser, since),
            None => {
                let reason = self.unplaceable(request.model);
                self.end_with(id, |tried| match tried.is_empty() {
                    // It was to go to a simulated browser because no other would do, and there was none.
                    true => RequestError::Unplaceable {
                        reason: reason.unwrap_or_else(|| "no browser took it in time".to_owned()),
                    },
                    false => RequestError::Failed { tried },
                });
            }
        }
    }

    fn grant(
        &mut self,
        id: RequestId,
        (rung, target, warm): (Rung, Target, bool),
        failure: FailureKind,
        browser: BrowserId,
        since: Instant,
    ) {
        let horizon = self.browsers;
        let until = self.now.after(self.config.ladder.budget(rung).wait_max);
        let climb = Climb { rung, target, failure, browser, since, horizon, warm, until };
        let Some(request) = self.requests.get_mut(&id) else { return };
        request.granted.push(rung);
        request.climb = Some(climb);
        if let Some(last) = request.tried.last_mut() {
            last.rung = Some(rung);
        }
        self.rungs_due.insert((until, id));
        self.requeue(id);
        if target == Target::Fallback {
            self.touch_fallbacks();
        }
    }

    /// Sends a request that no browser can run to a simulated one, which it allows.
    pub(super) fn simulate_unplaceable(&mut self, id: RequestId, reason: &str) {
        let Some(request) = self.requests.get(&id) else { return };
        let RequestState::Queued(place) = request.state else { return };
        // No browser has failed it; ids begin at 1.
        let nobody = BrowserId(0);
        let Some((target, warm)) = self.target(request, Rung::Simulate, nobody) else {
            let reason = reason.to_owned();
            self.end_with(id, |_| RequestError::Unplaceable { reason });
            return;
        };
        self.queue.remove(place, request);
        let step = (Rung::Simulate, target, warm);
        self.grant(id, step, FailureKind::UnsupportedOperation, nobody, self.now);
    }

    fn touch_fallbacks(&mut self) {
        for index in 0..self.berths.len() {
            if self.is_fallback(index) {
                self.index.touch(index);
            }
        }
    }

    /// The rung that is expected to answer soonest, of those that the strategy, the budgets and the fleet leave open.
    fn next_rung(
        &self,
        request: &Request,
        failure: FailureKind,
        browser: BrowserId,
        berth: Option<usize>,
        joined: bool,
    ) -> Option<(Rung, Target, bool)> {
        if request.policy.task.is_some() {
            // It may run on its task's browser only, and that has failed it.
            return None;
        }
        if joined && failure.is_refusal() && self.affords(request, Rung::Separate) {
            return Some((Rung::Separate, Target::Any, false));
        }
        let entry = match entry(failure) {
            Entry::Final => return None,
            Entry::Rung(entry) => entry,
        };
        let open: Vec<(Rung, Target, bool)> = Rung::LADDER
            .into_iter()
            .filter(|&rung| self.affords(request, rung))
            .filter_map(|rung| {
                let (target, warm) = self.target(request, rung, browser)?;
                Some((rung, target, warm))
            })
            .collect();
        let strategy = request.policy.strategy.unwrap_or(self.config.strategy);
        if strategy == Strategy::Coordinated
            && let Some(berth) = berth
            && let Some(&(rung, _, warm)) = open.iter().find(|(rung, ..)| {
                matches!(rung, Rung::Retry | Rung::Reset | Rung::Reconstruct) && *rung >= entry
            })
        {
            return Some((rung, Target::Slot(berth), warm));
        }
        let reached = request.granted.iter().copied().filter(|&rung| rung != Rung::Separate).max();
        let floor = match strategy {
            Strategy::Immediate => Rung::Migrate.max(entry),
            Strategy::Progressive | Strategy::Coordinated => entry,
        }
        .max(reached.unwrap_or(entry));
        let soonest = |from: Rung, to: Rung| {
            open.iter()
                .filter(|(rung, ..)| (from..=to).contains(rung))
                .min_by(|a, b| {
                    let cost = |step: &(Rung, Target, bool)| {
                        self.experience.expected(failure, step.0, step.2)
                    };
                    cost(a).total_cmp(&cost(b))
                })
                .copied()
        };
        soonest(floor, Rung::Reconstruct)
            // Where nothing above is open, a rung that was passed over is better than none.
            .or_else(|| soonest(Rung::Retry, Rung::Reconstruct))
            // Simulation never competes with browsers: it is what is left.
            .or_else(|| soonest(Rung::Simulate, Rung::Simulate))
    }

    fn affords(&self, request: &Request, rung: Rung) -> bool {
        let spent = request.granted.iter().filter(|&&granted| granted == rung).count();
        !request.passed.contains(&rung)
            && spent < self.config.ladder.budget(rung).tries_max as usize
    }

    /// Whether a request could still take a rung.
    pub(super) fn could_take(&self, id: RequestId, rung: Rung) -> bool {
        self.requests
            .get(&id)
            .is_some_and(|request| request.policy.task.is_none() && self.affords(request, rung))
    }

    /// Where a rung would lead, and whether a browser there is ready at once; `None` where it leads nowhere.
    fn target(&self, request: &Request, rung: Rung, failed: BrowserId) -> Option<(Target, bool)> {
        let state = self.homes.get(&failed).map(|&index| &self.berths[index].state);
        match rung {
            Rung::Separate => Some((Target::Any, false)),
            Rung::Retry => {
                let live = state?.live()?;
                let placement = live.placements.get(&request.model)?;
                Some((Target::Browser(failed), placement.ready_on().is_some()))
            }
            Rung::Reset => matches!(state?, BrowserState::Starting { .. })
                .then_some((Target::Browser(failed), false)),
            Rung::Migrate => {
                if self.is_warm(request.model, request, failed) {
                    return Some((Target::Elsewhere, true));
                }
                let elsewhere = (0..self.berths.len()).any(|index| {
                    self.may_serve(index, request.model)
                        && self.berths[index]
                            .state
                            .browser()
                            .is_some_and(|browser| browser != failed && !request.failed_on(browser))
                });
                elsewhere.then_some((Target::Elsewhere, false))
            }
            Rung::Reconstruct => {
                let coming = |index: usize| match &self.berths[index].state {
                    BrowserState::Wanted | BrowserState::Recovering { .. } => {
                        !self.is_fallback(index)
                    }
                    BrowserState::Starting { .. }
                    | BrowserState::Ready(_)
                    | BrowserState::Suspect { .. }
                    | BrowserState::Retired { .. }
                    | BrowserState::Stopped => false,
                };
                (0..self.berths.len()).any(coming).then_some((Target::Newer, false))
            }
            Rung::Simulate => {
                let is_there = |index: usize| {
                    self.is_fallback(index)
                        && !matches!(
                            self.berths[index].state,
                            BrowserState::Retired { .. } | BrowserState::Stopped
                        )
                };
                let may = request.policy.fallback_to_simulation;
                (may && (0..self.berths.len()).any(is_there)).then_some((Target::Fallback, false))
            }
        }
    }

    /// Whether a browser other than `but`, and than those that failed a request, has the model ready.
    pub(super) fn is_ready_elsewhere(&self, model: ModelId, id: RequestId, but: BrowserId) -> bool {
        self.requests.get(&id).is_some_and(|request| self.is_warm(model, request, but))
    }

    fn is_warm(&self, model: ModelId, request: &Request, but: BrowserId) -> bool {
        let regular = (0..self.berths.len()).filter(|&index| !self.is_fallback(index));
        regular.filter_map(|index| self.berths[index].state.usable()).any(|live| {
            live.browser != but
                && live.task.is_none()
                && !request.failed_on(live.browser)
                && live.placements.get(&model).is_some_and(|each| each.ready_on().is_some())
        })
    }

    /// Requests whose rung no browser has taken in time go on to the next one.
    pub(super) fn expire_rungs(&mut self) {
        while let Some(&(until, id)) = self.rungs_due.first()
            && until <= self.now
        {
            self.rungs_due.remove(&(until, id));
            self.pass_rung(id);
        }
    }

    /// A browser is gone: requests that waited for it go on to the next rung.
    pub(super) fn lose_target(&mut self, browser: BrowserId) {
        if self.homes.contains_key(&browser) {
            return;
        }
        let waiting: Vec<RequestId> = self
            .rungs_due
            .iter()
            .map(|&(_, id)| id)
            .filter(|id| {
                let climb = self.requests.get(id).and_then(|request| request.climb);
                climb.is_some_and(|climb| climb.target == Target::Browser(browser))
            })
            .collect();
        for id in waiting {
            self.pass_rung(id);
        }
    }

    fn pass_rung(&mut self, id: RequestId) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        let RequestState::Queued(place) = request.state else { return };
        let Some(climb) = request.climb else { return };
        request.passed.push(climb.rung);
        if let Some(last) = request.tried.last_mut() {
            last.rung = None;
        }
        self.queue.remove(place, request);
        self.end_climb(id, false);
        let berth = self.homes.get(&climb.browser).copied();
        self.step(id, climb.failure, climb.browser, berth, false, climb.since);
    }

    /// Says of a request's rung what it came to, now that a browser takes the request.
    pub(super) fn name_rung(&mut self, id: RequestId, browser: BrowserId, berth: usize) {
        let resets = self.berths[berth].resets;
        let is_fallback = self.is_fallback(berth);
        let Some(request) = self.requests.get_mut(&id) else { return };
        let Some(climb) = &mut request.climb else { return };
        self.rungs_due.remove(&(climb.until, id));
        climb.rung = match climb.rung {
            Rung::Separate => Rung::Separate,
            Rung::Retry | Rung::Reset | Rung::Migrate | Rung::Reconstruct | Rung::Simulate => {
                if is_fallback {
                    Rung::Simulate
                } else if browser == climb.browser {
                    if resets > 0 { Rung::Reset } else { Rung::Retry }
                } else if browser.0 > climb.horizon {
                    Rung::Reconstruct
                } else {
                    Rung::Migrate
                }
            }
        };
        if let Some(last) = request.tried.last_mut() {
            last.rung = Some(climb.rung);
        }
    }

    /// A request leaves its rung: with an answer, or because that failed too.
    pub(super) fn end_climb(&mut self, id: RequestId, succeeded: bool) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        let Some(climb) = request.climb.take() else { return };
        self.rungs_due.remove(&(climb.until, id));
        let Climb { rung, failure, browser, since, warm, .. } = climb;
        let took = self.now.since(since);
        self.experience.learn(failure, rung, warm, took, succeeded);
        let what = Recovered::Request(id, rung);
        let recovery = Recovery { failure, browser, what, took, succeeded };
        self.actions.push_back(Action::Recovered(recovery));
    }
}
