//! The basic operators of which others are composed, with numpy's broadcasting of operands.
//! Source: NumPy, "General broadcasting rules"; ONNX, "Broadcasting in ONNX".

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_program::{
    self as program, Binary, Expr, Op, ReduceKind, Step, Unary,
    dim::{Dim, ToDim},
};
use flotilla_tensor::DType;

use super::{constant::Constant, facts::Var, wiring::Wiring};

impl Wiring<'_, '_> {
    /// An expression of operands; its shape is what their shapes broadcast to.
    pub(super) fn expr(&mut self, steps: Vec<Step>, inputs: &[Var], dtype: DType) -> Result<Var> {
        let shapes: Vec<Vec<Dim>> = inputs.iter().map(|&input| self.shape(input)).collect();
        let shape = self.walk.broadcast(&self.name, &shapes)?;
        self.op(Op::Elementwise(Expr { steps }), inputs, dtype, shape)
    }

    /// A function of one operand.
    pub(super) fn unary(&mut self, function: Unary, x: Var) -> Result<Var> {
        self.expr(vec![Step::Input(0), Step::Unary(function, 0)], &[x], self.dtype(x))
    }

    /// The common type of two operands: of two floats or two integers the wider one, of a float and an integer the float.
    fn common(&self, a: Var, b: Var) -> Result<DType> {
        let (left, right) = (self.dtype(a), self.dtype(b));
        let wider = if right.wire_bytes() > left.wire_bytes() { right } else { left };
        Ok(match (left.is_float(), right.is_float()) {
            _ if left == right => left,
            (true, true) if left.wire_bytes() == right.wire_bytes() => DType::F32,
            (true, true) => wider,
            (true, false) => left,
            (false, true) => right,
            (false, false) if left == DType::Bool || right == DType::Bool => {
                bail!("{left:?} and {right:?} have no common type")
            }
            (false, false) => wider,
        })
    }

    /// A function of two operands, which are converted to their common type.
    pub(super) fn binary(&mut self, function: Binary, a: Var, b: Var) -> Result<Var> {
        let dtype = self.common(a, b)?;
        let (a, b) = (self.cast(a, dtype)?, self.cast(b, dtype)?);
        let compares = matches!(
            function,
            Binary::Eq | Binary::Ne | Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge
        );
        let result = if compares { DType::Bool } else { dtype };
        if let Some(decided) = self.decided(function, a, b)? {
            return Ok(decided);
        }
        if a == b {
            return self.expr(vec![Step::Input(0), Step::Binary(function, 0, 0)], &[a], result);
        }
        let steps = vec![Step::Input(0), Step::Input(1), Step::Binary(function, 0, 1)];
        self.expr(steps, &[a, b], result)
    }

    /// A truth value that is known before it is computed: exporters of masks compare positions with 0, and join conditions
    /// that are always true.
    fn decided(&mut self, function: Binary, a: Var, b: Var) -> Result<Option<Var>> {
        let truth = match function {
            Binary::And | Binary::Or if self.dtype(a) == DType::Bool => {
                let absorbing = function == Binary::Or;
                let other = match (self.walk.truth_of(a), self.walk.truth_of(b)) {
                    (Some(truth), _) => (truth != absorbing).then_some(b),
                    (_, Some(truth)) => (truth != absorbing).then_some(a),
                    (None, None) => return Ok(None),
                };
                other.unwrap_or_else(|| self.known(Constant::bools(&[], &[absorbing])))
            }
            Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge => {
                let (Some(a), Some(b)) = (self.walk.range_of(a), self.walk.range_of(b)) else {
                    return Ok(None);
                };
                let (least, most) = match function {
                    Binary::Lt => (a.1 < b.0, a.0 < b.1),
                    Binary::Le => (a.1 <= b.0, a.0 <= b.1),
                    Binary::Gt => (a.0 > b.1, a.1 > b.0),
                    _ => (a.0 >= b.1, a.1 >= b.0),
                };
                if least != most {
                    return Ok(None);
                }
                self.known(Constant::bools(&[], &[least]))
            }
            _ => return Ok(None),
        };
        let shape = self.walk.broadcast(&self.name, &[self.shape(a), self.shape(b)])?;
        self.broadcast_to(truth, &shape).map(Some)
    }

