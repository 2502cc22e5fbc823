//! Jobs: claimed once, answered again, forgotten in time.

use std::time::Duration;

use flotilla_fleet::state::Outcome;
use flotilla_protocol::RequestId;

use crate::{Claim, Content, JobId, Options, Payload, Report, Store};

use super::{confirmed, job, next, quiet, request};

const HOUR: Duration = Duration::from_secs(3600);

fn content(bytes: &[u8]) -> Content {
    let bytes = bytes.to_vec();
    Content::new(move || Ok(bytes.clone()))
}

fn input(request: u64, job: &str, bytes: &[u8]) -> Payload {
    let job = Some((JobId(job.to_owned()), 0));
    Payload::Input { request: RequestId(request), job, bytes: content(bytes) }
}

fn results(request: u64, job: &str, bytes: &[u8]) -> Payload {
    let job = Some((JobId(job.to_owned()), 0));
    Payload::Results { request: RequestId(request), job, bytes: content(bytes) }
}

#[tokio::test]
async fn a_key_names_one_job() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut opened) = Store::open(quiet(dir.path())).unwrap();
    let first = job("j1", Some("key"), "embed this", HOUR);
    assert_eq!(store.claim(first.clone()).await, Ok(Claim::New));
    // Before it is written and after, and after the store was opened again.
    let again = job("j2", Some("key"), "embed this", HOUR);
    assert!(matches!(store.claim(again.clone()).await, Ok(Claim::Existing(j)) if j.id == first.id));
    store.commit(request(1, 1, None, vec![input(1, "j1", b"in")])).unwrap();
    confirmed(&mut opened, 1).await;
    assert!(matches!(store.claim(again.clone()).await, Ok(Claim::Existing(j)) if j.id == first.id));
    let other = job("j3", Some("key"), "embed that", HOUR);
    assert!(
        matches!(store.claim(other.clone()).await, Ok(Claim::Different(j)) if j.id == first.id)
    );
    assert_eq!(store.claim(job("j4", Some("another"), "embed this", HOUR)).await, Ok(Claim::New));
    assert_eq!(store.claim(job("j5", None, "embed this", HOUR)).await, Ok(Claim::New));
    store.close().await.unwrap();
    let (store, _opened) = Store::open(quiet(dir.path())).unwrap();
    assert!(matches!(store.claim(other).await, Ok(Claim::Different(j)) if j.id == first.id));
}

#[tokio::test]
async fn an_open_request_is_given_back_with_its_input_and_its_answer_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut opened) = Store::open(quiet(dir.path())).unwrap();
    store.claim(job("j1", Some("key"), "a", HOUR)).await.unwrap();
    store.commit(request(1, 7, None, vec![input(7, "j1", b"tokens")])).unwrap();
    confirmed(&mut opened, 1).await;
    store.close().await.unwrap();

    let (store, mut opened) = Store::open(quiet(dir.path())).unwrap();
    assert_eq!(opened.open_requests.len(), 1);
    let open = &opened.open_requests[0];
    assert_eq!(open.request, RequestId(7));
    assert_eq!(open.job, Some((JobId("j1".to_owned()), 0)));
    assert_eq!(open.input.as_deref(), Some(&b"tokens"[..]));
    let state = store.job(JobId("j1".to_owned())).await.unwrap().unwrap();
    assert_eq!((state.requests.len(), &state.requests[0].outcome), (1, &None));
    let answered = vec![results(7, "j1", b"vector")];
    store.commit(request(2, 7, Some(Outcome::Answered), answered)).unwrap();
    confirmed(&mut opened, 2).await;
    store.close().await.unwrap();

    let (store, opened) = Store::open(quiet(dir.path())).unwrap();
    assert!(opened.open_requests.is_empty());
    let state = store.job(JobId("j1".to_owned())).await.unwrap().unwrap();
    assert_eq!(state.requests[0].outcome, Some(Outcome::Answered));
    assert_eq!(state.requests[0].results.as_deref(), Some(&b"vector"[..]));
    assert_eq!(store.job(JobId("j2".to_owned())).await, Ok(None));
}

#[tokio::test]
async fn a_job_that_was_partly_accepted_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut opened) = Store::open(quiet(dir.path())).unwrap();
    let two = super::Job { requests: 2, ..job("j1", Some("key"), "a", HOUR) };
    store.claim(two).await.unwrap();
    store.commit(request(1, 1, None, vec![input(1, "j1", b"in")])).unwrap();
    confirmed(&mut opened, 1).await;
    store.close().await.unwrap();
    let (store, opened) = Store::open(quiet(dir.path())).unwrap();
    assert!(opened.records.is_empty(), "{:?}", opened.records);
    assert!(opened.open_requests.is_empty());
    assert_eq!(store.claim(job("j2", Some("key"), "a", HOUR)).await, Ok(Claim::New));
}

#[tokio::test]
async fn an_abandoned_job_frees_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _opened) = Store::open(quiet(dir.path())).unwrap();
    store.claim(job("j1", Some("key"), "a", HOUR)).await.unwrap();
    store.flush().await.unwrap();
    store.abandon(JobId("j1".to_owned())).unwrap();
    store.flush().await.unwrap();
    assert_eq!(store.job(JobId("j1".to_owned())).await, Ok(None));
    assert_eq!(store.claim(job("j2", Some("key"), "b", HOUR)).await, Ok(Claim::New));
}

#[tokio::test]
async fn an_expired_job_goes_with_its_requests_once_they_have_ended() {
    let dir = tempfile::tempdir().unwrap();
    // Expired jobs are searched for at this interval.
    let options = Options { copy_retry_interval: Duration::from_millis(10), ..quiet(dir.path()) };
    let (store, mut opened) = Store::open(options).unwrap();
    store.claim(job("ended", Some("key"), "a", Duration::ZERO)).await.unwrap();
    store.claim(job("open", None, "a", Duration::ZERO)).await.unwrap();
    // In one go, so that no job is written before its request.
    store.commit(request(1, 1, None, vec![input(1, "ended", b"in")])).unwrap();
    store.commit(request(2, 2, None, vec![input(2, "open", b"in")])).unwrap();
    let answered = vec![results(1, "ended", b"out")];
    store.commit(request(3, 1, Some(Outcome::Answered), answered)).unwrap();
    let forgotten = loop {
        if let Report::Expired(requests) = next(&mut opened).await {
            break requests;
        }
    };
    assert_eq!(forgotten, [RequestId(1)]);
    assert_eq!(store.job(JobId("ended".to_owned())).await, Ok(None));
    assert_eq!(store.claim(job("j2", Some("key"), "b", HOUR)).await, Ok(Claim::New));
    store.close().await.unwrap();
    let (_store, opened) = Store::open(quiet(dir.path())).unwrap();
    let ids: Vec<u64> = opened.records.iter().map(|(key, ..)| key.id).collect();
    assert_eq!(ids, [2]);
}
