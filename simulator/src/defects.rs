//! Cores that are broken on purpose by one defect each: of the configuration, the events, the actions or the sizes. With
//! [`crate::broken`] there is one for each invariant: an invariant that none of them breaks proves nothing.

use std::collections::{BTreeMap, VecDeque};

use flotilla_fleet::{
    Action, Attempt, Config, Event, Failure, FailureKind, Fleet, Instant, RecoveryStep, Sizes,
    Status,
    state::{Records, Version},
};
use flotilla_protocol::{BrowserId, Epoch, PlacementId, RunId};

use crate::core::Core;

/// A defect of a core. The default of each method changes nothing.
pub trait Defect: Default {
    /// The configuration that the fleet gets.
    fn config(&self, config: Config) -> Config {
        config
    }

    /// Replaces an event; `None` drops it.
    fn event(&mut self, event: Event) -> Option<Event> {
        Some(event)
    }

    /// Replaces an action.
    fn action(&mut self, action: Action) -> Vec<Action> {
        vec![action]
    }

    /// Replaces the reported sizes.
    fn sizes(&self, sizes: Sizes) -> Sizes {
        sizes
    }

    /// Replaces the next timeout.
    fn timeout(&self, timeout: Option<Instant>, now: Instant) -> Option<Instant> {
        let _ = now;
        timeout
    }
}

/// The fleet with a defect.
#[derive(Debug)]
pub struct Defective<D> {
    fleet: Fleet,
    defect: D,
    orders: VecDeque<Action>,
    now: Instant,
}

impl<D: Defect> Defective<D> {
    fn filtered(&mut self, event: Event) -> Option<Event> {
        let Event::Together(events) = event else { return self.defect.event(event) };
        let events = events.into_iter().filter_map(|event| self.filtered(event));
        Some(Event::Together(events.collect()))
    }
}

impl<D: Defect> Core for Defective<D> {
    fn start(config: Config, records: Records) -> Defective<D> {
        let defect = D::default();
        let fleet = Core::start(defect.config(config), records);
        Defective { fleet, defect, orders: VecDeque::new(), now: Instant::default() }
    }

    fn handle(&mut self, now: Instant, event: Event) {
        self.now = now;
        // Time passes for an event that is filtered out too.
        let event = self.filtered(event).unwrap_or(Event::Wake);
        self.fleet.handle(now, event);
    }

    fn poll_action(&mut self) -> Option<Action> {
        while self.orders.is_empty() {
            let action = self.fleet.poll_action()?;
            self.orders.extend(self.defect.action(action));
        }
        self.orders.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.defect.timeout(self.fleet.poll_timeout(), self.now)
    }

    fn status(&self) -> Status {
        self.fleet.status()
    }

    fn sizes(&self) -> Sizes {
        self.defect.sizes(self.fleet.sizes())
    }
}

