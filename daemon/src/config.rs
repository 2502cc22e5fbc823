//! `flotilla.toml`: the user's own browsers, by name.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use flotilla_browsers::{
    Adapter, Build, Builds, Kind,
    build::{NO_BROWSERS, Preference},
    home_dir,
};
use serde::{Deserialize, Serialize};

/// Name of the file in the working directory and in the data folder.
pub const FILE: &str = "flotilla.toml";

/// Contents of the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[browsers.NAME]`: what `--browsers NAME` starts. A built-in name changes what the table names and keeps the rest.
    #[serde(default)]
    pub browsers: BTreeMap<String, Browser>,
}

/// One browser of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Browser {
    /// How it is driven.
    pub kind: Kind,
    /// Its program: a path, from the file's folder unless absolute, or a name on `PATH`. Unless given, the kind's usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<PathBuf>,
    /// Its WebDriver, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<PathBuf>,
    /// Arguments beside those that every browser of the kind gets.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Where Chromium's WebGPU adapter comes from on a machine without a GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webgpu_adapter: Option<Adapter>,
    /// Environment variables of driver and browser.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Firefox's preferences (`about:config`).
    #[serde(default)]
    pub preferences: BTreeMap<String, Preference>,
}

/// Why a configuration is not used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {kind}", path.display())]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub kind: ConfigErrorKind,
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum ConfigErrorKind {
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    #[error("{0}")]
    Syntax(#[from] toml::de::Error),
    #[error(
        "browsers.{name:?} is not a valid name for a browser: write letters, digits, '-', '_' and '.', and not {}",
        NO_BROWSERS.join(" or ")
    )]
    Name { name: String },
    #[error(
        "browsers.{name}.kind is {got}, and the built-in {name} is a {want}; choose another name"
    )]
    Kind { name: String, got: Kind, want: Kind },
    #[error("browsers.{name}.{key} has no meaning for a browser of kind {kind}")]
    Key { name: String, key: &'static str, kind: Kind },
}

impl Config {
    /// Reads the file that is named, else `flotilla.toml` in the working directory, else the one in the data folder, else
    /// nothing. Returns its path, too.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, or has a key or value that is not known.
    pub fn load(named: Option<&Path>) -> Result<(Config, Option<PathBuf>), ConfigError> {
        let usual = [PathBuf::from(FILE), home_dir().join(FILE)];
        let found =
            named.map(Path::to_owned).or_else(|| usual.into_iter().find(|path| path.is_file()));
        match found {
            None => Ok((Config::default(), None)),
            Some(path) => match Config::read(&path) {
                Ok(config) => Ok((config, Some(path))),
                Err(kind) => Err(ConfigError { path, kind }),
            },
        }
    }

    fn read(path: &Path) -> Result<Config, ConfigErrorKind> {
        let mut config: Config = toml::from_str(&std::fs::read_to_string(path)?)?;
        let folder = std::path::absolute(path)?;
        for (name, browser) in &mut config.browsers {
            browser.check(name)?;
            for program in [&mut browser.binary, &mut browser.driver].into_iter().flatten() {
                // A bare name is searched on PATH.
                if program.components().count() > 1
                    && let Some(folder) = folder.parent()
                {
                    *program = folder.join(&program);
                }
            }
        }
        Ok(config)
    }

    /// The built-in builds and those of this configuration.
    pub fn builds(&self) -> Builds {
        let mut builds = Builds::built_in();
        for (name, browser) in &self.browsers {
            let base = builds.get(name).cloned();
            builds.put(browser.build(base.unwrap_or_else(|_| Build::new(name, browser.kind))));
        }
        builds
    }
}

impl Browser {
    /// The table that describes exactly this build, whatever the defaults are.
    pub fn of(build: &Build) -> Browser {
        Browser {
            kind: build.kind,
            binary: build.binary.clone(),
            driver: build.driver.clone(),
            arguments: build.arguments.clone(),
            webgpu_adapter: build.webgpu_adapter,
            environment: build.environment.clone(),
            preferences: build.preferences.clone(),
        }
    }

    fn check(&self, name: &str) -> Result<(), ConfigErrorKind> {
        let is_fit = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || !name.chars().all(is_fit) || NO_BROWSERS.contains(&name) {
            return Err(ConfigErrorKind::Name { name: name.to_owned() });
        }
        let built_in = Builds::built_in();
        if let Some(want) = built_in.get(name).ok().map(|build| build.kind)
            && want != self.kind
        {
            return Err(ConfigErrorKind::Kind { name: name.to_owned(), got: self.kind, want });
        }
        let misplaced = match self.kind {
            Kind::Firefox => self.webgpu_adapter.is_some().then_some("webgpu_adapter"),
            Kind::Chrome | Kind::Edge => (!self.preferences.is_empty()).then_some("preferences"),
        };
        match misplaced {
            Some(key) => Err(ConfigErrorKind::Key { name: name.to_owned(), key, kind: self.kind }),
            None => Ok(()),
        }
    }

