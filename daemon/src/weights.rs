//! Weights of served models as files: they are read when a page fetches them, and take no memory of the daemon.
//!
//! Blobs that lie in the model's own files are read from there. The others are stored one after the other in a file of the data
//! folder, whose name is a hash over theirs. Such files that no model of this daemon uses are removed, the oldest first, when
//! all together are larger than a limit. A daemon keeps its files open, so that they may be removed by another one.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use flotilla_program::BlobId;

use flotilla_model::storage::Store as _;

use crate::mapped::{FilePlace, MappedFiles};

/// Folder in the data folder.
const FOLDER: &str = "weights";
/// How names of files end.
const EXTENSION: &str = "weights";
/// Blobs begin at multiples of this in a file.
const ALIGNMENT: u64 = 64;
/// Bytes per step when an existing file is compared.
const COMPARED_BYTES: usize = 1 << 20;

/// A blob's bytes.
#[derive(Clone, Debug)]
pub enum Blob {
    /// In memory.
    Memory(Bytes),
    /// In a file.
    File {
        /// The file, open for reading.
        file: Arc<File>,
        /// Where in it the blob begins, in bytes.
        offset: u64,
        /// Length in bytes.
        bytes: u64,
        /// When the file had been changed last, for a model's own file.
        modified: Option<SystemTime>,
    },
}

impl Blob {
    /// Length in bytes.
    pub fn bytes(&self) -> u64 {
        match self {
            Blob::Memory(bytes) => bytes.len() as u64,
            Blob::File { bytes, .. } => *bytes,
        }
    }

    /// Whether the bytes are those that were imported, as far as the file's times tell. Blocks.
    ///
    /// # Errors
    /// The model's file was changed, or cannot be asked.
    pub fn check(&self) -> io::Result<()> {
        match self {
            Blob::File { file, modified: Some(modified), .. }
                if file.metadata()?.modified()? != *modified =>
            {
                Err(io::Error::other(
                    "the model's file was changed after it was imported: remove the model and add it again",
                ))
            }
            Blob::File { .. } | Blob::Memory(_) => Ok(()),
        }
    }

    /// So many bytes from `start` on; `start + length` is at most [`Blob::bytes`]. Blocks.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self, start: u64, length: usize) -> io::Result<Bytes> {
        match self {
            Blob::Memory(bytes) => {
                let start = usize::try_from(start).map_err(io::Error::other)?;
                Ok(bytes.slice(start..start + length))
            }
            Blob::File { file, offset, .. } => {
                let mut read = vec![0; length];
                file.read_exact_at(&mut read, offset + start)?;
                Ok(read.into())
            }
        }
    }
}

/// Where weights of served models are kept, and how much of them.
#[derive(Clone, Debug)]
pub struct WeightFiles {
    folder: PathBuf,
    bytes_max: u64,
}

impl WeightFiles {
    /// In a data folder.
    pub fn new(home: &Path, bytes_max: u64) -> WeightFiles {
        WeightFiles { folder: home.join(FOLDER), bytes_max }
    }

    /// Maps the files of an import, and keeps in this folder what it makes.
    pub(crate) fn maps(&self) -> MappedFiles {
        MappedFiles::keeping_in(self.folder.clone())
    }

    /// Blobs as files: the model's own where they lie in one, the data folder's for the others, which stay in memory if that
    /// cannot be written. Blocks.
    pub(crate) fn keep_all(
        &self,
        blobs: BTreeMap<BlobId, Bytes>,
        maps: &MappedFiles,
    ) -> BTreeMap<BlobId, Blob> {
        let (mut kept, mut others) = (BTreeMap::new(), BTreeMap::new());
        for (id, blob) in blobs {
            match maps.place(&blob) {
                Some(FilePlace { file, offset, modified }) => {
                    let (bytes, modified) = (blob.len() as u64, Some(modified));
                    kept.insert(id, Blob::File { file, offset, bytes, modified });
                }
                None => drop(others.insert(id, blob)),
            }
        }
        match self.keep(&others, maps) {
            Ok(files) => kept.extend(files),
            Err(error) => {
                let folder = self.folder.display();
                tracing::warn!(%folder, %error, "a model's weights stay in memory: they cannot be written to the data folder");
                kept.extend(others.into_iter().map(|(id, blob)| (id, Blob::Memory(blob))));
            }
        }
        kept
    }

