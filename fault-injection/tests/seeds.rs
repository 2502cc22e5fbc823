//! Worlds that are drawn from seeds: the fleet lives through all of them, and cores that are broken on purpose do not.
//!
//! A failure says how to play its seed alone: `FLEET_SEED=<seed>` plays that one and prints what was said.

use flotilla_fault_injection::simulator::{Core, Invariant, Plan, Played, Report, broken, play};
use flotilla_fleet::Fleet;

const SEEDS: u64 = 200;

fn asked() -> Option<u64> {
    std::env::var("FLEET_SEED").ok().map(|seed| seed.parse().expect("FLEET_SEED is a number"))
}

#[test]
fn the_fleet_lives_through_every_seed() {
    let asked = asked();
    let mut report = Report::default();
    for seed in asked.map_or(0..SEEDS, |seed| seed..seed + 1) {
        let played: Played = play::<Fleet>(seed, Plan::drawn(seed), asked.is_some());
        if asked.is_some() {
            eprintln!("{}", played.trace.text().join("\n"));
        }
        if let Some(violation) = played.violation {
            panic!(
                "{violation}\nFLEET_SEED={seed} replays this, and so does flotilla simulate --seed {seed}"
            );
        }
        report.merge(&played.report);
    }
    if asked.is_none() {
        assert_eq!(report.unplayed(), [], "faults that no world played");
        let refused = report.requests.failed.get("overloaded").copied().unwrap_or(0);
        let accepted = report.requests.sent - refused;
        assert!(report.requests.answered > accepted / 2, "{:?}", report.requests);
        let unchecked: Vec<Invariant> = Invariant::ALL
            .into_iter()
            .filter(|invariant| *invariant != Invariant::NoPanic)
            .filter(|invariant| !report.invariants.contains_key(invariant.name()))
            .collect();
        assert_eq!(unchecked, [], "invariants that nobody looked at");
    }
}

/// A core is found out when one of the seeds shows what is broken in it. Other invariants may fail first elsewhere: what is
/// wrong in one place is soon wrong in others.
fn found_out<C: Core>(by: &[Invariant]) {
    let violations =
        (0..SEEDS).filter_map(|seed| play::<C>(seed, Plan::drawn(seed), false).violation);
    let mut others = Vec::new();
    for violation in violations {
        if by.contains(&violation.invariant) {
            return;
        }
        others.push(violation.to_string());
    }
    panic!("{} is not found out by {by:?}, but by {others:?}", std::any::type_name::<C>());
}

#[test]
fn a_core_without_epoch_checks_is_found_out() {
    found_out::<broken::NoEpochCheck>(&[Invariant::AnswerFromResults, Invariant::StaleReports]);
}

#[test]
fn a_core_that_forgets_a_retry_is_found_out() {
    found_out::<broken::ForgottenRetry>(&[Invariant::Counts, Invariant::OneAnswer]);
}

#[test]
fn a_core_that_assigns_twice_is_found_out() {
    found_out::<broken::DoubleAssignment>(&[Invariant::OneRun]);
}

#[test]
fn a_core_that_loses_commits_is_found_out() {
    found_out::<broken::LostCommit>(&[Invariant::RecordedFirst]);
}

#[test]
fn a_core_with_an_unbounded_queue_is_found_out() {
    found_out::<broken::UnboundedQueue>(&[Invariant::QueueLimit]);
}

#[test]
fn a_core_that_takes_away_what_answers_is_found_out() {
    found_out::<broken::HastySwitch>(&[Invariant::Available]);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 4, 9] {
        let text = |seed| play::<Fleet>(seed, Plan::drawn(seed), true).trace.text().to_vec();
        assert_eq!(text(seed), text(seed), "seed {seed}");
        let report = |keep_text| play::<Fleet>(seed, Plan::drawn(seed), keep_text).report;
        assert_eq!(report(false), report(true), "seed {seed}");
        assert_ne!(text(seed), text(seed + 1));
    }
}
