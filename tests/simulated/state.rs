//! The state on disk, from outside: what the commands report, the effect of flipped bits, and the answers after a daemon was
//! killed in the middle of writing.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use flotilla::{
    browser::{Kind, fault::Fault},
    catalog::Catalog,
    local::{Local, LocalOptions},
    store,
};
use flotilla_tests::{
    command::{Output, flotilla},
    daemon::Daemon,
    http::{self, Answer},
    model::{self, difference, embeddings},
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Longest wait for a line of the log.
const LINE_MAX: Duration = Duration::from_secs(60);
/// Length of the row whose record and results the tests damage; no other row has it.
const MARKED: usize = 47;

/// A data folder, a small model and its requests.
struct Place {
    folder: tempfile::TempDir,
    model: String,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().expect("a folder");
        let model = model::small(folder.path(), "small").display().to_string();
        Place { folder, model }
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    fn file(&self, which: &str) -> PathBuf {
        self.home().join("state").join(which)
    }

    /// A daemon that is ready.
    fn start(&self, environment: &[(&str, &str)]) -> Daemon {
        let home = self.home().display().to_string();
        let arguments = ["--simulate", "chrome=1,firefox=1", "--models", &self.model];
        let environment = [environment, &[("FLOTILLA_HOME", home.as_str())]].concat();
        let daemon = Daemon::start_in(&arguments, &environment);
        daemon.wait_line("ready: ", LINE_MAX);
        daemon
    }

    /// The state of a daemon that had answered two recorded requests and was ended; returns both answers.
    fn recorded(&self) -> [Answer; 2] {
        let mut daemon = self.start(&[]);
        let answers = ["plain", "marked"].map(|key| {
            let answer = ask(&daemon.url(""), key, &body(key)).expect("an answer");
            answer.ok();
            answer
        });
        end(&mut daemon);
        answers
    }

    fn command(&self, arguments: &[&str]) -> Output {
        flotilla(&self.home(), arguments, &[])
    }

    /// `flotilla state verify --json` and its exit code.
    fn verify(&self) -> (Value, Option<i32>) {
        let output = self.command(&["state", "verify", "--json"]);
        let report = serde_json::from_str(&output.stdout);
        (report.unwrap_or_else(|error| panic!("{error}\n{output:#?}")), output.code)
    }

    fn check_sound(&self) {
        let (report, code) = self.verify();
        assert_eq!((&report["sound"], code), (&json!(true), Some(0)), "{report:#}");
        for file in report["files"].as_array().expect("files") {
            assert_eq!(file["rows_behind"], 0, "{report:#}");
            assert!(file["sound_rows"].as_u64() > Some(0), "{report:#}");
        }
    }
}

fn body(key: &str) -> Value {
    let input = match key {
        "marked" => json!([(1..=MARKED).collect::<Vec<_>>()]),
        _ => json!([[1, 2, 3], [4, 5]]),
    };
    json!({ "model": "small", "input": input })
}

fn ask(url: &str, key: &str, body: &Value) -> Result<Answer, String> {
    let headers = [("content-type", "application/json"), ("idempotency-key", key)];
    let url = format!("{url}/v1/embeddings");
    http::request("POST", &url, &headers, Some(body.to_string().as_bytes()))
        .map_err(|error| error.to_string())
}

fn end(daemon: &mut Daemon) {
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_end().code(), Some(0));
}

/// Flips the lowest bit of the byte at `at` of every occurrence of some bytes in a file. SQLite leaves deleted data in place,
/// so perhaps only one occurrence counts; flipping the others has no effect.
fn flip(path: &Path, bytes: &[u8], at: usize) {
    let mut content = fs::read(path).expect("a file");
    let places: Vec<usize> =
        (0..content.len()).filter(|&start| content[start..].starts_with(bytes)).collect();
    assert!(!places.is_empty(), "{} does not have it", path.display());
    for start in places {
        content[start + at] ^= 1;
    }
    fs::write(path, content).expect("written");
}

