//! Tests that cannot run on this machine report why; they never just pass.

use std::{env, fs::OpenOptions, io::Write as _};

use flotilla::browser::{Build, Kind, install};

/// The browsers that `cargo xtask setup` installs and drives by itself.
pub const BOTH: [Kind; 2] = [Kind::Chrome, Kind::Firefox];

/// Reports that the calling test does nothing, and why. `cargo xtask test` collects these lines; `FLOTILLA_SKIP_LOG`
/// names a file for people who run the tests by themselves.
///
/// # Panics
/// The file cannot be written: a reason that is not read would look like a pass.
#[expect(
    clippy::print_stdout,
    reason = "the report of the test runner is made from standard output"
)]
pub fn skip(reason: &str) {
    println!("skipped: {reason}");
    if let Some(path) = env::var_os("FLOTILLA_SKIP_LOG") {
        let written = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut log| writeln!(log, "skipped: {reason}"));
        assert!(written.is_ok(), "cannot write {}: {written:?}", path.display());
    }
}

/// Whether these browsers and their drivers are installed. If not, the test is skipped, or fails if
/// `FLOTILLA_REQUIRE_BROWSERS` requires them.
///
/// # Panics
/// One is missing and required.
pub fn has_browsers(browsers: &[impl Into<Build> + Clone]) -> bool {
    let missing: Vec<String> = browsers
        .iter()
        .filter_map(|browser| install::find(&browser.clone().into()).err())
        .map(|error| error.to_string())
        .collect();
    if missing.is_empty() {
        return true;
    }
    unavailable(&missing.join("; "));
    false
}

/// Skips the calling test because something that others can install is missing, or fails it if
/// `FLOTILLA_REQUIRE_BROWSERS` requires it.
///
/// # Panics
/// It is required.
pub fn unavailable(reason: &str) {
    let required = env::var_os("FLOTILLA_REQUIRE_BROWSERS").is_some_and(|value| value == "1");
    assert!(!required, "FLOTILLA_REQUIRE_BROWSERS is set, and {reason}");
    skip(reason);
}
