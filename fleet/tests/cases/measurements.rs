//! Which backend is used where several are allowed.

use std::time::Duration;

use expect_test::expect;
use flotilla_fleet::{
    By, Choice, Config, Event, Failure, FailureKind, LeaseId, PlacementStage, Slot,
};
use flotilla_protocol::{Backend, BrowserId, RunId};

use super::script::{MODEL, Script, slots};

const ALL: [Backend; 3] = Backend::ALL;

/// Browsers that may use every backend and are to use the fastest.
fn fastest(count: usize) -> Config {
    let config = slots(count);
    let slot = Slot { backends: ALL.to_vec(), choice: Choice::Fastest, ..config.slots[0].clone() };
    Config { slots: vec![slot; count], ..config }
}

/// A run that measures took so long.
fn took(script: &mut Script, measure: u64, ms: u64) {
    let took = Duration::from_millis(ms);
    let (browser, measure) = (BrowserId(1), RunId(measure));
    script.send(Event::Measured { browser, measure, took });
}

/// Four runs that measure, the first of which does not count.
fn measured(script: &mut Script, first: u64, ms: u64) {
    took(script, first, ms * 3);
    for run in first + 1..first + 4 {
        took(script, run, ms);
    }
}

fn measure_failed(script: &mut Script, measure: u64, kind: FailureKind) {
    let failure = Failure::new(kind, "x");
    let (browser, measure) = (BrowserId(1), RunId(measure));
    script.send(Event::MeasureFailed { browser, measure, failure });
}

/// Where the model is in a slot, and why.
fn place(script: &Script, slot: usize) -> (Backend, PlacementStage, By) {
    let status = script.fleet.status();
    let [placement] = status.slots[slot].placements.as_slice() else { panic!("one placement") };
    (placement.backend, placement.state, placement.account.by.clone())
}

