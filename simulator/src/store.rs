//! Simulates the store: one writer, which may be slow, fail, or be killed in the middle of a write.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use flotilla_fleet::{
    Instant,
    state::{
        Durability, Key, Outcome, Partition, Records, Transaction, TransactionId, Value, Version,
    },
};
use flotilla_protocol::RequestId;

/// How long the store keeps the outcome of a request.
const OUTCOME_KEPT: Duration = Duration::from_secs(600);

/// Records on disk, and transactions that are being written.
#[derive(Debug, Default)]
pub(crate) struct Store {
    records: BTreeMap<Key, (Version, Value)>,
    /// In the order in which they are written.
    pending: BTreeMap<TransactionId, Transaction>,
    highest: u64,
    busy_until: Instant,
    /// Requests whose outcome is on disk, and since when.
    ended: VecDeque<(Instant, Key)>,
    pub(crate) confirmed: u64,
    pub(crate) refused: u64,
}

/// A request that a transaction writes, with its outcome if it has ended.
pub(crate) type RequestWrite = (RequestId, Option<Outcome>);

impl Store {
    /// How many outcomes are kept.
    pub(crate) fn kept(&self) -> usize {
        self.ended.len()
    }

    /// How many transactions are being written.
    pub(crate) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// How many records there are on disk.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// The requests of a transaction.
    pub(crate) fn request_writes(
        transaction: &Transaction,
    ) -> impl Iterator<Item = RequestWrite> + '_ {
        transaction.writes.iter().filter_map(|write| match &write.value {
            Some(Value::Request { outcome, .. }) => {
                Some((RequestId(write.key.id), outcome.clone()))
            }
            Some(
                Value::Configuration { .. }
                | Value::Browser { .. }
                | Value::Placement { .. }
                | Value::Assignment { .. },
            )
            | None => None,
        })
    }

    /// What the record of a request says of its outcome; `None` where there is no record.
    pub(crate) fn outcome(&self, request: RequestId) -> Option<Option<Outcome>> {
        match self.records.get(&Key::request(request)) {
            Some((_, Value::Request { outcome, .. })) => Some(outcome.clone()),
            Some(_) | None => None,
        }
    }

    /// Every recorded request without an outcome.
    pub(crate) fn open(&self) -> Vec<(RequestId, Value)> {
        let first = Key { partition: Partition::Requests, id: 0 };
        self.records
            .range(first..)
            .filter(|(_, (_, value))| matches!(value, Value::Request { outcome: None, .. }))
            .map(|(key, (_, value))| (RequestId(key.id), value.clone()))
            .collect()
    }

    /// The records as a new daemon reads them.
    pub(crate) fn restore(&self) -> Records {
        let records =
            self.records.iter().map(|(&key, (version, value))| (key, *version, value.clone()));
        Records::restore(records, self.highest)
    }

    /// The daemon is killed: of what was not confirmed, at most the first has reached the disk.
    pub(crate) fn crash(&mut self, first_is_written: bool, now: Instant) {
        if let Some((_, transaction)) = self.pending.pop_first()
            && first_is_written
        {
            self.write(&transaction, now);
        }
        self.pending.clear();
    }

    /// Whether no earlier transaction had this id or a higher one.
    pub(crate) fn is_new(&mut self, id: TransactionId) -> bool {
        let is_new = id.0 > self.highest;
        self.highest = id.0;
        is_new
    }

    /// Queues a transaction that takes `delay` to write; returns the time at which that ends.
    pub(crate) fn enqueue(
        &mut self,
        transaction: Transaction,
        delay: Duration,
        now: Instant,
    ) -> Instant {
        self.busy_until = self.busy_until.max(now).after(delay);
        self.pending.insert(transaction.id, transaction);
        self.busy_until
    }

    pub(crate) fn take(&mut self, id: TransactionId) -> Option<Transaction> {
        self.pending.remove(&id)
    }

    /// Writes a transaction; returns the first record whose version on disk is not older.
    pub(crate) fn write(&mut self, transaction: &Transaction, now: Instant) -> Option<Key> {
        let mut conflict = None;
        for write in &transaction.writes {
            // A relaxed transaction may have been lost with a daemon, so versions of relaxed ones may repeat.
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
