//! What a world is made of: a fleet, its models, its clients and what goes wrong.

use std::{collections::BTreeMap, time::Duration};

use flotilla_fleet::{Batching, Choice, Config, Instant, ModelId, Role, Slot, SlotId, Strategy};
use flotilla_protocol::Backend;

use super::{
    faults::{Fault, What},
    random::Random,
};

/// Everything about a world except its random numbers.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The core's.
    pub config: Config,
    /// Served from the first seconds on.
    pub models: BTreeMap<ModelId, Batching>,
    /// Who asks.
    pub load: Load,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// Between two heartbeats of a browser.
    pub heartbeat: Duration,
    /// When the drain begins.
    pub end: Duration,
    /// How long after that a second drain is ordered.
    pub second_drain: Option<Duration>,
    /// What clients can count on.
    pub promise: Option<Promise>,
    /// The core's whole status is compared with the world after this many events.
    pub sweep_every: u64,
}

/// The load: how many requests, of what size.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// Requests per second, on average.
    pub per_second: f64,
    /// Nobody asks before.
    pub from: Duration,
    /// Rows of a request, at most.
    pub rows_max: u64,
    /// Tokens of a row, at most.
    pub length_max: u64,
    /// Deadline of a request that is in no hurry.
    pub patience: (Duration, Duration),
    /// Percent of the requests that are to be recorded.
    pub recorded_percent: f64,
    /// Percent of the requests that a simulated browser may answer as the last resort.
    pub simulated_percent: f64,
    /// Percent of the requests that limit the time of their recovery.
    pub hasty_percent: f64,
    /// How often an operator acquires, migrates, recycles, adds or removes something.
    pub operations_per_hour: f64,
}

/// From some moment on, every request is answered at its first attempt and soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// For requests that are asked from then on.
    pub from: Instant,
    /// Longest time to the answer.
    pub within: Duration,
}

/// Which faults a seed's world has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outlook {
    /// No faults.
    NoFaults,
    /// Many faults, which end at some moment.
    Healing,
    /// Faults until the end.
    Faults,
}

impl Plan {
    /// A small world that is drawn from a seed: fleet, load and faults.
    ///
    /// Some have no faults and in some all faults end; these promise answers.
    pub fn drawn(seed: u64) -> Plan {
        // Other numbers than those of the world, which are drawn from the seed itself.
        let mut random = Random::new(!seed);
        let outlook = match seed % 8 {
            0 => Outlook::NoFaults,
            1 | 2 => Outlook::Healing,
            _ => Outlook::Faults,
        };
        let mut plan = Plan::small(&mut random);
        match outlook {
            Outlook::NoFaults => plan.promise(Instant(plan.load.from), plan.load.patience.0),
            Outlook::Healing => plan.heal(&mut random),
            Outlook::Faults => {
                plan.faults = all_faults(&mut random);
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
            // A slot lives through a day of faults.
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
                hasty_percent: 5.0,
                operations_per_hour: 60.0,
            },
            faults: everyday(),
            heartbeat: Duration::from_secs(5),
            end: duration,
            second_drain: None,
            promise: None,
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
                hasty_percent: random.range(0, 30) as f64,
                operations_per_hour: 0.0,
            },
            faults: Vec::new(),
            heartbeat: Duration::from_secs(1),
            end: from + span,
            second_drain: random.chance(30.0).then(|| random.ms(0, 5000)),
            promise: None,
            sweep_every: 1,
        }
    }

    /// Answers are promised to whoever asks from a moment on.
    fn promise(&mut self, from: Instant, within: Duration) {
        self.config.queue_max = 1000;
        self.second_drain = None;
        self.promise = Some(Promise { from, within });
    }

    /// Every fault that can be repaired, for a minute.
    fn heal(&mut self, random: &mut Random) {
        let (healed, settled) = (Duration::from_secs(60), Duration::from_secs(150));
        self.promise(Instant(settled), Duration::from_secs(3));
        // Slots and backends are never given up, so every browser must come back.
        self.config.restarts_max = 100;
        self.config.load_restarts_max = 100;
        self.end = settled + random.ms(10_000, 60_000);
        self.load.per_second = random.range(1, 5) as f64;
        self.faults = [
            (What::ProcessKilled, 60.0),
            (What::PageCrash, 60.0),
            (What::SocketDrop, 60.0),
            (What::Hang, 30.0),
            (What::DeviceLoss, 120.0),
            (What::DeviceLossRepeated, 20.0),
            (What::MemoryGrows, 20.0),
            (What::StartFails, 30.0),
            (What::StartHangs, 10.0),
            (What::LoadFails, 30.0),
            (What::LoadHangs, 5.0),
            (What::RunFails, 20.0),
            (What::RunHangs, 5.0),
            (What::WrongResult, 5.0),
            (What::ProbeFails, 10.0),
            (What::ProbeHangs, 5.0),
            (What::CommitFails, 10.0),
            (What::CommitSlow, 10.0),
            (What::DaemonKilled, 30.0),
            (What::DuplicateReport, 10.0),
            (What::StaleReport, 10.0),
            (What::ForeignReport, 10.0),
        ]
        .into_iter()
        .map(|(what, odds)| Fault { until_s: Some(healed.as_secs_f64()), ..Fault::new(what, odds) })
        .collect();
    }
}

