//! Browsers, placements and runs, as far as they follow from the core's events and actions.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_fleet::{Batching, Instant, LeaseId, ModelId, Slot, SlotId};
use flotilla_protocol::{Backend, BrowserId, Epoch, PlacementId, RequestId, RunId};

/// State of a placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlacementState {
    Loading,
    Ready,
    /// Loaded beside another placement of the same model, to be measured or to replace it.
    Beside,
    /// The model has migrated or was removed; runs in flight may end.
    Leaving,
    Gone,
}

/// A placement in its present epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    pub(crate) epoch: Epoch,
    pub(crate) model: ModelId,
    pub(crate) backend: Backend,
    pub(crate) state: PlacementState,
    /// It was loaded beside one that is ready.
    pub(crate) beside: bool,
    /// It has been ready.
    pub(crate) was_ready: bool,
    /// Requests were sent to it.
    pub(crate) answers: bool,
    /// A measurement failed on it.
    pub(crate) failed: bool,
}

impl Placement {
    /// Whether runs may be sent to it.
    pub(crate) fn is_loaded(&self) -> bool {
        match self.state {
            PlacementState::Ready | PlacementState::Beside => true,
            PlacementState::Loading | PlacementState::Leaving | PlacementState::Gone => false,
        }
    }
}

/// State of a browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BrowserState {
    Starting,
    Up,
    /// Its failure was reported, and it was neither killed nor reset since.
    Failed,
}

/// A browser that was launched and not killed.
#[derive(Debug)]
pub(crate) struct Browser {
    pub(crate) slot: SlotId,
    pub(crate) state: BrowserState,
    /// Number of its present page, from 1.
    pub(crate) page: u32,
    pub(crate) heartbeat_at: Instant,
    /// The page sends nothing any more.
    pub(crate) silent: bool,
    /// The process hangs, so that a new page does not start either.
    pub(crate) frozen: bool,
    /// The page's worker hangs: no run ends.
    pub(crate) stuck: bool,
    /// Time from which it computes more and more slowly.
    pub(crate) slows_since: Option<Instant>,
    /// Time from which its memory grows.
    pub(crate) grows_since: Option<Instant>,
    pub(crate) beats: u64,
    pub(crate) probe: Option<(RunId, Backend)>,
    /// Measurements in flight, with their placements.
    pub(crate) measures: BTreeMap<RunId, PlacementId>,
    /// The lease that has acquired it.
    pub(crate) lease: Option<LeaseId>,
    pub(crate) placements: BTreeMap<PlacementId, Placement>,
    pub(crate) in_flight: Vec<RunId>,
    pub(crate) busy_until: Instant,
    /// Time at which the first of its runs became the first.
    pub(crate) head_since: Instant,
    /// Time from which it runs nothing and its ready placements have not changed.
    pub(crate) idle_since: Option<Instant>,
}

/// State of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunState {
    InFlight,
    /// Its results have arrived.
    Done,
}

/// A run that is in flight, or whose requests have not ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) browser: BrowserId,
    pub(crate) placement: PlacementId,
    pub(crate) epoch: Epoch,
    pub(crate) requests: Vec<RequestId>,
    /// Number of requests that still wait for it.
    pub(crate) waits: u32,
    /// It took so long, or its browser was silent for so long, that its requests may have been hedged.
    pub(crate) is_slow: bool,
    pub(crate) state: RunState,
    pub(crate) abandoned: bool,
}

/// A client's lease of a browser, or its wait for one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    pub(crate) deadline: Instant,
    pub(crate) browser: Option<BrowserId>,
}

/// Every browser of a daemon, with its placements and runs.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    pub(crate) browsers: BTreeMap<BrowserId, Browser>,
    /// Every slot by its index, including added and removed ones.
    pub(crate) specs: Vec<Slot>,
    pub(crate) removed_slots: BTreeSet<SlotId>,
    /// Removed slots that still have a browser.
    pub(crate) ending_slots: BTreeSet<SlotId>,
    /// The regular slot that this step has added.
    pub(crate) added_slot: Option<SlotId>,
    /// Models that are served, or about to be.
    pub(crate) models: BTreeMap<ModelId, Batching>,
    pub(crate) removed_models: BTreeSet<ModelId>,
    pub(crate) slots: BTreeMap<SlotId, BrowserId>,
    /// The browser of each placement.
    pub(crate) owners: BTreeMap<PlacementId, BrowserId>,
    /// Every placement id that any daemon ever used.
    pub(crate) placement_ids: BTreeSet<PlacementId>,
    pub(crate) runs: BTreeMap<RunId, Run>,
    /// Idle browsers by the models that are ready there.
    pub(crate) idle: BTreeMap<ModelId, BTreeSet<BrowserId>>,
    /// Every lease that has not ended.
    pub(crate) leases: BTreeMap<LeaseId, Lease>,
    /// Migrations in progress: source and destination.
    pub(crate) migrations: BTreeMap<ModelId, (BrowserId, BrowserId)>,
    pub(crate) browser_highest: u64,
    pub(crate) run_highest: u64,
    /// Runs that this step has changed.
    pub(crate) changed_runs: Vec<RunId>,
    /// Browsers that this step has reported to have failed.
    pub(crate) reported_failed: Vec<BrowserId>,
    /// Runs that this step has ended without results.
    pub(crate) lost_runs: Vec<RunId>,
    /// Leases whose browser this step has taken away.
    pub(crate) leases_lost: Vec<LeaseId>,
}

