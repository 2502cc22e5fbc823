//! Scenarios that need no file.

use crate::faults::{
    DaemonFault, Fault, LinkFault, LinkName, PageFault, Place, Role, Scenario, Toward, What, When,
};

/// Names of the built-in scenarios.
pub const NAMES: [&str; 9] = [
    "crash-storm",
    "hang",
    "device-loss",
    "flaky-network",
    "corrupt-store",
    "memory-hog",
    "page-crash",
    "socket-drop",
    "daemon-kill",
];

/// Period of a fault from which a pool needs some seconds to recover.
const SLOW_MS: u64 = 5000;
/// Memory that a page allocates, and its browser's limit: the limit is more than Chrome or Firefox need for a small model.
const HOG_MB: u32 = 1400;
const MEMORY_MB: u64 = 1200;
/// First occasion: when the load has settled.
const FIRST_MS: u64 = 1000;

/// A built-in scenario.
pub fn named(name: &str) -> Option<Scenario> {
    let keyed = matches!(name, "daemon-kill" | "corrupt-store");
    let faults = match name {
        "crash-storm" => vec![every(SLOW_MS, What::Kill { process: Role::Browser })],
        // A stopped renderer is a page that hangs; a stopped main process may leave its page as it is. A pool needs some time
        // to detect a silent browser, and there should be only one hang at a time.
        "hang" => vec![
            every(8 * SLOW_MS, What::Stop { process: Role::Renderer, for_ms: None }),
            Fault {
                when: When { from_ms: Some(FIRST_MS + 4 * SLOW_MS), ..period(8 * SLOW_MS) },
                ..every(8 * SLOW_MS, What::Stop { process: Role::Browser, for_ms: None })
            },
        ],
        "device-loss" => vec![every(SLOW_MS, What::Page { how: PageFault::LoseDevice })],
        "socket-drop" => {
            let (how, link) = (LinkFault::Drop, LinkName::Data);
            vec![every(SLOW_MS, What::Link { how, link, toward: Toward::Any, frames: 1 })]
        }
        "page-crash" => vec![every(SLOW_MS, What::Page { how: PageFault::Crash })],
        "memory-hog" => {
            vec![every(2 * SLOW_MS, What::Page { how: PageFault::HogMemory { megabytes: HOG_MB } })]
        }
        "daemon-kill" => vec![every(2 * SLOW_MS, What::Daemon { how: DaemonFault::Kill })],
        "corrupt-store" => vec![
            every(4 * SLOW_MS, What::Daemon { how: DaemonFault::FlipStore { bits: 64 } }),
            Fault {
                when: When { from_ms: Some(FIRST_MS + 2 * SLOW_MS), ..period(4 * SLOW_MS) },
                ..every(4 * SLOW_MS, What::Daemon { how: DaemonFault::TearStore { bytes: 512 } })
            },
        ],
        "flaky-network" => flaky_network(),
        _ => return None,
    };
    let worker_memory_mb = (name == "memory-hog").then_some(MEMORY_MB);
    Some(Scenario { name: name.to_owned(), keyed, worker_memory_mb, faults })
}

fn flaky_network() -> Vec<Fault> {
    let link = |how, link, toward, frames| What::Link { how, link, toward, frames };
    // Each fault in a second of its own, so that one does not hide another.
    let faults = [
        link(LinkFault::Delay { by_ms: 200 }, LinkName::Data, Toward::Any, 10),
        link(LinkFault::Duplicate, LinkName::Data, Toward::Daemon, 5),
        link(LinkFault::Reorder, LinkName::Data, Toward::Daemon, 3),
        link(LinkFault::Replay { after_ms: 700 }, LinkName::Data, Toward::Daemon, 5),
        link(LinkFault::Throttle { bytes_per_s: 20_000 }, LinkName::Data, Toward::Any, 10),
        link(LinkFault::Drop, LinkName::Data, Toward::Any, 1),
        link(LinkFault::Truncate, LinkName::Data, Toward::Daemon, 1),
        link(LinkFault::Corrupt { bits: 4 }, LinkName::Data, Toward::Daemon, 1),
        link(LinkFault::HalfOpen, LinkName::Data, Toward::Daemon, 1),
        link(LinkFault::Drop, LinkName::Control, Toward::Any, 1),
    ];
    let round_ms = faults.len() as u64 * 2 * FIRST_MS;
    faults
        .into_iter()
        .enumerate()
        .map(|(index, what)| Fault {
            when: When { from_ms: Some(FIRST_MS * (1 + 2 * index as u64)), ..period(round_ms) },
            ..every(round_ms, what)
        })
        .collect()
}

fn every(every_ms: u64, what: What) -> Fault {
    Fault { what, place: Place::default(), when: period(every_ms), chance: 1.0 }
}

fn period(every_ms: u64) -> When {
    When { at_ms: Vec::new(), every_ms: Some(every_ms), from_ms: Some(FIRST_MS), until_ms: None }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_name_is_a_scenario_that_can_be_written_down() {
        for name in NAMES {
            let scenario = named(name).unwrap_or_else(|| panic!("{name} is not there"));
            let json = serde_json::to_string(&scenario).expect("JSON");
            assert_eq!(Scenario::parse(&json).expect("readable"), scenario, "{name}");
            let schedule = scenario.schedule(1, Duration::from_secs(60)).expect("moments");
            for index in 0..scenario.faults.len() {
                assert!(
                    schedule.0.iter().any(|moment| moment.fault == index),
                    "{name}, fault {index}"
                );
            }
        }
        assert_eq!(named("quiet"), None);
    }
}
