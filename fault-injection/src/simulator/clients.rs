//! Requests as their clients see them: what they asked for, how far it is, and what they got.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use flotilla_fleet::{
    FailureKind, Instant, ModelId, Persistence, Policy, RecoveryStep,
    state::{Outcome, TransactionId},
};
use flotilla_protocol::{RequestId, RunId};

use super::{
    durations::Durations,
    invariants::{Invariant, Judge, Violation},
};

/// A request that has not ended.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) model: ModelId,
    pub(super) rows: u32,
    pub(super) length: u32,
    pub(super) policy: Policy,
    pub(super) asked_at: Instant,
    pub(super) deadline: Instant,
    /// Since when it may run.
    since: Instant,
    pub(super) run: Option<RunId>,
    /// It has been in a run.
    dispatched: bool,
    pub(super) failed: Option<(FailureKind, Instant)>,
    /// The transaction that it is in.
    recording: Option<TransactionId>,
    /// Its record is on disk.
    is_recorded: bool,
    /// Its outcome is on disk.
    pub(super) outcome: Option<Outcome>,
    /// Its end is decided, and on its way to the disk.
    ends: bool,
    /// A transaction that it was in could not be written.
    pub(super) refused: bool,
}

impl Request {
    pub(super) fn new(
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
    pub(super) fn persists(&self) -> bool {
        match self.policy.persistence {
            Persistence::None => false,
            Persistence::Record | Persistence::Recorded => true,
        }
    }

    /// Whether its outcome is on disk or on its way there.
    pub(super) fn is_ending(&self) -> bool {
        self.ends
    }

    /// Whether it waits in the queue for its first run, on whatever browser.
    fn is_fresh(&self) -> bool {
        !self.dispatched
            && !self.ends
            && self.policy.lease.is_none()
            // It may already wait for a simulated browser when a real one comes back.
            && !self.policy.fallback_to_simulation
            && (!self.persists() || self.is_recorded)
    }

    /// Whether it counts for the queue's limit. A request that an earlier daemon accepted does not: it is always taken in.
    fn counts(&self) -> bool {
        !self.dispatched && !self.ends && self.policy.persistence != Persistence::Recorded
    }
}

/// Everybody who asks, and what they got.
#[derive(Debug, Default)]
pub(super) struct Clients {
    open: BTreeMap<RequestId, Request>,
    /// Of requests whose end is not being recorded.
    deadlines: BTreeSet<(Instant, RequestId)>,
    /// Those that wait for their first run, the oldest first.
    pub(super) fresh: BTreeMap<ModelId, BTreeSet<(Instant, RequestId)>>,
    pub(super) queued: u64,
    /// Models that were added to the core.
    pub(super) known: BTreeSet<ModelId>,
    /// Requests that are recorded, or were about to be, when their daemon was killed.
    pub(super) orphans: BTreeMap<RequestId, Request>,
    pub(super) peak_until: Instant,
    pub(super) asked: u64,
    pub(super) tally: Tally,
}

/// What became of requests.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) sent: u64,
    pub(super) answered: u64,
    pub(super) failed: BTreeMap<&'static str, u64>,
    pub(super) cancelled: u64,
    pub(super) lost: u64,
    pub(super) unreachable: u64,
    pub(super) recorded: u64,
    pub(super) from_record: u64,
    pub(super) taken_over: u64,
    pub(super) asked_again: u64,
    pub(super) latency: Durations,
    pub(super) recoveries: BTreeMap<(FailureKind, RecoveryStep), Durations>,
}

impl Clients {
    /// How many requests have not ended.
    pub(super) fn open(&self) -> u64 {
        self.open.len() as u64
    }

    pub(super) fn get(&self, id: RequestId) -> Option<&Request> {
        self.open.get(&id)
    }

    /// The daemon is gone, and with it every request that is not recorded.
    pub(super) fn lose_daemon(&mut self) {
        for (id, request) in std::mem::take(&mut self.open) {
            if request.persists() {
                self.orphans.insert(id, request);
            } else {
                self.tally.lost += 1;
            }
        }
        self.deadlines.clear();
        self.fresh.clear();
        self.queued = 0;
        self.known.clear();
    }

    pub(super) fn accept(&mut self, id: RequestId, request: Request) {
        self.deadlines.insert((request.deadline, id));
        self.queued += u64::from(request.counts());
        if request.is_fresh() {
            self.fresh.entry(request.model).or_default().insert((request.since, id));
        }
        self.open.insert(id, request);
    }

