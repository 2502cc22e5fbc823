//! The small process between the daemon and a driver: whatever ends the daemon ends the browser.
//!
//! The daemon starts `flotilla guardian --dir DIR -- DRIVER ARGS..` in a process group of its own and keeps the writing end
//! of its standard input. The guardian is the subreaper of all that the driver starts, so that nothing under it can
//! escape by forking twice. When its input ends, or the driver does, it kills every descendant, waits until none is left,
//! removes `DIR`, and exits.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions},
};

/// Environment variable that marks every process under a guardian with `<data dir id>:<daemon's process id>:<browser>`.
pub const MARK: &str = "FLOTILLA_GUARDED";

/// Why a guardian could not do its work.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum GuardianError {
    #[error("no driver command was given")]
    NoCommand,
    #[error("cannot become the subreaper: {0}")]
    Subreaper(#[source] Errno),
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] std::io::Error),
    #[error("cannot write the driver's log {path}: {source}")]
    Log { path: PathBuf, source: std::io::Error },
    #[error("cannot start {driver}: {source}")]
    Start { driver: String, source: std::io::Error },
}

enum Ended {
    Daemon,
    Driver,
}

/// Runs a driver until it ends or standard input does, then ends everything under this process.
///
/// The driver's standard output is this process's; its standard error goes to `DIR/driver.log`.
///
/// # Errors
/// The driver could not be started. Nothing is left running then.
pub fn run(dir: &Path, command: &[String]) -> Result<(), GuardianError> {
    let (driver, arguments) = command.split_first().ok_or(GuardianError::NoCommand)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(GuardianError::Subreaper)?;
    outlive_signals().map_err(GuardianError::Signals)?;
    let log_path = dir.join("driver.log");
    let log = std::fs::File::create(&log_path)
        .map_err(|source| GuardianError::Log { path: log_path.clone(), source })?;
    let child = Command::new(driver)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|source| GuardianError::Start { driver: driver.clone(), source })?;
    let driver_pid = child.id();

    let (sender, ended) = mpsc::channel();
    let input_ended = sender.clone();
    std::thread::spawn(move || {
        let mut sink = [0u8; 64];
        let mut input = std::io::stdin();
        while !matches!(input.read(&mut sink), Ok(0) | Err(_)) {}
        // The receiver is gone only when this process is about to exit.
        let _ = input_ended.send(Ended::Daemon);
    });
    let reaper = std::thread::spawn(move || {
        // Ends with ECHILD: no child is left, adopted ones included.
        loop {
            match rustix::process::wait(WaitOptions::empty()) {
                Ok(Some((pid, _))) if pid.as_raw_nonzero().get() as u32 == driver_pid => {
                    let _ = sender.send(Ended::Driver);
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    });
    match ended.recv() {
        Ok(Ended::Daemon | Ended::Driver) | Err(mpsc::RecvError) => {}
    }
    // New children may be forked while the old ones are killed; the reaper's end proves that none is left.
    while !reaper.is_finished() {
        for pid in descendants(std::process::id()) {
            kill(pid);
        }
        std::thread::yield_now();
    }
    // The browser's profile. Another user's file or a full disk must not keep this process from ending.
    if let Err(error) = std::fs::remove_dir_all(dir) {
        eprintln!("guardian: cannot remove {}: {error}", dir.display());
    }
    Ok(())
}

/// Signals that are meant for the daemon, which answers what it has accepted before it ends its browsers, are taken and
/// left at that here: they often go to every process of a name or a group. The driver has its own say, for handlers do
/// not survive `exec`.
fn outlive_signals() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut streams = {
        let _entered = runtime.enter();
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .into_iter()
            .map(signal)
            .collect::<std::io::Result<Vec<_>>>()?
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            for stream in &mut streams {
                while stream.recv().await.is_some() {}
            }
        });
    });
    Ok(())
}

/// Sends SIGKILL; a process that is already gone is what was wanted.
pub fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// Whether a process with this id exists and is not a zombie.
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(_, state)| state != 'Z' && state != 'X')
}

/// Process ids of everything under `root`, `root` excluded.
pub fn descendants(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for pid in pids() {
        if let Some((parent, _)) = stat(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(parent) = open.pop() {
        for &child in children.get(&parent).map_or(&[][..], Vec::as_slice) {
            found.push(child);
            open.push(child);
        }
    }
    found
}

/// Those of them whose command line ends with this word.
pub fn descendants_named(root: u32, last: &str) -> Vec<u32> {
    let mut found = descendants(root);
    found.retain(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // A process that a fork server made has written its arguments anew, with spaces.
        let mut words = line.split(|&byte| byte == 0 || byte == b' ').rev();
        words.find(|word| !word.is_empty()) == Some(last.as_bytes())
    });
    found
}

/// Kills processes that carry `data_dir_id`'s mark and whose daemon is dead: what a guardian that was itself killed left.
/// Returns their ids.
pub fn reconcile(data_dir_id: &str) -> Vec<u32> {
    let is_left_over = |mark: &str| {
        let mut parts = mark.split(':');
        let is_own = parts.next() == Some(data_dir_id);
        is_own
            && parts
                .next()
                .and_then(|daemon| daemon.parse().ok())
                .is_some_and(|daemon| !is_alive(daemon))
    };
    let mut killed =
        marks().filter(|(_, mark)| is_left_over(mark)).map(|(pid, _)| pid).collect::<Vec<_>>();
    killed.retain(|&pid| pid != std::process::id());
    killed.iter().copied().for_each(kill);
    killed
}

/// Ids of the processes that carry exactly this mark.
pub fn marked(mark: &str) -> Vec<u32> {
    marks().filter(|(_, other)| other == mark).map(|(pid, _)| pid).collect()
}

/// Every process with a mark. A zombie has none.
fn marks() -> impl Iterator<Item = (u32, String)> {
    pids().into_iter().filter_map(|pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let mark = environment
            .split(|&byte| byte == 0)
            .find_map(|variable| variable.strip_prefix(MARK.as_bytes())?.strip_prefix(b"="))?;
        Some((pid, String::from_utf8(mark.to_vec()).ok()?))
    })
}

/// Proportional set size of a process tree in bytes, `root` included; processes that end meanwhile count nothing. The
/// kernel walks every page table for this: some 50 ms for a browser's processes.
pub fn tree_pss_bytes(root: u32) -> u64 {
    std::iter::once(root).chain(descendants(root)).filter_map(pss_bytes).sum()
}

/// The sum of the processes' resident sets in bytes, which counts shared pages once for each process: too much to hold
/// against a limit, but it is had for nearly nothing and changes whenever [`tree_pss_bytes`] does.
pub fn tree_resident_bytes(root: u32) -> u64 {
    let page_bytes = rustix::param::page_size() as u64;
    let pages = |pid: u32| {
        let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        statm.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let processes = std::iter::once(root).chain(descendants(root));
    processes.filter_map(pages).sum::<u64>() * page_bytes
}

fn pss_bytes(pid: u32) -> Option<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn pids() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Parent and state of a process.
fn stat(pid: u32) -> Option<(u32, char)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may itself hold spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.next()?.parse().ok()?, state))
}
