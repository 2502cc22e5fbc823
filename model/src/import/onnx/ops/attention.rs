//! Attention in its variants, and the rotation of its operands by their positions.

use anyhow::{Context as _, Result, bail};
use flotilla_program::{self as program, Binary, Op, ReduceKind, Unary, dim::Dim};
use flotilla_tensor::DType;

use crate::import::onnx::{
    facts::Var,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("Attention", attention),
    ("LinearAttention", linear_attention),
    ("RotaryEmbedding", rotary_embedding),
];

/// Those of the domain `ai.onnx.preview`.
pub(super) const PREVIEW_OPERATORS: &[(&str, Wire)] = &[("FlexAttention", flex_attention)];

/// The contents of the output `qk_matmul_output`, by its mode.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Products,
    Capped,
    Biased,
    Weights,
}

impl Shown {
    fn of(mode: i64) -> Result<Shown> {
        Ok(match mode {
            0 => Shown::Products,
            1 => Shown::Capped,
            2 => Shown::Biased,
            3 => Shown::Weights,
            other => bail!("there is no qk_matmul_output_mode {other}"),
        })
    }
}

/// The numbers that are added to the scores, of rank 4.
struct Bias {
    values: Var,
    /// Whether a query may have no allowed key.
    may_close: bool,
}

/// Sources: ONNX operators, "Attention"; Vaswani et al., "Attention Is All You Need", 3.2; Ainslie et al., "GQA", 2.
fn attention(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (q, k, v) = (w.input(0)?, w.input(1)?, w.input(2)?);
    let (dtype, packed) = (w.dtype(q), w.rank(q) == 3);
    let (q, k, v) = if packed {
        let heads = w.int("q_num_heads")?.context("q_num_heads is missing")?;
        let shared = w.int("kv_num_heads")?.context("kv_num_heads is missing")?;
        (split(w, q, heads)?, split(w, k, shared)?, split(w, v, shared)?)
    } else {
        (q, k, v)
    };
    let (past_key, past_value) = (w.optional(4), w.optional(5));
    let keys = match past_key {
        Some(past) => w.concat(2, &[past, k])?,
        None => k,
    };
    let values = match past_value {
        Some(past) => w.concat(2, &[past, v])?,
        None => v,
    };
    let products = products(w, q, keys)?;
    let cap = w.float("softcap")?.unwrap_or(0.0);
    let capped = if cap > 0.0 { soft_capped(w, products, cap)? } else { products };
    let bias = bias(w, products, past_key)?;
    let biased = match &bias {
        Some(bias) => w.add(capped, bias.values)?,
        None => capped,
    };
    let precision = w.int("softmax_precision")?;
    let inner = precision.map_or(Ok(dtype), float_type)?;
    let scores = w.cast(biased, inner)?;
    let weights = w.softmax(scores, &[3])?;
    let weights = w.cast(weights, dtype)?;
    let weights = match bias {
        Some(Bias { values, may_close: true }) => opened(w, weights, values)?,
        Some(Bias { may_close: false, .. }) | None => weights,
    };
    let cast_values = w.cast(values, dtype)?;
    let context = shared_product(w, weights, cast_values)?;
    let y = if packed { joined(w, context)? } else { context };
    let shown = match Shown::of(w.int("qk_matmul_output_mode")?.unwrap_or(0))? {
        Shown::Products => products,
        Shown::Capped => capped,
        Shown::Biased => biased,
        Shown::Weights => weights,
    };
    Ok(vec![y, keys, values, shown])
}

/// The float type of a number in the standard. Source: ONNX, `TensorProto.DataType`.
fn float_type(number: i64) -> Result<DType> {
    Ok(match number {
        // A page computes with at most 32 bits; the difference from 64 bits is too small for a test to see.
        1 | 11 => DType::F32,
        10 => DType::F16,
        other => bail!("softmax cannot be computed in type {other}"),
    })
}

