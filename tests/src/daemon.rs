//! `flotilla serve` as a child process that no test can leave behind.

use std::{
    io::BufReader,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use flotilla::browser::{Build, Kind, install};
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    http::{self, Answer},
    place,
    process::{self, Watched},
};

/// Longest wait for a daemon to listen.
const LISTEN_MAX: Duration = Duration::from_secs(60);
/// Longest wait for every model to be loaded.
pub const READY_MAX: Duration = Duration::from_secs(150);
/// Longest orderly shutdown, requests in flight included.
const END_MAX: Duration = Duration::from_secs(60);
/// Longest life of a process after its daemon's.
const ORPHAN_MAX: Duration = Duration::from_secs(20);
/// The pool is read again after this time even if the log has no new line.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A running daemon. Its end, ordered or by dropping it, is checked: no process of it may survive. The log is printed if
/// the test fails.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: Arc<Log>,
    address: String,
    home: Option<tempfile::TempDir>,
}

/// Standard error of a daemon, line by line.
#[derive(Debug, Default)]
struct Log {
    lines: Mutex<Lines>,
    grown: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
}

impl Daemon {
    /// Starts `flotilla serve` on a free port with these arguments and waits until it listens.
    ///
    /// # Panics
    /// It does not listen in time.
    pub fn start(arguments: &[&str]) -> Daemon {
        Daemon::start_in(arguments, &[])
    }

    /// The same with environment variables.
    ///
    /// # Panics
    /// It does not listen in time.
    pub fn start_in(arguments: &[&str], environment: &[(&str, &str)]) -> Daemon {
        let home = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new(place::binary());
        command
            .args(["serve", "--port", "0"])
            .args(arguments)
            .env("FLOTILLA_HOME", home.path())
            .envs(drivers())
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let log = Arc::new(Log::default());
        let stderr = child.stderr.take().expect("a pipe");
        let writer = log.clone();
        std::thread::spawn(move || writer.follow(BufReader::new(stderr)));
        let mut daemon = Daemon { child, log, address: String::new(), home: Some(home) };
        let line = daemon.wait_line("listening on http://", LISTEN_MAX);
        let address = line.split("http://").nth(1).and_then(|rest| rest.split(' ').next());
        daemon.address = address.expect("an address").to_owned();
        daemon
    }

