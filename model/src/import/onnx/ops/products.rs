//! Products of matrices.

use tract_onnx::prelude::{OutletId, TractResult};

use crate::import::onnx::wiring::{Wire, Wiring};

pub(super) const OPERATORS: &[(&str, Wire)] = &[("MatMul", matmul)];

fn matmul(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (a, b) = (w.input(0)?, w.input(1)?);
    Ok(vec![w.matmul(a, b)?])
}
