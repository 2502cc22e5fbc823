//! A tiny program with a known answer: its results show whether a page still computes, and computes correctly.
//!
//! The program has no weights, so nothing is fetched. It has one matrix product with bias and GELU, one softmax, one addition and
//! one long mean: one of each sort of shader. A daemon loads it like any other placement, in addition to the models.

use flotilla_program::{
    Binary, Expr, MatMul, Node, Op, Port, Program, Reduce, ReduceKind, Softmax, Source, Step,
    Unary, Value, ValueId, dim::Dim,
};
use flotilla_protocol::{Backend, PlacementId, RunId};
use flotilla_tensor::{DType, Tensor, TensorError};

/// Rows and columns of every matrix.
const SIZE: usize = 8;
/// How often each of [`SIZE`] numbers is used in the long mean. Software adapters of Mesa end the loops of an invocation after
/// some 65,536 iterations without an error (`LP_MAX_TGSI_LOOP_ITERATIONS`), so the mean is over twice as many numbers: 131,072.
const REPEATS: usize = (1 << 17) / SIZE;
/// How far a number may lie from the exact one: devices approximate `exp` and `erf`.
const DIFFERENCE_MAX: f64 = 1e-4;
/// Number of the first placement reserved for probes; those of the daemon are lower.
const PLACEMENT_MIN: u64 = u64::MAX - 7;

/// The placement of a backend's probe; no model's placement has this number.
pub fn placement(backend: Backend) -> PlacementId {
    let offset = match backend {
        Backend::WebGpu => 0,
        Backend::WebNn => 1,
        Backend::Cpu => 2,
    };
    PlacementId(PLACEMENT_MIN + offset)
}

/// The backend whose probe this placement is; `None` for a model's.
pub fn backend(placement: PlacementId) -> Option<Backend> {
    [Backend::WebGpu, Backend::WebNn, Backend::Cpu]
        .into_iter()
        .find(|&backend| self::placement(backend) == placement)
}

/// `softmax(gelu(a @ b + bias)) + a` and the mean of `bias + 1` over many copies, `[1, 1]`; `a` and `b` are `[8, 8]` and `bias` is
/// `[8]`, all f32.
pub fn program() -> Program {
    let matrix = [SIZE, SIZE];
    let shapes: [&[usize]; 10] = [
        &matrix,
        &matrix,
        &[SIZE],
        &matrix,
        &matrix,
        &matrix,
        &[SIZE],
        &[SIZE, 1],
        &[SIZE, REPEATS],
        &[1, 1],
    ];
    let values = shapes
        .into_iter()
        .enumerate()
        .map(|(index, shape)| Value {
            dtype: DType::F32,
            shape: shape.iter().map(|&size| Dim::Fixed(size as i64)).collect(),
            source: if index < 3 { Source::Input } else { Source::Node },
        })
        .collect();
    let product =
        Op::MatMul(MatMul { bias: true, activation: Some(Unary::GeluErf), ..MatMul::PLAIN });
    let sum = Op::Elementwise(Expr {
        steps: vec![Step::Input(0), Step::Input(1), Step::Binary(Binary::Add, 0, 1)],
    });
    // Added so that no mean is near 0: a sum that stops early would be near 0, too.
    let more = Op::Elementwise(Expr {
        steps: vec![Step::Input(0), Step::Float(1.0), Step::Binary(Binary::Add, 0, 1)],
    });
    let mean = Op::Reduce(Reduce { kind: ReduceKind::Mean, axes: vec![0, 1] });
    let node = |name: &str, op, inputs: &[u32], output| Node {
        name: name.to_owned(),
        op,
        inputs: inputs.iter().copied().map(ValueId).collect(),
        outputs: vec![ValueId(output)],
    };
    let port = |name: &str, value| Port {
        name: name.to_owned(),
        dtype: DType::F32,
        value: ValueId(value),
        high: None,
    };
    Program {
        values,
        nodes: vec![
            node("product", product, &[0, 1, 2], 3),
            node("softmax", Op::Softmax(Softmax { axis: 1 }), &[3], 4),
            node("sum", sum, &[4, 0], 5),
            node("more", more, &[2], 6),
            node("column", Op::Reshape, &[6], 7),
            node("repeat", Op::Broadcast, &[7], 8),
            node("mean", mean, &[8], 9),
        ],
        inputs: vec![port("a", 0), port("b", 1), port("bias", 2)],
        outputs: vec![port("output", 5), port("mean", 9)],
        ..Program::new("probe")
    }
}

