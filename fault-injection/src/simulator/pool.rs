//! What the world knows of browsers, placements and runs: what the core was told and what it ordered, no more.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_fleet::{Instant, ModelId, SlotId};
use flotilla_protocol::{Backend, BrowserId, Epoch, PlacementId, RequestId, RunId};

/// How far a placement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Loading,
    Ready,
    Gone,
}

/// The present life of a placement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub(super) epoch: Epoch,
    pub(super) model: ModelId,
    pub(super) backend: Backend,
    pub(super) stage: Stage,
}

/// How far a browser is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Starting,
    Up,
    /// Reported dead, and not killed yet.
    Doomed,
}

/// A browser that was launched and not killed.
#[derive(Debug)]
pub(super) struct Browser {
    pub(super) slot: SlotId,
    pub(super) life: Life,
    /// Counts its pages.
    pub(super) page: u32,
    pub(super) heard_at: Instant,
    /// The page says nothing any more.
    pub(super) silent: bool,
    /// The page's worker ends no run any more.
    pub(super) stuck: bool,
    /// Since when it computes more and more slowly.
    pub(super) slows_since: Option<Instant>,
    pub(super) placements: BTreeMap<PlacementId, Placed>,
    pub(super) in_flight: Vec<RunId>,
    pub(super) busy_until: Instant,
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
    pub(super) state: RunState,
    pub(super) abandoned: bool,
}

/// Every browser of a daemon, and what is on it.
#[derive(Debug, Default)]
pub(super) struct Pool {
    pub(super) browsers: BTreeMap<BrowserId, Browser>,
    pub(super) slots: BTreeMap<SlotId, BrowserId>,
    /// Who has each placement.
    pub(super) owners: BTreeMap<PlacementId, BrowserId>,
    /// Every placement id that was ever given away.
    pub(super) placement_ids: BTreeSet<PlacementId>,
    pub(super) runs: BTreeMap<RunId, Run>,
    /// Browsers that run nothing, by the models that are ready there.
    pub(super) idle: BTreeMap<ModelId, BTreeSet<BrowserId>>,
    pub(super) browser_highest: u64,
    pub(super) run_highest: u64,
    /// Runs that this step has changed.
    pub(super) touched: Vec<RunId>,
    /// Browsers that this step has reported dead.
    pub(super) doomed: Vec<BrowserId>,
}

impl Pool {
    /// Whether a page is there and able to say something.
    pub(super) fn speaks(&self, browser: BrowserId, page: u32) -> bool {
        self.browsers.get(&browser).is_some_and(|browser| {
            browser.page == page && !browser.silent && browser.life != Life::Doomed
        })
    }

    pub(super) fn up(&mut self, browser: BrowserId, now: Instant) {
        if let Some(browser) = self.browsers.get_mut(&browser)
            && browser.life == Life::Starting
        {
            browser.life = Life::Up;
            browser.heard_at = now;
        }
    }

    pub(super) fn doom(&mut self, id: BrowserId) {
        if let Some(browser) = self.browsers.get_mut(&id) {
            browser.life = Life::Doomed;
            self.doomed.push(id);
            self.refresh_idle(id);
        }
    }

    pub(super) fn hear(&mut self, browser: BrowserId, now: Instant) {
        if let Some(browser) = self.browsers.get_mut(&browser) {
            browser.heard_at = now;
        }
    }

    /// How many browsers there are.
    pub(super) fn living(&self) -> usize {
        self.browsers.len()
    }

    /// Takes a run off its browser; it stays known for as long as somebody waits for its results.
    pub(super) fn leave_browser(&mut self, run: RunId, browser: BrowserId) {
        if let Some(there) = self.browsers.get_mut(&browser) {
            there.in_flight.retain(|&other| other != run);
            self.refresh_idle(browser);
        }
    }

    /// Brings what is known of idle browsers up to date with one of them.
    pub(super) fn refresh_idle(&mut self, id: BrowserId) {
        let Some(browser) = self.browsers.get(&id) else { return };
        let free = browser.life == Life::Up && browser.in_flight.is_empty();
        // One model may have an earlier placement here that is gone, so the ready ones have the last word.
        for placed in browser.placements.values() {
            if let Some(idle) = self.idle.get_mut(&placed.model) {
                idle.remove(&id);
            }
        }
        for placed in browser.placements.values() {
            if free && placed.stage == Stage::Ready {
                self.idle.entry(placed.model).or_default().insert(id);
            }
        }
    }

    /// Takes a browser out, with its placements; gives the runs that were on it.
    pub(super) fn remove(&mut self, id: BrowserId) -> Option<Browser> {
        let browser = self.browsers.remove(&id)?;
        for (placement, placed) in &browser.placements {
            self.owners.remove(placement);
            if let Some(idle) = self.idle.get_mut(&placed.model) {
                idle.remove(&id);
            }
        }
        Some(browser)
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
