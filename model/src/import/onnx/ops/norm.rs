//! Normalizations: elements are shifted and scaled by statistics of their neighbours.

use tract_onnx::{
    prelude::{DatumType, OutletId, TDim, TractResult},
    tract_hir::internal::{
        TractErrorContext as _, bail,
        tract_core::ops::{logic, math, nn::Reducer},
    },
};

use crate::import::onnx::wiring::{Wire, Wiring};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("BatchNormalization", batch_normalization),
    ("GroupNormalization", group_normalization),
    ("InstanceNormalization", instance_normalization),
    ("LayerNormalization", layer_normalization),
    ("LpNormalization", lp_normalization),
    ("MeanVarianceNormalization", mean_variance_normalization),
    ("RMSNormalization", rms_normalization),
];

/// What the function body of MeanVarianceNormalization adds to the deviation.
/// Source: ONNX operators, "MeanVarianceNormalization".
const DEVIATION_MIN: f64 = 1e-9;
/// Number of the type F32. Source: ONNX, `TensorProto.DataType`.
const FLOAT: i64 = 1;

/// `(x - mean) / sqrt(variance + epsilon)`, and what it is made of.
struct Standardized {
    result: OutletId,
    mean: OutletId,
    inverse_deviation: OutletId,
}

/// Statistics are given, or, in training mode, those of the batch, which also move the given ones.
/// Source: Ioffe and Szegedy, "Batch Normalization", algorithms 1 and 2.
fn batch_normalization(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (x, scale, bias) = (w.input(0)?, w.input(1)?, w.input(2)?);
    let (given_mean, given_variance) = (w.input(3)?, w.input(4)?);
    let epsilon = w.node.get_attr_opt("epsilon")?.unwrap_or(1e-5f32);
    let training = w.node.get_attr_opt::<i64>("training_mode")?.unwrap_or(0) != 0;
    let (out, wide) = (w.dtype(x), w.dtype(given_mean));
    let x = w.cast(x, wide)?;
    let mut outputs = Vec::new();
    let (mean, variance) = if training {
        let axes: Vec<usize> = (0..w.rank(x)).filter(|&axis| axis != 1).collect();
        let Centered { mean, variance, .. } = centered(w, x, &axes)?;
        let momentum = w.node.get_attr_opt("momentum")?.unwrap_or(0.9f32);
        for (old, new) in [(given_mean, mean), (given_variance, variance)] {
            outputs.push(moved(w, old, new, momentum)?);
        }
        (mean, variance)
    } else {
        (per_channel(w, given_mean, x)?, per_channel(w, given_variance, x)?)
    };
    let (scale, bias) = (w.cast(scale, wide)?, w.cast(bias, wide)?);
    let (scale, bias) = (per_channel(w, scale, x)?, per_channel(w, bias, x)?);
    // Statistics that are given are constants in most models, which leaves one product and one sum.
    let factor = inverse_root(w, variance, epsilon)?;
    let factor = w.mul(scale, factor)?;
    let shift = w.mul(mean, factor)?;
    let shift = w.sub(bias, shift)?;
    let scaled = w.mul(x, factor)?;
    let y = w.add(scaled, shift)?;
    outputs.insert(0, w.cast(y, out)?);
    Ok(outputs)
}

/// `momentum * old + (1 - momentum) * new`, in the shape of `old`.
fn moved(
    w: &mut Wiring<'_, '_>,
    old: OutletId,
    new: OutletId,
    momentum: f32,
) -> TractResult<OutletId> {
    let shape = w.shape(old);
    let new = w.reshape(new, &shape)?;
    let keep = w.scalar(w.dtype(old), f64::from(momentum))?;
    let take = w.scalar(w.dtype(old), f64::from(1.0 - momentum))?;
    let (kept, taken) = (w.mul(old, keep)?, w.mul(new, take)?);
    w.add(kept, taken)
}

/// Source: Wu and He, "Group Normalization", eq. 1 to 4. Since operator set 21 scale and bias are per channel, before
/// that per group.
fn group_normalization(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (x, scale, bias) = (w.input(0)?, w.input(1)?, w.input(2)?);
    let groups = w.node.get_attr::<i64>("num_groups")?;
    let epsilon = w.node.get_attr_opt("epsilon")?.unwrap_or(1e-5f32);
    let (shape, out) = (w.shape(x), w.dtype(x));
    let [batch, channels, spatial @ ..] = &shape[..] else {
        bail!("at least two dimensions are needed")
    };
    let group = channels.clone() / groups;
    let mut grouped = vec![batch.clone(), groups.into(), group.clone()];
    grouped.extend_from_slice(spatial);
    let axes: Vec<usize> = (2..grouped.len()).collect();
    let split = w.reshape(x, &grouped)?;
    let split = stashed(w, split)?;
    let Standardized { result, .. } = standardized(w, split, &axes, epsilon)?;
    let mut rows = vec![groups.into()];
    if w.opset >= 21 {
        rows.push(group);
    }
    rows.resize(grouped.len() - 1, TDim::from(1));
    let result = w.cast(result, out)?;
    let scale = w.reshape(scale, &rows)?;
    let bias = w.reshape(bias, &rows)?;
    let y = w.mul(result, scale)?;
    let y = w.add(y, bias)?;
    Ok(vec![w.reshape(y, &shape)?])
}

/// Source: Ulyanov et al., "Instance Normalization", eq. 2.
fn instance_normalization(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (x, scale, bias) = (w.input(0)?, w.input(1)?, w.input(2)?);
    let epsilon = w.node.get_attr_opt("epsilon")?.unwrap_or(1e-5f32);
    let axes: Vec<usize> = (2..w.rank(x)).collect();
    let Standardized { result, .. } = standardized(w, x, &axes, epsilon)?;
    let (scale, bias) = (per_channel(w, scale, x)?, per_channel(w, bias, x)?);
    let y = w.mul(result, scale)?;
    Ok(vec![w.add(y, bias)?])
}