/// The inputs of the probe `run`. Every run has other numbers, so that the answer of an earlier run is a wrong answer.
///
/// # Errors
/// Never: the shapes fit.
pub fn inputs(run: RunId) -> Result<Vec<Tensor>, TensorError> {
    let [a, b, bias] = numbers(run);
    Ok(vec![
        Tensor::from_f32(vec![SIZE, SIZE], &a)?,
        Tensor::from_f32(vec![SIZE, SIZE], &b)?,
        Tensor::from_f32(vec![SIZE], &bias)?,
    ])
}

/// The right results of the probe `run`.
///
/// # Errors
/// Never: the shapes fit.
pub fn answer(run: RunId) -> Result<Vec<Tensor>, TensorError> {
    let output: Vec<f32> = expected(run).into_iter().map(|number| number as f32).collect();
    Ok(vec![
        Tensor::from_f32(vec![SIZE, SIZE], &output)?,
        Tensor::from_f32(vec![1, 1], &[expected_mean(run) as f32])?,
    ])
}

/// Compares results of the probe `run` with the right ones.
///
/// # Errors
/// The first difference, as text.
pub fn check(run: RunId, outputs: &[Tensor]) -> Result<(), String> {
    let [output, mean] = outputs else {
        return Err(format!("the probe gave {} outputs, 2 are expected", outputs.len()));
    };
    compare("output", output, &[SIZE, SIZE], &expected(run))?;
    compare("mean", mean, &[1, 1], &[expected_mean(run)])
}

fn compare(name: &str, output: &Tensor, shape: &[usize], want: &[f64]) -> Result<(), String> {
    if output.shape != shape {
        return Err(format!("the probe's {name} has the shape {:?}", output.shape));
    }
    let got = output.to_f32().map_err(|error| format!("the probe's {name}: {error}"))?;
    for (element, (got, want)) in got.into_iter().zip(want).enumerate() {
        // Written so that a NaN is a difference.
        let is_near = (f64::from(got) - want).abs() <= DIFFERENCE_MAX;
        if !is_near {
            return Err(format!(
                "the probe gave {got} at element {element} of its {name}, {want} is expected"
            ));
        }
    }
    Ok(())
}

/// Exact binary fractions between -1 and 1, so that no rounding differs before the first product.
fn numbers(run: RunId) -> [Vec<f32>; 3] {
    let list = |seed: u64, count: usize| {
        let term = |index: usize| {
            let mixed = (index as u64 + 1) * 37 + seed * 101 + run.0 % 251 * 59;
            (mixed % 127) as f32 / 64.0 - 0.984_375
        };
        (0..count).map(term).collect()
    };
    [list(1, SIZE * SIZE), list(2, SIZE * SIZE), list(3, SIZE)]
}

/// The same formula in `f64`; it shares no code with the kernels.
fn expected(run: RunId) -> Vec<f64> {
    let [a, b, bias] = numbers(run).map(|list| list.into_iter().map(f64::from).collect::<Vec<_>>());
    let mut output = Vec::with_capacity(SIZE * SIZE);
    for row in 0..SIZE {
        let activated: Vec<f64> = (0..SIZE)
            .map(|column| {
                let product: f64 =
                    (0..SIZE).map(|inner| a[row * SIZE + inner] * b[inner * SIZE + column]).sum();
                gelu(product + bias[column])
            })
            .collect();
        let sum: f64 = activated.iter().map(|value| value.exp()).sum();
        output
            .extend((0..SIZE).map(|column| activated[column].exp() / sum + a[row * SIZE + column]));
    }
    output
}

fn expected_mean(run: RunId) -> f64 {
    let [.., bias] = numbers(run);
    let sum: f64 = bias.iter().map(|&value| f64::from(value) + 1.0).sum();
    sum / SIZE as f64
}

