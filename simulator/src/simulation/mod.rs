//! The loop in virtual time: sends events to the core, performs its actions, and checks the invariants after every step.

use std::{collections::BTreeMap, time::Duration};

use flotilla_fleet::{
    Action, Config, Event, FailureKind, Instant, ModelId, Recovered, Repair, Sizes, Status,
};
use flotilla_protocol::{Backend, Incarnation};

use crate::{
    clients::Clients,
    core::Core,
    durations::Durations,
    faults::{Fault, FaultCounts, FaultKind, Scope},
    invariants::{Checker, Invariant, Violation},
    plan::Plan,
    pool::Pool,
    random::Random,
    schedule::{Schedule, Scheduled},
    store::Store,
    trace::Trace,
};

mod changes;
mod commits;
mod measuring;
mod operators;
mod pages;
mod requests;

use self::requests::TakenOver;

/// Steps at the same time after which the core is considered to loop.
const STEPS_AT_ONCE_MAX: u64 = 100_000;
/// Longest duration of a drain; longer than any deadline.
const DRAIN_MAX: Duration = Duration::from_secs(3600);
/// Most entries of the schedule for each browser, and in addition.
const SCHEDULE_PER_BROWSER_MAX: usize = 64;
const SCHEDULE_BASE: usize = 10_000;

/// State of the simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// `hurried` after a second order to drain.
    Draining {
        since: Instant,
        hurried: bool,
    },
    Drained,
}

/// A simulation of daemon, browsers, store and clients around a core.
pub struct Simulation<C> {
    pub(crate) plan: Plan,
    /// The plan's faults by their kinds.
    faults: Vec<Vec<Fault>>,
    pub(crate) random: Random,
    core: Option<C>,
    /// When the core wants to be woken.
    wake: Option<Instant>,
    pub(crate) now: Instant,
    pub(crate) schedule: Schedule,
    pub(crate) pool: Pool,
    pub(crate) clients: Clients,
    pub(crate) store: Store,
    /// Requests that the present daemon has to resume.
    pub(crate) taken_over: TakenOver,
    pub(crate) checker: Checker,
    pub(crate) fault_counts: FaultCounts,
    trace: Trace,
    phase: Phase,
    actions: u64,
    steps_at_once: u64,
    /// Times that the daemon was started.
    daemons: u64,
    /// Leases that were requested.
    pub(crate) operations: u64,
    pub(crate) migrations_done: u64,
    /// Models that were ever added beside those of the plan.
    pub(crate) models_added: u32,
    /// What was measured, by kind of browser.
    pub(crate) speeds: BTreeMap<(String, ModelId, Backend), Duration>,
    /// Repairs of browsers that helped, by what had failed.
    pub(crate) repairs: BTreeMap<(FailureKind, Repair), Durations>,
}

impl<C: Core> Simulation<C> {
    /// The simulation of a plan and a seed; `keep_text` keeps every line of its trace.
    pub fn new(seed: u64, plan: Plan, keep_text: bool) -> Simulation<C> {
        let mut faults = vec![Vec::new(); FaultKind::ALL.len()];
        for &fault in &plan.faults {
            faults[fault.what as usize].push(fault);
        }
        let mut simulation = Simulation {
            faults,
            random: Random::new(seed),
            core: None,
            wake: None,
            now: Instant::default(),
            schedule: Schedule::default(),
            pool: Pool::default(),
            clients: Clients::default(),
            store: Store::default(),
            taken_over: TakenOver::default(),
            checker: Checker::default(),
            fault_counts: FaultCounts::default(),
            trace: Trace::new(keep_text),
            phase: Phase::Serving,
            actions: 0,
            steps_at_once: 0,
            daemons: 0,
            operations: 0,
            migrations_done: 0,
            models_added: 0,
            speeds: BTreeMap::new(),
            repairs: BTreeMap::new(),
            plan,
        };
        for fault in 0..simulation.plan.faults.len() {
            if simulation.plan.faults[fault].what.scope() == Scope::Fleet {
                simulation.schedule_fault(fault, |fault| Scheduled::FleetFault { fault });
            }
        }
        let (from, end) = (simulation.plan.load.from, simulation.plan.end);
        simulation.schedule.add(Instant(from), Scheduled::Request);
        simulation.schedule.add(Instant(end), Scheduled::Drain);
        if let Some(pause) = simulation.plan.second_drain {
            simulation.schedule.add(Instant(end + pause), Scheduled::Drain);
        }
        simulation.schedule_operation();
        simulation.start_daemon();
        simulation
    }

