//! Failure kinds, the recovery steps of requests, and the repairs of browsers, which are independent of them.

use std::time::Duration;

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
    /// The page could not allocate memory.
    OutOfMemory,
    /// A run, a load or a start took longer than it may.
    DeadlineExceeded,
    /// The process tree grew over its limit.
    MemoryLimitExceeded,
    /// The backend cannot do what the model needs, or refuses its inputs.
    UnsupportedOperation,
    /// The model is there, but a node of it does not take the sizes or values of this run.
    RunRefused,
    /// Bytes or numbers were wrong.
    WrongResult,
    /// A queue was full.
    Overloaded,
}

impl FailureKind {
    /// Every kind, in order.
    pub const ALL: [FailureKind; 12] = [
        FailureKind::ConnectionLost,
        FailureKind::PageCrashed,
        FailureKind::BrowserExited,
        FailureKind::DriverUnresponsive,
        FailureKind::DeviceLost,
        FailureKind::OutOfMemory,
        FailureKind::DeadlineExceeded,
        FailureKind::MemoryLimitExceeded,
        FailureKind::UnsupportedOperation,
        FailureKind::RunRefused,
        FailureKind::WrongResult,
        FailureKind::Overloaded,
    ];

    /// What it is about.
    pub fn sort(self) -> FailureSort {
        match self {
            FailureKind::UnsupportedOperation | FailureKind::RunRefused => FailureSort::Refusal,
            FailureKind::DeviceLost => FailureSort::Device,
            FailureKind::WrongResult => FailureSort::Numbers,
            FailureKind::DeadlineExceeded => FailureSort::Time,
            FailureKind::ConnectionLost
            | FailureKind::PageCrashed
            | FailureKind::BrowserExited
            | FailureKind::DriverUnresponsive
            | FailureKind::OutOfMemory
            | FailureKind::MemoryLimitExceeded
            | FailureKind::Overloaded => FailureSort::Other,
        }
    }

    /// Whether it is about what a run was asked to do, and says nothing of the browser.
    pub fn is_refusal(self) -> bool {
        self.sort() == FailureSort::Refusal
    }

    /// Name as in records.
    pub fn name(self) -> &'static str {
        match self {
            FailureKind::ConnectionLost => "connection_lost",
            FailureKind::PageCrashed => "page_crashed",
            FailureKind::BrowserExited => "browser_exited",
            FailureKind::DriverUnresponsive => "driver_unresponsive",
            FailureKind::DeviceLost => "device_lost",
            FailureKind::OutOfMemory => "out_of_memory",
            FailureKind::DeadlineExceeded => "deadline_exceeded",
            FailureKind::MemoryLimitExceeded => "memory_limit_exceeded",
            FailureKind::UnsupportedOperation => "unsupported_operation",
            FailureKind::RunRefused => "run_refused",
            FailureKind::WrongResult => "wrong_result",
            FailureKind::Overloaded => "overloaded",
        }
    }

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
            FailureKind::RunRefused => "run refused",
            FailureKind::WrongResult => "wrong result",
            FailureKind::Overloaded => "overloaded",
        }
    }
}

/// What a failure is about, as far as decisions depend on it. Kinds are never compared with `==`: code that depends on the
/// kind matches all of them, here or where it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureSort {
    /// What a run was asked to do.
    Refusal,
    /// A device that is gone.
    Device,
    /// Numbers or bytes that are wrong.
    Numbers,
    /// Something that took too long.
    Time,
    /// Anything else.
    Other,
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
    /// The step that the request took next; `None` if it took none.
    #[serde(rename = "rung")]
    pub step: Option<RecoveryStep>,
}

impl std::fmt::Display for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on browser {}", self.failure, self.browser)?;
        match self.step {
            Some(step) => write!(f, ", then {}", step.words()),
            None => Ok(()),
        }
    }
}

