//! Attention in its variants, and the rotation of its operands by their positions.

use flotilla_program as program;
use tract_onnx::{
    prelude::{DatumType, OutletId, TDim, Tensor, TractResult, tensor1},
    tract_hir::internal::{
        TractErrorContext as _, bail,
        tract_core::ops::{array::Range, logic, math, nn::Reducer},
    },
};

use crate::import::onnx::wiring::{Wire, Wiring};
use flotilla_program::{self, Op};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("Attention", attention),
    ("LinearAttention", linear_attention),
    ("RotaryEmbedding", rotary_embedding),
];

/// Those of the domain `ai.onnx.preview`.
pub(super) const PREVIEW_OPERATORS: &[(&str, Wire)] = &[("FlexAttention", flex_attention)];

/// What the output `qk_matmul_output` shows, as its mode says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Products,
    Capped,
    Biased,
    Weights,
}

impl Shown {
    fn of(mode: i64) -> TractResult<Shown> {
        Ok(match mode {
            0 => Shown::Products,
            1 => Shown::Capped,
            2 => Shown::Biased,
            3 => Shown::Weights,
            other => bail!("there is no qk_matmul_output_mode {other}"),
        })
    }
}

/// What is added to the scores, of rank 4.
struct Bias {
    values: OutletId,
    /// Whether there may be a query that is not allowed any key.
    may_close: bool,
}

