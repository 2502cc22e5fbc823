//! A world in virtual time that plays daemon, browsers and clients, and checks the core's invariants after every step.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use flotilla_fleet::{
    Action, Batching, Config, Event, Failure, FailureKind, Fleet, Instant, ModelId, Persistence,
    Policy, RequestError, SlotId,
};
use flotilla_protocol::{Backend, BrowserId, Epoch, PlacementId, RequestId, RunId};

/// Steps after which a world that has not drained is stuck.
const STEPS_MAX: u32 = 200_000;
/// Words of a failure that was reported in an epoch that is over.
const STALE: &str = "stale";

/// The splitmix64 generator (Steele, Lea and Flood 2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `low..=high`.
    pub(crate) fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    pub(crate) fn ms(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.range(low, high))
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.range(0, of.len() as u64 - 1) as usize]
    }
}

/// How often what goes wrong, in percent of the occasions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) start_fails: u64,
    pub(crate) start_hangs: u64,
    pub(crate) goes_silent: u64,
    pub(crate) crashes: u64,
    pub(crate) load_fails: u64,
    pub(crate) load_hangs: u64,
    pub(crate) load_unsupported: u64,
    pub(crate) run_fails: u64,
    pub(crate) run_hangs: u64,
    pub(crate) run_slow: u64,
    pub(crate) device_lost: u64,
    pub(crate) stale_reports: u64,
    pub(crate) clients_cancel: u64,
    pub(crate) deadlines_short: u64,
}

pub(crate) struct Plan {
    pub(crate) config: Config,
    pub(crate) models: BTreeMap<ModelId, Batching>,
    pub(crate) faults: Faults,
    pub(crate) requests: u64,
    /// Requests arrive within this time.
    pub(crate) span: Duration,
    /// Faults end here.
    pub(crate) healed_at: Instant,
    /// A second drain follows the first after this.
    pub(crate) second_drain: Option<Duration>,
}

enum Life {
    Starting,
    /// It beats until the time, if any.
    Up {
        silent: bool,
    },
    Dead,
}

type Placed = (Epoch, ModelId, Backend, Stage);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Loading,
    Ready,
    Gone,
}

struct Browser {
    slot: SlotId,
    life: Life,
    /// Of each placement, its present life, and whether it is ready.
    placements: BTreeMap<PlacementId, Placed>,
    busy_until: Instant,
    hung: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum RunState {
    InFlight,
    Done,
    Over,
}

struct Run {
    browser: BrowserId,
    placement: PlacementId,
    epoch: Epoch,
    requests: Vec<RequestId>,
    state: RunState,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Waits,
    Answered { attempts: usize },
    Failed(RequestError),
    Cancelled,
}

struct Request {
    model: ModelId,
    rows: u32,
    length: u32,
    asked_at: Instant,
    deadline: Instant,
    dispatched: bool,
    recorded: bool,
    outcome: Outcome,
}

/// What happens next in the world.
#[derive(Clone)]
enum Happening {
    /// Reaches the core whatever has become of its browser: a message that is on its way.
    Tell(Event),
    /// Reaches the core if the browser lives.
    From(BrowserId, Event),
    Beat(BrowserId),
    Crash(BrowserId),
    Ask,
}

pub(crate) struct World {
    plan: Plan,
    random: Random,
    pub(crate) fleet: Fleet,
    now: Instant,
    agenda: BTreeMap<(Instant, u64), Happening>,
    planned: u64,
    browsers: BTreeMap<BrowserId, Browser>,
    slots: BTreeMap<SlotId, BrowserId>,
    placements: BTreeSet<PlacementId>,
    runs: BTreeMap<RunId, Run>,
    requests: BTreeMap<RequestId, Request>,
    /// Of browsers and runs.
    highest: (u64, u64),
    abandoned: BTreeSet<RunId>,
    draining: bool,
    drained: bool,
    /// How often each fault was played.
    pub(crate) fired: BTreeMap<&'static str, u64>,
    pub(crate) trace: Vec<String>,
}

impl World {
    pub(crate) fn new(seed: u64, plan: Plan) -> World {
        let fleet = Fleet::new(plan.config.clone());
        let mut world = World {
            random: Random::new(seed),
            fleet,
            now: Instant::default(),
            agenda: BTreeMap::new(),
            planned: 0,
            browsers: BTreeMap::new(),
            slots: BTreeMap::new(),
            runs: BTreeMap::new(),
            requests: BTreeMap::new(),
            highest: (0, 0),
            placements: BTreeSet::new(),
            abandoned: BTreeSet::new(),
            draining: false,
            drained: false,
            fired: BTreeMap::new(),
            trace: Vec::new(),
            plan,
        };
        let models: Vec<_> =
            world.plan.models.iter().map(|(&model, &batching)| (model, batching)).collect();
        for (model, batching) in models {
            let delay = world.random.ms(0, 2000);
            world.later(delay, Happening::Tell(Event::ModelAdded { model, batching }));
        }
        let span = world.plan.span.as_millis() as u64;
        for _ in 0..world.plan.requests {
            let delay = world.random.ms(2000, 2000 + span);
            world.later(delay, Happening::Ask);
        }
        let end = world.random.ms(2000 + span / 2, 2000 + span * 3 / 2);
        world.later(end, Happening::Tell(Event::Drain));
        if let Some(pause) = world.plan.second_drain {
            world.later(end + pause, Happening::Tell(Event::Drain));
        }
        world
    }

