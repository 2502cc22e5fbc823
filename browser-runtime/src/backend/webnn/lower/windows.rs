//! Convolutions and pools. WebNN has them in two dimensions; one dimension becomes two, three are refused.

use flotilla_program::{Conv, Node, Pool, PoolKind, Window, dim::Dim};

use super::Lowering;
use crate::backend::webnn::draft::{Binary, Id, Type, Window2d};

/// Most groups of a transposed convolution; each group becomes a transposed convolution.
const TRANSPOSED_GROUPS_MAX: u32 = 64;

/// A size, stride or dilation for each of two dimensions.
fn two(numbers: &[u32]) -> Result<[u32; 2], String> {
    match *numbers {
        [only] => Ok([1, only]),
        [height, width] => Ok([height, width]),
        _ => Err(format!("WebNN has no windows of {} dimensions", numbers.len())),
    }
}

/// The same for numbers that are 0 in an added dimension.
fn two_pads(numbers: &[i64]) -> Result<[i64; 2], String> {
    match *numbers {
        [only] => Ok([0, only]),
        [height, width] => Ok([height, width]),
        _ => Err(format!("WebNN has no windows of {} dimensions", numbers.len())),
    }
}

/// A window's place in its input.
struct Fitted {
    /// Elements cut away before and after each dimension, because their padding would be negative.
    cut: [[u32; 2]; 2],
    window: Window2d,
}

/// Fits a window to `output` places; `pads` are the distances of the first one before the first element.
fn fit(
    window: &Window,
    pads: [i64; 2],
    kernel: [u32; 2],
    input: [u32; 2],
    output: [u32; 2],
) -> Result<Fitted, String> {
    let (strides, dilations) = (two(&window.strides)?, two(&window.dilations)?);
    let (mut padding, mut cut) = ([0; 4], [[0; 2]; 2]);
    for axis in 0..2 {
        let reach = i64::from(kernel[axis] - 1) * i64::from(dilations[axis]) + 1;
        let seen = i64::from(output[axis] - 1) * i64::from(strides[axis]) + reach;
        let behind = seen - i64::from(input[axis]) - pads[axis];
        // Elements that the window never reaches may stay, because the number of its places is rounded down.
        let unreached = behind < 0 && -behind < i64::from(strides[axis]);
        let ends = [pads[axis], if unreached { 0 } else { behind }];
        for (end, pad) in ends.into_iter().enumerate() {
            let narrow = |number: i64| u32::try_from(number).map_err(|_| "a padding".to_owned());
            padding[axis * 2 + end] = narrow(pad.max(0))?;
            cut[axis][end] = narrow((-pad).max(0))?;
        }
    }
    Ok(Fitted { cut, window: Window2d { padding, strides, dilations } })
}

