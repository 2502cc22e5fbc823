//! Where browsers and drivers are on this machine.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use crate::{Build, Kind, build::CHROME_WEBNN};

/// A browser and its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The browser's program.
    pub browser: PathBuf,
    /// Its WebDriver.
    pub driver: PathBuf,
}

/// A program that is needed and was not found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is not installed: none of {} was found; {remedy}", looked_for.join(", "))]
pub struct NotInstalled {
    /// What is missing.
    pub what: String,
    /// Names and paths that were tried.
    pub looked_for: Vec<String>,
    /// What to do.
    pub remedy: String,
}

/// Finds a build's browser and driver: what the build names, else what `FLOTILLA_CHROME`, `FLOTILLA_CHROMEDRIVER`,
/// `FLOTILLA_FIREFOX`, `FLOTILLA_GECKODRIVER`, `FLOTILLA_EDGE`, `FLOTILLA_MSEDGEDRIVER` name, else the usual places, then `PATH`, then this program's own folder of
/// tools.
///
/// # Errors
/// A program is missing; the error lists where it was searched and how to get it.
pub fn find(build: &Build) -> Result<Installed, NotInstalled> {
    let place = Place {
        path: std::env::var_os("PATH"),
        tools: tools_dir(),
        variable: |name: &str| std::env::var_os(name),
    };
    place.find(build)
}

/// Where this program keeps drivers that it installed itself.
fn tools_dir() -> PathBuf {
    crate::home_dir().join("bin")
}

struct Place<V> {
    path: Option<OsString>,
    tools: PathBuf,
    variable: V,
}

impl<V: Fn(&str) -> Option<OsString>> Place<V> {
    fn find(&self, build: &Build) -> Result<Installed, NotInstalled> {
        let (browser, driver) = programs(build.kind);
        Ok(Installed {
            browser: self.program(build, build.binary.as_deref(), &browser)?,
            driver: self.program(build, build.driver.as_deref(), &driver)?,
        })
    }

    fn program(
        &self,
        build: &Build,
        named: Option<&Path>,
        usual: &Usual,
    ) -> Result<PathBuf, NotInstalled> {
        let missing = |looked_for: Vec<String>, remedy: String| NotInstalled {
            what: format!("{} for {}", usual.what, build.name),
            looked_for,
            remedy,
        };
        if let Some(named) = named {
            return self.on_path(named).ok_or_else(|| {
                let remedy = if build.name == CHROME_WEBNN {
                    "run `cargo xtask setup`, or name the program with FLOTILLA_CHROME_WEBNN"
                } else {
                    "its configuration names it"
                };
                missing(vec![named.display().to_string()], remedy.to_owned())
            });
        }
        let variable = usual.variable;
        let remedy = match build.kind {
            Kind::Chrome | Kind::Firefox => {
                format!("run `cargo xtask setup`, or name the program with {variable}")
            }
            Kind::Edge => format!("install it, or name the program with {variable}"),
        };
        if let Some(named) = (self.variable)(variable).filter(|named| !named.is_empty()) {
            let named = PathBuf::from(named);
            return if is_program(&named) {
                Ok(named)
            } else {
                Err(missing(vec![format!("{} ({variable})", named.display())], remedy))
            };
        }
        let names = || usual.names.iter().filter(|name| is_of_this_system(name));
        names()
            .find_map(|name| self.on_path(Path::new(name)))
            .ok_or_else(|| missing(names().map(ToString::to_string).collect(), remedy))
    }

    /// Resolves a program: a path is taken as it is, a name is searched on `PATH` and among the tools.
    fn on_path(&self, name: &Path) -> Option<PathBuf> {
        if name.components().count() > 1 {
            return is_program(name).then(|| name.to_owned());
        }
        let folders = self.path.iter().flat_map(std::env::split_paths).chain([self.tools.clone()]);
        let mut file = name.as_os_str().to_owned();
        if name.extension().is_none() {
            file.push(std::env::consts::EXE_SUFFIX);
        }
        folders.map(|folder| folder.join(&file)).find(|path| is_program(path))
    }
}

/// Whether a usual path can be one here; bare names can everywhere.
fn is_of_this_system(name: &str) -> bool {
    let is_windows = name.contains('\\');
    let is_macos = name.starts_with("/Applications/");
    (!is_windows || cfg!(windows)) && (!is_macos || cfg!(target_os = "macos"))
}

/// A program where it usually is.
struct Usual {
    what: &'static str,
    /// The environment variable that names it.
    variable: &'static str,
    names: &'static [&'static str],
}