/// Changes a record to another one that could be right.
fn flip_record(path: &Path) {
    let fragment = format!("\"length\":{MARKED}");
    flip(path, fragment.as_bytes(), fragment.len() - 1);
}

/// Changes the recorded results of an answer to others that could be right.
fn flip_results(path: &Path, answer: &Answer) {
    flip(path, &embeddings(&answer.ok())[0][1].to_le_bytes(), 0);
}

#[test]
fn the_commands_show_what_a_daemon_left() {
    let place = Place::new();
    let absent = place.command(&["state", "verify"]);
    assert_eq!(absent.code, Some(1), "{absent:#?}");
    assert!(absent.stderr.contains("there is no state"), "{absent:#?}");
    place.recorded();
    place.check_sound();

    let requests = place.command(&["state", "show", "requests", "--json"]).json();
    let requests = requests["records"].as_array().expect("records").clone();
    assert_eq!(requests.len(), 3, "{requests:#?}");
    for request in &requests {
        assert_eq!(request["partition"], "requests");
        assert_eq!(request["body"]["outcome"], "answered", "{request:#}");
    }
    let marked = |request: &&Value| request["body"]["length"] == json!(MARKED);
    assert_eq!(requests.iter().filter(marked).count(), 1, "{requests:#?}");
    let all = place.command(&["state", "show", "--json"]).json();
    let all = all["records"].as_array().expect("records").clone();
    assert!(all.iter().any(|record| record["partition"] == "configuration"), "{all:#?}");
    assert!(requests.iter().all(|request| all.contains(request)), "{all:#?}");

    let table = place.command(&["state", "show", "requests"]);
    assert_eq!(table.code, Some(0), "{table:#?}");
    assert_eq!(table.stdout.lines().filter(|line| line.starts_with("requests")).count(), 3);
    let table = place.command(&["state", "verify"]);
    assert_eq!(table.code, Some(0), "{table:#?}");
    assert!(table.stdout.contains("state-copy.sqlite"), "{table:#?}");
    let unknown = place.command(&["state", "show", "cheese"]);
    assert_eq!(unknown.code, Some(2), "{unknown:#?}");
    assert!(unknown.stderr.contains("requests"), "names those that are: {unknown:#?}");
    let repaired = place.command(&["state", "repair"]);
    assert_eq!(repaired.code, Some(0), "{repaired:#?}");
    assert!(repaired.stdout.contains("nothing was wrong"), "{repaired:#?}");
    place.check_sound();
}

#[test]
fn the_commands_look_beside_a_running_daemon() {
    let place = Place::new();
    let mut daemon = place.start(&[]);
    ask(&daemon.url(""), "marked", &body("marked")).expect("an answer").ok();
    let (report, code) = place.verify();
    assert_eq!((&report["sound"], &report["in_use"], code), (&json!(true), &json!(true), Some(0)));
    let shown = place.command(&["state", "show", "requests", "--json"]).json();
    assert_eq!(shown["records"].as_array().map(Vec::len), Some(1), "{shown:#}");
    assert_eq!(shown["records"][0]["body"]["length"], json!(MARKED), "{shown:#}");
    let audit = place.command(&["audit", "--since", "1h", "--json"]).json();
    let launches = |audit: &Value| {
        let entries = audit["entries"].as_array().expect("entries");
        entries.iter().filter(|entry| entry["what"] == "launch").count()
    };
    assert_eq!(launches(&audit), 2, "{audit:#}");
    let refused = place.command(&["state", "repair"]);
    assert_eq!(refused.code, Some(1), "{refused:#?}");
    assert!(refused.stderr.contains(&daemon.pid().to_string()), "names the daemon: {refused:#?}");
    // It was not affected.
    ask(&daemon.url(""), "plain", &body("plain")).expect("an answer").ok();
    end(&mut daemon);
    place.check_sound();
}

