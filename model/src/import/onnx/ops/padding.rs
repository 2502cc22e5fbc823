//! Operators that add elements around a tensor or remove them.

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_program::{Op, Pad, PadMode, dim::Dim};

use crate::import::onnx::{
    facts::Var,
    wiring::{ANY, SIZES, Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[("CenterCropPad", center_crop_pad), ("Pad", pad)];

/// How many elements are added before and after a dimension.
type Sides = (Dim, Dim);

fn pad(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let rank = w.rank(x);
    let attribute = if w.opset == 1 { "paddings" } else { "pads" };
    let pads: Vec<Dim> = if w.opset < 11 {
        let given = w.ints(attribute)?.with_context(|| format!("{attribute} is missing"))?;
        given.into_iter().map(Dim::Fixed).collect()
    } else {
        w.elements(1, ANY)?
    };
    let axes = match w.optional(3) {
        Some(_) => w.known_i64s(3)?,
        None => (0..rank as i64).collect(),
    };
    ensure!(pads.len() == 2 * axes.len(), "{} pads for {} dimensions", pads.len(), axes.len());
    let mut sides = vec![(Dim::Fixed(0), Dim::Fixed(0)); rank];
    for (index, &axis) in axes.iter().enumerate() {
        sides[w.axis(axis, rank)?] = (pads[index].clone(), pads[axes.len() + index].clone());
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
            let value = w.float("value")?.unwrap_or(0.0);
            w.scalar(w.dtype(x), f64::from(value))
        }
    };
    Ok(vec![padded(w, x, sides, mode, fill)?])
}

/// Adds elements before and after each dimension; negative numbers remove them first.
fn padded(
    w: &mut Wiring<'_, '_>,
    x: Var,
    mut sides: Vec<Sides>,
    mode: PadMode,
    fill: Var,
) -> Result<Var> {
    let mut x = x;
    let taken = |side: &mut Dim| match side.as_fixed() {
        Some(count) if count < 0 => std::mem::replace(side, Dim::Fixed(0)) * -1,
        _ => Dim::Fixed(0),
    };
    for (axis, (before, after)) in sides.iter_mut().enumerate() {
        let (first, last) = (taken(before), taken(after));
        let end = w.dim(x, axis) - last;
        x = w.slice(x, axis, first, end)?;
    }
    if sides.iter().all(|side| *side == (Dim::Fixed(0), Dim::Fixed(0))) {
        return Ok(x);
    }
    let shape = w.shape(x);
    let shape =
        shape.iter().zip(&sides).map(|(dim, (before, after))| dim + before + after).collect();
    let before = sides.into_iter().map(|(before, _)| before).collect();
    let dtype = w.dtype(x);
    let mut inputs = vec![x];
    if mode == PadMode::Constant {
        let fill = w.cast(fill, dtype)?;
        inputs.push(w.reshape(fill, &[])?);
    }
    w.op(Op::Pad(Pad { before, mode }), &inputs, dtype, shape)
}

/// The middle of each dimension, or zeros around it.
fn center_crop_pad(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let rank = w.rank(x);
    let wanted = w.elements(1, SIZES)?;
    let axes = w.ints("axes")?;
    let axes = axes.unwrap_or_else(|| (0..rank as i64).collect());
    ensure!(wanted.len() == axes.len(), "{} sizes for {} dimensions", wanted.len(), axes.len());
    let mut sides = vec![(Dim::Fixed(0), Dim::Fixed(0)); rank];
    for (&axis, wanted) in axes.iter().zip(&wanted) {
        let axis = w.axis(axis, rank)?;
        let more = wanted - w.dim(x, axis);
        // If the number is odd, the additional element is added or removed at the end.
        let before = w.walk.bounded(|bounds| more.over_towards_zero(2, bounds));
        let after = &more - &before;
        sides[axis] = (before, after);
    }
    let fill = w.scalar(w.dtype(x), 0.0);
    Ok(vec![padded(w, x, sides, PadMode::Constant, fill)?])
}
