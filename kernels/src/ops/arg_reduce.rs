//! Positions of extremes.

use flotilla_program::{ArgReduce, DType};

use super::{
    Kernel, Launch, Operand, Shader,
    order::{key, key_wgsl},
};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// Lines, their length, and the product of the dimensions behind them.
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
        let wins = if self.last { ">=" } else { ">" };
        let body = format!(
            "{key}fn wins(a: u32, b: u32) -> bool {{ return a {wins} b; }}\n{}",
            include_str!("arg_reduce.wgsl")
        );
        vec![Shader::new("ArgReduce", &[("x", "u32")], "i32", &body)]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let geometry = geometry(self, call)?;
        let params = geometry.map(|count| count as u32).to_vec();
        Ok(vec![Launch::new(0, 1, params, geometry[0], geometry[1])])
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
    cases
}
