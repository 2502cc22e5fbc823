//! `cargo xtask setup`: reports what is missing and why, installs it, and builds everything.

mod apt;
mod chrome_webnn;
mod onnxruntime;
mod requirement;

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::console::Console;
use crate::wasm;
use crate::workspace::{Workspace, run as run_visibly};
use apt::Apt;
use chrome_webnn::ChromeWebnn;
use onnxruntime::Onnxruntime;
use requirement::{Machine, REQUIREMENTS, Requirement, Source};

/// The model that examples, tests and the demo use.
pub(crate) const MODEL: &str = "all-MiniLM-L6-v2";

/// What this machine has after setup.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Provision {
    /// What setup installed this time.
    pub(crate) installed: Vec<String>,
    /// What is still missing.
    pub(crate) unavailable: Vec<Unavailable>,
}

/// Something that could not be installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Unavailable {
    /// What.
    pub(crate) name: String,
    /// Why.
    pub(crate) reason: String,
    /// Whether this machine has the means to install it, so that its absence is a failure and not only skipped.
    pub(crate) installable: bool,
}

impl Provision {
    /// Reports what is still missing, or prints everything as JSON.
    pub(crate) fn report(&self, console: &Console, json: bool) -> anyhow::Result<()> {
        if json {
            return console.result(&serde_json::to_string(self)?);
        }
        for Unavailable { name, reason, .. } in &self.unavailable {
            console.say(format!("not available: {name}: {reason}"));
        }
        console.say("ready");
        Ok(())
    }
}

/// Installs and builds; what is there already is not touched.
pub(crate) fn run(workspace: &Workspace, console: &Console) -> anyhow::Result<Provision> {
    let machine = Machine::this(workspace.tools());
    let model_missing = !model_is_complete(workspace);
    let chrome_webnn = ChromeWebnn::new(workspace);
    let chrome_webnn_missing = !chrome_webnn.is_installed()?;
    let onnxruntime = Onnxruntime::new(workspace);
    let onnxruntime_missing = onnxruntime.impossible().is_none() && !onnxruntime.is_installed()?;
    let missing: Vec<&Requirement> = REQUIREMENTS
        .iter()
        .filter(|requirement| !requirement.is_met(&machine))
        // pip is only needed for a model and onnxruntime, npm only for a browser.
        .filter(|requirement| {
            requirement.name != requirement::PIP || model_missing || onnxruntime_missing
        })
        .filter(|requirement| requirement.name != requirement::NPM || chrome_webnn_missing)
        .collect();
    let mut provision = Provision::default();
    explain(console, &missing, model_missing);
    install(workspace, console, &machine, &missing, &mut provision);
    if chrome_webnn_missing {
        install_chrome_webnn(&chrome_webnn, console, &mut provision);
    }
    if onnxruntime_missing || onnxruntime.impossible().is_some() {
        install_onnxruntime(&onnxruntime, console, &mut provision);
    }
    wasm_toolchain(workspace, console)?;
    wasm::build(workspace, console)?;
    build_release(workspace)?;
    if model_missing {
        match pull_model(workspace) {
            Ok(()) => provision.installed.push(MODEL.to_owned()),
            Err(error) => provision.unavailable.push(Unavailable {
                name: format!("model {MODEL}"),
                reason: format!("{error:#}"),
                installable: false,
            }),
        }
    }
    if model_is_complete(workspace) {
        link_model(workspace)?;
    }
    if !workspace.home.join("adapters.json").exists()
        && let Err(error) = measure_adapters(workspace, console)
    {
        // Without the measurement the daemon takes the route that is usually faster.
        console.say(format!("chromium's routes to WebGPU are not measured: {error:#}"));
    }
    Ok(provision)
}

/// Lets `flotilla` find out, once, which of Chromium's software routes to WebGPU is faster here. A machine with a GPU
/// uses neither, and measures nothing.
fn measure_adapters(workspace: &Workspace, console: &Console) -> anyhow::Result<()> {
    console.say("measuring Chromium's two software routes to WebGPU (once; `flotilla doctor --measure` does it again)");
    let mut flotilla = Command::new(workspace.binary());
    flotilla.args(["doctor", "--measure", "--browsers", "chrome"]).stdout(Stdio::null());
    run_visibly(&mut flotilla)
}

/// Makes sure that there is a way to compile for wasm.
pub(crate) fn wasm_toolchain(workspace: &Workspace, console: &Console) -> anyhow::Result<()> {
    if wasm::toolchain::find(workspace)?.is_some() {
        return Ok(());
    }
    console.say("missing: a compiler for wasm32-unknown-unknown (the runtime in the page is Rust compiled to wasm)");
    let refusal = match wasm::toolchain::add_target(workspace, console)? {
        Ok(()) => return Ok(()),
        Err(refusal) => refusal,
    };
    console.say(format!(
        "rustup has no target for us ({refusal}); trying the distribution's compiler instead"
    ));
    let packages = wasm::toolchain::DEBIAN_PACKAGES;
    match Apt::find() {
        Ok(apt) => apt.install(console, &packages).map_err(|reason| {
            anyhow::anyhow!("no compiler for wasm: rustup: {refusal}; apt-get: {reason}")
        })?,
        Err(reason) => anyhow::bail!(
            "no compiler for wasm: rustup: {refusal}; {reason} (run `rustup target add {}`, or install the Debian packages {})",
            wasm::toolchain::TARGET,
            packages.join(" ")
        ),
    }
    ensure!(
        wasm::toolchain::find(workspace)?.is_some(),
        "the packages {} are installed, but there is still no compiler for wasm",
        packages.join(" ")
    );
    Ok(())
}

