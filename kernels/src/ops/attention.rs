//! Scaled dot-product attention over packed heads. Long sequences of keys are divided into parts.

use flotilla_program::Attention;
use flotilla_tensor::DType;

use super::{
    Kernel, Launch, Operand, Shader, math,
    matmul::{PackedMatrix, multiply},
    split::{self, Scratchpad},
    sums,
};
use crate::call::{Call, Signature, broadcast_strides};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, LONG, LONGEST, Sketch, Tolerance};

/// Wider heads do not fit the registers of an invocation.
const HEAD_DIM_MAX: i64 = 256;
/// Most keys that one invocation processes.
const KEYS_MAX: usize = 4096;

/// Which of a node's shaders: one that answers queries, completely or for a part of the keys, and one that
/// joins the parts.
const ANSWER: usize = 0;
const JOIN: usize = 1;

struct Geometry {
    batches: usize,
    queries: usize,
    keys: usize,
    /// Of all heads together.
    width: usize,
    head_dim: usize,
    /// Along batch, head, query and key; zeros without a mask.
    mask_strides: [usize; 4],
}

fn geometry(op: &Attention, call: &Call<'_>) -> Result<Geometry, String> {
    let (&[batches, queries, width], &[_, keys, _]) = (call.input(0), call.input(1)) else {
        return Err("queries and keys have three dimensions".to_owned());
    };
    let heads = op.heads as usize;
    if heads == 0 || !width.is_multiple_of(heads) {
        return Err(format!("{width} features do not divide into {heads} heads"));
    }
    call.expect_input(1, &[batches, keys, width])?;
    call.expect_input(2, &[batches, keys, width])?;
    call.expect_output(&[batches, queries, width])?;
    let mut mask_strides = [0; 4];
    if op.mask {
        mask_strides
            .copy_from_slice(&broadcast_strides(call.input(3), &[batches, heads, queries, keys])?);
    }
    Ok(Geometry { batches, queries, keys, width, head_dim: width / heads, mask_strides })
}

fn head_dim(op: &Attention, signature: &Signature<'_>) -> Option<i64> {
    let width = signature.input(0).shape.last()?.as_fixed()?;
    (op.heads > 0 && width % i64::from(op.heads) == 0).then(|| width / i64::from(op.heads))
}

/// Number of neighbouring queries that fit the registers of an invocation together.
fn queries_per_invocation(head_dim: u32) -> u32 {
    if head_dim <= 32 { 2 } else { 1 }
}

fn lines(count: u32, line: impl Fn(u32) -> String) -> String {
    (0..count).map(line).collect::<Vec<_>>().join("\n")
}

/// Queries past the end repeat the last one.
fn setup(op: &Attention, head_dim: u32, units: u32, element: &str) -> String {
    lines(queries_per_invocation(head_dim), |query| {
        let mut text = format!(
            "    let row{query} = min(query + {query}u, params.queries - 1u);
    let at{query} = (batch * params.queries + row{query}) * width + head * {units}u;
    var largest{query} = LOWEST;
    var total{query} = 0.0;\n"
        );
        if op.mask {
            text +=
                &format!("    let mask{query} = mask_start + row{query} * params.mask_query;\n");
        }
        text + &lines(units, |i| {
            format!(
                "    let q{query}_{i} = q[at{query} + {i}u];\n    var sum{query}_{i} = {element}();"
            )
        })
    })
}

fn scores(op: &Attention, head_dim: u32, units: u32, product: &str) -> String {
    lines(queries_per_invocation(head_dim), |query| {
        let dots: Vec<String> =
            (0..units).map(|i| format!("{product}(q{query}_{i}, k{i})")).collect();
        let mask = if op.mask {
            format!(" + mask[mask{query} + key * params.mask_key]")
        } else {
            String::new()
        };
        let rescaled = lines(units, |i| format!("            sum{query}_{i} *= factor;"));
        format!(
            "        let score{query} = ({}) * params.scale{mask};
        if (score{query} > largest{query}) {{
            let factor = exp(largest{query} - score{query});
            largest{query} = score{query};
            total{query} *= factor;
{rescaled}
        }}
        let weight{query} = exp(score{query} - largest{query});
        total{query} += weight{query};",
            dots.join(" + ")
        )
    })
}