/// A slot of one of three kinds.
pub(super) fn slot(index: u64, choice: Choice) -> Slot {
    let backends = match index % 3 {
        0 => vec![Backend::WebGpu, Backend::Cpu],
        1 => vec![Backend::Cpu],
        _ => vec![Backend::WebNn, Backend::Cpu, Backend::WebGpu],
    };
    Slot { kind: format!("kind{}", index % 3), backends, choice, role: Role::Regular }
}

/// Every fault at a random rate, scaled by a random severity of the whole world.
fn all_faults(random: &mut Random) -> Vec<Fault> {
    let worst = random.range(1, 30) as f64;
    What::ALL
        .into_iter()
        .map(|what| {
            let odds = random.fraction() * worst * severity(what);
            Fault::new(what, odds)
        })
        .collect()
}

/// The weight of a fault in the world's severity: by the hour, or in percent.
fn severity(what: What) -> f64 {
    match what {
        What::ProcessKilled | What::PageCrash | What::SocketDrop | What::DeviceLoss => 10.0,
        What::Hang | What::SlowsDown | What::MemoryGrows | What::DeviceLossRepeated => 4.0,
        What::DaemonKilled => 3.0,
        What::LoadPeak => 3.0,
        What::StaleReport | What::ForeignReport | What::DuplicateReport | What::LateReport => 2.0,
        What::StartFails
        | What::LoadFails
        | What::LoadUnsupported
        | What::RunFails
        | What::WrongResult
        | What::ProbeFails
        | What::CommitFails
        | What::CommitSlow
        | What::ClientCancels
        | What::DeadlineShort => 1.0,
        What::StartHangs => 0.5,
        What::LoadHangs | What::ProbeHangs | What::RunHangs | What::RunSlow => 0.25,
    }
}

/// What goes wrong in a large fleet every day.
fn everyday() -> Vec<Fault> {
    [
        (What::ProcessKilled, 0.2),
        (What::PageCrash, 0.2),
        (What::SocketDrop, 0.2),
        (What::Hang, 0.1),
        (What::DeviceLoss, 0.2),
        (What::DeviceLossRepeated, 0.02),
        (What::SlowsDown, 0.05),
        (What::MemoryGrows, 0.05),
        (What::DaemonKilled, 0.1),
        (What::LoadPeak, 1.0),
        (What::StartFails, 1.0),
        (What::StartHangs, 0.5),
        (What::LoadFails, 1.0),
        (What::LoadHangs, 0.5),
        (What::RunFails, 0.1),
        (What::RunHangs, 0.01),
        (What::RunSlow, 0.1),
        (What::WrongResult, 0.02),
        (What::ProbeFails, 0.01),
        (What::ProbeHangs, 0.01),
        (What::CommitFails, 0.1),
        (What::CommitSlow, 0.1),
        (What::StaleReport, 0.1),
        (What::ForeignReport, 0.1),
        (What::DuplicateReport, 0.1),
        (What::LateReport, 0.1),
        (What::ClientCancels, 1.0),
        (What::DeadlineShort, 1.0),
    ]
    .into_iter()
    .map(|(what, odds)| Fault::new(what, odds))
    .collect()
}
