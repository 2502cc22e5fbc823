//! One loaded program answers every shape, with the pipelines that were compiled at load.
#![expect(clippy::print_stdout, reason = "a skipped backend is said so")]

mod bert;

use flotilla_browser_runtime::{MemoryBlobs, Options, Placement, Runtime};
use flotilla_protocol::{Backend, BlobSource, LoadError, LoadTerms, RunError};
use flotilla_tensor::Tensor;

const SIZES: bert::Sizes = bert::Sizes {
    layers: 2,
    hidden: 48,
    heads: 4,
    intermediate: 100,
    vocabulary: 90,
    positions: 128,
};

fn load(runtime: &mut Runtime, backend: Backend) -> Option<Placement> {
    let (program, blobs) = bert::bert(SIZES);
    let source = BlobSource { url_prefix: String::new() };
    let mut blobs = MemoryBlobs { blobs, chunk_bytes: 1 << 16 };
    let mut ignored = |_, _| {};
    let terms = LoadTerms::default();
    match pollster::block_on(runtime.load(
        backend,
        program,
        &terms,
        &mut blobs,
        &source,
        &mut ignored,
    )) {
        Ok(placement) => Some(placement),
        Err(LoadError::BackendUnavailable { reason, .. }) => {
            println!("skipped: {backend}: {reason}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn inputs(batch: usize, sequence: usize) -> Vec<Tensor> {
    let ids: Vec<i64> =
        (0..batch * sequence).map(|index| (index as i64 * 37 + 11) % SIZES.vocabulary).collect();
    // The last sequence ends early.
    let mask: Vec<i64> =
        (0..batch * sequence).map(|index| i64::from(index + 2 < batch * sequence)).collect();
    [ids, mask]
        .map(|values| Tensor::from_i64(vec![batch, sequence], &values).expect("it fits"))
        .to_vec()
}

#[test]
fn new_shapes_need_no_new_pipelines_and_agree_with_the_cpu() {
    let mut runtime = Runtime::new(Options::default());
    let Some(mut gpu) = load(&mut runtime, Backend::WebGpu) else { return };
    let mut cpu = load(&mut runtime, Backend::Cpu).expect("the cpu is there");
    for (batch, sequence) in [(1, 3), (3, 16), (8, 128), (1, 1), (1, 3)] {
        let inputs = inputs(batch, sequence);
        let (got, report) = pollster::block_on(gpu.run(&inputs)).unwrap();
        let (want, _) = pollster::block_on(cpu.run(&inputs)).unwrap();
        assert_eq!(report.pipelines_created, 0);
        assert_eq!(got[0].shape, [batch, sequence, SIZES.hidden as usize]);
        let (got, want) = (got[0].to_f32().unwrap(), want[0].to_f32().unwrap());
        let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-5, "[{batch}, {sequence}] differs by {worst}");
        assert!(want.iter().any(|value| value.abs() > 0.1));
    }
}

#[test]
fn a_token_outside_of_the_vocabulary_fails_on_the_cpu() {
    let mut runtime = Runtime::new(Options::default());
    let mut cpu = load(&mut runtime, Backend::Cpu).expect("the cpu is there");
    let mut inputs = inputs(1, 3);
    inputs[0] = Tensor::from_i64(vec![1, 3], &[0, SIZES.vocabulary, 1]).unwrap();
    let error = pollster::block_on(cpu.run(&inputs)).unwrap_err();
    assert!(matches!(&error, RunError::Node { node, .. } if node == "words"), "{error}");
    inputs[0] = Tensor::from_i64(vec![1, 3], &[0, 1 << 40, 1]).unwrap();
    assert!(matches!(pollster::block_on(cpu.run(&inputs)), Err(RunError::Inputs { .. })));
    inputs[0] = Tensor::from_i64(vec![1, 4], &[0, 1, 2, 3]).unwrap();
    assert!(matches!(pollster::block_on(cpu.run(&inputs)), Err(RunError::Inputs { .. })));
}
