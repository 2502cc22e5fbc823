//! Operators with data-dependent numbers of results. The number is read once it is computed; the nodes after it have known
//! sizes again.

use anyhow::{Context as _, Result, bail};
use flotilla_program::{
    Binary, Combine, Op, ReduceKind, ScatterElements, Suppress, Unary,
    dim::{Dim, ToDim as _},
};
use flotilla_tensor::DType;

use crate::import::onnx::{
    constant::Constant,
    facts::Var,
    wiring::{SIZES, Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("Compress", compress),
    ("NonMaxSuppression", non_max_suppression),
    ("NonZero", non_zero),
    ("Unique", unique),
];

/// Positions at which a mask is true.
struct Places {
    /// One after the other.
    all: Var,
    /// Their number.
    count: Dim,
    /// The running count of the mask's true elements.
    sums: Var,
}

/// Finds the true elements of a mask `[n]`.
fn places(w: &mut Wiring<'_, '_>, mask: Var) -> Result<Places> {
    let ones = w.cast(mask, DType::I32)?;
    let axis = w.integer(0);
    let sums = w.onnx("CumSum", &[], &[Some(ones), Some(axis)])?[0];
    let count = w.reduce(ReduceKind::Sum, ones, &[0], true)?;
    let name = format!("{}.count", w.name);
    let count = w.walk.elements(count, &name, SIZES)?.swap_remove(0);
    let all = w.op(Op::FirstAbove, &[sums], DType::I64, vec![count.clone()])?;
    Ok(Places { all, count, sums })
}

/// Indices, one for each of `sizes`, of positions in row-major order: `[sizes, n]`.
fn unraveled(w: &mut Wiring<'_, '_>, places: Var, sizes: &[Dim]) -> Result<Var> {
    let mut rest = places;
    let mut indices = Vec::new();
    for size in sizes.iter().rev() {
        let size = w.dimension(size.clone(), DType::I64)?;
        let quotient = w.div(rest, size)?;
        let whole = w.mul(quotient, size)?;
        let index = w.sub(rest, whole)?;
        indices.insert(0, w.unsqueeze(index, 0)?);
        rest = quotient;
    }
    w.concat(0, &indices)
}

/// Elements of an axis, or of the whole tensor, whose condition is true.
fn compress(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (mut x, condition) = (w.input(0)?, w.input(1)?);
    let axis = match w.int("axis")? {
        Some(axis) => w.axis(axis, w.rank(x))?,
        None => {
            let elements: Dim = w.shape(x).iter().product();
            x = w.reshape(x, &[elements])?;
            0
        }
    };
    if let Some(conditions) = w.constant(condition).and_then(Constant::integers) {
        let kept = (0..conditions.len()).filter(|&index| conditions[index] != 0);
        let kept: Vec<i64> = kept.map(|index| index as i64).collect();
        let kept = w.known(Constant::i64s(&[kept.len()], &kept));
        return Ok(vec![w.gather(axis, x, kept)?]);
    }
    if w.rank(condition) != 1 {
        bail!("conditions have one dimension, {} are given", w.rank(condition));
    }
    // There may be fewer conditions than elements; elements without a condition are left out.
    let Places { all, .. } = places(w, condition)?;
    Ok(vec![w.gather(axis, x, all)?])
}

/// Indices of the elements that are not 0: `[rank, count]`.
fn non_zero(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let shape = w.shape(x);
    let size: Dim = shape.iter().product();
    let flat = w.reshape(x, &[size])?;
    let mask = w.cast(flat, DType::Bool)?;
    let Places { all, count, .. } = places(w, mask)?;
    if shape.is_empty() {
        // A scalar has no dimension to count along, so the result has no rows.
        let nothing = w.integer(0);
        return Ok(vec![w.broadcast_to(nothing, &[Dim::Fixed(0), count])?]);
    }
    Ok(vec![unraveled(w, all, &shape)?])
}

/// The best boxes of each class that do not overlap better ones: `[count, 3]` with image, class and box.
fn non_max_suppression(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (boxes, scores) = (w.input(0)?, w.input(1)?);
    let [images, classes, count]: [Dim; 3] =
        w.shape(scores).try_into().or_else(|shape: Vec<_>| {
            bail!("scores have three dimensions, {} are given", shape.len())
        })?;
    let number = |index: usize| -> Result<Option<f32>> {
        match w.optional(index) {
            Some(_) => Ok(w.known_f32s(index)?.first().copied()),
            None => Ok(None),
        }
    };
    let (overlap_max, score_min) = (number(3)?.unwrap_or(0.0), number(4)?);
    let slots = match w.optional(2) {
        Some(_) => w.elements(2, SIZES)?.pop().context("the number of boxes is empty")?,
        None => Dim::Fixed(0),
    };
    let slots = w.walk.bounded(|bounds| slots.least(&count, bounds).most(0, bounds));
    let centres = w.flag("center_point_box")?;
    let boxes = w.unrounded(boxes, DType::F32)?;
    let scores = w.unrounded(scores, DType::F32)?;
    let all = w.dimensions(vec![count.clone()]);
    let ranked = [("axis", -1)];
    let order = w.onnx_with_outputs("TopK", &ranked, &[Some(scores), Some(all)], 2)?[1];
    let suppress = Op::Suppress(Suppress { overlap_max, score_min, centres });
    let shape = vec![images, classes, slots];
    let selected = w.op(suppress, &[boxes, scores, order], DType::I64, shape.clone())?;
    let size: Dim = shape.iter().product();
    let selected = w.reshape(selected, &[size])?;
    let none = w.integer(-1);
    let mask = w.binary(Binary::Gt, selected, none)?;
    let Places { all, .. } = places(w, mask)?;
    let picked = w.gather(0, selected, all)?;
    let picked = w.unsqueeze(picked, 1)?;
    let place = unraveled(w, all, &shape)?;
    let place = w.slice(place, 0, 0, 2)?;
    let place = w.transpose(place, &[1, 0])?;
    Ok(vec![w.concat(1, &[place, picked])?])
}

/// The distinct elements, or slices of an axis; where each occurs first, which one every element is, and how often each
/// occurs.
fn unique(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let shape = w.shape(x);
    let axis = match w.int("axis")? {
        Some(axis) => Some(w.axis(axis, shape.len())?),
        None => None,
    };
    let sorted = w.int("sorted")?.unwrap_or(1) != 0;
    // Rows [n, m] that are compared.
    let mut front: Vec<usize> = (0..shape.len()).collect();
    let (x, sizes): (Var, Vec<Dim>) = match axis {
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
    let rank = w.op(Op::RowRanks, &[rows], DType::I64, vec![size.clone()])?;
    let order = inverse(w, rank, &size)?;
    let ordered = w.gather(0, rows, order)?;
    // A row that differs from the one before it starts a group.
    let at = w.positions(&size)?;
    let (one, zero) = (w.integer(1), w.integer(0));
    let before = w.sub(at, one)?;
    let before = w.max(before, zero)?;
    let previous = w.gather(0, ordered, before)?;
    let same = w.binary(Binary::Eq, ordered, previous)?;
    let same = w.cast(same, DType::I32)?;
    let same = w.reduce(ReduceKind::Min, same, &[1], false)?;
    let same = w.cast(same, DType::Bool)?;
    let first = w.binary(Binary::Eq, at, zero)?;
    let differs = w.unary(Unary::Not, same)?;
    let starts = w.binary(Binary::Or, first, differs)?;
    let Places { all: starts, count, sums } = places(w, starts)?;
    // The start of the next group, or the end; without rows there is no group.
    let end = w.dimension(size, DType::I64)?;
    let end = w.unsqueeze(end, 0)?;
    let bounds = w.concat(0, &[starts, end])?;
    let ends = w.slice(bounds, 0, 1, &count + 1)?;
    let mut counts = w.sub(ends, starts)?;
    let mut firsts = w.gather(0, order, starts)?;
    let mut values = w.gather(0, ordered, starts)?;
    let sums = w.cast(sums, DType::I64)?;
    let group = w.sub(sums, one)?;
    let mut groups = w.gather(0, group, rank)?;
    if !sorted {
        // Groups in the order of their first elements.
        let key = w.unsqueeze(firsts, 1)?;
        let rank = w.op(Op::RowRanks, &[key], DType::I64, vec![count.clone()])?;
        let order = inverse(w, rank, &count)?;
        firsts = w.gather(0, firsts, order)?;
        values = w.gather(0, values, order)?;
        counts = w.gather(0, counts, order)?;
        groups = w.gather(0, rank, groups)?;
    }
    let mut values = w.reshape(values, &[std::slice::from_ref(&count), &sizes[1..]].concat())?;
    if let Some(axis) = axis {
        let mut back: Vec<usize> = (1..front.len()).collect();
        back.insert(axis, 0);
        values = w.transpose(values, &back)?;
    }
    Ok(vec![values, firsts, groups, counts])
}

/// The inverse of a permutation of `0..size`.
fn inverse(w: &mut Wiring<'_, '_>, permutation: Var, size: &Dim) -> Result<Var> {
    let at = w.positions(size)?;
    let zero = w.integer(0);
    let zeros = w.broadcast_to(zero, &[size.to_dim()])?;
    let scatter = ScatterElements { axis: 0, combine: Combine::Replace };
    let inputs = [zeros, permutation, at];
    w.op(Op::ScatterElements(scatter), &inputs, DType::I64, vec![size.clone()])
}
