//! The small process between the daemon and a driver, which ends the browser however the daemon ends.
//!
//! The daemon starts `flotilla guardian --dir DIR -- DRIVER ARGS..` in a process group of its own and keeps the writing end
//! of its standard input. The guardian is the subreaper of all that the driver starts, so that nothing under it can
//! escape by forking twice. When its input ends, or the driver does, it kills every descendant, waits until none is left,
//! removes `DIR`, and exits.

use std::{
    collections::BTreeMap,
    io::Read,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitOptions},
};

/// Environment variable that marks every process under a guardian with `<data dir id>:<daemon's process id>:<browser>`.
pub const MARK: &str = "FLOTILLA_GUARDED";

/// How the names of browsers' folders begin.
const FOLDER_PREFIX: &str = "flotilla-browser-";
/// Where browsers' folders are when the disk of the system's folder for temporary files is too full: in memory.
const SHARED_MEMORY: &str = "/dev/shm";
/// Smallest part of a disk, one in so many, that must be free for a browser's folder. Chromium 153 keeps WebNN's constants of
/// more than some 100 MB in a file, and refuses them ("Buffer size is over inline limit") where less than a tenth of the disk
/// is free, however much that is.
const FREE_PART_MIN: u64 = 8;
/// Least room for a browser's folder where it lies in memory, bytes: profile, and tensors on their way between processes.
const SHARED_MEMORY_ROOM_MIN: u64 = 1 << 30;
/// The file in such a folder that holds the mark of the folder's processes.
const FOLDER_MARK: &str = "guarded";
/// Most of a driver's log that is kept.
const LOG_BYTES_MAX: u64 = 8 << 20;
/// Time between two checks of processes that are being killed.
const KILL_POLL: Duration = Duration::from_millis(20);
/// Longest wait for killed processes to be gone.
const KILL_MAX: Duration = Duration::from_secs(5);

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
    /// No process is left under this one.
    All,
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
    let mut child = Command::new(driver)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| GuardianError::Start { driver: driver.clone(), source })?;
    let driver_pid = child.id();
    if let Some(stderr) = child.stderr.take() {
        std::thread::spawn(move || write_log(stderr, log));
    }

    let (sender, ended) = mpsc::channel();
    let input_ended = sender.clone();
    std::thread::spawn(move || {
        let mut sink = [0u8; 64];
        let mut input = std::io::stdin();
        while !matches!(input.read(&mut sink), Ok(0) | Err(_)) {}
        // The receiver is dropped only when this process is about to exit.
        let _ = input_ended.send(Ended::Daemon);
    });
    std::thread::spawn(move || {
        // Ends with ECHILD: no child is left, adopted ones included.
        loop {
            match rustix::process::wait(WaitOptions::empty()) {
                Ok(Some((pid, _))) if pid.as_raw_nonzero().get() as u32 == driver_pid => {
                    let _ = sender.send(Ended::Driver);
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        // The receiver is dropped only when this process is about to exit.
        let _ = sender.send(Ended::All);
    });
    let mut last = ended.recv();
    // New children may be forked while the old ones are killed, so this is repeated until none is left.
    while !matches!(last, Ok(Ended::All)) {
        for pid in descendants(std::process::id()) {
            kill(pid);
        }
        last = match ended.recv_timeout(KILL_POLL) {
            Ok(ended) => Ok(ended),
            Err(mpsc::RecvTimeoutError::Timeout) => Ok(Ended::Daemon),
            // Cannot happen: the reaper always sends before it ends.
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        };
    }
    // The browser's profile. Another user's file or a full disk must not keep this process from ending.
    if let Err(error) = std::fs::remove_dir_all(dir) {
        eprintln!("guardian: cannot remove {}: {error}", dir.display());
    }
    Ok(())
}

/// Copies the beginning of a driver's and its browser's output, and drops the rest, so that they are never blocked by a full
/// pipe.
fn write_log(mut from: impl Read, mut log: std::fs::File) {
    // If the disk is full, only the log is incomplete; the output is still read.
    let _ = std::io::copy(&mut from.by_ref().take(LOG_BYTES_MAX), &mut log);
    let _ = std::io::copy(&mut from, &mut std::io::sink());
}

/// Catches and ignores the signals that end the daemon, because they are often sent to all processes of a name or group, and
/// the daemon must answer accepted requests before its browsers end. The driver does not inherit this, because handlers do not
/// survive `exec`.
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

/// Sends SIGKILL; it is not an error if the process has already ended.
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

/// Descendants of `root` whose command line ends with this word.
pub fn descendants_named(root: u32, last: &str) -> Vec<u32> {
    let mut found = descendants(root);
    found.retain(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // A process made by a fork server has overwritten its arguments, separated by spaces.
        let mut words = line.split(|&byte| byte == 0 || byte == b' ').rev();
        words.find(|word| !word.is_empty()) == Some(last.as_bytes())
    });
    found
}

/// Makes a folder for a browser whose processes carry this mark: for its profile and all files of browser and driver.
///
/// # Errors
/// It cannot be made.
pub fn folder(mark: &str) -> std::io::Result<tempfile::TempDir> {
    let place = place_with_room().unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::Builder::new().prefix(FOLDER_PREFIX).tempdir_in(place)?;
    std::fs::write(folder.path().join(FOLDER_MARK), mark)?;
    Ok(folder)
}

/// Where a browser's folder can be so that the browser accepts constants of every size: the system's folder for temporary
/// files, or `/dev/shm` if the disk of the former is too full. None if neither has room; browsers then still start, but refuse
/// large constants of WebNN.
pub fn place_with_room() -> Option<PathBuf> {
    let [temporary, memory] = places();
    let is_chosen =
        |place: &Path, least_bytes| free(place).is_some_and(|free| free.is_enough(least_bytes));
    if is_chosen(&temporary, 0) {
        return Some(temporary);
    }
    is_chosen(&memory, SHARED_MEMORY_ROOM_MIN).then_some(memory)
}

/// All places where browsers' folders may be.
fn places() -> [PathBuf; 2] {
    [std::env::temp_dir(), PathBuf::from(SHARED_MEMORY)]
}

/// Free and total size of a disk, in bytes.
#[derive(Clone, Copy, Debug)]
struct Free {
    bytes: u64,
    of: u64,
}

impl Free {
    fn is_enough(self, least_bytes: u64) -> bool {
        self.bytes >= least_bytes && self.bytes >= self.of / FREE_PART_MIN
    }
}

/// Free space of the disk of `place` for unprivileged users, which is what Chromium checks. None if it cannot be read.
fn free(place: &Path) -> Option<Free> {
    let disk = rustix::fs::statvfs(place).ok()?;
    Some(Free { bytes: disk.f_bavail * disk.f_frsize, of: disk.f_blocks * disk.f_frsize })
}

/// Processes and folders of guardians that were themselves killed.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Processes that were killed.
    pub pids: Vec<u32>,
    /// Folders that were removed.
    pub folders: Vec<PathBuf>,
}

