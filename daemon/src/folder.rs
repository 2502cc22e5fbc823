//! A model's files on disk, confined to its folder.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use flotilla_model::import::{ResolveError, Resolver};

/// The file that an ONNX model is read from, whatever its name on disk is.
const ONNX: &str = "model.onnx";

/// A folder that a model's files are read from, and nothing outside of it.
#[derive(Clone, Debug)]
pub struct Folder {
    /// Canonical, so that links inside of it can be compared with it.
    root: PathBuf,
    /// The file that was named instead of its folder.
    onnx: Option<String>,
}

impl Folder {
    /// A model's folder, or the folder of an `.onnx` file.
    ///
    /// # Errors
    /// The path is not there.
    pub fn open(path: &Path) -> std::io::Result<Folder> {
        let path = path.canonicalize()?;
        if path.is_dir() {
            return Ok(Folder { root: path, onnx: None });
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let root = path.parent().unwrap_or(&path).to_owned();
        Ok(Folder { root, onnx: name })
    }

    /// Whether a model may be here.
    pub fn is_model(&self) -> bool {
        match &self.onnx {
            Some(file) => file.ends_with(".onnx"),
            None => {
                self.exists(ONNX)
                    || (self.exists("config.json") && self.exists("model.safetensors"))
            }
        }
    }

    /// The file of a path, links followed, if it lies inside the folder.
    fn file(&self, path: &str) -> Result<PathBuf, ResolveError> {
        let name = match &self.onnx {
            Some(file) if path == ONNX => file,
            Some(_) | None => path,
        };
        let missing = || ResolveError::Missing { path: name.to_owned() };
        let file = self.root.join(name).canonicalize().map_err(|_| missing())?;
        if !file.starts_with(&self.root) {
            return Err(ResolveError::Outside { path: name.to_owned() });
        }
        if file.is_file() { Ok(file) } else { Err(missing()) }
    }
}

impl Resolver for Folder {
    fn read(&self, path: &str) -> Result<Cow<'_, [u8]>, ResolveError> {
        let file = self.file(path)?;
        std::fs::read(&file).map(Cow::Owned).map_err(|error| ResolveError::Unreadable {
            path: path.to_owned(),
            reason: error.to_string(),
        })
    }

    fn exists(&self, path: &str) -> bool {
        self.file(path).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_is_read() {
        let outer = tempfile::tempdir().expect("temporary folder");
        let root = outer.path().join("model");
        std::fs::create_dir(&root).expect("made");
        std::fs::write(outer.path().join("secret"), "s").expect("written");
        std::fs::write(root.join("config.json"), "{}").expect("written");
        std::os::unix::fs::symlink(outer.path().join("secret"), root.join("link")).expect("linked");
        let folder = Folder::open(&root).expect("there");
        assert_eq!(folder.read("config.json").expect("read").as_ref(), b"{}");
        for path in ["../secret", "link", "/etc/passwd"] {
            let error = folder.read(path).expect_err("outside");
            assert!(matches!(error, ResolveError::Outside { .. }), "{path}: {error}");
        }
        assert!(matches!(folder.read("nothing"), Err(ResolveError::Missing { .. })));
    }
}
