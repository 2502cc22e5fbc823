//! Plays worlds and reports the results.

use std::{collections::BTreeMap, panic::AssertUnwindSafe};

use flotilla_fleet::{FailureKind, RecoveryStep, Repair};
use serde::{Serialize, Serializer};

use super::{
    durations::Durations,
    faults::What,
    invariants::{Invariant, Violation},
    plan::Plan,
    trace::Trace,
    world::{Core, World},
};

/// The results of one world, or of many: the same for the same seeds and plans.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Worlds that were played.
    pub worlds: u64,
    /// Virtual time in seconds.
    pub virtual_s: f64,
    /// Events that cores took.
    pub events: u64,
    /// Actions that they ordered.
    pub actions: u64,
    /// Times that a daemon was started.
    pub daemons: u64,
    /// What became of the requests.
    pub requests: Requests,
    /// What the store did.
    pub transactions: Transactions,
    /// Clients that wanted a browser for themselves.
    #[serde(rename = "tasks")]
    pub leases: u64,
    /// Models that were moved from one browser to another.
    pub migrations: u64,
    /// Virtual time from a request to its answer.
    pub latency: Durations,
    /// How often each fault was played.
    pub faults: BTreeMap<&'static str, u64>,
    /// Of all kinds.
    pub faults_fired: u64,
    /// Virtual time from a request's first failure to its answer, by what failed first and by the step that helped.
    #[serde(serialize_with = "as_rows")]
    pub recoveries: BTreeMap<(FailureKind, RecoveryStep), Durations>,
    /// Virtual time from a browser's failure to its next ready placement, by what failed and by the repair that helped.
    #[serde(serialize_with = "as_repairs")]
    pub repairs: BTreeMap<(FailureKind, Repair), Durations>,
    /// How often each invariant was looked at.
    pub invariants: BTreeMap<&'static str, u64>,
    /// Of all invariants.
    pub invariants_checked: u64,
    /// Digest of every event and action.
    #[serde(serialize_with = "as_hex")]
    pub trace: u64,
}

/// What became of requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Requests {
    /// Asked of a daemon.
    pub sent: u64,
    /// With results.
    pub answered: u64,
    /// With an error, by its kind.
    pub failed: BTreeMap<&'static str, u64>,
    /// The client had gone.
    pub cancelled: u64,
    /// Gone with a daemon that was killed, as they were not to be recorded.
    pub lost_with_daemon: u64,
    /// Found no daemon, so that they are not among those that were sent.
    pub unreachable: u64,
    /// Recorded before they ran.
    pub recorded: u64,
    /// Recorded by a daemon that was killed, and run by the next one.
    pub taken_over: u64,
    /// Given to their clients by the next daemon, from the record.
    pub from_record: u64,
    /// Not recorded yet when the daemon was killed, so that their clients asked anew.
    pub asked_again: u64,
}

/// What the store did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Transactions {
    /// On disk.
    pub confirmed: u64,
    /// Not written.
    pub refused: u64,
}

/// A world after its life.
#[derive(Clone, Debug)]
pub struct Played {
    /// What came of it.
    pub report: Report,
    /// The invariant that ended it, if one did.
    pub violation: Option<Violation>,
    /// Its events and actions.
    pub trace: Trace,
}

/// Plays a world to its end or to the first invariant that does not hold.
pub fn play<C: Core>(seed: u64, plan: Plan, keep_text: bool) -> Played {
    let mut world: World<C> = World::new(seed, plan, keep_text);
    // Nothing of a world that panicked is used but its counts and its trace.
    let life = std::panic::catch_unwind(AssertUnwindSafe(|| world.live()));
    let violation = match life {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation),
        Err(panic) => {
            let words = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("without words");
            Some(world.judge.broken(Invariant::NoPanic, format!("the core panicked: {words}")))
        }
    };
    Played { report: Report::of(&world), violation, trace: world.trace().clone() }
}

