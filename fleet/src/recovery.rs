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
    /// Run again on another browser.
    Migrate,
}

impl Rung {
    /// Words for messages.
    pub fn words(self) -> &'static str {
        match self {
            Rung::Migrate => "migrated to another browser",
        }
    }
}
