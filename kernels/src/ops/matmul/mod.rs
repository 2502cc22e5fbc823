//! Matrix products with bias, activation and residual. Long sums are divided into parts.

mod cpu;
mod shader;
#[cfg(not(target_arch = "wasm32"))]
mod table;

use flotilla_program::MatMul;
use flotilla_tensor::DType;

pub(super) use cpu::{PANEL, multiply};
pub use cpu::{PackedMatrix, Packer};
use shader::{FINISH, ROWS, STEPS_MAX};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use table::cases;

use super::{
    Kernel, Launch, Memory, Operand, Packing, Shader,
    split::{self, Scratchpad},
};
use crate::call::{Call, Signature, broadcast_strides};

/// Most leading dimensions that a shader handles.
const LEAD_MAX: usize = 6;

/// Sizes from the shapes of a call.
struct Geometry {
    m: usize,
    n: usize,
    k: usize,
    batches: usize,
    lead: Vec<usize>,
    /// In elements, along `lead`.
    a_strides: Vec<usize>,
    b_strides: Vec<usize>,
}

/// Number of inputs.
fn inputs(op: &MatMul) -> usize {
    2 + usize::from(op.bias) + usize::from(op.residual)
}

fn geometry(op: &MatMul, call: &Call<'_>) -> Result<Geometry, String> {
    let (a, b) = (call.input(0), call.input(1));
    let ([a_lead @ .., m, k], [b_lead @ .., b_rows, b_columns]) = (a, b) else {
        return Err(format!("matrices of shapes {a:?} and {b:?} have no rows and columns"));
    };
    let (b_k, n) = if op.transpose_b { (*b_columns, *b_rows) } else { (*b_rows, *b_columns) };
    if *k != b_k {
        return Err(format!("{a:?} and {b:?} do not share their inner dimension"));
    }
    let [out_lead @ .., out_m, out_n] = call.output() else {
        return Err("the output has no rows and columns".to_owned());
    };
    if (*out_m, *out_n) != (*m, n) {
        return Err(format!(
            "the output has the shape {:?} for {m} rows and {n} columns",
            call.output()
        ));
    }
    if op.bias {
        call.expect_input(2, &[n])?;
    }
    if op.residual {
        call.expect_input(inputs(op) - 1, call.output())?;
    }
    if a_lead == out_lead && b_lead.iter().all(|&dim| dim == 1) {
        let rows = a_lead.iter().product::<usize>() * m;
        let (lead, a_strides, b_strides) = Default::default();
        return Ok(Geometry { m: rows, n, k: *k, batches: 1, lead, a_strides, b_strides });
    }
    let scaled = |strides: Vec<usize>, by: usize| {
        strides.into_iter().map(|stride| stride * by).collect::<Vec<_>>()
    };
    Ok(Geometry {
        m: *m,
        n,
        k: *k,
        batches: out_lead.iter().product(),
        lead: out_lead.to_vec(),
        a_strides: scaled(broadcast_strides(a_lead, out_lead)?, m * k),
        b_strides: scaled(broadcast_strides(b_lead, out_lead)?, k * n),
    })
}

impl Geometry {
    /// Where a batch's matrices start, in elements.
    fn offsets(&self, mut batch: usize) -> (usize, usize) {
        let (mut a, mut b) = (0, 0);
        for axis in (0..self.lead.len()).rev() {
            let position = batch % self.lead[axis];
            batch /= self.lead[axis];
            a += position * self.a_strides[axis];
            b += position * self.b_strides[axis];
        }
        (a, b)
    }
}

