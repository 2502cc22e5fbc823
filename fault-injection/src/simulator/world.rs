//! The loop in virtual time: sends events to the core, plays the actions that it orders, and checks the invariants after every
//! step.

use std::{collections::BTreeMap, time::Duration};

use flotilla_fleet::{
    Action, Config, Event, FailureKind, Fleet, Instant, LeaseId, ModelId, Recovered, Repair, Sizes,
    Status, state::Records,
};
use flotilla_protocol::{Backend, BrowserId};

use super::{
    agenda::Agenda,
    clients::Clients,
    durations::Durations,
    faults::{Fault, Fired, Scope, What},
    invariants::{Invariant, Judge, Violation},
    plan::Plan,
    pool::Pool,
    random::Random,
    store::{Inheritance, Store},
    trace::Trace,
};

/// Steps without progress of time after which the core is taken to spin.
const STEPS_AT_ONCE_MAX: u64 = 100_000;
/// Longest time from a drain to its end; every request's deadline is sooner.
const DRAIN_MAX: Duration = Duration::from_secs(3600);
/// What the agenda may hold for each browser and each open request, and in any case.
const AGENDA_PER_BROWSER_MAX: usize = 64;
const AGENDA_BASE: usize = 10_000;

/// The core under test: the fleet, or one that is broken on purpose.
pub trait Core {
    /// A core that takes over what an earlier one recorded.
    fn start(config: Config, records: Records) -> Self;
    /// Takes an event.
    fn handle(&mut self, now: Instant, event: Event);
    /// The next thing to be done.
    fn poll_action(&mut self) -> Option<Action>;
    /// When to be woken if nothing else happens before.
    fn poll_timeout(&self) -> Option<Instant>;
    /// Its status.
    fn status(&self) -> Status;
    /// How much it holds.
    fn sizes(&self) -> Sizes;
}

impl Core for Fleet {
    fn start(config: Config, records: Records) -> Fleet {
        Fleet::restore(config, records)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        Fleet::handle(self, now, event);
    }

    fn poll_action(&mut self) -> Option<Action> {
        Fleet::poll_action(self)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Fleet::poll_timeout(self)
    }

    fn status(&self) -> Status {
        Fleet::status(self)
    }

    fn sizes(&self) -> Sizes {
        Fleet::sizes(self)
    }
}

/// What happens next in the world.
#[derive(Clone, Debug)]
pub(super) enum Occurrence {
    /// A message that is on its way, whatever becomes of its sender.
    Deliver(Event),
    /// A message that its page sends if that page still is there and able to.
    Page { browser: BrowserId, page: u32, event: Event },
    /// A heartbeat.
    Beat(BrowserId),
    /// A fault of the plan strikes a browser.
    Strike { browser: BrowserId, fault: usize },
    /// A fault of the plan strikes the fleet.
    StrikeFleet { fault: usize },
    /// A client comes.
    Ask,
    /// A client asks the browser that it has for itself.
    RequestOnLease(LeaseId),
    /// An operator does something.
    Operate,
    /// A new daemon goes on with what is recorded.
    TakeOver,
    /// A killed daemon is started anew.
    Restart,
    /// The end.
    Drain,
}

impl Occurrence {
    /// Whether it happens although the daemon that it was planned under was killed.
    fn outlives_daemon(&self) -> bool {
        match self {
            Occurrence::Ask
            | Occurrence::Operate
            | Occurrence::StrikeFleet { .. }
            | Occurrence::Restart
            | Occurrence::Drain => true,
            Occurrence::Deliver(_)
            | Occurrence::Page { .. }
            | Occurrence::Beat(_)
            | Occurrence::RequestOnLease(_)
            | Occurrence::TakeOver
            | Occurrence::Strike { .. } => false,
        }
    }
}

/// How far a world is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// `hurried` once it was ordered a second time.
    Draining {
        since: Instant,
        hurried: bool,
    },
    Drained,
}

