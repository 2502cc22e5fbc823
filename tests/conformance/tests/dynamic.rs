//! Small models of our own, with symbolic or data-dependent dimensions, on the native runtimes.
#![expect(clippy::print_stdout, reason = "a skipped runtime is said so")]

use std::{path::Path, time::Duration};

use flotilla_conformance::{
    case::Index,
    native::Native,
    outcome::{Outcome, Stage},
    suite::Suite,
};
use flotilla_protocol::Backend;

/// Longest time for one case.
const CASE_MAX: Duration = Duration::from_secs(60);

/// Every case passes, except those with integers that are too large for a page: these are refused, with the node's
/// name.
fn check(backend: Backend) {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/dynamic");
    // The rules are for the cases of the suite; sequences with a known length are expected to work.
    let in_scope = Index::read(&cases).expect("an index").cases;
    let suite = Suite { cases, in_scope, out_of_scope: Vec::new() };
    if let Some(reason) = Native::new(backend).missing() {
        println!("skipped: {backend}: {reason}");
        return;
    }
    let judged = suite.run_native(backend, 2, CASE_MAX, &|_| {});
    assert_eq!(judged.len(), suite.in_scope.len(), "every case is judged");
    for case in judged {
        let name = &case.facts.name;
        if name.ends_with("_beyond_32_bits") {
            let refusal = match &case.verdict.outcome {
                Outcome::Failed(failure) if failure.stage == Stage::Run => failure.reason.as_str(),
                outcome => panic!("{name}: {outcome:?}"),
            };
            assert!(
                refusal.contains("fit 32 bits") && refusal.contains("node "),
                "{name}: {refusal}"
            );
            continue;
        }
        assert_eq!(case.verdict.outcome, Outcome::Passed, "{name}");
    }
}

#[test]
fn cpu() {
    check(Backend::Cpu);
}

#[test]
fn webgpu() {
    check(Backend::WebGpu);
}