fn accumulate(head_dim: u32, units: u32) -> String {
    lines(queries_per_invocation(head_dim), |query| {
        lines(units, |i| format!("        sum{query}_{i} += weight{query} * v{i};"))
    })
}

/// A repeated query writes its result twice. Parts are stored unscaled, followed by their maximum and sum.
fn store(head_dim: u32, units: u32, element: &str) -> String {
    let number = queries_per_invocation(head_dim);
    let whole = lines(number, |query| {
        format!("        let inverse{query} = 1.0 / total{query};\n")
            + &lines(units, |i| {
                format!("        output[at{query} + {i}u] = sum{query}_{i} * inverse{query};")
            })
    });
    let width = row_units(units, element);
    let part = lines(number, |query| {
        let row = format!(
            "        let to{query} = (((part * params.batches + batch) * params.queries + row{query}) * params.heads + head) * {width}u;\n"
        );
        let sums = lines(units, |i| format!("        output[to{query} + {i}u] = sum{query}_{i};"));
        let behind = if element == "f32" {
            format!(
                "\n        output[to{query} + {units}u] = largest{query};
        output[to{query} + {units}u + 1u] = total{query};"
            )
        } else {
            format!(
                "\n        output[to{query} + {units}u] = vec4<f32>(largest{query}, total{query}, 0.0, 0.0);"
            )
        };
        row + &sums + &behind
    });
    format!("    if (params.parts == 1u) {{\n{whole}\n    }} else {{\n{part}\n    }}\n")
}

/// Units of a part's answer to a query of one head, with its maximum and sum.
fn row_units(units: u32, element: &str) -> u32 {
    if element == "f32" { units + 2 } else { units + 1 }
}

/// How a shader reads the numbers of a head.
fn reading(head_dim: u32) -> (&'static str, u32, &'static str) {
    if head_dim.is_multiple_of(4) {
        ("vec4<f32>", head_dim / 4, "dot")
    } else {
        ("f32", head_dim, "times")
    }
}

/// The shader that joins parts.
fn join(head_dim: u32) -> Shader {
    let (element, units, _) = reading(head_dim);
    let (largest, total) = if element == "f32" {
        (format!("parts[row + {units}u]"), format!("parts[row + {units}u + 1u]"))
    } else {
        (format!("parts[row + {units}u].x"), format!("parts[row + {units}u].y"))
    };
    let mut body = include_str!("attention_join.wgsl").to_owned();
    for (name, text) in [
        ("element", element),
        ("units", &units.to_string()),
        ("row_units", &row_units(units, element).to_string()),
        ("largest", &largest),
        ("total", &total),
    ] {
        body = body.replace(&format!("{{{{{name}}}}}"), text);
    }
    Shader::new("Attention, joining parts", &[("parts", element)], element, &body)
}

