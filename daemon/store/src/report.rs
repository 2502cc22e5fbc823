//! Reports of the store.

use std::path::PathBuf;

use flotilla_fleet::state::{Key, TransactionId};
use flotilla_protocol::RequestId;
use serde::Serialize;

/// Which of the store's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// `state.sqlite`.
    First,
    /// `state-copy.sqlite`.
    Copy,
}

impl std::fmt::Display for Which {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Which::First => "state.sqlite",
            Which::Copy => "state-copy.sqlite",
        })
    }
}

/// Something that was not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// In which file.
    pub file: Which,
    /// What, in words.
    pub what: String,
    /// The record that it is about, where that is known.
    pub record: Option<RecordName>,
    /// What was done.
    pub remedy: Remedy,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: ", self.file, self.what)?;
        match &self.remedy {
            Remedy::None => f.write_str("not repaired"),
            Remedy::Repaired => f.write_str("repaired"),
            Remedy::SetAside => f.write_str("set aside, for no copy of it is sound"),
            Remedy::Restored { aside } => {
                write!(f, "made anew; the old file is {}", aside.display())
            }
        }
    }
}

/// A record's name in reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RecordName(pub Key);

/// What was done about a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Remedy {
    /// Nothing: it was only looked at.
    None,
    /// It has its written value again.
    Repaired,
    /// It is no longer part of the state; the table `set_aside` has what could be read of it.
    SetAside,
    /// The whole file was made anew from what is sound.
    Restored {
        /// Where the damaged one is.
        aside: PathBuf,
    },
}

/// What happened in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// A transaction is as durable as it must be.
    Committed(TransactionId),
    /// A transaction could not be written; nothing of it is on disk.
    CommitFailed {
        /// Which.
        transaction: TransactionId,
        /// Why.
        reason: String,
    },
    /// Something was not as it was written.
    Found(Finding),
    /// Requests were forgotten with their jobs.
    Expired(Vec<RequestId>),
    /// The second copy cannot be written; commits go on without it.
    CopyBehind(String),
    /// The second copy is in step again.
    CopyInStep,
}

/// What opening a store found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Transactions without their commit.
    pub rolled_back: Vec<TransactionId>,
    /// What was not as it was written, and what was done about it.
    pub findings: Vec<Finding>,
}

/// Health of the second copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyHealth {
    /// No copy is kept.
    #[default]
    None,
    /// It has all that the first has.
    InStep,
    /// It could not be written.
    Behind {
        /// Why.
        reason: String,
    },
}

/// Health of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Health {
    /// The second copy.
    pub copy: CopyHealth,
    /// Transactions written since the store was opened.
    pub transactions: u64,
    /// Writes to disk that they took; fewer than transactions where several shared one.
    pub groups: u64,
    /// Rows of the journal that are not folded into the records yet.
    pub journal_rows: u64,
    /// Relaxed transactions that wait to be written.
    pub waiting: u64,
    /// Findings since the store was opened, those at opening included.
    pub findings: u64,
    /// Times the background verification has been through everything.
    pub verified: u64,
    /// Why the last write failed, until one succeeds.
    pub failing: Option<String>,
}
