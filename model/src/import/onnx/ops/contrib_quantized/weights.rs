//! Operators with weights of 2, 4 or 8 bits in blocks that have a scale each. The weights become floats in one place,
//! [`dequantized`].

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_program::{
    Binary, Levels, Quantized,
    dim::{Dim, ToDim as _},
};
use flotilla_tensor::DType;

use super::{check_shape, size};
use crate::import::onnx::{
    constant::Constant,
    contract::Labelled,
    facts::Var,
    ops::dequantize::{dequantized, dequantized_packed, unpacked},
    small::First,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] =
    &[("GatherBlockQuantized", gather), ("MatMulBnb4", matmul_bnb4), ("MatMulNBits", matmul_nbits)];

/// The smallest block that onnxruntime takes.
const BLOCK_MIN: usize = 16;

/// The attribute `block_size`: a power of two.
fn block_size(w: &Wiring<'_, '_>, default: Option<usize>) -> Result<usize> {
    let block = match (w.int("block_size")?, default) {
        (None, Some(default)) => default,
        _ => size(w, "block_size")?,
    };
    ensure!(
        block >= BLOCK_MIN && block.is_power_of_two(),
        "block_size is {block}, a power of two of at least {BLOCK_MIN} is needed"
    );
    Ok(block)
}

/// The attribute `bits`.
fn bits(w: &Wiring<'_, '_>) -> Result<usize> {
    match w.int("bits")?.unwrap_or(4) {
        bits @ (2 | 4 | 8) => Ok(bits as usize),
        bits => bail!("bits is {bits}, which must be 2, 4 or 8"),
    }
}

/// `a @ b^T + bias`, where `b` is `[n, k]` in blocks along `k`.
///
/// `accuracy_level` permits onnxruntime to round `a`. Nothing is rounded here, so that it has no meaning.
fn matmul_nbits(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (a, b) = (w.input(0)?, w.input(1)?);
    w.ignore(&["accuracy_level"]);
    let (k, n, block, bits) = (size(w, "K")?, size(w, "N")?, block_size(w, None)?, bits(w)?);
    let prepacked = w.int("weight_prepacked")?.unwrap_or(0);
    ensure!(prepacked == 0, "weight_prepacked is {prepacked}, a layout of one kind of device");
    check_operand(w, a, k)?;
    ensure!(w.dtype(b) == DType::U8, "packed weights of type {:?}, U8 is needed", w.dtype(b));
    let blocks = k.div_ceil(block);
    check_shape(w, b, "the packed weights", &[n, blocks, block * bits / 8])?;
    let scale = w.input(2)?;
    ensure!(w.dtype(scale).is_float(), "scales of type {:?}", w.dtype(scale));
    let scale = matrix(w, scale, "the scales", [n, blocks])?;

    let rows = w.reshape(b, &[n.to_dim(), (blocks * (block * bits / 8)).to_dim()])?;
    let is_packed = bits < 8 && w.constant(rows).is_some() && w.optional(4).is_none();
    let q = if is_packed { rows } else { unpacked(w, rows, bits as u32, First::Low)? };
    let zero = match w.optional(3) {
        Some(zero) if w.dtype(zero) == DType::U8 => {
            let zero = matrix(w, zero, "the packed zero points", [n, (blocks * bits).div_ceil(8)])?;
            let zero = unpacked(w, zero, bits as u32, First::Low)?;
            w.slice(zero, 1, 0, blocks)?
        }
        Some(zero) => {
            let (of_zero, of_scale) = (w.dtype(zero), w.dtype(scale));
            ensure!(
                of_zero == of_scale,
                "zero points of type {of_zero:?} and scales of type {of_scale:?}; U8 or the same type is needed"
            );
            matrix(w, zero, "the zero points", [n, blocks])?
        }
        None => w.scalar(DType::U8, f64::from(1u32 << (bits - 1))),
    };
    let weights = match w.optional(4) {
        None if is_packed => {
            let quantized = packed(bits, 1, block, None)?;
            let shape = vec![n.to_dim(), k.to_dim()];
            dequantized_packed(w, q, scale, Some(zero), quantized, shape)?
        }
        None => {
            let weights = dequantized(w, q, scale, Some(zero), 1, block)?;
            w.slice(weights, 1, 0, k)?
        }
        Some(groups) => {
            let groups = group_of_each(w, groups, [k, blocks, block])?;
            let q = w.slice(q, 1, 0, k)?;
            let scale = w.gather(1, scale, groups)?;
            let zero = if w.rank(zero) == 2 { w.gather(1, zero, groups)? } else { zero };
            dequantized(w, q, scale, Some(zero), 1, 1)?
        }
    };
    let bias = w.optional(5);
    if let Some(bias) = bias {
        check_shape(w, bias, "the bias", &[n])?;
    }
    product(w, a, weights, true, bias).map(|y| vec![y])
}

