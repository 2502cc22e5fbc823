//! A WebDriver in front of the real one that, on command, answers with errors or not at all.
//!
//! It is started in the real driver's place, starts that with the same arguments on another port, and prints the same line with
//! its own. Its commands, and its reports of what it did, are files in a shared folder ([`Control`]), because drivers start and
//! end with their browsers.

use std::{
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, BufReader, Lines},
    net::TcpListener,
    process::Command,
};

use crate::{faults::DriverFault, forward::Forwarder};

/// The text that drivers print before their port: ChromeDriver, geckodriver.
const PORT_AFTER: [&str; 2] = ["started successfully on port ", "Listening on 127.0.0.1:"];
/// The file with the commands to drivers.
const ORDERS: &str = "orders.json";
/// Prefix of the files in which drivers report what they did.
const FIRED: &str = "fired-";

/// A command to drivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    /// What they do instead of a WebDriver command.
    pub how: DriverFault,
    /// The first WebDriver command that fails, counted from 1 for each driver.
    pub command: u32,
    /// Index of the occasion, reported with each firing.
    pub moment: usize,
}

/// The folder for commands to drivers and their reports.
#[derive(Clone, Debug)]
pub struct Control {
    folder: PathBuf,
}

impl Control {
    /// Uses an existing folder.
    pub fn new(folder: impl Into<PathBuf>) -> Control {
        Control { folder: folder.into() }
    }

