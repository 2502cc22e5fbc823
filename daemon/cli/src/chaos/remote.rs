//! A running daemon, from outside: signals to its browsers' processes, and nothing else.

use flotilla_fault_injection::{
    campaign::{Injected, Refused, Target},
    daemon::{Browser, Daemon},
    faults::What,
    firing::Bell,
    proxy::Proxy,
};

/// A daemon that was already running.
pub(super) struct Remote {
    daemon: Daemon,
}

impl Remote {
    pub(super) fn new(daemon: Daemon) -> Remote {
        Remote { daemon }
    }
}

impl Target for Remote {
    fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    fn proxy(&self) -> Option<&Proxy> {
        None
    }

    fn refuses(&self, what: &What) -> Option<String> {
        match what {
            What::Kill { .. } | What::Stop { .. } => None,
            What::Page { .. } => Some("a running daemon runs no scripts in its pages".to_owned()),
            What::Link { .. } => {
                Some("pages of a running daemon connect to it without a proxy".to_owned())
            }
            What::Daemon { .. } | What::Driver { .. } => {
                Some("this command did not start the daemon, so it cannot restart it".to_owned())
            }
        }
    }

    async fn inject(
        &self,
        _browser: Option<&Browser>,
        what: &What,
        _bell: &Bell,
    ) -> Result<Injected, Refused> {
        Err(Refused::NotApplicable(format!(
            "{what}: a simulated browser of a running daemon has no process"
        )))
    }

    async fn heal(&self) {}
}
