//! `cargo xtask test`: every check and test, and at the end what failed, what was skipped and why.

mod junit;
mod libtest;
mod tally;

use std::env;
use std::fs;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::Context as _;

use crate::console::Console;
use crate::setup::{self, Provision};
use crate::tidy;
use crate::wasm;
use crate::workspace::{Workspace, run as run_visibly};
use tally::{Skip, Tally};

/// Crates that are quick to build: their tests run with overflow checks and debug assertions.
const DEBUG_TESTED: [&str; 4] = ["flotilla-fleet", "flotilla-protocol", "flotilla-web", "xtask"];

/// Runs everything, also after a failure: one run should report everything that is wrong.
pub(crate) fn run(
    workspace: &Workspace,
    console: &Console,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let mut tally = Tally::default();
    step(console, &mut tally, "setup", |tally| {
        let provision = setup::run(workspace, console)?;
        note_unavailable(tally, &provision, is_ci());
        wasm::build_wpt(workspace, console)
    });
    step(console, &mut tally, "fmt", |_| {
        run_visibly(workspace.cargo().args(["fmt", "--all", "--check"]))
    });
    step(console, &mut tally, "tidy", |_| tidy_up(workspace, console));
    step(console, &mut tally, "clippy", |_| {
        run_visibly(workspace.cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]))
    });
    step(console, &mut tally, "doc", |_| {
        let mut cargo = workspace.cargo();
        // The binary has the library's name; its documentation is `--help`.
        cargo.args(["doc", "--workspace", "--no-deps", "--lib"]).env("RUSTDOCFLAGS", "-D warnings");
        run_visibly(&mut cargo)
    });
    // Most tests compute with models, and the release build has compiled all dependencies already.
    let (mut quick, mut full) = (Vec::new(), vec!["--workspace", "--release"]);
    for package in DEBUG_TESTED {
        quick.extend(["--package", package]);
        full.extend(["--exclude", package]);
    }
    step(console, &mut tally, "tests with debug assertions", |tally| {
        run_tests(workspace, console, tally, &quick)
    });
    step(console, &mut tally, "tests", |tally| run_tests(workspace, console, tally, &full));
    if json {
        console.result(&serde_json::to_string(&tally)?)?;
        console.say(tally.to_string());
    } else {
        console.result(&tally.to_string())?;
    }
    Ok(if tally.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn is_ci() -> bool {
    env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

/// Runs one step, times it and counts how it ended.
fn step(
    console: &Console,
    tally: &mut Tally,
    name: &'static str,
    work: impl FnOnce(&mut Tally) -> anyhow::Result<()>,
) {
    console.say(format!("== {name}"));
    let start = Instant::now();
    let outcome = work(tally);
    if let Err(error) = &outcome {
        console.say(format!("{name} failed: {error:#}"));
    }
    tally.add_step(name, start.elapsed(), outcome.err().map(|error| format!("{error:#}")));
}

/// What could not be installed is skipped with its reason; in CI it is a failure if it could have been installed.
fn note_unavailable(tally: &mut Tally, provision: &Provision, is_ci: bool) {
    for missing in &provision.unavailable {
        if is_ci && missing.installable {
            tally.fail(format!(
                "{} is not available, and CI must have it: {}",
                missing.name, missing.reason
            ));
        } else {
            tally.skip(Skip { what: missing.name.clone(), reason: missing.reason.clone() });
        }
    }
}

fn tidy_up(workspace: &Workspace, console: &Console) -> anyhow::Result<()> {
    let violations = tidy::check(workspace)?;
    for violation in &violations {
        console.say(violation.to_string());
    }
    anyhow::ensure!(
        violations.is_empty(),
        "{} rules of the source tree are broken",
        violations.len()
    );
    Ok(())
}

/// Runs the tests of some packages, each in its own process where nextest is installed.
fn run_tests(
    workspace: &Workspace,
    console: &Console,
    tally: &mut Tally,
    selection: &[&str],
) -> anyhow::Result<()> {
    let mut probe = workspace.cargo();
    probe
        .args(["nextest", "--version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if probe.status().is_ok_and(|status| status.success()) {
        run_nextest(workspace, tally, selection)
    } else {
        console.say("cargo-nextest is not installed: `cargo test` has no time limits, but runs the same tests");
        run_libtest(workspace, console, tally, selection)
    }
}

fn run_nextest(workspace: &Workspace, tally: &mut Tally, selection: &[&str]) -> anyhow::Result<()> {
    // nextest keeps its reports below the workspace, wherever cargo's target folder is.
    let report = workspace.root.join("target").join("nextest").join("default").join("junit.xml");
    if report.exists() {
        // A run that does not compile writes no report, and the old one would be counted again.
        fs::remove_file(&report).with_context(|| format!("cannot remove {}", report.display()))?;
    }
    let mut cargo = workspace.cargo();
    cargo.args(["nextest", "run", "--no-tests=pass"]).args(selection);
    let outcome = run_visibly(with_test_environment(workspace, &mut cargo));
    match fs::read_to_string(&report) {
        Ok(text) => {
            tally.add_tests(junit::parse(&text).context("cannot understand nextest's report")?)
        }
        // Nothing ran; the outcome shows whether that is an error.
        Err(_) => return outcome,
    }
    outcome.context("tests failed")
}

fn run_libtest(
    workspace: &Workspace,
    console: &Console,
    tally: &mut Tally,
    selection: &[&str],
) -> anyhow::Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--no-fail-fast", "--lib", "--bins", "--tests"]).args(selection);
    // Browsers are not started beside one another: that is what nextest's group of them is for.
    cargo.args(["--", "--test-threads=1", "--show-output"]);
    let output = with_test_environment(workspace, &mut cargo)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo test")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let tests = libtest::parse(&text);
    if !output.status.success() {
        console.say(&text);
    }
    tally.add_tests(tests);
    anyhow::ensure!(output.status.success(), "tests failed");
    Ok(())
}

/// Black-box tests drive this binary.
fn with_test_environment<'a>(workspace: &Workspace, cargo: &'a mut Command) -> &'a mut Command {
    cargo.env("FLOTILLA_BINARY", workspace.binary())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::Unavailable;

    #[test]
    fn a_missing_browser_fails_only_where_it_could_be_installed() {
        for (is_ci, installable, fails) in
            [(false, false, false), (false, true, false), (true, false, false), (true, true, true)]
        {
            let missing =
                Unavailable { name: "firefox".into(), reason: "no network".into(), installable };
            let provision = Provision { installed: Vec::new(), unavailable: vec![missing] };
            let mut tally = Tally::default();
            note_unavailable(&mut tally, &provision, is_ci);
            assert_eq!(tally.has_failed(), fails, "{is_ci} {installable}");
            assert!(
                tally.to_string().contains("firefox") && tally.to_string().contains("no network")
            );
        }
    }
}
