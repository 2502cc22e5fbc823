//! The operators that compositions are made of, with numpy's broadcasting where two operands meet.
//! Source: NumPy, "General broadcasting rules"; ONNX, "Broadcasting in ONNX".

use tract_onnx::{
    prelude::{Datum, DatumType, OutletId, TDim, TVec, TractResult},
    tract_hir::internal::{
        AxisOp, ToDim, TractErrorContext as _,
        tract_core::ops::{
            array::{Gather, MultiBroadcastTo, Slice, TypedConcat},
            binary::{BinMiniOp, TypedBinOp},
            cast::cast,
            einsum::EinSum,
            element_wise::ElementWiseOp,
            logic::Iff,
            math,
            nn::{Reduce, Reducer, Softmax, SoftmaxKind},
        },
    },
};

use super::wiring::Wiring;

impl Wiring<'_, '_> {
    /// Operands with leading dimensions of 1 until all have the same rank.
    pub(super) fn same_rank(&mut self, inputs: &[OutletId]) -> TractResult<Vec<OutletId>> {
        let rank = inputs.iter().map(|&input| self.rank(input)).max().unwrap_or(0);
        inputs
            .iter()
            .map(|&input| {
                (self.rank(input)..rank)
                    .try_fold(input, |input, _| self.wire(AxisOp::Add(0), &[input]))
            })
            .collect()
    }

    /// A function of two operands, which take the wider one's type.
    pub(super) fn binary(
        &mut self,
        function: impl BinMiniOp,
        a: OutletId,
        b: OutletId,
    ) -> TractResult<OutletId> {
        let (left, right) = (self.dtype(a), self.dtype(b));
        let dtype = left
            .common_super_type(right)
            .with_context(|| format!("{left:?} and {right:?} have no common type"))?;
        let (a, b) = (self.cast(a, dtype)?, self.cast(b, dtype)?);
        let operands = self.same_rank(&[a, b])?;
        self.wire(TypedBinOp(Box::new(function), None), &operands)
    }

    /// `a + b`.
    pub(super) fn add(&mut self, a: OutletId, b: OutletId) -> TractResult<OutletId> {
        self.binary(math::Add, a, b)
    }

    /// `a - b`.
    pub(super) fn sub(&mut self, a: OutletId, b: OutletId) -> TractResult<OutletId> {
        self.binary(math::Sub, a, b)
    }

    /// `a * b`.
    pub(super) fn mul(&mut self, a: OutletId, b: OutletId) -> TractResult<OutletId> {
        self.binary(math::Mul, a, b)
    }

    /// `a / b`.
    pub(super) fn div(&mut self, a: OutletId, b: OutletId) -> TractResult<OutletId> {
        self.binary(math::Div, a, b)
    }

    /// `a` to the power of `b`.
    pub(super) fn pow(&mut self, a: OutletId, b: OutletId) -> TractResult<OutletId> {
        self.binary(math::Pow, a, b)
    }

    /// The smaller one.
    pub(super) fn min(&mut self, a: OutletId, b: OutletId) -> TractResult<OutletId> {
        self.binary(math::Min, a, b)
    }

    /// The larger one.
    pub(super) fn max(&mut self, a: OutletId, b: OutletId) -> TractResult<OutletId> {
        self.binary(math::Max, a, b)
    }

    /// A function of one operand, as tract makes them: `math::exp()`.
    pub(super) fn unary(&mut self, function: ElementWiseOp, x: OutletId) -> TractResult<OutletId> {
        self.wire(function, &[x])
    }

    /// `a` where `condition` is true, else `b`.
    pub(super) fn select(
        &mut self,
        condition: OutletId,
        a: OutletId,
        b: OutletId,
    ) -> TractResult<OutletId> {
        let operands = self.same_rank(&[condition, a, b])?;
        self.wire(Iff, &operands)
    }

    /// Another element type.
    pub(super) fn cast(&mut self, x: OutletId, dtype: DatumType) -> TractResult<OutletId> {
        if self.dtype(x) == dtype { Ok(x) } else { self.wire(cast(dtype), &[x]) }
    }

    /// The same elements under another shape, which has as many.
    pub(super) fn reshape(&mut self, x: OutletId, shape: &[TDim]) -> TractResult<OutletId> {
        let from: TVec<TDim> = self.shape(x).into();
        let to: TVec<TDim> = shape.iter().cloned().collect();
        if from == to { Ok(x) } else { self.wire(AxisOp::Reshape(0, from, to), &[x]) }
    }

    /// A new dimension of 1 in front of `axis`.
    pub(super) fn unsqueeze(&mut self, x: OutletId, axis: usize) -> TractResult<OutletId> {
        self.wire(AxisOp::Add(axis), &[x])
    }

    /// Without the dimension of 1 at `axis`.
    pub(super) fn squeeze(&mut self, x: OutletId, axis: usize) -> TractResult<OutletId> {
        self.wire(AxisOp::Rm(axis), &[x])
    }

