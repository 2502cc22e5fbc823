//! Faults as plain data: what, where, when, how likely. A seed makes a schedule of them.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};

/// Most moments of a schedule.
pub const MOMENTS_MAX: usize = 100_000;

/// Faults that belong together, with a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Name in reports.
    pub name: String,
    /// Whether requests carry an idempotency key and are sent again when the connection to the daemon breaks: needed where the
    /// daemon itself is killed.
    #[serde(default)]
    pub keyed: bool,
    /// Most memory of a browser of an own pool, in MiB: the limit for a browser that hogs memory.
    #[serde(default)]
    pub worker_memory_mb: Option<u64>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
}

/// One thing that goes wrong, once or again and again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What happens.
    pub what: What,
    /// The browsers that it may hit.
    #[serde(default, rename = "where")]
    pub place: Place,
    /// When, from the first request on.
    pub when: When,
    /// Share of the occasions at which it does happen, from 0 to 1.
    #[serde(default = "always")]
    pub chance: f64,
}

fn always() -> f64 {
    1.0
}

/// Which browsers a fault may hit; every part that is given must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Kind of the browser: `chrome` or `firefox`.
    #[serde(default)]
    pub kind: Option<String>,
    /// Its slot in the pool.
    #[serde(default)]
    pub slot: Option<u64>,
}

/// The occasions of a fault: `at_ms`, and every `every_ms` from `from_ms` (`every_ms` unless given) until `until_ms`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct When {
    /// Single occasions.
    #[serde(default)]
    pub at_ms: Vec<u64>,
    /// Period of regular ones.
    #[serde(default)]
    pub every_ms: Option<u64>,
    /// The first regular one.
    #[serde(default)]
    pub from_ms: Option<u64>,
    /// None at or after this time; the end of the load unless given.
    #[serde(default)]
    pub until_ms: Option<u64>,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum What {
    /// SIGKILL.
    Kill {
        /// Of which process.
        process: Role,
    },
    /// SIGSTOP: the process stays and does nothing.
    Stop {
        /// Which process.
        process: Role,
        /// SIGCONT follows after this time; at `heal` unless given.
        #[serde(default)]
        for_ms: Option<u64>,
    },
    /// Something that happens in the page.
    Page {
        /// What.
        how: PageFault,
    },
    /// Something that happens to frames between page and daemon.
    Link {
        /// What.
        how: LinkFault,
        /// On which of a page's links.
        #[serde(default)]
        link: LinkName,
        /// In which direction.
        #[serde(default)]
        toward: Toward,
        /// The number of frames; of a half-open link, the number of connections.
        #[serde(default = "one")]
        frames: u32,
    },
    /// Something that happens to the daemon or its files.
    Daemon {
        /// What.
        how: DaemonFault,
    },
    /// A WebDriver that fails commands, for every browser that is started while it lasts.
    Driver {
        /// What it does instead.
        how: DriverFault,
        /// The first command that fails; command 1 makes the session.
        #[serde(default = "one")]
        command: u32,
        /// How long drivers do this; until `heal` unless given.
        #[serde(default)]
        for_ms: Option<u64>,
    },
}

fn one() -> u32 {
    1
}

/// A process of a browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The browser's main process.
    Browser,
    /// The process that runs the page.
    Renderer,
    /// The process that talks to the GPU.
    Gpu,
    /// The WebDriver.
    Driver,
}

/// What can happen in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PageFault {
    /// The browser's own crash page is opened: the page's process ends, the browser goes on.
    Crash,
    /// `GPUDevice.destroy()`.
    LoseDevice,
    /// The page's main thread hangs: no heartbeats.
    Hang,
    /// The page's worker never answers again; its main thread goes on.
    Silence,
    /// Results are wrong from now on, though finite and of the right shape.
    WrongAnswers,
    /// Runs take longer from now on.
    SlowDown {
        /// Factor of the duration.
        factor: u32,
    },
    /// The page allocates so much and keeps it.
    HogMemory {
        /// Megabytes.
        megabytes: u32,
    },
}