fn explain(console: &Console, missing: &[&Requirement], model_missing: bool) {
    for Requirement { name, why, source, .. } in missing {
        console.say(format!("missing: {name} ({why}); {source}"));
    }
    if model_missing {
        console.say(format!(
            "missing: model {MODEL} (what demo and tests run, 91 MB); `flotilla pull` will fetch it"
        ));
    }
}

fn install(
    workspace: &Workspace,
    console: &Console,
    machine: &Machine,
    missing: &[&Requirement],
    provision: &mut Provision,
) {
    let packages: Vec<&str> =
        missing.iter().filter_map(|requirement| requirement.package()).collect();
    let mut refusal = None;
    if !packages.is_empty() {
        refusal = match Apt::find() {
            Ok(apt) => apt.install(console, &packages).err().map(|reason| (reason, true)),
            Err(reason) => Some((reason, false)),
        };
    }
    for requirement in missing {
        let crate_refusal = match requirement.source {
            Source::Crate(name) => install_crate(workspace, console, name).err(),
            Source::Package(_) | Source::PackageIfOffered(_) => None,
        };
        if requirement.is_met(machine) {
            provision.installed.push(requirement.name.to_owned());
            continue;
        }
        let (reason, installable) = match (crate_refusal, &refusal) {
            (Some(error), _) => (format!("{error:#}"), true),
            (None, Some((reason, installable))) => (reason.clone(), *installable),
            (None, None) => ("its package is installed and does not contain it".to_owned(), false),
        };
        // Optional packages that the distribution does not offer are not reported.
        if !matches!(requirement.source, Source::PackageIfOffered(_)) {
            provision.unavailable.push(Unavailable {
                name: requirement.name.to_owned(),
                reason,
                installable,
            });
        }
    }
}

fn install_chrome_webnn(chrome: &ChromeWebnn, console: &Console, provision: &mut Provision) {
    let name = chrome_webnn::NAME.to_owned();
    if let Some(reason) = ChromeWebnn::impossible() {
        provision.unavailable.push(Unavailable { name, reason, installable: false });
        return;
    }
    console.say(format!(
        "missing: {name} (a Chromium whose WebNN computes; other builds for Linux refuse it); npm will install it, 70 MB"
    ));
    match chrome.install(console) {
        Ok(()) => provision.installed.push(name),
        Err(error) => provision.unavailable.push(Unavailable {
            name,
            reason: format!("{error:#}"),
            installable: true,
        }),
    }
}

fn install_onnxruntime(onnxruntime: &Onnxruntime, console: &Console, provision: &mut Provision) {
    let name = onnxruntime::NAME.to_owned();
    if let Some(reason) = onnxruntime.impossible() {
        provision.unavailable.push(Unavailable { name, reason, installable: false });
        return;
    }
    console.say(format!(
        "missing: {name} (`flotilla check` compares models with it); pip will install it, 28 MB, and 35 MB of it are kept"
    ));
    match onnxruntime.install(console) {
        Ok(()) => provision.installed.push(name),
        Err(error) => provision.unavailable.push(Unavailable {
            name,
            reason: format!("{error:#}"),
            // As for the model: pip may be installed and still not reach an index.
            installable: false,
        }),
    }
}

/// Builds a program from Cargo's registry into our own folder of tools.
fn install_crate(workspace: &Workspace, console: &Console, name: &str) -> anyhow::Result<()> {
    console
        .say(format!("building {name} with `cargo install` into {}", workspace.tools().display()));
    let mut cargo = workspace.cargo();
    // Its own target folder, kept, so that an interrupted build goes on where it was.
    cargo.args(["install", "--locked", name, "--root"]).arg(&workspace.home);
    cargo.arg("--target-dir").arg(workspace.target.join("tools"));
    run_visibly(&mut cargo)
}

/// The binary that users run and tests drive as a black box.
fn build_release(workspace: &Workspace) -> anyhow::Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "flotilla-cli"]);
    run_visibly(&mut cargo).context("cannot build flotilla")
}

fn pull_model(workspace: &Workspace) -> anyhow::Result<()> {
    let mut flotilla = Command::new(workspace.binary());
    flotilla.args(["pull", MODEL, "--to"]).arg(workspace.home.join("models").join(MODEL));
    run_visibly(&mut flotilla)
}

/// Whether every file that the model's manifest lists is there in its full length. Hashes are for `flotilla` to check:
/// setup must be quick when there is nothing to do.
fn model_is_complete(workspace: &Workspace) -> bool {
    let folder = workspace.home.join("models").join(MODEL);
    let Ok(text) = fs::read(folder.join("flotilla.json")) else { return false };
    let Ok(manifest) = serde_json::from_slice::<Value>(&text) else { return false };
    let Some(files) = manifest["files"].as_object() else { return false };
    files.iter().all(|(name, digest)| {
        let length = fs::metadata(folder.join(name)).ok().map(|metadata| metadata.len());
        length.is_some() && length == digest["bytes"].as_u64()
    })
}

/// Lets tests find the model in the workspace.
fn link_model(workspace: &Workspace) -> anyhow::Result<()> {
    let link = workspace.models().join(MODEL);
    let model = workspace.home.join("models").join(MODEL);
    if fs::canonicalize(&link)
        .ok()
        .is_some_and(|target| fs::canonicalize(&model).ok() == Some(target))
    {
        return Ok(());
    }
    fs::create_dir_all(workspace.models())
        .with_context(|| format!("cannot make {}", link.display()))?;
    if fs::symlink_metadata(&link).is_ok_and(|metadata| metadata.is_symlink()) {
        fs::remove_file(&link).with_context(|| format!("cannot replace {}", link.display()))?;
    }
    std::os::unix::fs::symlink(&model, &link)
        .with_context(|| format!("cannot link {}", link.display()))
}

/// Whether a program runs and ends well; its output is of no interest.
fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
