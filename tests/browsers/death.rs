//! However the daemon dies, none of its processes and files stay.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use flotilla::browser::Kind;
use flotilla_tests::{
    daemon::Daemon,
    model, process,
    skip::{BOTH, has_browsers},
};
use rustix::process::Signal;
use serde_json::Value;

/// Longest life of a browser after its daemon.
const ORPHAN_MAX: Duration = Duration::from_secs(20);

#[test]
fn browser_processes_die_with_the_daemon() {
    if !has_browsers(&BOTH) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small").display().to_string();
    let temporary = tempfile::tempdir().expect("a folder");
    let environment = [("TMPDIR", temporary.path().to_str().expect("a path"))];
    let pool = ["--browsers", "chrome=1,firefox=1", "--models", &small];

    // When everything is running, and in the middle of the start.
    for is_up in [true, false] {
        let mut daemon = Daemon::start_in(&pool, &environment);
        let reported = if is_up {
            reported(&daemon.wait_all_ready())
        } else {
            daemon.wait_line("browser started", ORPHAN_MAX);
            Vec::new()
        };
        let tree = process::tree(daemon.pid());
        let guardians = tree.iter().filter_map(|process| folder_of(process.pid));
        let profiles: Vec<PathBuf> = guardians.collect();
        assert!(!is_up || profiles.len() == 2, "{profiles:?}");
        for pid in &reported {
            assert!(
                tree.iter().any(|process| process.pid == *pid),
                "{pid} is not under the daemon"
            );
        }
        assert!(tree.len() >= 3, "guardian, driver and browser are expected: {tree:?}");
        daemon.signal(Signal::KILL);
        if let Err(alive) = process::all_end(daemon.pid(), &tree, ORPHAN_MAX) {
            panic!("alive after the daemon's death:\n{alive}");
        }
        assert_eq!(daemon.wait_end().code(), None, "it was killed");
        // The profiles were removed with them.
        for profile in profiles {
            assert!(!profile.exists(), "{} is left", profile.display());
        }
        assert_eq!(entries(temporary.path()), Vec::<String>::new());
    }
}

#[test]
fn browser_processes_end_with_their_guardian() {
    if !has_browsers(&[Kind::Chrome]) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small").display().to_string();
    let daemon = Daemon::start(&["--browsers", "chrome=1", "--models", &small]);
    let old = daemon.wait_all_ready();
    let guardian = old["browsers"][0]["facts"]["guardian_pid"].as_u64().expect("a guardian") as u32;
    let tree = process::tree(guardian);
    process::signal(guardian, Signal::KILL);
    // The daemon itself ends the processes that the guardian has lost, and starts another browser.
    daemon.wait_pool("new browser", Duration::from_secs(90), |pool| {
        let new = &pool["browsers"][0];
        (new["state"] == "ready" && new["browser"] != old["browsers"][0]["browser"]).then_some(())
    });
    let deadline = std::time::Instant::now() + ORPHAN_MAX;
    for process in &tree {
        assert!(process.ends_before(deadline), "{process:?} lives on without its guardian");
    }
}

#[test]
fn browser_leftovers_of_a_killed_guardian_go_with_the_next_daemon() {
    if !has_browsers(&[Kind::Chrome]) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let small = model::small(folder.path(), "small").display().to_string();
    let (home, temporary) = (folder.path().join("home"), folder.path().join("temporary"));
    fs::create_dir(&temporary).expect("a folder");
    let path = |path: &Path| path.display().to_string();
    let (home, temporary_path) = (path(&home), path(&temporary));
    let environment = [("FLOTILLA_HOME", home.as_str()), ("TMPDIR", temporary_path.as_str())];
    let mut daemon =
        Daemon::start_in(&["--browsers", "chrome=1", "--models", &small], &environment);
    let pool = daemon.wait_all_ready();
    let guardian =
        pool["browsers"][0]["facts"]["guardian_pid"].as_u64().expect("a guardian") as u32;
    let tree = process::tree(guardian);
    let profile = profile(guardian);
    // The daemon is stopped, so that it does not clean up after its guardian.
    let ends = process::Watched::open(daemon.pid()).expect("a daemon");
    daemon.signal(Signal::STOP);
    process::signal(guardian, Signal::KILL);
    daemon.signal(Signal::KILL);
    let deadline = std::time::Instant::now() + ORPHAN_MAX;
    assert!(ends.ends_before(deadline), "the daemon is killed");
    assert!(profile.is_dir(), "{} is left", profile.display());

    let next = Daemon::start_in(&["--simulate", "chrome=1", "--models", &small], &environment);
    next.wait_line("removed a folder", ORPHAN_MAX);
    assert!(!profile.exists(), "{} is removed", profile.display());
    assert_eq!(entries(&temporary), Vec::<String>::new());
    for process in &tree {
        assert!(process.ends_before(deadline), "{process:?} lives on without its guardian");
    }
    daemon.wait_end();
}

/// The folder that a guardian was given for its browser.
fn profile(guardian: u32) -> PathBuf {
    folder_of(guardian).expect("a guardian's command line")
}

fn folder_of(pid: u32) -> Option<PathBuf> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let line = String::from_utf8(line).ok()?;
    let mut words = line.split('\0').skip_while(|word| *word != "guardian");
    words.find(|word| *word == "--dir")?;
    words.next().map(PathBuf::from)
}

/// The processes in the pool's status.
fn reported(pool: &Value) -> Vec<u32> {
    let browsers = pool["browsers"].as_array().expect("browsers");
    browsers
        .iter()
        .flat_map(|browser| {
            ["pid", "driver_pid", "guardian_pid"].map(|name| {
                browser["facts"][name].as_u64().unwrap_or_else(|| panic!("no {name}: {browser}"))
                    as u32
            })
        })
        .collect()
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect()
}