/// How unsigned integers lie in bytes.
fn packed(bits: usize, axis: usize, block: usize, levels: Option<Levels>) -> Result<Quantized> {
    let (bits, axis, block) = (bits as u32, axis as u32, u32::try_from(block)?);
    Ok(Quantized { bits, signed: false, axis, block, zeros: false, levels })
}

/// The left operand of a product over `k`.
fn check_operand(w: &mut Wiring<'_, '_>, a: Var, k: usize) -> Result<()> {
    ensure!(w.dtype(a).is_float(), "a left operand of type {:?}, a float is needed", w.dtype(a));
    match w.shape(a).last() {
        Some(last) => w.same("the inner dimensions of a product", last, &k.to_dim()).map(drop),
        None => bail!("the left operand has rank 0"),
    }
}

/// A value of this shape, which old files have as one line.
fn matrix(
    w: &mut Wiring<'_, '_>,
    var: Var,
    what: &str,
    [rows, columns]: [usize; 2],
) -> Result<Var> {
    if w.rank(var) == 1 {
        check_shape(w, var, what, &[rows * columns])?;
        return w.reshape(var, &[rows.to_dim(), columns.to_dim()]);
    }
    check_shape(w, var, what, &[rows, columns])?;
    Ok(var)
}

/// The block whose scale each of the `k` rows has.
fn group_of_each(
    w: &mut Wiring<'_, '_>,
    groups: Var,
    [k, blocks, block]: [usize; 3],
) -> Result<Var> {
    let padded = w.shape(groups) != [k.to_dim()];
    check_shape(w, groups, "g_idx", &[if padded { blocks * block } else { k }])?;
    let Some(known) = w.constant(groups).and_then(Constant::integers) else {
        bail!("g_idx must be integers that are known when the model is loaded")
    };
    if let Some(group) = known.iter().find(|&&group| group < 0 || group >= blocks as i64) {
        bail!("g_idx names block {group} of {blocks}");
    }
    w.slice(groups, 0, 0, k)
}

/// `a @ b^T + bias`, or `a @ b + bias`, computed in `F32`, of the type of `a`.
fn product(
    w: &mut Wiring<'_, '_>,
    a: Var,
    b: Var,
    transposed: bool,
    bias: Option<Var>,
) -> Result<Var> {
    let dtype = w.dtype(a);
    let a = w.unrounded(a, DType::F32)?;
    let outer: Vec<usize> = (0..w.rank(a) - 1).collect();
    let (inner, column) = (outer.len(), outer.len() + 1);
    let result = [outer.as_slice(), &[column]].concat();
    let left = Labelled { var: a, labels: [outer.as_slice(), &[inner]].concat() };
    let labels = if transposed { vec![column, inner] } else { vec![inner, column] };
    let mut y = w.contract(left, Labelled { var: b, labels }, &result)?;
    if let Some(bias) = bias {
        let bias = w.unrounded(bias, DType::F32)?;
        y = w.add(y, bias)?;
    }
    w.cast(y, dtype)
}

/// `a @ b^T`, or `a @ b`, where `b` is `[n, k]` in blocks of all its elements in order, each a code of a table.
fn matmul_bnb4(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (a, b, scale) = (w.input(0)?, w.input(1)?, w.input(2)?);
    let (k, n, block) = (size(w, "K")?, size(w, "N")?, block_size(w, None)?);
    let transposed = w.int("transB")?.unwrap_or(1) != 0;
    check_operand(w, a, if transposed { k } else { n })?;
    let levels = match w.int("quant_type")?.context("quant_type is missing")? {
        0 => Levels::Fp4,
        1 => Levels::Nf4,
        other => bail!("quant_type is {other}, which must be 0 (FP4) or 1 (NF4)"),
    };
    let count = k * n;
    ensure!(w.dtype(b) == DType::U8, "packed weights of type {:?}, U8 is needed", w.dtype(b));
    check_shape(w, b, "the packed weights", &[count.div_ceil(2)])?;
    ensure!(w.dtype(scale).is_float(), "scales of type {:?}", w.dtype(scale));
    let blocks = count.div_ceil(block);
    check_shape(w, scale, "the scales (absmax)", &[blocks])?;
    // Blocks that end with a row are those of a matrix in blocks along `k`, whose codes stay in their bytes.
    if k % block == 0
        && let Some(constant) = w.constant(b)
    {
        // bitsandbytes has the first code of a byte in its upper bits.
        let swapped: Vec<u8> = constant.data.bytes.iter().map(|byte| byte.rotate_left(4)).collect();
        let rows = w.known(Constant::new(DType::U8, &[n, k / 2], swapped));
        let scale = w.reshape(scale, &[n.to_dim(), (blocks / n).to_dim()])?;
        let quantized = packed(4, 1, block, Some(levels))?;
        let shape = vec![n.to_dim(), k.to_dim()];
        let weights = dequantized_packed(w, rows, scale, None, quantized, shape)?;
        return product(w, a, weights, transposed, None).map(|y| vec![y]);
    }
    let codes = unpacked(w, b, 4, First::High)?;
    let codes = w.slice(codes, 0, 0, count)?;
    let table = levels.numbers();
    let table = w.known(Constant::f32s(&[table.len()], &table));
    let numbers = w.gather(0, table, codes)?;
    let (rows, columns) = if k % block == 0 { (n, k) } else { (1, count) };
    let numbers = w.reshape(numbers, &[rows.to_dim(), columns.to_dim()])?;
    let scale = w.reshape(scale, &[rows.to_dim(), (blocks / rows).to_dim()])?;
    let weights = dequantized(w, numbers, scale, None, 1, block)?;
    let weights = w.reshape(weights, &[n.to_dim(), k.to_dim()])?;
    product(w, a, weights, transposed, None).map(|y| vec![y])
}

