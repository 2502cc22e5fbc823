//! Operators over windows, lines or whole items: which parts are independent.

use super::{
    align::{Aligned, Site},
    expr,
    fill::{Fill, Kind},
    state::State,
};
use flotilla_program::{Conv, Dft, Pool, PoolKind, Recurrent};
use flotilla_tensor::DType;

const F32: DType = DType::F32;

/// Elements outside of its input are 0 for a convolution, so padding with zeros at the end changes nothing.
pub(super) fn conv(site: &Site<'_>, conv: &Conv) -> Result<State, String> {
    let (x, rank) = (site.operand(0)?, site.output().len());
    site.operand(1)?;
    let mut aligned = Aligned::none(rank, site.operands.len());
    aligned.pair(0, 0, 0);
    for axis in 2..rank {
        let Some(open) = x.axis(axis) else { continue };
        if !open.extent.is_plain() || !open.fill.is_zero(F32) {
            return Err("its window sees padding that is not zero".to_owned());
        }
        aligned.settle(0, axis);
        aligned.make(axis);
    }
    if conv.bias {
        site.operand(2)?;
    }
    let residual = conv.residual.then(|| site.operands.len() - 1);
    if let Some(input) = residual {
        (0..rank).for_each(|axis| aligned.pair(axis, input, axis));
    }
    site.aligned(&aligned, |fills| {
        let product = expr::product(fills[0].kind(F32), site.weight(1, &fills[1]), false);
        let bias = if conv.bias { site.weight(2, &fills[2]) } else { Kind::Ordinary };
        let sum = Fill::Kind(product.max(bias));
        let active = conv.activation.map_or(sum.clone(), |unary| expr::unary(unary, F32, &sum));
        let added = residual.map_or(Kind::Ordinary, |input| site.weight(input, &fills[input]));
        Fill::Kind(active.kind(F32).max(added))
    })
}

pub(super) fn pool(site: &Site<'_>, pool: &Pool) -> Result<State, String> {
    let (x, rank) = (site.operand(0)?, site.output().len());
    let mut aligned = Aligned::none(rank, 1);
    aligned.pair(0, 0, 0);
    match pool.kind {
        // A position counts all channels before it.
        PoolKind::MaxPosition { .. } => {}
        PoolKind::Max | PoolKind::Sum | PoolKind::Mean | PoolKind::PaddedMean => {
            aligned.pair(1, 0, 1);
        }
    }
    let dtype = x.dtype;
    site.aligned(&aligned, |fills| {
        let kind = fills[0].kind(dtype);
        match pool.kind {
            PoolKind::MaxPosition { .. } => Fill::Kind(Kind::Finite),
            _ if dtype != F32 => expr::any(dtype),
            PoolKind::Max | PoolKind::Mean | PoolKind::PaddedMean | PoolKind::Sum => {
                let finite = kind.is_finite();
                Fill::Kind(if finite { kind.max(Kind::NonNegative) } else { Kind::Any })
            }
        }
    })
}

/// Each line of the first operand along `axis` is independent.
pub(super) fn lines(site: &Site<'_>, axis: u32) -> Result<State, String> {
    apart(site, &[axis as usize])
}

/// Each line along the transformed dimension is independent; the last dimension is the parts of a number.
pub(super) fn dft(site: &Site<'_>, dft: &Dft) -> Result<State, String> {
    apart(site, &[dft.axis as usize, site.output().len().saturating_sub(1)])
}

pub(super) fn matrices(site: &Site<'_>) -> Result<State, String> {
    let rank = site.output().len();
    apart(site, &[rank.saturating_sub(1), rank.saturating_sub(2)])
}

/// The first operand's dimensions are the result's, and each index of those that are not `together` is
/// independent.
fn apart(site: &Site<'_>, together: &[usize]) -> Result<State, String> {
    let rank = site.output().len();
    let mut aligned = Aligned::none(rank, site.operands.len());
    for axis in (0..rank).filter(|axis| !together.contains(axis)) {
        aligned.pair(axis, 0, axis);
    }
    let dtype = site.output_dtype();
    site.aligned(&aligned, |_| expr::any(dtype))
}

/// Each index of the first dimension is independent, in these operands alike.
pub(super) fn items(site: &Site<'_>, inputs: &[usize]) -> Result<State, String> {
    let mut aligned = Aligned::none(site.output().len(), site.operands.len());
    inputs.iter().for_each(|&input| aligned.pair(0, input, 0));
    let dtype = site.output_dtype();
    site.aligned(&aligned, |_| expr::any(dtype))
}

/// Each sequence of the batch is independent; the last row of the result comes after all steps.
pub(super) fn recurrent(site: &Site<'_>, recurrent: &Recurrent) -> Result<State, String> {
    let mut aligned = Aligned::none(site.output().len(), site.operands.len());
    aligned.pair(1, 0, 1);
    aligned.pair(1, 2, 0);
    if recurrent.lengths {
        aligned.pair(1, 3, 0);
    }
    site.aligned(&aligned, |_| expr::any(F32))
}
