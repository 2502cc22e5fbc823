//! What the world knows of browsers, placements and runs: what the core was told and what it ordered, no more.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_fleet::{Instant, ModelId, SlotId, TaskId};
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
    /// Reported to be of no more use, and neither killed nor given a new page yet.
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
    /// The task that has it for itself.
    pub(super) task: Option<TaskId>,
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
    /// It took so long, or its browser was so silent, that requests may have left it without a word.
    pub(super) is_slow: bool,
    pub(super) state: RunState,
    pub(super) abandoned: bool,
}

/// A task's hold on a browser, or its wish for one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    pub(super) deadline: Instant,
    pub(super) browser: Option<BrowserId>,
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
    /// What each task has, or waits for.
    pub(super) tasks: BTreeMap<TaskId, Hold>,
    /// Models on their way, from where to where.
    pub(super) migrations: BTreeMap<ModelId, (BrowserId, BrowserId)>,
    pub(super) browser_highest: u64,
    pub(super) run_highest: u64,
    /// Runs that this step has changed.
    pub(super) touched: Vec<RunId>,
    /// Browsers that this step has reported to be of no more use.
    pub(super) doomed: Vec<BrowserId>,
    /// Runs that this step has ended with their browser or page.
    pub(super) lost: Vec<RunId>,
    /// Tasks whose browser this step has taken away.
    pub(super) bereft: Vec<TaskId>,
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

    pub(super) fn doom(&mut self, id: BrowserId, now: Instant) {
        if let Some(browser) = self.browsers.get_mut(&id) {
            browser.life = Life::Doomed;
            self.doomed.push(id);
            self.refresh_idle(id, now);
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
        // One model may have an earlier placement here that is gone, so the ready ones have the last word.
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
        if let Some(task) = browser.task.take() {
            self.bereft.push(task);
        }
        std::mem::take(&mut browser.in_flight)
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