/// Slices of quantized data as floats; zeros where the index is out of range. Only what is gathered becomes floats.
fn gather(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (data, indices, scale, zero) = (w.input(0)?, w.input(1)?, w.input(2)?, w.optional(3));
    let rank = w.rank(data);
    ensure!(rank > 0, "data of no dimensions");
    let along = w.axis(w.int("gather_axis")?.unwrap_or(0), rank)?;
    let axis = w.axis(w.int("quantize_axis")?.unwrap_or(1), rank)?;
    let small = w.walk.small(data);
    let is_float = small.is_some_and(|small| small.range().is_none());
    let whole = is_float && w.int("block_size")? == Some(0);
    let block = if whole { 1 << 31 } else { block_size(w, Some(128))? };
    ensure!(w.dtype(indices).is_integer(), "indices of type {:?}", w.dtype(indices));
    let to = w.dtype(scale);
    ensure!(to.is_float(), "scales of type {to:?}, a float is needed");
    let bits = match (small, w.dtype(data)) {
        (Some(small), _) => {
            let bits = small.bits();
            let named = w.int("bits")?.unwrap_or(4);
            ensure!(is_float || bits == 4, "data of type {}", small.name());
            ensure!(is_float || named == 4, "bits is {named} for data of type {}", small.name());
            8
        }
        (None, DType::U8) => {
            ensure!(along == 0, "gather_axis is {along}, and must be 0 for data of type U8");
            ensure!(
                axis == rank - 1 && axis != along,
                "quantize_axis is {axis}, and must be the last one for data of type U8"
            );
            bits(w)?
        }
        (None, other) => bail!("data of type {other:?}"),
    };
    let per_byte = 8 / bits;
    check_parameters(w, data, scale, zero, Layout { axis, block, per_byte, is_float })?;

    // An index out of range reads a slice that exists, and is replaced.
    let size = w.dim(data, along);
    let length = w.dimension(size.clone(), w.dtype(indices))?;
    let (none, last) = (w.scalar(w.dtype(indices), 0.0), w.dimension(size - 1, w.dtype(indices))?);
    let from_front = w.add(indices, length)?;
    let is_behind = w.binary(Binary::Lt, indices, none)?;
    let place = w.select(is_behind, from_front, indices)?;
    let kept = w.max(place, none)?;
    let kept = w.min(kept, last)?;
    let is_there = w.binary(Binary::Eq, kept, place)?;

    let is_table = rank == 2 && along == 0 && axis == 1 && w.dtype(data) == DType::U8;
    let number = if small.is_none() && is_table && w.constant(data).is_some() {
        table_numbers(w, data, scale, zero, [bits, block], kept)?
    } else {
        let mut places = Places { along, axis, block, kept, of_blocks: None };
        gathered_numbers(w, &mut places, [data, scale], zero, bits)?
    };
    let behind = vec![Dim::Fixed(1); rank - 1 - along];
    let shape = [w.shape(is_there).as_slice(), &behind].concat();
    let is_there = w.reshape(is_there, &shape)?;
    let nothing = w.scalar(DType::F32, 0.0);
    let number = w.select(is_there, number, nothing)?;
    Ok(vec![w.cast(number, to)?])
}

