//! Makes the files of the cases with Python packages, in virtual environments below the target folder.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};

use crate::case::Facts;

/// The folder of cases; exported if it does not exist or was made by another version of the exporter.
///
/// # Errors
/// Python, its packages or the folder are not available.
pub fn cases() -> anyhow::Result<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    let venv = Venv::locked("conformance", &sources.join("requirements.txt"), &[])?;
    let cases = venv.folder.join("cases");
    let script = sources.join("export.py");
    let of = [venv.installed.as_slice(), &fs::read(&script)?].concat();
    let exported = Stamp { path: venv.folder.join("cases.stamp"), of };
    if !exported.holds(&cases.join("index.json")) {
        succeed(Command::new(venv.python()).arg("-I").arg(&script).arg(&cases))?;
        exported.set()?;
    }
    Ok(cases)
}

/// Models inside packages, with native onnxruntime's results for recorded inputs: name, and path in the folder of packages.
const PACKAGED: [(&str, &str); 4] = [
    ("rapidocr-v2-cls", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    ("rapidocr-v4-det", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"),
    ("silero-vad", "silero_vad/data/silero_vad.onnx"),
    ("silero-vad-sequence", "silero_vad/data/silero_vad_16k_sequence.onnx"),
];

/// A part of the zoo as a folder of cases: files that others wrote. The packages are installed without their dependencies.
///
/// # Errors
/// As [`cases`].
pub fn packaged() -> anyhow::Result<(PathBuf, Vec<Facts>)> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../zoo/part");
    let venv = Venv::locked("zoo-part", &sources.join("requirements.txt"), &["--no-deps"])?;
    let library = venv.library()?;
    let cases = venv.folder.join("cases");
    let (mut all, mut files) = (Vec::new(), Vec::new());
    for (name, path) in PACKAGED {
        files.push((library.join(path), cases.join(name).join("model.onnx")));
        let mut data = Vec::new();
        for entry in fs::read_dir(sources.join(name))? {
            let file = entry?.file_name();
            files.push((sources.join(name).join(&file), cases.join(name).join(&file)));
            data.push(file.to_string_lossy().into_owned());
        }
        data.sort();
        all.push(Facts::of_file(name, data));
    }
    files.sort();
    // The versions are in the list of packages.
    let mut of = venv.installed.clone();
    for (from, _) in files.iter().filter(|(from, _)| from.starts_with(&sources)) {
        of.extend(fs::read(from).with_context(|| format!("cannot read {}", from.display()))?);
    }
    // Another run may be reading the existing files.
    let copied = Stamp { path: venv.folder.join("cases.stamp"), of };
    if !copied.holds(&cases) {
        for (from, to) in &files {
            fs::create_dir_all(to.parent().unwrap_or(&cases))?;
            fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
        copied.set()?;
    }
    Ok((cases, all))
}

/// A Python virtual environment that no other process makes or changes meanwhile.
struct Venv {
    /// Its folder.
    folder: PathBuf,
    /// The list of its packages.
    installed: Vec<u8>,
    _lock: File,
}

impl Venv {
    /// Makes it in a folder below the target folder, unless it is there.
    fn locked(name: &str, requirements: &Path, options: &[&str]) -> anyhow::Result<Venv> {
        let folder = target().join(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        // Two runs may get here at the same time.
        let lock = File::create(folder.join("lock")).context("cannot make a lock file")?;
        lock.lock().context("cannot lock the folder")?;
        let of = fs::read(requirements)
            .with_context(|| format!("cannot read {}", requirements.display()))?;
        let stamp = Stamp { path: folder.join("venv.stamp"), of };
        let venv = Venv { folder, installed: stamp.of.clone(), _lock: lock };
        if !stamp.holds(&venv.python()) {
            let path = venv.folder.join("venv");
            succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(path))?;
            let mut pip = Command::new(venv.python());
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
            succeed(pip.args(options).arg("--requirement").arg(requirements))?;
            stamp.set()?;
        }
        Ok(venv)
    }

    fn python(&self) -> PathBuf {
        self.folder.join("venv/bin/python")
    }

    /// The folder of packages.
    fn library(&self) -> anyhow::Result<PathBuf> {
        let versions = fs::read_dir(self.folder.join("venv/lib"))?;
        let version = versions.flatten().next().context("the environment has no library")?;
        Ok(version.path().join("site-packages"))
    }
}

/// Cargo's target folder.
pub fn target() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.unwrap_or(Path::new(".")).join("target"), PathBuf::from)
}

/// A file that records from what something was made.
struct Stamp {
    path: PathBuf,
    of: Vec<u8>,
}

impl Stamp {
    fn holds(&self, made: &Path) -> bool {
        made.exists() && fs::read(&self.path).is_ok_and(|of| of == self.of)
    }

    fn set(&self) -> anyhow::Result<()> {
        fs::write(&self.path, &self.of)
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().display().to_string();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program} cannot be started"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let last =
        said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it printed no message");
    ensure!(output.status.success(), "{program} failed: {last}");
    Ok(())
}