/// Source: Ba et al., "Layer Normalization", eq. 3.
fn layer_normalization(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let out = w.dtype(x);
    let epsilon = w.node.get_attr_opt("epsilon")?.unwrap_or(1e-5f32);
    let axes = axes_from(w, x)?;
    let wide = stashed(w, x)?;
    let Standardized { result, mean, inverse_deviation } = standardized(w, wide, &axes, epsilon)?;
    let result = w.cast(result, out)?;
    let scale = w.input(1)?;
    let mut y = w.mul(result, scale)?;
    if let Some(bias) = w.optional(2) {
        y = w.add(y, bias)?;
    }
    Ok(vec![y, mean, inverse_deviation])
}

/// Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", eq. 4.
fn rms_normalization(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (x, scale) = (w.input(0)?, w.input(1)?);
    let out = w.dtype(x);
    let epsilon = w.node.get_attr_opt("epsilon")?.unwrap_or(1e-5f32);
    let axes = axes_from(w, x)?;
    let wide = stashed(w, x)?;
    let squares = w.unary(math::square(), wide)?;
    let mean = w.mean(squares, &axes)?;
    let factor = inverse_root(w, mean, epsilon)?;
    let normalized = w.mul(wide, factor)?;
    let normalized = w.cast(normalized, out)?;
    Ok(vec![w.mul(normalized, scale)?])
}

/// `x / |x|_p` along an axis; where the norm is 0, so is the result.
fn lp_normalization(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let axis = w.axis(w.node.get_attr_opt("axis")?.unwrap_or(-1), w.rank(x))?;
    let norm = match w.node.get_attr_opt::<i64>("p")?.unwrap_or(2) {
        1 => {
            let sizes = w.unary(math::abs(), x)?;
            w.reduce(Reducer::Sum, sizes, &[axis], true)?
        }
        2 => {
            let squares = w.unary(math::square(), x)?;
            let sum = w.reduce(Reducer::Sum, squares, &[axis], true)?;
            w.unary(math::sqrt(), sum)?
        }
        other => bail!("norms of order {other} are not defined"),
    };
    let zero = w.scalar(w.dtype(x), 0.0)?;
    let quotient = w.div(x, norm)?;
    let nothing = w.binary(logic::CompEq, norm, zero)?;
    Ok(vec![w.select(nothing, zero, quotient)?])
}

fn mean_variance_normalization(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let axes = w.node.get_attr_opt_vec::<i64>("axes")?.unwrap_or_else(|| vec![0, 2, 3]);
    let axes =
        axes.into_iter().map(|axis| w.axis(axis, w.rank(x))).collect::<TractResult<Vec<_>>>()?;
    let Centered { deviation, variance, .. } = centered(w, x, &axes)?;
    let spread = w.unary(math::sqrt(), variance)?;
    let least = w.scalar(w.dtype(x), DEVIATION_MIN)?;
    let spread = w.add(spread, least)?;
    Ok(vec![w.div(deviation, spread)?])
}

/// `x - mean` and the mean of its square.
struct Centered {
    mean: OutletId,
    deviation: OutletId,
    variance: OutletId,
}

fn centered(w: &mut Wiring<'_, '_>, x: OutletId, axes: &[usize]) -> TractResult<Centered> {
    let mean = w.mean(x, axes)?;
    let deviation = w.sub(x, mean)?;
    let squares = w.unary(math::square(), deviation)?;
    let variance = w.mean(squares, axes)?;
    Ok(Centered { mean, deviation, variance })
}

fn standardized(
    w: &mut Wiring<'_, '_>,
    x: OutletId,
    axes: &[usize],
    epsilon: f32,
) -> TractResult<Standardized> {
    let Centered { mean, deviation, variance } = centered(w, x, axes)?;
    let inverse_deviation = inverse_root(w, variance, epsilon)?;
    Ok(Standardized { result: w.mul(deviation, inverse_deviation)?, mean, inverse_deviation })
}

/// `1 / sqrt(x + epsilon)`.
fn inverse_root(w: &mut Wiring<'_, '_>, x: OutletId, epsilon: f32) -> TractResult<OutletId> {
    let epsilon = w.scalar(w.dtype(x), f64::from(epsilon))?;
    let sum = w.add(x, epsilon)?;
    w.unary(math::rsqrt(), sum)
}

/// One number per channel in the place where it broadcasts over `x`, whose dimension 1 the channels are.
fn per_channel(w: &mut Wiring<'_, '_>, row: OutletId, x: OutletId) -> TractResult<OutletId> {
    let channels = w.shape(row).first().cloned().context("one number per channel is needed")?;
    let mut shape = vec![TDim::from(1); w.rank(x)];
    *shape.get_mut(1).context("channels are the second dimension")? = channels;
    w.reshape(row, &shape)
}

/// The type in which statistics are computed, where it is wider than the operand's.
fn stashed(w: &mut Wiring<'_, '_>, x: OutletId) -> TractResult<OutletId> {
    match w.node.get_attr_opt::<i64>("stash_type")?.unwrap_or(FLOAT) {
        FLOAT => w.cast(x, DatumType::F32),
        _ => Ok(x),
    }
}

/// From the attribute `axis` to the last one.
fn axes_from(w: &Wiring<'_, '_>, x: OutletId) -> TractResult<Vec<usize>> {
    let axis = w.node.get_attr_opt::<i64>("axis")?.unwrap_or(-1);
    Ok((w.axis(axis, w.rank(x))?..w.rank(x)).collect())
}