    /// Starts it and waits until every model can be used.
    ///
    /// # Panics
    /// It does not become ready in time.
    pub fn ready(arguments: &[&str]) -> Daemon {
        let daemon = Daemon::start(arguments);
        daemon.wait_line("ready: ", READY_MAX);
        daemon
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its data folder.
    ///
    /// # Panics
    /// Never while the daemon is not ended.
    pub fn home(&self) -> &Path {
        self.home.as_ref().expect("a folder until the end").path()
    }

    /// The address of a route.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// GET.
    ///
    /// # Panics
    /// There is no answer.
    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], None)
    }

    /// POST of a JSON document.
    ///
    /// # Panics
    /// There is no answer.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        let headers = [("content-type", "application/json")];
        self.request("POST", path, &headers, Some(body.to_string().as_bytes()))
    }

    /// Asks for embeddings.
    ///
    /// # Panics
    /// There is no answer.
    pub fn embed(&self, model: &str, input: impl Into<Value>) -> Answer {
        self.post("/v1/embeddings", &serde_json::json!({ "model": model, "input": input.into() }))
    }

    /// Any request.
    ///
    /// # Panics
    /// There is no answer.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Answer {
        match http::request(method, &self.url(path), headers, body) {
            Ok(answer) => answer,
            Err(error) => panic!("{method} {path}: no answer: {error}"),
        }
    }

    /// Waits for a line of the log that contains `fragment`; earlier lines count.
    ///
    /// # Panics
    /// None comes within `limit`, or the daemon ends.
    pub fn wait_line(&self, fragment: &str, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        let mut lines = self.log.lock();
        loop {
            if let Some(line) = lines.lines.iter().find(|line| line.contains(fragment)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!lines.ended, "the daemon ended before it printed {fragment:?}");
            assert!(!left.is_zero(), "the daemon did not print {fragment:?} within {limit:?}");
            lines = self.log.wait(lines, left);
        }
    }

    /// Reads `GET /api/pool`, again whenever something happens, until `look` finds something.
    ///
    /// # Panics
    /// It finds nothing within `limit`.
    pub fn wait_pool<T>(
        &self,
        what: &str,
        limit: Duration,
        look: impl Fn(&Value) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + limit;
        loop {
            let pool = self.get("/api/pool").ok();
            if let Some(found) = look(&pool) {
                return found;
            }
            assert!(Instant::now() < deadline, "no {what} within {limit:?}: {pool:#}");
            let lines = self.log.lock();
            drop(self.log.wait(lines, LOOK_AGAIN));
        }
    }

    /// Waits until every browser has every model ready, and returns the pool.
    ///
    /// # Panics
    /// That does not happen within some minutes.
    pub fn wait_all_ready(&self) -> Value {
        self.wait_pool("complete pool", READY_MAX, |pool| {
            let browsers = pool["browsers"].as_array()?;
            let is_ready = |browser: &Value| {
                let placements = browser["placements"].as_array();
                browser["state"] == "ready"
                    && browser["facts"].is_object()
                    && placements.is_some_and(|placements| {
                        !placements.is_empty()
                            && placements.iter().all(|placement| placement["state"] == "ready")
                    })
            };
            browsers.iter().all(is_ready).then(|| pool.clone())
        })
    }

    /// Sends a signal to this process alone.
    pub fn signal(&self, signal: Signal) {
        process::signal(self.child.id(), signal);
    }

    /// Waits for its end, which was ordered, and checks that nothing is left.
    ///
    /// # Panics
    /// It does not end in time, or leaves a process behind.
    pub fn wait_end(&mut self) -> ExitStatus {
        let pid = self.child.id();
        let is_gone =
            Watched::open(pid).is_none_or(|child| child.ends_before(Instant::now() + END_MAX));
        assert!(is_gone, "the daemon did not end within {END_MAX:?}");
        let status = self.child.wait().expect("a child");
        if let Err(alive) = process::all_end(pid, &[], ORPHAN_MAX) {
            panic!("processes outlive the daemon:\n{alive}");
        }
        status
    }

    /// Everything in its log.
    pub fn log(&self) -> String {
        self.log.lock().lines.join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let pid = self.child.id();
        let mut complaint = None;
        if matches!(self.child.try_wait(), Ok(None)) {
            // A failed test does not wait for the answers to its requests.
            process::signal(pid, if failed { Signal::KILL } else { Signal::TERM });
            let deadline = Instant::now() + END_MAX;
            if !Watched::open(pid).is_none_or(|child| child.ends_before(deadline)) {
                process::signal(pid, Signal::KILL);
                complaint =
                    Some(format!("the daemon did not end within {END_MAX:?} after SIGTERM"));
            }
            // It was ordered to end, or has been killed.
            let _ = self.child.wait();
        }
        if let Err(alive) = process::all_end(pid, &[], ORPHAN_MAX) {
            complaint = Some(format!("processes outlive the daemon:\n{alive}"));
        }
        if failed || complaint.is_some() {
            eprintln!("log of the daemon:\n{}", self.log());
        }
        match complaint {
            Some(complaint) if failed => eprintln!("{complaint}"),
            Some(complaint) => panic!("{complaint}"),
            None => {}
        }
    }
}

impl Log {
    fn follow(&self, lines: impl std::io::BufRead) {
        for line in lines.lines().map_while(Result::ok) {
            self.lock().lines.push(line);
            self.grown.notify_all();
        }
        self.lock().ended = true;
        self.grown.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        // Lines are pushed whole, so a test that panicked has not left a partial line.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, lines: MutexGuard<'a, Lines>, limit: Duration) -> MutexGuard<'a, Lines> {
        self.grown.wait_timeout(lines, limit).unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Environment variables with the paths of drivers and of the browser that setup unpacks: the binary looks in its data
/// folder, which is another one in tests.
pub fn drivers() -> Vec<(&'static str, String)> {
    let found = |build: Build| install::find(&build).ok();
    let drivers =
        [(Kind::Chrome, "FLOTILLA_CHROMEDRIVER"), (Kind::Firefox, "FLOTILLA_GECKODRIVER")];
    let drivers =
        drivers.into_iter().filter_map(|(kind, name)| Some((name, found(kind.into())?.driver)));
    let unpacked = found(Build::chrome_webnn());
    let unpacked = unpacked.map(|installed| ("FLOTILLA_CHROME_WEBNN", installed.browser));
    drivers.chain(unpacked).map(|(name, path)| (name, path.display().to_string())).collect()
}
