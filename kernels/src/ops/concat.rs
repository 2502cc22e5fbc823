//! Inputs one after the other along a dimension.

use flotilla_program::Concat;

use super::{
    Kernel, Launch, Operand, Shader,
    strided::{self, View},
};
use crate::call::{Call, Signature, strides};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// A view per input; together they write the whole output.
fn views(op: &Concat, call: &Call<'_>) -> Result<Vec<View>, String> {
    let (output, axis) = (call.output(), op.axis as usize);
    let to_strides = strides(output);
    let mut start = 0;
    let views = (0..call.inputs())
        .map(|index| {
            let input = call.input(index);
            let mut want = output.to_vec();
            want[axis] = input.get(axis).copied().unwrap_or(0);
            call.expect_input(index, &want)?;
            let to = start * to_strides[axis];
            start += input[axis];
            let from_strides = strided::signed(&strides(input));
            Ok(View {
                shape: want,
                from: 0,
                from_strides,
                to,
                to_strides: strided::signed(&to_strides),
            })
        })
        .collect::<Result<_, String>>()?;
    if start != output[axis] {
        return Err(format!(
            "inputs have {start} in dimension {axis}, the output {}",
            output[axis]
        ));
    }
    Ok(views)
}

impl Kernel for Concat {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(signature.node.inputs.len())?;
        if self.axis as usize >= signature.output().shape.len() {
            return Err(format!("there is no dimension {}", self.axis));
        }
        Ok(())
    }

    fn shaders(&self, _signature: &Signature<'_>) -> Vec<Shader> {
        vec![strided::shader()]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        Ok(views(self, call)?.iter().enumerate().map(|(input, view)| view.launch(input)).collect())
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        for (view, operand) in views(self, call)?.iter().zip(operands) {
            view.copy(operand.words(), output);
        }
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;
    use flotilla_tensor::DType;

    const ROW: &[usize] = &[1, 2];
    let table: [(&str, &[&[usize]], u32); 3] = [
        ("rows", &[&[2, 3], &[1, 3]], 0),
        ("columns", &[&[2, 3], &[2, 1], &[2, 4]], 1),
        ("more than a binding table holds", &[ROW; 12], 0),
    ];
    table
        .into_iter()
        .map(|(name, shapes, axis)| {
            let axis_at = axis as usize;
            let inputs: Vec<Array> = shapes
                .iter()
                .enumerate()
                .map(|(seed, shape)| Array::noise(3300 + seed as u64, shape))
                .collect();
            let mut out = shapes[0].to_vec();
            out[axis_at] = shapes.iter().map(|shape| shape[axis_at]).sum();
            let expected = Array::build(DType::F32, &out, |index| {
                let mut own = index.to_vec();
                let mut chosen = 0;
                while own[axis_at] >= shapes[chosen][axis_at] {
                    own[axis_at] -= shapes[chosen][axis_at];
                    chosen += 1;
                }
                inputs[chosen].at(&own)
            });
            let op = Op::Concat(Concat { axis });
            let inputs: Vec<&Array> = inputs.iter().collect();
            Sketch::single(&format!("concat/{name}"), op, &inputs, &expected, Tolerance::Exact)
        })
        .collect()
}