    /// Writes blobs to a file, unless it is there. Blocks.
    ///
    /// # Errors
    /// The data folder cannot be written.
    fn keep(
        &self,
        blobs: &BTreeMap<BlobId, Bytes>,
        maps: &MappedFiles,
    ) -> io::Result<BTreeMap<BlobId, Blob>> {
        if blobs.is_empty() {
            return Ok(BTreeMap::new());
        }
        std::fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(name(blobs)).with_extension(EXTENSION);
        let file = match File::open(&path) {
            Ok(file) if holds(&file, blobs, maps)? => file,
            Ok(_) => self.write(&path, blobs, maps)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.write(&path, blobs, maps)?
            }
            Err(error) => return Err(error),
        };
        // Marks it as used, so that others are removed first.
        file.set_modified(SystemTime::now())?;
        let file = Arc::new(file);
        let kept = places(blobs).map(|(id, offset, blob)| {
            let bytes = blob.len() as u64;
            (id, Blob::File { file: file.clone(), offset, bytes, modified: None })
        });
        let kept = kept.collect();
        self.trim(&path)?;
        Ok(kept)
    }

    /// Writes to another name and renames, so that a file of that name is complete.
    fn write(
        &self,
        path: &Path,
        blobs: &BTreeMap<BlobId, Bytes>,
        maps: &MappedFiles,
    ) -> io::Result<File> {
        let aside = path.with_extension(format!("{}.part", crate::token::random()));
        let written = || -> io::Result<File> {
            let mut file =
                OpenOptions::new().read(true).write(true).create_new(true).open(&aside)?;
            let mut at = 0;
            for (_, offset, blob) in places(blobs) {
                file.write_all(&vec![0; (offset - at) as usize])?;
                file.write_all(blob)?;
                maps.release(blob);
                at = offset + blob.len() as u64;
            }
            file.sync_all()?;
            std::fs::rename(&aside, path)?;
            Ok(file)
        };
        written().inspect_err(|_| {
            // It may not exist.
            let _ = std::fs::remove_file(&aside);
        })
    }

    /// Removes the oldest files but `newest`, until the rest is within the limit.
    fn trim(&self, newest: &Path) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            // Another daemon may have removed it.
            let Ok(about) = entry.metadata() else { continue };
            files.push((about.modified()?, about.len(), entry.path()));
        }
        files.sort();
        let mut all: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in files {
            if all <= self.bytes_max {
                break;
            }
            if path != newest {
                match std::fs::remove_file(&path) {
                    Ok(()) => all -= bytes,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => all -= bytes,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

/// A hash over the blobs' names, which are hashes of their bytes.
fn name(blobs: &BTreeMap<BlobId, Bytes>) -> String {
    let mut hasher = blake3::Hasher::new();
    for (id, blob) in blobs {
        hasher.update(&id.0);
        hasher.update(&(blob.len() as u64).to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// Each blob and where it begins in the file.
fn places(blobs: &BTreeMap<BlobId, Bytes>) -> impl Iterator<Item = (BlobId, u64, &[u8])> {
    let mut at = 0u64;
    blobs.iter().map(move |(&id, blob)| {
        let offset = at.next_multiple_of(ALIGNMENT);
        at = offset + blob.len() as u64;
        (id, offset, &**blob)
    })
}

/// Whether a file holds exactly these blobs.
fn holds(file: &File, blobs: &BTreeMap<BlobId, Bytes>, maps: &MappedFiles) -> io::Result<bool> {
    let end = places(blobs).last().map_or(0, |(_, offset, blob)| offset + blob.len() as u64);
    if file.metadata()?.len() != end {
        return Ok(false);
    }
    let mut read = vec![0; COMPARED_BYTES];
    for (_, offset, blob) in places(blobs) {
        for (index, chunk) in blob.chunks(COMPARED_BYTES).enumerate() {
            let read = &mut read[..chunk.len()];
            file.read_exact_at(read, offset + (index * COMPARED_BYTES) as u64)?;
            if read != chunk {
                return Ok(false);
            }
            maps.release(chunk);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs(seed: u8, sizes: &[usize]) -> BTreeMap<BlobId, Bytes> {
        let blob = |(at, &size): (usize, &usize)| {
            let bytes: Bytes = vec![seed.wrapping_add(at as u8); size].into();
            (BlobId(*blake3::hash(&bytes).as_bytes()), bytes)
        };
        sizes.iter().enumerate().map(blob).collect()
    }

    fn files(home: &Path) -> usize {
        std::fs::read_dir(home.join(FOLDER)).expect("a folder").count()
    }

    #[test]
    fn weights_are_read_from_their_file_and_written_once() {
        let home = tempfile::tempdir().expect("a folder");
        let weights = WeightFiles::new(home.path(), 1 << 20);
        let maps = MappedFiles::default();
        let blobs = blobs(1, &[100, 1, 3000]);
        let kept = weights.keep(&blobs, &maps).expect("kept");
        assert_eq!(kept.len(), 3);
        for (id, blob) in &blobs {
            assert_eq!(kept[id].bytes(), blob.len() as u64);
            assert_eq!(kept[id].read(0, blob.len()).expect("read"), blob[..]);
            assert_eq!(kept[id].read(1, blob.len() - 1).expect("read"), blob[1..]);
        }
        weights.keep(&blobs, &maps).expect("kept");
        assert_eq!(files(home.path()), 1);
        // A file that was changed is written anew.
        let path = std::fs::read_dir(home.path().join(FOLDER)).expect("a folder").next();
        let path = path.expect("a file").expect("a file").path();
        let mut bytes = std::fs::read(&path).expect("read");
        bytes[70] ^= 1;
        std::fs::write(&path, bytes).expect("written");
        let kept = weights.keep(&blobs, &maps).expect("kept");
        let (id, blob) = blobs.first_key_value().expect("a blob");
        assert_eq!(kept[id].read(0, blob.len()).expect("read"), blob[..]);
    }

    #[test]
    fn the_oldest_files_are_removed_and_stay_readable_while_open() {
        let home = tempfile::tempdir().expect("a folder");
        let weights = WeightFiles::new(home.path(), 2500);
        let maps = MappedFiles::default();
        let first = blobs(1, &[1000]);
        let kept = weights.keep(&first, &maps).expect("kept");
        for seed in 2..5 {
            weights.keep(&blobs(seed, &[1000]), &maps).expect("kept");
        }
        assert_eq!(files(home.path()), 2);
        let (id, blob) = first.first_key_value().expect("a blob");
        assert_eq!(kept[id].read(0, 1000).expect("read"), blob[..]);
        // One that is larger than the limit is kept alone.
        weights.keep(&blobs(9, &[5000]), &maps).expect("kept");
        assert_eq!(files(home.path()), 1);
    }
}
