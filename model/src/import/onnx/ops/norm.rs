//! Normalizations: elements are shifted and scaled by statistics of their neighbours.

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_program::{Binary, LayerNorm, Op, ReduceKind, Unary, dim::Dim};
use flotilla_tensor::DType;

use crate::import::onnx::{
    facts::Var,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("BatchNormalization", batch_normalization),
    ("GroupNormalization", group_normalization),
    ("InstanceNormalization", instance_normalization),
    ("LayerNormalization", layer_normalization),
    ("LpNormalization", lp_normalization),
    ("MeanVarianceNormalization", mean_variance_normalization),
    ("RMSNormalization", rms_normalization),
];

/// Added to the deviation in the function body of MeanVarianceNormalization.
/// Source: ONNX operators, "MeanVarianceNormalization".
const DEVIATION_MIN: f64 = 1e-9;
/// `(x - mean) / sqrt(variance + epsilon)`, and its parts.
pub(super) struct Standardized {
    pub(super) result: Var,
    pub(super) mean: Var,
    pub(super) inverse_deviation: Var,
}

/// Statistics are given or, in training mode, those of the batch, which also update the given ones.
/// Source: Ioffe and Szegedy, "Batch Normalization", algorithms 1 and 2.
fn batch_normalization(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, scale, bias) = (w.input(0)?, w.input(1)?, w.input(2)?);
    let (given_mean, given_variance) = (w.input(3)?, w.input(4)?);
    let epsilon = w.float("epsilon")?.unwrap_or(1e-5f32);
    let training = w.int("training_mode")?.unwrap_or(0) != 0;
    let (out, wide) = (w.dtype(x), w.dtype(given_mean));
    let x = w.unrounded(x, wide)?;
    // Before version 9 there may be statistics for each element of an image.
    if w.opset < 9 && w.int("spatial")?.unwrap_or(1) == 0 && w.rank(x) > 2 {
        let statistics = [scale, bias, given_mean, given_variance];
        let y = normalized_by_element(w, x, statistics, epsilon)?;
        return Ok(vec![w.unrounded(y, out)?]);
    }
    let mut outputs = Vec::new();
    let (mean, variance) = if training {
        let axes: Vec<usize> = (0..w.rank(x)).filter(|&axis| axis != 1).collect();
        let Centered { mean, variance, .. } = centered(w, x, &axes)?;
        let momentum = w.float("momentum")?.unwrap_or(0.9f32);
        for (old, new) in [(given_mean, mean), (given_variance, variance)] {
            outputs.push(moved(w, old, new, momentum)?);
        }
        (mean, variance)
    } else {
        (per_channel(w, given_mean, x)?, per_channel(w, given_variance, x)?)
    };
    let (scale, bias) = (w.unrounded(scale, wide)?, w.unrounded(bias, wide)?);
    let (scale, bias) = (per_channel(w, scale, x)?, per_channel(w, bias, x)?);
    // Given statistics are constants in most models, which leaves one product and one sum.
    let factor = inverse_root(w, variance, epsilon)?;
    let factor = w.mul(scale, factor)?;
    let shift = w.mul(mean, factor)?;
    let shift = w.sub(bias, shift)?;
    let scaled = w.mul(x, factor)?;
    let y = w.add(scaled, shift)?;
    outputs.insert(0, w.unrounded(y, out)?);
    Ok(outputs)
}

/// Scale, bias, mean and variance have the shape of an image, `[channels, ..]`.
fn normalized_by_element(
    w: &mut Wiring<'_, '_>,
    x: Var,
    [scale, bias, mean, variance]: [Var; 4],
    epsilon: f32,
) -> Result<Var> {
    let image = w.shape(x)[1..].to_vec();
    let wide = w.dtype(x);
    let of_image = |w: &mut Wiring<'_, '_>, var: Var| -> Result<Var> {
        ensure!(
            w.rank(var) == image.len(),
            "statistics of {} dimensions for images of {}",
            w.rank(var),
            image.len()
        );
        for (own, wanted) in w.shape(var).iter().zip(&image) {
            w.same("a dimension of an image and of its statistics", wanted, own)?;
        }
        w.unrounded(var, wide)
    };
    let (scale, bias) = (of_image(w, scale)?, of_image(w, bias)?);
    let (mean, variance) = (of_image(w, mean)?, of_image(w, variance)?);
    let factor = inverse_root(w, variance, epsilon)?;
    let factor = w.mul(scale, factor)?;
    let deviation = w.sub(x, mean)?;
    let scaled = w.mul(deviation, factor)?;
    w.add(scaled, bias)
}

/// `momentum * old + (1 - momentum) * new`, in the shape of `old`.
fn moved(w: &mut Wiring<'_, '_>, old: Var, new: Var, momentum: f32) -> Result<Var> {
    let shape = w.shape(old);
    let new = w.reshape(new, &shape)?;
    let keep = w.scalar(w.dtype(old), f64::from(momentum));
    let take = w.scalar(w.dtype(old), f64::from(1.0 - momentum));
    let (kept, taken) = (w.mul(old, keep)?, w.mul(new, take)?);
    w.add(kept, taken)
}