/// `[batch, seq, heads * dim]` to `[batch, heads, seq, dim]`.
pub(super) fn split(w: &mut Wiring<'_, '_>, x: Var, heads: i64) -> Result<Var> {
    let shape = w.shape(x);
    let [batch, seq, width] = &shape[..] else { bail!("three dimensions are needed") };
    let dims = [batch.clone(), seq.clone(), heads.into(), width.over(heads)];
    let x = w.reshape(x, &dims)?;
    w.transpose(x, &[0, 2, 1, 3])
}

/// `[batch, heads, seq, dim]` to `[batch, seq, heads * dim]`.
pub(super) fn joined(w: &mut Wiring<'_, '_>, x: Var) -> Result<Var> {
    let x = w.transpose(x, &[0, 2, 1, 3])?;
    let shape = w.shape(x);
    let [batch, seq, heads, dim] = &shape[..] else { bail!("four dimensions are needed") };
    w.reshape(x, &[batch.clone(), seq.clone(), heads * dim])
}

/// `scale * q k^T`.
fn products(w: &mut Wiring<'_, '_>, q: Var, k: Var) -> Result<Var> {
    let scale = match w.float("scale")? {
        Some(scale) => f64::from(scale),
        None => (w.number(&w.dim(q, 3))? as f64).sqrt().recip(),
    };
    let columns = w.transpose(k, &[0, 1, 3, 2])?;
    let products = shared_product(w, q, columns)?;
    let scale = w.scalar(w.dtype(q), scale);
    w.mul(products, scale)
}

/// `a @ b`, where neighbouring heads of `a` share one of `b`: they become rows of one product.
pub(super) fn shared_product(w: &mut Wiring<'_, '_>, a: Var, b: Var) -> Result<Var> {
    let (shape, shared) = (w.shape(a), w.shape(b)[1].clone());
    let [batch, heads, rows, inner] = &shape[..] else { bail!("four dimensions are needed") };
    if *heads == shared {
        return w.matmul(a, b);
    }
    let (of_a, of_b) = (w.number(heads)?, w.number(&shared)?);
    if of_b == 0 || of_a % of_b != 0 {
        bail!("{of_a} heads cannot share {of_b}");
    }
    let grouped = [batch.clone(), shared, rows * (of_a / of_b), inner.clone()];
    let a = w.reshape(a, &grouped)?;
    let product = w.matmul(a, b)?;
    let columns = w.shape(product)[3].clone();
    w.reshape(product, &[batch.clone(), heads.clone(), rows.clone(), columns])
}

/// `cap * tanh(x / cap)`.
pub(super) fn soft_capped(w: &mut Wiring<'_, '_>, x: Var, cap: f32) -> Result<Var> {
    let cap = w.scalar(w.dtype(x), f64::from(cap));
    let x = w.div(x, cap)?;
    let x = w.unary(Unary::Tanh, x)?;
    w.mul(x, cap)
}

/// Weights of 0 for a query without an allowed key, for which softmax is not defined.
fn opened(w: &mut Wiring<'_, '_>, weights: Var, bias: Var) -> Result<Var> {
    let best = w.reduce(ReduceKind::Max, bias, &[3], true)?;
    let never = w.scalar(w.dtype(bias), f64::NEG_INFINITY);
    let closed = w.binary(Binary::Eq, best, never)?;
    let zero = w.scalar(w.dtype(weights), 0.0);
    w.select(closed, zero, weights)
}