    /// Dimension `i` of the result is dimension `perm[i]` of `x`.
    pub(super) fn transpose(&mut self, x: OutletId, perm: &[usize]) -> TractResult<OutletId> {
        let mut order: Vec<usize> = (0..perm.len()).collect();
        let mut result = x;
        for (to, wanted) in perm.iter().enumerate() {
            let from =
                order.iter().position(|axis| axis == wanted).context("it is no permutation")?;
            if from != to {
                let moved = order.remove(from);
                order.insert(to, moved);
                result = self.wire(AxisOp::Move(from, to), &[result])?;
            }
        }
        Ok(result)
    }

    /// Elements `start..end` of an axis.
    pub(super) fn slice(
        &mut self,
        x: OutletId,
        axis: usize,
        start: impl ToDim,
        end: impl ToDim,
    ) -> TractResult<OutletId> {
        self.wire(Slice::new(axis, start, end), &[x])
    }

    /// Operands one after the other along an axis.
    pub(super) fn concat(&mut self, axis: usize, inputs: &[OutletId]) -> TractResult<OutletId> {
        if let [only] = inputs { Ok(*only) } else { self.wire(TypedConcat { axis }, inputs) }
    }

    /// Dimensions of 1 repeated, and leading ones added, until the shape is this one.
    pub(super) fn broadcast_to(&mut self, x: OutletId, shape: &[TDim]) -> TractResult<OutletId> {
        if self.shape(x) == shape {
            return Ok(x);
        }
        let shape = shape.iter().cloned().collect();
        self.wire(MultiBroadcastTo { shape }, &[x])
    }

    /// Matrix products over the last two dimensions. Source: NumPy, `matmul`.
    pub(super) fn matmul(&mut self, a: OutletId, b: OutletId) -> TractResult<OutletId> {
        let (vector_a, vector_b) = (self.rank(a) == 1, self.rank(b) == 1);
        let a = if vector_a { self.unsqueeze(a, 0)? } else { a };
        let b = if vector_b { self.unsqueeze(b, 1)? } else { b };
        let operands = self.same_rank(&[a, b])?;
        let rank = self.rank(operands[0]);
        let leading: String = ('a'..='h').take(rank - 2).collect();
        let axes = format!("{leading}mk,{leading}kn->{leading}mn").parse()?;
        let dtype = self.dtype(operands[0]);
        let product = self.wire(EinSum::new(axes, dtype), &operands)?;
        let product = if vector_b { self.squeeze(product, rank - 1)? } else { product };
        if vector_a { self.squeeze(product, rank - 2) } else { Ok(product) }
    }

    /// Elements combined over `axes`, which stay as 1 when `keep`.
    pub(super) fn reduce(
        &mut self,
        reducer: Reducer,
        x: OutletId,
        axes: &[usize],
        keep: bool,
    ) -> TractResult<OutletId> {
        let mut sorted: TVec<usize> = axes.iter().copied().collect();
        sorted.sort_unstable();
        let reduced = self.wire(Reduce { axes: sorted.clone(), reducer }, &[x])?;
        if keep {
            return Ok(reduced);
        }
        sorted.iter().rev().try_fold(reduced, |reduced, &axis| self.squeeze(reduced, axis))
    }

    /// The arithmetic mean over `axes`, which stay as 1.
    pub(super) fn mean(&mut self, x: OutletId, axes: &[usize]) -> TractResult<OutletId> {
        let sum = self.reduce(Reducer::Sum, x, axes, true)?;
        let count: TDim = axes.iter().map(|&axis| self.shape(x)[axis].clone()).product();
        let count = self.dimension(count, self.dtype(x))?;
        self.div(sum, count)
    }

    /// A number known from shapes as an operand of rank 0.
    pub(super) fn dimension(&mut self, dim: TDim, dtype: DatumType) -> TractResult<OutletId> {
        let outlet = self.tensor(tract_onnx::prelude::Tensor::from(dim))?;
        self.cast(outlet, dtype)
    }

    /// `exp(x) / sum(exp(x))` over `axes`.
    pub(super) fn softmax(&mut self, x: OutletId, axes: &[usize]) -> TractResult<OutletId> {
        let axes = axes.iter().copied().collect();
        self.wire(Softmax { axes, quant_output_dt: None, kind: SoftmaxKind::Softmax }, &[x])
    }

    /// `x - ln(sum(exp(x)))` over `axes`, with the largest element taken away first.
    pub(super) fn log_softmax(&mut self, x: OutletId, axes: &[usize]) -> TractResult<OutletId> {
        let largest = self.reduce(Reducer::Max, x, axes, true)?;
        let shifted = self.sub(x, largest)?;
        let weights = self.unary(math::exp(), shifted)?;
        let total = self.reduce(Reducer::Sum, weights, axes, true)?;
        let total = self.unary(math::ln(), total)?;
        self.sub(shifted, total)
    }

    /// Slices of `data` along an axis, picked by index.
    pub(super) fn gather(
        &mut self,
        axis: usize,
        data: OutletId,
        indices: OutletId,
    ) -> TractResult<OutletId> {
        let indices = self.cast(indices, i64::datum_type())?;
        self.wire(Gather::new(axis), &[data, indices])
    }
}