#[test]
fn a_missing_copy_is_no_finding_if_one_file_is_configured() {
    let place = Place::new();
    let mut daemon = place.start(&[("FLOTILLA_REDUNDANCY_FACTOR", "1")]);
    ask(&daemon.url(""), "plain", &body("plain")).expect("an answer").ok();
    end(&mut daemon);
    assert!(!place.file("state-copy.sqlite").exists());
    let arguments = ["state", "verify", "--json", "--redundancy-factor", "1"];
    let report = place.command(&arguments).json();
    assert_eq!(report["files"].as_array().map(Vec::len), Some(1), "{report:#}");
    let environment = [("FLOTILLA_REDUNDANCY_FACTOR", "1")];
    let report = flotilla(&place.home(), &["state", "verify"], &environment);
    assert_eq!(report.code, Some(0), "{report:#?}");
    // If two copies are configured and one is found, this is reported.
    let (report, code) = place.verify();
    assert_eq!(code, Some(1), "{report:#}");
    assert_eq!(report["files"][1]["findings"][0]["what"], "the file is missing", "{report:#}");
}

#[test]
fn the_commands_find_a_copy_in_another_folder() {
    let place = Place::new();
    let other = place.folder.path().join("other").display().to_string();
    let environment = [("FLOTILLA_STATE_COPY", other.as_str())];
    let mut daemon = place.start(&environment);
    ask(&daemon.url(""), "marked", &body("marked")).expect("an answer").ok();
    end(&mut daemon);
    let sound = flotilla(&place.home(), &["state", "verify"], &environment);
    assert_eq!(sound.code, Some(0), "{sound:#?}");
    assert!(sound.stdout.contains(&other), "{sound:#?}");
    fs::remove_file(place.file("state.sqlite")).expect("removed");
    let audit = ["audit", "--json", "--state-copy", &other];
    let entries = place.command(&audit).json()["entries"].as_array().map(Vec::len);
    assert!(entries > Some(0), "{entries:?}");
    let repaired = flotilla(&place.home(), &["state", "repair", "--json"], &environment).json();
    assert_eq!(repaired["findings"].as_array().map(Vec::len), Some(1), "{repaired:#}");
    let sound = flotilla(&place.home(), &["state", "verify"], &environment);
    assert_eq!(sound.code, Some(0), "{sound:#?}");
}

#[test]
fn a_flipped_bit_is_found_and_repaired_from_the_copy() {
    for which in ["state.sqlite", "state-copy.sqlite"] {
        let place = Place::new();
        let [_, marked] = place.recorded();
        let before = place.command(&["state", "show", "--json"]).json()["records"].clone();
        flip_record(&place.file(which));
        flip_results(&place.file(which), &marked);

        let (report, code) = place.verify();
        assert_eq!((&report["sound"], code), (&json!(false), Some(1)), "{report:#}");
        let at = usize::from(which != "state.sqlite");
        let findings = report["files"][at]["findings"].as_array().expect("findings").clone();
        assert_eq!(findings.len(), 2, "the record and the results: {report:#}");
        let records = || findings.iter().filter(|finding| !finding["record"].is_null());
        assert_eq!(records().count(), 1, "{report:#}");
        assert!(
            records().all(|finding| finding["record"]["partition"] == "requests"),
            "{report:#}"
        );
        assert_eq!(report["files"][1 - at]["findings"], json!([]), "{report:#}");
        let words = place.command(&["state", "verify"]);
        assert_eq!(words.code, Some(1), "{words:#?}");
        assert!(words.stdout.contains("a row is not what was written"), "{words:#?}");
        // What is shown is what was written, or it is reported as missing.
        let shown = place.command(&["state", "show", "--json"]).json();
        assert_eq!(shown["records"], before);

        let repaired = place.command(&["state", "repair", "--json"]).json();
        let findings = repaired["findings"].as_array().expect("findings").clone();
        assert_eq!(findings.len(), 2, "{repaired:#}");
        assert!(findings.iter().all(|finding| finding["remedy"] == "repaired"), "{repaired:#}");
        place.check_sound();
        let shown = place.command(&["state", "show", "--json"]).json();
        assert_eq!(shown["records"], before);
    }
}

