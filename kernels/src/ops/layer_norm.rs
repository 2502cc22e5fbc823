//! Layer normalization over the last dimension.

use flotilla_program::{DType, LayerNorm};

use super::{Kernel, Launch, Operand, Shader};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// Rows and columns.
fn geometry(op: &LayerNorm, call: &Call<'_>) -> Result<(usize, usize), String> {
    let Some((&n, lead)) = call.input(0).split_last() else {
        return Err("a scalar has no last dimension".to_owned());
    };
    call.expect_input(1, &[n])?;
    call.expect_input(2, &[n])?;
    if op.residual {
        call.expect_input(3, call.input(0))?;
    }
    call.expect_output(call.input(0))?;
    Ok((lead.iter().product(), n))
}

impl Kernel for LayerNorm {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(3 + usize::from(self.residual))?;
        signature.expect_all(DType::F32)
    }

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        let by_4 = by_4(signature);
        let element = if by_4 { "vec4<f32>" } else { "f32" };
        let mut reads = vec![("x", element), ("gamma", element), ("beta", element)];
        let mut body = format!("alias Element = {element};\n");
        if self.residual {
            reads.push(("residual", element));
            body += "fn value(at: u32) -> Element { return x[at] + residual[at]; }\n";
        } else {
            body += "fn value(at: u32) -> Element { return x[at]; }\n";
        }
        body += if by_4 {
            "fn sum(x: vec4<f32>) -> f32 { return x.x + x.y + x.z + x.w; }\n"
        } else {
            "fn sum(x: f32) -> f32 { return x; }\n"
        };
        body += include_str!("layer_norm.wgsl");
        vec![Shader::new("LayerNorm", &reads, element, &body)]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let (rows, n) = geometry(self, call)?;
        let units = if by_4(&call.signature) { n / 4 } else { n };
        let inverse = 1.0 / n as f32;
        let params = vec![rows as u32, units as u32, inverse.to_bits(), self.epsilon.to_bits()];
        Ok(vec![Launch::new(0, call.inputs(), params, rows, 3 * units)])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let (_, n) = geometry(self, call)?;
        let output: &mut [f32] = bytemuck::cast_slice_mut(output);
        output.copy_from_slice(operands[0].f32());
        if self.residual {
            output
                .iter_mut()
                .zip(operands[3].f32())
                .for_each(|(value, residual)| *value += residual);
        }
        let (gamma, beta) = (operands[1].f32(), operands[2].f32());
        let inverse = 1.0 / n as f32;
        for row in output.chunks_exact_mut(n.max(1)) {
            let mean = sum(row, |value| value) * inverse;
            let variance = sum(row, |value| (value - mean) * (value - mean)) * inverse;
            let factor = 1.0 / (variance + self.epsilon).sqrt();
            for ((value, gamma), beta) in row.iter_mut().zip(gamma).zip(beta) {
                *value = (*value - mean) * factor * gamma + beta;
            }
        }
        Ok(())
    }
}

fn by_4(signature: &Signature<'_>) -> bool {
    let last = signature.input(0).shape.last();
    last.and_then(|dim| dim.as_fixed()).is_some_and(|dim| dim > 0 && dim % 4 == 0)
}

/// A sum in eight lanes, which vectorizes and rounds less than one lane.
fn sum(row: &[f32], function: impl Fn(f32) -> f32) -> f32 {
    let (blocks, rest) = row.as_chunks::<8>();
    let mut lanes = [0.0; 8];
    for block in blocks {
        for (lane, &value) in lanes.iter_mut().zip(block) {
            *lane += function(value);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|&value| function(value)).sum::<f32>()
}

#[cfg(not(target_arch = "wasm32"))]
fn expected(op: &LayerNorm, inputs: &[&Array]) -> Array {
    let x = inputs[0];
    let n = x.shape[x.shape.len() - 1];
    let value = |row: usize, at: usize| {
        let at = row * n + at;
        x.numbers[at] + if op.residual { inputs[3].numbers[at] } else { 0.0 }
    };
    let numbers = (0..x.numbers.len())
        .map(|flat| {
            let (row, at) = (flat / n, flat % n);
            let mean = (0..n).map(|at| value(row, at)).sum::<f64>() / n as f64;
            let variance = (0..n).map(|at| (value(row, at) - mean).powi(2)).sum::<f64>() / n as f64;
            (value(row, at) - mean) / (variance + f64::from(op.epsilon)).sqrt()
                * inputs[1].at(&[at])
                + inputs[2].at(&[at])
        })
        .collect();
    Array::f32(&x.shape, numbers)
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;

    let table: [(&str, &[usize], bool); 4] = [
        ("minilm", &[2, 5, 384], true),
        ("plain", &[70, 16], false),
        ("odd", &[3, 7], true),
        ("one", &[2, 1], false),
    ];
    table
        .into_iter()
        .enumerate()
        .map(|(seed, (name, shape, residual))| {
            let seed = 2000 + seed as u64 * 10;
            let op = LayerNorm { epsilon: 1e-5, residual };
            let n = shape[shape.len() - 1];
            let mut arrays = vec![
                Array::noise(seed, shape),
                Array::noise(seed + 1, &[n]),
                Array::noise(seed + 2, &[n]),
            ];
            if residual {
                arrays.push(Array::noise(seed + 3, shape));
            }
            let arrays: Vec<&Array> = arrays.iter().collect();
            let expected = expected(&op, &arrays);
            Sketch::single(
                &format!("layer_norm/{name}"),
                Op::LayerNorm(op),
                &arrays,
                &expected,
                Tolerance::Approximate,
            )
        })
        .collect()
}