/// Source: Wu and He, "Group Normalization", eq. 1 to 4. Since operator set 21 scale and bias are per channel, before
/// that per group.
fn group_normalization(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, scale, bias) = (w.input(0)?, w.input(1)?, w.input(2)?);
    let groups = w.int("num_groups")?.context("num_groups is missing")?;
    let epsilon = w.float("epsilon")?.unwrap_or(1e-5f32);
    let (shape, out) = (w.shape(x), w.dtype(x));
    let [batch, channels, spatial @ ..] = &shape[..] else {
        bail!("at least two dimensions are needed")
    };
    let group = channels.over(groups);
    let mut grouped = vec![batch.clone(), Dim::Fixed(groups), group.clone()];
    grouped.extend_from_slice(spatial);
    let axes: Vec<usize> = (2..grouped.len()).collect();
    let split = w.reshape(x, &grouped)?;
    let split = w.unrounded(split, DType::F32)?;
    let Standardized { result, .. } = standardized(w, split, &axes, epsilon)?;
    let mut rows = vec![Dim::Fixed(groups)];
    if w.opset >= 21 {
        rows.push(group);
    }
    rows.resize(grouped.len() - 1, Dim::Fixed(1));
    let result = w.unrounded(result, out)?;
    let scale = w.reshape(scale, &rows)?;
    let bias = w.reshape(bias, &rows)?;
    let y = w.mul(result, scale)?;
    let y = w.add(y, bias)?;
    Ok(vec![w.reshape(y, &shape)?])
}

/// Source: Ulyanov et al., "Instance Normalization", eq. 2.
fn instance_normalization(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, scale, bias) = (w.input(0)?, w.input(1)?, w.input(2)?);
    let epsilon = w.float("epsilon")?.unwrap_or(1e-5f32);
    let axes: Vec<usize> = (2..w.rank(x)).collect();
    let Standardized { result, .. } = standardized(w, x, &axes, epsilon)?;
    let (scale, bias) = (per_channel(w, scale, x)?, per_channel(w, bias, x)?);
    let y = w.mul(result, scale)?;
    Ok(vec![w.add(y, bias)?])
}

/// Source: Ba et al., "Layer Normalization", eq. 3.
fn layer_normalization(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, scale, bias) = (w.input(0)?, w.input(1)?, w.optional(2));
    let out = w.dtype(x);
    let epsilon = w.float("epsilon")?.unwrap_or(1e-5f32);
    let axes = axes_from(w, x)?;
    let wide = w.unrounded(x, DType::F32)?;
    if !w.wants(1)
        && !w.wants(2)
        && let Some(y) = fused(w, wide, &axes, scale, bias, epsilon)?
    {
        return Ok(vec![w.unrounded(y, out)?]);
    }
    let Standardized { result, mean, inverse_deviation } = standardized(w, wide, &axes, epsilon)?;
    let result = w.unrounded(result, out)?;
    let mut y = w.mul(result, scale)?;
    if let Some(bias) = bias {
        y = w.add(y, bias)?;
    }
    Ok(vec![y, mean, inverse_deviation])
}

/// Normalized over the last dimension, with a scale and a bias of its length.
pub(super) fn normalized(
    w: &mut Wiring<'_, '_>,
    x: Var,
    scale: Var,
    bias: Option<Var>,
    epsilon: f32,
) -> Result<Var> {
    let last = w.rank(x).checked_sub(1).context("nothing to normalize")?;
    match fused(w, x, &[last], scale, bias, epsilon)? {
        Some(y) => Ok(y),
        None => bail!(
            "a scale of shape {} for rows of shape {}",
            w.walk.shape_text(&w.shape(scale)),
            w.walk.shape_text(&w.shape(x))
        ),
    }
}

/// As the fused operator, if scale and bias have one element for each normalized one.
pub(super) fn fused(
    w: &mut Wiring<'_, '_>,
    x: Var,
    axes: &[usize],
    scale: Var,
    bias: Option<Var>,
    epsilon: f32,
) -> Result<Option<Var>> {
    let shape = w.shape(x);
    let (outer, inner) = shape.split_at(axes.first().copied().unwrap_or(shape.len()));
    let length: Dim = inner.iter().product();
    let fits = |var: Var| w.shape(var) == inner;
    if inner.is_empty() || !fits(scale) || !bias.is_none_or(fits) {
        return Ok(None);
    }
    let row = [length.clone()];
    let scale = w.unrounded(scale, DType::F32)?;
    let scale = w.reshape(scale, &row)?;
    let bias = match bias {
        Some(bias) => {
            let bias = w.unrounded(bias, DType::F32)?;
            w.reshape(bias, &row)?
        }
        None => {
            let zero = w.scalar(DType::F32, 0.0);
            w.broadcast_to(zero, &row)?
        }
    };
    let flat = [outer, &row].concat();
    let x = w.reshape(x, &flat)?;
    let norm = Op::LayerNorm(LayerNorm { epsilon, residual: false });
    let y = w.op(norm, &[x, scale, bias], DType::F32, flat)?;
    Ok(Some(w.reshape(y, &shape)?))
}

/// Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", eq. 4.
fn rms_normalization(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, scale) = (w.input(0)?, w.input(1)?);
    let out = w.dtype(x);
    let epsilon = w.float("epsilon")?.unwrap_or(1e-5f32);
    let axes = axes_from(w, x)?;
    let wide = w.unrounded(x, DType::F32)?;
    let squares = w.unary(Unary::Square, wide)?;
    let mean = w.mean(squares, &axes)?;
    let factor = inverse_root(w, mean, epsilon)?;
    let normalized = w.mul(wide, factor)?;
    let normalized = w.unrounded(normalized, out)?;
    Ok(vec![w.mul(normalized, scale)?])
}

/// `x / |x|_p` along an axis; if the norm is 0, the result is 0.
fn lp_normalization(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let axis = w.axis(w.int("axis")?.unwrap_or(-1), w.rank(x))?;
    let norm = match w.int("p")?.unwrap_or(2) {
        1 => {
            let sizes = w.unary(Unary::Abs, x)?;
            w.reduce(ReduceKind::Sum, sizes, &[axis], true)?
        }
        2 => {
            let squares = w.unary(Unary::Square, x)?;
            let sum = w.reduce(ReduceKind::Sum, squares, &[axis], true)?;
            w.unary(Unary::Sqrt, sum)?
        }
        other => bail!("norms of order {other} are not defined"),
    };
    let zero = w.scalar(w.dtype(x), 0.0);
    let quotient = w.div(x, norm)?;
    let nothing = w.binary(Binary::Eq, norm, zero)?;
    Ok(vec![w.select(nothing, zero, quotient)?])
}

fn mean_variance_normalization(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    // The first version had flags in place of axes.
    let usual =
        if w.opset < 9 && w.flag("across_channels")? { vec![0, 1, 2, 3] } else { vec![0, 2, 3] };
    let axes = w.ints("axes")?.unwrap_or(usual);
    let axes = axes.into_iter().map(|axis| w.axis(axis, w.rank(x))).collect::<Result<Vec<_>>>()?;
    let Centered { deviation, variance, .. } = centered(w, x, &axes)?;
    if w.opset < 9 && w.int("normalize_variance")?.unwrap_or(1) == 0 {
        return Ok(vec![deviation]);
    }
    let spread = w.unary(Unary::Sqrt, variance)?;
    let least = w.scalar(w.dtype(x), DEVIATION_MIN);
    let spread = w.add(spread, least)?;
    Ok(vec![w.div(deviation, spread)?])
}

/// `x - mean` and the mean of its square.
struct Centered {
    mean: Var,
    deviation: Var,
    variance: Var,
}

/// The mean of large numbers has a rounding error, so the mean of the difference is subtracted, too: for numbers near 1000
/// that differ by hundredths, the error is half a percent of the difference.
fn centered(w: &mut Wiring<'_, '_>, x: Var, axes: &[usize]) -> Result<Centered> {
    let mean = w.mean(x, axes)?;
    let rough = w.sub(x, mean)?;
    let rest = w.mean(rough, axes)?;
    let deviation = w.sub(rough, rest)?;
    let squares = w.unary(Unary::Square, deviation)?;
    let variance = w.mean(squares, axes)?;
    let mean = w.add(mean, rest)?;
    Ok(Centered { mean, deviation, variance })
}

pub(super) fn standardized(
    w: &mut Wiring<'_, '_>,
    x: Var,
    axes: &[usize],
    epsilon: f32,
) -> Result<Standardized> {
    let Centered { mean, deviation, variance } = centered(w, x, axes)?;
    let inverse_deviation = inverse_root(w, variance, epsilon)?;
    Ok(Standardized { result: w.mul(deviation, inverse_deviation)?, mean, inverse_deviation })
}

/// `1 / sqrt(x + epsilon)`.
pub(super) fn inverse_root(w: &mut Wiring<'_, '_>, x: Var, epsilon: f32) -> Result<Var> {
    let epsilon = w.scalar(w.dtype(x), f64::from(epsilon));
    let sum = w.add(x, epsilon)?;
    w.unary(Unary::Rsqrt, sum)
}

/// One number per channel in a shape that broadcasts over `x`, whose dimension 1 is the channels.
fn per_channel(w: &mut Wiring<'_, '_>, row: Var, x: Var) -> Result<Var> {
    let channels = w.shape(row).first().cloned().context("one number per channel is needed")?;
    let mut shape = vec![Dim::Fixed(1); w.rank(x)];
    *shape.get_mut(1).context("channels are the second dimension")? = channels;
    w.reshape(row, &shape)
}

/// From the attribute `axis` to the last one.
pub(super) fn axes_from(w: &Wiring<'_, '_>, x: Var) -> Result<Vec<usize>> {
    let axis = w.int("axis")?.unwrap_or(-1);
    Ok((w.axis(axis, w.rank(x))?..w.rank(x)).collect())
}
