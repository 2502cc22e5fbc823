//! Single decisions: what is told, what is ordered.

use std::{fmt::Write as _, time::Duration};

use expect_test::{Expect, expect};
use flotilla_fleet::{
    Action, Batching, Config, Event, Failure, FailureKind, Fleet, Instant, ModelId, RequestError,
    Slot,
};
use flotilla_protocol::{Backend, BrowserId, Epoch, PlacementId, RequestId, RunId};

const MODEL: ModelId = ModelId(1);
const DEADLINE_MS: u64 = 100_000;

/// A fleet and the orders that it gave since they were last looked at.
struct Script {
    fleet: Fleet,
    now_ms: u64,
    orders: String,
}

fn slots(count: usize) -> Config {
    let slot = Slot { kind: "chrome".to_owned(), backends: vec![Backend::WebGpu, Backend::Cpu] };
    Config {
        slots: vec![slot; count],
        heartbeat_timeout: Duration::from_secs(1000),
        ..Config::default()
    }
}

impl Script {
    fn new(config: Config) -> Script {
        let mut script = Script { fleet: Fleet::new(config), now_ms: 0, orders: String::new() };
        script.tell(Event::ModelAdded {
            model: MODEL,
            batching: Batching { rows_max: 8, tokens_max: 512 },
        });
        script
    }

    /// As many browsers as slots, with ready placements p1, p2, ..
    fn ready(config: Config) -> Script {
        let count = config.slots.len() as u64;
        let mut script = Script::new(config);
        for browser in 1..=count {
            script.up(browser);
            script.loaded(browser, 1);
        }
        script.orders.clear();
        script
    }

    fn tell(&mut self, event: Event) -> &mut Script {
        self.fleet.handle(Instant(Duration::from_millis(self.now_ms)), event);
        while let Some(action) = self.fleet.poll_action() {
            self.orders.push_str(&words(&action));
            self.orders.push('\n');
        }
        self
    }

    fn at(&mut self, ms: u64) -> &mut Script {
        self.now_ms = ms;
        self.tell(Event::Wake)
    }

    fn up(&mut self, browser: u64) -> &mut Script {
        self.tell(Event::BrowserUp {
            browser: BrowserId(browser),
            backends: vec![Backend::WebGpu, Backend::Cpu],
            refused: Vec::new(),
        })
    }

    fn down(&mut self, browser: u64, kind: FailureKind) -> &mut Script {
        self.tell(Event::BrowserDown {
            browser: BrowserId(browser),
            failure: Failure::new(kind, "x"),
        })
    }

    fn loaded(&mut self, placement: u64, epoch: u64) -> &mut Script {
        self.tell(Event::PlacementReady { placement: PlacementId(placement), epoch: Epoch(epoch) })
    }

    fn load_failed(&mut self, placement: u64, epoch: u64, kind: FailureKind) -> &mut Script {
        let (placement, epoch) = (PlacementId(placement), Epoch(epoch));
        self.tell(Event::PlacementFailed { placement, epoch, failure: Failure::new(kind, "x") })
    }

    fn ask(&mut self, request: u64, length: u32) -> &mut Script {
        self.ask_until(request, length, DEADLINE_MS)
    }

    fn ask_until(&mut self, request: u64, length: u32, deadline_ms: u64) -> &mut Script {
        let deadline = Instant(Duration::from_millis(deadline_ms));
        self.tell(Event::Request {
            request: RequestId(request),
            model: MODEL,
            rows: 1,
            length,
            deadline,
        })
    }

    fn done(&mut self, run: u64, epoch: u64) -> &mut Script {
        self.tell(Event::RunDone { run: RunId(run), epoch: Epoch(epoch) })
    }

    fn failed(&mut self, run: u64, epoch: u64, kind: FailureKind) -> &mut Script {
        self.tell(Event::RunFailed {
            run: RunId(run),
            epoch: Epoch(epoch),
            failure: Failure::new(kind, "x"),
        })
    }

    fn check(&mut self, want: Expect) -> &mut Script {
        want.assert_eq(&std::mem::take(&mut self.orders));
        self
    }
}

fn words(action: &Action) -> String {
    let list = |ids: &[RequestId]| {
        ids.iter().fold(String::new(), |mut list, id| {
            let _ = write!(list, " {id}");
            list
        })
    };
    match action {
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
    }
}

