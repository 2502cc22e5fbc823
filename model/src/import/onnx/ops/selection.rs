//! Operators that pick elements by index, put them there, or go along a dimension.

use tract_onnx::{
    prelude::{DatumType, OutletId, TDim, TractResult, tensor0, tensor1},
    tract_hir::internal::{
        ToDim as _, TractErrorContext as _, bail,
        tract_core::ops::{
            array::{Range, ScatterElements, ScatterReduction},
            logic::{CompEq, CompGTE, CompLT},
        },
    },
};

use crate::import::onnx::wiring::{Wire, Wiring};
use flotilla_program::{Cumulative, Op};

pub(super) const OPERATORS: &[(&str, Wire)] =
    &[("CumProd", cumulative_product), ("OneHot", one_hot), ("TensorScatter", tensor_scatter)];

fn cumulative_product(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let axis = *w.known_i64s(1)?.first().context("its axis is empty")?;
    let flag = |w: &Wiring<'_, '_>, name: &str| -> TractResult<bool> {
        Ok(w.node.get_attr_opt::<i64>(name)?.unwrap_or(0) != 0)
    };
    let op = Cumulative {
        axis: w.axis(axis, w.rank(x))? as u32,
        product: true,
        exclusive: flag(w, "exclusive")?,
        reverse: flag(w, "reverse")?,
    };
    let (dtype, shape) = (w.dtype(x), w.shape(x));
    Ok(vec![w.program_op(Op::Cumulative(op), &[x], dtype, shape)?])
}

/// 0, 1, .. as `I64`.
fn positions(w: &mut Wiring<'_, '_>, count: &TDim) -> TractResult<OutletId> {
    if let Ok(count) = count.to_i64() {
        return w.tensor(tensor1(&(0..count).collect::<Vec<i64>>()));
    }
    let start = w.tensor(tensor0(0.to_dim()))?;
    let end = w.tensor(tensor0(count.clone()))?;
    let step = w.tensor(tensor0(1.to_dim()))?;
    let range = w.wire(Range::new(count.clone()), &[start, end, step])?;
    w.cast(range, DatumType::I64)
}

/// Puts a value for every other position in the place of one dimension of a shape of ones.
fn along(w: &mut Wiring<'_, '_>, x: OutletId, axis: usize, rank: usize) -> TractResult<OutletId> {
    let mut shape = vec![1.to_dim(); rank];
    shape[axis] = w.shape(x)[0].clone();
    w.reshape(x, &shape)
}

/// Indices outside of the depth, counted from either end, give a row of "off".
fn one_hot(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (indices, values) = (w.input(0)?, w.input(2)?);
    let depth = w.known_dims(1)?.first().context("its depth is empty")?.clone();
    let rank = w.rank(indices) + 1;
    let axis = w.axis(w.node.get_attr_opt::<i64>("axis")?.unwrap_or(-1), rank)?;
    let indices = w.cast(indices, DatumType::I64)?;
    let zero = w.tensor(tensor0(0i64))?;
    let negative = w.binary(CompLT, indices, zero)?;
    let count = w.dimension(depth.clone(), DatumType::I64)?;
    let from_end = w.add(indices, count)?;
    let indices = w.select(negative, from_end, indices)?;
    let indices = w.unsqueeze(indices, axis)?;
    let positions = positions(w, &depth)?;
    let positions = along(w, positions, axis, rank)?;
    let is_on = w.binary(CompEq, indices, positions)?;
    let off = w.slice(values, 0, 0, 1)?;
    let on = w.slice(values, 0, 1, 2)?;
    let (off, on) = (w.reshape(off, &[])?, w.reshape(on, &[])?);
    Ok(vec![w.select(is_on, on, off)?])
}

/// Writes a run of positions into a cache, each row of the batch from its own start.
fn tensor_scatter(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (cache, update) = (w.input(0)?, w.input(1)?);
    let rank = w.rank(cache);
    let axis = w.axis(w.node.get_attr_opt::<i64>("axis")?.unwrap_or(-2), rank)?;
    let circular = match w.text("mode")?.unwrap_or("linear") {
        "linear" => false,
        "circular" => true,
        other => bail!("mode {other:?} is not known"),
    };
    let shape = w.shape(update);
    let steps = positions(w, &shape[axis])?;
    let mut places = along(w, steps, axis, rank)?;
    if let Some(starts) = w.optional(2) {
        let starts = w.cast(starts, DatumType::I64)?;
        let starts = along(w, starts, 0, rank)?;
        places = w.add(places, starts)?;
    }
    if circular {
        let size = w.dimension(w.shape(cache)[axis].clone(), DatumType::I64)?;
        let over = w.binary(CompGTE, places, size)?;
        let around = w.sub(places, size)?;
        places = w.select(over, around, places)?;
    }
    let same_rank = w.same_rank(&[places, update])?[0];
    let places = w.broadcast_to(same_rank, &shape)?;
    let scatter = ScatterElements { axis, reduction: ScatterReduction::None };
    Ok(vec![w.wire(scatter, &[cache, places, update])?])
}
