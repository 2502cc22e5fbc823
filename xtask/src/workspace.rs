//! Where things lie, and cargo as the tasks call it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

/// Variables that cargo sets for a program that it runs. If another cargo inherits them, build scripts may look changed, or one
/// toolchain may use the libraries of another.
const CARGO_RUN_VARIABLES: [&str; 5] = [
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "CARGO_PRIMARY_PACKAGE",
    "LD_LIBRARY_PATH",
    "OUT_DIR",
];

/// Variables that would make Debian's cargo use parts of another toolchain.
const TOOLCHAIN_VARIABLES: [&str; 9] = [
    "CARGO",
    "CARGO_BUILD_RUSTC",
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];

/// This checkout.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// Its root.
    pub(crate) root: PathBuf,
    /// Cargo's target folder, wherever it is configured to be.
    pub(crate) target: PathBuf,
    /// Where the page's runtime goes.
    pub(crate) web: PathBuf,
    /// Where what belongs to the user and not to this checkout goes: models and drivers.
    pub(crate) home: PathBuf,
    /// The crates.
    pub(crate) packages: Vec<Package>,
}

/// A crate as `cargo metadata` reports it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) manifest_path: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
}

/// A dependency as `cargo metadata` reports it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `None` for an ordinary one, else `dev` or `build`.
    pub(crate) kind: Option<String>,
    pub(crate) optional: bool,
    /// Only for those of this workspace.
    pub(crate) path: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

impl Workspace {
    /// Reads the workspace's metadata from cargo.
    pub(crate) fn find() -> anyhow::Result<Self> {
        // Cargo sets the crate's folder for a program that it runs; without cargo it is the folder where the program was built.
        let manifest_dir =
            env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let mut metadata = cargo_command();
        metadata.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(manifest_dir);
        let output = metadata.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
        ensure!(output.status.success(), "cargo metadata failed");
        let metadata: Metadata =
            serde_json::from_slice(&output.stdout).context("cannot understand cargo metadata")?;
        let root = metadata.workspace_root;
        // The default is the folder that the build script of `web` looks in, also when the target folder is elsewhere.
        let web =
            path_variable("FLOTILLA_WEB_DIR").unwrap_or_else(|| root.join("target").join("web"));
        Ok(Self {
            root,
            target: metadata.target_directory,
            web,
            home: home()?,
            packages: metadata.packages,
        })
    }

    /// The release binary.
    pub(crate) fn binary(&self) -> PathBuf {
        self.target.join("release").join(format!("flotilla{}", env::consts::EXE_SUFFIX))
    }

    /// Where tests look for models.
    pub(crate) fn models(&self) -> PathBuf {
        self.root.join("target").join("models")
    }

    /// Drivers that setup installed; `flotilla` looks there after `PATH`.
    pub(crate) fn tools(&self) -> PathBuf {
        self.home.join("bin")
    }

    /// The cargo that runs this task.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = cargo_command();
        cargo.current_dir(&self.root);
        cargo
    }

    /// Debian's cargo, with nothing of the toolchain that runs this task.
    pub(crate) fn debian_cargo(&self) -> Command {
        let mut cargo = Command::new("/usr/bin/cargo");
        clean(&mut cargo);
        for variable in TOOLCHAIN_VARIABLES {
            cargo.env_remove(variable);
        }
        cargo.current_dir(&self.root);
        cargo
    }
}

/// The same rule as in `flotilla`'s own `home_dir`: `$FLOTILLA_HOME`, else `flotilla` in the user's data folder.
fn home() -> anyhow::Result<PathBuf> {
    if let Some(home) = path_variable("FLOTILLA_HOME") {
        return Ok(home);
    }
    let data_home = path_variable("XDG_DATA_HOME").filter(|path| path.is_absolute());
    match data_home.or_else(|| Some(path_variable("HOME")?.join(".local").join("share"))) {
        Some(data_home) => Ok(data_home.join("flotilla")),
        None => {
            bail!(
                "neither FLOTILLA_HOME nor HOME is set: set one of them to a folder for models and drivers"
            )
        }
    }
}

fn path_variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn cargo_command() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    clean(&mut cargo);
    cargo
}

fn clean(command: &mut Command) {
    for variable in CARGO_RUN_VARIABLES {
        command.env_remove(variable);
    }
    for (name, _) in env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_BIN_"))
        {
            command.env_remove(name);
        }
    }
}

/// Runs a program whose own output a person should see, all of it on stderr: stdout is for results.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_owned();
    command.stdin(Stdio::null()).stdout(io_stderr()?);
    let status = command.status().with_context(|| format!("cannot start {}", program.display()))?;
    ensure!(status.success(), "`{}` failed with {status}", words(command));
    Ok(())
}

/// Whether something is there, and its stamp is younger than all that it is made of.
pub(crate) fn is_made(there: &Path, stamp: &Path, sources: &[&Path]) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let Some(made) = modified(stamp).filter(|_| there.exists()) else { return false };
    sources.iter().all(|source| modified(source).is_some_and(|changed| changed <= made))
}

/// A second handle on stderr to be a child's stdout.
pub(crate) fn io_stderr() -> anyhow::Result<Stdio> {
    use std::os::fd::AsFd as _;
    let stderr = std::io::stderr().as_fd().try_clone_to_owned().context("cannot share stderr")?;
    Ok(Stdio::from(stderr))
}

/// The command as it would be typed.
pub(crate) fn words(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let mut words = program.to_string_lossy().into_owned();
    for argument in command.get_args() {
        words.push(' ');
        words.push_str(&argument.to_string_lossy());
    }
    words
}
