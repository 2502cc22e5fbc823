//! Fourier transforms, windows and filter banks.

use tract_onnx::{
    pb::tensor_proto::DataType,
    prelude::{DatumType, OutletId, TDim, Tensor, TractResult},
    tract_hir::internal::{DimLike as _, ToDim, bail, tract_core::ops::math},
};

use super::generators::positions;
use crate::import::onnx::wiring::{Wire, Wiring};
use flotilla_program::{Dft, Op};

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

fn dft(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let axis = match w.optional(2) {
        Some(_) => w.known_i64s(2)?.first().copied().unwrap_or(-2),
        None if w.opset < 20 => w.node.get_attr_opt::<i64>("axis")?.unwrap_or(1),
        None => -2,
    };
    let axis = w.axis(axis, w.rank(x))?;
    let inverse = w.node.get_attr_opt::<i64>("inverse")?.unwrap_or(0) != 0;
    let onesided = w.node.get_attr_opt::<i64>("onesided")?.unwrap_or(0) != 0;
    let length = match w.optional(1) {
        Some(_) => w.known_dims(1)?.into_iter().next(),
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

/// The transform of `length` elements of an axis; `onesided` keeps the half of a spectrum that says all of it.
fn transform(
    w: &mut Wiring<'_, '_>,
    x: OutletId,
    axis: usize,
    length: &TDim,
    inverse: bool,
    onesided: bool,
) -> TractResult<OutletId> {
    let rank = w.rank(x);
    let length = match length.to_usize() {
        Ok(length) if (1..=LENGTH_MAX).contains(&length) => length,
        Ok(length) => bail!("a transform of {length} elements, 1 to {LENGTH_MAX} can be had"),
        Err(_) => bail!("the length {length} must be a number"),
    };
    if axis + 1 >= rank {
        bail!("axis {axis} has the parts of the numbers");
    }
    let mut shape = w.shape(x);
    shape[axis] = if onesided && !inverse { length / 2 + 1 } else { length }.to_dim();
    shape[rank - 1] = if onesided && inverse { 1 } else { 2 }.to_dim();
    let angle = |turn: usize| 2.0 * std::f64::consts::PI * turn as f64 / length as f64;
    let twiddles: Vec<f32> =
        (0..length).flat_map(|turn| [angle(turn).cos() as f32, angle(turn).sin() as f32]).collect();
    let twiddles = w.tensor(Tensor::from_shape(&[length, 2], &twiddles)?)?;
    let op = Op::Dft(Dft { axis: axis as u32, inverse, mirrored: inverse && onesided });
    let dtype = w.dtype(x);
    let x = w.cast(x, DatumType::F32)?;
    let transformed = w.program_op(op, &[x, twiddles], DatumType::F32, shape)?;
    w.cast(transformed, dtype)
}

/// Overlapping frames of a signal, weighted, and transformed each.
fn stft(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let signal = w.input(0)?;
    if w.rank(signal) != 3 {
        bail!("a signal has three dimensions, {} are given", w.rank(signal));
    }
    let step = match w.known_i64s(1)?.as_slice() {
        &[step] if step > 0 => step as usize,
        step => bail!("a frame step of {step:?}"),
    };
    let window = w.optional(2);
    let length = w.shape(signal)[1].clone();
    let frame = match (w.optional(3), window) {
        (Some(_), _) => w.known_dims(3)?.into_iter().next().unwrap_or_else(|| length.clone()),
        (None, Some(window)) => w.shape(window)[0].clone(),
        (None, None) => length.clone(),
    };
    let (Ok(frame), Ok(length)) = (frame.to_usize(), length.to_usize()) else {
        bail!("frames of {frame} of {length} elements must be numbers");
    };
    let frames = if frame > length { 0 } else { (length - frame) / step + 1 };
    let places: Vec<i64> = (0..frames)
        .flat_map(|index| (0..frame).map(move |at| (index * step + at) as i64))
        .collect();
    let places = w.tensor(Tensor::from_shape(&[frames, frame], &places)?)?;
    let mut framed = w.gather(1, signal, places)?;
    if let Some(window) = window {
        let window = w.reshape(window, &[frame.to_dim(), 1.to_dim()])?;
        framed = w.mul(framed, window)?;
    }
    let onesided = w.node.get_attr_opt::<i64>("onesided")?.unwrap_or(1) != 0;
    Ok(vec![transform(w, framed, 2, &frame.to_dim(), false, onesided)?])
}

fn hann_window(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    cosines(w, [0.5, 0.5, 0.0])
}

fn hamming_window(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    cosines(w, [25.0 / 46.0, 21.0 / 46.0, 0.0])
}

fn blackman_window(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    cosines(w, [0.42, 0.5, 0.08])
}

/// `a0 - a1 cos(2 pi n / N) + a2 cos(4 pi n / N)`, computed where it is used.
fn cosines(w: &mut Wiring<'_, '_>, [a0, a1, a2]: [f64; 3]) -> TractResult<Vec<OutletId>> {
    let size = match w.known_i64s(0)?.as_slice() {
        &[size] if size >= 0 => size,
        size => bail!("a window of {size:?} elements"),
    };
    let periodic = w.node.get_attr_opt::<i64>("periodic")?.unwrap_or(1) != 0;
    let dtype = output_type(w)?;
    let turns = if periodic { size } else { size - 1 }.max(1);
    let at = positions(w, 0, size.to_dim())?;
    let at = w.cast(at, DatumType::F32)?;
    let mut window = w.scalar(DatumType::F32, a0)?;
    for (factor, harmonic) in [(-a1, 1.0), (a2, 2.0)] {
        if factor != 0.0 {
            let step = 2.0 * std::f64::consts::PI * harmonic / turns as f64;
            let step = w.scalar(DatumType::F32, step)?;
            let angle = w.mul(at, step)?;
            let cosine = w.unary(math::cos(), angle)?;
            let factor = w.scalar(DatumType::F32, factor)?;
            let term = w.mul(cosine, factor)?;
            window = w.add(window, term)?;
        }
    }
    Ok(vec![w.cast(window, dtype)?])
}

/// The type that the attribute `output_datatype` asks for.
fn output_type(w: &Wiring<'_, '_>) -> TractResult<DatumType> {
    let number = w.node.get_attr_opt::<i64>("output_datatype")?.unwrap_or(DataType::Float as i64);
    DataType::try_from(i32::try_from(number)?)?.try_into()
}

/// Triangular filters at equal distances on the mel scale.
fn mel_weight_matrix(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let one = |index: usize| -> TractResult<f64> {
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
    let matrix = Tensor::from_shape(&[rows, filters], &matrix)?;
    Ok(vec![w.tensor(matrix.cast_to_dt(dtype)?.into_owned())?])
}
