//! `cargo xtask zoo`: some 300 ONNX files on every runtime, side by side with onnxruntime-web.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Context as _;

use crate::console::Console;
use crate::venv::Venv;
use crate::workspace::{Workspace, run as run_visibly};
use crate::{rival, setup};

/// The program that checks the models.
const PROGRAM: &str = "flotilla-zoo";

/// Sets up, makes the models, and hands over to the program, whose stdout and exit code are this task's own. Results are kept
/// in `target/zoo/results`.
pub(crate) fn run(
    workspace: &Workspace,
    console: &Console,
    json: bool,
    passed_on: &[String],
) -> anyhow::Result<ExitCode> {
    setup::run(workspace, console)?.report(console, false)?;
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "flotilla-tests", "--bin", PROGRAM]);
    run_visibly(&mut cargo).context("cannot build the program that checks the models")?;
    let folder = workspace.target.join("zoo");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut program = Command::new(workspace.binary().with_file_name(PROGRAM));
    program.arg("--flotilla").arg(workspace.binary());
    program.arg("--results").arg(folder.join("results"));
    program.arg("--rival").arg(rival::folder(workspace));
    if option(passed_on, "--models").is_none() {
        program.arg("--models").arg(export(workspace, console, option(passed_on, "--only"))?);
    }
    if let Err(error) = rival::install(workspace, console) {
        console.say(format!("without onnxruntime-web: {error:#}"));
        program.arg("--no-theirs").arg(format!("{error:#}"));
    }
    if json {
        program.arg("--json");
    }
    let status = program.args(passed_on).status().context("cannot start the program")?;
    // A killed process has no exit code.
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Makes the models that are not there; returns their folder.
fn export(workspace: &Workspace, console: &Console, only: Option<&str>) -> anyhow::Result<PathBuf> {
    let sources = workspace.root.join("tests").join("zoo");
    let folder = workspace.target.join("zoo");
    let venv = Venv {
        folder: folder.join("venv"),
        requirements: &sources.join("requirements.txt"),
        is_complete: true,
        why: "Python packages with models, and with their exporters (several GB)",
    };
    let models = folder.join("models");
    let mut export = Command::new(venv.python(console)?);
    export.arg(sources.join("export.py")).arg("--out").arg(&models);
    if let Some(only) = only {
        export.args(["--only", only]);
    }
    run_visibly(&mut export).context("cannot make the models")?;
    Ok(models)
}

/// The value of an option that is passed on as `--name VALUE` or `--name=VALUE`.
fn option<'a>(passed_on: &'a [String], name: &str) -> Option<&'a str> {
    passed_on.iter().enumerate().find_map(|(at, argument)| {
        match argument.strip_prefix(name)?.split_once('=') {
            Some(("", value)) => Some(value),
            _ if argument == name => passed_on.get(at + 1).map(String::as_str),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_among_those_that_are_passed_on() {
        let passed_on = ["--force", "--only", "gpt2*", "--models=a=b", "--onlyx"];
        let passed_on = passed_on.map(str::to_owned);
        assert_eq!(option(&passed_on, "--only"), Some("gpt2*"));
        assert_eq!(option(&passed_on, "--models"), Some("a=b"));
        assert_eq!(option(&passed_on, "--onlyx"), None);
        assert_eq!(option(&passed_on, "--bless"), None);
    }
}
