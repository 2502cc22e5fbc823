//! A fleet that is given events, and its actions as text.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use expect_test::Expect;
use flotilla_fleet::{
    Action, Batching, Budget, Choice, Config, Event, Failure, FailureKind, Fleet, Instant, ModelId,
    Policy, Role, Slot, StepBudgets, state::Durability,
};
use flotilla_protocol::{Backend, BrowserId, Epoch, PlacementId, RequestId, RunId};

pub(super) const MODEL: ModelId = ModelId(1);
/// A browser that was never launched.
const NOBODY: BrowserId = BrowserId(0);
pub(super) const DEADLINE_MS: u64 = 100_000;

/// A fleet and the actions that it ordered since the last check.
pub(super) struct Script {
    pub(super) fleet: Fleet,
    pub(super) now_ms: u64,
    pub(super) orders: String,
    /// Where each placement and each run was ordered last.
    placed: BTreeMap<PlacementId, BrowserId>,
    dispatched: BTreeMap<RunId, BrowserId>,
}

pub(super) fn slots(count: usize) -> Config {
    let slot = Slot {
        kind: "chrome".to_owned(),
        backends: vec![Backend::WebGpu, Backend::Cpu],
        choice: Choice::First,
        role: Role::Regular,
    };
    let never = Duration::from_secs(1000);
    Config {
        slots: vec![slot; count],
        suspect_after: never / 2,
        heartbeat_timeout: never,
        straggler_min: never,
        probe_interval: never,
        ..Config::default()
    }
}

pub(super) fn tries(tries_max: u32) -> StepBudgets {
    let budget = Budget { tries_max, wait_max: Duration::from_secs(1000) };
    let StepBudgets { simulate, .. } = StepBudgets::default();
    StepBudgets { retry: budget, reset: budget, migrate: budget, reconstruct: budget, simulate }
}

pub(super) fn no_tries() -> StepBudgets {
    tries(0)
}

pub(super) fn many_tries() -> StepBudgets {
    tries(9)
}

impl Script {
    pub(super) fn new(config: Config) -> Script {
        let mut script = Script {
            fleet: Fleet::new(config),
            now_ms: 0,
            orders: String::new(),
            placed: BTreeMap::new(),
            dispatched: BTreeMap::new(),
        };
        script.send(Event::ModelAdded {
            model: MODEL,
            batching: Batching { rows_max: 8, tokens_max: 512 },
        });
        script
    }

    /// As many browsers as slots, with ready placements p1, p2, ..
    pub(super) fn ready(config: Config) -> Script {
        let count = config.slots.len() as u64;
        let mut script = Script::new(config);
        for browser in 1..=count {
            script.up(browser);
            script.loaded(browser, 1);
        }
        script.orders.clear();
        script
    }

    pub(super) fn send(&mut self, event: Event) -> &mut Script {
        self.fleet.handle(Instant(Duration::from_millis(self.now_ms)), event);
        while let Some(action) = self.fleet.poll_action() {
            if let Action::Place { browser, placement, .. } = &action {
                self.placed.insert(*placement, *browser);
            }
            if let Action::Dispatch { browser, run, .. } = &action {
                self.dispatched.insert(*run, *browser);
            }
            if let Some(words) = words(&action) {
                self.orders.push_str(&words);
                self.orders.push('\n');
            }
        }
        self
    }

    pub(super) fn at(&mut self, ms: u64) -> &mut Script {
        self.now_ms = ms;
        self.send(Event::Wake)
    }

    pub(super) fn up(&mut self, browser: u64) -> &mut Script {
        self.up_with(browser, &[Backend::WebGpu, Backend::Cpu])
    }

    pub(super) fn up_with(&mut self, browser: u64, backends: &[Backend]) -> &mut Script {
        self.send(Event::BrowserUp {
            browser: BrowserId(browser),
            backends: backends.to_vec(),
            refused: Vec::new(),
        })
    }

    pub(super) fn down(&mut self, browser: u64, kind: FailureKind) -> &mut Script {
        self.send(Event::BrowserDown {
            browser: BrowserId(browser),
            failure: Failure::new(kind, "x"),
        })
    }

    pub(super) fn loaded(&mut self, placement: u64, epoch: u64) -> &mut Script {
        let (placement, epoch) = (PlacementId(placement), Epoch(epoch));
        let browser = self.placed.get(&placement).copied().unwrap_or(NOBODY);
        self.send(Event::PlacementReady { browser, placement, epoch })
    }