    /// A request is in a run from now on; gives the run that it leaves for this one.
    pub(super) fn start_run(
        &mut self,
        id: RequestId,
        run: RunId,
        judge: &mut Judge,
    ) -> Result<(Request, Option<RunId>), Violation> {
        let request = judge.some(Invariant::OneAnswer, self.open.get_mut(&id), || {
            format!("{id} runs in {run} though it has ended or was never asked")
        })?;
        let may = !request.persists() || request.is_recorded;
        judge.holds(Invariant::RecordedFirst, may, || {
            format!("{id} runs in {run}, and is not recorded yet")
        })?;
        let ends = request.ends;
        judge.holds(Invariant::OneAnswer, !ends, || {
            format!("{id} runs in {run}, and its outcome is being recorded")
        })?;
        let before = request.run.replace(run);
        if !request.dispatched {
            self.queued -= u64::from(request.counts());
            request.dispatched = true;
            if let Some(fresh) = self.fresh.get_mut(&request.model) {
                fresh.remove(&(request.since, id));
            }
        }
        Ok((request.clone(), before))
    }

    /// A request's run has ended without results for it.
    pub(super) fn lose_run(&mut self, id: RequestId, run: RunId, why: FailureKind, now: Instant) {
        if let Some(request) = self.open.get_mut(&id)
            && request.run == Some(run)
        {
            request.run = None;
            request.failed.get_or_insert((why, now));
        }
    }

    /// Takes a request out.
    pub(super) fn end(&mut self, id: RequestId) -> Option<Request> {
        let request = self.open.remove(&id)?;
        self.deadlines.remove(&(request.deadline, id));
        self.queued -= u64::from(request.counts());
        if !request.dispatched
            && let Some(fresh) = self.fresh.get_mut(&request.model)
        {
            fresh.remove(&(request.since, id));
        }
        Some(request)
    }

    /// A transaction that is on its way to the disk has a request in it.
    pub(super) fn begin_recording(
        &mut self,
        id: RequestId,
        transaction: TransactionId,
        ends: bool,
        judge: &mut Judge,
    ) -> Result<(), Violation> {
        let request = judge.some(Invariant::RecordedFirst, self.open.get_mut(&id), || {
            format!("{transaction} records {id}, which has ended or was never asked")
        })?;
        let (persists, before) = (request.persists(), request.recording.replace(transaction));
        judge.holds(Invariant::RecordedFirst, persists && before.is_none(), || {
            format!(
                "{transaction} records {id}, which is in {before:?}; to be recorded: {persists}"
            )
        })?;
        if ends {
            self.queued -= u64::from(request.counts());
            request.ends = true;
            if let Some(fresh) = self.fresh.get_mut(&request.model) {
                fresh.remove(&(request.since, id));
            }
        }
        // It waits for the disk now, which has no deadline.
        self.deadlines.remove(&(request.deadline, id));
        Ok(())
    }

    /// A request's record is on disk.
    pub(super) fn recorded(&mut self, id: RequestId, outcome: Option<Outcome>, now: Instant) {
        let Some(request) = self.open.get_mut(&id) else { return };
        request.recording = None;
        request.is_recorded = true;
        match outcome {
            Some(outcome) => request.outcome = Some(outcome),
            None => {
                self.tally.recorded += 1;
                self.deadlines.insert((request.deadline, id));
                request.since = now;
                if request.is_fresh() {
                    self.fresh.entry(request.model).or_default().insert((now, id));
                }
            }
        }
    }

    /// A request's record could not be written.
    pub(super) fn not_recorded(&mut self, id: RequestId) {
        if let Some(request) = self.open.get_mut(&id) {
            request.recording = None;
            request.refused = true;
        }
    }

    /// A request of one of these models that waits in the queue.
    pub(super) fn waiting_for(&self, models: &BTreeSet<ModelId>) -> Option<RequestId> {
        let waits = |request: &Request| {
            let is_recording = request.recording.is_some() || request.ends || request.refused;
            models.contains(&request.model) && request.run.is_none() && !is_recording
        };
        self.open.iter().find(|(_, request)| waits(request)).map(|(&id, _)| id)
    }

    /// The first request that has outlived its deadline.
    pub(super) fn overdue(&self, now: Instant) -> Option<RequestId> {
        self.deadlines.first().filter(|&&(deadline, _)| deadline <= now).map(|&(_, id)| id)
    }
}

/// How many times as many clients come while a peak lasts.
pub(super) const PEAK_FACTOR: f64 = 20.0;
/// How long a peak lasts.
pub(super) const PEAK: Duration = Duration::from_secs(10);
