//! Recoveries from failures, counted and timed since the pool was started.

use std::{collections::BTreeMap, time::Duration};

use flotilla_fleet::{FailureKind, Recovered, Recovery};
use serde::Serialize;

/// Most durations that are kept of a sort; the oldest is dropped.
const KEPT_MAX: usize = 4096;

/// Recoveries of one sort.
#[derive(Clone, Debug, Default)]
struct Sort {
    succeeded: u64,
    failed: u64,
    /// Of those that succeeded.
    took: Vec<Duration>,
}

/// By failure, by what recovered (a request or a browser), and by its step.
#[derive(Clone, Debug, Default)]
pub(super) struct Recoveries {
    sorts: BTreeMap<(FailureKind, &'static str, &'static str), Sort>,
}

/// Recoveries of one sort in figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RecoverySummary {
    /// What had failed.
    pub failure: FailureKind,
    /// `request` or `browser`.
    pub of: &'static str,
    /// The recovery step that a request took, or the repair of a browser.
    pub step: &'static str,
    /// How often it succeeded.
    pub succeeded: u64,
    /// How often another failure came first.
    pub failed: u64,
    /// Median time from the failure to its end, in milliseconds, of the latest that succeeded.
    pub p50_ms: f64,
    /// 95th percentile of the same.
    pub p95_ms: f64,
}

impl Recoveries {
    pub(super) fn add(&mut self, recovery: &Recovery) {
        let (of, step) = words(recovery);
        let sort = self.sorts.entry((recovery.failure, of, step)).or_default();
        if recovery.succeeded {
            sort.succeeded += 1;
            if sort.took.len() == KEPT_MAX {
                sort.took.remove(0);
            }
            sort.took.push(recovery.took);
        } else {
            sort.failed += 1;
        }
    }

    pub(super) fn summaries(&self) -> Vec<RecoverySummary> {
        self.sorts
            .iter()
            .map(|(&(failure, of, step), sort)| {
                let mut took = sort.took.clone();
                took.sort_unstable();
                RecoverySummary {
                    failure,
                    of,
                    step,
                    succeeded: sort.succeeded,
                    failed: sort.failed,
                    p50_ms: quantile_ms(&took, 0.5),
                    p95_ms: quantile_ms(&took, 0.95),
                }
            })
            .collect()
    }
}

/// Names of what recovered and of the step.
pub(super) fn words(recovery: &Recovery) -> (&'static str, &'static str) {
    match recovery.what {
        Recovered::Request(_, step) => ("request", step.name()),
        Recovered::Browser(_, repair) => ("browser", repair.name()),
    }
}

/// Nearest-rank quantile of sorted durations; 0 of none.
fn quantile_ms(sorted: &[Duration], quantile: f64) -> f64 {
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).map_or(0.0, |took| took.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use flotilla_fleet::{RecoveryStep, SlotId};
    use flotilla_protocol::{BrowserId, RequestId};

    use super::*;

    #[test]
    fn kinds_are_counted_separately() {
        let mut recoveries = Recoveries::default();
        let mut add = |what, ms, succeeded| {
            recoveries.add(&Recovery {
                failure: FailureKind::PageCrashed,
                browser: BrowserId(1),
                what,
                took: Duration::from_millis(ms),
                succeeded,
            });
        };
        for ms in 1..=20 {
            add(Recovered::Request(RequestId(ms), RecoveryStep::Migrate), ms, true);
        }
        add(Recovered::Request(RequestId(21), RecoveryStep::Migrate), 500, false);
        add(Recovered::Browser(SlotId(0), flotilla_fleet::Repair::Replace), 7, true);
        let summaries = recoveries.summaries();
        let reported: Vec<_> = summaries
            .iter()
            .map(|sort| (sort.of, sort.step, sort.succeeded, sort.failed, sort.p50_ms, sort.p95_ms))
            .collect();
        assert_eq!(
            reported,
            [("browser", "replace", 1, 0, 7.0, 7.0), ("request", "migrate", 20, 1, 10.0, 19.0)]
        );
    }
}
