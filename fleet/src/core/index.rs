//! Index over slots, so that an event costs O(changed slots) and not O(all slots).

use std::collections::{BTreeMap, BTreeSet};

use crate::event::{Instant, ModelId};

/// Which slots have changed, when each has something to do, and which are open for a model.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Changed since the last refresh.
    touched: BTreeSet<usize>,
    /// Changed since the last record.
    unrecorded: BTreeSet<usize>,
    timers: BTreeSet<(Instant, usize)>,
    due: Vec<Option<Instant>>,
    /// Slots that could take a run of each model.
    open: BTreeMap<ModelId, BTreeSet<usize>>,
    /// What each slot is open for.
    open_for: Vec<Vec<ModelId>>,
}

impl Index {
    /// Every slot is yet to be looked at.
    pub(super) fn new(slots: usize) -> Index {
        Index {
            touched: (0..slots).collect(),
            unrecorded: (0..slots).collect(),
            due: vec![None; slots],
            open_for: vec![Vec::new(); slots],
            ..Index::default()
        }
    }

    /// One more slot, which is yet to be looked at.
    pub(super) fn add(&mut self) {
        self.touch(self.due.len());
        self.due.push(None);
        self.open_for.push(Vec::new());
    }

    pub(super) fn touch(&mut self, slot: usize) {
        self.touched.insert(slot);
    }

    /// Slots that were changed since they were taken last. They are to be recorded too.
    pub(super) fn take_touched(&mut self) -> BTreeSet<usize> {
        let touched = std::mem::take(&mut self.touched);
        self.unrecorded.extend(&touched);
        touched
    }

    /// The earliest time at which a slot has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timers.first().map(|&(at, _)| at)
    }

    /// Slots that were changed, or whose time has come.
    pub(super) fn pending(&self, now: Instant) -> Vec<usize> {
        let due = self.timers.iter().take_while(|&&(at, _)| at <= now).map(|&(_, slot)| slot);
        let mut pending: Vec<usize> = self.touched.iter().copied().chain(due).collect();
        pending.sort_unstable();
        pending.dedup();
        pending
    }

    /// Slots that could take a run, `from` and those after it first.
    pub(super) fn open(&self, model: ModelId, from: usize) -> impl Iterator<Item = usize> + '_ {
        self.open
            .get(&model)
            .into_iter()
            .flat_map(move |open| open.range(from..).chain(open.range(..from)).copied())
    }

    pub(super) fn take_unrecorded(&mut self) -> BTreeSet<usize> {
        std::mem::take(&mut self.unrecorded)
    }

    /// When a slot has something to do, and which models it could take a run of.
    pub(super) fn set(&mut self, slot: usize, due: Option<Instant>, open_for: Vec<ModelId>) {
        if self.due[slot] != due {
            if let Some(at) = self.due[slot] {
                self.timers.remove(&(at, slot));
            }
            if let Some(at) = due {
                self.timers.insert((at, slot));
            }
            self.due[slot] = due;
        }
        if self.open_for[slot] != open_for {
            for model in &self.open_for[slot] {
                if let Some(open) = self.open.get_mut(model) {
                    open.remove(&slot);
                }
            }
            for &model in &open_for {
                self.open.entry(model).or_default().insert(slot);
            }
            self.open_for[slot] = open_for;
        }
    }
}
