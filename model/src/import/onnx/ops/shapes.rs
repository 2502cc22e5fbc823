//! Operators that give elements another shape.

use tract_onnx::prelude::{DatumType, OutletId, TDim, TractResult};

use crate::import::onnx::{
    library,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] =
    &[("ConstantOfShape", constant_of_shape), ("Flatten", flatten)];

/// One value everywhere. Where none is given it is a 0 of F32; tract's importer takes one of F64.
fn constant_of_shape(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    if w.node.attribute.iter().any(|attribute| attribute.name == "value") {
        return library::wire(w.walk, w.node, w.inputs, &w.name, w.opset);
    }
    let shape = w.known_dims(0)?;
    let zero = w.scalar(DatumType::F32, 0.0)?;
    Ok(vec![w.broadcast_to(zero, &shape)?])
}

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
