//! Browsers and drivers that die: requests are answered, and the pool recovers completely.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use flotilla::browser::Kind;
use flotilla_tests::{
    command::flotilla,
    daemon::{self, Daemon},
    model::{self, MINILM, embeddings},
    process::{Watched, signal},
    skip::{BOTH, has_browsers},
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Longest replacement of a browser, loading included.
const HEAL_MAX: Duration = Duration::from_secs(120);
/// Rows of the disturbed request, one per run: both browsers are busy with it for a while.
const ROWS: usize = 16;
/// Tokens of a row: a run takes long enough to be in flight when the browser is killed, and no longer.
const TOKENS: usize = 32;

#[test]
fn browser_killed_in_the_middle_of_a_request_is_replaced() {
    if !has_browsers(&BOTH) {
        return;
    }
    let Some(minilm) = model::minilm() else { return };
    let minilm = minilm.display().to_string();
    let pool = ["--browsers", "chrome=1,firefox=1", "--batch-rows", "1", "--models", &minilm];
    let daemon = Arc::new(Daemon::start(&pool));
    for (kind, process) in
        [("chrome", "pid"), ("firefox", "pid"), ("chrome", "driver_pid"), ("firefox", "driver_pid")]
    {
        disturb(&daemon, kind, process);
    }
    drop(Arc::into_inner(daemon).expect("no other user"));
}

/// Kills a process of the browser of this kind while both compute a request.
fn disturb(daemon: &Arc<Daemon>, kind: &str, process: &str) {
    let what = format!("{process} of {kind}");
    let pool = daemon.wait_all_ready();
    let victim = of_kind(&pool, kind).clone();
    let pid =
        victim["facts"][process].as_u64().unwrap_or_else(|| panic!("{what} is not told: {victim}"));
    let watched =
        Watched::open(pid as u32).unwrap_or_else(|| panic!("{what}, {pid}, is not there"));

    let request = {
        let daemon = daemon.clone();
        let input: Vec<Vec<u32>> = (0..ROWS).map(|seed| model::row(seed, TOKENS)).collect();
        std::thread::spawn(move || daemon.embed(MINILM, json!(input)))
    };
    // Each browser gets two runs at once: when this many run, the victim has some of them.
    daemon.wait_pool("request on both browsers", HEAL_MAX, |pool| {
        (pool["running"].as_u64() >= Some(4)).then_some(())
    });
    signal(watched.pid, Signal::KILL);

    let answer = request.join().expect("an answer").ok();
    assert_eq!(embeddings(&answer).len(), ROWS, "{what}");
    let runs = answer["flotilla"]["runs"].as_array().expect("runs");
    // A run that took too long on another browser may have been retried, too, on a slow machine.
    let name = victim["browser"].as_str().expect("a name");
    let tried = |run: &&Value| run["tried"].as_array().is_some_and(|tried| mentions(tried, name));
    let again: Vec<&Value> = runs.iter().filter(tried).collect();
    assert!(!again.is_empty(), "{what}: no run was in flight: {:#}", answer["flotilla"]);
    for run in again {
        assert_ne!(run["browser_id"], victim["browser"], "{what}: {run}");
    }
    // Rows from different browsers are the same numbers.
    let undisturbed: Vec<Vec<f32>> = (0..2)
        .map(|seed| embeddings(&daemon.embed(MINILM, model::row(seed, TOKENS)).ok()).remove(0))
        .collect();
    for (got, want) in embeddings(&answer).iter().zip(&undisturbed) {
        assert!(model::difference(got, want) <= 1e-4, "{what}");
    }

    let healed = daemon.wait_pool(&format!("new {kind}"), HEAL_MAX, |pool| {
        let new = of_kind(pool, kind);
        let is_ready = new["state"] == "ready" && new["placements"][0]["state"] == "ready";
        (is_ready && new["browser"] != victim["browser"]).then(|| new.clone())
    });
    assert_ne!(healed["facts"]["pid"], victim["facts"]["pid"], "{what}");
    assert!(
        healed["last_failure"].as_str().is_some_and(|words| !words.is_empty()),
        "{what}: {healed}"
    );
    // All processes of the old one have ended, its driver and guardian too.
    for process in ["pid", "driver_pid", "guardian_pid"] {
        let pid = victim["facts"][process].as_u64().expect("a process id") as u32;
        let deadline = std::time::Instant::now() + HEAL_MAX;
        let is_gone = Watched::open(pid).is_none_or(|old| old.ends_before(deadline));
        assert!(is_gone, "{what}: {process} {pid} lives on");
    }
    assert_eq!(daemon.get("/healthz").status, 200, "{what}");
    // The new one takes its part of the work.
    let input: Vec<Vec<u32>> = (0..8).map(|seed| model::row(seed, 64)).collect();
    let answer = daemon.embed(MINILM, json!(input)).ok();
    let served: BTreeSet<String> = answer["flotilla"]["runs"]
        .as_array()
        .expect("runs")
        .iter()
        .map(|run| run["browser"].as_str().expect("a kind").to_owned())
        .collect();
    assert!(served.contains(kind), "{what}: only {served:?} served");
}

/// Whether one of several descriptions of attempts is about a browser, such as `b2`.
fn mentions(tried: &[Value], browser: &str) -> bool {
    let words = |text: &str| {
        // Ids have a dot inside, sentences after them.
        text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '.')
            .any(|word| word.trim_matches('.') == browser)
    };
    tried.iter().filter_map(Value::as_str).any(words)
}

