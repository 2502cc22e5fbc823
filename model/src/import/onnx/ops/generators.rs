//! Operators that make numbers of positions.

use tract_onnx::{
    pb::tensor_proto::DataType,
    prelude::{DatumType, OutletId, TDim, Tensor, TractResult},
    tract_hir::internal::{DimLike as _, ToDim, bail, tract_core::ops::array::Range as TypedRange},
};

use crate::import::onnx::wiring::{Wire, Wiring};
use flotilla_program::{Op, Range, dim::Dim};

pub(super) const OPERATORS: &[(&str, Wire)] = &[("EyeLike", eye_like), ("Range", range)];

/// Most numbers of a range of floats.
const COUNT_MAX: f64 = (1u64 << 31) as f64;

/// `start, start + delta, ..` below `limit`. One of integers stays known, because shapes are made of them.
fn range(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let dtype = w.dtype(w.input(0)?);
    if dtype.is_float() {
        return Ok(vec![range_of_floats(w, dtype)?]);
    }
    let one = |index: usize| match w.known_dims(index)?.as_slice() {
        [dim] => Ok(dim.clone()),
        dims => bail!("operand {index} is {dims:?}, one number is needed"),
    };
    let (start, limit, delta) = (one(0)?, one(1)?, one(2)?);
    let Ok(delta) = delta.to_i64() else { bail!("a range in steps of {delta}") };
    if delta == 0 {
        bail!("a range in steps of 0");
    }
    let way = if delta > 0 { limit.clone() - &start } else { start.clone() - &limit };
    if way.as_i64().is_some_and(|way| way <= 0) {
        return Ok(vec![w.tensor(Tensor::zero_dt(dtype, &[0])?)?]);
    }
    let count = way.divceil(usize::try_from(delta.unsigned_abs())?);
    let operands = [start, limit, delta.to_dim()].map(|dim| w.tensor(Tensor::from(dim)));
    let operands = operands.into_iter().collect::<TractResult<Vec<_>>>()?;
    let numbers = w.wire(TypedRange::new(count), &operands)?;
    Ok(vec![w.cast(numbers, dtype)?])
}

fn range_of_floats(w: &mut Wiring<'_, '_>, dtype: DatumType) -> TractResult<OutletId> {
    let one = |index: usize| match w.known_f32s(index)?.as_slice() {
        &[value] => Ok(f64::from(value)),
        values => bail!("operand {index} is {values:?}, one number is needed"),
    };
    let (start, limit, delta) = (one(0)?, one(1)?, one(2)?);
    let count = ((limit - start) / delta).ceil().max(0.0);
    if !(0.0..COUNT_MAX).contains(&count) {
        bail!("a range from {start} to {limit} in steps of {delta}");
    }
    let numbers = positions(w, 0, (count as usize).to_dim())?;
    let numbers = w.cast(numbers, DatumType::F32)?;
    let (start, delta) = (w.scalar(DatumType::F32, start)?, w.scalar(DatumType::F32, delta)?);
    let numbers = w.mul(numbers, delta)?;
    let numbers = w.add(numbers, start)?;
    w.cast(numbers, dtype)
}

/// `start, start + 1, ..`, computed where they are used.
pub(super) fn positions(w: &mut Wiring<'_, '_>, start: i64, count: TDim) -> TractResult<OutletId> {
    let range = Range { start: Dim::Fixed(start), stride: Dim::Fixed(1) };
    w.program_op(Op::Range(range), &[], DatumType::I64, vec![count])
}

/// Ones on a diagonal, computed where they are used.
fn eye_like(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let shape = w.shape(x);
    let [rows, columns] = shape.as_slice() else {
        bail!("{} dimensions, a matrix has two", shape.len());
    };
    let diagonal = w.node.get_attr_opt::<i64>("k")?.unwrap_or(0);
    let dtype = match w.node.get_attr_opt::<i64>("dtype")? {
        Some(number) => DataType::try_from(i32::try_from(number)?)?.try_into()?,
        None => w.dtype(x),
    };
    let row = positions(w, diagonal, rows.clone())?;
    let column = positions(w, 0, columns.clone())?;
    let row = w.unsqueeze(row, 1)?;
    let ones = w.onnx("Equal", &[], &[Some(row), Some(column)])?[0];
    Ok(vec![w.cast(ones, dtype)?])
}
