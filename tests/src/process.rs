//! Processes: waits for their end, and finds those of a daemon's guardians.

use std::{
    fs,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use flotilla::browser::guardian;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};

/// A process that is watched: its id cannot be reused for another one.
#[derive(Debug)]
pub struct Watched {
    /// Its id when it was found.
    pub pid: u32,
    /// Its command line, for messages.
    pub name: String,
    fd: OwnedFd,
}

impl Watched {
    /// Watches a process; `None` if there is none.
    pub fn open(pid: u32) -> Option<Watched> {
        let fd = pidfd_open(raw(pid)?, PidfdFlags::empty()).ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let name = line.chars().take(80).collect();
        Some(Watched { pid, name, fd })
    }

    /// Waits until it has ended; returns whether it did before `deadline`.
    pub fn ends_before(&self, deadline: Instant) -> bool {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left =
                Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
            match poll(&mut fds, Some(&left)) {
                Ok(ready) => return ready > 0,
                Err(rustix::io::Errno::INTR) => {}
                // It cannot be checked: not known to have ended.
                Err(_) => return false,
            }
        }
    }
}

/// Every process under `root`, without it.
pub fn tree(root: u32) -> Vec<Watched> {
    guardian::descendants(root).into_iter().filter_map(Watched::open).collect()
}

/// Every process that has the mark of a daemon's guardians.
pub fn marked(daemon: u32) -> Vec<Watched> {
    let is_marked = |pid: u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| {
            std::str::from_utf8(variable)
                .ok()
                .and_then(|variable| variable.strip_prefix(guardian::MARK)?.strip_prefix('='))
                .and_then(|mark| mark.split(':').nth(1)?.parse().ok())
                == Some(daemon)
        })
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| is_marked(pid)).filter_map(Watched::open).collect()
}

/// Waits until all of `processes` and everything marked by `daemon` has ended.
///
/// # Errors
/// What is still alive after `limit`, one line for each.
pub fn all_end(daemon: u32, processes: &[Watched], limit: Duration) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    let mut alive: Vec<String> =
        processes.iter().filter(|process| !process.ends_before(deadline)).map(words).collect();
    // A guardian's last child may have been forked while the others were being killed: search until nothing is
    // found.
    loop {
        let found = marked(daemon);
        let late: Vec<String> =
            found.iter().filter(|process| !process.ends_before(deadline)).map(words).collect();
        if found.is_empty() || !late.is_empty() {
            alive.extend(late);
            return if alive.is_empty() { Ok(()) } else { Err(alive.join("\n")) };
        }
    }
}

fn words(process: &Watched) -> String {
    format!("{} {}", process.pid, process.name)
}

/// Sends a signal. A process that has ended already gets none.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = raw(pid) {
        // Most signals here are meant to end the process anyway.
        let _ = kill_process(pid, signal);
    }
}

fn raw(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}
