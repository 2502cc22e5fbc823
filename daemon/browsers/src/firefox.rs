//! Firefox.

use std::path::Path;

use serde_json::json;

use crate::{DesiredBrowser, DriverPlan, install::Installed};

/// What to start. `dir` receives profile and logs.
pub(crate) fn plan(installed: &Installed, desired: &DesiredBrowser, dir: &Path) -> DriverPlan {
    let mut preferences = json!({
        "dom.webgpu.enabled": true,
        "gfx.webgpu.ignore-blocklist": true,
        // A page without a window counts as a background page: its timers and its process would be slowed down.
        "dom.min_background_timeout_value": 4,
        "dom.timeout.throttling_delay": 4,
        "dom.ipc.processPriorityManager.enabled": false,
        // One page per browser: spare content processes only cost memory.
        "dom.ipc.processPrelaunch.enabled": false,
        "app.update.auto": false,
        "browser.startup.homepage_override.mstone": "ignore",
        "datareporting.policy.dataSubmissionEnabled": false,
        "network.captive-portal-service.enabled": false,
        "network.connectivity-service.enabled": false,
        "toolkit.telemetry.enabled": false,
    });
    for (name, value) in &desired.build.preferences {
        preferences[name] = json!(value);
    }
    let ours = ["-headless".to_owned()];
    let arguments: Vec<&String> = ours.iter().chain(&desired.build.arguments).collect();
    // Firefox keeps settings and caches under the home folder too: a fresh one leaves the user's alone.
    let mut environment = vec![
        ("HOME".to_owned(), dir.display().to_string()),
        ("MOZ_HEADLESS".to_owned(), "1".to_owned()),
        ("MOZ_CRASHREPORTER_DISABLE".to_owned(), "1".to_owned()),
    ];
    environment.extend(desired.build.environment.clone());
    let capabilities = json!({
        "browserName": "firefox",
        "pageLoadStrategy": "none",
        "moz:firefoxOptions": { "binary": installed.browser, "args": arguments, "prefs": preferences },
    });
    DriverPlan {
        command: vec![
            installed.driver.display().to_string(),
            "--port=0".to_owned(),
            "--host=127.0.0.1".to_owned(),
            "--websocket-port=0".to_owned(),
            format!("--profile-root={}", dir.display()),
        ],
        port_after: "Listening on 127.0.0.1:",
        capabilities: match capabilities {
            serde_json::Value::Object(map) => map,
            _ => serde_json::Map::new(),
        },
        environment,
        dir: dir.to_owned(),
    }
}
