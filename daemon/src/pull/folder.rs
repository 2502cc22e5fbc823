//! A model from a folder on this machine.

use std::fs;
use std::path::{Path, PathBuf};

use super::{PullError, manifest};

/// A folder with none of these is not a model.
pub(super) const WEIGHTS: [&str; 2] = ["model.safetensors", "model.onnx"];

pub(super) fn has_weights(folder: &Path) -> bool {
    WEIGHTS.iter().any(|name| folder.join(name).is_file())
}

/// Copies every file of the model `from` into the folder `to`.
pub(super) async fn copy(
    from: &Path,
    to: &Path,
    progress: &dyn Fn(u64, Option<u64>),
) -> Result<(), PullError> {
    if !has_weights(from) {
        return Err(PullError::NotAModel { folder: from.to_owned() });
    }
    let mut files: Vec<(PathBuf, PathBuf, u64)> = Vec::new();
    for name in manifest::list(from)? {
        let source = from.join(&name);
        let bytes = fs::metadata(&source).map_err(PullError::io("read", &source))?.len();
        files.push((source, to.join(&name), bytes));
    }
    let total = files.iter().map(|(_, _, bytes)| bytes).sum();
    let mut done = 0;
    progress(done, Some(total));
    for (source, copy, bytes) in files {
        if let Some(parent) = copy.parent() {
            tokio::fs::create_dir_all(parent).await.map_err(PullError::io("make", parent))?;
        }
        // A copy and not a link: later edits of the source must not change what is being served.
        tokio::fs::copy(&source, &copy).await.map_err(PullError::io("copy", &source))?;
        done += bytes;
        progress(done, Some(total));
    }
    Ok(())
}
