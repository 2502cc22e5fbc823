//! Sums and products of everything up to an element.

use flotilla_program::{Cumulative, DType};

use super::{Kernel, Launch, Operand, Shader};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

impl Kernel for Cumulative {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(1)?;
        let dtype = signature.input(0).dtype;
        signature.expect_all(dtype)?;
        signature.expect_axis(self.axis)?;
        match dtype {
            DType::F32 | DType::I32 | DType::U32 => Ok(()),
            other => Err(format!("it cannot be had of {other:?}")),
        }
    }

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        let element = match signature.input(0).dtype {
            DType::F32 => "f32",
            DType::I32 => "i32",
            _ => "u32",
        };
        let (first, join) = if self.product { ("1", "*") } else { ("0", "+") };
        let Cumulative { exclusive, reverse, .. } = self;
        let body = format!(
            "alias Element = {element};
const FIRST = Element({first});
const EXCLUSIVE = {exclusive};
const REVERSE = {reverse};
fn join(a: Element, b: Element) -> Element {{ return a {join} b; }}
{}",
            include_str!("cumulative.wgsl")
        );
        vec![Shader::new("Cumulative", &[("x", element)], element, &body)]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let (size, inner) = call.lines(self.axis)?;
        let lines = call.elements() / size.max(1);
        let params = [lines, size, inner].map(|count| count as u32).to_vec();
        Ok(vec![Launch::new(0, 1, params, lines, size)])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let (x, geometry) = (operands[0], call.lines(self.axis)?);
        if call.signature.input(0).dtype == DType::F32 {
            let output = bytemuck::cast_slice_mut(output);
            let (first, join): (f32, fn(f32, f32) -> f32) =
                if self.product { (1.0, |a, b| a * b) } else { (0.0, |a, b| a + b) };
            along(self, geometry, x.f32(), output, first, join);
        } else {
            // Sums and products that wrap around have the same bits with and without a sign.
            let (first, join): (u32, fn(u32, u32) -> u32) =
                if self.product { (1, u32::wrapping_mul) } else { (0, u32::wrapping_add) };
            along(self, geometry, x.words(), output, first, join);
        }
        Ok(())
    }
}

fn along<T: Copy>(
    op: &Cumulative,
    (size, inner): (usize, usize),
    x: &[T],
    output: &mut [T],
    first: T,
    join: impl Fn(T, T) -> T,
) {
    for line in 0..x.len().checked_div(size).unwrap_or(0) {
        let start = line / inner * inner * size + line % inner;
        let mut total = first;
        for step in 0..size {
            let at = start + inner * if op.reverse { size - 1 - step } else { step };
            let joined = join(total, x[at]);
            output[at] = if op.exclusive { total } else { joined };
            total = joined;
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;

    let table: [(&[usize], u32, DType); 5] = [
        (&[3, 20], 1, DType::F32),
        (&[6, 2], 0, DType::F32),
        (&[2, 5, 3], 1, DType::I32),
        (&[9], 0, DType::U32),
        (&[0, 3], 1, DType::F32),
    ];
    let mut cases = Vec::new();
    for (shape, axis, dtype) in table {
        for flags in 0..8 {
            let [product, exclusive, reverse] = [1, 2, 4].map(|bit| flags & bit != 0);
            let noise = Array::noise(4600, shape);
            let input = match dtype {
                DType::F32 => noise.map(|x| f64::from((x * 1.5) as f32)),
                DType::U32 => Array { dtype, ..noise.map(|x| (x * 2.0 + 2.0).trunc()) },
                _ => Array { dtype, ..noise.map(|x| (x * 4.0).trunc()) },
            };
            let expected = Array::build(dtype, shape, |index| {
                let own = index[axis as usize];
                let counts = |&at: &usize| match (reverse, exclusive) {
                    (false, false) => at <= own,
                    (false, true) => at < own,
                    (true, false) => at >= own,
                    (true, true) => at > own,
                };
                let members = (0..shape[axis as usize]).filter(counts).map(|at| {
                    let mut index = index.to_vec();
                    index[axis as usize] = at;
                    input.at(&index)
                });
                if product { members.product() } else { members.sum() }
            });
            let op = Op::Cumulative(Cumulative { axis, product, exclusive, reverse });
            let name = format!(
                "cumulative/{}{}{} of {dtype:?} {shape:?}",
                if product { "product" } else { "sum" },
                if exclusive { ", exclusive" } else { "" },
                if reverse { ", reverse" } else { "" }
            );
            cases.push(Sketch::single(&name, op, &[&input], &expected, Tolerance::Close));
        }
    }
    cases
}
