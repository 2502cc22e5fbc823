//! Settings of a pool that are passed on as they are.

use std::path::PathBuf;

use flotilla_fleet::{Batching, Choice};
use flotilla_protocol::{Backend, Device};

use crate::link::Memory;

/// The backends of a pool's browsers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSettings {
    /// In order of preference.
    pub list: Vec<Backend>,
    /// How one of them is chosen.
    pub choice: Choice,
    /// What concerns webnn only.
    pub webnn: WebNnSettings,
}

impl BackendSettings {
    /// Where nodes run that webnn does not support; `None`: programs with such nodes are refused.
    pub fn rest(&self) -> Option<Backend> {
        let is_split = self.webnn.split.unwrap_or_else(|| self.list.contains(&Backend::Cpu));
        is_split.then_some(Backend::Cpu)
    }
}

impl Default for BackendSettings {
    /// The first of webgpu and cpu that works.
    fn default() -> BackendSettings {
        vec![Backend::WebGpu, Backend::Cpu].into()
    }
}

impl From<Vec<Backend>> for BackendSettings {
    /// The first of the list that works.
    fn from(list: Vec<Backend>) -> BackendSettings {
        BackendSettings { list, choice: Choice::First, webnn: WebNnSettings::default() }
    }
}

/// How webnn is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WebNnSettings {
    /// The processor that is requested; without one the browser chooses.
    pub device: Option<Device>,
    /// Whether nodes that webnn does not support may run on cpu; `None`: if cpu is among the backends.
    pub split: Option<bool>,
}

/// Other settings of a pool.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How requests are joined.
    pub batching: Batching,
    /// How many bytes may wait between pages and pool.
    pub memory: Memory,
    /// Data folder that stores the measured speeds of backends; `None` for none.
    pub speeds: Option<PathBuf>,
    /// Whether faults can be injected into real browsers' pages, by [`Pool::fault`](super::Pool::fault).
    pub takes_faults: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            batching: Batching { rows_max: 32, tokens_max: 2048 },
            memory: Memory::default(),
            speeds: None,
            takes_faults: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webnn_is_split_with_cpu_unless_the_settings_refuse_it() {
        let (webnn, cpu) = (Backend::WebNn, Backend::Cpu);
        for (list, split, want) in [
            (vec![webnn, cpu], None, Some(cpu)),
            (vec![webnn], None, None),
            (vec![webnn], Some(true), Some(cpu)),
            (vec![webnn, cpu], Some(false), None),
        ] {
            let mut settings = BackendSettings::from(list);
            settings.webnn.split = split;
            assert_eq!(settings.rest(), want, "{settings:?}");
        }
    }
}
