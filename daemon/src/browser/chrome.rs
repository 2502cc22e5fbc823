//! Chromium and Google Chrome.

use std::path::Path;

use serde_json::json;

use crate::browser::{Adapter, DriverPlan, install::Installed};

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
    // A GPU process that died is started again, but not trusted again: without the first of these a driver that was
    // never looked for on a list is refused after the first death, without the second the page gets no more adapters after
    // the second death, and without the third nobody does after the third.
    "--ignore-gpu-blocklist",
    "--disable-domain-blocking-for-3d-apis",
    "--disable-gpu-process-crash-limit",
];

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

/// What to start. `dir` receives profile and logs.
pub fn plan(installed: &Installed, adapter: Adapter, dir: &Path) -> DriverPlan {
    let mut arguments: Vec<String> = vec!["--headless=new".to_owned()];
    arguments.extend(QUIET.iter().chain(adapter_flags(adapter)).map(|flag| (*flag).to_owned()));
    arguments.push(format!("--user-data-dir={}", dir.join("profile").display()));
    // Chromium's sandbox refuses to run as root; nobody else may do without it.
    if rustix::process::geteuid().is_root() {
        arguments.push("--no-sandbox".to_owned());
    }
    let capabilities = json!({
        "browserName": "chrome",
        "pageLoadStrategy": "none",
        "goog:chromeOptions": { "binary": installed.browser, "args": arguments },
    });
    DriverPlan {
        command: vec![
            installed.driver.display().to_string(),
            "--port=0".to_owned(),
            "--allowed-ips=127.0.0.1".to_owned(),
        ],
        port_after: "started successfully on port ",
        capabilities: match capabilities {
            serde_json::Value::Object(map) => map,
            _ => serde_json::Map::new(),
        },
        // Crash reports and the like go beside the profile, not into the user's folder.
        environment: vec![("XDG_CONFIG_HOME".to_owned(), dir.join("config").display().to_string())],
        dir: dir.to_owned(),
    }
}
