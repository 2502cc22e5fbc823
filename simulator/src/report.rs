//! Runs simulations and reports the results.

use std::{collections::BTreeMap, panic::AssertUnwindSafe};

use flotilla_fleet::{FailureKind, RecoveryStep, Repair};
use serde::{Serialize, Serializer};

use crate::{
    core::Core,
    durations::Durations,
    faults::FaultKind,
    invariants::{Invariant, Violation},
    plan::Plan,
    simulation::Simulation,
    trace::Trace,
};

/// The results of one simulation, or of many: the same for the same seeds and plans.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Number of simulations.
    pub worlds: u64,
    /// Virtual time in seconds.
    pub virtual_s: f64,
    /// Events that the core handled.
    pub events: u64,
    /// Actions that the core emitted.
    pub actions: u64,
    /// Number of starts of a daemon.
    pub daemons: u64,
    /// What became of the requests.
    pub requests: Requests,
    /// What the store did.
    pub transactions: Transactions,
    /// Requested leases.
    #[serde(rename = "tasks")]
    pub leases: u64,
    /// Migrations that succeeded.
    pub migrations: u64,
    /// Virtual time from a request to its answer.
    pub latency: Durations,
    /// How often each fault was injected.
    pub faults: BTreeMap<&'static str, u64>,
    /// Sum of `faults`.
    pub faults_fired: u64,
    /// Virtual time from a request's first failure to its answer, by what failed first and by the step that helped.
    #[serde(serialize_with = "as_rows")]
    pub recoveries: BTreeMap<(FailureKind, RecoveryStep), Durations>,
    /// Virtual time from a browser's failure to its next ready placement, by what failed and by the repair that helped.
    #[serde(serialize_with = "as_repairs")]
    pub repairs: BTreeMap<(FailureKind, Repair), Durations>,
    /// How often each invariant was checked.
    pub invariants: BTreeMap<&'static str, u64>,
    /// Sum of `invariants`.
    pub invariants_checked: u64,
    /// Digest of every event and action.
    #[serde(serialize_with = "as_hex")]
    pub trace: u64,
}

/// What became of requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Requests {
    /// Sent to a daemon.
    pub sent: u64,
    /// With results.
    pub answered: u64,
    /// With an error, by its kind.
    pub failed: BTreeMap<&'static str, u64>,
    /// Cancelled by the client.
    pub cancelled: u64,
    /// Lost with a killed daemon because they were not to be recorded.
    pub lost_with_daemon: u64,
    /// Not sent because no daemon was running.
    pub unreachable: u64,
    /// Recorded before they ran.
    pub recorded: u64,
    /// Recorded by a killed daemon and resumed by the next one.
    pub taken_over: u64,
    /// Recorded outcomes that the next daemon gave to repeated requests.
    pub from_record: u64,
    /// Not recorded yet when the daemon was killed, and sent again by their clients.
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

/// A simulation that has ended.
#[derive(Clone, Debug)]
pub struct Simulated {
    /// Its results.
    pub report: Report,
    /// The invariant that ended it, if one did.
    pub violation: Option<Violation>,
    /// Its events and actions.
    pub trace: Trace,
}

/// Runs a simulation to its end or to the first invariant that does not hold.
pub fn simulate<C: Core>(seed: u64, plan: Plan, keep_text: bool) -> Simulated {
    let mut simulation: Simulation<C> = Simulation::new(seed, plan, keep_text);
    // Of a simulation that panicked only counts and trace are used.
    let ended = std::panic::catch_unwind(AssertUnwindSafe(|| simulation.run()));
    let violation = match ended {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation),
        Err(panic) => {
            let message = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Some(
                simulation
                    .checker
                    .violation(Invariant::NoPanic, format!("the core panicked: {message}")),
            )
        }
    };
    Simulated { report: Report::of(&simulation), violation, trace: simulation.trace().clone() }
}

impl Report {
    fn of<C: Core>(simulation: &Simulation<C>) -> Report {
        let counts = &simulation.clients.counts;
        let faults: BTreeMap<&'static str, u64> = simulation
            .fault_counts
            .each()
            .filter(|&(_, times)| times > 0)
            .map(|(f, n)| (f.name(), n))
            .collect();
        let invariants: BTreeMap<&'static str, u64> = simulation
            .checker
            .each()
            .filter(|&(_, times)| times > 0)
            .map(|(i, n)| (i.name(), n))
            .collect();
        Report {
            worlds: 1,
            virtual_s: simulation.now().0.as_secs_f64(),
            events: simulation.events(),
            actions: simulation.actions(),
            daemons: simulation.daemons(),
            requests: Requests {
                sent: counts.sent,
                answered: counts.answered,
                failed: counts.failed.clone(),
                cancelled: counts.cancelled,
                lost_with_daemon: counts.lost,
                unreachable: counts.unreachable,
                recorded: counts.recorded,
                taken_over: counts.taken_over,
                from_record: counts.from_record,
                asked_again: counts.asked_again,
            },
            transactions: Transactions {
                confirmed: simulation.store.confirmed,
                refused: simulation.store.refused,
            },
            leases: simulation.operations,
            migrations: simulation.migrations_done,
            latency: counts.latency.clone(),
            faults_fired: faults.values().sum(),
            faults,
            recoveries: counts.recoveries.clone(),
            repairs: simulation.repairs.clone(),
            invariants_checked: invariants.values().sum(),
            invariants,
            trace: simulation.trace().digest(),
        }
    }

    /// Adds the results of another simulation; only the digest depends on the order.
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

    /// Faults that were never injected.
    pub fn missing_faults(&self) -> Vec<FaultKind> {
        FaultKind::ALL.into_iter().filter(|what| !self.faults.contains_key(what.name())).collect()
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

/// A row of `recoveries` in JSON.
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

/// A row of `repairs` in JSON.
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
