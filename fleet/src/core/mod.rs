//! The state machine.
//!
//! # Invariants
//!
//! - Each request that was not cancelled gets exactly one [`Action::Answer`] or [`Action::Fail`], no later than the first
//!   event at or after its deadline.
//! - A run is dispatched only to a browser that is ready, onto a placement that is ready, in its present epoch, and never
//!   beyond [`Config::runs_in_flight_max`].
//! - Browser, placement and run ids are never used twice. An answer for a run that is not known, or in an epoch that is
//!   not the run's, changes nothing.
//! - One placement at a time loads on a browser.
//! - After an event at time `t`, [`Fleet::poll_timeout`] is later than `t`: waking at it never spins.
//! - The same events at the same times give the same actions.

mod browsers;
mod dispatch;
mod placements;
mod queue;
mod requests;
mod runs;
mod speed;
mod status;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flotilla_protocol::{BrowserId, PlacementId, RequestId, RunId};

pub use self::status::{ModelStatus, PlacementStatus, RefusalStatus, SlotStatus, Status};
use self::{
    browsers::{Berth, BrowserState},
    queue::Queue,
    requests::Request,
    runs::Run,
    speed::Speeds,
};
use crate::{
    config::Config,
    event::{Action, Batching, Event, Instant, ModelId},
};

/// The state machine that decides.
#[derive(Debug)]
pub struct Fleet {
    config: Config,
    /// Time of the latest event; never runs backwards.
    now: Instant,
    phase: Phase,
    actions: VecDeque<Action>,
    /// One per [`Config::slots`].
    berths: Vec<Berth>,
    /// Index of the berth of each living browser.
    homes: BTreeMap<BrowserId, usize>,
    /// Berth and model of each placement on a living browser.
    placed: BTreeMap<PlacementId, (usize, ModelId)>,
    models: BTreeMap<ModelId, Batching>,
    requests: BTreeMap<RequestId, Request>,
    deadlines: BTreeSet<(Instant, RequestId)>,
    queue: Queue,
    runs: BTreeMap<RunId, Run>,
    speeds: Speeds,
    /// The highest id given away, of each sort.
    browsers: u64,
    placements: u64,
    run_ids: u64,
    /// How many requests were accepted.
    arrivals: u64,
}

/// What the fleet as a whole is up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No event yet.
    New,
    Serving,
    /// Answers what it has accepted and then ends.
    Draining,
    Drained,
}

impl Fleet {
    /// A fleet that launches its browsers with the first event.
    pub fn new(config: Config) -> Fleet {
        let berths = config.slots.iter().map(|_| Berth::default()).collect();
        Fleet {
            config,
            now: Instant::default(),
            phase: Phase::New,
            actions: VecDeque::new(),
            berths,
            homes: BTreeMap::new(),
            placed: BTreeMap::new(),
            models: BTreeMap::new(),
            requests: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            queue: Queue::default(),
            runs: BTreeMap::new(),
            speeds: Speeds::default(),
            browsers: 0,
            placements: 0,
            run_ids: 0,
            arrivals: 0,
        }
    }

    /// Takes an event. What follows from it is had from [`Fleet::poll_action`].
    ///
    /// A `now` before that of an earlier event counts as that event's.
    pub fn handle(&mut self, now: Instant, event: Event) {
        self.now = self.now.max(now);
        if self.phase == Phase::New {
            self.phase = Phase::Serving;
        }
        // The event goes first: an answer or a heartbeat that is here has arrived, whatever time it is.
        self.apply(event);
        if self.phase == Phase::Drained {
            return;
        }
        self.expire_requests();
        self.expire_browsers();
        self.place_all();
        self.fail_unplaceable();
        if self.phase == Phase::Draining && self.requests.is_empty() {
            self.end_browsers();
            self.phase = Phase::Drained;
            self.actions.push_back(Action::Drained);
            return;
        }
        self.launch_due();
        self.dispatch_all();
    }

    /// The next thing to be done, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to send [`Event::Wake`] if nothing else happens before; `None` if only an event can change anything.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::New => Some(self.now),
            Phase::Drained => None,
            Phase::Serving | Phase::Draining => {
                let deadline = self.deadlines.first().map(|&(deadline, _)| deadline);
                [deadline, self.browser_timeout(), self.batch_timeout()].into_iter().flatten().min()
            }
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Wake => {}
            Event::Together(events) => events.into_iter().for_each(|event| self.apply(event)),
            Event::ModelAdded { model, batching } => self.add_model(model, batching),
            Event::BrowserUp { browser, backends, refused } => {
                self.browser_up(browser, backends, refused)
            }
            Event::BrowserDown { browser, failure } => {
                // A browser that is not known any more was killed by the core itself.
                if let Some(&berth) = self.homes.get(&browser) {
                    self.browser_down(berth, failure);
                }
            }
            Event::Heartbeat { browser } => self.heartbeat(browser),
            Event::PlacementProgress { placement, epoch } => {
                self.placement_progress(placement, epoch)
            }
            Event::PlacementReady { placement, epoch } => self.placement_ready(placement, epoch),
            Event::PlacementFailed { placement, epoch, failure } => {
                self.placement_failed(placement, epoch, failure)
            }
            Event::Request { request, model, rows, length, deadline } => {
                self.accept(request, model, rows, length, deadline);
            }
            Event::Cancel { request } => self.cancel(request),
            Event::RunDone { run, epoch } => self.run_done(run, epoch),
            Event::RunFailed { run, epoch, failure } => self.run_failed(run, epoch, &failure),
            Event::DeviceLost { browser, reason } => self.device_lost_event(browser, &reason),
            Event::Drain => match self.phase {
                Phase::New | Phase::Serving => self.phase = Phase::Draining,
                // Asked for a second time: whoever asks does not want to wait.
                Phase::Draining => self.fail_all(),
                Phase::Drained => {}
            },
        }
    }

    fn end_browsers(&mut self) {
        for berth in &mut self.berths {
            let state = std::mem::replace(&mut berth.state, BrowserState::Stopped);
            if let Some(browser) = state.browser() {
                let reason = "the daemon is shutting down".to_owned();
                self.actions.push_back(Action::Kill { browser, reason });
            }
        }
        self.homes.clear();
        self.placed.clear();
        self.runs.clear();
    }
}
