//! What the world knows of browsers, placements and runs: only what follows from the core's events and actions.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_fleet::{Batching, Instant, LeaseId, ModelId, Slot, SlotId};
use flotilla_protocol::{Backend, BrowserId, Epoch, PlacementId, RequestId, RunId};

/// How far a placement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Loading,
    Ready,
    /// Loaded beside one of the same model: to be measured, or to take its place.
    Beside,
    /// A migration has taken the model elsewhere; what runs here may end.
    Leaving,
    Gone,
}

/// The present life of a placement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub(super) epoch: Epoch,
    pub(super) model: ModelId,
    pub(super) backend: Backend,
    pub(super) stage: Stage,
    /// It was loaded beside one that is ready.
    pub(super) beside: bool,
    /// It has been ready.
    pub(super) was_ready: bool,
    /// Requests were sent to it.
    pub(super) answers: bool,
    /// A run that measures failed on it.
    pub(super) failed: bool,
}

impl Placed {
    /// Whether runs may be sent to it.
    pub(super) fn is_loaded(&self) -> bool {
        match self.stage {
            Stage::Ready | Stage::Beside => true,
            Stage::Loading | Stage::Leaving | Stage::Gone => false,
        }
    }
}

/// How far a browser is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Starting,
    Up,
    /// Reported to have failed, and neither killed nor given a new page yet.
    Failed,
}

/// A browser that was launched and not killed.
#[derive(Debug)]
pub(super) struct Browser {
    pub(super) slot: SlotId,
    pub(super) life: Life,
    /// Counts its pages.
    pub(super) page: u32,
    pub(super) heartbeat_at: Instant,
    /// The page sends nothing any more.
    pub(super) silent: bool,
    /// The process does nothing any more, so that a new page does not come either.
    pub(super) frozen: bool,
    /// The page's worker ends no run any more.
    pub(super) stuck: bool,
    /// Since when it computes more and more slowly.
    pub(super) slows_since: Option<Instant>,
    /// Since when its memory grows.
    pub(super) grows_since: Option<Instant>,
    pub(super) beats: u64,
    pub(super) probe: Option<(RunId, Backend)>,
    /// Runs that measure, and where.
    pub(super) measures: BTreeMap<RunId, PlacementId>,
    /// The client that has it for itself.
    pub(super) lease: Option<LeaseId>,
    pub(super) placements: BTreeMap<PlacementId, Placed>,
    pub(super) in_flight: Vec<RunId>,
    pub(super) busy_until: Instant,
    /// Since when the first of its runs is the first.
    pub(super) head_since: Instant,
    /// Since when it runs nothing and what is ready there is.
    pub(super) idle_since: Option<Instant>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunState {
    InFlight,
    /// Its results are there.
    Done,
}

/// A run that somebody waits for, or that its page has not ended.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) browser: BrowserId,
    pub(super) placement: PlacementId,
    pub(super) epoch: Epoch,
    pub(super) requests: Vec<RequestId>,
    /// How many of them still wait for it.
    pub(super) waits: u32,
    /// It took so long, or its browser was silent for so long, that its requests may have been hedged.
    pub(super) is_slow: bool,
    pub(super) state: RunState,
    pub(super) abandoned: bool,
}

/// A client's hold on a browser, or its wait for one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) deadline: Instant,
    pub(super) browser: Option<BrowserId>,
}

/// Every browser of a daemon, and what is on it.
#[derive(Debug, Default)]
pub(super) struct Pool {
    pub(super) browsers: BTreeMap<BrowserId, Browser>,
    /// Every slot by its index, with those that were added and removed.
    pub(super) specs: Vec<Slot>,
    pub(super) removed_slots: BTreeSet<SlotId>,
    /// Those of them that still have a browser.
    pub(super) ending_slots: BTreeSet<SlotId>,
    /// The slot that this step has added, if it is to have a browser at once.
    pub(super) added_slot: Option<SlotId>,
    /// Models that are served, or about to be.
    pub(super) models: BTreeMap<ModelId, Batching>,
    pub(super) removed_models: BTreeSet<ModelId>,
    pub(super) slots: BTreeMap<SlotId, BrowserId>,
    /// Who has each placement.
    pub(super) owners: BTreeMap<PlacementId, BrowserId>,
    /// Every placement id that was ever given away.
    pub(super) placement_ids: BTreeSet<PlacementId>,
    pub(super) runs: BTreeMap<RunId, Run>,
    /// Browsers that run nothing, by the models that are ready there.
    pub(super) idle: BTreeMap<ModelId, BTreeSet<BrowserId>>,
    /// Every lease that is not over.
    pub(super) leases: BTreeMap<LeaseId, Lease>,
    /// Models on their way, from where to where.
    pub(super) migrations: BTreeMap<ModelId, (BrowserId, BrowserId)>,
    pub(super) browser_highest: u64,
    pub(super) run_highest: u64,
    /// Runs that this step has changed.
    pub(super) touched: Vec<RunId>,
    /// Browsers that this step has reported to have failed.
    pub(super) reported_failed: Vec<BrowserId>,
    /// Runs that this step has ended with their browser or page.
    pub(super) lost: Vec<RunId>,
    /// Leases whose browser this step has taken away.
    pub(super) leases_lost: Vec<LeaseId>,
}