    fn build(&self, base: Build) -> Build {
        Build {
            name: base.name,
            kind: self.kind,
            binary: self.binary.clone().or(base.binary),
            driver: self.driver.clone().or(base.driver),
            arguments: self.arguments.clone(),
            environment: self.environment.clone(),
            preferences: self.preferences.clone(),
            webgpu_adapter: self.webgpu_adapter.or(base.webgpu_adapter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join(FILE);
        std::fs::write(&path, text).expect("written");
        match Config::load(Some(&path)) {
            Ok((config, from)) => {
                assert_eq!(from, Some(path));
                Ok(config)
            }
            Err(error) => {
                let words = error.to_string();
                assert!(words.starts_with(&path.display().to_string()), "{words}");
                Err(words)
            }
        }
    }

    #[test]
    fn browsers_get_what_the_file_says() {
        let config = read(
            r#"
            [browsers.my-canary]
            kind = "chrome"
            binary = "/opt/canary/chrome"
            driver = "my-chromedriver"
            arguments = ["--enable-features=New", "--flag"]
            environment = { LANG = "de" }
            webgpu_adapter = "swiftshader"

            [browsers.esr]
            kind = "firefox"
            binary = "builds/firefox"
            preferences = { "dom.on" = true, "dom.count" = 3, "dom.name" = "x" }

            [browsers.chrome-webnn]
            kind = "chrome"
            arguments = ["--more"]
            "#,
        )
        .expect("a configuration");
        let builds = config.builds();
        let canary = builds.get("my-canary").expect("configured");
        assert_eq!((canary.name.as_str(), canary.kind), ("my-canary", Kind::Chrome));
        assert_eq!(canary.binary, Some("/opt/canary/chrome".into()));
        assert_eq!(canary.driver, Some("my-chromedriver".into()), "a bare name stays one");
        assert_eq!(canary.arguments, ["--enable-features=New", "--flag"]);
        assert_eq!(canary.environment["LANG"], "de");
        assert_eq!(canary.webgpu_adapter, Some(Adapter::Swiftshader));
        let esr = builds.get("esr").expect("configured");
        let binary = esr.binary.as_deref().expect("a program");
        assert!(binary.is_absolute() && binary.ends_with("builds/firefox"), "{binary:?}");
        assert_eq!(esr.preferences["dom.count"], Preference::Integer(3));
        let webnn = builds.get("chrome-webnn").expect("built in");
        assert_eq!((webnn.binary.is_some(), webnn.arguments.len()), (true, 1));
        assert!(builds.get("firefox").is_ok(), "what is built in stays");
        // A configuration that one process writes for another is read back unchanged.
        let browsers = builds.all().iter().map(|build| (build.name.clone(), Browser::of(build)));
        let written = toml::to_string(&Config { browsers: browsers.collect() }).expect("TOML");
        assert_eq!(read(&written).expect("read back").builds(), builds);
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        let chrome = "[browsers.a]\nkind = \"chrome\"\n";
        let table = [
            ("[browser.a]\n".to_owned(), "unknown field `browser`"),
            (format!("{chrome}binari = \"x\"\n"), "unknown field `binari`"),
            ("[browsers.a]\n".to_owned(), "missing field `kind`"),
            ("[browsers.a]\nkind = \"opera\"\n".to_owned(), "unknown variant `opera`"),
            (format!("{chrome}arguments = \"--x\"\n"), "invalid type"),
            (format!("{chrome}preferences = {{ a = 1 }}\n"), "browsers.a.preferences has no"),
            (
                "[browsers.a]\nkind = \"firefox\"\npreferences = { a = 1.5 }\n".to_owned(),
                "a preference is true, false, a whole number or a text",
            ),
            (
                "[browsers.a]\nkind = \"firefox\"\nwebgpu_adapter = \"gles\"\n".to_owned(),
                "browsers.a.webgpu_adapter has no",
            ),
            ("[browsers.firefox]\nkind = \"chrome\"\n".to_owned(), "browsers.firefox.kind is"),
            (
                "[browsers.native]\nkind = \"chrome\"\n".to_owned(),
                "is not a valid name for a browser",
            ),
            (
                "[browsers.\"a=2\"]\nkind = \"chrome\"\n".to_owned(),
                "is not a valid name for a browser",
            ),
            ("[browsers\n".to_owned(), "TOML parse error"),
        ];
        for (text, want) in table {
            let error = read(&text).expect_err(&text);
            assert!(error.contains(want), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_file_that_is_named_must_be_there() {
        let error = Config::load(Some(Path::new("/no/such/flotilla.toml"))).expect_err("not there");
        assert!(error.to_string().starts_with("/no/such/flotilla.toml: cannot be read"), "{error}");
    }
}
