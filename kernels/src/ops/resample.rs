//! Weighted sums of elements along one dimension; resizing. Sums of many elements are divided into parts.

use flotilla_program::{ReduceKind, Resample};
use flotilla_tensor::DType;

use super::{
    Kernel, Launch, Memory, Operand, Shader,
    reduce::{self, Lines, Reduction},
    split::{self, Scratchpad},
};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, LONG, LONGEST, Sketch, Tolerance};

/// Most taps of one invocation.
const LENGTH_MAX: usize = 8192;
/// Taps whose `f32` sum is exact enough on the cpu.
const SUM_MAX: usize = 128;

/// Which of a node's shaders.
const SUM: usize = 0;
const JOIN: usize = 1;

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

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        let reads = [("x", "f32"), ("indices", "i32"), ("weights", "f32")];
        let mut shaders =
            vec![Shader::new("Resample", &reads, "f32", include_str!("resample.wgsl"))];
        if split::may_divide(signature.fixed(1, 1), LENGTH_MAX) {
            shaders.push(reduce::shader(ReduceKind::Sum, "f32"));
        }
        shaders
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { size, inner, count, taps } = geometry(self, call)?;
        let total = call.elements();
        let parts = split::parts(total, taps, LENGTH_MAX);
        let params = [total, size, inner, count, taps, parts].map(|count| count as u32).to_vec();
        let sums = Launch::new(SUM, 3, params, total * parts, taps.div_ceil(parts));
        if parts == 1 {
            return Ok(vec![sums]);
        }
        let mut scratchpad = Scratchpad::default();
        let found = scratchpad.take(total * parts);
        let lines = Lines { outer: 1, size: parts, inner: total };
        let reduction = Reduction { first: JOIN, later: JOIN, none: 0 };
        let join = reduction.launches(found, lines, Memory::Output, 1.0, &mut scratchpad);
        Ok([vec![sums.writing(found)], join].concat())
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
        let mut sums = vec![0.0f64; inner];
        for (outer, output) in output.chunks_exact_mut(count * inner).enumerate() {
            for (at, output) in output.chunks_exact_mut(inner).enumerate() {
                output.fill(0.0);
                sums.fill(0.0);
                for entry in at * taps..(at + 1) * taps {
                    let source = (indices[entry].max(0) as usize).min(size - 1);
                    let row = &x[(outer * size + source) * inner..][..inner];
                    if taps <= SUM_MAX {
                        output.iter_mut().zip(row).for_each(|(sum, x)| *sum += weights[entry] * x);
                    } else {
                        let weight = f64::from(weights[entry]);
                        let pairs = sums.iter_mut().zip(row);
                        pairs.for_each(|(sum, &x)| *sum += weight * f64::from(x));
                    }
                }
                if taps > SUM_MAX {
                    output.iter_mut().zip(&sums).for_each(|(value, &sum)| *value = sum as f32);
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
    let long = LONG.map(|taps| ("long", &[1, 9000, 2][..], 1, 1, taps));
    table
        .into_iter()
        .chain(long)
        .chain([("many taps", &[2, 5, 700][..], 1, 3, 1500), ("long rows", &[70, 50], 1, 30, 9000)])
        .map(|(name, shape, axis, count, taps)| {
            let at = axis as usize;
            let x = Array::noise(4200, shape);
            let weights = Array::noise(4201, &[count, taps]);
            let indices = Array::build(DType::I32, &[count, taps], |index| {
                ((index[0] * 3 + index[1] * 2) % shape[at]) as f64
            });
            let strides = crate::call::strides(shape);
            let mut out = shape.to_vec();
            out[at] = count;
            let expected = Array::build(DType::F32, &out, |index| {
                let others = (0..shape.len()).filter(|&axis| axis != at);
                let start: usize = others.map(|axis| index[axis] * strides[axis]).sum();
                let entries = index[at] * taps..(index[at] + 1) * taps;
                entries
                    .map(|entry| {
                        let source = indices.numbers[entry] as usize;
                        weights.numbers[entry] * x.numbers[start + source * strides[at]]
                    })
                    .sum()
            });
            let op = Op::Resample(Resample { axis });
            let inputs = [&x, &indices, &weights];
            let name = match name {
                "long" => format!("resample/{taps} taps"),
                name => format!("resample/{name}"),
            };
            let tolerance = if taps < 100 { Tolerance::Close } else { Tolerance::Scaled };
            Sketch::single(&name, op, &inputs, &expected, tolerance)
                .everywhere_if(taps < 100 || taps == LONGEST)
        })
        .collect()
}
