//! Tables that are only added to: the audit trail, and failures with their recoveries.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::types::Value as Cell;
use serde::Serialize;

use crate::{
    job::millis,
    journal::number,
    row::{Row, Table},
};

/// An action on a browser, model or other subject, and its reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AuditEntry {
    /// When.
    #[serde(serialize_with = "as_millis", rename = "time_ms")]
    pub time: SystemTime,
    /// What was done: `acquire`, `release`, `kill`, ...
    pub what: String,
    /// To what.
    pub subject: String,
    /// Why.
    pub reason: String,
    /// What else is known.
    pub detail: serde_json::Value,
}

impl AuditEntry {
    pub(crate) fn row(&self, entry: i64) -> Row {
        Row::new(
            Table::Audit,
            vec![
                Cell::Integer(entry),
                number(millis(self.time)),
                Cell::Text(self.what.clone()),
                Cell::Text(self.subject.clone()),
                Cell::Text(self.reason.clone()),
                Cell::Text(self.detail.to_string()),
            ],
        )
    }

    pub(crate) fn from_row(row: &Row) -> Option<AuditEntry> {
        Some(AuditEntry {
            time: at(row.number(1)),
            what: row.text(2)?.to_owned(),
            subject: row.text(3)?.to_owned(),
            reason: row.text(4)?.to_owned(),
            detail: serde_json::from_str(row.text(5)?).ok()?,
        })
    }
}

/// A failure and its recovery.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RecoveryEntry {
    /// When it ended.
    #[serde(serialize_with = "as_millis", rename = "time_ms")]
    pub time: SystemTime,
    /// The failure's kind.
    pub failure: String,
    /// Number of the browser where it happened.
    pub browser: u64,
    /// What was done.
    pub what: String,
    /// From the failure to its end.
    #[serde(serialize_with = "duration_ms", rename = "took_ms")]
    pub took: Duration,
    /// Whether it helped.
    pub succeeded: bool,
}

impl RecoveryEntry {
    pub(crate) fn row(&self, entry: i64) -> Row {
        Row::new(
            Table::Recoveries,
            vec![
                Cell::Integer(entry),
                number(millis(self.time)),
                Cell::Text(self.failure.clone()),
                number(self.browser),
                Cell::Text(self.what.clone()),
                number(whole_ms(self.took)),
                Cell::Integer(i64::from(self.succeeded)),
            ],
        )
    }

    pub(crate) fn from_row(row: &Row) -> Option<RecoveryEntry> {
        Some(RecoveryEntry {
            time: at(row.number(1)),
            failure: row.text(2)?.to_owned(),
            browser: row.number(3),
            what: row.text(4)?.to_owned(),
            took: Duration::from_millis(row.number(5)),
            succeeded: row.integer(6) != 0,
        })
    }
}

fn at(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn as_millis<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(millis(*time))
}

fn duration_ms<S: serde::Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(whole_ms(*took))
}
