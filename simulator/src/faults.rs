//! Faults as plain data: what goes wrong, how likely, from when until when.

use std::time::Duration;

use flotilla_fleet::Instant;
use serde::{Deserialize, Serialize};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// A browser's process ends.
    ProcessKilled,
    /// A page crashes while its browser lives.
    PageCrash,
    /// A link closes while page and browser live.
    SocketDrop,
    /// A page sends nothing any more, not even heartbeats.
    Hang,
    /// A page loses its GPU device.
    DeviceLoss,
    /// A page loses its GPU device, and each new one a moment later.
    DeviceLossRepeated,
    /// A browser computes more slowly from minute to minute.
    SlowsDown,
    /// A browser's memory grows from second to second.
    MemoryGrows,
    /// The daemon is killed and started anew.
    DaemonKilled,
    /// The load is higher for a while.
    LoadPeak,
    /// The driver starts no browser.
    StartFails,
    /// A browser starts and its page never reports.
    StartHangs,
    /// A load fails for want of memory.
    LoadFails,
    /// A load stops and reports nothing.
    LoadHangs,
    /// A backend refuses a model.
    LoadUnsupported,
    /// A run fails in one of the ways that a page reports.
    RunFails,
    /// A page's worker never ends a run, though the page sends heartbeats.
    RunHangs,
    /// A run takes seconds instead of milliseconds.
    RunSlow,
    /// A run's results are found wrong.
    WrongResult,
    /// A probe gives a wrong answer or a failure.
    ProbeFails,
    /// A probe gives no answer.
    ProbeHangs,
    /// The store cannot write a transaction.
    CommitFails,
    /// The store takes seconds to write a transaction.
    CommitSlow,
    /// A run is reported in an epoch that is not its own.
    StaleReport,
    /// A run or a placement is reported by the page of a browser that does not have it.
    ForeignReport,
    /// A run is reported twice.
    DuplicateReport,
    /// A run's report arrives late, even if its page has ended.
    LateReport,
    /// A client cancels its request.
    ClientCancels,
    /// A request has a short deadline.
    DeadlineShort,
}

/// What a fault's rate refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Occurrences per hour in each running browser.
    Browser,
    /// Occurrences per hour in the whole fleet.
    Fleet,
    /// Percent of the occasions: starts, loads, runs, requests.
    Occasion,
}

impl FaultKind {
    /// Every fault, in order.
    pub const ALL: [FaultKind; 29] = [
        FaultKind::ProcessKilled,
        FaultKind::PageCrash,
        FaultKind::SocketDrop,
        FaultKind::Hang,
        FaultKind::DeviceLoss,
        FaultKind::DeviceLossRepeated,
        FaultKind::SlowsDown,
        FaultKind::MemoryGrows,
        FaultKind::DaemonKilled,
        FaultKind::LoadPeak,
        FaultKind::StartFails,
        FaultKind::StartHangs,
        FaultKind::LoadFails,
        FaultKind::LoadHangs,
        FaultKind::LoadUnsupported,
        FaultKind::RunFails,
        FaultKind::RunHangs,
        FaultKind::RunSlow,
        FaultKind::WrongResult,
        FaultKind::ProbeFails,
        FaultKind::ProbeHangs,
        FaultKind::CommitFails,
        FaultKind::CommitSlow,
        FaultKind::StaleReport,
        FaultKind::ForeignReport,
        FaultKind::DuplicateReport,
        FaultKind::LateReport,
        FaultKind::ClientCancels,
        FaultKind::DeadlineShort,
    ];

