//! A pool with its server in this process: what every command that needs browsers starts.

use std::{
    fs::File,
    io::{Read as _, Seek as _, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use flotilla_browsers::{
    Adapter, Browsers, Build, Builds, DesiredBrowser, Kind, guardian, home_dir, install,
    owner::Limits,
};
use flotilla_fleet::SlotId;
use flotilla_protocol::{Backend, Incarnation};
use flotilla_store::Store;
use tokio::sync::oneshot;

use crate::{
    catalog::Catalog,
    http::{self, BindError, Context},
    pool::{self, BackendSettings, Pool, Recorded},
};

/// Shortest time after which a run's browser counts as hung, even if clients have shorter timeouts.
const RUN_TIMEOUT_MIN: Duration = Duration::from_secs(10);
/// Longest wait for HTTP clients to take their last answers after the pool has ended.
const CLIENTS_END_MAX: Duration = Duration::from_secs(5);

/// Options of a pool and its server.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// Browsers to keep.
    pub browsers: Vec<Build>,
    /// Browsers that may be added while serving.
    pub builds: Builds,
    /// Whether they are simulated by native code.
    pub simulated: bool,
    /// Backends of all browsers.
    pub backends: BackendSettings,
    /// Where Chromium's WebGPU adapter comes from.
    pub adapter: Adapter,
    /// Limits of the core.
    pub fleet: flotilla_fleet::Config,
    /// Other settings of the pool.
    pub pool: pool::Settings,
    /// Settings of the server; its `timeout` is also that of requests that an earlier daemon left open.
    pub http: http::Settings,
    /// The program with the `guardian` subcommand; this program's own file unless given.
    pub guardian: Option<PathBuf>,
    /// The daemon's address for pages, `http://127.0.0.1:PORT`: that of a proxy in front of it. The daemon's own unless given.
    pub page_origin: Option<String>,
    /// Where state that outlives the daemon is kept; `None` for nowhere.
    pub state: Option<flotilla_store::Options>,
    /// Longest run; `None` for a third of the requests' `timeout`.
    pub worker_timeout: Option<Duration>,
    /// Most browsers that workers hold at once; `None` for as many as there are.
    pub max_workers: Option<u32>,
    /// Kinds of browsers that workers may hold; `None` for all.
    pub devices: Option<Vec<Kind>>,
    /// Whether a simulated browser is kept for requests that allow it as the last resort.
    pub fallback_to_simulation: bool,
}

impl LocalOptions {
    /// Real browsers with default limits.
    pub fn of(browsers: impl IntoIterator<Item = impl Into<Build>>) -> LocalOptions {
        LocalOptions {
            browsers: browsers.into_iter().map(Into::into).collect(),
            builds: Builds::built_in(),
            simulated: false,
            backends: BackendSettings::default(),
            adapter: Adapter::Auto,
            fleet: flotilla_fleet::Config::default(),
            pool: pool::Settings::default(),
            http: http::Settings::default(),
            guardian: None,
            page_origin: None,
            state: None,
            worker_timeout: None,
            max_workers: None,
            devices: None,
            fallback_to_simulation: false,
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
    State(#[from] flotilla_store::OpenError),
    #[error("the data folder {path} cannot be used: {source}; set FLOTILLA_HOME to one that can")]
    Home { path: PathBuf, source: std::io::Error },
}

/// A running pool and its server.
#[derive(Debug)]
pub struct Local {
    /// Where requests run.
    pub pool: Pool,
    /// What it was started with; [`Pool::catalog`] is what is served now.
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
    /// A browser or the runner is missing, there is no model, or the port cannot be bound.
    pub async fn start(
        local_options: &LocalOptions,
        catalog: Arc<Catalog>,
        port: u16,
    ) -> Result<Local, StartError> {
        if catalog.models.is_empty() && !catalog.broken.is_empty() {
            let reasons: Vec<&str> = catalog.broken.values().map(String::as_str).collect();
            return Err(StartError::NoModel { reasons: reasons.join("; ") });
        }
        if !local_options.simulated {
            for build in &local_options.browsers {
                install::find(build)?;
            }
            if let Some(remedy) = flotilla_web::missing() {
                return Err(StartError::RunnerMissing { remedy });
            }
        }
        let home = home_dir();
        let of_home = data_dir_id(&home).and_then(|id| Ok((id, next_incarnation(&home)?)));
        let (data_dir_id, incarnation) =
            of_home.map_err(|source| StartError::Home { path: home, source })?;
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
        let recorded = open_state(local_options).await?;
        let browsers = Browsers {
            builds: local_options.builds.clone(),
            simulated: local_options.simulated,
            backends: local_options.backends.list.clone(),
            adapter: local_options.adapter,
        };
        let options = pool::Options {
            browsers: local_options.browsers.iter().map(|build| browsers.desired(build)).collect(),
            fleet: flotilla_fleet::Config {
                incarnation,
                // A hung run must be detected while its requests still have time for another browser.
                run_timeout: local_options.worker_timeout.unwrap_or_else(|| {
                    local_options
                        .fleet
                        .run_timeout
                        .min((local_options.http.timeout / 3).max(RUN_TIMEOUT_MIN))
                }),
                workers_max: local_options.max_workers,
                worker_slots: local_options.devices.as_ref().map(|devices| {
                    let slots = (0..).zip(&local_options.browsers);
                    let held = slots.filter(|(_, build)| devices.contains(&build.kind));
                    held.map(|(slot, _)| SlotId(slot)).collect()
                }),
                ..local_options.fleet.clone()
            },
            backends: local_options.backends.clone(),
            settings: local_options.pool.clone(),
            heartbeat: local_options.fleet.suspect_after / 5,
            guardian: match &local_options.guardian {
                Some(program) => program.clone(),
                None => std::env::current_exe().map_err(StartError::Program)?,
            },
            data_dir_id,
            fallback: local_options
                .fallback_to_simulation
                .then(|| DesiredBrowser {
                    build: Kind::Chrome.into(),
                    simulated: true,
                    backends: vec![Backend::Cpu],
                    adapter: local_options.adapter,
                })
                .into_iter()
                .collect(),
            limits: Limits::default(),
            resume_timeout: local_options.http.timeout,
        };
        let origin =
            local_options.page_origin.clone().unwrap_or_else(|| format!("http://{address}"));
        let (pool, pool_ended) = Pool::start(options, catalog.clone(), origin, recorded);
        let context = Context {
            pool: pool.clone(),
            browsers: Arc::new(browsers),
            queue_max: local_options.fleet.queue_max as usize,
            settings: Arc::new(local_options.http.clone()),
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

/// Opens the state if the options ask for it. If another daemon has it open, this one continues without state and logs that.
async fn open_state(local_options: &LocalOptions) -> Result<Option<Recorded>, StartError> {
    let Some(options) = local_options.state.clone() else { return Ok(None) };
    let opened = tokio::task::spawn_blocking(move || Store::open(options)).await;
    match opened.map_err(|error| flotilla_store::OpenError::Read(error.to_string()))? {
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
        Err(flotilla_store::OpenError::Lock(error @ flotilla_store::LockError::Held { .. })) => {
            tracing::warn!(%error, "this daemon keeps no state: requests cannot be recorded");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The next number of a data folder's count of lives, so that no two daemons that use it share an id.
fn next_incarnation(home: &Path) -> std::io::Result<Incarnation> {
    let path = home.join("incarnation");
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
    // Another daemon that starts at the same time waits here.
    file.lock()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let last = match text.trim() {
        "" => 0,
        text => text.parse::<u32>().map_err(|error| {
            std::io::Error::other(format!("{} holds no number: {error}", path.display()))
        })?,
    };
    let next = last.checked_add(1).and_then(Incarnation::new).ok_or_else(|| {
        std::io::Error::other(format!(
            "{} has counted to its end, {}: use another data folder",
            path.display(),
            Incarnation::MAX.number()
        ))
    })?;
    // The text never gets shorter.
    file.rewind()?;
    write!(file, "{}", next.number())?;
    file.sync_data()?;
    Ok(next)
}

/// A number that stays with a data folder, so that only its own left-over processes are ever ended.
fn data_dir_id(home: &Path) -> std::io::Result<String> {
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
    // Written to another file and linked into place, so that two daemons that start at the same time use the same number.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_life_of_a_data_folder_has_its_own_number() {
        let home = tempfile::tempdir().expect("a folder");
        let next = || next_incarnation(home.path());
        for want in 1..12 {
            assert_eq!(next().expect("counted").number(), want);
        }
        let path = home.path().join("incarnation");
        std::fs::write(&path, "twelve").expect("written");
        let error = next().expect_err("no number").to_string();
        assert!(error.contains("incarnation holds no number"), "{error}");
        std::fs::write(&path, Incarnation::MAX.number().to_string()).expect("written");
        let error = next().expect_err("too many").to_string();
        assert!(error.contains("use another data folder"), "{error}");
    }
}
