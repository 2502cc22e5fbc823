//! Attention in which several heads of queries share one of keys and values. Source: Ainslie et al., "GQA", 2.

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_program::{Binary, Unary, dim::ToDim as _};
use flotilla_tensor::DType;

use super::{
    super::{
        attention::{counted, turned},
        norm::inverse_root,
    },
    activation::divided,
    cache::placed,
    rotary::check_caches,
    scores::{self, HIDDEN, Operand, Rules, Shown, Sizes, attended, checked_bias, heads},
};
use crate::import::onnx::{
    facts::Var,
    wiring::{SIZES, Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[("GroupQueryAttention", group_query_attention)];

/// Queries, new keys and values as `[batch, seq, heads, dim]`.
struct Given {
    q: Var,
    k: Var,
    v: Var,
    dim: usize,
}

fn group_query_attention(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (heads, shared) = (heads(w, "num_heads")?, heads(w, "kv_num_heads")?);
    ensure!(heads.is_multiple_of(shared), "{heads} heads of queries cannot share {shared} of keys");
    refuse_quantized(w)?;
    w.only("sliding_window_cache", 0)?;
    let causal = w.int("causal")?.unwrap_or(1) != 0;
    let window = w.int("local_window_size")?.unwrap_or(-1);
    let Given { q, k, v, dim } = given(w, heads, shared)?;
    let (q, k) = normalized(w, q, k)?;
    let (batch, queries) = (w.dim(q, 0), w.dim(q, 1));
    // How many keys each sequence has with those of this run, and how many of these are before it.
    let column = [batch.clone(), 1.into(), 1.into(), 1.into()];
    let ends = w.input(5)?;
    ensure!(w.dtype(ends).is_integer(), "seqlens_k are {:?}", w.dtype(ends));
    let ends = w.reshape(ends, &column)?;
    let one = w.integer(1);
    let ends = w.add(ends, one)?;
    let total = w.element(6, SIZES).context("total_sequence_length")?;
    let count = match w.optional(16) {
        Some(count) => Some(w.reshape(count, &column)?),
        None => None,
    };
    let new = match count {
        Some(count) => count,
        None => w.dimension(queries.clone(), DType::I64)?,
    };
    let first = w.sub(ends, new)?;
    let zero = w.integer(0);
    let first = w.max(first, zero)?;
    // The position of each query, `[batch, 1, seq, 1]`.
    let query = counted(w, &queries, 2)?;
    let position = w.add(query, first)?;
    let (q, k) = rotated(w, [q, k], position, count.is_some())?;
    let [q, k, v] = {
        let by_head = |w: &mut Wiring<'_, '_>, x| w.transpose(x, &[0, 2, 1, 3]);
        [by_head(w, q)?, by_head(w, k)?, by_head(w, v)?]
    };
    let (past_keys, past_values) = (w.optional(3), w.optional(4));
    let (kept, seen) = match (past_keys, past_values) {
        (Some(keys), Some(values)) => {
            for past in [keys, values] {
                let shape = w.shape(past);
                ensure!(
                    shape.len() == 4,
                    "the past has {} dimensions, four are needed",
                    shape.len()
                );
                ensure!(
                    w.dtype(past) == w.dtype(q),
                    "the past is {:?}, queries are {:?}; a quantized past is not supported",
                    w.dtype(past),
                    w.dtype(q)
                );
                w.same("the batches of queries and of the past", &batch, &shape[0])?;
                w.same("the heads of keys and of the past", &shared.to_dim(), &shape[1])?;
                w.same("the widths of heads", &dim.to_dim(), &shape[3])?;
            }
            w.same("the lengths of past keys and values", &w.dim(keys, 2), &w.dim(values, 2))?;
            let room = w.dim(keys, 2);
            let capacity = w.walk.bounded(|bounds| room.most(&total, bounds));
            let keys = placed(w, keys, k, first, count, &capacity)?;
            let values = placed(w, values, v, first, count, &capacity)?;
            let seen = [w.slice(keys, 2, 0, &total)?, w.slice(values, 2, 0, &total)?];
            ([keys, values], seen)
        }
        (None, None) => {
            w.same("the numbers of tokens and of all keys without a past", &queries, &total)?;
            ([k, v], [k, v])
        }
        _ => bail!("past keys and values are given only together"),
    };
    let keys = w.dim(seen[0], 2);
    let key = counted(w, &keys, 3)?;
    // Without a past all sequences begin at the first key.
    let position = if past_keys.is_some() { position } else { query };
    let mut allowed = if causal {
        Some(w.binary(Binary::Le, key, position)?)
    } else {
        ensure!(window <= 0, "a local window without the order of positions is not defined");
        Some(w.binary(Binary::Lt, key, ends)?)
    };
    if window > 0 {
        let size = w.integer(window);
        let from = w.sub(position, size)?;
        let near = w.binary(Binary::Gt, key, from)?;
        allowed = match allowed {
            Some(allowed) => Some(w.binary(Binary::And, allowed, near)?),
            None => Some(near),
        };
    }
    let mut mask = None;
    if let Some(allowed) = allowed {
        let (open, never) = (w.scalar(DType::F32, 0.0), w.scalar(DType::F32, HIDDEN));
        mask = Some(w.select(allowed, open, never)?);
    }
    if let Some(bias) = w.optional(10) {
        let sizes =
            Sizes { batch: batch.clone(), heads, queries: queries.clone(), past: 0.into(), keys };
        let bias = checked_bias(w, &sizes, bias)?;
        mask = Some(match mask {
            Some(mask) => w.add(mask, bias)?,
            None => bias,
        });
    }
    let softcap = w.float("softcap")?.unwrap_or(0.0);
    ensure!(softcap >= 0.0, "softcap is {softcap}, at least 0 is needed");
    let shown = match w.int("qk_output")?.unwrap_or(0) {
        _ if !w.wants(3) => Shown::Nothing,
        1 => Shown::Scores,
        2 => Shown::Weights,
        other => bail!("there is no qk_output {other}"),
    };
    let sink = sink(w, heads)?;
    let rules = Rules { heads, scale: scores::scale(w, dim)?, softcap, mask, sink, shown };
    let operands = [Operand::Split(q), Operand::Split(seen[0]), Operand::Split(seen[1])];
    let (answers, shown) = attended(w, operands, &rules)?;
    Ok([answers, kept[0], kept[1]].into_iter().chain(shown).collect())
}

/// Keys and values of the past as 8-bit or 4-bit numbers are not supported.
fn refuse_quantized(w: &Wiring<'_, '_>) -> Result<()> {
    for name in ["k_quant_type", "v_quant_type"] {
        let kind = w.text(name)?.unwrap_or("NONE");
        ensure!(kind == "NONE", "{name} is {kind:?}, only \"NONE\" is supported");
    }
    w.ignore(&["kv_cache_bit_width"]);
    ensure!(
        w.optional(12).is_none() && w.optional(13).is_none(),
        "scales of a quantized past are not supported"
    );
    Ok(())
}

/// Takes the operands apart: three, or all in one.
fn given(w: &mut Wiring<'_, '_>, heads: usize, shared: usize) -> Result<Given> {
    let q = w.input(0)?;
    let shape = w.shape(q);
    let [batch, seq, width] = &shape[..] else {
        bail!("queries have {} dimensions, three are needed", shape.len());
    };
    let by_head = |w: &mut Wiring<'_, '_>, x: Var, heads: usize, dim: usize| -> Result<Var> {
        let shape = w.shape(x);
        ensure!(
            shape.len() == 3,
            "keys or values have {} dimensions, three are needed",
            shape.len()
        );
        w.same("the batches of queries and keys", batch, &shape[0])?;
        w.same("the lengths of queries and new keys", seq, &shape[1])?;
        w.same("the widths of keys or values", &(heads * dim).to_dim(), &shape[2])?;
        w.reshape(x, &[batch.clone(), seq.clone(), heads.to_dim(), dim.to_dim()])
    };
    match (w.optional(1), w.optional(2)) {
        (Some(k), Some(v)) => {
            let dim = divided(w, "queries", width, heads)?;
            let (q, k) = (by_head(w, q, heads, dim)?, by_head(w, k, shared, dim)?);
            Ok(Given { q, k, v: by_head(w, v, shared, dim)?, dim })
        }
        (None, None) => {
            let dim = divided(w, "queries, keys and values", width, heads + 2 * shared)?;
            let (keys, values) = (heads * dim, (heads + shared) * dim);
            let k = w.slice(q, 2, keys, values)?;
            let v = w.slice(q, 2, values, width)?;
            let q = w.slice(q, 2, 0, keys)?;
            let (q, k) = (by_head(w, q, heads, dim)?, by_head(w, k, shared, dim)?);
            Ok(Given { q, k, v: by_head(w, v, shared, dim)?, dim })
        }
        _ => bail!("keys and values are given only together"),
    }
}

/// Queries and keys with each head normalized by its root mean square, if there are scales for it.
fn normalized(w: &mut Wiring<'_, '_>, q: Var, k: Var) -> Result<(Var, Var)> {
    let both = w.float("qk_norm_epsilon")?.unwrap_or(1e-6f32);
    let epsilons =
        [w.float("q_norm_epsilon")?.unwrap_or(both), w.float("k_norm_epsilon")?.unwrap_or(both)];
    let (Some(of_q), Some(of_k)) = (w.optional(14), w.optional(15)) else {
        ensure!(
            w.optional(14).is_none() && w.optional(15).is_none(),
            "scales of queries and keys are given only together"
        );
        return Ok((q, k));
    };
    let mut results = [q, k];
    for ((x, scale), epsilon) in results.iter_mut().zip([of_q, of_k]).zip(epsilons) {
        let out = w.dtype(*x);
        let wide = w.unrounded(*x, DType::F32)?;
        let squares = w.unary(Unary::Square, wide)?;
        let mean = w.mean(squares, &[3])?;
        let factor = inverse_root(w, mean, epsilon)?;
        let scaled = w.mul(wide, factor)?;
        let scale = w.unrounded(scale, DType::F32)?;
        let scaled = w.mul(scaled, scale)?;
        *x = w.unrounded(scaled, out)?;
    }
    Ok((results[0], results[1]))
}

/// Queries and keys turned by their positions `[batch, 1, seq, 1]`, if the node wants it.
fn rotated(
    w: &mut Wiring<'_, '_>,
    [q, k]: [Var; 2],
    position: Var,
    may_exceed: bool,
) -> Result<(Var, Var)> {
    let interleaved = w.flag("rotary_interleaved")?;
    if !w.flag("do_rotary")? {
        return Ok((q, k));
    }
    let (cos, sin) = (w.input(7)?, w.input(8)?);
    check_caches(w, cos, sin)?;
    let half = w.number(&w.dim(cos, 1))?;
    let dim = w.number(&w.dim(q, 3))?;
    ensure!(half > 0 && 2 * half <= dim, "{half} angles for {dim} features");
    let ids = match w.optional(9) {
        Some(ids) => {
            ensure!(w.rank(ids) == 2, "positions of {} dimensions, two are needed", w.rank(ids));
            ids
        }
        None => {
            let shape = w.shape(position);
            w.reshape(position, &[shape[0].clone(), shape[2].clone()])?
        }
    };
    // Rows of padding may lie behind the table.
    let ids = if may_exceed {
        let last = w.dimension(w.dim(cos, 0) - 1, DType::I64)?;
        w.min(ids, last)?
    } else {
        ids
    };
    let (cos, sin) = (w.gather(0, cos, ids)?, w.gather(0, sin, ids)?);
    let angles = [w.unsqueeze(cos, 2)?, w.unsqueeze(sin, 2)?];
    let rotated = 2 * half as i64;
    Ok((turned(w, q, angles, rotated, interleaved)?, turned(w, k, angles, rotated, interleaved)?))
}

/// The score of a key without a value: one for each head, or 0 for all.
fn sink(w: &mut Wiring<'_, '_>, heads: usize) -> Result<Option<Var>> {
    // The attribute is -1 where it is not used.
    let smooth = w.int("smooth_softmax")?.unwrap_or(-1) > 0;
    if let Some(sink) = w.optional(11) {
        w.check_rank("head_sink", sink, 1)?;
        w.same("the numbers of heads and of their sinks", &heads.to_dim(), &w.dim(sink, 0))?;
        let sink = w.unrounded(sink, DType::F32)?;
        return Ok(Some(w.reshape(sink, &[1.into(), heads.to_dim(), 1.into(), 1.into()])?));
    }
    Ok(if smooth { Some(w.scalar(DType::F32, 0.0)) } else { None })
}