#[test]
fn a_request_is_answered() {
    Script::new(slots(1)).up(1).loaded(1, 1).ask(1, 10).done(1, 1).check(expect![[r#"
        launch b1 in slot 0
        place p1 e1 of model 1 on b1 webgpu
        dispatch x1 to b1 p1 e1: r1
        answer r1 from x1
    "#]]);
}

#[test]
fn a_refused_backend_gives_way_to_the_next_and_the_reason_is_kept() {
    let mut script = Script::new(slots(1));
    script
        .up(1)
        .load_failed(1, 1, FailureKind::UnsupportedOperation)
        .loaded(1, 1)
        .loaded(2, 1)
        .ask(1, 10);
    script.check(expect![[r#"
        launch b1 in slot 0
        place p1 e1 of model 1 on b1 webgpu
        place p2 e1 of model 1 on b1 cpu
        dispatch x1 to b1 p2 e1: r1
    "#]]);
    let status = script.fleet.status();
    expect![[r#"[PlacementStatus { placement: PlacementId(2), model: ModelId(1), backend: Cpu, state: "ready", fallback: Some("webgpu: unsupported operation: x") }]"#]].assert_eq(&format!("{:?}", status.slots[0].placements));
}

#[test]
fn a_model_that_every_backend_refuses_fails_its_requests() {
    let mut script = Script::new(slots(1));
    script.up(1).ask(1, 10).load_failed(1, 1, FailureKind::UnsupportedOperation);
    script.load_failed(2, 1, FailureKind::UnsupportedOperation).ask(2, 10).check(expect![[r#"
        launch b1 in slot 0
        place p1 e1 of model 1 on b1 webgpu
        place p2 e1 of model 1 on b1 cpu
        fail r1: no browser can run this model: chrome: webgpu: unsupported operation: x; cpu: unsupported operation: x
        fail r2: no browser can run this model: chrome: webgpu: unsupported operation: x; cpu: unsupported operation: x
    "#]]);
}

#[test]
fn a_load_is_tried_twice_and_then_costs_the_browser() {
    let mut script = Script::new(slots(1));
    let failure = FailureKind::OutOfMemory;
    script.up(1).load_failed(1, 1, failure).load_failed(1, 1, failure);
    script.check(expect![[r#"
        launch b1 in slot 0
        place p1 e1 of model 1 on b1 webgpu
        place p1 e2 of model 1 on b1 webgpu
    "#]]);
    script.load_failed(1, 2, FailureKind::OutOfMemory).check(expect![[r#"
        kill b1: out of memory: x
    "#]]);
    script.at(249).check(expect![[""]]).at(250).check(expect![[r#"
        launch b2 in slot 0
    "#]]);
}

#[test]
fn loads_that_cost_too_many_browsers_go_to_the_next_backend() {
    let mut script = Script::new(slots(1));
    for browser in 1..=4 {
        script.up(browser).down(browser, FailureKind::PageCrashed).at(browser * 10_000);
    }
    script.check(expect![[r#"
        launch b1 in slot 0
        place p1 e1 of model 1 on b1 webgpu
        kill b1: page crashed: x
        launch b2 in slot 0
        place p2 e1 of model 1 on b2 webgpu
        kill b2: page crashed: x
        launch b3 in slot 0
        place p3 e1 of model 1 on b3 webgpu
        kill b3: page crashed: x
        launch b4 in slot 0
        place p4 e1 of model 1 on b4 cpu
        kill b4: page crashed: x
        launch b5 in slot 0
    "#]]);
}

#[test]
fn a_slot_that_never_starts_is_retired() {
    let mut script = Script::new(Config { restarts_max: 3, ..slots(1) });
    script.ask(1, 1);
    for browser in 1..=3 {
        script.down(browser, FailureKind::DriverUnresponsive);
        script.at(browser * 1000);
    }
    script.ask(2, 1).check(expect![[r#"
        launch b1 in slot 0
        kill b1: driver unresponsive: x
        launch b2 in slot 0
        kill b2: driver unresponsive: x
        launch b3 in slot 0
        kill b3: driver unresponsive: x
        fail r1: no browser can run this model: chrome: given up after 3 failed starts, the last one: driver unresponsive: x
        fail r2: no browser can run this model: chrome: given up after 3 failed starts, the last one: driver unresponsive: x
    "#]]);
}

#[test]
fn a_crash_moves_its_requests_to_another_browser_at_the_front() {
    let mut script = Script::ready(Config { runs_in_flight_max: 1, ..slots(2) });
    script.ask(1, 10).ask(2, 10).ask(3, 10).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        dispatch x2 to b2 p2 e1: r2
    "#]]);
    script.down(1, FailureKind::BrowserExited).check(expect![[r#"
        kill b1: browser exited: x
        launch b3 in slot 0
    "#]]);
    script.done(2, 1).check(expect![[r#"
        answer r2 from x2
        dispatch x3 to b2 p2 e1: r1
    "#]]);
    script.done(3, 1).check(expect![[r#"
        answer r1 from x3; browser exited: x on browser b1, then migrated to another browser
        dispatch x4 to b2 p2 e1: r3
    "#]]);
}

#[test]
fn requests_behind_the_run_that_crashed_have_lost_no_try() {
    let mut script = Script::ready(Config { retries_max: 0, ..slots(1) });
    script.ask(1, 10).ask(2, 10).down(1, FailureKind::PageCrashed).up(2).loaded(2, 1).done(3, 1);
    script.check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        dispatch x2 to b1 p1 e1: r2
        kill b1: page crashed: x
        fail r1: every attempt failed; page crashed: x on browser b1
        launch b2 in slot 0
        place p2 e1 of model 1 on b2 webgpu
        dispatch x3 to b2 p2 e1: r2
        answer r2 from x3
    "#]]);
}

#[test]
fn a_failed_request_waits_for_the_replacement_rather_than_the_same_browser() {
    let mut script = Script::ready(slots(2));
    script.down(2, FailureKind::BrowserExited).ask(1, 10).failed(1, 1, FailureKind::OutOfMemory);
    script.check(expect![[r#"
        kill b2: browser exited: x
        launch b3 in slot 1
        dispatch x1 to b1 p1 e1: r1
    "#]]);
    // Meanwhile the browser runs others, and not the failed request along with them.
    script.ask(2, 10).check(expect![[r#"
        dispatch x2 to b1 p1 e1: r2
    "#]]);
    script.up(3).loaded(3, 1).check(expect![[r#"
        place p3 e1 of model 1 on b3 webgpu
        dispatch x3 to b3 p3 e1: r1
    "#]]);
}

#[test]
fn a_failed_request_runs_on_the_same_browser_where_there_is_no_other() {
    let mut script = Script::ready(slots(1));
    script.ask(1, 10).failed(1, 1, FailureKind::OutOfMemory).done(2, 1).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        dispatch x2 to b1 p1 e1: r1
        answer r1 from x2; out of memory: x on browser b1, then run again on the same browser
    "#]]);
}

#[test]
fn refused_inputs_fail_alone() {
    let mut script = Script::ready(Config { runs_in_flight_max: 1, ..slots(1) });
    script.ask(1, 10).ask(2, 10).ask(3, 10).done(1, 1).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        answer r1 from x1
        dispatch x2 to b1 p1 e1: r2 r3
    "#]]);
    script.failed(2, 1, FailureKind::UnsupportedOperation).check(expect![[r#"
        dispatch x3 to b1 p1 e1: r2
    "#]]);
    script.done(3, 1).failed(4, 1, FailureKind::UnsupportedOperation).check(expect![[r#"
        answer r2 from x3; unsupported operation: x on browser b1, then run again alone
        dispatch x4 to b1 p1 e1: r3
        fail r3: every attempt failed; unsupported operation: x on browser b1, then run again alone; unsupported operation: x on browser b1
    "#]]);
}

#[test]
fn answers_of_another_epoch_or_run_are_dropped() {
    let mut script = Script::ready(slots(1));
    script.ask(1, 10).done(1, 2).done(7, 1).failed(1, 0, FailureKind::PageCrashed).check(expect![
        [r#"
            dispatch x1 to b1 p1 e1: r1
        "#]
    ]);
    script.done(1, 1).done(1, 1).check(expect![[r#"
        answer r1 from x1
    "#]]);
}

#[test]
fn a_lost_device_is_renewed_once_and_then_costs_the_browser() {
    let lost = || Event::DeviceLost { browser: BrowserId(1), reason: "x".to_owned() };
    let mut script = Script::ready(slots(1));
    script.ask(1, 10).failed(1, 1, FailureKind::DeviceLost).tell(lost()).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        place p1 e2 of model 1 on b1 webgpu
    "#]]);
    script.done(1, 1).loaded(1, 2).check(expect![[r#"
        dispatch x2 to b1 p1 e2: r1
    "#]]);
    script.tell(lost()).check(expect![[r#"
        kill b1: device lost: x
        fail r1: every attempt failed; device lost: x on browser b1, then run again on the same browser; device lost: x on browser b1
        launch b2 in slot 0
    "#]]);
}

#[test]
fn three_failed_runs_in_a_row_cost_the_browser() {
    let mut script = Script::ready(Config { retries_max: 9, ..slots(1) });
    script.ask(1, 10);
    for run in 1..=3 {
        script.failed(run, 1, FailureKind::OutOfMemory);
    }
    script.check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        dispatch x2 to b1 p1 e1: r1
        dispatch x3 to b1 p1 e1: r1
        kill b1: out of memory: x
        launch b2 in slot 0
    "#]]);
}

#[test]
fn the_clock_of_a_run_starts_when_the_one_before_it_ends() {
    let mut script =
        Script::ready(Config { run_timeout: Duration::from_secs(10), retries_max: 0, ..slots(1) });
    script.ask(1, 10).ask(2, 10).at(9_000).done(1, 1).at(18_999).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        dispatch x2 to b1 p1 e1: r2
        answer r1 from x1
    "#]]);
    script.at(19_000).check(expect![[r#"
        kill b1: took too long: run x2, after 10s
        fail r2: every attempt failed; took too long: run x2, after 10s on browser b1
        launch b2 in slot 0
    "#]]);
}

#[test]
fn a_deadline_ends_the_request_and_leaves_its_run_to_the_others() {
    let mut script = Script::ready(Config { runs_in_flight_max: 1, ..slots(1) });
    script.ask_until(1, 10, 500).ask_until(2, 10, 600).ask(3, 10).at(500).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        abandon x1
        fail r1: deadline passed
    "#]]);
    script.done(1, 1).at(600).done(2, 1).check(expect![[r#"
        dispatch x2 to b1 p1 e1: r2 r3
        fail r2: deadline passed
        answer r3 from x2
    "#]]);
}

#[test]
fn a_hung_page_is_noticed_even_if_nobody_waits_for_its_run() {
    let mut script = Script::ready(Config { run_timeout: Duration::from_secs(10), ..slots(1) });
    script.ask_until(1, 10, 500).at(500).at(10_000).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        abandon x1
        fail r1: deadline passed
        kill b1: took too long: run x1, after 10s
        launch b2 in slot 0
    "#]]);
}

#[test]
fn a_silent_browser_is_suspect_and_gets_nothing_then_is_replaced() {
    let mut script =
        Script::ready(Config { heartbeat_timeout: Duration::from_secs(10), ..slots(1) });
    script.at(5_000).ask(1, 10).check(expect![[""]]);
    script.tell(Event::Heartbeat { browser: BrowserId(1) }).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
    "#]]);
    script.at(10_000).at(15_000).check(expect![[r#"
        kill b1: connection lost: no heartbeat for 10s
        launch b2 in slot 0
    "#]]);
}

#[test]
fn similar_lengths_are_joined_within_the_limits() {
    let mut script = Script::ready(Config { runs_in_flight_max: 1, ..slots(1) });
    script.ask(1, 10);
    for (request, length) in [(2, 100), (3, 5), (4, 90), (5, 400), (6, 110), (7, 120)] {
        script.ask(request, length);
    }
    script.done(1, 1).done(2, 1).done(3, 1).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        answer r1 from x1
        dispatch x2 to b1 p1 e1: r2 r4 r6 r7
        answer r2 from x2
        answer r4 from x2
        answer r6 from x2
        answer r7 from x2
        dispatch x3 to b1 p1 e1: r3
        answer r3 from x3
        dispatch x4 to b1 p1 e1: r5
    "#]]);
}

#[test]
fn waiting_rows_are_shared_between_idle_browsers() {
    let mut script = Script::ready(Config { batch_delay: Duration::from_millis(5), ..slots(2) });
    for request in 1..=6 {
        script.ask(request, 10);
    }
    script.check(expect![[""]]).at(4).check(expect![[""]]).at(5).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1 r2 r3
        dispatch x2 to b2 p2 e1: r4 r5 r6
    "#]]);
}

#[test]
fn requests_of_the_same_moment_share_a_run() {
    let mut script = Script::ready(slots(1));
    let deadline = Instant(Duration::from_millis(DEADLINE_MS));
    let requests = (1..=3).map(|request| Event::Request {
        request: RequestId(request),
        model: MODEL,
        rows: 1,
        length: 10,
        deadline,
    });
    script.tell(Event::Together(requests.collect())).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1 r2 r3
    "#]]);
}

#[test]
fn requests_that_come_back_go_before_older_ones_that_were_passed_over() {
    let mut script = Script::ready(Config { runs_in_flight_max: 1, ..slots(1) });
    script.ask(1, 10).ask(2, 200).ask(3, 5).ask(4, 200).done(1, 1).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        answer r1 from x1
        dispatch x2 to b1 p1 e1: r2 r4
    "#]]);
    script.failed(2, 1, FailureKind::OutOfMemory).done(3, 1).done(4, 1).check(expect![[r#"
        dispatch x3 to b1 p1 e1: r2
        answer r2 from x3; out of memory: x on browser b1, then run again on the same browser
        dispatch x4 to b1 p1 e1: r4
        answer r4 from x4; out of memory: x on browser b1, then run again on the same browser
        dispatch x5 to b1 p1 e1: r3
    "#]]);
}

#[test]
fn a_full_batch_does_not_wait() {
    let mut script = Script::ready(Config { batch_delay: Duration::from_millis(5), ..slots(1) });
    for request in 1..=8 {
        script.ask(request, 10);
    }
    script.check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1 r2 r3 r4 r5 r6 r7 r8
    "#]]);
}

#[test]
fn the_faster_browser_is_preferred_until_it_fails() {
    let mut script = Script::ready(Config { runs_in_flight_max: 1, ..slots(2) });
    // Runs take 100 ms on the first browser and 50 on the second.
    script.ask(1, 10).ask(2, 10).at(50).done(2, 1).at(100).done(1, 1);
    script.at(1000).ask(3, 10).ask(4, 10).at(1050).done(3, 1).at(1100).done(4, 1).check(expect![[
        r#"
            dispatch x1 to b1 p1 e1: r1
            dispatch x2 to b2 p2 e1: r2
            answer r2 from x2
            answer r1 from x1
            dispatch x3 to b2 p2 e1: r3
            dispatch x4 to b1 p1 e1: r4
            answer r3 from x3
            answer r4 from x4
        "#
    ]]);
    script.at(2000).ask(5, 10).failed(5, 1, FailureKind::OutOfMemory).check(expect![[r#"
        dispatch x5 to b2 p2 e1: r5
        dispatch x6 to b1 p1 e1: r5
    "#]]);
    script.at(2100).done(6, 1).at(3000).ask(6, 10).check(expect![[r#"
        answer r5 from x6; out of memory: x on browser b2, then migrated to another browser
        dispatch x7 to b1 p1 e1: r6
    "#]]);
    script.at(3100).done(7, 1).at(40_000).ask(7, 10).check(expect![[r#"
        answer r6 from x7
        dispatch x8 to b2 p2 e1: r7
    "#]]);
}

#[test]
fn a_drain_answers_what_was_accepted_and_a_second_one_does_not_wait() {
    let mut script = Script::ready(Config { runs_in_flight_max: 1, ..slots(1) });
    script.ask(1, 10).ask(2, 10).tell(Event::Drain).ask(3, 10).done(1, 1).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        fail r3: the daemon is shutting down
        answer r1 from x1
        dispatch x2 to b1 p1 e1: r2
    "#]]);
    script.done(2, 1).check(expect![[r#"
        answer r2 from x2
        kill b1: the daemon is shutting down
        drained
    "#]]);
    let mut script = Script::ready(slots(1));
    script.ask(1, 10).tell(Event::Drain).tell(Event::Drain).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        abandon x1
        fail r1: the daemon is shutting down
        kill b1: the daemon is shutting down
        drained
    "#]]);
}

#[test]
fn the_queue_is_bounded_and_unknown_models_are_refused() {
    let mut script = Script::new(Config { queue_max: 1, ..slots(1) });
    let deadline = Instant(Duration::from_secs(1));
    let unknown =
        Event::Request { request: RequestId(9), model: ModelId(2), rows: 1, length: 1, deadline };
    script.orders.clear();
    script
        .ask(1, 1)
        .ask(2, 1)
        .tell(Event::Cancel { request: RequestId(1) })
        .ask(3, 1)
        .tell(unknown);
    script.check(expect![[r#"
        fail r2: queue is full: 1 requests wait, the limit is 1
        fail r9: model is not known
    "#]]);
}

#[test]
fn nothing_is_refused_while_a_browser_may_come() {
    let mut script = Script::new(slots(1));
    script.ask(1, 1);
    assert_eq!(script.fleet.status().models[0].unplaceable, None);
    assert!(script.fleet.poll_action().is_none());
    let mut none = Script::new(slots(0));
    none.ask(1, 1).check(expect![[r#"
        fail r1: no browser can run this model: no browsers are configured
    "#]]);
    let error = RequestError::Unplaceable { reason: "no browsers are configured".to_owned() };
    assert_eq!(
        none.fleet.status().models[0].unplaceable.as_deref(),
        Some("no browsers are configured")
    );
    assert_eq!(error.to_string(), "no browser can run this model: no browsers are configured");
}
