//! Browsers: kinds, how each is found and started, the task that owns one, and the guardian that ends it.
//!
//! An [`owner::Owner`] starts guardian, driver and browser and opens the runner page in it. What the page then does is not
//! known here: its links lead to whoever serves the page.

use std::{fmt, path::PathBuf};

use flotilla_protocol::Backend;
use serde::{Deserialize, Serialize};

pub mod adapter;
pub mod build;
mod channel;
mod chrome;
pub mod fault;
mod firefox;
pub mod guardian;
mod home;
pub mod install;
pub mod owner;

pub use build::{Build, Builds, Names, SpecError};
pub use channel::Channel;
pub use home::home_dir;

/// A family of browsers that are driven alike.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Chromium or Google Chrome.
    Chrome,
    /// Firefox.
    Firefox,
    /// Microsoft Edge.
    Edge,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 3] = [Kind::Chrome, Kind::Firefox, Kind::Edge];

    /// Name in options and tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Chrome => "chrome",
            Kind::Firefox => "firefox",
            Kind::Edge => "edge",
        }
    }

    /// Whether it is made of Chromium, and takes its arguments.
    pub fn is_chromium(self) -> bool {
        match self {
            Kind::Chrome | Kind::Edge => true,
            Kind::Firefox => false,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Most browsers of a pool.
pub const BROWSERS_MAX: usize = 64;

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

/// A browser to be started: build, backends and adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredBrowser {
    /// Its build.
    pub build: Build,
    /// Whether it is simulated: native code that speaks a page's protocol.
    pub simulated: bool,
    /// Backends in order of preference.
    pub backends: Vec<Backend>,
    /// Where Chromium's WebGPU adapter comes from.
    pub adapter: Adapter,
}

/// Browsers that a pool can be given while it serves.
#[derive(Clone, Debug)]
pub struct Browsers {
    /// Builds that can be requested by name.
    pub builds: Builds,
    /// Whether they are simulated by native code.
    pub simulated: bool,
    /// Backends in order of preference.
    pub backends: Vec<Backend>,
    /// Where Chromium's WebGPU adapter comes from.
    pub adapter: Adapter,
}

impl Browsers {
    /// Makes the [`DesiredBrowser`] for one of them.
    pub fn desired(&self, build: &Build) -> DesiredBrowser {
        DesiredBrowser {
            build: build.clone(),
            simulated: self.simulated,
            backends: self.backends.clone(),
            adapter: adapter::decide(self.adapter, build),
        }
    }
}

/// What is known about a browser once it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Name of its build; ` (shim)` follows it if the driver reports that another browser takes its place.
    pub name: String,
    /// How it is driven.
    #[serde(skip)]
    pub kind: Kind,
    /// The browser's own version; this program's for a simulated one.
    pub version: String,
    /// Its release channel.
    pub channel: Channel,
    /// Whether it is simulated: native code that speaks a page's protocol.
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

/// How to start a driver: its command and the capabilities of the session.
#[derive(Clone, Debug)]
pub(crate) struct DriverPlan {
    /// Driver and its arguments.
    pub(crate) command: Vec<String>,
    /// The text that the driver prints before its port number on standard output.
    pub(crate) port_after: &'static str,
    /// `alwaysMatch` capabilities of the session.
    pub(crate) capabilities: serde_json::Map<String, serde_json::Value>,
    /// Environment variables for driver and browser.
    pub(crate) environment: Vec<(String, String)>,
    /// Folder for everything that browser and driver write.
    pub(crate) dir: PathBuf,
}
