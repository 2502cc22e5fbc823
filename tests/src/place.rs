//! Paths: the workspace, its target folder, the binary under test.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The workspace's folder.
pub fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// Cargo's target folder.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// A file of this crate.
pub fn file(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// The binary under test: `FLOTILLA_BINARY`, else the release binary of this workspace.
///
/// # Panics
/// It has not been built.
pub fn binary() -> PathBuf {
    let binary = env::var_os("FLOTILLA_BINARY")
        .map_or_else(|| target().join("release").join("flotilla"), PathBuf::from);
    assert!(
        binary.is_file(),
        "{} does not exist; run `cargo build --release -p flotilla-cli`",
        binary.display()
    );
    binary
}
