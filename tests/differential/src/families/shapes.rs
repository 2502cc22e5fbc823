//! Operators that change the shape of their operand, and those that compute from shapes.

use super::{any_axis, written};
use crate::{
    graph::{Graph, Spread, Var},
    proto::{held, int, ints, tensor},
    sizes::numbers,
    value::{Dim, Facts, RUNS, Type, broadcast, count},
};

/// Another shape with as many elements, and how it is written.
struct Target {
    shape: Vec<Dim>,
    written: Vec<[i64; RUNS]>,
}

/// Joins, splits and reorders dimensions.
fn target(g: &mut Graph, shape: &[Dim]) -> Option<Target> {
    let mut made: Vec<Dim> = shape.to_vec();
    for _ in 0..g.rng.between(1, 3) {
        match g.rng.below(4) {
            0 if made.len() > 1 => {
                let at = g.rng.below(made.len() - 1);
                let joined = count(&made[at..at + 2])?;
                made.splice(at..at + 2, [joined]);
            }
            1 if made.len() < 5 => {
                let at = g.rng.below(made.len() + 1);
                made.insert(at, Dim::Fixed(1));
            }
            2 if made.len() < 5 && !made.is_empty() => {
                let at = g.rng.below(made.len());
                let by = g.rng.pick(&[2, 3, 2, 4]);
                let sizes = made[at].sizes()?;
                if sizes.iter().all(|size| size % by == 0) {
                    let rest = Dim::of(&[made[at]], |size| size[0] / by as i64)?;
                    let pair = if g.rng.percent(50) {
                        [Dim::Fixed(by), rest]
                    } else {
                        [rest, Dim::Fixed(by)]
                    };
                    made.splice(at..at + 1, pair);
                }
            }
            _ if made.len() > 1 => {
                let at = g.rng.below(made.len() - 1);
                made.swap(at, at + 1);
            }
            _ => {}
        }
    }
    let mut written = numbers(&made)?;
    // One size may be left open if no dimension is empty.
    let is_filled = made.iter().all(|dim| dim.least() > 0);
    if !made.is_empty() && is_filled && g.rng.percent(55) {
        let at = g.rng.below(made.len());
        written[at] = [-1; RUNS];
    }
    for (axis, number) in written.iter_mut().enumerate() {
        if shape.get(axis).is_some_and(|own| own.equals(made[axis])) && g.rng.percent(30) {
            *number = [0; RUNS];
        }
    }
    Some(Target { shape: made, written })
}

pub(super) fn reshape(g: &mut Graph) -> Option<()> {
    let x = g.value_of(&Type::ALL, |value| value.is_sized())?;
    reshaped(g, x)?;
    Some(())
}

/// Gives a value another shape.
pub(super) fn reshaped(g: &mut Graph, x: Var) -> Option<Var> {
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let mut target = target(g, &shape)?;
    let mut attributes = Vec::new();
    let has_zero = target.shape.iter().any(|dim| dim.least() == 0);
    if has_zero {
        // A zero would mean a copy of the operand's dimension.
        if g.opset < 14 {
            return None;
        }
        target.written = numbers(&target.shape)?;
        attributes.push(int("allowzero", 1));
    }
    let row = g.row_of(&target.written)?;
    g.one("Reshape", &[x, row], attributes, (of, target.shape, facts.moved()))
}

pub(super) fn transpose(g: &mut Graph) -> Option<()> {
    let x = g.value_of(&Type::ALL, |value| value.rank() > 1)?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let order: Vec<usize> = if g.rng.percent(20) {
        (0..shape.len()).rev().collect()
    } else {
        g.rng.shuffled(shape.len())
    };
    let is_reversed = order.iter().rev().copied().eq(0..shape.len());
    let attributes = if is_reversed && g.rng.percent(50) {
        vec![]
    } else {
        vec![ints("perm", order.iter().map(|&axis| axis as i64))]
    };
    let moved = order.iter().map(|&axis| shape[axis]).collect();
    g.one("Transpose", &[x], attributes, (of, moved, facts.moved()))?;
    Some(())
}

