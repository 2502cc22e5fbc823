//! Files of models as memory that the system can drop and read again, so that an import of a large model takes little memory.
//!
//! While a model is imported, its files may be replaced or removed, but must not be cut short: memory of a part that is gone
//! cannot be read. Afterwards nothing is read from mapped memory.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use bytes::Bytes;
use flotilla_model::storage::{Storage, Store};
use memmap2::{Mmap, MmapOptions, UncheckedAdvice};

/// Smaller files are read, and smaller data stay in memory.
const MAPPED_BYTES_MIN: usize = 1 << 20;
/// Data begin at multiples of this in the file of what an import makes: at least the size of a page of any processor.
const ALIGNMENT: u64 = 64 << 10;

/// The files that one import has mapped.
#[derive(Clone, Debug, Default)]
pub(crate) struct MappedFiles {
    state: Arc<Mutex<State>>,
    /// Where data are kept that the import makes; in memory without.
    folder: Option<Arc<Path>>,
}

#[derive(Debug, Default)]
struct State {
    maps: Vec<Arc<Mapped>>,
    /// The file of what the import makes, and where it ends.
    made: Option<(Arc<File>, u64)>,
}

/// A place in a file.
#[derive(Clone, Debug)]
pub(crate) struct FilePlace {
    pub(crate) file: Arc<File>,
    pub(crate) offset: u64,
    /// When the file had been changed last.
    pub(crate) modified: SystemTime,
}

#[derive(Debug)]
struct Mapped {
    map: Mmap,
    file: Arc<File>,
    /// None for a file that the import has made.
    modified: Option<SystemTime>,
}

/// So that [`Bytes`] can own one.
struct Shared(Arc<Mapped>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0.map
    }
}

impl MappedFiles {
    /// Data that an import makes are kept in a file in a folder, which has no name there.
    pub(crate) fn keeping_in(folder: PathBuf) -> MappedFiles {
        MappedFiles { folder: Some(folder.into()), ..MappedFiles::default() }
    }

    /// A file's bytes.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn read(&self, path: &Path) -> io::Result<Bytes> {
        let file = File::open(path)?;
        let about = file.metadata()?;
        if about.len() < MAPPED_BYTES_MIN as u64 {
            return std::fs::read(path).map(Bytes::from);
        }
        match map(&file, 0, about.len() as usize) {
            Ok(map) => Ok(self.state().add(map, Arc::new(file), Some(about.modified()?))),
            // Not every file system can map.
            Err(_) => std::fs::read(path).map(Bytes::from),
        }
    }

    /// Where bytes lie in a file of the model; `None` if they do not.
    pub(crate) fn place(&self, bytes: &[u8]) -> Option<FilePlace> {
        let (mapped, offset) = self.find(bytes)?;
        let (file, modified) = (mapped.file.clone(), mapped.modified?);
        Some(FilePlace { file, offset: offset as u64, modified })
    }

    /// Where the importer keeps large data.
    pub(crate) fn storage(&self) -> Storage {
        Storage::new(Arc::new(self.clone()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mapped file in which bytes lie, and where they begin in it.
    fn find(&self, bytes: &[u8]) -> Option<(Arc<Mapped>, usize)> {
        let whole = bytes.as_ptr_range();
        self.state().maps.iter().find_map(|mapped| {
            let map = mapped.map.as_ptr_range();
            let is_inside = map.start <= whole.start && whole.end <= map.end;
            is_inside.then(|| (mapped.clone(), whole.start as usize - map.start as usize))
        })
    }

    fn written(&self, folder: &Path, bytes: &[u8]) -> io::Result<Bytes> {
        let mut state = self.state();
        let (file, begin) = match state.made.take() {
            Some(made) => made,
            None => {
                std::fs::create_dir_all(folder)?;
                (Arc::new(tempfile::tempfile_in(folder)?), 0)
            }
        };
        let end = (begin + bytes.len() as u64).next_multiple_of(ALIGNMENT);
        state.made = Some((file.clone(), end));
        file.write_all_at(bytes, begin)?;
        let map = map(&file, begin, bytes.len())?;
        Ok(state.add(map, file, None))
    }
}

impl State {
    fn add(&mut self, map: Mmap, file: Arc<File>, modified: Option<SystemTime>) -> Bytes {
        let mapped = Arc::new(Mapped { map, file, modified });
        self.maps.push(mapped.clone());
        Bytes::from_owner(Shared(mapped))
    }
}

impl Store for MappedFiles {
    fn keep(&self, bytes: Bytes) -> Bytes {
        let Some(folder) = &self.folder else { return bytes };
        if bytes.len() < MAPPED_BYTES_MIN || self.find(&bytes).is_some() {
            return bytes;
        }
        self.written(folder, &bytes).unwrap_or_else(|error| {
            let folder = folder.display();
            tracing::warn!(%folder, %error, "cannot write an import's data to disk; they stay in memory");
            bytes
        })
    }

    fn release(&self, bytes: &[u8]) {
        if let Some((mapped, offset)) = self.find(bytes)
            && let Err(error) = forget(&mapped.map, offset, bytes.len())
        {
            tracing::debug!(%error, "memory of a mapped file cannot be released");
        }
    }
}

#[expect(unsafe_code, reason = "another process may change the file: see the module")]
fn map(file: &File, offset: u64, bytes: usize) -> io::Result<Mmap> {
    // SAFETY: the bytes are only looked at, and every use of them stands changes: a model is hostile input. A file that is
    // cut short while it is imported ends the process, as with every program that maps files.
    unsafe { MmapOptions::new().offset(offset).len(bytes).map(file) }
}

#[expect(
    unsafe_code,
    reason = "dropping pages of a private mapping would lose what was written to it"
)]
fn forget(map: &Mmap, offset: usize, bytes: usize) -> io::Result<()> {
    // SAFETY: nothing is ever written to a read-only mapping of a file, so dropped pages are read from the file again.
    unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, offset, bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_files_and_data_are_found_in_their_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let maps = MappedFiles::keeping_in(folder.path().join("weights"));
        let contents: Vec<u8> = (0..3 << 20).map(|at: u32| (at % 251) as u8).collect();
        let path = folder.path().join("model.bin");
        std::fs::write(&path, &contents).expect("written");
        let bytes = maps.read(&path).expect("read");
        let place = maps.place(&bytes[70_000..80_000]).expect("in the file");
        assert_eq!(place.offset, 70_000);
        // What is released is there when it is read again.
        maps.release(&bytes);
        assert_eq!(bytes, contents);

        let made = maps.keep(Bytes::from(contents.clone()));
        assert!(maps.find(&made).is_some() && maps.place(&made).is_none());
        maps.release(&made[5..]);
        assert_eq!(made, contents);
        assert_eq!(std::fs::read_dir(folder.path().join("weights")).expect("a folder").count(), 0);
        let other = maps.keep(Bytes::from(vec![7; 2 << 20]));
        assert_eq!((other, made), (vec![7; 2 << 20].into(), contents.into()));
        let small = maps.keep(Bytes::from_static(b"small"));
        assert!(maps.find(&small).is_none());
    }
}
