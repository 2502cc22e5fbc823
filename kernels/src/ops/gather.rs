//! Slices of a tensor, selected by index; embeddings.

use flotilla_program::Gather;
use flotilla_tensor::DType;

use super::{
    Kernel, Launch, Operand, Shader,
    dequantize::{self, Form, Places},
    stored::Stored,
};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// `data` is `[outer, size, inner]`.
struct Geometry {
    outer: usize,
    size: usize,
    inner: usize,
    picked: usize,
}

fn geometry(op: &Gather, call: &Call<'_>) -> Result<Geometry, String> {
    let (stored, indices, axis) = (call.input(0), call.input(1), op.axis as usize);
    let mut data = stored.to_vec();
    if op.quantized.is_some() {
        // Several integers may lie in a byte: only the output has the size of a row.
        let row = call.output().last().copied();
        data.pop();
        data.extend(row);
    }
    let data = data.as_slice();
    let (before, after) = (&data[..axis], &data[axis + 1..]);
    call.expect_output(&[before, indices, after].concat())?;
    let product = |dims: &[usize]| dims.iter().product::<usize>();
    Ok(Geometry {
        outer: product(before),
        size: data[axis],
        inner: product(after),
        picked: product(indices),
    })
}

/// Whether slices are whole `vec4`s.
fn by_4(op: &Gather, signature: &Signature<'_>) -> bool {
    let last = signature.input(0).shape.last().and_then(|dim| dim.as_fixed());
    (op.axis as usize) + 1 < signature.input(0).shape.len()
        && last.is_some_and(|dim| dim > 0 && dim % 4 == 0)
}

/// How the numbers of narrow or quantized data are read.
#[derive(Clone, Copy)]
enum Reading {
    Narrow(Stored),
    Quantized(Form),
}

fn reading(op: &Gather, signature: &Signature<'_>) -> Result<Option<Reading>, String> {
    let data = signature.input(0);
    if let Some(quantized) = op.quantized {
        if op.axis != 0 || data.shape.len() < 2 {
            return Err("a lookup in quantized data selects rows".to_owned());
        }
        return Ok(Some(Reading::Quantized(dequantize::form(&quantized, signature, 0, 2)?)));
    }
    match Stored::of(data) {
        stored if data.is_narrow() => Ok(Some(Reading::Narrow(stored))),
        _ => Ok(None),
    }
}

fn places(op: &Gather, call: &Call<'_>) -> Result<Option<Places>, String> {
    let Some(quantized) = op.quantized else { return Ok(None) };
    let mut shape = call.input(0).to_vec();
    shape.pop();
    shape.extend(call.output().last());
    Places::new(&quantized, &shape, call.input(0), call.input(2)).map(Some)
}

