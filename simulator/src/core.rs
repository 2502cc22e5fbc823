//! What a simulation runs: the fleet, or a core that is broken on purpose.

use flotilla_fleet::{Action, Config, Event, Fleet, Instant, Sizes, Status, state::Records};

/// The core under test: the fleet, or one that is broken on purpose.
pub trait Core {
    /// A core that resumes from the records of an earlier one.
    fn start(config: Config, records: Records) -> Self;
    /// Handles an event.
    fn handle(&mut self, now: Instant, event: Event);
    /// The next action.
    fn poll_action(&mut self) -> Option<Action>;
    /// When to be woken if nothing else happens before.
    fn poll_timeout(&self) -> Option<Instant>;
    /// Its status.
    fn status(&self) -> Status;
    /// Sizes of its collections.
    fn sizes(&self) -> Sizes;
}

impl Core for Fleet {
    fn start(config: Config, records: Records) -> Fleet {
        Fleet::restore(config, records)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        Fleet::handle(self, now, event);
    }

    fn poll_action(&mut self) -> Option<Action> {
        Fleet::poll_action(self)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Fleet::poll_timeout(self)
    }

    fn status(&self) -> Status {
        Fleet::status(self)
    }

    fn sizes(&self) -> Sizes {
        Fleet::sizes(self)
    }
}
