//! Cores that are broken on purpose by one distortion each: of the configuration, the events, the actions or the sizes. With
//! [`super::broken`] there is one for each invariant: an invariant that none of them breaks proves nothing.

use std::collections::{BTreeMap, VecDeque};

use flotilla_fleet::{
    Action, Attempt, Config, Event, Failure, FailureKind, Fleet, Instant, RecoveryStep, Sizes,
    Status,
    state::{Records, Version},
};
use flotilla_protocol::{BrowserId, Epoch, PlacementId, RunId};

use super::world::Core;

/// A defect. What it does not distort goes through as it is.
pub trait Distortion: Default {
    /// What the fleet is made with.
    fn config(&self, config: Config) -> Config {
        config
    }

    /// The event that the fleet takes in the place of another; `None` for none.
    fn event(&mut self, event: Event) -> Option<Event> {
        Some(event)
    }

    /// What is ordered in the place of an order.
    fn action(&mut self, action: Action) -> Vec<Action> {
        vec![action]
    }

    /// What the fleet holds by its own account.
    fn sizes(&self, sizes: Sizes) -> Sizes {
        sizes
    }

    /// When it wants to be woken.
    fn timeout(&self, timeout: Option<Instant>, now: Instant) -> Option<Instant> {
        let _ = now;
        timeout
    }
}

/// The fleet with a defect.
#[derive(Debug)]
pub struct Distorted<D> {
    fleet: Fleet,
    distortion: D,
    orders: VecDeque<Action>,
    now: Instant,
}

impl<D: Distortion> Distorted<D> {
    fn filtered(&mut self, event: Event) -> Option<Event> {
        let Event::Together(events) = event else { return self.distortion.event(event) };
        let events = events.into_iter().filter_map(|event| self.filtered(event));
        Some(Event::Together(events.collect()))
    }
}

impl<D: Distortion> Core for Distorted<D> {
    fn start(config: Config, records: Records) -> Distorted<D> {
        let distortion = D::default();
        let fleet = Core::start(distortion.config(config), records);
        Distorted { fleet, distortion, orders: VecDeque::new(), now: Instant::default() }
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
            self.orders.extend(self.distortion.action(action));
        }
        self.orders.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.distortion.timeout(self.fleet.poll_timeout(), self.now)
    }

    fn status(&self) -> Status {
        self.fleet.status()
    }

    fn sizes(&self) -> Sizes {
        self.distortion.sizes(self.fleet.sizes())
    }
}

/// Defects that have no state.
macro_rules! distortions {
    ($($(#[doc = $doc:literal])* $name:ident { $($method:item)* })*) => {
        $($(#[doc = $doc])* #[derive(Clone, Copy, Debug, Default)]
        pub struct $name;

        impl Distortion for $name {
            $($method)*
        })*
    };
}

const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

distortions! {
    /// Gives every answer twice.
    AnswersTwice {
        fn action(&mut self, action: Action) -> Vec<Action> {
            match action {
                answer @ Action::Answer { .. } => vec![answer.clone(), answer],
                other => vec![other],
            }
        }
    }
    /// Sends runs to placements that are not there.
    MissesItsTarget {
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
    /// Gives every browser the same name.
    OneName {
        fn action(&mut self, action: Action) -> Vec<Action> {
            vec![match action {
                Action::Launch { slot, .. } => Action::Launch { browser: BrowserId(1), slot },
                other => other,
            }]
        }
    }
    /// Sends a browser as many runs as there are.
    NoRunLimit {
        fn config(&self, config: Config) -> Config {
            Config { runs_in_flight_max: 1000, ..config }
        }
    }
    /// Does not say by which step a request came to its last attempt.
    UnnamedStep {
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
    /// Lets runs go on that nobody waits for.
    AbandonsNothing {
        fn action(&mut self, action: Action) -> Vec<Action> {
            match action {
                Action::Abandon { .. } => Vec::new(),
                other => vec![other],
            }
        }
    }
    /// Takes deadlines for an hour later.
    Late {
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
    /// Waits for company though browsers are idle.
    Hesitates {
        fn config(&self, config: Config) -> Config {
            Config { batch_delay: HOUR, ..config }
        }
    }
    /// Writes every record as its first version.
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
    /// Runs the requests of leases anywhere.
    SharesLeases {
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
    /// Never reports to a client that it has a browser.
    KeepsBrowsers {
        fn action(&mut self, action: Action) -> Vec<Action> {
            match action {
                Action::Acquired { .. } => Vec::new(),
                other => vec![other],
            }
        }
    }
    /// Lets a simulated browser answer whoever asks.
    SimulatesForAll {
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
    /// Ends every migration twice.
    MigratesTwice {
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
    /// Goes on with models that were removed.
    ServesRemovedModels {
        fn event(&mut self, event: Event) -> Option<Event> {
            Some(event).filter(|event| !matches!(event, Event::ModelRemoved { .. }))
        }
    }
    /// Goes on with slots that were removed.
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
    /// Counts one request too many.
    Miscounts {
        fn sizes(&self, sizes: Sizes) -> Sizes {
            Sizes { requests: sizes.requests + 1, ..sizes }
        }
    }
    /// Holds records that nobody needs.
    Hoards {
        fn sizes(&self, sizes: Sizes) -> Sizes {
            Sizes { records: sizes.records + 1_000_000, ..sizes }
        }
    }
    /// Wants to be woken at once, and again.
    Spins {
        fn timeout(&self, timeout: Option<Instant>, now: Instant) -> Option<Instant> {
            timeout.map(|_| now)
        }
    }
    /// Needs two attempts for every answer.
    NeedsTwo {
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
    /// Says twice that it has drained.
    DrainsTwice {
        fn action(&mut self, action: Action) -> Vec<Action> {
            match action {
                Action::Drained => vec![Action::Drained, Action::Drained],
                other => vec![other],
            }
        }
    }
    /// Does not bear a cancellation.
    Panics {
        fn event(&mut self, event: Event) -> Option<Event> {
            assert!(!matches!(event, Event::Cancel { .. }), "a defect on purpose");
            Some(event)
        }
    }
}

/// Takes the failure of a run in any epoch for one in its own.
#[derive(Clone, Debug, Default)]
pub struct BelievesStaleFailures {
    runs: BTreeMap<RunId, Epoch>,
}

impl Distortion for BelievesStaleFailures {
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

/// Loads a placement anew in the epoch of its first life.
#[derive(Clone, Debug, Default)]
pub struct StaysInItsEpoch {
    first: BTreeMap<PlacementId, Epoch>,
}

impl Distortion for StaysInItsEpoch {
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
