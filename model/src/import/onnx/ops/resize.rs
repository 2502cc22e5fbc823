//! Resizing: along each dimension, every element of the result is a weighted sum of a few input elements.
//! Source: ONNX, "Resize", with its formulas for coordinates and weights.

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_program::{Binary, Expr, Op, ReduceKind, Resample, Step, Unary, dim::Dim};
use flotilla_tensor::DType;

use crate::import::onnx::{
    constant::Constant,
    emit::fixed,
    facts::Var,
    wiring::{SIZES, Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[("Resize", resize), ("Upsample", upsample)];

/// How positions of the result are mapped to positions of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    /// `tf_half_pixel_for_nn`, until version 13.
    TfHalfPixel,
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
    /// Up if the dimension shrinks, else down: version 10, as onnxruntime reads it.
    Outwards,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Nearest(Rounding),
    Linear,
    /// Cubic convolution with this coefficient.
    Cubic(f64),
}

/// The settings that do not depend on the dimension.
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

/// A resized dimension whose sizes are known only in a run.
#[derive(Clone, Debug)]
struct OpenLine {
    axis: usize,
    size: Dim,
    resized: Dim,
    scale: Scale,
}

/// The scale of a dimension.
#[derive(Clone, Copy, Debug)]
enum Scale {
    /// From its sizes.
    Sizes,
    Number(f64),
    /// As the program computes it: a float of rank 0.
    Computed(Var),
}

/// All dimensions that are resized.
#[derive(Default)]
struct Lines {
    lines: Vec<Line>,
    open: Vec<OpenLine>,
}

/// Most entries of a table: 64 Mi words of indices and weights.
const ENTRIES_MAX: f64 = (1 << 25) as f64;

/// For each element of the result, the elements of the input of which it is computed.
#[derive(Debug, PartialEq)]
struct Table {
    /// Entries per element.
    taps: usize,
    indices: Vec<i64>,
    weights: Vec<f32>,
    /// Elements that lie outside of the input and are extrapolated.
    outside: Vec<bool>,
}

fn resize(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let int = |name: &str| -> Result<bool> { w.flag(name) };
    // Version 10 had neither regions nor modes of coordinates.
    let (roi, scales, sizes) = if w.opset < 11 { (None, 1, 3) } else { (Some(1), 2, 3) };
    let default = if w.opset < 11 { "asymmetric" } else { "half_pixel" };
    let coordinates = match w.text("coordinate_transformation_mode")?.unwrap_or(default) {
        "half_pixel" => Coordinates::HalfPixel,
        "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "tf_half_pixel_for_nn" if w.opset < 13 => Coordinates::TfHalfPixel,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        "tf_crop_and_resize" => Coordinates::CropAndResize,
        mode => bail!("coordinate transformation {mode:?} is not known"),
    };
    let default = if w.opset < 11 { "outwards" } else { "round_prefer_floor" };
    let rounding = match w.text("nearest_mode")?.unwrap_or(default) {
        "round_prefer_floor" => Rounding::PreferFloor,
        "round_prefer_ceil" => Rounding::PreferCeil,
        "floor" => Rounding::Floor,
        "ceil" => Rounding::Ceil,
        "outwards" if w.opset < 11 => Rounding::Outwards,
        mode => bail!("nearest mode {mode:?} is not known"),
    };
    let coefficient = w.float("cubic_coeff_a")?.unwrap_or(-0.75);
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
        extrapolation: w.float("extrapolation_value")?.unwrap_or(0.0),
    };
    let rank = w.rank(x);
    let axes = match w.ints("axes")? {
        Some(axes) => axes.iter().map(|&axis| w.axis(axis, rank)).collect::<Result<_>>()?,
        None => (0..rank).collect::<Vec<usize>>(),
    };
    let given = |w: &Wiring<'_, '_>, index: usize| {
        // An operand without elements counts as left out.
        let is_empty = |var: Var| w.shape(var).contains(&Dim::Fixed(0));
        w.optional(index).is_some_and(|var| !is_empty(var))
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
        scale_targets(w, w.input(scales)?)?
    } else {
        Targets::Sizes(w.elements(sizes, SIZES)?)
    };
    let policy = w.text("keep_aspect_ratio_policy")?.unwrap_or("stretch");
    let lines = lines(w, x, &axes, &targets, policy, &regions)?;
    resized(w, x, &resizing, &lines)
}