    /// Lives until drained; gives every request's time and outcome.
    pub(crate) fn live(&mut self) -> Vec<(Instant, Outcome)> {
        for _ in 0..STEPS_MAX {
            if self.drained {
                break;
            }
            let next = self.agenda.first_key_value().map(|(&(at, _), _)| at);
            let wake = self.fleet.poll_timeout();
            match (next, wake) {
                (None, None) => panic!("nothing will ever happen, and the fleet is not drained"),
                (Some(next), Some(wake)) if wake <= next => self.tell(wake, Event::Wake),
                (None, Some(wake)) => self.tell(wake, Event::Wake),
                (Some(_), _) => {
                    let ((at, _), happening) = self.agenda.pop_first().expect("is there");
                    self.now = at;
                    self.happen(happening);
                }
            }
        }
        assert!(self.drained, "not drained after {STEPS_MAX} steps");
        for (id, request) in &self.requests {
            assert_ne!(request.outcome, Outcome::Waits, "request {id} was never answered");
        }
        assert!(
            self.browsers.values().all(|browser| matches!(browser.life, Life::Dead)),
            "a browser outlived the drain"
        );
        // Whatever still arrives changes nothing and gives no more orders, but refusals.
        for ((at, _), happening) in std::mem::take(&mut self.agenda) {
            if let Happening::Tell(event) | Happening::From(_, event) = happening {
                let refused = matches!(event, Event::Request { .. });
                self.fleet.handle(at, event);
                let action = self.fleet.poll_action();
                assert!(refused || action.is_none(), "{action:?} after drained");
            }
        }
        self.requests.values().map(|request| (request.asked_at, request.outcome.clone())).collect()
    }

    fn later(&mut self, delay: Duration, happening: Happening) {
        self.planned += 1;
        self.agenda.insert((self.now.after(delay), self.planned), happening);
    }

    /// Whether a fault happens now.
    fn fault(&mut self, name: &'static str, percent: u64) -> bool {
        let fires = self.now < self.plan.healed_at && self.random.chance(percent);
        if fires {
            *self.fired.entry(name).or_default() += 1;
        }
        fires
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Tell(event) => self.tell(self.now, event),
            Happening::From(browser, event) => {
                if !matches!(self.browsers[&browser].life, Life::Dead) {
                    self.tell(self.now, event);
                }
            }
            Happening::Beat(id) => {
                let beat = self.plan.config.heartbeat_timeout / 4;
                let silent = self.fault("goes_silent", self.plan.faults.goes_silent);
                let browser = self.browsers.get_mut(&id).expect("was launched");
                if let Life::Up { silent: false } = browser.life {
                    browser.life = Life::Up { silent };
                    self.later(beat, Happening::Beat(id));
                    if !silent {
                        self.tell(self.now, Event::Heartbeat { browser: id });
                    }
                }
            }
            Happening::Crash(id) => {
                if !matches!(self.browsers[&id].life, Life::Dead) {
                    let kind = self.random.one_of(&[
                        FailureKind::ConnectionLost,
                        FailureKind::PageCrashed,
                        FailureKind::BrowserExited,
                        FailureKind::MemoryLimitExceeded,
                    ]);
                    self.tell(
                        self.now,
                        Event::BrowserDown { browser: id, failure: Failure::new(kind, "played") },
                    );
                }
            }
            Happening::Ask => self.ask(),
        }
    }

