//! What the core records: requests that must not be lost before anything depends on them, the rest soon after.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_protocol::{PlacementId, RequestId};

use crate::{
    event::{ModelId, SlotId},
    state::{
        Conflict, Draft, Durability, Key, Partition, Records, Transaction, TransactionId, Value,
    },
};

/// What waits for a transaction.
#[derive(Clone, Debug)]
pub(super) enum Pending {
    /// Requests that may run once they are recorded.
    Accept(Vec<RequestId>),
    /// Requests whose end is reported once it is recorded.
    End(Vec<RequestId>),
    /// A migration of the model.
    Assignment(ModelId),
}

/// The records, and what is to be written next.
#[derive(Debug)]
pub(super) struct Journal {
    records: Records,
    pending: BTreeMap<TransactionId, Pending>,
    accepting: Vec<RequestId>,
    ending: Vec<RequestId>,
    assignments_changed: BTreeSet<ModelId>,
    placements_gone: Vec<PlacementId>,
    failures: u64,
}

impl Journal {
    pub(super) fn new(records: Records) -> Journal {
        Journal {
            records,
            pending: BTreeMap::new(),
            accepting: Vec::new(),
            ending: Vec::new(),
            assignments_changed: BTreeSet::new(),
            placements_gone: Vec::new(),
            failures: 0,
        }
    }

    pub(super) fn records(&self) -> &Records {
        &self.records
    }

    /// Transactions that are not confirmed.
    pub(super) fn open(&self) -> usize {
        self.pending.len()
    }

    /// Transactions that could not be written.
    pub(super) fn failures(&self) -> u64 {
        self.failures
    }

    /// The slots of a model are to be recorded.
    pub(super) fn assignment_changed(&mut self, model: ModelId) {
        self.assignments_changed.insert(model);
    }

    /// A placement's record is to be removed.
    pub(super) fn placement_gone(&mut self, placement: PlacementId) {
        self.placements_gone.push(placement);
    }

    /// The request is to be recorded before it runs.
    pub(super) fn accept(&mut self, request: RequestId) {
        self.accepting.push(request);
    }

    /// The request's end is to be recorded before it is reported.
    pub(super) fn end(&mut self, request: RequestId) {
        self.ending.push(request);
    }

    /// Requests that are to be recorded before they run.
    pub(super) fn take_accepted(&mut self) -> Vec<RequestId> {
        std::mem::take(&mut self.accepting)
    }

    /// Requests whose end is to be recorded.
    pub(super) fn take_ended(&mut self) -> Vec<RequestId> {
        std::mem::take(&mut self.ending)
    }

    /// Records what the fleet is made with, and that browsers and placements of an earlier fleet are gone.
    pub(super) fn start(&mut self, configuration: Value) -> Option<Transaction> {
        let records = &self.records;
        let mut draft = Draft::default();
        for partition in [Partition::Browsers, Partition::Placements, Partition::Assignments] {
            let left: Vec<Key> = records.of(partition).map(|(key, ..)| key).collect();
            for key in left {
                draft.remove(records, key);
            }
        }
        configure(records, &mut draft, configuration);
        self.commit_relaxed(draft)
    }

    /// Records what the fleet is made with, where that has changed.
    pub(super) fn configure(&mut self, configuration: Value) -> Option<Transaction> {
        let mut draft = Draft::default();
        configure(&self.records, &mut draft, configuration);
        self.commit_relaxed(draft)
    }

    /// Records requests.
    ///
    /// # Errors
    /// A record is held by another transaction. Only this component writes requests, and each waits for its last record,
    /// so that is not expected.
    pub(super) fn record_requests(
        &mut self,
        values: Vec<(RequestId, Value)>,
        pending: Pending,
    ) -> Result<Option<Transaction>, Conflict> {
        if values.is_empty() {
            return Ok(None);
        }
        let mut draft = Draft::default();
        for (id, value) in values {
            draft.write(&self.records, Key::request(id), value);
        }
        self.prepare(draft, pending).map(Some)
    }

    /// Records which slots are to hold a model once its migration has ended.
    ///
    /// # Errors
    /// The record is held by another transaction.
    pub(super) fn record_migration(
        &mut self,
        model: ModelId,
        slots: Vec<SlotId>,
    ) -> Result<Transaction, Conflict> {
        let mut draft = Draft::default();
        draft.write(&self.records, assignment_key(model), Value::Assignment { model, slots });
        self.prepare(draft, Pending::Assignment(model))
    }

    /// Records what has changed of slots, placements and assignments.
    pub(super) fn record_changes(
        &mut self,
        changed: Vec<(Key, Value)>,
        slots_of: impl Fn(ModelId) -> Option<Vec<SlotId>>,
    ) -> Option<Transaction> {
        let mut draft = Draft::default();
        let records = &self.records;
        for placement in self.placements_gone.drain(..) {
            let key = Key { partition: Partition::Placements, id: placement.0 };
            if records.get(key).is_some() {
                draft.remove(records, key);
            }
        }
        for (key, value) in changed {
            if records.get(key) != Some(&value) {
                draft.write(records, key, value);
            }
        }
        let mut held = BTreeSet::new();
        for model in std::mem::take(&mut self.assignments_changed) {
            let key = assignment_key(model);
            if self.records.is_held(key) {
                held.insert(model);
                continue;
            }
            match slots_of(model) {
                Some(slots) => {
                    draft.write(&self.records, key, Value::Assignment { model, slots });
                }
                None if self.records.get(key).is_some() => draft.remove(&self.records, key),
                None => {}
            }
        }
        self.assignments_changed = held;
        self.commit_relaxed(draft)
    }

    /// A transaction is as durable as it must be; gives what has waited for it.
    pub(super) fn committed(&mut self, id: TransactionId) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        self.records.commit(id);
        if let Pending::End(requests) = &pending {
            for &request in requests {
                self.records.forget(Key::request(request));
            }
        }
        Some(pending)
    }

    /// A transaction could not be written; gives what has waited for it.
    pub(super) fn commit_failed(&mut self, id: TransactionId) -> Option<Pending> {
        self.failures += 1;
        self.records.rollback(id);
        self.pending.remove(&id)
    }

    fn prepare(&mut self, draft: Draft, pending: Pending) -> Result<Transaction, Conflict> {
        let transaction = self.records.prepare(draft, Durability::Critical)?;
        self.pending.insert(transaction.id, pending);
        Ok(transaction)
    }

    /// A transaction that nothing waits for: memory has changed already, the store follows.
    fn commit_relaxed(&mut self, draft: Draft) -> Option<Transaction> {
        if draft.is_empty() {
            return None;
        }
        // Nothing else holds these records: they are written here only, and taken over at once.
        let transaction = self.records.prepare(draft, Durability::Relaxed).ok()?;
        self.records.commit(transaction.id);
        Some(transaction)
    }
}

fn configure(records: &Records, draft: &mut Draft, configuration: Value) {
    let key = Key { partition: Partition::Configuration, id: 0 };
    if records.get(key) != Some(&configuration) {
        draft.write(records, key, configuration);
    }
}

fn assignment_key(model: ModelId) -> Key {
    Key { partition: Partition::Assignments, id: model.0.into() }
}