#[test]
fn a_daemon_starts_over_a_flipped_bit_and_says_so() {
    let place = Place::new();
    let [plain, marked] = place.recorded();
    flip_record(&place.file("state.sqlite"));
    flip_results(&place.file("state.sqlite"), &marked);
    let mut daemon = place.start(&[]);
    let log = daemon.log();
    let reported = |line: &&str| line.contains("state was not as it was written");
    assert_eq!(log.lines().filter(reported).count(), 2, "{log}");
    assert!(log.lines().filter(reported).all(|line| line.contains("repaired")), "{log}");
    for (key, first) in [("plain", &plain), ("marked", &marked)] {
        let again = ask(&daemon.url(""), key, &body(key)).expect("an answer");
        assert_eq!(again.header("idempotent-replayed"), Some("true"), "{}", again.text);
        assert_eq!(again.ok()["data"], first.ok()["data"], "{key}");
    }
    end(&mut daemon);
    place.check_sound();
}

#[test]
fn what_both_copies_have_lost_is_set_aside_and_reported() {
    let place = Place::new();
    let [plain, marked] = place.recorded();
    for which in ["state.sqlite", "state-copy.sqlite"] {
        flip_record(&place.file(which));
        flip_results(&place.file(which), &marked);
    }
    let shown = place.command(&["state", "show", "requests", "--json"]);
    assert_eq!(shown.code, Some(1), "{shown:#?}");
    assert!(shown.stderr.contains("not shown"), "{shown:#?}");
    let mut daemon = place.start(&[]);
    let log = daemon.log();
    assert!(log.contains("set aside, for no copy of it is sound"), "{log}");
    // A key whose answer is lost gives an error, and neither a wrong answer nor a second one.
    let lost = ask(&daemon.url(""), "marked", &body("marked")).expect("an answer");
    assert_eq!(lost.status, 500, "{}", lost.text);
    assert!(lost.error().contains("is lost"), "{}", lost.text);
    let kept = ask(&daemon.url(""), "plain", &body("plain")).expect("an answer");
    assert_eq!(kept.ok()["data"], plain.ok()["data"]);
    ask(&daemon.url(""), "new", &body("new")).expect("an answer").ok();
    end(&mut daemon);
    place.check_sound();
}

