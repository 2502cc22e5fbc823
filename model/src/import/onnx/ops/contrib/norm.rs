//! Normalizations of sums, and those of image channels in the last dimension.

use anyhow::{Result, bail, ensure};
use flotilla_program::{Binary, ReduceKind, Unary, dim::Dim};
use flotilla_tensor::DType;

use super::{super::norm, activation::with_bias};
use crate::import::onnx::{
    facts::Var,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("EmbedLayerNormalization", embed_layer_normalization),
    ("GatedRMSNorm", gated_rms_norm),
    ("GroupNorm", |w| group_norm(w, false)),
    ("LayerNormalization", |w| super::standard::reused(w, "LayerNormalization")),
    ("SimplifiedLayerNormalization", simplified_layer_normalization),
    ("SkipGroupNorm", |w| group_norm(w, true)),
    ("SkipLayerNormalization", skip_layer_normalization),
    ("SkipSimplifiedLayerNormalization", skip_simplified_layer_normalization),
];

/// Those that onnxruntime writes into the standard's domain.
pub(super) const STANDARD_OPERATORS: &[(&str, Wire)] =
    &[("SimplifiedLayerNormalization", simplified_layer_normalization)];

/// Added to the variance where a node names nothing else.
const EPSILON: f32 = 1e-12;

/// The last dimension's scale and shift.
struct Affine {
    gamma: Var,
    beta: Option<Var>,
    epsilon: f32,
}

/// A normalized value and its statistics, of which some operators have outputs.
struct Normalized {
    result: Var,
    mean: Option<Var>,
    inverse_deviation: Option<Var>,
}

/// Layer normalization of `x` over its last dimension, in full precision.
fn layer_norm(w: &mut Wiring<'_, '_>, x: Var, affine: &Affine) -> Result<Normalized> {
    let Affine { gamma, beta, epsilon } = *affine;
    let (out, axis) = (w.dtype(x), w.rank(x) - 1);
    let wide = w.unrounded(x, DType::F32)?;
    if !w.wants(1)
        && !w.wants(2)
        && let Some(result) = norm::fused(w, wide, &[axis], gamma, beta, epsilon)?
    {
        let result = w.unrounded(result, out)?;
        return Ok(Normalized { result, mean: None, inverse_deviation: None });
    }
    let standardized = norm::standardized(w, wide, &[axis], epsilon)?;
    let norm::Standardized { result, mean, inverse_deviation } = standardized;
    let gamma = w.unrounded(gamma, DType::F32)?;
    let mut result = w.mul(result, gamma)?;
    if let Some(beta) = beta {
        let beta = w.unrounded(beta, DType::F32)?;
        result = w.add(result, beta)?;
    }
    let result = w.unrounded(result, out)?;
    Ok(Normalized { result, mean: Some(mean), inverse_deviation: Some(inverse_deviation) })
}

/// `x / sqrt(mean(x^2) + epsilon) * gamma` over axes. Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", eq. 4.
fn rms_norm(
    w: &mut Wiring<'_, '_>,
    x: Var,
    axes: &[usize],
    gamma: Var,
    epsilon: f32,
) -> Result<Normalized> {
    let out = w.dtype(x);
    let wide = w.unrounded(x, DType::F32)?;
    let squares = w.unary(Unary::Square, wide)?;
    let mean = w.mean(squares, axes)?;
    let factor = norm::inverse_root(w, mean, epsilon)?;
    let normalized = w.mul(wide, factor)?;
    let gamma = w.unrounded(gamma, DType::F32)?;
    let result = w.mul(normalized, gamma)?;
    let result = w.unrounded(result, out)?;
    Ok(Normalized { result, mean: None, inverse_deviation: Some(factor) })
}

/// The scale of the last dimension, which must be a row of its size.
fn row(w: &mut Wiring<'_, '_>, index: usize, x: Var) -> Result<Var> {
    let row = w.input(index)?;
    ensure!(w.rank(x) > 0, "its operand has no dimension");
    ensure!(w.rank(row) == 1, "operand {index} has {} dimensions, one is needed", w.rank(row));
    let width = w.dim(x, w.rank(x) - 1);
    w.same("the sizes of a scale and of what is normalized", &w.dim(row, 0), &width)?;
    Ok(row)
}

fn simplified_layer_normalization(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, scale) = (w.input(0)?, w.input(1)?);
    let epsilon = w.float("epsilon")?.unwrap_or(1e-5f32);
    w.ignore(&["stash_type"]);
    let axes = norm::axes_from(w, x)?;
    let Normalized { result, inverse_deviation, .. } = rms_norm(w, x, &axes, scale, epsilon)?;
    Ok([result].into_iter().chain(inverse_deviation).collect())
}