/// A world that plays daemon, browsers, store and clients around a core.
pub struct World<C> {
    pub(super) plan: Plan,
    /// The plan's faults by what they are.
    faults: Vec<Vec<Fault>>,
    pub(super) random: Random,
    core: Option<C>,
    /// When the core wants to be woken.
    wake: Option<Instant>,
    pub(super) now: Instant,
    pub(super) agenda: Agenda,
    pub(super) pool: Pool,
    pub(super) clients: Clients,
    pub(super) store: Store,
    /// Open requests that the present daemon found on disk, and those of the one before whose clients come back.
    pub(super) inheritance: Inheritance,
    pub(super) judge: Judge,
    pub(super) fired: Fired,
    trace: Trace,
    phase: Phase,
    actions: u64,
    steps_at_once: u64,
    /// Times that the daemon was started.
    daemons: u64,
    /// Leases that were asked for.
    pub(super) operations: u64,
    pub(super) migrations_done: u64,
    /// Models that were ever added beside those of the plan.
    pub(super) models_added: u32,
    /// What was measured, by kind of browser.
    pub(super) speeds: BTreeMap<(String, ModelId, Backend), Duration>,
    /// Repairs of browsers that helped, by what had failed.
    pub(super) repairs: BTreeMap<(FailureKind, Repair), Durations>,
}

