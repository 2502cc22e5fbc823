//! Attention that carries a state through the sequence instead of comparing all pairs of positions.

use flotilla_program::{DType, LinearAttention};

use super::{Kernel, Launch, Operand, Shader};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// A longer column of the state does not fit the private memory of an invocation.
const KEY_DIM_MAX: i64 = 256;

struct Geometry {
    batches: usize,
    length: usize,
    heads: usize,
    key_heads: usize,
    key_dim: usize,
    value_dim: usize,
    /// Elements of the decay per position, and from one row of the state to the next; zeros without a decay.
    decay_width: usize,
    decay_step: usize,
    /// Elements of the rate per position: one, or one per head.
    rate_width: usize,
}

impl Geometry {
    /// Elements of the answers of one batch; the states lie behind them.
    fn answers(&self) -> usize {
        self.length * self.heads * self.value_dim
    }

    fn states(&self) -> usize {
        self.key_heads * self.key_dim * self.value_dim
    }
}

/// Which inputs hold the state at the start, the decay and the rate.
#[derive(Clone, Copy)]
struct Places {
    past: Option<usize>,
    decay: Option<usize>,
    rate: Option<usize>,
    count: usize,
}

fn places(op: &LinearAttention) -> Places {
    let mut count = 3;
    let mut next = |present: bool| {
        present.then(|| {
            count += 1;
            count - 1
        })
    };
    let (past, decay, rate) = (next(op.past), next(op.decay), next(op.rate));
    Places { past, decay, rate, count }
}

fn geometry(op: &LinearAttention, call: &Call<'_>) -> Result<Geometry, String> {
    let (&[batches, length, query_width], &[_, _, key_width], &[_, _, value_width]) =
        (call.input(0), call.input(1), call.input(2))
    else {
        return Err("queries, keys and values have three dimensions".to_owned());
    };
    let (heads, key_heads) = (op.heads as usize, op.key_heads as usize);
    if key_heads == 0 || heads == 0 || !heads.is_multiple_of(key_heads) {
        return Err(format!("{heads} heads cannot share {key_heads} states"));
    }
    let (key_dim, value_dim) = (key_width / key_heads, value_width / key_heads);
    if query_width != heads * key_dim {
        return Err(format!("{query_width} features are not {heads} heads of {key_dim}"));
    }
    call.expect_input(1, &[batches, length, key_heads * key_dim])?;
    call.expect_input(2, &[batches, length, key_heads * value_dim])?;
    let places = places(op);
    if let Some(past) = places.past {
        call.expect_input(past, &[batches, key_heads, key_dim, value_dim])?;
    }
    let (mut decay_width, mut decay_step, mut rate_width) = (0, 0, 0);
    if let Some(decay) = places.decay {
        decay_width = call.input(decay).last().copied().unwrap_or(0);
        decay_step = usize::from(decay_width != key_heads);
        if decay_step == 1 && decay_width != key_heads * key_dim {
            return Err(format!("a decay of {decay_width} fits neither heads nor keys"));
        }
        call.expect_input(decay, &[batches, length, decay_width])?;
    }
    if let Some(rate) = places.rate {
        rate_width = call.input(rate).last().copied().unwrap_or(0);
        if rate_width != 1 && rate_width != key_heads {
            return Err(format!("a rate of {rate_width} does not fit {key_heads} heads"));
        }
        call.expect_input(rate, &[batches, length, rate_width])?;
    }
    let geometry = Geometry {
        batches,
        length,
        heads,
        key_heads,
        key_dim,
        value_dim,
        decay_width,
        decay_step,
        rate_width,
    };
    call.expect_output(&[batches, geometry.answers() + geometry.states()])?;
    Ok(geometry)
}

fn key_dim(op: &LinearAttention, signature: &Signature<'_>) -> Option<i64> {
    let width = signature.input(1).shape.last()?.as_fixed()?;
    let heads = i64::from(op.key_heads);
    (heads > 0 && width % heads == 0).then(|| width / heads)
}

