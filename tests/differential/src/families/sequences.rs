//! Sequences of tensors, which are built and taken apart.

use super::any_axis;
use crate::{
    graph::{Graph, Spread, Var},
    proto::int,
    value::{Dim, Facts, RUNS, Type},
};

pub(super) fn sequence(g: &mut Graph) -> Option<()> {
    if g.opset < 11 {
        return None;
    }
    let types = [Type::F32, Type::F32, Type::I32, Type::I64, Type::Bool];
    let x = g.value_of(&types, |value| value.is_filled() && value.rank() > 0)?;
    if g.rng.percent(40) {
        return split(g, x);
    }
    let (of, shape) = (g.of(x), g.shape(x));
    let mut all = vec![x];
    for _ in 0..g.rng.between(0, 2) {
        let there = g.find(|value| value.of == of && value.shape == shape);
        let next = match there {
            Some(var) => var,
            None => {
                let spread = g.usual(of);
                g.given(of, &shape, spread)?
            }
        };
        all.push(next);
    }
    let mut list = if g.rng.percent(25) {
        // Elements are inserted one after the other into an empty sequence.
        let attributes = vec![int("dtype", of.in_file() as i64)];
        let mut list = g.list("SequenceEmpty", &[], attributes)?;
        for &one in &all {
            list = g.list("SequenceInsert", &[list, one], vec![])?;
        }
        list
    } else {
        g.list("SequenceConstruct", &all, vec![])?
    };
    if g.rng.percent(30) {
        let at = g.rng.below(all.len() + 1);
        let place = g.scalar(Type::I64, at as f64)?;
        list = g.list("SequenceInsert", &[list, x, place], vec![])?;
        all.insert(at, x);
    }
    if all.len() > 1 && g.rng.percent(30) {
        let at = g.rng.below(all.len());
        let place = g.scalar(Type::I64, at as f64 - all.len() as f64)?;
        list = g.list("SequenceErase", &[list, place], vec![])?;
        all.remove(at);
    }
    let facts =
        all[1..].iter().fold(g.facts(all[0]).moved(), |facts, &var| facts.or(&g.facts(var)));
    ended(g, list, &all, of, &shape, &facts)
}

/// Reads a tensor from a sequence of tensors of one shape.
fn ended(
    g: &mut Graph,
    list: Var,
    all: &[Var],
    of: Type,
    shape: &[Dim],
    facts: &Facts,
) -> Option<()> {
    match g.rng.below(3) {
        0 => {
            let at = g.rng.below(all.len());
            let place = g.scalar(Type::I64, at as f64)?;
            let facts = g.facts(all[at]).moved();
            g.one("SequenceAt", &[list, place], vec![], (of, shape.to_vec(), facts))?;
        }
        1 => {
            let axis = any_axis(g, shape.len());
            let count = all.len() as i64;
            let (made, attributes) = if g.rng.percent(50) {
                let mut made = shape.to_vec();
                made.insert(axis, Dim::Fixed(all.len()));
                (made, vec![int("axis", axis as i64), int("new_axis", 1)])
            } else {
                let mut made = shape.to_vec();
                made[axis] = Dim::of(&[shape[axis]], |size| size[0] * count)?;
                (made, vec![int("axis", axis as i64)])
            };
            g.one("ConcatFromSequence", &[list], attributes, (of, made, facts.clone()))?;
        }
        _ => {
            let count = all.len() as f64;
            g.one(
                "SequenceLength",
                &[list],
                vec![],
                (Type::I64, vec![], Facts::whole(count, count)),
            )?;
        }
    }
    Some(())
}

fn split(g: &mut Graph, x: Var) -> Option<()> {
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let axis = (0..shape.len()).find(|&axis| matches!(shape[axis], Dim::Fixed(_)))?;
    let size = shape[axis].most() as i64;
    let attributes = vec![int("axis", axis as i64)];
    let mut part = shape.clone();
    let (inputs, attributes, count) = match g.rng.below(3) {
        0 => {
            let keep = g.rng.below(2) as i64;
            if keep == 1 {
                part[axis] = Dim::Fixed(1);
            } else {
                part.remove(axis);
            }
            (vec![x], [attributes, vec![int("keepdims", keep)]].concat(), size)
        }
        1 => {
            let by = g.rng.between(1, size);
            if size % by != 0 {
                return None;
            }
            part[axis] = Dim::Fixed(by as usize);
            let by_var = g.scalar(Type::I64, by as f64)?;
            (vec![x, by_var], attributes, size / by)
        }
        _ => {
            if size % 2 != 0 {
                return None;
            }
            part[axis] = Dim::Fixed(size as usize / 2);
            let parts = g.constant(Type::I64, &[2], Spread::these([size as f64 / 2.0; RUNS]))?;
            (vec![x, parts], attributes, 2)
        }
    };
    let list = g.list("SplitToSequence", &inputs, attributes)?;
    let at = g.rng.between(-count, count - 1);
    let place = g.scalar(Type::I64, at as f64)?;
    g.one("SequenceAt", &[list, place], vec![], (of, part, facts.moved()))?;
    Some(())
}
