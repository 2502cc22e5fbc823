//! Makes the files of the cases with the onnx package for Python, in a virtual environment below the target folder.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};

/// The folder of cases; exported if it is not there or was made by another exporter.
///
/// # Errors
/// Python, its packages or the folder cannot be had.
pub fn cases() -> anyhow::Result<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = target().join("conformance");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // Two runs may come here at once.
    let lock = File::create(folder.join("lock")).context("cannot make a lock file")?;
    lock.lock().context("cannot lock the folder of cases")?;

    let venv = folder.join("venv");
    let python = venv.join("bin").join("python");
    let requirements = sources.join("requirements.txt");
    let installed = Stamp { path: folder.join("venv.stamp"), of: fs::read(&requirements)? };
    if !installed.holds(&python) {
        succeed(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        succeed(pip.arg("--requirement").arg(&requirements))?;
        installed.set()?;
    }

    let cases = folder.join("cases");
    let script = sources.join("export.py");
    let of = [installed.of, fs::read(&script)?].concat();
    let exported = Stamp { path: folder.join("cases.stamp"), of };
    if !exported.holds(&cases.join("index.json")) {
        succeed(Command::new(&python).arg("-I").arg(&script).arg(&cases))?;
        exported.set()?;
    }
    Ok(cases)
}

/// Cargo's target folder.
pub fn target() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.unwrap_or(Path::new(".")).join("target"), PathBuf::from)
}

/// A file that says what something was made of.
struct Stamp {
    path: PathBuf,
    of: Vec<u8>,
}

impl Stamp {
    fn holds(&self, made: &Path) -> bool {
        made.exists() && fs::read(&self.path).is_ok_and(|of| of == self.of)
    }

    fn set(&self) -> anyhow::Result<()> {
        fs::write(&self.path, &self.of)
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().display().to_string();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program} cannot be started"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    ensure!(output.status.success(), "{program} failed: {last}");
    Ok(())
}
