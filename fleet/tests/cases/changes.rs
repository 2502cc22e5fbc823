//! Models and slots that come and go while the fleet serves.

use std::time::Duration;

use expect_test::expect;
use flotilla_fleet::{
    Batching, BrowserStage, Choice, Config, Event, FailureKind, Instant, LeaseId, ModelId,
    Persistence, Policy, Role, Slot, SlotId, Strategy, state::TransactionId,
};
use flotilla_protocol::{Backend, BrowserId, RequestId, RunId};

use super::{
    ask_with,
    script::{MODEL, Script, many_tries, slots},
};

const OTHER: ModelId = ModelId(2);
const REMOVED: Event = Event::ModelRemoved { model: MODEL };

fn added(model: ModelId) -> Event {
    Event::ModelAdded { model, batching: Batching { rows_max: 8, tokens_max: 512 } }
}

fn slot_added(role: Role) -> Event {
    let backends = vec![Backend::WebGpu, Backend::Cpu];
    let slot = Slot { kind: "chrome".to_owned(), backends, choice: Choice::First, role };
    Event::SlotAdded { slot }
}

fn slot_removed(slot: u32) -> Event {
    Event::SlotRemoved { slot: SlotId(slot), reason: "test".to_owned() }
}

fn later(ms: u64) -> Instant {
    Instant(Duration::from_millis(ms))
}

