//! `cargo xtask wpt`: the cases of web-platform-tests' `webnn` suite in a browser that has WebNN.

use std::process::{Command, ExitCode};

use anyhow::Context as _;

use crate::console::Console;
use crate::workspace::{Workspace, run as run_visibly};
use crate::{setup, wasm};

/// The program that runs the cases.
const PROGRAM: &str = "flotilla-wpt";

/// Sets up, builds, and hands over to the program, whose stdout and exit code are this task's own. Results are written to
/// `target/wpt/summary.json`.
pub(crate) fn run(
    workspace: &Workspace,
    console: &Console,
    json: bool,
    passed_on: &[String],
) -> anyhow::Result<ExitCode> {
    setup::run(workspace, console)?.report(console, false)?;
    wasm::build_wpt(workspace, console)?;
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", PROGRAM]);
    run_visibly(&mut cargo).context("cannot build the program that runs the cases")?;
    let mut program = Command::new(workspace.binary().with_file_name(PROGRAM));
    program.env("FLOTILLA_BINARY", workspace.binary()).env("CARGO_TARGET_DIR", &workspace.target);
    if json {
        program.arg("--json");
    }
    let status = program.args(passed_on).status().context("cannot start the program")?;
    // A killed process has no exit code.
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
