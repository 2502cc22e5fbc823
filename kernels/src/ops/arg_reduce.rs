//! Positions of extremes. Long lines are divided into parts, and the extremes of the parts are compared.

use flotilla_program::ArgReduce;
use flotilla_tensor::DType;

use super::{
    Kernel, Launch, Memory, Operand, Shader,
    order::{key, key_wgsl},
    split::{self, Scratchpad},
};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, LONG, LONGEST, Sketch, Tolerance};

/// Most elements that one invocation compares.
const LENGTH_MAX: usize = 8192;

/// Which of a node's shaders: one compares elements, the other compares the elements that the first one
/// found.
const FIND: usize = 0;
const JOIN: usize = 1;

/// Number of lines, their length, and the product of the dimensions after them.
fn geometry(op: &ArgReduce, call: &Call<'_>) -> Result<[usize; 3], String> {
    let (input, axis) = (call.input(0), op.axis as usize);
    let mut shape = input.to_vec();
    let size = std::mem::replace(&mut shape[axis], 1);
    call.expect_output(&shape)?;
    if size == 0 {
        return Err("there is no element in the dimension".to_owned());
    }
    Ok([call.elements(), size, input[axis + 1..].iter().product()])
}

impl Kernel for ArgReduce {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(1)?;
        if signature.output().dtype != DType::I32 {
            return Err(format!("positions of type {:?}", signature.output().dtype));
        }
        signature.expect_axis(self.axis)
    }

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        let key = key_wgsl(signature.input(0).dtype, self.largest);
        let before = if self.last { ">" } else { "<" };
        let shader = |name: &str, reads: &[(&str, &str)], candidate: &str| {
            let body = format!(
                "{key}fn before(a: u32, b: u32) -> bool {{ return a {before} b; }}
fn candidate(first: u32, at: u32) -> u32 {{ return {candidate}; }}
{}",
                include_str!("arg_reduce.wgsl")
            );
            Shader::new(name, reads, "i32", &body)
        };
        let mut shaders = vec![shader("ArgReduce", &[("x", "u32")], "at")];
        if split::may_divide(signature.fixed(0, self.axis), LENGTH_MAX) {
            let reads = [("x", "u32"), ("found", "i32")];
            let candidate = "u32(found[first + at * params.inner])";
            shaders.push(shader("ArgReduce, joining parts", &reads, candidate));
        }
        shaders
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let [lines, size, inner] = geometry(self, call)?;
        let mut scratchpad = Scratchpad::default();
        let (mut launches, mut reads, mut candidates) = (Vec::new(), vec![Memory::Input(0)], size);
        loop {
            let parts = split::parts(lines, candidates, LENGTH_MAX);
            let total = lines * parts;
            let writes = if parts == 1 { Memory::Output } else { scratchpad.take(total) };
            let params = [total, size, inner, parts, candidates].map(|count| count as u32).to_vec();
            let shader = if launches.is_empty() { FIND } else { JOIN };
            let launch = Launch::new(shader, 0, params, total, candidates.div_ceil(parts));
            launches.push(launch.reading(reads).writing(writes));
            if parts == 1 {
                return Ok(launches);
            }
            (reads, candidates) = (vec![Memory::Input(0), writes], parts);
        }
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let [_, size, inner] = geometry(self, call)?;
        let (x, dtype) = (operands[0].words(), call.signature.input(0).dtype);
        for (line, value) in output.iter_mut().enumerate() {
            let start = line / inner * inner * size + line % inner;
            let mut best = (0, None);
            for at in 0..size {
                let key = key(dtype, x[start + at * inner]);
                let key = if self.largest { key } else { !key };
                let wins =
                    best.1.is_none_or(|other| if self.last { key >= other } else { key > other });
                if wins {
                    best = (at, Some(key));
                }
            }
            *value = best.0 as u32;
        }
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;

    let table: [(&[usize], u32, DType); 4] = [
        (&[3, 40], 1, DType::F32),
        (&[7, 2], 0, DType::I32),
        (&[2, 6, 3], 1, DType::I32),
        (&[30], 0, DType::U32),
    ];
    let mut cases = Vec::new();
    for (shape, axis, dtype) in table {
        for (largest, last) in [(true, false), (true, true), (false, false), (false, true)] {
            let noise = Array::noise(4500, shape);
            let input = match dtype {
                DType::F32 => noise,
                DType::U32 => Array { dtype, ..noise.map(|x| (x * 4.0 + 4.0).trunc()) },
                _ => Array { dtype, ..noise.map(|x| (x * 3.0).trunc()) },
            };
            let axis_at = axis as usize;
            let mut out = shape.to_vec();
            out[axis_at] = 1;
            let expected = Array::build(DType::I32, &out, |index| {
                let number = |at: &usize| {
                    let mut own = index.to_vec();
                    own[axis_at] = *at;
                    if largest { input.at(&own) } else { -input.at(&own) }
                };
                let best = (0..shape[axis_at]).map(|at| number(&at)).fold(f64::MIN, f64::max);
                let mut ties = (0..shape[axis_at]).filter(|at| number(at) == best);
                let found = if last { ties.next_back() } else { ties.next() };
                found.unwrap_or(0) as f64
            });
            let op = Op::ArgReduce(ArgReduce { axis, largest, last });
            let name = format!(
                "arg_reduce/{} {} of {dtype:?} {shape:?}",
                if last { "last" } else { "first" },
                if largest { "largest" } else { "smallest" }
            );
            cases.push(Sketch::single(&name, op, &[&input], &expected, Tolerance::Exact));
        }
    }
    for size in LONG {
        let everywhere = size == LONGEST;
        cases.push(long(&[1, size], 1, DType::F32, true, false).everywhere_if(everywhere));
    }
    for (largest, last) in [(true, false), (true, true), (false, false), (false, true)] {
        let shapes: [(&[usize], u32, DType); 4] = [
            (&[151_936], 0, DType::F32),
            (&[3, 2000], 1, DType::I32),
            (&[2, 70_000, 2], 1, DType::I32),
            (&[70, 3000], 1, DType::U32),
        ];
        cases.extend(shapes.map(|(shape, axis, dtype)| {
            long(shape, axis, dtype, largest, last).everywhere_if(false)
        }));
    }
    cases
}

