//! `cargo xtask bench`: prepares the rival and the model in its format, then runs the program that measures.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};

use crate::console::Console;
use crate::venv::Venv;
use crate::workspace::{Workspace, is_made, run as run_visibly};
use crate::{rival, setup};

/// The program that measures.
const PROGRAM: &str = "flotilla-bench";

/// Sets up, prepares, and hands over to the program, whose stdout and exit code are this task's own.
pub(crate) fn run(
    workspace: &Workspace,
    console: &Console,
    json: bool,
    passed_on: &[String],
) -> anyhow::Result<ExitCode> {
    setup::run(workspace, console)?.report(console, false)?;
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "flotilla-tests", "--bin", PROGRAM]);
    run_visibly(&mut cargo).context("cannot build the program that measures")?;
    let bench = Bench {
        sources: workspace.root.join("tests").join("bench"),
        folder: workspace.target.join("bench"),
        model: workspace.models().join(setup::MODEL),
    };
    fs::create_dir_all(&bench.folder)
        .with_context(|| format!("cannot make {}", bench.folder.display()))?;
    let mut program = Command::new(workspace.binary().with_file_name(PROGRAM));
    program.arg("--model").arg(&bench.model).arg("--flotilla").arg(workspace.binary());
    program.arg("--web").arg(&workspace.web).arg("--folder").arg(&bench.folder);
    let prepared = rival::install(workspace, console).and_then(|()| bench.write_onnx(console));
    if let Err(error) = prepared {
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

struct Bench {
    /// What is committed.
    sources: PathBuf,
    /// What is made of it, and the results.
    folder: PathBuf,
    model: PathBuf,
}

impl Bench {
    /// The model's weights as the ONNX file that onnxruntime-web reads.
    fn write_onnx(&self, console: &Console) -> anyhow::Result<()> {
        let script = self.sources.join("minilm_onnx.py");
        let weights = self.model.join("model.safetensors");
        ensure!(weights.is_file(), "{} does not exist", weights.display());
        let onnx = self.folder.join("minilm.onnx");
        if is_made(&onnx, &onnx, &[&script, &weights]) {
            return Ok(());
        }
        let venv = Venv {
            folder: self.folder.join("venv"),
            requirements: &self.sources.join("requirements.txt"),
            is_complete: false,
            why: "the Python package onnx (it writes the model for onnxruntime-web)",
        };
        let python = venv.python(console)?;
        run_visibly(Command::new(&python).arg(&script).arg(&self.model).arg(&onnx))
    }
}
