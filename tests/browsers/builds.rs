//! Browsers with names from the configuration: its settings reach them, and answers have their names.

use std::{path::Path, sync::Arc, time::Duration};

use flotilla::{
    browser::{Build, Builds, Kind},
    catalog::Catalog,
    config::{Config, FILE},
    local::{Local, LocalOptions},
    pool::View,
};
use flotilla_protocol::Backend;
use flotilla_tests::{command, daemon, place, skip::has_browsers};
use serde_json::{Value, json};

/// Longest start of a browser.
const START_MAX: Duration = Duration::from_secs(60);

/// The builds of a configuration with this text.
fn builds(text: &str) -> Builds {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(FILE);
    std::fs::write(&path, text).expect("written");
    Config::load(Some(&path)).expect("a configuration").0.builds()
}

/// Starts one browser and returns what its page reports, its version, and the environment of its process.
fn started(build: &Build) -> (Value, View, String) {
    let options = LocalOptions {
        backends: vec![Backend::Cpu].into(),
        guardian: Some(place::binary()),
        ..LocalOptions::of([build.clone()])
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let local = Local::start(&options, Arc::new(Catalog::default()), 0).await.expect("a pool");
        let known = |view: &View| {
            view.browsers.iter().any(|one| one.facts.is_some() && !one.backends.is_empty())
                || view.status.slots[0].last_failure.is_some()
        };
        let view = tokio::time::timeout(START_MAX, local.pool.wait_until(known)).await;
        let view = view.expect("a browser in time").expect("a pool");
        assert_eq!(view.status.slots[0].last_failure, None);
        let script = "arguments[arguments.length - 1]([navigator.userAgent, typeof navigator.ml])";
        let browser = view.browsers[0].browser;
        let said = local.pool.execute(browser, script, vec![]).await;
        let door = "arguments[arguments.length - 1](typeof window.flotillaFault)";
        let door = local.pool.execute(browser, door, vec![]).await.expect("a result");
        assert_eq!(door, "undefined", "a page that serves takes no faults");
        let pid = view.browsers[0].facts.as_ref().and_then(|facts| facts.pid).expect("a process");
        let environment = std::fs::read(format!("/proc/{pid}/environ")).expect("an environment");
        local.stop().await;
        (said.expect("a result"), view, String::from_utf8_lossy(&environment).into_owned())
    })
}

#[test]
fn browser_of_the_configuration_gets_arguments_environment_and_preferences() {
    if !has_browsers(&[Kind::Chrome, Kind::Firefox]) {
        return;
    }
    let builds = builds(
        r#"
        [browsers.my-chrome]
        kind = "chrome"
        arguments = ["--user-agent=Mine/1.0", "--enable-features=Other"]
        environment = { FLOTILLA_TEST = "chrome-is-mine" }

        [browsers.my-firefox]
        kind = "firefox"
        preferences = { "general.useragent.override" = "Mine/2.0" }
        environment = { FLOTILLA_TEST = "firefox-is-mine" }
        "#,
    );
    for (name, agent, variable) in [
        ("my-chrome", "Mine/1.0", "FLOTILLA_TEST=chrome-is-mine"),
        ("my-firefox", "Mine/2.0", "FLOTILLA_TEST=firefox-is-mine"),
    ] {
        let (said, view, environment) = started(builds.get(name).expect("configured"));
        assert_eq!(said[0], agent, "{name}");
        assert!(environment.contains(variable), "{name}: {environment:?}");
        assert_eq!(view.browsers[0].facts.as_ref().expect("facts").name, name);
        assert_eq!(view.status.slots[0].kind, name);
        // An argument that enables another feature does not disable ours.
        let ml = if name == "my-chrome" { "object" } else { "undefined" };
        assert_eq!(said[1], ml, "{name}");
    }
}

#[test]
fn browser_chrome_webnn_starts_and_computes() {
    if !has_browsers(&[Build::chrome_webnn()]) {
        return;
    }
    let (said, view, _) = started(&Build::chrome_webnn());
    assert_eq!(said[1], "object", "navigator.ml");
    let facts = view.browsers[0].facts.clone().expect("facts");
    assert!(facts.version.starts_with("153."), "{facts:?}");
    let bert = place::file("models/bert");
    let io = bert.join("io.safetensors").display().to_string();
    let bert = bert.display().to_string();
    let arguments = ["check", &bert, "--io", &io, "--browsers", "chrome-webnn", "--json"];
    let rows = flotilla(&arguments, &[]).json();
    let rows = rows.as_array().expect("rows");
    assert_eq!(rows.len(), 3, "webgpu, webnn and cpu");
    for row in rows {
        assert_eq!(
            (&row["browser"], &row["status"]),
            (&json!("chrome-webnn"), &json!("pass")),
            "{row:#}"
        );
    }
}

#[test]
fn browser_names_are_looked_up_in_the_configuration() {
    if !has_browsers(&[Kind::Chrome]) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("mine.toml");
    std::fs::write(&config, "[browsers.my-chrome]\nkind = \"chrome\"\n").expect("written");
    let config_file = config.display().to_string();
    let bert = place::file("models/bert").display().to_string();
    let checked = |names: &str, environment: &[(&str, &str)]| {
        let model = ["check", &bert, "--backends", "cpu", "--json"];
        flotilla(&[&model[..], &["--browsers", names]].concat(), environment)
    };
    let rows = checked("my-chrome", &[("FLOTILLA_CONFIG", &config_file)]).json();
    assert_eq!((&rows[0]["browser"], &rows[0]["status"]), (&json!("my-chrome"), &json!("pass")));
    let unknown = checked("my-chrom", &[("FLOTILLA_CONFIG", &config_file)]);
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    assert!(unknown.stderr.contains("chrome-webnn, my-chrome"), "{unknown:?}");
    std::fs::write(&config, "[browsers.my-chrome]\nkind = \"chrome\"\nbinari = \"x\"\n")
        .expect("written");
    let broken = checked("my-chrome", &[("FLOTILLA_CONFIG", &config_file)]);
    assert_eq!(broken.code, Some(2), "{broken:?}");
    assert!(
        broken.stderr.contains(&config_file) && broken.stderr.contains("`binari`"),
        "{broken:?}"
    );
}

pub(crate) fn flotilla(arguments: &[&str], environment: &[(&str, &str)]) -> command::Output {
    let home = tempfile::tempdir().expect("a folder");
    let drivers = daemon::drivers();
    let drivers = drivers.iter().map(|(name, path)| (*name, path.as_str()));
    let environment: Vec<(&str, &str)> = drivers.chain(environment.iter().copied()).collect();
    command::flotilla(Path::new(home.path()), arguments, &environment)
}
