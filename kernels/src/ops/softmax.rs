//! Softmax along a dimension. Long lines are divided into parts whose maxima and sums are joined.

use flotilla_program::Softmax;
use flotilla_tensor::DType;

use super::{
    Kernel, Launch, Memory, Operand, Shader,
    attention::normalize,
    split::{self, Scratchpad},
};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, LONG, LONGEST, Sketch, Tolerance};

/// Most elements that one invocation processes; it does so three times.
const LENGTH_MAX: usize = 4096;

/// Which of a node's shaders: for whole lines, for parts, for parts of parts, and for results from the sums of lines.
const WHOLE: usize = 0;
const PARTS: usize = 1;
const JOIN: usize = 2;
const FINISH: usize = 3;

impl Kernel for Softmax {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(1)?;
        signature.expect_all(DType::F32)?;
        signature.expect_axis(self.axis)
    }

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        let mut shaders =
            vec![Shader::new("Softmax", &[("x", "f32")], "f32", include_str!("softmax.wgsl"))];
        if split::may_divide(signature.fixed(0, self.axis), LENGTH_MAX) {
            let parts = |name: &str, score: &str, weight: &str| {
                let body = format!(
                    "fn score(at: u32) -> f32 {{ return {score}; }}
fn weight(at: u32) -> f32 {{ return {weight}; }}
{}",
                    include_str!("softmax_parts.wgsl")
                );
                Shader::new(name, &[("x", "f32")], "f32", &body)
            };
            let finish = include_str!("softmax_finish.wgsl");
            shaders.extend([
                parts("Softmax, parts", "x[at]", "1.0"),
                parts("Softmax, joining parts", "x[2u * at]", "x[2u * at + 1u]"),
                Shader::new("Softmax, finish", &[("x", "f32"), ("sums", "f32")], "f32", finish),
            ]);
        }
        shaders
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let (size, inner) = call.lines(self.axis)?;
        let lines = call.elements() / size.max(1);
        let mut parts = split::parts(lines, size, LENGTH_MAX);
        if parts == 1 {
            let params = [lines, size, inner].map(|count| count as u32).to_vec();
            return Ok(vec![Launch::new(WHOLE, 1, params, lines, 3 * size)]);
        }
        let mut scratchpad = Scratchpad::default();
        let (mut launches, mut from, mut left) = (Vec::new(), Memory::Input(0), size);
        while left > 1 {
            let to = scratchpad.take(2 * lines * parts);
            let total = lines * parts;
            let params = [total, left, inner, parts].map(|count| count as u32).to_vec();
            let shader = if launches.is_empty() { PARTS } else { JOIN };
            let launch = Launch::new(shader, 0, params, total, 2 * left.div_ceil(parts));
            launches.push(launch.reading([from]).writing(to));
            (from, left) = (to, parts);
            parts = split::parts(lines, left, LENGTH_MAX);
        }
        let parts = size.div_ceil(split::RESULTS);
        let total = lines * parts;
        let params = [total, size, inner, parts].map(|count| count as u32).to_vec();
        let finish = Launch::new(FINISH, 0, params, total, split::RESULTS);
        launches.push(finish.reading([Memory::Input(0), from]));
        Ok(launches)
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
    let mut cases: Vec<Case> = table
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
        .collect();
    cases.extend(LONG.map(|size| long(&[1, size], 1).everywhere_if(size == LONGEST)));
    let shapes: [(&[usize], u32); 4] =
        [(&[3, 1025], 1), (&[2000, 5], 0), (&[2, 20_000, 3], 1), (&[70, 4100], 1)];
    cases.extend(shapes.map(|(shape, axis)| long(shape, axis).everywhere_if(false)));
    cases
}

/// Few weights of many are large, and some are 0.
#[cfg(not(target_arch = "wasm32"))]
fn long(shape: &[usize], axis: u32) -> Case {
    use flotilla_program::Op;

    let input = Array::noise(3601, shape).map(|x| match x {
        x if x < -0.99 => f64::NEG_INFINITY,
        x => f64::from((x * x * x * 20.0) as f32),
    });
    let (size, inner) =
        (shape[axis as usize], shape[axis as usize + 1..].iter().product::<usize>());
    let line_of = |flat: usize| flat / (size * inner) * inner + flat % inner;
    let mut totals = vec![0.0; input.numbers.len() / size];
    for (flat, x) in input.numbers.iter().enumerate() {
        totals[line_of(flat)] += x.exp();
    }
    let weights = input.numbers.iter().enumerate().map(|(flat, x)| x.exp() / totals[line_of(flat)]);
    let expected = Array::of(DType::F32, shape, weights.collect());
    let op = Op::Softmax(Softmax { axis });
    let name = format!("softmax/{shape:?} along {axis}");
    Sketch::single(&name, op, &[&input], &expected, Tolerance::Scaled)
}
