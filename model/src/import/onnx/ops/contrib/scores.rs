//! Attention of queries over keys and values, and the numbers that hide keys from queries.

use anyhow::{Result, bail, ensure};
use flotilla_program::{Attention, Binary, Op, dim::Dim};
use flotilla_tensor::DType;

use super::super::attention::{counted, joined, shared_product, soft_capped, split};
use crate::import::onnx::{facts::Var, wiring::Wiring};

/// Widest head that the fused operator takes.
const HEAD_DIM_MAX: usize = 256;

/// The score of a key that a query does not see.
pub(super) const HIDDEN: f64 = f32::MIN as f64;

/// Queries, keys or values.
#[derive(Clone, Copy)]
pub(super) enum Operand {
    /// `[batch, seq, heads * dim]`.
    Packed(Var),
    /// `[batch, heads, seq, dim]`.
    Split(Var),
}

impl Operand {
    /// As `[batch, heads, seq, dim]`.
    pub(super) fn split(self, w: &mut Wiring<'_, '_>, heads: usize) -> Result<Var> {
        match self {
            Operand::Packed(x) => split(w, x, heads as i64),
            Operand::Split(x) => Ok(x),
        }
    }

    /// The length of its sequences.
    pub(super) fn length(self, w: &Wiring<'_, '_>) -> Dim {
        match self {
            Operand::Packed(x) => w.dim(x, 1),
            Operand::Split(x) => w.dim(x, 2),
        }
    }
}

/// What an operator wants to see of the scores.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Nothing,
    Scores,
    Weights,
}

/// How scores are computed.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// Heads of the queries.
    pub(super) heads: usize,
    pub(super) scale: f32,
    /// Bound of the scores by a hyperbolic tangent; 0 for none.
    pub(super) softcap: f32,
    /// What is added to the scores, of rank 4 and type F32.
    pub(super) mask: Option<Var>,
    /// Scores of a key whose value is 0, `[1, heads, 1, 1]` or one element.
    pub(super) sink: Option<Var>,
    pub(super) shown: Shown,
}

/// The answers `[batch, seq, heads * dim]`, and what is to be seen of the scores.
pub(super) fn attended(
    w: &mut Wiring<'_, '_>,
    [q, k, v]: [Operand; 3],
    rules: &Rules,
) -> Result<(Var, Option<Var>)> {
    if let [Operand::Packed(q), Operand::Packed(k), Operand::Packed(v)] = [q, k, v]
        && rules.softcap == 0.0
        && rules.sink.is_none()
        && rules.shown == Shown::Nothing
        && let Some(answers) = fused(w, [q, k, v], rules)?
    {
        return Ok((answers, None));
    }
    let Rules { heads, scale, softcap, mask, sink, shown } = *rules;
    let q = q.split(w, heads)?;
    let (k, v) = (k.split(w, heads)?, v.split(w, heads)?);
    let out = w.dtype(q);
    let [q, k, v] = {
        let wide = |w: &mut Wiring<'_, '_>, x| w.unrounded(x, DType::F32);
        [wide(w, q)?, wide(w, k)?, wide(w, v)?]
    };
    let columns = w.transpose(k, &[0, 1, 3, 2])?;
    let scores = shared_product(w, q, columns)?;
    let factor = w.scalar(DType::F32, f64::from(scale));
    let mut scores = w.mul(scores, factor)?;
    if softcap > 0.0 {
        scores = soft_capped(w, scores, softcap)?;
    }
    if let Some(mask) = mask {
        scores = w.add(scores, mask)?;
    }
    let mut seen = scores;
    if let Some(sink) = sink {
        let mut shape = w.shape(scores);
        let keys = std::mem::replace(&mut shape[3], Dim::Fixed(1));
        let sink = w.broadcast_to(sink, &shape)?;
        seen = w.concat(3, &[scores, sink])?;
        seen = w.softmax(seen, &[3])?;
        seen = w.slice(seen, 3, 0, keys)?;
    } else {
        seen = w.softmax(seen, &[3])?;
    }
    let context = shared_product(w, seen, v)?;
    let context = w.unrounded(context, out)?;
    let answers = joined(w, context)?;
    let shown = match shown {
        Shown::Nothing => None,
        Shown::Scores => Some(w.unrounded(scores, out)?),
        Shown::Weights => Some(w.unrounded(seen, out)?),
    };
    Ok((answers, shown))
}

