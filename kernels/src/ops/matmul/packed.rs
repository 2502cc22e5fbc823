//! Constant matrices in the form in which the cpu kernel reads them.

use super::super::stored::Stored;

/// Columns of a panel of a packed matrix.
pub(in super::super) const PANEL: usize = 8;
/// Elements that a step of a [`Packer`] packs, in whole panels: some ten microseconds of work.
const STEP_ELEMENTS: usize = 16 << 10;

/// A line of a panel.
pub(in super::super) type Line = [f32; PANEL];

/// How the elements of a matrix `[k, n]` lie in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MatrixForm {
    /// Rows.
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// Whether it is stored as `[n, k]`.
    pub transposed: bool,
    /// Elements between the starts of two stored rows.
    pub stride: usize,
    /// How an element is stored.
    pub stored: Stored,
}

impl MatrixForm {
    /// A matrix of floats, stored as `[k, n]`, or as `[n, k]` when `transposed`.
    pub fn floats(k: usize, n: usize, transposed: bool) -> MatrixForm {
        MatrixForm { k, n, transposed, stride: if transposed { k } else { n }, stored: Stored::F32 }
    }

    /// Elements between two neighbours in a column, and in a row.
    fn steps(&self) -> (usize, usize) {
        if self.transposed { (1, self.stride) } else { (self.stride, 1) }
    }
}

/// A matrix `[k, n]` as panels of eight columns, each `[k, 8]`, the last one padded with zeros.
#[derive(Debug, Default, PartialEq)]
pub struct PackedMatrix {
    k: usize,
    n: usize,
    panels: Panels,
}

#[derive(Debug, PartialEq)]
enum Panels {
    Floats(Vec<Line>),
    /// A line of eight elements has as many bytes as an element has bits.
    Narrow(Stored, Vec<u8>),
}

impl Default for Panels {
    fn default() -> Panels {
        Panels::Floats(Vec::new())
    }
}

impl PackedMatrix {
    /// Packs `[k, n]`, or `[n, k]` when `transposed`.
    pub fn pack(matrix: &[f32], k: usize, n: usize, transposed: bool) -> PackedMatrix {
        PackedMatrix::of_form(bytemuck::cast_slice(matrix), MatrixForm::floats(k, n, transposed))
    }

    /// Packs a matrix that lies in words in this form.
    pub(super) fn of_form(words: &[u32], form: MatrixForm) -> PackedMatrix {
        let mut packer = Packer::new(form);
        while packer.step(words) {}
        packer.finish()
    }

    /// Rows and columns.
    pub(super) fn shape(&self) -> (usize, usize) {
        (self.k, self.n)
    }

    /// Bytes of memory that it has.
    pub fn bytes(&self) -> usize {
        match &self.panels {
            Panels::Floats(panels) => std::mem::size_of_val(panels.as_slice()),
            Panels::Narrow(_, bytes) => bytes.len(),
        }
    }

    /// Whether panels are widened whenever they are read.
    pub(super) fn is_narrow(&self) -> bool {
        matches!(self.panels, Panels::Narrow(..))
    }

    /// A matrix `[k, n]` from its panels of `k` lines each.
    pub(in super::super) fn of_panels(k: usize, n: usize, panels: Vec<Line>) -> PackedMatrix {
        assert_eq!(panels.len(), n.div_ceil(PANEL) * k, "a matrix of {k}x{n} has other panels");
        PackedMatrix { k, n, panels: Panels::Floats(panels) }
    }

    /// The memory of the panels of floats, to be reused.
    pub(in super::super) fn into_panels(self) -> Vec<Line> {
        match self.panels {
            Panels::Floats(panels) => panels,
            Panels::Narrow(..) => Vec::new(),
        }
    }

    /// Packs another matrix into the same memory; its element `[i, j]` is `matrix[i * row + j * column]`.
    pub(crate) fn repack(&mut self, matrix: &[f32], k: usize, n: usize, row: usize, column: usize) {
        let mut panels = std::mem::take(self).into_panels();
        panels.clear();
        panels.reserve(n.div_ceil(PANEL) * k);
        for first in (0..n).step_by(PANEL).filter(|_| k > 0) {
            push_panel(
                &mut panels,
                &matrix[first * column..],
                k,
                PANEL.min(n - first),
                row,
                column,
            );
        }
        *self = PackedMatrix::of_panels(k, n, panels);
    }

    /// The panel of this index: its own memory, or `scratch`, where narrow elements are widened and scaled.
    pub(super) fn panel<'a>(
        &'a self,
        index: usize,
        scaling: Option<&Scaling<'_>>,
        scratch: &'a mut Vec<Line>,
    ) -> &'a [Line] {
        match &self.panels {
            Panels::Floats(panels) => &panels[index * self.k..][..self.k],
            Panels::Narrow(stored, bytes) => {
                let line_bytes = stored.bits() as usize;
                let lines = &bytes[index * self.k * line_bytes..][..self.k * line_bytes];
                scratch.clear();
                scratch.extend(lines.chunks_exact(line_bytes).map(|line| widened(*stored, line)));
                if let Some(scaling) = scaling {
                    let first = index * PANEL;
                    scaling.apply(first, PANEL.min(self.n - first), scratch);
                }
                scratch
            }
        }
    }
}

