//! Windows that keep the maximum, mean or norm of what they see, and their inverse.

use flotilla_program as program;
use tract_onnx::{
    prelude::{DatumType, OutletId, TDim, TVec, TractResult},
    tract_hir::internal::{
        ToDim, TractErrorContext as _, ensure,
        tract_core::ops::{
            cnn::{MaxPool, PaddingSpec, PoolSpec, SumPool},
            math,
            nn::{DataFormat, Reducer},
        },
    },
};

use super::window::{self, Sliding, numbers, sizes};
use crate::import::onnx::wiring::{Wire, Wiring};
use flotilla_program::{self, PoolKind};

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

/// The window of a pooling operator and the number of channels it slides over.
fn sliding(w: &Wiring<'_, '_>, x: OutletId) -> TractResult<(Sliding, usize)> {
    let kernel = w.node.get_attr_opt_vec::<i64>("kernel_shape")?.context("there is no window")?;
    let kernel = kernel.iter().map(|&size| Ok(usize::try_from(size)?));
    let kernel = kernel.collect::<TractResult<Vec<_>>>()?;
    let shape = w.shape(x);
    ensure!(shape.len() > 2, "an input of {} dimensions", shape.len());
    let channels = shape[1].to_i64().context("how many channels there are must be known")?;
    Ok((Sliding::of(w, kernel, &shape[2..])?, channels as usize))
}

fn max_pool(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let (sliding, channels) = sliding(w, x)?;
    let pool = MaxPool { pool_spec: sliding.spec(channels, channels), with_index_outputs: None };
    let mut results = vec![w.wire(pool, &[x])?];
    if w.wants(1) {
        let column_major = w.node.get_attr_opt::<i64>("storage_order")?.unwrap_or(0) != 0;
        let op = program::Op::Pool(program::Pool {
            kind: PoolKind::MaxPosition { column_major },
            kernel: numbers(&sliding.kernel),
            window: sliding.window(),
            pads_after: sliding.after.iter().map(|&pad| pad as i32).collect(),
        });
        let shape = sliding.output(&w.shape(x)[0], channels);
        results.push(w.program_op(op, &[x], DatumType::I64, shape)?);
    }
    Ok(results)
}

fn average_pool(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let (sliding, channels) = sliding(w, x)?;
    let count_include_pad = w.node.get_attr_opt::<i64>("count_include_pad")?.unwrap_or(0) != 0;
    let pool_spec = sliding.spec(channels, channels);
    Ok(vec![w.wire(SumPool { pool_spec, count_include_pad, normalize: true }, &[x])?])
}

/// `|x|^p`, whose sums are the norms to the power of `p`.
fn powers(w: &mut Wiring<'_, '_>, x: OutletId, order: i64) -> TractResult<OutletId> {
    ensure!(order > 0, "a norm of order {order}");
    match order {
        1 => w.unary(math::abs(), x),
        2 => w.mul(x, x),
        order => {
            let size = w.unary(math::abs(), x)?;
            let order = w.scalar(w.dtype(x), order as f64)?;
            w.pow(size, order)
        }
    }
}

/// The inverse of [`powers`].
fn root(w: &mut Wiring<'_, '_>, x: OutletId, order: i64) -> TractResult<OutletId> {
    match order {
        1 => Ok(x),
        2 => w.unary(math::sqrt(), x),
        order => {
            let inverse = w.scalar(w.dtype(x), 1.0 / order as f64)?;
            w.pow(x, inverse)
        }
    }
}

fn order(w: &Wiring<'_, '_>) -> TractResult<i64> {
    Ok(w.node.get_attr_opt::<i64>("p")?.unwrap_or(2))
}

fn lp_pool(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (x, order) = (w.input(0)?, order(w)?);
    let (sliding, channels) = sliding(w, x)?;
    let powers = powers(w, x, order)?;
    let pool_spec = sliding.spec(channels, channels);
    let sums = SumPool { pool_spec, count_include_pad: false, normalize: false };
    let sums = w.wire(sums, &[powers])?;
    Ok(vec![root(w, sums, order)?])
}

