//! How often n-grams occur in rows of numbers. If there are many n-grams or rows are long, each n-gram is counted
//! separately.

use flotilla_program::NgramCounts;
use flotilla_tensor::DType;

use super::{Kernel, Launch, Memory, Operand, Shader, split::Scratchpad};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// Most iterations of an invocation.
const STEPS_MAX: usize = 8192;

/// Which of a node's shaders.
const WHOLE: usize = 0;
const COUNT: usize = 1;
const JOIN: usize = 2;

struct Geometry {
    length: usize,
    longest: usize,
    columns: usize,
}

fn geometry(call: &Call<'_>) -> Result<Geometry, String> {
    let (&[rows, length], &[grams, longest]) = (call.input(0), call.input(1)) else {
        return Err("rows and n-grams have two dimensions each".to_owned());
    };
    let columns = call.output().last().copied().unwrap_or(0);
    call.expect_input(2, &[grams])?;
    call.expect_input(3, &[columns + 1])?;
    call.expect_output(&[rows, columns])?;
    Ok(Geometry { length, longest, columns })
}

impl Kernel for NgramCounts {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(4)?;
        signature.expect_inputs(&[DType::I32; 4])?;
        signature.expect_result(DType::F32)
    }

    fn shaders(&self, _signature: &Signature<'_>) -> Vec<Shader> {
        let shader = |name: &str, reads: &[(&str, &str)], text: &str| {
            let body = format!("{}{text}", include_str!("params.wgsl"));
            Shader::new(&format!("NgramCounts, {name}"), reads, "f32", &body)
        };
        let reads = [("x", "i32"), ("grams", "i32"), ("lengths", "i32"), ("starts", "i32")];
        vec![
            shader("whole", &reads, include_str!("whole.wgsl")),
            shader("count", &reads[..3], include_str!("count.wgsl")),
            shader("join", &[reads[3], ("counts", "f32")], include_str!("join.wgsl")),
        ]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { length, longest, columns } = geometry(call)?;
        let total = call.elements();
        let (rows, grams) = (call.input(0)[0], call.input(1)[0]);
        let distances = self.distance_max as usize;
        let launch = |shader: usize, total: usize, [first, last]: [usize; 2], iterations: usize| {
            let distance_max = self.distance_max as usize;
            let params = [total, columns, length, longest, distance_max, grams, first, last]
                .map(|number| number as u32)
                .to_vec();
            Launch::new(shader, 4, params, total, iterations)
        };
        let places = distances.saturating_mul(1 + length * (1 + longest));
        let whole = grams.saturating_mul(1 + places);
        if whole <= STEPS_MAX {
            return Ok(vec![launch(WHOLE, total, [0, 0], whole)]);
        }
        let counts = Scratchpad::default().take(rows * grams);
        let ranges = |all: usize, each: usize| {
            (0..all.max(1)).step_by(each).map(move |first| [first, (first + each).min(all)])
        };
        let each = (STEPS_MAX / (1 + longest)).max(1);
        let mut launches: Vec<Launch> = ranges(distances.saturating_mul(length), each)
            .map(|range| {
                let count = launch(COUNT, rows * grams, range, each * (1 + longest));
                count.reading([0, 1, 2].map(Memory::Input)).writing(counts)
            })
            .collect();
        launches.extend(ranges(grams, STEPS_MAX).map(|range| {
            launch(JOIN, total, range, STEPS_MAX).reading([Memory::Input(3), counts])
        }));
        Ok(launches)
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let Geometry { length, longest, columns } = geometry(call)?;
        let (x, grams) = (operands[0].i32(), operands[1].i32());
        let (lengths, starts) = (operands[2].i32(), operands[3].i32());
        let output: &mut [f32] = bytemuck::cast_slice_mut(output);
        for (index, output) in output.iter_mut().enumerate() {
            let (row, column) = (&x[index / columns * length..][..length], index % columns);
            let mut count = 0u32;
            for gram in starts[column] as usize..starts[column + 1] as usize {
                let gram_items = &grams[gram * longest..][..lengths[gram] as usize];
                // Neighbours of a single item have no distance.
                let farthest = if gram_items.len() == 1 { 1 } else { self.distance_max as usize };
                for distance in 1..=farthest {
                    let span = gram_items.len().saturating_sub(1) * distance;
                    for first in 0..length.saturating_sub(span) {
                        let found = row[first..].iter().step_by(distance);
                        count += u32::from(gram_items.iter().zip(found).all(|(a, b)| a == b));
                    }
                }
            }
            *output = count as f32;
        }
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;

    let i32s = |shape: &[usize], numbers: &[i32]| {
        Array::of(DType::I32, shape, numbers.iter().map(|&number| f64::from(number)).collect())
    };
    let x = i32s(&[2, 6], &[1, 1, 3, 3, 3, 7, 8, 6, 7, 5, 6, 8]);
    // Singles 5 and 7, pairs (5, 6), (7, 8), (6, 7) and the triple (3, 3, 7); the first column counts two n-grams.
    let grams = i32s(&[6, 3], &[5, 0, 0, 7, 0, 0, 5, 6, 0, 7, 8, 0, 6, 7, 0, 3, 3, 7]);
    let lengths = i32s(&[6], &[1, 1, 2, 2, 2, 3]);
    let starts = i32s(&[6], &[0, 2, 3, 4, 5, 6]);
    let by_hand = [
        // Counted by hand.
        (1, [1, 0, 0, 0, 1, 2, 1, 0, 1, 0]),
        (3, [1, 0, 0, 0, 1, 2, 1, 1, 1, 0]),
    ]
    .into_iter()
    .map(|(distance_max, counts)| {
        let counts = counts.map(f64::from).to_vec();
        let expected = Array::f32(&[2, 5], counts);
        let op = Op::NgramCounts(NgramCounts { distance_max });
        let name = format!("ngram_counts/up to {distance_max} apart");
        let inputs = [&x, &grams, &lengths, &starts];
        Sketch::single(&name, op, &inputs, &expected, Tolerance::Exact)
    });
    let long = [
        ("a long row", 1, 70_000, 3, 40, 2, 5),
        ("many n-grams", 3, 20, 2, 20_000, 3, 7),
        ("one column of many n-grams", 2, 30, 2, 9000, 2, 1),
    ];
    by_hand.into_iter().chain(long.into_iter().map(long_case)).collect()
}

