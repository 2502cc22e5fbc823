//! onnxruntime's shared library, the reference for models: unpacked once from a Python package into the user's data folder.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::console::Console;
use crate::workspace::{Workspace, run as run_visibly};

/// Its name, and its folder's.
pub(super) const NAME: &str = "onnxruntime";
/// The file in the unpacked folder with the length of each file. Hashes are checked when it is unpacked: setup must be quick
/// when there is nothing to do.
const STAMP: &str = "flotilla.json";
/// The wheels of one version of Python; which one does not matter for the library.
const PYTHON: [&str; 6] = ["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"];

/// The library as it is pinned, and where it goes.
#[derive(Debug)]
pub(super) struct Onnxruntime {
    sources: PathBuf,
    libraries: PathBuf,
    architecture: &'static str,
}

impl Onnxruntime {
    pub(super) fn new(workspace: &Workspace) -> Self {
        Self {
            sources: workspace.root.join("xtask").join(NAME),
            libraries: workspace.home.join("lib"),
            architecture: env::consts::ARCH,
        }
    }

    /// Why it cannot be used on this machine; `None` if it can.
    pub(super) fn impossible(&self) -> Option<String> {
        let is_known = env::consts::OS == "linux" && self.platform().is_some();
        (!is_known).then(|| {
            "setup unpacks it on Linux on x86-64 and aarch64 only; FLOTILLA_ONNXRUNTIME may name a library".to_owned()
        })
    }

