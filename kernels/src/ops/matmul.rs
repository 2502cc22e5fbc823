//! Matrix products with bias, activation and residual.

use flotilla_program::{DType, MatMul, dim::Dim};

use super::{Kernel, Launch, Operand, Packing, Shader, math};
use crate::call::{Call, Signature, broadcast_strides};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// Columns of a panel of a packed matrix.
pub(super) const PANEL: usize = 8;
/// Rows that one pass of the cpu kernel computes.
const BLOCK: usize = 4;
/// Rows between two visits of the same panel: few enough that their results stay in cache for the epilogue.
const ROWS_PER_PASS: usize = 32;

/// Rows that an invocation of each shader computes, and how much a row costs there, roughly: the more rows share the
/// loads of `b`, the cheaper each is, but rows past the end are computed in vain.
const SHADER_ROWS: [(u32, u32); 3] = [(16, 10), (4, 16), (1, 36)];
/// Columns in `vec4`s that an invocation computes where `n` divides so.
const SHADER_UNITS: i64 = 2;
/// Leading dimensions that a shader takes apart.
const LEAD_MAX: usize = 6;

/// What the shapes of a call say.
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

/// What is known at load and shapes a shader's text.
struct Specialization {
    /// `k` and `n` are multiples of 4, so that both matrices are read as `vec4`.
    vectors: bool,
    batched: bool,
    n: Option<i64>,
    k: Option<i64>,
    /// Columns of an invocation, in `vec4`s.
    units: u32,
    /// WGSL's name of the type of an element.
    element: &'static str,
}

fn specialization(op: &MatMul, signature: &Signature<'_>) -> Specialization {
    let b = &signature.input(1).shape;
    let fixed =
        |from_end: usize| b.len().checked_sub(from_end).and_then(|index| b[index].as_fixed());
    let (n, k) = if op.transpose_b { (fixed(2), fixed(1)) } else { (fixed(1), fixed(2)) };
    let by_4 = |dim: Option<i64>| dim.is_some_and(|dim| dim > 0 && dim % 4 == 0);
    let b_lead = &b[..b.len().saturating_sub(2)];
    let vectors = by_4(n) && by_4(k);
    let wide = vectors && n.is_some_and(|n| n % (4 * SHADER_UNITS) == 0);
    Specialization {
        vectors,
        units: if wide { SHADER_UNITS as u32 } else { 1 },
        batched: !b_lead.iter().all(|dim| *dim == Dim::Fixed(1))
            || signature.input(0).shape.len() < b.len(),
        n,
        k,
        element: match signature.input(0).dtype {
            DType::I64 | DType::I32 | DType::I16 | DType::I8 => "i32",
            DType::U64 | DType::U32 | DType::U16 | DType::U8 | DType::Bool => "u32",
            DType::F32 | DType::F16 | DType::BF16 => "f32",
        },
    }
}

fn shader(op: &MatMul, special: &Specialization, rows: u32) -> Shader {
    let scalar = special.element;
    let vector = format!("vec4<{scalar}>");
    let element = if special.vectors { vector.as_str() } else { scalar };
    let mut reads = vec![("a", element), ("b", element)];
    if op.bias {
        reads.push(("bias", element));
    }
    if op.residual {
        reads.push(("residual", element));
    }
    let number = |dim: Option<i64>, name: &str| {
        dim.map_or(format!("params.{name}"), |dim| format!("{dim}u"))
    };
    let batch = if special.batched {
        "    var rest = batch;
    for (var axis = params.lead; axis > 0u; axis--) {
        let at = axis - 1u;
        let size = params.sizes[at / 4u][at % 4u];
        let position = rest % size;
        rest /= size;
        a_batch += position * params.a_strides[at / 4u][at % 4u];
        b_batch += position * params.b_strides[at / 4u][at % 4u];
    }"
    } else {
        ""
    };
    let mut body = format!("alias Four = {vector};\n{}", include_str!("matmul.wgsl"));
    for (name, text) in [
        ("rows", rows.to_string()),
        ("columns", (4 * special.units).to_string()),
        ("n", number(special.n, "n")),
        ("k", number(special.k, "k")),
        ("batch", batch.to_owned()),
        ("setup", setup(rows, special)),
        ("step", if special.vectors { "4" } else { "1" }.to_owned()),
        ("body", product(op.transpose_b, rows, special)),
        ("store", store(op, rows, special)),
    ] {
        body = body.replace(&format!("{{{{{name}}}}}"), &text);
    }
    if let Some(activation) = op.activation {
        body += &math::wgsl(activation, "activation", "vec4<f32>");
    }
    Shader::new("MatMul", &reads, element, &body)
}

