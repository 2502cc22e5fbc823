//! Quantized numbers as floats. Every operator that has quantized weights takes its numbers from here.

use anyhow::{Result, bail};
use flotilla_program::{
    Binary, Op, Quantized,
    dim::{Dim, ToDim as _},
};
use flotilla_tensor::DType;

use crate::import::onnx::{
    constant::Constant,
    facts::Var,
    small::{First, SmallType},
    wiring::Wiring,
};

/// `(q - zero) * scale` as `F32`, in the shape of `q`.
///
/// - `q`: integers of any type, one element per number, or floats (of 8 or 4 bits, or of a code book).
/// - `scale` and `zero`: of rank 0; or of the rank of `q`, where `axis` has one element for each `block` elements of `q` (the
///   last block may be short), and each other dimension is that of `q` or 1. Without `zero` it is 0.
///
/// The weights of a matrix product are `q` `[n, k]`, `scale` and `zero` `[n, ceil(k / block)]`, with `axis` 1.
/// Source: ONNX operators, "DequantizeLinear".
pub(super) fn dequantized(
    w: &mut Wiring<'_, '_>,
    q: Var,
    scale: Var,
    zero: Option<Var>,
    axis: usize,
    block: usize,
) -> Result<Var> {
    let scale = w.cast(scale, DType::F32)?;
    let is_narrow = w.dtype(q).is_integer() && w.dtype(q).is_narrow();
    if is_narrow && w.constant(q).is_some() && w.rank(q) > 0 {
        let whole = Quantized {
            bits: 8,
            signed: false,
            axis: axis as u32,
            block: u32::try_from(block.max(1))?,
            zeros: zero.is_some(),
            levels: None,
        };
        let shape = w.shape(q);
        return stored(w, q, scale, zero, whole, shape);
    }
    let operands: Vec<Var> = [scale].into_iter().chain(zero).collect();
    blockwise(w, q, &operands, (axis, block), |w, q, operands| {
        let number = match operands.get(1) {
            Some(&zero) if w.dtype(zero).is_float() || w.dtype(q).is_float() => {
                let (q, zero) = (w.cast(q, DType::F32)?, w.cast(zero, DType::F32)?);
                w.sub(q, zero)?
            }
            Some(&zero) => {
                let (q, zero) = (w.cast(q, DType::I32)?, w.cast(zero, DType::I32)?);
                w.sub(q, zero)?
            }
            None => q,
        };
        let number = w.cast(number, DType::F32)?;
        w.mul(number, operands[0])
    })
}

/// The numbers of a constant whose integers of 2 or 4 bits lie in bytes, from the lowest bits on; they stay there. `shape` is that of
/// the numbers, whose rows may end before those of the bytes do.
pub(super) fn dequantized_packed(
    w: &mut Wiring<'_, '_>,
    packed: Var,
    scale: Var,
    zero: Option<Var>,
    quantized: Quantized,
    shape: Vec<Dim>,
) -> Result<Var> {
    let scale = w.cast(scale, DType::F32)?;
    stored(w, packed, scale, zero, Quantized { zeros: zero.is_some(), ..quantized }, shape)
}

/// The operator that reads integers as they are stored.
fn stored(
    w: &mut Wiring<'_, '_>,
    integers: Var,
    scale: Var,
    zero: Option<Var>,
    quantized: Quantized,
    shape: Vec<Dim>,
) -> Result<Var> {
    let ranked = |w: &mut Wiring<'_, '_>, parameter: Var| match w.rank(parameter) {
        0 => w.reshape(parameter, &vec![Dim::Fixed(1); shape.len()]),
        _ => Ok(parameter),
    };
    let mut operands = vec![integers, ranked(w, scale)?];
    if let Some(zero) = zero {
        let like = w.shape(operands[1]);
        operands.push(match repeated(w, zero, &like) {
            Some(zeros) => zeros,
            None => {
                let zero = ranked(w, zero)?;
                w.broadcast_to(zero, &like)?
            }
        });
    }
    w.op(Op::Dequantize(quantized), &operands, DType::F32, shape)
}

/// A constant of one element as one of this shape, which the scales have.
fn repeated(w: &mut Wiring<'_, '_>, zero: Var, like: &[Dim]) -> Option<Var> {
    let constant = w.constant(zero).filter(|constant| constant.data.elements() == 1)?;
    let sizes: Option<Vec<usize>> =
        like.iter().map(|dim| usize::try_from(dim.as_fixed()?).ok()).collect();
    let sizes = sizes?;
    let count = sizes.iter().try_fold(1usize, |count, size| count.checked_mul(*size))?;
    let repeated = constant.data.bytes.repeat(count);
    let constant = Constant::new(constant.data.dtype, &sizes, repeated);
    Some(w.known(constant))
}

