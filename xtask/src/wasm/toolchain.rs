//! A compiler for wasm: rustup's target, or the one that Debian builds for its browsers.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::console::Console;
use crate::workspace::Workspace;

/// What pages run.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";

/// Debian's compiler, and the source of the standard library that is built along.
pub(crate) const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// Where these packages put the compiler and the library's source.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";

/// Every engine that has WebGPU has these vectors; what is checked here is known before a page is loaded.
const RUSTFLAGS: &str = "-C target-feature=+simd128";

/// Longest wait for rustup's servers; after that they count as unreachable.
const ADD_TARGET_MAX: Duration = Duration::from_secs(120);

/// How wasm is compiled on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// The toolchain that also builds everything else has the target.
    Rustup,
    /// Debian's compiler builds its own standard library and links with this linker.
    Debian {
        /// `rust-lld` or `wasm-ld`.
        linker: PathBuf,
    },
}

impl Toolchain {
    /// The build of a crate for pages.
    pub(super) fn cargo(&self, workspace: &Workspace, package: &str) -> Command {
        let mut cargo = match self {
            Self::Rustup => workspace.cargo(),
            Self::Debian { .. } => workspace.debian_cargo(),
        };
        cargo.args([
            "rustc",
            "--profile",
            "wasm",
            "--package",
            package,
            "--lib",
            // Only pages need one; natively it would be linked for nothing at every build.
            "--crate-type",
            "cdylib",
        ]);
        cargo
            .args(["--target", TARGET])
            .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", RUSTFLAGS);
        // These would replace the target's own flags.
        cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        if let Self::Debian { linker } = self {
            // In one folder each of the two compilers would discard what the other has built.
            cargo.arg("--target-dir").arg(self.target_dir(workspace));
            cargo.args(["-Z", "build-std=std,panic_abort"]);
            cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
            cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
        cargo
    }

    /// The wasm file of that build.
    pub(super) fn wasm(&self, workspace: &Workspace, package: &str) -> PathBuf {
        let file = format!("{}.wasm", package.replace('-', "_"));
        self.target_dir(workspace).join(TARGET).join("wasm").join(file)
    }

    fn target_dir(&self, workspace: &Workspace) -> PathBuf {
        match self {
            Self::Rustup => workspace.target.clone(),
            Self::Debian { .. } => workspace.target.join("wasm-debian"),
        }
    }
}

/// What is installed, rustup's first.
pub(crate) fn find(workspace: &Workspace) -> anyhow::Result<Option<Toolchain>> {
    let sysroot = sysroot(workspace)?;
    if sysroot.join("lib/rustlib").join(TARGET).join("lib").is_dir() {
        return Ok(Some(Toolchain::Rustup));
    }
    Ok(find_debian(&sysroot))
}

fn find_debian(sysroot: &Path) -> Option<Toolchain> {
    if ![DEBIAN_RUSTC, DEBIAN_CARGO].iter().all(|program| Path::new(program).is_file()) {
        return None;
    }
    let output = Command::new(DEBIAN_RUSTC)
        .args(["--print", "sysroot"])
        .env_remove("RUSTUP_TOOLCHAIN")
        .output()
        .ok()?;
    let debian_sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if !debian_sysroot.join("lib/rustlib/src/rust/library/std").is_dir() {
        return None;
    }
    let linker =
        rust_lld(sysroot).or_else(|| rust_lld(&debian_sysroot)).or_else(|| on_path("wasm-ld"))?;
    Some(Toolchain::Debian { linker })
}

/// The linker that comes with a toolchain, under the name of its host.
fn rust_lld(sysroot: &Path) -> Option<PathBuf> {
    let hosts = fs::read_dir(sysroot.join("lib/rustlib")).ok()?.flatten();
    hosts.map(|host| host.path().join("bin").join("rust-lld")).find(|linker| linker.is_file())
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn sysroot(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut rustc = Command::new(rustc);
    rustc.args(["--print", "sysroot"]).current_dir(&workspace.root);
    let output = rustc.output().context("cannot start rustc")?;
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// Installs the target with rustup. The inner error is the reason why that failed; it is stored, because on a machine that
/// cannot reach rustup's servers every later setup would wait for the same failure.
pub(crate) fn add_target(
    workspace: &Workspace,
    console: &Console,
) -> anyhow::Result<Result<(), String>> {
    let memory = workspace.target.join("rustup-target-refused");
    if let Ok(refusal) = fs::read_to_string(&memory) {
        return Ok(Err(format!("{}; remembered in {}", refusal.trim(), memory.display())));
    }
    console.say(format!("adding it with `rustup target add {TARGET}`"));
    let mut rustup = Command::new("rustup");
    rustup
        .args(["target", "add", TARGET])
        .current_dir(&workspace.root)
        .env("RUSTUP_MAX_RETRIES", "1");
    let spinner = console.spinner(format!("rustup target add {TARGET}"));
    let outcome = run_at_most(rustup, ADD_TARGET_MAX);
    spinner.finish_and_clear();
    if let Err(refusal) = &outcome {
        fs::create_dir_all(&workspace.target)
            .and_then(|()| fs::write(&memory, refusal))
            .with_context(|| format!("cannot write {}", memory.display()))?;
    }
    Ok(outcome)
}

/// Runs a program that reports errors on stderr, and ends it when its time is over.
fn run_at_most(mut command: Command, limit: Duration) -> Result<(), String> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("cannot start it: {error}"))?;
    let (sender, lines) = mpsc::channel();
    let stderr = child.stderr.take();
    // The thread ends with the program, which closes its stderr.
    thread::spawn(move || {
        let lines = stderr
            .into_iter()
            .flat_map(|stderr| BufReader::new(stderr).lines().map_while(Result::ok));
        for line in lines {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let deadline = Instant::now() + limit;
    let mut message = String::new();
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            // The first error is what happened; its causes follow.
            Ok(line) if line.starts_with("error") && !message.starts_with("error") => {
                message = line
            }
            Ok(line) if message.is_empty() => message = line,
            Ok(_) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let ended = child.kill().and_then(|()| child.wait());
                let ended =
                    ended.map_or_else(|error| error.to_string(), |status| status.to_string());
                return Err(format!("no answer in {} seconds ({ended})", limit.as_secs()));
            }
        }
    }
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(if message.is_empty() { status.to_string() } else { message }),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_is_read_and_the_program_ended() {
        let long = Duration::from_secs(60);
        assert_eq!(run_at_most(shell("echo info: fine >&2"), long), Ok(()));
        let refused =
            "echo info: downloading >&2; echo error: no network >&2; echo caused by: x >&2; exit 1";
        assert_eq!(run_at_most(shell(refused), long), Err("error: no network".to_owned()));
        assert!(run_at_most(Command::new("/nonexistent/rustup"), long).is_err());
        let hangs = run_at_most(shell("exec tail -f /dev/null"), Duration::from_millis(50));
        assert!(hangs.is_err_and(|reason| reason.starts_with("no answer")));
    }

    #[test]
    fn the_linker_is_found_under_any_host() {
        let sysroot = tempfile::tempdir().expect("folder");
        assert_eq!(rust_lld(sysroot.path()), None);
        let bin = sysroot.path().join("lib/rustlib/riscv64gc-unknown-linux-gnu/bin");
        fs::create_dir_all(&bin).expect("folder");
        fs::write(bin.join("rust-lld"), "").expect("file");
        assert_eq!(rust_lld(sysroot.path()), Some(bin.join("rust-lld")));
    }
}
