//! How soon, and how often, each recovery step led to an answer.

use std::{collections::BTreeMap, time::Duration};

use crate::recovery::{FailureKind, RecoveryStep};

/// Weight that earlier recoveries keep when one more is learned.
const DECAY: f64 = 0.8;
/// Recoveries before measured costs replace assumed ones.
const LEARNED_MIN: u32 = 3;
/// Assumed for a step that has helped more rarely, so that it is tried again at some time.
const SUCCESS_MIN: f64 = 0.1;

#[derive(Clone, Copy, Debug)]
struct Known {
    times: u32,
    seconds: f64,
    success: f64,
}

/// Learned by kind of failure, step, and whether a browser was ready to take the request at once.
#[derive(Debug, Default)]
pub(super) struct Experience {
    known: BTreeMap<(FailureKind, RecoveryStep, bool), Known>,
}

impl Experience {
    pub(super) fn learn(
        &mut self,
        failure: FailureKind,
        step: RecoveryStep,
        warm: bool,
        took: Duration,
        succeeded: bool,
    ) {
        let (seconds, success) = (took.as_secs_f64(), f64::from(u8::from(succeeded)));
        let known =
            self.known.entry((failure, step, warm)).or_insert(Known { times: 0, seconds, success });
        known.times = known.times.saturating_add(1);
        known.seconds = known.seconds * DECAY + seconds * (1.0 - DECAY);
        known.success = known.success * DECAY + success * (1.0 - DECAY);
    }

    /// Expected seconds until an answer by this step; a step that fails often is expected to take longer.
    pub(super) fn expected(&self, failure: FailureKind, step: RecoveryStep, warm: bool) -> f64 {
        match self.known.get(&(failure, step, warm)) {
            Some(known) if known.times >= LEARNED_MIN => {
                known.seconds / known.success.max(SUCCESS_MIN)
            }
            Some(_) | None => assumed_seconds(step, warm),
        }
    }
}

/// Assumed seconds until an answer before any were measured: the order of magnitude that a page, a load and a browser's
/// start take on a small machine. Only orders steps; never shown.
fn assumed_seconds(step: RecoveryStep, warm: bool) -> f64 {
    match (step, warm) {
        (RecoveryStep::Separate, _) => 0.0,
        (RecoveryStep::Retry, true) => 0.05,
        (RecoveryStep::Migrate, true) => 0.02,
        (RecoveryStep::Retry, false) => 1.0,
        (RecoveryStep::Reset, _) => 2.0,
        (RecoveryStep::Migrate, false) => 1.5,
        (RecoveryStep::Reconstruct, _) => 4.0,
        (RecoveryStep::Simulate, _) => 8.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_replaces_what_was_assumed() {
        let mut experience = Experience::default();
        let kind = FailureKind::PageCrashed;
        let assumed = experience.expected(kind, RecoveryStep::Reset, false);
        for _ in 0..LEARNED_MIN {
            assert_eq!(experience.expected(kind, RecoveryStep::Reset, false), assumed);
            experience.learn(kind, RecoveryStep::Reset, false, Duration::from_millis(300), true);
        }
        assert!((experience.expected(kind, RecoveryStep::Reset, false) - 0.3).abs() < 1e-9);
        for _ in 0..20 {
            experience.learn(kind, RecoveryStep::Reset, false, Duration::from_millis(300), false);
        }
        assert!(
            experience.expected(kind, RecoveryStep::Reset, false) > 2.0,
            "a step that never helps"
        );
        assert_eq!(
            experience.expected(FailureKind::DeviceLost, RecoveryStep::Reset, false),
            assumed,
            "another kind"
        );
    }
}
