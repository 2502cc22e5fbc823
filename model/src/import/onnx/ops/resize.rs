//! Resizing: along each dimension, every element of the result is a weighted sum of a few elements.
//! Source: ONNX, "Resize", whose formulas for coordinates and weights these are.

use tract_onnx::{
    prelude::{DatumType, OutletId, TDim, Tensor, TractResult},
    tract_hir::internal::{
        DimLike as _, ToDim, bail,
        tract_core::ops::{logic::CompEq, math},
    },
};

use super::rearrange::numbers;
use crate::import::onnx::wiring::{Wire, Wiring};
use flotilla_program::{Op, Resample};

pub(super) const OPERATORS: &[(&str, Wire)] = &[("Resize", resize), ("Upsample", upsample)];

/// How places of the result are found among the elements of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    /// Those of the region of interest.
    CropAndResize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rounding {
    PreferFloor,
    PreferCeil,
    Floor,
    Ceil,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Nearest(Rounding),
    Linear,
    /// Cubic convolution with this coefficient.
    Cubic(f64),
}

/// What does not depend on the dimension.
#[derive(Clone, Copy, Debug)]
struct Resizing {
    mode: Mode,
    coordinates: Coordinates,
    antialias: bool,
    exclude_outside: bool,
    extrapolation: f32,
}

/// One dimension that is resized.
#[derive(Clone, Debug)]
struct Line {
    axis: usize,
    size: usize,
    resized: usize,
    scale: f64,
    /// `scale * size`, which need not be whole.
    length: f64,
    /// Start and end of the region of interest, of 0..1.
    region: (f64, f64),
}

/// One dimension that is resized and whose size is a symbol.
#[derive(Clone, Debug)]
struct OpenLine {
    axis: usize,
    resized: TDim,
    /// `None` where the sizes decide it.
    scale: Option<f64>,
}

/// All dimensions that are resized.
struct Lines {
    lines: Vec<Line>,
    open: Vec<OpenLine>,
}

/// For each element of the result the elements of the input that it is made of.
#[derive(Debug, PartialEq)]
struct Table {
    /// Entries per element.
    taps: usize,
    indices: Vec<i64>,
    weights: Vec<f32>,
    /// Elements that lie outside of the input and are extrapolated.
    outside: Vec<bool>,
}