    /// Runs until drained.
    ///
    /// # Errors
    /// An invariant does not hold.
    pub fn run(&mut self) -> Result<(), Violation> {
        while self.phase != Phase::Drained {
            self.step()?;
        }
        self.check_end()
    }

    /// Virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// How many events the core took.
    pub fn events(&self) -> u64 {
        self.checker.step
    }

    /// How many actions the core ordered.
    pub fn actions(&self) -> u64 {
        self.actions
    }

    /// Times that the daemon was started.
    pub fn daemons(&self) -> u64 {
        self.daemons
    }

    /// Its events and actions.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Whether a drain was ordered twice.
    pub(crate) fn is_hurried(&self) -> bool {
        match self.phase {
            Phase::Serving | Phase::Drained => false,
            Phase::Draining { hurried, .. } => hurried,
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        match self.phase {
            Phase::Serving => false,
            Phase::Draining { .. } | Phase::Drained => true,
        }
    }

    pub(crate) fn schedule_in(&mut self, delay: Duration, scheduled: Scheduled) {
        self.schedule.add(self.now.after(delay), scheduled);
    }

    /// Decides whether a fault of this kind happens at this occasion.
    pub(crate) fn fault(&mut self, what: FaultKind) -> bool {
        let mut fires = false;
        for fault in &self.faults[what as usize] {
            fires |= fault.is_on(self.now) && self.random.chance(fault.odds);
        }
        if fires {
            self.fault_counts.count(what);
        }
        fires
    }

    /// Schedules the next occurrence of a fault, if its rate is not 0.
    pub(crate) fn schedule_fault(
        &mut self,
        fault: usize,
        scheduled: impl FnOnce(usize) -> Scheduled,
    ) {
        if let Some(mean) = self.plan.faults[fault].mean() {
            let wait = self.random.wait(mean);
            self.schedule_in(wait, scheduled(fault));
        }
    }

    fn step(&mut self) -> Result<(), Violation> {
        let before = self.now;
        let next = self.schedule.next_at();
        let wake = self.wake.map(|wake| wake.max(self.now));
        match (next, wake) {
            (None, None) => {
                let detail = "there is no future event, and the fleet is not drained".to_owned();
                return Err(self.checker.violation(Invariant::Progress, detail));
            }
            (Some(next), Some(wake)) if wake <= next => {
                self.advance_to(wake);
                self.send(Event::Wake)?;
            }
            (None, Some(wake)) => {
                self.advance_to(wake);
                self.send(Event::Wake)?;
            }
            (Some(_), _) => {
                if let Some((at, scheduled)) = self.schedule.pop() {
                    self.advance_to(at);
                    self.apply(scheduled)?;
                }
            }
        }
        self.steps_at_once = if self.now == before { self.steps_at_once + 1 } else { 0 };
        let steps = self.steps_at_once;
        self.checker.check(Invariant::Progress, steps < STEPS_AT_ONCE_MAX, || {
            format!("{steps} steps without any time passing")
        })?;
        if let Phase::Draining { since, .. } = self.phase {
            let took = self.now.since(since);
            self.checker.check(Invariant::Drained, took < DRAIN_MAX, || {
                format!("not drained after {took:?}")
            })?;
        }
        Ok(())
    }

    fn advance_to(&mut self, at: Instant) {
        self.now = at;
        self.checker.now = at;
    }

    fn apply(&mut self, scheduled: Scheduled) -> Result<(), Violation> {
        match scheduled {
            Scheduled::Message(event) => self.send(event),
            Scheduled::PageMessage { browser, page, event } => {
                match self.pool.can_send(browser, page) {
                    true => self.send(event),
                    false => Ok(()),
                }
            }
            Scheduled::Heartbeat(browser) => self.heartbeat_due(browser),
            Scheduled::BrowserFault { browser, fault } => self.browser_fault(browser, fault),
            Scheduled::FleetFault { fault } => self.fleet_fault(fault),
            Scheduled::Request => self.client_arrives(),
            Scheduled::LeaseRequest(lease) => self.request_on_lease(lease),
            Scheduled::Operation => self.operator_acts(),
            Scheduled::TakeOver => self.take_over(),
            Scheduled::DaemonStart => {
                self.start_daemon();
                Ok(())
            }
            Scheduled::Drain if self.core.is_none() => {
                // No daemon runs; the next one gets the order.
                self.schedule_in(Duration::from_secs(1), Scheduled::Drain);
                Ok(())
            }
            Scheduled::Drain => {
                self.phase = match self.phase {
                    Phase::Serving => Phase::Draining { since: self.now, hurried: false },
                    Phase::Draining { since, .. } => Phase::Draining { since, hurried: true },
                    Phase::Drained => Phase::Drained,
                };
                self.send(Event::Drain)
            }
        }
    }

    fn fleet_fault(&mut self, index: usize) -> Result<(), Violation> {
        let fault = self.plan.faults[index];
        self.schedule_fault(index, |fault| Scheduled::FleetFault { fault });
        if !fault.is_on(self.now) || self.is_draining() || self.core.is_none() {
            return Ok(());
        }
        self.fault_counts.count(fault.what);
        match fault.what {
            FaultKind::DaemonKilled => self.kill_daemon(),
            FaultKind::LoadPeak => self.start_peak(),
            FaultKind::ProcessKilled
            | FaultKind::PageCrash
            | FaultKind::SocketDrop
            | FaultKind::Hang
            | FaultKind::DeviceLoss
            | FaultKind::DeviceLossRepeated
            | FaultKind::SlowsDown
            | FaultKind::MemoryGrows
            | FaultKind::StartFails
            | FaultKind::StartHangs
            | FaultKind::LoadFails
            | FaultKind::LoadHangs
            | FaultKind::LoadUnsupported
            | FaultKind::RunFails
            | FaultKind::RunHangs
            | FaultKind::RunSlow
            | FaultKind::WrongResult
            | FaultKind::ProbeFails
            | FaultKind::ProbeHangs
            | FaultKind::CommitFails
            | FaultKind::CommitSlow
            | FaultKind::StaleReport
            | FaultKind::ForeignReport
            | FaultKind::DuplicateReport
            | FaultKind::LateReport
            | FaultKind::ClientCancels
            | FaultKind::DeadlineShort => {}
        }
        Ok(())
    }

    /// The daemon is killed, and with it every browser and connection.
    fn kill_daemon(&mut self) {
        self.core = None;
        self.wake = None;
        self.pool = self.pool.of_next_daemon();
        self.clients.lose_daemon();
        let first_is_written = self.random.chance(50.0);
        self.store.crash(first_is_written, self.now);
        self.schedule.retain(Scheduled::outlives_daemon);
        let pause = self.random.ms(500, 5000);
        self.schedule_in(pause, Scheduled::DaemonStart);
    }

    fn start_daemon(&mut self) {
        self.daemons += 1;
        let incarnation = u32::try_from(self.daemons).ok().and_then(Incarnation::new);
        let incarnation = incarnation.unwrap_or(Incarnation::MAX);
        let config = Config { incarnation, ..self.plan.config.clone() };
        let core = C::start(config, self.store.restore());
        self.wake = core.poll_timeout();
        self.core = Some(core);
        self.pool.specs.clone_from(&self.plan.config.slots);
        self.pool.models.clone_from(&self.plan.models);
        let models: Vec<_> =
            self.plan.models.iter().map(|(&model, &batching)| (model, batching)).collect();
        let slowest = self.plan.load.from.as_millis() as u64;
        for (model, batching) in models {
            let delay = self.random.ms(0, slowest);
            self.schedule_in(delay, Scheduled::Message(Event::ModelAdded { model, batching }));
        }
        self.taken_over = (self.store.open(), std::mem::take(&mut self.clients.interrupted));
        // After the models have been added: resumed requests need them.
        self.schedule_in(self.plan.load.from, Scheduled::TakeOver);
    }

    /// Whether a daemon runs.
    pub(crate) fn is_up(&self) -> bool {
        self.core.is_some()
    }

    /// Sends an event to the core and performs its actions.
    pub(crate) fn send(&mut self, event: Event) -> Result<(), Violation> {
        let Some(mut core) = self.core.take() else { return Ok(()) };
        self.checker.step += 1;
        self.trace.event(self.now, &event);
        self.observe(&event)?;
        core.handle(self.now, event);
        while let Some(action) = core.poll_action() {
            self.actions += 1;
            self.trace.action(self.now, &action);
            self.perform(action)?;
        }
        self.wake = core.poll_timeout();
        let sizes = core.sizes();
        let status = self.checker.step.is_multiple_of(self.plan.sweep_every).then(|| core.status());
        self.core = Some(core);
        self.check(sizes, status)
    }

    /// Updates the simulation for an event, before the core handles it.
    fn observe(&mut self, event: &Event) -> Result<(), Violation> {
        match event {
            Event::Together(events) => {
                for event in events {
                    self.observe(event)?;
                }
            }
            Event::ModelAdded { model, batching } => self.model_added(*model, *batching),
            Event::ModelRemoved { model } => self.model_removed(*model),
            Event::SlotAdded { slot } => self.slot_added(slot),
            Event::SlotRemoved { slot, .. } => self.slot_removed(*slot),
            Event::BrowserUp { browser, .. } => self.pool.up(*browser, self.now),
            Event::PageDown { browser, .. } | Event::BrowserDown { browser, .. } => {
                self.pool.report_failed(*browser, self.now);
            }
            Event::Heartbeat { browser } => self.pool.heartbeat(*browser, self.now),
            Event::Memory { browser, used_bytes } => self.measured(*browser, *used_bytes),
            Event::ProbeDone { browser, probe } => self.probed(*browser, *probe, None),
            Event::ProbeFailed { browser, probe, failure } => {
                self.probed(*browser, *probe, Some(failure.kind));
            }
            Event::PlacementReady { browser, placement, epoch } => {
                self.loaded(*browser, *placement, *epoch, true);
            }
            Event::PlacementFailed { browser, placement, epoch, .. } => {
                self.loaded(*browser, *placement, *epoch, false);
            }
            Event::Cancel { request } => self.cancelled(*request),
            Event::RunDone { browser, run, epoch } => self.run_done(*browser, *run, *epoch),
            Event::RunFailed { browser, run, epoch, failure } => {
                self.run_failed(*browser, *run, *epoch, failure);
            }
            Event::DeviceLost { browser, backend, .. } => self.lose_device(*browser, *backend),
            Event::Measured { browser, measure, .. } => self.measure_over(*browser, *measure, None),
            Event::MeasureFailed { browser, measure, failure } => {
                self.measure_over(*browser, *measure, Some(failure.kind));
            }
            Event::Committed { transaction } => self.committed(*transaction)?,
            Event::CommitFailed { transaction, .. } => self.commit_failed(*transaction),
            Event::Release { lease } => self.released(*lease),
            Event::Wake
            | Event::PlacementProgress { .. }
            | Event::Unmeasurable { .. }
            | Event::SpeedKnown { .. }
            | Event::Request { .. }
            | Event::Acquire { .. }
            | Event::Recycle { .. }
            | Event::Migrate { .. }
            | Event::Drain => {}
        }
        Ok(())
    }

    fn perform(&mut self, action: Action) -> Result<(), Violation> {
        let drained = self.phase == Phase::Drained;
        self.checker.check(Invariant::Drained, !drained, || format!("{action:?} after drained"))?;
        match action {
            Action::Launch { browser, slot } => self.launch(browser, slot),
            Action::Kill { browser, .. } => self.kill(browser),
            Action::Reset { browser, .. } => self.reset(browser),
            Action::Probe { browser, backend, probe } => self.probe(browser, backend, probe),
            Action::Measure { browser, placement, epoch, model, measure } => {
                self.measure(browser, placement, epoch, model, measure)
            }
            Action::Keep { browser, model, backend, took } => {
                self.keep_speed(browser, model, backend, took)
            }
            Action::Unload { browser, placement } => self.unload(browser, placement),
            Action::Commit(transaction) => self.commit(transaction),
            Action::Acquired { lease, browser } => self.acquired(lease, browser),
            Action::Revoked { lease, failure } => self.revoked(lease, &failure),
            Action::Migrated { model, from, to, failure } => {
                self.migrated(model, (from, to), failure.as_ref())
            }
            Action::Recovered(recovery) => {
                match recovery.what {
                    Recovered::Browser(_, repair) if recovery.succeeded => {
                        let repairs = self.repairs.entry((recovery.failure, repair)).or_default();
                        repairs.add(recovery.took);
                    }
                    // How requests recover is measured where they are answered.
                    Recovered::Browser(..) | Recovered::Request(..) => {}
                }
                Ok(())
            }
            Action::Place { browser, placement, epoch, model, backend } => {
                self.place(browser, placement, epoch, model, backend)
            }
            Action::Dispatch { browser, placement, epoch, run, requests } => {
                self.dispatch(browser, placement, epoch, run, requests)
            }
            Action::Abandon { run } => self.abandon(run),
            Action::Answer { request, run, tried } => self.answer(request, run, &tried),
            Action::Fail { request, error } => self.fail(request, &error),
            Action::Drained => {
                let draining = self.is_draining();
                self.checker.check(Invariant::Drained, draining, || {
                    "drained without being asked to".to_owned()
                })?;
                self.phase = Phase::Drained;
                Ok(())
            }
        }
    }

    /// Checks that are made after every step.
    fn check(&mut self, sizes: Sizes, status: Option<Status>) -> Result<(), Violation> {
        self.check_runs()?;
        self.check_requests()?;
        self.check_leases()?;
        self.check_slots()?;
        let (wake, now) = (self.wake, self.now);
        self.checker.check(Invariant::Progress, wake.is_none_or(|wake| wake > now), || {
            format!("the core wants to be woken at {wake:?}, and it is {now:?}")
        })?;
        self.check_sizes(sizes)?;
        match status {
            Some(status) => self.sweep(&status),
            None => Ok(()),
        }
    }

    /// The sizes of the core are bounded by the requests, slots and models that exist.
    fn check_sizes(&mut self, sizes: Sizes) -> Result<(), Violation> {
        let open = self.clients.open() as usize;
        self.checker.check(Invariant::Counts, sizes.requests == open, || {
            format!("the core has {} open requests, the simulation {open}", sizes.requests)
        })?;
        let config = &self.plan.config;
        let models = self.pool.models.len() + self.pool.removed_models.len();
        let slots = self.pool.specs.len();
        let runs_max = slots * config.runs_in_flight_max as usize;
        // A slot may have two placements of a model: one replaces the other, whose runs end.
        let placements_max = 2 * slots * models;
        // The requests of a new daemon that took over an earlier one's records may still be in memory.
        let records_max =
            1 + slots + placements_max * 2 + models + open + self.store.kept() + self.store.len();
        let within = sizes.runs <= runs_max
            && sizes.placements <= placements_max
            && sizes.timers <= 2 * open
            && sizes.records <= records_max
            && sizes.transactions <= self.store.in_flight()
            && sizes.actions == 0;
        self.checker.check(Invariant::Memory, within, || {
            format!(
                "the core holds {sizes:?}; at most {runs_max} runs, {placements_max} placements, \
                 {open} requests and {records_max} records are to be expected"
            )
        })
    }

    /// Checks that are too slow for every step.
    fn sweep(&mut self, status: &Status) -> Result<(), Violation> {
        let open = self.clients.open();
        let counts = [status.queued, status.running, status.recording];
        let sum: u64 = counts.into_iter().map(u64::from).sum();
        self.checker.check(Invariant::Counts, sum == open, || {
            format!(
                "the core counts {counts:?} that wait, run and are recorded, the simulation {open}"
            )
        })?;
        let entries = self.schedule.len();
        let limit = SCHEDULE_BASE + status.slots.len() * SCHEDULE_PER_BROWSER_MAX + open as usize;
        self.checker.check(Invariant::Memory, entries <= limit, || {
            format!("{entries} entries are scheduled, the limit is {limit}")
        })?;
        self.check_changes(status)?;
        self.check_pool_memory(open)
    }

    /// Checks that are made at the end.
    fn check_end(&mut self) -> Result<(), Violation> {
        let open = self.clients.open();
        self.checker.check(Invariant::OneAnswer, open == 0, || {
            format!("{open} requests were never answered")
        })?;
        let alive = self.pool.living();
        self.checker.check(Invariant::Drained, alive == 0, || {
            format!("{alive} browsers outlived the drain")
        })?;
        // Events that still arrive cause no actions.
        let Some(mut core) = self.core.take() else { return Ok(()) };
        while let Some((at, scheduled)) = self.schedule.pop() {
            let (Scheduled::Message(event) | Scheduled::PageMessage { event, .. }) = scheduled
            else {
                continue;
            };
            let refused = matches!(event, Event::Request { .. });
            core.handle(at, event);
            let action = core.poll_action();
            self.checker.check(Invariant::Drained, refused || action.is_none(), || {
                format!("{action:?} after drained")
            })?;
        }
        Ok(())
    }
}
