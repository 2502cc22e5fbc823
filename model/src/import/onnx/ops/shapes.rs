//! Operators that give elements another shape.

use tract_onnx::prelude::{OutletId, TDim, TractResult};

use crate::import::onnx::wiring::{Wire, Wiring};

pub(super) const OPERATORS: &[(&str, Wire)] = &[("Flatten", flatten)];

/// Two dimensions: the product of those before `axis`, and that of the others.
fn flatten(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let shape = w.shape(x);
    let axis = w.node.get_attr_opt::<i64>("axis")?.unwrap_or(1);
    let axis = if axis < 0 { axis + shape.len() as i64 } else { axis };
    let axis = usize::try_from(axis)?.min(shape.len());
    let flat: [TDim; 2] = [shape[..axis].iter().product(), shape[axis..].iter().product()];
    Ok(vec![w.reshape(x, &flat)?])
}
