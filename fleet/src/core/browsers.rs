//! The life of a browser: started, watched, and replaced when it is of no more use.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    time::Duration,
};

use flotilla_protocol::{Backend, BrowserId, RunId};

use super::{Fleet, placements::Placement};
use crate::{
    event::{Action, Instant, ModelId, SlotId},
    recovery::{Failure, FailureKind},
};

/// The wait before a restart doubles up to this.
const RESTART_DELAY_MAX: Duration = Duration::from_secs(60);

/// What becomes of a slot over time.
#[derive(Debug, Default)]
pub(super) struct Berth {
    pub(super) state: BrowserState,
    /// Starts in a row that led to no ready placement.
    pub(super) failed_starts: u32,
    pub(super) last_failure: Option<Failure>,
    /// When a browser or a run failed here last.
    pub(super) failed_at: Option<Instant>,
    /// Browsers in a row that a load cost, and what happened to the last one.
    pub(super) load_restarts: BTreeMap<(ModelId, Backend), (u32, Failure)>,
}

/// The state of a slot's browser.
#[derive(Debug, Default)]
pub(super) enum BrowserState {
    /// Never launched.
    #[default]
    Wanted,
    /// Launched; its page has not reported yet.
    Starting { browser: BrowserId, until: Instant },
    /// Loads and runs models.
    Ready(Live),
    /// Missed heartbeats: gets no new work, and is replaced at `until`.
    Suspect { live: Live, until: Instant },
    /// Its last browser is gone; the next one is launched at `relaunch_at`.
    Recovering { relaunch_at: Instant },
    /// Given up after too many failed starts.
    Retired { failure: Failure },
    /// Ended because the fleet was drained.
    Stopped,
}

/// A browser whose page has reported.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) browser: BrowserId,
    pub(super) offered: Vec<Backend>,
    /// Why the page does not offer the others.
    pub(super) refused: Vec<(Backend, String)>,
    pub(super) heard_at: Instant,
    /// One per model, loaded in the models' order.
    pub(super) placements: BTreeMap<ModelId, Placement>,
    /// In the order of dispatch, which is the order in which the page executes them.
    pub(super) runs: VecDeque<RunId>,
    /// When the first of `runs` became the first: its time-out starts here, not while it waited for others.
    pub(super) head_since: Instant,
    /// Failed runs since the last one that succeeded.
    pub(super) run_failures: u32,
    pub(super) devices_lost: u32,
    /// A placement has been ready: the start was a success.
    pub(super) proven: bool,
}

impl BrowserState {
    pub(super) fn browser(&self) -> Option<BrowserId> {
        match self {
            BrowserState::Starting { browser, .. } => Some(*browser),
            BrowserState::Ready(live) | BrowserState::Suspect { live, .. } => Some(live.browser),
            BrowserState::Wanted
            | BrowserState::Recovering { .. }
            | BrowserState::Retired { .. }
            | BrowserState::Stopped => None,
        }
    }

    pub(super) fn live(&self) -> Option<&Live> {
        match self {
            BrowserState::Ready(live) | BrowserState::Suspect { live, .. } => Some(live),
            BrowserState::Wanted
            | BrowserState::Starting { .. }
            | BrowserState::Recovering { .. }
            | BrowserState::Retired { .. }
            | BrowserState::Stopped => None,
        }
    }

    pub(super) fn live_mut(&mut self) -> Option<&mut Live> {
        match self {
            BrowserState::Ready(live) | BrowserState::Suspect { live, .. } => Some(live),
            BrowserState::Wanted
            | BrowserState::Starting { .. }
            | BrowserState::Recovering { .. }
            | BrowserState::Retired { .. }
            | BrowserState::Stopped => None,
        }
    }
}

impl Fleet {
    /// Launches a browser in every slot whose turn it is.
    pub(super) fn launch_due(&mut self) {
        for (index, berth) in self.berths.iter_mut().enumerate() {
            let due = match berth.state {
                BrowserState::Wanted => true,
                BrowserState::Recovering { relaunch_at } => relaunch_at <= self.now,
                BrowserState::Starting { .. }
                | BrowserState::Ready(_)
                | BrowserState::Suspect { .. }
                | BrowserState::Retired { .. }
                | BrowserState::Stopped => false,
            };
            if due {
                self.browsers += 1;
                let browser = BrowserId(self.browsers);
                berth.state = BrowserState::Starting {
                    browser,
                    until: self.now.after(self.config.start_timeout),
                };
                self.homes.insert(browser, index);
                self.actions.push_back(Action::Launch { browser, slot: SlotId(index as u32) });
            }
        }
    }

    pub(super) fn browser_up(
        &mut self,
        browser: BrowserId,
        offered: Vec<Backend>,
        refused: Vec<(Backend, String)>,
    ) {
        let Some(&index) = self.homes.get(&browser) else { return };
        let berth = &mut self.berths[index];
        if !matches!(berth.state, BrowserState::Starting { .. }) {
            // It has reported before; what it offered then is what its placements were chosen by.
            return;
        }
        berth.state = BrowserState::Ready(Live {
            browser,
            offered,
            refused,
            heard_at: self.now,
            placements: BTreeMap::new(),
            runs: VecDeque::new(),
            head_since: self.now,
            run_failures: 0,
            devices_lost: 0,
            proven: false,
        });
        let models: Vec<ModelId> = self.models.keys().copied().collect();
        for model in models {
            self.plan_placement(index, model);
        }
    }

