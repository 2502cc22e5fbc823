//! The state that outlives the daemon: records with versions, changed by transactions.
//!
//! A transaction reads versions and drafts writes. [`Records::prepare`] checks that nothing it read has changed and that no
//! other prepared transaction touches what it writes; from then on it holds its records until [`Records::commit`] or
//! [`Records::rollback`]. The records themselves change at commit and not before, so a rollback leaves them as they were.

use std::collections::BTreeMap;

use flotilla_protocol::{Backend, BrowserId, Epoch, RequestId};
use serde::{Deserialize, Serialize};

use crate::{
    ids::{ModelId, SlotId},
    recovery::{Attempt, RequestError},
};

/// A part of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Partition {
    /// What the fleet is made with; its only record is number 0.
    Configuration,
    /// By slot.
    Browsers,
    /// By placement.
    Placements,
    /// Which slots hold a model; by model. Named `plans` in stores.
    #[serde(rename = "plans")]
    Assignments,
    /// Requests whose outcome must not be lost; by request.
    Requests,
}

impl Partition {
    /// Every partition, in order.
    pub const ALL: [Partition; 5] = [
        Partition::Configuration,
        Partition::Browsers,
        Partition::Placements,
        Partition::Assignments,
        Partition::Requests,
    ];

    /// Name as in the store.
    pub fn name(self) -> &'static str {
        match self {
            Partition::Configuration => "configuration",
            Partition::Browsers => "browsers",
            Partition::Placements => "placements",
            Partition::Assignments => "plans",
            Partition::Requests => "requests",
        }
    }

    /// The partition of this name.
    pub fn named(name: &str) -> Option<Partition> {
        Partition::ALL.into_iter().find(|partition| partition.name() == name)
    }
}

/// Name of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// The part of the state.
    pub partition: Partition,
    /// Number of what the record is about.
    pub id: u64,
}

impl Key {
    /// The record of a request.
    pub fn request(request: RequestId) -> Key {
        Key { partition: Partition::Requests, id: request.0 }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.partition.name(), self.id)
    }
}

/// Counts the changes of a record, from 1; 0 stands for a record that is not there.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Version(pub u64);

/// What a record says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are those of what the record is about")]
pub enum Value {
    Configuration {
        slots: Vec<String>,
        recovery_strategy: String,
        redundancy_factor: Option<u32>,
    },
    Browser {
        browser: Option<BrowserId>,
        kind: String,
        state: String,
        failed_starts: u32,
        last_failure: Option<String>,
    },
    Placement {
        browser: BrowserId,
        model: ModelId,
        backend: Option<Backend>,
        epoch: Epoch,
        state: String,
    },
    #[serde(rename = "plan")]
    Assignment {
        model: ModelId,
        slots: Vec<SlotId>,
    },
    Request {
        model: ModelId,
        rows: u32,
        length: u32,
        /// Attempts that did not lead to the outcome.
        tried: Vec<Attempt>,
        /// `None` while it is open.
        outcome: Option<Outcome>,
    },
}

/// How a recorded request ended. The daemon keeps input and results beside the record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// With results.
    Answered,
    /// Without.
    Failed(RequestError),
}

/// How soon a transaction must be on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Before it is confirmed.
    Critical,
    /// Within `state_sync_interval`; a power loss may cost it.
    Relaxed,
}

/// Name of a transaction; never used twice by a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TransactionId(pub u64);

impl std::fmt::Display for TransactionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "transaction {}", self.0)
    }
}

/// A record after a transaction; `value` is `None` where the transaction removes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Write {
    /// Which record.
    pub key: Key,
    /// Its version once the transaction is committed.
    pub version: Version,
    /// What it says then.
    pub value: Option<Value>,
}

/// Changes that take effect together or not at all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transaction {
    /// Its name.
    pub id: TransactionId,
    /// How soon it must be on disk.
    pub durability: Durability,
    /// In the order of keys, each once.
    pub writes: Vec<Write>,
}

/// A transaction that is being put together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Draft {
    reads: BTreeMap<Key, Version>,
    writes: BTreeMap<Key, Option<Value>>,
}

impl Draft {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// A record as this transaction sees it; remembers the version that was seen.
    pub fn read<'a>(&'a mut self, records: &'a Records, key: Key) -> Option<&'a Value> {
        self.reads.entry(key).or_insert_with(|| records.version(key));
        match self.writes.get(&key) {
            Some(written) => written.as_ref(),
            None => records.get(key),
        }
    }

    /// Writes a record, based on its present version unless it was read before.
    pub fn write(&mut self, records: &Records, key: Key, value: Value) {
        self.reads.entry(key).or_insert_with(|| records.version(key));
        self.writes.insert(key, Some(value));
    }

