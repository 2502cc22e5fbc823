//! The rotation of queries and keys by their positions. Source: Su et al., "RoFormer", 3.2.2.

use anyhow::{Result, bail, ensure};
use flotilla_program::{
    Unary,
    dim::{Dim, ToDim as _},
};
use flotilla_tensor::DType;

use super::{super::attention::turned, activation::divided};
use crate::import::onnx::{
    constant::Constant,
    facts::Var,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("GemmaRotaryEmbedding", gemma_rotary_embedding),
    ("MRotaryEmbedding", |w| rotary_embedding(w, true)),
    ("RotaryEmbedding", |w| rotary_embedding(w, false)),
];

/// Base of the wavelengths of an operator that computes its angles itself.
const BASE: f64 = 10_000.0;

/// How positions of the three streams share the angles of a position.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Sections,
    Interleaved,
}

fn rotary_embedding(w: &mut Wiring<'_, '_>, streams: bool) -> Result<Vec<Var>> {
    let (x, ids, cos, sin) = (w.input(0)?, w.input(1)?, w.input(2)?, w.input(3)?);
    w.only("is_packed_batching", 0)?;
    let scale = w.float("scale")?.unwrap_or(1.0);
    ensure!(scale == 1.0, "scale is {scale}, only 1 is supported");
    let interleaved = w.flag("interleaved")?;
    let width = w.int("rotary_embedding_dim")?.unwrap_or(0);
    let heads = w.int("num_heads")?.unwrap_or(0);
    check_caches(w, cos, sin)?;
    let (shape, half) = (w.shape(x), w.number(&w.dim(cos, 1))?);
    let (split, seq) = match &shape[..] {
        [batch, seq, hidden] => {
            // Without a number of heads the whole head is turned, whose size the table has.
            let size = match usize::try_from(heads) {
                Ok(heads) if heads > 0 => divided(w, "features", hidden, heads)?,
                _ => {
                    ensure!(width == 0, "num_heads is needed with rotary_embedding_dim");
                    2 * half
                }
            };
            let heads = divided(w, "features", hidden, size)?;
            (vec![batch.clone(), seq.clone(), heads.to_dim(), size.to_dim()], 1)
        }
        [_, _, _, _] => (shape.clone(), 2),
        other => bail!("its input has {} dimensions, three or four are needed", other.len()),
    };
    let size = w.number(&split[3])?;
    let rotated = if width == 0 { size } else { usize::try_from(width).unwrap_or(0) };
    ensure!(
        rotated == 2 * half && rotated <= size,
        "{rotated} of {size} features are turned with tables of {half} angles"
    );
    let angles = if streams {
        sectioned(w, ids, [cos, sin], half)?
    } else {
        let ids = match w.rank(ids) {
            // The first position of all sequences.
            1 => {
                let offset = w.reshape(ids, &[1.into(), 1.into()])?;
                let places = w.positions(&split[seq])?;
                w.add(places, offset)?
            }
            2 => ids,
            rank => bail!("positions of {rank} dimensions, one or two are needed"),
        };
        [w.gather(0, cos, ids)?, w.gather(0, sin, ids)?]
    };
    // The dimension of heads lies after the sequence in three dimensions, before it in four.
    let axis = if seq == 1 { 2 } else { 1 };
    let angles = [w.unsqueeze(angles[0], axis)?, w.unsqueeze(angles[1], axis)?];
    let split = w.reshape(x, &split)?;
    let y = turned(w, split, angles, rotated as i64, interleaved)?;
    Ok(vec![w.reshape(y, &shape)?])
}

/// Tables of angles are matrices of one size.
pub(super) fn check_caches(w: &mut Wiring<'_, '_>, cos: Var, sin: Var) -> Result<()> {
    let (cos, sin) = (w.shape(cos), w.shape(sin));
    ensure!(
        cos.len() == 2 && sin.len() == 2,
        "tables of angles with {} and {} dimensions, two are needed",
        cos.len(),
        sin.len()
    );
    for axis in 0..2 {
        w.same("the sizes of the tables of angles", &cos[axis], &sin[axis])?;
    }
    Ok(())
}

