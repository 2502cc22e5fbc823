//! `flotilla check` on a model, in a separate process: a crash or a hang there is an outcome here.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::ensure;
use flotilla::browser::Adapter;
use flotilla_tests::command::{self, Output};
use serde_json::Value;

use crate::{
    models::{self, Model},
    outcome::{Outcome, Status},
    results::Stamp,
    runtime::Runtime,
};

/// The longest load and the longest run are this part of the longest check.
const LIMIT_PARTS: u64 = 5;

/// How a model ended on a runtime; or why that runtime is not on this machine.
type Checked = Result<Outcome, String>;

/// The program that checks.
#[derive(Clone, Debug)]
pub(crate) struct Checker {
    program: PathBuf,
    hash: String,
    adapter: Adapter,
    limit: Duration,
}

impl Checker {
    /// A checker that uses the program at this path.
    pub(crate) fn new(
        program: &Path,
        adapter: Adapter,
        limit: Duration,
    ) -> anyhow::Result<Checker> {
        ensure!(program.is_file(), "{} does not exist", program.display());
        let program = program.to_owned();
        let hash = models::hash([&program])?;
        Ok(Checker { program, hash, adapter, limit })
    }

    /// The inputs on which an outcome of this model depends.
    pub(crate) fn stamp(&self, model: &Model) -> anyhow::Result<Stamp> {
        let program = format!("{}, {}", self.hash, self.adapter.name());
        Ok(Stamp { model: model.hash()?, program })
    }

    /// Checks a model on runtimes that one process can check; one by one if that process crashes or hangs.
    pub(crate) fn check(&self, model: &Model, runtimes: &[Runtime]) -> Vec<(Runtime, Checked)> {
        match (self.at_once(model, runtimes), runtimes) {
            (Ok(checked), _) => runtimes.iter().copied().zip(checked).collect(),
            (Err(reason), &[runtime]) => {
                vec![(runtime, Ok(Outcome::broken(Status::Fail, &reason)))]
            }
            (Err(_), runtimes) => {
                runtimes.iter().flat_map(|&runtime| self.check(model, &[runtime])).collect()
            }
        }
    }

    /// One process for all of these runtimes; the error is why it did not complete.
    fn at_once(&self, model: &Model, runtimes: &[Runtime]) -> Result<Vec<Checked>, String> {
        let names = |name: fn(&Runtime) -> &'static str| {
            let mut names: Vec<&str> = Vec::new();
            for name in runtimes.iter().map(name) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            names
        };
        let (browsers, backends) =
            (names(|runtime| runtime.browser), names(|runtime| runtime.backend));
        let mut command = Command::new(&self.program);
        command.arg("check");
        for set in &model.sets {
            command.arg(&model.file).arg("--io").arg(set);
        }
        command.args(["--json", "--runs", "1"]);
        command.args(["--browsers", &browsers.join(","), "--backends", &backends.join(",")]);
        command.args(["--webgpu-adapter", self.adapter.name()]);
        command.args(["--timeout", &(self.limit.as_secs() / LIMIT_PARTS).to_string()]);
        let begin = Instant::now();
        let (output, in_time) = command::within(&mut command, self.limit);
        let wall = begin.elapsed();
        if !in_time {
            return Err(format!("it was not done within {:?}", self.limit));
        }
        let rows: Option<Vec<Value>> = serde_json::from_str(&output.stdout).ok();
        let rows = rows.ok_or_else(|| last_words(&output))?;
        let places: Vec<(&str, &str)> = browsers
            .iter()
            .flat_map(|&browser| backends.iter().map(move |&backend| (browser, backend)))
            .collect();
        let fits = rows.len() == places.len() * model.sets.len();
        if !fits {
            return Err(format!("it gave {} rows: {}", rows.len(), last_words(&output)));
        }
        let seconds: f64 = rows.iter().filter_map(|row| row["seconds"].as_f64()).sum();
        let import_ms = (wall.as_secs_f64() - seconds).max(0.0) * 1e3 / model.sets.len() as f64;
        let outcome = |runtime: &Runtime| {
            let place =
                places.iter().position(|&place| place == (runtime.browser, runtime.backend));
            let place = place.ok_or_else(|| "it was not asked for".to_owned())?;
            let of_set = |set: usize| Outcome::of_row(&rows[set * places.len() + place]);
            let first = Outcome { import_ms: Some(import_ms), ..of_set(0)? };
            let all = (1..model.sets.len())
                .try_fold(first, |all, set| Ok::<_, String>(all.and(set, of_set(set)?)))?;
            let reason = all.reason.map(|reason| without_place(&reason, &model.file));
            Ok(Outcome { reason, ..all })
        };
        Ok(runtimes.iter().map(outcome).collect())
    }
}