fn resize(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let int = |name: &str| -> TractResult<bool> {
        Ok(w.node.get_attr_opt::<i64>(name)?.unwrap_or(0) != 0)
    };
    // Version 10 had neither regions nor modes of coordinates.
    let (roi, scales, sizes) = if w.opset < 11 { (None, 1, 3) } else { (Some(1), 2, 3) };
    let default = if w.opset < 11 { "asymmetric" } else { "half_pixel" };
    let coordinates = match w.text("coordinate_transformation_mode")?.unwrap_or(default) {
        "half_pixel" => Coordinates::HalfPixel,
        "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        "tf_crop_and_resize" => Coordinates::CropAndResize,
        mode => bail!("coordinate transformation {mode:?} is not known"),
    };
    let default = if w.opset < 11 { "floor" } else { "round_prefer_floor" };
    let rounding = match w.text("nearest_mode")?.unwrap_or(default) {
        "round_prefer_floor" => Rounding::PreferFloor,
        "round_prefer_ceil" => Rounding::PreferCeil,
        "floor" => Rounding::Floor,
        "ceil" => Rounding::Ceil,
        mode => bail!("nearest mode {mode:?} is not known"),
    };
    let coefficient = w.node.get_attr_opt::<f32>("cubic_coeff_a")?.unwrap_or(-0.75);
    let mode = match w.text("mode")?.unwrap_or("nearest") {
        "nearest" => Mode::Nearest(rounding),
        "linear" => Mode::Linear,
        "cubic" => Mode::Cubic(f64::from(coefficient)),
        mode => bail!("mode {mode:?} is not known"),
    };
    let resizing = Resizing {
        mode,
        coordinates,
        antialias: int("antialias")?,
        exclude_outside: int("exclude_outside")?,
        extrapolation: w.node.get_attr_opt("extrapolation_value")?.unwrap_or(0.0),
    };
    let rank = w.rank(x);
    let axes = match w.node.get_attr_opt_vec::<i64>("axes")? {
        Some(axes) => axes.iter().map(|&axis| w.axis(axis, rank)).collect::<TractResult<_>>()?,
        None => (0..rank).collect::<Vec<usize>>(),
    };
    let given = |w: &Wiring<'_, '_>, index: usize| {
        // An operand may also be left out by having no elements.
        let elements = w.optional(index).map(|outlet| w.fact(outlet).shape.volume());
        elements.is_some_and(|elements| elements != 0.to_dim())
    };
    let regions: Vec<f64> = match roi {
        Some(index) if coordinates == Coordinates::CropAndResize => {
            w.known_f32s(index)?.into_iter().map(f64::from).collect()
        }
        Some(_) | None => [vec![0.0; axes.len()], vec![1.0; axes.len()]].concat(),
    };
    if regions.len() != 2 * axes.len() {
        bail!("{} numbers for regions of {} dimensions", regions.len(), axes.len());
    }
    let targets = if given(w, scales) {
        let scales = w.known_f32s(scales)?;
        Targets::Scales(scales.into_iter().map(f64::from).collect())
    } else {
        Targets::Sizes(w.known_dims(sizes)?)
    };
    let policy = w.text("keep_aspect_ratio_policy")?.unwrap_or("stretch").to_owned();
    let lines = lines(w, x, &axes, &targets, &policy, &regions)?;
    resized(w, x, &resizing, &lines)
}

fn upsample(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let axes: Vec<usize> = (0..w.rank(x)).collect();
    let scales = if w.opset < 9 { w.node.get_attr_vec::<f32>("scales")? } else { w.known_f32s(1)? };
    let mode = match w.text("mode")?.unwrap_or("nearest") {
        "nearest" => Mode::Nearest(Rounding::Floor),
        "linear" => Mode::Linear,
        mode => bail!("mode {mode:?} is not known"),
    };
    let resizing = Resizing {
        mode,
        coordinates: Coordinates::Asymmetric,
        antialias: false,
        exclude_outside: false,
        extrapolation: 0.0,
    };
    let targets = Targets::Scales(scales.into_iter().map(f64::from).collect());
    let regions = [vec![0.0; axes.len()], vec![1.0; axes.len()]].concat();
    let lines = lines(w, x, &axes, &targets, "stretch", &regions)?;
    resized(w, x, &resizing, &lines)
}

/// What a result is asked to be, for each axis.
enum Targets {
    Scales(Vec<f64>),
    Sizes(Vec<TDim>),
}

