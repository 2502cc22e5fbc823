//! Single decisions: events in, actions out.

use std::time::Duration;

use expect_test::expect;
use flotilla_fleet::{
    Batching, Budget, Config, Event, Failure, FailureKind, Instant, LeaseId, ModelId, Persistence,
    Policy, RequestError, Role, Slot, StepBudgets, Strategy, state::TransactionId,
};
mod changes;
mod measurements;
mod script;

use flotilla_protocol::{Backend, BrowserId, RequestId, RunId};
use script::{DEADLINE_MS, MODEL, Script, many_tries, no_tries, slots};

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
    expect![[r#"[PlacementStatus { placement: PlacementId(2), model: ModelId(1), backend: Cpu, state: Ready, fallback: Some("webgpu: unsupported operation: x"), account: Account { by: Only, measured: [], refused: [(WebGpu, "unsupported operation: x")] } }]"#]].assert_eq(&format!("{:?}", status.slots[0].placements));
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
        fail r1: no browser can run this model: chrome: 3 starts failed, the last one: driver unresponsive: x; it is tried again in 60s
        fail r2: no browser can run this model: chrome: 3 starts failed, the last one: driver unresponsive: x; it is tried again in 59s
    "#]]);
}

#[test]
fn a_slot_that_rests_is_tried_again_and_comes_back() {
    let mut script = Script::new(Config { restarts_max: 2, ..slots(1) });
    script.down(1, FailureKind::DriverUnresponsive).at(1_000);
    script.down(2, FailureKind::DriverUnresponsive);
    let words = &script.fleet.status().slots[0].words;
    assert!(words.contains("is launched anew in 60s"), "{words}");
    script.at(60_999).at(61_000).down(3, FailureKind::DeadlineExceeded).at(180_999);
    // Twice as long with each further one, and requests wait for it while it starts.
    script.at(181_000).ask_until(1, 1, 300_000).up(4).loaded(1, 1).done(1, 1).check(expect![[r#"
        launch b1 in slot 0
        kill b1: driver unresponsive: x
        launch b2 in slot 0
        kill b2: driver unresponsive: x
        launch b3 in slot 0
        kill b3: took too long: x
        launch b4 in slot 0
        place p1 e1 of model 1 on b4 webgpu
        dispatch x1 to b4 p1 e1: r1
        answer r1 from x1
    "#]]);
    assert_eq!(script.fleet.status().slots[0].failed_starts, 0);
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
fn requests_queued_behind_a_crashed_run_lose_no_attempt() {
    let mut script = Script::ready(Config { step_budgets: no_tries(), ..slots(1) });
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
fn out_of_memory_is_retried_once_on_the_same_browser() {
    let mut script = Script::ready(slots(2));
    script.down(2, FailureKind::BrowserExited).ask(1, 10).failed(1, 1, FailureKind::OutOfMemory);
    script.check(expect![[r#"
        kill b2: browser exited: x
        launch b3 in slot 1
        dispatch x1 to b1 p1 e1: r1
        dispatch x2 to b1 p1 e1: r1
    "#]]);
    // Meanwhile the browser runs others, and not the failed request along with them.
    script.ask(2, 10).check(expect![[r#"
        dispatch x3 to b1 p1 e1: r2
    "#]]);
    script.up(3).loaded(3, 1).check(expect![[r#"
        place p3 e1 of model 1 on b3 webgpu
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
fn unsupported_sizes_go_to_another_browser_and_are_no_failure_of_the_first() {
    let mut script = Script::ready(Config { runs_in_flight_max: 1, ..slots(2) });
    for run in [1, 3, 5, 7, 9] {
        script.ask(run, 10).failed(run, 1, FailureKind::RunRefused).done(run + 1, 1);
    }
    script.check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        dispatch x2 to b2 p2 e1: r1
        answer r1 from x2; run refused: x on browser b1, then migrated to another browser
        dispatch x3 to b2 p2 e1: r3
        dispatch x4 to b1 p1 e1: r3
        answer r3 from x4; run refused: x on browser b2, then migrated to another browser
        dispatch x5 to b1 p1 e1: r5
        dispatch x6 to b2 p2 e1: r5
        answer r5 from x6; run refused: x on browser b1, then migrated to another browser
        dispatch x7 to b1 p1 e1: r7
        dispatch x8 to b2 p2 e1: r7
        answer r7 from x8; run refused: x on browser b1, then migrated to another browser
        dispatch x9 to b1 p1 e1: r9
        dispatch x10 to b2 p2 e1: r9
        answer r9 from x10; run refused: x on browser b1, then migrated to another browser
    "#]]);
    // Requests that share a run may be too large only together, so each is tried alone.
    let mut script = Script::ready(Config { runs_in_flight_max: 1, ..slots(1) });
    script.ask(1, 10).ask(2, 10).ask(3, 10).done(1, 1);
    script.failed(2, 1, FailureKind::RunRefused).done(3, 1).done(4, 1);
    script.check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        answer r1 from x1
        dispatch x2 to b1 p1 e1: r2 r3
        dispatch x3 to b1 p1 e1: r2
        answer r2 from x3; run refused: x on browser b1, then run again alone
        dispatch x4 to b1 p1 e1: r3
        answer r3 from x4; run refused: x on browser b1, then run again alone
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
fn a_lost_device_is_renewed_once_and_then_costs_the_page() {
    let lost = || Event::DeviceLost {
        browser: BrowserId(1),
        backend: Backend::WebGpu,
        reason: "x".to_owned(),
    };
    let mut script = Script::ready(slots(1));
    script.ask(1, 10).failed(1, 1, FailureKind::DeviceLost).send(lost()).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        place p1 e2 of model 1 on b1 webgpu
    "#]]);
    script.done(1, 1).loaded(1, 2).check(expect![[r#"
        dispatch x2 to b1 p1 e2: r1
    "#]]);
    script.send(lost()).check(expect![[r#"
        reset b1: device lost: x
    "#]]);
}

#[test]
fn three_failed_runs_in_a_row_cost_the_browser() {
    let mut script = Script::ready(Config { step_budgets: many_tries(), ..slots(1) });
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
    let mut script = Script::ready(Config {
        run_timeout: Duration::from_secs(10),
        step_budgets: no_tries(),
        ..slots(1)
    });
    script.ask(1, 10).ask(2, 10).at(9_000).done(1, 1).at(18_999).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        dispatch x2 to b1 p1 e1: r2
        answer r1 from x1
    "#]]);
    script.at(19_000).check(expect![[r#"
        reset b1: took too long: run x2, after 10s
        fail r2: every attempt failed; took too long: run x2, after 10s on browser b1
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
        reset b1: took too long: run x1, after 10s
    "#]]);
}

#[test]
fn a_silent_browser_is_suspect_and_gets_nothing_then_is_replaced() {
    let mut script = Script::ready(Config {
        suspect_after: Duration::from_secs(5),
        heartbeat_timeout: Duration::from_secs(10),
        ..slots(1)
    });
    script.at(5_000).ask(1, 10).check(expect![""]);
    script.send(Event::Heartbeat { browser: BrowserId(1) }).check(expect![[r#"
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
        policy: Policy::default(),
    });
    script.send(Event::Together(requests.collect())).check(expect![[r#"
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
    script.ask(1, 10).ask(2, 10).send(Event::Drain).ask(3, 10).done(1, 1).check(expect![[r#"
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
    script.ask(1, 10).send(Event::Drain).send(Event::Drain).check(expect![[r#"
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
    let unknown = Event::Request {
        request: RequestId(9),
        model: ModelId(2),
        rows: 1,
        length: 1,
        deadline,
        policy: Policy::default(),
    };
    script.orders.clear();
    script
        .ask(1, 1)
        .ask(2, 1)
        .send(Event::Cancel { request: RequestId(1) })
        .ask(3, 1)
        .send(unknown);
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

fn ask_with(request: u64, policy: Policy) -> Event {
    let deadline = Instant(Duration::from_millis(DEADLINE_MS));
    Event::Request {
        request: RequestId(request),
        model: MODEL,
        rows: 1,
        length: 10,
        deadline,
        policy,
    }
}

fn commit(id: u64) -> Event {
    Event::Committed { transaction: TransactionId(id) }
}

/// The number of the transaction that was ordered last.
fn last_commit(script: &Script) -> u64 {
    let (_, rest) = script.orders.rsplit_once("commit transaction ").expect("a commit");
    rest.split(':').next().and_then(|id| id.parse().ok()).expect("a number")
}

fn recorded(request: u64) -> Event {
    ask_with(request, Policy { persistence: Persistence::Record, ..Policy::default() })
}

#[test]
fn a_recorded_request_waits_for_its_record_and_its_answer_for_the_outcome() {
    let mut script = Script::ready(slots(1));
    script.send(recorded(7));
    let first = last_commit(&script);
    script.check(expect![[r#"
        commit transaction 5: requests/7
    "#]]);
    script.send(commit(first)).done(1, 1);
    let second = last_commit(&script);
    script.check(expect![[r#"
        dispatch x1 to b1 p1 e1: r7
        commit transaction 6: requests/7
    "#]]);
    script.send(commit(first)).check(expect![[""]]);
    script.send(commit(second)).check(expect![[r#"
        answer r7 from x1
    "#]]);
}

#[test]
fn a_request_that_cannot_be_recorded_is_refused_and_a_right_answer_is_given_all_the_same() {
    let fails = |id| Event::CommitFailed {
        transaction: TransactionId(id),
        reason: "disk is full".to_owned(),
    };
    let mut script = Script::ready(slots(1));
    script.send(recorded(1));
    let first = last_commit(&script);
    script.orders.clear();
    script.send(fails(first)).check(expect![[r#"
        fail r1: the request could not be recorded: disk is full
    "#]]);
    script.send(recorded(2));
    let second = last_commit(&script);
    script.send(commit(second)).done(1, 1);
    let third = last_commit(&script);
    script.orders.clear();
    script.send(fails(third)).check(expect![[r#"
        answer r2 from x1
    "#]]);
}

#[test]
fn a_closed_link_costs_the_page_and_not_the_process() {
    let mut script = Script::ready(slots(1));
    let closed = || Event::PageDown {
        browser: BrowserId(1),
        failure: Failure::new(FailureKind::ConnectionLost, "x"),
    };
    script.ask(1, 10).send(closed()).up(1).loaded(2, 1).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        reset b1: connection lost: x
        place p2 e1 of model 1 on b1 webgpu
        dispatch x2 to b1 p2 e1: r1
    "#]]);
    // The next one without an answer in between costs the process.
    script.send(closed()).check(expect![[r#"
        kill b1: connection lost: x
        launch b2 in slot 0
    "#]]);
}

#[test]
fn a_request_goes_where_its_model_is_ready_rather_than_wait_for_a_new_page() {
    let mut script = Script::ready(slots(2));
    script.ask(1, 10).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
    "#]]);
    let failure = Failure::new(FailureKind::PageCrashed, "x");
    script.send(Event::PageDown { browser: BrowserId(1), failure }).check(expect![[r#"
        reset b1: page crashed: x
        dispatch x2 to b2 p2 e1: r1
    "#]]);
}

#[test]
fn a_coordinated_request_waits_for_its_own_slot() {
    let mut script = Script::ready(slots(2));
    let strategy = Some(Strategy::Coordinated);
    script.send(ask_with(1, Policy { strategy, ..Policy::default() }));
    let failure = Failure::new(FailureKind::PageCrashed, "x");
    script.send(Event::PageDown { browser: BrowserId(1), failure }).up(1).loaded(3, 1);
    script.done(2, 1).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        reset b1: page crashed: x
        place p3 e1 of model 1 on b1 webgpu
        dispatch x2 to b1 p3 e1: r1
        answer r1 from x2; page crashed: x on browser b1, then run again on the browser's new page
    "#]]);
}

#[test]
fn a_recovery_step_that_no_browser_takes_in_time_gives_way_to_the_next() {
    let step_budgets = StepBudgets {
        reset: Budget { tries_max: 1, wait_max: Duration::from_secs(5) },
        ..StepBudgets::default()
    };
    let never = Duration::from_secs(500);
    let mut script = Script::ready(Config { step_budgets, reset_timeout: never, ..slots(1) });
    let failure = Failure::new(FailureKind::PageCrashed, "x");
    script.ask(1, 10).send(Event::PageDown { browser: BrowserId(1), failure });
    script.at(4_999).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        reset b1: page crashed: x
    "#]]);
    script.at(5_000).check(expect![[r#"
        fail r1: every attempt failed; page crashed: x on browser b1
    "#]]);
}

#[test]
fn simulation_is_the_last_resort_of_those_who_allow_it() {
    let mut config = slots(1);
    let simulated = Slot { role: Role::Fallback, ..config.slots[0].clone() };
    config.slots.push(simulated);
    config.restarts_max = 1;
    let mut script = Script::new(config);
    script.check(expect![[r#"
        launch b1 in slot 0
    "#]]);
    let fallback_to_simulation = true;
    script.send(ask_with(1, Policy { fallback_to_simulation, ..Policy::default() }));
    script.ask(2, 10).down(1, FailureKind::DriverUnresponsive).up(2).loaded(1, 1).done(1, 1);
    script.check(expect![[r#"
        kill b1: driver unresponsive: x
        fail r2: no browser can run this model: chrome: 1 starts failed, the last one: driver unresponsive: x; it is tried again in 60s
        launch b2 in slot 1
        place p1 e1 of model 1 on b2 webgpu
        dispatch x1 to b2 p1 e1: r1
        answer r1 from x1
    "#]]);
}

#[test]
fn recovery_ends_when_the_request_says() {
    let mut script = Script::ready(slots(1));
    let recovery_timeout = Some(Duration::from_secs(2));
    script.send(ask_with(1, Policy { recovery_timeout, ..Policy::default() }));
    script.down(1, FailureKind::BrowserExited).at(2_000).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        kill b1: browser exited: x
        launch b2 in slot 0
        fail r1: recovery took longer than 2s; browser exited: x on browser b1
    "#]]);
}

#[test]
fn a_straggler_is_hedged_and_its_late_answer_dropped() {
    let config = Config { straggler_min: Duration::from_secs(3), ..slots(2) };
    let mut script = Script::ready(config);
    script.ask(1, 10).at(3_000).done(1, 1).done(2, 1).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        abandon x1
        dispatch x2 to b2 p2 e1: r1
        answer r1 from x2; took too long: no answer for 3s on browser b1, then migrated to another browser
    "#]]);
}

#[test]
fn a_probe_detects_a_browser_with_wrong_results() {
    let config = Config {
        probe_interval: Duration::from_secs(10),
        probe_timeout: Duration::from_secs(2),
        ..slots(1)
    };
    let mut script = Script::ready(config);
    let browser = BrowserId(1);
    script.at(10_000).send(Event::ProbeDone { browser, probe: RunId(1) });
    script.at(20_000).at(22_000).at(23_000).at(25_000).check(expect![[r#"
        probe x1 b1 webgpu
        probe x2 b1 webgpu
        probe x3 b1 webgpu
        reset b1: took too long: probe, after 2s
    "#]]);
    script.up(1).loaded(2, 1).at(35_000);
    let failure = Failure::new(FailureKind::WrongResult, "x");
    script.send(Event::ProbeFailed { browser, probe: RunId(4), failure }).check(expect![[r#"
        place p2 e1 of model 1 on b1 webgpu
        probe x4 b1 webgpu
        kill b1: wrong result: x
        launch b2 in slot 0
    "#]]);
}

#[test]
fn memory_over_the_limit_costs_the_browser_at_once_and_near_it_at_a_good_moment() {
    let mut script = Script::ready(Config { memory_bytes_max: Some(100 << 20), ..slots(2) });
    let memory =
        |browser, mib: u64| Event::Memory { browser: BrowserId(browser), used_bytes: mib << 20 };
    script.ask(1, 10).send(memory(1, 90)).ask(2, 10).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        dispatch x2 to b2 p2 e1: r2
    "#]]);
    script.done(1, 1).check(expect![[r#"
        answer r1 from x1
        kill b1: recycled: 90 MiB of memory used
        launch b3 in slot 0
    "#]]);
    script.send(memory(2, 101)).check(expect![[r#"
        kill b2: memory limit exceeded: 101 MiB used, 100 MiB allowed
        launch b4 in slot 1
    "#]]);
}

#[test]
fn a_lease_has_a_browser_for_itself() {
    let mut script = Script::ready(slots(2));
    let (first, second) = (LeaseId(1), LeaseId(2));
    let deadline = Instant(Duration::from_secs(60));
    script.ask(1, 10).send(Event::Acquire { lease: first, deadline });
    script.send(Event::Acquire { lease: second, deadline }).ask(2, 10).done(1, 1).ask(3, 10);
    script.check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        lease 1 has b2
        answer r1 from x1
        lease 2 has b1
    "#]]);
    let lease = Some(second);
    script.send(ask_with(4, Policy { lease, ..Policy::default() }));
    script.send(Event::Release { lease: first }).check(expect![[r#"
        dispatch x2 to b1 p1 e1: r4
        dispatch x3 to b2 p2 e1: r2 r3
    "#]]);
    script.down(1, FailureKind::BrowserExited).check(expect![[r#"
        kill b1: browser exited: x
        abandon x2
        fail r4: the browser of this task has ended
        lease 2 has no browser: browser exited: x
        launch b3 in slot 0
    "#]]);
}

#[test]
fn a_browser_promised_to_a_lease_serves_others_while_it_loads() {
    let other = ModelId(2);
    let mut script = Script::new(slots(1));
    let batching = Batching { rows_max: 8, tokens_max: 512 };
    script.send(Event::ModelAdded { model: other, batching });
    script.up(1).loaded(1, 1).loaded(2, 1).ask(1, 10).ask(2, 10);
    let deadline = Instant(Duration::from_millis(DEADLINE_MS));
    script.send(Event::Acquire { lease: LeaseId(1), deadline }).ask(3, 10);
    let model = ModelId(3);
    script.send(Event::ModelAdded { model, batching }).done(1, 1).done(2, 1).done(3, 1);
    script.loaded(3, 1).check(expect![[r#"
        launch b1 in slot 0
        place p1 e1 of model 1 on b1 webgpu
        place p2 e1 of model 2 on b1 webgpu
        dispatch x1 to b1 p1 e1: r1
        dispatch x2 to b1 p1 e1: r2
        place p3 e1 of model 3 on b1 webgpu
        answer r1 from x1
        dispatch x3 to b1 p1 e1: r3
        answer r2 from x2
        answer r3 from x3
        lease 1 has b1
    "#]]);
}

#[test]
fn without_a_standby_a_model_moves_to_a_browser_that_is_up() {
    let mut script = Script::new(Config { redundancy_factor: Some(1), ..slots(2) });
    script.up(1).up(2).loaded(1, 1).ask(1, 10).down(1, FailureKind::BrowserExited);
    script.loaded(2, 1).up(3).check(expect![[r#"
        launch b1 in slot 0
        launch b2 in slot 1
        place p1 e1 of model 1 on b1 webgpu
        dispatch x1 to b1 p1 e1: r1
        kill b1: browser exited: x
        place p2 e1 of model 1 on b2 webgpu
        launch b3 in slot 0
        dispatch x2 to b2 p2 e1: r1
    "#]]);
}

#[test]
fn a_migration_unloads_only_after_it_is_recorded_and_undoes_what_fails() {
    let mut script = Script::new(Config { redundancy_factor: Some(1), ..slots(2) });
    script.up(1).up(2).loaded(1, 1);
    script.orders.clear();
    let migrate = || Event::Migrate { model: MODEL, from: BrowserId(1), to: BrowserId(2) };
    let before = script.fleet.status().slots;
    script.send(migrate()).loaded(2, 1);
    let third = last_commit(&script);
    let transaction = TransactionId(third);
    script.ask(1, 10).done(1, 1);
    script.send(Event::CommitFailed { transaction, reason: "disk is full".to_owned() });
    script.check(expect![[r#"
        place p2 e1 of model 1 on b2 webgpu
        commit transaction 7: plans/1
        dispatch x1 to b1 p1 e1: r1
        answer r1 from x1
        unload p2 from b2
        model 1 from b1 to b2: Some(Failure { kind: Overloaded, detail: "the new plan could not be recorded: disk is full" })
    "#]]);
    let placements = |slots: &[flotilla_fleet::SlotStatus]| {
        slots.iter().map(|slot| slot.placements.clone()).collect::<Vec<_>>()
    };
    assert_eq!(placements(&script.fleet.status().slots), placements(&before), "as before");
    script.send(migrate()).loaded(3, 1);
    let last = last_commit(&script);
    script.send(commit(last)).ask(2, 10).check(expect![[r#"
        place p3 e1 of model 1 on b2 webgpu
        commit transaction 11: plans/1
        unload p1 from b1
        model 1 from b1 to b2: None
        dispatch x2 to b2 p3 e1: r2
    "#]]);
}
