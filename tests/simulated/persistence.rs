//! Requests that outlive their connection and their daemon.

use std::time::Duration;

use flotilla_tests::{
    daemon::Daemon,
    http::Answer,
    model::{self, MINILM, difference, embeddings},
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Longest wait for a request to reach a browser, or for one that was left open to be answered.
const ANSWER_MAX: Duration = Duration::from_secs(60);

fn post(daemon: &Daemon, headers: &[(&str, &str)], body: &Value) -> Answer {
    let mut all = vec![("content-type", "application/json")];
    all.extend_from_slice(headers);
    daemon.request("POST", "/v1/embeddings", &all, Some(body.to_string().as_bytes()))
}

fn start(home: &str, model: &str) -> Daemon {
    let arguments = ["--simulate", "chrome=1,firefox=1", "--models", model];
    let daemon = Daemon::start_in(&arguments, &[("FLOTILLA_HOME", home)]);
    daemon.wait_line("ready: ", ANSWER_MAX);
    daemon
}

#[test]
fn a_key_gives_the_same_answer_again_and_is_good_for_one_body() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small").display().to_string();
    let daemon = Daemon::ready(&["--simulate", "chrome=1", "--models", &small]);
    let body = json!({ "model": "small", "input": [[1, 2, 3], [4, 5]] });
    let key = [("idempotency-key", "first")];
    let first = post(&daemon, &key, &body);
    let again = post(&daemon, &key, &body);
    assert_eq!(again.header("idempotent-replayed"), Some("true"), "{}", again.text);
    assert_eq!(first.header("idempotent-replayed"), None, "{}", first.text);
    let id = first.header("flotilla-request-id").expect("an id").to_owned();
    assert_eq!(again.header("flotilla-request-id"), Some(id.as_str()));
    let (first, again) = (first.ok(), again.ok());
    assert_eq!(first["data"], again["data"]);
    assert_eq!(first["usage"], again["usage"]);
    assert_eq!(first["flotilla"]["runs"], again["flotilla"]["runs"], "who computed it");

    let other = post(&daemon, &key, &json!({ "model": "small", "input": [[1, 2, 3]] }));
    assert_eq!(other.status, 422, "{}", other.text);
    assert!(other.error().contains(&id), "{}", other.text);

    let shown = daemon.get(&format!("/api/requests/{id}")).ok();
    assert_eq!((&shown["status"], &shown["ended"]), (&json!("answered"), &json!(2)), "{shown:#}");
    assert_eq!(shown["answer"]["data"], first["data"]);
    assert_eq!(daemon.get("/api/requests/req_unknown").status, 404);
}

#[test]
fn an_error_is_recorded_as_the_answer_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small").display().to_string();
    let daemon = Daemon::ready(&["--simulate", "chrome=1", "--models", &small]);
    let body = json!({ "model": "small", "input": [[1, 2]] });
    // Refused before anything is recorded, so the key can still be used for a better body.
    let wrong = json!({ "model": "small", "input": [[100_000]] });
    assert_eq!(post(&daemon, &[("idempotency-key", "k")], &wrong).status, 400);
    post(&daemon, &[("idempotency-key", "k")], &body).ok();
    let too_long = "x".repeat(256);
    let refused = post(&daemon, &[("idempotency-key", &too_long)], &body);
    assert_eq!(refused.status, 400, "{}", refused.text);
}

#[test]
fn a_daemon_without_state_refuses_requests_that_need_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small").display().to_string();
    let daemon = Daemon::ready(&["--simulate", "chrome=1", "--models", &small, "--no-state"]);
    let body = json!({ "model": "small", "input": [[1, 2]] });
    let refused = post(&daemon, &[("idempotency-key", "k")], &body);
    assert_eq!(refused.status, 507, "{}", refused.text);
    assert!(refused.error().contains("no state"), "{}", refused.text);
    let tolerance = json!({ "state_persistence": true });
    let requested = json!({ "model": "small", "input": [[1, 2]], "fault_tolerance": tolerance });
    assert_eq!(post(&daemon, &[], &requested).status, 507);
    post(&daemon, &[], &body).ok();
}

#[test]
fn what_a_killed_daemon_had_accepted_the_next_one_answers_once() {
    let Some(minilm) = model::minilm() else { return };
    let minilm = minilm.display().to_string();
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path().display().to_string();
    let rows: Vec<Vec<u32>> = (0..12).map(|seed| model::row(seed, 200)).collect();
    let body = json!({ "model": MINILM, "input": rows });

    let mut daemon = start(&home, &minilm);
    let accepted = post(&daemon, &[("prefer", "respond-async"), ("idempotency-key", "k")], &body);
    assert_eq!(accepted.status, 202, "{}", accepted.text);
    let id = accepted.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(accepted.header("location"), Some(format!("/api/requests/{id}").as_str()));
    daemon.wait_pool("running request", ANSWER_MAX, |pool| {
        (pool["running"].as_u64() > Some(0)).then_some(())
    });
    daemon.signal(Signal::KILL);
    daemon.wait_end();

    let daemon = start(&home, &minilm);
    // The client reconnects and sends the same request; it waits for the running one and starts
    // nothing.
    let again = post(&daemon, &[("idempotency-key", "k")], &body);
    assert_eq!(again.header("flotilla-request-id"), Some(id.as_str()), "{}", again.text);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    let recovered = embeddings(&again.ok());
    let fresh = embeddings(&daemon.embed(MINILM, json!(rows)).ok());
    for (recovered, fresh) in recovered.iter().zip(&fresh) {
        assert!(difference(recovered, fresh) < 1e-5, "another answer than the right one");
    }
    let shown = daemon.get(&format!("/api/requests/{id}")).ok();
    assert_eq!((&shown["status"], &shown["ended"]), (&json!("answered"), &json!(12)), "{shown:#}");
}

#[test]
fn two_daemons_do_not_share_a_state() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small").display().to_string();
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path().display().to_string();
    let first = start(&home, &small);
    let second = start(&home, &small);
    let line = second.wait_line("keeps no state", ANSWER_MAX);
    assert!(line.contains(&first.pid().to_string()), "{line}");
    let body = json!({ "model": "small", "input": [[1, 2]] });
    assert_eq!(post(&second, &[("idempotency-key", "k")], &body).status, 507);
    post(&first, &[("idempotency-key", "k")], &body).ok();
}
