//! `cargo xtask differential`: random ONNX graphs, computed natively and by onnxruntime.

use std::process::{Command, ExitCode};

use anyhow::Context as _;

use crate::console::Console;
use crate::setup;
use crate::workspace::{Workspace, run as run_visibly};

/// The program that makes the graphs and compares.
const PROGRAM: &str = "flotilla-differential";

/// Sets up, builds, and hands over to the program, whose stdout and exit code are this task's own.
pub(crate) fn run(
    workspace: &Workspace,
    console: &Console,
    passed_on: &[String],
) -> anyhow::Result<ExitCode> {
    setup::run(workspace, console)?.report(console, false)?;
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", PROGRAM]);
    run_visibly(&mut cargo).context("cannot build the program that compares")?;
    let mut program = Command::new(workspace.binary().with_file_name(PROGRAM));
    let status = program.args(passed_on).status().context("cannot start the program")?;
    // A killed process has no exit code.
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
