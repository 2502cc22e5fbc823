//! Operators that move elements, repeat them or leave some out.

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_kernels::RANK_MAX;
use flotilla_program::{
    Binary,
    dim::{Dim, ToDim as _},
};
use flotilla_tensor::DType;

use crate::import::onnx::{
    facts::Var,
    wiring::{ANY, Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("Concat", concat),
    ("DepthToSpace", depth_to_space),
    ("ReverseSequence", reverse_sequence),
    ("Slice", slice),
    ("SpaceToDepth", space_to_depth),
    ("Split", split),
    ("Tile", tile),
];

fn concat(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let inputs = w.all_inputs()?;
    let first = *inputs.first().context("there is nothing to join")?;
    let axis = w.axis(w.int("axis")?.unwrap_or(1), w.rank(first))?;
    Ok(vec![w.concat(axis, &inputs)?])
}

/// Ends beyond a dimension are its ends; a negative one counts from the last element.
/// Source: ONNX operators, "Slice".
fn slice(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let mut x = w.input(0)?;
    let fixed = |name: &str| -> Result<Option<Vec<Dim>>> {
        Ok(w.ints(name)?.map(|numbers| numbers.into_iter().map(Dim::Fixed).collect()))
    };
    let (starts, ends, axes, steps) = if w.opset < 10 {
        let missing = "starts or ends are missing";
        let (starts, ends) = (fixed("starts")?.context(missing)?, fixed("ends")?.context(missing)?);
        (starts, ends, w.ints("axes")?, None)
    } else {
        let axes = w.optional(3).map(|_| w.known_i64s(3)).transpose()?;
        let (starts, ends) = (w.elements(1, ANY)?, w.elements(2, ANY)?);
        let steps = w.optional(4).map(|_| w.known_i64s(4)).transpose()?;
        (starts, ends, axes, steps)
    };
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; axes.len()]);
    ensure!(
        starts.len() == axes.len() && ends.len() == axes.len() && steps.len() == axes.len(),
        "{} starts, {} ends and {} steps for {} axes",
        starts.len(),
        ends.len(),
        steps.len(),
        axes.len()
    );
    for (index, &axis) in axes.iter().enumerate() {
        let axis = w.axis(axis, w.rank(x))?;
        let step = steps[index];
        ensure!(step != 0, "a step of 0");
        let size = w.dim(x, axis);
        let (start, length) = w.walk.bounded(|bounds| {
            let counted = |end: &Dim| end.less(0, bounds).select(end + &size, end);
            let (start, end) = (counted(&starts[index]), counted(&ends[index]));
            let within =
                |at: Dim, least: i64, most: &Dim| at.least(most, bounds).most(least, bounds);
            let (start, way) = if step > 0 {
                let start = within(start, 0, &size);
                let way = within(end, 0, &size) - &start;
                (start, way)
            } else {
                let last = &size - 1;
                let start = within(start, 0, &last);
                let way = &start - within(end, -1, &last);
                (start, way)
            };
            let length = way.over_up(step.unsigned_abs() as i64).most(0, bounds);
            (start, length)
        });
        x = w.strided(x, axis, start, step, length)?;
    }
    Ok(vec![x])
}

/// Parts of a dimension, of sizes that are given or equal.
fn split(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let axis = w.axis(w.int("axis")?.unwrap_or(0), w.rank(x))?;
    let size = w.dim(x, axis);
    let parts = split_sizes(w, &size, 1)?;
    let mut start = Dim::Fixed(0);
    let mut results = Vec::with_capacity(parts.len());
    for part in parts {
        let end = &start + &part;
        results.push(w.slice(x, axis, &start, &end)?);
        start = end;
    }
    Ok(results)
}

fn split_sizes(w: &mut Wiring<'_, '_>, size: &Dim, operand: usize) -> Result<Vec<Dim>> {
    let given = match w.optional(operand) {
        Some(_) => Some(w.sizes(operand)?),
        None => w.ints("split")?.map(|sizes| sizes.into_iter().map(Dim::Fixed).collect()),
    };
    if let Some(sizes) = given.filter(|sizes| !sizes.is_empty()) {
        let sum: Dim = sizes.iter().sum();
        w.same("a dimension and the sum of its parts", size, &sum)?;
        return Ok(sizes);
    }
    let count = w.int("num_outputs")?.unwrap_or(w.node.output.len() as i64);
    ensure!(count > 0, "a split into {count} parts");
    // If the parts cannot be equal, the last one is smaller.
    let part = size.over_up(count);
    let mut parts = vec![part.clone(); count as usize - 1];
    parts.push(size - part * (count - 1));
    Ok(parts)
}

/// `[n, c, h, w]` and the side of a block.
fn blocks(w: &Wiring<'_, '_>, x: Var) -> Result<([Dim; 4], i64)> {
    let side = w.int("blocksize")?.context("blocksize is missing")?;
    let shape: [Dim; 4] = match w.shape(x).try_into() {
        Ok(shape) => shape,
        Err(shape) => bail!("{} dimensions, an image has four", Vec::<Dim>::len(&shape)),
    };
    ensure!(side > 0, "blocks of {side}");
    Ok((shape, side))
}

