//! Windows that give the maximum, mean or norm of their elements, and their inverse.

use anyhow::{Context as _, Result, ensure};
use flotilla_program::{
    self as program, Binary, Op, PoolKind, ReduceKind, Unary,
    dim::{Dim, ToDim as _},
};
use flotilla_tensor::DType;

use super::window::{self, Sliding, numbers, sizes};
use crate::import::onnx::{
    facts::Var,
    wiring::{SIZES, Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("MaxPool", max_pool),
    ("AveragePool", average_pool),
    ("LpPool", lp_pool),
    ("GlobalMaxPool", global_max_pool),
    ("GlobalAveragePool", global_average_pool),
    ("GlobalLpPool", global_lp_pool),
    ("MaxUnpool", max_unpool),
    ("LRN", lrn),
];

/// The window of a pooling operator.
fn sliding(w: &Wiring<'_, '_>, x: Var) -> Result<Sliding> {
    let kernel = w.ints("kernel_shape")?.context("there is no window")?;
    let kernel = kernel.iter().map(|&size| Ok(usize::try_from(size)?));
    let kernel = kernel.collect::<Result<Vec<_>>>()?;
    let shape = w.shape(x);
    ensure!(shape.len() > 2, "an input of {} dimensions", shape.len());
    Sliding::of(w, kernel, &shape[2..])
}

/// The result of a window for each channel.
fn pool(w: &mut Wiring<'_, '_>, kind: PoolKind, x: Var, sliding: &Sliding) -> Result<Var> {
    let dtype = match kind {
        PoolKind::MaxPosition { .. } => DType::I64,
        _ => w.dtype(x),
    };
    let op = Op::Pool(program::Pool {
        kind,
        kernel: numbers(&sliding.kernel),
        window: sliding.window(),
        pads_after: sliding.after.clone(),
    });
    let from = w.shape(x);
    let shape = sliding.output(&from[0], &from[1]);
    w.op(op, &[x], dtype, shape)
}

fn max_pool(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let mut results = vec![largest_of_windows(w, x)?];
    if w.wants(1) {
        let sliding = sliding(w, x)?;
        let column_major = w.flag("storage_order")?;
        results.push(pool(w, PoolKind::MaxPosition { column_major }, x, &sliding)?);
    }
    Ok(results)
}

/// The largest elements of the windows that a node's attributes describe.
pub(super) fn largest_of_windows(w: &mut Wiring<'_, '_>, x: Var) -> Result<Var> {
    let sliding = sliding(w, x)?;
    pool(w, PoolKind::Max, x, &sliding)
}

fn average_pool(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    Ok(vec![mean_of_windows(w, x)?])
}

/// The means of the windows that a node's attributes describe.
pub(super) fn mean_of_windows(w: &mut Wiring<'_, '_>, x: Var) -> Result<Var> {
    let sliding = sliding(w, x)?;
    let kind = if w.flag("count_include_pad")? { PoolKind::PaddedMean } else { PoolKind::Mean };
    pool(w, kind, x, &sliding)
}

/// `|x|^p`, whose sums are the norms to the power of `p`.
fn powers(w: &mut Wiring<'_, '_>, x: Var, order: i64) -> Result<Var> {
    ensure!(order > 0, "a norm of order {order}");
    match order {
        1 => w.unary(Unary::Abs, x),
        2 => w.mul(x, x),
        order => {
            let size = w.unary(Unary::Abs, x)?;
            let order = w.scalar(w.dtype(x), order as f64);
            w.binary(Binary::Pow, size, order)
        }
    }
}

/// The inverse of [`powers`].
fn root(w: &mut Wiring<'_, '_>, x: Var, order: i64) -> Result<Var> {
    match order {
        1 => Ok(x),
        2 => w.unary(Unary::Sqrt, x),
        order => {
            let inverse = w.scalar(w.dtype(x), 1.0 / order as f64);
            w.binary(Binary::Pow, x, inverse)
        }
    }
}

/// The order of the norm; a float in the first version.
fn order(w: &Wiring<'_, '_>) -> Result<i64> {
    if w.opset > 1 {
        return Ok(w.int("p")?.unwrap_or(2));
    }
    let order = w.float("p")?.unwrap_or(2.0);
    ensure!(order.fract() == 0.0 && order.abs() < 1e9, "norms of order {order} are not supported");
    Ok(order as i64)
}

fn lp_pool(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, order) = (w.input(0)?, order(w)?);
    let sliding = sliding(w, x)?;
    let powers = powers(w, x, order)?;
    let sums = pool(w, PoolKind::Sum, powers, &sliding)?;
    Ok(vec![root(w, sums, order)?])
}

