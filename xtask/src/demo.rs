//! `cargo xtask demo`: from a fresh clone to answers from a real browser with one command.

use std::process::{Command, ExitCode};

use anyhow::Context as _;

use crate::console::Console;
use crate::setup;
use crate::workspace::Workspace;

/// Sets up, builds, and hands over to `flotilla demo`, whose stdout and exit code are this task's own.
pub(crate) fn run(
    workspace: &Workspace,
    console: &Console,
    json: bool,
    passed_on: &[String],
) -> anyhow::Result<ExitCode> {
    let provision = setup::run(workspace, console)?;
    provision.report(console, false)?;
    let mut flotilla = Command::new(workspace.binary());
    flotilla.arg("demo");
    if json {
        flotilla.arg("--json");
    }
    let status = flotilla.args(passed_on).status().context("cannot start flotilla")?;
    // A killed process has no exit code.
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
