//! Browsers that clients have for themselves.

use std::collections::BTreeMap;

use crate::event::{Instant, LeaseId};

/// A client's hold on a browser, or its wait for one.
#[derive(Clone, Copy, Debug)]
struct Lease {
    deadline: Instant,
    state: LeaseState,
}

/// How far a lease is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseState {
    /// No browser is free.
    Waiting,
    /// This slot's browser gets no more other work, and is the client's when what it has is ended.
    Promised(usize),
    /// This slot's browser is the client's.
    Holding(usize),
}

impl LeaseState {
    /// The slot whose browser the client has or will have.
    pub(super) fn slot(self) -> Option<usize> {
        match self {
            LeaseState::Waiting => None,
            LeaseState::Promised(slot) | LeaseState::Holding(slot) => Some(slot),
        }
    }
}

/// Every lease that is not over.
#[derive(Debug, Default)]
pub(super) struct Leases {
    by_id: BTreeMap<LeaseId, Lease>,
}

impl Leases {
    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The slot whose browser a client has for itself.
    pub(super) fn held_by(&self, id: LeaseId) -> Option<usize> {
        match self.by_id.get(&id)?.state {
            LeaseState::Holding(slot) => Some(slot),
            LeaseState::Waiting | LeaseState::Promised(_) => None,
        }
    }

    /// Leases that hold a browser.
    pub(super) fn holding(&self) -> Vec<LeaseId> {
        self.by_id
            .iter()
            .filter(|(_, lease)| matches!(lease.state, LeaseState::Holding(_)))
            .map(|(&id, _)| id)
            .collect()
    }

    /// Leases that wait for a browser, in the order in which they were asked for.
    pub(super) fn waiting(&self) -> Vec<LeaseId> {
        self.by_id
            .iter()
            .filter(|(_, lease)| lease.state == LeaseState::Waiting)
            .map(|(&id, _)| id)
            .collect()
    }

    /// Leases that have been promised a browser, and its slot.
    pub(super) fn promised(&self) -> Vec<(LeaseId, usize)> {
        self.by_id
            .iter()
            .filter_map(|(&id, lease)| match lease.state {
                LeaseState::Promised(slot) => Some((id, slot)),
                LeaseState::Waiting | LeaseState::Holding(_) => None,
            })
            .collect()
    }

    /// Leases that have a browser or are promised one.
    pub(super) fn given(&self) -> usize {
        self.by_id.values().filter(|lease| lease.state != LeaseState::Waiting).count()
    }

    /// Leases whose time is over.
    pub(super) fn overdue(&self, now: Instant) -> Vec<LeaseId> {
        self.by_id.iter().filter(|(_, lease)| lease.deadline <= now).map(|(&id, _)| id).collect()
    }

    /// How far a lease is; `None` for one that is over.
    pub(super) fn state(&self, id: LeaseId) -> Option<LeaseState> {
        self.by_id.get(&id).map(|lease| lease.state)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.by_id.values().map(|lease| lease.deadline).min()
    }

    /// A client wants a browser for itself.
    pub(super) fn acquire(&mut self, id: LeaseId, deadline: Instant) {
        self.by_id.entry(id).or_insert(Lease { deadline, state: LeaseState::Waiting });
    }

    /// A lease is over; gives how far it was.
    pub(super) fn release(&mut self, id: LeaseId) -> Option<LeaseState> {
        self.by_id.remove(&id).map(|lease| lease.state)
    }

    /// The browser of a lease is gone. One that was only promised waits for another; true for one that held it and is
    /// over.
    pub(super) fn revoke(&mut self, id: LeaseId) -> bool {
        let Some(lease) = self.by_id.get_mut(&id) else { return false };
        match lease.state {
            LeaseState::Waiting => false,
            LeaseState::Promised(_) => {
                lease.state = LeaseState::Waiting;
                false
            }
            LeaseState::Holding(_) => {
                self.by_id.remove(&id);
                true
            }
        }
    }

    pub(super) fn promise(&mut self, id: LeaseId, slot: usize) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.state = LeaseState::Promised(slot);
        }
    }

    /// The client has the browser from now on. How long it waited is no part of how long it may have it.
    pub(super) fn hold(&mut self, id: LeaseId, slot: usize, deadline: Instant) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            *lease = Lease { deadline, state: LeaseState::Holding(slot) };
        }
    }

    /// The fleet ends, and every lease with it.
    pub(super) fn end(&mut self) -> Vec<LeaseId> {
        std::mem::take(&mut self.by_id).into_keys().collect()
    }
}
