//! Requests that outlive the daemon: the core's records go to the store and are read at the next start.

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use flotilla_fleet::{
    Event, Persistence, Policy, Recovery,
    state::{Key, Outcome, Partition, Records, Transaction, Value},
};
use flotilla_protocol::{FrameError, RequestId, decode, encode};
use flotilla_store::{
    AuditEntry, Commit, Content, JobId, OpenRequest, Opened, Payload, RecoveryEntry, Report, Store,
};
use flotilla_tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{
    Answer, Input, Provenance, recoveries,
    state::{State, Waiting},
};

/// A store and what it held.
#[derive(Debug)]
pub struct Recorded {
    /// Where transactions go.
    pub store: Store,
    /// What it contained when it was opened.
    pub opened: Opened,
}

/// The stored form of an input, without its tensors. The model is stored by name, because numbers of models are not kept by the
/// next daemon.
#[derive(Serialize, Deserialize)]
struct StoredInput {
    model: String,
    /// `None` where the input is tensors.
    tokens: Option<Vec<u32>>,
}

/// The records that the core starts from; those of ended requests stay only in the store.
pub(super) fn records(opened: &Opened) -> Records {
    let open = opened
        .records
        .iter()
        .filter(|(_, _, value)| !matches!(value, Value::Request { outcome: Some(_), .. }));
    Records::restore(open.cloned(), opened.transactions)
}

/// The first request id that no recorded request has.
pub(super) fn first_request(opened: &Opened) -> u64 {
    let ids = opened.records.iter().map(|(key, ..)| key);
    let requests = ids.filter(|key| key.partition == Partition::Requests);
    requests.map(|key| key.id + 1).max().unwrap_or_default()
}

fn encode_input(model: &str, input: &Input) -> Result<Vec<u8>, FrameError> {
    let model = model.to_owned();
    match input {
        Input::Tokens(ids) => encode(&StoredInput { model, tokens: Some(ids.clone()) }, &[]),
        Input::Tensors(tensors) => encode(&StoredInput { model, tokens: None }, tensors),
    }
}

fn decode_input(bytes: &[u8]) -> Result<(String, Input), FrameError> {
    let (StoredInput { model, tokens }, tensors) = decode(bytes)?;
    Ok((model, tokens.map_or(Input::Tensors(tensors), Input::Tokens)))
}

/// Bytes of an answer, for the store.
fn encode_answer(answer: &Answer) -> Result<Vec<u8>, FrameError> {
    // As JSON, because postcard does not write field names and provenance may get new fields.
    let provenance = serde_json::to_string(&*answer.provenance).unwrap_or_default();
    encode(&provenance, &answer.outputs)
}

/// An answer that was recorded.
///
/// # Errors
/// The bytes are not such an answer.
pub(crate) fn decode_answer(bytes: &[u8]) -> Result<Answer, String> {
    let (provenance, outputs): (String, Vec<Tensor>) =
        decode(bytes).map_err(|error| error.to_string())?;
    let provenance: Provenance =
        serde_json::from_str(&provenance).map_err(|error| error.to_string())?;
    Ok(Answer { outputs, provenance: provenance.into() })
}

impl State {
    /// Sends a transaction to the store. Without a store, transactions that need not outlive the daemon count as written.
    pub(super) fn commit(&mut self, transaction: Transaction) -> Result<(), Event> {
        let id = transaction.id;
        let failed = |reason: String| Event::CommitFailed { transaction: id, reason };
        let payloads = self.payloads(&transaction).map_err(failed)?;
        let jobs: BTreeSet<JobId> = payloads
            .iter()
            .filter_map(|payload| match payload {
                Payload::Input { job, .. } => job.as_ref().map(|(job, _)| job.clone()),
                Payload::Results { .. } => None,
            })
            .collect();
        if !jobs.is_empty() {
            self.accepting.insert(id, jobs);
        }
        match &self.store {
            Some(store) => store
                .commit(Commit { transaction, payloads })
                .map_err(|error| failed(error.to_string())),
            None if payloads.is_empty() => Err(Event::Committed { transaction: id }),
            None => Err(failed("this daemon keeps no state".to_owned())),
        }
    }

    /// Inputs and results of the requests that a transaction records.
    fn payloads(&mut self, transaction: &Transaction) -> Result<Vec<Payload>, String> {
        let mut payloads = Vec::new();
        for write in &transaction.writes {
            let Some(Value::Request { tried, outcome, .. }) = &write.value else { continue };
            let request = RequestId(write.key.id);
            let Some(waiting) = self.waiting.get(&request) else { continue };
            let job = waiting.job.clone();
            match outcome {
                None => {
                    let model = waiting.model.clone();
                    let input = waiting.input.clone();
                    let bytes = Content::new(move || {
                        encode_input(&model.name, &input).map_err(|error| error.to_string())
                    });
                    payloads.push(Payload::Input { request, job, bytes });
                }
                Some(Outcome::Answered) => {
                    let run = self.flights.iter().find_map(|(&run, flight)| {
                        let holds = flight.done.is_some() && flight.requests.contains(&request);
                        holds.then_some(run)
                    });
                    let run = run.ok_or("the results are no longer in memory")?;
                    let share =
                        self.share(request, run, tried).map_err(|error| error.to_string())?;
                    let recorded = share.clone();
                    let bytes = Content::new(move || {
                        let answer =
                            recorded.clone().answer().map_err(|error| error.to_string())?;
                        encode_answer(&answer).map_err(|error| error.to_string())
                    });
                    payloads.push(Payload::Results { request, job, bytes });
                    if let Some(waiting) = self.waiting.get_mut(&request) {
                        waiting.kept = Some(share);
                    }
                }
                Some(Outcome::Failed(_)) => {}
            }
        }
        Ok(payloads)
    }

