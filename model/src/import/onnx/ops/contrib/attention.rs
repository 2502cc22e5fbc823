//! Attention with as many heads of keys as of queries. Source: Vaswani et al., "Attention Is All You Need", 3.2.

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_program::dim::{Dim, ToDim as _};

use super::{
    super::attention::{split, turned},
    activation::{divided, with_bias},
    cache::{Buffer, appended},
    rotary::computed_angles,
    scores::{self, Operand, Rules, Shown, Sizes, attended, heads, masks},
};
use crate::import::onnx::{
    facts::Var,
    wiring::{SIZES, Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("Attention", attention),
    ("DecoderMaskedMultiHeadAttention", decoder_masked_multi_head_attention),
    ("MultiHeadAttention", multi_head_attention),
];

/// Largest weights that are taken apart when a model is loaded, bytes; others are multiplied at once, and the product is.
const WEIGHTS_BYTES_MAX: usize = 64 << 20;

/// The score of a key that a mask hides, where a node names nothing else.
const FILTER: f32 = -10_000.0;

/// Queries, keys and values of one input and one matrix.
fn attention(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let (shape, heads) = (w.shape(x), heads(w, "num_heads")?);
    let [batch, length, _] = &shape[..] else {
        bail!("its input has {} dimensions, three are needed", shape.len());
    };
    let [q, k, v] = projected(w, x, heads)?;
    let q_width = w.number(&w.dim(q, 2))?;
    let dim = divided(w, "queries", &w.dim(q, 2), heads)?;
    ensure!(w.number(&w.dim(k, 2))? == q_width, "queries and keys have different widths");
    divided(w, "values", &w.dim(v, 2), heads)?;
    let past = w.optional(4);
    if let Some(past) = past {
        let rank = w.rank(past);
        ensure!(rank == 5, "the past has {rank} dimensions, five are needed");
        w.same("the parts of the past and 2", &w.dim(past, 0), &2.to_dim())?;
    }
    let buffer = match (w.flag("past_present_share_buffer")?, past) {
        (true, Some(past)) => Buffer::Shared {
            filled: w.element(6, SIZES).context("the length of the past")?,
            capacity: w.dim(past, 3),
        },
        (true, None) => bail!("a shared buffer is needed as the past"),
        (false, past) => {
            Buffer::Growing { past: past.map_or(Dim::Fixed(0), |past| w.dim(past, 3)) }
        }
    };
    let first = buffer.filled();
    let (q, k) = rotated(w, [q, k], heads, dim, &first)?;
    let halves = match past {
        Some(past) => {
            let inner = w.shape(past)[1..].to_vec();
            let key = w.slice(past, 0, 0, 1)?;
            let value = w.slice(past, 0, 1, 2)?;
            [Some(w.reshape(key, &inner)?), Some(w.reshape(value, &inner)?)]
        }
        None => [None, None],
    };
    let keys = appended(w, halves[0], k, heads, &buffer)?;
    let values = appended(w, halves[1], v, heads, &buffer)?;
    let sizes = Sizes {
        batch: batch.clone(),
        heads,
        queries: length.clone(),
        past: first,
        keys: keys.seen.length(w),
    };
    let causal = w.flag("unidirectional")?;
    let filter = w.float("mask_filter_value")?.unwrap_or(FILTER);
    let mask = masks(w, &sizes, w.optional(3), w.optional(5), causal, filter)?;
    let rules = Rules {
        heads,
        scale: scores::scale(w, dim)?,
        softcap: 0.0,
        mask,
        sink: None,
        shown: Shown::Nothing,
    };
    let (answers, _) = attended(w, [q, keys.seen, values.seen], &rules)?;
    let mut outputs = vec![answers];
    if w.wants(1) {
        let (key, value) = (keys.kept.split(w, heads)?, values.kept.split(w, heads)?);
        let (key, value) = (w.unsqueeze(key, 0)?, w.unsqueeze(value, 0)?);
        outputs.push(w.concat(0, &[key, value])?);
    }
    Ok(outputs)
}

/// The input times the parts of the matrix for queries, keys and values, with their biases.
fn projected(w: &mut Wiring<'_, '_>, x: Var, heads: usize) -> Result<[Var; 3]> {
    let (weights, bias) = (w.input(1)?, w.optional(2));
    ensure!(w.rank(weights) == 2, "weights of {} dimensions, two are needed", w.rank(weights));
    let columns = w.number(&w.dim(weights, 1))?;
    let widths: Vec<usize> = match w.ints("qkv_hidden_sizes")?.filter(|given| !given.is_empty()) {
        Some(given) => {
            let widths: Option<Vec<usize>> = given
                .iter()
                .map(|&width| usize::try_from(width).ok().filter(|&width| width <= columns))
                .collect();
            match widths {
                Some(widths) if widths.len() == 3 && widths.iter().sum::<usize>() == columns => {
                    widths
                }
                _ => bail!("qkv_hidden_sizes {given:?} do not divide {columns} columns of weights"),
            }
        }
        None => vec![divided(w, "weights", &columns.to_dim(), 3)?; 3],
    };
    for width in &widths {
        divided(w, "queries, keys or values", &width.to_dim(), heads)?;
    }
    let small =
        w.constant(weights).is_some_and(|weights| weights.data.elements() * 4 <= WEIGHTS_BYTES_MAX);
    let product = if small { None } else { Some(w.matmul(x, weights)?) };
    let (mut start, mut parts) = (0usize, Vec::new());
    for width in widths {
        let end = start + width;
        let part = match product {
            Some(product) => w.slice(product, 2, start, end)?,
            None => {
                let weights = w.slice(weights, 1, start, end)?;
                w.matmul(x, weights)?
            }
        };
        let bias = bias.map(|bias| {
            ensure!(w.rank(bias) == 1, "a bias of {} dimensions", w.rank(bias));
            w.same("the columns of weights and bias", &columns.to_dim(), &w.dim(bias, 0))?;
            w.slice(bias, 0, start, end)
        });
        parts.push(with_bias(w, part, bias.transpose()?)?);
        start = end;
    }
    match parts[..] {
        [q, k, v] => Ok([q, k, v]),
        _ => bail!("weights of {columns} columns"),
    }
}

/// Queries and keys, turned by their positions if the node wants it.
fn rotated(
    w: &mut Wiring<'_, '_>,
    [q, k]: [Var; 2],
    heads: usize,
    dim: usize,
    first: &Dim,
) -> Result<(Operand, Operand)> {
    let width = w.int("rotary_embedding_dim")?.unwrap_or(0);
    if !w.flag("do_rotary")? {
        return Ok((Operand::Packed(q), Operand::Packed(k)));
    }
    let rotated = if width == 0 { dim } else { usize::try_from(width).unwrap_or(0) };
    ensure!(
        rotated > 0 && rotated <= dim && rotated.is_multiple_of(2),
        "{rotated} of {dim} features cannot be turned in pairs"
    );
    let length = w.dim(q, 1);
    let angles = computed_angles(w, first, &length, rotated / 2)?;
    let mut turn = |x: Var| -> Result<Operand> {
        let x = split(w, x, heads as i64)?;
        Ok(Operand::Split(turned(w, x, angles, rotated as i64, false)?))
    };
    Ok((turn(q)?, turn(k)?))
}

/// Queries, keys and values in one of the forms of MultiHeadAttention.
struct Given {
    q: Var,
    k: Operand,
    v: Operand,
}

/// Takes the operands apart: three packed ones, keys and values in one, all in one, or keys and values of an encoder by heads.
fn given(w: &mut Wiring<'_, '_>, heads: usize) -> Result<Given> {
    let (q, k, v, bias) = (w.input(0)?, w.optional(1), w.optional(2), w.optional(3));
    let part = |w: &mut Wiring<'_, '_>, x: Var, index: usize| -> Result<Var> {
        let shape = w.shape(x);
        w.same("the heads of operands and num_heads", &shape[2], &heads.to_dim())?;
        let part = w.slice(x, 3, index, index + 1)?;
        let width = w.number(&shape[4])? * heads;
        w.reshape(part, &[shape[0].clone(), shape[1].clone(), width.to_dim()])
    };
    let packed = |w: &mut Wiring<'_, '_>, x: Var, parts: usize| -> Result<()> {
        w.same("the parts of a packed operand", &w.dim(x, 3), &parts.to_dim()).map(drop)
    };
    match (w.rank(q), k.map(|k| w.rank(k)), v.map(|v| w.rank(v))) {
        (5, None, None) => {
            packed(w, q, 3)?;
            let [q, k, v] = [part(w, q, 0)?, part(w, q, 1)?, part(w, q, 2)?];
            let [q, k, v] = all_biased(w, [q, k, v], bias)?;
            Ok(Given { q, k: Operand::Packed(k), v: Operand::Packed(v) })
        }
        (3, Some(5), None) => {
            let pair = w.input(1)?;
            packed(w, pair, 2)?;
            let [k, v] = [part(w, pair, 0)?, part(w, pair, 1)?];
            let [q, k, v] = all_biased(w, [q, k, v], bias)?;
            Ok(Given { q, k: Operand::Packed(k), v: Operand::Packed(v) })
        }
        (3, Some(3), Some(3)) => {
            let [q, k, v] = all_biased(w, [q, w.input(1)?, w.input(2)?], bias)?;
            Ok(Given { q, k: Operand::Packed(k), v: Operand::Packed(v) })
        }
        (3, Some(4), Some(4)) => {
            let (k, v) = (w.input(1)?, w.input(2)?);
            let width = w.number(&w.dim(q, 2))?;
            let q = match bias {
                // Keys and values have theirs already.
                Some(bias) => {
                    ensure!(w.rank(bias) == 1, "a bias of {} dimensions", w.rank(bias));
                    let bias = w.slice(bias, 0, 0, width)?;
                    with_bias(w, q, Some(bias))?
                }
                None => q,
            };
            Ok(Given { q, k: Operand::Split(k), v: Operand::Split(v) })
        }
        (q, k, v) => bail!("queries, keys and values of {q}, {k:?} and {v:?} dimensions"),
    }
}

/// Queries, keys and values with their parts of one bias.
fn all_biased(w: &mut Wiring<'_, '_>, operands: [Var; 3], bias: Option<Var>) -> Result<[Var; 3]> {
    let Some(bias) = bias else { return Ok(operands) };
    ensure!(w.rank(bias) == 1, "a bias of {} dimensions, one is needed", w.rank(bias));
    let mut widths = Vec::new();
    for operand in operands {
        widths.push(w.number(&w.dim(operand, 2))?);
    }
    let all: usize = widths.iter().sum();
    w.same("the widths of operands and of the bias", &all.to_dim(), &w.dim(bias, 0))?;
    let (mut start, mut results) = (0, operands);
    for (result, width) in results.iter_mut().zip(widths) {
        let part = w.slice(bias, 0, start, start + width)?;
        *result = with_bias(w, *result, Some(part))?;
        start += width;
    }
    Ok(results)
}

fn multi_head_attention(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let heads = heads(w, "num_heads")?;
    ensure!(w.optional(8).is_none(), "past_sequence_length is not supported");
    ensure!(w.optional(9).is_none(), "cache_indirection is not supported");
    let Given { q, k, v } = given(w, heads)?;
    let causal = w.flag("unidirectional")?;
    many_headed(w, Many { heads, q, k, v, causal, mask: 4, bias: 5, past: [6, 7], filled: 8 })
}

/// A single query, with the past in a shared buffer or growing.
fn decoder_masked_multi_head_attention(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let heads = heads(w, "num_heads")?;
    ensure!(w.optional(9).is_none(), "cache_indirection is not supported");
    if w.optional(8).is_some() {
        let beams = w.known_i64(8)?;
        ensure!(beams == 1, "beam_width is {beams}, only 1 is supported");
    }
    w.ignore(&["output_qk"]);
    let (query, bias) = (w.input(0)?, w.optional(10));
    ensure!(w.rank(query) == 3, "queries of {} dimensions, three are needed", w.rank(query));
    w.same("the number of queries and 1", &w.dim(query, 1), &1.to_dim())?;
    let (q, k, v) = match (w.optional(1), w.optional(2)) {
        (None, None) => {
            let width = divided(w, "queries, keys and values", &w.dim(query, 2), 3)?;
            let mut parts = [query; 3];
            for (index, part) in parts.iter_mut().enumerate() {
                *part = w.slice(query, 2, index * width, (index + 1) * width)?;
            }
            let [q, k, v] = all_biased(w, parts, bias)?;
            (q, Operand::Packed(k), Operand::Packed(v))
        }
        (Some(k), Some(v)) if w.rank(k) == 3 && w.rank(v) == 3 => {
            let [q, k, v] = all_biased(w, [query, k, v], bias)?;
            (q, Operand::Packed(k), Operand::Packed(v))
        }
        (Some(k), Some(v)) if w.rank(k) == 4 && w.rank(v) == 4 => {
            let width = w.number(&w.dim(query, 2))?;
            let part = |bias| {
                w.check_rank("the bias", bias, 1)?;
                w.slice(bias, 0, 0, width)
            };
            let bias = bias.map(part).transpose()?;
            (with_bias(w, query, bias)?, Operand::Split(k), Operand::Split(v))
        }
        _ => bail!("its keys and values have neither three nor four dimensions"),
    };
    many_headed(
        w,
        Many { heads, q, k, v, causal: false, mask: 3, bias: 4, past: [5, 6], filled: 7 },
    )
}

/// The operands of an attention with one head of keys for each of queries; the numbers are places of operands.
struct Many {
    heads: usize,
    q: Var,
    k: Operand,
    v: Operand,
    causal: bool,
    mask: usize,
    bias: usize,
    past: [usize; 2],
    filled: usize,
}

fn many_headed(w: &mut Wiring<'_, '_>, many: Many) -> Result<Vec<Var>> {
    let Many { heads, q, k, v, causal, .. } = many;
    let dim = divided(w, "queries", &w.dim(q, 2), heads)?;
    for (what, operand) in [("keys", k), ("values", v)] {
        match operand {
            Operand::Packed(x) => drop(divided(w, what, &w.dim(x, 2), heads)?),
            Operand::Split(x) => drop(w.same(
                "the heads of operands and num_heads",
                &w.dim(x, 1),
                &heads.to_dim(),
            )?),
        }
    }
    let past = [w.optional(many.past[0]), w.optional(many.past[1])];
    ensure!(past[0].is_some() == past[1].is_some(), "past keys and values are given only together");
    for past in past.into_iter().flatten() {
        let rank = w.rank(past);
        ensure!(rank == 4, "the past has {rank} dimensions, four are needed");
    }
    ensure!(
        past[0].is_none() || matches!(k, Operand::Packed(_)),
        "a past beside keys and values by heads is not supported"
    );
    let buffer = match (past[0], w.flag("past_present_share_buffer")?) {
        (Some(past), true) => Buffer::Shared {
            filled: w.element(many.filled, SIZES).context("the length of the past")?,
            capacity: w.dim(past, 2),
        },
        (Some(past), false) => Buffer::Growing { past: w.dim(past, 2) },
        (None, _) => Buffer::Growing { past: Dim::Fixed(0) },
    };
    let (first, queries) = (buffer.filled(), w.dim(q, 1));
    let batch = w.dim(q, 0);
    let keys = appended(w, past[0], k, heads, &buffer)?;
    let values = appended(w, past[1], v, heads, &buffer)?;
    let sizes = Sizes { batch, heads, queries, past: first, keys: keys.seen.length(w) };
    let filter = w.float("mask_filter_value")?.unwrap_or(FILTER);
    let mask = masks(w, &sizes, w.optional(many.mask), w.optional(many.bias), causal, filter)?;
    let rules = Rules {
        heads,
        scale: scores::scale(w, dim)?,
        softcap: 0.0,
        mask,
        sink: None,
        shown: if w.wants(3) { Shown::Scores } else { Shown::Nothing },
    };
    let (answers, shown) = attended(w, [Operand::Packed(q), keys.seen, values.seen], &rules)?;
    let mut outputs = vec![answers];
    if w.wants(1) || w.wants(2) || w.wants(3) {
        outputs.push(keys.kept.split(w, heads)?);
        outputs.push(values.kept.split(w, heads)?);
        outputs.extend(shown);
    }
    Ok(outputs)
}
