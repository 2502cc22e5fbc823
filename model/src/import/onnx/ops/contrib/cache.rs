//! Keys or values of the past, with those of this run behind them.

use anyhow::Result;
use flotilla_program::{
    Binary, GatherNd, Op,
    dim::{Dim, ToDim as _},
};
use flotilla_tensor::DType;

use super::{super::attention::counted, scores::Operand};
use crate::import::onnx::{facts::Var, wiring::Wiring};

/// How the past is kept.
#[derive(Clone, Debug)]
pub(super) enum Buffer {
    /// It has exactly the rows of the past.
    Growing { past: Dim },
    /// It has room for the rows of this run, too.
    Shared { filled: Dim, capacity: Dim },
}

impl Buffer {
    /// How many rows are of the past.
    pub(super) fn filled(&self) -> Dim {
        match self {
            Buffer::Growing { past } => past.clone(),
            Buffer::Shared { filled, .. } => filled.clone(),
        }
    }
}

/// Keys or values of past and present.
#[derive(Clone, Copy)]
pub(super) struct Appended {
    /// Those that queries see.
    pub(super) seen: Operand,
    /// The past of the next run.
    pub(super) kept: Operand,
}

/// New rows behind those of the past `[batch, heads, rows, dim]`.
pub(super) fn appended(
    w: &mut Wiring<'_, '_>,
    past: Option<Var>,
    new: impl Into<Operand>,
    heads: usize,
    buffer: &Buffer,
) -> Result<Appended> {
    let new = new.into();
    let Some(past) = past else { return Ok(Appended { seen: new, kept: new }) };
    let new = new.split(w, heads)?;
    match buffer {
        Buffer::Growing { .. } => {
            let all = Operand::Split(w.concat(2, &[past, new])?);
            Ok(Appended { seen: all, kept: all })
        }
        Buffer::Shared { filled, capacity } => {
            let rows = w.dim(new, 2);
            let first = w.dimension(filled.clone(), DType::I64)?;
            let first = w.reshape(first, &[1.into(), 1.into(), 1.into(), 1.into()])?;
            let kept = placed(w, past, new, first, None, capacity)?;
            let seen = w.slice(kept, 2, 0, filled + &rows)?;
            Ok(Appended { seen: Operand::Split(seen), kept: Operand::Split(kept) })
        }
    }
}

impl From<Var> for Operand {
    fn from(packed: Var) -> Operand {
        Operand::Packed(packed)
    }
}

/// A buffer of `capacity` rows with the past's rows before `first` `[batch or 1, 1, 1, 1]`, then the new ones, as many as `count`
/// says or all; the rows behind them are 0.
pub(super) fn placed(
    w: &mut Wiring<'_, '_>,
    past: Var,
    new: Var,
    first: Var,
    count: Option<Var>,
    capacity: &Dim,
) -> Result<Var> {
    let shape = w.shape(new);
    let (batch, heads, dim) = (shape[0].clone(), shape[1].clone(), shape[3].clone());
    let old = w.dim(past, 2);
    let zero = w.scalar(w.dtype(new), 0.0);
    let empty = w.broadcast_to(zero, &[batch.clone(), heads.clone(), 1.into(), dim.clone()])?;
    let rows = w.concat(2, &[past, new, empty])?;
    let row = counted(w, capacity, 2)?;
    let count = match count {
        Some(count) => count,
        None => w.dimension(shape[2].clone(), DType::I64)?,
    };
    // In the joined rows the new ones begin behind all of the past, and the row of zeros is the last.
    let (old, last) =
        (w.dimension(old.clone(), DType::I64)?, w.dimension(&old + &shape[2], DType::I64)?);
    let is_old = w.binary(Binary::Lt, row, first)?;
    let end = w.add(first, count)?;
    let is_new = w.binary(Binary::Lt, row, end)?;
    let shift = w.sub(old, first)?;
    let at_new = w.add(row, shift)?;
    let at = w.select(is_new, at_new, last)?;
    let at = w.select(is_old, row, at)?;
    let indices = [batch.clone(), heads.clone(), capacity.clone(), 1.to_dim()];
    let at = w.broadcast_to(at, &indices)?;
    let at = w.index(at)?;
    let op = Op::GatherNd(GatherNd { batch_dims: 2 });
    w.op(op, &[rows, at], w.dtype(new), vec![batch, heads, capacity.clone(), dim])
}
