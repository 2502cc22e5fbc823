//! What is known about berths without looking at each: a fleet of a thousand browsers must not pay for all of them with
//! every event.

use std::collections::{BTreeMap, BTreeSet};

use super::Fleet;
use crate::event::{Instant, ModelId};

/// Kept in step with the berths by [`Fleet::refresh`], which looks only at those that were touched.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Changed since the last refresh.
    touched: BTreeSet<usize>,
    /// Changed since the last record.
    unrecorded: BTreeSet<usize>,
    timers: BTreeSet<(Instant, usize)>,
    due: Vec<Option<Instant>>,
    /// Berths that could take a run of each model.
    open: BTreeMap<ModelId, BTreeSet<usize>>,
    /// What each berth is open for.
    open_for: Vec<Vec<ModelId>>,
}

impl Index {
    /// Every berth is yet to be looked at.
    pub(super) fn new(berths: usize) -> Index {
        Index {
            touched: (0..berths).collect(),
            unrecorded: (0..berths).collect(),
            due: vec![None; berths],
            open_for: vec![Vec::new(); berths],
            ..Index::default()
        }
    }

    pub(super) fn touch(&mut self, berth: usize) {
        self.touched.insert(berth);
    }

    /// The earliest time at which a berth has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timers.first().map(|&(at, _)| at)
    }

    /// Berths that were changed, or whose time has come.
    pub(super) fn pending(&self, now: Instant) -> Vec<usize> {
        let due = self.timers.iter().take_while(|&&(at, _)| at <= now).map(|&(_, berth)| berth);
        let mut pending: Vec<usize> = self.touched.iter().copied().chain(due).collect();
        pending.sort_unstable();
        pending.dedup();
        pending
    }

    /// Berths that could take a run, `from` and those after it first.
    pub(super) fn open(&self, model: ModelId, from: usize) -> impl Iterator<Item = usize> + '_ {
        self.open
            .get(&model)
            .into_iter()
            .flat_map(move |open| open.range(from..).chain(open.range(..from)).copied())
    }

    pub(super) fn take_unrecorded(&mut self) -> BTreeSet<usize> {
        std::mem::take(&mut self.unrecorded)
    }

    fn set(&mut self, berth: usize, due: Option<Instant>, open_for: Vec<ModelId>) {
        if self.due[berth] != due {
            if let Some(at) = self.due[berth] {
                self.timers.remove(&(at, berth));
            }
            if let Some(at) = due {
                self.timers.insert((at, berth));
            }
            self.due[berth] = due;
        }
        if self.open_for[berth] != open_for {
            for model in &self.open_for[berth] {
                if let Some(open) = self.open.get_mut(model) {
                    open.remove(&berth);
                }
            }
            for &model in &open_for {
                self.open.entry(model).or_default().insert(berth);
            }
            self.open_for[berth] = open_for;
        }
    }
}

impl Fleet {
    /// Brings the index up to date with every touched berth.
    pub(super) fn refresh(&mut self) {
        for berth in std::mem::take(&mut self.index.touched) {
            let due = self.berth_timeout(&self.berths[berth]);
            let open_for = self.open_for(berth);
            self.index.set(berth, due, open_for);
            self.index.unrecorded.insert(berth);
        }
    }
}
