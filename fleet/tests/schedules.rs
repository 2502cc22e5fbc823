//! Random schedules of faults in virtual time.
//!
//! A failure prints its seed; `FLEET_SEED=<seed> cargo test -p flotilla-fleet --test schedules <test>` plays it alone
//! and prints what was said.

mod world;

use std::{collections::BTreeMap, panic::AssertUnwindSafe, time::Duration};

use flotilla_fleet::{Batching, Config, Instant, ModelId, RequestError, Role, Slot};
use flotilla_protocol::Backend;

use self::world::{Faults, Outcome, Plan, Random, World};

const SEEDS: u64 = 200;

fn slot(index: u64) -> Slot {
    let backends = match index % 3 {
        0 => vec![Backend::WebGpu, Backend::Cpu],
        1 => vec![Backend::Cpu],
        _ => vec![Backend::WebNn, Backend::Cpu, Backend::WebGpu],
    };
    Slot { kind: format!("kind{index}"), backends, role: Role::Regular }
}

fn plan(random: &mut Random) -> Plan {
    let config = Config {
        slots: (0..random.range(1, 4)).map(slot).collect(),
        queue_max: random.range(5, 100) as u32,
        runs_in_flight_max: random.range(1, 3) as u32,
        batch_delay: random.ms(0, 20),
        start_timeout: Duration::from_secs(5),
        load_timeout: Duration::from_secs(5),
        run_timeout: Duration::from_secs(10),
        heartbeat_timeout: Duration::from_secs(4),
        restarts_max: random.range(1, 8) as u32,
        restart_delay: random.ms(1, 1000),
        load_restarts_max: random.range(0, 2) as u32,
        suspect_after: Duration::from_secs(2),
        straggler_factor: random.range(2, 20) as u32,
        straggler_min: random.ms(200, 5000),
        reset_timeout: Duration::from_secs(5),
        probe_interval: random.ms(500, 20_000),
        probe_timeout: random.ms(500, 3000),
        recycle_jobs: random.chance(20).then(|| random.range(1, 20)),
        recycle_age: random.chance(20).then(|| random.ms(2000, 20_000)),
        redundancy_factor: random.chance(50).then(|| random.range(1, 3) as u32),
        ..Config::default()
    };
    let models = (0..random.range(1, 3))
        .map(|model| {
            let (rows_max, tokens_max) =
                (random.range(1, 16) as u32, random.range(100, 2000) as u32);
            (ModelId(model as u32), Batching { rows_max, tokens_max })
        })
        .collect();
    let second_drain = random.chance(30).then(|| random.ms(0, 5000));
    Plan {
        config,
        models,
        faults: Faults::default(),
        requests: random.range(20, 200),
        span: random.ms(1000, 60_000),
        healed_at: Instant(Duration::MAX),
        second_drain,
    }
}

/// Plays every seed, or the one that is asked for; says which failed and how often each fault was played.
fn play(
    plan: impl Fn(&mut Random) -> Plan,
    judge: impl Fn(&World, &[(Instant, Outcome)]),
) -> BTreeMap<&'static str, u64> {
    let asked: Option<u64> =
        std::env::var("FLEET_SEED").ok().map(|seed| seed.parse().expect("FLEET_SEED is a number"));
    let mut fired = BTreeMap::new();
    for seed in asked.map_or(0..SEEDS, |seed| seed..seed + 1) {
        let mut world = World::new(seed, plan(&mut Random::new(!seed)));
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let outcomes = world.live();
            judge(&world, &outcomes);
        }));
        if let Err(panic) = outcome {
            if asked.is_some() {
                eprintln!("{}", world.trace.join("\n"));
            }
            eprintln!("FLEET_SEED={seed} replays this");
            std::panic::resume_unwind(panic);
        }
        for (name, times) in &world.fired {
            *fired.entry(*name).or_default() += times;
        }
    }
    if asked.is_some() {
        // One seed alone need not play every fault.
        fired.clear();
    }
    fired
}

fn assert_fired(fired: &BTreeMap<&'static str, u64>, names: &[&str]) {
    for name in names {
        assert!(
            std::env::var("FLEET_SEED").is_ok() || fired.get(name).is_some_and(|&times| times > 0),
            "no schedule played {name}"
        );
    }
}

#[test]
fn without_faults_every_request_is_answered_at_once() {
    play(
        |random| {
            let mut plan = plan(random);
            plan.config.queue_max = 1000;
            plan.second_drain = None;
            plan
        },
        |_, outcomes| {
            for (_, outcome) in outcomes {
                let fine = match outcome {
                    Outcome::Answered { attempts } => *attempts == 0,
                    Outcome::Failed(RequestError::Draining) => true,
                    _ => false,
                };
                assert!(fine, "{outcome:?} without a fault");
            }
        },
    );
}

#[test]
fn under_every_fault_each_request_ends_once_and_the_fleet_drains() {
    let fired = play(
        |random| {
            let mut plan = plan(random);
            // Some schedules are quiet, some have no good moment.
            let worst = random.range(1, 30);
            let mut percent = || random.range(0, worst);
            plan.faults = Faults {
                start_fails: percent(),
                start_hangs: percent() / 2,
                goes_silent: percent() / 4,
                crashes: percent() * 2,
                load_fails: percent(),
                load_hangs: percent() / 4,
                load_unsupported: percent(),
                run_fails: percent(),
                run_hangs: percent() / 4,
                run_slow: percent() / 4,
                device_lost: percent() * 2,
                stale_reports: percent() * 2,
                clients_cancel: percent(),
                deadlines_short: percent(),
            };
            plan
        },
        |_, _| {},
    );
    assert_fired(
        &fired,
        &[
            "start_fails",
            "start_hangs",
            "goes_silent",
            "crashes",
            "load_fails",
            "load_hangs",
            "load_unsupported",
            "run_fails",
            "run_hangs",
            "run_slow",
            "device_lost",
            "stale_reports",
            "clients_cancel",
            "deadlines_short",
        ],
    );
}

#[test]
fn after_healing_every_request_is_answered_at_once() {
    let healed = Duration::from_secs(60);
    let settled = Instant(healed + Duration::from_secs(90));
    let fired = play(
        |random| {
            let mut plan = plan(random);
            plan.config.queue_max = 1000;
            // Nothing is given up for good, so all must come back.
            plan.config.restarts_max = 100;
            plan.config.load_restarts_max = 100;
            plan.second_drain = None;
            plan.span = Duration::from_secs(300);
            plan.healed_at = Instant(healed);
            plan.faults = Faults {
                start_fails: 30,
                start_hangs: 10,
                goes_silent: 2,
                crashes: 30,
                load_fails: 30,
                load_hangs: 5,
                run_fails: 20,
                run_hangs: 5,
                device_lost: 30,
                ..Faults::default()
            };
            plan
        },
        |_, outcomes| {
            for (_, outcome) in outcomes.iter().filter(|&&(asked_at, _)| asked_at > settled) {
                let fine = match outcome {
                    Outcome::Answered { attempts } => *attempts == 0,
                    Outcome::Failed(RequestError::Draining) => true,
                    _ => false,
                };
                assert!(fine, "{outcome:?} after every fault has ended");
            }
        },
    );
    assert_fired(
        &fired,
        &["start_fails", "crashes", "load_fails", "run_fails", "run_hangs", "device_lost"],
    );
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let trace = |seed| {
        let mut random = Random::new(seed);
        let mut plan = plan(&mut random);
        plan.faults = Faults { crashes: 30, run_fails: 20, load_fails: 10, ..Faults::default() };
        let mut world = World::new(seed, plan);
        world.live();
        world.trace
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}
