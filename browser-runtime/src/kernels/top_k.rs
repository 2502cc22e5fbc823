//! The first elements of a dimension in order of size.

use flotilla_model::program::{DType, TopK};

use super::{
    Kernel, Launch, Operand, Shader,
    order::{key, key_wgsl},
};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

struct Geometry {
    outer: usize,
    size: usize,
    inner: usize,
    k: usize,
}

fn geometry(op: &TopK, call: &Call<'_>) -> Result<Geometry, String> {
    let (input, axis) = (call.input(0), op.axis as usize);
    let k = call.output().get(axis).copied().unwrap_or(0);
    let mut shape = input.to_vec();
    shape[axis] = k;
    call.expect_output(&shape)?;
    if k > input[axis] {
        return Err(format!("{k} of {} elements cannot be had", input[axis]));
    }
    let product = |dims: &[usize]| dims.iter().product::<usize>();
    let (outer, inner) = (product(&input[..axis]), product(&input[axis + 1..]));
    Ok(Geometry { outer, size: input[axis], inner, k })
}

impl Kernel for TopK {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(1)?;
        if signature.output().dtype != DType::I32 {
            return Err(format!("positions of type {:?}", signature.output().dtype));
        }
        if self.axis as usize >= signature.input(0).shape.len() {
            return Err(format!("there is no dimension {}", self.axis));
        }
        Ok(())
    }

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        let key = key_wgsl(signature.input(0).dtype, self.largest);
        let body = format!("{key}{}", include_str!("top_k.wgsl"));
        vec![Shader::new("TopK", &[("x", "u32")], "i32", &body)]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { outer, size, inner, k } = geometry(self, call)?;
        let total = if k == 0 { 0 } else { outer * size * inner };
        let params = [total, size, inner, k].map(|count| count as u32).to_vec();
        Ok(vec![Launch { shader: 0, inputs: vec![0], params, invocations: total as u64 }])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let Geometry { outer, size, inner, k } = geometry(self, call)?;
        let (x, dtype) = (operands[0].words(), call.signature.input(0).dtype);
        if k == 0 {
            return Ok(());
        }
        let mut line = Vec::with_capacity(size);
        for (outer, inner_at) in (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))) {
            line.clear();
            line.extend((0..size).map(|at| {
                let key = key(dtype, x[(outer * size + at) * inner + inner_at]);
                // The largest come first when their keys are turned around.
                (if self.largest { !key } else { key }, at as u32)
            }));
            if k < size {
                line.select_nth_unstable(k - 1);
                line.truncate(k);
            }
            line.sort_unstable();
            for (rank, &(_, at)) in line.iter().enumerate() {
                output[(outer * k + rank) * inner + inner_at] = at;
            }
        }
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_model::program::Op;

    let table: [(&str, &[usize], u32, usize, DType); 6] = [
        ("of the last dimension", &[3, 40], 1, 5, DType::F32),
        ("all of the first dimension", &[7, 2], 0, 7, DType::F32),
        ("of the middle", &[2, 6, 3], 1, 2, DType::F32),
        ("of equal integers", &[2, 30], 1, 10, DType::I32),
        ("of unsigned ones", &[20], 0, 3, DType::U32),
        ("one", &[4, 1], 1, 1, DType::F32),
    ];
    let mut cases = Vec::new();
    for (name, shape, axis, k, dtype) in table {
        for largest in [true, false] {
            let noise = Array::noise(4400, shape);
            let input = match dtype {
                DType::F32 => noise,
                DType::U32 => Array { dtype, ..noise.map(|x| (x * 9.0 + 9.0).trunc()) },
                _ => Array { dtype, ..noise.map(|x| (x * 4.0).trunc()) },
            };
            let axis_at = axis as usize;
            let mut out = shape.to_vec();
            out[axis_at] = k;
            let expected = Array::build(DType::I32, &out, |index| {
                let number = |at: usize| {
                    let mut own = index.to_vec();
                    own[axis_at] = at;
                    input.at(&own)
                };
                let mut order: Vec<usize> = (0..shape[axis_at]).collect();
                order.sort_by(|&a, &b| {
                    let by_size = number(a).total_cmp(&number(b));
                    if largest { by_size.reverse() } else { by_size }
                });
                order[index[axis_at]] as f64
            });
            let op = Op::TopK(TopK { axis, largest });
            let name = format!("top_k/{name}, {}", if largest { "largest" } else { "smallest" });
            cases.push(Sketch::single(&name, op, &[&input], &expected, Tolerance::Exact));
        }
    }
    cases
}
