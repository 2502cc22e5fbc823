//! Operators whose data decide how many elements they give. They compute as many as there can be, and a count of those that
//! there are.

use tract_onnx::{
    prelude::{DatumType, OutletId, TDim, Tensor, TractResult},
    tract_hir::internal::{DimLike as _, ToDim, bail, tract_core::ops::nn::Reducer},
};

use super::generators::positions;
use crate::import::onnx::wiring::{Wire, Wiring};
use flotilla_program::{Op, Suppress};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("Compress", compress),
    ("NonMaxSuppression", non_max_suppression),
    ("NonZero", non_zero),
    ("Unique", unique),
];

/// Places of what a mask is true for.
struct Places {
    /// Their number.
    count: OutletId,
    /// One after the other, then numbers beyond the last place.
    all: OutletId,
    /// The running number of the mask's true elements.
    sums: OutletId,
}

/// Counts the elements of a mask `[n]`.
fn places(w: &mut Wiring<'_, '_>, mask: OutletId) -> TractResult<Places> {
    let size = w.shape(mask);
    let ones = w.cast(mask, DatumType::I32)?;
    let axis = w.scalar(DatumType::I32, 0.0)?;
    let sums = w.onnx("CumSum", &[], &[Some(ones), Some(axis)])?[0];
    let count = w.reduce(Reducer::Sum, ones, &[0], true)?;
    let all = w.program_op(Op::FirstAbove, &[sums], DatumType::I64, size)?;
    Ok(Places { count, all, sums })
}

/// Places that may be beyond the last one, as places that are there.
fn within(w: &mut Wiring<'_, '_>, places: OutletId, size: &TDim) -> TractResult<OutletId> {
    let last = w.dimension(size.clone() - 1, DatumType::I64)?;
    w.min(places, last)
}

/// Indices, one for each of `sizes`, of places in row-major order: `[sizes, n]`.
fn unraveled(w: &mut Wiring<'_, '_>, places: OutletId, sizes: &[TDim]) -> TractResult<OutletId> {
    let mut rest = places;
    let mut indices = Vec::new();
    for size in sizes.iter().rev() {
        let size = w.dimension(size.clone(), DatumType::I64)?;
        let quotient = w.div(rest, size)?;
        let whole = w.mul(quotient, size)?;
        let index = w.sub(rest, whole)?;
        indices.insert(0, w.unsqueeze(index, 0)?);
        rest = quotient;
    }
    w.concat(0, &indices)
}

/// Elements of an axis, or of all, whose condition is true.
fn compress(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (mut x, condition) = (w.input(0)?, w.input(1)?);
    let axis = match w.node.get_attr_opt::<i64>("axis")? {
        Some(axis) => w.axis(axis, w.rank(x))?,
        None => {
            let elements: TDim = w.shape(x).iter().product();
            x = w.reshape(x, &[elements])?;
            0
        }
    };
    if w.constant(condition).is_some() {
        let conditions = w.known_i64s(1)?;
        let kept = (0..conditions.len()).filter(|&index| conditions[index] != 0);
        let kept: Vec<i64> = kept.map(|index| index as i64).collect();
        let kept = w.tensor(Tensor::from_shape(&[kept.len()], &kept)?)?;
        return Ok(vec![w.gather(axis, x, kept)?]);
    }
    // There may be fewer conditions than elements; what has none is left out.
    let [size] = w.shape(condition).try_into().or_else(|shape: Vec<TDim>| {
        bail!("conditions have one dimension, {} are given", shape.len())
    })?;
    let Places { count, all, .. } = places(w, condition)?;
    let all = within(w, all, &size)?;
    let picked = w.gather(axis, x, all)?;
    let symbol = w.count_symbol();
    let mut cut = w.shape(picked);
    cut[axis] = TDim::Sym(symbol.clone());
    Ok(vec![w.cut(picked, count, &symbol, &size, cut)?])
}

