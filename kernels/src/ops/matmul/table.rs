//! The table of cases.

use flotilla_program::{Levels, MatMul, Op, Quantized, Unary};
use flotilla_tensor::DType;

use super::super::{dequantize::Sample, math};
use crate::suite::{Array, Case, LONG, LONGEST, Sketch, Tolerance};

/// The expected result of a [`MatMul`].
fn expected(op: &MatMul, given: &[&Array], out: &[usize]) -> Array {
    let (a, b) = (given[0], given[1]);
    let at = |array: &Array, lead: &[usize], i: usize, j: usize| {
        let own = &array.shape[..array.shape.len() - 2];
        let lead = &lead[lead.len() - own.len()..];
        let mut index: Vec<usize> = own
            .iter()
            .zip(lead)
            .map(|(&size, &position)| if size == 1 { 0 } else { position })
            .collect();
        index.extend([i, j]);
        array.at(&index)
    };
    let k = a.shape[a.shape.len() - 1];
    Array::build(a.dtype, out, |index| {
        let (lead, i, j) =
            (&index[..index.len() - 2], index[index.len() - 2], index[index.len() - 1]);
        let b_at = |step| if op.transpose_b { at(b, lead, j, step) } else { at(b, lead, step, j) };
        let sum: f64 = (0..k).map(|step| at(a, lead, i, step) * b_at(step)).sum();
        let biased = f64::from(op.alpha) * sum + if op.bias { given[2].at(&[j]) } else { 0.0 };
        let activated = op.activation.map_or(biased, |unary| math::exact(unary, biased));
        activated + if op.residual { given[op.operands() - 1].at(index) } else { 0.0 }
    })
}

pub(crate) fn cases() -> Vec<Case> {
    let plain = MatMul::PLAIN;
    let gelu =
        MatMul { bias: true, activation: Some(Unary::GeluErf), residual: true, ..plain.clone() };
    let transposed = MatMul { transpose_b: true, alpha: 0.25, ..plain.clone() };
    let table: [(&str, &MatMul, &[usize], &[usize], &[usize], bool); 12] = [
        ("vectors", &plain, &[16, 32], &[32, 24], &[16, 24], true),
        ("one row", &gelu, &[1, 1, 64], &[64, 36], &[1, 1, 36], true),
        ("a ragged number of rows", &gelu, &[2, 13, 8], &[8, 12], &[2, 13, 12], true),
        ("nothing divides by 4", &gelu, &[5, 7], &[7, 9], &[5, 9], true),
        ("transposed", &transposed, &[9, 16], &[20, 16], &[9, 20], true),
        ("transposed and odd", &transposed, &[3, 5], &[7, 5], &[3, 7], true),
        ("transposed at run time", &transposed, &[9, 16], &[20, 16], &[9, 20], false),
        ("batches", &plain, &[2, 3, 5, 8], &[2, 3, 8, 4], &[2, 3, 5, 4], false),
        ("broadcast batches", &transposed, &[2, 1, 4, 6], &[3, 5, 6], &[2, 3, 4, 5], false),
        ("a matrix against batches", &gelu, &[10, 8], &[3, 8, 12], &[3, 10, 12], false),
        ("a long sum", &plain, &[4, 1536], &[1536, 8], &[4, 8], true),
        ("many rows", &plain, &[131, 12], &[12, 20], &[131, 20], true),
    ];
    let sums = MatMul { bias: true, residual: true, ..plain.clone() };
    let turned = MatMul { transpose_b: true, ..plain.clone() };
    let integers: [(&str, &MatMul, &[usize], &[usize], &[usize], bool); 4] = [
        ("integers", &plain, &[16, 32], &[32, 24], &[16, 24], true),
        ("odd integers with everything", &sums, &[5, 7], &[7, 9], &[5, 9], false),
        ("transposed integers", &turned, &[9, 16], &[20, 16], &[9, 20], true),
        ("batches of integers", &plain, &[2, 1, 4, 6], &[3, 6, 5], &[2, 3, 4, 5], false),
    ];
    let unsigned: [(&str, &MatMul, &[usize], &[usize], &[usize], bool); 1] =
        [("unsigned integers", &turned, &[3, 5], &[7, 5], &[3, 7], false)];
    let floats = table.map(|row| (DType::F32, row));
    let unsigned = unsigned.map(|row| (DType::U32, row));
    let integers = integers.map(|row| (DType::I32, row));
    let mut cases: Vec<Case> = floats
        .into_iter()
        .chain(integers)
        .chain(unsigned)
        .enumerate()
        .map(|(seed, (dtype, (name, op, a, b, out, constant)))| {
            let seed = seed as u64 * 10;
            let n = out[out.len() - 1];
            let noise = |offset: u64, shape: &[usize]| {
                let noise = Array::noise(seed + offset, shape);
                match dtype {
                    DType::I32 => Array { dtype, ..noise.map(|x| (x * 200.0).trunc()) },
                    DType::U32 => Array { dtype, ..noise.map(|x| (x.abs() * 200.0).trunc()) },
                    _ => noise,
                }
            };
            let mut arrays = vec![noise(0, a), noise(1, b)];
            if op.bias {
                arrays.push(noise(2, &[n]));
            }
            if op.residual {
                arrays.push(noise(3, out));
            }
            let expected = expected(op, &arrays.iter().collect::<Vec<_>>(), out);
            let mut sketch = Sketch::new(&format!("matmul/{name}"));
            let ids: Vec<_> = arrays
                .iter()
                .enumerate()
                .map(|(index, array)| {
                    if index == 1 && constant {
                        sketch.constant(array)
                    } else {
                        sketch.input(array)
                    }
                })
                .collect();
            let output = sketch.node(Op::MatMul(op.clone()), &ids, dtype, out);
            sketch.case(output, &expected, Tolerance::Approximate)
        })
        .collect();
    for k in LONG {
        cases.push(long(&plain, DType::F32, [1, 2, k, 3], true).everywhere_if(k == LONGEST));
    }
    cases.extend(narrow(&plain, &gelu));
    let everything = MatMul { alpha: 0.5, ..gelu };
    for (op, dtype, sizes, constant) in [
        (&everything, DType::F32, [2, 5, 70_000, 8], true),
        (&everything, DType::F32, [1, 3, 9001, 7], true),
        (&everything, DType::F32, [1, 17, 8192, 12], false),
        (&transposed, DType::F32, [1, 1, 40_000, 4], false),
        (&transposed, DType::F32, [2, 2, 3001, 5], false),
        (&sums, DType::I32, [1, 2, 70_000, 8], false),
        (&turned, DType::U32, [1, 3, 5001, 3], true),
    ] {
        cases.push(long(op, dtype, sizes, constant).everywhere_if(false));
    }
    cases
}