/// What can happen to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LinkFault {
    /// It arrives later, and what follows it after it.
    Delay {
        /// Delay in milliseconds.
        by_ms: u64,
    },
    /// It passes at this rate, and what follows it after it.
    Throttle {
        /// Bytes per second.
        bytes_per_s: u64,
    },
    /// The connection ends instead, without a close frame.
    Drop,
    /// Its end is missing.
    Truncate,
    /// Some of its bits are flipped.
    Corrupt {
        /// How many.
        bits: u32,
    },
    /// It arrives twice.
    Duplicate,
    /// It arrives after the frame that follows it.
    Reorder,
    /// It arrives, and once more later, when it is no longer expected.
    Replay {
        /// How much later.
        after_ms: u64,
    },
    /// It does not arrive, nor does anything after it, though the connection stays.
    HalfOpen,
}

/// What can happen to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DaemonFault {
    /// SIGKILL; it is started again at once.
    Kill,
    /// SIGKILL, bits of its first copy of the store are flipped, and it is started again.
    FlipStore {
        /// How many bits.
        bits: u32,
    },
    /// SIGKILL, the end of its store's last file is cut off as by a write that did not finish, and it is started again.
    TearStore {
        /// How many bytes.
        bytes: u64,
    },
}

/// What a driver does instead of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverFault {
    /// It answers with an error.
    Error,
    /// It does not answer.
    Silence,
}

/// One of a page's links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkName {
    /// The main thread's.
    Control,
    /// The worker's.
    Data,
    /// Either.
    #[default]
    Any,
}

/// A direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Toward {
    /// From page to daemon.
    Daemon,
    /// From daemon to page.
    Page,
    /// Either.
    #[default]
    Any,
}

impl Role {
    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Role::Browser => "browser",
            Role::Renderer => "renderer",
            Role::Gpu => "gpu",
            Role::Driver => "driver",
        }
    }
}

impl What {
    /// Name in reports: one for each kind of fault, whatever its numbers.
    pub fn name(&self) -> String {
        match self {
            What::Kill { process } => format!("kill_{}", process.name()),
            What::Stop { process, .. } => format!("stop_{}", process.name()),
            What::Page { how } => match how {
                PageFault::Crash => "page_crash",
                PageFault::LoseDevice => "device_loss",
                PageFault::Hang => "page_hang",
                PageFault::Silence => "page_silence",
                PageFault::WrongAnswers => "page_wrong_answers",
                PageFault::SlowDown { .. } => "page_slow_down",
                PageFault::HogMemory { .. } => "memory_hog",
            }
            .to_owned(),
            What::Link { how, .. } => match how {
                LinkFault::Delay { .. } => "link_delay",
                LinkFault::Throttle { .. } => "link_throttle",
                LinkFault::Drop => "link_drop",
                LinkFault::Truncate => "link_truncate",
                LinkFault::Corrupt { .. } => "link_corrupt",
                LinkFault::Duplicate => "link_duplicate",
                LinkFault::Reorder => "link_reorder",
                LinkFault::Replay { .. } => "link_replay",
                LinkFault::HalfOpen => "link_half_open",
            }
            .to_owned(),
            What::Daemon { how } => match how {
                DaemonFault::Kill => "daemon_kill",
                DaemonFault::FlipStore { .. } => "store_flip",
                DaemonFault::TearStore { .. } => "store_tear",
            }
            .to_owned(),
            What::Driver { how, .. } => match how {
                DriverFault::Error => "driver_error",
                DriverFault::Silence => "driver_silence",
            }
            .to_owned(),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}

/// Why a scenario cannot be run.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum ScenarioError {
    #[error("the scenario cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    #[error("fault {index} ({what}): {reason}")]
    Fault { index: usize, what: String, reason: &'static str },
    #[error("the scenario has no fault within {duration:?}")]
    Empty { duration: Duration },
    #[error("the scenario has more than {MOMENTS_MAX} occasions within {duration:?}")]
    TooLong { duration: Duration },
}

/// One occasion of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// From the first request on.
    pub at: Duration,
    /// Index of the scenario's fault.
    pub fault: usize,
    /// Decides among the browsers that fit.
    pub choice: u64,
}

/// When which fault happens, in the order of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule(pub Vec<Moment>);

impl Scenario {
    /// Reads a scenario's JSON and checks it.
    ///
    /// # Errors
    /// Not a scenario, or one with invalid numbers.
    pub fn parse(json: &str) -> Result<Scenario, ScenarioError> {
        let scenario: Scenario = serde_json::from_str(json)?;
        for (index, fault) in scenario.faults.iter().enumerate() {
            if let Some(reason) = fault.nonsense() {
                return Err(ScenarioError::Fault { index, what: fault.what.name(), reason });
            }
        }
        Ok(scenario)
    }

