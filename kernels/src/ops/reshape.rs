//! The same elements under another shape; no kernel runs.

use super::{Kernel, Launch, Operand, Shader};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// [`flotilla_program::Op::Reshape`], which has no attributes.
pub(crate) struct Reshape;

impl Kernel for Reshape {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(1)
    }

    fn shaders(&self, _signature: &Signature<'_>) -> Vec<Shader> {
        Vec::new()
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let (got, want) = (call.input(0).iter().product::<usize>(), call.elements());
        if got == want {
            Ok(Vec::new())
        } else {
            Err(format!("{got} elements do not fit {:?}", call.output()))
        }
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        self.launches(call)?;
        output.copy_from_slice(operands[0].words());
        Ok(())
    }

    fn is_alias(&self) -> bool {
        true
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::{Op, Unary};
    use flotilla_tensor::DType;

    let input = Array::noise(3400, &[2, 6]);
    let reshaped = Array { shape: vec![3, 4], ..input.clone() };
    let mut between = Sketch::new("reshape/between kernels");
    let x = between.input(&input);
    let exp = |input| {
        let steps = vec![
            flotilla_program::Step::Input(input),
            flotilla_program::Step::Unary(Unary::Exp, 0),
        ];
        Op::Elementwise(flotilla_program::Expr { steps })
    };
    let first = between.node(exp(0), &[x], DType::F32, &[2, 6]);
    let again = between.node(Op::Reshape, &[first], DType::F32, &[3, 4]);
    let twice = between.node(Op::Reshape, &[again], DType::F32, &[12]);
    let last = between.node(exp(0), &[twice], DType::F32, &[12]);
    let expected = Array { shape: vec![12], ..input.map(|x| x.exp().exp()) };
    vec![
        Sketch::single("reshape/an input", Op::Reshape, &[&input], &reshaped, Tolerance::Exact),
        between.case(last, &expected, Tolerance::Approximate),
    ]
}
