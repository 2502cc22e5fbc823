//! Faults as plain data: what goes wrong, how likely, from when until when.

use std::time::Duration;

use flotilla_fleet::Instant;
use serde::{Deserialize, Serialize};

/// What goes wrong. Closed: whoever plays faults matches every one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
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
    /// Many more clients ask for a while.
    LoadPeak,
    /// The driver gives no browser.
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
    /// A run's report arrives long after, whatever has become of its page.
    LateReport,
    /// A client goes away.
    ClientCancels,
    /// A client is in a hurry.
    DeadlineShort,
}

/// What a fault's rate refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// It strikes each living browser by the hour.
    Browser,
    /// It strikes the whole by the hour.
    Fleet,
    /// It strikes a part of the occasions: starts, loads, runs, requests.
    Occasion,
}

impl What {
    /// Every fault, in order.
    pub const ALL: [What; 29] = [
        What::ProcessKilled,
        What::PageCrash,
        What::SocketDrop,
        What::Hang,
        What::DeviceLoss,
        What::DeviceLossRepeated,
        What::SlowsDown,
        What::MemoryGrows,
        What::DaemonKilled,
        What::LoadPeak,
        What::StartFails,
        What::StartHangs,
        What::LoadFails,
        What::LoadHangs,
        What::LoadUnsupported,
        What::RunFails,
        What::RunHangs,
        What::RunSlow,
        What::WrongResult,
        What::ProbeFails,
        What::ProbeHangs,
        What::CommitFails,
        What::CommitSlow,
        What::StaleReport,
        What::ForeignReport,
        What::DuplicateReport,
        What::LateReport,
        What::ClientCancels,
        What::DeadlineShort,
    ];

    /// Name as in reports and plans.
    pub fn name(self) -> &'static str {
        match self {
            What::ProcessKilled => "process_killed",
            What::PageCrash => "page_crash",
            What::SocketDrop => "socket_drop",
            What::Hang => "hang",
            What::DeviceLoss => "device_loss",
            What::DeviceLossRepeated => "device_loss_repeated",
            What::SlowsDown => "slows_down",
            What::MemoryGrows => "memory_grows",
            What::DaemonKilled => "daemon_killed",
            What::LoadPeak => "load_peak",
            What::StartFails => "start_fails",
            What::StartHangs => "start_hangs",
            What::LoadFails => "load_fails",
            What::LoadHangs => "load_hangs",
            What::LoadUnsupported => "load_unsupported",
            What::RunFails => "run_fails",
            What::RunHangs => "run_hangs",
            What::RunSlow => "run_slow",
            What::WrongResult => "wrong_result",
            What::ProbeFails => "probe_fails",
            What::ProbeHangs => "probe_hangs",
            What::CommitFails => "commit_fails",
            What::CommitSlow => "commit_slow",
            What::StaleReport => "stale_report",
            What::ForeignReport => "foreign_report",
            What::DuplicateReport => "duplicate_report",
            What::LateReport => "late_report",
            What::ClientCancels => "client_cancels",
            What::DeadlineShort => "deadline_short",
        }
    }

    /// What its rate refers to.
    pub fn scope(self) -> Scope {
        match self {
            What::ProcessKilled
            | What::PageCrash
            | What::SocketDrop
            | What::Hang
            | What::DeviceLoss
            | What::DeviceLossRepeated
            | What::SlowsDown
            | What::MemoryGrows => Scope::Browser,
            What::DaemonKilled | What::LoadPeak => Scope::Fleet,
            What::StartFails
            | What::StartHangs
            | What::LoadFails
            | What::LoadHangs
            | What::LoadUnsupported
            | What::RunFails
            | What::RunHangs
            | What::RunSlow
            | What::WrongResult
            | What::ProbeFails
            | What::ProbeHangs
            | What::CommitFails
            | What::CommitSlow
            | What::StaleReport
            | What::ForeignReport
            | What::DuplicateReport
            | What::LateReport
            | What::ClientCancels
            | What::DeadlineShort => Scope::Occasion,
        }
    }
}

/// One kind of fault over a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What goes wrong.
    pub what: What,
    /// How likely: times per hour for each browser or for the fleet, or percent of the occasions, by [`What::scope`].
    pub odds: f64,
    /// Not before this many seconds.
    #[serde(default)]
    pub from_s: f64,
    /// Healed after this many seconds; never, where it is missing.
    #[serde(default)]
    pub until_s: Option<f64>,
}

impl Fault {
    /// A fault from the beginning to the end.
    pub fn new(what: What, odds: f64) -> Fault {
        Fault { what, odds, from_s: 0.0, until_s: None }
    }

    /// Whether it may strike now.
    pub fn is_on(&self, now: Instant) -> bool {
        let now = now.0.as_secs_f64();
        self.from_s <= now && self.until_s.is_none_or(|until| now < until)
    }

    /// Mean time between two strikes, for what strikes by the hour; `None` for a fault that never does.
    pub(super) fn mean(&self) -> Option<Duration> {
        Duration::try_from_secs_f64(3600.0 / self.odds).ok().filter(|mean| !mean.is_zero())
    }
}

/// How often each fault was played.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fired([u64; What::ALL.len()]);

impl Default for Fired {
    fn default() -> Fired {
        Fired([0; What::ALL.len()])
    }
}

impl Fired {
    pub(super) fn count(&mut self, what: What) {
        self.0[what as usize] += 1;
    }

    pub(super) fn each(&self) -> impl Iterator<Item = (What, u64)> + '_ {
        What::ALL.into_iter().map(|what| (what, self.0[what as usize]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_plans_and_the_list_is_whole() {
        for (index, what) in What::ALL.into_iter().enumerate() {
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
