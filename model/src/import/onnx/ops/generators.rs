//! Operators that make numbers of positions.

use anyhow::{Result, bail, ensure};
use flotilla_program::{Binary, DType, Unary, dim::Dim};

use crate::import::onnx::{
    constant::element_type,
    facts::Var,
    wiring::{ANY, SIZES, Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[("EyeLike", eye_like), ("Range", range)];

/// Most numbers of a range of floats.
const COUNT_MAX: f64 = (1u64 << 31) as f64;

/// `start, start + delta, ..` below `limit`. One of integers stays known, because shapes are made of them.
fn range(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let dtype = w.dtype(w.input(0)?);
    if dtype.is_float() {
        return Ok(vec![range_of_floats(w, dtype)?]);
    }
    let (start, limit, delta) = (w.element(0, ANY)?, w.element(1, ANY)?, w.element(2, ANY)?);
    ensure!(delta != Dim::Fixed(0), "a range in steps of 0");
    // As many steps as fit, the last one perhaps not whole; none where they go the other way.
    let count = w.walk.bounded(|bounds| {
        let way = &limit - &start;
        match delta.as_fixed() {
            Some(step) if step > 0 => way.over_up(step),
            Some(step) => (-way).over_up(-step),
            None => {
                let up = way.over_up(&delta);
                let down = (-&way).over_up(-&delta);
                delta.less(0, bounds).select(down, up)
            }
        }
        .most(0, bounds)
    });
    let numbers = w.range(start.clone(), delta.clone(), count.clone())?;
    // A few of them may become parts of shapes.
    if let Some(length) = count.as_fixed().filter(|&length| length <= 64) {
        let dims = (0..length).map(|index| &start + &delta * index).collect();
        let numbers = w.dimensions(dims);
        return Ok(vec![w.cast(numbers, dtype)?]);
    }
    Ok(vec![w.cast(numbers, dtype)?])
}

/// How many there are is read once it is computed, where it is not known.
fn range_of_floats(w: &mut Wiring<'_, '_>, dtype: DType) -> Result<Var> {
    let ends = [w.input(0)?, w.input(1)?, w.input(2)?];
    let known: Vec<Option<f64>> = ends
        .iter()
        .map(|&end| w.constant(end).and_then(|end| end.floats().first().copied()))
        .collect();
    let count = match known.as_slice() {
        &[Some(start), Some(limit), Some(delta)] => {
            let count = ((limit - start) / delta).ceil().max(0.0);
            if !(0.0..COUNT_MAX).contains(&count) {
                bail!("a range from {start} to {limit} in steps of {delta}");
            }
            Dim::Fixed(count as i64)
        }
        _ => {
            let way = w.sub(ends[1], ends[0])?;
            let steps = w.div(way, ends[2])?;
            let steps = w.unary(Unary::Ceil, steps)?;
            let steps = w.unary(Unary::Relu, steps)?;
            let steps = w.cast(steps, DType::I64)?;
            let name = format!("{}.length", w.name);
            w.walk.elements(steps, &name, SIZES)?.swap_remove(0)
        }
    };
    let numbers = w.positions(&count)?;
    let numbers = w.cast(numbers, DType::F32)?;
    let [start, _, delta] = ends.map(|end| w.reshape(end, &[]));
    let numbers = w.mul(numbers, delta?)?;
    let numbers = w.add(numbers, start?)?;
    w.cast(numbers, dtype)
}

/// Ones on a diagonal, computed where they are used.
fn eye_like(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let shape = w.shape(x);
    let [rows, columns] = shape.as_slice() else {
        bail!("{} dimensions, a matrix has two", shape.len());
    };
    let diagonal = w.int("k")?.unwrap_or(0);
    let dtype = match w.int("dtype")? {
        Some(number) => match element_type(i32::try_from(number)?) {
            Some(dtype) => dtype,
            None => bail!("elements of type {number} cannot be had"),
        },
        None => w.dtype(x),
    };
    let row = w.range(Dim::Fixed(diagonal), Dim::Fixed(1), rows.clone())?;
    let column = w.positions(columns)?;
    let row = w.unsqueeze(row, 1)?;
    let ones = w.binary(Binary::Eq, row, column)?;
    Ok(vec![w.cast(ones, dtype)?])
}
