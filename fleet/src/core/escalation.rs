//! How a request goes on after a failure: which recovery step, and on which browsers.

use flotilla_protocol::BrowserId;

use super::{experience::Experience, requests::Request, slot::BrowserState, slots::Slots};
use crate::{
    config::Config,
    event::{Instant, ModelId},
    recovery::{Entry, FailureKind, RecoveryStep, Strategy, entry},
};

/// A recovery step that a request is on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Escalation {
    pub(super) step: RecoveryStep,
    pub(super) target: Target,
    /// What failed, where and when.
    pub(super) failure: FailureKind,
    pub(super) browser: BrowserId,
    pub(super) since: Instant,
    /// The highest browser id at that time.
    pub(super) newest_browser: u64,
    /// A browser was ready to take the request at once.
    pub(super) warm: bool,
    /// When the next step has its turn, if no browser has taken the request by then.
    pub(super) until: Instant,
}

impl Escalation {
    /// A browser takes the request: names the step after what it has come to.
    pub(super) fn taken_by(&mut self, taker: Taker) {
        self.step = match self.step {
            RecoveryStep::Separate => RecoveryStep::Separate,
            RecoveryStep::Retry
            | RecoveryStep::Reset
            | RecoveryStep::Migrate
            | RecoveryStep::Reconstruct
            | RecoveryStep::Simulate => {
                if taker.is_fallback {
                    RecoveryStep::Simulate
                } else if taker.browser == self.browser {
                    if taker.has_new_page { RecoveryStep::Reset } else { RecoveryStep::Retry }
                } else if taker.browser.0 > self.newest_browser {
                    RecoveryStep::Reconstruct
                } else {
                    RecoveryStep::Migrate
                }
            }
        };
    }
}

/// The browser that takes a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taker {
    pub(super) browser: BrowserId,
    pub(super) is_fallback: bool,
    /// It was given a new page since it answered a run last.
    pub(super) has_new_page: bool,
}

/// Browsers that a recovery step allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Any,
    /// This one, in its next life of the placement or page.
    Browser(BrowserId),
    /// Whatever browser the slot has next.
    Slot(usize),
    /// None that failed the request.
    Elsewhere,
    /// One that was launched after the failure: its id is higher than the highest one then.
    Newer {
        than: u64,
    },
    /// A simulated one of a fallback slot.
    Fallback,
}

/// A recovery step that is open to a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) step: RecoveryStep,
    pub(super) target: Target,
    /// A browser is ready to take the request at once.
    pub(super) warm: bool,
}

/// What failed a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cause {
    pub(super) failure: FailureKind,
    pub(super) browser: BrowserId,
    /// The browser's slot, where that is known.
    pub(super) slot: Option<usize>,
    /// The request shared its run.
    pub(super) joined: bool,
    pub(super) since: Instant,
}

/// Chooses recovery steps, and changes nothing.
pub(super) struct Recovery<'a> {
    pub(super) config: &'a Config,
    pub(super) slots: &'a Slots,
    pub(super) experience: &'a Experience,
}

