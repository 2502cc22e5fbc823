//! Plays the store: one writer, which may be slow, fail, or be killed in the middle of a write.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use flotilla_fleet::{
    Event, Instant,
    state::{
        Durability, Key, Outcome, Partition, Records, Transaction, TransactionId, Value, Version,
    },
};
use flotilla_protocol::RequestId;

use super::{
    clients::Request,
    faults::What,
    invariants::{Invariant, Violation},
    world::{Core, Occurrence, World},
};

/// How long the store keeps the outcome of a request.
const OUTCOME_KEPT: Duration = Duration::from_secs(600);

/// What is on disk, and what is on its way there.
#[derive(Debug, Default)]
pub(super) struct Store {
    records: BTreeMap<Key, (Version, Value)>,
    /// In the order in which they are written.
    pending: BTreeMap<TransactionId, Transaction>,
    highest: u64,
    busy_until: Instant,
    /// Requests whose outcome is on disk, and since when.
    ended: VecDeque<(Instant, Key)>,
    pub(super) confirmed: u64,
    pub(super) refused: u64,
}

/// Recorded requests without an outcome, and requests whose daemon was killed before they ended.
pub(super) type Inheritance = (Vec<(RequestId, Value)>, BTreeMap<RequestId, Request>);
/// A request in a transaction: whether it ends it, and how.
pub(super) type Mention = (RequestId, Option<Outcome>);

impl Store {
    /// How many outcomes are kept.
    pub(super) fn kept(&self) -> usize {
        self.ended.len()
    }

    /// How many transactions are on their way to the disk.
    pub(super) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// How many records there are on disk.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// The requests of a transaction.
    pub(super) fn mentions(transaction: &Transaction) -> impl Iterator<Item = Mention> + '_ {
        transaction.writes.iter().filter_map(|write| match &write.value {
            Some(Value::Request { outcome, .. }) => {
                Some((RequestId(write.key.id), outcome.clone()))
            }
            Some(
                Value::Configuration { .. }
                | Value::Browser { .. }
                | Value::Placement { .. }
                | Value::Assignment { .. }
                | Value::Session { .. },
            )
            | None => None,
        })
    }

    /// What the record of a request says of its outcome; `None` where there is no record.
    pub(super) fn outcome(&self, request: RequestId) -> Option<Option<Outcome>> {
        match self.records.get(&Key::request(request)) {
            Some((_, Value::Request { outcome, .. })) => Some(outcome.clone()),
            Some(_) | None => None,
        }
    }

    /// Every recorded request without an outcome.
    pub(super) fn open(&self) -> Vec<(RequestId, Value)> {
        let first = Key { partition: Partition::Requests, id: 0 };
        self.records
            .range(first..)
            .filter(|(_, (_, value))| matches!(value, Value::Request { outcome: None, .. }))
            .map(|(key, (_, value))| (RequestId(key.id), value.clone()))
            .collect()
    }

    /// The records as a new daemon reads them.
    pub(super) fn restore(&self) -> Records {
        let records =
            self.records.iter().map(|(&key, (version, value))| (key, *version, value.clone()));
        Records::restore(records, self.highest)
    }

    /// The daemon is killed: of what was not confirmed, at most the first has reached the disk.
    pub(super) fn crash(&mut self, first_is_written: bool, now: Instant) {
        if let Some((_, transaction)) = self.pending.pop_first()
            && first_is_written
        {
            self.write(&transaction, now);
        }
        self.pending.clear();
    }

    pub(super) fn take(&mut self, id: TransactionId) -> Option<Transaction> {
        self.pending.remove(&id)
    }

    /// Writes a transaction; gives the first record that has a later version on disk.
    pub(super) fn write(&mut self, transaction: &Transaction, now: Instant) -> Option<Key> {
        let mut conflict = None;
        for write in &transaction.writes {
            // A relaxed one may have been lost, and what follows it is then written over something older than it knows.
            if transaction.durability == Durability::Critical
                && let Some(&(version, _)) = self.records.get(&write.key)
                && version >= write.version
            {
                conflict.get_or_insert(write.key);
            }
            match &write.value {
                Some(value) => {
                    if let Value::Request { outcome: Some(_), .. } = value {
                        self.ended.push_back((now, write.key));
                    }
                    self.records.insert(write.key, (write.version, value.clone()));
                }
                None => {
                    self.records.remove(&write.key);
                }
            }
        }
        while let Some(&(since, key)) = self.ended.front()
            && now.since(since) > OUTCOME_KEPT
        {
            self.ended.pop_front();
            self.records.remove(&key);
        }
        conflict
    }
}

impl<C: Core> World<C> {
    pub(super) fn commit(&mut self, transaction: Transaction) -> Result<(), Violation> {
        let (id, highest) = (transaction.id, self.store.highest);
        self.judge.holds(Invariant::FreshIds, id.0 > highest, || format!("{id} again"))?;
        self.store.highest = id.0;
        for (request, outcome) in Store::mentions(&transaction) {
            let critical = transaction.durability == Durability::Critical;
            self.judge.holds(Invariant::RecordedFirst, critical, || {
                format!("{id} records {request} and need not be on disk to be confirmed")
            })?;
            self.clients.begin_recording(request, id, outcome.is_some(), &mut self.judge)?;
        }
        let slow = self.fault(What::CommitSlow);
        let delay = if slow { self.random.ms(500, 5000) } else { self.random.ms(0, 20) };
        let at = self.store.busy_until.max(self.now).after(delay);
        self.store.busy_until = at;
        self.store.pending.insert(id, transaction);
        let event = match self.fault(What::CommitFails) {
            true => Event::CommitFailed { transaction: id, reason: "played".to_owned() },
            false => Event::Committed { transaction: id },
        };
        self.agenda.add(at, Occurrence::Deliver(event));
        Ok(())
    }

    /// A transaction is on disk, and the core is about to know.
    pub(super) fn committed(&mut self, id: TransactionId) -> Result<(), Violation> {
        let Some(transaction) = self.store.take(id) else { return Ok(()) };
        self.store.confirmed += 1;
        let conflict = self.store.write(&transaction, self.now);
        self.judge.holds(Invariant::Versions, conflict.is_none(), || {
            format!("{id} writes {conflict:?}, of which a later version is on disk")
        })?;
        for (request, outcome) in Store::mentions(&transaction) {
            self.clients.recorded(request, outcome, self.now);
        }
        Ok(())
    }

    /// A transaction could not be written, and the core is about to know.
    pub(super) fn commit_failed(&mut self, id: TransactionId) {
        let Some(transaction) = self.store.take(id) else { return };
        self.store.refused += 1;
        for (request, _) in Store::mentions(&transaction) {
            self.clients.not_recorded(request);
        }
    }
}
