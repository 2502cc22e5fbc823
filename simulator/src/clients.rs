//! Clients and their requests, with each request's state.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use flotilla_fleet::{
    FailureKind, Instant, ModelId, Persistence, Policy, RecoveryStep,
    state::{Outcome, TransactionId},
};
use flotilla_protocol::{RequestId, RunId};

use crate::{
    durations::Durations,
    invariants::{Checker, Invariant, Violation},
};

/// A request that has not ended.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) model: ModelId,
    pub(crate) rows: u32,
    pub(crate) length: u32,
    pub(crate) policy: Policy,
    pub(crate) asked_at: Instant,
    pub(crate) deadline: Instant,
    /// Time from which it may run.
    since: Instant,
    pub(crate) run: Option<RunId>,
    /// Whether it has ever been in a run.
    dispatched: bool,
    pub(crate) failed: Option<(FailureKind, Instant)>,
    /// The unconfirmed transaction that writes it.
    recording: Option<TransactionId>,
    /// Its record is on disk.
    is_recorded: bool,
    /// Its outcome is on disk.
    pub(crate) outcome: Option<Outcome>,
    /// Its outcome is being written.
    ends: bool,
    /// A transaction that writes it has failed.
    pub(crate) refused: bool,
}

impl Request {
    pub(crate) fn new(
        now: Instant,
        (model, rows, length): (ModelId, u32, u32),
        deadline: Instant,
        policy: Policy,
    ) -> Request {
        Request {
            model,
            rows,
            length,
            policy,
            asked_at: now,
            deadline,
            since: now,
            run: None,
            dispatched: false,
            failed: None,
            recording: None,
            is_recorded: policy.persistence == Persistence::Recorded,
            outcome: None,
            ends: false,
            refused: false,
        }
    }

    /// Whether it and its outcome are recorded.
    pub(crate) fn persists(&self) -> bool {
        match self.policy.persistence {
            Persistence::None => false,
            Persistence::Record | Persistence::Recorded => true,
        }
    }

    /// Whether its outcome is on disk or being written.
    pub(crate) fn is_ending(&self) -> bool {
        self.ends
    }

    /// Whether it waits in the queue for its first run, and any regular browser may run it.
    fn waits_for_first_run(&self) -> bool {
        !self.dispatched
            && !self.ends
            && self.policy.lease.is_none()
            // It may already wait for a simulated browser when a real one comes back.
            && !self.policy.fallback_to_simulation
            && (!self.persists() || self.is_recorded)
    }

    /// Whether it counts for the queue's limit. A request that an earlier daemon has accepted does not.
    fn counts(&self) -> bool {
        !self.dispatched && !self.ends && self.policy.persistence != Persistence::Recorded
    }
}

/// All open requests, and counts of those that have ended.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    open: BTreeMap<RequestId, Request>,
    /// Deadlines of requests that no transaction is writing.
    deadlines: BTreeSet<(Instant, RequestId)>,
    /// Requests that wait for their first run, the oldest first.
    pub(crate) first_runs: BTreeMap<ModelId, BTreeSet<(Instant, RequestId)>>,
    pub(crate) queued: u64,
    /// Models that were added to the core.
    pub(crate) known: BTreeSet<ModelId>,
    /// Requests that were recorded or to be recorded when the daemon was killed.
    pub(crate) interrupted: BTreeMap<RequestId, Request>,
    pub(crate) peak_until: Instant,
    pub(crate) asked: u64,
    pub(crate) counts: RequestCounts,
}

/// What became of requests.
#[derive(Debug, Default)]
pub(crate) struct RequestCounts {
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    pub(crate) failed: BTreeMap<&'static str, u64>,
    pub(crate) cancelled: u64,
    pub(crate) lost: u64,
    pub(crate) unreachable: u64,
    pub(crate) recorded: u64,
    pub(crate) from_record: u64,
    pub(crate) taken_over: u64,
    pub(crate) asked_again: u64,
    pub(crate) latency: Durations,
    pub(crate) recoveries: BTreeMap<(FailureKind, RecoveryStep), Durations>,
}

impl Clients {
    /// How many requests have not ended.
    pub(crate) fn open(&self) -> u64 {
        self.open.len() as u64
    }

    pub(crate) fn get(&self, id: RequestId) -> Option<&Request> {
        self.open.get(&id)
    }

    /// The daemon was killed: requests that are not to be recorded are lost.
    pub(crate) fn lose_daemon(&mut self) {
        for (id, request) in std::mem::take(&mut self.open) {
            if request.persists() {
                self.interrupted.insert(id, request);
            } else {
                self.counts.lost += 1;
            }
        }
        self.deadlines.clear();
        self.first_runs.clear();
        self.queued = 0;
        self.known.clear();
    }

