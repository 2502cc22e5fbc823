//! Operators that sum along a dimension: products of matrices, attention, normalizations, reductions.

use super::{
    align::{Aligned, Site},
    expr,
    fill::{Fill, Kind},
    state::State,
};
use flotilla_program::{
    Attention, Cumulative, LayerNorm, MatMul, Reduce, ReduceKind, Softmax, Unary,
};
use flotilla_tensor::DType;

const F32: DType = DType::F32;

pub(super) fn matmul(site: &Site<'_>, matmul: &MatMul) -> Result<State, String> {
    let (a, b) = (site.operand(0)?, site.operand(1)?);
    let (rank_a, rank_b, rank) = (site.shape(0).len(), site.shape(1).len(), site.output().len());
    if rank_a < 2 || rank_b < 2 || rank < 2 {
        return Err("its operands are not matrices".to_owned());
    }
    let (k_b, n) = if matmul.transpose_b { (1, 2) } else { (2, 1) };
    // Dimensions counted from the last one; leading ones broadcast.
    let (contracted_a, contracted_b) = (rank_a - 1, rank_b - k_b);
    let mut aligned = Aligned::none(rank, site.operands.len());
    for place in 3..=rank {
        for (input, own) in [(0, rank_a), (1, rank_b)] {
            if place <= own {
                aligned.pair(rank - place, input, own - place);
            }
        }
    }
    aligned.pair(rank - 2, 0, rank_a - 2);
    aligned.pair(rank - 1, 1, rank_b - n);
    if matmul.bias {
        site.operand(matmul.bias_at())?;
        aligned.pair(rank - 1, matmul.bias_at(), 0);
    }
    let residual = matmul.residual.then(|| site.operands.len() - 1);
    if let Some(input) = residual {
        (0..rank).for_each(|axis| aligned.pair(axis, input, axis));
    }
    match (a.axis(contracted_a), b.axis(contracted_b)) {
        (None, None) => {}
        (Some(left), Some(right)) if left.extent == right.extent => {
            let finite = |fill: &Fill| fill.kind(F32).is_finite();
            let vanishes = left.fill.is_zero(F32) && finite(&right.fill)
                || right.fill.is_zero(F32) && finite(&left.fill);
            if !vanishes {
                return Err("it sums over padding that is not zero".to_owned());
            }
            aligned.settle(0, contracted_a);
            aligned.settle(1, contracted_b);
        }
        (Some(_), _) | (_, Some(_)) => {
            return Err("its operands are padded in different places".to_owned());
        }
    }
    let state = site.aligned(&aligned, |fills| {
        let (left, right) = (site.weight(0, &fills[0]), site.weight(1, &fills[1]));
        let zero =
            fills[0].is_zero(F32) && right.is_finite() || fills[1].is_zero(F32) && left.is_finite();
        let mut sum = match zero && !matmul.bias {
            true => Fill::ZERO,
            false => Fill::Kind(expr::product(left, right, false)),
        };
        if matmul.bias {
            sum = added(&sum, site.weight(2, &fills[2]));
        }
        finished(site, sum, matmul.activation, residual, fills)
    })?;
    Ok(state)
}

/// A sum with numbers of another kind.
fn added(sum: &Fill, kind: Kind) -> Fill {
    Fill::Kind(sum.kind(F32).max(kind).max(Kind::Ordinary))
}

/// The facts after the activation and the residual, which comes last.
fn finished(
    site: &Site<'_>,
    sum: Fill,
    activation: Option<Unary>,
    residual: Option<usize>,
    fills: &[Fill],
) -> Fill {
    let active = activation.map_or(sum.clone(), |unary| expr::unary(unary, F32, &sum));
    residual.map_or(active.clone(), |input| added(&active, site.weight(input, &fills[input])))
}