/// Indices of the elements that are not 0: `[rank, count]`.
fn non_zero(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let shape = w.shape(x);
    let size: TDim = shape.iter().product();
    let flat = w.reshape(x, std::slice::from_ref(&size))?;
    let mask = w.cast(flat, DatumType::Bool)?;
    let Places { count, all, .. } = places(w, mask)?;
    let symbol = w.count_symbol();
    let rank = shape.len().to_dim();
    let indices = if shape.is_empty() {
        w.tensor(Tensor::zero::<i64>(&[0, 1])?)?
    } else {
        unraveled(w, all, &shape)?
    };
    let cut = vec![rank, TDim::Sym(symbol.clone())];
    Ok(vec![w.cut(indices, count, &symbol, &size, cut)?])
}

/// The best boxes of each class that do not overlap better ones: `[count, 3]`, image, class and box.
fn non_max_suppression(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (boxes, scores) = (w.input(0)?, w.input(1)?);
    let [images, classes, count] = w.shape(scores).try_into().or_else(|shape: Vec<TDim>| {
        bail!("scores have three dimensions, {} are given", shape.len())
    })?;
    let number = |index: usize| -> TractResult<Option<f32>> {
        match w.optional(index) {
            Some(_) => Ok(w.known_f32s(index)?.first().copied()),
            None => Ok(None),
        }
    };
    let slots = match w.optional(2) {
        Some(_) => w.known_i64s(2)?.first().copied().unwrap_or(0).max(0),
        None => 0,
    };
    let (overlap_max, score_min) = (number(3)?.unwrap_or(0.0), number(4)?);
    let centres = w.node.get_attr_opt::<i64>("center_point_box")?.unwrap_or(0) != 0;
    let slots = match count.to_i64() {
        Ok(count) => slots.min(count).to_dim(),
        Err(_) => slots.to_dim().mini(count.clone()),
    };
    let boxes = w.cast(boxes, DatumType::F32)?;
    let scores = w.cast(scores, DatumType::F32)?;
    let all = w.tensor(Tensor::from_shape(&[1], &[count.to_i64()?])?)?;
    let ranked = [("axis", -1)];
    let order = w.onnx_with_outputs("TopK", &ranked, &[Some(scores), Some(all)], 2)?[1];
    let suppress = Op::Suppress(Suppress { overlap_max, score_min, centres });
    let shape = vec![images.clone(), classes.clone(), slots.clone()];
    let selected =
        w.program_op(suppress, &[boxes, scores, order], DatumType::I64, shape.clone())?;
    let size: TDim = shape.iter().product();
    let selected = w.reshape(selected, std::slice::from_ref(&size))?;
    let none = w.scalar(DatumType::I64, -1.0)?;
    let mask = w.onnx("Greater", &[], &[Some(selected), Some(none)])?[0];
    let Places { count, all, .. } = places(w, mask)?;
    let all = within(w, all, &size)?;
    let picked = w.gather(0, selected, all)?;
    let picked = w.unsqueeze(picked, 1)?;
    let place = unraveled(w, all, &shape)?;
    let place = w.slice(place, 0, 0, 2)?;
    let place = w.transpose(place, &[1, 0])?;
    let rows = w.concat(1, &[place, picked])?;
    let symbol = w.count_symbol();
    let cut = vec![TDim::Sym(symbol.clone()), 3.to_dim()];
    Ok(vec![w.cut(rows, count, &symbol, &size, cut)?])
}