/// A step that a request can take after a failure, in order of cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryStep {
    /// Run again without the requests of its batch. It has no configured budget but a single try: inputs that a backend refuses
    /// must not cost the answers of requests that happened to share the run.
    Separate,
    /// Run again on the same browser.
    Retry,
    /// Run again on the same browser's new page, its model loaded anew.
    Reset,
    /// Run again on another browser.
    Migrate,
    /// Run again on a browser that is launched after the failure, from what is recorded of the request.
    Reconstruct,
    /// Run on a simulated browser, where the request allows it.
    Simulate,
}

impl RecoveryStep {
    /// The steps from the cheapest to the last resort.
    pub const LADDER: [RecoveryStep; 5] = [
        RecoveryStep::Retry,
        RecoveryStep::Reset,
        RecoveryStep::Migrate,
        RecoveryStep::Reconstruct,
        RecoveryStep::Simulate,
    ];

    /// Words for messages.
    pub fn words(self) -> &'static str {
        match self {
            RecoveryStep::Separate => "run again alone",
            RecoveryStep::Retry => "run again on the same browser",
            RecoveryStep::Reset => "run again on the browser's new page",
            RecoveryStep::Migrate => "migrated to another browser",
            RecoveryStep::Reconstruct => "reconstructed on a new browser",
            RecoveryStep::Simulate => "run on a simulated browser",
        }
    }

    /// Name as in options and records.
    pub fn name(self) -> &'static str {
        match self {
            RecoveryStep::Separate => "separate",
            RecoveryStep::Retry => "retry",
            RecoveryStep::Reset => "reset",
            RecoveryStep::Migrate => "migrate",
            RecoveryStep::Reconstruct => "reconstruct",
            RecoveryStep::Simulate => "simulate",
        }
    }
}

/// How requests recover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Of the steps from the first that may cure the failure's kind, the one that is expected to answer soonest; never a
    /// cheaper one than before.
    #[default]
    Progressive,
    /// At once to another browser.
    Immediate,
    /// Run again where it was, once that browser is repaired, together with the others that failed there. A model that is
    /// not sharded is a group of one placement.
    Coordinated,
}

impl Strategy {
    /// Every strategy.
    pub const ALL: [Strategy; 3] =
        [Strategy::Progressive, Strategy::Immediate, Strategy::Coordinated];

    /// Name as in options.
    pub fn name(self) -> &'static str {
        match self {
            Strategy::Progressive => "progressive",
            Strategy::Immediate => "immediate",
            Strategy::Coordinated => "coordinated",
        }
    }
}

/// What a request may spend on a recovery step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Most tries.
    pub tries_max: u32,
    /// Longest wait for a browser that the step allows; then the next step is taken.
    pub wait_max: Duration,
}

/// The budget of every recovery step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepBudgets {
    /// Of [`RecoveryStep::Retry`].
    pub retry: Budget,
    /// Of [`RecoveryStep::Reset`].
    pub reset: Budget,
    /// Of [`RecoveryStep::Migrate`].
    pub migrate: Budget,
    /// Of [`RecoveryStep::Reconstruct`].
    pub reconstruct: Budget,
    /// Of [`RecoveryStep::Simulate`].
    pub simulate: Budget,
}

impl Default for StepBudgets {
    fn default() -> StepBudgets {
        let budget =
            |tries_max, seconds| Budget { tries_max, wait_max: Duration::from_secs(seconds) };
        StepBudgets {
            retry: budget(1, 5),
            reset: budget(1, 15),
            migrate: budget(3, 30),
            reconstruct: budget(2, 60),
            simulate: budget(1, 60),
        }
    }
}

impl StepBudgets {
    /// The budget of a step; that of leaving a batch is one try, which waits as long as the request does.
    pub fn budget(&self, step: RecoveryStep) -> Budget {
        match step {
            RecoveryStep::Separate => Budget { tries_max: 1, wait_max: Duration::MAX },
            RecoveryStep::Retry => self.retry,
            RecoveryStep::Reset => self.reset,
            RecoveryStep::Migrate => self.migrate,
            RecoveryStep::Reconstruct => self.reconstruct,
            RecoveryStep::Simulate => self.simulate,
        }
    }

    /// Most attempts that a request can have: the first one, and every budget used up.
    pub fn attempts_max(&self) -> u32 {
        let tries = RecoveryStep::LADDER.into_iter().map(|step| self.budget(step).tries_max);
        // The first attempt, and leaving a batch.
        2 + tries.sum::<u32>()
    }
}

