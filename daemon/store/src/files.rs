//! The first file and its copy, written one after the other.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use rusqlite::types::Value as Cell;

use crate::{
    crash::{Step, point},
    file::{self, File, FileError, beside, meta_row, put_aside},
    report::{CopyHealth, Finding, RecordName, Remedy, Which},
    row::{Change, Found, Row, Table},
};

/// Where the files are.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) first: PathBuf,
    /// `None` if one copy is enough.
    pub(crate) copy: Option<PathBuf>,
}

impl Paths {
    /// The path of a file; `None` if it is not kept.
    pub(crate) fn of(&self, which: Which) -> Option<&Path> {
        match which {
            Which::First => Some(&self.first),
            Which::Copy => self.copy.as_deref(),
        }
    }
}

/// The second file.
#[derive(Debug)]
pub(crate) enum Copy {
    /// No copy is kept.
    None,
    /// It has all that the first has.
    InStep(File),
    /// It could not be written.
    Behind {
        reason: String,
        /// When it was last tried.
        tried: Instant,
    },
}

/// What a write is part of, for the crash points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Commit,
    Checkpoint,
    Upkeep,
}

impl Purpose {
    fn point(self, commit: Step, checkpoint: Option<Step>) {
        match self {
            Purpose::Commit => point(commit),
            Purpose::Checkpoint => {
                if let Some(step) = checkpoint {
                    point(step);
                }
            }
            Purpose::Upkeep => {}
        }
    }
}

/// Both files.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) paths: Paths,
    pub(crate) first: File,
    pub(crate) copy: Copy,
    pub(crate) generation: i64,
    /// Whether the first file records that the copy may not be used.
    disowned: bool,
}

impl Files {
    pub(crate) fn new(paths: Paths, first: File, copy: Copy, generation: i64) -> Files {
        Files { paths, first, copy, generation, disowned: false }
    }

    /// Writes to the first file and then to the copy. A failed write to the copy is not an error: the copy is behind from then
    /// on.
    ///
    /// # Errors
    /// The first file cannot be written; then neither file has any of the changes.
    pub(crate) fn write(
        &mut self,
        journal: &[Change],
        rest: &[Change],
        purpose: Purpose,
    ) -> Result<(), FileError> {
        purpose.point(Step::BeforeBegin, Some(Step::BeforeCheckpoint));
        let disown = self.disown();
        let writing = self.first.begin()?;
        purpose.point(Step::AfterBegin, None);
        writing.apply(journal)?;
        purpose.point(Step::AfterChanges, None);
        writing.apply(rest)?;
        writing.apply(&disown)?;
        purpose.point(Step::BeforeCommit, None);
        writing.commit()?;
        self.disowned |= !disown.is_empty();
        self.generation += i64::from(!disown.is_empty());
        purpose.point(Step::AfterCommit, Some(Step::AmidCheckpoint));
        if let Copy::InStep(copy) = &mut self.copy {
            let written = copy.begin().and_then(|writing| {
                writing.apply(journal)?;
                writing.apply(rest)?;
                writing.commit()
            });
            if let Err(error) = written {
                self.fall_behind(error.to_string());
            }
        }
        purpose.point(Step::AfterCopy, None);
        Ok(())
    }

    /// From the first write that the copy misses, nothing may be read from it again: removed rows would come back.
    fn disown(&self) -> Vec<Change> {
        match self.copy {
            Copy::InStep(_) => Vec::new(),
            Copy::None | Copy::Behind { .. } if self.disowned => Vec::new(),
            Copy::None | Copy::Behind { .. } => {
                let next = Cell::Integer(self.generation + 1);
                vec![Change::Put(meta_row("generation", next))]
            }
        }
    }

    fn fall_behind(&mut self, reason: String) {
        tracing::warn!(reason, "the state's second copy cannot be written; going on without it");
        self.copy = Copy::Behind { reason, tried: Instant::now() };
        self.disowned = false;
    }

    /// Makes the copy anew from the first file.
    pub(crate) fn restore_copy(&mut self) -> Result<(), FileError> {
        let Some(path) = self.paths.copy.clone() else { return Ok(()) };
        match copy_from(&self.first, &path) {
            Ok(copy) => {
                self.copy = Copy::InStep(copy);
                self.disowned = false;
                Ok(())
            }
            Err(error) => {
                self.copy = Copy::Behind { reason: error.to_string(), tried: Instant::now() };
                Err(error)
            }
        }
    }

    /// Health of the copy.
    pub(crate) fn copy_health(&self) -> CopyHealth {
        match &self.copy {
            Copy::None => CopyHealth::None,
            Copy::InStep(_) => CopyHealth::InStep,
            Copy::Behind { reason, .. } => CopyHealth::Behind { reason: reason.clone() },
        }
    }

    /// The row of a key, from the copy if the first file's is not what was written.
    pub(crate) fn get(&self, table: Table, key: &[Cell]) -> Result<Option<Row>, FileError> {
        let words = match self.first.get(table, key)? {
            None => return Ok(None),
            Some(Found::Good(_, row)) => return Ok(Some(row)),
            Some(Found::Bad(_, row)) => row.words(),
        };
        match self.good_in_copy(table, key)? {
            Some(row) => Ok(Some(row)),
            None => Err(FileError::Damaged(format!("{words} is not what was written"))),
        }
    }

    fn good_in_copy(&self, table: Table, key: &[Cell]) -> Result<Option<Row>, FileError> {
        match &self.copy {
            Copy::InStep(copy) => Ok(match copy.get(table, key)? {
                Some(Found::Good(_, row)) => Some(row),
                Some(Found::Bad(..)) | None => None,
            }),
            Copy::None | Copy::Behind { .. } => Ok(None),
        }
    }

