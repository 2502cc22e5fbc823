//! Operators that move elements, repeat them or leave some out.

use tract_onnx::{
    prelude::{DatumType, OutletId, TDim, Tensor, TractResult},
    tract_hir::internal::{ToDim, bail, tract_core::ops::array::Range},
};

use crate::import::onnx::wiring::{Wire, Wiring};
use flotilla_program::Op;

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("DepthToSpace", depth_to_space),
    ("ReverseSequence", reverse_sequence),
    ("SpaceToDepth", space_to_depth),
    ("Tile", tile),
];

/// `[n, c, h, w]` and the side of a block.
fn blocks(w: &Wiring<'_, '_>, x: OutletId) -> TractResult<([TDim; 4], usize)> {
    let side = w.node.get_attr::<i64>("blocksize")?;
    let shape: [TDim; 4] = match w.shape(x).try_into() {
        Ok(shape) => shape,
        Err(shape) => bail!("{} dimensions, an image has four", shape.len()),
    };
    if side < 1 {
        bail!("blocks of {side}");
    }
    Ok((shape, side as usize))
}

/// Blocks of channels become blocks of an image.
fn depth_to_space(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let ([images, channels, height, width], side) = blocks(w, x)?;
    let outer = channels.clone() / (side * side);
    if outer.clone() * (side * side) != channels {
        bail!("{channels} channels are not divided by blocks of {side} x {side}");
    }
    let block = side.to_dim();
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
fn space_to_depth(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let ([images, channels, height, width], side) = blocks(w, x)?;
    let (rows, columns) = (height.clone() / side, width.clone() / side);
    for (size, parts) in [(&height, &rows), (&width, &columns)] {
        if size.as_i64().is_some() && parts.clone() * side != *size {
            bail!("{height} x {width} is not divided by blocks of {side}");
        }
    }
    let block = side.to_dim();
    let split =
        [images.clone(), channels.clone(), rows.clone(), block.clone(), columns.clone(), block];
    let whole = rows.clone() * side == height && columns.clone() * side == width;
    // Whether symbols are divided by blocks is seen when it runs.
    let x = if whole {
        w.reshape(x, &split)?
    } else {
        w.program_op(Op::Reshape, &[x], w.dtype(x), split.to_vec())?
    };
    let order = match w.text("mode")?.unwrap_or("DCR") {
        "DCR" => [0, 3, 5, 1, 2, 4],
        "CRD" => [0, 1, 3, 5, 2, 4],
        mode => bail!("mode {mode:?} is not known"),
    };
    let x = w.transpose(x, &order)?;
    Ok(vec![w.reshape(x, &[images, channels * (side * side), rows, columns])?])
}

/// The first elements of each row of a batch in reverse order.
fn reverse_sequence(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (x, lengths) = (w.input(0)?, w.input(1)?);
    let batch_axis = w.node.get_attr_opt::<i64>("batch_axis")?.unwrap_or(1);
    let time_axis = w.node.get_attr_opt::<i64>("time_axis")?.unwrap_or(0);
    let shape = w.shape(x);
    if shape.len() < 2 || batch_axis + time_axis != 1 || !(0..=1).contains(&batch_axis) {
        bail!("batch axis {batch_axis} and time axis {time_axis} are not the first two");
    }
    let (batch_axis, time_axis) = (batch_axis as usize, time_axis as usize);
    let (batches, times) = (shape[batch_axis].clone(), shape[time_axis].clone());
    let time = numbers(w, &times)?;
    let time = w.unsqueeze(time, batch_axis)?;
    let batch = numbers(w, &batches)?;
    let batch = w.unsqueeze(batch, time_axis)?;
    let lengths = w.cast(lengths, DatumType::I64)?;
    let lengths = w.unsqueeze(lengths, time_axis)?;
    let one = w.scalar(DatumType::I64, 1.0)?;
    let last = w.sub(lengths, one)?;
    let reversed = w.sub(last, time)?;
    let within = w.onnx("Less", &[], &[Some(time), Some(lengths)])?[0];
    let time = w.select(within, reversed, time)?;
    // The element's number among those of the first two dimensions.
    let (major, minor, count) =
        if batch_axis == 0 { (batch, time, times) } else { (time, batch, batches) };
    let count = w.dimension(count, DatumType::I64)?;
    let major = w.mul(major, count)?;
    let place = w.add(major, minor)?;
    let mut flat = vec![shape[0].clone() * shape[1].clone()];
    flat.extend_from_slice(&shape[2..]);
    let x = w.reshape(x, &flat)?;
    Ok(vec![w.gather(0, x, place)?])
}

/// `0, 1, ..` up to a dimension.
pub(super) fn numbers(w: &mut Wiring<'_, '_>, count: &TDim) -> TractResult<OutletId> {
    let start = w.tensor(Tensor::from(0.to_dim()))?;
    let end = w.tensor(Tensor::from(count.clone()))?;
    let step = w.tensor(Tensor::from(1.to_dim()))?;
    w.wire(Range::new(count.clone()), &[start, end, step])
}

/// Everything again and again along each dimension.
fn tile(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let shape = w.shape(x);
    let repeats = if w.opset < 6 {
        // The first version repeats along one axis, both given as operands.
        let mut repeats = vec![1.to_dim(); shape.len()];
        let axis = w.known_i64s(2)?.first().copied().unwrap_or(0);
        repeats[w.axis(axis, shape.len())?] = w.known_dims(1)?.swap_remove(0);
        repeats
    } else {
        w.known_dims(1)?
    };
    if repeats.len() != shape.len() {
        bail!("{} repeats for {} dimensions", repeats.len(), shape.len());
    }
    let one = 1.to_dim();
    let (mut split, mut repeated, mut tiled) = (Vec::new(), Vec::new(), Vec::new());
    for (size, times) in shape.iter().zip(&repeats) {
        if *times != one {
            split.push(one.clone());
            repeated.push(times.clone());
        }
        split.push(size.clone());
        repeated.push(size.clone());
        tiled.push(size.clone() * times.clone());
    }
    let x = w.reshape(x, &split)?;
    let x = w.broadcast_to(x, &repeated)?;
    Ok(vec![w.reshape(x, &tiled)?])
}
