//! Operators with a data-dependent number of results.

use super::{any_axis, is_filled, written};
use crate::{
    graph::{Graph, Spread, Var},
    proto::int,
    value::{Dim, Facts, RUNS, Type, Value, count_most},
};

/// A dimension computed from the data of a value, or an open one.
fn counted(g: &mut Graph, of: Var, most: usize, count: impl Fn(&[f64]) -> usize) -> Option<Dim> {
    let Some(data) = &g.value(of).data else { return Some(g.open_dim(most)) };
    let mut sizes = [0; RUNS];
    for (size, data) in sizes.iter_mut().zip(data) {
        *size = count(data);
    }
    // Empty sizes are rare.
    if sizes.contains(&0) && !g.rng.percent(8) {
        return None;
    }
    Some(Dim::Sizes(sizes))
}

fn trues(data: &[f64]) -> usize {
    data.iter().filter(|number| **number != 0.0).count()
}

pub(super) fn compress(g: &mut Graph) -> Option<()> {
    if g.opset < 9 {
        return None;
    }
    let x = g.value_of(&Type::ALL, |value| value.rank() > 0 && is_filled(value))?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let axis = g.rng.percent(70).then(|| any_axis(g, shape.len()));
    let most = axis.map_or_else(|| count_most(&shape), |axis| shape[axis].most());
    let length = axis.map_or_else(|| crate::value::count(&shape), |axis| Some(shape[axis]))?;
    let there = g
        .find(|value| value.of == Type::Bool && value.rank() == 1 && value.shape[0].equals(length));
    let condition = match there {
        Some(condition) => condition,
        None => {
            // It may be shorter.
            let short = if g.rng.percent(30) { Dim::Fixed(length.least().max(1)) } else { length };
            g.given(Type::Bool, &[short], Spread::whole(0, 1))?
        }
    };
    let kept = counted(g, condition, most, trues)?;
    let mut attributes = Vec::new();
    let made = match axis {
        Some(axis) => {
            let at = if g.opset < 11 { axis as i64 } else { written(g, axis, shape.len()) };
            attributes.push(int("axis", at));
            let mut made = shape;
            made[axis] = kept;
            made
        }
        None => vec![kept],
    };
    g.one("Compress", &[x, condition], attributes, (of, made, facts.moved()))?;
    Some(())
}

fn is_nonzero_type(value: &Value) -> bool {
    value.is_exact() && value.rank() > 0 && is_filled(value)
}

const NONZERO: [Type; 5] = [Type::Bool, Type::Bool, Type::F32, Type::I32, Type::I64];

pub(super) fn non_zero(g: &mut Graph) -> Option<()> {
    if g.opset < 9 {
        return None;
    }
    let x = g.value_of(&NONZERO, is_nonzero_type)?;
    let shape = g.shape(x);
    let count = counted(g, x, count_most(&shape), trues)?;
    let last = shape.iter().map(|dim| dim.most()).max().unwrap_or(1) as f64 - 1.0;
    let made = vec![Dim::Fixed(shape.len()), count];
    let places = g.one("NonZero", &[x], vec![], (Type::I64, made, Facts::whole(0.0, last)))?;
    if g.opset >= 11 && g.rng.percent(70) {
        return picked(g, &shape, places, count);
    }
    Some(())
}

/// Selects elements of a value by the positions of those that are not 0, as a mask does; sometimes writes others
/// there.
fn picked(g: &mut Graph, shape: &[Dim], places: Var, count: Dim) -> Option<()> {
    let facts = g.facts(places);
    let rank = shape.len();
    let turned = vec![count, Dim::Fixed(rank)];
    let rows = g.one("Transpose", &[places], vec![], (Type::I64, turned, facts))?;
    let there = g.find(|value| {
        value.of != Type::Bool && value.rank() >= rank && value.shape[..rank] == *shape
    });
    let y = match there {
        Some(y) => y,
        None => {
            let spread = g.usual(Type::F32);
            g.given(Type::F32, shape, spread)?
        }
    };
    let (of, all, facts) = (g.of(y), g.shape(y), g.facts(y));
    let made = [&[count], &all[rank..]].concat();
    let mut part = g.one("GatherND", &[y, rows], vec![], (of, made.clone(), facts.moved()))?;
    if !g.rng.percent(50) {
        return Some(());
    }
    if of.is_float() {
        let facts = Facts { low: -facts.high, high: -facts.low, ..facts.moved() };
        part = g.one("Neg", &[part], vec![], (of, made, facts))?;
    }
    let facts = g.facts(y).or(&g.facts(part));
    g.one("ScatterND", &[y, rows, part], vec![], (of, all, facts))?;
    Some(())
}