/// The dimensions that change.
fn lines(
    w: &Wiring<'_, '_>,
    x: OutletId,
    axes: &[usize],
    targets: &Targets,
    policy: &str,
    regions: &[f64],
) -> TractResult<Lines> {
    let shape = w.shape(x);
    let (count, stays): (usize, Vec<bool>) = match targets {
        Targets::Scales(scales) => (scales.len(), scales.iter().map(|&s| s == 1.0).collect()),
        Targets::Sizes(sizes) => (
            sizes.len(),
            sizes.iter().zip(axes).map(|(size, &axis)| *size == shape[axis]).collect(),
        ),
    };
    if count != axes.len() {
        bail!("{count} targets for {} dimensions", axes.len());
    }
    let (mut lines, mut open) = (Vec::new(), Vec::new());
    for (index, &axis) in axes.iter().enumerate() {
        let region = (regions[index], regions[axes.len() + index]);
        if stays[index] && region == (0.0, 1.0) {
            continue;
        }
        let size = match shape[axis].to_usize() {
            Ok(size) => size,
            Err(_) if policy == "stretch" && region == (0.0, 1.0) => {
                open.push(open_line(axis, &shape[axis], targets, index)?);
                continue;
            }
            Err(_) => bail!("dimension {axis} is {} and must be a number here", shape[axis]),
        };
        let (resized, scale, length) = match targets {
            Targets::Scales(scales) => {
                let length = scales[index] * size as f64;
                (length as usize, scales[index], length)
            }
            Targets::Sizes(sizes) => {
                let resized = sizes[index].to_usize()?;
                (resized, resized as f64 / size as f64, resized as f64)
            }
        };
        lines.push(Line { axis, size, resized, scale, length, region });
    }
    let scales = lines.iter().map(|line| line.scale);
    let kept = match (policy, targets) {
        ("stretch", _) | (_, Targets::Scales(_)) => return Ok(Lines { lines, open }),
        ("not_larger", Targets::Sizes(_)) => {
            // A dimension that stays as it is has a scale of 1.
            scales.chain(stays.contains(&true).then_some(1.0)).fold(f64::INFINITY, f64::min)
        }
        ("not_smaller", Targets::Sizes(_)) => {
            scales.chain(stays.contains(&true).then_some(1.0)).fold(0.0, f64::max)
        }
        _ => bail!("aspect ratio policy {policy:?} is not known"),
    };
    let mut lines = Vec::new();
    for (index, &axis) in axes.iter().enumerate() {
        let size = shape[axis].to_usize()?;
        let resized = (kept * size as f64 + 0.5) as usize;
        let region = (regions[index], regions[axes.len() + index]);
        lines.push(Line { axis, size, resized, scale: kept, length: kept * size as f64, region });
    }
    Ok(Lines { lines, open })
}

/// A dimension whose size is a symbol; its new size must be one, too, that shapes can be made of.
fn open_line(axis: usize, size: &TDim, targets: &Targets, index: usize) -> TractResult<OpenLine> {
    Ok(match targets {
        Targets::Sizes(sizes) => OpenLine { axis, resized: sizes[index].clone(), scale: None },
        Targets::Scales(scales) => {
            let scale = scales[index];
            let resized = if scale.fract() == 0.0 && scale >= 1.0 {
                size.clone() * scale as i64
            } else if scale > 0.0 && scale.recip().fract() == 0.0 {
                size.clone() / scale.recip() as i64
            } else {
                bail!("dimension {axis} is {size}, which {scale} does not scale to a dimension");
            };
            OpenLine { axis, resized, scale: Some(scale) }
        }
    })
}

/// Resizes one dimension after the other.
fn resized(
    w: &mut Wiring<'_, '_>,
    x: OutletId,
    resizing: &Resizing,
    Lines { lines, open }: &Lines,
) -> TractResult<Vec<OutletId>> {
    let dtype = w.dtype(x);
    let nearest = matches!(resizing.mode, Mode::Nearest(_));
    let mut x = if nearest { x } else { w.cast(x, DatumType::F32)? };
    for line in open {
        x = resized_by_formula(w, x, resizing, line)?;
    }
    let mut outside = Vec::new();
    for line in lines {
        let Table { taps, indices, weights, outside: extrapolated } = table(resizing, line);
        x = match taps {
            1 => {
                let indices = w.tensor(Tensor::from_shape(&[line.resized], &indices)?)?;
                w.gather(line.axis, x, indices)?
            }
            // Two neighbours are a composition that fuses and that the reference understands.
            2 => between(w, x, line, &indices, &weights)?,
            _ => sums(w, x, line, taps, &indices, &weights)?,
        };
        if extrapolated.contains(&true) {
            outside.push((line.axis, extrapolated));
        }
    }
    if !outside.is_empty() {
        let value = w.scalar(w.dtype(x), f64::from(resizing.extrapolation))?;
        for (axis, extrapolated) in outside {
            let mut shape = vec![1; w.rank(x)];
            shape[axis] = extrapolated.len();
            let mask = w.tensor(Tensor::from_shape(&shape, &extrapolated)?)?;
            x = w.select(mask, value, x)?;
        }
    }
    if !nearest && dtype.is_integer() {
        x = w.onnx("Round", &[], &[Some(x)])?[0];
    }
    Ok(vec![w.cast(x, dtype)?])
}