    /// `a + b`.
    pub(super) fn add(&mut self, a: Var, b: Var) -> Result<Var> {
        self.binary(Binary::Add, a, b)
    }

    /// `a - b`.
    pub(super) fn sub(&mut self, a: Var, b: Var) -> Result<Var> {
        self.binary(Binary::Sub, a, b)
    }

    /// `a * b`.
    pub(super) fn mul(&mut self, a: Var, b: Var) -> Result<Var> {
        self.binary(Binary::Mul, a, b)
    }

    /// `a / b`; of integers towards zero.
    pub(super) fn div(&mut self, a: Var, b: Var) -> Result<Var> {
        self.binary(Binary::Div, a, b)
    }

    /// The smaller one.
    pub(super) fn min(&mut self, a: Var, b: Var) -> Result<Var> {
        self.binary(Binary::Min, a, b)
    }

    /// The larger one.
    pub(super) fn max(&mut self, a: Var, b: Var) -> Result<Var> {
        self.binary(Binary::Max, a, b)
    }

    /// `a` where `condition` is true, else `b`.
    pub(super) fn select(&mut self, condition: Var, a: Var, b: Var) -> Result<Var> {
        let dtype = self.common(a, b)?;
        let (a, b) = (self.cast(a, dtype)?, self.cast(b, dtype)?);
        let steps = vec![Step::Input(0), Step::Input(1), Step::Input(2), Step::Select(0, 1, 2)];
        self.expr(steps, &[condition, a, b], dtype)
    }

    /// Another element type. Elements that a page computes with the same words stay unchanged: floats are rounded only
    /// where they become narrower.
    pub(super) fn cast(&mut self, x: Var, dtype: DType) -> Result<Var> {
        let from = self.dtype(x);
        if from == dtype {
            return Ok(x);
        }
        let widens = from.is_float()
            && dtype.is_float()
            && (!dtype.is_narrow() || self.constant(x).is_some_and(|x| x.data.dtype == dtype));
        if widens {
            return Ok(self.walk.retyped(x, dtype));
        }
        self.expr(vec![Step::Input(0), Step::Cast(dtype, 0)], &[x], dtype)
    }

    /// The same floats under another float type, without rounding: intermediate results of an operator are as exact as a
    /// page allows.
    pub(super) fn unrounded(&mut self, x: Var, dtype: DType) -> Result<Var> {
        match self.dtype(x) {
            own if own == dtype => Ok(x),
            own if own.is_float() && dtype.is_float() => Ok(self.walk.retyped(x, dtype)),
            _ => self.cast(x, dtype),
        }
    }

    /// The same elements under another shape with as many elements.
    pub(super) fn reshape(&mut self, x: Var, shape: &[Dim]) -> Result<Var> {
        let from = self.shape(x);
        if from == shape {
            return Ok(x);
        }
        let (before, after): (Dim, Dim) = (from.iter().product(), shape.iter().product());
        self.same("the numbers of elements before and after", &before, &after)?;
        self.op(Op::Reshape, &[x], self.dtype(x), shape.to_vec())
    }

    /// A new dimension of 1 in front of `axis`.
    pub(super) fn unsqueeze(&mut self, x: Var, axis: usize) -> Result<Var> {
        let mut shape = self.shape(x);
        ensure!(axis <= shape.len(), "a new axis {axis} in a shape of {} dimensions", shape.len());
        shape.insert(axis, Dim::Fixed(1));
        self.op(Op::Reshape, &[x], self.dtype(x), shape)
    }

    /// Without the dimension at `axis`, which is 1.
    pub(super) fn squeeze(&mut self, x: Var, axis: usize) -> Result<Var> {
        let mut shape = self.shape(x);
        let dim = shape.remove(axis);
        self.same("a dimension that is left out and 1", &dim, &Dim::Fixed(1))?;
        self.op(Op::Reshape, &[x], self.dtype(x), shape)
    }