/// See [`Unary::GeluErf`].
fn gelu(x: f64) -> f64 {
    x / 2.0 * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

/// The error function by its Maclaurin series, which converges well in the range of the probe's numbers.
/// Source: NIST DLMF, 7.6.1.
fn erf(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    2.0 / std::f64::consts::PI.sqrt() * sum
}

#[cfg(test)]
mod tests {
    use flotilla_protocol::{BlobSource, Epoch, FromPage, LoadTerms, ToPage};

    use super::*;
    use crate::{MemoryBlobs, Options, Peer};

    /// Loads and runs the probe as a daemon does; `None` if the backend is not available here.
    fn answers(backend: Backend, runs: &[RunId]) -> Option<Vec<Vec<Tensor>>> {
        let mut peer = Peer::new(Options::default(), MemoryBlobs::default());
        let mut say =
            |message, tensors| {
                let mut heard = Vec::new();
                pollster::block_on(peer.handle(message, tensors, &mut |message, tensors| {
                    heard.push((message, tensors))
                }));
                heard
            };
        let program = program().to_bytes().unwrap();
        let blobs = BlobSource { url_prefix: String::new() };
        let (placement, epoch) = (placement(backend), Epoch(1));
        let terms = LoadTerms::default();
        let load = ToPage::Load { placement, epoch, backend, program, blobs, terms };
        let heard = say(load, Vec::new());
        match &heard.last().expect("an answer").0 {
            FromPage::Loaded { .. } => {}
            FromPage::LoadFailed { error, .. } if backend == Backend::WebGpu => {
                println!("skipped: {error}");
                return None;
            }
            other => panic!("{other:?}"),
        }
        let answer = |&run: &RunId| {
            let mut heard = say(ToPage::Run { run, placement, epoch }, inputs(run).unwrap());
            let (message, outputs) = heard.pop().expect("an answer");
            assert!(matches!(message, FromPage::Ran { .. }), "{message:?}");
            outputs
        };
        Some(runs.iter().map(answer).collect())
    }

    #[test]
    fn every_backend_passes_and_only_with_the_answer_to_its_own_run() {
        let runs = [RunId(0), RunId(1), RunId(2), RunId(250), RunId(u64::MAX)];
        for backend in [Backend::Cpu, Backend::WebGpu] {
            let Some(answers) = answers(backend, &runs) else { continue };
            for (outputs, run) in answers.iter().zip(runs) {
                assert_eq!(check(run, outputs), Ok(()), "{backend} {run}");
            }
            assert!(check(RunId(1), &answers[0]).is_err(), "an answer to an earlier probe passed");
        }
    }

    #[test]
    fn a_spoilt_answer_fails() {
        let mut outputs = answers(Backend::Cpu, &[RunId(3)]).unwrap().remove(0);
        let faults = crate::Faults::default();
        faults.spoil(&mut outputs);
        assert_eq!(check(RunId(3), &outputs), Ok(()), "nothing is spoilt before it is ordered");
        faults.answer_wrongly(true);
        faults.spoil(&mut outputs);
        assert!(check(RunId(3), &outputs).is_err());

        let right = || answers(Backend::Cpu, &[RunId(3)]).unwrap().remove(0);
        let nan = Tensor::from_f32(vec![SIZE, SIZE], &[f32::NAN; SIZE * SIZE]).unwrap();
        assert!(check(RunId(3), &[nan, right().remove(1)]).is_err());
        assert!(check(RunId(3), &right()[..1]).is_err());
        assert!(check(RunId(3), &[]).is_err());
        assert!(check(RunId(3), &inputs(RunId(3)).unwrap()[1..]).is_err());
        // A sum that stops after half of its numbers, whichever half.
        for run in (0..251).map(RunId) {
            let half = Tensor::from_f32(vec![1, 1], &[expected_mean(run) as f32 / 2.0]).unwrap();
            assert!(compare("mean", &half, &[1, 1], &[expected_mean(run)]).is_err(), "{run}");
        }
    }

    #[test]
    fn the_formula_is_the_textbook_one() {
        // Abramowitz and Stegun, table 7.1.
        for (x, want) in
            [(0.0, 0.0), (0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)]
        {
            assert!((erf(x) - want).abs() < 1e-9, "{x}");
            assert!((erf(-x) + want).abs() < 1e-9, "{x}");
        }
        // The inputs of `erf` stay in the range where its series is exact.
        let largest = (0..251).flat_map(|run| expected(RunId(run))).fold(0.0, f64::max);
        assert!(largest < 2.0, "{largest}");
    }

    #[test]
    fn placements_are_distinguished() {
        for backend in [Backend::WebGpu, Backend::WebNn, Backend::Cpu] {
            assert_eq!(super::backend(placement(backend)), Some(backend));
        }
        assert_eq!(super::backend(PlacementId(0)), None);
    }
}
