//! Softmax along a dimension.

use flotilla_program::{DType, Softmax};

use super::{Kernel, Launch, Operand, Shader, attention::normalize};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

impl Kernel for Softmax {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(1)?;
        signature.expect_all(DType::F32)?;
        signature.expect_axis(self.axis)
    }

    fn shaders(&self, _signature: &Signature<'_>) -> Vec<Shader> {
        vec![Shader::new("Softmax", &[("x", "f32")], "f32", include_str!("softmax.wgsl"))]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let (size, inner) = call.lines(self.axis)?;
        let lines = call.elements() / size.max(1);
        let params = [lines, size, inner].map(|count| count as u32).to_vec();
        Ok(vec![Launch::new(0, 1, params, lines, 3 * size)])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let (size, inner) = call.lines(self.axis)?;
        let output: &mut [f32] = bytemuck::cast_slice_mut(output);
        output.copy_from_slice(operands[0].f32());
        if inner == 1 {
            output.chunks_exact_mut(size.max(1)).for_each(normalize);
            return Ok(());
        }
        let mut line = vec![0.0; size];
        for block in output.chunks_exact_mut((size * inner).max(1)) {
            for first in 0..inner {
                let places = || (first..).step_by(inner);
                line.iter_mut().zip(places()).for_each(|(value, at)| *value = block[at]);
                normalize(&mut line);
                line.iter().zip(places()).for_each(|(&value, at)| block[at] = value);
            }
        }
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;

    let table: [(&str, &[usize], u32); 3] = [
        ("the last dimension", &[3, 70], 1),
        ("the first dimension", &[5, 4], 0),
        ("the middle", &[2, 9, 3], 1),
    ];
    table
        .into_iter()
        .map(|(name, shape, axis)| {
            let input = Array::noise(3600, shape).map(|x| f64::from((x * 20.0) as f32));
            let weight = |index: &[usize], at: usize| {
                let mut index = index.to_vec();
                index[axis as usize] = at;
                input.at(&index).exp()
            };
            let expected = Array::build(DType::F32, shape, |index| {
                let total: f64 = (0..shape[axis as usize]).map(|at| weight(index, at)).sum();
                weight(index, index[axis as usize]) / total
            });
            let op = Op::Softmax(Softmax { axis });
            Sketch::single(
                &format!("softmax/{name}"),
                op,
                &[&input],
                &expected,
                Tolerance::Approximate,
            )
        })
        .collect()
}
