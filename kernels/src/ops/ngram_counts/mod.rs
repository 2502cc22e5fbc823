//! How often n-grams occur in rows of numbers.

use flotilla_program::{DType, NgramCounts};

use super::{Kernel, Launch, Operand, Shader};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

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
        let reads = [("x", "i32"), ("grams", "i32"), ("lengths", "i32"), ("starts", "i32")];
        vec![Shader::new("NgramCounts", &reads, "f32", include_str!("ngram_counts.wgsl"))]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { length, longest, columns } = geometry(call)?;
        let total = call.elements();
        let mut params = [total, columns, length, longest].map(|count| count as u32).to_vec();
        params.push(self.distance_max);
        let grams = call.input(1)[0];
        let places = self.distance_max as usize * (1 + length * (1 + longest));
        Ok(vec![Launch::new(0, 4, params, total, grams * (1 + places))])
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
    [
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
    })
    .collect()
}