/// Long lines; lines of integers have several equal extremes.
#[cfg(not(target_arch = "wasm32"))]
fn long(shape: &[usize], axis: u32, dtype: DType, largest: bool, last: bool) -> Case {
    use flotilla_program::Op;

    let noise = Array::noise(4501, shape);
    let input = match dtype {
        DType::F32 => noise,
        DType::U32 => Array { dtype, ..noise.map(|x| (x * 3000.0 + 3000.0).trunc()) },
        _ => Array { dtype, ..noise.map(|x| (x * 500.0).trunc()) },
    };
    let (size, inner) =
        (shape[axis as usize], shape[axis as usize + 1..].iter().product::<usize>());
    let mut best: Vec<(f64, usize)> = vec![(f64::NEG_INFINITY, 0); input.numbers.len() / size];
    for (flat, &x) in input.numbers.iter().enumerate() {
        let (line, at) = (flat / (size * inner) * inner + flat % inner, flat / inner % size);
        let x = if largest { x } else { -x };
        if x > best[line].0 || (x == best[line].0 && last) {
            best[line] = (x, at);
        }
    }
    let mut out = shape.to_vec();
    out[axis as usize] = 1;
    let places = best.into_iter().map(|(_, at)| at as f64).collect();
    let op = Op::ArgReduce(ArgReduce { axis, largest, last });
    let name = format!(
        "arg_reduce/{} {} of {dtype:?} {shape:?}",
        if last { "last" } else { "first" },
        if largest { "largest" } else { "smallest" }
    );
    let expected = Array::of(DType::I32, &out, places);
    Sketch::single(&name, op, &[&input], &expected, Tolerance::Exact)
}