/// Each element, or slice of an axis, that occurs; where it occurs first, which one every element is, and how often it occurs.
fn unique(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let shape = w.shape(x);
    let axis = match w.node.get_attr_opt::<i64>("axis")? {
        Some(axis) => Some(w.axis(axis, shape.len())?),
        None => None,
    };
    let sorted = w.node.get_attr_opt::<i64>("sorted")?.unwrap_or(1) != 0;
    // Rows [n, m]: what is compared.
    let mut front: Vec<usize> = (0..shape.len()).collect();
    let (x, sizes): (OutletId, Vec<TDim>) = match axis {
        None => (x, vec![shape.iter().product()]),
        Some(axis) => {
            front.remove(axis);
            front.insert(0, axis);
            let x = w.transpose(x, &front)?;
            (x, front.iter().map(|&axis| shape[axis].clone()).collect())
        }
    };
    let size = sizes[0].clone();
    let rows = w.reshape(x, &[size.clone(), sizes[1..].iter().product()])?;
    let numbers = vec![size.clone()];
    let rank = w.program_op(Op::RowRanks, &[rows], DatumType::I64, numbers.clone())?;
    let order = inverse(w, rank, &size)?;
    let ordered = w.gather(0, rows, order)?;
    // A row that differs from the one before it starts a group.
    let at = positions(w, 0, size.clone())?;
    let one = w.scalar(DatumType::I64, 1.0)?;
    let zero = w.scalar(DatumType::I64, 0.0)?;
    let before = w.sub(at, one)?;
    let before = w.max(before, zero)?;
    let previous = w.gather(0, ordered, before)?;
    let same = w.onnx("Equal", &[], &[Some(ordered), Some(previous)])?[0];
    let same = w.cast(same, DatumType::I32)?;
    let same = w.reduce(Reducer::Min, same, &[1], false)?;
    let same = w.cast(same, DatumType::Bool)?;
    let first = w.onnx("Equal", &[], &[Some(at), Some(zero)])?[0];
    let differs = w.onnx("Not", &[], &[Some(same)])?[0];
    let starts = w.onnx("Or", &[], &[Some(first), Some(differs)])?[0];
    let Places { count, all: starts, sums } = places(w, starts)?;
    // The next group's start, or the end.
    let end = w.dimension(size.clone(), DatumType::I64)?;
    let end = w.unsqueeze(end, 0)?;
    let later = w.slice(starts, 0, 1, size.clone())?;
    let ends = w.concat(0, &[later, end])?;
    let mut counts = w.sub(ends, starts)?;
    let valid = w.onnx("Less", &[], &[Some(starts), Some(end)])?[0];
    let starts = within(w, starts, &size)?;
    let mut firsts = w.gather(0, order, starts)?;
    let mut values = w.gather(0, ordered, starts)?;
    let sums = w.cast(sums, DatumType::I64)?;
    let group = w.sub(sums, one)?;
    let mut groups = w.gather(0, group, rank)?;
    if !sorted {
        // Groups in the order of their first elements; those that are none come last.
        let key = w.select(valid, firsts, end)?;
        let key = w.unsqueeze(key, 1)?;
        let rank = w.program_op(Op::RowRanks, &[key], DatumType::I64, numbers)?;
        let order = inverse(w, rank, &size)?;
        firsts = w.gather(0, firsts, order)?;
        values = w.gather(0, values, order)?;
        counts = w.gather(0, counts, order)?;
        groups = w.gather(0, rank, groups)?;
    }
    let symbol = w.count_symbol();
    let length = TDim::Sym(symbol.clone());
    let values = w.reshape(values, &sizes)?;
    let shape = [std::slice::from_ref(&length), &sizes[1..]].concat();
    let mut values = w.cut(values, count, &symbol, &size, shape)?;
    if let Some(axis) = axis {
        let mut back: Vec<usize> = (1..front.len()).collect();
        back.insert(axis, 0);
        values = w.transpose(values, &back)?;
    }
    let firsts = w.cut(firsts, count, &symbol, &size, vec![length.clone()])?;
    let counts = w.cut(counts, count, &symbol, &size, vec![length])?;
    Ok(vec![values, firsts, groups, counts])
}

/// The inverse of a permutation of `0..size`.
fn inverse(w: &mut Wiring<'_, '_>, permutation: OutletId, size: &TDim) -> TractResult<OutletId> {
    let at = positions(w, 0, size.clone())?;
    let zeros = w.sub(at, at)?;
    let axis = [("axis", 0)];
    let operands = [Some(zeros), Some(permutation), Some(at)];
    Ok(w.onnx("ScatterElements", &axis, &operands)?[0])
}