#[test]
fn two_unreadable_files_are_set_aside_and_the_daemon_starts() {
    let place = Place::new();
    place.recorded();
    for which in ["state.sqlite", "state-copy.sqlite"] {
        let path = place.file(which);
        let length = fs::metadata(&path).expect("a file").len();
        fs::write(&path, vec![0xA5; length as usize]).expect("written");
    }
    assert_eq!(place.command(&["state", "verify"]).code, Some(1));
    let shown = place.command(&["state", "show"]);
    assert_eq!(shown.code, Some(1), "{shown:#?}");
    assert!(shown.stderr.contains("cannot be read"), "{shown:#?}");
    let mut daemon = place.start(&[]);
    let log = daemon.log();
    assert!(log.contains("state was not as it was written"), "{log}");
    ask(&daemon.url(""), "plain", &body("plain")).expect("an answer").ok();
    end(&mut daemon);
    place.check_sound();
    let names: Vec<String> = fs::read_dir(place.home().join("state"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    for which in ["state.sqlite.damaged-", "state-copy.sqlite.damaged-"] {
        assert!(names.iter().any(|name| name.starts_with(which)), "{which}: {names:?}");
    }
}

/// A client's request and its result: its key, its body and its answer, if it got one.
type Asked = (String, Value, Option<Answer>);

/// Sends one request after the other until there is no answer.
fn ask_until_crash(url: &str, client: usize, rows: usize) -> Vec<Asked> {
    let mut asked = Vec::new();
    loop {
        let turn = asked.len();
        let row = |row: usize| -> Vec<usize> {
            (0..4 + (turn + row) % 9)
                .map(|at| 1 + (client * 41 + turn * 7 + row + at) % 190)
                .collect()
        };
        let input: Vec<Vec<usize>> = (0..rows).map(row).collect();
        let (key, body) =
            (format!("client {client} turn {turn}"), json!({ "model": "small", "input": input }));
        let answer = ask(url, &key, &body).ok();
        let is_last = answer.is_none();
        asked.push((key, body, answer));
        if is_last {
            return asked;
        }
    }
}

/// Kills a daemon when it reaches a step for the n-th time, while clients send requests with keys. Then it checks that the
/// next daemon gives every key exactly one answer: a right one, and the same one as before if there was one.
fn check_crash(step: &str, count: u32, rows: usize) {
    const CLIENTS: usize = 3;
    let place = Place::new();
    let mut daemon = place.start(&[("FLOTILLA_CRASH_AT", &format!("{step}:{count}"))]);
    let url = daemon.url("");
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let url = url.clone();
            std::thread::spawn(move || ask_until_crash(&url, client, rows))
        })
        .collect();
    let asked: Vec<Asked> =
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect();
    assert_eq!(daemon.wait_end().signal(), Some(Signal::KILL.as_raw()), "it did not crash");
    let answered = asked.iter().filter(|(.., answer)| answer.is_some()).count();
    assert_eq!(asked.len() - answered, CLIENTS, "each was left without an answer once");
    assert!(answered > 0, "it crashed before it answered anybody");

    let mut daemon = place.start(&[]);
    let url = daemon.url("");
    for (key, body, first) in asked {
        // Clients without an answer send the request twice at the same time, as an impatient client does.
        let other = {
            let (url, key, body) = (url.clone(), key.clone(), body.clone());
            std::thread::spawn(move || ask(&url, &key, &body).expect("an answer"))
        };
        let answer = ask(&url, &key, &body).expect("an answer");
        let other = other.join().expect("a client");
        let (value, data) = (answer.ok(), answer.ok()["data"].clone());
        assert_eq!(data, other.ok()["data"], "{key}: two answers");
        let id = answer.header("flotilla-request-id");
        assert_eq!(id, other.header("flotilla-request-id"), "{key}: two requests");
        let replayed = [&answer, &other]
            .map(|answer| usize::from(answer.header("idempotent-replayed") == Some("true")));
        match first {
            Some(first) => {
                assert_eq!(first.ok()["data"], data, "{key}: another answer than before the crash");
                assert_eq!(first.header("flotilla-request-id"), id, "{key}");
                assert_eq!(replayed, [1, 1], "{key}: asked for anew");
            }
            None => assert!(replayed.iter().sum::<usize>() >= 1, "{key}: computed twice"),
        }
        let fresh = daemon.post("/v1/embeddings", &body);
        for (kept, fresh) in embeddings(&value).iter().zip(&embeddings(&fresh.ok())) {
            assert!(difference(kept, fresh) < 1e-5, "{key}: a wrong answer");
        }
        assert_eq!(embeddings(&value).len(), rows, "{key}");
    }
    end(&mut daemon);
    place.check_sound();
    let shown = place.command(&["state", "show", "requests", "--json"]).json();
    let open = |record: &&Value| record["body"]["outcome"].is_null();
    let records = shown["records"].as_array().expect("records");
    assert_eq!(records.iter().filter(open).count(), 0, "{records:#?}");
}

/// Numbers of transaction groups after which a daemon is ready and has answered a few requests.
const GROUPS: [u32; 2] = [24, 33];

fn check_crashes(step: &str) {
    for count in GROUPS {
        check_crash(step, count, 2);
    }
}

#[test]
fn a_crash_before_begin_costs_no_answer() {
    check_crashes("before_begin");
}

#[test]
fn a_crash_after_begin_costs_no_answer() {
    check_crashes("after_begin");
}

#[test]
fn a_crash_after_the_changes_costs_no_answer() {
    check_crashes("after_changes");
}

#[test]
fn a_crash_before_the_commit_costs_no_answer() {
    check_crashes("before_commit");
}

#[test]
fn a_crash_after_the_commit_costs_no_answer() {
    check_crashes("after_commit");
}

#[test]
fn a_crash_after_the_copy_costs_no_answer() {
    check_crashes("after_copy");
}

