//! Tables, and rows with checksums.
//!
//! Every table has the same shape: columns of its own and a checksum over them and the table's name. So reading, checking,
//! comparing two files and repairing one from the other is written once.

use rusqlite::types::{Value as Cell, ValueRef};

/// A table of a store's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Table {
    /// What the file is: schema, store, generation, highest transaction.
    Meta,
    /// Records as of the last checkpoint; `body` is null where a record was removed.
    Records,
    /// Transactions since.
    Journal,
    /// Inputs and results of recorded requests.
    Payloads,
    /// Jobs: what clients may request again.
    Jobs,
    /// The audit trail: actions and their reasons.
    Audit,
    /// Failures and their recoveries.
    Recoveries,
    /// Rows that could not be repaired.
    SetAside,
}

impl Table {
    /// Every table, in the order in which they are merged.
    pub(crate) const ALL: [Table; 8] = [
        Table::Meta,
        Table::Records,
        Table::Journal,
        Table::Payloads,
        Table::Jobs,
        Table::Audit,
        Table::Recoveries,
        Table::SetAside,
    ];

    /// Name in SQL.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Table::Meta => "meta",
            Table::Records => "records",
            Table::Journal => "journal",
            Table::Payloads => "payloads",
            Table::Jobs => "jobs",
            Table::Audit => "audit",
            Table::Recoveries => "recoveries",
            Table::SetAside => "set_aside",
        }
    }

    /// Columns with their declarations, those of the key first, without the checksum.
    fn declarations(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Table::Meta => &[("name", "TEXT NOT NULL"), ("value", "ANY NOT NULL")],
            Table::Records => &[
                ("partition", "TEXT NOT NULL"),
                ("id", "INTEGER NOT NULL"),
                ("version", "INTEGER NOT NULL"),
                ("transaction_id", "INTEGER NOT NULL"),
                ("body", "TEXT"),
            ],
            Table::Journal => &[
                ("sequence", "INTEGER NOT NULL"),
                ("transaction_id", "INTEGER NOT NULL"),
                ("step", "TEXT NOT NULL"),
                ("partition", "TEXT"),
                ("id", "INTEGER"),
                ("version", "INTEGER"),
                ("body", "TEXT"),
            ],
            Table::Payloads => &[
                ("request", "INTEGER NOT NULL"),
                ("part", "TEXT NOT NULL"),
                ("job", "TEXT"),
                ("job_index", "INTEGER"),
                ("bytes", "BLOB NOT NULL"),
            ],
            Table::Jobs => &[
                ("id", "TEXT NOT NULL"),
                ("idempotency_key", "TEXT UNIQUE"),
                ("body_hash", "BLOB NOT NULL"),
                ("model", "TEXT NOT NULL"),
                ("created_ms", "INTEGER NOT NULL"),
                ("expires_ms", "INTEGER NOT NULL"),
                ("requests", "INTEGER NOT NULL"),
                ("answer", "TEXT NOT NULL"),
            ],
            Table::Audit => &[
                ("entry", "INTEGER NOT NULL"),
                ("time_ms", "INTEGER NOT NULL"),
                ("what", "TEXT NOT NULL"),
                ("subject", "TEXT NOT NULL"),
                ("reason", "TEXT NOT NULL"),
                ("detail", "TEXT NOT NULL"),
            ],
            Table::Recoveries => &[
                ("entry", "INTEGER NOT NULL"),
                ("time_ms", "INTEGER NOT NULL"),
                ("failure", "TEXT NOT NULL"),
                ("browser", "INTEGER NOT NULL"),
                ("what", "TEXT NOT NULL"),
                ("took_ms", "INTEGER NOT NULL"),
                ("succeeded", "INTEGER NOT NULL"),
            ],
            Table::SetAside => &[
                ("entry", "INTEGER NOT NULL"),
                ("time_ms", "INTEGER NOT NULL"),
                ("origin", "TEXT NOT NULL"),
                ("row", "TEXT NOT NULL"),
                ("reason", "TEXT NOT NULL"),
            ],
        }
    }

    /// How many columns make the key.
    pub(crate) fn key_columns(self) -> usize {
        match self {
            Table::Records | Table::Payloads => 2,
            Table::Meta
            | Table::Journal
            | Table::Jobs
            | Table::Audit
            | Table::Recoveries
            | Table::SetAside => 1,
        }
    }

    /// Names of its columns without the checksum.
    pub(crate) fn columns(self) -> impl Iterator<Item = &'static str> {
        self.declarations().iter().map(|(name, _)| *name)
    }

    /// How many columns it has without the checksum.
    pub(crate) fn width(self) -> usize {
        self.declarations().len()
    }

    /// The statement that makes it.
    pub(crate) fn create(self) -> String {
        let columns: Vec<String> =
            self.declarations().iter().map(|(name, kind)| format!("{name} {kind}")).collect();
        let key: Vec<&str> = self.columns().take(self.key_columns()).collect();
        format!(
            "CREATE TABLE {} ({}, checksum BLOB NOT NULL, PRIMARY KEY ({})) STRICT",
            self.name(),
            columns.join(", "),
            key.join(", ")
        )
    }

    /// The statement that writes a row, replacing one of the same key.
    pub(crate) fn put(self) -> String {
        let columns: Vec<&str> = self.columns().collect();
        let marks = vec!["?"; columns.len() + 1].join(", ");
        format!(
            "INSERT OR REPLACE INTO {} ({}, checksum) VALUES ({marks})",
            self.name(),
            columns.join(", ")
        )
    }

    /// The statement that removes the row of a key.
    pub(crate) fn delete(self) -> String {
        format!("DELETE FROM {} WHERE {}", self.name(), self.key_condition())
    }

    /// The start of every statement that reads rows: SQLite's row number, the columns, the checksum.
    pub(crate) fn select(self) -> String {
        let columns: Vec<&str> = self.columns().collect();
        format!("SELECT rowid, {}, checksum FROM {}", columns.join(", "), self.name())
    }

    /// `column = ?` for every column of the key.
    pub(crate) fn key_condition(self) -> String {
        let parts: Vec<String> =
            self.columns().take(self.key_columns()).map(|name| format!("{name} = ?")).collect();
        parts.join(" AND ")
    }
}

