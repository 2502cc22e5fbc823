//! Operators over whole lines of elements: reductions, softmaxes, positions of extremes.

use anyhow::{Context as _, Result, ensure};
use flotilla_program::{
    self as program, ArgReduce, Cumulative, GatherElements, Op, ReduceKind, Slice, Unary, dim::Dim,
};
use flotilla_tensor::DType;

use crate::import::onnx::{
    facts::Var,
    wiring::{SIZES, Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("ArgMax", |w| arg_reduce(w, true)),
    ("ArgMin", |w| arg_reduce(w, false)),
    ("CumProd", |w| cumulative(w, true)),
    ("CumSum", |w| cumulative(w, false)),
    ("Hardmax", hardmax),
    ("LogSoftmax", log_softmax),
    ("ReduceL1", |w| reduce(w, l1)),
    ("ReduceL2", |w| reduce(w, l2)),
    ("ReduceLogSum", |w| reduce(w, log_sum)),
    ("ReduceLogSumExp", |w| reduce(w, log_sum_exp)),
    ("ReduceMax", |w| reduce(w, |w, x, axes| w.reduce(ReduceKind::Max, x, axes, true))),
    ("ReduceMean", |w| reduce(w, |w, x, axes| w.reduce(ReduceKind::Mean, x, axes, true))),
    ("ReduceMin", |w| reduce(w, |w, x, axes| w.reduce(ReduceKind::Min, x, axes, true))),
    ("ReduceProd", |w| reduce(w, |w, x, axes| w.reduce(ReduceKind::Product, x, axes, true))),
    ("ReduceSum", |w| reduce(w, |w, x, axes| w.reduce(ReduceKind::Sum, x, axes, true))),
    ("ReduceSumSquare", |w| reduce(w, sum_of_squares)),
    ("Softmax", softmax),
    ("TopK", top_k),
];

/// Shortest dimension that is sorted completely to get its first elements.
const SORTED_MIN: i64 = 2048;

/// A reduction of the elements along axes, which remain with size 1.
type Reduction = fn(&mut Wiring<'_, '_>, Var, &[usize]) -> Result<Var>;

/// A reduction over axes that an attribute or, in later versions, an operand names.
fn reduce(w: &mut Wiring<'_, '_>, reduction: Reduction) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let rank = w.rank(x);
    let given = match w.optional(1) {
        Some(_) => w.known_i64s(1)?,
        None => w.ints("axes")?.unwrap_or_default(),
    };
    let axes: Vec<usize> = if !given.is_empty() {
        w.axes(&given, rank)?
    } else if w.flag("noop_with_empty_axes")? {
        Vec::new()
    } else {
        (0..rank).collect()
    };
    let keep = w.int("keepdims")?.unwrap_or(1) != 0;
    let reduced = reduction(w, x, &axes)?;
    if keep {
        return Ok(vec![reduced]);
    }
    let mut shape = w.shape(x);
    axes.iter().rev().for_each(|&axis| drop(shape.remove(axis)));
    Ok(vec![w.reshape(reduced, &shape)?])
}

fn l1(w: &mut Wiring<'_, '_>, x: Var, axes: &[usize]) -> Result<Var> {
    let sizes = w.unary(Unary::Abs, x)?;
    w.reduce(ReduceKind::Sum, sizes, axes, true)
}

fn sum_of_squares(w: &mut Wiring<'_, '_>, x: Var, axes: &[usize]) -> Result<Var> {
    if axes.is_empty() || !w.dtype(x).is_float() {
        let squares = w.unary(Unary::Square, x)?;
        return w.reduce(ReduceKind::Sum, squares, axes, true);
    }
    w.reduce(ReduceKind::SumOfSquares, x, axes, true)
}

fn l2(w: &mut Wiring<'_, '_>, x: Var, axes: &[usize]) -> Result<Var> {
    let dtype = w.dtype(x);
    let sum = sum_of_squares(w, x, axes)?;
    let sum = w.cast(sum, if dtype.is_float() { dtype } else { DType::F32 })?;
    let root = w.unary(Unary::Sqrt, sum)?;
    w.cast(root, dtype)
}

fn log_sum(w: &mut Wiring<'_, '_>, x: Var, axes: &[usize]) -> Result<Var> {
    let dtype = w.dtype(x);
    let sum = w.reduce(ReduceKind::Sum, x, axes, true)?;
    let sum = w.cast(sum, if dtype.is_float() { dtype } else { DType::F32 })?;
    let log = w.unary(Unary::Ln, sum)?;
    w.cast(log, dtype)
}

