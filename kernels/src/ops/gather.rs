//! Slices of a tensor, selected by index; embeddings.

use flotilla_program::Gather;

use super::{Kernel, Launch, Operand, Shader};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// `data` is `[outer, size, inner]`.
struct Geometry {
    outer: usize,
    size: usize,
    inner: usize,
    picked: usize,
}

fn geometry(op: &Gather, call: &Call<'_>) -> Result<Geometry, String> {
    let (data, indices, axis) = (call.input(0), call.input(1), op.axis as usize);
    let (before, after) = (&data[..axis], &data[axis + 1..]);
    call.expect_output(&[before, indices, after].concat())?;
    let product = |dims: &[usize]| dims.iter().product::<usize>();
    Ok(Geometry {
        outer: product(before),
        size: data[axis],
        inner: product(after),
        picked: product(indices),
    })
}

/// Whether slices are whole `vec4`s.
fn by_4(op: &Gather, signature: &Signature<'_>) -> bool {
    let last = signature.input(0).shape.last().and_then(|dim| dim.as_fixed());
    (op.axis as usize) + 1 < signature.input(0).shape.len()
        && last.is_some_and(|dim| dim > 0 && dim % 4 == 0)
}

impl Kernel for Gather {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_gathering()?;
        signature.expect_axis(self.axis)
    }

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        let element = if by_4(self, signature) { "vec4<u32>" } else { "u32" };
        let body = format!("alias Element = {element};\n{}", include_str!("gather.wgsl"));
        vec![Shader::new("Gather", &[("data", element), ("indices", "i32")], element, &body)]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { outer, size, inner, picked } = geometry(self, call)?;
        let inner = if by_4(self, &call.signature) { inner / 4 } else { inner };
        let total = outer * picked * inner;
        let params = [total, outer, size, inner, picked].map(|count| count as u32).to_vec();
        Ok(vec![Launch::new(0, 2, params, total, 0)])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let Geometry { size, inner, picked, .. } = geometry(self, call)?;
        let (data, indices) = (operands[0].words(), operands[1].i32());
        if inner * picked == 0 {
            return Ok(());
        }
        for (outer, output) in output.chunks_exact_mut(inner * picked).enumerate() {
            for (&index, output) in indices.iter().zip(output.chunks_exact_mut(inner)) {
                let from_start =
                    if index < 0 { i64::from(index) + size as i64 } else { i64::from(index) };
                let Some(at) = usize::try_from(from_start).ok().filter(|&at| at < size) else {
                    return Err(format!("index {index} is outside of a dimension of {size}"));
                };
                output.copy_from_slice(&data[(outer * size + at) * inner..][..inner]);
            }
        }
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;
    use flotilla_tensor::DType;

    let table: [(&str, &[usize], &[usize], &[i32], u32); 4] = [
        ("an embedding", &[10, 8], &[2, 3], &[0, 9, 4, 4, 1, -1], 0),
        ("odd slices", &[5, 3], &[4], &[4, -5, 2, 0], 0),
        ("the last dimension", &[3, 6], &[2], &[5, 1], 1),
        ("one of the middle", &[2, 4, 4], &[], &[2], 1),
    ];
    table
        .into_iter()
        .map(|(name, shape, picked_shape, picked, axis)| {
            let at = axis as usize;
            let data = Array::noise(3500, shape);
            let indices = Array::of(
                DType::I32,
                picked_shape,
                picked.iter().map(|&index| f64::from(index)).collect(),
            );
            let out = [&shape[..at], picked_shape, &shape[at + 1..]].concat();
            let expected = Array::build(DType::F32, &out, |index| {
                let (before, rest) = index.split_at(at);
                let (pick, after) = rest.split_at(picked_shape.len());
                let pick = indices.at(pick) as i64;
                let own = if pick < 0 { pick + shape[at] as i64 } else { pick };
                data.at(&[before, &[own as usize], after].concat())
            });
            let op = Op::Gather(Gather { axis });
            Sketch::single(
                &format!("gather/{name}"),
                op,
                &[&data, &indices],
                &expected,
                Tolerance::Exact,
            )
        })
        .collect()
}