/// An expression of `x` and of operands that have one element for each block of an axis; see [`dequantized`].
pub(super) fn blockwise(
    w: &mut Wiring<'_, '_>,
    x: Var,
    operands: &[Var],
    (axis, block): (usize, usize),
    expression: impl FnOnce(&mut Wiring<'_, '_>, Var, &[Var]) -> Result<Var>,
) -> Result<Var> {
    let one = Dim::Fixed(1);
    let (rank, shape) = (w.rank(x), w.shape(x));
    let spread = |w: &Wiring<'_, '_>, var: Var| w.rank(var) == 0 || w.dim(var, axis) == one;
    if block <= 1 || operands.iter().all(|&var| spread(w, var)) {
        return expression(w, x, operands);
    }
    let whole =
        |w: &Wiring<'_, '_>, var: Var| w.rank(var) == 0 || &w.dim(var, axis) * block == shape[axis];
    // The blocks as a dimension of their own.
    let split = |dims: &[Dim], blocks: Dim, size: Dim| -> Vec<Dim> {
        [&dims[..axis], &[blocks, size], &dims[axis + 1..]].concat()
    };
    if rank < flotilla_kernels::RANK_MAX && operands.iter().all(|&var| whole(w, var)) {
        let blocks = shape[axis].over(block);
        let x = w.reshape(x, &split(&shape, blocks, block.to_dim()))?;
        let operands = operands.iter().map(|&var| match w.rank(var) {
            0 => Ok(var),
            _ => w.unsqueeze(var, axis + 1),
        });
        let operands = operands.collect::<Result<Vec<Var>>>()?;
        let result = expression(w, x, &operands)?;
        return w.reshape(result, &shape);
    }
    // The last block is short: each element of an operand is repeated, and the rest is cut off.
    let mut repeated = Vec::new();
    for &var in operands {
        if w.rank(var) == 0 {
            repeated.push(var);
            continue;
        }
        let own = w.shape(var);
        let line = w.unsqueeze(var, axis + 1)?;
        let line = w.broadcast_to(line, &split(&own, own[axis].clone(), block.to_dim()))?;
        let mut joined = own;
        joined[axis] = &joined[axis] * block;
        let line = w.reshape(line, &joined)?;
        repeated.push(w.slice(line, axis, 0, &shape[axis])?);
    }
    expression(w, x, &repeated)
}

/// The integers of `bits` bits in bytes `[.., bytes]`, as bytes `[.., bytes * 8 / bits]`.
///
/// Those of a constant are taken out during import, others in each run.
pub(super) fn unpacked(
    w: &mut Wiring<'_, '_>,
    packed: Var,
    bits: u32,
    first: First,
) -> Result<Var> {
    let Some(small) = SmallType::unsigned(bits) else {
        match bits {
            8 => return Ok(packed),
            _ => bail!("{bits} bits, which must be 2, 4 or 8"),
        }
    };
    let per_byte = (8 / bits) as usize;
    if let Some(constant) = w.constant(packed).cloned()
        && constant.data.dtype == DType::U8
        && let Some((last, outer)) = constant.shape.split_last()
    {
        let bytes = &constant.data.bytes;
        let numbers = small.unpacked(bytes, bytes.len() * per_byte, first)?;
        let shape = [outer, &[last * per_byte]].concat();
        return Ok(w.known(Constant::new(DType::U8, &shape, numbers)));
    }
    let mut shifts: Vec<i32> = (0..per_byte as i32).map(|at| at * bits as i32).collect();
    if first == First::High {
        shifts.reverse();
    }
    let shifts = w.known(Constant::i32s(&[per_byte], &shifts));
    let mask = w.known(Constant::i32s(&[], &[(1 << bits) - 1]));
    let mut shape = w.shape(packed);
    let bytes = w.cast(packed, DType::I32)?;
    let bytes = w.unsqueeze(bytes, shape.len())?;
    let shifted = w.binary(Binary::ShiftRight, bytes, shifts)?;
    let codes = w.binary(Binary::And, shifted, mask)?;
    match shape.last_mut() {
        Some(last) => *last = &*last * per_byte,
        None => bail!("packed numbers of rank 0"),
    }
    let codes = w.reshape(codes, &shape)?;
    w.cast(codes, DType::U8)
}