fn setup(rows: u32, special: &Specialization) -> String {
    let mut text = String::new();
    let scale = if special.vectors { " / 4u" } else { "" };
    for row in 0..rows {
        text += &format!("    var a{row} = (a_batch + min(row + {row}u, m - 1u) * k){scale};\n");
        for unit in 0..special.units {
            text += &format!("    var sum{row}_{unit} = Four();\n");
        }
    }
    if special.vectors {
        text += "    let b_start = b_batch / 4u;\n    let unit = column / 4u;\n";
    } else {
        for lane in 0..4 {
            text += &format!("    let c{lane} = min(column + {lane}u, n - 1u);\n");
        }
    }
    text
}

/// The body of the loop over `k`: one step of 4 with vectors, of 1 without.
fn product(transposed: bool, rows: u32, special: &Specialization) -> String {
    let mut text = String::new();
    if !special.vectors {
        let columns: Vec<String> = (0..4)
            .map(|lane| match transposed {
                false => format!("b[b_batch + step * n + c{lane}]"),
                true => format!("b[b_batch + c{lane} * k + step]"),
            })
            .collect();
        text += &format!("        let b0 = Four({});\n", columns.join(", "));
        for row in 0..rows {
            text += &format!("        sum{row}_0 += a[a{row}] * b0;\n        a{row}++;\n");
        }
        return text;
    }
    for unit in 0..special.units {
        for lane in 0..4 {
            let place = match transposed {
                false => format!("(step + {lane}u) * (n / 4u) + unit + {unit}u"),
                true => format!("((column + {}u) * k + step) / 4u", 4 * unit + lane),
            };
            text += &format!("        let b{lane}_{unit} = b[b_start + {place}];\n");
        }
    }
    for row in 0..rows {
        text += &format!("        let x{row} = a[a{row}];\n        a{row}++;\n");
        for unit in 0..special.units {
            let product = match transposed {
                false => format!(
                    "x{row}.x * b0_{unit} + x{row}.y * b1_{unit} + x{row}.z * b2_{unit} + x{row}.w * b3_{unit}"
                ),
                true => {
                    let dots: Vec<String> =
                        (0..4).map(|lane| format!("dot(x{row}, b{lane}_{unit})")).collect();
                    format!("Four({})", dots.join(", "))
                }
            };
            text += &format!("        sum{row}_{unit} += {product};\n");
        }
    }
    text
}