    pub(crate) fn accept(&mut self, id: RequestId, request: Request) {
        self.deadlines.insert((request.deadline, id));
        self.queued += u64::from(request.counts());
        if request.waits_for_first_run() {
            self.first_runs.entry(request.model).or_default().insert((request.since, id));
        }
        self.open.insert(id, request);
    }

    /// Puts a request into a run; returns the run that it was in before.
    pub(crate) fn start_run(
        &mut self,
        id: RequestId,
        run: RunId,
        checker: &mut Checker,
    ) -> Result<(Request, Option<RunId>), Violation> {
        let request = checker.require(Invariant::OneAnswer, self.open.get_mut(&id), || {
            format!("{id} runs in {run} though it has ended or was never asked")
        })?;
        let may = !request.persists() || request.is_recorded;
        checker.check(Invariant::RecordedFirst, may, || {
            format!("{id} runs in {run}, and is not recorded yet")
        })?;
        let ends = request.ends;
        checker.check(Invariant::OneAnswer, !ends, || {
            format!("{id} runs in {run}, and its outcome is being recorded")
        })?;
        let before = request.run.replace(run);
        if !request.dispatched {
            self.queued -= u64::from(request.counts());
            request.dispatched = true;
            if let Some(first_runs) = self.first_runs.get_mut(&request.model) {
                first_runs.remove(&(request.since, id));
            }
        }
        Ok((request.clone(), before))
    }

    /// A request's run has ended without results for it.
    pub(crate) fn lose_run(&mut self, id: RequestId, run: RunId, why: FailureKind, now: Instant) {
        if let Some(request) = self.open.get_mut(&id)
            && request.run == Some(run)
        {
            request.run = None;
            request.failed.get_or_insert((why, now));
        }
    }

    /// Removes a request.
    pub(crate) fn end(&mut self, id: RequestId) -> Option<Request> {
        let request = self.open.remove(&id)?;
        self.deadlines.remove(&(request.deadline, id));
        self.queued -= u64::from(request.counts());
        if !request.dispatched
            && let Some(first_runs) = self.first_runs.get_mut(&request.model)
        {
            first_runs.remove(&(request.since, id));
        }
        Some(request)
    }

    /// A transaction that writes a request is queued.
    pub(crate) fn begin_recording(
        &mut self,
        id: RequestId,
        transaction: TransactionId,
        ends: bool,
        checker: &mut Checker,
    ) -> Result<(), Violation> {
        let request = checker.require(Invariant::RecordedFirst, self.open.get_mut(&id), || {
            format!("{transaction} records {id}, which has ended or was never asked")
        })?;
        let (persists, before) = (request.persists(), request.recording.replace(transaction));
        checker.check(Invariant::RecordedFirst, persists && before.is_none(), || {
            format!(
                "{transaction} records {id}, which is in {before:?}; to be recorded: {persists}"
            )
        })?;
        if ends {
            self.queued -= u64::from(request.counts());
            request.ends = true;
            if let Some(first_runs) = self.first_runs.get_mut(&request.model) {
                first_runs.remove(&(request.since, id));
            }
        }
        // While it is written no deadline applies.
        self.deadlines.remove(&(request.deadline, id));
        Ok(())
    }

    /// A request's record is on disk.
    pub(crate) fn recorded(&mut self, id: RequestId, outcome: Option<Outcome>, now: Instant) {
        let Some(request) = self.open.get_mut(&id) else { return };
        request.recording = None;
        request.is_recorded = true;
        match outcome {
            Some(outcome) => request.outcome = Some(outcome),
            None => {
                self.counts.recorded += 1;
                self.deadlines.insert((request.deadline, id));
                request.since = now;
                if request.waits_for_first_run() {
                    self.first_runs.entry(request.model).or_default().insert((now, id));
                }
            }
        }
    }

    /// A request's record could not be written.
    pub(crate) fn not_recorded(&mut self, id: RequestId) {
        if let Some(request) = self.open.get_mut(&id) {
            request.recording = None;
            request.refused = true;
        }
    }

    /// A request of one of these models that waits in the queue.
    pub(crate) fn waiting_for(&self, models: &BTreeSet<ModelId>) -> Option<RequestId> {
        let waits = |request: &Request| {
            let is_recording = request.recording.is_some() || request.ends || request.refused;
            models.contains(&request.model) && request.run.is_none() && !is_recording
        };
        self.open.iter().find(|(_, request)| waits(request)).map(|(&id, _)| id)
    }

    /// The first request whose deadline has passed.
    pub(crate) fn overdue(&self, now: Instant) -> Option<RequestId> {
        self.deadlines.first().filter(|&&(deadline, _)| deadline <= now).map(|&(_, id)| id)
    }
}

/// Factor by which a peak raises the load.
pub(crate) const PEAK_FACTOR: f64 = 20.0;
/// Duration of a peak.
pub(crate) const PEAK: Duration = Duration::from_secs(10);
