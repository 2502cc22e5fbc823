//! Equidistant integers.

use flotilla_program::Range;
use flotilla_tensor::DType;

use super::{Kernel, Launch, Operand, Shader};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// Start and stride.
fn geometry(op: &Range, call: &Call<'_>) -> Result<(i32, i32), String> {
    let (start, stride) = (call.eval(&op.start)?, call.eval(&op.stride)?);
    let last =
        (call.elements() as i64).checked_mul(stride).and_then(|length| length.checked_add(start));
    match (i32::try_from(start), i32::try_from(stride), last.map(i32::try_from)) {
        (Ok(start), Ok(stride), Some(Ok(_))) => Ok((start, stride)),
        _ => Err(format!("a range from {start} by {stride} leaves 32 bits")),
    }
}

impl Kernel for Range {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(0)?;
        signature.expect_all(DType::I32)?;
        match signature.output().shape.len() {
            1 => Ok(()),
            got => Err(format!("{got} dimensions, a range has one")),
        }
    }

    fn shaders(&self, _signature: &Signature<'_>) -> Vec<Shader> {
        vec![Shader::new("Range", &[], "i32", include_str!("range.wgsl"))]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let (start, stride) = geometry(self, call)?;
        let total = call.elements();
        let params = vec![total as u32, start as u32, stride as u32];
        Ok(vec![Launch::new(0, 0, params, total, 0)])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        _operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let (start, stride) = geometry(self, call)?;
        for (index, value) in output.iter_mut().enumerate() {
            *value = (start + index as i32 * stride) as u32;
        }
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::{Op, dim::Dim};

    [("positions", 0, 1, 70), ("downwards", 5, -3, 4), ("nothing", 1, 1, 0)]
        .into_iter()
        .map(|(name, start, stride, count)| {
            let numbers = (0..count).map(|index| (start + stride * index) as f64).collect();
            let expected = Array::of(DType::I32, &[count as usize], numbers);
            let op = Op::Range(Range { start: Dim::Fixed(start), stride: Dim::Fixed(stride) });
            Sketch::single(&format!("range/{name}"), op, &[], &expected, Tolerance::Exact)
        })
        .collect()
}