/// A node whose axes are an attribute or, since version 13, an operand.
fn with_axes(
    g: &mut Graph,
    op: &str,
    x: Var,
    axes: Option<Vec<i64>>,
    shape: Vec<Dim>,
) -> Option<Var> {
    let (of, facts) = (g.of(x), g.facts(x));
    let given = (of, shape, facts.moved());
    match axes {
        None => g.one(op, &[x], vec![], given),
        Some(axes) if g.opset < 13 => g.one(op, &[x], vec![ints("axes", axes)], given),
        Some(axes) => {
            let axes = g.row(&axes)?;
            g.one(op, &[x, axes], vec![], given)
        }
    }
}

pub(super) fn squeeze(g: &mut Graph) -> Option<()> {
    let x =
        g.value_of(&Type::ALL, |value| value.shape.iter().any(|dim| dim.same_size() == Some(1)))?;
    let shape = g.shape(x);
    let ones: Vec<usize> =
        (0..shape.len()).filter(|&axis| shape[axis].same_size() == Some(1)).collect();
    // Without axes all dimensions of 1 are removed; the importer must be able to tell which they
    // are.
    let is_plain = shape.iter().all(|dim| matches!(dim, Dim::Fixed(_)));
    if is_plain && g.rng.percent(25) {
        let left = shape.into_iter().filter(|dim| *dim != Dim::Fixed(1)).collect();
        with_axes(g, "Squeeze", x, None, left)?;
        return Some(());
    }
    let mut axes: Vec<usize> = ones.iter().copied().filter(|_| g.rng.percent(60)).collect();
    if axes.is_empty() {
        axes.push(g.rng.pick(&ones));
    }
    let left =
        (0..shape.len()).filter(|axis| !axes.contains(axis)).map(|axis| shape[axis]).collect();
    let listed = listed(g, &axes, shape.len());
    with_axes(g, "Squeeze", x, Some(listed), left)?;
    Some(())
}

fn listed(g: &mut Graph, axes: &[usize], rank: usize) -> Vec<i64> {
    let axes: Vec<i64> = axes
        .iter()
        .map(|&axis| if g.opset < 11 { axis as i64 } else { written(g, axis, rank) })
        .collect();
    axes
}

pub(super) fn unsqueeze(g: &mut Graph) -> Option<()> {
    let x = g.value_of(&Type::ALL, |value| value.rank() < 5)?;
    let mut shape = g.shape(x);
    let count = g.rng.between(1, (6 - shape.len() as i64).min(2)) as usize;
    let rank = shape.len() + count;
    let mut axes: Vec<usize> = g.rng.shuffled(rank)[..count].to_vec();
    axes.sort_unstable();
    for &axis in &axes {
        shape.insert(axis, Dim::Fixed(1));
    }
    let listed = listed(g, &axes, rank);
    with_axes(g, "Unsqueeze", x, Some(listed), shape)?;
    Some(())
}

pub(super) fn flatten(g: &mut Graph) -> Option<()> {
    let x = g.value_of(&Type::ALL, |value| value.rank() > 0 && value.is_sized())?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    if g.opset < 9 && of != Type::F32 {
        return None;
    }
    let axis = g.rng.below(shape.len() + 1);
    let flat = vec![count(&shape[..axis])?, count(&shape[axis..])?];
    let at = if g.opset >= 11 && axis < shape.len() {
        written(g, axis, shape.len())
    } else {
        axis as i64
    };
    let attributes = if axis == 1 && g.rng.percent(60) { vec![] } else { vec![int("axis", at)] };
    g.one("Flatten", &[x], attributes, (of, flat, facts.moved()))?;
    Some(())
}

pub(super) fn expand(g: &mut Graph) -> Option<()> {
    if g.opset < 8 {
        return None;
    }
    let x = g.value_of(&Type::ALL, |value| value.is_sized() && value.rank() < 5)?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    // Dimensions of 1 grow, others stay, and more may be added in front.
    let mut wanted: Vec<Dim> = shape
        .iter()
        .map(|&dim| match dim.same_size() {
            Some(1) => g.any_dim(),
            _ if g.rng.percent(40) => Dim::Fixed(1),
            _ => dim,
        })
        .collect();
    for _ in 0..g.rng.below(3) {
        let dim = g.any_dim();
        wanted.insert(0, dim);
    }
    if g.rng.percent(30) && !wanted.is_empty() {
        let from = g.rng.below(wanted.len());
        wanted.drain(..from);
    }
    let made = broadcast(&shape, &wanted)?;
    let row = g.row_of_dims(&wanted)?;
    g.one("Expand", &[x, row], vec![], (of, made, facts.moved()))?;
    Some(())
}

