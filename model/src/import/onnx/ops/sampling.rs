//! Operators that read images and volumes at positions between their elements.

use anyhow::{Result, bail, ensure};
use flotilla_program::{
    self as program, Binary, Interpolation, Op, Outside, RoiAlign, Step,
    dim::{Dim, ToDim as _},
};
use flotilla_tensor::DType;

use crate::import::onnx::{
    facts::Var,
    wiring::{SIZES, Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] =
    &[("AffineGrid", affine_grid), ("GridSample", grid_sample), ("RoiAlign", roi_align)];

fn grid_sample(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, grid) = (w.input(0)?, w.input(1)?);
    let interpolation = match w.text("mode")?.unwrap_or("linear") {
        "linear" | "bilinear" => Interpolation::Linear,
        "nearest" => Interpolation::Nearest,
        "cubic" | "bicubic" => Interpolation::Cubic,
        mode => bail!("mode {mode:?} is not known"),
    };
    let outside = match w.text("padding_mode")?.unwrap_or("zeros") {
        "zeros" => Outside::Zeros,
        "border" => Outside::Border,
        "reflection" => Outside::Reflection,
        mode => bail!("padding mode {mode:?} is not known"),
    };
    let align_corners = w.flag("align_corners")?;
    let dtype = w.dtype(x);
    let (from, places) = (w.shape(x), w.shape(grid));
    ensure!(from.len() == places.len() && from.len() > 3, "a grid of {} dimensions", places.len());
    let images = w.same("the numbers of images and of grids", &from[0], &places[0])?;
    let mut shape = vec![images, from[1].clone()];
    shape.extend_from_slice(&places[1..places.len() - 1]);
    let (x, grid) = (w.unrounded(x, DType::F32)?, w.unrounded(grid, DType::F32)?);
    let op = program::GridSample { interpolation, outside, align_corners };
    let sampled = w.op(Op::GridSample(op), &[x, grid], DType::F32, shape)?;
    Ok(vec![w.unrounded(sampled, dtype)?])
}

/// Positions of a regular grid, each mapped by its image's matrix.
fn affine_grid(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let theta = w.input(0)?;
    let sizes: Vec<Dim> = w.elements(1, SIZES)?.split_off(2);
    let align_corners = w.flag("align_corners")?;
    if !(2..=3).contains(&sizes.len()) {
        bail!("a grid has two or three dimensions, {} are asked for", sizes.len());
    }
    // Coordinates are (x, y, z), dimensions (z, y, x).
    let rank = sizes.len();
    let grid_shape = [sizes.as_slice(), &[Dim::Fixed(1)]].concat();
    let mut parts = Vec::new();
    for axis in (0..rank).rev() {
        let at = coordinates(w, &sizes[axis], align_corners)?;
        let mut along = vec![Dim::Fixed(1); rank + 1];
        along[axis] = sizes[axis].clone();
        let at = w.reshape(at, &along)?;
        parts.push(w.broadcast_to(at, &grid_shape)?);
    }
    let one = w.scalar(DType::F32, 1.0);
    parts.push(w.broadcast_to(one, &grid_shape)?);
    let grid = w.concat(rank, &parts)?;
    let count: Dim = sizes.iter().product();
    let grid = w.reshape(grid, &[Dim::Fixed(1), count, (rank + 1).to_dim()])?;
    let dtype = w.dtype(theta);
    let images = w.dim(theta, 0);
    let theta = w.unrounded(theta, DType::F32)?;
    let theta = w.transpose(theta, &[0, 2, 1])?;
    let mapped = w.matmul(grid, theta)?;
    let shape = [&[images], sizes.as_slice(), &[rank.to_dim()]].concat();
    let mapped = w.reshape(mapped, &shape)?;
    Ok(vec![w.unrounded(mapped, dtype)?])
}

/// The elements of a dimension in -1..1; the ends are either the outer elements' centres or their edges.
fn coordinates(w: &mut Wiring<'_, '_>, size: &Dim, align_corners: bool) -> Result<Var> {
    let at = w.positions(size)?;
    let at = w.cast(at, DType::F32)?;
    let steps = if align_corners { size - 1 } else { size.clone() };
    let steps = w.walk.bounded(|bounds| steps.most(1, bounds));
    let steps = w.dimension(steps, DType::F32)?;
    // `(2 * at + offset) / steps - 1`.
    let formula = vec![
        Step::Input(0),
        Step::Float(2.0),
        Step::Binary(Binary::Mul, 0, 1),
        Step::Float(if align_corners { 0.0 } else { 1.0 }),
        Step::Binary(Binary::Add, 2, 3),
        Step::Input(1),
        Step::Binary(Binary::Div, 4, 5),
        Step::Float(1.0),
        Step::Binary(Binary::Sub, 6, 7),
    ];
    w.expr(formula, &[at, steps], DType::F32)
}

fn roi_align(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, regions, batches) = (w.input(0)?, w.input(1)?, w.input(2)?);
    // Before version 16 coordinates were not shifted.
    let default = if w.opset < 16 { "output_half_pixel" } else { "half_pixel" };
    let half_pixel = match w.text("coordinate_transformation_mode")?.unwrap_or(default) {
        "half_pixel" => true,
        "output_half_pixel" => false,
        mode => bail!("coordinate transformation {mode:?} is not known"),
    };
    let max = match w.text("mode")?.unwrap_or("avg") {
        "avg" => false,
        "max" => true,
        mode => bail!("mode {mode:?} is not known"),
    };
    let int = |name: &str, default: i64| -> Result<i64> { Ok(w.int(name)?.unwrap_or(default)) };
    let samples = u32::try_from(int("sampling_ratio", 0)?)?;
    let cells = [int("output_height", 1)?, int("output_width", 1)?];
    let scale = w.float("spatial_scale")?.unwrap_or(1.0);
    let dtype = w.dtype(x);
    let shape = vec![
        w.shape(regions)[0].clone(),
        w.shape(x)[1].clone(),
        cells[0].to_dim(),
        cells[1].to_dim(),
    ];
    let (x, regions) = (w.unrounded(x, DType::F32)?, w.unrounded(regions, DType::F32)?);
    let op = Op::RoiAlign(RoiAlign { samples, scale, half_pixel, max });
    let batches = w.index(batches)?;
    let pooled = w.op(op, &[x, regions, batches], DType::F32, shape)?;
    Ok(vec![w.unrounded(pooled, dtype)?])
}
