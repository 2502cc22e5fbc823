//! Reordered dimensions.

use flotilla_program::Transpose;

use super::{
    Kernel, Launch, Operand, Shader,
    strided::{self, View},
};
use crate::call::{Call, Signature, strides};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

fn view(op: &Transpose, call: &Call<'_>) -> Result<View, String> {
    let input = call.input(0);
    let own = strided::signed(&strides(input));
    let shape: Vec<usize> = op.perm.iter().map(|&axis| input[axis as usize]).collect();
    call.expect_output(&shape)?;
    Ok(View::gathering(&shape, 0, op.perm.iter().map(|&axis| own[axis as usize]).collect()))
}

impl Kernel for Transpose {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(1)?;
        let mut sorted = self.perm.clone();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..signature.input(0).shape.len() as u32) {
            return Err(format!(
                "{:?} does not reorder {} dimensions",
                self.perm,
                signature.input(0).shape.len()
            ));
        }
        Ok(())
    }

    fn shaders(&self, _signature: &Signature<'_>) -> Vec<Shader> {
        vec![strided::shader()]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        Ok(vec![view(self, call)?.launch(0)])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        view(self, call)?.copy(operands[0].words(), output);
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;
    use flotilla_tensor::DType;

    let table: [(&str, &[usize], &[u32]); 4] = [
        ("a matrix", &[5, 7], &[1, 0]),
        ("heads", &[2, 5, 3, 4], &[0, 2, 1, 3]),
        ("keys", &[2, 5, 3, 4], &[0, 2, 3, 1]),
        ("nothing", &[3, 4], &[0, 1]),
    ];
    table
        .into_iter()
        .map(|(name, shape, perm)| {
            let input = Array::noise(3000, shape);
            let out: Vec<usize> = perm.iter().map(|&axis| shape[axis as usize]).collect();
            let expected = Array::build(DType::F32, &out, |index| {
                let mut own = vec![0; shape.len()];
                perm.iter().zip(index).for_each(|(&axis, &at)| own[axis as usize] = at);
                input.at(&own)
            });
            let op = Op::Transpose(Transpose { perm: perm.to_vec() });
            Sketch::single(&format!("transpose/{name}"), op, &[&input], &expected, Tolerance::Exact)
        })
        .collect()
}
