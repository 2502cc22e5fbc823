//! Rectifiers whose slope is an operand.

use tract_onnx::{
    prelude::{OutletId, TDim, TractResult},
    tract_hir::internal::{
        ToDim,
        tract_core::ops::{binary::TypedBinOp, logic::comp_gt},
    },
};

use crate::import::onnx::wiring::{Wire, Wiring};

pub(super) const OPERATORS: &[(&str, Wire)] = &[("PRelu", prelu)];

/// `x`, times the slope where it is negative. Before operator set 7 a slope had one element per channel.
fn prelu(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (x, mut slope) = (w.input(0)?, w.input(1)?);
    let rank = w.rank(x);
    if w.opset < 7 && w.rank(slope) == 1 && rank > 2 {
        let mut shape: Vec<TDim> = vec![1.to_dim(); rank - 1];
        shape[0] = w.shape(slope)[0].clone();
        slope = w.reshape(slope, &shape)?;
    }
    let zero = w.scalar(w.dtype(x), 0.0)?;
    let operands = w.same_rank(&[zero, x])?;
    let negative = w.wire(TypedBinOp(comp_gt(), None), &operands)?;
    let scaled = w.mul(x, slope)?;
    Ok(vec![w.select(negative, scaled, x)?])
}
