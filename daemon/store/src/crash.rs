//! Points at which a test ends this process as a power cut would.
//!
//! `FLOTILLA_CRASH_AT=<step>:<n>` kills the process with SIGKILL when it reaches the step for the n-th time, counted from 1.
//! Without the variable a point costs one branch. It is there in release builds because the suites test the very program
//! that is released.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

/// A step of the store at which a process can be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A group of transactions is about to be written.
    BeforeBegin,
    /// SQLite's transaction is open, nothing is written.
    AfterBegin,
    /// The journal's rows are written, what belongs to them is not.
    AfterChanges,
    /// Everything is written, nothing is durable.
    BeforeCommit,
    /// The first file has it, the copy has not.
    AfterCommit,
    /// Both files have it.
    AfterCopy,
    /// Everything is durable, and no commit is confirmed yet.
    BeforeConfirm,
    /// The journal is about to be folded into the records.
    BeforeCheckpoint,
    /// The first file's journal is folded, the copy's is not.
    AmidCheckpoint,
}

impl Step {
    /// Every step, in the order of a commit and of a checkpoint.
    pub(crate) const ALL: [Step; 9] = [
        Step::BeforeBegin,
        Step::AfterBegin,
        Step::AfterChanges,
        Step::BeforeCommit,
        Step::AfterCommit,
        Step::AfterCopy,
        Step::BeforeConfirm,
        Step::BeforeCheckpoint,
        Step::AmidCheckpoint,
    ];

    /// Name as in the environment variable.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Step::BeforeBegin => "before_begin",
            Step::AfterBegin => "after_begin",
            Step::AfterChanges => "after_changes",
            Step::BeforeCommit => "before_commit",
            Step::AfterCommit => "after_commit",
            Step::AfterCopy => "after_copy",
            Step::BeforeConfirm => "before_confirm",
            Step::BeforeCheckpoint => "before_checkpoint",
            Step::AmidCheckpoint => "amid_checkpoint",
        }
    }
}

struct Order {
    step: Step,
    /// How often the step is still passed without a crash, plus one.
    left: AtomicU64,
}

static ORDER: OnceLock<Option<Order>> = OnceLock::new();

/// Ends the process here if `FLOTILLA_CRASH_AT` names this step.
pub(crate) fn point(step: Step) {
    let Some(order) = ORDER.get_or_init(ordered) else { return };
    if order.step == step && order.left.fetch_sub(1, Ordering::Relaxed) == 1 {
        end();
    }
}

fn ordered() -> Option<Order> {
    let requested = std::env::var("FLOTILLA_CRASH_AT").ok()?;
    let order = parse(&requested);
    if order.is_none() {
        tracing::error!(requested, "FLOTILLA_CRASH_AT is not <step>:<n>, so nothing will crash");
    }
    order
}

fn parse(requested: &str) -> Option<Order> {
    let (name, count) = requested.split_once(':')?;
    let step = Step::ALL.into_iter().find(|step| step.name() == name)?;
    let count: u64 = count.parse().ok().filter(|&count| count > 0)?;
    Some(Order { step, left: AtomicU64::new(count) })
}

fn end() -> ! {
    // The process must not go on if the signal is delayed or cannot be sent.
    if rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
        .is_ok()
    {
        loop {
            std::thread::park();
        }
    }
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_names_a_step_and_a_count() {
        for step in Step::ALL {
            let order = parse(&format!("{}:3", step.name())).unwrap();
            assert_eq!((order.step, order.left.into_inner()), (step, 3));
        }
        for wrong in ["", "after_copy", "after_copy:0", "after_copy:x", "nowhere:1"] {
            assert!(parse(wrong).is_none(), "{wrong:?}");
        }
    }
}