/// Rows of random items; the n-grams have one to `longest` items, and their columns follow one another.
#[cfg(not(target_arch = "wasm32"))]
fn long_case(
    (name, rows, length, longest, grams, distance_max, columns): (
        &str,
        usize,
        usize,
        usize,
        usize,
        u32,
        usize,
    ),
) -> Case {
    let kinds = if length > 1000 { 4.0 } else { 30.0 };
    let items = |seed: u64, shape: &[usize]| {
        let noise = Array::noise(seed, shape);
        Array { dtype: DType::I32, ..noise.map(|x| (x * kinds).floor()) }
    };
    let (x, given) = (items(5100, &[rows, length]), items(5101, &[grams, longest]));
    let sizes: Vec<usize> = (0..grams).map(|gram| 1 + gram % longest).collect();
    let starts: Vec<usize> = (0..=columns).map(|column| column * grams / columns).collect();
    let mut counts = vec![0.0; rows * columns];
    for (flat, count) in counts.iter_mut().enumerate() {
        let row = &x.numbers[flat / columns * length..][..length];
        let of_column = starts[flat % columns]..starts[flat % columns + 1];
        let all = given.numbers.chunks(longest).zip(&sizes);
        for (gram, &size) in all.take(of_column.end).skip(of_column.start) {
            let own = &gram[..size];
            let farthest = if own.len() == 1 { 1 } else { distance_max as usize };
            for distance in 1..=farthest {
                for place in 0..length.saturating_sub((own.len() - 1) * distance) {
                    let items = row[place..].iter().step_by(distance);
                    *count += f64::from(own.iter().zip(items).all(|(a, b)| a == b));
                }
            }
        }
    }
    let i32s = |numbers: &[usize]| {
        let numbers: Vec<f64> = numbers.iter().map(|&number| number as f64).collect();
        Array::of(DType::I32, &[numbers.len()], numbers)
    };
    let (lengths, starts) = (i32s(&sizes), i32s(&starts));
    let expected = Array::f32(&[rows, columns], counts);
    let op = flotilla_program::Op::NgramCounts(NgramCounts { distance_max });
    let inputs = [&x, &given, &lengths, &starts];
    let name = format!("ngram_counts/{name}");
    Sketch::single(&name, op, &inputs, &expected, Tolerance::Exact).everywhere_if(length > 1000)
}