/// Kills processes that carry `data_dir_id`'s mark and whose daemon is dead, and then removes their folders. Waits for the
/// processes, up to five seconds.
pub fn reconcile(data_dir_id: &str) -> Leftovers {
    let is_left_over = |mark: &str| {
        let mut parts = mark.split(':');
        let is_own = parts.next() == Some(data_dir_id);
        is_own
            && parts
                .next()
                .and_then(|daemon| daemon.parse().ok())
                .is_some_and(|daemon| !is_alive(daemon))
    };
    let mut pids =
        marks().filter(|(_, mark)| is_left_over(mark)).map(|(pid, _)| pid).collect::<Vec<_>>();
    pids.retain(|&pid| pid != std::process::id());
    let deadline = Instant::now() + KILL_MAX;
    let handles: Vec<Option<OwnedFd>> = pids.iter().map(|&pid| handle(pid)).collect();
    pids.iter().copied().for_each(kill);
    handles.iter().flatten().for_each(|handle| await_exit(handle, deadline));
    let deadline = Instant::now() + KILL_MAX;
    let mut folders = marked_folders();
    folders.retain(|(folder, mark)| is_left_over(mark) && remove(folder, deadline));
    Leftovers { pids, folders: folders.into_iter().map(|(folder, _)| folder).collect() }
}

/// Removes a browser's folder; returns whether it is gone. Unmarked processes that end only after the marked ones may still
/// write into it, so it is tried until `deadline`.
fn remove(folder: &Path, deadline: Instant) -> bool {
    loop {
        match std::fs::remove_dir_all(folder) {
            Ok(()) => return true,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return true,
            Err(error) if Instant::now() >= deadline => {
                tracing::warn!(folder = %folder.display(), %error, "cannot remove a folder left by an earlier daemon");
                return false;
            }
            Err(_) => {
                let pause = Timespec { tv_sec: 0, tv_nsec: KILL_POLL.subsec_nanos().into() };
                // Polls no descriptors: it only waits.
                let _ = poll(&mut [], Some(&pause));
            }
        }
    }
}

/// A handle on a process; unlike its id it never refers to another one.
fn handle(pid: u32) -> Option<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Blocks until a process has ended, but not beyond `deadline`.
fn await_exit(handle: &OwnedFd, deadline: Instant) {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left =
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            // It has ended, or the time is over, or it cannot be polled.
            Ok(_) | Err(_) => return,
        }
    }
}

/// Browsers' folders and their marks.
fn marked_folders() -> Vec<(PathBuf, String)> {
    let entries = places().into_iter().filter_map(|place| std::fs::read_dir(place).ok()).flatten();
    let folders = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        // A link is not a browser's folder.
        let is_folder = entry.file_type().ok()?.is_dir();
        let is_named = entry.file_name().to_str()?.starts_with(FOLDER_PREFIX);
        let folder = (is_folder && is_named).then(|| entry.path())?;
        let mark = std::fs::read_to_string(folder.join(FOLDER_MARK)).ok()?;
        Some((folder, mark))
    });
    folders.collect()
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

/// The sum of the processes' resident sets in bytes, which counts shared pages once for each process. It is too large to
/// compare with a limit, but cheap to read, and it changes whenever [`tree_pss_bytes`] does.
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
    // The name is in parentheses and may itself contain spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.next()?.parse().ok()?, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_a_part_of_the_disk_and_in_memory_so_many_bytes_too() {
        let free = |bytes, of| Free { bytes, of };
        assert!(free(125, 1000).is_enough(0));
        assert!(!free(124, 1000).is_enough(0));
        assert!(
            !free(10 << 30, 250 << 30).is_enough(0),
            "many bytes are not enough of a large disk"
        );
        assert!(!free(64 << 20, 64 << 20).is_enough(SHARED_MEMORY_ROOM_MIN), "as in a container");
        assert!(free(24 << 30, 24 << 30).is_enough(SHARED_MEMORY_ROOM_MIN));
    }
}