impl<C: Core> World<C> {
    /// The world of a plan and a seed; `keep_text` keeps every line of its trace.
    pub fn new(seed: u64, plan: Plan, keep_text: bool) -> World<C> {
        let mut faults = vec![Vec::new(); What::ALL.len()];
        for &fault in &plan.faults {
            faults[fault.what as usize].push(fault);
        }
        let mut world = World {
            faults,
            random: Random::new(seed),
            core: None,
            wake: None,
            now: Instant::default(),
            agenda: Agenda::default(),
            pool: Pool::default(),
            clients: Clients::default(),
            store: Store::default(),
            inheritance: Inheritance::default(),
            judge: Judge::default(),
            fired: Fired::default(),
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
        for fault in 0..world.plan.faults.len() {
            if world.plan.faults[fault].what.scope() == Scope::Fleet {
                world.expect_strike(fault, |fault| Occurrence::StrikeFleet { fault });
            }
        }
        let (from, end) = (world.plan.load.from, world.plan.end);
        world.agenda.add(Instant(from), Occurrence::Ask);
        world.agenda.add(Instant(end), Occurrence::Drain);
        if let Some(pause) = world.plan.second_drain {
            world.agenda.add(Instant(end + pause), Occurrence::Drain);
        }
        world.expect_operation();
        world.start_daemon();
        world
    }

    /// Lives until drained.
    ///
    /// # Errors
    /// An invariant does not hold.
    pub fn live(&mut self) -> Result<(), Violation> {
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
        self.judge.step
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
    pub(super) fn is_hurried(&self) -> bool {
        match self.phase {
            Phase::Serving | Phase::Drained => false,
            Phase::Draining { hurried, .. } => hurried,
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        match self.phase {
            Phase::Serving => false,
            Phase::Draining { .. } | Phase::Drained => true,
        }
    }

    pub(super) fn later(&mut self, delay: Duration, occurrence: Occurrence) {
        self.agenda.add(self.now.after(delay), occurrence);
    }

    /// Whether a fault of an occasion happens now.
    pub(super) fn fault(&mut self, what: What) -> bool {
        let mut fires = false;
        for fault in &self.faults[what as usize] {
            fires |= fault.is_on(self.now) && self.random.chance(fault.odds);
        }
        if fires {
            self.fired.count(what);
        }
        fires
    }

    /// Plans the next strike of a fault, if it ever strikes.
    pub(super) fn expect_strike(
        &mut self,
        fault: usize,
        occurrence: impl FnOnce(usize) -> Occurrence,
    ) {
        if let Some(mean) = self.plan.faults[fault].mean() {
            let wait = self.random.wait(mean);
            self.later(wait, occurrence(fault));
        }
    }

    fn step(&mut self) -> Result<(), Violation> {
        let before = self.now;
        let next = self.agenda.next_at();
        let wake = self.wake.map(|wake| wake.max(self.now));
        match (next, wake) {
            (None, None) => {
                let words = "nothing will ever happen, and the fleet is not drained".to_owned();
                return Err(self.judge.broken(Invariant::Progress, words));
            }
            (Some(next), Some(wake)) if wake <= next => {
                self.go_to(wake);
                self.send(Event::Wake)?;
            }
            (None, Some(wake)) => {
                self.go_to(wake);
                self.send(Event::Wake)?;
            }
            (Some(_), _) => {
                if let Some((at, occurrence)) = self.agenda.pop() {
                    self.go_to(at);
                    self.occur(occurrence)?;
                }
            }
        }
        self.steps_at_once = if self.now == before { self.steps_at_once + 1 } else { 0 };
        let steps = self.steps_at_once;
        self.judge.holds(Invariant::Progress, steps < STEPS_AT_ONCE_MAX, || {
            format!("{steps} steps without any time passing")
        })?;
        if let Phase::Draining { since, .. } = self.phase {
            let took = self.now.since(since);
            self.judge.holds(Invariant::Drained, took < DRAIN_MAX, || {
                format!("not drained after {took:?}")
            })?;
        }
        Ok(())
    }

    fn go_to(&mut self, at: Instant) {
        self.now = at;
        self.judge.now = at;
    }

    fn occur(&mut self, occurrence: Occurrence) -> Result<(), Violation> {
        match occurrence {
            Occurrence::Deliver(event) => self.send(event),
            Occurrence::Page { browser, page, event } => match self.pool.speaks(browser, page) {
                true => self.send(event),
                false => Ok(()),
            },
            Occurrence::Beat(browser) => self.beat(browser),
            Occurrence::Strike { browser, fault } => self.strike(browser, fault),
            Occurrence::StrikeFleet { fault } => self.strike_fleet(fault),
            Occurrence::Ask => self.ask(),
            Occurrence::RequestOnLease(lease) => self.request_on_lease(lease),
            Occurrence::Operate => self.operate(),
            Occurrence::TakeOver => self.take_over(),
            Occurrence::Restart => {
                self.start_daemon();
                Ok(())
            }
            Occurrence::Drain if self.core.is_none() => {
                // No daemon runs; the next one gets the order.
                self.later(Duration::from_secs(1), Occurrence::Drain);
                Ok(())
            }
            Occurrence::Drain => {
                self.phase = match self.phase {
                    Phase::Serving => Phase::Draining { since: self.now, hurried: false },
                    Phase::Draining { since, .. } => Phase::Draining { since, hurried: true },
                    Phase::Drained => Phase::Drained,
                };
                self.send(Event::Drain)
            }
        }
    }

    fn strike_fleet(&mut self, index: usize) -> Result<(), Violation> {
        let fault = self.plan.faults[index];
        self.expect_strike(index, |fault| Occurrence::StrikeFleet { fault });
        if !fault.is_on(self.now) || self.is_draining() || self.core.is_none() {
            return Ok(());
        }
        self.fired.count(fault.what);
        match fault.what {
            What::DaemonKilled => self.kill_daemon(),
            What::LoadPeak => self.start_peak(),
            What::ProcessKilled
            | What::PageCrash
            | What::SocketDrop
            | What::Hang
            | What::DeviceLoss
            | What::DeviceLossRepeated
            | What::SlowsDown
            | What::MemoryGrows
            | What::StartFails
            | What::StartHangs
            | What::LoadFails
            | What::LoadHangs
            | What::LoadUnsupported
            | What::RunFails
            | What::RunHangs
            | What::RunSlow
            | What::WrongResult
            | What::ProbeFails
            | What::ProbeHangs
            | What::CommitFails
            | What::CommitSlow
            | What::StaleReport
            | What::ForeignReport
            | What::DuplicateReport
            | What::LateReport
            | What::ClientCancels
            | What::DeadlineShort => {}
        }
        Ok(())
    }

    /// The daemon dies, and with it every browser, every connection and whatever was not recorded.
    fn kill_daemon(&mut self) {
        self.core = None;
        self.wake = None;
        self.pool = Pool::default();
        self.clients.lose_daemon();
        let first_is_written = self.random.chance(50.0);
        self.store.crash(first_is_written, self.now);
        self.agenda.retain(Occurrence::outlives_daemon);
        let pause = self.random.ms(500, 5000);
        self.later(pause, Occurrence::Restart);
    }

    fn start_daemon(&mut self) {
        self.daemons += 1;
        let core = C::start(self.plan.config.clone(), self.store.restore());
        self.wake = core.poll_timeout();
        self.core = Some(core);
        self.pool.specs.clone_from(&self.plan.config.slots);
        self.pool.models.clone_from(&self.plan.models);
        let models: Vec<_> =
            self.plan.models.iter().map(|(&model, &batching)| (model, batching)).collect();
        let slowest = self.plan.load.from.as_millis() as u64;
        for (model, batching) in models {
            let delay = self.random.ms(0, slowest);
            self.later(delay, Occurrence::Deliver(Event::ModelAdded { model, batching }));
        }
        self.inheritance = (self.store.open(), std::mem::take(&mut self.clients.orphans));
        // Models first: without them there is nothing to go on with.
        self.later(self.plan.load.from, Occurrence::TakeOver);
    }

    /// Whether there is a daemon to talk to.
    pub(super) fn is_up(&self) -> bool {
        self.core.is_some()
    }

    /// Sends an event to the core and plays every action that it orders.
    pub(super) fn send(&mut self, event: Event) -> Result<(), Violation> {
        let Some(mut core) = self.core.take() else { return Ok(()) };
        self.judge.step += 1;
        self.trace.event(self.now, &event);
        self.note(&event)?;
        core.handle(self.now, event);
        while let Some(action) = core.poll_action() {
            self.actions += 1;
            self.trace.action(self.now, &action);
            self.play(action)?;
        }
        self.wake = core.poll_timeout();
        let sizes = core.sizes();
        let status = self.judge.step.is_multiple_of(self.plan.sweep_every).then(|| core.status());
        self.core = Some(core);
        self.check(sizes, status)
    }

    /// Notes what follows for the world from an event that the core is about to take.
    fn note(&mut self, event: &Event) -> Result<(), Violation> {
        match event {
            Event::Together(events) => {
                for event in events {
                    self.note(event)?;
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

    fn play(&mut self, action: Action) -> Result<(), Violation> {
        let drained = self.phase == Phase::Drained;
        self.judge.holds(Invariant::Drained, !drained, || format!("{action:?} after drained"))?;
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
                self.judge.holds(Invariant::Drained, draining, || {
                    "drained without being asked to".to_owned()
                })?;
                self.phase = Phase::Drained;
                Ok(())
            }
        }
    }

    /// What holds after every step.
    fn check(&mut self, sizes: Sizes, status: Option<Status>) -> Result<(), Violation> {
        self.check_runs()?;
        self.check_requests()?;
        self.check_leases()?;
        self.check_slots()?;
        let (wake, now) = (self.wake, self.now);
        self.judge.holds(Invariant::Progress, wake.is_none_or(|wake| wake > now), || {
            format!("the core wants to be woken at {wake:?}, and it is {now:?}")
        })?;
        self.check_sizes(sizes)?;
        match status {
            Some(status) => self.sweep(&status),
            None => Ok(()),
        }
    }

    /// What the core holds is bounded by what there is to hold.
    fn check_sizes(&mut self, sizes: Sizes) -> Result<(), Violation> {
        let open = self.clients.open() as usize;
        self.judge.holds(Invariant::Counts, sizes.requests == open, || {
            format!("the core has {} open requests, the world {open}", sizes.requests)
        })?;
        let config = &self.plan.config;
        let models = self.pool.models.len() + self.pool.removed_models.len();
        let slots = self.pool.specs.len();
        let runs_max = slots * config.runs_in_flight_max as usize;
        // Each may have one whose place was taken and that ends its runs.
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
        self.judge.holds(Invariant::Memory, within, || {
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
        self.judge.holds(Invariant::Counts, sum == open, || {
            format!("the core counts {counts:?} that wait, run and are recorded, the world {open}")
        })?;
        let agenda = self.agenda.len();
        let limit = AGENDA_BASE + status.slots.len() * AGENDA_PER_BROWSER_MAX + open as usize;
        self.judge.holds(Invariant::Memory, agenda <= limit, || {
            format!("{agenda} things are planned, the limit is {limit}")
        })?;
        self.check_changes(status)?;
        self.check_pool_memory(open)
    }

    /// What holds when all is over.
    fn check_end(&mut self) -> Result<(), Violation> {
        let open = self.clients.open();
        self.judge.holds(Invariant::OneAnswer, open == 0, || {
            format!("{open} requests were never answered")
        })?;
        let alive = self.pool.living();
        self.judge.holds(Invariant::Drained, alive == 0, || {
            format!("{alive} browsers outlived the drain")
        })?;
        // Whatever still arrives changes nothing and gives no more orders.
        let Some(mut core) = self.core.take() else { return Ok(()) };
        while let Some((at, occurrence)) = self.agenda.pop() {
            let (Occurrence::Deliver(event) | Occurrence::Page { event, .. }) = occurrence else {
                continue;
            };
            let refused = matches!(event, Event::Request { .. });
            core.handle(at, event);
            let action = core.poll_action();
            self.judge.holds(Invariant::Drained, refused || action.is_none(), || {
                format!("{action:?} after drained")
            })?;
        }
        Ok(())
    }
}