#[test]
fn a_removed_model_fails_waiting_requests_and_answers_running_ones() {
    let mut script = Script::ready(Config { runs_in_flight_max: 1, ..slots(1) });
    script.ask(1, 10).ask(2, 10).send(REMOVED).ask(3, 10).done(1, 1).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        fail r2: the model was removed
        fail r3: model is not known
        answer r1 from x1
        unload p1 from b1
    "#]]);
    let status = script.fleet.status();
    assert!(status.models.is_empty() && status.slots[0].placements.is_empty(), "{status:?}");
    // Its number is not used again.
    script.send(added(MODEL)).send(REMOVED).ask(4, 10).check(expect![[r#"
        fail r4: model is not known
    "#]]);
}

#[test]
fn a_removed_model_fails_requests_whose_run_fails() {
    let mut script = Script::ready(Config { step_budgets: many_tries(), ..slots(2) });
    script.ask(1, 10).ask(2, 10).ask(3, 10).ask(4, 10).send(REMOVED);
    script.failed(1, 1, FailureKind::OutOfMemory).done(3, 1).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        dispatch x2 to b2 p2 e1: r2
        dispatch x3 to b1 p1 e1: r3
        dispatch x4 to b2 p2 e1: r4
        fail r1: the model was removed; out of memory: x on browser b1
        answer r3 from x3
        unload p1 from b1
    "#]]);
    script.down(2, FailureKind::BrowserExited).up(3).check(expect![[r#"
        kill b2: browser exited: x
        fail r2: the model was removed; browser exited: x on browser b2
        fail r4: the model was removed
        launch b3 in slot 1
    "#]]);
}

#[test]
fn a_load_of_a_removed_model_gives_way_to_the_next() {
    let mut script = Script::new(slots(1));
    script.send(added(OTHER)).up(1).send(REMOVED).loaded(1, 1).loaded(2, 1);
    script.check(expect![[r#"
        launch b1 in slot 0
        place p1 e1 of model 1 on b1 webgpu
        unload p1 from b1
        place p2 e1 of model 2 on b1 webgpu
    "#]]);
}

#[test]
fn a_measurement_of_a_removed_model_ends() {
    let mut config = slots(1);
    config.slots[0].choice = Choice::Fastest;
    let mut script = Script::new(config);
    script.up(1).loaded(1, 1).send(REMOVED);
    let (browser, measure) = (BrowserId(1), RunId(1));
    script.send(Event::Measured { browser, measure, took: Duration::from_millis(9) });
    script.at(50_000).check(expect![[r#"
        launch b1 in slot 0
        place p1 e1 of model 1 on b1 webgpu
        measure x1 of model 1 on b1 p1 e1
        unload p1 from b1
    "#]]);
}

#[test]
fn a_removed_model_ends_its_migration() {
    let mut script = Script::new(Config { redundancy_factor: Some(1), ..slots(2) });
    script.up(1).up(2).loaded(1, 1);
    let (from, to) = (BrowserId(1), BrowserId(2));
    script.send(Event::Migrate { model: MODEL, from, to }).loaded(2, 1).send(REMOVED);
    script.send(Event::Committed { transaction: TransactionId(5) }).check(expect![[r#"
        launch b1 in slot 0
        launch b2 in slot 1
        place p1 e1 of model 1 on b1 webgpu
        place p2 e1 of model 1 on b2 webgpu
        commit transaction 7: plans/1
        unload p2 from b2
        model 1 from b1 to b2: Some(Failure { kind: UnsupportedOperation, detail: "the model was removed" })
        unload p1 from b1
    "#]]);
}

#[test]
fn a_recorded_request_of_a_removed_model_has_its_failure_recorded() {
    let mut script = Script::ready(slots(1));
    let policy = Policy { persistence: Persistence::Record, ..Policy::default() };
    script.send(ask_with(1, policy)).send(REMOVED).check(expect![[r#"
        commit transaction 5: requests/1
        unload p1 from b1
    "#]]);
    script.send(Event::Committed { transaction: TransactionId(5) });
    script.send(Event::Committed { transaction: TransactionId(7) }).check(expect![[r#"
        commit transaction 7: requests/1
        fail r1: the model was removed
    "#]]);
}

#[test]
fn an_added_slot_is_launched_and_holds_every_model() {
    let mut script = Script::ready(slots(1));
    script.ask(1, 10).ask(2, 10).ask(3, 10).send(slot_added(Role::Regular)).up(2).loaded(2, 1);
    script.check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        dispatch x2 to b1 p1 e1: r2
        launch b2 in slot 1
        place p2 e1 of model 1 on b2 webgpu
        dispatch x3 to b2 p2 e1: r3
    "#]]);
    let status = script.fleet.status();
    assert_eq!(status.slots[1].slot, SlotId(1));
    script.send(slot_added(Role::Fallback)).check(expect![[r#""#]]);
}

#[test]
fn a_removed_slot_ends_its_runs_first() {
    let mut script = Script::ready(slots(2));
    script.ask(1, 10).ask(2, 10).send(slot_removed(0)).ask(3, 10).ask(4, 10).ask(5, 10);
    script.check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        dispatch x2 to b2 p2 e1: r2
        dispatch x3 to b2 p2 e1: r3
    "#]]);
    assert_eq!(script.fleet.status().slots[0].state, BrowserStage::Ready);
    script.done(1, 1).at(50_000).check(expect![[r#"
        answer r1 from x1
        kill b1: removed: test
    "#]]);
    let slot = &script.fleet.status().slots[0];
    assert_eq!((slot.state, slot.words.as_str()), (BrowserStage::Removed, "removed: test"));
    // Its index is not used again.
    script.send(slot_removed(0)).send(slot_removed(7)).send(slot_added(Role::Regular));
    script.check(expect![[r#"
        launch b3 in slot 2
    "#]]);
}

#[test]
fn a_removed_slot_that_starts_or_rests_is_ended_at_once() {
    let mut script = Script::new(slots(3));
    script.down(2, FailureKind::DriverUnresponsive).ask(1, 10).send(slot_removed(0));
    script.send(slot_removed(1)).up(1).at(10_000).send(slot_removed(2)).ask(2, 10);
    script.check(expect![[r#"
        launch b1 in slot 0
        launch b2 in slot 1
        launch b3 in slot 2
        kill b2: driver unresponsive: x
        kill b1: removed: test
        kill b3: removed: test
        fail r1: no browser can run this model: no browsers are configured
        fail r2: no browser can run this model: no browsers are configured
    "#]]);
}

#[test]
fn a_removed_slot_whose_run_hangs_is_not_reset() {
    let mut script = Script::ready(slots(2));
    script.ask(1, 10).send(slot_removed(0)).at(120_000).up(3).loaded(3, 1).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        abandon x1
        fail r1: deadline passed
        kill b1: took too long: run x1, after 120s
    "#]]);
}

#[test]
fn a_lease_on_a_removed_slot_ends_with_its_runs() {
    let mut script = Script::ready(slots(1));
    let (lease, deadline) = (LeaseId(1), later(50_000));
    script.send(Event::Acquire { lease, deadline });
    let policy = Policy { lease: Some(lease), ..Policy::default() };
    script.send(ask_with(1, policy)).send(slot_removed(0)).send(ask_with(2, policy));
    script.done(1, 1).check(expect![[r#"
        lease 1 has b1
        dispatch x1 to b1 p1 e1: r1
        fail r2: the browser of this task has ended
        answer r1 from x1
        kill b1: removed: test
        lease 1 has no browser: browser exited: removed: test
    "#]]);
}

#[test]
fn a_lease_that_was_promised_a_removed_slot_gets_another_one() {
    let mut script = Script::ready(slots(2));
    script.ask(1, 10).ask(2, 10).ask(3, 10);
    script.send(Event::Acquire { lease: LeaseId(1), deadline: later(50_000) });
    script.send(slot_removed(1)).done(2, 1).done(1, 1).done(3, 1).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        dispatch x2 to b2 p2 e1: r2
        dispatch x3 to b1 p1 e1: r3
        answer r2 from x2
        kill b2: removed: test
        answer r1 from x1
        answer r3 from x3
        lease 1 has b1
    "#]]);
}

#[test]
fn models_of_a_removed_slot_are_assigned_elsewhere() {
    let mut script = Script::new(Config { redundancy_factor: Some(1), ..slots(2) });
    script.up(1).up(2).loaded(1, 1).ask(1, 10).send(slot_removed(0)).ask(2, 10).loaded(2, 1);
    script.done(1, 1).check(expect![[r#"
        launch b1 in slot 0
        launch b2 in slot 1
        place p1 e1 of model 1 on b1 webgpu
        dispatch x1 to b1 p1 e1: r1
        place p2 e1 of model 1 on b2 webgpu
        dispatch x2 to b2 p2 e1: r2
        answer r1 from x1
        kill b1: removed: test
    "#]]);
}

#[test]
fn a_coordinated_request_does_not_wait_for_a_removed_slot() {
    let mut script = Script::ready(slots(2));
    let policy = Policy { strategy: Some(Strategy::Coordinated), ..Policy::default() };
    script.send(ask_with(1, policy)).down(1, FailureKind::BrowserExited).check(expect![[r#"
        dispatch x1 to b1 p1 e1: r1
        kill b1: browser exited: x
        launch b3 in slot 0
    "#]]);
    script.send(slot_removed(0)).check(expect![[r#"
        kill b3: removed: test
        dispatch x2 to b2 p2 e1: r1
    "#]]);
    let request = RequestId(1);
    script.send(Event::Cancel { request }).check(expect![[r#"
        abandon x2
    "#]]);
}