/// The largest element is subtracted before the exponentials. It is kept finite, so that a line of infinities, or an empty
/// one, gives the logarithm of 0.
fn log_sum_exp(w: &mut Wiring<'_, '_>, x: Var, axes: &[usize]) -> Result<Var> {
    if axes.is_empty() {
        return Ok(x);
    }
    let dtype = w.dtype(x);
    let inner = if dtype.is_float() { dtype } else { DType::F32 };
    let x = w.cast(x, inner)?;
    let bound = f64::from(f32::MAX);
    let (lowest, highest) = (w.scalar(DType::F32, -bound), w.scalar(DType::F32, bound));
    let (lowest, highest) = (w.cast(lowest, inner)?, w.cast(highest, inner)?);
    let largest = w.reduce(ReduceKind::Max, x, axes, true)?;
    let largest = w.max(largest, lowest)?;
    let largest = w.min(largest, highest)?;
    let shifted = w.sub(x, largest)?;
    let weights = w.unary(Unary::Exp, shifted)?;
    let total = w.reduce(ReduceKind::Sum, weights, axes, true)?;
    let total = w.unary(Unary::Ln, total)?;
    let result = w.add(total, largest)?;
    w.cast(result, dtype)
}

/// The dimensions over which a softmax sums: before version 13, all from the axis on count as one.
fn softmax_axes(w: &Wiring<'_, '_>, x: Var) -> Result<Vec<usize>> {
    let (rank, old) = (w.rank(x), w.opset < 13);
    let axis = w.axis(w.int("axis")?.unwrap_or(if old { 1 } else { -1 }), rank)?;
    Ok(if old { (axis..rank).collect() } else { vec![axis] })
}

/// `exp(x) / sum(exp(x))`.
fn softmax(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let axes = softmax_axes(w, x)?;
    Ok(vec![w.softmax(x, &axes)?])
}

fn log_softmax(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let axes = softmax_axes(w, x)?;
    Ok(vec![w.log_softmax(x, &axes)?])
}

/// 1 for the first of the largest elements, 0 for the others.
fn hardmax(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let (shape, axes) = (w.shape(x), softmax_axes(w, x)?);
    let axis = *axes.first().context("there is no dimension")?;
    // Dimensions that count as one become one.
    let mut flat = shape[..axis].to_vec();
    flat.push(axes.iter().map(|&axis| shape[axis].clone()).product());
    flat.extend_from_slice(&shape[axis + axes.len()..]);
    let line = w.reshape(x, &flat)?;
    let first = position(w, line, axis, true, false)?;
    let at = w.positions(&flat[axis])?;
    let mut along = vec![Dim::Fixed(1); flat.len()];
    along[axis] = flat[axis].clone();
    let at = w.reshape(at, &along)?;
    let is_first = w.binary(program::Binary::Eq, first, at)?;
    let ones = w.cast(is_first, w.dtype(x))?;
    Ok(vec![w.reshape(ones, &shape)?])
}

/// The position of the largest or smallest element along an axis, which remains with size 1.
fn position(w: &mut Wiring<'_, '_>, x: Var, axis: usize, largest: bool, last: bool) -> Result<Var> {
    let mut shape = w.shape(x);
    shape[axis] = Dim::Fixed(1);
    let op = ArgReduce { axis: axis as u32, largest, last };
    w.op(Op::ArgReduce(op), &[x], DType::I64, shape)
}

fn arg_reduce(w: &mut Wiring<'_, '_>, largest: bool) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let axis = w.axis(w.int("axis")?.unwrap_or(0), w.rank(x))?;
    let last = w.flag("select_last_index")?;
    let found = position(w, x, axis, largest, last)?;
    if w.int("keepdims")?.unwrap_or(1) != 0 {
        return Ok(vec![found]);
    }
    Ok(vec![w.squeeze(found, axis)?])
}

fn cumulative(w: &mut Wiring<'_, '_>, product: bool) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let op = Cumulative {
        axis: w.axis(w.known_i64(1)?, w.rank(x))? as u32,
        product,
        exclusive: w.flag("exclusive")?,
        reverse: w.flag("reverse")?,
    };
    Ok(vec![w.op(Op::Cumulative(op), &[x], w.dtype(x), w.shape(x))?])
}

/// Positions are computed by an operator; the values are then gathered. For a long dimension, or one whose length is known
/// only in a run, the whole dimension is sorted, which is faster than counting ranks.
fn top_k(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let (all, dtype) = (w.shape(x), w.dtype(x));
    let axis = w.axis(w.int("axis")?.unwrap_or(-1), all.len())?;
    ensure!(!all.is_empty(), "a scalar has no order");
    let count = if w.opset < 10 {
        Dim::Fixed(w.int("k")?.context("k is missing")?)
    } else {
        w.element(1, SIZES)?
    };
    let largest = w.int("largest")?.unwrap_or(1) != 0;
    let mut shape = all.clone();
    shape[axis] = count.clone();
    let top = Op::TopK(program::TopK { axis: axis as u32, largest });
    let whole =
        all[axis].as_fixed().is_none_or(|size| size >= SORTED_MIN) || count.as_fixed().is_none();
    let among = if whole { all } else { shape.clone() };
    let mut positions = w.op(top, &[x], DType::I64, among)?;
    if w.shape(positions) != shape {
        let first = Op::Slice(Slice { axis: axis as u32, start: Dim::Fixed(0), stride: 1 });
        positions = w.op(first, &[positions], DType::I64, shape.clone())?;
    }
    let gather = Op::GatherElements(GatherElements { axis: axis as u32 });
    let values = w.op(gather, &[x, positions], dtype, shape)?;
    Ok(vec![values, positions])
}
