//! Layer normalization over the last dimension. Long rows are divided into parts whose means and variances are joined.

use flotilla_program::LayerNorm;
use flotilla_tensor::DType;

use super::{
    Kernel, Launch, Memory, Operand, Shader,
    split::{self, Scratchpad},
    sums,
};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, LONG, LONGEST, Sketch, Tolerance};

/// Most units that one invocation processes, three times each. A unit is an element, or four of them if the size of a row
/// is a multiple of four.
const LENGTH_MAX: usize = 4096;

/// Which of a node's shaders: for whole rows, for parts, for parts of parts, and for results from the joined parts.
const WHOLE: usize = 0;
const PARTS: usize = 1;
const JOIN: usize = 2;
const FINISH: usize = 3;

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
        let data: &[(&str, &str)] = if self.residual {
            &[("x", element), ("residual", element)]
        } else {
            &[("x", element)]
        };
        let value = if self.residual { "x[at] + residual[at]" } else { "x[at]" };
        let sum = if by_4 { "x.x + x.y + x.z + x.w" } else { "x" };
        let declarations = format!(
            "alias Element = {element};
const WIDTH = {}u;
fn value(at: u32) -> Element {{ return {value}; }}
fn sum(x: Element) -> f32 {{ return {sum}; }}
",
            if by_4 { 4 } else { 1 }
        );
        let weights = [("gamma", element), ("beta", element)];
        let whole = format!("{declarations}{}", include_str!("layer_norm.wgsl"));
        let mut shaders =
            vec![Shader::new("LayerNorm", &[data, &weights].concat(), element, &whole)];
        let last = signature.input(0).shape.last().and_then(|dim| dim.as_fixed());
        if split::may_divide(last, LENGTH_MAX) {
            let found = [("found", "vec4<f32>")];
            let parts = format!("{declarations}{}", include_str!("layer_norm_parts.wgsl"));
            let join = include_str!("layer_norm_join.wgsl");
            let finish = format!("{declarations}{}", include_str!("layer_norm_finish.wgsl"));
            let finish_reads = [data, &weights, &found].concat();
            shaders.extend([
                Shader::new("LayerNorm, parts", data, "vec4<f32>", &parts),
                Shader::new("LayerNorm, joining parts", &found, "vec4<f32>", join),
                Shader::new("LayerNorm, finish", &finish_reads, element, &finish),
            ]);
        }
        shaders
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let (rows, n) = geometry(self, call)?;
        let width = if by_4(&call.signature) { 4 } else { 1 };
        let units = n / width;
        let (inverse, epsilon) = ((1.0 / n as f32).to_bits(), self.epsilon.to_bits());
        let data: Vec<Memory> =
            [0, 3][..1 + usize::from(self.residual)].iter().map(|&at| Memory::Input(at)).collect();
        let weights = vec![Memory::Input(1), Memory::Input(2)];
        let mut parts = split::parts(rows, n, LENGTH_MAX * width);
        if parts == 1 {
            let params = vec![rows as u32, units as u32, inverse, epsilon];
            let launch = Launch::new(WHOLE, 0, params, rows, 3 * units);
            return Ok(vec![launch.reading([data, weights].concat())]);
        }
        let mut scratchpad = Scratchpad::default();
        let (mut launches, mut reads, mut left) = (Vec::new(), data.clone(), units);
        let found = loop {
            let total = rows * parts;
            let found = scratchpad.take(4 * total);
            let params = [total, left, parts].map(|count| count as u32).to_vec();
            let shader = if launches.is_empty() { PARTS } else { JOIN };
            let launch = Launch::new(shader, 0, params, total, 2 * left.div_ceil(parts));
            launches.push(launch.reading(reads).writing(found));
            if parts == 1 {
                break found;
            }
            (reads, left) = (vec![found], parts);
            parts = split::parts(rows, left, LENGTH_MAX);
        };
        let parts = units.div_ceil(split::RESULTS);
        let total = rows * parts;
        let params = vec![total as u32, units as u32, parts as u32, inverse, epsilon];
        let launch = Launch::new(FINISH, 0, params, total, split::RESULTS);
        launches.push(launch.reading([data, weights, vec![found]].concat()));
        Ok(launches)
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
        for row in output.chunks_exact_mut(n.max(1)) {
            let mean = sums::sum(row, f64::from) / n as f64;
            let square = |value: f32| (f64::from(value) - mean) * (f64::from(value) - mean);
            let variance = sums::sum(row, square) / n as f64;
            let factor = (1.0 / (variance + f64::from(self.epsilon)).sqrt()) as f32;
            for ((value, gamma), beta) in row.iter_mut().zip(gamma).zip(beta) {
                *value = (f64::from(*value) - mean) as f32 * factor * gamma + beta;
            }
        }
        Ok(())
    }
}

fn by_4(signature: &Signature<'_>) -> bool {
    let last = signature.input(0).shape.last();
    last.and_then(|dim| dim.as_fixed()).is_some_and(|dim| dim > 0 && dim % 4 == 0)
}

#[cfg(not(target_arch = "wasm32"))]
fn expected(op: &LayerNorm, inputs: &[&Array]) -> Array {
    let x = inputs[0];
    let n = x.shape[x.shape.len() - 1];
    let value = |row: usize, at: usize| {
        let at = row * n + at;
        x.numbers[at] + if op.residual { inputs[3].numbers[at] } else { 0.0 }
    };
    let mut numbers = Vec::new();
    for row in 0..x.numbers.len() / n {
        let mean = (0..n).map(|at| value(row, at)).sum::<f64>() / n as f64;
        let variance = (0..n).map(|at| (value(row, at) - mean).powi(2)).sum::<f64>() / n as f64;
        let deviation = (variance + f64::from(op.epsilon)).sqrt();
        numbers.extend((0..n).map(|at| {
            (value(row, at) - mean) / deviation * inputs[1].numbers[at] + inputs[2].numbers[at]
        }));
    }
    Array::f32(&x.shape, numbers)
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;

    let table: [(&str, &[usize], bool); 8] = [
        ("minilm", &[2, 5, 384], true),
        ("plain", &[70, 16], false),
        ("odd", &[3, 7], true),
        ("one", &[2, 1], false),
        ("far from 0", &[3, 256], false),
        ("far from 0 in parts", &[2, 1200], false),
        ("parts with a residual", &[2, 5000], true),
        ("many long rows", &[70, 4099], true),
    ];
    let long = LONG.map(|size| (format!("{size} elements"), vec![1, size], false));
    table
        .map(|(name, shape, residual)| (name.to_owned(), shape.to_vec(), residual))
        .into_iter()
        .chain(long)
        .enumerate()
        .map(|(seed, (name, shape, residual))| {
            let shape = shape.as_slice();
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
            if name.starts_with("far from 0") {
                arrays[0] = Array::f32(shape, arrays[0].map(|x| 1000.0 + 0.01 * x).numbers);
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
            .everywhere_if(seed < 2070 || n == LONGEST)
        })
        .collect()
}