/// `x + skip + bias`, where the skip may be without the batch, or 1 there.
fn skipped(w: &mut Wiring<'_, '_>, bias: Option<Var>) -> Result<Var> {
    let (x, skip) = (w.input(0)?, w.input(1)?);
    let (shape, from) = (w.shape(x), w.shape(skip));
    ensure!(
        (2..=3).contains(&shape.len()) && from.len() <= shape.len() && from.len() >= 2,
        "an input of {} dimensions and a skip of {}",
        shape.len(),
        from.len()
    );
    for (back, dim) in from.iter().rev().enumerate() {
        let own = &shape[shape.len() - 1 - back];
        // Only the batch may be 1 in the skip.
        if back < 2 || dim.as_fixed() != Some(1) {
            w.same("the dimensions of the input and of the skip", own, dim)?;
        }
    }
    let (out, x, skip) = (w.dtype(x), w.unrounded(x, DType::F32)?, w.unrounded(skip, DType::F32)?);
    let sum = w.add(x, skip)?;
    let bias = bias.map(|bias| w.unrounded(bias, DType::F32)).transpose()?;
    let sum = with_bias(w, sum, bias)?;
    w.unrounded(sum, out)
}

/// The outputs: result, mean, inverse deviation, sum. Those without a value are given only if nothing reads them.
fn outputs(w: &mut Wiring<'_, '_>, normalized: &Normalized, sum: Var) -> Result<Vec<Var>> {
    let Normalized { result, mean, inverse_deviation } = *normalized;
    if w.wants(1) && mean.is_none() {
        bail!("its output of the mean is not supported");
    }
    Ok(vec![result, mean.unwrap_or(result), inverse_deviation.unwrap_or(result), sum])
}

fn skip_layer_normalization(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let sum = skipped(w, w.optional(4))?;
    let gamma = row(w, 2, sum)?;
    let beta = w.optional(3).map(|_| row(w, 3, sum)).transpose()?;
    let epsilon = w.float("epsilon")?.unwrap_or(EPSILON);
    let normalized = layer_norm(w, sum, &Affine { gamma, beta, epsilon })?;
    outputs(w, &normalized, sum)
}

fn skip_simplified_layer_normalization(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let sum = skipped(w, w.optional(3))?;
    let gamma = row(w, 2, sum)?;
    let epsilon = w.float("epsilon")?.unwrap_or(EPSILON);
    let axis = w.rank(sum) - 1;
    let normalized = rms_norm(w, sum, &[axis], gamma, epsilon)?;
    outputs(w, &normalized, sum)
}

/// The sum of the embeddings of word, position and segment, normalized; and the number of words that the mask keeps.
fn embed_layer_normalization(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (ids, words, places) = (w.input(0)?, w.input(2)?, w.input(3)?);
    w.ignore(&["mask_index_type"]);
    ensure!(w.rank(ids) == 2, "word ids of {} dimensions, two are needed", w.rank(ids));
    let (batch, length) = (w.dim(ids, 0), w.dim(ids, 1));
    for table in [Some(words), Some(places), w.optional(4)].into_iter().flatten() {
        ensure!(w.rank(table) == 2, "a table of {} dimensions, two are needed", w.rank(table));
    }
    let embedded = w.gather(0, words, ids)?;
    let place = match w.optional(8) {
        Some(positions) => w.gather(0, places, positions)?,
        None => w.slice(places, 0, 0, &length)?,
    };
    let mut sum = w.add(embedded, place)?;
    match (w.optional(1), w.optional(4)) {
        (Some(segments), Some(table)) => {
            let segment = w.gather(0, table, segments)?;
            sum = w.add(sum, segment)?;
        }
        (None, None) => {}
        _ => bail!("segment ids and their embedding are given only together"),
    }
    let (gamma, beta) = (row(w, 5, sum)?, row(w, 6, sum)?);
    let epsilon = w.float("epsilon")?.unwrap_or(EPSILON);
    let x = w.unrounded(sum, DType::F32)?;
    let axis = w.rank(sum) - 1;
    let Some(result) = norm::fused(w, x, &[axis], gamma, Some(beta), epsilon)? else {
        bail!("the scales do not fit the embeddings");
    };
    let result = w.unrounded(result, w.dtype(sum))?;
    let kept = match w.optional(7) {
        Some(mask) => {
            w.check_rank("the mask", mask, 2)?;
            let one = w.scalar(w.dtype(mask), 1.0);
            let kept = w.binary(Binary::Eq, mask, one)?;
            let kept = w.cast(kept, DType::I32)?;
            w.reduce(ReduceKind::Sum, kept, &[1], false)?
        }
        None => {
            let zero = w.scalar(DType::I32, 0.0);
            w.broadcast_to(zero, &[batch])?
        }
    };
    Ok(vec![result, kept, sum])
}

