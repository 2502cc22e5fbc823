//! Measured times of models on each backend of each browser of this machine, stored so that they are not measured again.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use flotilla_browsers::Adapter;
use flotilla_protocol::{Backend, Device};
use serde::{Deserialize, Serialize};

/// File in the data folder: one JSON object per line and measurement. Of several with the same key the last one counts.
const FILE: &str = "backend-speeds.jsonl";

/// Key of a measurement: what must be equal for a time to be valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Key {
    /// blake3 over the program, which names its weights by their own hashes.
    pub(super) program: String,
    pub(super) browser: String,
    pub(super) browser_version: String,
    pub(super) simulated: bool,
    pub(super) backend: Backend,
    /// The processor that was asked for.
    pub(super) device: Option<Device>,
    /// Where nodes run that the backend does not take.
    pub(super) rest: Option<Backend>,
    /// What the backend runs on, as the browser names it.
    pub(super) adapter: String,
    /// Chromium's route to WebGPU.
    pub(super) webgpu_adapter: Option<Adapter>,
    /// Version of this program.
    pub(super) flotilla: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    /// Name of the model, for people who read the file.
    model: String,
    #[serde(flatten)]
    key: Key,
    /// The shortest run of usual size, inside the page, in milliseconds.
    run_ms: f64,
}

/// What is known on this machine.
#[derive(Debug, Default)]
pub(super) struct Speeds {
    path: Option<PathBuf>,
    entries: Vec<Entry>,
}

impl Speeds {
    /// Reads what is known in a data folder; without one nothing is kept. Lines that cannot be read are logged and skipped;
    /// their values are measured again.
    pub(super) fn open(home: Option<&Path>) -> Speeds {
        let Some(path) = home.map(|home| home.join(FILE)) else { return Speeds::default() };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "backends are measured again");
                String::new()
            }
        };
        let mut speeds = Speeds { path: Some(path.clone()), entries: Vec::new() };
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            match serde_json::from_str(line) {
                Ok(entry) => speeds.insert(entry),
                Err(error) => {
                    let line = number + 1;
                    tracing::warn!(path = %path.display(), line, %error, "a measurement is not used");
                }
            }
        }
        speeds
    }

    fn insert(&mut self, entry: Entry) {
        self.entries.retain(|other| other.key != entry.key);
        self.entries.push(entry);
    }

    pub(super) fn took(&self, key: &Key) -> Option<Duration> {
        let entry = self.entries.iter().find(|entry| entry.key == *key)?;
        Duration::try_from_secs_f64(entry.run_ms / 1e3).ok()
    }

    /// Keeps a measurement and returns the line to be written, if any.
    ///
    /// # Errors
    /// It cannot be written; this daemon still uses it.
    pub(super) fn keep(
        &mut self,
        model: &str,
        key: Key,
        took: Duration,
    ) -> std::io::Result<Option<Line>> {
        let entry = Entry { model: model.to_owned(), key, run_ms: took.as_secs_f64() * 1e3 };
        let mut bytes = serde_json::to_vec(&entry)?;
        bytes.push(b'\n');
        self.insert(entry);
        Ok(self.path.clone().map(|path| Line { path, bytes }))
    }
}

/// A measurement's line in the file.
#[derive(Debug)]
pub(super) struct Line {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Line {
    /// Appends the line in one call, so that daemons that write at the same time do not mix their lines. Blocks.
    ///
    /// # Errors
    /// The data folder cannot be written.
    pub(super) fn write(&self) -> std::io::Result<()> {
        OpenOptions::new().create(true).append(true).open(&self.path)?.write_all(&self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_are_kept_for_the_same_browser_and_program() {
        let home = tempfile::tempdir().expect("a folder");
        let key = |browser_version: &str| Key {
            program: "00".to_owned(),
            browser: "chrome".to_owned(),
            browser_version: browser_version.to_owned(),
            simulated: false,
            backend: Backend::WebNn,
            device: Some(Device::Npu),
            rest: None,
            adapter: "(unnamed)".to_owned(),
            webgpu_adapter: None,
            flotilla: "0.1.0".to_owned(),
        };
        let mut speeds = Speeds::open(Some(home.path()));
        assert_eq!(speeds.took(&key("153")), None);
        for ms in [50, 40] {
            let line = speeds.keep("m", key("153"), Duration::from_millis(ms)).expect("a line");
            line.expect("a line").write().expect("written");
        }
        // A partly written line is skipped; the other lines are kept.
        let path = home.path().join(FILE);
        let mut text = std::fs::read_to_string(&path).expect("written");
        text.push_str("{\"model\": \"m\", \"pro\n");
        std::fs::write(&path, text).expect("written");
        let again = Speeds::open(Some(home.path()));
        assert_eq!(again.took(&key("153")), Some(Duration::from_millis(40)));
        assert_eq!(again.took(&key("154")), None);
    }
}
