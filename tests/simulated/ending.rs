//! Shutdown and limits: accepted requests are answered, excess ones are refused, nothing is left.

use std::{
    sync::{Arc, Barrier},
    time::Duration,
};

use flotilla_tests::{
    daemon::Daemon,
    http::Answer,
    model::{self, MINILM, embeddings},
};
use rustix::process::Signal;
use serde_json::json;

/// Longest wait for a request to reach a browser.
const START_MAX: Duration = Duration::from_secs(20);

/// A request that keeps a browser busy for seconds.
fn long_request(daemon: &Arc<Daemon>, rows: usize) -> std::thread::JoinHandle<Answer> {
    let input: Vec<Vec<u32>> = (0..rows).map(|seed| model::row(seed, 200)).collect();
    let daemon = daemon.clone();
    std::thread::spawn(move || daemon.embed(MINILM, json!(input)))
}

fn wait_running(daemon: &Daemon) {
    daemon.wait_pool("running request", START_MAX, |pool| {
        (pool["running"].as_u64() > Some(0)).then_some(())
    });
}

fn alone(daemon: Arc<Daemon>) -> Daemon {
    Arc::into_inner(daemon).expect("no other user")
}

#[test]
fn an_interrupt_answers_what_was_accepted() {
    let Some(minilm) = model::minilm() else { return };
    let minilm = minilm.display().to_string();
    for signal in [Signal::INT, Signal::TERM] {
        let daemon =
            Arc::new(Daemon::ready(&["--simulate", "chrome=1,firefox=1", "--models", &minilm]));
        let request = long_request(&daemon, 12);
        wait_running(&daemon);
        daemon.signal(signal);
        daemon.wait_line("ending", START_MAX);
        // Still open for those that wait, closed for others.
        let refused = daemon.embed(MINILM, "too late");
        assert_eq!(refused.status, 503, "{}", refused.text);
        assert!(refused.error().contains("shutting down"), "{}", refused.text);
        assert_eq!(daemon.get("/healthz").json()["status"], "draining");
        assert_eq!(embeddings(&request.join().expect("an answer").ok()).len(), 12);
        let status = alone(daemon).wait_end();
        assert_eq!(status.code(), Some(0));
    }
}

#[test]
fn a_second_interrupt_ends_at_once() {
    let Some(minilm) = model::minilm() else { return };
    let minilm = minilm.display().to_string();
    let daemon = Arc::new(Daemon::ready(&["--simulate", "chrome=1", "--models", &minilm]));
    let request = long_request(&daemon, 200);
    wait_running(&daemon);
    daemon.signal(Signal::INT);
    daemon.wait_line("ending", START_MAX);
    daemon.signal(Signal::INT);
    // Still answered, but with an error.
    let answer = request.join().expect("an answer");
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert!(answer.error().contains("shutting down"), "{}", answer.text);
    assert_eq!(alone(daemon).wait_end().code(), Some(0));
}

#[test]
fn a_full_queue_refuses_at_once() {
    let Some(minilm) = model::minilm() else { return };
    let minilm = minilm.display().to_string();
    let limits = ["--queue", "1", "--batch-rows", "1"];
    let arguments = [&["--simulate", "chrome=1", "--models", &minilm], &limits[..]].concat();
    let daemon = Arc::new(Daemon::ready(&arguments));
    const CLIENTS: usize = 12;
    let barrier = Arc::new(Barrier::new(CLIENTS));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|index| {
            let (daemon, barrier) = (daemon.clone(), barrier.clone());
            std::thread::spawn(move || {
                barrier.wait();
                daemon.embed(MINILM, model::row(index, 200))
            })
        })
        .collect();
    let answers: Vec<Answer> =
        clients.into_iter().map(|client| client.join().expect("an answer")).collect();
    let (good, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.status == 200);
    assert!(
        !good.is_empty() && !refused.is_empty(),
        "{} answered, {} refused",
        good.len(),
        refused.len()
    );
    for answer in refused {
        assert_eq!(answer.status, 429, "{}", answer.text);
        assert!(answer.error().contains("queue is full"), "{}", answer.text);
        assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
        let wait: Option<u32> = answer.header("retry-after").and_then(|wait| wait.parse().ok());
        assert!(wait.is_some_and(|seconds| seconds >= 1), "{answer:?}");
    }
    assert_eq!(daemon.embed(MINILM, "afterwards").status, 200);
}

#[test]
fn a_deadline_is_kept() {
    let Some(minilm) = model::minilm() else { return };
    let minilm = minilm.display().to_string();
    let arguments = ["--simulate", "chrome=1", "--timeout", "1", "--models", &minilm];
    let daemon = Arc::new(Daemon::ready(&arguments));
    let answer = long_request(&daemon, 300).join().expect("an answer");
    assert_eq!(answer.status, 504, "{}", answer.text);
    assert!(answer.error().contains("deadline"), "{}", answer.text);
    let pool = daemon.get("/api/pool").ok();
    assert_eq!((&pool["queued"], &pool["running"]), (&json!(0), &json!(0)), "nobody waits: {pool}");
    // Once the page has finished its current work, it answers again.
    daemon.wait_pool("answer in time", Duration::from_secs(60), |_| {
        (daemon.embed(MINILM, json!([101, 102])).status == 200).then_some(())
    });
}

#[test]
fn a_killed_daemon_leaves_its_port() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small").display().to_string();
    let mut first = Daemon::ready(&["--simulate", "chrome=2", "--models", &small]);
    let port = first.address().rsplit(':').next().expect("a port").to_owned();
    first.signal(Signal::KILL);
    assert_eq!(first.wait_end().code(), None);
    let arguments = ["--simulate", "chrome=1", "--models", &small];
    let second = Daemon::start_in(&arguments, &[("FLOTILLA_LOG", "info")]);
    assert_ne!(second.address(), "");
    let taken = std::net::TcpListener::bind(format!("127.0.0.1:{port}"));
    assert!(taken.is_ok(), "{taken:?}");
}
