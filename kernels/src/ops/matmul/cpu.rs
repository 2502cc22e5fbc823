//! Products on the cpu.

use flotilla_program::MatMul;

use super::{
    super::{Operand, math},
    Geometry, inputs,
};

/// Columns of a panel of a packed matrix.
pub(in super::super) const PANEL: usize = 8;
/// Rows that one pass of the cpu kernel computes.
const BLOCK: usize = 4;
/// Rows between two uses of the same panel: few enough that their results stay in cache for the epilogue.
const ROWS_PER_PASS: usize = 32;
/// Elements that a step of a [`Packer`] packs, in whole panels: some ten microseconds of work.
const STEP_ELEMENTS: usize = 16 << 10;
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

/// A matrix `[k, n]` as panels of eight columns, each `[k, 8]`, the last one padded with zeros.
#[derive(Debug, Default, PartialEq)]
pub struct PackedMatrix {
    k: usize,
    n: usize,
    panels: Vec<[f32; PANEL]>,
}

impl PackedMatrix {
    /// Packs `[k, n]`, or `[n, k]` when `transposed`.
    pub fn pack(matrix: &[f32], k: usize, n: usize, transposed: bool) -> PackedMatrix {
        let mut packer = Packer::new(k, n, transposed);
        while packer.step(matrix) {}
        packer.finish()
    }

    /// Rows and columns.
    pub(super) fn shape(&self) -> (usize, usize) {
        (self.k, self.n)
    }

    /// A matrix `[k, n]` from its panels of `k` lines each.
    pub(in super::super) fn of_panels(
        k: usize,
        n: usize,
        panels: Vec<[f32; PANEL]>,
    ) -> PackedMatrix {
        assert_eq!(panels.len(), n.div_ceil(PANEL) * k, "a matrix of {k}x{n} has other panels");
        PackedMatrix { k, n, panels }
    }

    /// The memory of the panels, to be reused.
    pub(in super::super) fn into_panels(self) -> Vec<[f32; PANEL]> {
        self.panels
    }

    /// Packs another matrix into the same memory; its element `[i, j]` is `matrix[i * row + j * column]`.
    pub(crate) fn repack(&mut self, matrix: &[f32], k: usize, n: usize, row: usize, column: usize) {
        self.clear(k, n);
        (0..n).step_by(PANEL).for_each(|first| self.push_panel(matrix, first, row, column));
    }

    /// Removes all panels and reserves memory for those of another matrix.
    fn clear(&mut self, k: usize, n: usize) {
        (self.k, self.n) = (k, n);
        self.panels.clear();
        self.panels.reserve(n.div_ceil(PANEL) * k);
    }

    /// Appends the panel whose first column is `first`.
    fn push_panel(&mut self, matrix: &[f32], first: usize, row: usize, column: usize) {
        let width = PANEL.min(self.n - first);
        for i in 0..self.k {
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

/// Packs a matrix in steps, between which the caller may do something else.
#[derive(Debug)]
pub struct Packer {
    packed: PackedMatrix,
    transposed: bool,
    /// The first column of the next panel.
    column: usize,
}

impl Packer {
    /// Starts to pack `[k, n]`, or `[n, k]` when `transposed`.
    pub fn new(k: usize, n: usize, transposed: bool) -> Packer {
        let mut packed = PackedMatrix::default();
        packed.clear(k, n);
        Packer { packed, transposed, column: 0 }
    }

    /// Packs the next panels, some ten thousand elements of the same `matrix` in every step. Returns whether others are
    /// missing.
    pub fn step(&mut self, matrix: &[f32]) -> bool {
        let (k, n) = self.packed.shape();
        let (row, column) = if self.transposed { (1, k) } else { (n, 1) };
        let panels = (STEP_ELEMENTS / (PANEL * k).max(1)).max(1);
        let end = self.column.saturating_add(panels.saturating_mul(PANEL)).min(n);
        for first in (self.column..end).step_by(PANEL) {
            self.packed.push_panel(matrix, first, row, column);
        }
        self.column = end;
        end < n
    }

    /// The matrix, of which no panel is missing.
    pub fn finish(self) -> PackedMatrix {
        assert_eq!(self.column, self.packed.n, "panels are missing");
        self.packed
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

/// `ROWS` x 8 sums in registers: with four rows, eight 128-bit accumulators, two of `b` and the broadcasts of `a`
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_pack_the_same_as_the_whole() {
        for (k, n) in [(3, 5), (700, 100), (1, 40_000), (20_000, 17), (0, 9), (9, 0)] {
            let matrix: Vec<f32> = (0..k * n).map(|index| index as f32).collect();
            for transposed in [false, true] {
                let (row, column) = if transposed { (1, k) } else { (n, 1) };
                let mut whole = PackedMatrix::default();
                whole.repack(&matrix, k, n, row, column);
                let mut packer = Packer::new(k, n, transposed);
                let mut steps = 1;
                while packer.step(&matrix) {
                    steps += 1;
                }
                let packed = packer.finish();
                assert_eq!((packed.shape(), &packed.panels), ((k, n), &whole.panels));
                let panels = n.div_ceil(PANEL);
                let most = (STEP_ELEMENTS / (PANEL * k).max(1)).max(1);
                assert_eq!(steps, panels.div_ceil(most).max(1), "{k}x{n}");
            }
        }
    }
}
