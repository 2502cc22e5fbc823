//! A daemon in a process of its own, so that it can be killed and started again where it was.

use std::{
    collections::BTreeMap,
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
    simulator::Random,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    sync::{mpsc, oneshot},
};

use crate::cli::{
    BackendOptions,
    chaos::{MODEL, Options},
};

/// Longest wait for a new daemon to listen.
const LISTEN_MAX: Duration = Duration::from_secs(120);
/// Longest wait for an ordered end.
const END_MAX: Duration = Duration::from_secs(60);
/// Time between two looks at what drivers have told.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Last lines of the daemon that are told when it does not start.
const WORDS_MAX: usize = 5;
/// Most orders that wait for the daemon's owner.
const ORDERS_MAX: usize = 64;
/// The first copy of the store, below the data folder.
const STORE: &str = "state/state.sqlite";
/// What of it is not in the file itself yet.
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
        let program = std::env::current_exe().context("this program's own file")?;
        let wishes = options.wishes(builds)?;
        let control = Control::new(&drivers);
        let environment = vec![("FLOTILLA_HOME".to_owned(), home.clone())];
        let is_driver_fault = |fault: &Fault| matches!(fault.what, What::Driver { .. });
        let has_faulty_drivers = scenario.faults.iter().any(is_driver_fault);
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut config = Config::default();
        for build in &wishes.browsers {
            *counts.entry(&build.name).or_default() += 1;
            if !wishes.simulated && !config.browsers.contains_key(&build.name) {
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
        let list: Vec<String> =
            counts.iter().map(|(name, count)| format!("{name}={count}")).collect();
        // The daemon has a data folder of its own: what is found in this one it could not find.
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
            if wishes.simulated { "--simulate" } else { "--browsers" }.to_owned(),
            list.join(","),
            "--webgpu-adapter".to_owned(),
            wishes.adapter.name().to_owned(),
            "--timeout".to_owned(),
            options.pool.timeout.to_string(),
        ];
        words.extend(BackendOptions::words(&wishes));
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
        let listening = serving.listening.take().context("nobody listens")?;
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
    /// Where it listens, or its last words.
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
        let (tell, listening) = oneshot::channel();
        tokio::spawn(follow(BufReader::new(stderr), tell));
        Ok(Serving { process, listening: Some(listening) })
    }

    /// What happens to the store while nobody has it open.
    fn damage(&self, how: DaemonFault) -> std::io::Result<()> {
        match how {
            DaemonFault::Kill => Ok(()),
            DaemonFault::FlipStore { bits } => {
                let path = self.home.join(STORE);
                let mut bytes = std::fs::read(&path)?;
                let mut random = Random::new(bytes.len() as u64);
                for _ in 0..bits {
                    let Some(last) = (bytes.len() as u64 * 8).checked_sub(1) else { break };
                    let bit = random.range(0, last);
                    bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
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

/// Reads what the daemon writes, so that it never waits for a reader, and tells where it listens.
async fn follow(
    output: impl tokio::io::AsyncBufRead + Unpin,
    tell: oneshot::Sender<Result<SocketAddr, String>>,
) {
    let mut lines = output.lines();
    let mut words: Vec<String> = Vec::new();
    let mut tell = Some(tell);
    // Bytes that are no text end the reading as the output's end does.
    while let Ok(Some(line)) = lines.next_line().await {
        tracing::debug!("daemon: {line}");
        let address = line
            .split_once("listening on http://")
            .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        if let Some(address) = address
            && let Some(tell) = tell.take()
        {
            // Whoever waits only for the first start has gone.
            let _ = tell.send(Ok(address));
        }
        if words.len() == WORDS_MAX {
            words.remove(0);
        }
        words.push(line);
    }
    if let Some(tell) = tell {
        tracing::warn!("a daemon ended before it listened: {}", words.join(" | "));
        let _ = tell.send(Err(words.join(" | ")));
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
                // Whoever asked may have gone.
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
        Ok(Err(error)) => tracing::warn!(%error, "the daemon's end could not be waited for"),
        Err(_) => {
            tracing::warn!("the daemon does not end within {END_MAX:?} and is killed");
            if let Err(error) = serving.process.kill().await {
                tracing::warn!(%error, "it cannot be killed");
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
                "a daemon that is killed, or has faulty drivers, is a process of its own, and runs nobody's \
                 scripts; play this fault in a scenario without those"
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
                        // The end of the time is the end of the fault, and no failure of it.
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
            tracing::error!(%error, "drivers cannot be told that they are well again");
        }
    }
}

/// Rings for every command that a driver failed, for ever.
async fn watch(control: Control, bell: Bell) {
    loop {
        match control.take_fired() {
            Ok(fired) => {
                for moment in fired {
                    bell.of(moment).ring().await;
                }
            }
            Err(error) => tracing::warn!(%error, "what drivers did cannot be read"),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