    /// pip's name of this platform.
    fn platform(&self) -> Option<&'static str> {
        match self.architecture {
            "x86_64" => Some("manylinux_2_28_x86_64"),
            "aarch64" => Some("manylinux_2_28_aarch64"),
            _ => None,
        }
    }

    /// Whether the pinned files are complete.
    pub(super) fn is_installed(&self) -> anyhow::Result<bool> {
        let folder = self.libraries.join(NAME);
        let Ok(text) = fs::read(folder.join(STAMP)) else { return Ok(false) };
        let Ok(stamp) = serde_json::from_slice::<BTreeMap<String, u64>>(&text) else {
            return Ok(false);
        };
        let is_whole = |(name, bytes): (&String, &u64)| {
            fs::metadata(folder.join(name)).is_ok_and(|metadata| metadata.len() == *bytes)
        };
        Ok(stamp.keys().eq(self.files()?.iter()) && stamp.iter().all(is_whole))
    }

    /// Downloads the wheel with pip and unpacks it. It works in a folder beside the target, which is renamed when it is
    /// complete.
    pub(super) fn install(&self, console: &Console) -> anyhow::Result<()> {
        let Some(platform) = self.platform() else {
            bail!("onnxruntime has no wheel for this machine")
        };
        fs::create_dir_all(&self.libraries)
            .with_context(|| format!("cannot make {}", self.libraries.display()))?;
        let work = tempfile::Builder::new().prefix(".onnxruntime.").tempdir_in(&self.libraries)?;
        let (wheels, unpacked) = (work.path().join("wheels"), work.path().join(NAME));
        fs::create_dir(&wheels)?;
        fs::create_dir(&unpacked)?;
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]);
        pip.args(["--require-hashes", "--platform", platform]).args(PYTHON);
        pip.args(["--quiet", "--no-input", "--disable-pip-version-check", "--no-cache-dir"]);
        pip.arg("--requirement").arg(self.sources.join("requirements.txt"));
        // pip puts what it fetches into a temporary folder first.
        run_visibly(pip.arg("--dest").arg(&wheels).env("TMPDIR", &wheels))?;
        let is_wheel =
            |path: &PathBuf| path.extension().is_some_and(|extension| extension == "whl");
        let mut found = fs::read_dir(&wheels)?.flatten().map(|entry| entry.path());
        let wheel = found.find(is_wheel).context("pip downloaded no wheel")?;
        let target = self.libraries.join(NAME);
        console.say(format!("unpacking it into {}", target.display()));
        let mut unpack = Command::new("python3");
        unpack.arg(self.sources.join("unpack.py")).arg(wheel).arg(&unpacked).arg(self.architecture);
        run_visibly(&mut unpack)?;
        let lengths: BTreeMap<String, u64> = self
            .files()?
            .into_iter()
            .map(|name| Ok((name.clone(), fs::metadata(unpacked.join(name))?.len())))
            .collect::<anyhow::Result<_>>()?;
        fs::write(unpacked.join(STAMP), serde_json::to_vec_pretty(&lengths)?)?;
        if target.exists() {
            fs::remove_dir_all(&target)
                .with_context(|| format!("cannot replace {}", target.display()))?;
        }
        fs::rename(&unpacked, &target)
            .with_context(|| format!("cannot move it to {}", target.display()))
    }

    /// Names of the files that it consists of, in order.
    fn files(&self) -> anyhow::Result<Vec<String>> {
        let path = self.sources.join("files.json");
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let digests: Value = serde_json::from_slice(&text)
            .with_context(|| format!("cannot understand {}", path.display()))?;
        let files = digests[self.architecture].as_object();
        let names: Vec<String> =
            files.into_iter().flatten().map(|(name, _)| name.clone()).collect();
        ensure!(!names.is_empty(), "{} names no files", path.display());
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// As it is pinned, in a data folder of its own.
    fn in_folder(home: &Path) -> Onnxruntime {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join(NAME);
        Onnxruntime { sources, libraries: home.join("lib"), architecture: env::consts::ARCH }
    }

    #[test]
    fn only_the_whole_pinned_library_counts_as_installed() {
        let home = tempfile::tempdir().expect("folder");
        let onnxruntime = Onnxruntime { architecture: "x86_64", ..in_folder(home.path()) };
        let folder = onnxruntime.libraries.join(NAME);
        fs::create_dir_all(&folder).expect("folder");
        assert!(!onnxruntime.is_installed().expect("looked"), "nothing is there");
        let names = onnxruntime.files().expect("pinned files");
        let put = |names: &[String], bytes: u64| {
            let stamp: BTreeMap<&String, u64> = names.iter().map(|name| (name, bytes)).collect();
            fs::write(folder.join(STAMP), serde_json::to_vec(&stamp).expect("JSON"))
                .expect("stamp");
        };
        for name in &names {
            fs::write(folder.join(name), b"four").expect("file");
        }
        put(&names, 4);
        assert!(onnxruntime.is_installed().expect("looked"), "all is there");
        put(&names, 5);
        assert!(!onnxruntime.is_installed().expect("looked"), "a file is too short");
        put(&["libonnxruntime.so.1.0.0".to_owned()], 4);
        assert!(!onnxruntime.is_installed().expect("looked"), "another version is there");
        let other = Onnxruntime { architecture: "sparc", ..in_folder(home.path()) };
        assert!(other.impossible().is_some() && other.files().is_err());
    }

    #[test]
    fn it_is_installed_once() {
        let home = tempfile::tempdir().expect("folder");
        let onnxruntime = in_folder(home.path());
        if let Some(reason) = onnxruntime.impossible() {
            return println!("skipped: {reason}");
        }
        match onnxruntime.install(&Console::new()) {
            Ok(()) => {}
            Err(error) if env::var_os("CI").is_some() => panic!("{error:#}"),
            Err(error) => return println!("skipped: {error:#}"),
        }
        assert!(onnxruntime.is_installed().expect("looked"));
        let entries = fs::read_dir(&onnxruntime.libraries).expect("folder").flatten();
        let names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
        assert_eq!(names, [NAME], "nothing else is left");
        let folder = onnxruntime.libraries.join(NAME);
        assert_eq!(fs::read_dir(folder).expect("folder").count(), 3, "library, licence and stamp");
    }
}
