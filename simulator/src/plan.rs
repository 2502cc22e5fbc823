//! Inputs of a simulation: the fleet, its models, its load and its faults.

use std::{collections::BTreeMap, time::Duration};

use flotilla_fleet::{Batching, Choice, Config, Instant, ModelId, Role, Slot, SlotId, Strategy};
use flotilla_protocol::Backend;

use crate::{
    faults::{Fault, FaultKind},
    random::Random,
};

/// Everything about a simulation except its random numbers.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The core's configuration.
    pub config: Config,
    /// Models that are added in the first seconds.
    pub models: BTreeMap<ModelId, Batching>,
    /// The requests.
    pub load: Load,
    /// The faults.
    pub faults: Vec<Fault>,
    /// Interval of the heartbeats of a browser.
    pub heartbeat: Duration,
    /// When the drain begins.
    pub end: Duration,
    /// Time from the first order to drain to the second one.
    pub second_drain: Option<Duration>,
    /// What is guaranteed to requests.
    pub guarantee: Option<Guarantee>,
    /// The core's whole status is compared with the simulation after this many events.
    pub sweep_every: u64,
}

/// The load: how many requests, of what size.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// Requests per second, on average.
    pub per_second: f64,
    /// Time of the first request.
    pub from: Duration,
    /// Rows of a request, at most.
    pub rows_max: u64,
    /// Tokens of a row, at most.
    pub length_max: u64,
    /// Shortest and longest deadline of a request, unless the fault of short deadlines happens.
    pub patience: (Duration, Duration),
    /// Percent of the requests that are to be recorded.
    pub recorded_percent: f64,
    /// Percent of the requests that a simulated browser may answer as the last resort.
    pub simulated_percent: f64,
    /// Percent of the requests that limit the time of their recovery.
    pub recovery_limit_percent: f64,
    /// Commands of operators per hour.
    pub operations_per_hour: f64,
}

/// Requests from some time on are answered at the first attempt and soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guarantee {
    /// Time of the first request with the guarantee.
    pub from: Instant,
    /// Longest time to the answer.
    pub within: Duration,
}

/// When a seed has faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FaultProfile {
    /// No faults.
    NoFaults,
    /// Many faults, which end at some time.
    Healing,
    /// Faults until the end.
    Faults,
}

impl Plan {
    /// A small fleet with load and faults, all drawn from a seed.
    ///
    /// Some plans have no faults, in some all faults end; these two kinds guarantee answers.
    pub fn drawn(seed: u64) -> Plan {
        // The simulation draws from the seed itself; the plan must not use the same numbers.
        let mut random = Random::new(!seed);
        let profile = match seed % 8 {
            0 => FaultProfile::NoFaults,
            1 | 2 => FaultProfile::Healing,
            _ => FaultProfile::Faults,
        };
        let mut plan = Plan::small(&mut random);
        match profile {
            FaultProfile::NoFaults => plan.guarantee(Instant(plan.load.from), plan.load.patience.0),
            FaultProfile::Healing => plan.heal(&mut random),
            FaultProfile::Faults => {
                plan.faults = random_faults(&mut random);
                plan.load.operations_per_hour = random.range(0, 1000) as f64;
            }
        }
        plan
    }

    /// A fleet of this many browsers for this long, under faults such as a large fleet has every day.
    pub fn sized(browsers: u32, duration: Duration, per_second: f64) -> Plan {
        let config = Config {
            slots: (0..u64::from(browsers)).map(|index| slot(index, Choice::Fastest)).collect(),
            suspect_after: Duration::from_secs(12),
            heartbeat_timeout: Duration::from_secs(20),
            memory_bytes_max: Some(2 << 30),
            redundancy_factor: None,
            // A slot is not given up in a day of faults.
            restarts_max: u32::MAX,
            load_restarts_max: u32::MAX,
            ..Config::default()
        };
        let models = [(8, 1024), (32, 4096)]
            .into_iter()
            .zip(0..)
            .map(|((rows_max, tokens_max), model)| {
                (ModelId(model), Batching { rows_max, tokens_max })
            })
            .collect();
        Plan {
            config,
            models,
            load: Load {
                per_second,
                from: Duration::from_secs(10),
                rows_max: 3,
                length_max: 200,
                patience: (Duration::from_secs(60), Duration::from_secs(120)),
                recorded_percent: 5.0,
                simulated_percent: 5.0,
                recovery_limit_percent: 5.0,
                operations_per_hour: 60.0,
            },
            faults: daily_faults(),
            heartbeat: Duration::from_secs(5),
            end: duration,
            second_drain: None,
            guarantee: None,
            sweep_every: 4096,
        }
    }