impl Kernel for MatMul {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(inputs(self))?;
        let dtype = signature.input(0).dtype;
        signature.expect_all(dtype)?;
        match dtype {
            DType::F32 => {}
            DType::I32 | DType::U32 if self.alpha == 1.0 && self.activation.is_none() => {}
            DType::I32 | DType::U32 => {
                return Err("a factor or an activation of integers".to_owned());
            }
            other => return Err(format!("a product of {other:?}")),
        }
        let lead = signature.output().shape.len().saturating_sub(2);
        if lead > LEAD_MAX {
            return Err(format!("{lead} leading dimensions, the limit is {LEAD_MAX}"));
        }
        if signature.input(0).shape.len() < 2 || signature.input(1).shape.len() < 2 {
            return Err("a matrix has fewer than 2 dimensions".to_owned());
        }
        Ok(())
    }

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        shader::all(self, signature)
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { m, n, k, batches, lead, a_strides, b_strides } = geometry(self, call)?;
        let special = shader::specialization(self, &call.signature);
        let variants = ROWS.iter().enumerate().map(|(shader, &(rows, cost))| {
            let tiles = m.div_ceil(rows as usize);
            (tiles * (rows * cost) as usize, tiles, shader)
        });
        let (_, row_tiles, shader) = variants.min().unwrap_or_default();
        let column_tiles = n.div_ceil(4 * special.units as usize);
        let width = if special.vectors { 4 } else { 1 };
        let tiles = row_tiles * column_tiles * batches;
        let parts = split::parts(tiles, k / width, STEPS_MAX);
        let length = (k / width).div_ceil(parts) * width;
        let mut params = vec![m as u32, n as u32, k as u32, self.alpha.to_bits()];
        params.extend([row_tiles, column_tiles, batches, lead.len()].map(|count| count as u32));
        for sizes in [&lead, &a_strides, &b_strides] {
            params.extend((0..8).map(|axis| sizes.get(axis).map_or(0, |&size| size as u32)));
        }
        params.extend([parts, length].map(|count| count as u32));
        let stored = ROWS[shader].0 as usize * if special.vectors { 1 } else { 5 };
        let iterations = lead.len() + length / width + stored;
        let product = Launch::new(shader, inputs(self), params, tiles * parts, iterations);
        if parts == 1 {
            return Ok(vec![product]);
        }
        let sums = Scratchpad::default().take(parts * call.elements());
        let total = call.elements() / width;
        let mut params = [total, n / width, parts].map(|count| count as u32).to_vec();
        params.push(self.alpha.to_bits());
        let reads: Vec<Memory> =
            [sums].into_iter().chain((2..inputs(self)).map(Memory::Input)).collect();
        Ok(vec![product.writing(sums), Launch::new(FINISH, 0, params, total, parts).reading(reads)])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let geometry = geometry(self, call)?;
        let Geometry { m, n, k, .. } = geometry;
        if call.signature.input(0).dtype != DType::F32 {
            cpu::multiply_integers(self, &geometry, operands, bytemuck::cast_slice_mut(output));
            return Ok(());
        }
        let output: &mut [f32] = bytemuck::cast_slice_mut(output);
        let epilogue = cpu::Epilogue {
            alpha: self.alpha,
            bias: self.bias.then(|| operands[2].f32()),
            activation: self.activation,
            residual: self.residual.then(|| operands[inputs(self) - 1].f32()),
        };
        if m * n == 0 {
            return Ok(());
        }
        let mut packed: Option<(usize, PackedMatrix)> = None;
        for (batch, rows) in output.chunks_exact_mut(m * n).enumerate() {
            let (a_at, b_at) = geometry.offsets(batch);
            let a = &operands[0].f32()[a_at..a_at + m * k];
            let b = match operands[1] {
                Operand::Packed(matrix) => matrix,
                Operand::Plain(_) => {
                    let b = &operands[1].f32()[b_at..b_at + k * n];
                    match &mut packed {
                        Some((at, matrix)) if *at == b_at => matrix,
                        slot => {
                            &slot.insert((b_at, PackedMatrix::pack(b, k, n, self.transpose_b))).1
                        }
                    }
                }
            };
            if b.shape() != (k, n) {
                return Err(format!("a matrix was packed as {:?}, {k}x{n} is needed", b.shape()));
            }
            multiply(a, k, m, b, rows, n, |first, rows| epilogue.apply(batch * m + first, n, rows));
        }
        Ok(())
    }

    fn packing(&self, signature: &Signature<'_>) -> Option<Packing> {
        let fits = signature.is_constant(1)
            && signature.input(1).shape.len() == 2
            && signature.input(1).dtype == DType::F32;
        fits.then_some(Packing { input: 1, transposed: self.transpose_b })
    }
}