    /// The occasions that a seed makes of it. Each fault draws from a generator of its own, so that a fault that is added
    /// at the end does not move the others.
    ///
    /// # Errors
    /// There are none, or far too many.
    pub fn schedule(&self, seed: u64, duration: Duration) -> Result<Schedule, ScenarioError> {
        let mut root = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut moments = Vec::new();
        for (index, fault) in self.faults.iter().enumerate() {
            let mut random = root.fork();
            for at in fault.when.occasions(duration) {
                let choice = random.random();
                if random.random_bool(fault.chance) {
                    moments.push(Moment { at, fault: index, choice });
                }
                if moments.len() > MOMENTS_MAX {
                    return Err(ScenarioError::TooLong { duration });
                }
            }
        }
        if moments.is_empty() {
            return Err(ScenarioError::Empty { duration });
        }
        moments.sort_by_key(|moment| (moment.at, moment.fault));
        Ok(Schedule(moments))
    }
}

impl Fault {
    fn nonsense(&self) -> Option<&'static str> {
        if !(0.0..=1.0).contains(&self.chance) {
            return Some("chance is not between 0 and 1");
        }
        if self.when.every_ms == Some(0) {
            return Some("every_ms is 0");
        }
        if self.when.every_ms.is_none() && self.when.at_ms.is_empty() {
            return Some("when names neither at_ms nor every_ms");
        }
        match &self.what {
            What::Link { frames: 0, .. } => Some("frames is 0"),
            What::Link { how: LinkFault::Throttle { bytes_per_s: 0 }, .. } => {
                Some("bytes_per_s is 0; half_open is the fault that lets nothing through")
            }
            What::Link { .. } if self.place.slot.is_some() => {
                Some("the proxy does not know a link's slot; name the browser's kind in `where`")
            }
            What::Driver { command: 0, .. } => Some("commands are counted from 1"),
            What::Daemon { .. } | What::Driver { .. } if self.place != Place::default() => {
                Some("this fault does not happen to a browser; remove `where`")
            }
            What::Kill { .. }
            | What::Stop { .. }
            | What::Page { .. }
            | What::Link { .. }
            | What::Daemon { .. }
            | What::Driver { .. } => None,
        }
    }
}