impl Pool {
    /// What the next daemon starts with: nothing, but the ids of all earlier ones are used.
    pub(crate) fn of_next_daemon(&mut self) -> Pool {
        Pool {
            placement_ids: std::mem::take(&mut self.placement_ids),
            browser_highest: self.browser_highest,
            run_highest: self.run_highest,
            ..Pool::default()
        }
    }

    /// Whether a page is its browser's present page and can send.
    pub(crate) fn can_send(&self, browser: BrowserId, page: u32) -> bool {
        self.browsers.get(&browser).is_some_and(|browser| {
            browser.page == page && !browser.silent && browser.state != BrowserState::Failed
        })
    }

    pub(crate) fn up(&mut self, browser: BrowserId, now: Instant) {
        if let Some(browser) = self.browsers.get_mut(&browser)
            && browser.state == BrowserState::Starting
        {
            browser.state = BrowserState::Up;
            browser.heartbeat_at = now;
        }
    }

    pub(crate) fn report_failed(&mut self, id: BrowserId, now: Instant) {
        if let Some(browser) = self.browsers.get_mut(&id) {
            browser.state = BrowserState::Failed;
            self.reported_failed.push(id);
            self.refresh_idle(id, now);
        }
    }

    pub(crate) fn heartbeat(&mut self, browser: BrowserId, now: Instant) {
        if let Some(browser) = self.browsers.get_mut(&browser) {
            browser.heartbeat_at = now;
        }
    }

    /// How many browsers there are.
    pub(crate) fn living(&self) -> usize {
        self.browsers.len()
    }

    /// Removes a run from its browser; it stays in `runs` as long as requests wait for it.
    pub(crate) fn leave_browser(&mut self, run: RunId, browser: BrowserId, now: Instant) {
        if let Some(there) = self.browsers.get_mut(&browser) {
            if there.in_flight.first() == Some(&run) {
                there.head_since = now;
            }
            there.in_flight.retain(|&other| other != run);
            self.refresh_idle(browser, now);
        }
    }

    /// Updates `idle` for a browser.
    pub(crate) fn refresh_idle(&mut self, id: BrowserId, now: Instant) {
        let Some(browser) = self.browsers.get_mut(&id) else { return };
        let free = browser.state == BrowserState::Up && browser.in_flight.is_empty();
        // A model may have two placements here of which one is lost, so all are removed before ready ones are inserted.
        for placed in browser.placements.values() {
            if let Some(idle) = self.idle.get_mut(&placed.model) {
                idle.remove(&id);
            }
        }
        browser.idle_since = free.then_some(now);
        for placed in browser.placements.values() {
            if free && placed.state == PlacementState::Ready {
                self.idle.entry(placed.model).or_default().insert(id);
            }
        }
    }

    /// Removes everything from a browser; returns its runs.
    pub(crate) fn clear(&mut self, id: BrowserId) -> Vec<RunId> {
        let Some(browser) = self.browsers.get_mut(&id) else { return Vec::new() };
        for (placement, placed) in std::mem::take(&mut browser.placements) {
            self.owners.remove(&placement);
            if let Some(idle) = self.idle.get_mut(&placed.model) {
                idle.remove(&id);
            }
        }
        browser.idle_since = None;
        browser.probe = None;
        browser.measures.clear();
        if let Some(lease) = browser.lease.take() {
            self.leases_lost.push(lease);
        }
        std::mem::take(&mut browser.in_flight)
    }

    /// The slot of a browser, as it is configured.
    pub(crate) fn spec(&self, browser: BrowserId) -> Option<&Slot> {
        self.specs.get(self.browsers.get(&browser)?.slot.0 as usize)
    }

    /// A loaded or loading placement of a removed model on which nothing runs.
    pub(crate) fn unused_placement_of_removed(&self) -> Option<(BrowserId, PlacementId)> {
        let is_on = |run, id| self.runs.get(run).is_some_and(|run| run.placement == id);
        self.browsers.iter().find_map(|(&browser, there)| {
            let mut placed = there.placements.iter();
            let unused = placed.find(|&(&id, placed)| {
                self.removed_models.contains(&placed.model)
                    && placed.state != PlacementState::Gone
                    && !there.in_flight.iter().any(|run| is_on(run, id))
            });
            unused.map(|(&id, _)| (browser, id))
        })
    }

    /// Whether a model is ready on a browser.
    pub(crate) fn has_ready(&self, browser: BrowserId, model: ModelId) -> bool {
        self.browsers.get(&browser).is_some_and(|browser| {
            let mut placed = browser.placements.values();
            placed.any(|placed| placed.model == model && placed.state == PlacementState::Ready)
        })
    }

    /// A placement and its browser.
    pub(crate) fn placed_mut(
        &mut self,
        placement: PlacementId,
    ) -> Option<(BrowserId, &mut Placement)> {
        let &owner = self.owners.get(&placement)?;
        let placed = self.browsers.get_mut(&owner)?.placements.get_mut(&placement)?;
        Some((owner, placed))
    }
}