    fn ask(&mut self) {
        let id = RequestId(self.requests.len() as u64 + 1);
        let models: Vec<ModelId> = self.plan.models.keys().copied().collect();
        let model = self.random.one_of(&models);
        let short = self.fault("deadlines_short", self.plan.faults.deadlines_short);
        let deadline = self.now.after(if short {
            self.random.ms(1, 300)
        } else {
            self.random.ms(60_000, 120_000)
        });
        let (rows, length) = (self.random.range(1, 3) as u32, self.random.range(1, 200) as u32);
        let persistence =
            if self.random.chance(20) { Persistence::Record } else { Persistence::None };
        let request = Request {
            model,
            rows,
            length,
            asked_at: self.now,
            deadline,
            dispatched: false,
            recorded: persistence == Persistence::Record,
            outcome: Outcome::Waits,
        };
        self.requests.insert(id, request);
        if persistence == Persistence::None
            && self.fault("clients_cancel", self.plan.faults.clients_cancel)
        {
            let delay = self.random.ms(0, 500);
            self.later(delay, Happening::Tell(Event::Cancel { request: id }));
        }
        self.tell(
            self.now,
            Event::Request {
                request: id,
                model,
                rows,
                length,
                deadline,
                policy: Policy { persistence, ..Policy::default() },
            },
        );
    }

    /// Tells the core and plays everything that it orders.
    fn tell(&mut self, at: Instant, event: Event) {
        self.now = at;
        self.trace.push(format!("{:>9.3} <- {event:?}", at.0.as_secs_f64()));
        match &event {
            Event::Cancel { request } => {
                let outcome = &mut self.requests.get_mut(request).expect("asked").outcome;
                if *outcome == Outcome::Waits {
                    *outcome = Outcome::Cancelled;
                }
            }
            Event::Drain => self.draining = true,
            Event::PlacementReady { placement, epoch } => {
                self.loaded(*placement, *epoch, Stage::Ready)
            }
            Event::PlacementFailed { placement, epoch, .. } => {
                self.loaded(*placement, *epoch, Stage::Gone)
            }
            Event::DeviceLost { browser, .. } => self.lose_device(*browser),
            Event::RunDone { run, epoch } => {
                let run = self.runs.get_mut(run).expect("was dispatched");
                if run.epoch == *epoch && run.state == RunState::InFlight {
                    run.state = RunState::Done;
                }
            }
            Event::RunFailed { run, epoch, failure } => self.run_over(*run, *epoch, failure.kind),
            _ => {}
        }
        self.fleet.handle(at, event);
        while let Some(action) = self.fleet.poll_action() {
            self.trace.push(format!("{:>9.3} -> {action:?}", at.0.as_secs_f64()));
            self.play(action);
        }
        self.check();
    }

    fn run_over(&mut self, id: RunId, epoch: Epoch, kind: FailureKind) {
        let run = self.runs.get_mut(&id).expect("was dispatched");
        if run.epoch != epoch || run.state != RunState::InFlight {
            return;
        }
        run.state = RunState::Over;
        let (browser, placement) = (run.browser, run.placement);
        match kind {
            FailureKind::DeviceLost => self.lose_device(browser),
            FailureKind::WrongResult => self.lose_placement(browser, placement),
            _ => {}
        }
    }

    fn lose_device(&mut self, id: BrowserId) {
        let on_device = |&(_, &(_, _, backend, stage)): &(&PlacementId, &Placed)| {
            stage == Stage::Ready && backend == Backend::WebGpu
        };
        let lost: Vec<PlacementId> =
            self.browsers[&id].placements.iter().filter(on_device).map(|(&id, _)| id).collect();
        for placement in lost {
            self.lose_placement(id, placement);
        }
    }

    /// Nothing may be sent to the placement until it is loaded anew, and its runs are no more.
    fn lose_placement(&mut self, browser: BrowserId, placement: PlacementId) {
        let browser = self.browsers.get_mut(&browser).expect("was launched");
        if let Some((.., stage)) = browser.placements.get_mut(&placement) {
            *stage = Stage::Gone;
        }
        for run in self
            .runs
            .values_mut()
            .filter(|run| run.placement == placement && run.state == RunState::InFlight)
        {
            run.state = RunState::Over;
        }
    }

    fn loaded(&mut self, placement: PlacementId, epoch: Epoch, how: Stage) {
        for browser in self.browsers.values_mut() {
            if let Some((present, _, _, stage)) = browser.placements.get_mut(&placement)
                && *present == epoch
                && *stage == Stage::Loading
            {
                *stage = how;
            }
        }
    }