/// The epilogue is a loop, so that the driver compiles the activation once and not for every row.
fn store(op: &MatMul, rows: u32, special: &Specialization) -> String {
    let mut text = String::new();
    for unit in 0..special.units {
        let sums: Vec<String> = (0..rows).map(|row| format!("sum{row}_{unit}")).collect();
        text += &format!("    var sums{unit} = array<Four, {rows}>({});\n", sums.join(", "));
        if op.bias && special.vectors {
            text += &format!("    let bias{unit} = bias[unit + {unit}u];\n");
        } else if op.bias {
            text += "    let bias0 = Four(bias[c0], bias[c1], bias[c2], bias[c3]);\n";
        }
    }
    let residual = if op.residual { " + residual[at]" } else { "" };
    text += &format!("    for (var line = 0u; line < min({rows}u, m - row); line++) {{\n");
    text += "        var at = out_batch + (row + line) * n + column;\n";
    for unit in 0..special.units {
        let sum = format!("sums{unit}[line]");
        let scaled = if op.alpha == 1.0 { sum } else { format!("{sum} * params.alpha") };
        let biased = if op.bias { format!("{scaled} + bias{unit}") } else { scaled };
        let value = if op.activation.is_some() { format!("activation({biased})") } else { biased };
        if special.vectors {
            let step = if unit == 0 { "at /= 4u;" } else { "at++;" };
            text += &format!("        {step}\n        output[at] = {value}{residual};\n");
        } else {
            text += &format!("        let value = {value};\n");
            text += "        for (var lane = 0u; lane < min(4u, n - column); lane++) {\n";
            text += &format!(
                "            output[at] = value[lane]{residual};\n            at++;\n        }}\n"
            );
        }
    }
    text + "    }\n"
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
        let special = specialization(self, signature);
        SHADER_ROWS.iter().map(|&(rows, _)| shader(self, &special, rows)).collect()
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { m, n, k, batches, lead, a_strides, b_strides } = geometry(self, call)?;
        let special = specialization(self, &call.signature);
        let variants = SHADER_ROWS.iter().enumerate().map(|(shader, &(rows, cost))| {
            let tiles = m.div_ceil(rows as usize);
            (tiles * (rows * cost) as usize, tiles, shader)
        });
        let (_, row_tiles, shader) = variants.min().unwrap_or_default();
        let column_tiles = n.div_ceil(4 * special.units as usize);
        let mut params = vec![m as u32, n as u32, k as u32, self.alpha.to_bits()];
        params.extend([row_tiles, column_tiles, batches, lead.len()].map(|count| count as u32));
        for sizes in [&lead, &a_strides, &b_strides] {
            params.extend((0..8).map(|axis| sizes.get(axis).map_or(0, |&size| size as u32)));
        }
        let steps = if special.vectors { k / 4 } else { k };
        let stored = SHADER_ROWS[shader].0 as usize * if special.vectors { 1 } else { 5 };
        let iterations = lead.len() + steps + stored;
        let invocations = row_tiles * column_tiles * batches;
        Ok(vec![Launch::new(shader, inputs(self), params, invocations, iterations)])
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
            multiply_integers(self, &geometry, operands, bytemuck::cast_slice_mut(output));
            return Ok(());
        }
        let output: &mut [f32] = bytemuck::cast_slice_mut(output);
        let epilogue = Epilogue {
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
            if (b.k, b.n) != (k, n) {
                return Err(format!("a matrix was packed as {}x{}, {k}x{n} is needed", b.k, b.n));
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

/// Products of integers, which wrap around; those without a sign have the same bits.
fn multiply_integers(
    op: &MatMul,
    geometry: &Geometry,
    operands: &[Operand<'_>],
    output: &mut [i32],
) {
    let Geometry { m, n, k, .. } = *geometry;
    if m * n == 0 {
        return;
    }
    let bias = op.bias.then(|| operands[2].i32());
    let residual = op.residual.then(|| operands[inputs(op) - 1].i32());
    for (index, row) in output.chunks_exact_mut(n).enumerate() {
        let (a_at, b_at) = geometry.offsets(index / m);
        let a = &operands[0].i32()[a_at + index % m * k..][..k];
        let b = &operands[1].i32()[b_at..b_at + k * n];
        row.fill(0);
        let mut add = |column: usize, a: i32, b: i32| {
            row[column] = row[column].wrapping_add(a.wrapping_mul(b));
        };
        if op.transpose_b {
            for (column, b) in b.chunks_exact(k.max(1)).enumerate() {
                a.iter().zip(b).for_each(|(&a, &b)| add(column, a, b));
            }
        } else {
            for (&a, b) in a.iter().zip(b.chunks_exact(n)) {
                b.iter().enumerate().for_each(|(column, &b)| add(column, a, b));
            }
        }
        if let Some(bias) = bias {
            bias.iter().enumerate().for_each(|(column, &bias)| add(column, bias, 1));
        }
        if let Some(residual) = residual {
            let residual = &residual[index * n..][..n];
            residual.iter().enumerate().for_each(|(column, &term)| add(column, term, 1));
        }
    }
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

struct Epilogue<'a> {
    alpha: f32,
    bias: Option<&'a [f32]>,
    activation: Option<flotilla_program::Unary>,
    residual: Option<&'a [f32]>,
}

impl Epilogue<'_> {
    /// Finishes complete rows of `n` results; `first` is their index among all rows of the output.
    fn apply(&self, first: usize, n: usize, rows: &mut [f32]) {
        if self.alpha != 1.0 {
            rows.iter_mut().for_each(|value| *value *= self.alpha);
        }
        if let Some(bias) = self.bias {
            for row in rows.chunks_exact_mut(n) {
                row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
            }
        }
        if let Some(activation) = self.activation {
            math::apply(activation, rows);
        }
        if let Some(residual) = self.residual {
            rows.iter_mut()
                .zip(&residual[first * n..])
                .for_each(|(value, residual)| *value += residual);
        }
    }
}

/// A matrix `[k, n]` as panels of eight columns, each `[k, 8]`, the last one padded with zeros.
#[derive(Debug, Default)]
pub struct PackedMatrix {
    k: usize,
    n: usize,
    panels: Vec<[f32; PANEL]>,
}

impl PackedMatrix {
    /// Packs `[k, n]`, or `[n, k]` when `transposed`.
    pub fn pack(matrix: &[f32], k: usize, n: usize, transposed: bool) -> PackedMatrix {
        let (row, column) = if transposed { (1, k) } else { (n, 1) };
        let mut packed = PackedMatrix::default();
        packed.repack(matrix, k, n, row, column);
        packed
    }

    /// A matrix `[k, n]` whose panels, `k` lines each, are given as they are kept.
    pub(super) fn of_panels(k: usize, n: usize, panels: Vec<[f32; PANEL]>) -> PackedMatrix {
        assert_eq!(panels.len(), n.div_ceil(PANEL) * k, "a matrix of {k}x{n} has other panels");
        PackedMatrix { k, n, panels }
    }

    /// The memory of the panels, to be used again.
    pub(super) fn into_panels(self) -> Vec<[f32; PANEL]> {
        self.panels
    }

    /// Packs anew, in the same memory, a matrix whose element `[i, j]` is `matrix[i * row + j * column]`.
    pub(crate) fn repack(&mut self, matrix: &[f32], k: usize, n: usize, row: usize, column: usize) {
        (self.k, self.n) = (k, n);
        self.panels.clear();
        self.panels.reserve(n.div_ceil(PANEL) * k);
        for first in (0..n).step_by(PANEL) {
            let width = PANEL.min(n - first);
            for i in 0..k {
                let mut line = [0.0; PANEL];
                if column == 1 {
                    let at = i * row + first;
                    line[..width].copy_from_slice(&matrix[at..at + width]);
                } else {
                    for (lane, value) in line[..width].iter_mut().enumerate() {
                        *value = matrix[i * row + (first + lane) * column];
                    }
                }
                self.panels.push(line);
            }
        }
    }
}

/// `output[i, j] = sum over k of a[i, k] * b[k, j]` for `m` rows of `a` that lie `a_stride` apart and rows of `output`
/// that lie `out_stride` apart. `finish` is given the index of a row and the rows from there that are complete.
pub(crate) fn multiply(
    a: &[f32],
    a_stride: usize,
    m: usize,
    b: &PackedMatrix,
    output: &mut [f32],
    out_stride: usize,
    finish: impl Fn(usize, &mut [f32]),
) {
    for first in (0..m).step_by(ROWS_PER_PASS) {
        let last = (first + ROWS_PER_PASS).min(m);
        for panel_index in 0..b.n.div_ceil(PANEL) {
            let panel = &b.panels[panel_index * b.k..(panel_index + 1) * b.k];
            let column = panel_index * PANEL;
            let width = PANEL.min(b.n - column);
            for row in (first..last).step_by(BLOCK) {
                let a = &a[row * a_stride..];
                let output = &mut output[row * out_stride + column..];
                match last - row {
                    1 => block::<1>(a, a_stride, panel, output, out_stride, width),
                    2 => block::<2>(a, a_stride, panel, output, out_stride, width),
                    3 => block::<3>(a, a_stride, panel, output, out_stride, width),
                    _ => block::<BLOCK>(a, a_stride, panel, output, out_stride, width),
                }
            }
        }
        let end = ((last - 1) * out_stride + b.n).min(output.len());
        finish(first, &mut output[first * out_stride..end]);
    }
}

/// `ROWS` x 8 results in registers: with four rows, eight 128-bit accumulators, two of `b` and the broadcasts of `a`
/// fit the sixteen that wasm engines have on x86-64.
#[inline(always)]
fn block<const ROWS: usize>(
    a: &[f32],
    a_stride: usize,
    panel: &[[f32; PANEL]],
    output: &mut [f32],
    out_stride: usize,
    width: usize,
) {
    let rows: [&[f32]; ROWS] =
        std::array::from_fn(|row| &a[row * a_stride..row * a_stride + panel.len()]);
    let mut sums = [[0.0f32; PANEL]; ROWS];
    for (step, line) in panel.iter().enumerate() {
        for row in 0..ROWS {
            let factor = rows[row][step];
            for lane in 0..PANEL {
                sums[row][lane] += factor * line[lane];
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        let at = row * out_stride;
        if width == PANEL {
            output[at..at + PANEL].copy_from_slice(sums);
        } else {
            output[at..at + width].copy_from_slice(&sums[..width]);
        }
    }
}

/// What a [`MatMul`] must give.
#[cfg(not(target_arch = "wasm32"))]
fn expected(op: &MatMul, given: &[&Array], out: &[usize]) -> Array {
    let (a, b) = (given[0], given[1]);
    let at = |array: &Array, lead: &[usize], i: usize, j: usize| {
        let own = &array.shape[..array.shape.len() - 2];
        let lead = &lead[lead.len() - own.len()..];
        let mut index: Vec<usize> = own
            .iter()
            .zip(lead)
            .map(|(&size, &position)| if size == 1 { 0 } else { position })
            .collect();
        index.extend([i, j]);
        array.at(&index)
    };
    let k = a.shape[a.shape.len() - 1];
    Array::build(a.dtype, out, |index| {
        let (lead, i, j) =
            (&index[..index.len() - 2], index[index.len() - 2], index[index.len() - 1]);
        let b_at = |step| if op.transpose_b { at(b, lead, j, step) } else { at(b, lead, step, j) };
        let sum: f64 = (0..k).map(|step| at(a, lead, i, step) * b_at(step)).sum();
        let biased = f64::from(op.alpha) * sum + if op.bias { given[2].at(&[j]) } else { 0.0 };
        let activated = op.activation.map_or(biased, |unary| math::exact(unary, biased));
        activated + if op.residual { given[inputs(op) - 1].at(index) } else { 0.0 }
    })
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::{Op, Unary};

    let plain =
        MatMul { transpose_b: false, alpha: 1.0, bias: false, activation: None, residual: false };
    let gelu =
        MatMul { bias: true, activation: Some(Unary::GeluErf), residual: true, ..plain.clone() };
    let transposed = MatMul { transpose_b: true, alpha: 0.25, ..plain.clone() };
    let table: [(&str, &MatMul, &[usize], &[usize], &[usize], bool); 12] = [
        ("vectors", &plain, &[16, 32], &[32, 24], &[16, 24], true),
        ("one row", &gelu, &[1, 1, 64], &[64, 36], &[1, 1, 36], true),
        ("a ragged number of rows", &gelu, &[2, 13, 8], &[8, 12], &[2, 13, 12], true),
        ("nothing divides by 4", &gelu, &[5, 7], &[7, 9], &[5, 9], true),
        ("transposed", &transposed, &[9, 16], &[20, 16], &[9, 20], true),
        ("transposed and odd", &transposed, &[3, 5], &[7, 5], &[3, 7], true),
        ("transposed at run time", &transposed, &[9, 16], &[20, 16], &[9, 20], false),
        ("batches", &plain, &[2, 3, 5, 8], &[2, 3, 8, 4], &[2, 3, 5, 4], false),
        ("broadcast batches", &transposed, &[2, 1, 4, 6], &[3, 5, 6], &[2, 3, 4, 5], false),
        ("a matrix against batches", &gelu, &[10, 8], &[3, 8, 12], &[3, 10, 12], false),
        ("a long sum", &plain, &[4, 1536], &[1536, 8], &[4, 8], true),
        ("many rows", &plain, &[131, 12], &[12, 20], &[131, 20], true),
    ];
    let sums = MatMul { bias: true, residual: true, ..plain.clone() };
    let turned = MatMul { transpose_b: true, ..plain.clone() };
    let integers: [(&str, &MatMul, &[usize], &[usize], &[usize], bool); 4] = [
        ("integers", &plain, &[16, 32], &[32, 24], &[16, 24], true),
        ("odd integers with everything", &sums, &[5, 7], &[7, 9], &[5, 9], false),
        ("transposed integers", &turned, &[9, 16], &[20, 16], &[9, 20], true),
        ("batches of integers", &plain, &[2, 1, 4, 6], &[3, 6, 5], &[2, 3, 4, 5], false),
    ];
    let unsigned: [(&str, &MatMul, &[usize], &[usize], &[usize], bool); 1] =
        [("unsigned integers", &turned, &[3, 5], &[7, 5], &[3, 7], false)];
    let floats = table.map(|row| (DType::F32, row));
    let unsigned = unsigned.map(|row| (DType::U32, row));
    let integers = integers.map(|row| (DType::I32, row));
    floats
        .into_iter()
        .chain(integers)
        .chain(unsigned)
        .enumerate()
        .map(|(seed, (dtype, (name, op, a, b, out, constant)))| {
            let seed = seed as u64 * 10;
            let n = out[out.len() - 1];
            let noise = |offset: u64, shape: &[usize]| {
                let noise = Array::noise(seed + offset, shape);
                match dtype {
                    DType::I32 => Array { dtype, ..noise.map(|x| (x * 200.0).trunc()) },
                    DType::U32 => Array { dtype, ..noise.map(|x| (x.abs() * 200.0).trunc()) },
                    _ => noise,
                }
            };
            let mut arrays = vec![noise(0, a), noise(1, b)];
            if op.bias {
                arrays.push(noise(2, &[n]));
            }
            if op.residual {
                arrays.push(noise(3, out));
            }
            let expected = expected(op, &arrays.iter().collect::<Vec<_>>(), out);
            let mut sketch = Sketch::new(&format!("matmul/{name}"));
            let ids: Vec<_> = arrays
                .iter()
                .enumerate()
                .map(|(index, array)| {
                    if index == 1 && constant {
                        sketch.constant(array)
                    } else {
                        sketch.input(array)
                    }
                })
                .collect();
            let output = sketch.node(Op::MatMul(op.clone()), &ids, dtype, out);
            sketch.case(output, &expected, Tolerance::Approximate)
        })
        .collect()
}
