//! Windows of quantized tensors: their means and largest elements.

use anyhow::{Result, ensure};

use super::{
    check_bytes,
    elementwise::{Operand, Target, mean_of_integers},
};
use crate::import::onnx::{
    facts::Var,
    ops::pooling,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("NhwcMaxPool", max_pool),
    ("QLinearAveragePool", average_pool),
    ("QLinearGlobalAveragePool", global_average_pool),
];

/// The largest integers of windows over `[n, spatial.., c]`; the scale stays the same.
fn max_pool(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    check_bytes(w, x, "the input")?;
    let x = channels_first(w, x)?;
    let largest = pooling::largest_of_windows(w, x)?;
    Ok(vec![channels_last(w, largest)?])
}

fn average_pool(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = Operand::of(w, 0)?;
    let to = Target::of(w, 3, x.q)?;
    let last = w.flag("channels_last")?;
    let number = x.number(w)?;
    let number = if last { channels_first(w, number)? } else { number };
    let mean = pooling::mean_of_windows(w, number)?;
    let mean = if last { channels_last(w, mean)? } else { mean };
    Ok(vec![to.rounded(w, mean)?])
}

fn global_average_pool(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = Operand::of(w, 0)?;
    let to = Target::of(w, 3, x.q)?;
    let rank = w.rank(x.q);
    ensure!(rank > 2, "an input of {rank} dimensions");
    let axes: Vec<usize> =
        if w.flag("channels_last")? { (1..rank - 1).collect() } else { (2..rank).collect() };
    Ok(vec![mean_of_integers(w, &x, &to, &axes)?])
}

/// `[n, spatial.., c]` as `[n, c, spatial..]`.
pub(super) fn channels_first(w: &mut Wiring<'_, '_>, x: Var) -> Result<Var> {
    let rank = w.rank(x);
    ensure!(rank > 2, "an input of {rank} dimensions");
    let order: Vec<usize> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
    w.transpose(x, &order)
}

/// `[n, c, spatial..]` as `[n, spatial.., c]`.
pub(super) fn channels_last(w: &mut Wiring<'_, '_>, x: Var) -> Result<Var> {
    let order: Vec<usize> = [0].into_iter().chain(2..w.rank(x)).chain([1]).collect();
    w.transpose(x, &order)
}
