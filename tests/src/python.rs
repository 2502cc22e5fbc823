//! Python with the official `openai` package, in a virtual environment below the target folder.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    command::{Output, run},
    place,
    skip::skip,
};

/// Longest installation.
const INSTALL_MAX: Duration = Duration::from_secs(240);
/// Longest run of a script.
const SCRIPT_MAX: Duration = Duration::from_secs(150);

/// An interpreter that can `import openai`; the test is skipped if it is not available.
///
/// # Panics
/// The target folder cannot be written.
pub fn openai() -> Option<PathBuf> {
    match install() {
        Ok(python) => Some(python),
        Err(reason) => {
            skip(&format!("cannot install the openai package for Python: {reason}"));
            None
        }
    }
}

/// Runs a script of this crate.
///
/// # Panics
/// As [`run`].
pub fn script(python: &Path, script: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(python);
    // The user's settings must not reach the client.
    command.env_clear().arg("-I").arg(place::file(script)).args(arguments);
    run(&mut command, SCRIPT_MAX)
}

fn install() -> Result<PathBuf, String> {
    let requirements = place::file("clients/requirements.txt");
    let folder = place::target().join("tools").join("openai-venv");
    fs::create_dir_all(&folder).expect("a folder in target");
    // Two tests may get here at the same time.
    let lock = File::create(folder.join("lock")).expect("a lock file in target");
    lock.lock().expect("a lock");
    let python = folder.join("bin").join("python");
    let stamp = folder.join("requirements.txt");
    let wanted = fs::read(&requirements).expect("committed");
    if fs::read(&stamp).is_ok_and(|installed| installed == wanted) && python.exists() {
        return Ok(python);
    }
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(&folder);
    succeed(&mut venv)?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    pip.arg(&requirements);
    succeed(&mut pip)?;
    fs::write(&stamp, wanted).expect("a stamp in target");
    Ok(python)
}

fn succeed(command: &mut Command) -> Result<(), String> {
    // A program that is not installed cannot be started.
    let program = command.get_program().to_owned();
    if Command::new(&program).arg("--version").output().is_err() {
        return Err(format!("{} is not installed", program.display()));
    }
    let output = run(command, INSTALL_MAX);
    if output.code == Some(0) {
        return Ok(());
    }
    let said = format!("{}\n{}", output.stdout, output.stderr);
    let last =
        said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it printed no message");
    Err(format!("{command:?} failed: {last}"))
}