impl Kernel for LinearAttention {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(places(self).count)?;
        signature.expect_all(DType::F32)?;
        match key_dim(self, signature) {
            Some(1..=KEY_DIM_MAX) => Ok(()),
            Some(got) => Err(format!("keys are {got} wide, the limit is {KEY_DIM_MAX}")),
            None => Err("the width of a key is not known at load".to_owned()),
        }
    }

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        let key_dim = key_dim(self, signature).unwrap_or(1).to_string();
        let past = if self.past {
            "past[((batch * params.key_heads + head) * {{key_dim}}u + at) * params.value_dim + column]"
        } else {
            "0.0"
        };
        let forget = if self.decay {
            "        let decay_at = row * params.decay_width + head * (params.decay_width / params.key_heads);
        for (var at = 0u; at < {{key_dim}}u; at++) {
            state[at] *= exp(decay[decay_at + at * params.decay_step]);
        }\n"
        } else {
            ""
        };
        let correct = if self.rate {
            "        var retrieved = 0.0;
        for (var at = 0u; at < {{key_dim}}u; at++) {
            retrieved += state[at] * key[key_at + at];
        }
        written = rate[row * params.rate_width + head % params.rate_width] * (written - retrieved);\n"
        } else {
            ""
        };
        let mut body = include_str!("linear_attention.wgsl").to_owned();
        for (name, text) in [
            ("past", past),
            ("forget", forget),
            ("correct", correct),
            ("key_dim", key_dim.as_str()),
        ] {
            body = body.replace(&format!("{{{{{name}}}}}"), text);
        }
        let mut reads = vec![("query", "f32"), ("key", "f32"), ("value", "f32")];
        for (present, name) in [(self.past, "past"), (self.decay, "decay"), (self.rate, "rate")] {
            if present {
                reads.push((name, "f32"));
            }
        }
        vec![Shader::new("LinearAttention", &reads, "f32", &body)]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let at = geometry(self, call)?;
        let params = vec![
            at.batches as u32,
            at.length as u32,
            at.heads as u32,
            at.key_heads as u32,
            at.value_dim as u32,
            self.scale.to_bits(),
            at.decay_width as u32,
            at.decay_step as u32,
            at.rate_width as u32,
        ];
        let group = at.heads / at.key_heads;
        let decays = usize::from(self.decay) + usize::from(self.rate);
        let step = 1 + at.key_dim * (1 + decays) + group * (1 + at.key_dim);
        let iterations = 2 * at.key_dim + at.length * step;
        let invocations = at.batches * at.key_heads * at.value_dim;
        Ok(vec![Launch::new(0, call.inputs(), params, invocations, iterations)])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let at = geometry(self, call)?;
        let places = places(self);
        let given = |place: Option<usize>| place.map(|place| operands[place].f32());
        let (past, decay, rate) = (given(places.past), given(places.decay), given(places.rate));
        let [query, key, value] = [0, 1, 2].map(|index| operands[index].f32());
        let output: &mut [f32] = bytemuck::cast_slice_mut(output);
        let (keys, columns) = (at.key_dim, at.value_dim);
        let group = at.heads / at.key_heads;
        let mut state = vec![0.0; keys * columns];
        let mut written = vec![0.0; columns];
        for (batch, output) in
            output.chunks_exact_mut((at.answers() + at.states()).max(1)).enumerate()
        {
            for head in 0..at.key_heads {
                let head_of_batch = batch * at.key_heads + head;
                match past {
                    Some(past) => {
                        let elements = state.len();
                        state.copy_from_slice(&past[head_of_batch * elements..][..elements]);
                    }
                    None => state.fill(0.0),
                }
                for step in 0..at.length {
                    let row = batch * at.length + step;
                    let key = &key[(row * at.key_heads + head) * keys..][..keys];
                    let value = &value[(row * at.key_heads + head) * columns..][..columns];
                    if let Some(decay) = decay {
                        let from = row * at.decay_width + head * (at.decay_width / at.key_heads);
                        for (index, line) in state.chunks_exact_mut(columns.max(1)).enumerate() {
                            let factor = decay[from + index * at.decay_step].exp();
                            line.iter_mut().for_each(|element| *element *= factor);
                        }
                    }
                    written.copy_from_slice(value);
                    if let Some(rate) = rate {
                        for (&key, line) in key.iter().zip(state.chunks_exact(columns.max(1))) {
                            written.iter_mut().zip(line).for_each(|(w, s)| *w -= s * key);
                        }
                        let rate = rate[row * at.rate_width + head % at.rate_width];
                        written.iter_mut().for_each(|written| *written *= rate);
                    }
                    for (&key, line) in key.iter().zip(state.chunks_exact_mut(columns.max(1))) {
                        line.iter_mut().zip(&written).for_each(|(s, w)| *s += key * w);
                    }
                    for reader in head * group..(head + 1) * group {
                        let query = &query[(row * at.heads + reader) * keys..][..keys];
                        let answer = &mut output[(step * at.heads + reader) * columns..][..columns];
                        answer.fill(0.0);
                        for (&query, line) in query.iter().zip(state.chunks_exact(columns.max(1))) {
                            answer.iter_mut().zip(line).for_each(|(a, s)| *a += query * s);
                        }
                        answer.iter_mut().for_each(|answer| *answer *= self.scale);
                    }
                }
                output[at.answers() + head * state.len()..][..state.len()].copy_from_slice(&state);
            }
        }
        Ok(())
    }
}

