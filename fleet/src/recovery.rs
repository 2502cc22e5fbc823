//! Failure kinds and the recovery ladder.

use flotilla_protocol::BrowserId;
use serde::{Deserialize, Serialize};

/// What can go wrong with a browser or a run. Closed: whoever reacts to failures matches every kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// A link closed while the browser's process lives.
    ConnectionLost,
    /// The page or its worker ended.
    PageCrashed,
    /// The browser's process ended.
    BrowserExited,
    /// The driver does not answer or could not be started.
    DriverUnresponsive,
    /// The GPU device was lost.
    DeviceLost,
    /// Memory could not be had in the page.
    OutOfMemory,
    /// A run, a load or a start took longer than it may.
    DeadlineExceeded,
    /// The process tree grew over its limit.
    MemoryLimitExceeded,
    /// The backend cannot do what the model needs, or refuses its inputs.
    UnsupportedOperation,
    /// Bytes or numbers were wrong.
    WrongResult,
    /// A queue was full.
    Overloaded,
}

impl FailureKind {
    /// Words for messages.
    pub fn words(self) -> &'static str {
        match self {
            FailureKind::ConnectionLost => "connection lost",
            FailureKind::PageCrashed => "page crashed",
            FailureKind::BrowserExited => "browser exited",
            FailureKind::DriverUnresponsive => "driver unresponsive",
            FailureKind::DeviceLost => "device lost",
            FailureKind::OutOfMemory => "out of memory",
            FailureKind::DeadlineExceeded => "took too long",
            FailureKind::MemoryLimitExceeded => "memory limit exceeded",
            FailureKind::UnsupportedOperation => "unsupported operation",
            FailureKind::WrongResult => "wrong result",
            FailureKind::Overloaded => "overloaded",
        }
    }
}

/// A failure with its circumstances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}: {detail}", kind.words())]
pub struct Failure {
    /// What it is.
    pub kind: FailureKind,
    /// The browser's, driver's or system's words.
    pub detail: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: FailureKind, detail: impl Into<String>) -> Failure {
        Failure { kind, detail: detail.into() }
    }
}

/// A try that did not lead to an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Where it was tried.
    pub browser: BrowserId,
    /// What happened.
    pub failure: Failure,
    /// How the request went on from there; `None` if it did not.
    pub rung: Option<Rung>,
}

impl std::fmt::Display for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on browser {}", self.failure, self.browser)?;
        match self.rung {
            Some(rung) => write!(f, ", then {}", rung.words()),
            None => Ok(()),
        }
    }
}

/// A step of the recovery ladder that a request can take after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// Run again without the requests it was joined with. Not a step of the ladder but a way out of another's failure:
    /// inputs that a backend refuses must not cost the answers of requests that happened to share the run.
    Separate,
    /// Run again on the same browser, because there is no other and none is coming. Takes the place of `Migrate` and is
    /// paid from its budget.
    Retry,
    /// Run again on another browser.
    Migrate,
}

impl Rung {
    /// Words for messages.
    pub fn words(self) -> &'static str {
        match self {
            Rung::Separate => "run again alone",
            Rung::Retry => "run again on the same browser",
            Rung::Migrate => "migrated to another browser",
        }
    }
}

/// Where a failure sends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Onto the ladder at this rung; rungs before it cannot cure the failure.
    Rung(Rung),
    /// Nowhere: no browser can cure it.
    Final,
}

/// Where a kind of failure enters the ladder.
pub fn entry(kind: FailureKind) -> Entry {
    match kind {
        FailureKind::ConnectionLost
        | FailureKind::PageCrashed
        | FailureKind::BrowserExited
        | FailureKind::DriverUnresponsive
        | FailureKind::DeviceLost
        | FailureKind::OutOfMemory
        | FailureKind::DeadlineExceeded
        | FailureKind::MemoryLimitExceeded
        | FailureKind::WrongResult
        | FailureKind::Overloaded => Entry::Rung(Rung::Migrate),
        // The model loaded, so what is refused are the request's inputs, and every browser would refuse them.
        FailureKind::UnsupportedOperation => Entry::Final,
    }
}

