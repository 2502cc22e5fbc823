//! Numbers that shapes are computed from, as elements.

use flotilla_program::Sizes;
use flotilla_tensor::DType;

use super::{Kernel, Launch, Operand, Shader};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// The numbers of this run.
fn numbers(op: &Sizes, call: &Call<'_>) -> Result<Vec<i32>, String> {
    if call.elements() != op.dims.len() {
        return Err(format!("{} numbers for a shape of {:?}", op.dims.len(), call.output()));
    }
    let narrow =
        |number: i64| i32::try_from(number).map_err(|_| format!("{number} does not fit 32 bits"));
    call.numbers(&op.dims)?.into_iter().map(narrow).collect()
}

impl Kernel for Sizes {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(0)?;
        signature.expect_all(DType::I32)?;
        match self.dims.len() {
            count if count <= Sizes::MAX => Ok(()),
            count => Err(format!("{count} numbers, the limit is {}", Sizes::MAX)),
        }
    }

    fn shaders(&self, _signature: &Signature<'_>) -> Vec<Shader> {
        vec![Shader::new("Sizes", &[], "i32", include_str!("sizes.wgsl"))]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let numbers = numbers(self, call)?;
        let total = numbers.len();
        let mut params = vec![total as u32, 0, 0, 0];
        params.extend((0..Sizes::MAX).map(|at| numbers.get(at).map_or(0, |&number| number as u32)));
        Ok(vec![Launch::new(0, 0, params, total, Sizes::MAX)])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        _operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        for (value, number) in output.iter_mut().zip(numbers(self, call)?) {
            *value = number as u32;
        }
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;

    let table: [(&[usize], &[i64]); 4] =
        [(&[], &[7]), (&[3], &[-1, 0, 2_000_000_000]), (&[2, 2], &[4, 3, 2, 1]), (&[0], &[])];
    table
        .into_iter()
        .map(|(shape, numbers)| {
            let dims = numbers.iter().map(|&number| number.into()).collect();
            let expected =
                Array::of(DType::I32, shape, numbers.iter().map(|&number| number as f64).collect());
            let name = format!("sizes/{shape:?}");
            Sketch::single(&name, Op::Sizes(Sizes { dims }), &[], &expected, Tolerance::Exact)
        })
        .collect()
}
