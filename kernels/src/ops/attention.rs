//! Scaled dot-product attention over packed heads.

use flotilla_program::{Attention, DType};

use super::{
    Kernel, Launch, Operand, Shader, math,
    matmul::{PackedMatrix, multiply},
    sums,
};
use crate::call::{Call, Signature, broadcast_strides};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// Wider heads do not fit the registers of an invocation.
const HEAD_DIM_MAX: i64 = 256;

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

/// Neighbouring queries that fit the registers of an invocation together.
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

/// A repeated query writes its result twice.
fn store(head_dim: u32, units: u32) -> String {
    lines(queries_per_invocation(head_dim), |query| {
        format!("    let inverse{query} = 1.0 / total{query};\n")
            + &lines(units, |i| {
                format!("    output[at{query} + {i}u] = sum{query}_{i} * inverse{query};")
            })
    })
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
        let (element, units, product) = if head_dim.is_multiple_of(4) {
            ("vec4<f32>", head_dim / 4, "dot")
        } else {
            ("f32", head_dim, "times")
        };
        let mut body = include_str!("attention.wgsl").to_owned();
        for (name, text) in [
            ("queries", queries_per_invocation(head_dim).to_string()),
            ("units", units.to_string()),
            ("setup", setup(self, head_dim, units, element)),
            ("load_key", lines(units, |i| format!("        let k{i} = k[key_at + {i}u];"))),
            ("scores", scores(self, head_dim, units, product)),
            ("load_value", lines(units, |i| format!("        let v{i} = v[key_at + {i}u];"))),
            ("accumulate", accumulate(head_dim, units)),
            ("store", store(head_dim, units)),
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
        vec![Shader::new("Attention", &reads, element, &body)]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { batches, queries, keys, head_dim, mask_strides, .. } = geometry(self, call)?;
        let tiles = queries.div_ceil(queries_per_invocation(head_dim as u32) as usize);
        let mut params =
            vec![batches as u32, self.heads, queries as u32, keys as u32, self.scale.to_bits()];
        params.extend(mask_strides.map(|stride| stride as u32));
        let invocations = batches * self.heads as usize * tiles;
        Ok(vec![Launch::new(0, call.inputs(), params, invocations, keys)])
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
    Array::build(DType::F32, &q.shape, |index| {
        let &[batch, query, feature] = index else { return f64::NAN };
        let head = feature / head_dim;
        let features = head * head_dim..(head + 1) * head_dim;
        let score = |key: usize| {
            let dot: f64 = features
                .clone()
                .map(|at| q.at(&[batch, query, at]) * k.at(&[batch, key, at]))
                .sum();
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
        scores
            .iter()
            .enumerate()
            .map(|(key, score)| (score - largest).exp() / total * v.at(&[batch, key, feature]))
            .sum()
    })
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;

    let table: [(&str, u32, [usize; 4], Option<[usize; 4]>); 7] = [
        ("one head", 1, [1, 3, 3, 8], None),
        ("minilm", 12, [1, 17, 17, 384], Some([1, 1, 1, 17])),
        ("a mask per batch", 2, [3, 5, 5, 16], Some([3, 1, 1, 5])),
        ("a mask per head and query", 2, [1, 4, 6, 8], Some([1, 2, 4, 6])),
        ("one query", 4, [1, 1, 9, 64], None),
        ("odd heads", 3, [2, 4, 5, 15], Some([1, 1, 4, 5])),
        ("a wide head", 1, [1, 6, 6, 128], None),
    ];
    table
        .into_iter()
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
                // Some keys are hidden the way exported models hide them.
                let hidden = Array::noise(seed + 3, &shape)
                    .map(|x| if x > 0.4 { f64::from(f32::MIN) } else { x });
                arrays.push(Array { numbers: hidden.numbers, ..hidden });
            }
            let arrays: Vec<&Array> = arrays.iter().collect();
            let expected = expected(&op, &arrays);
            Sketch::single(
                &format!("attention/{name}"),
                Op::Attention(op),
                &arrays,
                &expected,
                Tolerance::Approximate,
            )
        })
        .collect()
}