/// Scales as numbers if they are known, else as the program computes them.
fn scale_targets(w: &mut Wiring<'_, '_>, scales: Var) -> Result<Targets> {
    if let Some(known) = w.constant(scales) {
        return Ok(Targets::Scales(known.floats()));
    }
    let count = fixed(&w.shape(scales)).filter(|shape| shape.len() == 1);
    let count = count.context("the number of scales must be known when the model is loaded")?[0];
    let each = (0..count).map(|index| {
        let scale = w.slice(scales, 0, index, index + 1)?;
        w.reshape(scale, &[])
    });
    Ok(Targets::Computed(each.collect::<Result<_>>()?))
}

fn upsample(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let axes: Vec<usize> = (0..w.rank(x)).collect();
    let targets = if w.opset < 7 {
        let scale = |name: &str| w.float(name)?.with_context(|| format!("{name} is missing"));
        let (height, width) = (scale("height_scale")?, scale("width_scale")?);
        Targets::Scales(vec![1.0, 1.0, f64::from(height), f64::from(width)])
    } else if w.opset < 9 {
        let scales = w.floats("scales")?.context("scales are missing")?;
        Targets::Scales(scales.into_iter().map(f64::from).collect())
    } else {
        scale_targets(w, w.input(1)?)?
    };
    let mode = match w.text("mode")?.unwrap_or("nearest") {
        "nearest" => Mode::Nearest(Rounding::Floor),
        "linear" | "bilinear" => Mode::Linear,
        mode => bail!("mode {mode:?} is not known"),
    };
    let resizing = Resizing {
        mode,
        coordinates: Coordinates::Asymmetric,
        antialias: false,
        exclude_outside: false,
        extrapolation: 0.0,
    };
    let regions = [vec![0.0; axes.len()], vec![1.0; axes.len()]].concat();
    let lines = lines(w, x, &axes, &targets, "stretch", &regions)?;
    resized(w, x, &resizing, &lines)
}

/// The requested size or scale of each axis.
enum Targets {
    Scales(Vec<f64>),
    /// Floats of rank 0.
    Computed(Vec<Var>),
    Sizes(Vec<Dim>),
}

impl Targets {
    fn len(&self) -> usize {
        match self {
            Targets::Scales(scales) => scales.len(),
            Targets::Computed(scales) => scales.len(),
            Targets::Sizes(sizes) => sizes.len(),
        }
    }
}

/// The dimensions that change.
fn lines(
    w: &mut Wiring<'_, '_>,
    x: Var,
    axes: &[usize],
    targets: &Targets,
    policy: &str,
    regions: &[f64],
) -> Result<Lines> {
    let shape = w.shape(x);
    if targets.len() != axes.len() {
        bail!("{} targets for {} dimensions", targets.len(), axes.len());
    }
    match policy {
        "not_larger" | "not_smaller" => {
            if let Targets::Sizes(sizes) = targets {
                return kept_aspect(w, x, axes, sizes, policy == "not_larger", regions);
            }
        }
        "stretch" => {}
        _ => bail!("aspect ratio policy {policy:?} is not known"),
    }
    let mut lines = Lines::default();
    for (index, &axis) in axes.iter().enumerate() {
        let region = (regions[index], regions[axes.len() + index]);
        let size = &shape[axis];
        let stays = match targets {
            Targets::Scales(scales) => scales[index] == 1.0,
            Targets::Computed(_) => false,
            Targets::Sizes(sizes) => sizes[index] == *size,
        };
        if stays && region == (0.0, 1.0) {
            continue;
        }
        let (resized, scale) = match targets {
            Targets::Sizes(sizes) => (sizes[index].clone(), Scale::Sizes),
            Targets::Scales(scales) => {
                (scaled(w, size, scales[index])?, Scale::Number(scales[index]))
            }
            Targets::Computed(scales) => {
                (computed_size(w, size, scales[index])?, Scale::Computed(scales[index]))
            }
        };
        let fixed = size.as_fixed().zip(resized.as_fixed());
        let known = match (fixed, scale) {
            (Some((size, resized)), Scale::Sizes) => {
                Some((size, resized, resized as f64 / size as f64, resized as f64))
            }
            (Some((size, resized)), Scale::Number(scale)) => {
                Some((size, resized, scale, scale * size as f64))
            }
            (None, _) | (_, Scale::Computed(_)) => None,
        };
        match known {
            Some((size, resized, scale, length)) => {
                let (size, resized) = (usize::try_from(size)?, usize::try_from(resized)?);
                lines.lines.push(Line { axis, size, resized, scale, length, region });
            }
            None => {
                ensure!(
                    region == (0.0, 1.0),
                    "a region needs a size that is known when the model is loaded"
                );
                lines.open.push(OpenLine { axis, size: size.clone(), resized, scale });
            }
        }
    }
    Ok(lines)
}

