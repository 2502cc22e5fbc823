//! Operators that read or write elements by index.

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_program::{
    self as program, Binary, Combine, Op,
    dim::{Dim, ToDim as _},
};
use flotilla_tensor::DType;

use crate::import::onnx::{
    facts::Var,
    wiring::{SIZES, Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("Gather", gather),
    ("GatherElements", gather_elements),
    ("GatherND", gather_nd),
    ("OneHot", one_hot),
    ("Scatter", scatter_elements),
    ("ScatterElements", scatter_elements),
    ("ScatterND", scatter_nd),
    ("TensorScatter", tensor_scatter),
];

fn gather(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (data, indices) = (w.input(0)?, w.input(1)?);
    let axis = w.axis(w.int("axis")?.unwrap_or(0), w.rank(data))?;
    Ok(vec![w.gather(axis, data, indices)?])
}

/// If the data are one row, or repeat one row, a plain gather is used.
fn gather_elements(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (data, indices) = (w.input(0)?, w.input(1)?);
    let (dtype, rank) = (w.dtype(data), w.rank(data));
    let axis = w.axis(w.int("axis")?.unwrap_or(0), rank)?;
    let shape = w.shape(indices);
    ensure!(shape.len() == rank, "data of {rank} and indices of {} dimensions", shape.len());
    let indices = w.index(indices)?;
    let row = w.walk.before_broadcast(data).unwrap_or(data);
    let of_row = w.shape(row);
    let one_row = of_row.len() == rank
        && of_row[axis].as_fixed() != Some(1)
        && (0..rank).all(|other| other == axis || of_row[other].as_fixed() == Some(1));
    if one_row && w.constant(indices).is_none() {
        let row = w.reshape(row, &of_row[axis..=axis])?;
        let gather = Op::Gather(program::Gather::new(0));
        return Ok(vec![w.op(gather, &[row, indices], dtype, shape)?]);
    }
    let gather = Op::GatherElements(program::GatherElements { axis: axis as u32 });
    Ok(vec![w.op(gather, &[data, indices], dtype, shape)?])
}

fn gather_nd(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (data, indices) = (w.input(0)?, w.input(1)?);
    let batch = usize::try_from(w.int("batch_dims")?.unwrap_or(0))?;
    let (from, places) = (w.shape(data), w.shape(indices));
    let (depth, outer) = places.split_last().context("indices have no dimension")?;
    let depth = w.number(depth)?;
    ensure!(
        batch <= outer.len() && batch + depth <= from.len(),
        "{depth} indices behind {batch} dimensions of {}",
        from.len()
    );
    let mut shape = outer.to_vec();
    for (axis, dim) in shape.iter_mut().enumerate().take(batch) {
        *dim = w.same("the leading dimensions of data and indices", &from[axis], dim)?;
    }
    shape.extend_from_slice(&from[batch + depth..]);
    let indices = w.index(indices)?;
    let gather = Op::GatherNd(program::GatherNd { batch_dims: batch as u32 });
    Ok(vec![w.op(gather, &[data, indices], w.dtype(data), shape)?])
}

/// How an update is combined with the element in its place.
fn combine(w: &Wiring<'_, '_>) -> Result<Combine> {
    Ok(match w.text("reduction")?.unwrap_or("none") {
        "none" => Combine::Replace,
        "add" => Combine::Add,
        "mul" => Combine::Multiply,
        "min" => Combine::Min,
        "max" => Combine::Max,
        other => bail!("reduction {other:?} is not known"),
    })
}

fn scatter_elements(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (data, indices, updates) = (w.input(0)?, w.input(1)?, w.input(2)?);
    let axis = w.axis(w.int("axis")?.unwrap_or(0), w.rank(data))?;
    let scatter = program::ScatterElements { axis: axis as u32, combine: combine(w)? };
    let indices = w.index(indices)?;
    let inputs = [data, indices, updates];
    Ok(vec![w.op(Op::ScatterElements(scatter), &inputs, w.dtype(data), w.shape(data))?])
}

fn scatter_nd(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (data, indices, updates) = (w.input(0)?, w.input(1)?, w.input(2)?);
    let scatter = program::ScatterNd { combine: combine(w)? };
    let indices = w.index(indices)?;
    let inputs = [data, indices, updates];
    Ok(vec![w.op(Op::ScatterNd(scatter), &inputs, w.dtype(data), w.shape(data))?])
}

/// Puts the elements of `x` along `axis` of a shape whose other dimensions are 1.
fn along(w: &mut Wiring<'_, '_>, x: Var, axis: usize, rank: usize) -> Result<Var> {
    let mut shape = vec![1.to_dim(); rank];
    shape[axis] = w.dim(x, 0);
    w.reshape(x, &shape)
}

/// Indices outside of the depth, counted from either end, give a row of "off".
fn one_hot(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (indices, values) = (w.input(0)?, w.input(2)?);
    let depth = match w.constant(w.input(1)?).map(|depth| depth.floats()) {
        // Some files have it as a float.
        Some(depth) => Dim::Fixed(*depth.first().context("its depth is empty")? as i64),
        None => {
            let depth = w.input(1)?;
            let depth = w.cast(depth, DType::I64)?;
            let name = format!("{}.depth", w.name);
            let mut elements = w.walk.elements(depth, &name, SIZES)?;
            elements.pop().context("its depth is empty")?
        }
    };
    let rank = w.rank(indices) + 1;
    let axis = w.axis(w.int("axis")?.unwrap_or(-1), rank)?;
    let indices = w.cast(indices, DType::I64)?;
    let zero = w.integer(0);
    let negative = w.binary(Binary::Lt, indices, zero)?;
    let count = w.dimension(depth.clone(), DType::I64)?;
    let from_end = w.add(indices, count)?;
    let indices = w.select(negative, from_end, indices)?;
    let indices = w.unsqueeze(indices, axis)?;
    let positions = w.positions(&depth)?;
    let positions = along(w, positions, axis, rank)?;
    let is_on = w.binary(Binary::Eq, indices, positions)?;
    let off = w.slice(values, 0, 0, 1)?;
    let on = w.slice(values, 0, 1, 2)?;
    let (off, on) = (w.reshape(off, &[])?, w.reshape(on, &[])?);
    Ok(vec![w.select(is_on, on, off)?])
}

/// Writes consecutive positions into a cache, each row of the batch from its own start.
fn tensor_scatter(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (cache, update) = (w.input(0)?, w.input(1)?);
    let rank = w.rank(cache);
    let axis = w.axis(w.int("axis")?.unwrap_or(-2), rank)?;
    let circular = match w.text("mode")?.unwrap_or("linear") {
        "linear" => false,
        "circular" => true,
        other => bail!("mode {other:?} is not known"),
    };
    let shape = w.shape(update);
    let steps = w.positions(&shape[axis])?;
    let mut places = along(w, steps, axis, rank)?;
    if let Some(starts) = w.optional(2) {
        let starts = w.cast(starts, DType::I64)?;
        let starts = along(w, starts, 0, rank)?;
        places = w.add(places, starts)?;
    }
    if circular {
        let size = w.dimension(w.dim(cache, axis), DType::I64)?;
        let over = w.binary(Binary::Ge, places, size)?;
        let around = w.sub(places, size)?;
        places = w.select(over, around, places)?;
    }
    let places = w.broadcast_to(places, &shape)?;
    let places = w.index(places)?;
    let scatter = program::ScatterElements { axis: axis as u32, combine: Combine::Replace };
    let inputs = [cache, places, update];
    Ok(vec![w.op(Op::ScatterElements(scatter), &inputs, w.dtype(cache), w.shape(cache))?])
}