    fn play(&mut self, action: Action) {
        assert!(!self.drained, "{action:?} after drained");
        match action {
            Action::Launch { browser, slot } => self.launch(browser, slot),
            Action::Kill { browser, .. } => {
                let dead = self.browsers.get_mut(&browser).expect("was launched");
                assert!(!matches!(dead.life, Life::Dead), "{browser} is killed twice");
                dead.life = Life::Dead;
                let slot = dead.slot;
                for run in self
                    .runs
                    .values_mut()
                    .filter(|run| run.browser == browser && run.state == RunState::InFlight)
                {
                    run.state = RunState::Over;
                }
                assert_eq!(self.slots.remove(&slot), Some(browser));
            }
            Action::Place { browser, placement, epoch, model, backend } => {
                self.place(browser, placement, epoch, model, backend);
            }
            Action::Dispatch { browser, placement, epoch, run, requests } => {
                self.dispatch(browser, placement, epoch, run, requests);
            }
            Action::Abandon { run } => {
                assert!(self.abandoned.insert(run), "{run} is abandoned again")
            }
            Action::Answer { request: id, run, tried } => {
                let run = &self.runs[&run];
                assert_eq!(
                    run.state,
                    RunState::Done,
                    "{id} is answered from a run that has no results"
                );
                assert!(
                    run.requests.contains(&id),
                    "{id} is answered from a run that it was not in"
                );
                let request = self.requests.get_mut(&id).expect("asked");
                assert_eq!(request.outcome, Outcome::Waits, "{id} is answered again");
                assert!(
                    tried.iter().all(|attempt| attempt.rung.is_some()),
                    "an attempt without a next one"
                );
                assert!(
                    tried.iter().all(|attempt| attempt.failure.detail != STALE),
                    "{id} was retried for nothing"
                );
                request.outcome = Outcome::Answered { attempts: tried.len() };
            }
            Action::Fail { request: id, error } => {
                let request = self.requests.get_mut(&id).expect("asked");
                assert_eq!(request.outcome, Outcome::Waits, "{id} is failed again");
                if let RequestError::Failed { tried } = &error {
                    assert!(
                        tried.iter().all(|attempt| attempt.failure.detail != STALE),
                        "{id} failed of a stale report"
                    );
                    let most = self.plan.config.ladder.attempts_max() as usize;
                    assert!((1..=most).contains(&tried.len()), "{} attempts of {id}", tried.len());
                }
                request.outcome = Outcome::Failed(error);
            }
            Action::Reset { browser, .. } => {
                let entry = self.browsers.get_mut(&browser).expect("was launched");
                entry.placements.clear();
                entry.hung = false;
                entry.busy_until = self.now;
                for run in self.runs.values_mut().filter(|run| run.browser == browser) {
                    if run.state == RunState::InFlight {
                        run.state = RunState::Over;
                    }
                }
                let delay = self.random.ms(100, 1000);
                if !self.fault("reset_hangs", self.plan.faults.start_hangs) {
                    let backends = vec![Backend::Cpu, Backend::WebGpu];
                    let up = Event::BrowserUp { browser, backends, refused: Vec::new() };
                    self.later(delay, Happening::From(browser, up));
                }
            }
            Action::Probe { browser, probe, .. } => {
                let delay = self.random.ms(1, 100);
                let hung = self.browsers[&browser].hung;
                if self.fault("probe_fails", self.plan.faults.run_fails) {
                    let kind =
                        self.random.one_of(&[FailureKind::WrongResult, FailureKind::DeviceLost]);
                    let failure = Failure::new(kind, "played");
                    let event = Event::ProbeFailed { browser, probe, failure };
                    self.later(delay, Happening::From(browser, event));
                } else if !hung {
                    self.later(
                        delay,
                        Happening::From(browser, Event::ProbeDone { browser, probe }),
                    );
                }
            }
            Action::Unload { browser, placement } => {
                self.browsers
                    .get_mut(&browser)
                    .expect("was launched")
                    .placements
                    .remove(&placement);
            }
            Action::Commit(transaction) => {
                let delay = self.random.ms(0, 20);
                let transaction = transaction.id;
                let event = if self.fault("commit_fails", self.plan.faults.run_fails) {
                    Event::CommitFailed { transaction, reason: "played".to_owned() }
                } else {
                    Event::Committed { transaction }
                };
                self.later(delay, Happening::Tell(event));
            }
            Action::Acquired { .. } | Action::Revoked { .. } | Action::Migrated { .. } => {
                panic!("{action:?}, which nobody asked for")
            }
            Action::Recovered(_) => {}
            Action::Drained => {
                assert!(self.draining, "drained without being asked to");
                self.drained = true;
            }
        }
    }

