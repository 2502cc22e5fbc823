//! Operators with graphs inside. What they do is decided when the model is loaded, so a graph is wired in its place.

use tract_onnx::{
    prelude::{OutletId, TractResult},
    tract_hir::internal::TractErrorContext as _,
};

use crate::import::onnx::wiring::{Wire, Wiring};

pub(super) const OPERATORS: &[(&str, Wire)] = &[("If", if_)];

fn if_(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let condition = w.input(0)?;
    let condition = w.constant(condition).context("its condition is only known when it runs")?;
    let condition = condition.cast_to_scalar::<bool>()?;
    w.subgraph(if condition { "then_branch" } else { "else_branch" }, &[], 0)
}
