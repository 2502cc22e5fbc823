//! Debian packages through apt-get, with its progress as a bar.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use indicatif::ProgressBar;

use super::succeeds;
use crate::console::Console;

/// Lists older than this may name versions that the mirrors no longer have.
const LISTS_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Where apt keeps its lists of packages.
const LISTS: &str = "/var/lib/apt/lists";

/// apt-get with the right to install.
#[derive(Debug)]
pub(super) struct Apt {
    /// What comes before the arguments: `apt-get`, or `sudo -n ... apt-get`.
    prefix: Vec<String>,
}

impl Apt {
    /// Looks for apt-get and for a way to be root; the error names what is missing.
    pub(super) fn find() -> Result<Self, String> {
        if !succeeds("apt-get", &["--version"]) {
            return Err("there is no apt-get on this machine: install it by hand".to_owned());
        }
        let is_root = Command::new("id")
            .arg("-u")
            .output()
            .is_ok_and(|output| output.stdout.trim_ascii() == b"0");
        let words: &[&str] = if is_root {
            &["apt-get"]
        } else if succeeds("sudo", &["-n", "true"]) {
            // sudo clears the environment, so what apt-get needs of it is set behind sudo.
            &["sudo", "-n", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
        } else {
            return Err("installing needs root and sudo asks for a password: run `sudo -v`, then this again".to_owned());
        };
        Ok(Self { prefix: words.iter().map(|word| (*word).to_owned()).collect() })
    }

    /// Installs packages. If one cannot be installed, the others still are; the error is that one's.
    pub(super) fn install(&self, console: &Console, packages: &[&str]) -> Result<(), String> {
        console.say(format!("installing with apt-get: {}", packages.join(" ")));
        if lists_are_old(Path::new(LISTS)) {
            // If a mirror is down, the existing lists may still be enough.
            if let Err(reason) = self.call(console, "updating the lists of packages", &["update"]) {
                console.say(format!("apt-get update: {reason}"));
            }
        }
        if self.install_at_once(console, packages).is_ok() {
            return Ok(());
        }
        let mut refusal = Ok(());
        for package in packages {
            if let Err(reason) = self.install_at_once(console, &[package]) {
                refusal = Err(format!("apt-get install {package}: {reason}"));
            }
        }
        refusal
    }

    fn install_at_once(&self, console: &Console, packages: &[&str]) -> Result<(), String> {
        let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
        arguments.extend(packages);
        self.call(console, &format!("apt-get install {}", packages.join(" ")), &arguments)
    }

    /// Runs apt-get to its end; the error is the last it printed.
    fn call(&self, console: &Console, what: &str, arguments: &[&str]) -> Result<(), String> {
        let mut apt = Command::new(&self.prefix[0]);
        apt.args(&self.prefix[1..])
            .args(["-q", "-o", "APT::Status-Fd=1", "-o", "Dpkg::Use-Pty=0"])
            .args(arguments);
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = apt.spawn().map_err(|error| error.to_string())?;
        let stderr = child.stderr.take();
        let errors = thread::spawn(move || {
            let mut text = String::new();
            if let Some(mut stderr) = stderr {
                // If stderr cannot be read, the exit status is still reported.
                let _ = stderr.read_to_string(&mut text);
            }
            text
        });
        let bar = console.percent(what);
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                show(&bar, &line);
            }
        }
        bar.finish_and_clear();
        let status = child.wait().map_err(|error| error.to_string())?;
        let errors = errors.join().unwrap_or_default();
        if status.success() {
            return Ok(());
        }
        let reported = errors
            .lines()
            .rev()
            .find(|line| line.starts_with("E:"))
            .or_else(|| errors.lines().next_back());
        Err(reported.map_or_else(
            || status.to_string(),
            |line| line.trim_start_matches("E:").trim().to_owned(),
        ))
    }
}

/// Moves the bar by a line of apt's status: downloads are its first half, unpacking and setting up its second.
fn show(bar: &ProgressBar, line: &str) {
    if let Some(position) = position(line) {
        bar.set_position(position);
    }
}

fn position(line: &str) -> Option<u64> {
    let mut fields = line.split(':');
    let start = match fields.next()? {
        "dlstatus" => 0,
        "pmstatus" => 50,
        _ => return None,
    };
    let percent: f64 = fields.nth(1)?.trim().parse().ok()?;
    (0.0..=100.0).contains(&percent).then(|| start + (percent / 2.0) as u64)
}

fn lists_are_old(lists: &Path) -> bool {
    let Ok(entries) = fs::read_dir(lists) else { return true };
    let newest = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
        .filter_map(|entry| entry.metadata().ok()?.modified().ok()?.elapsed().ok())
        .min();
    newest.is_none_or(|age| age > LISTS_AGE_MAX)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn status_lines_move_the_bar() {
        let table = [
            ("dlstatus:1:0.0000:Retrieving file 1 of 2", Some(0)),
            ("dlstatus:2:100.0000:Retrieving file 2 of 2", Some(50)),
            ("pmstatus:chromium:40.0000:Unpacking chromium", Some(70)),
            ("pmstatus:dpkg-exec:100.0:Running dpkg", Some(100)),
            ("pmstatus:chromium:nonsense:", None),
            ("Reading package lists...", None),
            ("", None),
        ];
        for (line, want) in table {
            assert_eq!(position(line), want, "{line}");
        }
    }

    #[test]
    fn one_bad_package_does_not_prevent_the_others() {
        let place = tempfile::tempdir().expect("folder");
        let log = place.path().join("log");
        let fake = place.path().join("apt-get");
        // Refuses any call that names `bad`, as apt-get does.
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in *bad*) echo 'E: Unable to locate package bad' >&2; exit 100;; esac\n\
             echo \"$*\" >> {}\necho 'dlstatus:1:50.0:x'\n",
            log.display()
        );
        fs::write(&fake, script).expect("script");
        fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).expect("mode");
        let apt = Apt { prefix: vec![fake.display().to_string()] };
        let reason =
            apt.install(&Console::new(), &["good", "bad", "fine"]).expect_err("bad is not there");
        assert_eq!(reason, "apt-get install bad: Unable to locate package bad");
        let calls = fs::read_to_string(&log).expect("log");
        let installed = calls.lines().filter(|line| line.contains("install")).count();
        assert!(installed == 2 && calls.contains(" good") && calls.contains(" fine"), "{calls}");
    }

    #[test]
    fn missing_lists_count_as_old() {
        let place = tempfile::tempdir().expect("folder");
        assert!(lists_are_old(&place.path().join("nothing")));
        assert!(lists_are_old(place.path()));
        fs::write(place.path().join("mirror_main_Packages"), "").expect("file");
        assert!(!lists_are_old(place.path()));
    }
}
