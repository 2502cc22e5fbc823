//! Operators that put elements around a tensor or take them away.

use std::sync::Arc;

use tract_onnx::{
    prelude::{OutletId, TDim, Tensor, TractResult},
    tract_hir::internal::{
        ToDim, bail,
        tract_core::ops::array::{Pad as TypedPad, PadMode as TypedMode},
    },
};

use crate::import::onnx::wiring::{Wire, Wiring};
use flotilla_program::{Op, Pad, PadMode};

pub(super) const OPERATORS: &[(&str, Wire)] = &[("CenterCropPad", center_crop_pad), ("Pad", pad)];

fn pad(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let rank = w.rank(x);
    let attribute = if w.opset == 1 { "paddings" } else { "pads" };
    let pads: Vec<i64> =
        if w.opset < 11 { w.node.get_attr_vec(attribute)? } else { w.known_i64s(1)? };
    let axes = match w.optional(3) {
        Some(_) => w.known_i64s(3)?,
        None => (0..rank as i64).collect(),
    };
    if pads.len() != 2 * axes.len() {
        bail!("{} pads for {} dimensions", pads.len(), axes.len());
    }
    let mut sides = vec![(0, 0); rank];
    for (index, &axis) in axes.iter().enumerate() {
        sides[w.axis(axis, rank)?] = (pads[index], pads[axes.len() + index]);
    }
    let mode = match w.text("mode")?.unwrap_or("constant") {
        "constant" => PadMode::Constant,
        "reflect" => PadMode::Reflect,
        "edge" => PadMode::Edge,
        "wrap" => PadMode::Wrap,
        mode => bail!("mode {mode:?} is not known"),
    };
    let fill = match w.optional(2) {
        Some(fill) => fill,
        None => {
            let value = w.node.get_attr_opt::<f32>("value")?.unwrap_or(0.0);
            w.scalar(w.dtype(x), f64::from(value))?
        }
    };
    Ok(vec![padded(w, x, &sides, mode, fill)?])
}

/// Puts elements before and after each dimension; negative numbers take them away first.
fn padded(
    w: &mut Wiring<'_, '_>,
    x: OutletId,
    sides: &[(i64, i64)],
    mode: PadMode,
    fill: OutletId,
) -> TractResult<OutletId> {
    let mut x = x;
    for (axis, &(before, after)) in sides.iter().enumerate() {
        let (cut_before, cut_after) = ((-before).max(0), (-after).max(0));
        if cut_before + cut_after > 0 {
            let end = w.shape(x)[axis].clone() - cut_after;
            x = w.slice(x, axis, cut_before, end)?;
        }
    }
    let sides: Vec<(usize, usize)> = sides
        .iter()
        .map(|&(before, after)| (before.max(0) as usize, after.max(0) as usize))
        .collect();
    if sides.iter().all(|&side| side == (0, 0)) {
        return Ok(x);
    }
    let shape = w.shape(x);
    // tract mirrors only once, and only elements that are there for certain.
    let once = shape.iter().zip(&sides).all(|(dim, &(before, after))| {
        dim.as_i64().is_some_and(|dim| (before.max(after) as i64) < dim)
    });
    let typed = match mode {
        PadMode::Constant => match w.constant(fill) {
            Some(fill) => {
                Some(TypedMode::Constant(Arc::new(Tensor::clone(&fill).into_shape(&[])?)))
            }
            None => None,
        },
        PadMode::Reflect if once => Some(TypedMode::Reflect),
        PadMode::Edge => Some(TypedMode::Edge),
        PadMode::Reflect | PadMode::Wrap => None,
    };
    if let Some(mode) = typed {
        return w.wire(TypedPad { pads: sides, mode }, &[x]);
    }
    let out: Vec<TDim> = shape
        .iter()
        .zip(&sides)
        .map(|(dim, &(before, after))| dim.clone() + before.to_dim() + after.to_dim())
        .collect();
    let before = sides.iter().map(|&(before, _)| before as i64).collect();
    let inputs: &[OutletId] = if mode == PadMode::Constant { &[x, fill] } else { &[x] };
    w.program_op(Op::Pad(Pad { before, mode }), inputs, w.dtype(x), out)
}

/// The middle of each dimension, or zeros around it.
fn center_crop_pad(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let rank = w.rank(x);
    let wanted = w.known_i64s(1)?;
    let axes = w.node.get_attr_opt_vec::<i64>("axes")?;
    let axes = axes.unwrap_or_else(|| (0..rank as i64).collect());
    if wanted.len() != axes.len() {
        bail!("{} sizes for {} dimensions", wanted.len(), axes.len());
    }
    let shape = w.fixed_shape(x)?;
    let mut sides = vec![(0, 0); rank];
    for (&axis, &wanted) in axes.iter().zip(&wanted) {
        let axis = w.axis(axis, rank)?;
        let more = wanted - shape[axis] as i64;
        // Where it is odd, the last element is the one that is put there or taken away.
        let before = more / 2;
        sides[axis] = (before, more - before);
    }
    let fill = w.scalar(w.dtype(x), 0.0)?;
    Ok(vec![padded(w, x, &sides, PadMode::Constant, fill)?])
}