    fn small(random: &mut Random) -> Plan {
        let choice = match random.chance(70.0) {
            true => Choice::Fastest,
            false => Choice::First,
        };
        let mut slots: Vec<Slot> =
            (0..random.range(1, 4)).map(|index| slot(index, choice)).collect();
        if random.chance(30.0) {
            slots.push(Slot {
                kind: "simulated".to_owned(),
                backends: vec![Backend::Cpu],
                choice: Choice::First,
                role: Role::Fallback,
            });
        }
        let config = Config {
            slots,
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
            memory_bytes_max: random.chance(70.0).then_some(1 << 30),
            recycle_jobs: random.chance(20.0).then(|| random.range(1, 20)),
            recycle_age: random.chance(20.0).then(|| random.ms(2000, 20_000)),
            workers_max: random.chance(30.0).then(|| random.range(1, 3) as u32),
            worker_slots: random.chance(20.0).then(|| vec![SlotId(0)]),
            strategy: random.one_of(&Strategy::ALL).unwrap_or_default(),
            redundancy_factor: random.chance(50.0).then(|| random.range(1, 3) as u32),
            ..Config::default()
        };
        let models = (0..random.range(1, 3))
            .map(|model| {
                let (rows_max, tokens_max) =
                    (random.range(1, 16) as u32, random.range(100, 2000) as u32);
                (ModelId(model as u32), Batching { rows_max, tokens_max })
            })
            .collect();
        let (requests, span) = (random.range(20, 200), random.ms(1000, 60_000));
        let from = Duration::from_secs(2);
        Plan {
            config,
            models,
            load: Load {
                per_second: requests as f64 / span.as_secs_f64(),
                from,
                rows_max: 3,
                length_max: 200,
                patience: (Duration::from_secs(60), Duration::from_secs(120)),
                recorded_percent: random.range(0, 40) as f64,
                simulated_percent: random.range(0, 40) as f64,
                recovery_limit_percent: random.range(0, 30) as f64,
                operations_per_hour: 0.0,
            },
            faults: Vec::new(),
            heartbeat: Duration::from_secs(1),
            end: from + span,
            second_drain: random.chance(30.0).then(|| random.ms(0, 5000)),
            guarantee: None,
            sweep_every: 1,
        }
    }

    /// Guarantees answers to requests from some time on.
    fn guarantee(&mut self, from: Instant, within: Duration) {
        self.config.queue_max = 1000;
        self.second_drain = None;
        self.guarantee = Some(Guarantee { from, within });
    }

    /// Every fault that can be repaired, for a minute.
    fn heal(&mut self, random: &mut Random) {
        let (healed, settled) = (Duration::from_secs(60), Duration::from_secs(150));
        self.guarantee(Instant(settled), Duration::from_secs(3));
        // Slots and backends are never given up, so every browser must come back.
        self.config.restarts_max = 100;
        self.config.load_restarts_max = 100;
        self.end = settled + random.ms(10_000, 60_000);
        self.load.per_second = random.range(1, 5) as f64;
        self.faults = [
            (FaultKind::ProcessKilled, 60.0),
            (FaultKind::PageCrash, 60.0),
            (FaultKind::SocketDrop, 60.0),
            (FaultKind::Hang, 30.0),
            (FaultKind::DeviceLoss, 120.0),
            (FaultKind::DeviceLossRepeated, 20.0),
            (FaultKind::MemoryGrows, 20.0),
            (FaultKind::StartFails, 30.0),
            (FaultKind::StartHangs, 10.0),
            (FaultKind::LoadFails, 30.0),
            (FaultKind::LoadHangs, 5.0),
            (FaultKind::RunFails, 20.0),
            (FaultKind::RunHangs, 5.0),
            (FaultKind::WrongResult, 5.0),
            (FaultKind::ProbeFails, 10.0),
            (FaultKind::ProbeHangs, 5.0),
            (FaultKind::CommitFails, 10.0),
            (FaultKind::CommitSlow, 10.0),
            (FaultKind::DaemonKilled, 30.0),
            (FaultKind::DuplicateReport, 10.0),
            (FaultKind::StaleReport, 10.0),
            (FaultKind::ForeignReport, 10.0),
        ]
        .into_iter()
        .map(|(what, odds)| Fault { until_s: Some(healed.as_secs_f64()), ..Fault::new(what, odds) })
        .collect();
    }
}

