//! Operators that read images and volumes at places between their elements.

use tract_onnx::{
    prelude::{DatumType, OutletId, TDim, Tensor, TractResult},
    tract_hir::internal::{
        ToDim, bail,
        tract_core::ops::nn::{GridSample, InterpolationMode, PaddingMode},
    },
};

use crate::import::onnx::wiring::{Wire, Wiring};
use flotilla_program::{Op, RoiAlign};

pub(super) const OPERATORS: &[(&str, Wire)] =
    &[("AffineGrid", affine_grid), ("GridSample", grid_sample), ("RoiAlign", roi_align)];

fn grid_sample(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (x, grid) = (w.input(0)?, w.input(1)?);
    let mode = match w.text("mode")?.unwrap_or("linear") {
        "linear" | "bilinear" => InterpolationMode::Bilinear,
        "nearest" => InterpolationMode::Nearest,
        "cubic" | "bicubic" => InterpolationMode::Bicubic,
        mode => bail!("mode {mode:?} is not known"),
    };
    let padding_mode = match w.text("padding_mode")?.unwrap_or("zeros") {
        "zeros" => PaddingMode::Zeros,
        "border" => PaddingMode::Border,
        "reflection" => PaddingMode::Reflection,
        mode => bail!("padding mode {mode:?} is not known"),
    };
    let align_corners = w.node.get_attr_opt::<i64>("align_corners")?.unwrap_or(0) != 0;
    let dtype = w.dtype(x);
    let (x, grid) = (w.cast(x, DatumType::F32)?, w.cast(grid, DatumType::F32)?);
    let sampled = w.wire(GridSample { mode, padding_mode, align_corners }, &[x, grid])?;
    Ok(vec![w.cast(sampled, dtype)?])
}

/// Places of a regular grid, each mapped by its image's matrix.
fn affine_grid(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let theta = w.input(0)?;
    let size = w.known_i64s(1)?;
    let align_corners = w.node.get_attr_opt::<i64>("align_corners")?.unwrap_or(0) != 0;
    let sizes: Vec<usize> =
        size.iter().skip(2).map(|&size| usize::try_from(size)).collect::<Result<_, _>>()?;
    if !(2..=3).contains(&sizes.len()) {
        bail!("a grid has two or three dimensions, {} are asked for", sizes.len());
    }
    // Coordinates are (x, y, z), dimensions (z, y, x).
    let mut places: Vec<Vec<f32>> = vec![Vec::new()];
    for &size in &sizes {
        let along = (0..size).map(|index| coordinate(index, size, align_corners));
        let along: Vec<f32> = along.collect();
        places = places
            .iter()
            .flat_map(|place| along.iter().map(move |&at| [&[at], place.as_slice()].concat()))
            .collect();
    }
    let count = places.len();
    let homogeneous: Vec<f32> =
        places.into_iter().flat_map(|place| [place, vec![1.0]].concat()).collect();
    let grid = Tensor::from_shape(&[1, count, sizes.len() + 1], &homogeneous)?;
    let dtype = w.dtype(theta);
    let images = w.shape(theta)[0].clone();
    let theta = w.cast(theta, DatumType::F32)?;
    let grid = w.tensor(grid)?;
    let theta = w.transpose(theta, &[0, 2, 1])?;
    let mapped = w.matmul(grid, theta)?;
    let mut shape: Vec<TDim> = vec![images];
    shape.extend(sizes.iter().chain([&sizes.len()]).map(|size| size.to_dim()));
    let mapped = w.reshape(mapped, &shape)?;
    Ok(vec![w.cast(mapped, dtype)?])
}

/// Element `index` of `size` in -1..1, whose ends are either the outer elements' centres or their edges.
fn coordinate(index: usize, size: usize, align_corners: bool) -> f32 {
    let (index, size) = (index as f64, size as f64);
    let at = if align_corners {
        2.0 * index / (size - 1.0).max(1.0) - 1.0
    } else {
        (2.0 * index + 1.0) / size - 1.0
    };
    at as f32
}

fn roi_align(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (x, regions, batches) = (w.input(0)?, w.input(1)?, w.input(2)?);
    // Before version 16 coordinates were not moved.
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
    let int = |name: &str, default: i64| -> TractResult<i64> {
        Ok(w.node.get_attr_opt::<i64>(name)?.unwrap_or(default))
    };
    let samples = u32::try_from(int("sampling_ratio", 0)?)?;
    let cells = [int("output_height", 1)?, int("output_width", 1)?];
    let scale = w.node.get_attr_opt::<f32>("spatial_scale")?.unwrap_or(1.0);
    let dtype = w.dtype(x);
    let shape = vec![
        w.shape(regions)[0].clone(),
        w.shape(x)[1].clone(),
        cells[0].to_dim(),
        cells[1].to_dim(),
    ];
    let (x, regions) = (w.cast(x, DatumType::F32)?, w.cast(regions, DatumType::F32)?);
    let op = Op::RoiAlign(RoiAlign { samples, scale, half_pixel, max });
    let pooled = w.program_op(op, &[x, regions, batches], DatumType::F32, shape)?;
    Ok(vec![w.cast(pooled, dtype)?])
}
