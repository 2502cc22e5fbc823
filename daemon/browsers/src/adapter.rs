//! Which route to WebGPU Chromium takes on this machine.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{Adapter, Build};

/// File in the data folder that keeps what was measured.
const FILE: &str = "adapters.json";

/// Result of `flotilla doctor --measure` for Chromium's software routes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The browser that was measured; another version may differ. Empty where none was.
    pub browser_version: String,
    /// In-page time of the probe on each route that works, in milliseconds.
    pub probe_ms: BTreeMap<Adapter, f64>,
}

impl Measured {
    /// The fastest route.
    pub fn fastest(&self) -> Option<Adapter> {
        self.probe_ms.iter().min_by(|a, b| a.1.total_cmp(b.1)).map(|(&adapter, _)| adapter)
    }

    /// What was measured on this machine; `None` before the first measurement or when the file cannot be used.
    pub fn load() -> Option<Measured> {
        let bytes = std::fs::read(path()).ok()?;
        match serde_json::from_slice(&bytes) {
            Ok(measured) => Some(measured),
            Err(error) => {
                tracing::warn!(path = %path().display(), %error, "measurement is not used; run `flotilla doctor --measure`");
                None
            }
        }
    }

    /// Keeps the measurement.
    ///
    /// # Errors
    /// The data folder cannot be written.
    pub fn store(&self) -> std::io::Result<()> {
        std::fs::create_dir_all(crate::home_dir())?;
        std::fs::write(path(), serde_json::to_vec_pretty(self)?)
    }
}

fn path() -> PathBuf {
    crate::home_dir().join(FILE)
}

/// Resolves `Auto`: the machine's GPU if the system has one, else the build's own software route, else the faster measured
/// route, else, if nothing was measured, Mesa's OpenGL ES.
pub fn decide(requested: Adapter, build: &Build) -> Adapter {
    match requested {
        Adapter::Auto if has_gpu() => Adapter::Hardware,
        Adapter::Auto => {
            build.webgpu_adapter.or_else(|| Measured::load()?.fastest()).unwrap_or(Adapter::Gles)
        }
        Adapter::Hardware | Adapter::Swiftshader | Adapter::Gles => requested,
    }
}

/// Whether the system shows a render node: a GPU that a process may compute on. Systems without such nodes have a GPU.
pub fn has_gpu() -> bool {
    let nodes = Path::new("/dev/dri");
    if !cfg!(target_os = "linux") {
        return true;
    }
    std::fs::read_dir(nodes).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("renderD"))
    })
}