/// Blocks of channels become blocks of an image.
fn depth_to_space(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let ([images, channels, height, width], side) = blocks(w, x)?;
    let outer = channels.over(side * side);
    let block = Dim::Fixed(side);
    let (split, order) = match w.text("mode")?.unwrap_or("DCR") {
        // Depth, column, row: the block's elements come first.
        "DCR" => ([block.clone(), block.clone(), outer.clone()], [0, 3, 4, 1, 5, 2]),
        "CRD" => ([outer.clone(), block.clone(), block.clone()], [0, 1, 4, 2, 5, 3]),
        mode => bail!("mode {mode:?} is not known"),
    };
    let [a, b, c] = split;
    let x = w.reshape(x, &[images.clone(), a, b, c, height.clone(), width.clone()])?;
    let x = w.transpose(x, &order)?;
    Ok(vec![w.reshape(x, &[images, outer, height * side, width * side])?])
}

/// Blocks of an image become blocks of channels.
fn space_to_depth(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let ([images, channels, height, width], side) = blocks(w, x)?;
    let (rows, columns) = (height.over(side), width.over(side));
    let block = Dim::Fixed(side);
    let split =
        [images.clone(), channels.clone(), rows.clone(), block.clone(), columns.clone(), block];
    let x = w.reshape(x, &split)?;
    let order = match w.text("mode")?.unwrap_or("DCR") {
        "DCR" => [0, 3, 5, 1, 2, 4],
        "CRD" => [0, 1, 3, 5, 2, 4],
        mode => bail!("mode {mode:?} is not known"),
    };
    let x = w.transpose(x, &order)?;
    Ok(vec![w.reshape(x, &[images, channels * (side * side), rows, columns])?])
}

/// Reverses the first elements of each row of a batch.
fn reverse_sequence(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, lengths) = (w.input(0)?, w.input(1)?);
    let batch_axis = w.int("batch_axis")?.unwrap_or(1);
    let time_axis = w.int("time_axis")?.unwrap_or(0);
    let shape = w.shape(x);
    if shape.len() < 2 || batch_axis + time_axis != 1 || !(0..=1).contains(&batch_axis) {
        bail!("batch axis {batch_axis} and time axis {time_axis} are not the first two");
    }
    let (batch_axis, time_axis) = (batch_axis as usize, time_axis as usize);
    let (batches, times) = (shape[batch_axis].clone(), shape[time_axis].clone());
    // Positions of elements, which fit 32 bits for any lengths.
    let index = DType::I32;
    let time = w.positions(&times)?;
    let time = w.cast(time, index)?;
    let time = w.unsqueeze(time, batch_axis)?;
    let batch = w.positions(&batches)?;
    let batch = w.cast(batch, index)?;
    let batch = w.unsqueeze(batch, time_axis)?;
    let lengths = w.cast(lengths, index)?;
    let lengths = w.unsqueeze(lengths, time_axis)?;
    let one = w.scalar(index, 1.0);
    let last = w.sub(lengths, one)?;
    let reversed = w.sub(last, time)?;
    let within = w.binary(Binary::Lt, time, lengths)?;
    let time = w.select(within, reversed, time)?;
    // The element's number among those of the first two dimensions.
    let (major, minor, count) =
        if batch_axis == 0 { (batch, time, times) } else { (time, batch, batches) };
    let count = w.dimension(count, index)?;
    let major = w.mul(major, count)?;
    let place = w.add(major, minor)?;
    let mut flat = vec![&shape[0] * &shape[1]];
    flat.extend_from_slice(&shape[2..]);
    let x = w.reshape(x, &flat)?;
    Ok(vec![w.gather(0, x, place)?])
}

/// The number in an operand of `Tile` of version 1, which has the type of the elements.
fn first_whole(w: &Wiring<'_, '_>, index: usize) -> Result<i64> {
    let numbers = w.known_f32s(index)?;
    match numbers.as_slice() {
        &[number] if number.fract() == 0.0 && number.abs() < 1e9 => Ok(number as i64),
        other => bail!("operand {index} is {other:?}, one whole number is needed"),
    }
}

/// Repeats the tensor along each dimension.
fn tile(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let rank = w.rank(x);
    let repeats = if w.opset < 6 {
        // The first version repeats along one axis, both given as operands.
        let mut repeats = vec![1.to_dim(); rank];
        let (count, axis) = (first_whole(w, 1)?, first_whole(w, 2)?);
        *repeats.get_mut(w.axis(axis, rank)?).context("a scalar has no axis")? = count.to_dim();
        repeats
    } else {
        w.sizes(1)?
    };
    ensure!(repeats.len() == rank, "{} repeats for {rank} dimensions", repeats.len());
    let one = Dim::Fixed(1);
    let repeated: Vec<usize> = (0..rank).filter(|&axis| repeats[axis] != one).collect();
    // Each dimension is split in two temporarily; a few at a time.
    let mut x = x;
    for axes in repeated.chunks(RANK_MAX.saturating_sub(rank).max(1)) {
        let (mut split, mut wide, mut tiled) = (Vec::new(), Vec::new(), Vec::new());
        for (axis, size) in w.shape(x).into_iter().enumerate() {
            if axes.contains(&axis) {
                split.push(one.clone());
                wide.push(repeats[axis].clone());
                tiled.push(&size * &repeats[axis]);
            } else {
                tiled.push(size.clone());
            }
            split.push(size.clone());
            wide.push(size);
        }
        x = w.reshape(x, &split)?;
        x = w.broadcast_to(x, &wide)?;
        x = w.reshape(x, &tiled)?;
    }
    Ok(vec![x])
}
