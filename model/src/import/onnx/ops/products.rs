//! Products of matrices.

use tract_onnx::{
    prelude::{OutletId, TractResult},
    tract_hir::internal::tract_core::ops::einsum::EinSum,
};

use crate::import::onnx::wiring::{Wire, Wiring};

pub(super) const OPERATORS: &[(&str, Wire)] = &[("Gemm", gemm), ("MatMul", matmul)];

fn matmul(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (a, b) = (w.input(0)?, w.input(1)?);
    Ok(vec![w.matmul(a, b)?])
}

/// `alpha * a @ b + beta * c`, either of `a` and `b` transposed. A factor of 1 is left out: integers have none but that.
fn gemm(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (a, b, dtype) = (w.input(0)?, w.input(1)?, w.dtype(w.input(0)?));
    let flag = |w: &Wiring<'_, '_>, name: &str| -> TractResult<bool> {
        Ok(w.node.get_attr_opt::<i64>(name)?.unwrap_or(0) != 0)
    };
    let left = if flag(w, "transA")? { "km" } else { "mk" };
    let right = if flag(w, "transB")? { "nk" } else { "kn" };
    let formula = format!("{left},{right}->mn").parse()?;
    let product = w.wire(EinSum::new(formula, dtype), &[a, b])?;
    let scaled = |w: &mut Wiring<'_, '_>, x: OutletId, name: &str| -> TractResult<OutletId> {
        let factor = w.node.get_attr_opt::<f32>(name)?.unwrap_or(1.0);
        if factor == 1.0 {
            return Ok(x);
        }
        let factor = w.scalar(dtype, f64::from(factor))?;
        w.mul(x, factor)
    };
    let product = scaled(w, product, "alpha")?;
    let Some(addend) = w.optional(2) else { return Ok(vec![product]) };
    let addend = scaled(w, addend, "beta")?;
    Ok(vec![w.add(product, addend)?])
}
