//! One daemon per store.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
};

/// Why the lock could not be taken.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum LockError {
    #[error("the state in {} is in use by {}", .dir.display(), holder_words(*.pid))]
    Held { dir: PathBuf, pid: Option<u32> },
    #[error("{} cannot be locked: {source}", .path.display())]
    Refused { path: PathBuf, source: std::io::Error },
}

fn holder_words(pid: Option<u32>) -> String {
    match pid {
        Some(pid) => format!("process {pid}"),
        None => "another process that has just started".to_owned(),
    }
}

/// The lock is held until this is dropped; the operating system releases it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock of a store's folder; the error names the process that has it.
    pub(crate) fn take(dir: &Path) -> Result<Lock, LockError> {
        let path = dir.join("lock");
        let refused = |source| LockError::Refused { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(refused)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(refused)?;
                return Err(LockError::Held {
                    dir: dir.to_owned(),
                    pid: holder.trim().parse().ok(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(refused(source)),
        }
        // A full disk must not prevent a daemon from opening its state: the process id is only for the error above.
        let note = (|| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        })();
        if let Err(error) = note {
            tracing::warn!(%error, path = %path.display(), "the lock does not name this process");
        }
        Ok(Lock { file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A process that is just being started shares the open file for a moment, so closing it here would not release the
        // lock.
        if let Err(error) = self.file.unlock() {
            tracing::warn!(%error, "cannot release the state's lock");
        }
    }
}