/// Sizes that keep the aspect ratio: all dimensions get one scale.
fn kept_aspect(
    w: &Wiring<'_, '_>,
    x: Var,
    axes: &[usize],
    sizes: &[Dim],
    smallest: bool,
    regions: &[f64],
) -> Result<Lines> {
    let mut scales = Vec::new();
    for (&axis, wanted) in axes.iter().zip(sizes) {
        let (size, wanted) = (w.number(&w.dim(x, axis))?, w.number(wanted)?);
        scales.push(wanted as f64 / size as f64);
    }
    let scales = scales.into_iter();
    let kept =
        if smallest { scales.fold(f64::INFINITY, f64::min) } else { scales.fold(0.0, f64::max) };
    let mut lines = Lines::default();
    for (index, &axis) in axes.iter().enumerate() {
        let size = w.number(&w.dim(x, axis))?;
        let resized = (kept * size as f64 + 0.5) as usize;
        let region = (regions[index], regions[axes.len() + index]);
        let length = kept * size as f64;
        lines.lines.push(Line { axis, size, resized, scale: kept, length, region });
    }
    Ok(lines)
}

/// Largest denominator with which a scale is recognized as a fraction.
const DIVISOR_MAX: f64 = 64.0;

/// A size times a scale, rounded down. The product is computed in 32-bit floats, as in the engines for which models are
/// made.
fn scaled(w: &mut Wiring<'_, '_>, size: &Dim, scale: f64) -> Result<Dim> {
    if let Some(size) = size.as_fixed() {
        return Ok(Dim::Fixed((size as f32 * scale as f32) as i64));
    }
    let divisor = (0..7).map(|power| f64::from(1 << power)).find(|by| (scale * by).fract() == 0.0);
    match divisor.filter(|by| *by <= DIVISOR_MAX && scale > 0.0) {
        Some(by) => Ok((size * (scale * by) as i64).over(by as i64)),
        None => {
            let scale = w.scalar(DType::F32, scale);
            computed_size(w, size, scale)
        }
    }
}

/// The same for a scale that the program computes.
fn computed_size(w: &mut Wiring<'_, '_>, size: &Dim, scale: Var) -> Result<Dim> {
    let size = w.dimension(size.clone(), DType::F32)?;
    let scale = w.cast(scale, DType::F32)?;
    let resized = w.mul(size, scale)?;
    let resized = w.cast(resized, DType::I64)?;
    let name = format!("{}.size", w.name);
    Ok(w.walk.elements(resized, &name, SIZES)?.swap_remove(0))
}

/// Resizes one dimension after the other.
fn resized(
    w: &mut Wiring<'_, '_>,
    x: Var,
    resizing: &Resizing,
    Lines { lines, open }: &Lines,
) -> Result<Vec<Var>> {
    let dtype = w.dtype(x);
    let nearest = matches!(resizing.mode, Mode::Nearest(_));
    let mut x = if nearest { x } else { w.unrounded(x, DType::F32)? };
    for line in open {
        x = resized_by_formula(w, x, resizing, line)?;
    }
    let mut outside = Vec::new();
    for line in lines {
        let each = taps(resizing, line);
        if line.resized as f64 * each > ENTRIES_MAX {
            bail!(
                "{} elements resized to {}, each from {each:.0}: {ENTRIES_MAX} are the most in all",
                line.size,
                line.resized
            );
        }
        let Table { taps, indices, weights, outside: extrapolated } = table(resizing, line);
        x = if taps == 1 {
            let indices = w.known(Constant::i64s(&[line.resized], &indices));
            w.gather(line.axis, x, indices)?
        } else {
            let indices = w.known(Constant::i64s(&[line.resized, taps], &indices));
            let weights = w.known(Constant::f32s(&[line.resized, taps], &weights));
            sums(w, x, line.axis, indices, weights)?
        };
        if extrapolated.contains(&true) {
            outside.push((line.axis, extrapolated));
        }
    }
    if !outside.is_empty() {
        let value = w.scalar(w.dtype(x), f64::from(resizing.extrapolation));
        for (axis, extrapolated) in outside {
            let mut shape = vec![1; w.rank(x)];
            shape[axis] = extrapolated.len();
            let mask = w.known(Constant::bools(&shape, &extrapolated));
            x = w.select(mask, value, x)?;
        }
    }
    if !nearest && dtype.is_integer() {
        x = w.unary(Unary::Round, x)?;
    }
    Ok(vec![w.unrounded(x, dtype)?])
}