    /// Removes a record.
    pub fn remove(&mut self, records: &Records, key: Key) {
        self.reads.entry(key).or_insert_with(|| records.version(key));
        self.writes.insert(key, None);
    }
}

/// Why a transaction cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum Conflict {
    #[error("{key} has version {now:?}, not {seen:?} as when it was read")]
    Changed { key: Key, seen: Version, now: Version },
    #[error("{key} is held by {by}, which is not confirmed yet")]
    Held { key: Key, by: TransactionId },
}

/// Every record in its present version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records {
    present: BTreeMap<Key, (Version, Value)>,
    /// Versions of removed records, so that a record made anew is not taken for the old one.
    removed: BTreeMap<Key, Version>,
    prepared: BTreeMap<TransactionId, Transaction>,
    held: BTreeMap<Key, TransactionId>,
    transactions: u64,
}

impl Records {
    /// Records as a store gave them back; later transactions are named after `transactions`.
    pub fn restore(
        records: impl IntoIterator<Item = (Key, Version, Value)>,
        transactions: u64,
    ) -> Records {
        let present =
            records.into_iter().map(|(key, version, value)| (key, (version, value))).collect();
        Records { present, transactions, ..Records::default() }
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.present.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.present.is_empty()
    }

    /// What a record says.
    pub fn get(&self, key: Key) -> Option<&Value> {
        self.present.get(&key).map(|(_, value)| value)
    }

    /// A record's version; 0 where it never was.
    pub fn version(&self, key: Key) -> Version {
        match self.present.get(&key) {
            Some((version, _)) => *version,
            None => self.removed.get(&key).copied().unwrap_or_default(),
        }
    }

    /// The records of a partition, in order.
    pub fn of(&self, partition: Partition) -> impl Iterator<Item = (Key, Version, &Value)> {
        let ends = Key { partition, id: 0 }..=Key { partition, id: u64::MAX };
        self.present.range(ends).map(|(&key, (version, value))| (key, *version, value))
    }

    /// Makes a draft a transaction that can be committed whatever else happens.
    ///
    /// # Errors
    /// A record that it read has changed, or one that it read or writes is held by another transaction.
    pub fn prepare(
        &mut self,
        draft: Draft,
        durability: Durability,
    ) -> Result<Transaction, Conflict> {
        for (&key, &seen) in &draft.reads {
            if let Some(&by) = self.held.get(&key) {
                return Err(Conflict::Held { key, by });
            }
            let now = self.version(key);
            if now != seen {
                return Err(Conflict::Changed { key, seen, now });
            }
        }
        self.transactions += 1;
        let id = TransactionId(self.transactions);
        let writes: Vec<Write> = draft
            .writes
            .into_iter()
            .map(|(key, value)| Write { key, version: Version(self.version(key).0 + 1), value })
            .collect();
        for write in &writes {
            self.held.insert(write.key, id);
        }
        let transaction = Transaction { id, durability, writes };
        self.prepared.insert(id, transaction.clone());
        Ok(transaction)
    }

    /// Takes a prepared transaction's writes over; gives the transaction back, or `None` if it is not prepared.
    pub fn commit(&mut self, id: TransactionId) -> Option<Transaction> {
        let transaction = self.release(id)?;
        for write in &transaction.writes {
            match &write.value {
                Some(value) => {
                    self.removed.remove(&write.key);
                    self.present.insert(write.key, (write.version, value.clone()));
                }
                None => {
                    self.present.remove(&write.key);
                    // Requests and placements are never made anew, so their versions need not be kept.
                    if !matches!(write.key.partition, Partition::Requests | Partition::Placements) {
                        self.removed.insert(write.key, write.version);
                    }
                }
            }
        }
        Some(transaction)
    }

    /// Lets go of a prepared transaction; every record is as it was.
    pub fn rollback(&mut self, id: TransactionId) -> Option<Transaction> {
        self.release(id)
    }

    /// Drops a record from memory that nothing here needs any more; the store keeps it for as long as it wants.
    pub fn forget(&mut self, key: Key) {
        if !self.is_held(key) {
            self.present.remove(&key);
        }
    }

    /// Whether a record is held by a transaction that is not confirmed yet.
    pub fn is_held(&self, key: Key) -> bool {
        self.held.contains_key(&key)
    }

    fn release(&mut self, id: TransactionId) -> Option<Transaction> {
        let transaction = self.prepared.remove(&id)?;
        for write in &transaction.writes {
            self.held.remove(&write.key);
        }
        Some(transaction)
    }
}
