//! Embeddings with quantized tables.

use anyhow::{Result, ensure};
use flotilla_program::{Binary, ReduceKind, dim::Dim};
use flotilla_tensor::DType;

use super::{check_bytes, single_scale, single_zero};
use crate::import::onnx::{
    facts::Var,
    ops::{dequantize::dequantized, norm},
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] =
    &[("QEmbedLayerNormalization", embed_layer_normalization)];

/// The sum of the words', positions' and segments' rows, normalized; and the number of ones in each row of the mask.
/// Only rows that are used become floats.
fn embed_layer_normalization(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let ids = w.input(0)?;
    let shape = w.shape(ids);
    let [batch, length] = shape.as_slice() else {
        anyhow::bail!("ids of {} dimensions, 2 are needed", shape.len())
    };
    for (index, what) in
        [(2, "the words"), (3, "the positions"), (4, "the segments"), (7, "the mask")]
    {
        let rank = w.optional(index).map_or(2, |var| w.rank(var));
        ensure!(rank == 2, "{what} have {rank} dimensions, 2 are needed");
    }
    let words = part(w, 2, [8, 13], "the words")?;
    let mut sum = rows(w, &words, ids)?;
    let positions = part(w, 3, [9, 14], "the positions")?;
    let first = w.slice(positions.q, 0, 0, length)?;
    let first = dequantized(w, first, positions.scale, positions.zero, 0, 1)?;
    sum = w.add(sum, first)?;
    let segments = [1, 4, 10, 15].map(|index| w.optional(index).is_some());
    ensure!(
        segments.iter().all(|given| *given == segments[0]),
        "segment ids, their table, its scale and its zero point must be given together"
    );
    if segments[0] {
        let table = part(w, 4, [10, 15], "the segments")?;
        let ids = w.input(1)?;
        let rows = rows(w, &table, ids)?;
        sum = w.add(sum, rows)?;
    }
    let gamma = part(w, 5, [11, 16], "gamma")?;
    let beta = part(w, 6, [12, 17], "beta")?;
    let gamma = dequantized(w, gamma.q, gamma.scale, gamma.zero, 0, 1)?;
    let beta = dequantized(w, beta.q, beta.scale, beta.zero, 0, 1)?;
    let epsilon = w.float("epsilon")?.unwrap_or(1e-12);
    let y = norm::normalized(w, sum, gamma, Some(beta), epsilon)?;
    let counts = match w.optional(7) {
        Some(mask) => {
            let one = w.scalar(w.dtype(mask), 1.0);
            let is_one = w.binary(Binary::Eq, mask, one)?;
            let is_one = w.cast(is_one, DType::I32)?;
            w.reduce(ReduceKind::Sum, is_one, &[1], false)?
        }
        None => {
            let zero = w.scalar(DType::I32, 0.0);
            w.broadcast_to(zero, std::slice::from_ref::<Dim>(batch))?
        }
    };
    Ok(vec![y, counts])
}

struct Part {
    q: Var,
    scale: Var,
    zero: Option<Var>,
}

fn part(
    w: &mut Wiring<'_, '_>,
    index: usize,
    [scale, zero]: [usize; 2],
    what: &str,
) -> Result<Part> {
    let q = w.input(index)?;
    check_bytes(w, q, what)?;
    let scale = single_scale(w, scale, &format!("the scale of {what}"))?;
    w.input(zero)?;
    let zero = single_zero(w, zero, &format!("the zero point of {what}"), q)?;
    Ok(Part { q, scale, zero })
}

fn rows(w: &mut Wiring<'_, '_>, part: &Part, ids: Var) -> Result<Var> {
    let rows = w.gather(0, part.q, ids)?;
    dequantized(w, rows, part.scale, part.zero, 0, 1)
}
