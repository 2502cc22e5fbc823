//! onnxruntime-web, the engine to compare with, as pinned by the lock file beside the bench.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;

use crate::console::Console;
use crate::workspace::{Workspace, is_made, run as run_visibly};

/// The folder that it is installed in, below which `node_modules` is.
pub(crate) fn folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("bench").join("npm")
}

/// Installs it unless it is there.
pub(crate) fn install(workspace: &Workspace, console: &Console) -> anyhow::Result<()> {
    let sources = workspace.root.join("tests").join("bench");
    let npm = folder(workspace);
    let lock = sources.join("package-lock.json");
    if is_made(&npm.join("node_modules"), &npm.join("package-lock.json"), &[&lock]) {
        return Ok(());
    }
    console.say("missing: onnxruntime-web (what is compared with); npm will install it");
    fs::create_dir_all(&npm).with_context(|| format!("cannot make {}", npm.display()))?;
    fs::copy(sources.join("package.json"), npm.join("package.json"))?;
    fs::copy(&lock, npm.join("package-lock.json"))?;
    let mut command = Command::new("npm");
    command.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&npm);
    run_visibly(&mut command)
}