/// A row as it is meant to be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// Where it belongs.
    pub(crate) table: Table,
    /// Its columns.
    pub(crate) cells: Vec<Cell>,
}

/// A row as it was found.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    /// As it was written.
    Good(i64, Row),
    /// Not as it was written: its row number and what can be read of it.
    Bad(i64, Row),
}

impl Row {
    /// A row of a table.
    pub(crate) fn new(table: Table, cells: Vec<Cell>) -> Row {
        debug_assert_eq!(cells.len(), table.width(), "a row has its table's columns");
        Row { table, cells }
    }

    /// The row's key, as bytes that sort it among its table's rows.
    pub(crate) fn key(&self) -> Vec<u8> {
        key_bytes(&self.cells[..self.table.key_columns()])
    }

    /// blake3 over the table's name and each column's type, length and bytes.
    pub(crate) fn checksum(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.table.name().as_bytes());
        for cell in &self.cells {
            hash_cell(&mut hasher, cell);
        }
        *hasher.finalize().as_bytes()
    }

    /// Of two rows with the same key, the one with the higher rank is the newer.
    pub(crate) fn rank(&self) -> i64 {
        match self.table {
            Table::Records => self.integer(2),
            Table::Meta
            | Table::Journal
            | Table::Payloads
            | Table::Jobs
            | Table::Audit
            | Table::Recoveries
            | Table::SetAside => 0,
        }
    }

    /// A column as a number; 0 where it is none.
    pub(crate) fn integer(&self, column: usize) -> i64 {
        match self.cells.get(column) {
            Some(Cell::Integer(number)) => *number,
            Some(Cell::Null | Cell::Real(_) | Cell::Text(_) | Cell::Blob(_)) | None => 0,
        }
    }

    /// A column as a number that is never negative.
    pub(crate) fn number(&self, column: usize) -> u64 {
        self.integer(column).cast_unsigned()
    }

    /// A column as text, if it is text.
    pub(crate) fn text(&self, column: usize) -> Option<&str> {
        match self.cells.get(column) {
            Some(Cell::Text(text)) => Some(text),
            Some(Cell::Null | Cell::Integer(_) | Cell::Real(_) | Cell::Blob(_)) | None => None,
        }
    }

    /// A column's bytes, if it is a blob.
    pub(crate) fn blob(&self, column: usize) -> Option<&[u8]> {
        match self.cells.get(column) {
            Some(Cell::Blob(bytes)) => Some(bytes),
            Some(Cell::Null | Cell::Integer(_) | Cell::Real(_) | Cell::Text(_)) | None => None,
        }
    }

    /// The row in words, long columns cut.
    pub(crate) fn words(&self) -> String {
        let cells: Vec<String> = self.table.columns().zip(&self.cells).map(cell_words).collect();
        format!("{} {}", self.table.name(), cells.join(" "))
    }
}

