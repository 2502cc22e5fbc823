//! Operators of `com.microsoft` that are like ones of the standard.

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_program::{
    Dft, Op,
    dim::{Dim, ToDim as _},
};
use flotilla_tensor::DType;

use super::super::signal::twiddles;
use crate::import::onnx::{
    constant::Constant,
    facts::Var,
    wiring::{ANY, Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("ExpandDims", expand_dims),
    ("GatherND", |w| reused(w, "GatherND")),
    ("GridSample", |w| reused(w, "GridSample")),
    ("Irfft", irfft),
    ("LinearAttention", linear_attention),
    ("Pad", pad),
    ("Range", range),
    ("Rfft", rfft),
    ("SampleOp", |w| Ok(vec![w.input(0)?])),
    ("TorchEmbedding", torch_embedding),
    ("Trilu", |w| reused(w, "Trilu")),
    ("UnfoldTensor", unfold_tensor),
    ("Unique", unique),
];

/// Largest window of an unfolded dimension.
const WINDOW_MAX: usize = 1 << 16;

/// The wiring of the standard's operator of a name.
pub(super) fn reused(w: &mut Wiring<'_, '_>, name: &str) -> Result<Vec<Var>> {
    let wire = super::super::operator("", name);
    wire.with_context(|| format!("{name} is not supported"))?(w)
}

/// A new dimension of 1; an axis below 0 counts from the end of the result.
fn expand_dims(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let axis = w.axis(w.known_i64(1)?, w.rank(x) + 1)?;
    Ok(vec![w.unsqueeze(x, axis)?])
}

/// The standard's operator, with the mode and the state of newer versions refused.
fn linear_attention(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    w.only("state_window", 0)?;
    w.ignore(&["chunk_size"]);
    reused(w, "LinearAttention")
}

/// The widths may be a matrix of one row.
fn pad(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    ensure!(w.inputs_len() <= 3, "it has {} operands, at most 3 are known", w.inputs_len());
    let mode = w.text("mode")?.unwrap_or("constant");
    ensure!(mode != "wrap", "mode {mode:?} is not known");
    reused(w, "Pad")
}

/// The standard's operator, with a step of 1 if none is given, and numbers that may be rows of one element.
fn range(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let dtype = w.dtype(w.input(0)?);
    let mut ends = Vec::new();
    for index in 0..3 {
        ends.push(match w.optional(index) {
            Some(end) => w.reshape(end, &[])?,
            None if index == 2 => w.scalar(dtype, 1.0),
            None => bail!("operand {index} is missing"),
        });
    }
    let ends: Vec<Option<Var>> = ends.into_iter().map(Some).collect();
    w.with_inputs(&ends, |w| reused(w, "Range"))
}

fn torch_embedding(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (table, ids) = (w.input(0)?, w.input(1)?);
    ensure!(w.rank(table) == 2, "a table of {} dimensions, two are needed", w.rank(table));
    Ok(vec![w.gather(0, table, ids)?])
}

/// Windows of a dimension: `[.., windows, .., size]`.
fn unfold_tensor(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let rank = w.rank(x);
    ensure!(rank > 0, "its operand has no dimension");
    let axis = w.axis(w.int("dim")?.unwrap_or(-1), rank)?;
    let size = w.int("size")?.unwrap_or(0);
    let step = w.int("step")?.unwrap_or(1);
    ensure!(
        (1..=WINDOW_MAX as i64).contains(&size),
        "windows of {size}, supported are 1 to {WINDOW_MAX}"
    );
    ensure!(step > 0 && step <= i64::from(i32::MAX), "a step of {step}");
    let length = w.dim(x, axis);
    let windows = w.walk.bounded(|bounds| ((&length - size).over(step) + 1).most(0, bounds));
    let starts = w.range(Dim::Fixed(0), Dim::Fixed(step), windows)?;
    let starts = w.unsqueeze(starts, 1)?;
    let within: Vec<i64> = (0..size).collect();
    let within = w.known(Constant::i64s(&[size as usize], &within));
    let places = w.add(starts, within)?;
    let unfolded = w.gather(axis, x, places)?;
    let order: Vec<usize> = (0..=rank).filter(|&at| at != axis + 1).chain([axis + 1]).collect();
    Ok(vec![w.transpose(unfolded, &order)?])
}

/// In the order of first occurrence: values, for each element its value's place, and counts.
fn unique(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    ensure!(w.rank(x) == 1, "its operand has {} dimensions, one is needed", w.rank(x));
    let results = w.onnx_with_outputs("Unique", &[("sorted", 0)], &[Some(x)], 4)?;
    match results[..] {
        [values, _, places, counts] => Ok(vec![values, places, counts]),
        _ => bail!("its results are not known"),
    }
}

/// What is common to both transforms: they are of one dimension, one-sided and not normalized.
fn check_transform(w: &Wiring<'_, '_>) -> Result<()> {
    w.only("signal_ndim", 1)?;
    w.only("normalized", 0)?;
    w.only("onesided", 1)
}

/// Half of the spectrum of real numbers `[.., n]` as `[.., n / 2 + 1, 2]`.
fn rfft(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    check_transform(w)?;
    let x = w.input(0)?;
    let rank = w.rank(x);
    ensure!(rank > 0, "its operand has no dimension");
    let length = w.dim(x, rank - 1);
    let x = w.unsqueeze(x, rank)?;
    let mut shape = w.shape(x);
    shape[rank - 1] = length.over(2) + 1;
    shape[rank] = 2.to_dim();
    let op = Dft { axis: (rank - 1) as u32, inverse: false, mirrored: false };
    Ok(vec![transformed(w, x, op, &length, shape)?])
}

/// Real numbers of half of a spectrum `[.., n / 2 + 1, 2]`, not divided by their number.
fn irfft(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    check_transform(w)?;
    let x = w.input(0)?;
    let rank = w.rank(x);
    ensure!(rank > 1, "its operand has {rank} dimensions, at least two are needed");
    w.same("the last dimension and 2", &w.dim(x, rank - 1), &2.to_dim())?;
    let length = (w.dim(x, rank - 2) - 1) * 2;
    let mut shape = w.shape(x);
    shape[rank - 2] = length.clone();
    shape[rank - 1] = 1.to_dim();
    let op = Dft { axis: (rank - 2) as u32, inverse: true, mirrored: true };
    let numbers = transformed(w, x, op, &length, shape)?;
    let numbers = w.squeeze(numbers, rank - 1)?;
    let count = w.dimension(length, DType::F32)?;
    let count = w.cast(count, w.dtype(numbers))?;
    Ok(vec![w.mul(numbers, count)?])
}

fn transformed(
    w: &mut Wiring<'_, '_>,
    x: Var,
    op: Dft,
    length: &Dim,
    shape: Vec<Dim>,
) -> Result<Var> {
    let twiddles = twiddles(w, length)?;
    let dtype = w.dtype(x);
    let x = w.unrounded(x, DType::F32)?;
    let result = w.op(Op::Dft(op), &[x, twiddles], DType::F32, shape)?;
    w.unrounded(result, dtype)
}

/// Padding before and after each dimension, from an operand.
pub(super) fn sides(w: &mut Wiring<'_, '_>, index: usize) -> Result<Vec<Dim>> {
    w.elements(index, ANY)
}