    pub(super) fn load_failed(
        &mut self,
        placement: u64,
        epoch: u64,
        kind: FailureKind,
    ) -> &mut Script {
        let (placement, epoch) = (PlacementId(placement), Epoch(epoch));
        let browser = self.placed.get(&placement).copied().unwrap_or(NOBODY);
        let failure = Failure::new(kind, "x");
        self.send(Event::PlacementFailed { browser, placement, epoch, failure })
    }

    pub(super) fn ask(&mut self, request: u64, length: u32) -> &mut Script {
        self.ask_until(request, length, DEADLINE_MS)
    }

    pub(super) fn ask_until(&mut self, request: u64, length: u32, deadline_ms: u64) -> &mut Script {
        let deadline = Instant(Duration::from_millis(deadline_ms));
        self.send(Event::Request {
            request: RequestId(request),
            model: MODEL,
            rows: 1,
            length,
            deadline,
            policy: Policy::default(),
        })
    }

    pub(super) fn done(&mut self, run: u64, epoch: u64) -> &mut Script {
        let (run, epoch) = (RunId(run), Epoch(epoch));
        let browser = self.dispatched.get(&run).copied().unwrap_or(NOBODY);
        self.send(Event::RunDone { browser, run, epoch })
    }

    pub(super) fn failed(&mut self, run: u64, epoch: u64, kind: FailureKind) -> &mut Script {
        let (run, epoch) = (RunId(run), Epoch(epoch));
        let browser = self.dispatched.get(&run).copied().unwrap_or(NOBODY);
        self.send(Event::RunFailed { browser, run, epoch, failure: Failure::new(kind, "x") })
    }

    pub(super) fn check(&mut self, want: Expect) -> &mut Script {
        want.assert_eq(&std::mem::take(&mut self.orders));
        self
    }
}

/// An action in one line; records that nothing waits for and reports of recoveries have their own tests.
fn words(action: &Action) -> Option<String> {
    let list = |ids: &[RequestId]| {
        ids.iter().fold(String::new(), |mut list, id| {
            let _ = write!(list, " {id}");
            list
        })
    };
    Some(match action {
        Action::Launch { browser, slot } => format!("launch {browser} in slot {}", slot.0),
        Action::Kill { browser, reason } => format!("kill {browser}: {reason}"),
        Action::Place { browser, placement, epoch, model, backend } => {
            format!("place {placement} {epoch} of model {} on {browser} {backend}", model.0)
        }
        Action::Dispatch { browser, placement, epoch, run, requests } => {
            format!("dispatch {run} to {browser} {placement} {epoch}:{}", list(requests))
        }
        Action::Abandon { run } => format!("abandon {run}"),
        Action::Answer { request, run, tried } => {
            let tried: String = tried.iter().map(|attempt| format!("; {attempt}")).collect();
            format!("answer {request} from {run}{tried}")
        }
        Action::Fail { request, error } => format!("fail {request}: {error}"),
        Action::Drained => "drained".to_owned(),
        Action::Reset { browser, reason } => format!("reset {browser}: {reason}"),
        Action::Probe { browser, backend, probe } => format!("probe {probe} {browser} {backend}"),
        Action::Unload { browser, placement } => format!("unload {placement} from {browser}"),
        Action::Commit(transaction) => match transaction.durability {
            Durability::Relaxed => return None,
            Durability::Critical => {
                let keys: String =
                    transaction.writes.iter().map(|write| format!(" {}", write.key)).collect();
                format!("commit {}:{keys}", transaction.id)
            }
        },
        Action::Acquired { lease, browser } => format!("lease {} has {browser}", lease.0),
        Action::Revoked { lease, failure } => {
            format!("lease {} has no browser: {failure}", lease.0)
        }
        Action::Migrated { model, from, to, failure } => {
            format!("model {} from {from} to {to}: {failure:?}", model.0)
        }
        Action::Measure { browser, placement, epoch, model, measure } => {
            format!("measure {measure} of model {} on {browser} {placement} {epoch}", model.0)
        }
        Action::Keep { browser, model, backend, took } => {
            format!("keep model {} on {browser} {backend}: {took:?}", model.0)
        }
        Action::Recovered(_) => return None,
    })
}