impl When {
    fn occasions(&self, duration: Duration) -> impl Iterator<Item = Duration> {
        let end =
            self.until_ms.map_or(duration, |until| Duration::from_millis(until).min(duration));
        let single = self.at_ms.iter().map(|&at| Duration::from_millis(at));
        let regular = self.every_ms.into_iter().flat_map(move |every| {
            let from = self.from_ms.unwrap_or(every);
            (0..)
                .map(move |count: u64| Duration::from_millis(from.saturating_add(count * every)))
                .take_while(move |at| *at < end)
        });
        single.filter(move |at| *at < end).chain(regular)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(json: &str) -> Result<Scenario, ScenarioError> {
        Scenario::parse(&format!(r#"{{ "name": "test", "faults": [{json}] }}"#))
    }

    #[test]
    fn a_seed_makes_one_schedule() {
        let scenario = scenario(
            r#"{ "what": { "kill": { "process": "browser" } }, "when": { "every_ms": 100 }, "chance": 0.5 },
               { "what": { "page": { "how": "crash" } }, "when": { "at_ms": [50, 950, 2000] } }"#,
        )
        .expect("a scenario");
        let second = Duration::from_secs(1);
        let schedules: Vec<Schedule> =
            (0..20).map(|seed| scenario.schedule(seed, second).expect("moments")).collect();
        for (seed, schedule) in schedules.iter().enumerate() {
            let again = scenario.schedule(seed as u64, second).expect("moments");
            assert_eq!(*schedule, again, "seed {seed}");
            assert!(schedule.0.is_sorted_by_key(|moment| moment.at), "seed {seed}");
            assert!(schedule.0.iter().all(|moment| moment.at < second), "seed {seed}");
            let singles: Vec<u128> = schedule
                .0
                .iter()
                .filter(|moment| moment.fault == 1)
                .map(|moment| moment.at.as_millis())
                .collect();
            assert_eq!(singles, [50, 950], "seed {seed}");
        }
        let counts: Vec<usize> = schedules.iter().map(|schedule| schedule.0.len()).collect();
        assert!(counts.iter().any(|count| *count != counts[0]), "chance does nothing: {counts:?}");
        let total: usize = counts.iter().sum::<usize>() - 2 * counts.len();
        assert!((60..120).contains(&total), "{total} of 180 occasions are not about half");
    }

    #[test]
    fn a_fault_that_is_added_does_not_move_the_others() {
        let kill = r#"{ "what": { "kill": { "process": "gpu" } }, "when": { "every_ms": 10, "from_ms": 0 }, "chance": 0.3 }"#;
        let drop = r#"{ "what": { "link": { "how": "drop" } }, "when": { "every_ms": 7 } }"#;
        let one = scenario(kill)
            .expect("a scenario")
            .schedule(3, Duration::from_secs(1))
            .expect("moments");
        let two = scenario(&format!("{kill}, {drop}"))
            .expect("a scenario")
            .schedule(3, Duration::from_secs(1))
            .expect("moments");
        let kills: Vec<Moment> = two.0.into_iter().filter(|moment| moment.fault == 0).collect();
        assert_eq!(kills, one.0);
    }

    #[test]
    fn nonsense_is_refused_with_its_reason() {
        let when = r#""when": { "at_ms": [1] }"#;
        let kill = r#""what": { "kill": { "process": "browser" } }"#;
        let table = [
            (format!(r#"{{ {kill}, {when}, "chance": 1.5 }}"#), "chance"),
            (format!(r#"{{ {kill}, "when": {{}} }}"#), "neither at_ms nor every_ms"),
            (format!(r#"{{ {kill}, "when": {{ "every_ms": 0 }} }}"#), "every_ms is 0"),
            (format!(r#"{{ {kill}, {when}, "colour": 1 }}"#), "unknown field"),
            (
                format!(r#"{{ "what": {{ "link": {{ "how": "drop", "frames": 0 }} }}, {when} }}"#),
                "frames is 0",
            ),
            (
                format!(
                    r#"{{ "what": {{ "link": {{ "how": "drop" }} }}, {when}, "where": {{ "slot": 0 }} }}"#
                ),
                "slot",
            ),
            (
                format!(
                    r#"{{ "what": {{ "daemon": {{ "how": "kill" }} }}, {when}, "where": {{ "kind": "chrome" }} }}"#
                ),
                "remove `where`",
            ),
            (format!(r#"{{ "what": {{ "burn": {{}} }}, {when} }}"#), "unknown variant"),
        ];
        for (json, want) in table {
            let error = scenario(&json).expect_err(&json).to_string();
            assert!(error.contains(want), "{json}: {error}");
        }
        let never = scenario(&format!(r#"{{ {kill}, "when": {{ "at_ms": [5000] }} }}"#))
            .expect("a scenario");
        assert!(matches!(
            never.schedule(1, Duration::from_secs(1)),
            Err(ScenarioError::Empty { .. })
        ));
    }
}