fn between(
    w: &mut Wiring<'_, '_>,
    x: OutletId,
    line: &Line,
    indices: &[i64],
    weights: &[f32],
) -> TractResult<OutletId> {
    let mut shape = vec![1; w.rank(x)];
    shape[line.axis] = line.resized;
    let mut weighted = Vec::new();
    for tap in 0..2 {
        let own: Vec<i64> = indices.iter().skip(tap).step_by(2).copied().collect();
        let indices = w.tensor(Tensor::from_shape(&[line.resized], &own)?)?;
        let own: Vec<f32> = weights.iter().skip(tap).step_by(2).copied().collect();
        let weights = w.tensor(Tensor::from_shape(&shape, &own)?)?;
        let picked = w.gather(line.axis, x, indices)?;
        weighted.push(w.mul(picked, weights)?);
    }
    w.add(weighted[0], weighted[1])
}

/// The same with places and weights that are computed when the program runs.
fn resized_by_formula(
    w: &mut Wiring<'_, '_>,
    x: OutletId,
    resizing: &Resizing,
    line: &OpenLine,
) -> TractResult<OutletId> {
    let float = DatumType::F32;
    let size = w.shape(x)[line.axis].clone();
    let at = numbers(w, &line.resized)?;
    let at = w.cast(at, float)?;
    let scale = match line.scale {
        Some(scale) => w.scalar(float, scale)?,
        None => {
            let (size, resized) =
                (w.dimension(size.clone(), float)?, w.dimension(line.resized.clone(), float)?);
            w.div(resized, size)?
        }
    };
    let whole = line.scale.is_none_or(|scale| scale.fract() == 0.0);
    let needs_whole =
        matches!(resizing.coordinates, Coordinates::HalfPixelSymmetric | Coordinates::AlignCorners);
    if needs_whole && !whole {
        bail!("{size} elements may come to a part of one at {:?}", resizing.coordinates);
    }
    let (zero, half) = (w.scalar(float, 0.0)?, w.scalar(float, 0.5)?);
    let at = match resizing.coordinates {
        // For whole sizes the symmetric form is the same, and PyTorch's differs for a single element only.
        Coordinates::HalfPixel
        | Coordinates::HalfPixelSymmetric
        | Coordinates::PytorchHalfPixel => {
            let centre = w.add(at, half)?;
            let centre = w.div(centre, scale)?;
            let place = w.sub(centre, half)?;
            if resizing.coordinates == Coordinates::PytorchHalfPixel {
                let length = w.dimension(line.resized.clone(), DatumType::I64)?;
                let one = w.scalar(DatumType::I64, 1.0)?;
                let single = w.binary(CompEq, length, one)?;
                w.select(single, zero, place)?
            } else {
                place
            }
        }
        Coordinates::Asymmetric => w.div(at, scale)?,
        Coordinates::AlignCorners => {
            let last = w.dimension(size.clone() - 1, float)?;
            let one = w.scalar(float, 1.0)?;
            let steps = w.dimension(line.resized.clone() - 1, float)?;
            let steps = w.max(steps, one)?;
            let along = w.mul(at, last)?;
            w.div(along, steps)?
        }
        Coordinates::CropAndResize => bail!("regions of {size} elements cannot be resized"),
    };
    let below = match resizing.mode {
        Mode::Nearest(rounding) => {
            let rounded = match rounding {
                Rounding::Floor => w.unary(math::floor(), at)?,
                Rounding::Ceil => w.unary(math::ceil(), at)?,
                Rounding::PreferFloor => {
                    let at = w.sub(at, half)?;
                    w.unary(math::ceil(), at)?
                }
                Rounding::PreferCeil => {
                    let at = w.add(at, half)?;
                    w.unary(math::floor(), at)?
                }
            };
            return picked(w, x, line.axis, rounded, &size);
        }
        Mode::Linear if !resizing.antialias && !resizing.exclude_outside => {
            w.unary(math::floor(), at)?
        }
        Mode::Linear | Mode::Cubic(_) => {
            bail!("{size} elements cannot be resized by {:?}", resizing.mode)
        }
    };
    let one = w.scalar(float, 1.0)?;
    let above = w.add(below, one)?;
    let mut shape = vec![1.to_dim(); w.rank(x)];
    shape[line.axis] = line.resized.clone();
    let fraction = w.sub(at, below)?;
    let fraction = w.reshape(fraction, &shape)?;
    let rest = w.sub(one, fraction)?;
    let below = picked(w, x, line.axis, below, &size)?;
    let above = picked(w, x, line.axis, above, &size)?;
    let (below, above) = (w.mul(below, rest)?, w.mul(above, fraction)?);
    w.add(below, above)
}