/// Long sums: batches, rows, elements of a sum, columns.
fn long(op: &MatMul, dtype: DType, [batches, m, k, n]: [usize; 4], constant: bool) -> Case {
    let noise = |seed: u64, shape: &[usize]| {
        let noise = Array::noise(300 + seed, shape);
        match dtype {
            DType::F32 => noise,
            DType::U32 => Array { dtype, ..noise.map(|x| (x.abs() * 2000.0).trunc()) },
            _ => Array { dtype, ..noise.map(|x| (x * 2000.0).trunc()) },
        }
    };
    let lead: &[usize] = if batches == 1 { &[] } else { &[batches] };
    let b_shape = if op.transpose_b { [n, k] } else { [k, n] };
    let out = [lead, &[m, n]].concat();
    let mut arrays = vec![noise(0, &[lead, &[m, k]].concat()), noise(1, &b_shape)];
    if op.bias {
        arrays.push(noise(2, &[n]));
    }
    if op.residual {
        arrays.push(noise(3, &out));
    }
    let mut numbers = Vec::new();
    for row in 0..batches * m {
        for column in 0..n {
            let b = |step| if op.transpose_b { column * k + step } else { step * n + column };
            let products =
                (0..k).map(|step| arrays[0].numbers[row * k + step] * arrays[1].numbers[b(step)]);
            let mut value = f64::from(op.alpha) * products.sum::<f64>();
            value += if op.bias { arrays[2].numbers[column] } else { 0.0 };
            value = op.activation.map_or(value, |unary| math::exact(unary, value));
            value +=
                if op.residual { arrays[op.operands() - 1].numbers[row * n + column] } else { 0.0 };
            numbers.push(match dtype {
                DType::F32 => value,
                DType::U32 => f64::from(value as i64 as u32),
                _ => f64::from(value as i64 as i32),
            });
        }
    }
    let mut sketch =
        Sketch::new(&format!("matmul/{batches}x{m}x{k}x{n} of {dtype:?}, {constant}, {op:?}"));
    let mut ids = Vec::new();
    for (index, array) in arrays.iter().enumerate() {
        let is_constant = index == 1 && constant;
        ids.push(if is_constant { sketch.constant(array) } else { sketch.input(array) });
    }
    let output = sketch.node(Op::MatMul(op.clone()), &ids, dtype, &out);
    let tolerance = if dtype == DType::F32 { Tolerance::Scaled } else { Tolerance::Exact };
    sketch.case(output, &Array::of(dtype, &out, numbers), tolerance)
}

