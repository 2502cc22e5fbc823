//! The fleet: what each event means for its components, and in which order they have their turn.

mod assignments;
mod browsers;
mod leases;
mod loads;
mod measurements;
mod records;
mod recovery;
mod requests;
mod runs;
mod slots;
mod status;
mod watch;

use std::collections::VecDeque;

use super::{
    assignments::Assignments, experience::Experience, journal::Journal, leases::Leases,
    measurements::Measurements, requests::NewRequest, requests::Requests, runs::Runs, slots::Slots,
    speed::Speeds,
};
use crate::{
    config::Config,
    event::{Action, Event, Instant},
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
    slots: Slots,
    assignments: Assignments,
    requests: Requests,
    runs: Runs,
    leases: Leases,
    measurements: Measurements,
    speeds: Speeds,
    experience: Experience,
    journal: Journal,
}

/// How far the fleet as a whole is.
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
        Fleet {
            now: Instant::default(),
            phase: Phase::New,
            actions: VecDeque::new(),
            slots: Slots::new(&config.slots, config.incarnation.first_id()),
            assignments: Assignments::default(),
            requests: Requests::default(),
            runs: Runs::new(config.incarnation.first_id()),
            leases: Leases::default(),
            measurements: Measurements::new(&config.slots),
            speeds: Speeds::default(),
            experience: Experience::default(),
            journal: Journal::new(records),
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
        self.expire_steps();
        self.expire_leases();
        self.watch_browsers();
        self.load_due();
        self.fail_unplaceable();
        if self.phase == Phase::Draining && self.requests.is_empty() {
            self.end();
            return;
        }
        self.launch_due();
        self.assign_leases();
        self.dispatch_all();
        self.advance_measurements();
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
                let batch = self.dispatcher().next_due();
                let lease = self.leases.next_deadline();
                [self.requests.next_due(), self.slots.next_due(), lease, batch]
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
            Event::ModelRemoved { model } => self.remove_model(model),
            Event::SlotAdded { slot } => self.add_slot(slot),
            Event::SlotRemoved { slot, reason } => self.remove_slot(slot, reason),
            Event::BrowserUp { browser, backends, refused } => {
                self.browser_up(browser, backends, refused)
            }
            Event::PageDown { browser, failure } => {
                if let Some(slot) = self.slots.home(browser) {
                    self.page_down(slot, failure);
                }
            }
            Event::BrowserDown { browser, failure } => {
                // A browser that is not known any more was killed by the core itself.
                if let Some(slot) = self.slots.home(browser) {
                    self.browser_down(slot, failure);
                }
            }
            Event::Heartbeat { browser } => self.slots.heartbeat(browser, self.now),
            Event::Memory { browser, used_bytes } => self.memory(browser, used_bytes),
            Event::ProbeDone { browser, probe } => self.probe_done(browser, probe),
            Event::ProbeFailed { browser, probe, failure } => {
                if let Some(slot) = self.slots.probed(browser, probe) {
                    self.probe_failed(slot, failure);
                }
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
            Event::Request { request: id, model, rows, length, deadline, policy } => {
                self.accept(NewRequest { id, model, rows, length, deadline, policy });
            }
            Event::Cancel { request } => self.cancel(request),
            Event::RunDone { browser, run, epoch } => self.run_done(browser, run, epoch),
            Event::RunFailed { browser, run, epoch, failure } => {
                self.run_failed(browser, run, epoch, &failure)
            }
            Event::Measured { browser, measure, took } => self.measured(browser, measure, took),
            Event::MeasureFailed { browser, measure, failure } => {
                if let Some(slot) = self.slots.measured(browser, measure) {
                    self.measurement_failed(slot, &failure);
                }
            }
            Event::Unmeasurable { model, reason } => self.unmeasurable(model, reason),
            Event::SpeedKnown { browser, model, backend, took } => {
                if let Some(slot) = self.slots.home(browser)
                    && !self.assignments.is_removed(model)
                {
                    self.measurements.learn_before(slot, model, backend, took);
                }
            }
            Event::DeviceLost { browser, backend, reason } => {
                if let Some(slot) = self.slots.home(browser) {
                    let failure = Failure::new(FailureKind::DeviceLost, reason);
                    self.device_lost(slot, backend, failure);
                }
            }
            Event::Committed { transaction } => self.committed(transaction),
            Event::CommitFailed { transaction, reason } => self.commit_failed(transaction, &reason),
            Event::Acquire { lease, deadline } => self.leases.acquire(lease, deadline),
            Event::Release { lease } => self.release(lease),
            Event::Recycle { browser, reason } => {
                if let Some(slot) = self.slots.home(browser) {
                    self.recycle(slot, reason);
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

    fn order(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    /// Every accepted request has ended, so every browser does.
    fn end(&mut self) {
        for model in self.assignments.migrating() {
            let failure = Failure::new(FailureKind::BrowserExited, "the daemon is shutting down");
            self.undo_migration(model, failure);
        }
        for browser in self.slots.stop() {
            let reason = "the daemon is shutting down".to_owned();
            self.order(Action::Kill { browser, reason });
        }
        for lease in self.leases.end() {
            let failure = Failure::new(FailureKind::BrowserExited, "the daemon is shutting down");
            self.order(Action::Revoked { lease, failure });
        }
        self.runs.clear();
        self.record_changes();
        self.phase = Phase::Drained;
        self.order(Action::Drained);
    }
}
