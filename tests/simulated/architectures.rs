//! Eleven architectures on the backends that are available natively.

use flotilla_browser_runtime::{MemoryBlobs, Options, Runtime};
use flotilla_protocol::{Backend, BlobSource, LoadError, LoadTerms};
use flotilla_tests::{
    architecture::{ARCHITECTURES, verify},
    skip::skip,
};

#[test]
fn architectures_agree_with_pytorch_on_the_native_cpu() {
    check(Backend::Cpu);
}

#[test]
fn architectures_agree_with_pytorch_on_native_webgpu() {
    check(Backend::WebGpu);
}

fn check(backend: Backend) {
    let executor = tokio::runtime::Runtime::new().expect("a runtime");
    executor.block_on(async {
        let mut runtime = Runtime::native(Options::default());
        let mut failures = Vec::new();
        for architecture in ARCHITECTURES {
            let recorded = architecture.recorded().await;
            let other = architecture.other(&recorded).await;
            let blobs = recorded.blobs.iter().map(|(&id, bytes)| (id, bytes.to_vec())).collect();
            let mut blobs = MemoryBlobs { blobs, chunk_bytes: 1 << 20 };
            let source = BlobSource { url_prefix: String::new() };
            let mut ignored = |_, _| {};
            let program = recorded.program.clone();
            let terms = LoadTerms::default();
            let loaded =
                runtime.load(backend, program, &terms, &mut blobs, &source, &mut ignored).await;
            let mut placement = match loaded {
                Ok(placement) => placement,
                Err(LoadError::BackendUnavailable { reason, .. }) => {
                    return skip(&format!("{backend}: {reason}"));
                }
                Err(error) => panic!("{}: {error}", architecture.name),
            };
            for subject in [&recorded, &other] {
                let shapes = subject.shapes();
                let outcome = match placement.run(subject.inputs()).await {
                    Ok((outputs, report)) => {
                        assert_eq!(report.pipelines_created, 0, "{} {shapes}", architecture.name);
                        verify(subject, outputs)
                    }
                    Err(error) => Err(error.to_string()),
                };
                if let Err(reason) = outcome {
                    failures.push(format!("{} {shapes}: {reason}", architecture.name));
                }
            }
        }
        assert!(failures.is_empty(), "{backend}:\n{}", failures.join("\n"));
    });
}