/// Elements at places that may lie outside, where the nearest one is taken.
fn picked(
    w: &mut Wiring<'_, '_>,
    x: OutletId,
    axis: usize,
    places: OutletId,
    size: &TDim,
) -> TractResult<OutletId> {
    let (zero, last) =
        (w.scalar(DatumType::F32, 0.0)?, w.dimension(size.clone() - 1, DatumType::F32)?);
    let places = w.max(places, zero)?;
    let places = w.min(places, last)?;
    let places = w.cast(places, DatumType::I64)?;
    w.gather(axis, x, places)
}

fn sums(
    w: &mut Wiring<'_, '_>,
    x: OutletId,
    line: &Line,
    taps: usize,
    indices: &[i64],
    weights: &[f32],
) -> TractResult<OutletId> {
    let mut shape = w.shape(x);
    shape[line.axis] = line.resized.to_dim();
    let indices = w.tensor(Tensor::from_shape(&[line.resized, taps], indices)?)?;
    let weights = w.tensor(Tensor::from_shape(&[line.resized, taps], weights)?)?;
    let op = Op::Resample(Resample { axis: line.axis as u32 });
    w.program_op(op, &[x, indices, weights], DatumType::F32, shape)
}

/// Where an element of the result lies among those of the input.
fn place(coordinates: Coordinates, line: &Line, index: usize) -> f64 {
    let (at, last) = (index as f64, line.size as f64 - 1.0);
    match coordinates {
        Coordinates::HalfPixel => (at + 0.5) / line.scale - 0.5,
        Coordinates::HalfPixelSymmetric => {
            let adjustment = line.resized as f64 / line.length;
            let offset = line.size as f64 / 2.0 * (1.0 - adjustment);
            offset + (at + 0.5) / line.scale - 0.5
        }
        Coordinates::PytorchHalfPixel if line.length == 1.0 => -0.5,
        Coordinates::PytorchHalfPixel => (at + 0.5) / line.scale - 0.5,
        Coordinates::AlignCorners if line.length == 1.0 => 0.0,
        Coordinates::AlignCorners => at * last / (line.length - 1.0),
        Coordinates::Asymmetric => at / line.scale,
        Coordinates::CropAndResize => {
            let (start, end) = line.region;
            let along = if line.length == 1.0 { 0.5 } else { at / (line.length - 1.0) };
            along * (end - start) * last + start * last
        }
    }
}