pub(super) fn filled(g: &mut Graph) -> Option<()> {
    if g.opset < 9 {
        return None;
    }
    let rank = g.rng.below(4);
    let shape = g.any_shape(rank);
    let row = g.row_of_dims(&shape)?;
    let of = g.rng.pick(&Type::ALL);
    let number = if of == Type::Bool { 1.0 } else { g.rng.pick(&[0.0, 1.0, 3.0, 7.0]) };
    if g.rng.percent(15) {
        g.one("ConstantOfShape", &[row], vec![], (Type::F32, shape, Facts::whole(0.0, 0.0)))?;
        return Some(());
    }
    let attributes = vec![held("value", tensor("", of, &[1], &[number]))];
    g.one("ConstantOfShape", &[row], attributes, (of, shape, Facts::whole(number, number)))?;
    Some(())
}

pub(super) fn range(g: &mut Graph) -> Option<()> {
    if g.opset < 11 {
        return None;
    }
    let of = g.rng.pick(&[Type::I64, Type::I64, Type::I32, Type::F32]);
    let length = g.any_dim();
    let sizes = length.sizes()?.map(|size| size as i64);
    let (start, delta) = (g.rng.between(-3, 3), g.rng.pick(&[1, 1, 1, 2, -1, -2, 3]));
    let mut limit = sizes.map(|size| start + delta * size);
    if g.rng.percent(30) && delta.abs() > 1 {
        // The last step may be a partial one.
        limit = limit.map(|limit| limit - delta.signum());
    }
    let typed = |g: &mut Graph, number: Var, low: f64, high: f64| match of {
        Type::I64 => Some(number),
        _ => {
            let to = vec![int("to", of.in_file() as i64)];
            g.one("Cast", &[number], to, (of, vec![], Facts::whole(low, high)))
        }
    };
    let limit_var = g.number(limit)?;
    let limit_var =
        typed(g, limit_var, limit[0].min(limit[1]) as f64, limit[0].max(limit[1]) as f64)?;
    let (first, step) = (g.scalar(of, start as f64)?, g.scalar(of, delta as f64)?);
    let ends = sizes.map(|size| (start + delta * (size - 1).max(0)) as f64);
    let (low, high) =
        (ends[0].min(ends[1]).min(start as f64), ends[0].max(ends[1]).max(start as f64));
    let facts = Facts::whole(low, high);
    g.one("Range", &[first, limit_var, step], vec![], (of, vec![length], facts))?;
    Some(())
}

/// Arithmetic on shapes that nothing else needs.
pub(super) fn sizes(g: &mut Graph) -> Option<()> {
    let x = g.value_of(&Type::ALL, |value| value.is_sized() && value.rank() > 0)?;
    let shape = g.shape(x);
    match g.rng.below(3) {
        0 => {
            let axis = any_axis(g, shape.len());
            g.row_of_dims(&shape[axis..])?;
        }
        1 => {
            let dim = g.any_dim();
            let more = Dim::of(&[dim, shape[0]], |sizes| sizes[0] * 2 + sizes[1])?;
            g.row_of_dims(&[more, dim])?;
        }
        _ => {
            let size = count(&shape)?.sizes()?.map(|size| size as f64);
            let facts = Facts::whole(size[0].min(size[1]), size[0].max(size[1]));
            let facts = Facts { numbers: Some(size.map(|size| vec![size as i64])), ..facts };
            g.one("Size", &[x], vec![], (Type::I64, vec![], facts))?;
        }
    }
    Some(())
}

/// As [`Graph::given`] of integers below a size.
pub(super) fn indices(
    g: &mut Graph,
    of: Type,
    shape: &[Dim],
    size: Dim,
    from_end: bool,
) -> Option<Var> {
    let least = size.least() as i64;
    if least == 0 {
        return None;
    }
    let low = if from_end && g.rng.percent(40) { -least } else { 0 };
    if let Some(var) = g.find(|value| {
        value.of == of
            && value.shape == shape
            && value.is_exact()
            && value.facts.within(low as f64, least as f64 - 1.0)
    }) {
        return Some(var);
    }
    g.given(of, shape, Spread::whole(low, least - 1))
}
