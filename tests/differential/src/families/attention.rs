//! Attention and related operators.

use crate::{
    graph::{Graph, Spread, Var},
    proto::{float, int},
    value::{Dim, Facts, Type},
};

pub(super) fn attention(g: &mut Graph) -> Option<()> {
    if g.opset < 23 {
        return None;
    }
    let (batch, rows, columns) = (g.any_dim(), g.any_dim(), g.any_dim());
    if [batch, rows, columns].iter().any(|dim| dim.least() == 0) {
        return None;
    }
    let shared = g.rng.pick(&[1, 1, 2]);
    let of_keys = g.rng.between(1, 2) as usize;
    let heads = of_keys * shared;
    let (width, depth) = (g.rng.between(1, 4) as usize, g.rng.between(1, 4) as usize);
    let flat = g.rng.percent(40);
    let shape = |heads: usize, length: Dim, width: usize| match flat {
        true => vec![batch, length, Dim::Fixed(heads * width)],
        false => vec![batch, Dim::Fixed(heads), length, Dim::Fixed(width)],
    };
    let q = g.given(Type::F32, &shape(heads, rows, width), Spread::Grid(3, -2.0, 2.0))?;
    let k = g.given(Type::F32, &shape(of_keys, columns, width), Spread::Grid(3, -2.0, 2.0))?;
    let v = g.given(Type::F32, &shape(of_keys, columns, depth), Spread::Grid(3, -2.0, 2.0))?;
    let mut inputs = vec![q, k, v];
    let mut attributes = Vec::new();
    if flat {
        attributes.push(int("q_num_heads", heads as i64));
        attributes.push(int("kv_num_heads", of_keys as i64));
    }
    if g.rng.percent(40) {
        inputs.push(g.given(Type::F32, &[rows, columns], Spread::Grid(1, -3.0, 1.0))?);
    }
    if g.rng.percent(30) {
        attributes.push(int("is_causal", 1));
    }
    if g.rng.percent(30) {
        attributes.push(float("scale", 0.25));
    }
    if g.rng.percent(20) {
        attributes.push(float("softcap", 2.0));
    }
    let made = shape(heads, rows, depth);
    let size = g.facts(v).size();
    let facts = Facts::about(-size, size, size * 1e-5);
    g.one("Attention", &inputs, attributes, (Type::F32, made, facts))?;
    Some(())
}

pub(super) fn rotary(g: &mut Graph) -> Option<()> {
    if g.opset < 23 {
        return None;
    }
    let (batch, length) = (g.any_dim(), g.any_dim());
    if batch.least() == 0 || length.least() == 0 {
        return None;
    }
    let (heads, half) = (g.rng.between(1, 3) as usize, g.rng.between(1, 3) as usize);
    let flat = g.rng.percent(40);
    let shape = match flat {
        true => vec![batch, length, Dim::Fixed(heads * half * 2)],
        false => vec![batch, Dim::Fixed(heads), length, Dim::Fixed(half * 2)],
    };
    let x = g.given(Type::F32, &shape, Spread::Grid(3, -3.0, 3.0))?;
    let by_place = g.rng.percent(60);
    let of_cache = match by_place {
        true => vec![Dim::Fixed(10), Dim::Fixed(half)],
        false => vec![batch, length, Dim::Fixed(half)],
    };
    let cos = g.given(Type::F32, &of_cache, Spread::Grid(4, -1.0, 1.0))?;
    let sin = g.given(Type::F32, &of_cache, Spread::Grid(4, -1.0, 1.0))?;
    let mut inputs = vec![x, cos, sin];
    if by_place {
        inputs.push(g.given(Type::I64, &[batch, length], Spread::whole(0, 9))?);
    }
    let mut attributes = vec![int("interleaved", g.rng.below(2) as i64)];
    if flat {
        attributes.push(int("num_heads", heads as i64));
    }
    let facts = g.facts(x);
    let facts = facts.times(&g.facts(cos)).plus(&facts.times(&g.facts(sin)));
    let size = facts.size().max(g.facts(x).size());
    let facts = Facts { low: -size, high: size, ..facts };
    g.one("RotaryEmbedding", &inputs, attributes, (Type::F32, shape, facts))?;
    Some(())
}

/// Positions that are written into a cache.
pub(super) fn cache(g: &mut Graph) -> Option<()> {
    if g.opset < 24 {
        return None;
    }
    let cache = g.value_of(&[Type::F32, Type::F16, Type::I32, Type::I64], |value| {
        value.rank() > 2 && value.is_filled()
    })?;
    let (of, shape) = (g.of(cache), g.shape(cache));
    let axis = g.rng.between(1, shape.len() as i64 - 1) as usize;
    let room = shape[axis].least();
    let length = g.rng.between(1, room as i64) as usize;
    let mut part = shape.clone();
    part[axis] = Dim::Fixed(length);
    let spread = g.usual(of);
    let update = g.given(of, &part, spread)?;
    let mut inputs: Vec<Var> = vec![cache, update];
    let circular = g.rng.percent(40);
    if g.rng.percent(70) {
        let last = if circular { room - 1 } else { room - length };
        inputs.push(g.given(Type::I64, &shape[..1], Spread::whole(0, last as i64))?);
    }
    let mut attributes = vec![int("axis", axis as i64)];
    if circular {
        attributes.push(crate::proto::text("mode", "circular"));
    }
    let facts = g.facts(cache).or(&g.facts(update));
    g.one("TensorScatter", &inputs, attributes, (of, shape, facts))?;
    Some(())
}