/// Defects that have no state.
macro_rules! defects {
    ($($(#[doc = $doc:literal])* $name:ident { $($method:item)* })*) => {
        $($(#[doc = $doc])* #[derive(Clone, Copy, Debug, Default)]
        pub struct $name;

        impl Defect for $name {
            $($method)*
        })*
    };
}

const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

defects! {
    /// Every answer is given twice.
    DuplicateAnswers {
        fn action(&mut self, action: Action) -> Vec<Action> {
            match action {
                answer @ Action::Answer { .. } => vec![answer.clone(), answer],
                other => vec![other],
            }
        }
    }
    /// Runs are sent to placements that do not exist.
    WrongPlacement {
        fn action(&mut self, action: Action) -> Vec<Action> {
            vec![match action {
                Action::Dispatch { browser, placement, epoch, run, requests } => {
                    let placement = PlacementId(placement.0 + 1_000_000);
                    Action::Dispatch { browser, placement, epoch, run, requests }
                }
                other => other,
            }]
        }
    }
    /// Every browser gets the same id.
    SameBrowserId {
        fn action(&mut self, action: Action) -> Vec<Action> {
            vec![match action {
                Action::Launch { slot, .. } => Action::Launch { browser: BrowserId(1), slot },
                other => other,
            }]
        }
    }
    /// The number of runs in flight on a browser is not limited.
    NoRunLimit {
        fn config(&self, config: Config) -> Config {
            Config { runs_in_flight_max: 1000, ..config }
        }
    }
    /// The recovery step after a request's last failed attempt is missing.
    MissingRecoveryStep {
        fn action(&mut self, action: Action) -> Vec<Action> {
            vec![match action {
                Action::Answer { request, run, mut tried } => {
                    if let Some(last) = tried.last_mut() {
                        last.step = None;
                    }
                    Action::Answer { request, run, tried }
                }
                other => other,
            }]
        }
    }
    /// Runs for which no request waits are not abandoned.
    NeverAbandons {
        fn action(&mut self, action: Action) -> Vec<Action> {
            match action {
                Action::Abandon { .. } => Vec::new(),
                other => vec![other],
            }
        }
    }
    /// Deadlines are an hour too late.
    LateDeadlines {
        fn event(&mut self, event: Event) -> Option<Event> {
            Some(match event {
                Event::Request { request, model, rows, length, deadline, policy } => {
                    let deadline = deadline.after(HOUR);
                    Event::Request { request, model, rows, length, deadline, policy }
                }
                other => other,
            })
        }
    }
    /// Requests wait an hour for others to fill a batch.
    LongBatchDelay {
        fn config(&self, config: Config) -> Config {
            Config { batch_delay: HOUR, ..config }
        }
    }
    /// Every record is written with version 1.
    OldVersions {
        fn action(&mut self, action: Action) -> Vec<Action> {
            vec![match action {
                Action::Commit(mut transaction) => {
                    transaction.writes.iter_mut().for_each(|write| write.version = Version(1));
                    Action::Commit(transaction)
                }
                other => other,
            }]
        }
    }
    /// Requests of leases run on any browser.
    IgnoresLeases {
        fn event(&mut self, event: Event) -> Option<Event> {
            Some(match event {
                Event::Request { request, model, rows, length, deadline, mut policy } => {
                    policy.lease = None;
                    Event::Request { request, model, rows, length, deadline, policy }
                }
                other => other,
            })
        }
    }
    /// A client is not told that it has acquired a browser.
    UnreportedLeases {
        fn action(&mut self, action: Action) -> Vec<Action> {
            match action {
                Action::Acquired { .. } => Vec::new(),
                other => vec![other],
            }
        }
    }
    /// Simulated browsers answer requests that do not allow it.
    UnrequestedFallback {
        fn event(&mut self, event: Event) -> Option<Event> {
            Some(match event {
                Event::Request { request, model, rows, length, deadline, mut policy } => {
                    policy.fallback_to_simulation = true;
                    Event::Request { request, model, rows, length, deadline, policy }
                }
                other => other,
            })
        }
    }
    /// The end of every migration is reported twice.
    DuplicateMigrations {
        fn action(&mut self, action: Action) -> Vec<Action> {
            match action {
                migrated @ Action::Migrated { .. } => vec![migrated.clone(), migrated],
                other => vec![other],
            }
        }
    }
    /// Ignores reports of failed browsers.
    IgnoresFailures {
        fn event(&mut self, event: Event) -> Option<Event> {
            match event {
                Event::BrowserDown { .. } | Event::PageDown { .. } => None,
                other => Some(other),
            }
        }
    }
    /// Ignores the removal of models.
    ServesRemovedModels {
        fn event(&mut self, event: Event) -> Option<Event> {
            Some(event).filter(|event| !matches!(event, Event::ModelRemoved { .. }))
        }
    }
    /// Ignores the removal of slots.
    KeepsRemovedSlots {
        fn event(&mut self, event: Event) -> Option<Event> {
            Some(event).filter(|event| !matches!(event, Event::SlotRemoved { .. }))
        }
    }
    /// Launches no browser in slots that were added.
    IgnoresAddedSlots {
        fn event(&mut self, event: Event) -> Option<Event> {
            Some(event).filter(|event| !matches!(event, Event::SlotAdded { .. }))
        }
    }
    /// The reported number of requests is too large by one.
    WrongCount {
        fn sizes(&self, sizes: Sizes) -> Sizes {
            Sizes { requests: sizes.requests + 1, ..sizes }
        }
    }
    /// The reported number of records is too large by a million.
    MemoryLeak {
        fn sizes(&self, sizes: Sizes) -> Sizes {
            Sizes { records: sizes.records + 1_000_000, ..sizes }
        }
    }
    /// The next timeout is always now.
    BusyLoop {
        fn timeout(&self, timeout: Option<Instant>, now: Instant) -> Option<Instant> {
            timeout.map(|_| now)
        }
    }
    /// Every answer has one failed attempt more.
    AlwaysRetries {
        fn action(&mut self, action: Action) -> Vec<Action> {
            vec![match action {
                Action::Answer { request, run, mut tried } => {
                    let failure = Failure::new(FailureKind::PageCrashed, "a defect on purpose");
                    let step = Some(RecoveryStep::Retry);
                    tried.push(Attempt { browser: BrowserId(1), failure, step });
                    Action::Answer { request, run, tried }
                }
                other => other,
            }]
        }
    }
    /// The end of draining is reported twice.
    DuplicateDrained {
        fn action(&mut self, action: Action) -> Vec<Action> {
            match action {
                Action::Drained => vec![Action::Drained, Action::Drained],
                other => vec![other],
            }
        }
    }
    /// Panics when a request is cancelled.
    Panics {
        fn event(&mut self, event: Event) -> Option<Event> {
            assert!(!matches!(event, Event::Cancel { .. }), "a defect on purpose");
            Some(event)
        }
    }
}

/// Accepts failures of runs from any epoch.
#[derive(Clone, Debug, Default)]
pub struct AcceptsStaleFailures {
    runs: BTreeMap<RunId, Epoch>,
}

impl Defect for AcceptsStaleFailures {
    fn event(&mut self, event: Event) -> Option<Event> {
        Some(match event {
            Event::RunFailed { browser, run, epoch, failure } => {
                let epoch = self.runs.get(&run).copied().unwrap_or(epoch);
                Event::RunFailed { browser, run, epoch, failure }
            }
            other => other,
        })
    }

    fn action(&mut self, action: Action) -> Vec<Action> {
        if let Action::Dispatch { run, epoch, .. } = &action {
            self.runs.insert(*run, *epoch);
        }
        vec![action]
    }
}

/// Loads a placement again with the epoch of its first load.
#[derive(Clone, Debug, Default)]
pub struct ReusedEpoch {
    first: BTreeMap<PlacementId, Epoch>,
}

impl Defect for ReusedEpoch {
    fn action(&mut self, action: Action) -> Vec<Action> {
        vec![match action {
            Action::Place { browser, placement, epoch, model, backend } => {
                let epoch = *self.first.entry(placement).or_insert(epoch);
                Action::Place { browser, placement, epoch, model, backend }
            }
            other => other,
        }]
    }
}