pub(super) fn attention(site: &mut Site<'_>, attention: &Attention) -> Result<State, String> {
    let (q, k, v) = (site.operand(0)?, site.operand(1)?, site.operand(2)?);
    let mut aligned = Aligned::none(3, site.operands.len());
    (0..3).for_each(|input| aligned.pair(0, input, 0));
    aligned.pair(1, 0, 1);
    if attention.mask {
        aligned.pair(0, 3, 0);
        aligned.pair(1, 3, 2);
    }
    let ordinary = q.kind() <= Kind::Ordinary && k.kind() <= Kind::Ordinary;
    let mut guarded = false;
    match (k.axis(1), v.axis(1)) {
        (None, None) => {}
        (Some(keys), Some(values)) if keys.extent == values.extent => {
            if !attention.mask {
                return Err("it attends to padding: there is no mask".to_owned());
            }
            let mask = site.operand(3)?.axis(3).filter(|mask| mask.extent == keys.extent);
            let mask = mask.ok_or("its mask is not padded where its keys are")?;
            if !ordinary {
                return Err("its scores may be larger than its mask".to_owned());
            }
            if !values.fill.kind(F32).is_finite() {
                return Err("what its mask hides may be infinite".to_owned());
            }
            site.hide(&mask.fill, 1)?;
            guarded = true;
            aligned.settle(1, 1);
            aligned.settle(2, 1);
            aligned.settle(3, 3);
        }
        (Some(_), _) | (_, Some(_)) => {
            return Err("its keys and values are padded in different places".to_owned());
        }
    }
    site.aligned(&aligned, |fills| {
        let scores = fills[0].kind(F32).max(fills[1].kind(F32));
        let mask = fills.get(3).map_or(Kind::Ordinary, |fill| fill.kind(F32));
        let finite =
            scores.is_finite() && mask.is_finite() || guarded && ordinary && mask <= Kind::NotAbove;
        let values = fills[2].kind(F32);
        Fill::Kind(if finite && values.is_finite() { mean(values) } else { Kind::Any })
    })
}

/// The kind of a mean with weights.
fn mean(kind: Kind) -> Kind {
    if kind == Kind::Positive { Kind::NonNegative } else { kind }
}

pub(super) fn softmax(site: &mut Site<'_>, softmax: &Softmax) -> Result<State, String> {
    let x = site.operand(0)?;
    let (along, rank) = (softmax.axis as usize, site.output().len());
    let guarded = match x.axis(along) {
        Some(open) => {
            site.hide(&open.fill, rank.saturating_sub(along))?;
            true
        }
        None => false,
    };
    let mut state = site.aligned(&site.broadcast(), |fills| {
        let kind = fills[0].kind(F32);
        let finite = kind.is_finite() || guarded && kind <= Kind::NotAbove;
        Fill::Kind(if finite { Kind::NonNegative } else { Kind::Any })
    })?;
    if let Some(Some(axis)) = state.axes.get_mut(along) {
        axis.fill = Fill::ZERO;
    }
    Ok(state)
}

pub(super) fn layer_norm(site: &Site<'_>, norm: &LayerNorm) -> Result<State, String> {
    let rank = site.output().len();
    let last = rank.checked_sub(1).ok_or("its operand is not a vector")?;
    let mut aligned = Aligned::none(rank, site.operands.len());
    for axis in 0..last {
        aligned.pair(axis, 0, axis);
        if norm.residual {
            aligned.pair(axis, 3, axis);
        }
    }
    site.aligned(&aligned, |fills| {
        let finite = (0..fills.len()).all(|input| site.weight(input, &fills[input]).is_finite());
        Fill::Kind(if finite { Kind::Ordinary } else { Kind::Any })
    })
}

