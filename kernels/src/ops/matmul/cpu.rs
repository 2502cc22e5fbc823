//! Products on the cpu.

use flotilla_program::MatMul;

use super::{
    super::{Operand, math},
    Geometry,
    packed::{Line, PANEL, PackedMatrix, Scaling},
};

/// Rows that one pass of the cpu kernel computes.
const BLOCK: usize = 4;
/// Rows between two uses of the same panel: few enough that their results stay in cache for the epilogue.
const ROWS_PER_PASS: usize = 32;
/// The same if a panel is widened for each pass.
const ROWS_PER_PASS_WIDENING: usize = 128;
/// Products that are added as `f32` before their sum is added to the others as `f64`, so that long sums stay exact.
const SUM_MAX: usize = 128;

/// Products of integers, which wrap around; unsigned ones have the same bits.
pub(super) fn multiply_integers(
    op: &MatMul,
    geometry: &Geometry,
    operands: &[Operand<'_>],
    output: &mut [i32],
) {
    let Geometry { m, n, k, .. } = *geometry;
    if m * n == 0 {
        return;
    }
    let bias = op.bias.then(|| operands[op.bias_at()].i32());
    let residual = op.residual.then(|| operands[op.operands() - 1].i32());
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

/// What is applied to sums.
pub(super) struct Epilogue<'a> {
    pub(super) alpha: f32,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) activation: Option<flotilla_program::Unary>,
    pub(super) residual: Option<&'a [f32]>,
}

impl Epilogue<'_> {
    /// Finishes complete rows of `n` results; `first` is their index among all rows of the output.
    pub(super) fn apply(&self, first: usize, n: usize, rows: &mut [f32]) {
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

/// `output[i, j] = sum over k of a[i, k] * b[k, j]` for `m` rows of `a` at a distance of `a_stride` and rows of
/// `output` at a distance of `out_stride`. `finish` gets the index of a row and the complete rows from there.
pub(crate) fn multiply(
    a: &[f32],
    a_stride: usize,
    m: usize,
    b: &PackedMatrix,
    output: &mut [f32],
    out_stride: usize,
    finish: impl Fn(usize, &mut [f32]),
) {
    multiply_scaled(a, a_stride, m, (b, None), output, out_stride, finish);
}

/// The same with a matrix of quantized integers, if there is a scaling.
pub(super) fn multiply_scaled(
    a: &[f32],
    a_stride: usize,
    m: usize,
    (b, scaling): (&PackedMatrix, Option<&Scaling<'_>>),
    output: &mut [f32],
    out_stride: usize,
    finish: impl Fn(usize, &mut [f32]),
) {
    let rows_per_pass = if b.is_narrow() { ROWS_PER_PASS_WIDENING } else { ROWS_PER_PASS };
    let (_, n) = b.shape();
    let mut scratch = Vec::new();
    for first in (0..m).step_by(rows_per_pass) {
        let last = (first + rows_per_pass).min(m);
        for panel_index in 0..n.div_ceil(PANEL) {
            let panel = b.panel(panel_index, scaling, &mut scratch);
            let column = panel_index * PANEL;
            let width = PANEL.min(n - column);
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
        let end = ((last - 1) * out_stride + n).min(output.len());
        finish(first, &mut output[first * out_stride..end]);
    }
}

/// `ROWS` x 8 sums in registers: with four rows, eight 128-bit accumulators, two of `b` and the broadcasts of `a`
/// fit the sixteen that wasm engines have on x86-64.
#[inline(always)]
fn block<const ROWS: usize>(
    a: &[f32],
    a_stride: usize,
    panel: &[Line],
    output: &mut [f32],
    out_stride: usize,
    width: usize,
) {
    let rows: [&[f32]; ROWS] =
        std::array::from_fn(|row| &a[row * a_stride..row * a_stride + panel.len()]);
    let mut totals = [[0.0f64; PANEL]; ROWS];
    for (block, panel) in panel.chunks(SUM_MAX).enumerate() {
        let rows: [&[f32]; ROWS] =
            std::array::from_fn(|row| &rows[row][block * SUM_MAX..][..panel.len()]);
        let mut sums = [[0.0f32; PANEL]; ROWS];
        for (step, line) in panel.iter().enumerate() {
            for row in 0..ROWS {
                let factor = rows[row][step];
                for lane in 0..PANEL {
                    sums[row][lane] += factor * line[lane];
                }
            }
        }
        for row in 0..ROWS {
            for lane in 0..PANEL {
                totals[row][lane] += f64::from(sums[row][lane]);
            }
        }
    }
    for (row, totals) in totals.iter().enumerate() {
        let sums = totals.map(|total| total as f32);
        let at = row * out_stride;
        if width == PANEL {
            output[at..at + PANEL].copy_from_slice(&sums);
        } else {
            output[at..at + width].copy_from_slice(&sums[..width]);
        }
    }
}
