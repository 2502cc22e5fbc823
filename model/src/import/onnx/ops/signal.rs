//! Fourier transforms, windows and filter banks.

use anyhow::{Result, bail, ensure};
use flotilla_program::{
    Dft, Op, Unary,
    dim::{Dim, ToDim as _},
};
use flotilla_tensor::DType;

use crate::import::onnx::{
    constant::{Constant, element_type},
    facts::Var,
    wiring::{SIZES, Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("BlackmanWindow", blackman_window),
    ("DFT", dft),
    ("HammingWindow", hamming_window),
    ("HannWindow", hann_window),
    ("MelWeightMatrix", mel_weight_matrix),
    ("STFT", stft),
];

/// Longest transform; its table of angles is a constant of the program.
const LENGTH_MAX: usize = 1 << 20;

fn dft(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let axis = match w.optional(2) {
        Some(_) => w.known_i64(2)?,
        None if w.opset < 20 => w.int("axis")?.unwrap_or(1),
        None => -2,
    };
    let axis = w.axis(axis, w.rank(x))?;
    let inverse = w.flag("inverse")?;
    let onesided = w.flag("onesided")?;
    let length = match w.optional(1) {
        Some(_) => Some(w.element(1, SIZES)?),
        None => None,
    };
    let given = w.shape(x)[axis].clone();
    let length = match length {
        Some(length) => length,
        None if inverse && onesided => (given - 1) * 2,
        None => given,
    };
    Ok(vec![transform(w, x, axis, &length, inverse, onesided)?])
}

/// The transform of `length` elements of an axis; `onesided` keeps the half of a spectrum that determines all
/// of it.
fn transform(
    w: &mut Wiring<'_, '_>,
    x: Var,
    axis: usize,
    length: &Dim,
    inverse: bool,
    onesided: bool,
) -> Result<Var> {
    let rank = w.rank(x);
    ensure!(axis + 1 < rank, "axis {axis} is the one of real and imaginary parts");
    let mut shape = w.shape(x);
    shape[axis] = if onesided && !inverse { length.over(2) + 1 } else { length.clone() };
    shape[rank - 1] = if onesided && inverse { 1 } else { 2 }.to_dim();
    let twiddles = twiddles(w, length)?;
    let op = Op::Dft(Dft { axis: axis as u32, inverse, mirrored: inverse && onesided });
    let dtype = w.dtype(x);
    let x = w.unrounded(x, DType::F32)?;
    let transformed = w.op(op, &[x, twiddles], DType::F32, shape)?;
    w.unrounded(transformed, dtype)
}

/// Cosines and sines of the fractions of a full turn, `[length, 2]`.
pub(super) fn twiddles(w: &mut Wiring<'_, '_>, length: &Dim) -> Result<Var> {
    let Some(length) = length.as_fixed() else {
        let turn = w.scalar(DType::F32, 2.0 * std::f64::consts::PI);
        let at = w.positions(length)?;
        let at = w.cast(at, DType::F32)?;
        let length = w.dimension(length.clone(), DType::F32)?;
        let part = w.div(at, length)?;
        let angle = w.mul(part, turn)?;
        let (cosine, sine) = (w.unary(Unary::Cos, angle)?, w.unary(Unary::Sin, angle)?);
        let (cosine, sine) = (w.unsqueeze(cosine, 1)?, w.unsqueeze(sine, 1)?);
        return w.concat(1, &[cosine, sine]);
    };
    let length = match usize::try_from(length) {
        Ok(length) if (1..=LENGTH_MAX).contains(&length) => length,
        _ => bail!("a transform of {length} elements, supported are 1 to {LENGTH_MAX}"),
    };
    let angle = |turn: usize| 2.0 * std::f64::consts::PI * turn as f64 / length as f64;
    let twiddles: Vec<f32> =
        (0..length).flat_map(|turn| [angle(turn).cos() as f32, angle(turn).sin() as f32]).collect();
    Ok(w.known(Constant::f32s(&[length, 2], &twiddles)))
}

/// Overlapping frames of a signal, each weighted and transformed.
fn stft(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let mut signal = w.input(0)?;
    match w.rank(signal) {
        // Real numbers, without their own dimension.
        2 => signal = w.unsqueeze(signal, 2)?,
        3 => {}
        rank => bail!("a signal has two or three dimensions, {rank} are given"),
    }
    let step = w.known_i64(1)?;
    ensure!(step > 0, "a frame step of {step}");
    let window = w.optional(2);
    let length = w.dim(signal, 1);
    let frame = match (w.optional(3), window) {
        (Some(_), _) => w.element(3, SIZES)?,
        (None, Some(window)) => w.dim(window, 0),
        (None, None) => length.clone(),
    };
    let frames = w.walk.bounded(|bounds| ((&length - &frame).over(step) + 1).most(0, bounds));
    let starts = w.range(Dim::Fixed(0), Dim::Fixed(step), frames)?;
    let starts = w.unsqueeze(starts, 1)?;
    let within = w.positions(&frame)?;
    let within = w.unsqueeze(within, 0)?;
    let places = w.add(starts, within)?;
    let mut framed = w.gather(1, signal, places)?;
    if let Some(window) = window {
        let window = w.reshape(window, &[frame.clone(), 1.to_dim()])?;
        framed = w.mul(framed, window)?;
    }
    let onesided = w.int("onesided")?.unwrap_or(1) != 0;
    Ok(vec![transform(w, framed, 2, &frame, false, onesided)?])
}

fn hann_window(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    cosines(w, [0.5, 0.5, 0.0])
}

fn hamming_window(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    cosines(w, [25.0 / 46.0, 21.0 / 46.0, 0.0])
}

fn blackman_window(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    cosines(w, [0.42, 0.5, 0.08])
}

/// `a0 - a1 cos(2 pi n / N) + a2 cos(4 pi n / N)`, computed where it is used.
fn cosines(w: &mut Wiring<'_, '_>, [a0, a1, a2]: [f64; 3]) -> Result<Vec<Var>> {
    let size = w.element(0, SIZES)?;
    let periodic = w.int("periodic")?.unwrap_or(1) != 0;
    let dtype = output_type(w)?;
    let turns = if periodic { size.clone() } else { &size - 1 };
    let turns = w.walk.bounded(|bounds| turns.most(1, bounds));
    let turns = w.dimension(turns, DType::F32)?;
    let at = w.positions(&size)?;
    let at = w.cast(at, DType::F32)?;
    let part = w.div(at, turns)?;
    let mut window = w.scalar(DType::F32, a0);
    for (factor, harmonic) in [(-a1, 1.0), (a2, 2.0)] {
        if factor != 0.0 {
            let turn = w.scalar(DType::F32, 2.0 * std::f64::consts::PI * harmonic);
            let angle = w.mul(part, turn)?;
            let cosine = w.unary(Unary::Cos, angle)?;
            let factor = w.scalar(DType::F32, factor);
            let term = w.mul(cosine, factor)?;
            window = w.add(window, term)?;
        }
    }
    Ok(vec![w.cast(window, dtype)?])
}

/// The type in the attribute `output_datatype`.
fn output_type(w: &Wiring<'_, '_>) -> Result<DType> {
    match w.int("output_datatype")? {
        None => Ok(DType::F32),
        Some(number) => match element_type(i32::try_from(number)?) {
            Some(dtype) => Ok(dtype),
            None => bail!("elements of type {number} are not supported"),
        },
    }
}

/// Triangular filters at equal distances on the mel scale.
fn mel_weight_matrix(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let one = |index: usize| -> Result<f64> {
        match w.known_f32s(index)?.as_slice() {
            &[value] => Ok(f64::from(value)),
            values => bail!("operand {index} is {values:?}, one number is needed"),
        }
    };
    let (filters, length, rate) = (one(0)? as usize, one(1)? as usize, one(2)?);
    let (low, high) = (one(3)?, one(4)?);
    if filters > LENGTH_MAX || length > LENGTH_MAX || filters.saturating_mul(length) > 1 << 26 {
        bail!("{filters} filters of {length} elements are too many");
    }
    let mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
    let hertz = |mel: f64| 700.0 * (10f64.powf(mel / 2595.0) - 1.0);
    let step = (mel(high) - mel(low)) / (filters + 2) as f64;
    let bins: Vec<usize> = (0..filters + 2)
        .map(|index| hertz(mel(low) + step * index as f64))
        .map(|hertz| ((length + 1) as f64 * hertz / rate).floor().max(0.0) as usize)
        .collect();
    let rows = length / 2 + 1;
    let mut matrix = vec![0f32; rows * filters];
    for filter in 0..filters {
        let (start, centre, end) = (bins[filter], bins[filter + 1], bins[filter + 2]);
        for row in start..=end.min(rows.saturating_sub(1)) {
            let weight = if row == centre {
                1.0
            } else if row < centre {
                (row - start) as f64 / (centre - start) as f64
            } else {
                (end - row) as f64 / (end - centre) as f64
            };
            matrix[row * filters + filter] = weight as f32;
        }
    }
    let dtype = output_type(w)?;
    let matrix = w.known(Constant::f32s(&[rows, filters], &matrix));
    Ok(vec![w.cast(matrix, dtype)?])
}
