//! Positions of the elements that a running count has counted.

use flotilla_tensor::DType;

use super::{Kernel, Launch, Operand, Shader};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// The operator has no attributes.
pub(crate) struct FirstAbove;

/// How many numbers there are.
fn geometry(call: &Call<'_>) -> Result<usize, String> {
    match (call.input(0), call.output()) {
        (&[size], [_]) => Ok(size),
        (sums, places) => Err(format!("{sums:?} becomes {places:?}, both have one dimension")),
    }
}

impl Kernel for FirstAbove {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(1)?;
        signature.expect_all(DType::I32)
    }

    fn shaders(&self, _signature: &Signature<'_>) -> Vec<Shader> {
        vec![Shader::new("FirstAbove", &[("sums", "i32")], "i32", include_str!("first_above.wgsl"))]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let (size, total) = (geometry(call)?, call.elements());
        let params = vec![total as u32, size as u32];
        Ok(vec![Launch::new(0, 1, params, total, u32::BITS as usize)])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        geometry(call)?;
        let sums = operands[0].i32();
        for (index, place) in output.iter_mut().enumerate() {
            *place = sums.partition_point(|&sum| i64::from(sum) <= index as i64) as u32;
        }
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;

    // Whether each element is counted.
    let table: [(&str, &[u8]); 4] = [
        ("some", &[0, 1, 1, 0, 0, 1, 0]),
        ("all", &[1, 1, 1]),
        ("none", &[0, 0, 0, 0, 0]),
        ("many", &[0, 0, 1].repeat(50)),
    ];
    table
        .into_iter()
        .map(|(name, counted)| {
            let shape = [counted.len()];
            let mut sum = 0.0;
            let sums = counted.iter().map(|&counted| {
                sum += f64::from(counted);
                sum
            });
            let sums = Array::of(DType::I32, &shape, sums.collect());
            let mut places: Vec<f64> =
                (0..counted.len()).filter(|&at| counted[at] == 1).map(|at| at as f64).collect();
            places.resize(counted.len(), counted.len() as f64);
            let expected = Array::of(DType::I32, &shape, places);
            let name = format!("first_above/{name}");
            Sketch::single(&name, Op::FirstAbove, &[&sums], &expected, Tolerance::Exact)
        })
        .collect()
}
