//! What is known of a browser's health: signs of life, probes, memory and speed.

use flotilla_protocol::{Backend, RunId};

use crate::event::Instant;

/// Weight of a run in its browser's slowness, and the most that one counts for: a browser is not blamed for one outlier.
const SLOWNESS_WEIGHT: f64 = 0.1;
const SLOWNESS_CAP: f64 = 10.0;

/// Signs of life, probes, memory and speed of one browser.
#[derive(Debug)]
pub(super) struct Health {
    heartbeat_at: Instant,
    /// When a run or a probe last showed that it computes, or a probe last failed.
    proved_at: Instant,
    probe: Option<Probe>,
    probe_failures: u32,
    /// Memory of the process tree when it was last reported.
    used_bytes: u64,
    /// Runs that it has ended.
    jobs: u64,
    /// How much slower than usual its runs were lately; 1 where they were as usual.
    slowness: f64,
}

/// A probe under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    pub(super) id: RunId,
    pub(super) backend: Backend,
    /// When it has taken too long.
    pub(super) until: Instant,
}

impl Health {
    pub(super) fn new(now: Instant) -> Health {
        Health {
            heartbeat_at: now,
            proved_at: now,
            probe: None,
            probe_failures: 0,
            used_bytes: 0,
            jobs: 0,
            slowness: 1.0,
        }
    }

    pub(super) fn heartbeat_at(&self) -> Instant {
        self.heartbeat_at
    }

    pub(super) fn proved_at(&self) -> Instant {
        self.proved_at
    }

    pub(super) fn probe(&self) -> Option<Probe> {
        self.probe
    }

    pub(super) fn probe_failures(&self) -> u32 {
        self.probe_failures
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    pub(super) fn jobs(&self) -> u64 {
        self.jobs
    }

    pub(super) fn slowness(&self) -> f64 {
        self.slowness
    }

    pub(super) fn heartbeat(&mut self, now: Instant) {
        self.heartbeat_at = now;
    }

    /// A run or a probe has shown that it computes.
    pub(super) fn proved(&mut self, now: Instant) {
        self.proved_at = now;
        self.probe_failures = 0;
    }

    /// It has computed, which delays the next probe.
    pub(super) fn computed_at(&mut self, now: Instant) {
        self.proved_at = now;
    }

    pub(super) fn begin_probe(&mut self, probe: Probe) {
        self.probe = Some(probe);
    }

    pub(super) fn end_probe(&mut self) {
        self.probe = None;
    }

    /// The probe under way has failed; gives its backend and how many have failed in a row.
    pub(super) fn probe_failed(&mut self, now: Instant) -> Option<(Backend, u32)> {
        let probe = self.probe.take()?;
        self.proved_at = now;
        self.probe_failures += 1;
        Some((probe.backend, self.probe_failures))
    }

    pub(super) fn uses(&mut self, used_bytes: u64) {
        self.used_bytes = used_bytes;
    }

    /// Counts a run, and how much slower than usual it was where that is known.
    pub(super) fn count_run(&mut self, slowness: Option<f64>) {
        self.jobs += 1;
        if let Some(slowness) = slowness {
            self.slowness += SLOWNESS_WEIGHT * (slowness.min(SLOWNESS_CAP) - self.slowness);
        }
    }
}
