//! The state machine.
//!
//! # Invariants
//!
//! - Each request that was not cancelled gets exactly one [`Action::Answer`] or [`Action::Fail`], no later than the first
//!   event at or after its deadline; one whose end is being recorded, as soon as the record is confirmed or refused.
//! - A request that is to be recorded is dispatched only after its record is confirmed.
//! - A run is dispatched only to a browser that is ready, onto a placement that is ready, in its present epoch, and never
//!   beyond [`Config::runs_in_flight_max`].
//! - Browser, placement and run ids are never used twice. An answer for a run that is not known, in an epoch that is
//!   not the run's, or from a browser that does not have it, changes nothing; nor does such a report of a placement.
//! - One placement at a time loads on a browser.
//! - One backend at a time is measured in the fleet. While it is, whatever answered before answers.
//! - After an event at time `t`, [`Fleet::poll_timeout`] is later than `t`: waking at it never spins.
//! - The same events at the same times give the same actions.

mod browsers;
mod dispatch;
mod experience;
mod index;
mod journal;
mod ladder;
mod placements;
mod plans;
mod queue;
mod repair;
mod requests;
mod runs;
mod speed;
mod status;
mod tasks;
mod trials;
mod watch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flotilla_protocol::{BrowserId, PlacementId, RequestId, RunId};

