//! Options for the backends that models run on.

use std::str::FromStr;

use clap::{Args, ValueEnum};
use flotilla::pool::{BackendSettings, WebNnSettings};
use flotilla_fleet::Choice;
use flotilla_protocol::{Backend, Device};
use serde::Deserialize;

/// Which backends a command may use.
#[derive(Args, Clone, Debug)]
pub(crate) struct BackendOptions {
    /// Backends in order of preference: webgpu, webnn, cpu; auto for all that the page offers. Of several the one is used that
    /// is measured to be the fastest, and answers report it; the order decides between those that are about as fast. Default:
    /// auto in browsers, cpu in simulated ones.
    #[arg(
        long,
        value_name = "BACKEND,..|auto",
        env = "FLOTILLA_BACKENDS",
        visible_alias = "priority-list"
    )]
    pub(crate) backends: Option<Backends>,
    /// How one of several backends is chosen.
    #[arg(long, value_enum, default_value = "measure")]
    choose: Choose,
    /// The processor requested from webnn. The browser may use another one and does not report it.
    #[arg(long, value_name = "cpu|gpu|npu", value_parser = device, env = "FLOTILLA_DEVICE")]
    device: Option<Device>,
    /// The same and more as JSON: priority_list, device, fallback_to_simulation.
    #[arg(long, value_name = "JSON", env = "FLOTILLA_HARDWARE_PREFERENCES",
          conflicts_with_all = ["backends", "device"])]
    hardware_preferences: Option<Preferences>,
}

/// A list of backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backends(pub(crate) Vec<Backend>);

impl FromStr for Backends {
    type Err = String;

    fn from_str(text: &str) -> Result<Backends, String> {
        if text.trim() == "auto" {
            return Ok(Backends(Backend::ALL.to_vec()));
        }
        let mut backends = Vec::new();
        for name in text.split(',') {
            let backend = backend(name.trim())?;
            if !backends.contains(&backend) {
                backends.push(backend);
            }
        }
        Ok(Backends(backends))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Choose {
    /// Each is measured once on this machine, beside what answers; the fastest stays.
    Measure,
    /// The first of the list that works.
    Order,
}

/// `hardware_preferences` as users of other tools know them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Preferences {
    #[serde(default)]
    priority_list: Option<Vec<Backend>>,
    /// `auto` leaves it to the browser.
    #[serde(default)]
    device: Option<String>,
    #[serde(default)]
    fallback_to_simulation: bool,
}

impl FromStr for Preferences {
    type Err = String;

    fn from_str(text: &str) -> Result<Preferences, String> {
        let preferences: Preferences =
            serde_json::from_str(text).map_err(|error| error.to_string())?;
        if preferences.priority_list.as_ref().is_some_and(Vec::is_empty) {
            return Err("priority_list is empty".to_owned());
        }
        preferences.device()?;
        Ok(preferences)
    }
}

impl Preferences {
    fn device(&self) -> Result<Option<Device>, String> {
        match self.device.as_deref() {
            None | Some("auto") => Ok(None),
            Some(name) => device(name).map(Some),
        }
    }
}

/// The backend of a name.
pub(crate) fn backend(name: &str) -> Result<Backend, String> {
    Backend::ALL
        .into_iter()
        .find(|backend| backend.name() == name)
        .ok_or_else(|| format!("{name:?} is not a backend; known are webgpu, webnn and cpu"))
}

pub(crate) fn device(name: &str) -> Result<Device, String> {
    Device::ALL
        .into_iter()
        .find(|device| device.name() == name)
        .ok_or_else(|| format!("{name:?} is not a device; known are cpu, gpu and npu"))
}

impl BackendOptions {
    /// The backends to use; `default` if the options name none.
    pub(crate) fn settings(&self, default: &[Backend]) -> BackendSettings {
        let preferences = self.hardware_preferences.as_ref();
        let named = self.backends.as_ref().map(|backends| &backends.0);
        let list = named.or(preferences.and_then(|preferences| preferences.priority_list.as_ref()));
        let preferred = preferences.and_then(|preferences| preferences.device().ok().flatten());
        BackendSettings {
            list: list.map_or_else(|| default.to_vec(), Clone::clone),
            choice: match self.choose {
                Choose::Measure => Choice::Fastest,
                Choose::Order => Choice::First,
            },
            webnn: WebNnSettings { device: self.device.or(preferred), split: None },
        }
    }

    /// Whether a simulated browser is the last resort.
    pub(crate) fn fallback_to_simulation(&self) -> bool {
        let preferences = self.hardware_preferences.as_ref();
        preferences.is_some_and(|preferences| preferences.fallback_to_simulation)
    }

    /// Whether no option about backends was given.
    pub(crate) fn is_default(&self) -> bool {
        self.backends.is_none() && self.hardware_preferences.is_none()
    }

    /// The command line options for the same settings.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn words(settings: &BackendSettings) -> Vec<String> {
        let BackendSettings { list, choice, webnn } = settings;
        let backends: Vec<&str> = list.iter().map(|backend| backend.name()).collect();
        let choose = match choice {
            Choice::Fastest => "measure",
            Choice::First => "order",
        };
        let mut words = vec!["--backends".to_owned(), backends.join(",")];
        words.extend(["--choose".to_owned(), choose.to_owned()]);
        let device = webnn.device.map(|device| ["--device".to_owned(), device.to_string()]);
        words.extend(device.into_iter().flatten());
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_backends_are_read_from_options() {
        let (webgpu, webnn, cpu) = (Backend::WebGpu, Backend::WebNn, Backend::Cpu);
        let table: [(&str, Option<Vec<Backend>>); 6] = [
            ("auto", Some(vec![webgpu, webnn, cpu])),
            ("cpu", Some(vec![cpu])),
            ("webnn, cpu,webnn", Some(vec![webnn, cpu])),
            ("", None),
            ("cuda", None),
            ("auto,cpu", None),
        ];
        for (text, want) in table {
            assert_eq!(text.parse().ok().map(|Backends(list)| list), want, "{text:?}");
        }
    }

    #[test]
    fn preferences_are_read_and_what_is_not_known_is_refused() {
        let read = |text: &str| text.parse::<Preferences>();
        let known = read(r#"{"priority_list": ["webnn", "cpu"], "device": "npu"}"#).expect("read");
        assert_eq!(known.priority_list, Some(vec![Backend::WebNn, Backend::Cpu]));
        assert_eq!(known.device(), Ok(Some(Device::Npu)));
        assert_eq!(read(r#"{"device": "auto"}"#).expect("read").device(), Ok(None));
        for wrong in [
            r#"{"priority_list": ["cuda"]}"#,
            r#"{"priority_list": []}"#,
            r#"{"device": "tpu"}"#,
            r#"{"precision": "fp16"}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
