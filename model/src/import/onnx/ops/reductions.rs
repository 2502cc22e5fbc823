//! Logarithms of sums of exponentials, which tract's wiring lets overflow.

use tract_onnx::{
    prelude::{DatumType, OutletId, TractResult},
    tract_hir::internal::tract_core::ops::{math, nn::Reducer},
};

use crate::import::onnx::wiring::{Wire, Wiring};

pub(super) const OPERATORS: &[(&str, Wire)] =
    &[("LogSoftmax", log_softmax), ("ReduceLogSumExp", log_sum_exp)];

/// Before version 13 all dimensions from the axis on counted as one.
fn log_softmax(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let (rank, old) = (w.rank(x), w.opset < 13);
    let axis = w.node.get_attr_opt::<i64>("axis")?.unwrap_or(if old { 1 } else { -1 });
    let axis = w.axis(axis, rank)?;
    let axes: Vec<usize> = if old { (axis..rank).collect() } else { vec![axis] };
    Ok(vec![w.log_softmax(x, &axes)?])
}

/// The axes of a reduction: an attribute, or since version 18 an operand.
fn axes(w: &Wiring<'_, '_>, x: OutletId) -> TractResult<Vec<usize>> {
    let rank = w.rank(x);
    let given = match w.optional(1) {
        Some(_) => w.known_i64s(1)?,
        None => w.node.get_attr_opt_vec::<i64>("axes")?.unwrap_or_default(),
    };
    let stays = w.node.get_attr_opt::<i64>("noop_with_empty_axes")?.unwrap_or(0) != 0;
    if given.is_empty() {
        return Ok(if stays { Vec::new() } else { (0..rank).collect() });
    }
    given.into_iter().map(|axis| w.axis(axis, rank)).collect()
}

/// The largest element is taken away before the exponentials; it is kept finite, so that of nothing but infinities, and of
/// nothing at all, the logarithm of 0 remains.
fn log_sum_exp(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let axes = axes(w, x)?;
    let keep = w.node.get_attr_opt::<i64>("keepdims")?.unwrap_or(1) != 0;
    if axes.is_empty() {
        return Ok(vec![x]);
    }
    let dtype = w.dtype(x);
    let bound = if dtype == DatumType::F16 { 65504.0 } else { f64::from(f32::MAX) };
    let (lowest, highest) = (w.scalar(dtype, -bound)?, w.scalar(dtype, bound)?);
    let largest = w.reduce(Reducer::Max, x, &axes, true)?;
    let largest = w.max(largest, lowest)?;
    let largest = w.min(largest, highest)?;
    let shifted = w.sub(x, largest)?;
    let weights = w.unary(math::exp(), shifted)?;
    let total = w.reduce(Reducer::Sum, weights, &axes, true)?;
    let total = w.unary(math::ln(), total)?;
    let mut result = w.add(total, largest)?;
    if !keep {
        let mut sorted = axes;
        sorted.sort_unstable();
        for &axis in sorted.iter().rev() {
            result = w.squeeze(result, axis)?;
        }
    }
    Ok(vec![result])
}