/// Angles of positions in time, height and width `[3, batch, seq]`, of which each provides a part.
/// Source: Wang et al., "Qwen2-VL", 2.1.
fn sectioned(w: &mut Wiring<'_, '_>, ids: Var, caches: [Var; 2], half: usize) -> Result<[Var; 2]> {
    ensure!(w.rank(ids) == 3, "positions of {} dimensions, three are needed", w.rank(ids));
    w.same("the number of streams of positions and 3", &w.dim(ids, 0), &Dim::Fixed(3))?;
    let layout = match w.int("mrope_layout")?.unwrap_or(0) {
        0 => Layout::Sections,
        1 => Layout::Interleaved,
        other => bail!("there is no mrope_layout {other}"),
    };
    let sections = w.ints("mrope_section")?.unwrap_or_default();
    let sizes: Option<Vec<usize>> = sections
        .iter()
        .map(|&size| usize::try_from(size).ok().filter(|&size| size <= half))
        .collect();
    let sizes = match sizes {
        Some(sizes) if sizes.len() == 3 && sizes.iter().sum::<usize>() == half => sizes,
        _ => bail!("sections {sections:?} do not divide {half} angles into three"),
    };
    // The stream of each angle.
    let stream = |angle: usize| match layout {
        Layout::Sections if angle < sizes[0] => 0,
        Layout::Sections if angle < sizes[0] + sizes[1] => 1,
        Layout::Sections => 2,
        Layout::Interleaved => match angle % 3 {
            part @ 1..=2 if angle < 3 * sizes[part] => part,
            _ => 0,
        },
    };
    let mut parts = Vec::new();
    let shape = w.shape(ids);
    for cache in caches {
        let all = w.gather(0, cache, ids)?;
        let mut sum: Option<Var> = None;
        for part in 0..3usize {
            let slice = w.slice(all, 0, part, part + 1)?;
            let slice = w.reshape(slice, &[shape[1].clone(), shape[2].clone(), half.to_dim()])?;
            let chosen: Vec<bool> = (0..half).map(|angle| stream(angle) == part).collect();
            let chosen = w.known(Constant::bools(&[half], &chosen));
            sum = Some(match sum {
                Some(sum) => w.select(chosen, slice, sum)?,
                None => slice,
            });
        }
        parts.extend(sum);
    }
    match parts[..] {
        [cos, sin] => Ok([cos, sin]),
        _ => bail!("there are no angles"),
    }
}

/// `q * cos(emb) + q_rot * sin(emb)`, and the same of the keys.
fn gemma_rotary_embedding(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let angles = w.input(0)?;
    ensure!(w.rank(angles) == 3, "angles of {} dimensions, three are needed", w.rank(angles));
    let angles = w.unsqueeze(angles, 1)?;
    let mut results = Vec::new();
    for (own, crossed) in [(1, 2), (3, 4)] {
        let (own, crossed) = (w.input(own)?, w.input(crossed)?);
        let dtype = w.dtype(own);
        let (cos, sin) = (w.unary(Unary::Cos, angles)?, w.unary(Unary::Sin, angles)?);
        let (cos, sin) = (w.cast(cos, dtype)?, w.cast(sin, dtype)?);
        let (own, crossed) = (w.mul(own, cos)?, w.mul(crossed, sin)?);
        results.push(w.add(own, crossed)?);
    }
    Ok(results)
}

/// Cosines and sines `[seq, half]` of positions from `first` on, with wavelengths that grow geometrically.
pub(super) fn computed_angles(
    w: &mut Wiring<'_, '_>,
    first: &Dim,
    length: &Dim,
    half: usize,
) -> Result<[Var; 2]> {
    let rates: Vec<f32> =
        (0..half).map(|angle| BASE.powf(-(angle as f64) / half as f64) as f32).collect();
    let rates = w.known(Constant::f32s(&[half], &rates));
    let places = w.range(first.clone(), Dim::Fixed(1), length.clone())?;
    let places = w.cast(places, DType::F32)?;
    let places = w.unsqueeze(places, 1)?;
    let angles = w.mul(places, rates)?;
    Ok([w.unary(Unary::Cos, angles)?, w.unary(Unary::Sin, angles)?])
}
