//! What the core records: requests that must not be lost before anything depends on them, the rest soon after.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_protocol::{PlacementId, RequestId};

use super::{
    Fleet,
    browsers::{Berth, BrowserState},
    placements::Stage,
    requests::{Ending, Request, RequestState},
};
use crate::{
    event::{Action, ModelId, RequestError, SlotId},
    recovery::{Failure, FailureKind},
    state::{
        Conflict, Draft, Durability, Key, Outcome, Partition, Records, Transaction, TransactionId,
        Value,
    },
};

/// What waits for a transaction.
#[derive(Clone, Debug)]
pub(super) enum Pending {
    /// Requests that may run once they are recorded.
    Accept(Vec<RequestId>),
    /// Requests whose end may be told once it is recorded.
    End(Vec<RequestId>),
    /// A migration.
    Plan(ModelId),
}

/// The records, and what is to be written next.
#[derive(Debug)]
pub(super) struct Journal {
    pub(super) records: Records,
    pending: BTreeMap<TransactionId, Pending>,
    accepting: Vec<RequestId>,
    ending: Vec<RequestId>,
    plans_changed: BTreeSet<ModelId>,
    placements_gone: Vec<PlacementId>,
    /// Transactions that could not be written.
    pub(super) failures: u64,
}

impl Journal {
    pub(super) fn new(records: Records) -> Journal {
        Journal {
            records,
            pending: BTreeMap::new(),
            accepting: Vec::new(),
            ending: Vec::new(),
            plans_changed: BTreeSet::new(),
            placements_gone: Vec::new(),
            failures: 0,
        }
    }

    pub(super) fn prepare(
        &mut self,
        draft: Draft,
        durability: Durability,
        pending: Pending,
    ) -> Result<Transaction, Conflict> {
        let transaction = self.records.prepare(draft, durability)?;
        self.pending.insert(transaction.id, pending);
        Ok(transaction)
    }

    pub(super) fn plan_changed(&mut self, model: ModelId) {
        self.plans_changed.insert(model);
    }

    pub(super) fn placement_gone(&mut self, placement: PlacementId) {
        self.placements_gone.push(placement);
    }

    /// The request is to be recorded before it runs.
    pub(super) fn accept(&mut self, request: RequestId) {
        self.accepting.push(request);
    }

    /// The request's end is to be recorded before it is told.
    pub(super) fn end(&mut self, request: RequestId) {
        self.ending.push(request);
    }

    /// Transactions that are not confirmed.
    pub(super) fn open(&self) -> usize {
        self.pending.len()
    }
}

impl Fleet {
    /// Records what the fleet is made with, and that browsers and placements of an earlier fleet are no more.
    pub(super) fn record_start(&mut self) {
        let records = &self.journal.records;
        let mut draft = Draft::default();
        for partition in [Partition::Browsers, Partition::Placements, Partition::Plans] {
            let left: Vec<Key> = records.of(partition).map(|(key, ..)| key).collect();
            for key in left {
                draft.remove(records, key);
            }
        }
        let configuration = Value::Configuration {
            slots: self.config.slots.iter().map(|slot| slot.kind.clone()).collect(),
            recovery_strategy: self.config.strategy.name().to_owned(),
            redundancy_factor: self.config.redundancy_factor,
        };
        let key = Key { partition: Partition::Configuration, id: 0 };
        if records.get(key) != Some(&configuration) {
            draft.write(records, key, configuration);
        }
        self.commit_relaxed(draft);
    }

    /// Writes what this event has changed.
    pub(super) fn record(&mut self) {
        self.record_accepted();
        self.record_ended();
        self.record_berths();
    }

    fn record_accepted(&mut self) {
        let accepted = std::mem::take(&mut self.journal.accepting);
        self.record_requests(accepted, Pending::Accept, |_| None);
    }

    fn record_ended(&mut self) {
        let ended = std::mem::take(&mut self.journal.ending);
        let outcome = |request: &Request| match &request.state {
            RequestState::Ending(Ending::Answer(_)) => Some(Outcome::Answered),
            RequestState::Ending(Ending::Fail(error)) => Some(Outcome::Failed(error.clone())),
            RequestState::Accepting { .. } | RequestState::Queued(_) | RequestState::Running(_) => {
                None
            }
        };
        self.record_requests(ended, Pending::End, outcome);
    }

    fn record_requests(
        &mut self,
        ids: Vec<RequestId>,
        pending: impl Fn(Vec<RequestId>) -> Pending,
        outcome: impl Fn(&Request) -> Option<Outcome>,
    ) {
        let mut draft = Draft::default();
        let ids: Vec<RequestId> =
            ids.into_iter().filter(|id| self.requests.contains_key(id)).collect();
        for id in &ids {
            let Some(request) = self.requests.get(id) else { continue };
            let value = Value::Request {
                model: request.model,
                rows: request.rows,
                length: request.length,
                tried: request.tried.clone(),
                outcome: outcome(request),
            };
            draft.write(&self.journal.records, Key::request(*id), value);
        }
        if draft.is_empty() {
            return;
        }
        match self.journal.prepare(draft, Durability::Critical, pending(ids.clone())) {
            Ok(transaction) => self.actions.push_back(Action::Commit(transaction)),
            // Only this code writes requests, and each waits for its last record; so this is told and not hidden.
            Err(conflict) => self.not_recorded(pending(ids), &conflict.to_string()),
        }
    }