/// `x / sqrt(mean(x^2) + epsilon) * scale * activation(gate)`, over groups of as many elements as the scale has.
fn gated_rms_norm(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, scale, gate) = (w.input(0)?, w.input(1)?, w.input(2)?);
    let epsilon = w.float("epsilon")?.unwrap_or(1e-5f32);
    let activation = w.text("activation")?.unwrap_or("silu");
    let shape = w.shape(x);
    let Some((width, outer)) = shape.split_last() else { bail!("its operand has no dimension") };
    w.check_rank("the scale", scale, 1)?;
    let size = w.number(&w.dim(scale, 0))?;
    let groups = super::activation::divided(w, "features", width, size)?;
    w.same("the numbers of elements", &shape.iter().product(), &w.shape(gate).iter().product())?;
    let grouped = [outer, &[Dim::from(groups as i64), Dim::from(size as i64)]].concat();
    let out = w.dtype(x);
    let (x, gate) = (w.unrounded(x, DType::F32)?, w.unrounded(gate, DType::F32)?);
    let (x, gate) = (w.reshape(x, &grouped)?, w.reshape(gate, &grouped)?);
    let axis = grouped.len() - 1;
    let Normalized { result, .. } = rms_norm(w, x, &[axis], scale, epsilon)?;
    let weight = w.unary(Unary::Sigmoid, gate)?;
    let weight = match activation {
        "silu" | "swish" => w.mul(gate, weight)?,
        "sigmoid" => weight,
        other => bail!("activation {other:?} is not known"),
    };
    let y = w.mul(result, weight)?;
    let y = w.unrounded(y, out)?;
    Ok(vec![w.reshape(y, &shape)?])
}

/// Group normalization of images with their channels in the last dimension, of the sum with a skip and a bias if there is one.
/// Source: Wu and He, "Group Normalization", eq. 1 to 4.
fn group_norm(w: &mut Wiring<'_, '_>, skips: bool) -> Result<Vec<Var>> {
    let (mut x, gamma, beta) = (w.input(0)?, w.input(1)?, w.input(2)?);
    let (out, shape) = (w.dtype(x), w.shape(x));
    ensure!(shape.len() == 4, "an input of {} dimensions, four are needed", shape.len());
    let last = w.int("channels_last")?.unwrap_or(1) != 0;
    let groups = w.int("groups")?.unwrap_or(0);
    let groups = usize::try_from(groups).unwrap_or(0);
    let epsilon = w.float("epsilon")?.unwrap_or(1e-5f32);
    let activation = w.int("activation")?.unwrap_or(0);
    let channels = if last { 3 } else { 1 };
    let size = super::activation::divided(w, "channels", &shape[channels], groups)?;
    x = w.unrounded(x, DType::F32)?;
    let mut sum = None;
    if skips {
        ensure!(last, "a skip is supported only with the channels in the last dimension");
        let skip = w.input(3)?;
        let mut skip = w.unrounded(skip, DType::F32)?;
        if w.rank(skip) == 2 {
            let (batch, channels) = (w.dim(skip, 0), w.dim(skip, 1));
            skip = w.reshape(skip, &[batch, 1.into(), 1.into(), channels])?;
        }
        x = w.add(x, skip)?;
        let bias = w.optional(4).map(|bias| w.unrounded(bias, DType::F32)).transpose()?;
        x = with_bias(w, x, bias)?;
        x = w.reshape(x, &shape)?;
        sum = Some(w.unrounded(x, out)?);
    }
    let mut grouped = shape.clone();
    let pair = [Dim::from(groups as i64), Dim::from(size as i64)];
    grouped.splice(channels..=channels, pair.clone());
    let split = w.reshape(x, &grouped)?;
    let axes = if last { [1, 2, 4] } else { [2, 3, 4] };
    let norm::Standardized { result, .. } = norm::standardized(w, split, &axes, epsilon)?;
    let mut y = result;
    let mut rows = pair.to_vec();
    if !last {
        rows.extend([1.into(), 1.into()]);
    }
    let (gamma, beta) = (w.unrounded(gamma, DType::F32)?, w.unrounded(beta, DType::F32)?);
    let (gamma, beta) = (w.reshape(gamma, &rows)?, w.reshape(beta, &rows)?);
    y = w.mul(y, gamma)?;
    y = w.add(y, beta)?;
    y = match activation {
        0 => y,
        1 => super::super::convolution::silu(w, y)?,
        other => bail!("there is no activation {other}"),
    };
    let y = w.reshape(y, &shape)?;
    let y = w.unrounded(y, out)?;
    Ok([y].into_iter().chain(sum).collect())
}