    /// Writes the program that takes the real driver's place: a script, since a driver's path has no arguments.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn install(&self, flotilla: &Path, real: &Path, name: &str) -> std::io::Result<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.join(name);
        let quoted =
            |path: &Path| format!("'{}'", path.display().to_string().replace('\'', "'\\''"));
        let text = format!(
            "#!/bin/sh\nexec {} faulty-driver --real {} --control {} -- \"$@\"\n",
            quoted(flotilla),
            quoted(real),
            quoted(&self.folder)
        );
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    /// Sends the command to every driver, including those that start later.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn arm(&self, orders: Orders) -> std::io::Result<()> {
        // Written to another name and renamed, so that no driver reads a part of it.
        let aside = self.folder.join("orders.new");
        std::fs::write(&aside, serde_json::to_vec(&orders)?)?;
        std::fs::rename(aside, self.folder.join(ORDERS))
    }

    /// Removes the command: drivers work normally again.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn disarm(&self) -> std::io::Result<()> {
        match std::fs::remove_file(self.folder.join(ORDERS)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Takes the drivers' reports since the last call: the occasion of each firing.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn take_fired(&self) -> std::io::Result<Vec<usize>> {
        let mut fired = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(FIRED)) else {
                continue;
            };
            if let Some(moment) = rest.split('-').next().and_then(|moment| moment.parse().ok()) {
                fired.push(moment);
            }
            std::fs::remove_file(entry.path())?;
        }
        Ok(fired)
    }

    fn orders(&self) -> Option<Orders> {
        // No file means no orders.
        let bytes = std::fs::read(self.folder.join(ORDERS)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    fn record_firing(&self, orders: Orders, command: u32) -> std::io::Result<()> {
        let name = format!("{FIRED}{}-{}-{command}", orders.moment, std::process::id());
        std::fs::write(self.folder.join(name), [])
    }
}

/// Why a driver could not be put in front of another.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum DriverError {
    #[error("cannot start {path}: {source}")]
    Start { path: PathBuf, source: std::io::Error },
    #[error("cannot listen on a port: {0}")]
    Bind(#[source] std::io::Error),
    #[error("the driver's output cannot be passed on: {0}")]
    Output(#[source] std::io::Error),
    #[error("the driver ended before it printed its port; its last output: {words}")]
    Silent { words: String },
    #[error("serving failed: {0}")]
    Serve(#[source] std::io::Error),
}

#[derive(Clone, Debug)]
struct Shim {
    forwarder: Forwarder,
    control: Control,
    commands: Arc<AtomicU32>,
}

/// Runs in front of a real driver until that ends; returns its status.
///
/// # Errors
/// The driver cannot be started, or does not print its port.
pub async fn run(
    real: &Path,
    arguments: &[String],
    control: Control,
) -> Result<ExitStatus, DriverError> {
    let start = |source| DriverError::Start { path: real.to_owned(), source };
    let mut driver = Command::new(real)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(start)?;
    let stdout = driver.stdout.take().ok_or_else(|| start(std::io::Error::other("no output")))?;
    let mut lines = BufReader::new(stdout).lines();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(DriverError::Bind)?;
    let own = listener.local_addr().map_err(DriverError::Bind)?.port();
    let port = port(&mut lines, own).await?;
    let shim = Shim {
        forwarder: Forwarder::new(SocketAddr::from(([127, 0, 0, 1], port))),
        control,
        commands: Arc::default(),
    };
    let router = Router::new().fallback(command).with_state(shim);
    let passing = async {
        while let Some(line) = lines.next_line().await.map_err(DriverError::Output)? {
            say(&line)?;
        }
        driver.wait().await.map_err(DriverError::Output)
    };
    tokio::select! {
        served = axum::serve(listener, router) => {
            served.map_err(DriverError::Serve)?;
            driver.wait().await.map_err(DriverError::Output)
        }
        status = passing => status,
    }
}

/// Prints the driver's lines up to the one with its port, which is replaced by `own`.
async fn port(lines: &mut Lines<impl AsyncBufRead + Unpin>, own: u16) -> Result<u16, DriverError> {
    let mut words = String::new();
    while let Some(line) = lines.next_line().await.map_err(DriverError::Output)? {
        let found = PORT_AFTER.iter().find_map(|after| {
            let (before, rest) = line.split_once(after)?;
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let port: u16 = rest[..digits].parse().ok()?;
            Some((port, format!("{before}{after}{own}{}", &rest[digits..])))
        });
        match found {
            Some((port, line)) => {
                say(&line)?;
                return Ok(port);
            }
            None => say(&line)?,
        }
        words = line;
    }
    Err(DriverError::Silent { words })
}

fn say(line: &str) -> Result<(), DriverError> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}").and_then(|()| output.flush()).map_err(DriverError::Output)
}

async fn command(State(shim): State<Shim>, request: Request) -> Response {
    let number = shim.commands.fetch_add(1, Ordering::Relaxed) + 1;
    let Some(orders) = shim.control.orders().filter(|orders| number >= orders.command) else {
        return shim.forwarder.forward(request).await;
    };
    if let Err(error) = shim.control.record_firing(orders, number) {
        return failure(format!("cannot record that the fault has fired: {error}"));
    }
    match orders.how {
        DriverFault::Error => failure("a fault was ordered".to_owned()),
        DriverFault::Silence => std::future::pending().await,
    }
}

/// An error in WebDriver's format. Source: W3C WebDriver 2, section 6.6.
fn failure(message: String) -> Response {
    let value = json!({ "error": "unknown error", "message": message, "stacktrace": "" });
    (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "value": value }))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_port_is_replaced_in_the_line_that_names_it() {
        let table = [
            ("ChromeDriver was started successfully on port 39345.\n", Some(39345)),
            ("noise\n1700\tgeckodriver\tINFO\tListening on 127.0.0.1:4444\n", Some(4444)),
            ("cannot find a browser\n", None),
        ];
        for (text, want) in table {
            let mut lines = BufReader::new(text.as_bytes()).lines();
            match (port(&mut lines, 1).await, want) {
                (Ok(got), Some(want)) => assert_eq!(got, want),
                (Err(DriverError::Silent { words }), None) => assert_eq!(words, text.trim()),
                (got, want) => panic!("{text:?}: {got:?}, {want:?}"),
            }
        }
    }

    #[tokio::test]
    async fn commands_from_the_ordered_one_on_fail_and_are_reported() {
        let folder = tempfile::tempdir().expect("a folder");
        let control = Control::new(folder.path());
        let real = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let upstream = real.local_addr().expect("an address");
        let router = Router::new().fallback(async || "done");
        let server = tokio::spawn(async move { axum::serve(real, router).await });
        let commands = Arc::default();
        let shim = Shim { forwarder: Forwarder::new(upstream), control: control.clone(), commands };
        let ask = async || {
            let request = Request::builder().uri("/status").body(axum::body::Body::empty());
            command(State(shim.clone()), request.expect("a request")).await.status()
        };
        assert_eq!(ask().await, StatusCode::OK);
        let orders = Orders { how: DriverFault::Error, command: 3, moment: 5 };
        control.arm(orders).expect("armed");
        assert_eq!(ask().await, StatusCode::OK, "the second");
        assert_eq!(ask().await, StatusCode::INTERNAL_SERVER_ERROR, "the third");
        assert_eq!(control.take_fired().expect("readable"), [5]);
        assert_eq!(control.take_fired().expect("readable"), Vec::<usize>::new());

        control.arm(Orders { how: DriverFault::Silence, ..orders }).expect("armed");
        let silent = tokio::time::timeout(std::time::Duration::from_millis(100), ask()).await;
        assert!(silent.is_err(), "{silent:?}");
        assert_eq!(control.take_fired().expect("readable"), [5]);
        control.disarm().expect("disarmed");
        control.disarm().expect("disarming twice is no error");
        assert_eq!(ask().await, StatusCode::OK, "after healing");
        server.abort();
    }

    #[test]
    fn the_program_that_takes_the_drivers_place_is_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = Control::new(folder.path())
            .install(Path::new("/bin/echo"), Path::new("/it's/real"), "chromedriver")
            .expect("written");
        let output =
            std::process::Command::new(path).args(["--port=0", "a b"]).output().expect("runs");
        let words = String::from_utf8(output.stdout).expect("text");
        let control = folder.path().display();
        assert_eq!(
            words,
            format!("faulty-driver --real /it's/real --control {control} -- --port=0 a b\n")
        );
    }
}
