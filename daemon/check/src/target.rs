//! Where a model is checked: a browser and a backend.

use std::fmt;

use flotilla_protocol::Backend;

use flotilla_browsers::{
    Build, Builds, SpecError,
    build::{NATIVE, NO_BROWSERS, SIMULATED},
    install,
};

/// The default hosts.
pub const DEFAULT_HOSTS: [&str; 3] = ["chrome", "firefox", NATIVE];

/// Something that runs programs.
#[derive(Clone, Debug, PartialEq)]
pub enum Host {
    /// A real browser.
    Browser(Box<Build>),
    /// The same runtime as in a page, compiled for this machine, without a browser.
    Native,
    /// The native runtime behind a page's protocol.
    Simulated,
}

impl Host {
    /// The one of this name.
    ///
    /// # Errors
    /// There is none; the error lists those that there are.
    pub fn named(name: &str, builds: &Builds) -> Result<Host, SpecError> {
        match name.trim() {
            NATIVE => Ok(Host::Native),
            SIMULATED => Ok(Host::Simulated),
            name => match builds.get(name) {
                Ok(build) => Ok(Host::Browser(Box::new(build.clone()))),
                Err(SpecError::Unknown { got, mut known }) => {
                    known.extend(NO_BROWSERS.map(ToOwned::to_owned));
                    Err(SpecError::Unknown { got, known })
                }
                Err(error) => Err(error),
            },
        }
    }

    /// Name in options and tables.
    pub fn name(&self) -> &str {
        match self {
            Host::Browser(build) => &build.name,
            Host::Native => NATIVE,
            Host::Simulated => SIMULATED,
        }
    }

    /// Why it is not on this machine, if it is not.
    pub fn missing(&self) -> Option<String> {
        match self {
            Host::Browser(build) => match install::find(build) {
                Ok(_) => flotilla_web::missing().map(ToOwned::to_owned),
                Err(missing) => Some(missing.to_string()),
            },
            Host::Native | Host::Simulated => None,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A browser and a backend.
#[derive(Clone, Debug, PartialEq)]
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

/// Every pair, browser by browser; duplicates are removed.
pub fn targets(hosts: &[Host], backends: &[Backend]) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    for host in hosts {
        for &backend in backends {
            let target = Target { host: host.clone(), backend };
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
        let builds = Builds::built_in();
        let names = builds.all().iter().map(|build| build.name.as_str());
        for name in names.chain(NO_BROWSERS).chain(DEFAULT_HOSTS) {
            assert_eq!(Host::named(name, &builds).expect("known").name(), name);
        }
        let error = Host::named("safari", &builds).expect_err("not known").to_string();
        assert!(error.ends_with(", native, simulated"), "{error}");
        let twice = targets(&[Host::Native, Host::Native], &[Backend::Cpu, Backend::WebGpu]);
        assert_eq!(twice.len(), 2);
    }
}
