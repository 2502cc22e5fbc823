//! A pool with its server in this process: what every command that needs browsers starts.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use flotilla_fleet::{Batching, Choice, SlotId};
use flotilla_protocol::{Backend, Device};
use tokio::sync::oneshot;

use crate::{
    browser::{Adapter, Build, Kind, Wish, adapter, install, owner::Limits},
    catalog::Catalog,
    guardian,
    http::{self, BindError, Context},
    pool::{self, Pool, Recorded},
    store::{self, Store},
};

/// A run is given at least this long before its browser counts as hung, however impatient clients are.
const RUN_TIMEOUT_MIN: Duration = Duration::from_secs(10);
/// Longest wait for HTTP clients to take their last answers after the pool has ended.
const CLIENTS_END_MAX: Duration = Duration::from_secs(5);

/// What a pool is wished to be, as options give it.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// Browsers to keep.
    pub browsers: Vec<Build>,
    /// Whether native code plays them.
    pub simulated: bool,
    /// Backends in order of preference.
    pub backends: Vec<Backend>,
    /// Which of them is used.
    pub choice: Choice,
    /// The processor that webnn is asked for; the browser's own choice without one.
    pub device: Option<Device>,
    /// Whether nodes that webnn does not take may run on cpu; `None`: if cpu is among the backends.
    pub split: Option<bool>,
    /// Data folder in which it is kept what backends were measured; `None` for nowhere.
    pub speeds: Option<PathBuf>,
    /// Where Chromium's WebGPU adapter comes from.
    pub adapter: Adapter,
    /// Longest time from a request to its answer.
    pub timeout: Duration,
    /// Limits of the core.
    pub fleet: flotilla_fleet::Config,
    /// How requests are joined.
    pub batching: Batching,
    /// A folder served under `/extra/`.
    pub extra: Option<PathBuf>,
    /// The program with the `guardian` subcommand; this program's own file unless given.
    pub guardian: Option<PathBuf>,
    /// What pages take for the daemon, `http://127.0.0.1:PORT`: a proxy in front of it. The daemon itself unless given.
    pub page_origin: Option<String>,
    /// Where state that outlives the daemon is kept; `None` for nowhere.
    pub state: Option<store::Options>,
    /// Longest run; `None` for a third of `timeout`.
    pub worker_timeout: Option<Duration>,
    /// Most browsers that workers hold at once; `None` for as many as there are.
    pub max_workers: Option<u32>,
    /// Kinds of browsers that workers may hold; `None` for all.
    pub devices: Option<Vec<Kind>>,
    /// How long recorded requests and their answers are kept.
    pub idempotency_ttl: Duration,
    /// Whether a simulated browser stands by for requests that allow it as the last resort.
    pub fallback_to_simulation: bool,
    /// Longest time that a client may take for a request's head, and again for its body.
    pub client_timeout: Duration,
    /// Whether real browsers' pages can be given faults on purpose, by [`Pool::fault`].
    pub takes_faults: bool,
}

impl Wishes {
    /// Real browsers with default limits.
    pub fn of(browsers: impl IntoIterator<Item = impl Into<Build>>) -> Wishes {
        Wishes {
            browsers: browsers.into_iter().map(Into::into).collect(),
            simulated: false,
            backends: vec![Backend::WebGpu, Backend::Cpu],
            choice: Choice::First,
            device: None,
            split: None,
            speeds: None,
            adapter: Adapter::Auto,
            timeout: Duration::from_secs(120),
            fleet: flotilla_fleet::Config::default(),
            batching: Batching { rows_max: 32, tokens_max: 2048 },
            extra: None,
            guardian: None,
            page_origin: None,
            state: None,
            worker_timeout: None,
            max_workers: None,
            devices: None,
            idempotency_ttl: Duration::from_secs(24 * 3600),
            fallback_to_simulation: false,
            client_timeout: Duration::from_secs(30),
            takes_faults: false,
        }
    }
}

