//! A model from a folder on this machine.

use std::fs;
use std::path::{Path, PathBuf};

use super::{PullError, hub::MODULES, manifest};

/// The list of the files that weights are divided into.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// A folder with none of these is not a model.
pub(super) const WEIGHTS: [&str; 4] = ["model.safetensors", INDEX, "model.onnx", "onnx/model.onnx"];

/// Weights as Python objects, which the importer does not read.
const PICKLE: &str = "pytorch_model.bin";

pub(super) fn has_weights(folder: &Path) -> bool {
    WEIGHTS.iter().any(|name| folder.join(name).is_file())
}

/// Copies every file of the model `from` into the folder `to`.
pub(super) async fn copy(
    from: &Path,
    to: &Path,
    progress: &dyn Fn(u64, Option<u64>),
) -> Result<(), PullError> {
    if !has_weights(from) && from.join(PICKLE).is_file() {
        return Err(PullError::Pickle { folder: from.to_owned() });
    }
    // A model whose encoder is in a sub-folder says so there; the importer tells what is missing.
    if !has_weights(from) && !from.join(MODULES).is_file() {
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
