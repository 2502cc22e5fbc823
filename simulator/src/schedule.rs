//! Future events, in order of virtual time.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, VecDeque},
};

use flotilla_fleet::{Event, Instant, LeaseId};
use flotilla_protocol::BrowserId;

/// Something that happens at a time of the schedule.
#[derive(Clone, Debug)]
pub(crate) enum Scheduled {
    /// A message that is delivered even if its sender has ended.
    Message(Event),
    /// A message that is delivered if its page is still the browser's page and can send.
    PageMessage { browser: BrowserId, page: u32, event: Event },
    /// A browser's heartbeat.
    Heartbeat(BrowserId),
    /// A fault of the plan, by its index, in a browser.
    BrowserFault { browser: BrowserId, fault: usize },
    /// A fault of the plan, by its index, in the daemon or the load.
    FleetFault { fault: usize },
    /// A client sends requests.
    Request,
    /// A client sends a request to the browser that it has acquired.
    LeaseRequest(LeaseId),
    /// An operator's command.
    Operation,
    /// A restarted daemon resumes the recorded requests.
    TakeOver,
    /// A killed daemon is started again.
    DaemonStart,
    /// The order to drain.
    Drain,
}

impl Scheduled {
    /// Whether it still happens if the daemon is killed before.
    pub(crate) fn outlives_daemon(&self) -> bool {
        match self {
            Scheduled::Request
            | Scheduled::Operation
            | Scheduled::FleetFault { .. }
            | Scheduled::DaemonStart
            | Scheduled::Drain => true,
            Scheduled::Message(_)
            | Scheduled::PageMessage { .. }
            | Scheduled::Heartbeat(_)
            | Scheduled::LeaseRequest(_)
            | Scheduled::TakeOver
            | Scheduled::BrowserFault { .. } => false,
        }
    }
}

struct Entry {
    at: Instant,
    /// Order of insertion; decides between entries of the same time.
    inserted: u64,
    scheduled: Scheduled,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// Reversed: `BinaryHeap` pops its greatest entry, and the earliest is wanted.
    fn cmp(&self, other: &Entry) -> Ordering {
        (other.at, other.inserted).cmp(&(self.at, self.inserted))
    }
}

/// Every future event.
///
/// Most are heartbeats. All heartbeats have the same interval, so they are due in the order of insertion and need no heap.
#[derive(Default)]
pub(crate) struct Schedule {
    heap: BinaryHeap<Entry>,
    heartbeats: VecDeque<(Instant, BrowserId)>,
    inserted: u64,
}

impl Schedule {
    pub(crate) fn add(&mut self, at: Instant, scheduled: Scheduled) {
        self.inserted += 1;
        self.heap.push(Entry { at, inserted: self.inserted, scheduled });
    }

    /// Adds a heartbeat; `at` must not be before that of an earlier call.
    pub(crate) fn add_heartbeat(&mut self, at: Instant, browser: BrowserId) {
        self.heartbeats.push_back((at, browser));
    }

    /// Time of the next event.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        let beat = self.heartbeats.front().map(|&(at, _)| at);
        let other = self.heap.peek().map(|entry| entry.at);
        beat.into_iter().chain(other).min()
    }

    /// Removes the next event.
    pub(crate) fn pop(&mut self) -> Option<(Instant, Scheduled)> {
        let other = self.heap.peek().map(|entry| entry.at);
        match self.heartbeats.front() {
            Some(&(at, browser)) if other.is_none_or(|other| at <= other) => {
                self.heartbeats.pop_front();
                Some((at, Scheduled::Heartbeat(browser)))
            }
            Some(_) | None => self.heap.pop().map(|entry| (entry.at, entry.scheduled)),
        }
    }

    /// Removes all heartbeats and the events that `keep` rejects.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Scheduled) -> bool) {
        self.heap.retain(|entry| keep(&entry.scheduled));
        self.heartbeats.clear();
    }

    /// Number of future events.
    pub(crate) fn len(&self) -> usize {
        self.heap.len() + self.heartbeats.len()
    }
}