/// Most bytes of a column that [`Row::words`] shows.
const WORDS_MAX: usize = 200;

fn cell_words((name, cell): (&str, &Cell)) -> String {
    match cell {
        Cell::Null => format!("{name}=null"),
        Cell::Integer(number) => format!("{name}={number}"),
        Cell::Real(number) => format!("{name}={number}"),
        Cell::Text(text) => {
            let cut: String = text.chars().take(WORDS_MAX).collect();
            format!("{name}={cut}")
        }
        Cell::Blob(bytes) => format!("{name}=<{} bytes>", bytes.len()),
    }
}

/// Key columns in bytes.
pub(crate) fn key_bytes(cells: &[Cell]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for cell in cells {
        match cell {
            Cell::Null => bytes.push(0),
            Cell::Integer(number) => {
                bytes.push(1);
                bytes.extend(number.cast_unsigned().to_be_bytes());
            }
            Cell::Real(number) => {
                bytes.push(2);
                bytes.extend(number.to_bits().to_be_bytes());
            }
            Cell::Text(text) => {
                bytes.push(3);
                bytes.extend(text.as_bytes());
                bytes.push(0);
            }
            Cell::Blob(blob) => {
                bytes.push(4);
                bytes.extend((blob.len() as u64).to_be_bytes());
                bytes.extend(blob);
            }
        }
    }
    bytes
}

fn hash_cell(hasher: &mut blake3::Hasher, cell: &Cell) {
    let mut put = |tag: u8, bytes: &[u8]| {
        hasher.update(&[tag]);
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    match cell {
        Cell::Null => put(0, &[]),
        Cell::Integer(number) => put(1, &number.to_le_bytes()),
        Cell::Real(number) => put(2, &number.to_bits().to_le_bytes()),
        Cell::Text(text) => put(3, text.as_bytes()),
        Cell::Blob(bytes) => put(4, bytes),
    }
}

/// Takes a row out of the answer to a [`Table::select`] and checks it.
///
/// # Errors
/// SQLite cannot read the file here.
pub(crate) fn read(table: Table, answer: &rusqlite::Row<'_>) -> rusqlite::Result<Found> {
    let rowid: i64 = answer.get(0)?;
    let mut is_text = true;
    let mut cells = Vec::with_capacity(table.width());
    for column in 1..=table.width() {
        cells.push(match answer.get_ref(column)? {
            ValueRef::Null => Cell::Null,
            ValueRef::Integer(number) => Cell::Integer(number),
            ValueRef::Real(number) => Cell::Real(number),
            ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Cell::Text(text.to_owned()),
                Err(_) => {
                    is_text = false;
                    Cell::Text(String::from_utf8_lossy(bytes).into_owned())
                }
            },
            ValueRef::Blob(bytes) => Cell::Blob(bytes.to_vec()),
        });
    }
    let row = Row { table, cells };
    let is_good = is_text
        && match answer.get_ref(table.width() + 1)? {
            ValueRef::Blob(checksum) => checksum == row.checksum(),
            ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) | ValueRef::Text(_) => false,
        };
    Ok(if is_good { Found::Good(rowid, row) } else { Found::Bad(rowid, row) })
}

/// A change of a table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    /// Writes a row, replacing one with the same key.
    Put(Row),
    /// Deletes the row with this key.
    Delete(Table, Vec<Cell>),
    /// Deletes the row with this row number.
    DeleteRow(Table, i64),
    /// Deletes the journal up to this sequence number.
    ForgetJournal(i64),
}