/// The recurrence as it is written down, one whole state per position.
#[cfg(not(target_arch = "wasm32"))]
fn expected(op: &LinearAttention, inputs: &[&Array]) -> Array {
    let places = places(op);
    let given = |place: Option<usize>| place.map(|place| inputs[place]);
    let (past, decay, rate) = (given(places.past), given(places.decay), given(places.rate));
    let (batches, length) = (inputs[0].shape[0], inputs[0].shape[1]);
    let (heads, key_heads) = (op.heads as usize, op.key_heads as usize);
    let (keys, columns) = (inputs[1].shape[2] / key_heads, inputs[2].shape[2] / key_heads);
    let mut numbers = Vec::new();
    for batch in 0..batches {
        let mut answers = vec![0.0; length * heads * columns];
        let mut states = Vec::new();
        for head in 0..key_heads {
            let mut state: Vec<Vec<f64>> = (0..keys)
                .map(|k| {
                    (0..columns)
                        .map(|c| past.map_or(0.0, |past| past.at(&[batch, head, k, c])))
                        .collect()
                })
                .collect();
            for step in 0..length {
                let key = |k: usize| inputs[1].at(&[batch, step, head * keys + k]);
                let old: Vec<Vec<f64>> = (0..keys)
                    .map(|k| {
                        let gate = decay.map_or(0.0, |decay| {
                            let per_head = decay.shape[2] == key_heads;
                            let feature = if per_head { head } else { head * keys + k };
                            decay.at(&[batch, step, feature])
                        });
                        state[k].iter().map(|s| s * gate.exp()).collect()
                    })
                    .collect();
                for k in 0..keys {
                    for c in 0..columns {
                        let value = inputs[2].at(&[batch, step, head * columns + c]);
                        let written = match rate {
                            Some(rate) => {
                                let retrieved: f64 = (0..keys).map(|k| old[k][c] * key(k)).sum();
                                let rate = rate.at(&[batch, step, head % rate.shape[2]]);
                                rate * (value - retrieved)
                            }
                            None => value,
                        };
                        state[k][c] = old[k][c] + key(k) * written;
                    }
                }
                for reader in 0..heads {
                    if reader / (heads / key_heads) != head {
                        continue;
                    }
                    for c in 0..columns {
                        let query = |k: usize| inputs[0].at(&[batch, step, reader * keys + k]);
                        answers[(step * heads + reader) * columns + c] =
                            (0..keys).map(|k| query(k) * state[k][c]).sum::<f64>()
                                * f64::from(op.scale);
                    }
                }
            }
            states.extend(state.into_iter().flatten());
        }
        numbers.extend(answers);
        numbers.extend(states);
    }
    let width = numbers.len() / batches;
    Array::f32(&[batches, width], numbers)
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;

    /// Batches, length, heads, heads of keys, and sizes of a key and a value.
    type Sizes = [usize; 6];
    let table: [(&str, Sizes, bool, Option<bool>, Option<bool>); 6] = [
        ("plain", [2, 5, 2, 2, 4, 3], false, None, None),
        ("from a state", [1, 3, 2, 2, 8, 8], true, None, None),
        ("gated per head", [2, 4, 3, 3, 5, 6], true, Some(false), None),
        ("gated per key", [1, 6, 2, 2, 4, 4], false, Some(true), None),
        ("delta", [2, 4, 4, 2, 6, 5], false, None, Some(true)),
        ("gated delta with one rate", [1, 7, 4, 1, 4, 9], true, Some(true), Some(false)),
    ];
    table
        .into_iter()
        .enumerate()
        .map(|(seed, (name, sizes, past, decay_per_key, rate_per_head))| {
            let [batches, length, heads, key_heads, keys, columns] = sizes;
            let noise =
                |index: u64, shape: &[usize]| Array::noise(5200 + seed as u64 * 10 + index, shape);
            let op = LinearAttention {
                heads: heads as u32,
                key_heads: key_heads as u32,
                scale: 1.0 / (keys as f32).sqrt(),
                past,
                decay: decay_per_key.is_some(),
                rate: rate_per_head.is_some(),
            };
            let mut arrays = vec![
                noise(0, &[batches, length, heads * keys]),
                noise(1, &[batches, length, key_heads * keys]),
                noise(2, &[batches, length, key_heads * columns]),
            ];
            if past {
                arrays.push(noise(3, &[batches, key_heads, keys, columns]));
            }
            if let Some(per_key) = decay_per_key {
                let width = if per_key { key_heads * keys } else { key_heads };
                let negative = |x: f64| f64::from(-(x.abs() as f32));
                arrays.push(noise(4, &[batches, length, width]).map(negative));
            }
            if let Some(per_head) = rate_per_head {
                let width = if per_head { key_heads } else { 1 };
                arrays.push(noise(5, &[batches, length, width]).map(f64::abs));
            }
            let arrays: Vec<&Array> = arrays.iter().collect();
            let expected = expected(&op, &arrays);
            Sketch::single(
                &format!("linear_attention/{name}"),
                Op::LinearAttention(op),
                &arrays,
                &expected,
                Tolerance::Approximate,
            )
        })
        .collect()
}