/// Browser and driver of a kind. Of several channels the most stable one comes first.
fn programs(kind: Kind) -> (Usual, Usual) {
    match kind {
        Kind::Chrome => (
            Usual {
                what: "Chromium",
                variable: "FLOTILLA_CHROME",
                names: &[
                    // Debian's `chromium` on PATH is a wrapper script that adds flags of its own: the program itself comes first.
                    "/usr/lib/chromium/chromium",
                    "/opt/google/chrome/chrome",
                    "/opt/google/chrome-beta/chrome",
                    "/opt/google/chrome-unstable/chrome",
                    "/opt/google/chrome-canary/chrome",
                    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
                    "/Applications/Google Chrome Beta.app/Contents/MacOS/Google Chrome Beta",
                    "/Applications/Google Chrome Dev.app/Contents/MacOS/Google Chrome Dev",
                    "/Applications/Google Chrome Canary.app/Contents/MacOS/Google Chrome Canary",
                    "/Applications/Chromium.app/Contents/MacOS/Chromium",
                    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
                    r"C:\Program Files (x86)\Google\Chrome\Application\chrome.exe",
                    r"C:\Program Files\Google\Chrome Beta\Application\chrome.exe",
                    r"C:\Program Files\Google\Chrome Dev\Application\chrome.exe",
                    "google-chrome",
                    "google-chrome-stable",
                    "google-chrome-beta",
                    "google-chrome-unstable",
                    "chromium",
                    "chromium-browser",
                    "chrome",
                ],
            },
            Usual {
                what: "ChromeDriver",
                variable: "FLOTILLA_CHROMEDRIVER",
                names: &["chromedriver"],
            },
        ),
        Kind::Firefox => (
            Usual {
                what: "Firefox",
                variable: "FLOTILLA_FIREFOX",
                names: &[
                    "/usr/lib/firefox-esr/firefox-esr",
                    "/Applications/Firefox.app/Contents/MacOS/firefox",
                    r"C:\Program Files\Mozilla Firefox\firefox.exe",
                    "firefox-esr",
                    "firefox",
                ],
            },
            Usual {
                what: "geckodriver",
                variable: "FLOTILLA_GECKODRIVER",
                names: &["geckodriver"],
            },
        ),
        Kind::Edge => (
            Usual {
                what: "Microsoft Edge",
                variable: "FLOTILLA_EDGE",
                names: &[
                    "/opt/microsoft/msedge/msedge",
                    "/opt/microsoft/msedge-beta/msedge",
                    "/opt/microsoft/msedge-dev/msedge",
                    "/opt/microsoft/msedge-canary/msedge",
                    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
                    "/Applications/Microsoft Edge Beta.app/Contents/MacOS/Microsoft Edge Beta",
                    "/Applications/Microsoft Edge Dev.app/Contents/MacOS/Microsoft Edge Dev",
                    "/Applications/Microsoft Edge Canary.app/Contents/MacOS/Microsoft Edge Canary",
                    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
                    r"C:\Program Files (x86)\Microsoft\Edge Beta\Application\msedge.exe",
                    r"C:\Program Files (x86)\Microsoft\Edge Dev\Application\msedge.exe",
                    "microsoft-edge",
                    "microsoft-edge-stable",
                    "microsoft-edge-beta",
                    "microsoft-edge-dev",
                    "msedge",
                ],
            },
            Usual {
                what: "Microsoft Edge WebDriver",
                variable: "FLOTILLA_MSEDGEDRIVER",
                names: &["msedgedriver"],
            },
        ),
    }
}

#[cfg(not(unix))]
fn is_program(path: &Path) -> bool {
    path.is_file()
}

#[cfg(unix)]
fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_program_that_is_not_there_is_an_error_that_names_it() {
        let place = Place {
            path: None,
            tools: PathBuf::from("/nonexistent"),
            variable: |name: &str| {
                (name == "FLOTILLA_CHROME").then(|| OsString::from("/no/such/chrome"))
            },
        };
        let error = place.find(&Kind::Chrome.into()).expect_err("nothing is there").to_string();
        assert!(error.contains("/no/such/chrome") && error.contains("FLOTILLA_CHROME"), "{error}");
    }

    #[test]
    fn every_usual_path_of_a_channel_is_known_for_it() {
        use crate::Channel;
        for kind in [Kind::Chrome, Kind::Edge] {
            let (browser, _) = programs(kind);
            let vendors = |name: &&&str| {
                (name.contains('/') || name.contains('\\'))
                    && !name.to_lowercase().contains("chromium")
            };
            for path in browser.names.iter().filter(vendors) {
                let channel = Channel::of(kind, Path::new(path), "1.2.3.4");
                assert_ne!(channel, Channel::Unknown, "{path}");
            }
        }
    }

    #[test]
    fn edge_is_looked_for_by_its_own_names() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let place = |edge: bool, path: &Path| Place {
            path: Some(path.as_os_str().to_owned()),
            tools: PathBuf::from("/nonexistent"),
            variable: move |name: &str| {
                (edge && name == "FLOTILLA_EDGE").then(|| OsString::from("/no/such/edge"))
            },
        };
        for name in ["microsoft-edge-beta", "msedgedriver"] {
            let missing = place(false, dir.path()).find(&Kind::Edge.into()).expect_err("a part");
            assert!(missing.to_string().contains(name), "{missing}");
            let program = dir.path().join(name);
            std::fs::write(&program, "").expect("written");
            std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .expect("mode");
        }
        let installed = place(false, dir.path()).find(&Kind::Edge.into()).expect("both");
        assert_eq!(installed.browser, dir.path().join("microsoft-edge-beta"));
        assert_eq!(installed.driver, dir.path().join("msedgedriver"));
        let named = place(true, dir.path()).find(&Kind::Edge.into()).expect_err("not there");
        assert!(named.to_string().contains("/no/such/edge (FLOTILLA_EDGE)"), "{named}");
    }

    #[test]
    fn drivers_are_found_in_the_tools_folder() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let driver = dir.path().join("geckodriver");
        std::fs::write(&driver, "").expect("written");
        std::fs::set_permissions(&driver, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("mode");
        let place = Place { path: None, tools: dir.path().to_owned(), variable: |_: &str| None };
        assert_eq!(place.on_path(Path::new("geckodriver")), Some(driver));
        assert_eq!(place.on_path(Path::new("chromedriver")), None);
    }
}