fn spatial_axes(w: &Wiring<'_, '_>, x: Var) -> Vec<usize> {
    (2..w.rank(x)).collect()
}

fn global_max_pool(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let axes = spatial_axes(w, x);
    Ok(vec![w.reduce(ReduceKind::Max, x, &axes, true)?])
}

fn global_average_pool(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let axes = spatial_axes(w, x);
    Ok(vec![w.mean(x, &axes)?])
}

fn global_lp_pool(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, order) = (w.input(0)?, order(w)?);
    let axes = spatial_axes(w, x);
    let powers = powers(w, x, order)?;
    let sums = w.reduce(ReduceKind::Sum, powers, &axes, true)?;
    Ok(vec![root(w, sums, order)?])
}

/// Every element is written to the place that its index names; the others are 0.
fn max_unpool(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, indices) = (w.input(0)?, w.input(1)?);
    let shape = w.shape(x);
    ensure!(shape.len() > 2, "an input of {} dimensions", shape.len());
    let rank = shape.len() - 2;
    let (kernel, strides) = (sizes(w, "kernel_shape", rank, 1)?, sizes(w, "strides", rank, 1)?);
    let (before, after) = window::pads(w, rank)?;
    let mut inferred = shape[..2].to_vec();
    inferred.extend((0..rank).map(|axis| {
        (&shape[axis + 2] - 1) * strides[axis] + kernel[axis] - before[axis] - after[axis]
    }));
    let total: Dim = inferred.iter().product();
    let given: Dim = shape.iter().product();
    let zero = w.scalar(w.dtype(x), 0.0);
    let zeros = w.broadcast_to(zero, &[total])?;
    let flat = [given];
    let (x, indices) = (w.reshape(x, &flat)?, w.reshape(indices, &flat)?);
    let scattered = w.onnx("ScatterElements", &[], &[Some(zeros), Some(indices), Some(x)])?[0];
    let mut result = w.reshape(scattered, &inferred)?;
    // A larger output has the inferred places in its first corner.
    if w.optional(2).is_some() {
        for (axis, wanted) in w.elements(2, SIZES)?.into_iter().enumerate() {
            let missing = wanted - &inferred[axis];
            if missing != Dim::Fixed(0) {
                let mut pad = w.shape(result);
                pad[axis] = missing;
                let pad = w.broadcast_to(zero, &pad)?;
                result = w.concat(axis, &[result, pad])?;
            }
        }
    }
    Ok(vec![result])
}

/// `x / (bias + alpha / size * sum of squares of the neighbouring channels)^beta`.
/// Source: Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks", 3.3.
fn lrn(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let number = |w: &Wiring<'_, '_>, name: &str, default: f32| -> Result<f64> {
        Ok(f64::from(w.float(name)?.unwrap_or(default)))
    };
    let (alpha, beta) = (number(w, "alpha", 1e-4)?, number(w, "beta", 0.75)?);
    let bias = number(w, "bias", 1.0)?;
    let size = w.int("size")?.context("there is no size")?;
    let size = usize::try_from(size)?;
    ensure!(size > 0 && w.rank(x) >= 2, "a window of {size} over {} dimensions", w.rank(x));
    let (dtype, shape) = (w.dtype(x), w.shape(x));
    let square = w.mul(x, x)?;
    let rest: Dim = shape[2..].iter().product();
    let lines = w.reshape(square, &[shape[0].clone(), 1.to_dim(), shape[1].clone(), rest])?;
    let sliding = Sliding {
        kernel: vec![size, 1],
        strides: vec![1, 1],
        dilations: vec![1, 1],
        before: vec![((size - 1) / 2).to_dim(), 0.to_dim()],
        after: vec![(size / 2).to_dim(), 0.to_dim()],
        places: w.shape(lines)[2..].to_vec(),
    };
    let sums = pool(w, PoolKind::Sum, lines, &sliding)?;
    let sums = w.reshape(sums, &shape)?;
    let factor = w.scalar(dtype, alpha / size as f64);
    let scaled = w.mul(sums, factor)?;
    let bias = w.scalar(dtype, bias);
    let base = w.add(scaled, bias)?;
    let beta = w.scalar(dtype, beta);
    let divisor = w.binary(Binary::Pow, base, beta)?;
    Ok(vec![w.div(x, divisor)?])
}