    fn launch(&mut self, id: BrowserId, slot: SlotId) {
        assert!(id.0 > self.highest.0, "browser id {id} again");
        self.highest.0 = id.0;
        assert!(self.slots.insert(slot, id).is_none(), "two browsers in a slot");
        let browser = Browser {
            slot,
            life: Life::Starting,
            placements: BTreeMap::new(),
            busy_until: self.now,
            hung: false,
        };
        self.browsers.insert(id, browser);
        let delay = self.random.ms(200, 2000);
        if self.fault("start_fails", self.plan.faults.start_fails) {
            let failure = Failure::new(FailureKind::DriverUnresponsive, "played");
            self.later(delay, Happening::From(id, Event::BrowserDown { browser: id, failure }));
        } else if !self.fault("start_hangs", self.plan.faults.start_hangs) {
            let offered = match self.random.chance(50) {
                true => vec![Backend::Cpu, Backend::WebGpu],
                false => vec![Backend::Cpu],
            };
            self.later(
                delay,
                Happening::From(
                    id,
                    Event::BrowserUp { browser: id, backends: offered, refused: Vec::new() },
                ),
            );
            self.browsers.get_mut(&id).expect("is there").life = Life::Up { silent: false };
            self.later(delay, Happening::Beat(id));
            if self.fault("crashes", self.plan.faults.crashes) {
                let after = delay + self.random.ms(0, 20_000);
                self.later(after, Happening::Crash(id));
            }
            if self.fault("device_lost", self.plan.faults.device_lost) {
                let after = delay + self.random.ms(0, 20_000);
                let event = Event::DeviceLost { browser: id, reason: "played".to_owned() };
                self.later(after, Happening::Tell(event));
            }
        }
    }

    fn place(
        &mut self,
        id: BrowserId,
        placement: PlacementId,
        epoch: Epoch,
        model: ModelId,
        backend: Backend,
    ) {
        let browser = self.browsers.get_mut(&id).expect("was launched");
        assert!(
            matches!(browser.life, Life::Up { .. }),
            "a load is ordered of {id}, which is not up"
        );
        let loading = browser.placements.values().any(|&(.., stage)| stage == Stage::Loading);
        assert!(!loading, "{id} is to load two models at once");
        match browser.placements.insert(placement, (epoch, model, backend, Stage::Loading)) {
            Some((last, ..)) => {
                assert!(epoch > last, "{placement} is loaded again in {epoch} after {last}")
            }
            None => assert!(self.placements.insert(placement), "placement id {placement} again"),
        }
        let reports = |stage| {
            let failed = |kind| Event::PlacementFailed {
                placement,
                epoch,
                failure: Failure::new(kind, "played"),
            };
            match stage {
                0 => Event::PlacementReady { placement, epoch },
                1 => failed(FailureKind::UnsupportedOperation),
                2 => failed(FailureKind::OutOfMemory),
                _ => Event::PlacementProgress { placement, epoch },
            }
        };
        let delay = self.random.ms(50, 1000);
        self.later(delay, Happening::From(id, reports(3)));
        if self.fault("load_unsupported", self.plan.faults.load_unsupported) {
            self.later(delay * 2, Happening::From(id, reports(1)));
        } else if self.fault("load_fails", self.plan.faults.load_fails) {
            self.later(delay * 2, Happening::From(id, reports(2)));
            if self.fault("stale_reports", self.plan.faults.stale_reports) {
                // Of the epoch that has just failed, while the next one loads.
                self.later(delay * 2 + Duration::from_millis(1), Happening::From(id, reports(0)));
            }
        } else if !self.fault("load_hangs", self.plan.faults.load_hangs) {
            self.later(delay * 2, Happening::From(id, reports(0)));
        }
    }

    fn dispatch(
        &mut self,
        id: BrowserId,
        placement: PlacementId,
        epoch: Epoch,
        run: RunId,
        requests: Vec<RequestId>,
    ) {
        assert!(run.0 > self.highest.1, "run id {run} again");
        self.highest.1 = run.0;
        let model = self.check_batch(&requests);
        let browser = &self.browsers[&id];
        assert!(matches!(browser.life, Life::Up { .. }), "{run} is sent to {id}, which is not up");
        let (present, of, _, stage) = browser.placements[&placement];
        assert_eq!((present, of), (epoch, model), "{run} is sent to {placement} as it is not");
        assert_eq!(stage, Stage::Ready, "{run} is sent to {placement}, which is not ready");
        self.runs.insert(
            run,
            Run { browser: id, placement, epoch, requests, state: RunState::InFlight },
        );
        let depth = self
            .runs
            .values()
            .filter(|run| run.browser == id && run.state == RunState::InFlight)
            .count();
        assert!(depth <= self.plan.config.runs_in_flight_max as usize, "{depth} runs on {id}");
        self.execute(id, run, epoch);
    }

