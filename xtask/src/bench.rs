//! `cargo xtask bench`: prepares the rival and the model in its format, then runs the program that measures.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};

use crate::console::Console;
use crate::setup;
use crate::workspace::{Workspace, run as run_visibly};

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
    if let Err(error) = bench.prepare(console) {
        console.say(format!("without onnxruntime-web: {error:#}"));
        program.arg("--no-theirs").arg(format!("{error:#}"));
    }
    if json {
        program.arg("--json");
    }
    let status = program.args(passed_on).status().context("cannot start the program")?;
    // A process that was killed has no code.
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
    fn prepare(&self, console: &Console) -> anyhow::Result<()> {
        self.install_rival(console)?;
        self.write_onnx(console)
    }

    /// onnxruntime-web as the lock file pins it.
    fn install_rival(&self, console: &Console) -> anyhow::Result<()> {
        let npm = self.folder.join("npm");
        let lock = self.sources.join("package-lock.json");
        if is_made(&npm.join("node_modules"), &npm.join("package-lock.json"), &[&lock]) {
            return Ok(());
        }
        console.say("missing: onnxruntime-web (what the bench compares with); npm will bring it");
        fs::create_dir_all(&npm).with_context(|| format!("cannot make {}", npm.display()))?;
        fs::copy(self.sources.join("package.json"), npm.join("package.json"))?;
        fs::copy(&lock, npm.join("package-lock.json"))?;
        let mut command = Command::new("npm");
        command.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&npm);
        run_visibly(&mut command)
    }

    /// The model's weights as the ONNX file that onnxruntime-web reads.
    fn write_onnx(&self, console: &Console) -> anyhow::Result<()> {
        let script = self.sources.join("minilm_onnx.py");
        let weights = self.model.join("model.safetensors");
        ensure!(weights.is_file(), "{} is not there", weights.display());
        let onnx = self.folder.join("minilm.onnx");
        if is_made(&onnx, &onnx, &[&script, &weights]) {
            return Ok(());
        }
        let requirements = self.sources.join("requirements.txt");
        let venv = self.folder.join("venv");
        let python = venv.join("bin").join("python");
        let installed = self.folder.join("venv.txt");
        if !is_made(&python, &installed, &[&requirements]) {
            console.say("missing: the Python package onnx (it writes the model for onnxruntime-web); pip will bring it");
            run_visibly(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
            let mut pip = Command::new(&python);
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
            run_visibly(pip.arg("--requirement").arg(&requirements))?;
            fs::copy(&requirements, &installed)?;
        }
        run_visibly(Command::new(&python).arg(&script).arg(&self.model).arg(&onnx))
    }
}

/// Whether something is there, and its stamp is younger than all that it is made of.
fn is_made(there: &Path, stamp: &Path, sources: &[&Path]) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let Some(made) = modified(stamp).filter(|_| there.exists()) else { return false };
    sources.iter().all(|source| modified(source).is_some_and(|changed| changed <= made))
}
