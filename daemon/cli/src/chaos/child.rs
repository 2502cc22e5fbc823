//! A daemon in a process of its own, so that it can be killed and started again where it was.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use flotilla::{
    browser::{Build, Builds, install},
    config::{self, Config},
};
use flotilla_fault_injection::{
    campaign::{Injected, Refused, Target},
    daemon::{Browser, Daemon},
    driver::{Control, Orders},
    faults::{DaemonFault, Fault, Scenario, What},
    firing::Bell,
    proxy::Proxy,
};
use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus, seq::IndexedMutRandom as _};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    sync::{mpsc, oneshot},
};

use crate::{
    PoolOptions,
    chaos::{MODEL, Options},
};

/// Longest wait for a new daemon to listen.
const LISTEN_MAX: Duration = Duration::from_secs(120);
/// Longest wait for the daemon to end after it was ordered to.
const END_MAX: Duration = Duration::from_secs(60);
/// Time between two reads of what drivers have reported.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Number of the daemon's last lines in the error if it does not start.
const WORDS_MAX: usize = 5;
/// Most orders that wait for the daemon's owner.
const ORDERS_MAX: usize = 64;
/// The first copy of the store, below the data folder.
const STORE: &str = "state/state.sqlite";
/// Its write-ahead log, with what is not in the file itself yet.
const STORE_LOG: &str = "state/state.sqlite-wal";

/// How the daemon is started, again and again.
struct Recipe {
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, PathBuf)>,
    home: PathBuf,
    /// 0 for the first start: the daemon takes a free one, and keeps it.
    port: u16,
}

enum Order {
    Disturb { how: DaemonFault, done: oneshot::Sender<Result<Instant, String>> },
    Stop { done: oneshot::Sender<()> },
}

/// A daemon that this process started.
pub(super) struct Child {
    daemon: Daemon,
    orders: mpsc::Sender<Order>,
    control: Control,
}

impl Child {
    pub(super) async fn start(
        options: &Options,
        builds: &Builds,
        scenario: &Scenario,
        model: &Path,
        folder: &Path,
    ) -> anyhow::Result<Child> {
        let home = folder.join("home");
        let drivers = folder.join("drivers");
        for made in [&home, &drivers] {
            std::fs::create_dir_all(made)
                .with_context(|| format!("{} cannot be made", made.display()))?;
        }
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let local_options = options.local_options(builds)?;
        let control = Control::new(&drivers);
        let environment = vec![("FLOTILLA_HOME".to_owned(), home.clone())];
        let is_driver_fault = |fault: &Fault| matches!(fault.what, What::Driver { .. });
        let has_faulty_drivers = scenario.faults.iter().any(is_driver_fault);
        let mut config = Config::default();
        for build in &local_options.browsers {
            if !local_options.simulated && !config.browsers.contains_key(&build.name) {
                let mut installed = install::find(build)?;
                if has_faulty_drivers {
                    let name = format!("driver-of-{}", build.name);
                    installed.driver = control.install(&program, &installed.driver, &name)?;
                }
                let (binary, driver) = (Some(installed.browser), Some(installed.driver));
                let found = Build { binary, driver, ..build.clone() };
                config.browsers.insert(build.name.clone(), config::Browser::of(&found));
            }
        }
        // The daemon has a data folder of its own, so it would not find the files of this one.
        let configured = folder.join(config::FILE);
        std::fs::write(&configured, toml::to_string(&config)?)
            .with_context(|| format!("{} cannot be written", configured.display()))?;
        let mut words = vec![
            "serve".to_owned(),
            "--config".to_owned(),
            configured.display().to_string(),
            "--until-input-ends".to_owned(),
            "--models".to_owned(),
            model.display().to_string(),
        ];
        words.extend(PoolOptions::words(&local_options));
        let limits = [
            ("--redundancy-factor", options.redundancy.map(u64::from)),
            ("--worker-memory-mb", scenario.worker_memory_mb),
        ];
        for (option, value) in limits {
            words
                .extend(value.into_iter().flat_map(|value| [option.to_owned(), value.to_string()]));
        }
        let mut recipe = Recipe { program, arguments: words, environment, home, port: 0 };
        let mut serving = recipe.serve()?;
        let listening = serving.listening.take().context("the daemon's output is not read")?;
        let address = tokio::time::timeout(LISTEN_MAX, listening)
            .await
            .with_context(|| format!("the daemon did not listen within {LISTEN_MAX:?}"))?
            .context("the daemon's output ended")?
            .map_err(|words| anyhow::anyhow!("the daemon did not start: {words}"))?;
        recipe.port = address.port();
        let (orders, queue) = mpsc::channel(ORDERS_MAX);
        tokio::spawn(own(recipe, serving, queue));
        let name = match options.model {
            Some(_) => flotilla::catalog::name_of(model),
            None => MODEL.to_owned(),
        };
        Ok(Child { daemon: Daemon::new(format!("http://{address}"), name), orders, control })
    }

