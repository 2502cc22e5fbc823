//! The command `flotilla`: its options, and which command runs.

use std::{
    collections::BTreeMap, io::IsTerminal, path::PathBuf, process::ExitCode, time::Duration,
};

use clap::{Args, Parser, Subcommand};
use flotilla::{
    browser::{Adapter, Build, Builds, Kind, Names, SpecError},
    config::Config,
    http,
    local::LocalOptions,
};
use flotilla_protocol::Backend;

use backends::BackendOptions;

mod audit;
mod backends;
mod bench;
#[cfg(feature = "fault-injection")]
mod chaos;
mod check;
mod demo;
mod doctor;
mod embed;
mod progress;
mod pull;
mod reliability;
mod serve;
#[cfg(feature = "fault-injection")]
mod simulate;
mod state;
mod table;

/// Exit code of wrong usage.
const USAGE: u8 = 2;

#[derive(Parser)]
#[command(
    name = "flotilla",
    version,
    about = "Runs machine-learning models in a pool of real browsers"
)]
struct Cli {
    /// File with browsers of one's own. Default: flotilla.toml in the working directory, else in the data folder.
    #[arg(long, global = true, value_name = "FILE", env = "FLOTILLA_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve models over HTTP (OpenAI's API) until Ctrl-C.
    Serve(serve::Options),
    /// Embed texts and print the vectors.
    Embed(embed::Options),
    /// Embed three sentences in every browser and compare with the native reference.
    Demo(demo::Options),
    /// Show what is installed and which browser offers which backend.
    Doctor(doctor::Options),
    /// Run models in every browser and backend, and compare with what is right.
    Check(check::Options),
    /// Measure how fast models are in every browser and backend.
    Bench(bench::Options),
    /// Fetch a model into the data folder.
    Pull(pull::Options),
    #[cfg(feature = "fault-injection")]
    /// Run the fleet in virtual time, with seeded faults, and check its invariants after every step.
    Simulate(simulate::Options),
    #[cfg(feature = "fault-injection")]
    /// Disturb a pool under load and account for every request.
    Chaos(chaos::Options),
    #[cfg(feature = "fault-injection")]
    /// Run in front of a driver and fail on command (started by `chaos` itself).
    #[command(hide = true)]
    FaultyDriver {
        /// The real driver.
        #[arg(long)]
        real: PathBuf,
        /// Folder with the commands to this process.
        #[arg(long)]
        control: PathBuf,
        /// The driver's arguments.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Verify, show or repair the state that outlives the daemon.
    State(state::Options),
    /// Show who acquired, released and ended what, and why.
    Audit(audit::Options),
    /// Stand between a daemon and a driver (started by the daemon itself).
    #[command(hide = true)]
    Guardian {
        /// Folder of the browser's files; removed at the end.
        #[arg(long)]
        dir: PathBuf,
        /// The driver and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

/// Fixed sizes of dimensions of models.
#[derive(Args, Clone, Debug)]
struct Dims {
    /// Fix a dimension of every model's inputs at a size, by the name that the model's file gives it, or INPUT_0 and so on for
    /// one without a name. May be given again for another one.
    #[arg(long = "dim", value_name = "NAME=N", value_parser = dim)]
    dims: Vec<(String, i64)>,
}

impl Dims {
    fn by_name(&self) -> BTreeMap<String, i64> {
        self.dims.iter().cloned().collect()
    }
}

fn dim(text: &str) -> Result<(String, i64), String> {
    // The name itself may contain `=`, as an expression does.
    let (name, size) = text.rsplit_once('=').ok_or("write NAME=N")?;
    match size.parse() {
        Ok(size) if (0..=i64::from(i32::MAX)).contains(&size) => Ok((name.to_owned(), size)),
        Ok(_) | Err(_) => Err(format!("{size:?} is not a dimension's size")),
    }
}

/// Which browsers a command starts.
#[derive(Args, Clone, Debug)]
struct PoolOptions {
    /// Browsers to start, such as chrome=2,firefox=1. Default: one of each kind that is installed.
    #[arg(long, value_name = "NAME[=COUNT],..", conflicts_with = "simulate")]
    browsers: Option<Names>,
    /// Simulated browsers instead: the same protocol and runtime without a browser.
    #[arg(long, value_name = "NAME[=COUNT],..")]
    simulate: Option<Names>,
    #[command(flatten)]
    backends: BackendOptions,
    /// Where Chromium's WebGPU adapter comes from.
    #[arg(long, value_enum, default_value = "auto")]
    webgpu_adapter: Adapter,
    /// Longest time from a request to its answer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = http::Settings::default().timeout.as_secs())]
    timeout: u64,
}

impl PoolOptions {
    fn local_options(&self, builds: &Builds) -> anyhow::Result<LocalOptions> {
        self.local_options_or(builds, &Backend::ALL)
    }

    /// Browsers use these backends unless the options name others.
    fn local_options_or(
        &self,
        builds: &Builds,
        backends: &[Backend],
    ) -> anyhow::Result<LocalOptions> {
        let (browsers, simulated) = match (&self.browsers, &self.simulate) {
            (_, Some(names)) => (builds.named(names)?, true),
            (Some(names), None) => (builds.named(names)?, false),
            (None, None) => (installed()?, false),
        };
        let mut local_options = LocalOptions {
            simulated,
            builds: builds.clone(),
            backends: self.backends.settings(if simulated { &[Backend::Cpu] } else { backends }),
            adapter: self.webgpu_adapter,
            fallback_to_simulation: self.backends.fallback_to_simulation(),
            ..LocalOptions::of(browsers)
        };
        local_options.pool.speeds = Some(flotilla::browser::home_dir());
        local_options.http.timeout = Duration::from_secs(self.timeout);
        Ok(local_options)
    }

    /// The command line of [`PoolOptions`] that gives these browsers, backends and time limit.
    #[cfg(feature = "fault-injection")]
    fn words(local_options: &LocalOptions) -> Vec<String> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for build in &local_options.browsers {
            *counts.entry(&build.name).or_default() += 1;
        }
        let browsers: Vec<String> =
            counts.iter().map(|(name, count)| format!("{name}={count}")).collect();
        let mut words = vec![
            if local_options.simulated { "--simulate" } else { "--browsers" }.to_owned(),
            browsers.join(","),
            "--webgpu-adapter".to_owned(),
            local_options.adapter.name().to_owned(),
            "--timeout".to_owned(),
            local_options.http.timeout.as_secs().to_string(),
        ];
        words.extend(BackendOptions::words(&local_options.backends));
        words
    }
}

/// One of each kind that is installed.
fn installed() -> anyhow::Result<Vec<Build>> {
    let mut missing = Vec::new();
    let found: Vec<Build> = Kind::ALL
        .into_iter()
        .map(Build::from)
        .filter(|build| match flotilla::browser::install::find(build) {
            Ok(_) => true,
            Err(error) => {
                missing.push(error.to_string());
                false
            }
        })
        .collect();
    if found.is_empty() {
        anyhow::bail!(
            "no browser is installed: {}. Or use --simulate chrome=1 to go without",
            missing.join("; ")
        );
    }
    Ok(found)
}

/// Runs the command that the arguments name.
fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Guardian { dir, command } = &cli.command {
        return match flotilla::browser::guardian::run(dir, command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("flotilla guardian: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let filter = tracing_subscriber::EnvFilter::try_from_env("FLOTILLA_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default_level(&cli.command)));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(progress::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("flotilla: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let builds = match Config::load(cli.config.as_deref()) {
        Ok((config, _)) => config.builds(),
        Err(error) => {
            eprintln!("flotilla: {error}");
            return ExitCode::from(USAGE);
        }
    };
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Serve(options) => serve::run(options, &builds).await,
            Command::Embed(options) => embed::run(options, &builds).await,
            Command::Demo(options) => demo::run(options, &builds).await,
            Command::Doctor(options) => doctor::run(options, &builds).await,
            Command::Check(options) => check::run(options, &builds).await,
            Command::Bench(options) => bench::run(options, &builds).await,
            Command::Pull(options) => pull::run(options).await,
            #[cfg(feature = "fault-injection")]
            Command::Simulate(options) => simulate::run(options).await,
            #[cfg(feature = "fault-injection")]
            Command::Chaos(options) => chaos::run(options, &builds).await,
            #[cfg(feature = "fault-injection")]
            Command::FaultyDriver { real, control, arguments } => {
                chaos::faulty_driver(&real, &arguments, &control).await
            }
            Command::State(options) => state::run(options).await,
            Command::Audit(options) => audit::run(options).await,
            Command::Guardian { .. } => Ok(ExitCode::SUCCESS),
        }
    });
    // A load that blocks a thread must not delay the end of a finished command.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("flotilla: {error:#}");
            match error.downcast_ref::<SpecError>() {
                Some(_) => ExitCode::from(USAGE),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn default_level(command: &Command) -> &'static str {
    match command {
        Command::Serve(_) => "info",
        // The rows already show what failed.
        Command::Check(_) | Command::Bench(_) => "error",
        _ => "warn",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        pool: PoolOptions,
    }

    /// The options of a command line.
    fn read(words: &[String]) -> LocalOptions {
        let program = std::iter::once("flotilla".to_owned());
        let line = Line::try_parse_from(program.chain(words.iter().cloned())).expect("options");
        line.pool.local_options(&Builds::built_in()).expect("known browsers")
    }

    #[cfg(feature = "fault-injection")]
    #[test]
    fn a_child_gets_the_same_options_as_its_parent() {
        for line in [
            "--simulate chrome=2,firefox",
            "--simulate chrome --backends webnn,cpu --choose order --device npu --timeout 7",
            "--browsers firefox=1,chrome=1 --webgpu-adapter gles",
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let parent = read(&words);
            let child = read(&PoolOptions::words(&parent));
            let names = |options: &LocalOptions| {
                let mut names: Vec<String> =
                    options.browsers.iter().map(|build| build.name.clone()).collect();
                names.sort();
                names
            };
            assert_eq!(names(&child), names(&parent), "{line}");
            assert_eq!(child.simulated, parent.simulated, "{line}");
            assert_eq!(child.backends, parent.backends, "{line}");
            assert_eq!(child.adapter, parent.adapter, "{line}");
            assert_eq!(child.http.timeout, parent.http.timeout, "{line}");
        }
    }
}