impl Recovery<'_> {
    /// The step that is expected to answer soonest, of those that the strategy, the budgets and the fleet leave open.
    pub(super) fn next_step(&self, request: &Request, cause: Cause) -> Option<Step> {
        let Cause { failure, browser, slot, joined, .. } = cause;
        if request.policy().lease.is_some() {
            // It may run on its client's browser only, and that has failed it.
            return None;
        }
        if joined && failure.is_refusal() && self.affords(request, RecoveryStep::Separate) {
            return Some(Step { step: RecoveryStep::Separate, target: Target::Any, warm: false });
        }
        let entry = match entry(failure) {
            Entry::Final => return None,
            Entry::Step(entry) => entry,
        };
        let open: Vec<Step> = RecoveryStep::LADDER
            .into_iter()
            .filter(|&step| self.affords(request, step))
            .filter_map(|step| self.step(request, step, browser))
            .collect();
        let strategy = request.policy().strategy.unwrap_or(self.config.strategy);
        if strategy == Strategy::Coordinated
            && let Some(slot) = slot.filter(|&slot| !self.slots.get(slot).is_removed())
            && let Some(&step) = open.iter().find(|each| {
                matches!(
                    each.step,
                    RecoveryStep::Retry | RecoveryStep::Reset | RecoveryStep::Reconstruct
                ) && each.step >= entry
            })
        {
            return Some(Step { target: Target::Slot(slot), ..step });
        }
        let reached =
            request.granted().iter().copied().filter(|&step| step != RecoveryStep::Separate).max();
        let floor = match strategy {
            Strategy::Immediate => RecoveryStep::Migrate.max(entry),
            Strategy::Progressive | Strategy::Coordinated => entry,
        }
        .max(reached.unwrap_or(entry));
        let soonest = |from: RecoveryStep, to: RecoveryStep| {
            let cost = |each: &Step| self.experience.expected(failure, each.step, each.warm);
            open.iter()
                .filter(|each| (from..=to).contains(&each.step))
                .min_by(|a, b| cost(a).total_cmp(&cost(b)))
                .copied()
        };
        soonest(floor, RecoveryStep::Reconstruct)
            // Where nothing above is open, a step that was passed over is better than none.
            .or_else(|| soonest(RecoveryStep::Retry, RecoveryStep::Reconstruct))
            // Simulation never competes with browsers: it is what is left.
            .or_else(|| soonest(RecoveryStep::Simulate, RecoveryStep::Simulate))
    }

    /// Whether a request could still take a step.
    pub(super) fn could_take(&self, request: &Request, step: RecoveryStep) -> bool {
        request.policy().lease.is_none() && self.affords(request, step)
    }

    fn affords(&self, request: &Request, step: RecoveryStep) -> bool {
        let spent = request.granted().iter().filter(|&&granted| granted == step).count();
        !request.has_passed(step)
            && spent < self.config.step_budgets.budget(step).tries_max as usize
    }

    /// Where a step would lead; `None` where it leads nowhere.
    pub(super) fn step(
        &self,
        request: &Request,
        step: RecoveryStep,
        failed: BrowserId,
    ) -> Option<Step> {
        let slots = self.slots;
        let slot = slots.home(failed).map(|index| slots.get(index));
        let slot = slot.filter(|slot| !slot.is_removed());
        let (target, warm) = match step {
            RecoveryStep::Separate => (Target::Any, false),
            RecoveryStep::Retry => {
                let placement = slot?.live()?.placement(request.model())?;
                (Target::Browser(failed), placement.ready_on().is_some())
            }
            RecoveryStep::Reset if slot?.is_starting() => (Target::Browser(failed), false),
            RecoveryStep::Reset => return None,
            RecoveryStep::Migrate if self.is_warm(request.model(), request, failed) => {
                (Target::Elsewhere, true)
            }
            RecoveryStep::Migrate => {
                let is_elsewhere = (0..slots.len()).any(|index| {
                    slots.may_serve(index, request.model())
                        && slots
                            .get(index)
                            .browser()
                            .is_some_and(|browser| browser != failed && !request.failed_on(browser))
                });
                is_elsewhere.then_some((Target::Elsewhere, false))?
            }
            RecoveryStep::Reconstruct => {
                let mut regular = slots.regular().map(|index| slots.get(index).state());
                let comes = regular.any(|state| match state {
                    BrowserState::Wanted | BrowserState::Recovering { .. } => true,
                    BrowserState::Starting { .. }
                    | BrowserState::Ready(_)
                    | BrowserState::Suspect { .. }
                    | BrowserState::Retired { .. }
                    | BrowserState::Stopped
                    | BrowserState::Removed => false,
                });
                let than = slots.newest_browser();
                comes.then_some((Target::Newer { than }, false))?
            }
            RecoveryStep::Simulate => {
                let is_there = slots.fallbacks().map(|index| slots.get(index)).any(|slot| {
                    let has_ended = matches!(
                        slot.state(),
                        BrowserState::Retired { .. } | BrowserState::Stopped
                    );
                    !has_ended && !slot.is_removed()
                });
                let may = request.policy().fallback_to_simulation;
                (may && is_there).then_some((Target::Fallback, false))?
            }
        };
        Some(Step { step, target, warm })
    }

    /// Whether a browser other than `but`, and than those that failed a request, has the model ready.
    pub(super) fn is_warm(&self, model: ModelId, request: &Request, but: BrowserId) -> bool {
        self.slots.regular().filter_map(|index| self.slots.get(index).usable()).any(|live| {
            live.browser() != but
                && live.lease().is_none()
                && !request.failed_on(live.browser())
                && live.placement(model).is_some_and(|each| each.ready_on().is_some())
        })
    }
}
