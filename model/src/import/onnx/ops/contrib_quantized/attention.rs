//! Attention whose queries, keys and values are products of quantized integers.

use anyhow::{Result, bail, ensure};
use flotilla_program::{
    Binary,
    dim::{Dim, ToDim as _},
};
use flotilla_tensor::DType;

use super::{check_bytes, matrices::scaled, single_scale, single_zero, size};
use crate::import::onnx::{
    facts::Var,
    ops::{quantize::check_zero_type, quantized::centred},
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[("QAttention", attention)];

/// Source: onnxruntime, "QAttention" and "Attention" (masks, past).
fn attention(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    for name in ["do_rotary", "past_present_share_buffer"] {
        ensure!(!w.flag(name)?, "{name} is not supported for com.microsoft.QAttention");
    }
    let heads = size(w, "num_heads")?;
    let (x, weights, bias) = (w.input(0)?, w.input(1)?, w.input(2)?);
    check_bytes(w, x, "the input")?;
    check_bytes(w, weights, "the weights")?;
    let (shape, of_weights) = (w.shape(x), w.fixed_shape(weights)?);
    let ([batch, length, _], &[_, width]) = (shape.as_slice(), of_weights.as_slice()) else {
        bail!("an input of {} and weights of {} dimensions", shape.len(), of_weights.len())
    };
    ensure!(
        width > 0 && width % (3 * heads) == 0,
        "weights of shape {of_weights:?} for queries, keys and values of {heads} heads"
    );
    let dtype = w.dtype(bias);
    ensure!(dtype.is_float(), "a bias of type {dtype:?}");
    let x_scale = single_scale(w, 3, "the scale of the input")?;
    let x_zero = single_zero(w, 6, "the zero point of the input", x)?;
    let w_scale = w.input(4)?;
    let w_scale = per_column(w, w_scale, width, "the scale of the weights")?;
    let w_scale = w.cast(w_scale, DType::F32)?;
    let w_zero = match w.optional(7) {
        Some(zero) => {
            check_zero_type(w, weights, zero)?;
            Some(per_column(w, zero, width, "the zero point of the weights")?)
        }
        None => None,
    };
    let (x, weights) = (centred(w, x, x_zero)?, centred(w, weights, w_zero)?);
    let sums = w.matmul(x, weights)?;
    let all = scaled(w, sums, [x_scale, w_scale], Some(bias), DType::F32)?;

    let head = width / 3 / heads;
    let split = [batch.clone(), length.clone(), 3.to_dim(), heads.to_dim(), head.to_dim()];
    let all = w.reshape(all, &split)?;
    // `[3, batch, heads, length, head]`
    let all = w.transpose(all, &[2, 0, 3, 1, 4])?;
    let part = |w: &mut Wiring<'_, '_>, at: i64| -> Result<Var> {
        let part = w.slice(all, 0, at, at + 1)?;
        w.squeeze(part, 0)
    };
    let (q, mut k, mut v) = (part(w, 0)?, part(w, 1)?, part(w, 2)?);
    let mut before = Dim::Fixed(0);
    if let Some(past) = w.optional(8) {
        ensure!(w.rank(past) == 5, "a past of {} dimensions, 5 are needed", w.rank(past));
        w.same("the keys and values of the past", &w.dim(past, 0), &2.to_dim())?;
        before = w.dim(past, 3);
        let past = w.cast(past, DType::F32)?;
        for (at, joined) in [(0, &mut k), (1, &mut v)] {
            let old = w.slice(past, 0, at, at + 1)?;
            let old = w.squeeze(old, 0)?;
            *joined = w.concat(2, &[old, *joined])?;
        }
    }
    let columns = w.transpose(k, &[0, 1, 3, 2])?;
    let scores = w.matmul(q, columns)?;
    let scale = match w.float("scale")?.filter(|&scale| scale != 0.0) {
        Some(scale) => f64::from(scale),
        None => (head as f64).sqrt().recip(),
    };
    let scale = w.scalar(DType::F32, scale);
    let mut scores = w.mul(scores, scale)?;
    if let Some(hidden) = bias_of_masks(w, batch, length, &before)? {
        scores = w.add(scores, hidden)?;
    }
    let weights = w.softmax(scores, &[3])?;
    let context = w.matmul(weights, v)?;
    let context = w.transpose(context, &[0, 2, 1, 3])?;
    let y = w.reshape(context, &[batch.clone(), length.clone(), (heads * head).to_dim()])?;
    let y = w.cast(y, dtype)?;
    if !w.wants(1) {
        return Ok(vec![y]);
    }
    let (k, v) = (w.unsqueeze(k, 0)?, w.unsqueeze(v, 0)?);
    let present = w.concat(0, &[k, v])?;
    Ok(vec![y, w.cast(present, dtype)?])
}

/// One element, or one for each column.
fn per_column(w: &mut Wiring<'_, '_>, var: Var, width: usize, what: &str) -> Result<Var> {
    let shape = w.shape(var);
    if shape.iter().all(|dim| *dim == Dim::Fixed(1)) {
        return w.reshape(var, &[]);
    }
    super::check_shape(w, var, what, &[width])?;
    Ok(var)
}

/// What is added to scores `[batch, heads, length, before + length]`: a number that makes weights of padding 0, and the least
/// one for keys after the query.
fn bias_of_masks(
    w: &mut Wiring<'_, '_>,
    batch: &Dim,
    length: &Dim,
    before: &Dim,
) -> Result<Option<Var>> {
    let total = before + length;
    let filter = w.float("mask_filter_value")?.unwrap_or(-10000.0);
    let filter = w.scalar(DType::F32, f64::from(filter));
    let nothing = w.scalar(DType::F32, 0.0);
    let mut bias = match padding(w, batch, &total)? {
        Some(kept) => Some(w.select(kept, nothing, filter)?),
        None => None,
    };
    if w.flag("unidirectional")? {
        let query = w.range(before.clone(), 1.to_dim(), length.clone())?;
        let query = w.unsqueeze(query, 1)?;
        let key = w.positions(&total)?;
        let later = w.binary(Binary::Gt, key, query)?;
        let least = w.scalar(DType::F32, f64::from(f32::MIN));
        bias = Some(w.select(later, least, bias.unwrap_or(nothing))?);
    }
    Ok(bias)
}

/// Which keys are not padding, of a shape that broadcasts to scores. A mask `[batch, keys]` or `[batch, queries, keys]` has
/// positive numbers for them; one of `[batch]` has the ends of the rows; one of `[2 * batch]` the ends and then the starts.
fn padding(w: &mut Wiring<'_, '_>, batch: &Dim, total: &Dim) -> Result<Option<Var>> {
    let Some(mask) = w.optional(5) else { return Ok(None) };
    let (shape, one) = (w.shape(mask), Dim::Fixed(1));
    ensure!(w.dtype(mask).is_integer(), "a mask of type {:?}", w.dtype(mask));
    let zero = w.scalar(w.dtype(mask), 0.0);
    let text = w.walk.shape_text(&shape);
    match shape.as_slice() {
        // A mask that stands for none.
        [_, last] if *last == one && *total != one => Ok(None),
        [_, _] => {
            let kept = w.binary(Binary::Gt, mask, zero)?;
            let kept = w.unsqueeze(kept, 1)?;
            w.unsqueeze(kept, 1).map(Some)
        }
        [_, _, _] => {
            let kept = w.binary(Binary::Gt, mask, zero)?;
            w.unsqueeze(kept, 1).map(Some)
        }
        [count] => {
            let key = w.positions(total)?;
            let line = |w: &mut Wiring<'_, '_>, at: Dim| -> Result<Var> {
                let part = w.slice(mask, 0, &at, &at + batch)?;
                w.reshape(part, &[batch.clone(), one.clone(), one.clone(), one.clone()])
            };
            let both = *count == batch * 2;
            if !both {
                w.same("the rows of a batch and the ends in the mask", batch, count)?;
            }
            let end = line(w, Dim::Fixed(0))?;
            let kept = w.binary(Binary::Lt, key, end)?;
            if !both {
                return Ok(Some(kept));
            }
            let start = line(w, batch.clone())?;
            let after = w.binary(Binary::Ge, key, start)?;
            w.binary(Binary::And, kept, after).map(Some)
        }
        _ => bail!("a mask of shape {text} is not supported for com.microsoft.QAttention"),
    }
}
