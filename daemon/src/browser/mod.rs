//! Browsers: kinds, how each is found and started, and the task that owns one.

use std::{fmt, path::PathBuf, str::FromStr};

use flotilla_protocol::Backend;
use serde::{Deserialize, Serialize};

pub mod adapter;
pub mod chrome;
mod conversation;
pub mod fault;
pub mod firefox;
pub mod install;
pub mod owner;
pub mod simulated;

/// What a browser is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Chromium or Google Chrome.
    Chrome,
    /// Firefox.
    Firefox,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 2] = [Kind::Chrome, Kind::Firefox];

    /// Name in options and tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Chrome => "chrome",
            Kind::Firefox => "firefox",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why text does not name browsers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum SpecError {
    #[error("browser kind {got:?} is not known; known are chrome and firefox")]
    Kind { got: String },
    #[error("count {got:?} of {kind} is not a number from 1 to {BROWSERS_MAX}")]
    Count { kind: String, got: String },
    #[error("no browsers are named; write for example chrome=1,firefox=1")]
    Empty,
}

/// Most browsers of a pool.
pub const BROWSERS_MAX: usize = 64;

/// A list of browsers as options give it: `chrome=2,firefox` is two of the one and one of the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kinds(pub Vec<Kind>);

impl FromStr for Kinds {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Kinds, SpecError> {
        let mut kinds = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, count) = part.split_once('=').unwrap_or((part, "1"));
            let kind = Kind::ALL
                .into_iter()
                .find(|kind| kind.name() == name.trim())
                .ok_or_else(|| SpecError::Kind { got: name.to_owned() })?;
            let count: usize = count
                .trim()
                .parse()
                .ok()
                .filter(|count| (1..=BROWSERS_MAX - kinds.len()).contains(count))
                .ok_or_else(|| SpecError::Count { kind: name.to_owned(), got: count.to_owned() })?;
            kinds.extend(std::iter::repeat_n(kind, count));
        }
        if kinds.is_empty() { Err(SpecError::Empty) } else { Ok(Kinds(kinds)) }
    }
}

/// How Chromium gets its WebGPU adapter.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Adapter {
    /// The machine's GPU where there is one, else the faster of the two software routes as measured on this machine.
    Auto,
    /// The browser's own choice, no flags.
    Hardware,
    /// SwiftShader through Vulkan.
    Swiftshader,
    /// Mesa's llvmpipe through OpenGL ES, in WebGPU's compatibility mode.
    Gles,
}

impl Adapter {
    /// Name in options and tables.
    pub fn name(self) -> &'static str {
        match self {
            Adapter::Auto => "auto",
            Adapter::Hardware => "hardware",
            Adapter::Swiftshader => "swiftshader",
            Adapter::Gles => "gles",
        }
    }
}

/// The wish for one browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// What it is.
    pub kind: Kind,
    /// Whether only its protocol is played, by native code.
    pub simulated: bool,
    /// Backends in order of preference.
    pub backends: Vec<Backend>,
    /// Where Chromium's WebGPU adapter comes from.
    pub adapter: Adapter,
}

/// What is known about a browser once it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// What it is.
    pub kind: Kind,
    /// The browser's own version; this program's for a simulated one.
    pub version: String,
    /// Whether only its protocol is played, by native code.
    pub simulated: bool,
    /// Process id of the browser's main process, where it has one.
    pub pid: Option<u32>,
    /// Process id of the guardian over the browser and its driver.
    pub guardian_pid: Option<u32>,
    /// Process id of the driver.
    pub driver_pid: Option<u32>,
    /// From launch to the page's address being opened, in milliseconds.
    pub start_ms: u64,
}

/// A started driver's needs: what to execute and what to ask of it.
#[derive(Clone, Debug)]
pub struct DriverPlan {
    /// Driver and its arguments.
    pub command: Vec<String>,
    /// How the driver says where it listens: the text before the port number on its standard output.
    pub port_after: &'static str,
    /// `alwaysMatch` capabilities of the session.
    pub capabilities: serde_json::Map<String, serde_json::Value>,
    /// Environment variables for driver and browser.
    pub environment: Vec<(String, String)>,
    /// Folder for everything that browser and driver write.
    pub dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_read_from_options() {
        let table: &[(&str, Result<Vec<Kind>, SpecError>)] = &[
            ("chrome", Ok(vec![Kind::Chrome])),
            ("chrome=2,firefox=1", Ok(vec![Kind::Chrome, Kind::Chrome, Kind::Firefox])),
            (" firefox , chrome=1 ", Ok(vec![Kind::Firefox, Kind::Chrome])),
            ("", Err(SpecError::Empty)),
            ("safari=1", Err(SpecError::Kind { got: "safari".into() })),
            ("chrome=0", Err(SpecError::Count { kind: "chrome".into(), got: "0".into() })),
            ("chrome=65", Err(SpecError::Count { kind: "chrome".into(), got: "65".into() })),
            ("chrome=many", Err(SpecError::Count { kind: "chrome".into(), got: "many".into() })),
        ];
        for (text, want) in table {
            assert_eq!(text.parse::<Kinds>().map(|kinds| kinds.0), *want, "{text:?}");
        }
    }
}
