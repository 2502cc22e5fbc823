//! Slices, selected by tuples of indices.

use flotilla_program::GatherNd;

use super::{
    Kernel, Launch, Operand, Shader,
    places::{TUPLE_PLACES, TuplePlaces, gather, gather_launch},
};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

fn places(op: &GatherNd, call: &Call<'_>) -> Result<TuplePlaces, String> {
    let (data, indices) = (call.input(0), call.input(1));
    call.expect_output(&TuplePlaces::moved(data, indices, op.batch_dims))?;
    TuplePlaces::new(data, indices, op.batch_dims)
}

impl Kernel for GatherNd {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_gathering()
    }

    fn shaders(&self, _signature: &Signature<'_>) -> Vec<Shader> {
        let body = format!("{TUPLE_PLACES}{}", include_str!("gather_places.wgsl"));
        vec![Shader::new("GatherNd", &[("data", "u32"), ("indices", "i32")], "u32", &body)]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        Ok(vec![gather_launch(&places(self, call)?)])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        gather(&places(self, call)?, operands, output)
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;
    use flotilla_tensor::DType;

    let table: [(&str, &[usize], &[usize], &[i32], u32); 5] = [
        ("elements", &[3, 4], &[3, 2], &[0, 3, -1, 1, 2, 2], 0),
        ("rows", &[3, 4, 2], &[2, 2, 1], &[2, 0, -3, 1], 0),
        ("rows of a batch", &[2, 3, 4], &[2, 1], &[2, -2], 1),
        (
            "several of a batch",
            &[2, 3, 2, 2],
            &[2, 3, 2],
            &[0, 1, 2, 0, 1, 1, -1, -1, 0, 0, 1, 0],
            1,
        ),
        ("everything", &[2, 3], &[2, 0], &[], 0),
    ];
    table
        .into_iter()
        .map(|(name, shape, picked_shape, picked, batch_dims)| {
            let data = Array::noise(4200, shape);
            let numbers = picked.iter().map(|&index| f64::from(index)).collect();
            let indices = Array::of(DType::I32, picked_shape, numbers);
            let (batch, depth) = (batch_dims as usize, picked_shape[picked_shape.len() - 1]);
            let picks = picked_shape.len() - 1;
            let out = [&picked_shape[..picks], &shape[batch + depth..]].concat();
            let expected = Array::build(DType::F32, &out, |index| {
                let mut own = index[..batch].to_vec();
                for at in 0..depth {
                    let place = [&index[..picks], &[at]].concat();
                    let size = shape[batch + at] as i64;
                    own.push((indices.at(&place) as i64).rem_euclid(size) as usize);
                }
                own.extend(&index[picks..]);
                data.at(&own)
            });
            let op = Op::GatherNd(GatherNd { batch_dims });
            let name = format!("gather_nd/{name}");
            Sketch::single(&name, op, &[&data, &indices], &expected, Tolerance::Exact)
        })
        .collect()
}
