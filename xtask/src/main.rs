//! Project tasks: `cargo xtask demo`, `setup`, `wasm`, `test`, `conformance`, `differential`, `wpt`, `zoo`, `bench`, `tidy`.

mod bench;
mod conformance;
mod console;
mod demo;
mod differential;
mod rival;
mod setup;
mod suite;
mod tidy;
mod venv;
mod wasm;
mod workspace;
mod wpt;
mod zoo;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use console::Console;
use workspace::Workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Project tasks", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Set up this machine, build everything and show the fleet at work.
    Demo {
        /// Print only JSON on stdout.
        #[arg(long)]
        json: bool,
        /// Passed on to `flotilla demo`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        passed_on: Vec<String>,
    },
    /// Install what is missing (browsers, drivers, wasm target, model) and build everything.
    Setup {
        /// Print only JSON on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Run every check and test, real browsers included.
    Test {
        /// Print only JSON on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Run the ONNX backend test suite on every runtime; writes target/conformance/summary.json.
    Conformance {
        /// Print only JSON on stdout.
        #[arg(long)]
        json: bool,
        /// Passed on to the program that runs it: --runtime, --filter, --list-failures, --bless, --readme.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        passed_on: Vec<String>,
    },
    /// Compute random ONNX graphs natively and with onnxruntime, and compare.
    Differential {
        /// Passed on to the program that does it: --count, --seed, --backend, --replay, --threads, --keep, --whole.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        passed_on: Vec<String>,
    },
    /// Run web-platform-tests' WebNN cases in chrome-webnn; writes target/wpt/summary.json.
    Wpt {
        /// Print only JSON on stdout.
        #[arg(long)]
        json: bool,
        /// Passed on to the program that runs them: --filter, --bless.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        passed_on: Vec<String>,
    },
    /// Check some 300 ONNX files on every runtime, side by side with onnxruntime-web; keeps target/zoo/results/*.json.
    Zoo {
        /// Print only JSON on stdout.
        #[arg(long)]
        json: bool,
        /// Passed on to the program that checks them: --only, --runtime, --theirs, --bless, --readme, --list-failures, --force,
        /// --models.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        passed_on: Vec<String>,
    },
    /// Measure this machine, side by side with onnxruntime-web; writes target/bench/*.json.
    Bench {
        /// Print only JSON on stdout.
        #[arg(long)]
        json: bool,
        /// Passed on to the program that measures: --browsers, --backends, --groups.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        passed_on: Vec<String>,
    },
    /// Build what pages load: the runtime, and the cases of web-platform-tests.
    Wasm,
    /// Check the invariants of the source tree.
    Tidy,
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    let console = Console::new();
    match task {
        Task::Demo { json, passed_on } => demo::run(&workspace, &console, json, &passed_on),
        Task::Setup { json } => {
            let provision = setup::run(&workspace, &console)?;
            provision.report(&console, json)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Test { json } => suite::run(&workspace, &console, json),
        Task::Conformance { json, passed_on } => {
            conformance::run(&workspace, &console, json, &passed_on)
        }
        Task::Differential { passed_on } => differential::run(&workspace, &console, &passed_on),
        Task::Wpt { json, passed_on } => wpt::run(&workspace, &console, json, &passed_on),
        Task::Zoo { json, passed_on } => zoo::run(&workspace, &console, json, &passed_on),
        Task::Bench { json, passed_on } => bench::run(&workspace, &console, json, &passed_on),
        Task::Wasm => {
            setup::wasm_toolchain(&workspace, &console)?;
            wasm::build(&workspace, &console)?;
            wasm::build_wpt(&workspace, &console)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Tidy => {
            let violations = tidy::check(&workspace)?;
            for violation in &violations {
                eprintln!("{violation}");
            }
            Ok(if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}