fn of_kind<'a>(pool: &'a Value, kind: &str) -> &'a Value {
    let browsers = pool["browsers"].as_array().expect("browsers");
    browsers.iter().find(|browser| browser["kind"] == kind).expect("a browser of the kind")
}

#[test]
fn browser_that_exits_at_start_leaves_the_others_alone() {
    if !has_browsers(&BOTH) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small").display().to_string();
    let both = ["--browsers", "chrome=1,firefox=1", "--models", &small];
    let daemon = Daemon::start_in(&both, &[("FLOTILLA_CHROME", "/bin/false")]);
    daemon.wait_line("ready: ", HEAL_MAX);
    let answer = daemon.embed("small", json!([1, 2, 3])).ok();
    assert_eq!(answer["flotilla"]["runs"][0]["browser"], "firefox");
    let chrome = daemon.wait_pool("given-up Chrome", HEAL_MAX, |pool| {
        let chrome = of_kind(pool, "chrome");
        (chrome["state"] == "retired").then(|| chrome.clone())
    });
    let words = chrome["last_failure"].as_str().unwrap_or_default().to_owned();
    assert!(words.contains("browser did not start"), "{chrome}");
    assert_eq!(daemon.get("/healthz").status, 200);
    assert_eq!(daemon.embed("small", json!([1, 2, 3])).status, 200);
}

#[test]
fn browser_that_never_starts_is_an_error_and_not_a_wait() {
    if !has_browsers(&[Kind::Chrome]) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small").display().to_string();
    let broken = [("FLOTILLA_CHROME", "/bin/false")];
    let daemon = Daemon::start_in(&["--browsers", "chrome=1", "--models", &small], &broken);
    // Requests while the browser is being tried, and after it has been given up.
    for _ in 0..2 {
        let answer = daemon.embed("small", json!([1, 2, 3]));
        assert_eq!(answer.status, 503, "{}", answer.text);
        assert!(answer.error().contains("browser did not start"), "{}", answer.text);
    }
    let health = daemon.get("/healthz");
    assert_eq!((health.status, &health.json()["status"]), (503, &json!("degraded")));
    drop(daemon);

    let drivers = daemon::drivers();
    let mut environment: Vec<(&str, &str)> =
        drivers.iter().map(|(name, path)| (*name, path.as_str())).collect();
    environment.extend(broken);
    let embed = ["embed", "x", "--browsers", "chrome=1", "--model", &small];
    let minilm = model::minilm().map(|path| path.display().to_string());
    // With a tokenizer the text reaches the browser.
    let embed = match &minilm {
        Some(minilm) => ["embed", "x", "--browsers", "chrome=1", "--model", minilm],
        None => embed,
    };
    let output = flotilla(folder.path(), &embed, &environment);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(minilm.is_none() || output.stderr.contains("browser did not start"), "{output:?}");
}
