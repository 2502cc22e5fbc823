//! Operators that treat each element independently or move it.

use super::{
    align::{Aligned, Site},
    expr,
    extent::{Extent, reshaped},
    fill::{Fill, Kind},
    state::{Axis, Made, State},
};
use flotilla_program::{
    Binary, Concat, Expr, Pad, PadMode, Range, Slice, Step, Transpose,
    dim::{Dim, Term},
};
use flotilla_tensor::DType;

pub(super) fn elementwise(site: &Site<'_>, expr: &Expr) -> Result<State, String> {
    for step in &expr.steps {
        if let Step::Dim(dim) = step
            && dim.mentions(site.symbol)
        {
            return Err(format!("it sees how long {} is", site.dim_text(dim)));
        }
    }
    let evaluate = |fills: &[Fill]| {
        let operands: Vec<(DType, Fill, Fill)> = site
            .operands
            .iter()
            .zip(fills)
            .map(|(state, here)| (state.dtype, state.everywhere(), here.clone()))
            .collect();
        let result = expr::evaluate(expr, &operands);
        result.unwrap_or_else(|| expr::any(site.output_dtype()))
    };
    let state = site.aligned(&site.broadcast(), evaluate)?;
    Ok(State { below: below(site, expr), ..state })
}

/// An upper limit for all results of an expression, if none can be negative.
fn below(site: &Site<'_>, expr: &Expr) -> Option<Dim> {
    let minus_one = |dim: &Dim| Dim::Sum(vec![dim.clone(), Dim::Fixed(-1)]);
    let mut known: Vec<(DType, Option<Dim>)> = Vec::with_capacity(expr.steps.len());
    for step in &expr.steps {
        let of = |id: &u32| known.get(*id as usize).cloned().unwrap_or((DType::F32, None));
        let next = match step {
            Step::Input(input) => {
                let state = site.operands.get(*input as usize)?;
                (state.dtype, state.below.clone())
            }
            Step::Int(value) if *value >= 0 => {
                (DType::I32, Some(Dim::Fixed(i64::from(*value) + 1)))
            }
            Step::Int(_) | Step::Dim(_) => (DType::I32, None),
            Step::Float(_) => (DType::F32, None),
            Step::Cast(to @ (DType::I32 | DType::I64), a) => match of(a) {
                (DType::Bool, _) => (to.storage(), Some(Dim::Fixed(2))),
                (DType::I32, bound) => (to.storage(), bound),
                _ => (to.storage(), None),
            },
            Step::Cast(to, _) => (to.storage(), None),
            Step::Binary(function, a, b) => {
                let ((dtype, a), (_, b)) = (of(a), of(b));
                let bound = match (function, a, b) {
                    (Binary::Add, Some(a), Some(b)) => Some(Dim::Sum(vec![a, minus_one(&b)])),
                    (Binary::Mul, Some(a), Some(b)) => Some(Dim::Sum(vec![
                        Dim::Product(vec![minus_one(&a), minus_one(&b)]),
                        Dim::Fixed(1),
                    ])),
                    _ => None,
                };
                let dtype = match function {
                    Binary::Eq | Binary::Ne | Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge => {
                        DType::Bool
                    }
                    _ => dtype,
                };
                (dtype, bound)
            }
            Step::Select(_, a, _) => (of(a).0, None),
            Step::Unary(_, a) => (of(a).0, None),
            Step::Bits(to, _) => (*to, None),
            Step::Test(..) => (DType::Bool, None),
        };
        known.push(next);
    }
    known.pop().and_then(|(_, bound)| bound)
}

pub(super) fn transpose(site: &Site<'_>, transpose: &Transpose) -> Result<State, String> {
    let x = site.operand(0)?;
    let rank = transpose.perm.len();
    let mut aligned = Aligned::none(rank, 1);
    for (output, &axis) in transpose.perm.iter().enumerate() {
        aligned.pair(output, 0, axis as usize);
    }
    let to = |place: usize| {
        let axis = rank.checked_sub(place)?;
        let output = transpose.perm.iter().position(|&from| from as usize == axis)?;
        Some(rank - output)
    };
    let state = site.aligned(&aligned, |fills| fills[0].moved(x.dtype, to))?;
    Ok(State { below: x.below.clone(), made: x.made, ..state })
}

