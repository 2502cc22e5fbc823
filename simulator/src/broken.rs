//! Cores that are broken on purpose, each in one way: a simulator that does not find them out proves nothing.
//!
//! Each wraps the real core and distorts its events or its actions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flotilla_fleet::{
    Action, Config, Event, Fleet, Instant, ModelId, Sizes, Status, state::Records,
};
use flotilla_protocol::{BrowserId, Epoch, Incarnation, PlacementId, RequestId, RunId};

use crate::core::Core;

/// What no wrapper distorts.
macro_rules! through_fleet {
    () => {
        fn poll_timeout(&self) -> Option<Instant> {
            self.fleet.poll_timeout()
        }

        fn status(&self) -> Status {
            self.fleet.status()
        }

        fn sizes(&self) -> Sizes {
            self.fleet.sizes()
        }
    };
}

/// Takes reports of any epoch for reports of the present one.
#[derive(Debug)]
pub struct NoEpochCheck {
    fleet: Fleet,
    placements: BTreeMap<PlacementId, Epoch>,
    runs: BTreeMap<RunId, Epoch>,
}

impl NoEpochCheck {
    fn in_present_epoch(&self, event: Event) -> Event {
        let of_placement =
            |placement, epoch| self.placements.get(placement).copied().unwrap_or(epoch);
        let of_run = |run, epoch| self.runs.get(run).copied().unwrap_or(epoch);
        match event {
            Event::PlacementReady { browser, placement, epoch } => {
                let epoch = of_placement(&placement, epoch);
                Event::PlacementReady { browser, placement, epoch }
            }
            Event::PlacementFailed { browser, placement, epoch, failure } => {
                let epoch = of_placement(&placement, epoch);
                Event::PlacementFailed { browser, placement, epoch, failure }
            }
            Event::RunDone { browser, run, epoch } => {
                Event::RunDone { browser, run, epoch: of_run(&run, epoch) }
            }
            Event::RunFailed { browser, run, epoch, failure } => {
                Event::RunFailed { browser, run, epoch: of_run(&run, epoch), failure }
            }
            other => other,
        }
    }
}

impl Core for NoEpochCheck {
    fn start(config: Config, records: Records) -> NoEpochCheck {
        NoEpochCheck {
            fleet: Core::start(config, records),
            placements: BTreeMap::new(),
            runs: BTreeMap::new(),
        }
    }

    fn handle(&mut self, now: Instant, event: Event) {
        let event = self.in_present_epoch(event);
        self.fleet.handle(now, event);
    }

    fn poll_action(&mut self) -> Option<Action> {
        let action = self.fleet.poll_action()?;
        if let Action::Place { placement, epoch, .. } = &action {
            self.placements.insert(*placement, *epoch);
        }
        if let Action::Dispatch { run, epoch, .. } = &action {
            self.runs.insert(*run, *epoch);
        }
        Some(action)
    }

    through_fleet!();
}

/// Takes whatever a page reports for what the page of the right browser reports.
#[derive(Debug)]
pub struct NoBrowserCheck {
    fleet: Fleet,
    placements: BTreeMap<PlacementId, BrowserId>,
    runs: BTreeMap<RunId, BrowserId>,
}

impl NoBrowserCheck {
    fn of_its_browser(&self, event: Event) -> Event {
        let of_placement =
            |placement, browser| self.placements.get(placement).copied().unwrap_or(browser);
        let of_run = |run, browser| self.runs.get(run).copied().unwrap_or(browser);
        match event {
            Event::PlacementReady { browser, placement, epoch } => {
                let browser = of_placement(&placement, browser);
                Event::PlacementReady { browser, placement, epoch }
            }
            Event::RunDone { browser, run, epoch } => {
                Event::RunDone { browser: of_run(&run, browser), run, epoch }
            }
            Event::RunFailed { browser, run, epoch, failure } => {
                Event::RunFailed { browser: of_run(&run, browser), run, epoch, failure }
            }
            other => other,
        }
    }
}

impl Core for NoBrowserCheck {
    fn start(config: Config, records: Records) -> NoBrowserCheck {
        NoBrowserCheck {
            fleet: Core::start(config, records),
            placements: BTreeMap::new(),
            runs: BTreeMap::new(),
        }
    }

    fn handle(&mut self, now: Instant, event: Event) {
        let event = self.of_its_browser(event);
        self.fleet.handle(now, event);
    }

    fn poll_action(&mut self) -> Option<Action> {
        let action = self.fleet.poll_action()?;
        if let Action::Place { browser, placement, .. } = &action {
            self.placements.insert(*placement, *browser);
        }
        if let Action::Dispatch { browser, run, .. } = &action {
            self.runs.insert(*run, *browser);
        }
        Some(action)
    }

    through_fleet!();
}

/// Forgets a request that is to be tried again.
#[derive(Debug)]
pub struct ForgottenRetry {
    fleet: Fleet,
    now: Instant,
    /// Requests that have been on a browser.
    tried: BTreeSet<RequestId>,
    /// Runs that nobody but the fleet knows of.
    forgotten: BTreeSet<RunId>,
}

impl Core for ForgottenRetry {
    fn start(config: Config, records: Records) -> ForgottenRetry {
        ForgottenRetry {
            fleet: Core::start(config, records),
            now: Instant::default(),
            tried: BTreeSet::new(),
            forgotten: BTreeSet::new(),
        }
    }

    fn handle(&mut self, now: Instant, event: Event) {
        self.now = now;
        self.fleet.handle(now, event);
    }

