//! The list of a model's files with their digests, kept beside them as `flotilla.json`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The manifest's own file name.
pub const MANIFEST: &str = "flotilla.json";

/// A folder nested deeper than this is not a model's.
const DEPTH_MAX: usize = 4;

/// What a pulled model consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The requested source.
    pub source: String,
    /// The actual source, if it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// Every file by its path in the folder, with `/` between the parts.
    pub files: BTreeMap<String, FileDigest>,
}

/// Expected digest of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// The BLAKE3 hash of its bytes in hexadecimal.
    pub blake3: String,
    /// Its length.
    pub bytes: u64,
}

/// What is wrong with a model's files.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A file or folder could not be read or written.
    #[error("cannot {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The manifest is not JSON of the right form.
    #[error("{path} is not a manifest; pull the model again")]
    Syntax {
        /// Which.
        path: PathBuf,
        /// The parser's error.
        #[source]
        source: serde_json::Error,
    },
    /// The manifest names a file outside of its folder.
    #[error("{path} names `{file}`, which is not inside its folder")]
    Outside {
        /// The manifest.
        path: PathBuf,
        /// What it names.
        file: String,
    },
    /// A file is not what was pulled.
    #[error(
        "{path} is damaged: it has {got_bytes} bytes with hash {got}, and {want_bytes} with hash {want} were pulled; pull the model again"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Its length.
        got_bytes: u64,
        /// Its hash; empty if its length is already wrong.
        got: String,
        /// The length in the manifest.
        want_bytes: u64,
        /// The hash in the manifest.
        want: String,
    },
    /// Folders are nested deeper than any model's.
    #[error("{path} is nested more than {DEPTH_MAX} folders deep")]
    TooDeep {
        /// The folder.
        path: PathBuf,
    },
}

impl ManifestError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

impl Manifest {
    /// Digests all files in `folder`.
    ///
    /// # Errors
    ///
    /// If one cannot be read.
    pub fn of(folder: &Path, source: String) -> Result<Self, ManifestError> {
        let mut files = BTreeMap::new();
        for name in list(folder)? {
            files.insert(name.clone(), FileDigest::of(&folder.join(name))?);
        }
        Ok(Self { source, via: None, files })
    }

    /// The manifest of `folder`, or `None` if it has none (a model that was not pulled).
    ///
    /// # Errors
    ///
    /// If it is there and cannot be understood, or names files outside of the folder.
    pub fn read(folder: &Path) -> Result<Option<Self>, ManifestError> {
        let path = folder.join(MANIFEST);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ManifestError::Io { what: "read", path, source }),
        };
        let manifest: Self = match serde_json::from_slice(&text) {
            Ok(manifest) => manifest,
            Err(source) => return Err(ManifestError::Syntax { path, source }),
        };
        // The folder may have come from anywhere, and its manifest with it.
        if let Some(file) = manifest.files.keys().find(|file| !is_inside(file)) {
            return Err(ManifestError::Outside { path, file: file.clone() });
        }
        Ok(Some(manifest))
    }

    /// Writes it into `folder`.
    ///
    /// # Errors
    ///
    /// If that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), ManifestError> {
        let path = folder.join(MANIFEST);
        let text = match serde_json::to_string_pretty(self) {
            Ok(text) => text + "\n",
            Err(source) => return Err(ManifestError::Syntax { path, source }),
        };
        fs::write(&path, text).map_err(ManifestError::io("write", &path))
    }

    /// Reads every file of `folder` and compares it with its digest.
    ///
    /// # Errors
    ///
    /// Names the first file that is not what was pulled.
    pub fn verify(&self, folder: &Path) -> Result<(), ManifestError> {
        self.files.keys().try_for_each(|file| self.verify_file(folder, file))
    }

    /// The same for one file; a file that the manifest does not list passes.
    ///
    /// # Errors
    ///
    /// If the file is not what was pulled.
    pub fn verify_file(&self, folder: &Path, file: &str) -> Result<(), ManifestError> {
        let Some(want) = self.files.get(file) else { return Ok(()) };
        let path = folder.join(file);
        let bytes = fs::metadata(&path).map_err(ManifestError::io("read", &path))?.len();
        // The length is checked first: it costs nothing, and most damaged files are too short.
        let got = if bytes == want.bytes {
            FileDigest::of(&path)?
        } else {
            FileDigest { blake3: String::new(), bytes }
        };
        if got == *want {
            return Ok(());
        }
        Err(ManifestError::Damaged {
            path,
            got_bytes: got.bytes,
            got: got.blake3,
            want_bytes: want.bytes,
            want: want.blake3.clone(),
        })
    }

    /// The length of all files together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|digest| digest.bytes).sum()
    }
}

impl FileDigest {
    fn of(path: &Path) -> Result<Self, ManifestError> {
        let mut hasher = blake3::Hasher::new();
        let mut file = File::open(path).map_err(ManifestError::io("read", path))?;
        let bytes = io::copy(&mut file, &mut hasher).map_err(ManifestError::io("read", path))?;
        Ok(Self { blake3: hasher.finalize().to_hex().to_string(), bytes })
    }
}

fn is_inside(file: &str) -> bool {
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', ':', '\0']);
    file.split('/').all(plain)
}

/// The files below `folder` in order, without hidden ones and without the manifest. Links to files are followed,
/// because a hub's own cache consists of them; links to folders are not, because they can form a ring.
pub(super) fn list(folder: &Path) -> Result<Vec<String>, ManifestError> {
    let mut names = Vec::new();
    walk(folder, "", 0, &mut names)?;
    names.sort();
    Ok(names)
}

fn walk(
    folder: &Path,
    prefix: &str,
    depth: usize,
    names: &mut Vec<String>,
) -> Result<(), ManifestError> {
    if depth > DEPTH_MAX {
        return Err(ManifestError::TooDeep { path: folder.to_owned() });
    }
    for entry in fs::read_dir(folder).map_err(ManifestError::io("list", folder))? {
        let entry = entry.map_err(ManifestError::io("list", folder))?;
        let path = entry.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if name.starts_with('.') || (depth == 0 && name == MANIFEST) {
            continue;
        }
        let kind = entry.file_type().map_err(ManifestError::io("read", &path))?;
        if kind.is_dir() {
            walk(&path, &format!("{prefix}{name}/"), depth + 1, names)?;
        } else if path.is_file() {
            names.push(format!("{prefix}{name}"));
        }
    }
    Ok(())
}
