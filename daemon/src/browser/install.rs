//! Where browsers and drivers are on this machine.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use crate::browser::Kind;

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
    pub what: &'static str,
    /// Names and paths that were tried.
    pub looked_for: Vec<String>,
    /// What to do.
    pub remedy: String,
}

/// Finds a kind's browser and driver: `FLOTILLA_CHROME`, `FLOTILLA_CHROMEDRIVER`, `FLOTILLA_FIREFOX`,
/// `FLOTILLA_GECKODRIVER` first, then the usual places, then `PATH`, then this program's own folder of tools.
///
/// # Errors
/// What is missing, where it was looked for, and how to get it.
pub fn find(kind: Kind) -> Result<Installed, NotInstalled> {
    let place = Place {
        path: std::env::var_os("PATH"),
        tools: tools_dir(),
        variable: |name: &str| std::env::var_os(name),
    };
    place.find(kind)
}

/// Where this program keeps drivers that it installed itself.
pub fn tools_dir() -> PathBuf {
    crate::pull::home_dir().join("bin")
}

struct Place<V> {
    path: Option<OsString>,
    tools: PathBuf,
    variable: V,
}

impl<V: Fn(&str) -> Option<OsString>> Place<V> {
    fn find(&self, kind: Kind) -> Result<Installed, NotInstalled> {
        let remedy = "run `cargo xtask setup`, or name the program with";
        match kind {
            // Debian's `chromium` on PATH is a wrapper script that adds flags of its own: the program itself comes first.
            Kind::Chrome => Ok(Installed {
                browser: self.program(
                    "Chromium",
                    "FLOTILLA_CHROME",
                    &[
                        "/usr/lib/chromium/chromium",
                        "/opt/google/chrome/chrome",
                        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
                        "/Applications/Chromium.app/Contents/MacOS/Chromium",
                        "google-chrome",
                        "chromium",
                        "chromium-browser",
                    ],
                    remedy,
                )?,
                driver: self.program(
                    "ChromeDriver",
                    "FLOTILLA_CHROMEDRIVER",
                    &["chromedriver"],
                    remedy,
                )?,
            }),
            Kind::Firefox => Ok(Installed {
                browser: self.program(
                    "Firefox",
                    "FLOTILLA_FIREFOX",
                    &[
                        "/usr/lib/firefox-esr/firefox-esr",
                        "/Applications/Firefox.app/Contents/MacOS/firefox",
                        "firefox-esr",
                        "firefox",
                    ],
                    remedy,
                )?,
                driver: self.program(
                    "geckodriver",
                    "FLOTILLA_GECKODRIVER",
                    &["geckodriver"],
                    remedy,
                )?,
            }),
        }
    }

    fn program(
        &self,
        what: &'static str,
        variable: &str,
        names: &[&str],
        remedy: &str,
    ) -> Result<PathBuf, NotInstalled> {
        let remedy = format!("{remedy} {variable}");
        if let Some(named) = (self.variable)(variable).filter(|named| !named.is_empty()) {
            let named = PathBuf::from(named);
            return if is_program(&named) {
                Ok(named)
            } else {
                Err(NotInstalled {
                    what,
                    looked_for: vec![format!("{} ({variable})", named.display())],
                    remedy,
                })
            };
        }
        names.iter().find_map(|name| self.on_path(name)).ok_or_else(|| NotInstalled {
            what,
            looked_for: names.iter().map(|name| (*name).to_owned()).collect(),
            remedy,
        })
    }

    fn on_path(&self, name: &str) -> Option<PathBuf> {
        if name.starts_with('/') {
            let path = PathBuf::from(name);
            return is_program(&path).then_some(path);
        }
        let folders = self.path.iter().flat_map(std::env::split_paths).chain([self.tools.clone()]);
        folders.map(|folder| folder.join(name)).find(|path| is_program(path))
    }
}

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
        let error = place.find(Kind::Chrome).expect_err("nothing is there").to_string();
        assert!(error.contains("/no/such/chrome") && error.contains("FLOTILLA_CHROME"), "{error}");
    }

    #[test]
    fn drivers_are_found_in_the_tools_folder() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let driver = dir.path().join("geckodriver");
        std::fs::write(&driver, "").expect("written");
        std::fs::set_permissions(&driver, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("mode");
        let place = Place { path: None, tools: dir.path().to_owned(), variable: |_: &str| None };
        assert_eq!(place.on_path("geckodriver"), Some(driver));
        assert_eq!(place.on_path("chromedriver"), None);
    }
}