/// Sources: ONNX operators, "Attention"; Vaswani et al., "Attention Is All You Need", 3.2; Ainslie et al., "GQA", 2.
fn attention(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (q, k, v) = (w.input(0)?, w.input(1)?, w.input(2)?);
    let (dtype, packed) = (w.dtype(q), w.rank(q) == 3);
    w.rounds_steps = w.walk.bf16.contains(&q);
    let (q, k, v) = if packed {
        let heads = w.node.get_attr_opt::<i64>("q_num_heads")?.context("q_num_heads is missing")?;
        let shared =
            w.node.get_attr_opt::<i64>("kv_num_heads")?.context("kv_num_heads is missing")?;
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
    let cap = w.node.get_attr_opt::<f32>("softcap")?.unwrap_or(0.0);
    let capped = if cap > 0.0 { soft_capped(w, products, cap)? } else { products };
    let bias = bias(w, products, past_key)?;
    let biased = match &bias {
        Some(bias) => w.add(capped, bias.values)?,
        None => capped,
    };
    let precision = w.node.get_attr_opt::<i64>("softmax_precision")?;
    let inner = precision.map_or(Ok(dtype), float_type)?;
    let scores = w.cast(biased, inner)?;
    let weights = normalized(w, scores)?;
    let weights = w.cast(weights, dtype)?;
    let weights = match bias {
        Some(Bias { values, may_close: true }) => opened(w, weights, values)?,
        Some(Bias { may_close: false, .. }) | None => weights,
    };
    let cast_values = w.cast(values, dtype)?;
    let context = shared_product(w, weights, cast_values)?;
    let y = if packed { joined(w, context)? } else { context };
    let shown = match Shown::of(w.node.get_attr_opt("qk_matmul_output_mode")?.unwrap_or(0))? {
        Shown::Products => products,
        Shown::Capped => capped,
        Shown::Biased => biased,
        Shown::Weights => weights,
    };
    Ok(vec![y, keys, values, shown])
}

/// A number of the standard for a float type. Source: ONNX, `TensorProto.DataType`.
fn float_type(number: i64) -> TractResult<DatumType> {
    Ok(match number {
        // Nothing is computed in more than 32 bits in a page; 64 would differ by less than a test could see.
        1 | 11 => DatumType::F32,
        10 => DatumType::F16,
        other => bail!("softmax cannot be computed in type {other}"),
    })
}

/// `[batch, seq, heads * dim]` to `[batch, heads, seq, dim]`.
fn split(w: &mut Wiring<'_, '_>, x: OutletId, heads: i64) -> TractResult<OutletId> {
    let shape = w.shape(x);
    let [batch, seq, width] = &shape[..] else { bail!("three dimensions are needed") };
    let dims = [batch.clone(), seq.clone(), heads.into(), width.clone() / heads];
    let x = w.reshape(x, &dims)?;
    w.transpose(x, &[0, 2, 1, 3])
}

/// `[batch, heads, seq, dim]` to `[batch, seq, heads * dim]`.
fn joined(w: &mut Wiring<'_, '_>, x: OutletId) -> TractResult<OutletId> {
    let x = w.transpose(x, &[0, 2, 1, 3])?;
    let shape = w.shape(x);
    let [batch, seq, heads, dim] = &shape[..] else { bail!("four dimensions are needed") };
    w.reshape(x, &[batch.clone(), seq.clone(), heads.clone() * dim.clone()])
}

/// `scale * q k^T`. Each operand takes the root of the scale in half precision, where the product could overflow; a
/// factor behind the product is what is left of it in full precision, where that is the same and fuses.
fn products(w: &mut Wiring<'_, '_>, q: OutletId, k: OutletId) -> TractResult<OutletId> {
    let dtype = w.dtype(q);
    let scale = match w.node.get_attr_opt::<f32>("scale")? {
        Some(scale) => f64::from(scale),
        None => (w.shape(q)[3].to_i64()? as f64).sqrt().recip(),
    };
    let columns = w.transpose(k, &[0, 1, 3, 2])?;
    if dtype == DatumType::F32 && !w.rounds_steps {
        let products = shared_product(w, q, columns)?;
        let scale = w.scalar(dtype, scale)?;
        return w.mul(products, scale);
    }
    let root = w.scalar(dtype, scale.sqrt())?;
    let (q, columns) = (w.mul(q, root)?, w.mul(columns, root)?);
    shared_product(w, q, columns)
}

/// `a @ b`, where neighbouring heads of `a` share one of `b`: they become rows of one product.
fn shared_product(w: &mut Wiring<'_, '_>, a: OutletId, b: OutletId) -> TractResult<OutletId> {
    let (shape, shared) = (w.shape(a), w.shape(b)[1].clone());
    let [batch, heads, rows, inner] = &shape[..] else { bail!("four dimensions are needed") };
    if *heads == shared {
        return w.matmul(a, b);
    }
    let (of_a, of_b) = (heads.to_i64()?, shared.to_i64()?);
    if of_b <= 0 || of_a % of_b != 0 {
        bail!("{of_a} heads cannot share {of_b}");
    }
    let grouped = [batch.clone(), shared, rows.clone() * (of_a / of_b), inner.clone()];
    let a = w.reshape(a, &grouped)?;
    let product = w.matmul(a, b)?;
    let columns = w.shape(product)[3].clone();
    w.reshape(product, &[batch.clone(), heads.clone(), rows.clone(), columns])
}

/// `cap * tanh(x / cap)`.
fn soft_capped(w: &mut Wiring<'_, '_>, x: OutletId, cap: f32) -> TractResult<OutletId> {
    let cap = w.scalar(w.dtype(x), f64::from(cap))?;
    let x = w.div(x, cap)?;
    let x = w.unary(math::tanh(), x)?;
    w.mul(x, cap)
}

/// Softmax over keys. In half precision each step is rounded, as the standard's function body has it.
fn normalized(w: &mut Wiring<'_, '_>, scores: OutletId) -> TractResult<OutletId> {
    if w.dtype(scores) == DatumType::F32 && !w.rounds_steps {
        return w.softmax(scores, &[3]);
    }
    let largest = w.reduce(Reducer::Max, scores, &[3], true)?;
    let below = w.sub(scores, largest)?;
    let powers = w.unary(math::exp(), below)?;
    let total = w.reduce(Reducer::Sum, powers, &[3], true)?;
    w.div(powers, total)
}

/// Weights of 0 for a query that is not allowed any key, where softmax is not defined.
fn opened(w: &mut Wiring<'_, '_>, weights: OutletId, bias: OutletId) -> TractResult<OutletId> {
    let best = w.reduce(Reducer::Max, bias, &[3], true)?;
    let never = w.scalar(w.dtype(bias), f64::NEG_INFINITY)?;
    let closed = w.binary(logic::CompEq, best, never)?;
    let zero = w.scalar(w.dtype(weights), 0.0)?;
    w.select(closed, zero, weights)
}

/// Everything that hides keys from queries, as numbers that are added to the scores.
fn bias(
    w: &mut Wiring<'_, '_>,
    scores: OutletId,
    past: Option<OutletId>,
) -> TractResult<Option<Bias>> {
    let dtype = w.dtype(scores);
    let (queries, keys) = (w.shape(scores)[2].clone(), w.shape(scores)[3].clone());
    let mut allowed: Option<OutletId> = None;
    let mut added = None;
    if let Some(mask) = w.optional(3) {
        let mask = widened(w, mask, &keys)?;
        if w.dtype(mask) == DatumType::Bool { allowed = Some(mask) } else { added = Some(mask) }
    }
    let causal = w.node.get_attr_opt::<i64>("is_causal")?.unwrap_or(0) != 0;
    let left = w.node.get_attr_opt::<i64>("left_window_size")?.unwrap_or(-1);
    let right = w.node.get_attr_opt::<i64>("right_window_size")?.unwrap_or(-1);
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
            rules.push(w.binary(logic::CompLT, key, filled)?);
        }
        // Where a query stands among the keys: behind those of the past, or at the end of those that are filled.
        let query = counted(w, &queries, 2)?;
        let first = match (past, filled) {
            (Some(past), _) => w.dimension(w.shape(past)[2].clone(), DatumType::I64)?,
            (None, Some(filled)) => {
                let queries = w.dimension(queries, DatumType::I64)?;
                w.sub(filled, queries)?
            }
            (None, None) => w.scalar(DatumType::I64, 0.0)?,
        };
        let position = w.add(query, first)?;
        if causal {
            rules.push(w.binary(logic::CompLTE, key, position)?);
        }
        if left >= 0 {
            let size = w.scalar(DatumType::I64, left as f64)?;
            let from = w.sub(position, size)?;
            rules.push(w.binary(logic::CompGTE, key, from)?);
        }
        if right >= 0 {
            let size = w.scalar(DatumType::I64, right as f64)?;
            let to = w.add(position, size)?;
            rules.push(w.binary(logic::CompLTE, key, to)?);
        }
        for rule in rules {
            allowed = Some(match allowed {
                Some(allowed) => w.binary(logic::And, allowed, rule)?,
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
                None => w.scalar(dtype, 0.0)?,
            };
            let never = w.scalar(dtype, f64::NEG_INFINITY)?;
            w.select(allowed, open, never)?
        }
    };
    Ok(Some(Bias { values, may_close }))
}