fn table(resizing: &Resizing, line: &Line) -> Table {
    let last = line.size as i64 - 1;
    let clamped = |index: i64| index.clamp(0, last.max(0));
    let mut table = Table { taps: 1, indices: vec![], weights: vec![], outside: vec![] };
    // Antialiasing widens the weights' support when there are fewer elements than before.
    let narrowing = if resizing.antialias { line.scale.min(1.0) } else { 1.0 };
    for index in 0..line.resized {
        let at = place(resizing.coordinates, line, index);
        let crops = resizing.coordinates == Coordinates::CropAndResize;
        table.outside.push(crops && (at < 0.0 || at > last as f64));
        let (support, weight): (f64, &dyn Fn(f64) -> f64) = match resizing.mode {
            Mode::Nearest(rounding) => {
                table.indices.push(clamped(rounded(rounding, at)));
                table.weights.push(1.0);
                continue;
            }
            Mode::Linear => (1.0, &|distance: f64| (1.0 - distance.abs()).max(0.0)),
            Mode::Cubic(a) => (2.0, &move |distance: f64| cubic(a, distance)),
        };
        let reach = support / narrowing;
        let first = (at - reach).floor() as i64 + 1;
        table.taps = (2.0 * reach).ceil() as usize;
        let taps = first..first + table.taps as i64;
        let weight = |tap: i64| weight((tap as f64 - at) * narrowing);
        let counted = |tap: i64| !resizing.exclude_outside || (0..=last).contains(&tap);
        let sum: f64 = taps.clone().filter(|&tap| counted(tap)).map(weight).sum();
        // Without antialiasing the weights of all taps sum to one already.
        let sum = if sum == 0.0 { 1.0 } else { sum };
        for tap in taps {
            let own = if counted(tap) { weight(tap) / sum } else { 0.0 };
            table.indices.push(clamped(tap));
            table.weights.push(own as f32);
        }
    }
    table
}

fn rounded(rounding: Rounding, at: f64) -> i64 {
    let rounded = match rounding {
        Rounding::PreferFloor => (at - 0.5).ceil(),
        Rounding::PreferCeil => (at + 0.5).floor(),
        Rounding::Floor => at.floor(),
        Rounding::Ceil => at.ceil(),
    };
    rounded as i64
}

/// Cubic convolution. Source: Keys, "Cubic Convolution Interpolation for Digital Image Processing", with `a` left open.
fn cubic(a: f64, distance: f64) -> f64 {
    let x = distance.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resizing(mode: Mode, coordinates: Coordinates) -> Resizing {
        Resizing { mode, coordinates, antialias: false, exclude_outside: false, extrapolation: 0.0 }
    }

    fn line(size: usize, resized: usize) -> Line {
        let scale = resized as f64 / size as f64;
        Line { axis: 0, size, resized, scale, length: resized as f64, region: (0.0, 1.0) }
    }

    #[test]
    fn doubling_takes_quarters_of_the_neighbours() {
        let table = table(&resizing(Mode::Linear, Coordinates::HalfPixel), &line(2, 4));
        assert_eq!(table.indices, [0, 0, 0, 1, 0, 1, 1, 1]);
        assert_eq!(table.weights, [0.25, 0.75, 0.75, 0.25, 0.25, 0.75, 0.75, 0.25]);
    }

    #[test]
    fn weights_sum_to_one() {
        for mode in [Mode::Linear, Mode::Cubic(-0.5), Mode::Cubic(-0.75)] {
            for (size, resized) in [(3, 7), (9, 4), (5, 5), (1, 3)] {
                for antialias in [false, true] {
                    let mut resizing = resizing(mode, Coordinates::AlignCorners);
                    resizing.antialias = antialias;
                    let table = table(&resizing, &line(size, resized));
                    for row in table.weights.chunks(table.taps) {
                        let sum: f32 = row.iter().sum();
                        assert!((sum - 1.0).abs() < 1e-6, "{mode:?} {size} {resized}: {row:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn halves_are_rounded_as_they_prefer() {
        let table = [
            (Rounding::PreferFloor, 0),
            (Rounding::PreferCeil, 1),
            (Rounding::Floor, 0),
            (Rounding::Ceil, 1),
        ];
        for (rounding, expected) in table {
            assert_eq!(rounded(rounding, 0.5), expected);
            assert_eq!(rounded(rounding, 2.0), 2);
        }
    }
}