#[test]
fn every_backend_is_measured_beside_the_one_that_answers_and_the_fastest_stays() {
    let mut script = Script::new(fastest(1));
    script.up_with(1, &ALL).loaded(1, 1);
    assert_eq!(place(&script, 0), (Backend::WebGpu, PlacementStage::Ready, By::OrderForNow));
    script.check(expect![[r#"
        launch b1 in slot 0
        place p1 e1 of model 1 on b1 webgpu
        measure x1 of model 1 on b1 p1 e1
    "#]]);
    measured(&mut script, 1, 400);
    script.check(expect![[r#"
        measure x2 of model 1 on b1 p1 e1
        measure x3 of model 1 on b1 p1 e1
        measure x4 of model 1 on b1 p1 e1
        keep model 1 on b1 webgpu: 400ms
        place p2 e1 of model 1 on b1 webnn
    "#]]);
    // Requests that arrive meanwhile run on the loaded backend.
    script.ask(1, 10).done(5, 1).loaded(2, 1).check(expect![[r#"
        dispatch x5 to b1 p1 e1: r1
        answer r1 from x5
        measure x6 of model 1 on b1 p2 e1
    "#]]);
    script.ask(2, 10).check(expect![[r#"
        dispatch x7 to b1 p1 e1: r2
    "#]]);
    // A run of the old placement is not lost with it.
    took(&mut script, 6, 90);
    script.at(5000);
    took(&mut script, 8, 40);
    script.at(10_000);
    took(&mut script, 9, 37);
    script.at(15_000);
    took(&mut script, 10, 38);
    script.done(7, 1).check(expect![[r#"
        measure x8 of model 1 on b1 p2 e1
        measure x9 of model 1 on b1 p2 e1
        measure x10 of model 1 on b1 p2 e1
        keep model 1 on b1 webnn: 37ms
        answer r2 from x7
        unload p1 from b1
        place p3 e1 of model 1 on b1 cpu
    "#]]);
    // What takes more than twice as long is not run a third time.
    script.loaded(3, 1);
    took(&mut script, 11, 200);
    took(&mut script, 12, 170);
    script.ask(3, 10).check(expect![[r#"
        measure x11 of model 1 on b1 p3 e1
        measure x12 of model 1 on b1 p3 e1
        keep model 1 on b1 cpu: 170ms
        unload p3 from b1
        dispatch x13 to b1 p2 e1: r3
    "#]]);
    assert_eq!(place(&script, 0), (Backend::WebNn, PlacementStage::Ready, By::Speed));
    let status = script.fleet.status();
    let ms = |(backend, took): &(Backend, Duration)| (*backend, took.as_millis());
    let account = &status.slots[0].placements[0].account;
    let measured: Vec<_> = account.measured.iter().map(ms).collect();
    assert_eq!(measured, [(Backend::WebNn, 37), (Backend::Cpu, 170), (Backend::WebGpu, 400)]);
}

#[test]
fn of_backends_that_are_about_as_fast_the_first_of_the_list_is_used() {
    for (webnn_ms, want) in [(91, Backend::WebGpu), (90, Backend::WebNn)] {
        let mut script = Script::new(fastest(1));
        script.up_with(1, &[Backend::WebGpu, Backend::WebNn]).loaded(1, 1);
        measured(&mut script, 1, 100);
        script.loaded(2, 1);
        measured(&mut script, 5, webnn_ms);
        assert_eq!(place(&script, 0), (want, PlacementStage::Ready, By::Speed), "{webnn_ms} ms");
    }
}

#[test]
fn one_backend_is_not_measured() {
    let mut script = Script::new(fastest(1));
    script.up_with(1, &[Backend::Cpu]).loaded(1, 1).ask(1, 10).check(expect![[r#"
        launch b1 in slot 0
        place p1 e1 of model 1 on b1 cpu
        dispatch x1 to b1 p1 e1: r1
    "#]]);
    assert_eq!(place(&script, 0), (Backend::Cpu, PlacementStage::Ready, By::Only));
}

#[test]
fn what_is_measured_in_one_browser_is_true_of_those_like_it_and_of_their_successors() {
    let mut script = Script::new(fastest(2));
    script.up(1).up(2).loaded(1, 1).loaded(2, 1);
    measured(&mut script, 1, 400);
    script.loaded(3, 1);
    script.orders.clear();
    measured(&mut script, 5, 100);
    // The other one needs no measuring.
    script.loaded(4, 1).check(expect![[r#"
        measure x6 of model 1 on b1 p3 e1
        measure x7 of model 1 on b1 p3 e1
        measure x8 of model 1 on b1 p3 e1
        keep model 1 on b1 cpu: 100ms
        unload p1 from b1
        place p4 e1 of model 1 on b2 cpu
        unload p2 from b2
    "#]]);
    script.down(1, FailureKind::BrowserExited).up(3).loaded(5, 1).check(expect![[r#"
        kill b1: browser exited: x
        launch b3 in slot 0
        place p5 e1 of model 1 on b3 cpu
    "#]]);
    assert_eq!(place(&script, 0), (Backend::Cpu, PlacementStage::Ready, By::Speed));
}

#[test]
fn what_an_earlier_daemon_measured_is_not_measured_again() {
    let mut script = Script::new(fastest(1));
    for (backend, ms) in [(Backend::WebGpu, 440), (Backend::Cpu, 170), (Backend::WebNn, 37)] {
        let (browser, took) = (BrowserId(1), Duration::from_millis(ms));
        script.send(Event::SpeedKnown { browser, model: MODEL, backend, took });
    }
    // webnn was the fastest, and this page does not offer it.
    script.up(1).loaded(1, 1).check(expect![[r#"
        launch b1 in slot 0
        place p1 e1 of model 1 on b1 cpu
    "#]]);
    assert_eq!(place(&script, 0), (Backend::Cpu, PlacementStage::Ready, By::Speed));
}

#[test]
fn a_backend_that_cannot_be_loaded_or_measured_is_out_and_says_why() {
    let mut script = Script::new(fastest(1));
    script.up_with(1, &ALL).loaded(1, 1);
    measured(&mut script, 1, 400);
    script.load_failed(2, 1, FailureKind::UnsupportedOperation).loaded(3, 1);
    measure_failed(&mut script, 5, FailureKind::UnsupportedOperation);
    script.ask(1, 10).check(expect![[r#"
        launch b1 in slot 0
        place p1 e1 of model 1 on b1 webgpu
        measure x1 of model 1 on b1 p1 e1
        measure x2 of model 1 on b1 p1 e1
        measure x3 of model 1 on b1 p1 e1
        measure x4 of model 1 on b1 p1 e1
        keep model 1 on b1 webgpu: 400ms
        place p2 e1 of model 1 on b1 webnn
        unload p2 from b1
        place p3 e1 of model 1 on b1 cpu
        measure x5 of model 1 on b1 p3 e1
        unload p3 from b1
        dispatch x6 to b1 p1 e1: r1
    "#]]);
    let status = script.fleet.status();
    let account = &status.slots[0].placements[0].account;
    let refused: Vec<Backend> = account.refused.iter().map(|&(backend, _)| backend).collect();
    assert_eq!((&account.by, refused), (&By::Only, vec![Backend::WebNn, Backend::Cpu]));
}

#[test]
fn a_backend_that_answers_and_cannot_be_measured_gives_way() {
    let mut script = Script::new(fastest(1));
    script.up(1).loaded(1, 1).ask(1, 10);
    // What was sent to it is still answered by it.
    measure_failed(&mut script, 1, FailureKind::UnsupportedOperation);
    script.done(2, 1).loaded(2, 1).check(expect![[r#"
        launch b1 in slot 0
        place p1 e1 of model 1 on b1 webgpu
        measure x1 of model 1 on b1 p1 e1
        dispatch x2 to b1 p1 e1: r1
        place p2 e1 of model 1 on b1 cpu
        answer r1 from x2
        unload p1 from b1
    "#]]);
    assert_eq!(place(&script, 0), (Backend::Cpu, PlacementStage::Ready, By::Only));
}

#[test]
fn a_hung_measurement_costs_the_page_and_in_the_end_the_backend() {
    let mut script = Script::new(Config { load_restarts_max: 0, ..fastest(1) });
    script.up(1).loaded(1, 1);
    measured(&mut script, 1, 400);
    script.loaded(2, 1);
    script.orders.clear();
    script.at(120_000).check(expect![[r#"
        reset b1: took too long: run x5, which measures, after 120s
    "#]]);
    script.up(1).loaded(3, 1).at(200_000).check(expect![[r#"
        place p3 e1 of model 1 on b1 webgpu
    "#]]);
    let status = script.fleet.status();
    let account = &status.slots[0].placements[0].account;
    let [_, (Backend::Cpu, reason)] = account.refused.as_slice() else { panic!("{account:?}") };
    assert!(reason.contains("failed to be measured 1 times"), "{reason}");
}

#[test]
fn a_lost_context_costs_only_what_is_on_its_backend_and_the_choice_stays() {
    let mut script = Script::new(fastest(1));
    script.up_with(1, &[Backend::WebGpu, Backend::WebNn]).loaded(1, 1);
    measured(&mut script, 1, 400);
    script.loaded(2, 1);
    measured(&mut script, 5, 40);
    script.orders.clear();
    let lost =
        |backend| Event::DeviceLost { browser: BrowserId(1), backend, reason: "x".to_owned() };
    script.send(lost(Backend::WebGpu)).check(expect![[""]]);
    script.ask(1, 10).send(lost(Backend::WebNn)).loaded(2, 2).check(expect![[r#"
        dispatch x9 to b1 p2 e1: r1
        place p2 e2 of model 1 on b1 webnn
        dispatch x10 to b1 p2 e2: r1
    "#]]);
    assert_eq!(place(&script, 0), (Backend::WebNn, PlacementStage::Ready, By::Speed));
}

#[test]
fn a_device_that_is_lost_while_its_backend_is_measured_costs_nothing_else() {
    let mut script = Script::new(fastest(1));
    script.up_with(1, &[Backend::Cpu, Backend::WebGpu]);
    // The list's order is webgpu first; it answers, and webnn is not offered.
    script.loaded(1, 1);
    script.orders.clear();
    measure_failed(&mut script, 1, FailureKind::DeviceLost);
    script.check(expect![[r#"
        place p1 e2 of model 1 on b1 webgpu
    "#]]);
    script.loaded(1, 2).check(expect![[r#"
        measure x2 of model 1 on b1 p1 e2
    "#]]);
}

#[test]
fn a_model_without_an_input_keeps_the_first_backend() {
    let mut script = Script::new(fastest(1));
    script.up(1).loaded(1, 1);
    script.send(Event::Unmeasurable { model: MODEL, reason: "x".to_owned() }).at(50_000);
    script.check(expect![[r#"
        launch b1 in slot 0
        place p1 e1 of model 1 on b1 webgpu
        measure x1 of model 1 on b1 p1 e1
    "#]]);
    let want = By::Unmeasurable("x".to_owned());
    assert_eq!(place(&script, 0), (Backend::WebGpu, PlacementStage::Ready, want));
}

#[test]
fn measurements_do_not_delay_a_lease() {
    let mut script = Script::new(fastest(1));
    script.up(1).loaded(1, 1);
    let deadline = flotilla_fleet::Instant(Duration::from_secs(60));
    script.send(Event::Acquire { lease: LeaseId(1), deadline }).check(expect![[r#"
        launch b1 in slot 0
        place p1 e1 of model 1 on b1 webgpu
        measure x1 of model 1 on b1 p1 e1
    "#]]);
    took(&mut script, 1, 100);
    script.check(expect![[r#"
        lease 1 has b1
    "#]]);
    script.send(Event::Release { lease: LeaseId(1) }).check(expect![[r#"
        measure x2 of model 1 on b1 p1 e1
    "#]]);
}