    fn poll_action(&mut self) -> Option<Action> {
        loop {
            let action = self.fleet.poll_action()?;
            if let Action::Abandon { run } = &action
                && self.forgotten.remove(run)
            {
                continue;
            }
            let Action::Dispatch { browser, run, epoch, requests, .. } = &action else {
                return Some(action);
            };
            let again = requests.iter().all(|request| self.tried.contains(request));
            self.tried.extend(requests);
            if !again {
                return Some(action);
            }
            self.forgotten.insert(*run);
            for &request in requests {
                self.fleet.handle(self.now, Event::Cancel { request });
            }
            self.fleet
                .handle(self.now, Event::RunDone { browser: *browser, run: *run, epoch: *epoch });
        }
    }

    through_fleet!();
}

/// Sends requests to a second browser as well.
#[derive(Debug)]
pub struct DoubleAssignment {
    fleet: Fleet,
    ready: BTreeMap<PlacementId, (BrowserId, Epoch, ModelId)>,
    more: VecDeque<Action>,
}

impl Core for DoubleAssignment {
    fn start(config: Config, records: Records) -> DoubleAssignment {
        DoubleAssignment {
            fleet: Core::start(config, records),
            ready: BTreeMap::new(),
            more: VecDeque::new(),
        }
    }

    fn handle(&mut self, now: Instant, event: Event) {
        self.fleet.handle(now, event);
    }

    fn poll_action(&mut self) -> Option<Action> {
        if let Some(action) = self.more.pop_front() {
            return Some(action);
        }
        let action = self.fleet.poll_action()?;
        if let Action::Place { browser, placement, epoch, model, .. } = &action {
            self.ready.insert(*placement, (*browser, *epoch, *model));
        }
        if let Action::Kill { browser, .. } | Action::Reset { browser, .. } = &action {
            self.ready.retain(|_, (on, ..)| on != browser);
        }
        if let Action::Dispatch { browser, placement, run, requests, .. } = &action {
            let model = self.ready.get(placement).map(|&(.., model)| model);
            let other = self
                .ready
                .iter()
                .find(|(_, (on, _, of))| on != browser && Some(*of) == model)
                .map(|(&placement, &(browser, epoch, _))| (placement, browser, epoch));
            if let Some((placement, browser, epoch)) = other {
                let (run, requests) = (RunId(run.0 + (1 << 40)), requests.clone());
                let again = Action::Dispatch { browser, placement, epoch, run, requests };
                self.more.push_back(again);
            }
        }
        Some(action)
    }

    through_fleet!();
}

/// Refuses nobody.
#[derive(Debug)]
pub struct UnboundedQueue {
    fleet: Fleet,
}

impl Core for UnboundedQueue {
    fn start(config: Config, records: Records) -> UnboundedQueue {
        let config = Config { queue_max: u32::MAX, ..config };
        UnboundedQueue { fleet: Core::start(config, records) }
    }

    fn handle(&mut self, now: Instant, event: Event) {
        self.fleet.handle(now, event);
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.fleet.poll_action()
    }

    through_fleet!();
}

/// Does not know that there were daemons before it.
#[derive(Debug)]
pub struct FirstDaemon {
    fleet: Fleet,
}

impl Core for FirstDaemon {
    fn start(config: Config, records: Records) -> FirstDaemon {
        let config = Config { incarnation: Incarnation::default(), ..config };
        FirstDaemon { fleet: Core::start(config, records) }
    }

    fn handle(&mut self, now: Instant, event: Event) {
        self.fleet.handle(now, event);
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.fleet.poll_action()
    }

    through_fleet!();
}

/// Believes every transaction to be on disk and writes none.
#[derive(Debug)]
pub struct LostCommit {
    fleet: Fleet,
    now: Instant,
}

impl Core for LostCommit {
    fn start(config: Config, records: Records) -> LostCommit {
        LostCommit { fleet: Core::start(config, records), now: Instant::default() }
    }

    fn handle(&mut self, now: Instant, event: Event) {
        self.now = now;
        self.fleet.handle(now, event);
    }

    fn poll_action(&mut self) -> Option<Action> {
        loop {
            let action = self.fleet.poll_action()?;
            let Action::Commit(transaction) = action else { return Some(action) };
            let transaction = transaction.id;
            self.fleet.handle(self.now, Event::Committed { transaction });
        }
    }

    through_fleet!();
}

/// Unloads what answers as soon as another backend is to be tried.
#[derive(Debug)]
pub struct EarlyUnload {
    fleet: Fleet,
    models: BTreeMap<PlacementId, ModelId>,
    /// What requests were sent to last.
    answers: BTreeMap<(BrowserId, ModelId), PlacementId>,
    next: Option<Action>,
}

impl Core for EarlyUnload {
    fn start(config: Config, records: Records) -> EarlyUnload {
        EarlyUnload {
            fleet: Core::start(config, records),
            models: BTreeMap::new(),
            answers: BTreeMap::new(),
            next: None,
        }
    }

    fn handle(&mut self, now: Instant, event: Event) {
        self.fleet.handle(now, event);
    }

    fn poll_action(&mut self) -> Option<Action> {
        if let Some(action) = self.next.take() {
            return Some(action);
        }
        let action = self.fleet.poll_action()?;
        if let Action::Dispatch { browser, placement, .. } = &action
            && let Some(&model) = self.models.get(placement)
        {
            self.answers.insert((*browser, model), *placement);
        }
        if let Action::Place { browser, placement: new, model, .. } = action {
            self.models.insert(new, model);
            if let Some(placement) =
                self.answers.remove(&(browser, model)).filter(|old| *old != new)
            {
                self.next = Some(action);
                return Some(Action::Unload { browser, placement });
            }
        }
        Some(action)
    }

    through_fleet!();
}