/// The reason without the model's path, which differs between machines.
fn without_place(reason: &str, file: &Path) -> String {
    let folder = file.parent().unwrap_or(file);
    let reason = reason.replace(&format!("{}: ", file.display()), "");
    reason.replace(&format!("{}/", folder.display()), "")
}

/// How a process ended, and the last line that it printed.
fn last_words(output: &Output) -> String {
    let line = output.stderr.lines().rev().find(|line| !line.trim().is_empty());
    let end =
        output.code.map_or("a signal ended it".to_owned(), |code| format!("it ended with {code}"));
    match line {
        Some(line) => format!("{end}: {}", line.trim()),
        None => end,
    }
}

/// Runtimes that one process can check: it checks every pair of its browsers and its backends.
pub(crate) fn together(runtimes: &[Runtime]) -> Vec<Vec<Runtime>> {
    let browsers = |backend: &str| -> Vec<&str> {
        let of_backend = runtimes.iter().filter(|runtime| runtime.backend == backend);
        of_backend.map(|runtime| runtime.browser).collect()
    };
    let mut groups: Vec<Vec<Runtime>> = Vec::new();
    for &runtime in runtimes {
        let of = browsers(runtime.backend);
        match groups.iter_mut().find(|group| browsers(group[0].backend) == of) {
            Some(group) => group.push(runtime),
            None => groups.push(vec![runtime]),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::runtime::Named as _;

    fn of(names: &[&str]) -> Vec<Runtime> {
        let all = Runtime::ALL.iter().copied();
        all.filter(|runtime| names.contains(&runtime.name)).collect()
    }

    fn names(groups: &[Vec<Runtime>]) -> Vec<Vec<&str>> {
        let names = |group: &Vec<Runtime>| group.iter().map(|runtime| runtime.name).collect();
        groups.iter().map(names).collect()
    }

    #[test]
    fn a_process_checks_every_pair_of_its_browsers_and_backends() {
        let all = together(Runtime::ALL);
        assert_eq!((all.len(), all[0].len()), (2, 6), "{all:?}");
        assert_eq!(names(&all[1..]), [["chrome-webnn"]]);
        let some = together(&of(&["native-cpu", "native-webgpu", "chrome-webgpu"]));
        assert_eq!(names(&some), [vec!["native-cpu"], vec!["native-webgpu", "chrome-webgpu"]]);
    }

    #[test]
    fn reasons_contain_no_paths() {
        let file = Path::new("/a/zoo/gpt2/model.onnx");
        let reason = "/a/zoo/gpt2/model.onnx: no operator; see /a/zoo/gpt2/io.safetensors";
        assert_eq!(without_place(reason, file), "no operator; see io.safetensors");
    }

    /// A program that prints some rows, and crashes if it is started for webgpu.
    const PROGRAM: &str = r#"#!/bin/sh
case "$*" in *"webgpu --"*) echo "it broke" >&2; kill -9 $$;; esac
echo '[{"status": "pass", "browser": "native", "seconds": 0},
       {"status": "fail", "browser": "native", "reason": "wrong", "seconds": 0}]'
"#;

    #[test]
    fn a_crash_is_the_outcome_of_the_runtime_that_crashed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("program");
        fs::write(&path, PROGRAM).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a program");
        let checker = Checker::new(&path, Adapter::Auto, Duration::from_secs(60));
        let checker = checker.expect("a program");
        let set = folder.path().join("io.safetensors");
        let model = Model {
            name: "a".to_owned(),
            group: "text".to_owned(),
            file: folder.path().join("model.onnx"),
            sets: vec![set.clone(), set],
        };
        let checked = checker.check(&model, &of(&["native-cpu", "native-webgpu"]));
        let [(_, Ok(cpu)), (_, Ok(webgpu))] = checked.as_slice() else { panic!("{checked:?}") };
        assert_eq!((cpu.status, cpu.reason.as_deref()), (Status::Fail, Some("data set 1: wrong")));
        assert_eq!(webgpu.reason.as_deref(), Some("a signal ended it: it broke"));
    }
}