impl Pool {
    /// Whether a page is there and able to send something.
    pub(super) fn speaks(&self, browser: BrowserId, page: u32) -> bool {
        self.browsers.get(&browser).is_some_and(|browser| {
            browser.page == page && !browser.silent && browser.life != Life::Failed
        })
    }

    pub(super) fn up(&mut self, browser: BrowserId, now: Instant) {
        if let Some(browser) = self.browsers.get_mut(&browser)
            && browser.life == Life::Starting
        {
            browser.life = Life::Up;
            browser.heartbeat_at = now;
        }
    }

    pub(super) fn report_failed(&mut self, id: BrowserId, now: Instant) {
        if let Some(browser) = self.browsers.get_mut(&id) {
            browser.life = Life::Failed;
            self.reported_failed.push(id);
            self.refresh_idle(id, now);
        }
    }

    pub(super) fn heartbeat(&mut self, browser: BrowserId, now: Instant) {
        if let Some(browser) = self.browsers.get_mut(&browser) {
            browser.heartbeat_at = now;
        }
    }

    /// How many browsers there are.
    pub(super) fn living(&self) -> usize {
        self.browsers.len()
    }

    /// Takes a run off its browser; it stays known for as long as somebody waits for its results.
    pub(super) fn leave_browser(&mut self, run: RunId, browser: BrowserId, now: Instant) {
        if let Some(there) = self.browsers.get_mut(&browser) {
            if there.in_flight.first() == Some(&run) {
                there.head_since = now;
            }
            there.in_flight.retain(|&other| other != run);
            self.refresh_idle(browser, now);
        }
    }

    /// Brings what is known of idle browsers up to date with one of them.
    pub(super) fn refresh_idle(&mut self, id: BrowserId, now: Instant) {
        let Some(browser) = self.browsers.get_mut(&id) else { return };
        let free = browser.life == Life::Up && browser.in_flight.is_empty();
        // A model may have an earlier placement here that is gone, so ready ones are entered after all are taken out.
        for placed in browser.placements.values() {
            if let Some(idle) = self.idle.get_mut(&placed.model) {
                idle.remove(&id);
            }
        }
        browser.idle_since = free.then_some(now);
        for placed in browser.placements.values() {
            if free && placed.stage == Stage::Ready {
                self.idle.entry(placed.model).or_default().insert(id);
            }
        }
    }

    /// Takes what is on a browser off it; gives the runs that were there.
    pub(super) fn clear(&mut self, id: BrowserId) -> Vec<RunId> {
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
    pub(super) fn spec(&self, browser: BrowserId) -> Option<&Slot> {
        self.specs.get(self.browsers.get(&browser)?.slot.0 as usize)
    }

    /// A placement of a model that was removed, on which nothing runs any more. One that could not be loaded is none.
    pub(super) fn unused_placement_of_removed(&self) -> Option<(BrowserId, PlacementId)> {
        let is_on = |run, id| self.runs.get(run).is_some_and(|run| run.placement == id);
        self.browsers.iter().find_map(|(&browser, there)| {
            let mut placed = there.placements.iter();
            let unused = placed.find(|&(&id, placed)| {
                self.removed_models.contains(&placed.model)
                    && placed.stage != Stage::Gone
                    && !there.in_flight.iter().any(|run| is_on(run, id))
            });
            unused.map(|(&id, _)| (browser, id))
        })
    }

    /// Whether a model is ready on a browser.
    pub(super) fn has_ready(&self, browser: BrowserId, model: ModelId) -> bool {
        self.browsers.get(&browser).is_some_and(|browser| {
            let mut placed = browser.placements.values();
            placed.any(|placed| placed.model == model && placed.stage == Stage::Ready)
        })
    }

    /// The placement, wherever it is.
    pub(super) fn placed_mut(
        &mut self,
        placement: PlacementId,
    ) -> Option<(BrowserId, &mut Placed)> {
        let &owner = self.owners.get(&placement)?;
        let placed = self.browsers.get_mut(&owner)?.placements.get_mut(&placement)?;
        Some((owner, placed))
    }
}