impl Report {
    fn of<C: Core>(world: &World<C>) -> Report {
        let tally = &world.clients.tally;
        let faults: BTreeMap<&'static str, u64> = world
            .fired
            .each()
            .filter(|&(_, times)| times > 0)
            .map(|(f, n)| (f.name(), n))
            .collect();
        let invariants: BTreeMap<&'static str, u64> = world
            .judge
            .each()
            .filter(|&(_, times)| times > 0)
            .map(|(i, n)| (i.name(), n))
            .collect();
        Report {
            worlds: 1,
            virtual_s: world.now().0.as_secs_f64(),
            events: world.events(),
            actions: world.actions(),
            daemons: world.daemons(),
            requests: Requests {
                sent: tally.sent,
                answered: tally.answered,
                failed: tally.failed.clone(),
                cancelled: tally.cancelled,
                lost_with_daemon: tally.lost,
                unreachable: tally.unreachable,
                recorded: tally.recorded,
                taken_over: tally.taken_over,
                from_record: tally.from_record,
                asked_again: tally.asked_again,
            },
            transactions: Transactions {
                confirmed: world.store.confirmed,
                refused: world.store.refused,
            },
            leases: world.operations,
            migrations: world.migrations_done,
            latency: tally.latency.clone(),
            faults_fired: faults.values().sum(),
            faults,
            recoveries: tally.recoveries.clone(),
            repairs: world.repairs.clone(),
            invariants_checked: invariants.values().sum(),
            invariants,
            trace: world.trace().digest(),
        }
    }

    /// Adds what came of another world; the order matters to the digest only.
    pub fn merge(&mut self, other: &Report) {
        self.worlds += other.worlds;
        self.virtual_s += other.virtual_s;
        self.events += other.events;
        self.actions += other.actions;
        self.daemons += other.daemons;
        self.requests.merge(&other.requests);
        self.latency.merge(&other.latency);
        merge_counts(&mut self.faults, &other.faults);
        self.faults_fired += other.faults_fired;
        for (&key, durations) in &other.recoveries {
            self.recoveries.entry(key).or_default().merge(durations);
        }
        for (&key, durations) in &other.repairs {
            self.repairs.entry(key).or_default().merge(durations);
        }
        self.transactions.confirmed += other.transactions.confirmed;
        self.transactions.refused += other.transactions.refused;
        self.leases += other.leases;
        self.migrations += other.migrations;
        merge_counts(&mut self.invariants, &other.invariants);
        self.invariants_checked += other.invariants_checked;
        self.trace = self.trace.rotate_left(5).wrapping_mul(31) ^ other.trace;
    }

    /// Faults that were never played.
    pub fn unplayed(&self) -> Vec<What> {
        What::ALL.into_iter().filter(|what| !self.faults.contains_key(what.name())).collect()
    }
}

impl Requests {
    fn merge(&mut self, other: &Requests) {
        self.sent += other.sent;
        self.answered += other.answered;
        merge_counts(&mut self.failed, &other.failed);
        self.cancelled += other.cancelled;
        self.lost_with_daemon += other.lost_with_daemon;
        self.unreachable += other.unreachable;
        self.recorded += other.recorded;
        self.taken_over += other.taken_over;
        self.from_record += other.from_record;
        self.asked_again += other.asked_again;
    }
}

fn merge_counts(into: &mut BTreeMap<&'static str, u64>, other: &BTreeMap<&'static str, u64>) {
    for (&name, count) in other {
        *into.entry(name).or_default() += count;
    }
}

/// A recovery as it is shown.
#[derive(Serialize)]
struct Row<'a> {
    failure: FailureKind,
    #[serde(rename = "rung")]
    step: RecoveryStep,
    #[serde(flatten)]
    took: &'a Durations,
}

fn as_rows<S: Serializer>(
    recoveries: &BTreeMap<(FailureKind, RecoveryStep), Durations>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(recoveries.iter().map(|(&(failure, step), took)| Row {
        failure,
        step,
        took,
    }))
}

/// A repair as it is shown.
#[derive(Serialize)]
struct RepairRow<'a> {
    failure: FailureKind,
    repair: Repair,
    #[serde(flatten)]
    took: &'a Durations,
}

fn as_repairs<S: Serializer>(
    repairs: &BTreeMap<(FailureKind, Repair), Durations>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(repairs.iter().map(|(&(failure, repair), took)| RepairRow {
        failure,
        repair,
        took,
    }))
}

fn as_hex<S: Serializer>(digest: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{digest:016x}"))
}
