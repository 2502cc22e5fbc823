//! The events that are planned, in order of virtual time.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, VecDeque},
};

use flotilla_fleet::Instant;
use flotilla_protocol::BrowserId;

use super::world::Occurrence;

struct Entry {
    at: Instant,
    /// Order of planning; decides between entries of the same moment.
    planned: u64,
    occurrence: Occurrence,
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
        (other.at, other.planned).cmp(&(self.at, self.planned))
    }
}

/// Every planned entry, in order of time.
///
/// Heartbeats are most of them. All come after the same interval, so they are due in the order of planning and need
/// no heap.
#[derive(Default)]
pub(super) struct Agenda {
    heap: BinaryHeap<Entry>,
    beats: VecDeque<(Instant, BrowserId)>,
    planned: u64,
}

impl Agenda {
    pub(super) fn add(&mut self, at: Instant, occurrence: Occurrence) {
        self.planned += 1;
        self.heap.push(Entry { at, planned: self.planned, occurrence });
    }

    /// Plans a heartbeat; `at` must not be before that of an earlier call.
    pub(super) fn add_beat(&mut self, at: Instant, browser: BrowserId) {
        self.beats.push_back((at, browser));
    }

    /// When the next thing happens.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let beat = self.beats.front().map(|&(at, _)| at);
        let other = self.heap.peek().map(|entry| entry.at);
        beat.into_iter().chain(other).min()
    }

    /// Takes the next thing out.
    pub(super) fn pop(&mut self) -> Option<(Instant, Occurrence)> {
        let other = self.heap.peek().map(|entry| entry.at);
        match self.beats.front() {
            Some(&(at, browser)) if other.is_none_or(|other| at <= other) => {
                self.beats.pop_front();
                Some((at, Occurrence::Beat(browser)))
            }
            Some(_) | None => self.heap.pop().map(|entry| (entry.at, entry.occurrence)),
        }
    }

    /// Forgets what is not to be kept, and every heartbeat.
    pub(super) fn retain(&mut self, keep: impl Fn(&Occurrence) -> bool) {
        self.heap.retain(|entry| keep(&entry.occurrence));
        self.beats.clear();
    }

    /// How much is planned.
    pub(super) fn len(&self) -> usize {
        self.heap.len() + self.beats.len()
    }
}