#[test]
fn a_crash_before_the_confirmation_costs_no_answer() {
    check_crashes("before_confirm");
}

/// Rows of a request that fill the journal soon, so that it is checkpointed during requests. The first checkpoint is that of
/// the start.
const MANY: usize = 100;

#[test]
fn a_crash_before_the_journal_is_folded_costs_no_answer() {
    check_crash("before_checkpoint", 2, MANY);
}

#[test]
fn a_crash_between_the_folds_of_both_files_costs_no_answer() {
    check_crash("amid_checkpoint", 2, MANY);
}

/// Reasons in the audit trail for actions on one browser or on any.
fn audit_trail(home: &Path, what: &str, subject: Option<&str>) -> Vec<String> {
    let audit = flotilla(home, &["audit", "--since", "1h", "--json"], &[]).json();
    let entries = audit["entries"].as_array().expect("entries");
    let times: Vec<u64> = entries.iter().filter_map(|entry| entry["time_ms"].as_u64()).collect();
    assert_eq!(times.len(), entries.len(), "{audit:#}");
    assert!(times.is_sorted(), "{audit:#}");
    let is_meant = |entry: &&Value| {
        entry["what"] == what && subject.is_none_or(|subject| entry["subject"] == subject)
    };
    let reason = |entry: &Value| entry["reason"].as_str().expect("a reason").to_owned();
    entries.iter().filter(is_meant).map(reason).collect()
}

#[test]
fn launches_and_ends_are_in_the_audit_trail() {
    let place = Place::new();
    place.recorded();
    assert_eq!(audit_trail(&place.home(), "launch", None).len(), 2);
    let kills = audit_trail(&place.home(), "kill", None);
    assert_eq!(kills, ["the daemon is shutting down"; 2]);
    let table = place.command(&["audit", "--since", "1h"]);
    assert_eq!(table.code, Some(0), "{table:#?}");
    assert!(table.stdout.contains("the daemon is shutting down"), "{table:#?}");
    let refused = place.command(&["audit", "--since", "yesterday"]);
    assert_eq!(refused.code, Some(2), "{refused:#?}");
    assert!(refused.stderr.contains("is not a duration"), "{refused:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_and_what_was_done_about_it_are_in_the_audit_trail() {
    let place = Place::new();
    let catalog = Arc::new(Catalog::open(&[PathBuf::from(&place.model)]));
    let options = LocalOptions {
        simulated: true,
        backends: vec![flotilla_protocol::Backend::Cpu].into(),
        state: Some(store::Options::of(&place.home())),
        ..LocalOptions::of(vec![Kind::Chrome, Kind::Firefox])
    };
    let local = Local::start(&options, catalog, 0).await.expect("a pool");
    let ready = |view: &flotilla::pool::View| view.status.models.iter().all(|m| m.ready == 2);
    local.pool.wait_until(ready).await.expect("ready");
    let worker = local.pool.acquire_worker("unlucky").await.expect("a worker");
    let browser = worker.browser();
    local.pool.fault(browser, Fault::Exit).await.expect("a browser that ends");
    worker.lost().await;
    let is_gone = |view: &flotilla::pool::View| view.status.leases.is_empty() && ready(view);
    local.pool.wait_until(is_gone).await.expect("ready again");
    local.stop().await;

    let home = place.home();
    let browser = browser.to_string();
    assert_eq!(audit_trail(&home, "launch", None).len(), 3, "two and the one in its place");
    let kills = audit_trail(&home, "kill", Some(&browser));
    assert!(
        matches!(&kills[..], [reason] if !reason.is_empty() && !reason.contains("shutting down")),
        "{kills:?}"
    );
    assert_eq!(audit_trail(&home, "acquire", Some(&browser)).len(), 1);
    let revoked = audit_trail(&home, "revoke", Some(&browser));
    assert!(matches!(&revoked[..], [reason] if !reason.is_empty()), "{revoked:?}");
    let ended = audit_trail(&home, "kill", None);
    assert_eq!(ended.len(), 3, "{ended:?}");
}