/// A mask of rank 4 that says something of every key: those that it is too short for are hidden.
fn widened(w: &mut Wiring<'_, '_>, mask: OutletId, keys: &TDim) -> TractResult<OutletId> {
    let rank = w.rank(mask);
    let mask = (rank..4).try_fold(mask, |mask, _| w.unsqueeze(mask, 0))?;
    let length = w.shape(mask)[3].clone();
    let missing = keys.clone() - &length;
    if missing == TDim::from(0) {
        return Ok(mask);
    }
    let hidden = match w.dtype(mask) {
        DatumType::Bool => Tensor::from(false),
        dtype => Tensor::from(f32::NEG_INFINITY).cast_to_dt(dtype)?.into_owned(),
    };
    let hidden = w.tensor(hidden)?;
    let mut shape = w.shape(mask);
    shape[3] = missing;
    let hidden = w.broadcast_to(hidden, &shape)?;
    w.concat(3, &[mask, hidden])
}

/// `0, 1, ..` along one axis of four.
fn counted(w: &mut Wiring<'_, '_>, length: &TDim, axis: usize) -> TractResult<OutletId> {
    let row = match length.to_i64() {
        Ok(length) => w.tensor(tensor1(&(0..length).collect::<Vec<i64>>()))?,
        Err(_) => {
            let ends = [TDim::from(0), length.clone(), TDim::from(1)]
                .map(|dim| w.tensor(Tensor::from(dim)));
            let [from, to, step] = ends;
            let row = w.wire(Range::new(length.clone()), &[from?, to?, step?])?;
            w.cast(row, DatumType::I64)?
        }
    };
    let mut shape = vec![TDim::from(1); 4];
    shape[axis] = length.clone();
    w.reshape(row, &shape)
}