impl Kernel for Gather {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        let operands = 2 + self.quantized.map_or(0, flotilla_program::Quantized::operands);
        signature.expect_operands(operands)?;
        signature.expect_indices()?;
        signature.expect_axis(self.axis)?;
        match reading(self, signature)? {
            Some(Reading::Quantized(_)) => signature.expect_result(DType::F32),
            Some(Reading::Narrow(_)) => signature.expect_result(signature.input(0).dtype.storage()),
            None => signature.expect_result(signature.input(0).dtype),
        }
    }

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        let mut reads = vec![("data", "u32"), ("indices", "i32")];
        let numbers = match reading(self, signature) {
            Ok(None) | Err(_) => None,
            Ok(Some(Reading::Narrow(stored))) => Some((
                "const UNUSED = 0u;".to_owned(),
                stored.reader("data"),
                "data_at(source)".to_owned(),
            )),
            Ok(Some(Reading::Quantized(form))) => {
                reads.push(("scales", "u32"));
                reads.extend(form.zeros.map(|_| ("zeros", "u32")));
                let number = form
                    .number("data")
                    .replace("data_at(at)", "data_at(integer_of(source))")
                    .replace("(block)", "(scale_of(source))");
                Some((dequantize::WGSL.to_owned(), form.readers("data"), number))
            }
        };
        if let Some((places, readers, number)) = numbers {
            let member = if self.quantized.is_some() { "places: Places," } else { "" };
            let element = match signature.output().dtype {
                DType::I32 => "i32",
                DType::U32 => "u32",
                _ => "f32",
            };
            let body = include_str!("gather_numbers.wgsl")
                .replace("{{element}}", element)
                .replace("{{places}}", member)
                .replace("{{number}}", &number);
            let body = format!("{places}\n{readers}\n{body}");
            return vec![Shader::new("Gather, numbers", &reads, element, &body)];
        }
        let element = if by_4(self, signature) { "vec4<u32>" } else { "u32" };
        let body = format!("alias Element = {element};\n{}", include_str!("gather.wgsl"));
        vec![Shader::new("Gather", &[("data", element), ("indices", "i32")], element, &body)]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { outer, size, inner, picked } = geometry(self, call)?;
        let places = places(self, call)?;
        let numbers = reading(self, &call.signature)?.is_some();
        let inner = if by_4(self, &call.signature) && !numbers { inner / 4 } else { inner };
        let total = outer * picked * inner;
        let mut params = places.as_ref().map_or(Vec::new(), Places::params);
        params.extend([total, outer, size, inner, picked].map(|count| count as u32));
        let iterations = places.as_ref().map_or(0, Places::iterations);
        Ok(vec![Launch::new(0, call.inputs(), params, total, iterations)])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let Geometry { size, inner, picked, .. } = geometry(self, call)?;
        let (data, indices) = (operands[0].words(), operands[1].i32());
        if inner * picked == 0 {
            return Ok(());
        }
        let (reading, places) = (reading(self, &call.signature)?, places(self, call)?);
        for (outer, output) in output.chunks_exact_mut(inner * picked).enumerate() {
            for (&index, output) in indices.iter().zip(output.chunks_exact_mut(inner)) {
                let from_start =
                    if index < 0 { i64::from(index) + size as i64 } else { i64::from(index) };
                let Some(at) = usize::try_from(from_start).ok().filter(|&at| at < size) else {
                    return Err(format!("index {index} is outside of a dimension of {size}"));
                };
                let first = (outer * size + at) * inner;
                match (reading, &places) {
                    (Some(Reading::Quantized(form)), Some(places)) => {
                        for (index, word) in output.iter_mut().enumerate() {
                            let (at, block) = places.of(first + index);
                            *word = form.compute(data, &operands[2..], at, block).to_bits();
                        }
                    }
                    (Some(Reading::Narrow(stored)), _) => {
                        let is_float = call.signature.output().dtype == DType::F32;
                        for (index, word) in output.iter_mut().enumerate() {
                            let number = stored.at(data, first + index);
                            *word = if is_float { number.to_bits() } else { number as i32 as u32 };
                        }
                    }
                    _ => output.copy_from_slice(&data[first..][..inner]),
                }
            }
        }
        Ok(())
    }

    fn reads_narrow(&self, _: &Signature<'_>, input: usize) -> bool {
        match self.quantized {
            Some(_) => input != 1,
            None => input == 0,
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;

    let table: [(&str, &[usize], &[usize], &[i32], u32); 4] = [
        ("an embedding", &[10, 8], &[2, 3], &[0, 9, 4, 4, 1, -1], 0),
        ("odd slices", &[5, 3], &[4], &[4, -5, 2, 0], 0),
        ("the last dimension", &[3, 6], &[2], &[5, 1], 1),
        ("one of the middle", &[2, 4, 4], &[], &[2], 1),
    ];
    table
        .into_iter()
        .map(|(name, shape, picked_shape, picked, axis)| {
            let at = axis as usize;
            let data = Array::noise(3500, shape);
            let indices = Array::of(
                DType::I32,
                picked_shape,
                picked.iter().map(|&index| f64::from(index)).collect(),
            );
            let out = [&shape[..at], picked_shape, &shape[at + 1..]].concat();
            let expected = Array::build(DType::F32, &out, |index| {
                let (before, rest) = index.split_at(at);
                let (pick, after) = rest.split_at(picked_shape.len());
                let pick = indices.at(pick) as i64;
                let own = if pick < 0 { pick + shape[at] as i64 } else { pick };
                data.at(&[before, &[own as usize], after].concat())
            });
            let op = Op::Gather(Gather::new(axis));
            Sketch::single(
                &format!("gather/{name}"),
                op,
                &[&data, &indices],
                &expected,
                Tolerance::Exact,
            )
        })
        .chain(narrow_cases())
        .collect()
}

/// Lookups in narrow and quantized tables.
#[cfg(not(target_arch = "wasm32"))]
fn narrow_cases() -> Vec<Case> {
    use flotilla_program::{Op, Quantized};

    let mut cases = Vec::new();
    let indices = Array::of(DType::I32, &[5], vec![0.0, 6.0, 3.0, -1.0, 3.0]);
    let picked = |data: &Array| {
        Array::build(DType::F32, &[5, data.shape[1]], |index| {
            let row = indices.numbers[index[0]];
            let row = if row < 0.0 { row + 7.0 } else { row };
            data.at(&[row as usize, index[1]])
        })
    };
    let types = [
        ("halves", DType::F16, 12),
        ("odd halves", DType::F16, 5),
        ("bfloat16", DType::BF16, 7),
        ("bytes", DType::U8, 9),
        ("bytes with a sign", DType::I8, 8),
        ("16 bits", DType::I16, 3),
    ];
    for (seed, (name, dtype, columns)) in types.into_iter().enumerate() {
        let scale = if dtype.is_float() { 1.0 } else { 200.0 };
        let noise = Array::noise(3550 + seed as u64, &[7, columns]).map(|x| x * scale);
        let numbers = dtype.decode_numbers(&dtype.encode_numbers(&noise.numbers));
        let data = Array::of(dtype, &noise.shape, numbers);
        let mut sketch = Sketch::new(&format!("gather/{name}"));
        let operands = [sketch.narrow(&data), sketch.input(&indices)];
        let op = Op::Gather(Gather::new(0));
        let output = sketch.node(op, &operands, dtype.storage(), &[5, columns]);
        let expected = Array { dtype: dtype.storage(), ..picked(&data) };
        cases.push(sketch.case(output, &expected, Tolerance::Exact));
    }
    let plain = Quantized { bits: 8, signed: false, axis: 0, block: 1, zeros: false, levels: None };
    let nibbles = Quantized { bits: 4, axis: 1, block: 16, zeros: true, ..plain };
    let table: [(&str, Quantized, DType, usize, &[usize]); 3] = [
        ("quantized rows", plain, DType::I8, 9, &[7, 1]),
        ("nibbles", nibbles, DType::U8, 40, &[7, 3]),
        ("two bits", Quantized { bits: 2, ..nibbles }, DType::U8, 32, &[7, 2]),
    ];
    for (seed, (name, quantized, dtype, columns, scales)) in table.into_iter().enumerate() {
        let shape = [7, columns];
        let seed = 3560 + 10 * seed as u64;
        let sample = dequantize::Sample::new(seed, quantized, dtype, DType::F16, &shape, scales);
        let mut sketch = Sketch::new(&format!("gather/{name}"));
        let mut operands = sample.operands(&mut sketch, true);
        operands.insert(1, sketch.input(&indices));
        let op = Op::Gather(Gather { axis: 0, quantized: Some(quantized) });
        let output = sketch.node(op, &operands, DType::F32, &[5, columns]);
        cases.push(sketch.case(output, &picked(&sample.numbers), Tolerance::Close));
    }
    cases
}
