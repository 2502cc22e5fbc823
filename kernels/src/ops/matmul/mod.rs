//! Matrix products with bias, activation and residual. Long sums are divided into parts.

mod cpu;
mod packed;
mod shader;
#[cfg(not(target_arch = "wasm32"))]
mod table;

use flotilla_program::{MatMul, Quantized, Value};
use flotilla_tensor::DType;

pub(super) use cpu::multiply;
use cpu::multiply_scaled;
pub(super) use packed::PANEL;
pub use packed::{MatrixForm, PackedMatrix, Packer};
use shader::{FINISH, ROWS, STEPS_MAX};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use table::cases;

use super::{
    Kernel, Launch, Memory, Operand, Packing, Shader,
    split::{self, Scratchpad},
    stored::Stored,
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

/// How a narrow or quantized `b` is read; all of it is known at load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    form: MatrixForm,
    scaling: Option<ScalingForm>,
}

/// Where the scales and zero points of a quantized `b` are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ScalingForm {
    scales: Stored,
    zeros: Option<Stored>,
    /// Elements along `k` that share a scale.
    block: usize,
    /// How many blocks there are.
    blocks: usize,
    /// Scales between those of two columns, and of two blocks.
    strides: (usize, usize),
}

/// How `b` is read if it is narrow or quantized; `None` if its elements are words.
fn reading(op: &MatMul, signature: &Signature<'_>) -> Result<Option<Reading>, String> {
    let b = signature.input(1);
    if !b.is_narrow() && op.quantized.is_none() {
        return Ok(None);
    }
    let (rows, columns) = fixed_matrix(b)?;
    if let Some(quantized) = op.quantized {
        let (stored, transposed) = (Stored::quantized(b, &quantized)?, op.transpose_b);
        let outer = |value: &Value| value.shape.last().and_then(|dim| dim.as_fixed());
        let a_k = outer(signature.input(0)).and_then(|k| usize::try_from(k).ok());
        let per_byte = if quantized.bits < 8 { (8 / quantized.bits) as usize } else { 1 };
        let stride = columns * per_byte;
        let (k, n) = match (transposed, a_k) {
            (true, Some(k)) if k <= stride => (k, rows),
            (true, k) => return Err(format!("rows of {stride} integers for a sum of {k:?}")),
            (false, _) if per_byte == 1 => (rows, columns),
            (false, _) => return Err("several integers in a byte along the columns".to_owned()),
        };
        let form = MatrixForm { k, n, transposed, stride, stored };
        let scaling = Some(scaling_form(&quantized, signature, form)?);
        return Ok(Some(Reading { form, scaling }));
    }
    let stored = Stored::of(b);
    if !matches!(stored, Stored::F16 | Stored::BF16) {
        return Err(format!("a matrix of {:?}", b.dtype));
    }
    let (k, n) = if op.transpose_b { (columns, rows) } else { (rows, columns) };
    let form = MatrixForm { k, n, transposed: op.transpose_b, stride: columns, stored };
    Ok(Some(Reading { form, scaling: None }))
}

/// Rows and columns of a matrix whose shape is known at load.
fn fixed_matrix(value: &Value) -> Result<(usize, usize), String> {
    let number = |dim: &flotilla_program::dim::Dim| usize::try_from(dim.as_fixed()?).ok();
    match value.shape.as_slice() {
        [rows, columns] => number(rows).zip(number(columns)),
        _ => None,
    }
    .ok_or_else(|| "a narrow or quantized matrix has two known dimensions".to_owned())
}

fn scaling_form(
    quantized: &Quantized,
    signature: &Signature<'_>,
    form: MatrixForm,
) -> Result<ScalingForm, String> {
    let scales = signature.input(2);
    let shape = fixed_matrix(scales)?;
    let axis_k = u32::from(form.transposed);
    let block = (quantized.block as usize).max(1);
    let of = |axis: u32| if axis == 0 { shape.0 } else { shape.1 };
    let stride = |axis: u32| match (of(axis), axis) {
        (1, _) => 0,
        (_, 0) => shape.1,
        (_, _) => 1,
    };
    let (blocks, columns) = (of(axis_k), of(1 - axis_k));
    let whole = blocks == 1;
    if !whole && (quantized.axis != axis_k || blocks != form.k.div_ceil(block)) {
        return Err(format!("{blocks} blocks of {block} for a sum of {}", form.k));
    }
    if columns != 1 && columns != form.n {
        return Err(format!("scales of {columns} columns for {}", form.n));
    }
    let zeros = quantized.zeros.then(|| signature.input(3));
    if zeros.is_some_and(|zeros| zeros.shape != scales.shape) {
        return Err("zero points have another shape than scales".to_owned());
    }
    Ok(ScalingForm {
        scales: Stored::of(scales),
        zeros: zeros.map(Stored::of),
        block: if whole { form.k.max(1) } else { block },
        blocks,
        strides: (stride(1 - axis_k), stride(axis_k)),
    })
}