fn spatial_axes(w: &Wiring<'_, '_>, x: OutletId) -> Vec<usize> {
    (2..w.rank(x)).collect()
}

fn global_max_pool(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let axes = spatial_axes(w, x);
    Ok(vec![w.reduce(Reducer::Max, x, &axes, true)?])
}

fn global_average_pool(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let axes = spatial_axes(w, x);
    Ok(vec![w.mean(x, &axes)?])
}

fn global_lp_pool(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (x, order) = (w.input(0)?, order(w)?);
    let axes = spatial_axes(w, x);
    let powers = powers(w, x, order)?;
    let sums = w.reduce(Reducer::Sum, powers, &axes, true)?;
    Ok(vec![root(w, sums, order)?])
}

/// Every element goes back to the place that its index names; the others are 0.
fn max_unpool(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (x, indices) = (w.input(0)?, w.input(1)?);
    let shape = w.shape(x);
    ensure!(shape.len() > 2, "an input of {} dimensions", shape.len());
    let rank = shape.len() - 2;
    let (kernel, strides) = (sizes(w, "kernel_shape", rank, 1)?, sizes(w, "strides", rank, 1)?);
    let (before, after) = window::pads(w, rank)?;
    let mut inferred = shape[..2].to_vec();
    inferred.extend((0..rank).map(|axis| {
        (shape[axis + 2].clone() - 1) * strides[axis] + kernel[axis] - before[axis] - after[axis]
    }));
    let total: TDim = inferred.iter().product();
    let given: TDim = shape.iter().product();
    let zero = w.scalar(w.dtype(x), 0.0)?;
    let zeros = w.broadcast_to(zero, &[total])?;
    let flat = [given];
    let (x, indices) = (w.reshape(x, &flat)?, w.reshape(indices, &flat)?);
    let scattered = w.onnx("ScatterElements", &[], &[Some(zeros), Some(indices), Some(x)])?[0];
    let mut result = w.reshape(scattered, &inferred)?;
    // A larger output has the places that are inferred in its first corner.
    if w.optional(2).is_some() {
        for (axis, wanted) in w.known_dims(2)?.into_iter().enumerate() {
            let missing = wanted - inferred[axis].clone();
            if missing != 0.to_dim() {
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
fn lrn(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let number = |w: &Wiring<'_, '_>, name: &str, default: f32| -> TractResult<f64> {
        Ok(f64::from(w.node.get_attr_opt::<f32>(name)?.unwrap_or(default)))
    };
    let (alpha, beta) = (number(w, "alpha", 1e-4)?, number(w, "beta", 0.75)?);
    let bias = number(w, "bias", 1.0)?;
    let size = w.node.get_attr_opt::<i64>("size")?.context("there is no size")?;
    let size = usize::try_from(size)?;
    ensure!(size > 0 && w.rank(x) >= 2, "a window of {size} over {} dimensions", w.rank(x));
    let (dtype, shape) = (w.dtype(x), w.shape(x));
    let square = w.mul(x, x)?;
    let rest: TDim = shape[2..].iter().product();
    let lines = w.reshape(square, &[shape[0].clone(), 1.to_dim(), shape[1].clone(), rest])?;
    let list =
        |first: usize, second: usize| -> TVec<usize> { [first, second].into_iter().collect() };
    let pool_spec = PoolSpec {
        data_format: DataFormat::NCHW,
        kernel_shape: list(size, 1),
        padding: PaddingSpec::Explicit(list((size - 1) / 2, 0), list(size / 2, 0)),
        dilations: None,
        strides: None,
        input_channels: 1,
        output_channels: 1,
    };
    let sums =
        w.wire(SumPool { pool_spec, count_include_pad: false, normalize: false }, &[lines])?;
    let sums = w.reshape(sums, &shape)?;
    let factor = w.scalar(dtype, alpha / size as f64)?;
    let scaled = w.mul(sums, factor)?;
    let bias = w.scalar(dtype, bias)?;
    let base = w.add(scaled, bias)?;
    let beta = w.scalar(dtype, beta)?;
    let divisor = w.pow(base, beta)?;
    Ok(vec![w.div(x, divisor)?])
}
