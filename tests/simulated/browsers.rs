//! Browsers that are added and removed while a daemon serves.

use std::sync::atomic::{AtomicBool, Ordering};

use flotilla_tests::{daemon::Daemon, http::Answer, model};
use serde_json::{Value, json};

/// Longest wait for a browser to come or to go.
const CHANGE_MAX: std::time::Duration = std::time::Duration::from_secs(60);
/// Times that a browser comes and goes while clients ask.
const ROUNDS: usize = 6;

fn add(daemon: &Daemon, browser: &str) -> Answer {
    daemon.post("/api/browsers", &json!({ "browser": browser }))
}

fn remove(daemon: &Daemon, slot: u64) -> Answer {
    daemon.request("DELETE", &format!("/api/browsers/{slot}"), &[], None)
}

/// Kinds of the browsers that have the model ready, by slot.
fn ready(pool: &Value) -> Vec<(u64, String)> {
    let browsers = pool["browsers"].as_array().expect("browsers").iter();
    let ready = browsers.filter(|browser| browser["placements"][0]["state"] == "ready");
    ready
        .map(|browser| {
            let slot = browser["slot"].as_u64().expect("a number");
            (slot, browser["kind"].as_str().expect("text").to_owned())
        })
        .collect()
}

fn wait_ready(daemon: &Daemon, want: &[(u64, &str)]) {
    daemon.wait_pool("browsers that are wanted", CHANGE_MAX, |pool| {
        let ready = ready(pool);
        let is_it = ready.len() == want.len()
            && ready.iter().zip(want).all(|((slot, kind), want)| (*slot, kind.as_str()) == *want);
        is_it.then_some(())
    });
}

#[test]
fn browsers_come_and_go_while_serving() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small").display().to_string();
    let daemon = Daemon::ready(&["--simulate", "chrome=1", "--models", &small]);
    let added = add(&daemon, "firefox");
    assert_eq!((added.status, added.json()["slot"].as_u64()), (201, Some(1)), "{}", added.text);
    wait_ready(&daemon, &[(0, "chrome"), (1, "firefox")]);
    // The first one goes, and the other answers.
    assert_eq!(remove(&daemon, 0).ok()["deleted"], true);
    wait_ready(&daemon, &[(1, "firefox")]);
    let answer = daemon.embed("small", json!([1, 2, 3])).ok();
    assert_eq!(answer["flotilla"]["runs"][0]["browser"], "firefox");
    assert_eq!(remove(&daemon, 0).status, 404, "it is gone");
    // A number is not used again.
    assert_eq!(add(&daemon, "chrome").json()["slot"], 2);
    wait_ready(&daemon, &[(1, "firefox"), (2, "chrome")]);

    for (answer, status, code) in [
        (add(&daemon, "opera"), 400, "unknown_browser"),
        (daemon.post("/api/browsers", &json!({})), 400, "invalid_json"),
        (remove(&daemon, 99), 404, "slot_not_found"),
    ] {
        assert_eq!(answer.status, status, "{}", answer.text);
        assert_eq!(answer.json()["error"]["code"], code);
    }
}

#[test]
fn no_answer_is_lost_while_browsers_come_and_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small").display().to_string();
    let daemon = Daemon::ready(&["--simulate", "chrome=1", "--models", &small]);
    let ended = AtomicBool::new(false);
    let answered = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut answered = 0;
                    while !ended.load(Ordering::Relaxed) {
                        daemon.embed("small", json!([1, 2, 3])).ok();
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();
        let mut last = 0;
        for _ in 0..ROUNDS {
            let next = add(&daemon, "chrome").json()["slot"].as_u64().expect("a slot");
            daemon.wait_pool("new browser", CHANGE_MAX, |pool| {
                ready(pool).iter().any(|(slot, _)| *slot == next).then_some(())
            });
            assert_eq!(remove(&daemon, last).status, 200);
            last = next;
        }
        ended.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().expect("a client")).sum::<usize>()
    });
    assert!(answered > ROUNDS, "{answered} answers");
}
