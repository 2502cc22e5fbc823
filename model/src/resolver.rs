//! The source of a model's bytes.

use std::{cell::RefCell, collections::BTreeMap};

use bytes::Bytes;

use crate::storage::Storage;

/// Gives a model's files by their path relative to its folder.
///
/// Importing does not depend on a file system; the daemon implements this trait over files and confines it to the
/// model's folder. Paths in a model file are checked to stay below that folder before they get here.
pub trait Resolver {
    /// The whole file; weights are slices of it, so that a mapped file is not copied.
    ///
    /// # Errors
    /// It is not there or cannot be read.
    fn read(&self, path: &str) -> Result<Bytes, ResolveError>;

    /// Whether there is such a file.
    fn exists(&self, path: &str) -> bool;

    /// The ONNX file that the user named instead of its folder.
    fn named_file(&self) -> Option<String> {
        None
    }

    /// Where weights go that are not in a file of the model in the form that pages need; memory, if not told otherwise.
    fn storage(&self) -> Storage {
        Storage::default()
    }
}

/// Why a file could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum ResolveError {
    #[error("{path} is missing")]
    Missing { path: String },
    #[error("{path} cannot be read: {reason}")]
    Unreadable { path: String, reason: String },
    #[error("{path:?} points out of the model's folder")]
    Outside { path: String },
}

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRecord {
    /// Its path relative to the model's folder.
    pub path: String,
    /// blake3 of its bytes, in hexadecimal.
    pub blake3: String,
    /// Its length.
    pub bytes: u64,
}

/// Files in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryResolver {
    /// Each file's bytes by its path.
    pub files: BTreeMap<String, Bytes>,
}

impl Resolver for MemoryResolver {
    fn read(&self, path: &str) -> Result<Bytes, ResolveError> {
        self.files.get(path).cloned().ok_or_else(|| ResolveError::Missing { path: path.to_owned() })
    }

    fn exists(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }
}

/// Records the files that are read.
pub(crate) struct Recorder<'r> {
    inner: &'r dyn Resolver,
    files: RefCell<Vec<FileRecord>>,
}

impl<'r> Recorder<'r> {
    pub(crate) fn new(inner: &'r dyn Resolver) -> Recorder<'r> {
        Recorder { inner, files: RefCell::new(Vec::new()) }
    }

    pub(crate) fn into_files(self) -> Vec<FileRecord> {
        self.files.into_inner()
    }
}

impl Resolver for Recorder<'_> {
    fn read(&self, path: &str) -> Result<Bytes, ResolveError> {
        let bytes = self.inner.read(path)?;
        let mut files = self.files.borrow_mut();
        if !files.iter().any(|file| file.path == path) {
            files.push(FileRecord {
                path: path.to_owned(),
                blake3: self.storage().hash(&bytes).to_hex().to_string(),
                bytes: bytes.len() as u64,
            });
        }
        Ok(bytes)
    }

    fn exists(&self, path: &str) -> bool {
        self.inner.exists(path)
    }

    fn named_file(&self) -> Option<String> {
        self.inner.named_file()
    }

    fn storage(&self) -> Storage {
        self.inner.storage()
    }
}

/// The files of a folder inside a model's folder.
pub struct Within<'r> {
    inner: &'r dyn Resolver,
    /// `""`, or it ends in `/`.
    folder: String,
}

impl<'r> Within<'r> {
    /// Of a folder: `""`, or a path that ends in `/`.
    pub(crate) fn folder(inner: &'r dyn Resolver, folder: &str) -> Within<'r> {
        Within { inner, folder: folder.to_owned() }
    }

    /// Of the folder that a file is in.
    pub fn beside(inner: &'r dyn Resolver, file: &str) -> Within<'r> {
        let folder = file.rfind('/').map_or("", |end| &file[..=end]);
        Within::folder(inner, folder)
    }
}

impl Resolver for Within<'_> {
    fn read(&self, path: &str) -> Result<Bytes, ResolveError> {
        self.inner.read(&format!("{}{path}", self.folder))
    }

    fn exists(&self, path: &str) -> bool {
        self.inner.exists(&format!("{}{path}", self.folder))
    }

    fn storage(&self) -> Storage {
        self.inner.storage()
    }
}

/// A path from inside a model file, normalized; only plain components that stay below the model's folder are
/// accepted.
///
/// # Errors
/// An absolute path, `..`, or anything that another system could read as one.
pub(crate) fn confined(path: &str) -> Result<String, ResolveError> {
    let outside = || ResolveError::Outside { path: path.to_owned() };
    if path.starts_with('/') || path.contains(['\\', ':', '\0']) {
        return Err(outside());
    }
    let parts: Vec<&str> =
        path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.is_empty() || parts.contains(&"..") {
        return Err(outside());
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_below_the_folder_pass() {
        for (path, want) in [
            ("weights.bin", Some("weights.bin")),
            ("./a/b.bin", Some("a/b.bin")),
            ("../weights.bin", None),
            ("a/../../b", None),
            ("/etc/passwd", None),
            ("C:\\x", None),
            ("", None),
        ] {
            assert_eq!(confined(path).ok().as_deref(), want, "{path}");
        }
    }
}