    pub(super) fn heartbeat(&mut self, browser: BrowserId) {
        let Some(&index) = self.homes.get(&browser) else { return };
        let state = &mut self.berths[index].state;
        *state = match mem::take(state) {
            BrowserState::Ready(live) | BrowserState::Suspect { live, .. } => {
                BrowserState::Ready(Live { heard_at: self.now, ..live })
            }
            other => other,
        };
    }

    /// Ends a browser and arranges for the next one; its runs are lost and their requests climb the ladder.
    pub(super) fn browser_down(&mut self, index: usize, failure: Failure) {
        let berth = &mut self.berths[index];
        let (browser, live) = match mem::take(&mut berth.state) {
            BrowserState::Starting { browser, .. } => (browser, None),
            BrowserState::Ready(live) | BrowserState::Suspect { live, .. } => {
                (live.browser, Some(live))
            }
            other => {
                berth.state = other;
                return;
            }
        };
        self.homes.remove(&browser);
        self.actions.push_back(Action::Kill { browser, reason: failure.to_string() });
        berth.failed_at = Some(self.now);
        berth.last_failure = Some(failure.clone());
        if !live.as_ref().is_some_and(|live| live.proven) {
            berth.failed_starts += 1;
        }
        berth.state = if berth.failed_starts >= self.config.restarts_max.max(1) {
            BrowserState::Retired { failure: failure.clone() }
        } else {
            let delay = restart_delay(self.config.restart_delay, berth.failed_starts);
            BrowserState::Recovering { relaunch_at: self.now.after(delay) }
        };
        let Some(live) = live else { return };
        for (&model, placement) in &live.placements {
            self.placed.remove(&placement.id);
            if let Some(backend) = placement.loading_on() {
                let (restarts, last) = berth
                    .load_restarts
                    .entry((model, backend))
                    .or_insert_with(|| (0, failure.clone()));
                *restarts += 1;
                *last = failure.clone();
            }
        }
        let head = live.runs.front().copied();
        self.lose_runs(live.runs.into(), head, browser, &failure);
    }

    /// Remembers that something failed on a slot, so that others are preferred for a while.
    pub(super) fn distrust(&mut self, index: usize, failure: &Failure) {
        let berth = &mut self.berths[index];
        berth.failed_at = Some(self.now);
        berth.last_failure = Some(failure.clone());
    }

    /// Acts on every time-out of browsers, their loads and their runs.
    pub(super) fn expire_browsers(&mut self) {
        for index in 0..self.berths.len() {
            if let Some(failure) = self.overdue(index) {
                self.browser_down(index, failure);
            }
        }
    }

    /// Why a browser must be replaced at this moment; on the way, one that missed heartbeats becomes suspect.
    fn overdue(&mut self, index: usize) -> Option<Failure> {
        let late = |what: String| Some(Failure::new(FailureKind::DeadlineExceeded, what));
        let (now, config) = (self.now, &self.config);
        let state = &mut self.berths[index].state;
        if let BrowserState::Starting { until, .. } = state {
            return if *until <= now {
                late(format!("start, after {:?}", config.start_timeout))
            } else {
                None
            };
        }
        if let BrowserState::Ready(live) = state
            && live.heard_at.after(config.heartbeat_timeout / 2) <= now
        {
            // Counted from now, so that a daemon that was itself asleep gives its browsers a chance to be heard.
            let until = now.after(config.heartbeat_timeout / 2);
            *state = match mem::take(state) {
                BrowserState::Ready(live) => BrowserState::Suspect { live, until },
                other => other,
            };
        }
        if let BrowserState::Suspect { live, until } = state
            && *until <= now
        {
            let words = format!("no heartbeat for {:?}", now.since(live.heard_at));
            return Some(Failure::new(FailureKind::ConnectionLost, words));
        }
        let live = state.live()?;
        if let Some(run) = live.runs.front()
            && live.head_since.after(config.run_timeout) <= now
        {
            return late(format!("run {run}, after {:?}", config.run_timeout));
        }
        let load = live
            .placements
            .values()
            .find(|placement| placement.load_until().is_some_and(|until| until <= now))?;
        late(format!("load of {} without progress, after {:?}", load.id, config.load_timeout))
    }

    /// When [`Fleet::expire_browsers`] or [`Fleet::launch_due`] next have something to do.
    pub(super) fn browser_timeout(&self) -> Option<Instant> {
        self.berths.iter().filter_map(|berth| self.berth_timeout(berth)).min()
    }

    fn berth_timeout(&self, berth: &Berth) -> Option<Instant> {
        let (live, heartbeat) = match &berth.state {
            BrowserState::Wanted => return Some(self.now),
            BrowserState::Starting { until, .. } => return Some(*until),
            BrowserState::Recovering { relaunch_at } => return Some(*relaunch_at),
            BrowserState::Retired { .. } | BrowserState::Stopped => return None,
            BrowserState::Ready(live) => {
                (live, live.heard_at.after(self.config.heartbeat_timeout / 2))
            }
            BrowserState::Suspect { live, until } => (live, *until),
        };
        let run = live.runs.front().map(|_| live.head_since.after(self.config.run_timeout));
        let load = live.placements.values().filter_map(Placement::load_until).min();
        [Some(heartbeat), run, load].into_iter().flatten().min()
    }
}

/// Nothing after a success, then the configured delay, doubled with each further failed start up to a limit.
fn restart_delay(first: Duration, failed_starts: u32) -> Duration {
    match failed_starts.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => {
            let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
            first.saturating_mul(factor).min(RESTART_DELAY_MAX.max(first))
        }
    }
}