/// All masks that hide keys from queries, as numbers that are added to the scores.
fn bias(w: &mut Wiring<'_, '_>, scores: Var, past: Option<Var>) -> Result<Option<Bias>> {
    let dtype = w.dtype(scores);
    let (queries, keys) = (w.shape(scores)[2].clone(), w.shape(scores)[3].clone());
    let mut allowed: Option<Var> = None;
    let mut added = None;
    if let Some(mask) = w.optional(3) {
        let mask = widened(w, mask, &keys)?;
        if w.dtype(mask) == DType::Bool { allowed = Some(mask) } else { added = Some(mask) }
    }
    let causal = w.int("is_causal")?.unwrap_or(0) != 0;
    let left = w.int("left_window_size")?.unwrap_or(-1);
    let right = w.int("right_window_size")?.unwrap_or(-1);
    let filled = match w.optional(6) {
        Some(filled) => {
            let batch = w.shape(scores)[0].clone();
            Some(w.reshape(filled, &[batch, 1.into(), 1.into(), 1.into()])?)
        }
        None => None,
    };
    let may_close =
        allowed.is_some() || added.is_some() || filled.is_some() || left >= 0 || right >= 0;
    if causal || left >= 0 || right >= 0 || filled.is_some() {
        let key = counted(w, &keys, 3)?;
        let mut rules = Vec::new();
        if let Some(filled) = filled {
            rules.push(w.binary(Binary::Lt, key, filled)?);
        }
        // The position of a query among the keys: after those of the past, or at the end of those that are filled.
        let query = counted(w, &queries, 2)?;
        let first = match (past, filled) {
            (Some(past), _) => w.dimension(w.shape(past)[2].clone(), DType::I64)?,
            (None, Some(filled)) => {
                let queries = w.dimension(queries, DType::I64)?;
                w.sub(filled, queries)?
            }
            (None, None) => w.integer(0),
        };
        let position = w.add(query, first)?;
        if causal {
            rules.push(w.binary(Binary::Le, key, position)?);
        }
        if left >= 0 {
            let size = w.integer(left);
            let from = w.sub(position, size)?;
            rules.push(w.binary(Binary::Ge, key, from)?);
        }
        if right >= 0 {
            let size = w.integer(right);
            let to = w.add(position, size)?;
            rules.push(w.binary(Binary::Le, key, to)?);
        }
        for rule in rules {
            allowed = Some(match allowed {
                Some(allowed) => w.binary(Binary::And, allowed, rule)?,
                None => rule,
            });
        }
    }
    let values = match (allowed, added) {
        (None, None) => return Ok(None),
        (None, Some(added)) => added,
        (Some(allowed), added) => {
            let open = match added {
                Some(added) => added,
                None => w.scalar(dtype, 0.0),
            };
            let never = w.scalar(dtype, f64::NEG_INFINITY);
            w.select(allowed, open, never)?
        }
    };
    Ok(Some(Bias { values, may_close }))
}

/// A mask of rank 4 with an element for every key: keys beyond the end of the mask are hidden.
fn widened(w: &mut Wiring<'_, '_>, mask: Var, keys: &Dim) -> Result<Var> {
    let rank = w.rank(mask);
    let mask = (rank..4).try_fold(mask, |mask, _| w.unsqueeze(mask, 0))?;
    let length = w.shape(mask)[3].clone();
    let missing = keys - &length;
    // A mask of one key applies to all of them.
    if missing == Dim::Fixed(0) || length == Dim::Fixed(1) {
        return Ok(mask);
    }
    let hidden = match w.dtype(mask) {
        DType::Bool => w.scalar(DType::Bool, 0.0),
        dtype => w.scalar(dtype, f64::NEG_INFINITY),
    };
    let mut shape = w.shape(mask);
    shape[3] = missing;
    let hidden = w.broadcast_to(hidden, &shape)?;
    w.concat(3, &[mask, hidden])
}

/// `0, 1, ..` along one axis of four.
pub(super) fn counted(w: &mut Wiring<'_, '_>, length: &Dim, axis: usize) -> Result<Var> {
    let row = w.positions(length)?;
    let mut shape = vec![Dim::Fixed(1); 4];
    shape[axis] = length.clone();
    w.reshape(row, &shape)
}

