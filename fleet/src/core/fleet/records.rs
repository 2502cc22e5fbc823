//! What is recorded, and what follows when that is confirmed or refused.

use flotilla_protocol::RequestId;

use super::Fleet;
use crate::{
    core::journal::Pending,
    event::Action,
    recovery::{Failure, FailureKind},
    state::{Transaction, TransactionId, Value},
};

impl Fleet {
    /// Records what the fleet is made with, and that browsers and placements of an earlier fleet are gone.
    pub(super) fn record_start(&mut self) {
        let configuration = self.configuration();
        let transaction = self.journal.start(configuration);
        self.commit(transaction);
    }

    /// Records what the fleet is made with, now that a slot was added or removed.
    pub(super) fn record_configuration(&mut self) {
        let configuration = self.configuration();
        let transaction = self.journal.configure(configuration);
        self.commit(transaction);
    }

    fn configuration(&self) -> Value {
        Value::Configuration {
            slots: self.slots.desired().map(|slot| slot.spec().kind.clone()).collect(),
            recovery_strategy: self.config.strategy.name().to_owned(),
            redundancy_factor: self.config.redundancy_factor,
        }
    }

    /// Writes what this event has changed.
    pub(super) fn record(&mut self) {
        let accepted = self.journal.take_accepted();
        self.record_requests(accepted, Pending::Accept);
        let ended = self.journal.take_ended();
        self.record_requests(ended, Pending::End);
        self.record_changes();
    }

    fn record_requests(
        &mut self,
        ids: Vec<RequestId>,
        pending: impl FnOnce(Vec<RequestId>) -> Pending,
    ) {
        let values = self.requests.records(&ids);
        let pending = pending(values.iter().map(|&(id, _)| id).collect());
        match self.journal.record_requests(values, pending.clone()) {
            Ok(transaction) => self.commit(transaction),
            // Not expected, so it is reported and not hidden.
            Err(conflict) => self.not_recorded(pending, &conflict.to_string()),
        }
    }

    /// Writes what has changed of slots, placements and assignments.
    pub(super) fn record_changes(&mut self) {
        self.refresh();
        let changed = self.slots.changed_records();
        let slots_of = |model| self.assignments.slots_of(model);
        let transaction = self.journal.record_changes(changed, slots_of);
        self.commit(transaction);
    }

    fn commit(&mut self, transaction: Option<Transaction>) {
        if let Some(transaction) = transaction {
            self.order(Action::Commit(transaction));
        }
    }

    pub(super) fn committed(&mut self, id: TransactionId) {
        match self.journal.committed(id) {
            Some(Pending::Accept(requests)) => {
                for request in requests {
                    if self.requests.recorded(request) {
                        self.journal.end(request);
                    }
                }
            }
            Some(Pending::End(requests)) => {
                for request in requests {
                    self.report(request);
                }
            }
            Some(Pending::Assignment(model)) => {
                if self.assignments.is_recorded_by(model, id) {
                    self.finish_migration(model);
                }
                // Whatever became of it meanwhile is what the next record says.
                self.journal.assignment_changed(model);
            }
            None => {}
        }
    }

    pub(super) fn commit_failed(&mut self, id: TransactionId, reason: &str) {
        if let Some(pending) = self.journal.commit_failed(id) {
            self.not_recorded(pending, reason);
        }
    }

    fn not_recorded(&mut self, pending: Pending, reason: &str) {
        match pending {
            Pending::Accept(requests) => {
                for id in requests {
                    if let Some(report) = self.requests.not_recorded(id, reason) {
                        self.order(report);
                    }
                }
            }
            // A right answer is not kept from its client because a disk is full.
            Pending::End(requests) => {
                for request in requests {
                    self.report(request);
                }
            }
            Pending::Assignment(model) => {
                let words = format!("the new plan could not be recorded: {reason}");
                self.undo_migration(model, Failure::new(FailureKind::Overloaded, words));
            }
        }
    }
}
