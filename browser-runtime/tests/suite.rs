//! The kernel suite on every backend that is available natively.
#![expect(clippy::print_stdout, reason = "a skipped backend is said so")]

use flotilla_browser_runtime::{MemoryBlobs, Options, Runtime};
use flotilla_kernels::cases;
use flotilla_protocol::{Backend, BlobSource, LoadError, LoadTerms};

/// Runs all cases and lists those that fail; `None` if the backend is not available.
fn failures(backend: Backend) -> Option<Vec<String>> {
    let mut runtime = Runtime::new(Options::default());
    let mut failures = Vec::new();
    let source = BlobSource { url_prefix: String::new() };
    for case in cases() {
        let mut blobs = MemoryBlobs { blobs: case.weights.clone(), chunk_bytes: 1001 };
        let mut ignored = |_, _| {};
        let terms = LoadTerms::default();
        let loaded =
            runtime.load(backend, case.program.clone(), &terms, &mut blobs, &source, &mut ignored);
        let outcome = match pollster::block_on(loaded) {
            Err(LoadError::BackendUnavailable { reason, .. }) => {
                println!("skipped: {backend}: {reason}");
                return None;
            }
            Err(error) => Err(error.to_string()),
            Ok(mut placement) => pollster::block_on(placement.run(&case.inputs))
                .map_err(|error| error.to_string())
                .and_then(|(outputs, _)| case.verify(&outputs)),
        };
        if let Err(reason) = outcome {
            failures.push(format!("{}: {reason}", case.name));
        }
    }
    Some(failures)
}

#[test]
fn cpu_agrees_with_the_tables() {
    assert_eq!(failures(Backend::Cpu), Some(Vec::new()));
}

#[test]
fn webgpu_agrees_with_the_tables() {
    if let Some(failures) = failures(Backend::WebGpu) {
        assert!(failures.is_empty(), "{failures:#?}");
    }
}