pub(super) fn unique(g: &mut Graph) -> Option<()> {
    if g.opset < 11 {
        return None;
    }
    let x = g.value_of(&[Type::F32, Type::I64, Type::I8], |value| {
        value.is_exact() && value.rank() > 0 && is_filled(value)
    })?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let axis = g.rng.percent(50).then(|| any_axis(g, shape.len()));
    let mut attributes = Vec::new();
    let (size, kept) = match axis {
        Some(axis) => {
            attributes.push(int("axis", written(g, axis, shape.len())));
            let most = shape[axis].most();
            (shape[axis], g.open_dim(most))
        }
        None => {
            let different = |data: &[f64]| {
                let mut data = data.to_vec();
                data.sort_by(f64::total_cmp);
                data.dedup();
                data.len()
            };
            (crate::value::count(&shape)?, counted(g, x, count_most(&shape), different)?)
        }
    };
    if g.rng.percent(50) {
        attributes.push(int("sorted", g.rng.below(2) as i64));
    }
    let most = size.most() as f64;
    let mut values = shape;
    match axis {
        Some(axis) => values[axis] = kept,
        None => values = vec![kept],
    }
    let outputs = [
        (of, values, facts.moved()),
        (Type::I64, vec![kept], Facts::whole(0.0, most - 1.0)),
        (Type::I64, vec![size], Facts::whole(0.0, most - 1.0)),
        (Type::I64, vec![kept], Facts::whole(1.0, most)),
    ];
    let count = g.rng.between(1, 4) as usize;
    g.node("Unique", &[x], attributes, outputs[..count].to_vec())?;
    Some(())
}

pub(super) fn suppress(g: &mut Graph) -> Option<()> {
    if g.opset < 10 {
        return None;
    }
    let (images, boxes) = (g.any_dim(), g.any_dim());
    let classes = g.any_dim();
    if images.least() == 0 || boxes.least() == 0 || classes.least() == 0 {
        return None;
    }
    let centres = g.rng.percent(30);
    let low = if centres { 0.5 } else { 0.0 };
    let of_boxes = [images, boxes, Dim::Fixed(4)];
    let corners = g.given(Type::F32, &of_boxes, Spread::Grid(3, low, 6.0))?;
    let scores = g.given(Type::F32, &[images, classes, boxes], Spread::Plain(0.0, 1.0))?;
    let most = g.rng.between(1, 5);
    let row = |g: &mut Graph| g.rng.percent(50);
    let mut inputs = vec![corners, scores];
    let each = if row(g) { g.row(&[most])? } else { g.number([most; RUNS])? };
    inputs.push(each);
    if g.rng.percent(80) {
        let overlap = g.rng.pick(&[0.1117, 0.3719, 0.5321, 0.7713]);
        inputs.push(g.constant(Type::F32, &[1], Spread::these([overlap]))?);
        if g.rng.percent(60) {
            let least = g.rng.pick(&[0.0, 0.213, 0.417]);
            inputs.push(g.constant(Type::F32, &[1], Spread::these([least]))?);
        }
    }
    let attributes = if centres { vec![int("center_point_box", 1)] } else { vec![] };
    let all = images.most() * classes.most() * boxes.most();
    let kept = g.open_dim(all);
    let last = [images, boxes, classes].iter().map(|dim| dim.most()).max()? as f64 - 1.0;
    let made = vec![kept, Dim::Fixed(3)];
    g.one("NonMaxSuppression", &inputs, attributes, (Type::I64, made, Facts::whole(0.0, last)))?;
    Some(())
}