    /// Ends the daemon and its browsers.
    pub(super) async fn stop(&self) {
        let (done, ended) = oneshot::channel();
        if self.orders.send(Order::Stop { done }).await.is_ok() {
            // An error means that it has ended.
            let _ = ended.await;
        }
    }
}

/// A daemon that runs.
struct Serving {
    process: tokio::process::Child,
    /// Its address, or its last lines.
    listening: Option<oneshot::Receiver<Result<SocketAddr, String>>>,
}

impl Recipe {
    fn serve(&self) -> std::io::Result<Serving> {
        let mut process = Command::new(&self.program)
            .args(&self.arguments)
            .args(["--port", &self.port.to_string()])
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("FLOTILLA_LOG", "info")
            // Closed when this process ends, however it does, and the daemon ends then.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // An interrupt is meant for this process, which then ends the daemon in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let stderr = process.stderr.take().ok_or_else(|| std::io::Error::other("no output"))?;
        let (address_sender, listening) = oneshot::channel();
        tokio::spawn(follow(BufReader::new(stderr), address_sender));
        Ok(Serving { process, listening: Some(listening) })
    }

    /// Damages the store while no process has it open.
    fn damage(&self, how: DaemonFault) -> std::io::Result<()> {
        match how {
            DaemonFault::Kill => Ok(()),
            DaemonFault::FlipStore { bits } => {
                let path = self.home.join(STORE);
                let mut bytes = std::fs::read(&path)?;
                let mut random = Xoshiro256PlusPlus::seed_from_u64(bytes.len() as u64);
                for _ in 0..bits {
                    let Some(byte) = bytes.choose_mut(&mut random) else { break };
                    *byte ^= 1 << random.random_range(0..8);
                }
                std::fs::write(path, bytes)
            }
            DaemonFault::TearStore { bytes } => {
                let log = self.home.join(STORE_LOG);
                let has_log = std::fs::metadata(&log).is_ok_and(|log| log.len() > 0);
                let path = if has_log { log } else { self.home.join(STORE) };
                let file = std::fs::OpenOptions::new().write(true).open(path)?;
                let length = file.metadata()?.len();
                file.set_len(length.saturating_sub(bytes))
            }
        }
    }
}

/// Reads the daemon's output, so that it never blocks on a full pipe, and reports the address that it listens on.
async fn follow(
    output: impl tokio::io::AsyncBufRead + Unpin,
    address_sender: oneshot::Sender<Result<SocketAddr, String>>,
) {
    let mut lines = output.lines();
    let mut words: Vec<String> = Vec::new();
    let mut address_sender = Some(address_sender);
    // Bytes that are not text end the reading, like the end of the output.
    while let Ok(Some(line)) = lines.next_line().await {
        tracing::debug!("daemon: {line}");
        let address = line
            .split_once("listening on http://")
            .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        if let Some(address) = address
            && let Some(address_sender) = address_sender.take()
        {
            // Only the first start has a receiver.
            let _ = address_sender.send(Ok(address));
        }
        if words.len() == WORDS_MAX {
            words.remove(0);
        }
        words.push(line);
    }
    if let Some(address_sender) = address_sender {
        tracing::warn!("a daemon ended before it listened: {}", words.join(" | "));
        let _ = address_sender.send(Err(words.join(" | ")));
    }
}

