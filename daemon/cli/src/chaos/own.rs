//! A pool of this process's own: faults in pages, and on their links through a proxy.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use flotilla::{
    browser::{
        Builds,
        fault::{Fault, FaultError},
    },
    catalog::Catalog,
    local::{Local, LocalOptions},
    pool::Pool,
};
use flotilla_fault_injection::{
    campaign::{Injected, Refused, Target},
    daemon::{Browser, Daemon},
    faults::{PageFault, Role, Scenario, What},
    firing::Bell,
    proxy::Proxy,
};
use flotilla_protocol::BrowserId;
use tokio::sync::{mpsc, oneshot};

use crate::chaos::Options;

/// Longest wait for a fault in a page to happen.
const PAGE_MAX: Duration = Duration::from_secs(15);

/// A pool in this process.
pub(super) struct Own {
    daemon: Daemon,
    proxy: Option<Proxy>,
    pool: Pool,
    /// Dropping it is the order to stop.
    stop: mpsc::Sender<oneshot::Sender<()>>,
}

impl Own {
    pub(super) async fn start(
        options: &Options,
        builds: &Builds,
        catalog: Catalog,
        scenario: &Scenario,
    ) -> anyhow::Result<Own> {
        let mut proxy = None;
        if scenario.faults.iter().any(|fault| matches!(fault.what, What::Link { .. })) {
            proxy = Some(Proxy::bind().await?);
        }
        let mut local_options: LocalOptions = options.local_options(builds)?;
        local_options.fleet.redundancy_factor = options.redundancy;
        local_options.fleet.memory_bytes_max = scenario.worker_memory_mb.map(|mib| mib << 20);
        local_options.pool.takes_faults = true;
        local_options.page_origin = proxy.as_ref().map(Proxy::url);
        let local = Local::start(&local_options, Arc::new(catalog), 0).await?;
        if let Some(proxy) = &mut proxy {
            proxy.serve(local.address);
        }
        let model = local.catalog.models.first().map(|model| model.name.clone());
        let daemon = Daemon::new(format!("http://{}", local.address), model.unwrap_or_default());
        let pool = local.pool.clone();
        let (stop, mut stopped) = mpsc::channel::<oneshot::Sender<()>>(1);
        tokio::spawn(async move {
            let done = stopped.recv().await;
            local.stop().await;
            // The caller may have stopped waiting.
            let _ = done.map(|done| done.send(()));
        });
        Ok(Own { daemon, proxy, pool, stop })
    }

    /// Ends every browser.
    pub(super) async fn stop(&self) {
        let (done, ended) = oneshot::channel();
        if self.stop.send(done).await.is_ok() {
            // An error means that it has ended.
            let _ = ended.await;
        }
    }
}

/// The browser fault that makes it happen; `None` if it is not a fault of a browser.
fn browser_fault(what: &What, is_simulated: bool) -> Option<Fault> {
    match what {
        What::Page { how } => Some(match *how {
            PageFault::Crash => Fault::Crash,
            PageFault::LoseDevice => Fault::LoseDevice,
            PageFault::Hang => Fault::Hang,
            PageFault::Silence => Fault::Silence,
            PageFault::WrongAnswers => Fault::WrongAnswers(true),
            PageFault::SlowDown { factor } => Fault::SlowDown(f64::from(factor)),
            PageFault::HogMemory { megabytes } => Fault::Memory(megabytes),
        }),
        What::Kill { process } if is_simulated => Some(match process {
            Role::Browser | Role::Driver => Fault::Exit,
            Role::Renderer => Fault::Crash,
            Role::Gpu => Fault::LoseDevice,
        }),
        What::Stop { process: Role::Browser | Role::Renderer, for_ms: None } if is_simulated => {
            Some(Fault::Hang)
        }
        What::Kill { .. }
        | What::Stop { .. }
        | What::Link { .. }
        | What::Daemon { .. }
        | What::Driver { .. } => None,
    }
}

impl Target for Own {
    fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    fn refuses(&self, what: &What) -> Option<String> {
        match what {
            What::Daemon { .. } | What::Driver { .. } => {
                Some("the daemon is this process itself".to_owned())
            }
            What::Kill { .. } | What::Stop { .. } | What::Page { .. } | What::Link { .. } => None,
        }
    }

    async fn inject(
        &self,
        browser: Option<&Browser>,
        what: &What,
        _bell: &Bell,
    ) -> Result<Injected, Refused> {
        let id = browser
            .and_then(|browser| browser.name.as_deref()?.parse::<BrowserId>().ok())
            .ok_or_else(|| Refused::Failed("the browser has no name".to_owned()))?;
        let fault = browser_fault(what, browser.is_some_and(|browser| browser.is_simulated))
            .ok_or_else(|| {
                Refused::NotApplicable(format!("{what} is not possible in a simulated browser"))
            })?;
        let at = Instant::now();
        match tokio::time::timeout(PAGE_MAX, self.pool.fault(id, fault)).await {
            Ok(Ok(())) => Ok(Injected::At(at)),
            Ok(Err(FaultError::NothingThere)) => {
                Err(Refused::NotApplicable(format!("{what}: {}", FaultError::NothingThere)))
            }
            Ok(Err(error)) => Err(Refused::Failed(error.to_string())),
            Err(_) => Err(Refused::Failed(format!("the page did not do it within {PAGE_MAX:?}"))),
        }
    }

    async fn heal(&self) {
        // Faults in pages end with the pages, which the pool replaces.
    }
}