pub use self::status::{
    Account, By, ModelStatus, PlacementStatus, RefusalStatus, Sizes, SlotStatus, Status,
};
use self::{
    browsers::{Berth, BrowserState},
    experience::Experience,
    index::Index,
    journal::Journal,
    plans::Migration,
    queue::Queue,
    requests::Request,
    runs::Run,
    speed::Speeds,
    tasks::Task,
    trials::Trials,
};
use crate::{
    config::Config,
    event::{Action, Batching, Event, Instant, ModelId, TaskId},
    recovery::{Failure, FailureKind},
    state::Records,
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
    /// What is known about berths without looking at each.
    index: Index,
    /// Index of the berth of each living browser.
    homes: BTreeMap<BrowserId, usize>,
    /// Berth and model of each placement on a living browser.
    placed: BTreeMap<PlacementId, (usize, ModelId)>,
    models: BTreeMap<ModelId, Batching>,
    /// Berths that hold each model, or will.
    plans: BTreeMap<ModelId, BTreeSet<usize>>,
    migrations: BTreeMap<ModelId, Migration>,
    requests: BTreeMap<RequestId, Request>,
    deadlines: BTreeSet<(Instant, RequestId)>,
    /// When a request's rung has waited for long enough.
    rungs_due: BTreeSet<(Instant, RequestId)>,
    queue: Queue,
    runs: BTreeMap<RunId, Run>,
    tasks: BTreeMap<TaskId, Task>,
    speeds: Speeds,
    experience: Experience,
    trials: Trials,
    journal: Journal,
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
        Fleet::restore(config, Records::default())
    }

    /// A fleet that takes over what an earlier one recorded. Browsers and placements of that one are gone, and their
    /// records go with the first event; requests without an outcome come back as [`Event::Request`]s that are
    /// [`crate::Persistence::Recorded`].
    pub fn restore(config: Config, records: Records) -> Fleet {
        let berths: Vec<Berth> = config.slots.iter().map(|_| Berth::default()).collect();
        Fleet {
            now: Instant::default(),
            phase: Phase::New,
            actions: VecDeque::new(),
            index: Index::new(berths.len()),
            berths,
            homes: BTreeMap::new(),
            placed: BTreeMap::new(),
            models: BTreeMap::new(),
            plans: BTreeMap::new(),
            migrations: BTreeMap::new(),
            requests: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            rungs_due: BTreeSet::new(),
            queue: Queue::default(),
            runs: BTreeMap::new(),
            tasks: BTreeMap::new(),
            speeds: Speeds::default(),
            experience: Experience::default(),
            trials: Trials::new(&config.slots),
            journal: Journal::new(records),
            browsers: 0,
            placements: 0,
            run_ids: 0,
            arrivals: 0,
            config,
        }
    }

    /// Takes an event. What follows from it is had from [`Fleet::poll_action`].
    ///
    /// A `now` before that of an earlier event counts as that event's.
    pub fn handle(&mut self, now: Instant, event: Event) {
        self.now = self.now.max(now);
        if self.phase == Phase::New {
            self.phase = Phase::Serving;
            self.record_start();
        }
        // The event goes first: an answer or a heartbeat that is here has arrived, whatever time it is.
        self.apply(event);
        if self.phase == Phase::Drained {
            return;
        }
        self.expire_requests();
        self.expire_rungs();
        self.expire_tasks();
        self.watch_browsers();
        self.place_due();
        self.fail_unplaceable();
        if self.phase == Phase::Draining && self.requests.is_empty() {
            self.end_browsers();
            self.record_berths();
            self.phase = Phase::Drained;
            self.actions.push_back(Action::Drained);
            return;
        }
        self.launch_due();
        self.assign_tasks();
        self.dispatch_all();
        self.advance_trials();
        self.record();
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
                let rung = self.rungs_due.first().map(|&(until, _)| until);
                let berth = self.index.next_due();
                [deadline, rung, berth, self.task_timeout(), self.batch_timeout()]
                    .into_iter()
                    .flatten()
                    .min()
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
            Event::PageDown { browser, failure } => {
                if let Some(&berth) = self.homes.get(&browser) {
                    self.page_down(berth, failure);
                }
            }
            Event::BrowserDown { browser, failure } => {
                // A browser that is not known any more was killed by the core itself.
                if let Some(&berth) = self.homes.get(&browser) {
                    self.browser_down(berth, failure);
                }
            }
            Event::Heartbeat { browser } => self.heartbeat(browser),
            Event::Memory { browser, used_bytes } => self.memory(browser, used_bytes),
            Event::ProbeDone { browser, probe } => self.probe_done(browser, probe),
            Event::ProbeFailed { browser, probe, failure } => {
                self.probe_failed(browser, probe, failure)
            }
            Event::PlacementProgress { browser, placement, epoch } => {
                self.placement_progress(browser, placement, epoch)
            }
            Event::PlacementReady { browser, placement, epoch } => {
                self.placement_ready(browser, placement, epoch)
            }
            Event::PlacementFailed { browser, placement, epoch, failure } => {
                self.placement_failed(browser, placement, epoch, failure)
            }
            Event::Request { request, model, rows, length, deadline, policy } => {
                self.accept(request, model, rows, length, deadline, policy);
            }
            Event::Cancel { request } => self.cancel(request),
            Event::RunDone { browser, run, epoch } => self.run_done(browser, run, epoch),
            Event::RunFailed { browser, run, epoch, failure } => {
                self.run_failed(browser, run, epoch, &failure)
            }
            Event::Measured { browser, measure, took } => self.measured(browser, measure, took),
            Event::MeasureFailed { browser, measure, failure } => {
                self.measure_failed(browser, measure, &failure)
            }
            Event::Unmeasurable { model, reason } => self.unmeasurable(model, reason),
            Event::SpeedKnown { browser, model, backend, took } => {
                self.speed_known(browser, model, backend, took)
            }
            Event::DeviceLost { browser, backend, reason } => {
                self.device_lost_event(browser, backend, &reason)
            }
            Event::Committed { transaction } => self.committed(transaction),
            Event::CommitFailed { transaction, reason } => self.commit_failed(transaction, &reason),
            Event::Acquire { task, deadline } => self.acquire(task, deadline),
            Event::Release { task } => self.release(task),
            Event::Recycle { browser, reason } => {
                if let Some(&berth) = self.homes.get(&browser) {
                    self.recycle(berth, reason);
                }
            }
            Event::Migrate { model, from, to } => self.migrate(model, from, to),
            Event::Drain => match self.phase {
                Phase::New | Phase::Serving => self.phase = Phase::Draining,
                // Asked for a second time: whoever asks does not want to wait.
                Phase::Draining => self.fail_all(),
                Phase::Drained => {}
            },
        }
    }

    /// A berth that is about to be changed.
    fn berth_mut(&mut self, index: usize) -> &mut Berth {
        self.index.touch(index);
        &mut self.berths[index]
    }

    fn end_browsers(&mut self) {
        for model in self.migrations.keys().copied().collect::<Vec<_>>() {
            let failure = Failure::new(FailureKind::BrowserExited, "the daemon is shutting down");
            self.undo_migration(model, failure);
        }
        for index in 0..self.berths.len() {
            let berth = self.berth_mut(index);
            let state = std::mem::replace(&mut berth.state, BrowserState::Stopped);
            if let Some(browser) = state.browser() {
                let reason = "the daemon is shutting down".to_owned();
                self.actions.push_back(Action::Kill { browser, reason });
            }
        }
        self.end_tasks();
        self.homes.clear();
        self.placed.clear();
        self.runs.clear();
    }
}
