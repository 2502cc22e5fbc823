//! What can be started: a browser's program under the name by which it is asked for.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize, Serializer};

use crate::{Adapter, BROWSERS_MAX, Kind, home_dir};

/// The build of Chromium whose WebNN computes, as `cargo xtask setup` unpacks it.
pub const CHROME_WEBNN: &str = "chrome-webnn";

/// A browser's program, its driver, and how they are started.
#[derive(Clone, Debug, PartialEq)]
pub struct Build {
    /// Name in options, answers and tables.
    pub name: String,
    /// How it is driven.
    pub kind: Kind,
    /// Its program; `None` for the one that is found (see `install::find`).
    pub binary: Option<PathBuf>,
    /// Its WebDriver; `None` for the one that is found.
    pub driver: Option<PathBuf>,
    /// Arguments beside those that every browser of the kind gets.
    pub arguments: Vec<String>,
    /// Environment variables of driver and browser.
    pub environment: BTreeMap<String, String>,
    /// Firefox's preferences (`about:config`).
    pub preferences: BTreeMap<String, Preference>,
    /// What [`Adapter::Auto`] means where there is no GPU; `None` for what was measured.
    pub webgpu_adapter: Option<Adapter>,
}

impl Build {
    /// A build with no settings beyond its name and kind.
    pub fn new(name: impl Into<String>, kind: Kind) -> Build {
        Build {
            name: name.into(),
            kind,
            binary: None,
            driver: None,
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            preferences: BTreeMap::new(),
            webgpu_adapter: None,
        }
    }

    /// The Chromium whose WebNN computes, at the path in `FLOTILLA_CHROME_WEBNN` or where setup puts it.
    pub fn chrome_webnn() -> Build {
        let named = std::env::var_os("FLOTILLA_CHROME_WEBNN").filter(|path| !path.is_empty());
        let unpacked = || browsers_dir().join(CHROME_WEBNN).join("chromium");
        Build {
            binary: Some(named.map_or_else(unpacked, PathBuf::from)),
            // The libraries beside it hide the system's OpenGL: with that route it has neither WebGPU nor WebNN.
            webgpu_adapter: Some(Adapter::Swiftshader),
            ..Build::new(CHROME_WEBNN, Kind::Chrome)
        }
    }
}

/// Where setup unpacks browsers.
fn browsers_dir() -> PathBuf {
    home_dir().join("browsers")
}

impl From<Kind> for Build {
    fn from(kind: Kind) -> Build {
        Build::new(kind.name(), kind)
    }
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name)
    }
}

impl Serialize for Build {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name)
    }
}

/// Why text is not a list of browsers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum SpecError {
    #[error("browser {got:?} is not known; known are {}", known.join(", "))]
    Unknown { got: String, known: Vec<String> },
    #[error("count {got:?} of {name} is not a number from 1 to {BROWSERS_MAX}")]
    Count { name: String, got: String },
    #[error("no browsers are named; write for example chrome=1,firefox=1")]
    Empty,
}

/// A list of browsers as options give it: `chrome=2,firefox` is two of the one and one of the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names(pub Vec<String>);

impl FromStr for Names {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Names, SpecError> {
        let mut names = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, count) = part.split_once('=').unwrap_or((part, "1"));
            let name = name.trim();
            let count: usize = count
                .trim()
                .parse()
                .ok()
                .filter(|count| (1..=BROWSERS_MAX - names.len()).contains(count))
                .ok_or_else(|| SpecError::Count { name: name.to_owned(), got: count.to_owned() })?;
            names.extend(std::iter::repeat_n(name.to_owned(), count));
        }
        if names.is_empty() { Err(SpecError::Empty) } else { Ok(Names(names)) }
    }
}

/// The value of a preference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a preference is true, false, a whole number or a text")]
#[expect(missing_docs, reason = "each variant is named after its type")]
pub enum Preference {
    Bool(bool),
    Integer(i32),
    Text(String),
}

/// Hosts of checks that are no browsers; no build may have such a name.
pub const NO_BROWSERS: [&str; 2] = [NATIVE, SIMULATED];
/// The pages' runtime compiled for this machine, without a browser.
pub const NATIVE: &str = "native";
/// The same behind a page's protocol.
pub const SIMULATED: &str = "simulated";

/// Every build that can be asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Builds(Vec<Build>);

impl Builds {
    /// Those that need no configuration: one of each kind, and [`CHROME_WEBNN`].
    pub fn built_in() -> Builds {
        let kinds = Kind::ALL.into_iter().map(Build::from);
        Builds(kinds.chain([Build::chrome_webnn()]).collect())
    }

    /// Adds a build, in the place of the one of the same name.
    pub fn put(&mut self, build: Build) {
        match self.0.iter_mut().find(|other| other.name == build.name) {
            Some(other) => *other = build,
            None => self.0.push(build),
        }
    }

    /// All of them.
    pub fn all(&self) -> &[Build] {
        &self.0
    }

    /// The one of this name.
    ///
    /// # Errors
    /// There is none; the error lists those that there are.
    pub fn get(&self, name: &str) -> Result<&Build, SpecError> {
        self.0.iter().find(|build| build.name == name).ok_or_else(|| SpecError::Unknown {
            got: name.to_owned(),
            known: self.0.iter().map(|build| build.name.clone()).collect(),
        })
    }

    /// Those that a list names.
    ///
    /// # Errors
    /// One of them is not known.
    pub fn named(&self, names: &Names) -> Result<Vec<Build>, SpecError> {
        names.0.iter().map(|name| self.get(name).cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_options() {
        let names = |names: &[&str]| Ok(names.iter().map(|&name| name.to_owned()).collect());
        let count = |name: &str, got: &str| {
            Err(SpecError::Count { name: name.to_owned(), got: got.to_owned() })
        };
        let table: &[(&str, Result<Vec<String>, SpecError>)] = &[
            ("chrome", names(&["chrome"])),
            ("chrome=2,my-canary=1", names(&["chrome", "chrome", "my-canary"])),
            (" firefox , chrome=1 ", names(&["firefox", "chrome"])),
            ("", Err(SpecError::Empty)),
            ("chrome=0", count("chrome", "0")),
            ("chrome=65", count("chrome", "65")),
            ("chrome=many", count("chrome", "many")),
        ];
        for (text, want) in table {
            assert_eq!(text.parse::<Names>().map(|names| names.0), *want, "{text:?}");
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_those_that_are_known() {
        let error = Builds::built_in().get("safari").expect_err("not known").to_string();
        assert!(error.contains("\"safari\"") && error.contains(", firefox,"), "{error}");
        assert!(error.contains(CHROME_WEBNN), "{error}");
    }
}
