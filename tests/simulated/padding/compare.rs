//! Runs programs with the exact sizes and padded, on the native cpu.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_browser_runtime::{MemoryBlobs, Options, Placement, Runtime};
use flotilla_program::{BlobId, Guard, Padding, Program, dim::Dim};
use flotilla_protocol::{Backend, BlobSource, LoadTerms};
use flotilla_tensor::Tensor;
use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};

/// Token ids that every model here knows.
pub(crate) const VOCABULARY: usize = 200;

/// Numbers that a seed determines.
pub(crate) struct Random(Xoshiro256PlusPlus);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// From `least` to `most`, both included.
    pub(crate) fn from(&mut self, least: i64, most: i64) -> i64 {
        self.0.random_range(least..=most)
    }

    pub(crate) fn below(&mut self, count: usize) -> usize {
        self.0.random_range(..count)
    }
}

/// A program with everything to run it on the native cpu.
pub(crate) struct Subjects {
    pub(crate) name: String,
    pub(crate) program: Program,
    pub(crate) blobs: BTreeMap<BlobId, Bytes>,
}

impl Subjects {
    pub(crate) async fn placed(&self) -> Placement {
        let blobs = self.blobs.iter().map(|(&id, bytes)| (id, bytes.to_vec())).collect();
        let mut blobs = MemoryBlobs { blobs, chunk_bytes: 1 << 20 };
        let source = BlobSource { url_prefix: String::new() };
        let mut runtime = Runtime::native(Options::default());
        let (program, terms) = (self.program.clone(), LoadTerms::default());
        let mut ignored = |_, _| {};
        let loaded =
            runtime.load(Backend::Cpu, program, &terms, &mut blobs, &source, &mut ignored).await;
        loaded.unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// Inputs of these sizes: token ids, noise, and masks of zeros and ones that keep something in each row.
    pub(crate) fn inputs(
        &self,
        symbols: &[i64],
        guards: &[Guard],
        random: &mut Random,
    ) -> Vec<Tensor> {
        let ports = self.program.inputs.iter().enumerate();
        let made = ports.map(|(index, port)| {
            let shape = sizes(&self.program.value(port.value).shape, symbols);
            let count: usize = shape.iter().product();
            if port.dtype.is_float() {
                let noise = |_| (random.from(-1000, 1000)) as f32 / 500.0;
                return Tensor::from_f32(shape, &(0..count).map(noise).collect::<Vec<_>>());
            }
            let guard = guards.iter().find(|guard| guard.input as usize == index);
            let mut values: Vec<i64> = match guard {
                Some(_) => (0..count).map(|_| random.from(0, 1)).collect(),
                None => (0..count).map(|_| random.below(VOCABULARY) as i64).collect(),
            };
            if let Some(guard) = guard {
                assert_eq!(guard.axis as usize, shape.len() - 1, "rows of these masks are lines");
                let length = shape[shape.len() - 1];
                for row in values.chunks_mut(length) {
                    row[random.below(length)] = 1;
                }
                let words: Vec<u32> = values.iter().map(|&value| value as u32).collect();
                assert!(guard.holds(&words, &shape));
            }
            Tensor::from_i64(shape, &values)
        });
        made.collect::<Result<_, _>>().expect("it fits")
    }
}

pub(crate) fn sizes(shape: &[Dim], symbols: &[i64]) -> Vec<usize> {
    shape.iter().map(|dim| dim.eval(symbols).expect("known") as usize).collect()
}

/// A tensor's elements in the first places of another shape, zeros elsewhere; elements that do not fit are
/// dropped.
pub(crate) fn refit(tensor: &Tensor, shape: &[usize]) -> Tensor {
    let width = tensor.dtype.wire_bytes();
    let mut bytes = vec![0; shape.iter().product::<usize>() * width];
    for (to, element) in bytes.chunks_exact_mut(width).enumerate() {
        let (mut rest, mut from, mut step, mut inside) = (to, 0, 1, true);
        for axis in (0..shape.len()).rev() {
            let index = rest % shape[axis];
            rest /= shape[axis];
            inside &= index < tensor.shape[axis];
            from += index * step;
            step *= tensor.shape[axis];
        }
        if inside {
            element.copy_from_slice(&tensor.bytes[from * width..][..width]);
        }
    }
    Tensor::new(tensor.dtype, shape.to_vec(), bytes).expect("it fits")
}

/// How two runs' elements agree.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Agreement {
    pub(crate) elements: usize,
    pub(crate) same_bits: usize,
    /// Largest difference, as a part of the largest magnitude in its tensor.
    pub(crate) worst: f32,
    /// Largest magnitude of all; infinite if something is NaN.
    pub(crate) largest: f32,
}

/// Which run failed, and why.
pub(crate) enum Failed {
    Exact,
    Padded(String),
}

impl Failed {
    pub(crate) fn text(&self) -> String {
        match self {
            Failed::Exact => "it does not run as it is".to_owned(),
            Failed::Padded(reason) => format!("it does not run when padded: {reason}"),
        }
    }
}

/// Runs inputs unpadded and padded, and compares the elements that are not padding.
pub(crate) async fn compare(
    placement: &mut Placement,
    program: &Program,
    inputs: &[Tensor],
    padded: &[i64],
) -> Result<Agreement, Failed> {
    let shapes: Vec<&[usize]> = inputs.iter().map(|tensor| tensor.shape.as_slice()).collect();
    let bound = program.bind(&shapes).expect("they fit");
    let symbols: Vec<i64> = bound.into_iter().map(|size| size.expect("of an input")).collect();
    let (want, _) = placement.run(inputs).await.map_err(|_| Failed::Exact)?;
    let larger: Vec<Tensor> = program
        .inputs
        .iter()
        .zip(inputs)
        .map(|(port, tensor)| refit(tensor, &sizes(&program.value(port.value).shape, padded)))
        .collect();
    let run = placement.run(&larger).await;
    let (got, _) = run.map_err(|error| Failed::Padded(error.to_string()))?;
    let mut agreement = Agreement::default();
    for ((port, want), got) in program.outputs.iter().zip(&want).zip(&got) {
        let shape = sizes(&program.value(port.value).shape, &symbols);
        assert_eq!(want.shape, shape);
        let got = refit(got, &shape);
        let (want, got) = (want.to_f32().expect("floats"), got.to_f32().expect("floats"));
        let largest = want.iter().fold(f32::MIN_POSITIVE, |most, x| most.max(x.abs()));
        let finite = want.iter().all(|x| x.is_finite());
        agreement.largest = agreement.largest.max(if finite { largest } else { f32::INFINITY });
        for (want, got) in want.iter().zip(&got) {
            agreement.elements += 1;
            agreement.same_bits += usize::from(want.to_bits() == got.to_bits());
            let difference = (want - got).abs() / largest;
            // NaN counts as a difference.
            let difference = if difference.is_nan() { f32::INFINITY } else { difference };
            agreement.worst = agreement.worst.max(difference);
        }
    }
    Ok(agreement)
}

/// Real sizes, and larger ones for the symbols that are padded.
pub(crate) fn chosen(
    program: &Program,
    padded: &[&Padding],
    random: &mut Random,
) -> (Vec<i64>, Vec<i64>) {
    loop {
        let real: Vec<i64> = program.symbols.iter().map(|_| random.from(2, 12)).collect();
        let mut larger = real.clone();
        for padding in padded {
            larger[padding.symbol.0 as usize] += random.from(1, 20);
        }
        if padded.iter().all(|padding| padding.allows(&larger)) {
            return (real, larger);
        }
    }
}
