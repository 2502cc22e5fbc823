//! Chromium, Google Chrome, and Microsoft Edge, whose driver is ChromeDriver under another name.

use std::path::Path;

use serde_json::json;

use crate::{Adapter, DesiredBrowser, DriverPlan, Kind, install::Installed};

/// Flags that keep a page in the background computing, and the browser from calling home.
const QUIET: &[&str] = &[
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-quic",
    "--disable-sync",
    "--metrics-recording-only",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-pings",
    // Containers give /dev/shm 64 MB, less than a page with weights needs.
    "--disable-dev-shm-usage",
    // A GPU process that died is started again, but with restrictions. Without the first flag a driver that was never checked
    // against the blocklist is refused after the first death; without the second the page gets no more adapters after the
    // second death; without the third no page gets one after the third.
    "--ignore-gpu-blocklist",
    "--disable-domain-blocking-for-3d-apis",
    "--disable-gpu-process-crash-limit",
];

/// Features that are enabled in every browser of the family; the last `--enable-features` replaces all others, so that
/// there must be one only.
const FEATURES: &[&str] = &["WebMachineLearningNeuralNetwork"];
const ENABLE_FEATURES: &str = "--enable-features=";

/// Flags for a route to WebGPU; `Auto` must have been decided before.
fn adapter_flags(adapter: Adapter) -> &'static [&'static str] {
    match adapter {
        Adapter::Auto | Adapter::Hardware => &["--enable-unsafe-webgpu"],
        Adapter::Swiftshader => &[
            "--enable-unsafe-webgpu",
            "--use-webgpu-adapter=swiftshader",
            "--enable-features=Vulkan",
        ],
        Adapter::Gles => &[
            "--enable-unsafe-webgpu",
            "--use-angle=gl-egl",
            "--use-webgpu-adapter=opengles",
            "--force-webgpu-compat",
        ],
    }
}

/// The arguments of a browser. Its profile is a fresh one that the driver makes in `TMPDIR`: a driver that is given another
/// profile opens no first page, and a headless shell does not open one by itself.
fn arguments(desired: &DesiredBrowser, is_root: bool) -> Vec<String> {
    let ours = ["--headless=new"].iter().chain(QUIET).chain(adapter_flags(desired.adapter));
    let mut features: Vec<&str> = FEATURES.to_vec();
    let mut arguments = Vec::new();
    for argument in ours.copied().chain(desired.build.arguments.iter().map(String::as_str)) {
        match argument.strip_prefix(ENABLE_FEATURES) {
            Some(more) => features.extend(more.split(',').filter(|feature| !feature.is_empty())),
            None => arguments.push(argument.to_owned()),
        }
    }
    arguments.push(format!("{ENABLE_FEATURES}{}", features.join(",")));
    // Chromium's sandbox does not run as root; every other user must use it.
    if is_root {
        arguments.push("--no-sandbox".to_owned());
    }
    arguments
}

/// What to start. `dir` receives profile and logs.
pub(crate) fn plan(installed: &Installed, desired: &DesiredBrowser, dir: &Path) -> DriverPlan {
    let is_root = rustix::process::geteuid().is_root();
    let (browser_name, options) = match desired.build.kind {
        Kind::Edge => ("MicrosoftEdge", "ms:edgeOptions"),
        Kind::Chrome | Kind::Firefox => ("chrome", "goog:chromeOptions"),
    };
    let capabilities = json!({
        "browserName": browser_name,
        "pageLoadStrategy": "none",
        options: {
            "binary": installed.browser,
            "args": arguments(desired, is_root),
        },
    });
    let mut command = vec![
        installed.driver.display().to_string(),
        "--port=0".to_owned(),
        "--allowed-ips=127.0.0.1".to_owned(),
    ];
    // A browser from the configuration may have another version than the driver that was found.
    if desired.build.binary.is_some() {
        command.push("--disable-build-check".to_owned());
    }
    // Crash reports and the like go where the profile is, not into the user's folder.
    let mut environment =
        vec![("XDG_CONFIG_HOME".to_owned(), dir.join("config").display().to_string())];
    environment.extend(desired.build.environment.clone());
    DriverPlan {
        command,
        port_after: "started successfully on port ",
        capabilities: match capabilities {
            serde_json::Value::Object(map) => map,
            _ => serde_json::Map::new(),
        },
        environment,
        dir: dir.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Build;

    #[test]
    fn features_of_every_source_are_enabled_by_one_argument() {
        let desired = DesiredBrowser {
            build: Build {
                arguments: vec!["--enable-features=Mine,Other".to_owned(), "--own".to_owned()],
                ..Build::new("mine", Kind::Chrome)
            },
            simulated: false,
            backends: Vec::new(),
            adapter: Adapter::Swiftshader,
        };
        let arguments = arguments(&desired, false);
        let features: Vec<&String> =
            arguments.iter().filter(|argument| argument.starts_with(ENABLE_FEATURES)).collect();
        let want = "--enable-features=WebMachineLearningNeuralNetwork,Vulkan,Mine,Other";
        assert_eq!(features, [want]);
        assert!(arguments.contains(&"--own".to_owned()), "{arguments:?}");
        assert!(!arguments.contains(&"--no-sandbox".to_owned()), "{arguments:?}");
    }
}