    /// Whether a row is still bad: an earlier repair may have removed it.
    fn is_bad(&self, which: Which, table: Table, rowid: i64) -> Result<bool, FileError> {
        let file = match (which, &self.copy) {
            (Which::First, _) => &self.first,
            (Which::Copy, Copy::InStep(copy)) => copy,
            (Which::Copy, Copy::None | Copy::Behind { .. }) => return Ok(false),
        };
        file.forget_pages()?;
        let found = file.select(table, "WHERE rowid = ?", &[Cell::Integer(rowid)])?;
        Ok(matches!(found.first(), Some(Found::Bad(..))))
    }

    /// Repairs a row that is bad in one of the files, from the other file or else from `known`; sets it aside if neither has
    /// it.
    pub(crate) fn repair(
        &mut self,
        which: Which,
        rowid: i64,
        bad: &Row,
        known: Option<Row>,
        entry: &mut i64,
    ) -> Result<Option<Finding>, FileError> {
        if !self.is_bad(which, bad.table, rowid)? {
            return Ok(None);
        }
        let key = &bad.cells[..bad.table.key_columns()];
        let other = match which {
            Which::First => self.good_in_copy(bad.table, key)?,
            Which::Copy => match self.first.get(bad.table, key)? {
                Some(Found::Good(_, row)) => Some(row),
                Some(Found::Bad(..)) | None => None,
            },
        };
        let finding = |remedy| bad_row(which, bad, remedy);
        let remove = Change::DeleteRow(bad.table, rowid);
        if let Some(row) = other.or(known) {
            let changes = [remove, Change::Put(row)];
            match (which, &mut self.copy) {
                (Which::Copy, Copy::InStep(copy)) => copy.write(&changes)?,
                (Which::Copy, Copy::None | Copy::Behind { .. }) => {}
                (Which::First, _) => self.first.write(&changes)?,
            }
            return Ok(Some(finding(Remedy::Repaired)));
        }
        let aside = set_aside_row(entry, which, bad, "its checksum is wrong and so is its copy's");
        match (which, &mut self.copy) {
            (Which::Copy, Copy::InStep(copy)) => copy.write(&[remove])?,
            (Which::Copy, Copy::None | Copy::Behind { .. }) => {}
            (Which::First, _) => self.first.write(&[remove])?,
        }
        // The other file's row of this key is bad as well, if there is one.
        let both = [Change::Delete(bad.table, key.to_vec()), Change::Put(aside)];
        self.write(&[], &both, Purpose::Upkeep)?;
        Ok(Some(finding(Remedy::SetAside)))
    }

    /// Closes both.
    pub(crate) fn close(self) -> Result<(), FileError> {
        if let Copy::InStep(copy) = self.copy {
            copy.close()?;
        }
        self.first.close()
    }
}

/// A finding: a row is not as it was written.
pub(crate) fn bad_row(which: Which, bad: &Row, remedy: Remedy) -> Finding {
    let record = match bad.table {
        Table::Records => crate::journal::key_at(bad, 0).map(RecordName),
        Table::Journal => crate::journal::key_at(bad, 3).map(RecordName),
        Table::Meta
        | Table::Payloads
        | Table::Jobs
        | Table::Audit
        | Table::Recoveries
        | Table::SetAside => None,
    };
    Finding {
        file: which,
        what: format!("a row is not what was written: {}", bad.words()),
        record,
        remedy,
    }
}

/// A row of the table `set_aside`.
pub(crate) fn set_aside_row(entry: &mut i64, which: Which, bad: &Row, reason: &str) -> Row {
    *entry += 1;
    Row::new(
        Table::SetAside,
        vec![
            Cell::Integer(*entry),
            crate::journal::number(crate::now_ms()),
            Cell::Text(which.to_string()),
            Cell::Text(bad.words()),
            Cell::Text(reason.to_owned()),
        ],
    )
}

/// Prepares the path of a file that will replace another: its folder exists, and leftovers of an earlier try are removed.
pub(crate) fn new_beside(path: &Path) -> Result<PathBuf, FileError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(refused(path))?;
    }
    let new = beside(path, ".new");
    file::remove(&new).map_err(refused(path))?;
    Ok(new)
}

/// Makes a [`FileError`] of the system's error for a path.
pub(crate) fn refused(path: &Path) -> impl Fn(std::io::Error) -> FileError {
    move |error| FileError::Refused(format!("{}: {error}", path.display()))
}

/// Makes a copy of a file at a path, in place of what is there.
pub(crate) fn copy_from(first: &File, path: &Path) -> Result<File, FileError> {
    let new = new_beside(path)?;
    if let Err(error) = first.copy_to(&new) {
        // The first file may need the space that it takes.
        file::remove(&new).map_err(refused(path))?;
        return Err(error);
    }
    replace(&new, path).map_err(refused(path))?;
    File::open(path)
}

/// Replaces a file by a new one, which no process may have open.
pub(crate) fn replace(new: &Path, path: &Path) -> std::io::Result<()> {
    file::remove(path)?;
    std::fs::rename(new, path)?;
    file::sync(path)
}

/// Replaces a file by a new one and keeps the old one under another name, so that it can be examined.
pub(crate) fn replace_keeping(new: &Path, path: &Path, why: &str) -> std::io::Result<PathBuf> {
    let aside = put_aside(path, why)?;
    std::fs::rename(new, path)?;
    file::sync(path)?;
    Ok(aside)
}
