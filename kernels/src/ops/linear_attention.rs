//! Attention that carries a state through the sequence instead of comparing all pairs of positions. A launch processes as
//! many positions as one invocation may.

use flotilla_program::LinearAttention;
use flotilla_tensor::DType;

use super::{Kernel, Launch, Operand, Shader, shader::ITERATIONS_MAX};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, LONG, LONGEST, Sketch, Tolerance};

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
    /// Elements of the answers of one batch; the states follow them.
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

/// A function that reads the rows of a unit from a buffer.
fn from(name: &str, key_dim: usize) -> String {
    let lanes = (0..4).map(|lane| {
        let element = format!("{name}[at + {lane}u * step]");
        if key_dim.is_multiple_of(4) {
            element
        } else {
            format!("select(0.0, {element}, 4u * unit + {lane}u < DIM)")
        }
    });
    format!(
        "fn from_{name}(start: u32, step: u32, unit: u32) -> vec4<f32> {{
    let at = start + 4u * unit * step;
    return vec4<f32>({});
}}\n",
        lanes.collect::<Vec<_>>().join(", ")
    )
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
        let key_dim = key_dim(self, signature).unwrap_or(1) as usize;
        let past = if self.past {
            "from_past(((batch * params.key_heads + head) * DIM) * params.value_dim + column, params.value_dim, unit)"
        } else {
            "vec4<f32>()"
        };
        let decay = if self.decay {
            "            state[unit] *= exp(from_decay(decay_at, params.decay_step, unit));\n"
        } else {
            ""
        };
        let retrieve = if self.rate {
            "            retrieved += state[unit] * from_key(key_at, 1u, unit);\n"
        } else {
            ""
        };
        let mut correct = String::new();
        if self.decay {
            correct += "        let decay_at = row * params.decay_width + head * (params.decay_width / params.key_heads);\n";
        }
        if self.rate {
            correct += "        var retrieved = vec4<f32>();\n";
        }
        if self.decay || self.rate {
            correct += &format!(
                "        for (var unit = 0u; unit < UNITS; unit++) {{\n{decay}{retrieve}        }}\n"
            );
        }
        if self.rate {
            correct += "        written = rate[row * params.rate_width + head % params.rate_width] * (written - (retrieved.x + retrieved.y + retrieved.z + retrieved.w));\n";
        }
        let mut functions = String::new();
        for (name, needed) in [
            ("output", true),
            ("key", true),
            ("query", true),
            ("past", self.past),
            ("decay", self.decay),
        ] {
            if needed {
                functions += &from(name, key_dim);
            }
        }
        let mut body = include_str!("linear_attention.wgsl").to_owned();
        for (name, text) in [
            ("past", past),
            ("correct", correct.as_str()),
            ("functions", functions.as_str()),
            ("units", key_dim.div_ceil(4).to_string().as_str()),
            ("key_dim", key_dim.to_string().as_str()),
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
        let units = at.key_dim.div_ceil(4);
        let group = at.heads / at.key_heads;
        let corrects = usize::from(self.decay || self.rate);
        let step = 1 + units * (1 + corrects) + group * (1 + units);
        let ends = units * 2 + at.key_dim;
        let steps = ((ITERATIONS_MAX as usize).saturating_sub(ends) / step).max(1);
        let invocations = at.batches * at.key_heads * at.value_dim;
        let launch = |first: usize| {
            let last = (first + steps).min(at.length);
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
                first as u32,
                last as u32,
            ];
            Launch::new(0, call.inputs(), params, invocations, ends + (last - first) * step)
        };
        Ok((0..at.length.max(1)).step_by(steps).map(launch).collect())
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
        // Sums over a long sequence must stay exact.
        let mut state = vec![0.0f64; keys * columns];
        let mut written = vec![0.0f64; columns];
        let mut sums = vec![0.0f64; columns];
        for (batch, output) in
            output.chunks_exact_mut((at.answers() + at.states()).max(1)).enumerate()
        {
            for head in 0..at.key_heads {
                let head_of_batch = batch * at.key_heads + head;
                match past {
                    Some(past) => {
                        let past = &past[head_of_batch * state.len()..];
                        state.iter_mut().zip(past).for_each(|(s, &past)| *s = f64::from(past));
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
                            let factor = f64::from(decay[from + index * at.decay_step]).exp();
                            line.iter_mut().for_each(|element| *element *= factor);
                        }
                    }
                    written.iter_mut().zip(value).for_each(|(w, &value)| *w = f64::from(value));
                    if let Some(rate) = rate {
                        for (&key, line) in key.iter().zip(state.chunks_exact(columns.max(1))) {
                            written
                                .iter_mut()
                                .zip(line)
                                .for_each(|(w, s)| *w -= s * f64::from(key));
                        }
                        let rate = f64::from(rate[row * at.rate_width + head % at.rate_width]);
                        written.iter_mut().for_each(|written| *written *= rate);
                    }
                    for (&key, line) in key.iter().zip(state.chunks_exact_mut(columns.max(1))) {
                        line.iter_mut().zip(&written).for_each(|(s, w)| *s += f64::from(key) * w);
                    }
                    for reader in head * group..(head + 1) * group {
                        let query = &query[(row * at.heads + reader) * keys..][..keys];
                        let answer = &mut output[(step * at.heads + reader) * columns..][..columns];
                        sums.fill(0.0);
                        for (&query, line) in query.iter().zip(state.chunks_exact(columns.max(1))) {
                            sums.iter_mut().zip(line).for_each(|(a, s)| *a += f64::from(query) * s);
                        }
                        let scale = f64::from(self.scale);
                        answer.iter_mut().zip(&sums).for_each(|(a, sum)| *a = (sum * scale) as f32);
                    }
                }
                let end = &mut output[at.answers() + head * state.len()..];
                end.iter_mut().zip(&state).for_each(|(end, &s)| *end = s as f32);
            }
        }
        Ok(())
    }
}

