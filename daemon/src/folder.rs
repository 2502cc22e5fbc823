//! A model's files on disk, confined to its folder.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use flotilla_model::{
    import::{ResolveError, Resolver, is_model},
    storage::Storage,
};

use crate::mapped::MappedFiles;

/// The sub-folder that exporters for browsers put ONNX files into, beside the descriptions of the model.
const ONNX_FOLDER: &str = "onnx";
/// Descriptions, of which such a model has at least one.
const DESCRIPTIONS: [&str; 2] = ["config.json", "tokenizer.json"];

/// A folder that a model's files are read from, and nothing outside of it.
#[derive(Clone, Debug)]
pub struct Folder {
    /// Canonical, so that links inside of it can be compared with it.
    root: PathBuf,
    /// Where a hub's cache keeps the files that its snapshot folders link to.
    blobs: Option<PathBuf>,
    /// The file that was named instead of its folder, by its path in the folder.
    onnx: Option<String>,
    maps: MappedFiles,
}

impl Folder {
    /// A model's folder, or the folder of an `.onnx` file. The folder of a file in `onnx/` is the one above, if the model is
    /// described there.
    ///
    /// # Errors
    /// The path is not there.
    pub fn open(path: &Path) -> std::io::Result<Folder> {
        let path = path.canonicalize()?;
        if path.is_dir() {
            let blobs = hub_blobs(&path);
            return Ok(Folder { root: path, blobs, onnx: None, maps: MappedFiles::default() });
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let parent = path.parent().unwrap_or(&path);
        let above = parent.parent().filter(|above| {
            let is_described = DESCRIPTIONS.iter().any(|file| above.join(file).is_file());
            parent.file_name().is_some_and(|name| name == ONNX_FOLDER) && is_described
        });
        let (root, onnx) = match above {
            Some(above) => (above, name.map(|name| format!("{ONNX_FOLDER}/{name}"))),
            None => (parent, name),
        };
        let (root, blobs) = (root.to_owned(), hub_blobs(root));
        Ok(Folder { root, blobs, onnx, maps: MappedFiles::default() })
    }

    /// The same, with files mapped by `maps`.
    pub(crate) fn mapped_by(self, maps: MappedFiles) -> Folder {
        Folder { maps, ..self }
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether a model may be here.
    pub fn is_model(&self) -> bool {
        match &self.onnx {
            Some(file) => file.ends_with(".onnx"),
            None => is_model(self),
        }
    }

    /// The file of a path, links followed, if it lies inside the folder.
    fn file(&self, path: &str) -> Result<PathBuf, ResolveError> {
        let missing = || ResolveError::Missing { path: path.to_owned() };
        let file = self.root.join(path).canonicalize().map_err(|_| missing())?;
        let is_inside = file.starts_with(&self.root)
            || self.blobs.as_ref().is_some_and(|blobs| file.starts_with(blobs));
        if !is_inside {
            return Err(ResolveError::Outside { path: path.to_owned() });
        }
        if file.is_file() { Ok(file) } else { Err(missing()) }
    }
}

/// `<cache>/blobs` for a folder `<cache>/snapshots/<revision>`, as Hugging Face's tools lay out their cache.
fn hub_blobs(folder: &Path) -> Option<PathBuf> {
    let snapshots = folder.parent().filter(|parent| parent.ends_with("snapshots"))?;
    snapshots.parent()?.join("blobs").canonicalize().ok()
}

impl Resolver for Folder {
    fn read(&self, path: &str) -> Result<Bytes, ResolveError> {
        let file = self.file(path)?;
        self.maps.read(&file).map_err(|error| ResolveError::Unreadable {
            path: path.to_owned(),
            reason: error.to_string(),
        })
    }

    fn exists(&self, path: &str) -> bool {
        self.file(path).is_ok()
    }

    fn named_file(&self) -> Option<String> {
        self.onnx.clone()
    }

    fn storage(&self) -> Storage {
        self.maps.storage()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hubs_cache_is_read_through_its_links() {
        let cache = tempfile::tempdir().expect("temporary folder");
        let snapshot = cache.path().join("snapshots/abc");
        std::fs::create_dir_all(&snapshot).expect("made");
        std::fs::create_dir(cache.path().join("blobs")).expect("made");
        std::fs::write(cache.path().join("blobs/1"), "{}").expect("written");
        std::os::unix::fs::symlink("../../blobs/1", snapshot.join("config.json")).expect("linked");
        let folder = Folder::open(&snapshot).expect("there");
        assert_eq!(folder.read("config.json").expect("read"), "{}");
    }

    #[test]
    fn a_file_in_the_folder_for_browsers_has_the_descriptions_above() {
        let root = tempfile::tempdir().expect("temporary folder");
        let file = root.path().join("onnx/model_quantized.onnx");
        std::fs::create_dir(root.path().join("onnx")).expect("made");
        std::fs::write(&file, "o").expect("written");
        let folder = Folder::open(&file).expect("there");
        assert_eq!(folder.named_file().as_deref(), Some("model_quantized.onnx"));
        assert_eq!(folder.read("model_quantized.onnx").expect("read"), "o");
        std::fs::write(root.path().join("tokenizer.json"), "{}").expect("written");
        let folder = Folder::open(&file).expect("there");
        assert_eq!(folder.named_file().as_deref(), Some("onnx/model_quantized.onnx"));
        assert_eq!(folder.read("onnx/model_quantized.onnx").expect("read"), "o");
        assert!(folder.exists("tokenizer.json") && folder.is_model());
    }

    #[test]
    fn nothing_outside_is_read() {
        let outer = tempfile::tempdir().expect("temporary folder");
        let root = outer.path().join("model");
        std::fs::create_dir(&root).expect("made");
        std::fs::write(outer.path().join("secret"), "s").expect("written");
        std::fs::write(root.join("config.json"), "{}").expect("written");
        std::os::unix::fs::symlink(outer.path().join("secret"), root.join("link")).expect("linked");
        let folder = Folder::open(&root).expect("there");
        assert_eq!(folder.read("config.json").expect("read"), "{}");
        for path in ["../secret", "link", "/etc/passwd"] {
            let error = folder.read(path).expect_err("outside");
            assert!(matches!(error, ResolveError::Outside { .. }), "{path}: {error}");
        }
        assert!(matches!(folder.read("nothing"), Err(ResolveError::Missing { .. })));
    }
}
