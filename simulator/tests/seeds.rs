//! Simulations from seeds: the fleet core passes all of them, and cores that are broken on purpose do not.
//!
//! A failure prints how to replay its seed alone: `FLEET_SEED=<seed>` runs that one and prints its events and actions.

use flotilla_fleet::Fleet;
use flotilla_simulator::{
    Core, Invariant, Plan, Report, Simulated, broken,
    defects::{self, Defective},
    simulate,
};

const SEEDS: u64 = 200;

fn seed_to_replay() -> Option<u64> {
    std::env::var("FLEET_SEED").ok().map(|seed| seed.parse().expect("FLEET_SEED is a number"))
}

#[test]
fn the_fleet_passes_every_seed() {
    let replayed = seed_to_replay();
    let mut report = Report::default();
    for seed in replayed.map_or(0..SEEDS, |seed| seed..seed + 1) {
        let played: Simulated = simulate::<Fleet>(seed, Plan::drawn(seed), replayed.is_some());
        if replayed.is_some() {
            eprintln!("{}", played.trace.text().join("\n"));
        }
        if let Some(violation) = played.violation {
            panic!(
                "{violation}\nFLEET_SEED={seed} replays this, and so does flotilla simulate --seed {seed}"
            );
        }
        report.merge(&played.report);
    }
    if replayed.is_none() {
        assert_eq!(report.missing_faults(), [], "faults that were never injected");
        let refused = report.requests.failed.get("overloaded").copied().unwrap_or(0);
        let accepted = report.requests.sent - refused;
        assert!(report.requests.answered > accepted / 2, "{:?}", report.requests);
        let unchecked: Vec<Invariant> = Invariant::ALL
            .into_iter()
            .filter(|invariant| *invariant != Invariant::NoPanic)
            .filter(|invariant| !report.invariants.contains_key(invariant.name()))
            .collect();
        assert_eq!(unchecked, [], "invariants that were never checked");
    }
}

/// An invariant catches a core if the run of at least one seed ends with it. With other seeds other invariants may fail first,
/// because one defect soon causes others.
fn assert_caught<C: Core>(by: Invariant) {
    let violations =
        (0..SEEDS).filter_map(|seed| simulate::<C>(seed, Plan::drawn(seed), false).violation);
    let mut others = Vec::new();
    for violation in violations {
        if violation.invariant == by {
            return;
        }
        others.push(violation.to_string());
    }
    panic!("{} is not caught by {by:?}, but by {others:?}", std::any::type_name::<C>());
}

/// One test for each broken core, and the list of the invariants that they break.
macro_rules! broken_cores {
    ($($test:ident: $core:ty => $invariant:ident,)*) => {
        $(#[test]
        fn $test() {
            assert_caught::<$core>(Invariant::$invariant);
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
    first_daemon: broken::FirstDaemon => FreshIds,
    early_unload: broken::EarlyUnload => Available,
    forgotten_retry: broken::ForgottenRetry => Counts,
    duplicate_answers: Defective<defects::DuplicateAnswers> => OneAnswer,
    wrong_placement: Defective<defects::WrongPlacement> => KnownTarget,
    same_browser_id: Defective<defects::SameBrowserId> => FreshIds,
    no_run_limit: Defective<defects::NoRunLimit> => RunLimits,
    missing_recovery_step: Defective<defects::MissingRecoveryStep> => Budgets,
    never_abandons: Defective<defects::NeverAbandons> => Abandoned,
    late_deadlines: Defective<defects::LateDeadlines> => Deadline,
    long_batch_delay: Defective<defects::LongBatchDelay> => Starvation,
    old_versions: Defective<defects::OldVersions> => Versions,
    ignores_leases: Defective<defects::IgnoresLeases> => Exclusive,
    unreported_leases: Defective<defects::UnreportedLeases> => Leases,
    unrequested_fallback: Defective<defects::UnrequestedFallback> => Fallback,
    duplicate_migrations: Defective<defects::DuplicateMigrations> => Migrations,
    serves_removed_models: Defective<defects::ServesRemovedModels> => RemovedModels,
    keeps_removed_slots: Defective<defects::KeepsRemovedSlots> => RemovedSlots,
    ignores_added_slots: Defective<defects::IgnoresAddedSlots> => AddedSlots,
    ignores_failures: Defective<defects::IgnoresFailures> => DeadBrowsers,
    wrong_count: Defective<defects::WrongCount> => Counts,
    memory_leak: Defective<defects::MemoryLeak> => Memory,
    busy_loop: Defective<defects::BusyLoop> => Progress,
    always_retries: Defective<defects::AlwaysRetries> => Healed,
    accepts_stale_failures: Defective<defects::AcceptsStaleFailures> => StaleReports,
    duplicate_drained: Defective<defects::DuplicateDrained> => Drained,
    panics: Defective<defects::Panics> => NoPanic,
    reused_epoch: Defective<defects::ReusedEpoch> => OneOwner,
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 4, 9] {
        let text = |seed| simulate::<Fleet>(seed, Plan::drawn(seed), true).trace.text().to_vec();
        assert_eq!(text(seed), text(seed), "seed {seed}");
        let report = |keep_text| simulate::<Fleet>(seed, Plan::drawn(seed), keep_text).report;
        assert_eq!(report(false), report(true), "seed {seed}");
        assert_ne!(text(seed), text(seed + 1));
    }
}