/// Sources: ONNX operators, "LinearAttention"; Yang et al., "Gated Delta Networks", 3.
fn linear_attention(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let inputs = [w.input(0)?, w.input(1)?, w.input(2)?];
    let (past, decay, rate) = (w.optional(3), w.optional(4), w.optional(5));
    let rule = w.text("update_rule")?.unwrap_or("gated_delta");
    let (gates, corrects) = match rule {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => bail!("there is no update rule {other:?}"),
    };
    if (decay.is_some(), rate.is_some()) != (gates, corrects) {
        bail!("the rule {rule:?} does not fit these operands");
    }
    let heads = w.int("q_num_heads")?.context("q_num_heads is missing")?;
    let key_heads = w.int("kv_num_heads")?.context("kv_num_heads is missing")?;
    let (heads, key_heads) = (u32::try_from(heads)?, u32::try_from(key_heads)?);
    if key_heads == 0 || heads % key_heads != 0 {
        bail!("{heads} heads cannot share {key_heads}");
    }
    let query_shape = w.shape(inputs[0]);
    let [batch, length, _] = &query_shape[..] else { bail!("three dimensions are needed") };
    let key_dim = w.dim(inputs[1], 2).over(key_heads);
    let value_dim = w.dim(inputs[2], 2).over(key_heads);
    let scale = match w.float("scale")?.unwrap_or(0.0) {
        0.0 => (w.number(&key_dim)? as f32).sqrt().recip(),
        scale => scale,
    };
    let op = program::LinearAttention {
        heads,
        key_heads,
        scale,
        past: past.is_some(),
        decay: decay.is_some(),
        rate: rate.is_some(),
    };
    // The recurrence is computed in full precision, whatever the types of inputs and outputs.
    let operands = inputs.into_iter().chain(past).chain(decay).chain(rate);
    let operands =
        operands.map(|operand| w.cast(operand, DType::F32)).collect::<Result<Vec<_>>>()?;
    let answer_width = &value_dim * heads;
    let answers = &answer_width * length;
    let state_shape =
        [batch.clone(), Dim::Fixed(i64::from(key_heads)), key_dim.clone(), value_dim.clone()];
    let states: Dim = state_shape[1..].iter().product();
    let shape = vec![batch.clone(), answers.clone() + &states];
    let both = w.op(Op::LinearAttention(op), &operands, DType::F32, shape)?;
    let output = w.slice(both, 1, 0, answers.clone())?;
    let output = w.reshape(output, &[batch.clone(), length.clone(), answer_width])?;
    let state = w.slice(both, 1, answers.clone(), answers + states)?;
    let state = w.reshape(state, &state_shape)?;
    let state_type = past.map_or(w.dtype(inputs[0]), |past| w.dtype(past));
    Ok(vec![w.cast(output, w.dtype(inputs[0]))?, w.cast(state, state_type)?])
}

/// Pairs of features are turned by an angle that grows with the position.
/// Sources: ONNX operators, "RotaryEmbedding"; Su et al., "RoFormer", 3.2.2.
fn rotary_embedding(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, cos, sin) = (w.input(0)?, w.input(1)?, w.input(2)?);
    let shape = w.shape(x);
    // The dimension of heads is before the sequence in four dimensions, and after it in three.
    let (x, head_axis) = match &shape[..] {
        [batch, seq, width] => {
            let heads = w.int("num_heads")?.unwrap_or(0);
            if heads <= 0 {
                bail!("num_heads is needed with three dimensions");
            }
            let dims = [batch.clone(), seq.clone(), heads.into(), width.over(heads)];
            (w.reshape(x, &dims)?, 2)
        }
        [_, _, _, _] => (x, 1),
        _ => bail!("three or four dimensions are needed"),
    };
    let head_dim = w.number(&w.dim(x, 3))? as i64;
    let rotated = match w.int("rotary_embedding_dim")?.unwrap_or(0) {
        0 => head_dim,
        dim => dim,
    };
    if rotated % 2 != 0 || !(2..=head_dim).contains(&rotated) {
        bail!("{rotated} of {head_dim} features cannot be turned in pairs");
    }
    let [cos, sin] = [cos, sin].map(|cache| {
        let cache = match w.optional(3) {
            Some(positions) => w.gather(0, cache, positions)?,
            None => cache,
        };
        w.unsqueeze(cache, head_axis)
    });
    let (cos, sin) = (cos?, sin?);
    let interleaved = w.int("interleaved")?.unwrap_or(0) != 0;
    let y = turned(w, x, [cos, sin], rotated, interleaved)?;
    Ok(vec![w.reshape(y, &shape)?])
}