fn geometry(op: &MatMul, call: &Call<'_>) -> Result<Geometry, String> {
    let (a, mut b) = (call.input(0), call.input(1));
    let logical;
    if let Some(Reading { form: MatrixForm { k, n, transposed, .. }, .. }) =
        reading(op, &call.signature)?
    {
        logical = if transposed { [n, k] } else { [k, n] };
        b = &logical;
    }
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
        call.expect_input(op.bias_at(), &[n])?;
    }
    if op.residual {
        call.expect_input(op.operands() - 1, call.output())?;
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
        signature.expect_operands(self.operands())?;
        let dtype = signature.input(0).dtype;
        signature.expect_result(dtype)?;
        for index in self.bias_at()..self.operands() {
            let got = signature.input(index).dtype;
            if got != dtype {
                return Err(format!("input {index} is {got:?}, {dtype:?} is needed"));
            }
        }
        let narrow = reading(self, signature)?;
        if narrow.is_some() && (dtype != DType::F32 || !signature.is_constant(1)) {
            return Err(
                "a narrow or quantized matrix is a constant in a product of floats".to_owned()
            );
        }
        if narrow.is_none() && signature.input(1).dtype != dtype {
            return Err(format!("a product of {dtype:?} and {:?}", signature.input(1).dtype));
        }
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
        let blocks = special.blocks();
        let iterations = lead.len() + length / width + stored + blocks;
        let product = Launch::new(shader, self.operands(), params, tiles * parts, iterations);
        if parts == 1 {
            return Ok(vec![product]);
        }
        let sums = Scratchpad::default().take(parts * call.elements());
        let total = call.elements() / width;
        let mut params = [total, n / width, parts].map(|count| count as u32).to_vec();
        params.push(self.alpha.to_bits());
        let reads: Vec<Memory> = [sums]
            .into_iter()
            .chain((self.bias_at()..self.operands()).map(Memory::Input))
            .collect();
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
            bias: self.bias.then(|| operands[self.bias_at()].f32()),
            activation: self.activation,
            residual: self.residual.then(|| operands[self.operands() - 1].f32()),
        };
        if m * n == 0 {
            return Ok(());
        }
        let form = reading(self, &call.signature)?;
        let scaling = form.and_then(|form| form.scaling).map(|form| packed::Scaling {
            scales: (form.scales, operands[2].words()),
            zeros: form.zeros.map(|stored| (stored, operands[3].words())),
            block: form.block,
            strides: form.strides,
        });
        let mut packed: Option<(usize, PackedMatrix)> = None;
        for (batch, rows) in output.chunks_exact_mut(m * n).enumerate() {
            let (a_at, b_at) = geometry.offsets(batch);
            let a = &operands[0].f32()[a_at..a_at + m * k];
            let b = match operands[1] {
                Operand::Packed(matrix) => matrix,
                Operand::Plain(words) if let Some(Reading { form, .. }) = form => {
                    &packed.get_or_insert_with(|| (0, PackedMatrix::of_form(words, form))).1
                }
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
            let b = (b, scaling.as_ref());
            multiply_scaled(a, k, m, b, rows, n, |first, rows| {
                epilogue.apply(batch * m + first, n, rows);
            });
        }
        Ok(())
    }

    fn reads_narrow(&self, signature: &Signature<'_>, input: usize) -> bool {
        let is_scaling = self.quantized.is_some() && (2..self.bias_at()).contains(&input);
        let is_matrix = input == 1
            && signature.input(0).dtype == DType::F32
            && fixed_matrix(signature.input(1)).is_ok();
        is_matrix || is_scaling
    }

    fn packing(&self, signature: &Signature<'_>) -> Option<Packing> {
        if let Some(Reading { form, .. }) = reading(self, signature).ok()? {
            return Some(Packing { input: 1, form });
        }
        let fits = signature.is_constant(1) && signature.input(1).dtype == DType::F32;
        let (rows, columns) = fixed_matrix(signature.input(1)).ok().filter(|_| fits)?;
        let (k, n) = if self.transpose_b { (columns, rows) } else { (rows, columns) };
        Some(Packing { input: 1, form: MatrixForm::floats(k, n, self.transpose_b) })
    }
}