/// Weighted sums of the elements that each row of a table names.
fn sums(w: &mut Wiring<'_, '_>, x: Var, axis: usize, indices: Var, weights: Var) -> Result<Var> {
    let mut shape = w.shape(x);
    shape[axis] = w.dim(indices, 0);
    let op = Op::Resample(Resample { axis: axis as u32 });
    w.op(op, &[x, indices, weights], DType::F32, shape)
}

/// The same with positions and weights that are computed in a run.
fn resized_by_formula(
    w: &mut Wiring<'_, '_>,
    x: Var,
    resizing: &Resizing,
    line: &OpenLine,
) -> Result<Var> {
    let float = DType::F32;
    let size = w.dimension(line.size.clone(), float)?;
    let scale = match line.scale {
        Scale::Number(scale) => w.scalar(float, scale),
        Scale::Computed(scale) => w.cast(scale, float)?,
        Scale::Sizes => {
            let resized = w.dimension(line.resized.clone(), float)?;
            w.div(resized, size)?
        }
    };
    let at = places(w, resizing.coordinates, line, scale)?;
    if let Mode::Nearest(rounding) = resizing.mode {
        let (half, one) = (Step::Float(0.5), Step::Float(1.0));
        let steps = match rounding {
            Rounding::Floor => vec![Step::Input(0), Step::Unary(Unary::Floor, 0)],
            Rounding::Ceil => vec![Step::Input(0), Step::Unary(Unary::Ceil, 0)],
            Rounding::PreferFloor => vec![
                Step::Input(0),
                half,
                Step::Binary(Binary::Sub, 0, 1),
                Step::Unary(Unary::Ceil, 2),
            ],
            Rounding::PreferCeil => vec![
                Step::Input(0),
                half,
                Step::Binary(Binary::Add, 0, 1),
                Step::Unary(Unary::Floor, 2),
            ],
            Rounding::Outwards => vec![
                Step::Input(0),
                Step::Input(1),
                one,
                Step::Binary(Binary::Lt, 1, 2),
                Step::Unary(Unary::Ceil, 0),
                Step::Unary(Unary::Floor, 0),
                Step::Select(3, 4, 5),
            ],
        };
        let inputs: &[Var] = if rounding == Rounding::Outwards { &[at, scale] } else { &[at] };
        let rounded = w.expr(steps, inputs, float)?;
        let rounded = inside(w, rounded, &line.size)?;
        return w.gather(line.axis, x, rounded);
    }
    // As in `table`, for all rows at once: `[resized, taps]`.
    let (support, cubic) = match resizing.mode {
        Mode::Cubic(a) => (2, Some(a)),
        _ => (1, None),
    };
    let (narrowing, taps) = if resizing.antialias {
        let one = w.scalar(float, 1.0);
        let narrowing = w.min(scale, one)?;
        let taps = match line.scale {
            Scale::Sizes => w.walk.bounded(|bounds| {
                (&line.size * (2 * support)).over_up(&line.resized).most(2 * support, bounds)
            }),
            Scale::Number(scale) => {
                Dim::Fixed((2.0 * f64::from(support) / scale.min(1.0)).ceil() as i64)
            }
            Scale::Computed(_) => {
                w.walk.unknown.set(true);
                bail!("antialiasing by a scale that is computed")
            }
        };
        (narrowing, taps)
    } else {
        (w.scalar(float, 1.0), Dim::Fixed(i64::from(2 * support)))
    };
    let at = w.unsqueeze(at, 1)?;
    let steps = vec![
        Step::Input(0),
        Step::Float(support as f32),
        Step::Input(1),
        Step::Binary(Binary::Div, 1, 2),
        Step::Binary(Binary::Sub, 0, 3),
        Step::Unary(Unary::Floor, 4),
        Step::Float(1.0),
        Step::Binary(Binary::Add, 5, 6),
    ];
    let first = w.expr(steps, &[at, narrowing], float)?;
    let tap = w.positions(&taps)?;
    let tap = w.cast(tap, float)?;
    let tap = w.unsqueeze(tap, 0)?;
    let tap = w.add(first, tap)?;
    let steps = vec![
        Step::Input(0),
        Step::Input(1),
        Step::Binary(Binary::Sub, 0, 1),
        Step::Input(2),
        Step::Binary(Binary::Mul, 2, 3),
        Step::Unary(Unary::Abs, 4),
    ];
    let distance = w.expr(steps, &[tap, at, narrowing], float)?;
    let steps = match cubic {
        Some(a) => cubic_steps(a as f32),
        None => vec![
            Step::Input(0),
            Step::Float(1.0),
            Step::Binary(Binary::Sub, 1, 0),
            Step::Unary(Unary::Relu, 2),
        ],
    };
    let mut weights = w.expr(steps, &[distance], float)?;
    if resizing.exclude_outside {
        let steps = vec![
            Step::Input(0),
            Step::Float(0.0),
            Step::Binary(Binary::Lt, 0, 1),
            Step::Input(1),
            Step::Binary(Binary::Ge, 0, 3),
            Step::Binary(Binary::Or, 2, 4),
            Step::Input(2),
            Step::Select(5, 1, 6),
        ];
        weights = w.expr(steps, &[tap, size, weights], float)?;
    }
    if resizing.exclude_outside || resizing.antialias {
        let sum = w.reduce(ReduceKind::Sum, weights, &[1], true)?;
        weights = w.div(weights, sum)?;
    }
    let indices = inside(w, tap, &line.size)?;
    sums(w, x, line.axis, indices, weights)
}