    /// Plays the page: runs one after the other, or fails, hangs, or says what is no longer asked.
    fn execute(&mut self, id: BrowserId, run: RunId, epoch: Epoch) {
        let faults = self.plan.faults;
        let slow = self.fault("run_slow", faults.run_slow);
        let took = if slow { self.random.ms(1000, 20_000) } else { self.random.ms(5, 100) };
        let hangs = self.fault("run_hangs", faults.run_hangs);
        let now = self.now;
        let browser = self.browsers.get_mut(&id).expect("was launched");
        browser.hung |= hangs;
        if browser.hung {
            return;
        }
        browser.busy_until = Instant(browser.busy_until.0.max(now.0) + took);
        let delay = browser.busy_until.since(now);
        if self.fault("run_fails", faults.run_fails) {
            let kind = self.random.one_of(&[
                FailureKind::DeviceLost,
                FailureKind::OutOfMemory,
                FailureKind::UnsupportedOperation,
                FailureKind::WrongResult,
                FailureKind::PageCrashed,
                FailureKind::Overloaded,
            ]);
            let event = Event::RunFailed { run, epoch, failure: Failure::new(kind, "played") };
            self.later(delay, Happening::Tell(event));
            return;
        }
        self.later(delay, Happening::Tell(Event::RunDone { run, epoch }));
        if self.fault("stale_reports", faults.stale_reports) {
            let other = Epoch(epoch.0.wrapping_add(self.random.one_of(&[1, u64::MAX])));
            self.later(delay / 3, Happening::Tell(Event::RunDone { run, epoch: other }));
            let failure = Failure::new(FailureKind::PageCrashed, STALE);
            self.later(
                delay / 3 * 2,
                Happening::Tell(Event::RunFailed { run, epoch: other, failure }),
            );
            // And the true one twice.
            self.later(delay * 2, Happening::Tell(Event::RunDone { run, epoch }));
        }
    }

    fn check_batch(&mut self, ids: &[RequestId]) -> ModelId {
        assert!(!ids.is_empty(), "an empty run");
        let model = self.requests[&ids[0]].model;
        let (mut rows, mut length) = (0, 0);
        for id in ids {
            let request = self.requests.get_mut(id).expect("asked");
            assert_eq!(request.outcome, Outcome::Waits, "{id} runs though it has ended");
            assert_eq!(request.model, model, "two models in a run");
            request.dispatched = true;
            rows += request.rows;
            length = length.max(request.length);
        }
        let Batching { rows_max, tokens_max } = self.plan.models[&model];
        let fits = rows <= rows_max && rows * length <= tokens_max;
        assert!(fits || ids.len() == 1, "{rows} rows of {length} in a run");
        model
    }

    /// What holds after every step.
    fn check(&mut self) {
        for (id, run) in self.runs.iter().filter(|(_, run)| run.state == RunState::InFlight) {
            let waits = run.requests.iter().any(|id| self.requests[id].outcome == Outcome::Waits);
            assert!(waits || self.abandoned.contains(id), "nobody waits for {id}");
        }
        let waiting = self.requests.iter().filter(|(_, request)| request.outcome == Outcome::Waits);
        let mut counts = (0, 0);
        for (id, request) in waiting {
            // An end that is being recorded is told when that is done.
            let grace = Duration::from_millis(if request.recorded { 100 } else { 0 });
            assert!(request.deadline.after(grace) > self.now, "{id} outlived its deadline");
            counts.0 += 1;
            counts.1 += u32::from(!request.dispatched);
        }
        let status = self.fleet.status();
        assert_eq!(
            status.queued + status.running + status.recording,
            counts.0,
            "requests that have not ended"
        );
        assert!(
            counts.1.saturating_sub(status.recording) <= self.plan.config.queue_max,
            "{} requests wait for their first run",
            counts.1
        );
        if let Some(wake) = self.fleet.poll_timeout() {
            assert!(wake > self.now, "the core wants to be woken at {wake:?}, which is now");
        }
    }
}
