//! Latencies of earlier checks, so that a slower one is noticed.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use flotilla_protocol::{Backend, Device};
use serde::{Deserialize, Serialize};

use flotilla_browsers::Adapter;

/// File in the data folder: one JSON object per line and check.
const FILE: &str = "check-history.jsonl";
/// Number of latest checks that are compared with; older ones are ignored.
const CHECKS_MAX: usize = 20;

/// What must be the same for two latencies to be comparable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// blake3 over the model's files.
    pub model_hash: String,
    /// Types and shapes of the inputs.
    pub inputs: String,
    /// Name of the browser.
    pub browser: String,
    /// The backend.
    pub backend: Backend,
    /// What it ran on, as the browser names it.
    pub adapter: Option<String>,
    /// Chromium's route to WebGPU.
    pub webgpu_adapter: Option<Adapter>,
    /// The processor requested from webnn.
    #[serde(default)]
    pub device: Option<Device>,
    /// Where the nodes ran that the backend does not take.
    #[serde(default)]
    pub rest: Option<Backend>,
}

/// One check that passed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Seconds since 1970.
    pub at: u64,
    /// Name of the model.
    pub model: String,
    /// What it can be compared with.
    #[serde(flatten)]
    pub key: Key,
    /// Version of the browser.
    pub browser_version: Option<String>,
    /// Median latency in milliseconds.
    pub p50_ms: f64,
}

/// A latency beside those of earlier checks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Earlier checks.
    pub checks: usize,
    /// Median of their medians, in milliseconds.
    pub p50_ms: f64,
    /// How much slower this one is, in percent; negative if it is faster.
    pub slower_percent: f64,
}

/// The history of a data folder.
#[derive(Clone, Debug, Default)]
pub struct History {
    path: PathBuf,
    entries: Vec<Entry>,
}

impl History {
    /// Reads the history of a data folder; one that is not there is empty. Lines that cannot be read are logged and skipped.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn open(home: &Path) -> std::io::Result<History> {
        let path = home.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let mut entries = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            match serde_json::from_str(line) {
                Ok(entry) => entries.push(entry),
                Err(error) => {
                    let line = number + 1;
                    tracing::warn!(path = %path.display(), line, %error, "an entry of the history is damaged and ignored");
                }
            }
        }
        Ok(History { path, entries })
    }

    /// A latency beside the latest comparable ones; `None` where there are none.
    pub fn compare(&self, key: &Key, p50_ms: f64) -> Option<Comparison> {
        let same = self.entries.iter().rev().filter(|entry| entry.key == *key).take(CHECKS_MAX);
        let mut earlier: Vec<f64> = same.map(|entry| entry.p50_ms).collect();
        earlier.sort_by(f64::total_cmp);
        let median = crate::percentile(&earlier, 50.0)?;
        Some(Comparison {
            checks: earlier.len(),
            p50_ms: median,
            slower_percent: (p50_ms / median - 1.0) * 100.0,
        })
    }

    /// Adds a check. The line is written in one call, so that checks that end at the same time do not mix their lines.
    ///
    /// # Errors
    /// The data folder cannot be written.
    pub fn record(&mut self, entry: Entry) -> std::io::Result<()> {
        if let Some(home) = self.path.parent() {
            std::fs::create_dir_all(home)?;
        }
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        OpenOptions::new().create(true).append(true).open(&self.path)?.write_all(&line)?;
        self.entries.push(entry);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(browser: &str, p50_ms: f64) -> Entry {
        let key = Key {
            model_hash: "00".to_owned(),
            inputs: "x:F32[1]".to_owned(),
            browser: browser.to_owned(),
            backend: Backend::Cpu,
            adapter: Some("wasm".to_owned()),
            webgpu_adapter: None,
            device: None,
            rest: None,
        };
        let model = "m".to_owned();
        Entry { at: 1, model, key, browser_version: None, p50_ms }
    }

    #[test]
    fn only_the_same_is_compared() {
        let home = tempfile::tempdir().expect("a folder");
        let mut history = History::open(home.path()).expect("empty");
        let key = entry("chrome", 0.0).key;
        assert_eq!(history.compare(&key, 1.0), None);
        for p50_ms in [10.0, 30.0, 20.0] {
            history.record(entry("chrome", p50_ms)).expect("written");
        }
        history.record(entry("firefox", 1000.0)).expect("written");
        // A partly written line is skipped; the other lines are kept.
        let path = home.path().join(FILE);
        let mut text = std::fs::read_to_string(&path).expect("written");
        text.push_str("{\"at\": 1, \"mod\n");
        std::fs::write(&path, text).expect("written");
        let again = History::open(home.path()).expect("there");
        let compared = again.compare(&key, 25.0).expect("three checks");
        assert_eq!((compared.checks, compared.p50_ms, compared.slower_percent), (3, 20.0, 25.0));
    }
}
