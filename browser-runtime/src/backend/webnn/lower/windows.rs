//! Convolutions and pools, which WebNN has in two dimensions; one becomes two, three are refused.

use flotilla_model::program::{Conv, Node, Pool, PoolKind, Window};

use super::Lowering;
use crate::backend::webnn::draft::{Binary, Id, Window2d};

/// Most groups of a transposed convolution, each of which is one of its own.
const TRANSPOSED_GROUPS_MAX: u32 = 64;

/// A size, stride or dilation for each of two dimensions.
fn two(numbers: &[u32]) -> Result<[u32; 2], String> {
    match *numbers {
        [only] => Ok([1, only]),
        [height, width] => Ok([height, width]),
        _ => Err(format!("WebNN has no windows of {} dimensions", numbers.len())),
    }
}

/// The same for what is 0 in a dimension that was not there.
fn two_pads(numbers: &[i32]) -> Result<[i64; 2], String> {
    match *numbers {
        [only] => Ok([0, i64::from(only)]),
        [height, width] => Ok([i64::from(height), i64::from(width)]),
        _ => Err(format!("WebNN has no windows of {} dimensions", numbers.len())),
    }
}

/// A window's place in its input.
struct Fitted {
    /// Elements taken away before and behind each dimension, because their padding would be negative.
    cut: [[u32; 2]; 2],
    window: Window2d,
}

/// How the window comes to `output` places.
fn fit(
    window: &Window,
    kernel: [u32; 2],
    input: [u32; 2],
    output: [u32; 2],
) -> Result<Fitted, String> {
    let (strides, dilations) = (two(&window.strides)?, two(&window.dilations)?);
    let pads = two_pads(&window.pads)?;
    let (mut padding, mut cut) = ([0; 4], [[0; 2]; 2]);
    for axis in 0..2 {
        let reach = i64::from(kernel[axis] - 1) * i64::from(dilations[axis]) + 1;
        let seen = i64::from(output[axis] - 1) * i64::from(strides[axis]) + reach;
        let behind = seen - i64::from(input[axis]) - pads[axis];
        // What the window never reaches may stay: the number of its places is rounded down.
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
    /// `[n, c, d]` as `[n, c, 1, d]`; images stay.
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
            self.transposed(op, [x, filter], bias, [height, width], output)?
        } else {
            let &[_, _, rows, columns] = self.draft.shape(x) else {
                return Err("an image that is none".to_owned());
            };
            let fitted = fit(&op.window, [height, width], [rows, columns], output)?;
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

    fn transposed(
        &mut self,
        op: &Conv,
        [x, filter]: [Id; 2],
        bias: Option<Id>,
        kernel: [u32; 2],
        output: [u32; 2],
    ) -> Result<Id, String> {
        let &[_, channels, rows, columns] = self.draft.shape(x) else {
            return Err("an image that is none".to_owned());
        };
        let outputs = self.draft.shape(filter)[0];
        // The convolution that this is the transpose of sees the output.
        let fitted = fit(&op.window, kernel, output, [rows, columns])?;
        // What lies behind is `output_sizes`' business.
        if fitted.cut.iter().any(|[front, _]| *front > 0) {
            return Err("a transposed convolution whose padding is negative".to_owned());
        }
        if op.groups == 1 {
            return self.draft.conv_transpose_2d([x, filter], bias, fitted.window, output);
        }
        if op.groups > TRANSPOSED_GROUPS_MAX {
            return Err(format!("a transposed convolution of {} groups", op.groups));
        }
        let (taken, given) = (channels / op.groups, outputs / op.groups);
        let mut parts = Vec::new();
        for group in 0..op.groups {
            let x = self.draft.slice_axis(x, 1, group * taken, taken)?;
            let filter = self.draft.slice_axis(filter, 0, group * given, given)?;
            let window = fitted.window.clone();
            parts.push(self.draft.conv_transpose_2d([x, filter], None, window, output)?);
        }
        let y = self.draft.concat(parts, 1)?;
        match bias {
            Some(bias) => {
                let bias = self.draft.reshape(bias, &[1, outputs, 1, 1])?;
                self.draft.binary(Binary::Add, y, bias)
            }
            None => Ok(y),
        }
    }

    pub(super) fn pool(&mut self, node: &Node, op: &Pool, want: &[u32]) -> Result<Id, String> {
        let x = self.operand(node.inputs[0])?;
        let x = self.image(x)?;
        let &[_, _, rows, columns] = self.draft.shape(x) else {
            return Err("an image that is none".to_owned());
        };
        let kernel = two(&op.kernel)?;
        let output = two(&want[2..])?;
        let fitted = fit(&op.window, kernel, [rows, columns], output)?;
        let is_padded = fitted.window.padding != [0; 4];
        let largest = match op.kind {
            PoolKind::Max => true,
            PoolKind::Mean => false,
            PoolKind::PaddedMean | PoolKind::Sum if !is_padded => false,
            PoolKind::PaddedMean | PoolKind::Sum | PoolKind::MaxPosition { .. } => {
                return Err(format!("WebNN has no {:?} with padding", op.kind));
            }
        };
        let x = self.without(x, fitted.cut)?;
        let mut y = self.draft.pool_2d(x, largest, kernel, fitted.window, output)?;
        if op.kind == PoolKind::Sum {
            let ty = self.draft.ty(y);
            let count = self.draft.scalar(f64::from(kernel[0] * kernel[1]), ty)?;
            y = self.draft.binary(Binary::Mul, y, count)?;
        }
        self.draft.reshape(y, want)
    }
}