impl Lowering<'_> {
    fn pads(&self, pads: &[Dim]) -> Result<[i64; 2], String> {
        let numbers: Option<Vec<i64>> = pads.iter().map(|pad| self.shapes.eval(pad)).collect();
        two_pads(&numbers.ok_or("a padding without a value")?)
    }

    /// `[n, c, d]` as `[n, c, 1, d]`; images are unchanged.
    fn image(&mut self, x: Id) -> Result<Id, String> {
        match *self.draft.shape(x) {
            [n, c, d] => self.draft.reshape(x, &[n, c, 1, d]),
            [_, _, _, _] => Ok(x),
            ref other => Err(format!("WebNN has no windows over {other:?}")),
        }
    }

    fn without(&mut self, x: Id, cut: [[u32; 2]; 2]) -> Result<Id, String> {
        let mut x = x;
        for (axis, [front, back]) in cut.into_iter().enumerate() {
            let size = self.draft.shape(x)[axis + 2];
            let left = size.checked_sub(front + back).ok_or("a window behind its input")?;
            x = self.draft.slice_axis(x, axis + 2, front, left)?;
        }
        Ok(x)
    }

    pub(super) fn conv(&mut self, node: &Node, op: &Conv, want: &[u32]) -> Result<Id, String> {
        let operands = self.operands(node)?;
        let x = self.image(operands[0])?;
        let filter = match *self.draft.shape(operands[1]) {
            [m, k, c] => self.draft.reshape(operands[1], &[m, 1, k, c])?,
            _ => operands[1],
        };
        let &[_, height, width, _] = self.draft.shape(filter) else {
            return Err(format!("a filter of {:?}", self.draft.shape(filter)));
        };
        let bias = op.bias.then(|| operands[2]);
        let output = two(&want[2..])?;
        let y = if op.transposed {
            self.transposed(op, [x, filter], bias, output)?
        } else {
            let &[_, _, rows, columns] = self.draft.shape(x) else {
                return Err("an image that is none".to_owned());
            };
            let fitted = fit(
                &op.window,
                self.pads(&op.window.pads)?,
                [height, width],
                [rows, columns],
                output,
            )?;
            let x = self.without(x, fitted.cut)?;
            self.draft.conv_2d([x, filter], bias, fitted.window, op.groups, output)?
        };
        let mut y = self.draft.reshape(y, want)?;
        if op.residual {
            let residual = *operands.last().ok_or("there is no residual")?;
            y = self.draft.binary(Binary::Add, y, residual)?;
        }
        match op.activation {
            Some(function) => self.activation(function, y),
            None => Ok(y),
        }
    }

    /// Without padding, groups and dilations, which browsers do not have here: the filter is spread, each group is its
    /// own convolution, and the padding is cut off afterwards.
    fn transposed(
        &mut self,
        op: &Conv,
        [x, filter]: [Id; 2],
        bias: Option<Id>,
        output: [u32; 2],
    ) -> Result<Id, String> {
        let &[_, channels, rows, columns] = self.draft.shape(x) else {
            return Err("an image that is none".to_owned());
        };
        if op.groups > TRANSPOSED_GROUPS_MAX {
            return Err(format!("a transposed convolution of {} groups", op.groups));
        }
        let (strides, dilations) = (two(&op.window.strides)?, two(&op.window.dilations)?);
        let mut filter = filter;
        for (axis, dilation) in [(1, dilations[0]), (2, dilations[1])] {
            filter = self.spread(filter, axis, dilation)?;
        }
        let &[outputs, height, width, _] = self.draft.shape(filter) else {
            return Err(format!("a filter of {:?}", self.draft.shape(filter)));
        };
        let whole = [(rows - 1) * strides[0] + height, (columns - 1) * strides[1] + width];
        let window = Window2d { padding: [0; 4], strides, dilations: [1, 1] };
        let (taken, given) = (channels / op.groups, outputs / op.groups);
        let mut parts = Vec::new();
        for group in 0..op.groups {
            let x = self.draft.slice_axis(x, 1, group * taken, taken)?;
            let filter = self.draft.slice_axis(filter, 0, group * given, given)?;
            parts.push(self.draft.conv_transpose_2d([x, filter], window.clone(), whole)?);
        }
        let mut y = self.draft.concat(parts, 1)?;
        let pads = self.pads(&op.window.pads)?;
        for axis in 0..2 {
            let front = u32::try_from(pads[axis]).map_err(|_| "a negative padding")?;
            let left = whole[axis].checked_sub(front).filter(|&left| left > 0);
            let left = left.ok_or("a padding that takes everything away")?;
            y = self.draft.slice_axis(y, axis + 2, front, left.min(output[axis]))?;
            if left < output[axis] {
                let zero = self.draft.scalar(0.0, Type::Float32)?;
                let mut after = [0; 4];
                after[axis + 2] = output[axis] - left;
                y = self.surrounded(y, zero, &[0; 4], &after)?;
            }
        }
        match bias {
            Some(bias) => {
                let bias = self.draft.reshape(bias, &[1, outputs, 1, 1])?;
                self.draft.binary(Binary::Add, y, bias)
            }
            None => Ok(y),
        }
    }

    /// Zeros between the elements of a dimension.
    fn spread(&mut self, x: Id, axis: usize, dilation: u32) -> Result<Id, String> {
        let shape = self.draft.shape(x).to_vec();
        let size = shape[axis];
        if dilation == 1 || size == 1 {
            return Ok(x);
        }
        let mut split = shape.clone();
        split.insert(axis + 1, 1);
        let x = self.draft.reshape(x, &split)?;
        split[axis + 1] = dilation - 1;
        let zero = self.draft.scalar(0.0, Type::Float32)?;
        let zeros = self.draft.expand(zero, &split)?;
        let joined = self.draft.concat(vec![x, zeros], axis as u32 + 1)?;
        let mut flat = shape;
        flat[axis] = size * dilation;
        let flat = self.draft.reshape(joined, &flat)?;
        self.draft.slice_axis(flat, axis, 0, size * dilation - (dilation - 1))
    }

    pub(super) fn pool(&mut self, node: &Node, op: &Pool, want: &[u32]) -> Result<Id, String> {
        let x = self.operand(node.inputs[0])?;
        let x = self.image(x)?;
        let &[_, _, rows, columns] = self.draft.shape(x) else {
            return Err("an image that is none".to_owned());
        };
        let kernel = two(&op.kernel)?;
        let output = two(&want[2..])?;
        let before = self.pads(&op.window.pads)?;
        let fitted = fit(&op.window, before, kernel, [rows, columns], output)?;
        let x = self.without(x, fitted.cut)?;
        let window = fitted.window;
        let y = match op.kind {
            PoolKind::Max => self.draft.pool_2d(x, true, kernel, window, output)?,
            PoolKind::Sum | PoolKind::Mean | PoolKind::PaddedMean => {
                let counted = match op.kind {
                    PoolKind::Mean => {
                        Some(counts(op, kernel, [rows, columns], output, [before, [0, 0]])?)
                    }
                    PoolKind::PaddedMean => {
                        let after = self.pads(&op.pads_after)?;
                        Some(counts(op, kernel, [rows, columns], output, [before, after])?)
                    }
                    _ => None,
                };
                self.sums(x, kernel, window, output, counted)?
            }
            PoolKind::MaxPosition { .. } => {
                return Err("WebNN does not say where the largest element is".to_owned());
            }
        };
        self.draft.reshape(y, want)
    }

    /// The sums of windows, each divided by its count. Browsers do not agree on how padding counts, so zeros are added
    /// around the input first.
    fn sums(
        &mut self,
        x: Id,
        kernel: [u32; 2],
        window: Window2d,
        output: [u32; 2],
        counts: Option<Vec<u32>>,
    ) -> Result<Id, String> {
        let area = f64::from(kernel[0] * kernel[1]);
        let whole = counts
            .as_ref()
            .is_some_and(|counts| counts.iter().all(|&count| f64::from(count) == area));
        let [top, bottom, left, right] = window.padding;
        let mut x = x;
        if window.padding != [0; 4] {
            let zero = self.draft.scalar(0.0, Type::Float32)?;
            x = self.surrounded(x, zero, &[0, 0, top, left], &[0, 0, bottom, right])?;
        }
        let window = Window2d { padding: [0; 4], ..window };
        let means = self.draft.pool_2d(x, false, kernel, window, output)?;
        if whole {
            return Ok(means);
        }
        let factors = match counts {
            Some(counts) => {
                let factors = counts.iter().map(|&count| (area as f32 / count as f32).to_bits());
                let [rows, columns] = output;
                self.draft.data(factors.collect(), Type::Float32, &[1, 1, rows, columns])?
            }
            None => self.draft.scalar(area, Type::Float32)?,
        };
        self.draft.binary(Binary::Mul, means, factors)
    }
}

/// How many elements each window counts: those of the input and, for a mean over padding, those of the padding.
fn counts(
    op: &Pool,
    kernel: [u32; 2],
    input: [u32; 2],
    output: [u32; 2],
    [before, after]: [[i64; 2]; 2],
) -> Result<Vec<u32>, String> {
    let (strides, dilations) = (two(&op.window.strides)?, two(&op.window.dilations)?);
    let padded = op.kind == PoolKind::PaddedMean;
    let along = |axis: usize| -> Vec<u32> {
        let first = if padded { -before[axis] } else { 0 };
        let end = i64::from(input[axis]) + if padded { after[axis] } else { 0 };
        let count = |place: u32| {
            let start = i64::from(place) * i64::from(strides[axis]) - before[axis];
            let seen = (0..kernel[axis])
                .map(|at| start + i64::from(at) * i64::from(dilations[axis]))
                .filter(|at| (first..end).contains(at));
            seen.count() as u32
        };
        (0..output[axis]).map(count).collect()
    };
    let columns = along(1);
    Ok(along(0)
        .into_iter()
        .flat_map(|row| columns.iter().map(move |column| row * column))
        .collect())
}
