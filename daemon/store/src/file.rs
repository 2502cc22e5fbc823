//! One SQLite file: opening, writing changes, and reading what is not damaged.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, types::Value as Cell};

use crate::row::{Change, Found, Row, Table, read};

/// Version of the tables. Newer files are refused, older ones are brought here step by step.
pub(crate) const SCHEMA: i64 = 1;
/// Longest wait for another process that reads or folds the write-ahead log.
const BUSY_MAX: Duration = Duration::from_secs(5);
/// Most findings of SQLite's own check that are reported.
const FINDINGS_MAX: usize = 20;

/// Why a file could not be written or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FileError {
    /// There is no space.
    #[error("no space is left for the state: {0}")]
    Full(String),
    /// The file is not what was written.
    #[error("the state's file is damaged: {0}")]
    Damaged(String),
    /// The operating system refuses.
    #[error("the state's file cannot be used: {0}")]
    Refused(String),
}

impl From<rusqlite::Error> for FileError {
    fn from(error: rusqlite::Error) -> FileError {
        let words = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => FileError::Full(words),
            // A malformed page, not a database, or (`SQLITE_ERROR`) a missing table or column.
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown) => {
                FileError::Damaged(words)
            }
            // The operating system's errors, and misuse: recreating the files helps against neither.
            Some(_) => FileError::Refused(words),
            None if is_about_contents(&error) => FileError::Damaged(words),
            None => FileError::Refused(words),
        }
    }
}

/// Whether an error means that a value has another type than was written.
fn is_about_contents(error: &rusqlite::Error) -> bool {
    matches!(
        error,
        rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::Utf8Error(..)
            | rusqlite::Error::QueryReturnedNoRows
            | rusqlite::Error::InvalidColumnIndex(_)
            | rusqlite::Error::InvalidColumnName(_)
            | rusqlite::Error::InvalidColumnType(..)
    )
}

/// A file's identity, as stored in its table `meta`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Meta {
    /// Version of its tables.
    pub(crate) schema: Option<i64>,
    /// Name of the store that it belongs to.
    pub(crate) store: Option<String>,
    /// How often the store has gone on without its copy.
    pub(crate) generation: Option<i64>,
    /// The highest transaction at the last checkpoint.
    pub(crate) transactions: u64,
}

/// Where a good row is, and how new it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) rowid: i64,
    pub(crate) rank: i64,
    pub(crate) checksum: [u8; 32],
}

/// What can be read of a file, without the rows themselves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub(crate) meta: Meta,
    /// Good rows by key.
    pub(crate) good: BTreeMap<(Table, Vec<u8>), Place>,
    /// Rows that are not what was written.
    pub(crate) bad: Vec<(i64, Row)>,
    /// What is wrong with the file itself; empty if its structure is sound.
    pub(crate) damage: Vec<String>,
}

/// An open file.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    connection: Connection,
}

impl File {
    /// Opens a file, making it if it is not there.
    pub(crate) fn open(path: &Path) -> Result<File, FileError> {
        let connection = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_WRITE
                | OpenFlags::SQLITE_OPEN_CREATE
                | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        let file = File { path: path.to_owned(), connection };
        file.connection.busy_timeout(BUSY_MAX)?;
        file.connection.execute_batch(
            "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; \
             PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
             PRAGMA journal_size_limit = 4194304;",
        )?;
        Ok(file)
    }

    /// Opens a file for reading only; another process may be writing it.
    pub(crate) fn open_to_read(path: &Path) -> Result<File, FileError> {
        let connection = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        connection.busy_timeout(BUSY_MAX)?;
        connection.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;")?;
        Ok(File { path: path.to_owned(), connection })
    }