    pub(super) fn stored(&mut self, report: Report) {
        match report {
            Report::Committed(transaction) => {
                for job in self.accepting.remove(&transaction).unwrap_or_default() {
                    let recorded = self.jobs.get_mut(&job).and_then(|job| job.recorded.take());
                    if let Some(recorded) = recorded {
                        // There is room, because only one message is ever sent; the receiver may have stopped waiting.
                        let _ = recorded.try_send(());
                    }
                }
                self.event(Event::Committed { transaction });
            }
            Report::CommitFailed { transaction, reason } => {
                self.accepting.remove(&transaction);
                tracing::error!(%reason, "state could not be written");
                self.event(Event::CommitFailed { transaction, reason });
            }
            Report::Found(finding) => tracing::warn!(%finding, "state was not as it was written"),
            Report::Expired(requests) => {
                tracing::debug!(count = requests.len(), "recorded requests are forgotten");
            }
            Report::CopyBehind(reason) => {
                tracing::warn!(%reason, "the state's second copy cannot be written");
            }
            Report::CopyInStep => tracing::info!("the state's second copy is in step again"),
        }
    }

    /// Accepts what an earlier daemon had accepted and not answered.
    pub(super) fn resume(&mut self, open: Vec<OpenRequest>) {
        if !open.is_empty() {
            tracing::info!(count = open.len(), "requests of an earlier daemon are answered first");
        }
        let deadline = self.now().after(self.options.resume_timeout);
        let mut events = Vec::new();
        for OpenRequest { request, job, input: bytes } in open {
            let Some(Value::Request { rows, length, .. }) =
                self.fleet.record_of(Key::request(request)).cloned()
            else {
                continue;
            };
            let Some(Ok((name, input))) = bytes.as_deref().map(decode_input) else {
                tracing::error!(%request, "the input of a recorded request cannot be read");
                continue;
            };
            let Some(served) = self.catalog.borrow().by_name(&name).cloned() else {
                tracing::warn!(%request, model = name, "a recorded request waits until its model is served");
                self.left_open.push(OpenRequest { request, job, input: bytes });
                continue;
            };
            let model = served.id;
            self.watch(job.as_ref().map(|(job, _)| job), request);
            let (reply, _) = tokio::sync::oneshot::channel();
            let input = Arc::new(input);
            self.waiting.insert(request, Waiting { model: served, input, reply, job, kept: None });
            let policy = Policy { persistence: Persistence::Recorded, ..Policy::default() };
            events.push(Event::Request { request, model, rows, length, deadline, policy });
        }
        self.event(Event::Together(events));
    }

    /// Counts one more open request of a job.
    pub(super) fn watch(&mut self, job: Option<&JobId>, request: RequestId) {
        if let Some(job) = job {
            self.jobs.entry(job.clone()).or_default().open.insert(request);
        }
    }

    /// Counts the end of a job's request; after the last one the tasks that wait for the job are woken.
    pub(super) fn unwatch(&mut self, job: Option<&JobId>, request: RequestId) {
        let Some(job) = job else { return };
        let Some(entry) = self.jobs.get_mut(job) else { return };
        entry.open.remove(&request);
        if entry.open.is_empty() {
            self.jobs.remove(job);
        }
    }

    pub(super) fn audit(
        &self,
        what: &str,
        subject: String,
        reason: &str,
        detail: serde_json::Value,
    ) {
        let Some(store) = &self.store else { return };
        let (what, reason) = (what.to_owned(), reason.to_owned());
        let entry = AuditEntry { time: SystemTime::now(), what, subject, reason, detail };
        if let Err(error) = store.audit(entry) {
            tracing::warn!(%error, "an entry of the audit trail is lost");
        }
    }

    pub(super) fn recovered(&mut self, recovery: &Recovery) {
        self.recoveries.add(recovery);
        let Some(store) = &self.store else { return };
        let (of, step) = recoveries::words(recovery);
        let entry = RecoveryEntry {
            time: SystemTime::now(),
            failure: recovery.failure.name().to_owned(),
            browser: recovery.browser.0,
            what: format!("{of} {step}"),
            took: recovery.took,
            succeeded: recovery.succeeded,
        };
        if let Err(error) = store.recovery(entry) {
            tracing::warn!(%error, "the record of a recovery is lost");
        }
    }
}
