//! Operators that look elements up by index. An index in a padded place must be in range, too, because a backend may fail
//! on one that is not.

use super::{
    align::{Aligned, Site},
    expr,
    fill::{Fill, Kept, Kind},
    state::{Made, State},
};
use flotilla_program::{Gather, GatherNd, dim::Dim};
use flotilla_tensor::DType;

pub(super) fn gather(site: &mut Site<'_>, gather: &Gather) -> Result<State, String> {
    let (data, indices) = (site.operand(0)?, site.operand(1)?);
    let (along, picked) = (gather.axis as usize, indices.axes.len());
    let rank = site.output().len();
    let mut aligned = Aligned::none(rank, 2);
    for output in 0..rank {
        match output.checked_sub(along) {
            None => aligned.pair(output, 0, output),
            Some(index) if index < picked => aligned.pair(output, 1, index),
            Some(index) => aligned.pair(output, 0, along + 1 + index - picked),
        }
    }
    check_range(site, 1, along)?;
    let dtype = data.dtype;
    // A lookup by data of a run is an embedding; a lookup by positions may give a mask.
    let embeds = indices.made == Made::Data;
    let state = site.aligned(&aligned, |fills| match &fills[0] {
        Fill::Known { word, .. } => Fill::Known { word: *word, kept: Kept::Unknown },
        fill if embeds => Fill::Kind(site.weight(0, fill)),
        fill => Fill::Kind(fill.kind(dtype)),
    })?;
    let made = match data.made {
        Made::Data => Made::Data,
        Made::Picked | Made::Sizes if indices.made < Made::Sizes => Made::Picked,
        made => made,
    };
    Ok(State { made, ..state })
}

/// Whether every index that is padding is in range along a dimension of the data.
fn check_range(site: &mut Site<'_>, input: usize, axis: usize) -> Result<(), String> {
    let indices = site.operand(input)?;
    let size = site.shape(0).get(axis).cloned().unwrap_or(Dim::Fixed(0));
    if let (Some(below), Some(size)) = (&indices.below, size.as_fixed())
        && indices.is_open()
    {
        // Indices that are not padding need no check: they are the same as without padding.
        site.limit(below, size);
        return Ok(());
    }
    let size = size.as_fixed().unwrap_or(1);
    for open in indices.axes.iter().flatten() {
        let word = open.fill.word().map(|word| i64::from(word as i32));
        // If the indices depend only on constants and sizes, the model itself looks up the same ones for the larger size.
        if indices.made == Made::Data && !word.is_some_and(|word| (0..size).contains(&word)) {
            return Err("an index in its padding may be out of range".to_owned());
        }
    }
    Ok(())
}

/// Each line along `axis` is independent, in all operands alike.
pub(super) fn elements(site: &mut Site<'_>, axis: u32) -> Result<State, String> {
    let along = axis as usize;
    let rank = site.output().len();
    let mut aligned = Aligned::none(rank, site.operands.len());
    for axis in (0..rank).filter(|&axis| axis != along) {
        (0..site.operands.len()).for_each(|input| aligned.pair(axis, input, axis));
    }
    check_range(site, 1, along)?;
    let dtype = site.output_dtype();
    let kinds: Vec<DType> = site.operands.iter().map(|state| state.dtype).collect();
    site.aligned(&aligned, |fills| {
        let data = fills.iter().zip(&kinds).enumerate().filter(|(input, _)| *input != 1);
        let kind = data.map(|(_, (fill, dtype))| fill.kind(*dtype)).max().unwrap_or(Kind::Any);
        if dtype == DType::F32 && kind.is_finite() {
            Fill::Kind(Kind::Finite)
        } else {
            expr::any(dtype)
        }
    })
}

/// Each item of the batch is independent.
pub(super) fn tuples(site: &mut Site<'_>, gather: &GatherNd) -> Result<State, String> {
    let indices = site.operand(1)?;
    let mut aligned = Aligned::none(site.output().len(), 2);
    for axis in 0..gather.batch_dims as usize {
        aligned.pair(axis, 0, axis);
        aligned.pair(axis, 1, axis);
    }
    let zero = |fill: &Fill| fill.word() == Some(0);
    if indices.made == Made::Data && !indices.axes.iter().flatten().all(|open| zero(&open.fill)) {
        return Err("an index in its padding may be out of range".to_owned());
    }
    let dtype = site.output_dtype();
    site.aligned(&aligned, |fills| {
        let kind = fills[0].kind(dtype);
        if kind.is_finite() { Fill::Kind(Kind::Finite) } else { expr::any(dtype) }
    })
}