/// Appends a panel of `k` lines, of which `width` columns exist; its element `[i, j]` is `matrix[i * row + j * column]`.
fn push_panel(
    panels: &mut Vec<Line>,
    matrix: &[f32],
    k: usize,
    width: usize,
    row: usize,
    column: usize,
) {
    for i in 0..k {
        let mut line = [0.0; PANEL];
        if column == 1 {
            line[..width].copy_from_slice(&matrix[i * row..][..width]);
        } else {
            for (lane, value) in line[..width].iter_mut().enumerate() {
                *value = matrix[i * row + lane * column];
            }
        }
        panels.push(line);
    }
}

/// Appends a line of narrow elements, those beyond `width` as zeros.
fn push_line(stored: Stored, bytes: &mut Vec<u8>, width: usize, bits_at: impl Fn(usize) -> u32) {
    let bits = stored.bits() as usize;
    let line = bytes.len();
    bytes.resize(line + bits, 0);
    for lane in 0..width {
        let (at, element) = (place(bits, lane), bits_at(lane).to_le_bytes());
        if bits < 8 {
            bytes[line + at / 8] |= element[0] << (at % 8);
        } else {
            bytes[line + at / 8..][..bits / 8].copy_from_slice(&element[..bits / 8]);
        }
    }
}

/// The bit at which an element of a line begins. Those of 4 bits lie in the lower halves of bytes, then in the upper ones, so that
/// they are widened like bytes.
fn place(bits: usize, lane: usize) -> usize {
    if bits == 4 { lane % 4 * 8 + lane / 4 * 4 } else { lane * bits }
}

/// Eight narrow elements as floats.
#[inline(always)]
fn widened(stored: Stored, line: &[u8]) -> Line {
    match (stored, line) {
        (Stored::Integers { bits: 8, signed: true }, &[a, b, c, d, e, f, g, h]) => {
            [a, b, c, d, e, f, g, h].map(|byte| f32::from(byte as i8))
        }
        (Stored::Integers { bits: 8, signed: false }, &[a, b, c, d, e, f, g, h]) => {
            [a, b, c, d, e, f, g, h].map(f32::from)
        }
        (Stored::Integers { bits: 4, signed: false }, &[a, b, c, d]) => {
            let word = u32::from_le_bytes([a, b, c, d]);
            let (low, high) = (word & 0x0f0f_0f0f, word >> 4 & 0x0f0f_0f0f);
            let eight = u64::from(low) | u64::from(high) << 32;
            eight.to_le_bytes().map(f32::from)
        }
        (Stored::F16, line) => {
            let halves = line.as_chunks::<2>().0;
            std::array::from_fn(|lane| half_to_float(u16::from_le_bytes(halves[lane])))
        }
        (stored, line) => {
            let bits = stored.bits() as usize;
            std::array::from_fn(|lane| {
                let at = place(bits, lane);
                let mut word = [0; 4];
                let bytes = &line[at / 8..][..bits.div_ceil(8)];
                word[..bytes.len()].copy_from_slice(bytes);
                let word = u32::from_le_bytes(word) >> (at % 8);
                stored.number(if bits == 32 { word } else { word & ((1 << bits) - 1) })
            })
        }
    }
}

/// A number of half precision, with little work for the usual ones.
#[inline(always)]
fn half_to_float(half: u16) -> f32 {
    /// 2^112: the exponents' biases are 127 and 15.
    const SCALE: f32 = f32::from_bits((127 + 112) << 23);
    let sign = u32::from(half & 0x8000) << 16;
    let rest = u32::from(half & 0x7fff) << 13;
    if half & 0x7c00 == 0x7c00 {
        // Infinite or not a number.
        return f32::from_bits(sign | rest | 0x7f80_0000);
    }
    f32::from_bits(sign | (f32::from_bits(rest) * SCALE).to_bits())
}

/// Packs a matrix in steps, between which the caller may do something else.
#[derive(Debug)]
pub struct Packer {
    packed: PackedMatrix,
    form: MatrixForm,
    /// The first column of the next panel.
    column: usize,
}

impl Packer {
    /// Starts to pack a matrix.
    pub fn new(form: MatrixForm) -> Packer {
        let lines = form.n.div_ceil(PANEL) * form.k;
        let panels = match form.stored {
            Stored::F32 => Panels::Floats(Vec::with_capacity(lines)),
            stored => Panels::Narrow(stored, Vec::with_capacity(lines * stored.bits() as usize)),
        };
        Packer { packed: PackedMatrix { k: form.k, n: form.n, panels }, form, column: 0 }
    }

