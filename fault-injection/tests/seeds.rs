//! Simulations from seeds: the fleet core passes all of them, and cores that are broken on purpose do not.
//!
//! A failure prints how to replay its seed alone: `FLEET_SEED=<seed>` runs that one and prints its events and actions.

use flotilla_fault_injection::simulator::{
    Core, Invariant, Plan, Played, Report, broken,
    distorted::{self, Distorted},
    play,
};
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

/// An invariant catches a core if the run of at least one seed ends with it. With other seeds other invariants may fail first,
/// because one defect soon causes others.
fn found_out<C: Core>(by: Invariant) {
    let violations =
        (0..SEEDS).filter_map(|seed| play::<C>(seed, Plan::drawn(seed), false).violation);
    let mut others = Vec::new();
    for violation in violations {
        if violation.invariant == by {
            return;
        }
        others.push(violation.to_string());
    }
    panic!("{} is not found out by {by:?}, but by {others:?}", std::any::type_name::<C>());
}

/// One test for each broken core, and the list of the invariants that they break.
macro_rules! broken_cores {
    ($($test:ident: $core:ty => $invariant:ident,)*) => {
        $(#[test]
        fn $test() {
            found_out::<$core>(Invariant::$invariant);
        })*

        #[test]
        fn every_invariant_is_broken_by_a_core() {
            let broken = [$(Invariant::$invariant),*];
            let unbroken: Vec<Invariant> =
                Invariant::ALL.into_iter().filter(|invariant| !broken.contains(invariant)).collect();
            assert_eq!(unbroken, []);
        }
    };
}

broken_cores! {
    no_epoch_check: broken::NoEpochCheck => AnswerFromResults,
    no_browser_check: broken::NoBrowserCheck => AnswerFromResults,
    double_assignment: broken::DoubleAssignment => OneRun,
    lost_commit: broken::LostCommit => RecordedFirst,
    unbounded_queue: broken::UnboundedQueue => QueueLimit,
    hasty_switch: broken::HastySwitch => Available,
    forgotten_retry: broken::ForgottenRetry => Counts,
    answers_twice: Distorted<distorted::AnswersTwice> => OneAnswer,
    misses_its_target: Distorted<distorted::MissesItsTarget> => KnownTarget,
    one_name: Distorted<distorted::OneName> => FreshIds,
    no_run_limit: Distorted<distorted::NoRunLimit> => RunLimits,
    unnamed_step: Distorted<distorted::UnnamedStep> => Budgets,
    abandons_nothing: Distorted<distorted::AbandonsNothing> => Abandoned,
    late: Distorted<distorted::Late> => Deadline,
    hesitates: Distorted<distorted::Hesitates> => Starvation,
    old_versions: Distorted<distorted::OldVersions> => Versions,
    shares_leases: Distorted<distorted::SharesLeases> => Exclusive,
    keeps_browsers: Distorted<distorted::KeepsBrowsers> => Leases,
    simulates_for_all: Distorted<distorted::SimulatesForAll> => Fallback,
    migrates_twice: Distorted<distorted::MigratesTwice> => Migrations,
    serves_removed_models: Distorted<distorted::ServesRemovedModels> => RemovedModels,
    keeps_removed_slots: Distorted<distorted::KeepsRemovedSlots> => RemovedSlots,
    ignores_added_slots: Distorted<distorted::IgnoresAddedSlots> => AddedSlots,
    ignores_failures: Distorted<distorted::IgnoresFailures> => DeadBrowsers,
    miscounts: Distorted<distorted::Miscounts> => Counts,
    hoards: Distorted<distorted::Hoards> => Memory,
    spins: Distorted<distorted::Spins> => Progress,
    needs_two: Distorted<distorted::NeedsTwo> => Healed,
    believes_stale_failures: Distorted<distorted::BelievesStaleFailures> => StaleReports,
    drains_twice: Distorted<distorted::DrainsTwice> => Drained,
    panics: Distorted<distorted::Panics> => NoPanic,
    stays_in_its_epoch: Distorted<distorted::StaysInItsEpoch> => OneOwner,
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