pub(super) fn reshape(site: &Site<'_>) -> Result<State, String> {
    let x = site.operand(0)?;
    let (from, to) = (site.shape(0), site.output());
    let parts: Vec<(Term, Option<&Extent>)> = from
        .iter()
        .enumerate()
        .map(|(axis, dim)| (Term::of(dim), x.axis(axis).map(|axis| &axis.extent)))
        .collect();
    let extents = reshaped(&parts, to, site.symbol)
        .ok_or("its padding would mix with other elements under the new shape")?;
    // Dimensions other than 1 in their order; a mask's rows stay rows if these are the same.
    let long = |shape: &[Dim]| -> Vec<(usize, Term)> {
        let terms = shape.iter().map(Term::of).enumerate();
        terms.filter(|(_, term)| *term != Term::ONE).collect()
    };
    let (long_from, long_to) = (long(from), long(to));
    let same = long_from.iter().map(|(_, term)| term).eq(long_to.iter().map(|(_, term)| term));
    let place = |place: usize| {
        let axis = from.len().checked_sub(place)?;
        let index = long_from.iter().position(|(from, _)| *from == axis)?;
        same.then(|| to.len() - long_to[index].0)
    };
    let axes = extents.into_iter().map(|extent| {
        let (axis, extent) = extent?;
        let fill = x.axis(axis)?.fill.moved(x.dtype, place);
        Some(Axis { extent, fill })
    });
    Ok(State { axes: axes.collect(), ..x.clone() })
}

pub(super) fn broadcast(site: &Site<'_>) -> Result<State, String> {
    let x = site.operand(0)?;
    let state = site.aligned(&site.broadcast(), |fills| fills[0].clone())?;
    Ok(State { below: x.below.clone(), made: x.made, ..state })
}

/// Padding along the joined dimension stays at the end if only the last operand has it.
pub(super) fn concat(site: &Site<'_>, concat: &Concat) -> Result<State, String> {
    let (along, rank) = (concat.axis as usize, site.output().len());
    site.operand(0)?;
    let last = site.operands.len() - 1;
    let mut aligned = Aligned::none(rank, site.operands.len());
    let mut tail = None;
    for (input, state) in site.operands.iter().enumerate() {
        for axis in (0..rank).filter(|&axis| axis != along) {
            aligned.pair(axis, input, axis);
        }
        match state.axis(along) {
            Some(open) if input == last && open.extent.is_suffix() => {
                aligned.settle(input, along);
                aligned.make(along);
                tail = Some(open.fill.without_mask(state.dtype));
            }
            Some(_) => return Err("another operand follows the padding of an operand".to_owned()),
            None => {}
        }
    }
    let dtype = site.output_dtype();
    let joined = |fills: &[Fill]| {
        let first = fills[0].without_mask(dtype);
        fills[1..].iter().fold(first, |all, fill| all.or(&fill.without_mask(dtype), dtype))
    };
    let mut state = site.aligned(&aligned, joined)?;
    if let (Some(fill), Some(Some(axis))) = (tail, state.axes.get_mut(along)) {
        axis.fill = fill;
    }
    Ok(State { made: site.made(Made::Picked), ..state })
}