/// Cubic convolution of a distance; see [`cubic`].
fn cubic_steps(a: f32) -> Vec<Step> {
    vec![
        Step::Input(0),
        Step::Float(a + 2.0),
        Step::Binary(Binary::Mul, 0, 1),
        Step::Float(a + 3.0),
        Step::Binary(Binary::Sub, 2, 3),
        Step::Binary(Binary::Mul, 4, 0),
        Step::Binary(Binary::Mul, 5, 0),
        Step::Float(1.0),
        Step::Binary(Binary::Add, 6, 7),
        Step::Float(a),
        Step::Binary(Binary::Mul, 9, 0),
        Step::Float(-5.0 * a),
        Step::Binary(Binary::Add, 10, 11),
        Step::Binary(Binary::Mul, 12, 0),
        Step::Float(8.0 * a),
        Step::Binary(Binary::Add, 13, 14),
        Step::Binary(Binary::Mul, 15, 0),
        Step::Float(-4.0 * a),
        Step::Binary(Binary::Add, 16, 17),
        Step::Float(2.0),
        Step::Binary(Binary::Lt, 0, 19),
        Step::Float(0.0),
        Step::Select(20, 18, 21),
        Step::Binary(Binary::Le, 0, 7),
        Step::Select(23, 8, 22),
    ]
}

/// Positions of the result's elements among those of the input, `[resized]`; see [`place`].
fn places(
    w: &mut Wiring<'_, '_>,
    coordinates: Coordinates,
    line: &OpenLine,
    scale: Var,
) -> Result<Var> {
    let float = DType::F32;
    let at = w.positions(&line.resized)?;
    let at = w.cast(at, float)?;
    let one = w.scalar(float, 1.0);
    let size = w.dimension(line.size.clone(), float)?;
    let resized = w.dimension(line.resized.clone(), float)?;
    let length = match line.scale {
        Scale::Sizes => resized,
        Scale::Number(_) | Scale::Computed(_) => w.mul(scale, size)?,
    };
    // `(at + 1/2) / scale - 1/2`.
    let half_pixel = vec![
        Step::Input(0),
        Step::Float(0.5),
        Step::Binary(Binary::Add, 0, 1),
        Step::Input(1),
        Step::Binary(Binary::Div, 2, 3),
        Step::Binary(Binary::Sub, 4, 1),
    ];
    match coordinates {
        Coordinates::HalfPixel => w.expr(half_pixel, &[at, scale], float),
        Coordinates::TfHalfPixel => w.expr(half_pixel[..5].to_vec(), &[at, scale], float),
        Coordinates::PytorchHalfPixel => {
            let place = w.expr(half_pixel, &[at, scale], float)?;
            let single = w.binary(Binary::Eq, length, one)?;
            let before = w.scalar(float, -0.5);
            w.select(single, before, place)
        }
        Coordinates::HalfPixelSymmetric => {
            let place = w.expr(half_pixel, &[at, scale], float)?;
            let adjustment = w.div(resized, length)?;
            let steps = vec![
                Step::Input(0),
                Step::Float(0.5),
                Step::Binary(Binary::Mul, 0, 1),
                Step::Float(1.0),
                Step::Input(1),
                Step::Binary(Binary::Sub, 3, 4),
                Step::Binary(Binary::Mul, 2, 5),
            ];
            let offset = w.expr(steps, &[size, adjustment], float)?;
            w.add(offset, place)
        }
        Coordinates::Asymmetric => w.div(at, scale),
        Coordinates::AlignCorners => {
            let last = w.sub(size, one)?;
            let steps = w.sub(length, one)?;
            let along = w.mul(at, last)?;
            let place = w.div(along, steps)?;
            let single = w.binary(Binary::Eq, length, one)?;
            let zero = w.scalar(float, 0.0);
            w.select(single, zero, place)
        }
        Coordinates::CropAndResize => bail!("regions whose sizes are not known"),
    }
}