    /// Dimension `i` of the result is dimension `perm[i]` of `x`.
    pub(super) fn transpose(&mut self, x: Var, perm: &[usize]) -> Result<Var> {
        let shape = self.shape(x);
        let mut sorted = perm.to_vec();
        sorted.sort_unstable();
        ensure!(sorted.iter().copied().eq(0..shape.len()), "{perm:?} is not a permutation");
        if perm.iter().copied().eq(0..shape.len()) {
            return Ok(x);
        }
        let shape = perm.iter().map(|&axis| shape[axis].clone()).collect();
        let perm = perm.iter().map(|&axis| axis as u32).collect();
        self.op(Op::Transpose(program::Transpose { perm }), &[x], self.dtype(x), shape)
    }

    /// Elements `start..end` of an axis; they must exist.
    pub(super) fn slice(
        &mut self,
        x: Var,
        axis: usize,
        start: impl ToDim,
        end: impl ToDim,
    ) -> Result<Var> {
        let start = start.to_dim();
        let length = end.to_dim() - &start;
        self.strided(x, axis, start, 1, length)
    }

    /// `length` elements of an axis from `start`, with a distance of `stride`.
    pub(super) fn strided(
        &mut self,
        x: Var,
        axis: usize,
        start: Dim,
        stride: i64,
        length: Dim,
    ) -> Result<Var> {
        let mut shape = self.shape(x);
        if start == Dim::Fixed(0) && stride == 1 && shape[axis] == length {
            return Ok(x);
        }
        shape[axis] = length;
        let slice = program::Slice { axis: axis as u32, start, stride };
        self.op(Op::Slice(slice), &[x], self.dtype(x), shape)
    }

    /// Operands one after the other along an axis. Their other dimensions are equal.
    pub(super) fn concat(&mut self, axis: usize, inputs: &[Var]) -> Result<Var> {
        let (Some(&first), true) = (inputs.first(), inputs.len() > 1) else {
            return inputs.first().copied().context("there is nothing to join");
        };
        let mut shape = self.shape(first);
        ensure!(axis < shape.len(), "axis {axis} of {} dimensions", shape.len());
        for &input in &inputs[1..] {
            let other = self.shape(input);
            ensure!(
                other.len() == shape.len(),
                "operands of {} and {} dimensions",
                shape.len(),
                other.len()
            );
            for (at, dim) in other.iter().enumerate() {
                shape[at] = if at == axis {
                    // For thousands of operands the sum would be long, and each addition traverses it.
                    let sum = &shape[at] + dim;
                    self.walk.short(sum)
                } else {
                    self.same(&format!("dimension {at} of what is joined"), &shape[at], dim)?
                };
            }
        }
        self.op(Op::Concat(program::Concat { axis: axis as u32 }), inputs, self.dtype(first), shape)
    }

    /// Repeats dimensions of 1, and adds leading ones, until the shape is this one.
    pub(super) fn broadcast_to(&mut self, x: Var, shape: &[Dim]) -> Result<Var> {
        let own = self.shape(x);
        if own == shape {
            return Ok(x);
        }
        let missing = shape.len().checked_sub(own.len());
        let missing = missing
            .with_context(|| format!("{} dimensions do not become {}", own.len(), shape.len()))?;
        let mut x = x;
        if missing > 0 {
            let mut wide = vec![Dim::Fixed(1); missing];
            wide.extend(own);
            x = self.op(Op::Reshape, &[x], self.dtype(x), wide)?;
        }
        if self.shape(x) == shape {
            return Ok(x);
        }
        self.walk.broadcast(&self.name, &[self.shape(x), shape.to_vec()])?;
        self.op(Op::Broadcast, &[x], self.dtype(x), shape.to_vec())
    }