impl Kernel for Attention {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(3 + usize::from(self.mask))?;
        signature.expect_all(DType::F32)?;
        match head_dim(self, signature) {
            Some(1..=HEAD_DIM_MAX) => Ok(()),
            Some(got) => Err(format!("heads are {got} wide, the limit is {HEAD_DIM_MAX}")),
            None => Err("the width of a head is not known at load".to_owned()),
        }
    }

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        let head_dim = head_dim(self, signature).unwrap_or(1) as u32;
        let (element, units, product) = reading(head_dim);
        let mut body = include_str!("attention.wgsl").to_owned();
        for (name, text) in [
            ("queries", queries_per_invocation(head_dim).to_string()),
            ("units", units.to_string()),
            ("setup", setup(self, head_dim, units, element)),
            ("load_key", lines(units, |i| format!("        let k{i} = k[key_at + {i}u];"))),
            ("scores", scores(self, head_dim, units, product)),
            ("load_value", lines(units, |i| format!("        let v{i} = v[key_at + {i}u];"))),
            ("accumulate", accumulate(head_dim, units)),
            ("store", store(head_dim, units, element)),
        ] {
            body = body.replace(&format!("{{{{{name}}}}}"), &text);
        }
        if product == "times" {
            body += "fn times(x: f32, y: f32) -> f32 {\n    return x * y;\n}\n";
        }
        let mut reads = vec![("q", element), ("k", element), ("v", element)];
        if self.mask {
            reads.push(("mask", "f32"));
        }
        let mut shaders = vec![Shader::new("Attention", &reads, element, &body)];
        if split::may_divide(signature.fixed(1, 1), KEYS_MAX) {
            shaders.push(join(head_dim));
        }
        shaders
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { batches, queries, keys, head_dim, mask_strides, .. } = geometry(self, call)?;
        let tiles = queries.div_ceil(queries_per_invocation(head_dim as u32) as usize);
        let heads = self.heads as usize;
        let invocations = batches * heads * tiles;
        let parts = split::parts(invocations, keys, KEYS_MAX);
        let length = keys.div_ceil(parts);
        let mut params =
            vec![batches as u32, self.heads, queries as u32, keys as u32, self.scale.to_bits()];
        params.extend(mask_strides.map(|stride| stride as u32));
        params.extend([parts, length].map(|count| count as u32));
        let answer = Launch::new(ANSWER, call.inputs(), params, invocations * parts, length);
        if parts == 1 {
            return Ok(vec![answer]);
        }
        let (element, units, _) = reading(head_dim as u32);
        let words = if element == "f32" { 1 } else { 4 };
        let rows = batches * queries * heads;
        let found =
            Scratchpad::default().take(parts * rows * row_units(units, element) as usize * words);
        let params = [rows, parts].map(|count| count as u32).to_vec();
        let join = Launch::new(JOIN, 0, params, rows * units as usize, 2 * parts);
        Ok(vec![answer.writing(found), join.reading([found])])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let Geometry { batches, queries, keys, width, head_dim, mask_strides } =
            geometry(self, call)?;
        let [q, k, v] = [0, 1, 2].map(|index| operands[index].f32());
        let mask = if self.mask { operands[3].f32() } else { &[] };
        let output: &mut [f32] = bytemuck::cast_slice_mut(output);
        if output.is_empty() {
            return Ok(());
        }
        let mut scores = vec![0.0; queries * keys];
        let (mut packed_k, mut packed_v) = (PackedMatrix::default(), PackedMatrix::default());
        for batch in 0..batches {
            for head in 0..self.heads as usize {
                let query_at = batch * queries * width + head * head_dim;
                let key_at = batch * keys * width + head * head_dim;
                packed_k.repack(&k[key_at.min(k.len())..], head_dim, keys, 1, width);
                packed_v.repack(&v[key_at.min(v.len())..], keys, head_dim, width, 1);
                let mask_at = batch * mask_strides[0] + head * mask_strides[1];
                multiply(
                    &q[query_at..],
                    width,
                    queries,
                    &packed_k,
                    &mut scores,
                    keys,
                    |first, rows| {
                        for (row, scores) in rows.chunks_exact_mut(keys.max(1)).enumerate() {
                            scores.iter_mut().for_each(|score| *score *= self.scale);
                            if self.mask {
                                let at = mask_at + (first + row) * mask_strides[2];
                                let added = mask[at..].iter().step_by(mask_strides[3].max(1));
                                match mask_strides[3] {
                                    0 => scores.iter_mut().for_each(|score| *score += mask[at]),
                                    _ => scores
                                        .iter_mut()
                                        .zip(added)
                                        .for_each(|(score, added)| *score += added),
                                }
                            }
                            normalize(scores);
                        }
                    },
                );
                multiply(
                    &scores,
                    keys,
                    queries,
                    &packed_v,
                    &mut output[query_at..],
                    width,
                    |_, _| {},
                );
            }
        }
        Ok(())
    }
}

/// Softmax of one row, in place.
pub(crate) fn normalize(row: &mut [f32]) {
    let largest =
        row.iter().fold(f32::MIN, |largest, &score| if score > largest { score } else { largest });
    row.iter_mut().for_each(|score| *score -= largest);
    math::apply(flotilla_program::Unary::Exp, row);
    let inverse = (1.0 / sums::sum(row, f64::from)) as f32;
    row.iter_mut().for_each(|score| *score *= inverse);
}