/// Positions that may lie outside, as indices of the nearest elements.
fn inside(w: &mut Wiring<'_, '_>, places: Var, size: &Dim) -> Result<Var> {
    let steps = vec![
        Step::Input(0),
        Step::Dim(size - 1),
        Step::Cast(DType::F32, 1),
        Step::Binary(Binary::Min, 0, 2),
        Step::Unary(Unary::Relu, 3),
        Step::Cast(DType::I32, 4),
    ];
    let shape = w.shape(places);
    w.op(Op::Elementwise(Expr { steps }), &[places], DType::I32, shape)
}

/// The position of an element of the result among those of the input.
fn place(coordinates: Coordinates, line: &Line, index: usize) -> f64 {
    let (at, last) = (index as f64, line.size as f64 - 1.0);
    match coordinates {
        Coordinates::HalfPixel => (at + 0.5) / line.scale - 0.5,
        Coordinates::TfHalfPixel => (at + 0.5) / line.scale,
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

/// How far the weights reach to either side, in elements of the input that are `narrowing` apart; 0 if only the nearest
/// counts.
fn support(mode: Mode) -> f64 {
    match mode {
        Mode::Nearest(_) => 0.0,
        Mode::Linear => 1.0,
        Mode::Cubic(_) => 2.0,
    }
}

/// Antialiasing widens the weights' support if the dimension shrinks.
fn narrowing(resizing: &Resizing, line: &Line) -> f64 {
    if resizing.antialias { line.scale.min(1.0) } else { 1.0 }
}

/// How many elements of the input each element of the result uses.
fn taps(resizing: &Resizing, line: &Line) -> f64 {
    (2.0 * support(resizing.mode) / narrowing(resizing, line)).ceil().max(1.0)
}

fn table(resizing: &Resizing, line: &Line) -> Table {
    let last = line.size as i64 - 1;
    let clamped = |index: i64| index.clamp(0, last.max(0));
    let mut table = Table { taps: 1, indices: vec![], weights: vec![], outside: vec![] };
    let (support, narrowing) = (support(resizing.mode), narrowing(resizing, line));
    let each = taps(resizing, line) as usize;
    for index in 0..line.resized {
        let at = place(resizing.coordinates, line, index);
        let crops = resizing.coordinates == Coordinates::CropAndResize;
        table.outside.push(crops && (at < 0.0 || at > last as f64));
        let weight: &dyn Fn(f64) -> f64 = match resizing.mode {
            Mode::Nearest(rounding) => {
                table.indices.push(clamped(rounded(rounding, at, line.scale)));
                table.weights.push(1.0);
                continue;
            }
            Mode::Linear => &|distance: f64| (1.0 - distance.abs()).max(0.0),
            Mode::Cubic(a) => &move |distance: f64| cubic(a, distance),
        };
        let reach = support / narrowing;
        let first = (at - reach).floor() as i64 + 1;
        table.taps = each;
        let taps = first..first + each as i64;
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

fn rounded(rounding: Rounding, at: f64, scale: f64) -> i64 {
    let rounded = match rounding {
        Rounding::PreferFloor => (at - 0.5).ceil(),
        Rounding::PreferCeil => (at + 0.5).floor(),
        Rounding::Floor => at.floor(),
        Rounding::Ceil => at.ceil(),
        Rounding::Outwards if scale < 1.0 => at.ceil(),
        Rounding::Outwards => at.floor(),
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
            (Rounding::Outwards, 0),
        ];
        for (rounding, expected) in table {
            assert_eq!(rounded(rounding, 0.5, 2.0), expected);
            assert_eq!(rounded(rounding, 2.0, 2.0), 2);
        }
    }
}