/// Where a failure sends a request first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// To this step or a later one; steps before it cannot cure the failure.
    Step(RecoveryStep),
    /// Nowhere: no browser can cure it.
    Final,
}

/// The first recovery step that may cure a kind of failure.
pub fn entry(kind: FailureKind) -> Entry {
    match kind {
        // The browser can run again, at once or as soon as its device is renewed.
        FailureKind::OutOfMemory | FailureKind::Overloaded | FailureKind::DeviceLost => {
            Entry::Step(RecoveryStep::Retry)
        }
        // The process lives, so a new page may do.
        FailureKind::ConnectionLost | FailureKind::PageCrashed | FailureKind::DeadlineExceeded => {
            Entry::Step(RecoveryStep::Reset)
        }
        // The browser is gone, or its results are not trusted, or another backend may accept the run.
        FailureKind::BrowserExited
        | FailureKind::DriverUnresponsive
        | FailureKind::MemoryLimitExceeded
        | FailureKind::RunRefused
        | FailureKind::WrongResult => Entry::Step(RecoveryStep::Migrate),
        // The model loaded, so what is refused are the request's inputs, and every browser would refuse them.
        FailureKind::UnsupportedOperation => Entry::Final,
    }
}

/// What is done to a browser that failed, beside and independent of what its requests do. In order of their cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    /// Nothing is done: the browser can run again.
    Nothing,
    /// The placement is loaded anew in a new epoch.
    Reload,
    /// The GPU device is gone and every webgpu placement with it; they are loaded anew, on a new device.
    RenewDevice,
    /// The browser gets a new page.
    ResetPage,
    /// The browser is killed and its slot gets another one.
    Replace,
}

impl Repair {
    /// Name as in records.
    pub fn name(self) -> &'static str {
        match self {
            Repair::Nothing => "nothing",
            Repair::Reload => "reload",
            Repair::RenewDevice => "renew_device",
            Repair::ResetPage => "reset_page",
            Repair::Replace => "replace",
        }
    }
}

/// The first repair that may cure a browser of a failure of this kind. Where it does not help, the next repair follows.
pub fn repair(kind: FailureKind) -> Repair {
    match kind {
        FailureKind::BrowserExited
        | FailureKind::DriverUnresponsive
        | FailureKind::MemoryLimitExceeded => Repair::Replace,
        FailureKind::ConnectionLost | FailureKind::PageCrashed | FailureKind::DeadlineExceeded => {
            Repair::ResetPage
        }
        FailureKind::DeviceLost => Repair::RenewDevice,
        FailureKind::WrongResult => Repair::Reload,
        FailureKind::OutOfMemory
        | FailureKind::UnsupportedOperation
        | FailureKind::RunRefused
        | FailureKind::Overloaded => Repair::Nothing,
    }
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum RequestError {
    #[error("queue is full: {queued} requests wait, the limit is {limit}")]
    Overloaded { queued: u32, limit: u32 },
    #[error("deadline passed{}", tried_words(.tried))]
    DeadlineExceeded { tried: Vec<Attempt> },
    #[error("every attempt failed{}", tried_words(.tried))]
    Failed { tried: Vec<Attempt> },
    #[error("no browser can run this model: {reason}")]
    Unplaceable { reason: String },
    #[error("the request could not be recorded: {reason}")]
    NotRecorded { reason: String },
    #[error("recovery took longer than {limit:?}{}", tried_words(.tried))]
    RecoveryTimeout { limit: Duration, tried: Vec<Attempt> },
    #[error("the browser of this task has ended")]
    #[serde(rename = "TaskEnded")]
    LeaseEnded { tried: Vec<Attempt> },
    #[error("the model was removed{}", tried_words(.tried))]
    ModelRemoved { tried: Vec<Attempt> },
    #[error("the daemon is shutting down")]
    Draining,
    #[error("model is not known")]
    UnknownModel,
}

fn tried_words(tried: &[Attempt]) -> String {
    tried.iter().map(|attempt| format!("; {attempt}")).collect()
}