/// Rows of a constant table, whose integers stay in their bytes.
fn table_numbers(
    w: &mut Wiring<'_, '_>,
    data: Var,
    scale: Var,
    zero: Option<Var>,
    [bits, block]: [usize; 2],
    rows: Var,
) -> Result<Var> {
    let shape = vec![w.dim(data, 0), w.dim(data, 1) * (8 / bits)];
    let zero = match zero {
        Some(zero) => {
            let zero = unpacked(w, zero, bits as u32, First::Low)?;
            let blocks = w.dim(scale, 1);
            w.slice(zero, 1, 0, blocks)?
        }
        None => w.scalar(DType::U8, f64::from(1u32 << (bits - 1))),
    };
    let quantized = packed(bits, 1, block, None)?;
    let numbers = dequantized_packed(w, data, scale, Some(zero), quantized, shape)?;
    w.gather(0, numbers, rows)
}

/// Gathers integers, scales and zero points, and makes numbers of what was gathered.
fn gathered_numbers(
    w: &mut Wiring<'_, '_>,
    places: &mut Places,
    [data, scale]: [Var; 2],
    zero: Option<Var>,
    bits: usize,
) -> Result<Var> {
    let Places { along, axis, block, kept, .. } = *places;
    let small = w.walk.small(data);
    let q = w.gather(along, data, kept)?;
    let q = unpacked(w, q, bits as u32, First::Low)?;
    let scale = places.of(w, scale)?;
    let zero = match zero {
        Some(zero) if bits < 8 => {
            let zero = places.of(w, zero)?;
            let zero = unpacked(w, zero, bits as u32, First::Low)?;
            let blocks = w.dim(scale, w.rank(scale) - 1);
            Some(w.slice(zero, w.rank(zero) - 1, 0, blocks)?)
        }
        Some(zero) => Some(places.of(w, zero)?),
        None if small.is_none() => Some(w.scalar(DType::U8, f64::from(1u32 << (bits - 1)))),
        None => None,
    };
    let new = w.rank(kept);
    let (at, block) = match axis.cmp(&along) {
        std::cmp::Ordering::Less => (axis, block),
        std::cmp::Ordering::Equal => (axis, 1),
        std::cmp::Ordering::Greater => (axis + new - 1, block),
    };
    dequantized(w, q, scale, zero, at, block)
}

/// How gathered data are quantized.
struct Layout {
    axis: usize,
    block: usize,
    /// Elements in a byte of the data.
    per_byte: usize,
    is_float: bool,
}

/// Refuses scales and zero points that do not fit the data.
fn check_parameters(
    w: &mut Wiring<'_, '_>,
    data: Var,
    scale: Var,
    zero: Option<Var>,
    layout: Layout,
) -> Result<()> {
    let Layout { axis, block, per_byte, is_float } = layout;
    let (shape, scales) = (w.shape(data), w.shape(scale));
    ensure!(
        shape.len() == scales.len(),
        "scales of shape {} for data of shape {}",
        w.walk.shape_text(&scales),
        w.walk.shape_text(&shape)
    );
    for (at, (own, dim)) in scales.iter().zip(&shape).enumerate() {
        if at == axis {
            let blocks = (dim * per_byte).over_up(block);
            w.same("the scales and the blocks of an axis", own, &blocks)?;
        } else if !(is_float && *own == Dim::Fixed(1)) {
            w.same("the dimensions of the scales and of the data", own, dim)?;
        }
    }
    let Some(zero) = zero else { return Ok(()) };
    ensure!(!is_float, "data that are floats have no zero point");
    super::check_zero_type(w, data, zero)?;
    let zeros = w.shape(zero);
    ensure!(
        zeros.len() == scales.len(),
        "zero points of shape {} for scales of shape {}",
        w.walk.shape_text(&zeros),
        w.walk.shape_text(&scales)
    );
    for (at, (own, dim)) in zeros.iter().zip(&scales).enumerate() {
        let wanted = if at == axis { dim.over_up(per_byte) } else { dim.clone() };
        w.same("the dimensions of the zero points and of the scales", own, &wanted)?;
    }
    Ok(())
}

/// Which slices of scales and zero points belong to the gathered data.
struct Places {
    along: usize,
    axis: usize,
    block: usize,
    kept: Var,
    /// The blocks of the places, if the axis of the blocks is gathered.
    of_blocks: Option<Var>,
}

impl Places {
    fn of(&mut self, w: &mut Wiring<'_, '_>, parameter: Var) -> Result<Var> {
        let Places { along, axis, block, kept, .. } = *self;
        if along != axis && w.dim(parameter, along) == Dim::Fixed(1) {
            // One for all slices.
            let mut shape = w.shape(parameter);
            shape.splice(along..=along, vec![Dim::Fixed(1); w.rank(kept)]);
            return w.reshape(parameter, &shape);
        }
        let places = match (along == axis, self.of_blocks) {
            (false, _) => kept,
            (true, Some(blocks)) => blocks,
            (true, None) => {
                let block = w.scalar(w.dtype(kept), block as f64);
                let blocks = w.div(kept, block)?;
                self.of_blocks = Some(blocks);
                blocks
            }
        };
        w.gather(along, parameter, places)
    }
}
