//! Operators on single elements that are about their types.

use tract_onnx::{
    pb::tensor_proto::DataType,
    prelude::{DatumType, OutletId, TractResult},
    tract_hir::internal::bail,
};

use crate::{
    import::onnx::wiring::{Wire, Wiring},
    lower::element_type,
    program::{DType, Expr, Op, Step},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[("BitCast", bit_cast), ("Pow", pow)];

/// The same bits under another type of the same width.
fn bit_cast(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let to: DatumType = DataType::try_from(w.node.get_attr::<i32>("to")?)?.try_into()?;
    let from = w.dtype(x);
    let (Some(source), Some(target)) = (element_type(from), element_type(to)) else {
        bail!("bits of {from:?} cannot be read as {to:?}");
    };
    if source == target {
        return Ok(vec![x]);
    }
    let whole = |dtype: DType| !dtype.is_float() && dtype != DType::Bool;
    let step = match (source.wire_bytes(), target.wire_bytes()) {
        (4, 4) if target != DType::Bool => Step::Bits(target, 0),
        // Of integers of the same width a page has the same bits in another word, and a flag is 0 or 1.
        (a, b) if a == b && whole(target) && !source.is_float() => Step::Cast(target, 0),
        _ => bail!("bits of {from:?} cannot be read as {to:?}"),
    };
    let expr = Expr { steps: vec![Step::Input(0), step] };
    let shape = w.shape(x);
    Ok(vec![w.program_op(Op::Elementwise(expr), &[x], to, shape)?])
}

/// The base decides the result's type; the power is computed in floats if either operand is one.
fn pow(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (base, exponent) = (w.input(0)?, w.input(1)?);
    let (dtype, other) = (w.dtype(base), w.dtype(exponent));
    let common = match (dtype.is_float(), other.is_float()) {
        (true, true) if dtype != other => DatumType::F32,
        (true, _) | (false, false) => dtype,
        (false, true) => DatumType::F32,
    };
    let (base, exponent) = (w.cast(base, common)?, w.cast(exponent, common)?);
    let power = w.pow(base, exponent)?;
    Ok(vec![w.cast(power, dtype)?])
}