/// Owns the daemon's process.
async fn own(recipe: Recipe, mut serving: Serving, mut orders: mpsc::Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        match order {
            Order::Disturb { how, done } => {
                let at = Instant::now();
                let disturbed = async {
                    serving.process.kill().await?;
                    recipe.damage(how)?;
                    Ok::<_, std::io::Error>(at)
                };
                let result = disturbed.await;
                match recipe.serve() {
                    Ok(again) => serving = again,
                    Err(error) => tracing::error!(%error, "the daemon cannot be started again"),
                }
                // The caller may have stopped waiting.
                let _ = done.send(result.map_err(|error| error.to_string()));
            }
            Order::Stop { done } => {
                end(serving).await;
                let _ = done.send(());
                return;
            }
        }
    }
    end(serving).await;
}

async fn end(mut serving: Serving) {
    drop(serving.process.stdin.take());
    match tokio::time::timeout(END_MAX, serving.process.wait()).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "cannot wait for the daemon to end"),
        Err(_) => {
            tracing::warn!("the daemon did not end within {END_MAX:?}; killing it");
            if let Err(error) = serving.process.kill().await {
                tracing::warn!(%error, "cannot kill the daemon");
            }
        }
    }
}

impl Target for Child {
    fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    fn proxy(&self) -> Option<&Proxy> {
        None
    }

    fn refuses(&self, what: &What) -> Option<String> {
        match what {
            What::Page { .. } | What::Link { .. } => Some(
                "faults of pages and links cannot be in one scenario with faults of the daemon, its store or drivers; use two scenarios"
                    .to_owned(),
            ),
            What::Kill { .. } | What::Stop { .. } | What::Daemon { .. } | What::Driver { .. } => {
                None
            }
        }
    }

    async fn inject(
        &self,
        _browser: Option<&Browser>,
        what: &What,
        bell: &Bell,
    ) -> Result<Injected, Refused> {
        let failed = |words: String| Refused::Failed(words);
        match what {
            What::Daemon { how } => {
                let (done, at) = oneshot::channel();
                let order = Order::Disturb { how: *how, done };
                let gone = |_| failed("the daemon has been stopped".to_owned());
                self.orders.send(order).await.map_err(|_| gone(()))?;
                let at = at.await.map_err(|_| gone(()))?.map_err(failed)?;
                Ok(Injected::At(at))
            }
            What::Driver { how, command, for_ms } => {
                let orders = Orders { how: *how, command: *command, moment: bell.moment() };
                self.control.arm(orders).map_err(|error| failed(error.to_string()))?;
                let watching = watch(self.control.clone(), bell.clone());
                match for_ms {
                    Some(for_ms) => {
                        let limit = Duration::from_millis(*for_ms);
                        // The fault ends with the time limit, which is not a failure.
                        let _ = tokio::time::timeout(limit, watching).await;
                        self.control.disarm().map_err(|error| failed(error.to_string()))?;
                    }
                    None => watching.await,
                }
                Ok(Injected::Armed)
            }
            What::Kill { .. } | What::Stop { .. } | What::Page { .. } | What::Link { .. } => {
                Err(Refused::NotApplicable(format!(
                    "{what}: a simulated browser of another process has none of its own"
                )))
            }
        }
    }

    async fn heal(&self) {
        if let Err(error) = self.control.disarm() {
            tracing::error!(%error, "cannot end the drivers' faults");
        }
    }
}

/// Reports every command that a driver failed, in an endless loop.
async fn watch(control: Control, bell: Bell) {
    loop {
        match control.take_fired() {
            Ok(fired) => {
                for moment in fired {
                    bell.of(moment).ring().await;
                }
            }
            Err(error) => tracing::warn!(%error, "cannot read which faults the drivers have fired"),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