    /// Writes the state of every berth that changed.
    pub(super) fn record_berths(&mut self) {
        self.refresh();
        let mut draft = Draft::default();
        let records = &self.journal.records;
        for placement in self.journal.placements_gone.drain(..) {
            let key = Key { partition: Partition::Placements, id: placement.0 };
            if records.get(key).is_some() {
                draft.remove(records, key);
            }
        }
        for index in self.index.take_unrecorded() {
            let berth = &self.berths[index];
            let key = Key { partition: Partition::Browsers, id: index as u64 };
            let value = browser_value(&self.config.slots[index].kind, berth);
            if records.get(key) != Some(&value) {
                draft.write(records, key, value);
            }
            let Some(live) = berth.state.live() else { continue };
            let left =
                live.left.iter().filter_map(|each| Some((&self.placed.get(&each.id)?.1, each)));
            for (&model, placement) in live.placements.iter().chain(left) {
                let key = Key { partition: Partition::Placements, id: placement.id.0 };
                let value = Value::Placement {
                    browser: live.browser,
                    model,
                    backend: placement.backend(),
                    epoch: placement.epoch,
                    state: stage_name(&placement.stage).to_owned(),
                };
                if records.get(key) != Some(&value) {
                    draft.write(records, key, value);
                }
            }
        }
        let mut held = BTreeSet::new();
        for model in std::mem::take(&mut self.journal.plans_changed) {
            let key = Key { partition: Partition::Plans, id: model.0.into() };
            if self.journal.records.is_held(key) {
                held.insert(model);
                continue;
            }
            let slots = self.plans.get(&model).into_iter().flatten();
            let slots = slots.map(|&slot| SlotId(slot as u32)).collect();
            draft.write(&self.journal.records, key, Value::Plan { model, slots });
        }
        self.journal.plans_changed = held;
        self.commit_relaxed(draft);
    }

    /// A transaction that nothing waits for: memory has changed already, the store follows.
    fn commit_relaxed(&mut self, draft: Draft) {
        if draft.is_empty() {
            return;
        }
        // Nothing else holds these records: they are written here only, and taken over at once.
        if let Ok(transaction) = self.journal.records.prepare(draft, Durability::Relaxed) {
            self.journal.records.commit(transaction.id);
            self.actions.push_back(Action::Commit(transaction));
        }
    }

    pub(super) fn committed(&mut self, id: TransactionId) {
        let Some(pending) = self.journal.pending.remove(&id) else { return };
        self.journal.records.commit(id);
        match pending {
            Pending::Accept(requests) => {
                for request in requests {
                    self.recorded(request);
                }
            }
            Pending::End(requests) => {
                for request in requests {
                    self.journal.records.forget(Key::request(request));
                    self.tell_end(request);
                }
            }
            Pending::Plan(model) => {
                let is_its = self
                    .migrations
                    .get(&model)
                    .is_some_and(|migration| migration.transaction == Some(id));
                if is_its {
                    self.finish_migration(model);
                }
                // Whatever became of it meanwhile is what the next record says.
                self.journal.plan_changed(model);
            }
        }
    }

    pub(super) fn commit_failed(&mut self, id: TransactionId, reason: &str) {
        self.journal.failures += 1;
        self.journal.records.rollback(id);
        if let Some(pending) = self.journal.pending.remove(&id) {
            self.not_recorded(pending, reason);
        }
    }

    fn not_recorded(&mut self, pending: Pending, reason: &str) {
        match pending {
            Pending::Accept(requests) => {
                for id in requests {
                    let Some(request) = self.forget(id) else { continue };
                    let error = match request.state {
                        RequestState::Accepting { doomed: Some(error) } => error,
                        RequestState::Accepting { doomed: None }
                        | RequestState::Queued(_)
                        | RequestState::Running(_)
                        | RequestState::Ending(_) => {
                            RequestError::NotRecorded { reason: reason.to_owned() }
                        }
                    };
                    self.actions.push_back(Action::Fail { request: id, error });
                }
            }
            // A right answer is not kept from its client because a disk is full.
            Pending::End(requests) => {
                for request in requests {
                    self.tell_end(request);
                }
            }
            Pending::Plan(model) => {
                let words = format!("the new plan could not be recorded: {reason}");
                self.undo_migration(model, Failure::new(FailureKind::Overloaded, words));
            }
        }
    }
}

fn browser_value(kind: &str, berth: &Berth) -> Value {
    let state = match &berth.state {
        BrowserState::Wanted => "wanted",
        BrowserState::Starting { .. } => "starting",
        BrowserState::Ready(_) => "ready",
        BrowserState::Suspect { .. } => "suspect",
        BrowserState::Recovering { .. } => "recovering",
        BrowserState::Retired { .. } => "retired",
        BrowserState::Stopped => "stopped",
    };
    Value::Browser {
        browser: berth.state.browser(),
        kind: kind.to_owned(),
        state: state.to_owned(),
        failed_starts: berth.failed_starts,
        last_failure: berth.last_failure.as_ref().map(ToString::to_string),
    }
}

/// Name of a placement's stage, as in records and status.
pub(super) fn stage_name(stage: &Stage) -> &'static str {
    match stage {
        Stage::Waiting { .. } => "waiting",
        Stage::Loading { .. } => "loading",
        Stage::Staged { .. } => "staged",
        Stage::Ready { .. } => "ready",
        Stage::Leaving { .. } => "leaving",
        Stage::Refused => "refused",
    }
}
