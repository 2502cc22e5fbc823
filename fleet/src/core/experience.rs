//! What helped against which failure here, and how soon.

use std::{collections::BTreeMap, time::Duration};

use crate::recovery::{FailureKind, Rung};

/// Weight that what is known keeps when something new is learned.
const DECAY: f64 = 0.8;
/// Recoveries before what was measured counts for more than what was assumed.
const LEARNED_MIN: u32 = 3;
/// However rarely a rung has helped, it is not counted out for ever.
const SUCCESS_MIN: f64 = 0.1;

#[derive(Clone, Copy, Debug)]
struct Known {
    times: u32,
    seconds: f64,
    success: f64,
}

/// Learned by kind of failure, rung, and whether a browser was ready to take the request at once.
#[derive(Debug, Default)]
pub(super) struct Experience {
    known: BTreeMap<(FailureKind, Rung, bool), Known>,
}

impl Experience {
    pub(super) fn learn(
        &mut self,
        failure: FailureKind,
        rung: Rung,
        warm: bool,
        took: Duration,
        succeeded: bool,
    ) {
        let (seconds, success) = (took.as_secs_f64(), f64::from(u8::from(succeeded)));
        let known =
            self.known.entry((failure, rung, warm)).or_insert(Known { times: 0, seconds, success });
        known.times = known.times.saturating_add(1);
        known.seconds = known.seconds * DECAY + seconds * (1.0 - DECAY);
        known.success = known.success * DECAY + success * (1.0 - DECAY);
    }

    /// Seconds until an answer that the rung is expected to cost, failures included.
    pub(super) fn expected(&self, failure: FailureKind, rung: Rung, warm: bool) -> f64 {
        match self.known.get(&(failure, rung, warm)) {
            Some(known) if known.times >= LEARNED_MIN => {
                known.seconds / known.success.max(SUCCESS_MIN)
            }
            Some(_) | None => assumed_seconds(rung, warm),
        }
    }
}

/// What a rung is taken to cost before anything is known: the order of magnitude that a page, a load and a browser's start
/// take on a small machine. Only orders rungs; never shown.
fn assumed_seconds(rung: Rung, warm: bool) -> f64 {
    match (rung, warm) {
        (Rung::Separate, _) => 0.0,
        (Rung::Retry, true) => 0.05,
        (Rung::Migrate, true) => 0.02,
        (Rung::Retry, false) => 1.0,
        (Rung::Reset, _) => 2.0,
        (Rung::Migrate, false) => 1.5,
        (Rung::Reconstruct, _) => 4.0,
        (Rung::Simulate, _) => 8.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_replaces_what_was_assumed() {
        let mut experience = Experience::default();
        let kind = FailureKind::PageCrashed;
        let assumed = experience.expected(kind, Rung::Reset, false);
        for _ in 0..LEARNED_MIN {
            assert_eq!(experience.expected(kind, Rung::Reset, false), assumed);
            experience.learn(kind, Rung::Reset, false, Duration::from_millis(300), true);
        }
        assert!((experience.expected(kind, Rung::Reset, false) - 0.3).abs() < 1e-9);
        for _ in 0..20 {
            experience.learn(kind, Rung::Reset, false, Duration::from_millis(300), false);
        }
        assert!(experience.expected(kind, Rung::Reset, false) > 2.0, "a rung that never helps");
        assert_eq!(
            experience.expected(FailureKind::DeviceLost, Rung::Reset, false),
            assumed,
            "another kind"
        );
    }
}