    /// Makes the tables of an empty file.
    pub(crate) fn create(&mut self, store: &str, generation: i64) -> Result<(), FileError> {
        let tables: Vec<String> = Table::ALL.into_iter().map(Table::create).collect();
        let transaction = self.connection.transaction()?;
        transaction.execute_batch(&tables.join(";"))?;
        transaction.execute_batch(
            "CREATE INDEX payloads_job ON payloads (job); \
             CREATE INDEX jobs_expires ON jobs (expires_ms);",
        )?;
        for (name, value) in [
            ("schema", Cell::Integer(SCHEMA)),
            ("store", Cell::Text(store.to_owned())),
            ("generation", Cell::Integer(generation)),
        ] {
            put(&transaction, &meta_row(name, value))?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Whether it has no tables at all.
    pub(crate) fn is_empty(&self) -> Result<bool, FileError> {
        let tables: i64 =
            self.connection
                .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        Ok(tables == 0)
    }

    /// Bounds the file's size, as a full disk would.
    pub(crate) fn limit_pages(&self, pages: u32) -> Result<(), FileError> {
        self.connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?;
        Ok(())
    }

    /// Begins a transaction that changes can be applied in.
    pub(crate) fn begin(&mut self) -> Result<Writing<'_>, FileError> {
        let behavior = rusqlite::TransactionBehavior::Immediate;
        Ok(Writing(self.connection.transaction_with_behavior(behavior)?))
    }

    /// Changes that take effect together, on disk when this returns.
    pub(crate) fn write(&mut self, changes: &[Change]) -> Result<(), FileError> {
        let writing = self.begin()?;
        writing.apply(changes)?;
        writing.commit()
    }

    /// The row of a key, if it is there.
    pub(crate) fn get(&self, table: Table, key: &[Cell]) -> Result<Option<Found>, FileError> {
        let sql = format!("{} WHERE {}", table.select(), table.key_condition());
        let mut statement = self.connection.prepare(&sql)?;
        let mut rows = statement.query(rusqlite::params_from_iter(key))?;
        Ok(rows.next()?.map(|answer| read(table, answer)).transpose()?)
    }

    /// Rows of a table that a condition holds for.
    pub(crate) fn select(
        &self,
        table: Table,
        condition: &str,
        parameters: &[Cell],
    ) -> Result<Vec<Found>, FileError> {
        let mut statement = self.connection.prepare(&format!("{} {condition}", table.select()))?;
        let mut rows = statement.query(rusqlite::params_from_iter(parameters))?;
        let mut found = Vec::new();
        while let Some(answer) = rows.next()? {
            found.push(read(table, answer)?);
        }
        Ok(found)
    }

    /// Reads several things as of one moment.
    pub(crate) fn together<T>(
        &self,
        read: impl FnOnce(&File) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        let _snapshot = self.connection.unchecked_transaction()?;
        read(self)
    }

    /// Drops cached pages, so that the next reads come from the disk.
    pub(crate) fn forget_pages(&self) -> Result<(), FileError> {
        Ok(self.connection.execute_batch("PRAGMA shrink_memory")?)
    }

    /// Up to `limit` rows of a table after a row number, in order.
    pub(crate) fn slice(
        &self,
        table: Table,
        after: i64,
        limit: usize,
    ) -> Result<Vec<Found>, FileError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.select(
            table,
            "WHERE rowid > ? ORDER BY rowid LIMIT ?",
            &[Cell::Integer(after), Cell::Integer(limit)],
        )
    }

    /// The row with a number.
    pub(crate) fn row(&self, table: Table, rowid: i64) -> Result<Option<Row>, FileError> {
        let found = self.select(table, "WHERE rowid = ?", &[Cell::Integer(rowid)])?;
        Ok(found.into_iter().find_map(|found| match found {
            Found::Good(_, row) => Some(row),
            Found::Bad(..) => None,
        }))
    }

    /// The largest number in a table's first column.
    pub(crate) fn highest(&self, table: Table) -> Result<i64, FileError> {
        let column = table.columns().next().unwrap_or("rowid");
        let sql = format!("SELECT coalesce(max({column}), 0) FROM {}", table.name());
        Ok(self.connection.query_row(&sql, [], |row| row.get(0))?)
    }

    /// Writes everything into a new file, which must not be there yet.
    pub(crate) fn copy_to(&self, path: &Path) -> Result<(), FileError> {
        let text = path.to_string_lossy();
        self.connection.execute("VACUUM INTO ?", [text.as_ref()])?;
        sync(path).map_err(|error| FileError::Refused(format!("{}: {error}", path.display())))
    }

    /// Reads the whole file as of one moment and finds its good and bad rows.
    pub(crate) fn image(&mut self) -> Image {
        let mut image = Image::default();
        let snapshot = match self.connection.unchecked_transaction() {
            Ok(snapshot) => snapshot,
            Err(error) => {
                image.damage.push(error.to_string());
                return image;
            }
        };
        match check(&snapshot) {
            Ok(findings) => image.damage = findings,
            Err(error) => image.damage.push(error.to_string()),
        }
        for table in Table::ALL {
            // A page that cannot be read hides what is behind it, so what is left is read from the other end.
            if let Err(error) = scan(&snapshot, table, "ASC", &mut image) {
                image.damage.push(format!("{}: {error}", table.name()));
                if let Err(error) = scan(&snapshot, table, "DESC", &mut image) {
                    image.damage.push(format!("{}, backwards: {error}", table.name()));
                }
            }
        }
        image
    }

    /// Closes the file and folds its write-ahead log into it.
    pub(crate) fn close(self) -> Result<(), FileError> {
        self.connection.close().map_err(|(_, error)| FileError::from(error))
    }
}

/// A transaction of SQLite's; gone without [`Writing::commit`], and with it what was applied.
#[derive(Debug)]
pub(crate) struct Writing<'file>(rusqlite::Transaction<'file>);

impl Writing<'_> {
    pub(crate) fn apply(&self, changes: &[Change]) -> Result<(), FileError> {
        for change in changes {
            match change {
                Change::Put(row) => put(&self.0, row)?,
                Change::Delete(table, key) => {
                    self.0.execute(&table.delete(), rusqlite::params_from_iter(key))?;
                }
                Change::DeleteRow(table, rowid) => {
                    let sql = format!("DELETE FROM {} WHERE rowid = ?", table.name());
                    self.0.execute(&sql, [rowid])?;
                }
                Change::ForgetJournal(sequence) => {
                    self.0.execute("DELETE FROM journal WHERE sequence <= ?", [sequence])?;
                }
            }
        }
        Ok(())
    }

    /// Makes it durable.
    pub(crate) fn commit(self) -> Result<(), FileError> {
        Ok(self.0.commit()?)
    }
}