/// Sources: ONNX operators, "LinearAttention"; Yang et al., "Gated Delta Networks", 3.
fn linear_attention(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
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
        bail!("the rule {rule:?} takes other operands than these");
    }
    let heads = w.node.get_attr::<i64>("q_num_heads")?;
    let key_heads = w.node.get_attr::<i64>("kv_num_heads")?;
    let (heads, key_heads) = (u32::try_from(heads)?, u32::try_from(key_heads)?);
    if key_heads == 0 || heads % key_heads != 0 {
        bail!("{heads} heads cannot share {key_heads}");
    }
    let query_shape = w.shape(inputs[0]);
    let [batch, length, _] = &query_shape[..] else { bail!("three dimensions are needed") };
    let key_dim = w.shape(inputs[1])[2].clone() / key_heads;
    let value_dim = w.shape(inputs[2])[2].clone() / key_heads;
    let scale = match w.node.get_attr_opt::<f32>("scale")?.unwrap_or(0.0) {
        0.0 => (key_dim.to_i64()? as f32).sqrt().recip(),
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
    // The recurrence is computed in full precision, whatever comes in and goes out.
    let operands = inputs.into_iter().chain(past).chain(decay).chain(rate);
    let operands =
        operands.map(|operand| w.cast(operand, DatumType::F32)).collect::<TractResult<Vec<_>>>()?;
    let answer_width = value_dim.clone() * i64::from(heads);
    let answers = answer_width.clone() * length;
    let state_shape =
        [batch.clone(), i64::from(key_heads).into(), key_dim.clone(), value_dim.clone()];
    let states: TDim = state_shape[1..].iter().product();
    let shape = vec![batch.clone(), answers.clone() + &states];
    let both = w.program_op(Op::LinearAttention(op), &operands, DatumType::F32, shape)?;
    let output = w.slice(both, 1, 0, answers.clone())?;
    let output = w.reshape(output, &[batch.clone(), length.clone(), answer_width])?;
    let state = w.slice(both, 1, answers.clone(), answers + states)?;
    let state = w.reshape(state, &state_shape)?;
    let state_type = past.map_or(w.dtype(inputs[0]), |past| w.dtype(past));
    Ok(vec![w.cast(output, w.dtype(inputs[0]))?, w.cast(state, state_type)?])
}

/// Pairs of features are turned by an angle that grows with the position.
/// Sources: ONNX operators, "RotaryEmbedding"; Su et al., "RoFormer", 3.2.2.
fn rotary_embedding(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (x, cos, sin) = (w.input(0)?, w.input(1)?, w.input(2)?);
    let shape = w.shape(x);
    // Heads are the dimension before the sequence in four dimensions, and behind it in three.
    let (x, head_axis) = match &shape[..] {
        [batch, seq, width] => {
            let heads = w.node.get_attr_opt::<i64>("num_heads")?.unwrap_or(0);
            if heads <= 0 {
                bail!("num_heads is needed with three dimensions");
            }
            let dims = [batch.clone(), seq.clone(), heads.into(), width.clone() / heads];
            (w.reshape(x, &dims)?, 2)
        }
        [_, _, _, _] => (x, 1),
        _ => bail!("three or four dimensions are needed"),
    };
    let head_dim = w.shape(x)[3].to_i64()?;
    let rotated = match w.node.get_attr_opt::<i64>("rotary_embedding_dim")?.unwrap_or(0) {
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
    let interleaved = w.node.get_attr_opt::<i64>("interleaved")?.unwrap_or(0) != 0;
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
    let turn = |w: &mut Wiring<'_, '_>, a, b| {
        let (a, b) = (w.mul(cos, a)?, w.mul(sin, b)?);
        TractResult::Ok((a, b))
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
    let y = if rotated < head_dim {
        let rest = w.slice(x, 3, rotated, head_dim)?;
        w.concat(3, &[turned, rest])?
    } else {
        turned
    };
    Ok(vec![w.reshape(y, &shape)?])
}

/// Attention whose scores and weights the model may change by graphs of its own.
/// Source: ONNX operators of the domain `ai.onnx.preview`, "FlexAttention".
fn flex_attention(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (q, k, v) = (w.input(0)?, w.input(1)?, w.input(2)?);
    let out = w.dtype(v);
    let precision = w.node.get_attr_opt::<i64>("softmax_precision")?;
    let inner = precision.map_or(Ok(DatumType::F32), float_type)?;
    let scores = products(w, q, k)?;
    let scores = w.cast(scores, inner)?;
    let scores = modified(w, "score_mod", scores)?;
    let weights = normalized(w, scores)?;
    let weights = modified(w, "prob_mod", weights)?;
    let v = w.cast(v, inner)?;
    let context = shared_product(w, weights, v)?;
    Ok(vec![w.cast(context, out)?])
}

/// What the graph of an attribute makes of a value, where there is one.
fn modified(w: &mut Wiring<'_, '_>, name: &str, x: OutletId) -> TractResult<OutletId> {
    if !w.node.attribute.iter().any(|attribute| attribute.name == name) {
        return Ok(x);
    }
    let results = w.subgraph(name, &[x], 0)?;
    let [result] = results[..] else { bail!("{name} has one result") };
    w.cast(result, w.dtype(x))
}
