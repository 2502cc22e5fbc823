//! Convolutions and their transposes, of floats and of integers. Long sums are divided into parts.

mod cpu;
mod shader;
#[cfg(not(target_arch = "wasm32"))]
mod table;

use flotilla_program::Conv;
use flotilla_tensor::DType;
use shader::{FINISH, ROWS, STEPS_MAX};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use table::cases;

use super::{
    Kernel, Launch, Memory, Operand, Shader,
    split::{self, Scratchpad},
    window::{self, Sliding},
};
use crate::call::{Call, Signature};

/// Neighbouring places that an invocation computes.
const PLACES: usize = 4;

/// Sizes from the shapes of a call.
#[derive(Clone, Copy)]
struct Geometry {
    batches: usize,
    groups: usize,
    /// Channels of one group of the input.
    inputs: usize,
    /// Channels of one group of the output.
    outputs: usize,
    sliding: Sliding,
}

/// Number of operands.
fn operand_count(op: &Conv) -> usize {
    2 + usize::from(op.bias) + usize::from(op.residual)
}

fn geometry(op: &Conv, call: &Call<'_>) -> Result<Geometry, String> {
    let (x, w, output) = (call.input(0), call.input(1), call.output());
    let ([n, c, input @ ..], [m, kernel @ .., inputs], [out_n, out_m, places @ ..]) =
        (x, w, output)
    else {
        return Err(format!("{x:?} and {w:?} are not an input and weights"));
    };
    let groups = op.groups as usize;
    if *c != inputs * groups || m % groups != 0 || (out_n, out_m) != (n, m) {
        return Err(format!("{x:?} and {w:?} in {groups} groups do not give {output:?}"));
    }
    if op.bias {
        call.expect_input(2, &[*m])?;
    }
    if op.residual {
        call.expect_input(operand_count(op) - 1, output)?;
    }
    Ok(Geometry {
        batches: *n,
        groups,
        inputs: *inputs,
        outputs: m / groups,
        sliding: Sliding::new(call, &op.window, input, kernel, places)?,
    })
}

impl Kernel for Conv {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(operand_count(self))?;
        let dtype = signature.input(0).dtype;
        signature.expect_all(dtype)?;
        if !matches!(dtype, DType::F32 | DType::I32) {
            return Err(format!("a convolution of {dtype:?}"));
        }
        if dtype != DType::F32 && self.activation.is_some() {
            return Err("an activation of integers".to_owned());
        }
        if self.groups == 0 {
            return Err("there are 0 groups".to_owned());
        }
        window::check(&self.window, signature.input(0).shape.len())
    }

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        shader::all(self, signature)
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { batches, groups, inputs, outputs, sliding } = geometry(self, call)?;
        let variants = ROWS.iter().enumerate().map(|(shader, &(rows, cost))| {
            let blocks = outputs.div_ceil(rows as usize);
            (blocks * (rows * cost) as usize, blocks, shader)
        });
        let (_, blocks, shader) = variants.min().unwrap_or_default();
        let tiles = sliding.places().div_ceil(PLACES);
        let special = shader::specialization(self, &call.signature);
        let width = if special.vectors { inputs / 4 } else { inputs };
        let steps = sliding.taps() * width;
        let invocations = batches * groups * blocks * tiles;
        let parts = split::parts(invocations, steps, STEPS_MAX);
        let length = steps.div_ceil(parts);
        let mut params: Vec<u32> = [batches, groups, inputs, outputs, blocks, tiles, parts, length]
            .map(|count| count as u32)
            .to_vec();
        params.extend(sliding.params());
        // Every step may belong to another tap, and a tap is an iteration of each loop over the
        // window.
        let iterations = 4 * length + 5 * ROWS[shader].0 as usize;
        let product =
            Launch::new(shader, operand_count(self), params, invocations * parts, iterations);
        if parts == 1 {
            return Ok(vec![product]);
        }
        let total = call.elements();
        let sums = Scratchpad::default().take(parts * total);
        let params =
            [total, sliding.places(), groups * outputs, parts].map(|count| count as u32).to_vec();
        let others = (2..operand_count(self)).map(Memory::Input);
        let reads: Vec<Memory> = [sums].into_iter().chain(others).collect();
        Ok(vec![product.writing(sums), Launch::new(FINISH, 0, params, total, parts).reading(reads)])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        cpu::compute(self, geometry(self, call)?, call.signature.input(0).dtype, operands, output);
        Ok(())
    }
}
