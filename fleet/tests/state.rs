//! Laws of records and transactions, whatever is interleaved with what.

use std::collections::BTreeMap;

use flotilla_fleet::state::{
    Conflict, Draft, Durability, Key, Partition, Records, Transaction, TransactionId, Value,
    Version,
};
use proptest::prelude::*;

/// Records that the transactions meet at.
const KEYS: u64 = 4;
/// Transactions that are open at the same time.
const DRAFTS: usize = 4;

fn key(id: u64) -> Key {
    Key { partition: Partition::Configuration, id }
}

/// A record that holds a number.
fn value(number: u32) -> Value {
    Value::Configuration {
        slots: Vec::new(),
        recovery_strategy: String::new(),
        redundancy_factor: Some(number),
    }
}

fn number(value: Option<&Value>) -> u32 {
    match value {
        Some(Value::Configuration { redundancy_factor, .. }) => redundancy_factor.unwrap_or(0),
        Some(other) => panic!("{other:?} is not of this test"),
        None => 0,
    }
}

/// A step of one of several transactions that are open at the same time.
#[derive(Clone, Debug)]
enum Step {
    Read(u64),
    /// Writes the sum of what was read, plus one: the outcome shows what the transaction saw.
    Write(u64),
    Remove(u64),
    Prepare,
    Commit,
    Rollback,
}

fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
    let step = prop_oneof![
        3 => (0..KEYS).prop_map(Step::Read),
        3 => (0..KEYS).prop_map(Step::Write),
        1 => (0..KEYS).prop_map(Step::Remove),
        3 => Just(Step::Prepare),
        3 => Just(Step::Commit),
        1 => Just(Step::Rollback),
    ];
    prop::collection::vec((0..DRAFTS, step), 1..80)
}

/// A transaction while it is put together or waits, with what it saw and did.
#[derive(Clone, Default)]
struct Open {
    draft: Draft,
    done: Vec<Done>,
    sum: u32,
    prepared: Option<Transaction>,
}

#[derive(Clone, Debug)]
enum Done {
    Saw(u64, u32),
    Wrote(u64, u32),
    Removed(u64),
}

/// Does transactions one after the other to plain numbers and checks that each sees what it saw.
fn replay(
    committed: &BTreeMap<TransactionId, Vec<Done>>,
) -> Result<BTreeMap<u64, u32>, TestCaseError> {
    let mut plain: BTreeMap<u64, u32> = BTreeMap::new();
    for transaction in committed.values() {
        for done in transaction {
            match *done {
                Done::Saw(id, saw) => {
                    prop_assert_eq!(plain.get(&id).copied().unwrap_or(0), saw, "record {}", id);
                }
                Done::Wrote(id, number) => {
                    plain.insert(id, number);
                }
                Done::Removed(id) => {
                    plain.remove(&id);
                }
            }
        }
    }
    Ok(plain)
}

fn present(records: &Records) -> BTreeMap<u64, u32> {
    records
        .of(Partition::Configuration)
        .map(|(key, _, value)| (key.id, number(Some(value))))
        .collect()
}