pub(super) fn slice(site: &mut Site<'_>, slice: &Slice) -> Result<State, String> {
    let x = site.operand(0)?;
    let along = slice.axis as usize;
    if slice.start.mentions(site.symbol) {
        return Err(format!("where it starts depends on {}", site.dim_text(&slice.start)));
    }
    let (Some(from), Some(to)) = (site.shape(0).get(along), site.output().get(along)) else {
        return Err("it has no such dimension".to_owned());
    };
    let rank = site.output().len();
    let mut aligned = Aligned::none(rank, 1);
    for axis in (0..rank).filter(|&axis| axis != along) {
        aligned.pair(axis, 0, axis);
    }
    let grows = to.mentions(site.symbol);
    let whole = Term::of(from) == Term::of(&Dim::Sum(vec![to.clone(), slice.start.clone()]));
    let mut fill = None;
    match x.axis(along) {
        _ if grows && slice.stride < 1 => return Err("it runs backwards from the end".to_owned()),
        Some(open) if !open.extent.is_suffix() => {
            return Err("its padding is not behind everything".to_owned());
        }
        // Elements that are not padding come from elements that are not padding: they existed before.
        Some(open) => {
            aligned.settle(0, along);
            if grows {
                aligned.make(along);
                fill = Some(match (whole && slice.stride == 1, slice.start.as_fixed()) {
                    (true, Some(0)) => open.fill.clone(),
                    (true, _) => open.fill.without_mask(x.dtype),
                    (false, _) => Fill::Kind(x.kind()),
                });
            }
        }
        None if grows => {
            aligned.make(along);
            let Some(size) = from.as_fixed() else {
                return Err(format!(
                    "what it takes of {} grows with the padding",
                    site.dim_text(from)
                ));
            };
            let steps = Dim::Sum(vec![to.clone(), Dim::Fixed(-1)]);
            let reached = Dim::Product(vec![Dim::Fixed(slice.stride), steps]);
            site.limit(&Dim::Sum(vec![slice.start.clone(), reached]), size - 1);
        }
        None => {}
    }
    let place = rank - along;
    let keep = |at: usize| (at != place).then_some(at);
    let mut state = site.aligned(&aligned, |fills| fills[0].moved(x.dtype, keep))?;
    if let (Some(fill), Some(Some(axis))) = (fill, state.axes.get_mut(along)) {
        axis.fill = fill;
    }
    Ok(State { below: x.below.clone(), made: x.made, ..state })
}

pub(super) fn range(site: &Site<'_>, range: &Range) -> Result<State, String> {
    for dim in [&range.start, &range.stride] {
        if dim.mentions(site.symbol) {
            return Err(format!("it counts with {}", site.dim_text(dim)));
        }
    }
    let mut aligned = Aligned::none(site.output().len(), 0);
    aligned.make(0);
    let state = site.aligned(&aligned, |_| Fill::Kind(Kind::Finite))?;
    let positive = |dim: &Dim| dim.as_fixed().is_some_and(|value| value >= 0);
    let counts = positive(&range.start) && positive(&range.stride);
    let below = site.output().first().filter(|_| counts).map(|length| {
        let steps = Dim::Sum(vec![length.clone(), Dim::Fixed(-1)]);
        let last = Dim::Product(vec![range.stride.clone(), steps]);
        Dim::Sum(vec![range.start.clone(), last, Dim::Fixed(1)])
    });
    Ok(State { below, ..state })
}

/// New elements around a padded dimension would come after its padding; around another dimension they
/// change nothing.
pub(super) fn pad(site: &Site<'_>, pad: &Pad) -> Result<State, String> {
    let x = site.operand(0)?;
    let rank = site.output().len();
    let mut aligned = Aligned::none(rank, site.operands.len());
    for axis in 0..rank {
        let before = pad.before.get(axis).unwrap_or(&Dim::Fixed(0));
        let same = site.shape(0).get(axis).map(Term::of) == Some(Term::of(&site.output()[axis]));
        if before.as_fixed() == Some(0) && same
            || x.axis(axis).is_none() && !site.output()[axis].mentions(site.symbol)
        {
            // A dimension that is not padded may become longer; the result has its own length.
            if x.axis(axis).is_some() {
                aligned.pair(axis, 0, axis);
            }
        } else {
            return Err("elements are put around a padded dimension".to_owned());
        }
    }
    let dtype = x.dtype;
    let around = match pad.mode {
        PadMode::Constant => Some(site.operand(1)?.everywhere()),
        PadMode::Reflect | PadMode::Edge | PadMode::Wrap => None,
    };
    site.aligned(&aligned, |fills| {
        let own = fills[0].without_mask(dtype);
        around.as_ref().map_or(own.clone(), |around| own.or(around, dtype))
    })
}
