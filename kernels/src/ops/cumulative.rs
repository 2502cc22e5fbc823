//! Running sums and products. Long lines are divided into parts: the total of all parts before a part is computed before the
//! elements of the part.

use flotilla_program::Cumulative;
use flotilla_tensor::DType;

use super::{
    Kernel, Launch, Memory, Operand, Shader,
    split::{self, Scratchpad},
};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, LONG, LONGEST, Sketch, Tolerance};

/// Most elements that one invocation processes.
const LENGTH_MAX: usize = 8192;

/// Which of a node's shaders: over whole lines, totals of parts, totals of all parts before one, and over parts.
const WHOLE: usize = 0;
const TOTALS: usize = 1;
const BEFORE: usize = 2;
const PARTS: usize = 3;

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
        let Cumulative { exclusive, reverse, .. } = *self;
        // The total of the line before a part, whether elements or the total are written, and the two flags.
        let shader = |name: &str, before: bool, totals: bool, exclusive: bool, reverse: bool| {
            let (put, finish) = match totals {
                false => ("output[at] = total;", ""),
                true => ("", "output[index] = total;"),
            };
            let body = format!(
                "alias Element = {element};
const EXCLUSIVE = {exclusive};
const REVERSE = {reverse};
fn join(a: Element, b: Element) -> Element {{ return a {join} b; }}
fn before(index: u32) -> Element {{ return {}; }}
fn put(at: u32, total: Element) {{ {put} }}
fn finish(index: u32, total: Element) {{ {finish} }}
{}",
                if before { "totals[index]".to_owned() } else { format!("Element({first})") },
                include_str!("cumulative.wgsl")
            );
            let reads = [("x", element), ("totals", element)];
            Shader::new(name, &reads[..1 + usize::from(before)], element, &body)
        };
        let mut shaders = vec![shader("Cumulative", false, false, exclusive, reverse)];
        if split::may_divide(signature.fixed(0, self.axis), LENGTH_MAX) {
            shaders.extend([
                shader("Cumulative, totals", false, true, exclusive, reverse),
                shader("Cumulative, before parts", false, false, true, false),
                shader("Cumulative, parts", true, false, exclusive, reverse),
            ]);
        }
        shaders
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let (size, inner) = call.lines(self.axis)?;
        let lines = call.elements() / size.max(1);
        let length = size.div_ceil(split::parts(lines, size, LENGTH_MAX));
        let parts = size.div_ceil(length.max(1));
        let launch = |shader: usize, size: usize, parts: usize, length: usize| {
            let total = lines * parts;
            let params = [total, size, inner, parts, length].map(|count| count as u32).to_vec();
            Launch::new(shader, 1, params, total, length)
        };
        if parts <= 1 {
            return Ok(vec![launch(WHOLE, size, 1, size)]);
        }
        let mut scratchpad = Scratchpad::default();
        let [totals, before] = [(), ()].map(|()| scratchpad.take(lines * parts));
        Ok(vec![
            launch(TOTALS, size, parts, length).writing(totals),
            launch(BEFORE, parts, 1, parts).reading([totals]).writing(before),
            launch(PARTS, size, parts, length).reading([Memory::Input(0), before]),
        ])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let (x, geometry) = (operands[0], call.lines(self.axis)?);
        if call.signature.input(0).dtype == DType::F32 {
            let output: &mut [f32] = bytemuck::cast_slice_mut(output);
            let narrow = |x: f64| x as f32;
            if self.product {
                along(self, geometry, x.f32(), output, 1.0, |a, b| a * f64::from(b), narrow);
            } else {
                along(self, geometry, x.f32(), output, 0.0, |a, b| a + f64::from(b), narrow);
            }
        } else {
            // Sums and products that wrap around have the same bits for signed and unsigned integers.
            let (first, join): (u32, fn(u32, u32) -> u32) =
                if self.product { (1, u32::wrapping_mul) } else { (0, u32::wrapping_add) };
            along(self, geometry, x.words(), output, first, join, |x| x);
        }
        Ok(())
    }
}

fn along<T: Copy, A: Copy>(
    op: &Cumulative,
    (size, inner): (usize, usize),
    x: &[T],
    output: &mut [T],
    first: A,
    join: impl Fn(A, T) -> A,
    finish: impl Fn(A) -> T,
) {
    for line in 0..x.len().checked_div(size).unwrap_or(0) {
        let start = line / inner * inner * size + line % inner;
        let mut total = first;
        for step in 0..size {
            let at = start + inner * if op.reverse { size - 1 - step } else { step };
            let joined = join(total, x[at]);
            output[at] = finish(if op.exclusive { total } else { joined });
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
    let op = Cumulative { axis: 1, product: false, exclusive: false, reverse: false };
    for size in LONG {
        cases.push(long(op.clone(), &[1, size], DType::F32).everywhere_if(size == LONGEST));
    }
    for flags in 0..8 {
        let [product, exclusive, reverse] = [1, 2, 4].map(|bit| flags & bit != 0);
        let op = Cumulative { axis: 1, product, exclusive, reverse };
        let dtype = if product { DType::I32 } else { DType::F32 };
        for shape in [[2, 1500, 2], [1, 70_001, 3]] {
            cases.push(long(op.clone(), &shape, dtype).everywhere_if(false));
        }
    }
    cases.push(long(op, &[70, 3000], DType::U32).everywhere_if(false));
    cases
}

/// Long lines; integers wrap around.
#[cfg(not(target_arch = "wasm32"))]
fn long(op: Cumulative, shape: &[usize], dtype: DType) -> Case {
    use flotilla_program::Op;

    let noise = Array::noise(4601, shape);
    let input = match dtype {
        DType::F32 => noise,
        DType::U32 => Array { dtype, ..noise.map(|x| (x * 1e9 + 1e9).trunc()) },
        _ => Array { dtype, ..noise.map(|x| (x * 50.0).trunc() * 2.0 + 1.0) },
    };
    let (size, inner) =
        (shape[op.axis as usize], shape[op.axis as usize + 1..].iter().product::<usize>());
    let mut numbers = vec![0.0; input.numbers.len()];
    for line in 0..numbers.len() / size {
        let start = line / inner * inner * size + line % inner;
        let (mut sum, mut word) = (0.0, u32::from(op.product));
        for step in 0..size {
            let at = start + inner * if op.reverse { size - 1 - step } else { step };
            let old = (sum, word);
            let own = input.numbers[at] as i64 as u32;
            sum += input.numbers[at];
            word = if op.product { word.wrapping_mul(own) } else { word.wrapping_add(own) };
            let (sum, word) = if op.exclusive { old } else { (sum, word) };
            numbers[at] = match dtype {
                DType::F32 => sum,
                DType::U32 => f64::from(word),
                _ => f64::from(word as i32),
            };
        }
    }
    let name = format!("cumulative/{op:?} of {dtype:?} {shape:?}");
    let expected = Array::of(dtype, shape, numbers);
    // Sums have their largest rounding error where they are largest.
    let tolerance = if dtype == DType::F32 { Tolerance::Scaled } else { Tolerance::Exact };
    Sketch::single(&name, Op::Cumulative(op), &[&input], &expected, tolerance)
}