/// A row of the table `meta`.
pub(crate) fn meta_row(name: &str, value: Cell) -> Row {
    Row::new(Table::Meta, vec![Cell::Text(name.to_owned()), value])
}

fn put(connection: &Connection, row: &Row) -> Result<(), FileError> {
    let checksum = Cell::Blob(row.checksum().to_vec());
    let cells = row.cells.iter().chain(std::iter::once(&checksum));
    connection.execute(&row.table.put(), rusqlite::params_from_iter(cells))?;
    Ok(())
}

/// SQLite's own check of pages and indexes.
fn check(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check({FINDINGS_MAX})"))?;
    let findings: Vec<String> =
        statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(findings.into_iter().filter(|finding| finding != "ok").collect())
}

fn scan(
    connection: &Connection,
    table: Table,
    direction: &str,
    image: &mut Image,
) -> rusqlite::Result<()> {
    // The table itself is walked and not an index, which may be what is wrong.
    let sql = format!("{} NOT INDEXED ORDER BY rowid {direction}", table.select());
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([])?;
    while let Some(answer) = rows.next()? {
        match read(table, answer)? {
            Found::Good(rowid, row) => {
                note_meta(&row, &mut image.meta);
                let place = Place { rowid, rank: row.rank(), checksum: row.checksum() };
                image.good.insert((table, row.key()), place);
            }
            Found::Bad(rowid, row) => image.bad.push((rowid, row)),
        }
    }
    Ok(())
}

fn note_meta(row: &Row, meta: &mut Meta) {
    match (row.table, row.text(0)) {
        (Table::Meta, Some("schema")) => meta.schema = Some(row.integer(1)),
        (Table::Meta, Some("store")) => meta.store = row.text(1).map(str::to_owned),
        (Table::Meta, Some("generation")) => meta.generation = Some(row.integer(1)),
        (Table::Meta, Some("transactions")) => meta.transactions = row.number(1),
        _ => {}
    }
}

/// Makes a file's bytes durable, and its name in its folder.
pub(crate) fn sync(path: &Path) -> std::io::Result<()> {
    std::fs::File::open(path)?.sync_all()?;
    if let Some(folder) = path.parent() {
        std::fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// The names that SQLite keeps beside a file.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Renames a file out of the way, its write-ahead log with it; gives the new name.
pub(crate) fn put_aside(path: &Path, why: &str) -> std::io::Result<PathBuf> {
    let aside = beside(path, &format!(".{why}-{}", crate::now_ms()));
    std::fs::rename(path, &aside)?;
    remove_beside(path, Some(&aside))?;
    Ok(aside)
}

/// Removes a file and what SQLite keeps beside it.
pub(crate) fn remove(path: &Path) -> std::io::Result<()> {
    ignore_missing(std::fs::remove_file(path))?;
    remove_beside(path, None)
}

fn remove_beside(path: &Path, aside: Option<&Path>) -> std::io::Result<()> {
    ignore_missing(std::fs::remove_file(beside(path, "-shm")))?;
    let log = beside(path, "-wal");
    match aside {
        Some(aside) => ignore_missing(std::fs::rename(log, beside(aside, "-wal"))),
        None => ignore_missing(std::fs::remove_file(log)),
    }
}

fn ignore_missing(outcome: std::io::Result<()>) -> std::io::Result<()> {
    match outcome {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[test]
    fn only_damage_is_called_damage() {
        let of = |code: i32| {
            FileError::from(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))
        };
        for code in [ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB, ffi::SQLITE_ERROR] {
            assert!(matches!(of(code), FileError::Damaged(_)), "{code}: {:?}", of(code));
        }
        for code in [
            ffi::SQLITE_ABORT,
            ffi::SQLITE_AUTH,
            ffi::SQLITE_BUSY,
            ffi::SQLITE_CANTOPEN,
            ffi::SQLITE_CONSTRAINT,
            ffi::SQLITE_INTERRUPT,
            ffi::SQLITE_IOERR,
            ffi::SQLITE_LOCKED,
            ffi::SQLITE_MISUSE,
            ffi::SQLITE_NOLFS,
            ffi::SQLITE_NOMEM,
            ffi::SQLITE_PERM,
            ffi::SQLITE_PROTOCOL,
            ffi::SQLITE_READONLY,
            ffi::SQLITE_SCHEMA,
            ffi::SQLITE_TOOBIG,
        ] {
            assert!(matches!(of(code), FileError::Refused(_)), "{code}: {:?}", of(code));
        }
        assert!(matches!(of(ffi::SQLITE_FULL), FileError::Full(_)));
        let columns = rusqlite::Error::InvalidColumnName("body".to_owned());
        assert!(matches!(FileError::from(columns), FileError::Damaged(_)));
        let query = rusqlite::Error::InvalidParameterCount(1, 2);
        assert!(matches!(FileError::from(query), FileError::Refused(_)));
    }
}