/// As the fused operator, if heads of one width are all that there is.
fn fused(w: &mut Wiring<'_, '_>, operands: [Var; 3], rules: &Rules) -> Result<Option<Var>> {
    let shape = w.shape(operands[0]);
    let widths: Vec<Option<i64>> =
        operands.iter().map(|&operand| w.dim(operand, 2).as_fixed()).collect();
    let [Some(width), keys, values] = widths[..] else { return Ok(None) };
    let dim = usize::try_from(width).unwrap_or(0) / rules.heads;
    if keys != Some(width)
        || values != Some(width)
        || dim * rules.heads != width as usize
        || !(1..=HEAD_DIM_MAX).contains(&dim)
    {
        return Ok(None);
    }
    let (keys, values) = (w.shape(operands[1]), w.shape(operands[2]));
    w.same("the batches of queries and keys", &shape[0], &keys[0])?;
    w.same("the batches of queries and values", &shape[0], &values[0])?;
    w.same("the numbers of keys and values", &keys[1], &values[1])?;
    let out = w.dtype(operands[0]);
    let attention = Op::Attention(Attention {
        heads: u32::try_from(rules.heads)?,
        scale: rules.scale,
        mask: rules.mask.is_some(),
    });
    let operands = operands.into_iter().map(|operand| w.unrounded(operand, DType::F32));
    let mut operands = operands.collect::<Result<Vec<_>>>()?;
    operands.extend(rules.mask);
    let answers = w.op(attention, &operands, DType::F32, shape)?;
    Ok(Some(w.unrounded(answers, out)?))
}

/// The sizes of an attention.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    pub(super) batch: Dim,
    pub(super) heads: usize,
    pub(super) queries: Dim,
    /// Keys of the past.
    pub(super) past: Dim,
    /// All keys.
    pub(super) keys: Dim,
}

/// What is added to the scores, `[batch or 1, heads or 1, queries or 1, keys]`: `hidden` for a key that the file's mask hides, the
/// least number for one that lies behind its query, and the given numbers.
pub(super) fn masks(
    w: &mut Wiring<'_, '_>,
    sizes: &Sizes,
    mask: Option<Var>,
    bias: Option<Var>,
    causal: bool,
    hidden: f32,
) -> Result<Option<Var>> {
    let allowed = match mask {
        Some(mask) => allowed(w, sizes, mask)?,
        None => None,
    };
    let zero = w.scalar(DType::F32, 0.0);
    let mut sum = match allowed {
        Some(allowed) => {
            let hidden = w.scalar(DType::F32, f64::from(hidden));
            Some(w.select(allowed, zero, hidden)?)
        }
        None => None,
    };
    if causal && sizes.queries != Dim::Fixed(1) {
        let (key, query) = (counted(w, &sizes.keys, 3)?, counted(w, &sizes.queries, 2)?);
        let past = w.dimension(sizes.past.clone(), DType::I64)?;
        let position = w.add(query, past)?;
        let seen = w.binary(Binary::Le, key, position)?;
        let never = w.scalar(DType::F32, HIDDEN);
        sum = Some(w.select(seen, sum.unwrap_or(zero), never)?);
    }
    if let Some(bias) = bias {
        let bias = checked_bias(w, sizes, bias)?;
        sum = Some(match sum {
            Some(sum) => w.add(sum, bias)?,
            None => bias,
        });
    }
    Ok(sum)
}

/// Numbers for the scores, `[batch or 1, heads or 1, queries, keys]`, as F32.
pub(super) fn checked_bias(w: &mut Wiring<'_, '_>, sizes: &Sizes, bias: Var) -> Result<Var> {
    let shape = w.shape(bias);
    let [batch, heads, queries, keys] = &shape[..] else {
        bail!("the bias of the scores has {} dimensions, four are needed", shape.len());
    };
    let one = Dim::Fixed(1);
    if *batch != one {
        w.same("the batches of queries and of the bias", &sizes.batch, batch)?;
    }
    if *heads != one {
        w.same("the heads of queries and of the bias", &Dim::from(sizes.heads as i64), heads)?;
    }
    w.same("the queries and the rows of the bias", &sizes.queries, queries)?;
    w.same("the keys and the columns of the bias", &sizes.keys, keys)?;
    w.unrounded(bias, DType::F32)
}