proptest! {
    /// Whatever the interleaving, committed transactions have the same result as one after the other in the order of
    /// their names, which is that in which they were prepared and not that in which they were confirmed.
    #[test]
    fn committed_transactions_are_serializable(steps in steps()) {
        let mut records = Records::default();
        let mut open: Vec<Open> = vec![Open::default(); DRAFTS];
        let mut committed: BTreeMap<TransactionId, Vec<Done>> = BTreeMap::new();
        for (index, step) in steps {
            let this = &mut open[index];
            match (step, this.prepared.take()) {
                (Step::Read(id), None) => {
                    let saw = number(this.draft.read(&records, key(id)));
                    this.sum = this.sum.wrapping_add(saw);
                    this.done.push(Done::Saw(id, saw));
                }
                (Step::Write(id), None) => {
                    let number = this.sum.wrapping_add(1);
                    this.draft.write(&records, key(id), value(number));
                    this.done.push(Done::Wrote(id, number));
                }
                (Step::Remove(id), None) => {
                    this.draft.remove(&records, key(id));
                    this.done.push(Done::Removed(id));
                }
                (Step::Prepare, None) => {
                    let draft = std::mem::take(&mut this.draft);
                    match records.prepare(draft, Durability::Critical) {
                        Ok(transaction) => this.prepared = Some(transaction),
                        Err(Conflict::Changed { .. } | Conflict::Held { .. }) => {
                            *this = Open::default();
                        }
                    }
                }
                (Step::Commit, Some(transaction)) => {
                    prop_assert!(records.commit(transaction.id).is_some());
                    prop_assert!(records.commit(transaction.id).is_none(), "it is over");
                    committed.insert(transaction.id, std::mem::take(&mut open[index]).done);
                }
                (Step::Rollback, Some(transaction)) => {
                    prop_assert_eq!(records.rollback(transaction.id), Some(transaction));
                    open[index] = Open::default();
                }
                // A prepared transaction is not changed, one that is not prepared cannot end.
                (_, prepared) => this.prepared = prepared,
            }
        }
        prop_assert_eq!(replay(&committed)?, present(&records));
    }

    /// Of two transactions that were begun on the same records and meet at one, at most one commits.
    #[test]
    fn of_two_conflicting_transactions_at_most_one_commits(
        before in prop::collection::btree_map(0..KEYS, 1u32..9, 0..4),
        one in prop::collection::btree_set(0..KEYS, 1..3),
        other in prop::collection::btree_set(0..KEYS, 1..3),
        first_commits_before_second_prepares: bool,
    ) {
        let restored = before.iter().map(|(&id, &n)| (key(id), Version(1), value(n)));
        let mut records = Records::restore(restored, 5);
        let draft = |ids: &std::collections::BTreeSet<u64>, number| {
            let mut draft = Draft::default();
            for &id in ids {
                draft.write(&records, key(id), value(number));
            }
            draft
        };
        let (one_draft, other_draft) = (draft(&one, 100), draft(&other, 200));
        let first = records.prepare(one_draft, Durability::Critical).expect("nothing is held");
        prop_assert_eq!(first.id.0, 6, "names go on after the restored ones");
        if first_commits_before_second_prepares {
            records.commit(first.id);
        }
        let second = records.prepare(other_draft, Durability::Critical);
        prop_assert_eq!(second.is_ok(), one.is_disjoint(&other));
    }

    /// A rolled-back transaction leaves no trace in any record, and what it held is free.
    #[test]
    fn a_rollback_restores_everything(
        before in prop::collection::btree_map(0..KEYS, 1u32..9, 0..4),
        writes in prop::collection::btree_map(0..KEYS, prop::option::of(10u32..20), 1..4),
    ) {
        let restored = before.iter().map(|(&id, &n)| (key(id), Version(3), value(n)));
        let mut records = Records::restore(restored, 0);
        let contents = |records: &Records| -> Vec<(Version, Option<Value>)> {
            (0..KEYS).map(|id| (records.version(key(id)), records.get(key(id)).cloned())).collect()
        };
        let untouched = contents(&records);
        let mut draft = Draft::default();
        for (&id, number) in &writes {
            match number {
                Some(number) => draft.write(&records, key(id), value(*number)),
                None => draft.remove(&records, key(id)),
            }
        }
        let transaction = records.prepare(draft.clone(), Durability::Critical).expect("nothing is held");
        prop_assert_eq!(contents(&records), untouched.clone(), "nothing shows before the commit");
        prop_assert!(writes.keys().all(|&id| records.is_held(key(id))));
        prop_assert!(records.rollback(transaction.id).is_some());
        prop_assert_eq!(contents(&records), untouched);
        prop_assert!(writes.keys().all(|&id| !records.is_held(key(id))));
        // The same draft is still good: nothing that it read has changed.
        prop_assert!(records.prepare(draft, Durability::Critical).is_ok());
    }
}