/// The recurrence by its definition, with one whole state per position.
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
                let row = batch * length + step;
                let key = &inputs[1].numbers[(row * key_heads + head) * keys..][..keys];
                for (k, line) in state.iter_mut().enumerate() {
                    let gate = decay.map_or(0.0, |decay| {
                        let width = decay.shape[2];
                        let feature = if width == key_heads { head } else { head * keys + k };
                        decay.numbers[row * width + feature]
                    });
                    line.iter_mut().for_each(|s| *s *= gate.exp());
                }
                #[expect(clippy::needless_range_loop, reason = "a column of all lines is used")]
                for c in 0..columns {
                    let value = inputs[2].numbers[(row * key_heads + head) * columns + c];
                    let written = match rate {
                        Some(rate) => {
                            let retrieved: f64 = (0..keys).map(|k| state[k][c] * key[k]).sum();
                            let width = rate.shape[2];
                            rate.numbers[row * width + head % width] * (value - retrieved)
                        }
                        None => value,
                    };
                    (0..keys).for_each(|k| state[k][c] += key[k] * written);
                }
                for reader in (0..heads).filter(|reader| reader / (heads / key_heads) == head) {
                    let query = &inputs[0].numbers[(row * heads + reader) * keys..][..keys];
                    for c in 0..columns {
                        answers[(step * heads + reader) * columns + c] =
                            (0..keys).map(|k| query[k] * state[k][c]).sum::<f64>()
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
    let rest: [(&str, Sizes, bool, Option<bool>, Option<bool>); 3] = [
        ("long and wide", [2, 700, 4, 2, 64, 3], true, Some(true), Some(true)),
        ("long and odd", [1, 5000, 3, 1, 7, 2], true, Some(false), None),
        ("long delta", [1, 3000, 2, 2, 33, 2], false, None, Some(false)),
    ];
    let long = LONG.map(|length| ("long", [1, length, 1, 1, 4, 2], true, Some(false), None));
    table
        .into_iter()
        .chain(rest)
        .chain(long)
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
                // A state that is corrected by more than twice its value would grow without limit.
                let small = |x: f64| f64::from((x.abs() * 4.0 / keys.max(4) as f64) as f32);
                arrays.push(noise(5, &[batches, length, width]).map(small));
            }
            let arrays: Vec<&Array> = arrays.iter().collect();
            let expected = expected(&op, &arrays);
            let name = match name {
                "long" => format!("linear_attention/{length} positions"),
                name => format!("linear_attention/{name}"),
            };
            let tolerance = if length < 100 { Tolerance::Approximate } else { Tolerance::Scaled };
            Sketch::single(&name, Op::LinearAttention(op), &arrays, &expected, tolerance)
                .everywhere_if(length < 100 || length == LONGEST)
        })
        .collect()
}