    /// Elements combined over `axes`, which remain with size 1 if `keep`.
    pub(super) fn reduce(
        &mut self,
        kind: ReduceKind,
        x: Var,
        axes: &[usize],
        keep: bool,
    ) -> Result<Var> {
        let dtype = self.dtype(x);
        let mut sorted: Vec<usize> = axes.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let mut shape = self.shape(x);
        sorted.iter().for_each(|&axis| shape[axis] = Dim::Fixed(1));
        let reduced = if sorted.is_empty() {
            x
        } else if kind == ReduceKind::Mean && !dtype.is_float() {
            let sum = self.reduce(ReduceKind::Sum, x, &sorted, true)?;
            let count: Dim = sorted.iter().map(|&axis| self.dim(x, axis)).product();
            let count = self.dimension(count, dtype)?;
            self.div(sum, count)?
        } else {
            let axes = sorted.iter().map(|&axis| axis as u32).collect();
            self.op(Op::Reduce(program::Reduce { kind, axes }), &[x], dtype, shape.clone())?
        };
        if keep {
            return Ok(reduced);
        }
        sorted.iter().rev().for_each(|&axis| drop(shape.remove(axis)));
        self.reshape(reduced, &shape)
    }

    /// The arithmetic mean over `axes`, which remain with size 1.
    pub(super) fn mean(&mut self, x: Var, axes: &[usize]) -> Result<Var> {
        self.reduce(ReduceKind::Mean, x, axes, true)
    }

    /// `exp(x) / sum(exp(x))` over `axes`, which are neighbours.
    pub(super) fn softmax(&mut self, x: Var, axes: &[usize]) -> Result<Var> {
        let full = self.shape(x);
        let (Some(&first), Some(&last)) = (axes.first(), axes.last()) else { return Ok(x) };
        let mut flat = full[..first].to_vec();
        flat.push(full[first..=last].iter().product());
        flat.extend_from_slice(&full[last + 1..]);
        let x = self.reshape(x, &flat)?;
        let softmax = Op::Softmax(program::Softmax { axis: first as u32 });
        let weights = self.op(softmax, &[x], self.dtype(x), flat)?;
        self.reshape(weights, &full)
    }

    /// `x - ln(sum(exp(x)))` over `axes`, with the largest element subtracted first.
    pub(super) fn log_softmax(&mut self, x: Var, axes: &[usize]) -> Result<Var> {
        let largest = self.reduce(ReduceKind::Max, x, axes, true)?;
        let shifted = self.sub(x, largest)?;
        let weights = self.unary(Unary::Exp, shifted)?;
        let total = self.reduce(ReduceKind::Sum, weights, axes, true)?;
        let total = self.unary(Unary::Ln, total)?;
        self.sub(shifted, total)
    }

    /// Slices of `data` along an axis, selected by index.
    pub(super) fn gather(&mut self, axis: usize, data: Var, indices: Var) -> Result<Var> {
        let mut shape = self.shape(data);
        ensure!(axis < shape.len(), "axis {axis} of {} dimensions", shape.len());
        shape.splice(axis..=axis, self.shape(indices));
        let indices = self.index(indices)?;
        let gather = Op::Gather(program::Gather::new(axis as u32));
        self.op(gather, &[data, indices], self.dtype(data), shape)
    }

    /// Integers in the type that indices have in a page.
    pub(super) fn index(&mut self, indices: Var) -> Result<Var> {
        ensure!(self.dtype(indices).is_integer(), "indices are {:?}", self.dtype(indices));
        if self.dtype(indices).storage() == DType::I32 {
            return Ok(indices);
        }
        self.cast(indices, DType::I32)
    }

    /// `0, 1, ..` up to a length, as `I64`.
    pub(super) fn positions(&mut self, length: &Dim) -> Result<Var> {
        self.range(Dim::Fixed(0), Dim::Fixed(1), length.clone())
    }

    /// `length` integers from `start`, with a distance of `stride`, as `I64`.
    pub(super) fn range(&mut self, start: Dim, stride: Dim, length: Dim) -> Result<Var> {
        let range = Op::Range(program::Range { start, stride });
        self.op(range, &[], DType::I64, vec![length])
    }
}