    /// Name as in reports and plans.
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::ProcessKilled => "process_killed",
            FaultKind::PageCrash => "page_crash",
            FaultKind::SocketDrop => "socket_drop",
            FaultKind::Hang => "hang",
            FaultKind::DeviceLoss => "device_loss",
            FaultKind::DeviceLossRepeated => "device_loss_repeated",
            FaultKind::SlowsDown => "slows_down",
            FaultKind::MemoryGrows => "memory_grows",
            FaultKind::DaemonKilled => "daemon_killed",
            FaultKind::LoadPeak => "load_peak",
            FaultKind::StartFails => "start_fails",
            FaultKind::StartHangs => "start_hangs",
            FaultKind::LoadFails => "load_fails",
            FaultKind::LoadHangs => "load_hangs",
            FaultKind::LoadUnsupported => "load_unsupported",
            FaultKind::RunFails => "run_fails",
            FaultKind::RunHangs => "run_hangs",
            FaultKind::RunSlow => "run_slow",
            FaultKind::WrongResult => "wrong_result",
            FaultKind::ProbeFails => "probe_fails",
            FaultKind::ProbeHangs => "probe_hangs",
            FaultKind::CommitFails => "commit_fails",
            FaultKind::CommitSlow => "commit_slow",
            FaultKind::StaleReport => "stale_report",
            FaultKind::ForeignReport => "foreign_report",
            FaultKind::DuplicateReport => "duplicate_report",
            FaultKind::LateReport => "late_report",
            FaultKind::ClientCancels => "client_cancels",
            FaultKind::DeadlineShort => "deadline_short",
        }
    }

    /// What its rate refers to.
    pub fn scope(self) -> Scope {
        match self {
            FaultKind::ProcessKilled
            | FaultKind::PageCrash
            | FaultKind::SocketDrop
            | FaultKind::Hang
            | FaultKind::DeviceLoss
            | FaultKind::DeviceLossRepeated
            | FaultKind::SlowsDown
            | FaultKind::MemoryGrows => Scope::Browser,
            FaultKind::DaemonKilled | FaultKind::LoadPeak => Scope::Fleet,
            FaultKind::StartFails
            | FaultKind::StartHangs
            | FaultKind::LoadFails
            | FaultKind::LoadHangs
            | FaultKind::LoadUnsupported
            | FaultKind::RunFails
            | FaultKind::RunHangs
            | FaultKind::RunSlow
            | FaultKind::WrongResult
            | FaultKind::ProbeFails
            | FaultKind::ProbeHangs
            | FaultKind::CommitFails
            | FaultKind::CommitSlow
            | FaultKind::StaleReport
            | FaultKind::ForeignReport
            | FaultKind::DuplicateReport
            | FaultKind::LateReport
            | FaultKind::ClientCancels
            | FaultKind::DeadlineShort => Scope::Occasion,
        }
    }
}

/// One kind of fault over a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What goes wrong.
    pub what: FaultKind,
    /// How likely: times per hour for each browser or for the fleet, or percent of the occasions, by [`FaultKind::scope`].
    pub odds: f64,
    /// Not before this many seconds.
    #[serde(default)]
    pub from_s: f64,
    /// Not after this many seconds; without end if missing.
    #[serde(default)]
    pub until_s: Option<f64>,
}

impl Fault {
    /// A fault from the beginning to the end.
    pub fn new(what: FaultKind, odds: f64) -> Fault {
        Fault { what, odds, from_s: 0.0, until_s: None }
    }

    /// Whether it may happen now.
    pub fn is_on(&self, now: Instant) -> bool {
        let now = now.0.as_secs_f64();
        self.from_s <= now && self.until_s.is_none_or(|until| now < until)
    }

    /// Mean time between two occurrences, for a rate by the hour; `None` if the rate is 0.
    pub(crate) fn mean(&self) -> Option<Duration> {
        Duration::try_from_secs_f64(3600.0 / self.odds).ok().filter(|mean| !mean.is_zero())
    }
}

/// How often each fault was injected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FaultCounts([u64; FaultKind::ALL.len()]);

impl Default for FaultCounts {
    fn default() -> FaultCounts {
        FaultCounts([0; FaultKind::ALL.len()])
    }
}

impl FaultCounts {
    pub(crate) fn count(&mut self, what: FaultKind) {
        self.0[what as usize] += 1;
    }

    pub(crate) fn each(&self) -> impl Iterator<Item = (FaultKind, u64)> + '_ {
        FaultKind::ALL.into_iter().map(|what| (what, self.0[what as usize]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_plans_and_the_list_is_whole() {
        for (index, what) in FaultKind::ALL.into_iter().enumerate() {
            assert_eq!(what as usize, index, "{what:?}");
            let name = serde_json::to_string(&what).expect("a name");
            assert_eq!(name, format!("\"{}\"", what.name()));
        }
    }

    #[test]
    fn a_fault_is_on_from_and_until() {
        let fault: Fault =
            serde_json::from_str(r#"{"what":"hang","odds":2,"from_s":10,"until_s":20}"#)
                .expect("a fault");
        let at = |seconds| fault.is_on(Instant(Duration::from_secs(seconds)));
        assert_eq!([at(9), at(10), at(19), at(20)], [false, true, true, false]);
        assert_eq!(fault.mean(), Some(Duration::from_secs(1800)));
    }
}