/// Matrices that are narrow or quantized.
fn narrow(plain: &MatMul, gelu: &MatMul) -> Vec<Case> {
    let bytes = Quantized { bits: 8, signed: false, axis: 0, block: 1, zeros: false, levels: None };
    let zeros = Quantized { zeros: true, ..bytes };
    let nibbles = Quantized { bits: 4, axis: 1, block: 32, ..zeros };
    let turned = |op: &MatMul| MatMul { transpose_b: true, ..op.clone() };
    let (plain_turned, gelu_turned) = (turned(plain), turned(gelu));
    // The product, the quantization, types of matrix and scales, the sizes m, k and n, the shape of the scales.
    let nf4 = Quantized { levels: Some(Levels::Nf4), zeros: false, ..nibbles };
    let table: [(&str, &MatMul, Option<Quantized>, [DType; 2], [usize; 3], [usize; 2]); 18] = [
        ("halves", plain, None, [DType::F16, DType::F32], [9, 32, 24], [1, 1]),
        ("transposed halves", &gelu_turned, None, [DType::F16, DType::F32], [17, 64, 16], [1, 1]),
        ("odd halves", gelu, None, [DType::F16, DType::F32], [3, 7, 9], [1, 1]),
        ("bfloat16", &plain_turned, None, [DType::BF16, DType::F32], [1, 48, 20], [1, 1]),
        ("a long sum of halves", plain, None, [DType::F16, DType::F32], [1, 20_000, 8], [1, 1]),
        ("bytes", plain, Some(zeros), [DType::U8, DType::F32], [5, 32, 24], [1, 1]),
        ("bytes by column", gelu, Some(zeros), [DType::I8, DType::F32], [18, 36, 40], [1, 40]),
        ("odd bytes", gelu, Some(zeros), [DType::I8, DType::F32], [3, 7, 9], [1, 9]),
        (
            "transposed bytes",
            &gelu_turned,
            Some(bytes),
            [DType::I8, DType::F32],
            [4, 32, 12],
            [12, 1],
        ),
        (
            "blocks of bytes",
            plain,
            Some(Quantized { block: 16, ..zeros }),
            [DType::U8, DType::F32],
            [5, 40, 16],
            [3, 16],
        ),
        ("nibbles", &plain_turned, Some(nibbles), [DType::U8, DType::F32], [1, 64, 16], [16, 2]),
        (
            "nibbles and rows",
            &gelu_turned,
            Some(nibbles),
            [DType::U8, DType::F16],
            [21, 96, 24],
            [24, 3],
        ),
        ("odd nibbles", &gelu_turned, Some(nibbles), [DType::U8, DType::F32], [3, 45, 7], [7, 2]),
        (
            "signed nibbles",
            &plain_turned,
            Some(Quantized { signed: true, zeros: false, block: 16, ..nibbles }),
            [DType::U8, DType::F32],
            [2, 48, 8],
            [8, 3],
        ),
        (
            "two bits",
            &plain_turned,
            Some(Quantized { bits: 2, block: 16, ..nibbles }),
            [DType::U8, DType::F32],
            [2, 64, 8],
            [8, 4],
        ),
        ("levels", &plain_turned, Some(nf4), [DType::U8, DType::F32], [3, 64, 8], [8, 2]),
        (
            "a long sum of nibbles",
            &plain_turned,
            Some(nibbles),
            [DType::U8, DType::F32],
            [1, 20_000, 8],
            [8, 625],
        ),
        (
            "a long sum of bytes",
            plain,
            Some(zeros),
            [DType::I8, DType::F32],
            [2, 40_000, 5],
            [1, 5],
        ),
    ];
    let of = |(seed, row): (usize, _)| narrow_case(7000 + 100 * seed as u64, row);
    table.into_iter().enumerate().map(of).collect()
}

type NarrowRow<'a> = (&'a str, &'a MatMul, Option<Quantized>, [DType; 2], [usize; 3], [usize; 2]);

fn narrow_case(seed: u64, row: NarrowRow<'_>) -> Case {
    let (name, op, quantized, [dtype, scale_type], [m, k, n], scales) = row;
    let op = MatMul { quantized, ..op.clone() };
    let shape = if op.transpose_b { [n, k] } else { [k, n] };
    let mut sketch = Sketch::new(&format!("matmul/{name}"));
    let a = Array::noise(seed, &[m, k]);
    let mut operands = vec![sketch.input(&a)];
    let b = match quantized {
        Some(quantized) => {
            let sample = Sample::new(seed + 1, quantized, dtype, scale_type, &shape, &scales);
            operands.extend(sample.operands(&mut sketch, true));
            sample.numbers
        }
        None => {
            let noise = Array::noise(seed + 1, &shape);
            let numbers = dtype.decode_numbers(&dtype.encode_numbers(&noise.numbers));
            let b = Array::of(dtype, &shape, numbers);
            operands.push(sketch.narrow(&b));
            b
        }
    };
    let mut given = vec![a, b];
    let rest = [(op.bias, vec![n]), (op.residual, vec![m, n])];
    for (index, (_, shape)) in rest.into_iter().filter(|(wanted, _)| *wanted).enumerate() {
        let array = Array::noise(seed + 10 + index as u64, &shape);
        operands.push(sketch.input(&array));
        given.push(array);
    }
    let unquantized = MatMul { quantized: None, ..op.clone() };
    let expected = expected(&unquantized, &given.iter().collect::<Vec<_>>(), &[m, n]);
    let output = sketch.node(Op::MatMul(op), &operands, DType::F32, &[m, n]);
    sketch.case(output, &expected, Tolerance::Scaled)
}
