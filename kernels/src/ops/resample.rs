//! Weighted sums of a few elements along one dimension; resizing.

use flotilla_program::{DType, Resample};

use super::{Kernel, Launch, Operand, Shader};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// `x` is `[outer, size, inner]`, the tables are `[count, taps]`.
struct Geometry {
    size: usize,
    inner: usize,
    count: usize,
    taps: usize,
}

fn geometry(op: &Resample, call: &Call<'_>) -> Result<Geometry, String> {
    let (x, axis) = (call.input(0), op.axis as usize);
    let &[count, taps] = call.input(1) else {
        return Err(format!(
            "indices have the shape {:?}, two dimensions are needed",
            call.input(1)
        ));
    };
    call.expect_input(2, &[count, taps])?;
    call.expect_output(&[&x[..axis], &[count], &x[axis + 1..]].concat())?;
    if x[axis] == 0 && call.elements() > 0 {
        return Err("there is nothing to resample".to_owned());
    }
    Ok(Geometry { size: x[axis], inner: x[axis + 1..].iter().product(), count, taps })
}

impl Kernel for Resample {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(3)?;
        signature.expect_inputs(&[DType::F32, DType::I32, DType::F32])?;
        signature.expect_result(DType::F32)?;
        signature.expect_axis(self.axis)
    }

    fn shaders(&self, _signature: &Signature<'_>) -> Vec<Shader> {
        let reads = [("x", "f32"), ("indices", "i32"), ("weights", "f32")];
        vec![Shader::new("Resample", &reads, "f32", include_str!("resample.wgsl"))]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { size, inner, count, taps } = geometry(self, call)?;
        let total = call.elements();
        let params = [total, size, inner, count, taps].map(|count| count as u32).to_vec();
        Ok(vec![Launch::new(0, 3, params, total, taps)])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let Geometry { size, inner, count, taps } = geometry(self, call)?;
        if output.is_empty() {
            return Ok(());
        }
        let (x, indices, weights) = (operands[0].f32(), operands[1].i32(), operands[2].f32());
        let output: &mut [f32] = bytemuck::cast_slice_mut(output);
        for (outer, output) in output.chunks_exact_mut(count * inner).enumerate() {
            for (at, output) in output.chunks_exact_mut(inner).enumerate() {
                output.fill(0.0);
                for entry in at * taps..(at + 1) * taps {
                    let source = (indices[entry].max(0) as usize).min(size - 1);
                    let row = &x[(outer * size + source) * inner..][..inner];
                    for (sum, x) in output.iter_mut().zip(row) {
                        *sum += weights[entry] * x;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;

    let table: [(&str, &[usize], u32, usize, usize); 3] = [
        ("rows", &[2, 5, 3], 1, 8, 2),
        ("the last dimension", &[3, 7], 1, 4, 4),
        ("one element", &[1, 2], 0, 3, 1),
    ];
    table
        .into_iter()
        .map(|(name, shape, axis, count, taps)| {
            let at = axis as usize;
            let x = Array::noise(4200, shape);
            let weights = Array::noise(4201, &[count, taps]);
            let indices = Array::build(DType::I32, &[count, taps], |index| {
                ((index[0] * 3 + index[1] * 2) % shape[at]) as f64
            });
            let mut out = shape.to_vec();
            out[at] = count;
            let expected = Array::build(DType::F32, &out, |index| {
                (0..taps)
                    .map(|tap| {
                        let mut source = index.to_vec();
                        source[at] = indices.at(&[index[at], tap]) as usize;
                        weights.at(&[index[at], tap]) * x.at(&source)
                    })
                    .sum()
            });
            let op = Op::Resample(Resample { axis });
            let inputs = [&x, &indices, &weights];
            Sketch::single(&format!("resample/{name}"), op, &inputs, &expected, Tolerance::Close)
        })
        .collect()
}
