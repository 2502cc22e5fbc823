//! What follows when clients want browsers for themselves.

use super::Fleet;
use crate::{
    core::leases::LeaseState,
    event::{Action, LeaseId, RequestError, SlotId},
    recovery::{Failure, FailureKind},
};

impl Fleet {
    /// A client no longer needs, or no longer wants, its browser.
    pub(super) fn release(&mut self, lease: LeaseId) {
        let Some(state) = self.leases.release(lease) else { return };
        self.end_requests_of(lease);
        if let Some(index) = state.slot()
            && let Some(live) = self.slots.change_live(index)
        {
            live.take_back();
        }
    }

    /// The browser of a lease is gone.
    pub(super) fn revoke(&mut self, lease: LeaseId, failure: &Failure) {
        if self.leases.revoke(lease) {
            self.end_requests_of(lease);
            self.order(Action::Revoked { lease, failure: failure.clone() });
        }
    }

    /// Gives browsers to clients, in the order in which they asked.
    pub(super) fn assign_leases(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        for (_, index) in self.leases.promised() {
            // A load that hangs would keep both the client and everybody else waiting.
            if self.slots.live(index).is_some_and(|live| !live.is_settled()) {
                self.end_promise(index);
            }
        }
        for lease in self.leases.waiting() {
            if self.config.workers_max.is_some_and(|max| self.leases.given() >= max as usize) {
                break;
            }
            let Some(index) = self.freest() else { break };
            if let Some(live) = self.slots.change_live(index) {
                live.lend(lease);
            }
            self.leases.promise(lease, index);
        }
        for (lease, index) in self.leases.promised() {
            let Some(live) = self.slots.live(index).filter(|live| live.is_idle()) else {
                continue;
            };
            let browser = live.browser();
            self.leases.hold(lease, index, self.now.after(self.config.run_timeout));
            self.order(Action::Acquired { lease, browser });
        }
        self.refresh();
    }

    /// A client that was promised the slot's browser waits for another one.
    pub(super) fn end_promise(&mut self, index: usize) {
        let Some(live) = self.slots.live(index) else { return };
        let Some(lease) = live.lease() else { return };
        if self.leases.held_by(lease).is_some() {
            return;
        }
        if let Some(live) = self.slots.change_live(index) {
            live.take_back();
        }
        self.leases.revoke(lease);
    }

    /// The browser with the fewest runs that no client has for itself.
    fn freest(&self) -> Option<usize> {
        self.slots
            .regular()
            .filter(|&index| {
                let slots = self.config.worker_slots.as_ref();
                slots.is_none_or(|slots| slots.contains(&SlotId(index as u32)))
            })
            .filter_map(|index| {
                let live = self.slots.get(index).usable()?;
                let is_free = live.lease().is_none() && live.is_settled();
                is_free.then_some((live.runs().len(), index))
            })
            .min()
            .map(|(_, index)| index)
    }

    /// Ends leases whose time is over. A browser that computes for one is given a new page: that ends the computation.
    pub(super) fn expire_leases(&mut self) {
        for lease in self.leases.overdue(self.now) {
            match self.leases.state(lease) {
                None => {}
                Some(LeaseState::Waiting | LeaseState::Promised(_)) => {
                    self.release(lease);
                    let failure =
                        Failure::new(FailureKind::Overloaded, "no browser was free in time");
                    self.order(Action::Revoked { lease, failure });
                }
                Some(LeaseState::Holding(index)) => {
                    let words = "the lease has reached its longest time";
                    let failure = Failure::new(FailureKind::DeadlineExceeded, words);
                    let live = self.slots.live(index);
                    let is_busy = live.is_some_and(|live| !live.runs().is_empty());
                    self.release(lease);
                    self.order(Action::Revoked { lease, failure: failure.clone() });
                    if is_busy {
                        self.page_down(index, failure);
                    }
                }
            }
        }
    }

    fn end_requests_of(&mut self, lease: LeaseId) {
        for id in self.requests.of_lease(lease) {
            self.fail(id, |tried| RequestError::LeaseEnded { tried });
        }
    }
}
