//! Where a model is checked: a browser and a backend.

use std::{fmt, str::FromStr};

use flotilla_protocol::Backend;
use serde::{Serialize, Serializer};

use crate::browser::{Kind, install};

/// Something that runs programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A real browser.
    Browser(Kind),
    /// Microsoft Edge.
    Edge,
    /// The same runtime as in a page, compiled for this machine, without a browser.
    Native,
    /// The native runtime behind a page's protocol.
    Simulated,
}

impl Host {
    /// Every host.
    pub const ALL: [Host; 5] = [
        Host::Browser(Kind::Chrome),
        Host::Browser(Kind::Firefox),
        Host::Edge,
        Host::Native,
        Host::Simulated,
    ];

    /// What is checked unless something else is asked for.
    pub const DEFAULT: [Host; 3] =
        [Host::Browser(Kind::Chrome), Host::Browser(Kind::Firefox), Host::Native];

    /// Name in options and tables.
    pub fn name(self) -> &'static str {
        match self {
            Host::Browser(kind) => kind.name(),
            Host::Edge => "edge",
            Host::Native => "native",
            Host::Simulated => "simulated",
        }
    }

    /// Why it is not on this machine, if it is not.
    pub fn missing(self) -> Option<String> {
        match self {
            Host::Browser(kind) => match install::find(kind) {
                Ok(_) => flotilla_web::missing().map(ToOwned::to_owned),
                Err(missing) => Some(missing.to_string()),
            },
            Host::Edge => Some("this version drives no Edge".to_owned()),
            Host::Native | Host::Simulated => None,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Host {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl FromStr for Host {
    type Err = String;

    fn from_str(name: &str) -> Result<Host, String> {
        Host::ALL.into_iter().find(|host| host.name() == name.trim()).ok_or_else(|| {
            let known: Vec<&str> = Host::ALL.into_iter().map(Host::name).collect();
            format!("{name:?} is no browser; known are {}", known.join(", "))
        })
    }
}

/// A browser and a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// The browser.
    pub host: Host,
    /// Where in its page a program runs.
    pub backend: Backend,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.host, self.backend)
    }
}

/// Every pair, browser by browser; what is named twice is taken once.
pub fn targets(hosts: &[Host], backends: &[Backend]) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    for &host in hosts {
        for &backend in backends {
            let target = Target { host, backend };
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for host in Host::ALL {
            assert_eq!(host.name().parse(), Ok(host));
        }
        let error = "safari".parse::<Host>().expect_err("not known");
        assert!(error.contains("chrome, firefox, edge, native, simulated"), "{error}");
        let twice = targets(&[Host::Native, Host::Native], &[Backend::Cpu, Backend::WebGpu]);
        assert_eq!(twice.len(), 2);
    }
}
