//! Transactions as rows, and back.
//!
//! A transaction is a `begin`, a `change` for each record and a `commit`, under consecutive sequence numbers. `begin` and
//! `commit` both list the records, so that the record of a lost change is known. A transaction without `commit` is ignored.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_fleet::state::{Key, Partition, Transaction, TransactionId, Value, Version};
use rusqlite::types::Value as Cell;

use crate::row::{Row, Table};

const BEGIN: &str = "begin";
const CHANGE: &str = "change";
const COMMIT: &str = "commit";

/// A record as it is stored; without a body it was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) version: Version,
    pub(crate) transaction: TransactionId,
    pub(crate) body: Option<String>,
}

impl Stored {
    /// The record's row.
    pub(crate) fn row(&self, key: Key) -> Row {
        let [partition, id] = key_cells(key);
        Row::new(
            Table::Records,
            vec![
                partition,
                id,
                number(self.version.0),
                number(self.transaction.0),
                self.body.clone().map_or(Cell::Null, Cell::Text),
            ],
        )
    }

    /// The record's value.
    ///
    /// # Errors
    /// It was written by a program that knew other records.
    pub(crate) fn value(&self) -> Result<Option<Value>, serde_json::Error> {
        self.body.as_deref().map(serde_json::from_str).transpose()
    }
}

/// A number as SQLite keeps it.
pub(crate) fn number(value: u64) -> Cell {
    Cell::Integer(value.cast_signed())
}

/// The key columns of a record.
pub(crate) fn key_cells(key: Key) -> [Cell; 2] {
    [Cell::Text(key.partition.name().to_owned()), number(key.id)]
}

/// Which record the columns from `column` on name.
pub(crate) fn key_at(row: &Row, column: usize) -> Option<Key> {
    let partition = Partition::named(row.text(column)?)?;
    Some(Key { partition, id: row.number(column + 1) })
}

/// What a transaction does to the records.
pub(crate) fn stored(transaction: &Transaction) -> Result<Vec<(Key, Stored)>, serde_json::Error> {
    let stored = |write: &flotilla_fleet::state::Write| {
        let body = write.value.as_ref().map(serde_json::to_string).transpose()?;
        Ok((write.key, Stored { version: write.version, transaction: transaction.id, body }))
    };
    transaction.writes.iter().map(stored).collect()
}

/// A transaction's rows; `sequence` is the last number that is taken and moves on.
pub(crate) fn rows(
    id: TransactionId,
    changes: &[(Key, Stored)],
    sequence: &mut i64,
) -> Result<Vec<Row>, serde_json::Error> {
    let names: Vec<(Key, Version)> =
        changes.iter().map(|(key, stored)| (*key, stored.version)).collect();
    let names = serde_json::to_string(&names)?;
    let mut row = |step: &str, record: [Cell; 4]| {
        *sequence += 1;
        let head = [Cell::Integer(*sequence), number(id.0), Cell::Text(step.to_owned())];
        Row::new(Table::Journal, head.into_iter().chain(record).collect())
    };
    let end = |names: &str| [Cell::Null, Cell::Null, Cell::Null, Cell::Text(names.to_owned())];
    let mut rows = vec![row(BEGIN, end(&names))];
    for (key, stored) in changes {
        let [partition, id] = key_cells(*key);
        let body = stored.body.clone().map_or(Cell::Null, Cell::Text);
        rows.push(row(CHANGE, [partition, id, number(stored.version.0), body]));
    }
    rows.push(row(COMMIT, end(&names)));
    Ok(rows)
}

/// Records with the journal applied to them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Folded {
    pub(crate) records: BTreeMap<Key, Stored>,
    /// Records that the journal changed.
    pub(crate) touched: BTreeSet<Key>,
    /// Transactions without their commit: nothing of them is in `records`.
    pub(crate) rolled_back: Vec<TransactionId>,
    /// Records whose newest version cannot be read; they are not in `records`.
    pub(crate) lost: Vec<(Key, String)>,
    /// The highest transaction.
    pub(crate) transactions: u64,
    /// The last sequence number.
    pub(crate) sequence: i64,
}

/// A transaction as far as its rows can be read.
#[derive(Default)]
struct Parts {
    begun: bool,
    committed: bool,
    names: Vec<(Key, Version)>,
    changes: Vec<(Key, Stored)>,
}

/// Applies a journal, its rows in order. `damaged` says that rows of it were not as they were written, so that a missing
/// one does not mean that it never was.
pub(crate) fn fold(records: Vec<Row>, journal: Vec<Row>, damaged: bool) -> Folded {
    let mut folded = Folded::default();
    for row in records {
        let Some(key) = key_at(&row, 0) else { continue };
        let stored = Stored {
            version: Version(row.number(2)),
            transaction: TransactionId(row.number(3)),
            body: row.text(4).map(str::to_owned),
        };
        folded.transactions = folded.transactions.max(stored.transaction.0);
        folded.records.insert(key, stored);
    }
    let mut parts: BTreeMap<TransactionId, Parts> = BTreeMap::new();
    for row in journal {
        let id = TransactionId(row.number(1));
        folded.sequence = folded.sequence.max(row.integer(0));
        folded.transactions = folded.transactions.max(id.0);
        let part = parts.entry(id).or_default();
        match row.text(2) {
            Some(CHANGE) => {
                let Some(key) = key_at(&row, 3) else { continue };
                let stored = Stored {
                    version: Version(row.number(5)),
                    transaction: id,
                    body: row.text(6).map(str::to_owned),
                };
                part.changes.push((key, stored));
            }
            step => {
                part.begun |= step == Some(BEGIN);
                part.committed |= step == Some(COMMIT);
                // Names that cannot be parsed were written by another program; only its changes are used.
                if let Some(Ok(names)) = row.text(6).map(serde_json::from_str) {
                    part.names = names;
                }
            }
        }
    }
    let mut lost: BTreeMap<Key, (Version, TransactionId)> = BTreeMap::new();
    for (id, part) in parts {
        // SQLite writes all rows of a transaction or none, so in a damaged journal one row is enough to prove the commit.
        if !part.committed && !damaged {
            folded.rolled_back.push(id);
            continue;
        }
        for (key, version) in part.names {
            if !part.changes.iter().any(|(changed, _)| *changed == key) {
                let newest = lost.entry(key).or_insert((version, id));
                *newest = (*newest).max((version, id));
            }
        }
        for (key, stored) in part.changes {
            if folded.records.get(&key).is_none_or(|present| present.version < stored.version) {
                folded.records.insert(key, stored);
                folded.touched.insert(key);
            }
        }
    }
    for (key, (version, id)) in lost {
        if folded.records.get(&key).is_none_or(|present| present.version < version) {
            folded.records.remove(&key);
            folded.touched.remove(&key);
            let reason = format!("version {} of {key}, written by {id}, is unreadable", version.0);
            folded.lost.push((key, reason));
        }
    }
    folded
}

/// Which transaction a row of the journal belongs to.
pub(crate) fn transaction_of(row: &Row) -> u64 {
    row.number(1)
}
