//! Repeated dimensions.

use super::{
    Kernel, Launch, Operand, Shader,
    strided::{self, View},
};
use crate::call::{Call, Signature, broadcast_strides};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// [`flotilla_program::Op::Broadcast`], which has no attributes.
pub(crate) struct Broadcast;

fn view(call: &Call<'_>) -> Result<View, String> {
    let strides = broadcast_strides(call.input(0), call.output())?;
    Ok(View::gathering(call.output(), 0, strided::signed(&strides)))
}

impl Kernel for Broadcast {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(1)
    }

    fn shaders(&self, _signature: &Signature<'_>) -> Vec<Shader> {
        vec![strided::shader()]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        Ok(vec![view(call)?.launch(0)])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        view(call)?.copy(operands[0].words(), output);
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;
    use flotilla_tensor::DType;

    let table: [(&str, &[usize], &[usize]); 4] = [
        ("a row", &[1, 4], &[3, 4]),
        ("a column", &[3, 1], &[3, 4]),
        ("a scalar", &[], &[2, 3]),
        ("the middle", &[2, 1, 3], &[2, 5, 3]),
    ];
    table
        .into_iter()
        .map(|(name, from, to)| {
            let input = Array::noise(3100, from);
            let expected = Array::build(DType::F32, to, |index| {
                let own: Vec<usize> = from
                    .iter()
                    .zip(&index[to.len() - from.len()..])
                    .map(|(&size, &at)| if size == 1 { 0 } else { at })
                    .collect();
                input.at(&own)
            });
            Sketch::single(
                &format!("broadcast/{name}"),
                Op::Broadcast,
                &[&input],
                &expected,
                Tolerance::Exact,
            )
        })
        .collect()
}
