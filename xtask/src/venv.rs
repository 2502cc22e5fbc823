//! Virtual environments of Python for the scripts that make models.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::console::Console;
use crate::workspace::{is_made, run as run_visibly};

/// An environment below the target folder.
pub(crate) struct Venv<'a> {
    /// Its folder; beside it a copy of the list records what is installed.
    pub(crate) folder: PathBuf,
    /// The list of its packages.
    pub(crate) requirements: &'a Path,
    /// Whether the list names every package, and what these ask for is not to be installed.
    pub(crate) is_complete: bool,
    /// What is missing without it, and what for.
    pub(crate) why: &'a str,
}

impl Venv<'_> {
    /// Makes it unless it is there; returns its Python.
    pub(crate) fn python(&self, console: &Console) -> anyhow::Result<PathBuf> {
        let Venv { folder, requirements, is_complete, why } = self;
        let python = folder.join("bin").join("python");
        let installed = folder.with_extension("txt");
        if is_made(&python, &installed, &[requirements]) {
            return Ok(python);
        }
        console.say(format!("missing: {why}; pip will install it"));
        run_visibly(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        if *is_complete {
            pip.arg("--no-deps");
        }
        run_visibly(pip.arg("--requirement").arg(requirements))?;
        fs::copy(requirements, &installed)
            .with_context(|| format!("cannot write {}", installed.display()))?;
        Ok(python)
    }
}