/// Why a pool could not be started.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum StartError {
    #[error(transparent)]
    NotInstalled(#[from] install::NotInstalled),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("this program's own file cannot be found: {0}")]
    Program(#[source] std::io::Error),
    #[error("no model can be served: {reasons}")]
    NoModel { reasons: String },
    #[error("{remedy}")]
    RunnerMissing { remedy: &'static str },
    #[error(transparent)]
    State(#[from] store::OpenError),
    #[error("the data folder {path} cannot be used: {source}; set FLOTILLA_HOME to one that can")]
    Home { path: PathBuf, source: std::io::Error },
}

/// A running pool and its server.
#[derive(Debug)]
pub struct Local {
    /// Where requests run.
    pub pool: Pool,
    /// What is served.
    pub catalog: Arc<Catalog>,
    /// Where the server listens.
    pub address: SocketAddr,
    pool_ended: pool::Ended,
    stop_server: oneshot::Sender<()>,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Local {
    /// Starts server and browsers; returns as soon as the port is bound.
    ///
    /// # Errors
    /// A browser or the runner is missing, no model is there, or the port cannot be had.
    pub async fn start(
        wishes: &Wishes,
        catalog: Arc<Catalog>,
        port: u16,
    ) -> Result<Local, StartError> {
        if catalog.models.is_empty() && !catalog.broken.is_empty() {
            let reasons: Vec<&str> = catalog.broken.values().map(String::as_str).collect();
            return Err(StartError::NoModel { reasons: reasons.join("; ") });
        }
        if !wishes.simulated {
            for build in &wishes.browsers {
                install::find(build)?;
            }
            if let Some(remedy) = flotilla_web::missing() {
                return Err(StartError::RunnerMissing { remedy });
            }
        }
        let home = crate::pull::home_dir();
        let data_dir_id =
            data_dir_id(&home).map_err(|source| StartError::Home { path: home, source })?;
        let (listener, address) = http::bind(port).await?;
        let id = data_dir_id.clone();
        let left = tokio::task::spawn_blocking(move || guardian::reconcile(&id)).await;
        let left = left.map_err(|error| StartError::Program(std::io::Error::other(error)))?;
        for pid in left.pids {
            tracing::warn!(pid, "ended a process that a dead daemon of this data folder had left");
        }
        for folder in left.folders {
            let folder = folder.display();
            tracing::warn!(%folder, "removed a folder that a dead daemon of this data folder had left");
        }
        let recorded = open_state(wishes).await?;
        let options = pool::Options {
            wishes: wishes
                .browsers
                .iter()
                .map(|build| Wish {
                    build: build.clone(),
                    simulated: wishes.simulated,
                    backends: wishes.backends.clone(),
                    adapter: adapter::decide(wishes.adapter, build),
                })
                .collect(),
            fleet: flotilla_fleet::Config {
                // A hung run must be noticed while its requests still have time for another browser.
                run_timeout: wishes.worker_timeout.unwrap_or_else(|| {
                    wishes.fleet.run_timeout.min((wishes.timeout / 3).max(RUN_TIMEOUT_MIN))
                }),
                workers_max: wishes.max_workers,
                worker_slots: wishes.devices.as_ref().map(|devices| {
                    let slots = (0..).zip(&wishes.browsers);
                    let held = slots.filter(|(_, build)| devices.contains(&build.kind));
                    held.map(|(slot, _)| SlotId(slot)).collect()
                }),
                ..wishes.fleet.clone()
            },
            choice: wishes.choice,
            device: wishes.device,
            rest: wishes
                .split
                .unwrap_or_else(|| wishes.backends.contains(&Backend::Cpu))
                .then_some(Backend::Cpu),
            speeds: wishes.speeds.clone(),
            batching: wishes.batching,
            heartbeat: wishes.fleet.suspect_after / 5,
            guardian: match &wishes.guardian {
                Some(program) => program.clone(),
                None => std::env::current_exe().map_err(StartError::Program)?,
            },
            data_dir_id,
            fallback: wishes
                .fallback_to_simulation
                .then(|| Wish {
                    build: Kind::Chrome.into(),
                    simulated: true,
                    backends: vec![Backend::Cpu],
                    adapter: wishes.adapter,
                })
                .into_iter()
                .collect(),
            limits: Limits::default(),
            takes_faults: wishes.takes_faults,
            resume_timeout: wishes.timeout,
        };
        let origin = wishes.page_origin.clone().unwrap_or_else(|| format!("http://{address}"));
        let (pool, pool_ended) = Pool::start(options, catalog.clone(), origin, recorded);
        let context = Context {
            pool: pool.clone(),
            catalog: catalog.clone(),
            timeout: wishes.timeout,
            idempotency_ttl: wishes.idempotency_ttl,
            queue_max: wishes.fleet.queue_max as usize,
            client_timeout: wishes.client_timeout,
            extra: wishes.extra.clone().map(Arc::new),
        };
        let (stop_server, stopped) = oneshot::channel();
        let server = tokio::spawn(http::serve(listener, context, async {
            // A dropped sender is an order to stop, too.
            let _ = stopped.await;
        }));
        Ok(Local { pool, catalog, address, pool_ended, stop_server, server })
    }

    /// Waits until the pool has drained (see [`Pool::drain`]) and nothing of it is left.
    ///
    /// # Errors
    /// The pool's task failed, which is a defect.
    pub async fn ended(self) -> Result<(), tokio::task::JoinError> {
        let ended = self.pool_ended.await;
        drop(self.stop_server);
        match tokio::time::timeout(CLIENTS_END_MAX, self.server).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::error!(%error, "the server failed"),
            Ok(Err(error)) => tracing::error!(%error, "the server failed"),
            Err(_) => tracing::warn!("a client keeps its connection open; it is closed"),
        }
        ended
    }

    /// Drains and ends everything.
    pub async fn stop(self) {
        self.pool.drain().await;
        if let Err(error) = self.ended().await {
            tracing::error!(%error, "the pool failed");
        }
    }
}

/// Opens the state, if one is wished for. Where another daemon has it, this one goes without, and says so.
async fn open_state(wishes: &Wishes) -> Result<Option<Recorded>, StartError> {
    let Some(options) = wishes.state.clone() else { return Ok(None) };
    let opened = tokio::task::spawn_blocking(move || Store::open(options)).await;
    match opened.map_err(|error| store::OpenError::Read(error.to_string()))? {
        Ok((store, opened)) => {
            for finding in &opened.report.findings {
                tracing::warn!(%finding, "state was not as it was written");
            }
            let rolled_back = opened.report.rolled_back.len();
            if rolled_back > 0 {
                tracing::info!(rolled_back, "transactions that were not finished are undone");
            }
            Ok(Some(Recorded { store, opened }))
        }
        Err(store::OpenError::Lock(error @ store::LockError::Held { .. })) => {
            tracing::warn!(%error, "this daemon keeps no state: requests cannot be recorded");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// A number that stays with a data folder, so that only its own left-over processes are ever ended.
fn data_dir_id(home: &std::path::Path) -> std::io::Result<String> {
    std::fs::create_dir_all(home)?;
    let path = home.join("id");
    let read = || -> std::io::Result<Option<String>> {
        match std::fs::read_to_string(&path) {
            Ok(id) => Ok(Some(id.trim().to_owned()).filter(|id| id.len() == 32)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    };
    if let Some(id) = read()? {
        return Ok(id);
    }
    // Written aside and linked into place, so that two daemons that start at once agree on one.
    let aside = home.join(format!("id.{}", crate::token::random()));
    std::fs::write(&aside, crate::token::random())?;
    let linked = std::fs::hard_link(&aside, &path);
    std::fs::remove_file(&aside)?;
    match linked {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => {
            read()?.ok_or_else(|| std::io::Error::other(format!("{} holds no id", path.display())))
        }
    }
}