    /// Packs the next panels, some ten thousand elements of the same `words` in every step. Returns whether others are missing.
    pub fn step(&mut self, words: &[u32]) -> bool {
        let MatrixForm { k, n, .. } = self.form;
        let (row, column) = self.form.steps();
        let panels = (STEP_ELEMENTS / (PANEL * k).max(1)).max(1);
        let end = self.column.saturating_add(panels.saturating_mul(PANEL)).min(n);
        for first in (self.column..end).step_by(PANEL) {
            let width = PANEL.min(n - first);
            match &mut self.packed.panels {
                Panels::Floats(panels) if k > 0 => {
                    let floats: &[f32] = bytemuck::cast_slice(words);
                    push_panel(panels, &floats[first * column..], k, width, row, column);
                }
                Panels::Floats(_) => {}
                Panels::Narrow(stored, bytes) => {
                    let stored = *stored;
                    for i in 0..k {
                        let start = i * row + first * column;
                        push_line(stored, bytes, width, |lane| {
                            stored.bits_at(words, start + lane * column)
                        });
                    }
                }
            }
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

/// What turns the integers of a quantized matrix into numbers: `(integer - zero) * scale`.
pub(super) struct Scaling<'a> {
    pub(super) scales: (Stored, &'a [u32]),
    pub(super) zeros: Option<(Stored, &'a [u32])>,
    /// Elements along `k` that share a scale.
    pub(super) block: usize,
    /// Scales between those of two columns, and of two blocks.
    pub(super) strides: (usize, usize),
}

impl Scaling<'_> {
    /// Scales a panel, whose first column is `first` and of which `width` columns exist.
    fn apply(&self, first: usize, width: usize, panel: &mut [Line]) {
        let (by_column, by_block) = self.strides;
        for (block, lines) in panel.chunks_mut(self.block.max(1)).enumerate() {
            let (mut scales, mut zeros) = ([0.0; PANEL], [0.0; PANEL]);
            for lane in 0..width {
                let at = (first + lane) * by_column + block * by_block;
                scales[lane] = self.scales.0.at(self.scales.1, at);
                zeros[lane] = self.zeros.map_or(0.0, |(stored, words)| stored.at(words, at));
            }
            for line in lines {
                for lane in 0..PANEL {
                    line[lane] = (line[lane] - zeros[lane]) * scales[lane];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn steps_pack_the_same_as_the_whole() {
        for (k, n) in [(3, 5), (700, 100), (1, 40_000), (20_000, 17), (0, 9), (9, 0)] {
            let matrix: Vec<f32> = (0..k * n).map(|index| index as f32).collect();
            for transposed in [false, true] {
                let (row, column) = if transposed { (1, k) } else { (n, 1) };
                let mut whole = PackedMatrix::default();
                whole.repack(&matrix, k, n, row, column);
                let mut packer = Packer::new(MatrixForm::floats(k, n, transposed));
                let mut steps = 1;
                while packer.step(bytemuck::cast_slice(&matrix)) {
                    steps += 1;
                }
                let packed = packer.finish();
                assert_eq!(packed, whole);
                let panels = n.div_ceil(PANEL);
                let most = (STEP_ELEMENTS / (PANEL * k).max(1)).max(1);
                assert_eq!(steps, panels.div_ceil(most).max(1), "{k}x{n}");
            }
        }
    }

    #[test]
    fn narrow_panels_have_the_elements() {
        let words: Vec<u32> =
            (0..64u32).map(|index| index.wrapping_mul(0x9e37_79b9) ^ 0x5a5a_1234).collect();
        let stored = [
            Stored::F16,
            Stored::BF16,
            Stored::Integers { bits: 16, signed: true },
            Stored::Integers { bits: 8, signed: true },
            Stored::Integers { bits: 8, signed: false },
            Stored::Integers { bits: 4, signed: true },
            Stored::Integers { bits: 4, signed: false },
            Stored::Integers { bits: 2, signed: false },
            Stored::Nf4,
        ];
        for stored in stored {
            for transposed in [false, true] {
                let (k, n) = (5, 11);
                let stride = if transposed { 8 } else { 12 };
                let form = MatrixForm { k, n, transposed, stride, stored };
                let mut packer = Packer::new(form);
                while packer.step(&words) {}
                let packed = packer.finish();
                let mut scratch = Vec::new();
                for panel in 0..2 {
                    let lines = packed.panel(panel, None, &mut scratch);
                    for (i, line) in lines.iter().enumerate() {
                        for (lane, &got) in line.iter().enumerate() {
                            let j = panel * PANEL + lane;
                            let (row, column) = form.steps();
                            let want =
                                if j < n { stored.at(&words, i * row + j * column) } else { 0.0 };
                            let same = got == want || got.is_nan() && want.is_nan() || j >= n;
                            assert!(same, "{stored:?} [{i}, {j}]: {got}, not {want}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn halves_are_widened() {
        for bits in 0..=u16::MAX {
            let (got, want) = (half_to_float(bits), f16::from_bits(bits).to_f32());
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{bits:x}");
        }
    }
}