/// Whether the elements in padded places do not change a reduction.
fn is_neutral(kind: ReduceKind, dtype: DType, fill: &Fill) -> bool {
    let word = fill.word();
    let float = |number: f32| word == Some(number.to_bits());
    match (kind, dtype) {
        (ReduceKind::Sum | ReduceKind::SumOfSquares, _) => fill.is_zero(dtype),
        (ReduceKind::Product, DType::F32) => float(1.0),
        (ReduceKind::Product, _) => word == Some(1),
        (ReduceKind::Max, DType::F32) => float(f32::NEG_INFINITY),
        (ReduceKind::Max, DType::I32) => word == Some(i32::MIN as u32),
        (ReduceKind::Max, _) => word == Some(0),
        (ReduceKind::Min, DType::F32) => float(f32::INFINITY),
        (ReduceKind::Min, DType::I32) => word == Some(i32::MAX as u32),
        (ReduceKind::Min, DType::Bool) => word == Some(1),
        (ReduceKind::Min, _) => word == Some(u32::MAX),
        // It is divided by the number of elements.
        (ReduceKind::Mean, _) => false,
    }
}

pub(super) fn reduce(site: &mut Site<'_>, reduce: &Reduce) -> Result<State, String> {
    let x = site.operand(0)?;
    let dtype = x.dtype;
    let mut aligned = Aligned::none(site.output().len(), 1);
    for axis in 0..site.output().len() {
        if !reduce.axes.contains(&(axis as u32)) {
            aligned.pair(axis, 0, axis);
        } else if let Some(open) = x.axis(axis) {
            // No hidden number is the largest if the mask keeps one.
            let hidden = reduce.kind == ReduceKind::Max && dtype == F32;
            if hidden && open.fill.hiding().is_some() {
                site.hide(&open.fill, site.output().len() - axis)?;
            } else if !is_neutral(reduce.kind, dtype, &open.fill) {
                return Err(format!(
                    "its {:?} takes in padding along dimension {axis}",
                    reduce.kind
                ));
            }
            aligned.settle(0, axis);
        }
    }
    site.aligned(&aligned, |fills| {
        let fill = &fills[0];
        let sums =
            matches!(reduce.kind, ReduceKind::Sum | ReduceKind::Mean | ReduceKind::SumOfSquares);
        if sums && fill.is_zero(dtype) {
            return Fill::ZERO;
        }
        let kind = fill.kind(dtype);
        match reduce.kind {
            _ if dtype != F32 => expr::any(dtype),
            ReduceKind::Sum | ReduceKind::Mean => Fill::Kind(mean(kind)),
            ReduceKind::SumOfSquares => Fill::Kind(expr::product(kind, kind, true)),
            ReduceKind::Product => expr::any(dtype),
            ReduceKind::Min | ReduceKind::Max => Fill::Kind(kind),
        }
    })
}

/// A running sum depends on the elements before: padding at the end does not affect it, unless the sum goes
/// backwards.
pub(super) fn cumulative(site: &Site<'_>, cumulative: &Cumulative) -> Result<State, String> {
    let x = site.operand(0)?;
    let along = cumulative.axis as usize;
    if let Some(open) = x.axis(along) {
        let kind = if cumulative.product { ReduceKind::Product } else { ReduceKind::Sum };
        if !open.extent.is_suffix() || cumulative.reverse && !is_neutral(kind, x.dtype, &open.fill)
        {
            return Err("it goes through padding before other elements".to_owned());
        }
    }
    let state = site.aligned(&site.broadcast(), |fills| {
        let kind = fills[0].kind(x.dtype);
        match (x.dtype, cumulative.product) {
            (F32, true) => expr::any(F32),
            (F32, false) => Fill::Kind(mean(kind)),
            (dtype, _) => expr::any(dtype),
        }
    })?;
    let below = x.below.as_ref().filter(|_| !cumulative.product).zip(site.output().get(along));
    let below = below.map(|(below, length)| {
        use flotilla_program::dim::Dim;
        let most = Dim::Sum(vec![below.clone(), Dim::Fixed(-1)]);
        Dim::Sum(vec![Dim::Product(vec![most, length.clone()]), Dim::Fixed(1)])
    });
    Ok(State { below, ..state })
}