/// Which keys a mask allows, of rank 4; `None` for a mask that means nothing.
fn allowed(w: &mut Wiring<'_, '_>, sizes: &Sizes, mask: Var) -> Result<Option<Var>> {
    ensure!(w.dtype(mask).is_integer(), "the mask is {:?}, integers are needed", w.dtype(mask));
    let Sizes { batch, queries, keys, .. } = sizes;
    let shape = w.shape(mask);
    let one = Dim::Fixed(1);
    let rows = |w: &mut Wiring<'_, '_>, mask: Var, shape: &[Dim]| -> Result<Option<Var>> {
        let zero = w.scalar(w.dtype(mask), 0.0);
        let allowed = w.binary(Binary::Gt, mask, zero)?;
        Ok(Some(w.reshape(allowed, shape)?))
    };
    match &shape[..] {
        [count] => lengths(w, sizes, mask, count).map(Some),
        // A mask of one column has no effect.
        [_, columns] if *columns == one && *keys != one => Ok(None),
        [of, columns] => {
            w.same("the batches of queries and of the mask", batch, of)?;
            w.same("the keys and the columns of the mask", keys, columns)?;
            rows(w, mask, &[of.clone(), one.clone(), one, columns.clone()])
        }
        [of, rows_of, columns] => {
            w.same("the batches of queries and of the mask", batch, of)?;
            w.same("the queries and the rows of the mask", queries, rows_of)?;
            w.same("the keys and the columns of the mask", keys, columns)?;
            rows(w, mask, &[of.clone(), one, rows_of.clone(), columns.clone()])
        }
        // Of a mask for all positions, the rows of the queries.
        [of, heads, _, _] => {
            w.same("the batches of queries and of the mask", batch, of)?;
            w.same("the heads of the mask and 1", heads, &one)?;
            let mask = w.slice(mask, 2, keys - queries, keys)?;
            let mask = w.slice(mask, 3, 0, keys)?;
            rows(w, mask, &[of.clone(), one, queries.clone(), keys.clone()])
        }
        other => bail!("the mask has {} dimensions, one to four are supported", other.len()),
    }
}

/// Keys before the end of each sequence and, if there are `2 * batch` numbers, not before its start. `3 * batch + 2` numbers begin
/// with the lengths, too.
fn lengths(w: &mut Wiring<'_, '_>, sizes: &Sizes, mask: Var, count: &Dim) -> Result<Var> {
    let batch = &sizes.batch;
    let key = counted(w, &sizes.keys, 3)?;
    let (pairs, runs) = (batch * 2, batch * 3 + 2);
    let column = [batch.clone(), 1.into(), 1.into(), 1.into()];
    let ends = w.slice(mask, 0, 0, batch)?;
    let ends = w.reshape(ends, &column)?;
    let before = w.binary(Binary::Lt, key, ends)?;
    if count == batch || *count == runs {
        return Ok(before);
    }
    // Where the number of numbers is open, each run decides: without starts, the ends are read again and multiplied by 0.
    let (is_pair, is_known) = w.walk.bounded(|bounds| {
        let is_pair = count.equal(&pairs, bounds);
        let is_run = count.equal(batch, bounds).select(1, count.equal(&runs, bounds));
        (is_pair.clone(), is_pair.select(1, is_run))
    });
    w.same(
        "whether the mask has 1, 2 or 3 (and 2) numbers for each sequence, and 1",
        &is_known,
        &1.into(),
    )?;
    let start = batch * &is_pair;
    let starts = w.slice(mask, 0, &start, &start + batch)?;
    let starts = w.reshape(starts, &column)?;
    let factor = w.dimension(is_pair, w.dtype(starts))?;
    let starts = w.mul(starts, factor)?;
    let behind = w.binary(Binary::Ge, key, starts)?;
    w.binary(Binary::And, before, behind)
}

/// The attribute `scale`, or the inverse root of the width of a head.
pub(super) fn scale(w: &Wiring<'_, '_>, head_dim: usize) -> Result<f32> {
    let usual = || (head_dim as f32).sqrt().recip();
    Ok(match w.float("scale")? {
        Some(scale) if scale != 0.0 => scale,
        _ => usual(),
    })
}

/// A number of heads.
pub(super) fn heads(w: &Wiring<'_, '_>, name: &str) -> Result<usize> {
    let heads = w.int(name)?.unwrap_or(0);
    match usize::try_from(heads) {
        Ok(heads) if (1..=HEADS_MAX).contains(&heads) => Ok(heads),
        _ => bail!("{name} is {heads}, 1 to {HEADS_MAX} are supported"),
    }
}

/// Most heads; the largest models have some hundreds.
const HEADS_MAX: usize = 65_536;
