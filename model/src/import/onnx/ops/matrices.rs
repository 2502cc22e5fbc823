//! Operators on the last two dimensions.

use tract_onnx::{
    prelude::{DatumType, OutletId, TDim, Tensor, TractResult},
    tract_hir::internal::{
        DimLike as _, ToDim, bail,
        tract_core::ops::{array::Range as TypedRange, nn::Reducer},
    },
};

use crate::import::onnx::wiring::{Wire, Wiring};
use flotilla_program::Op;

pub(super) const OPERATORS: &[(&str, Wire)] = &[("Det", det), ("Trilu", trilu)];

/// The product of the diagonal, once a matrix is triangular.
fn det(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let shape = w.shape(x);
    let [outer @ .., rows, columns] = shape.as_slice() else {
        bail!("there is no matrix");
    };
    let Ok(size) = rows.to_usize() else { bail!("{rows} rows must be a number") };
    if rows != columns {
        bail!("{rows} rows and {columns} columns are no square");
    }
    let dtype = w.dtype(x);
    let matrix = w.cast(x, DatumType::F32)?;
    let triangle = w.program_op(Op::Triangular, &[matrix], DatumType::F32, shape.clone())?;
    let flat: Vec<TDim> = outer.iter().cloned().chain([(size * size).to_dim()]).collect();
    let triangle = w.reshape(triangle, &flat)?;
    let diagonal: Vec<i64> = (0..size).map(|row| (row * (size + 1)) as i64).collect();
    let diagonal = w.tensor(Tensor::from_shape(&[size], &diagonal)?)?;
    let diagonal = w.gather(outer.len(), triangle, diagonal)?;
    let product = w.reduce(Reducer::Prod, diagonal, &[outer.len()], false)?;
    Ok(vec![w.cast(product, dtype)?])
}

/// The numbers of the rows and of the columns of a matrix, as operands that broadcast against it.
fn places(w: &mut Wiring<'_, '_>, rows: &TDim, columns: &TDim) -> TractResult<[OutletId; 2]> {
    let mut numbers = |count: &TDim, axis: usize| {
        let start = w.tensor(Tensor::from(0.to_dim()))?;
        let end = w.tensor(Tensor::from(count.clone()))?;
        let step = w.tensor(Tensor::from(1.to_dim()))?;
        let numbers = w.wire(TypedRange::new(count.clone()), &[start, end, step])?;
        w.unsqueeze(numbers, axis)
    };
    Ok([numbers(rows, 1)?, numbers(columns, 0)?])
}

/// Elements on one side of a diagonal; zeros on the other.
fn trilu(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let shape = w.shape(x);
    let [.., rows, columns] = shape.as_slice() else {
        bail!("there is no matrix");
    };
    let diagonal = match w.optional(1) {
        Some(_) => w.known_i64s(1)?.first().copied().unwrap_or(0),
        None => 0,
    };
    let upper = w.node.get_attr_opt::<i64>("upper")?.unwrap_or(1) != 0;
    let [row, column] = places(w, rows, columns)?;
    let diagonal = w.scalar(DatumType::I64, diagonal as f64)?;
    let limit = w.add(row, diagonal)?;
    let comparison = if upper { "GreaterOrEqual" } else { "LessOrEqual" };
    let kept = w.onnx(comparison, &[], &[Some(column), Some(limit)])?[0];
    let zero = Tensor::zero_scalar_dt(w.dtype(x))?;
    let zero = w.tensor(zero)?;
    Ok(vec![w.select(kept, x, zero)?])
}
