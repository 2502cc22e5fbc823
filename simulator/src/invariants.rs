//! What must hold after every step, and how often it was checked.

use flotilla_fleet::Instant;
use serde::Serialize;

/// Something that holds whatever happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Invariant {
    /// A request that was not cancelled has one answer or one error, and never a second.
    OneAnswer,
    /// An answer comes from a run that has results and held the request.
    AnswerFromResults,
    /// A request is in one run at a time.
    OneRun,
    /// No placement is owned twice in an epoch, and epochs only grow.
    OneOwner,
    /// Actions name browsers, placements and epochs that exist.
    KnownTarget,
    /// Ids are never used twice.
    FreshIds,
    /// Runs in flight on a browser and rows in a batch stay within their limits.
    RunLimits,
    /// No more requests wait for their first run than the queue may hold.
    QueueLimit,
    /// No recovery step is taken more often than its budget allows.
    Budgets,
    /// Reports of an earlier epoch, or by a page of another browser, change nothing.
    StaleReports,
    /// A run is abandoned if and only if no request waits for it.
    Abandoned,
    /// No request is open after its deadline.
    Deadline,
    /// No request waits for its first run while a browser with its model is idle.
    Starvation,
    /// A request that is to be recorded runs only once it is, and its outcome is reported only once that is recorded.
    RecordedFirst,
    /// No transaction overwrites a later version of a record.
    Versions,
    /// The browser of a lease runs nothing else, and the lease's requests run nowhere else.
    Exclusive,
    /// A lease gets a browser, or its end is reported, in time.
    #[serde(rename = "tasks")]
    Leases,
    /// A simulated browser answers only requests that allow it.
    Fallback,
    /// A migration is asked for and ends once.
    Migrations,
    /// Measuring backends takes away nothing that answers, measures nothing twice, and only where it is asked for.
    Available,
    /// Nothing is loaded or run for a removed model: its queued requests fail at once, and its placements are unloaded.
    RemovedModels,
    /// Nothing is launched in or sent to a removed slot: its browser is killed after its last run.
    RemovedSlots,
    /// A slot that was added gets its browser at once.
    AddedSlots,
    /// A browser that was reported to have failed is killed, or gets a new page, at once.
    DeadBrowsers,
    /// The core's counts equal those of the simulation.
    Counts,
    /// The memory of core and simulation is bounded.
    Memory,
    /// Time advances: the core does not ask to be woken at once, and there is a future event until it is drained.
    Progress,
    /// Once every fault is healed, requests are answered at the first attempt and in time.
    Healed,
    /// After a drain nothing is left.
    Drained,
    /// The core does not panic.
    NoPanic,
}

impl Invariant {
    /// Every invariant, in order.
    pub const ALL: [Invariant; 30] = [
        Invariant::OneAnswer,
        Invariant::AnswerFromResults,
        Invariant::OneRun,
        Invariant::OneOwner,
        Invariant::KnownTarget,
        Invariant::FreshIds,
        Invariant::RunLimits,
        Invariant::QueueLimit,
        Invariant::Budgets,
        Invariant::StaleReports,
        Invariant::Abandoned,
        Invariant::Deadline,
        Invariant::Starvation,
        Invariant::RecordedFirst,
        Invariant::Versions,
        Invariant::Exclusive,
        Invariant::Leases,
        Invariant::Fallback,
        Invariant::Migrations,
        Invariant::Available,
        Invariant::RemovedModels,
        Invariant::RemovedSlots,
        Invariant::AddedSlots,
        Invariant::DeadBrowsers,
        Invariant::Counts,
        Invariant::Memory,
        Invariant::Progress,
        Invariant::Healed,
        Invariant::Drained,
        Invariant::NoPanic,
    ];

    /// Name as in reports.
    pub fn name(self) -> &'static str {
        match self {
            Invariant::OneAnswer => "one_answer",
            Invariant::AnswerFromResults => "answer_from_results",
            Invariant::OneRun => "one_run",
            Invariant::OneOwner => "one_owner",
            Invariant::KnownTarget => "known_target",
            Invariant::FreshIds => "fresh_ids",
            Invariant::RunLimits => "run_limits",
            Invariant::QueueLimit => "queue_limit",
            Invariant::Budgets => "budgets",
            Invariant::StaleReports => "stale_reports",
            Invariant::Abandoned => "abandoned",
            Invariant::Deadline => "deadline",
            Invariant::Starvation => "starvation",
            Invariant::RecordedFirst => "recorded_first",
            Invariant::Versions => "versions",
            Invariant::Exclusive => "exclusive",
            Invariant::Leases => "tasks",
            Invariant::Fallback => "fallback",
            Invariant::Migrations => "migrations",
            Invariant::Available => "available",
            Invariant::RemovedModels => "removed_models",
            Invariant::RemovedSlots => "removed_slots",
            Invariant::AddedSlots => "added_slots",
            Invariant::DeadBrowsers => "dead_browsers",
            Invariant::Counts => "counts",
            Invariant::Memory => "memory",
            Invariant::Progress => "progress",
            Invariant::Healed => "healed",
            Invariant::Drained => "drained",
            Invariant::NoPanic => "no_panic",
        }
    }
}

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{} does not hold at {:.6} s, step {step}: {detail}", invariant.name(), at.0.as_secs_f64())]
pub struct Violation {
    /// Which one.
    pub invariant: Invariant,
    /// Virtual time.
    pub at: Instant,
    /// How many events the core had taken.
    pub step: u64,
    /// What was found instead.
    pub detail: String,
}

/// Checks invariants and counts how often.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    checked: [u64; Invariant::ALL.len()],
    pub(crate) now: Instant,
    pub(crate) step: u64,
}

impl Checker {
    /// An error unless `condition` holds.
    pub(crate) fn check(
        &mut self,
        invariant: Invariant,
        condition: bool,
        detail: impl FnOnce() -> String,
    ) -> Result<(), Violation> {
        self.checked[invariant as usize] += 1;
        if condition { Ok(()) } else { Err(self.violation(invariant, detail())) }
    }

    /// The value, or an error where there is none.
    pub(crate) fn require<T>(
        &mut self,
        invariant: Invariant,
        value: Option<T>,
        detail: impl FnOnce() -> String,
    ) -> Result<T, Violation> {
        self.checked[invariant as usize] += 1;
        value.ok_or_else(|| self.violation(invariant, detail()))
    }

    pub(crate) fn violation(&self, invariant: Invariant, detail: String) -> Violation {
        Violation { invariant, at: self.now, step: self.step, detail }
    }

    pub(crate) fn each(&self) -> impl Iterator<Item = (Invariant, u64)> + '_ {
        Invariant::ALL.into_iter().map(|invariant| (invariant, self.checked[invariant as usize]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_complete_and_in_order() {
        for (index, invariant) in Invariant::ALL.into_iter().enumerate() {
            assert_eq!(invariant as usize, index, "{invariant:?}");
        }
    }
}