/// What is done to a browser whose run failed, beside and independent of what the run's requests do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// It is as good as before.
    Nothing,
    /// The placement is loaded anew in a new epoch.
    Reload,
    /// The GPU device is gone and every webgpu placement with it; they are loaded anew.
    RenewDevice,
    /// The browser is killed and its slot gets another one.
    Replace,
}

/// What a failed run of this kind says about its browser.
pub fn repair(kind: FailureKind) -> Repair {
    match kind {
        FailureKind::ConnectionLost
        | FailureKind::PageCrashed
        | FailureKind::BrowserExited
        | FailureKind::DriverUnresponsive
        | FailureKind::DeadlineExceeded
        | FailureKind::MemoryLimitExceeded => Repair::Replace,
        FailureKind::DeviceLost => Repair::RenewDevice,
        FailureKind::WrongResult => Repair::Reload,
        FailureKind::OutOfMemory | FailureKind::UnsupportedOperation | FailureKind::Overloaded => {
            Repair::Nothing
        }
    }
}

/// How often a request may take each rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budgets {
    pub(crate) migrate_max: u32,
}

impl Budgets {
    /// Whether the attempts so far leave a try of a rung.
    fn allow(self, rung: Rung, tried: &[Attempt]) -> bool {
        let (limit, spent): (u32, fn(Rung) -> bool) = match rung {
            Rung::Separate => (1, |rung| rung == Rung::Separate),
            Rung::Retry | Rung::Migrate => (self.migrate_max, |rung| rung != Rung::Separate),
        };
        tried.iter().filter_map(|attempt| attempt.rung).filter(|&rung| spent(rung)).count()
            < limit as usize
    }
}

/// The rungs from the cheapest to the last resort.
const LADDER: [Rung; 1] = [Rung::Migrate];

/// How a request goes on after a failure: the first rung, from the failure's entry on, whose budget is not used up.
///
/// `joined` says whether the failed run carried other requests too; `tried` are the attempts before this one.
pub(crate) fn next(
    kind: FailureKind,
    joined: bool,
    tried: &[Attempt],
    budgets: Budgets,
) -> Option<Rung> {
    let affordable = |&rung: &Rung| budgets.allow(rung, tried);
    match entry(kind) {
        Entry::Final => Some(Rung::Separate).filter(|_| joined).filter(affordable),
        Entry::Rung(first) => LADDER.into_iter().skip_while(|&rung| rung != first).find(affordable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(rungs: &[Rung]) -> Vec<Attempt> {
        let failure = Failure::new(FailureKind::PageCrashed, "");
        rungs
            .iter()
            .map(|&rung| Attempt {
                browser: BrowserId(1),
                failure: failure.clone(),
                rung: Some(rung),
            })
            .collect()
    }

    #[test]
    fn the_ladder_ends_when_its_budgets_are_used_up() {
        use FailureKind::{PageCrashed, UnsupportedOperation};
        use Rung::{Migrate, Retry, Separate};
        type Case = (FailureKind, bool, &'static [Rung], u32, Option<Rung>);
        let cases: [Case; 10] = [
            (PageCrashed, false, &[], 1, Some(Migrate)),
            (PageCrashed, true, &[], 1, Some(Migrate)),
            (PageCrashed, false, &[], 0, None),
            (PageCrashed, false, &[Migrate], 1, None),
            (PageCrashed, false, &[Migrate], 2, Some(Migrate)),
            (PageCrashed, false, &[Retry, Migrate], 2, None),
            (PageCrashed, false, &[Separate], 1, Some(Migrate)),
            (UnsupportedOperation, false, &[], 9, None),
            (UnsupportedOperation, true, &[], 0, Some(Separate)),
            (UnsupportedOperation, true, &[Separate], 9, None),
        ];
        for (kind, joined, taken, migrate_max, want) in cases {
            let got = next(kind, joined, &after(taken), Budgets { migrate_max });
            assert_eq!(
                got, want,
                "{kind:?}, joined {joined}, after {taken:?}, budget {migrate_max}"
            );
        }
    }
}
