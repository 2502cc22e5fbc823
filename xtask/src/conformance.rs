//! `cargo xtask conformance`: the ONNX backend test suite on every runtime.

use std::fs;
use std::process::{Command, ExitCode};

use anyhow::Context as _;

use crate::console::Console;
use crate::setup;
use crate::workspace::{Workspace, run as run_visibly};

/// The program that runs the suite.
const PROGRAM: &str = "flotilla-conformance";
/// Runtimes that it runs on unless options name others.
const RUNTIMES: &str =
    "native-cpu,native-webgpu,chrome-webgpu,firefox-webgpu,chrome-cpu,chrome-webnn";

/// Sets up, builds, and hands over to the program, whose stdout and exit code are this task's own. Results are written to
/// `target/conformance/summary.json`.
pub(crate) fn run(
    workspace: &Workspace,
    console: &Console,
    json: bool,
    passed_on: &[String],
) -> anyhow::Result<ExitCode> {
    setup::run(workspace, console)?.report(console, false)?;
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", PROGRAM]);
    run_visibly(&mut cargo).context("cannot build the program that runs the suite")?;
    let folder = workspace.target.join("conformance");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut program = Command::new(workspace.binary().with_file_name(PROGRAM));
    program.env("FLOTILLA_BINARY", workspace.binary()).env("CARGO_TARGET_DIR", &workspace.target);
    program.arg("--summary").arg(folder.join("summary.json"));
    if !passed_on.iter().any(|argument| argument.starts_with("--runtime")) {
        program.args(["--runtime", RUNTIMES]);
    }
    if json {
        program.arg("--json");
    }
    let status = program.args(passed_on).status().context("cannot start the program")?;
    // A killed process has no exit code.
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
