//! Simulates commits: transactions are written in order, slowly, or not at all.

use flotilla_fleet::{
    Event,
    state::{Durability, Transaction, TransactionId},
};

use super::Simulation;
use crate::{
    core::Core,
    faults::FaultKind,
    invariants::{Invariant, Violation},
    schedule::Scheduled,
    store::Store,
};

impl<C: Core> Simulation<C> {
    pub(super) fn commit(&mut self, transaction: Transaction) -> Result<(), Violation> {
        let id = transaction.id;
        let is_new = self.store.is_new(id);
        self.checker.check(Invariant::FreshIds, is_new, || format!("{id} again"))?;
        for (request, outcome) in Store::request_writes(&transaction) {
            let critical = transaction.durability == Durability::Critical;
            self.checker.check(Invariant::RecordedFirst, critical, || {
                format!("{id} records {request} and need not be on disk to be confirmed")
            })?;
            self.clients.begin_recording(request, id, outcome.is_some(), &mut self.checker)?;
        }
        let slow = self.fault(FaultKind::CommitSlow);
        let delay = if slow { self.random.ms(500, 5000) } else { self.random.ms(0, 20) };
        let at = self.store.enqueue(transaction, delay, self.now);
        let event = match self.fault(FaultKind::CommitFails) {
            true => Event::CommitFailed { transaction: id, reason: "played".to_owned() },
            false => Event::Committed { transaction: id },
        };
        self.schedule.add(at, Scheduled::Message(event));
        Ok(())
    }

    /// A transaction was written; called before the core handles that.
    pub(super) fn committed(&mut self, id: TransactionId) -> Result<(), Violation> {
        let Some(transaction) = self.store.take(id) else { return Ok(()) };
        self.store.confirmed += 1;
        let conflict = self.store.write(&transaction, self.now);
        self.checker.check(Invariant::Versions, conflict.is_none(), || {
            format!("{id} writes {conflict:?}, of which a later version is on disk")
        })?;
        for (request, outcome) in Store::request_writes(&transaction) {
            self.clients.recorded(request, outcome, self.now);
        }
        Ok(())
    }

    /// A transaction could not be written; called before the core handles that.
    pub(super) fn commit_failed(&mut self, id: TransactionId) {
        let Some(transaction) = self.store.take(id) else { return };
        self.store.refused += 1;
        for (request, _) in Store::request_writes(&transaction) {
            self.clients.not_recorded(request);
        }
    }
}