/// The first `rotated` features of `[.., .., .., features]`, turned in pairs by angles that broadcast over
/// `[.., .., .., rotated / 2]`. A pair has a feature of each half or, if they are interleaved, two neighbours.
pub(super) fn turned(
    w: &mut Wiring<'_, '_>,
    x: Var,
    [cos, sin]: [Var; 2],
    rotated: i64,
    interleaved: bool,
) -> Result<Var> {
    let head_dim = w.number(&w.dim(x, 3))? as i64;
    let turned = w.slice(x, 3, 0, rotated)?;
    let (first, second) = if interleaved {
        let mut pairs = w.shape(turned);
        pairs[3] = (rotated / 2).into();
        let halves = pairs.clone();
        pairs.push(2.into());
        let paired = w.reshape(turned, &pairs)?;
        let (first, second) = (w.slice(paired, 4, 0, 1)?, w.slice(paired, 4, 1, 2)?);
        (w.reshape(first, &halves)?, w.reshape(second, &halves)?)
    } else {
        (w.slice(turned, 3, 0, rotated / 2)?, w.slice(turned, 3, rotated / 2, rotated)?)
    };
    let turn = |w: &mut Wiring<'_, '_>, a, b| -> Result<(Var, Var)> {
        let (a, b) = (w.mul(cos, a)?, w.mul(sin, b)?);
        Ok((a, b))
    };
    let (kept, crossed) = turn(w, first, second)?;
    let real = w.sub(kept, crossed)?;
    let (kept, crossed) = turn(w, second, first)?;
    let imaginary = w.add(crossed, kept)?;
    let turned = if interleaved {
        let (real, imaginary) = (w.unsqueeze(real, 4)?, w.unsqueeze(imaginary, 4)?);
        let pairs = w.concat(4, &[real, imaginary])?;
        let dims = w.shape(turned);
        w.reshape(pairs, &dims)?
    } else {
        w.concat(3, &[real, imaginary])?
    };
    if rotated < head_dim {
        let rest = w.slice(x, 3, rotated, head_dim)?;
        return w.concat(3, &[turned, rest]);
    }
    Ok(turned)
}

/// Attention whose scores and weights the model may change by subgraphs.
/// Source: ONNX operators of the domain `ai.onnx.preview`, "FlexAttention".
fn flex_attention(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (q, k, v) = (w.input(0)?, w.input(1)?, w.input(2)?);
    let out = w.dtype(v);
    let precision = w.int("softmax_precision")?;
    let inner = precision.map_or(Ok(DType::F32), float_type)?;
    let scores = products(w, q, k)?;
    let scores = w.cast(scores, inner)?;
    let scores = modified(w, "score_mod", scores)?;
    let weights = w.softmax(scores, &[3])?;
    let weights = modified(w, "prob_mod", weights)?;
    let v = w.cast(v, inner)?;
    let context = shared_product(w, weights, v)?;
    Ok(vec![w.cast(context, out)?])
}

/// A value changed by the graph of an attribute, if there is one.
fn modified(w: &mut Wiring<'_, '_>, name: &str, x: Var) -> Result<Var> {
    if !w.node.attribute.iter().any(|attribute| attribute.name == name) {
        return Ok(x);
    }
    let results = w.body(name)?.wire(w.walk, &[x])?;
    let [result] = results[..] else { bail!("{name} has one result") };
    w.cast(result, w.dtype(x))
}
