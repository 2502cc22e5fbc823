//! The ONNX backend test suite as `cargo xtask test` runs it: all cases natively, and one per operator in browsers.

use std::{thread, time::Duration};

use flotilla_browsers::{Build, Kind};
use flotilla_conformance::{
    browser::Browser,
    case::{Index, Kind as CaseKind},
    expected::Expected,
    export,
    native::Native,
    outcome::{Outcome, RuntimeName},
    report::Report,
    scope::NODE_CASES_MIN,
    suite::{Judged, Suite},
};
use flotilla_protocol::Backend;
use flotilla_tests::skip::{has_browsers, skip};

/// Longest time for one case.
const CASE_MAX: Duration = Duration::from_secs(60);

/// All cases; `None` if Python or its packages are not available.
fn suite() -> Option<Suite> {
    match export::cases() {
        Ok(cases) => {
            let index = Index::read(&cases).expect("an index");
            Some(Suite::new(&cases, index, |_| true))
        }
        Err(error) => {
            skip(&format!("cannot install the onnx package for Python: {error:#}"));
            None
        }
    }
}

/// Fails unless every case ended as in the table of expected failures.
fn check(runtime: RuntimeName, suite: &Suite, judged: &[Judged], whole: bool) {
    let report = Report::new(runtime, suite, judged);
    eprintln!("{}", report.text(false));
    assert_eq!(judged.len(), suite.in_scope.len(), "every case is judged");
    let expected = Expected::committed().expect("a table");
    let surprises = expected.surprises(runtime, judged, whole);
    assert!(surprises.is_empty(), "not as the table of expected failures says: {surprises:#?}");
}

fn check_native(runtime: RuntimeName, backend: Backend) {
    let Some(suite) = suite() else { return };
    if let Some(reason) = Native::new(backend).missing() {
        return skip(&format!("{runtime}: {reason}"));
    }
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let judged = suite.run_native(backend, threads, CASE_MAX, &|_| {});
    check(runtime, &suite, &judged, true);
}

fn check_browser(runtime: RuntimeName, build: impl Into<Build>, backend: Backend) {
    let build = build.into();
    if !has_browsers(std::slice::from_ref(&build)) {
        return;
    }
    let Some(suite) = suite() else { return };
    let suite = suite.one_per_operator();
    let browser = Browser::start(build, backend, CASE_MAX).expect("a browser");
    let judged = suite.run_browser(browser, CASE_MAX, &|_| {});
    check(runtime, &suite, &judged, false);
}

#[test]
fn the_rules_leave_enough_cases() {
    let Some(suite) = suite() else { return };
    let of_nodes = suite.in_scope.iter().filter(|facts| facts.kind == CaseKind::Node).count();
    assert!(of_nodes >= NODE_CASES_MIN, "{of_nodes} node cases are in scope");
    let small = suite.one_per_operator();
    assert!(small.in_scope.len() * 4 < suite.in_scope.len(), "{}", small.in_scope.len());
    for facts in &suite.in_scope {
        assert!(!facts.data.is_empty(), "{} is in scope and has no data", facts.name);
        for operator in &facts.operators {
            assert!(
                small.in_scope.iter().any(|one| one.operators.contains(operator)),
                "{operator} is not in the selection"
            );
        }
    }
}

#[test]
fn native_cpu_passes_the_suite() {
    check_native(RuntimeName::NativeCpu, Backend::Cpu);
}

#[test]
fn native_webgpu_passes_the_suite() {
    check_native(RuntimeName::NativeWebgpu, Backend::WebGpu);
}

#[test]
fn browser_chrome_webgpu_passes_a_selection() {
    check_browser(RuntimeName::ChromeWebgpu, Kind::Chrome, Backend::WebGpu);
}

#[test]
fn browser_firefox_webgpu_passes_a_selection() {
    check_browser(RuntimeName::FirefoxWebgpu, Kind::Firefox, Backend::WebGpu);
}

#[test]
fn browser_chrome_webnn_passes_a_selection() {
    check_browser(RuntimeName::ChromeWebnn, Build::chrome_webnn(), Backend::WebNn);
}

#[test]
fn browser_chrome_cpu_passes_a_selection() {
    check_browser(RuntimeName::ChromeCpu, Kind::Chrome, Backend::Cpu);
}

/// The files of packages; `None` if they are not available.
fn packaged() -> Option<Suite> {
    match export::packaged() {
        Ok((cases, in_scope)) => Some(Suite { cases, in_scope, out_of_scope: Vec::new() }),
        Err(error) => {
            skip(&format!("cannot install packages for Python: {error:#}"));
            None
        }
    }
}

/// Fails unless every file is right with every data set.
fn expect_right(judged: &[Judged]) {
    assert!(!judged.is_empty(), "there are files");
    for case in judged {
        assert_eq!(case.verdict.outcome, Outcome::Passed, "{}", case.facts.name);
    }
}

#[test]
fn native_is_right_on_files_of_packages() {
    let Some(suite) = packaged() else { return };
    for backend in [Backend::Cpu, Backend::WebGpu] {
        match Native::new(backend).missing() {
            Some(reason) => skip(&format!("{backend}: {reason}")),
            None => expect_right(&suite.run_native(backend, 2, CASE_MAX, &|_| {})),
        }
    }
}

fn check_packaged(build: impl Into<Build>, backends: &[Backend]) {
    let build = build.into();
    if !has_browsers(std::slice::from_ref(&build)) {
        return;
    }
    let Some(suite) = packaged() else { return };
    for &backend in backends {
        let browser = Browser::start(build.clone(), backend, CASE_MAX).expect("a browser");
        expect_right(&suite.run_browser(browser, CASE_MAX, &|_| {}));
    }
}

#[test]
fn browser_chrome_is_right_on_files_of_packages() {
    check_packaged(Kind::Chrome, &[Backend::WebGpu, Backend::Cpu]);
}

#[test]
fn browser_firefox_is_right_on_files_of_packages() {
    check_packaged(Kind::Firefox, &[Backend::WebGpu]);
}
