//! What clients may request again: jobs, and the inputs and results of their requests.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use flotilla_fleet::state::{Outcome, Transaction};
use flotilla_protocol::RequestId;
use rusqlite::types::Value as Cell;
use serde::{Deserialize, Serialize};

use crate::{
    journal::number,
    row::{Row, Table},
};

/// Name of a job, by which a client may request it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId(pub String);

impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A client's request as the HTTP interface sees it: one or several requests of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// The client's own name for it; no two jobs that have not expired share one.
    pub idempotency_key: Option<String>,
    /// blake3 of what was asked, so that a key cannot be used for another request.
    pub body_hash: [u8; 32],
    /// Name of the model.
    pub model: String,
    /// When it came.
    pub created: SystemTime,
    /// When it expires and is removed.
    pub expires: SystemTime,
    /// How many requests it has.
    pub requests: u32,
    /// Data of the HTTP interface for answering it again, as JSON.
    pub answer: String,
}

impl Job {
    pub(crate) fn row(&self) -> Row {
        let key = self.idempotency_key.clone().map_or(Cell::Null, Cell::Text);
        Row::new(
            Table::Jobs,
            vec![
                Cell::Text(self.id.0.clone()),
                key,
                Cell::Blob(self.body_hash.to_vec()),
                Cell::Text(self.model.clone()),
                number(millis(self.created)),
                number(millis(self.expires)),
                number(u64::from(self.requests)),
                Cell::Text(self.answer.clone()),
            ],
        )
    }

    pub(crate) fn from_row(row: &Row) -> Option<Job> {
        Some(Job {
            id: JobId(row.text(0)?.to_owned()),
            idempotency_key: row.text(1).map(str::to_owned),
            body_hash: row.blob(2)?.try_into().ok()?,
            model: row.text(3)?.to_owned(),
            created: UNIX_EPOCH + Duration::from_millis(row.number(4)),
            expires: UNIX_EPOCH + Duration::from_millis(row.number(5)),
            requests: u32::try_from(row.number(6)).ok()?,
            answer: row.text(7)?.to_owned(),
        })
    }
}

/// The result of a client's attempt to make a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It was made; it is written with the first transaction that follows.
    New,
    /// Its key belongs to this job, which has the same request.
    Existing(Job),
    /// Its key belongs to this job, which has another request.
    Different(Job),
}

/// A job and its progress.
#[derive(Clone, Debug, PartialEq)]
pub struct JobState {
    /// The job.
    pub job: Job,
    /// Its requests that are recorded, in the job's order.
    pub requests: Vec<JobRequest>,
}

/// A request of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRequest {
    /// Its name.
    pub request: RequestId,
    /// Its place in the job.
    pub index: u32,
    /// How it ended; `None` while it is open.
    pub outcome: Option<Outcome>,
    /// Its results, if it was answered.
    pub results: Option<Vec<u8>>,
}

/// Bytes in the daemon's own format. The store's thread makes them, so that the thread that commits copies no tensors.
#[derive(Clone)]
pub struct Content(Arc<dyn Fn() -> Result<Vec<u8>, String> + Send + Sync>);

impl Content {
    /// The bytes that `make` returns. It may block; its error fails the transaction.
    pub fn new(make: impl Fn() -> Result<Vec<u8>, String> + Send + Sync + 'static) -> Content {
        Content(Arc::new(make))
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Content")
    }
}

/// Bytes that belong to a request's record.
#[derive(Clone, Debug)]
pub enum Payload {
    /// The input.
    Input {
        /// The request.
        request: RequestId,
        /// The job and the request's place in it.
        job: Option<(JobId, u32)>,
        /// The bytes.
        bytes: Content,
    },
    /// The results.
    Results {
        /// The request.
        request: RequestId,
        /// The job and the request's place in it.
        job: Option<(JobId, u32)>,
        /// The bytes.
        bytes: Content,
    },
}

pub(crate) const INPUT: &str = "input";
pub(crate) const RESULTS: &str = "results";

impl Payload {
    /// # Errors
    /// The bytes cannot be made.
    pub(crate) fn row(&self) -> Result<Row, String> {
        let (request, part, job, bytes) = match self {
            Payload::Input { request, job, bytes } => (request, INPUT, job, bytes),
            Payload::Results { request, job, bytes } => (request, RESULTS, job, bytes),
        };
        let (job, index) = match job {
            Some((job, index)) => (Cell::Text(job.0.clone()), number(u64::from(*index))),
            None => (Cell::Null, Cell::Null),
        };
        let bytes = Cell::Blob((bytes.0)()?);
        let cells = vec![number(request.0), Cell::Text(part.to_owned()), job, index, bytes];
        Ok(Row::new(Table::Payloads, cells))
    }
}

/// A transaction and what is written with it.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Changes of records.
    pub transaction: Transaction,
    /// Inputs and results of requests that it makes or ends.
    pub payloads: Vec<Payload>,
}

/// A request that was accepted and has no outcome yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    /// Its name.
    pub request: RequestId,
    /// Its job and its place in it.
    pub job: Option<(JobId, u32)>,
    /// Its input; `None` if that could be read from neither copy.
    pub input: Option<Vec<u8>>,
}

/// A payload's job and place.
pub(crate) fn job_of(payload: &Row) -> Option<(JobId, u32)> {
    let job = JobId(payload.text(2)?.to_owned());
    Some((job, u32::try_from(payload.number(3)).ok()?))
}

/// Milliseconds since 1970; 0 for what was before.
pub(crate) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
