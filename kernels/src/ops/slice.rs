//! Elements of one dimension at regular distances.

use flotilla_program::Slice;

use super::{
    Kernel, Launch, Operand, Shader,
    strided::{self, View},
};
use crate::call::{Call, Signature, strides};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

fn view(op: &Slice, call: &Call<'_>) -> Result<View, String> {
    let (input, axis) = (call.input(0), op.axis as usize);
    let taken = call.output().get(axis).copied().unwrap_or(0);
    let mut shape = input.to_vec();
    shape[axis] = taken;
    call.expect_output(&shape)?;
    let start = call.eval(&op.start)?;
    let mut from_strides = strided::signed(&strides(input));
    let from = start * from_strides[axis];
    if taken > 0 {
        let last = start + op.stride * (taken as i64 - 1);
        let inside = |at: i64| (0..input[axis] as i64).contains(&at);
        if !inside(start) || !inside(last) {
            return Err(format!(
                "elements {start} to {last} are out of dimension {axis} of {input:?}"
            ));
        }
    }
    from_strides[axis] *= op.stride;
    Ok(View::gathering(&shape, usize::try_from(from).unwrap_or(0), from_strides))
}

impl Kernel for Slice {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(1)?;
        signature.expect_axis(self.axis)
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
    use flotilla_program::{Op, dim::Dim};
    use flotilla_tensor::DType;

    let table: [(&str, &[usize], u32, i64, i64, usize); 4] = [
        ("the middle", &[2, 7, 3], 1, 2, 1, 4),
        ("every second", &[2, 7], 1, 1, 2, 3),
        ("backwards", &[5, 2], 0, 4, -2, 3),
        ("the first token", &[2, 4, 8], 1, 0, 1, 1),
    ];
    table
        .into_iter()
        .map(|(name, shape, axis, start, stride, taken)| {
            let input = Array::noise(3200, shape);
            let mut out = shape.to_vec();
            out[axis as usize] = taken;
            let expected = Array::build(DType::F32, &out, |index| {
                let mut own = index.to_vec();
                own[axis as usize] = (start + stride * own[axis as usize] as i64) as usize;
                input.at(&own)
            });
            let op = Op::Slice(Slice { axis, start: Dim::Fixed(start), stride });
            Sketch::single(&format!("slice/{name}"), op, &[&input], &expected, Tolerance::Exact)
        })
        .collect()
}
