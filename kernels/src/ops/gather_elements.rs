//! Single elements, selected by position along a dimension.

use flotilla_program::GatherElements;

use super::{
    Kernel, Launch, Operand, Shader,
    places::{ELEMENT_PLACES, ElementPlaces, gather, gather_launch},
};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

fn places(op: &GatherElements, call: &Call<'_>) -> Result<ElementPlaces, String> {
    call.expect_output(call.input(1))?;
    ElementPlaces::new(call.input(0), call.input(1), op.axis)
}

impl Kernel for GatherElements {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_gathering()?;
        signature.expect_axis(self.axis)
    }

    fn shaders(&self, _signature: &Signature<'_>) -> Vec<Shader> {
        let body = format!("{ELEMENT_PLACES}{}", include_str!("gather_places.wgsl"));
        vec![Shader::new("GatherElements", &[("data", "u32"), ("indices", "i32")], "u32", &body)]
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

    let table: [(&str, &[usize], &[usize], &[i32], u32); 4] = [
        ("a row each", &[3, 4], &[3, 2], &[0, 3, -1, 1, 2, 2], 1),
        ("fewer columns than the data has", &[3, 4], &[2, 3], &[2, 0, 1, -3, 1, -1], 0),
        ("one dimension", &[5], &[7], &[4, -5, 2, 0, 1, 1, 3], 0),
        ("the middle", &[2, 3, 2], &[2, 1, 2], &[2, 0, -2, 1], 1),
    ];
    table
        .into_iter()
        .map(|(name, shape, picked_shape, picked, axis)| {
            let data = Array::noise(4100, shape);
            let numbers = picked.iter().map(|&index| f64::from(index)).collect();
            let indices = Array::of(DType::I32, picked_shape, numbers);
            let expected = Array::build(DType::F32, picked_shape, |index| {
                let size = shape[axis as usize] as i64;
                let mut own = index.to_vec();
                own[axis as usize] = (indices.at(index) as i64).rem_euclid(size) as usize;
                data.at(&own)
            });
            let op = Op::GatherElements(GatherElements { axis });
            let name = format!("gather_elements/{name}");
            Sketch::single(&name, op, &[&data, &indices], &expected, Tolerance::Exact)
        })
        .collect()
}