/// A slot of one of three kinds.
pub(crate) fn slot(index: u64, choice: Choice) -> Slot {
    let backends = match index % 3 {
        0 => vec![Backend::WebGpu, Backend::Cpu],
        1 => vec![Backend::Cpu],
        _ => vec![Backend::WebNn, Backend::Cpu, Backend::WebGpu],
    };
    Slot { kind: format!("kind{}", index % 3), backends, choice, role: Role::Regular }
}

/// Every fault at a random rate, scaled by a random severity of the plan.
fn random_faults(random: &mut Random) -> Vec<Fault> {
    let severity_max = random.range(1, 30) as f64;
    FaultKind::ALL
        .into_iter()
        .map(|what| {
            let odds = random.fraction() * severity_max * severity(what);
            Fault::new(what, odds)
        })
        .collect()
}

/// Weight of a fault in the plan's severity: per hour or in percent.
fn severity(what: FaultKind) -> f64 {
    match what {
        FaultKind::ProcessKilled
        | FaultKind::PageCrash
        | FaultKind::SocketDrop
        | FaultKind::DeviceLoss => 10.0,
        FaultKind::Hang
        | FaultKind::SlowsDown
        | FaultKind::MemoryGrows
        | FaultKind::DeviceLossRepeated => 4.0,
        FaultKind::DaemonKilled => 3.0,
        FaultKind::LoadPeak => 3.0,
        FaultKind::StaleReport
        | FaultKind::ForeignReport
        | FaultKind::DuplicateReport
        | FaultKind::LateReport => 2.0,
        FaultKind::StartFails
        | FaultKind::LoadFails
        | FaultKind::LoadUnsupported
        | FaultKind::RunFails
        | FaultKind::WrongResult
        | FaultKind::ProbeFails
        | FaultKind::CommitFails
        | FaultKind::CommitSlow
        | FaultKind::ClientCancels
        | FaultKind::DeadlineShort => 1.0,
        FaultKind::StartHangs => 0.5,
        FaultKind::LoadHangs | FaultKind::ProbeHangs | FaultKind::RunHangs | FaultKind::RunSlow => {
            0.25
        }
    }
}

/// Faults that a large fleet has every day.
fn daily_faults() -> Vec<Fault> {
    [
        (FaultKind::ProcessKilled, 0.2),
        (FaultKind::PageCrash, 0.2),
        (FaultKind::SocketDrop, 0.2),
        (FaultKind::Hang, 0.1),
        (FaultKind::DeviceLoss, 0.2),
        (FaultKind::DeviceLossRepeated, 0.02),
        (FaultKind::SlowsDown, 0.05),
        (FaultKind::MemoryGrows, 0.05),
        (FaultKind::DaemonKilled, 0.1),
        (FaultKind::LoadPeak, 1.0),
        (FaultKind::StartFails, 1.0),
        (FaultKind::StartHangs, 0.5),
        (FaultKind::LoadFails, 1.0),
        (FaultKind::LoadHangs, 0.5),
        (FaultKind::RunFails, 0.1),
        (FaultKind::RunHangs, 0.01),
        (FaultKind::RunSlow, 0.1),
        (FaultKind::WrongResult, 0.02),
        (FaultKind::ProbeFails, 0.01),
        (FaultKind::ProbeHangs, 0.01),
        (FaultKind::CommitFails, 0.1),
        (FaultKind::CommitSlow, 0.1),
        (FaultKind::StaleReport, 0.1),
        (FaultKind::ForeignReport, 0.1),
        (FaultKind::DuplicateReport, 0.1),
        (FaultKind::LateReport, 0.1),
        (FaultKind::ClientCancels, 1.0),
        (FaultKind::DeadlineShort, 1.0),
    ]
    .into_iter()
    .map(|(what, odds)| Fault::new(what, odds))
    .collect()
}
