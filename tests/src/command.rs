//! Runs a command to its end, within a time limit.

use std::{
    fs::File,
    io::{Read as _, Seek as _},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    place,
    process::{Watched, signal},
};

/// How a command ended.
#[derive(Debug)]
pub struct Output {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// What was printed, as JSON.
    ///
    /// # Panics
    /// The command failed or printed something else.
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, Some(0), "{self:#?}");
        match serde_json::from_str(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("standard output is not only JSON: {error}\n{self:#?}"),
        }
    }
}

/// Runs the binary under test with a data folder of its own, in which there is no onnxruntime.
///
/// # Panics
/// As [`run`].
pub fn flotilla(home: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(place::binary());
    let own = [("FLOTILLA_ONNXRUNTIME", "")];
    command.args(arguments).env("FLOTILLA_HOME", home).envs(own).envs(environment.iter().copied());
    run(&mut command, Duration::from_secs(150))
}

/// Runs a command; it gets no input.
///
/// # Panics
/// It cannot be started, or has not ended within `limit`.
pub fn run(command: &mut Command, limit: Duration) -> Output {
    let (output, in_time) = within(command, limit);
    assert!(in_time, "{command:?} did not end within {limit:?}\n{output:#?}");
    output
}

/// Runs a command; it gets no input. Also returns whether it has ended within `limit`; if not, it is killed.
///
/// # Panics
/// It cannot be started.
pub fn within(command: &mut Command, limit: Duration) -> (Output, bool) {
    // Files and not pipes: a process that outlives the command would keep a pipe open, and this test would
    // wait.
    let capture = || tempfile::tempfile().expect("a temporary file");
    let (stdout, stderr) = (capture(), capture());
    let deadline = Instant::now() + limit;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().expect("a file handle"))
        .stderr(stderr.try_clone().expect("a file handle"))
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let in_time = Watched::open(child.id()).is_none_or(|child| child.ends_before(deadline));
    if !in_time {
        signal(child.id(), rustix::process::Signal::KILL);
    }
    let status = child.wait().expect("a child");
    (Output { code: status.code(), stdout: read(stdout), stderr: read(stderr) }, in_time)
}

fn read(mut file: File) -> String {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("a readable file");
    String::from_utf8_lossy(&bytes).into_owned()
}