#[cfg(not(target_arch = "wasm32"))]
fn expected(op: &Attention, inputs: &[&Array]) -> Array {
    let (q, k, v) = (inputs[0], inputs[1], inputs[2]);
    let (keys, width) = (k.shape[1], q.shape[2]);
    let head_dim = width / op.heads as usize;
    let mut answers = q.map(|_| 0.0);
    let lines = q.shape[0] * op.heads as usize * q.shape[1];
    for line in 0..lines {
        let (query, rest) = (line % q.shape[1], line / q.shape[1]);
        let (head, batch) = (rest % op.heads as usize, rest / op.heads as usize);
        let query_at = (batch * q.shape[1] + query) * width + head * head_dim;
        let key_at = |key: usize| (batch * keys + key) * width + head * head_dim;
        let score = |key: usize| {
            let pairs = q.numbers[query_at..][..head_dim].iter().zip(&k.numbers[key_at(key)..]);
            let dot: f64 = pairs.map(|(q, k)| q * k).sum();
            let added = if op.mask {
                let position = [batch, head, query, key];
                let own: Vec<usize> = position
                    .iter()
                    .zip(&inputs[3].shape)
                    .map(|(&at, &size)| if size == 1 { 0 } else { at })
                    .collect();
                inputs[3].at(&own)
            } else {
                0.0
            };
            dot * f64::from(op.scale) + added
        };
        let scores: Vec<f64> = (0..keys).map(score).collect();
        let largest = scores.iter().copied().fold(f64::MIN, f64::max);
        let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
        for (key, score) in scores.iter().enumerate() {
            let weight = (score - largest).exp() / total;
            let values = &v.numbers[key_at(key)..][..head_dim];
            let answer = &mut answers.numbers[query_at..][..head_dim];
            answer.iter_mut().zip(values).for_each(|(answer, value)| *answer += weight * value);
        }
    }
    answers
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;

    let table: [(&str, u32, [usize; 4], Option<[usize; 4]>); 10] = [
        ("one head", 1, [1, 3, 3, 8], None),
        ("minilm", 12, [1, 17, 17, 384], Some([1, 1, 1, 17])),
        ("a mask per batch", 2, [3, 5, 5, 16], Some([3, 1, 1, 5])),
        ("a mask per head and query", 2, [1, 4, 6, 8], Some([1, 2, 4, 6])),
        ("one query", 4, [1, 1, 9, 64], None),
        ("odd heads", 3, [2, 4, 5, 15], Some([1, 1, 4, 5])),
        ("a wide head", 1, [1, 6, 6, 128], None),
        ("many keys", 2, [2, 3, 1100, 8], Some([2, 1, 3, 1100])),
        ("many keys of odd heads", 2, [1, 2, 2100, 6], Some([1, 2, 1, 2100])),
        ("more keys", 12, [1, 5, 4500, 384], None),
    ];
    let long = LONG.map(|keys| ("long", 1, [1, 2, keys, 4], Some([1, 1, 1, keys])));
    table
        .into_iter()
        .chain(long)
        .enumerate()
        .map(|(seed, (name, heads, [batch, queries, keys, width], mask))| {
            let seed = 1000 + seed as u64 * 10;
            let scale = 1.0 / ((width / heads as usize) as f32).sqrt();
            let op = Attention { heads, scale, mask: mask.is_some() };
            let mut arrays = vec![
                Array::noise(seed, &[batch, queries, width]),
                Array::noise(seed + 1, &[batch, keys, width]),
                Array::noise(seed + 2, &[batch, keys, width]),
            ];
            if let Some(shape) = mask {
                // Some keys are hidden in the way of exported models.
                let hidden = Array::noise(seed + 3, &shape)
                    .map(|x| if x > 0.4 { f64::from(f32::MIN) } else { x });
                arrays.push(Array { numbers: hidden.numbers, ..hidden });
            }
            let arrays: Vec<&Array> = arrays.iter().collect();
            let expected = expected(&op, &arrays);
            let tolerance = if keys > 1000 { Tolerance::Scaled } else { Tolerance::Approximate };
            let name = match name {
                "long" => format!("attention/{keys} keys"),
                name => format!("attention/{name}"),
            };
            Sketch::single(&name, Op::Attention(op), &arrays, &expected, tolerance)
                .everywhere_if(keys < 1000 || keys == LONGEST)
        })
        .collect()
}
