//! Products of matrices.

use super::{is_filled, reductions::dot};
use crate::{
    graph::{Graph, Spread, Var},
    proto::{float, int, text},
    value::{Dim, Facts, Type, broadcast, count_most},
};

fn factors(of: Type) -> Spread {
    match of {
        Type::F32 => Spread::Grid(2, -2.0, 2.0),
        Type::F16 => Spread::Grid(1, -1.5, 1.5),
        _ => Spread::whole(-5, 5),
    }
}

pub(super) fn matmul(g: &mut Graph) -> Option<()> {
    let types: &[Type] = match g.opset {
        9.. => &[Type::F32, Type::F32, Type::F32, Type::F16, Type::I32, Type::I64],
        _ => &[Type::F32],
    };
    let x = g.value_of(types, |value| value.rank() > 0 && is_filled(value))?;
    let (of, shape) = (g.of(x), g.shape(x));
    g.sums(of)?;
    let left = g.rng.percent(70);
    let there = g.find(|value| {
        value.of == of && is_filled(value) && product(&shape, &value.shape, left).is_some()
    });
    let y = match there {
        Some(y) if g.rng.percent(50) => y,
        _ => {
            let inner =
                if left { shape[shape.len() - 1] } else { shape[shape.len().saturating_sub(2)] };
            let other = g.any_dim();
            let mut own = match g.rng.below(5) {
                0 => vec![inner],
                _ if left => vec![inner, other],
                _ => vec![other, inner],
            };
            if own.len() == 2 && shape.len() > 2 && g.rng.percent(50) {
                let outer = super::narrower(g, &shape[..shape.len() - 2]);
                own = [outer, own].concat();
            }
            g.given(of, &own, factors(of))?
        }
    };
    let (a, b) = if left { (x, y) } else { (y, x) };
    let made = product(&shape, &g.shape(y), left)?;
    let depth = g.shape(a).last()?.most();
    let facts = dot(depth, &g.facts(a), &g.facts(b));
    g.one("MatMul", &[a, b], vec![], (of, made, facts))?;
    Some(())
}

/// The shape of a product, with the operands swapped if `left` is false.
fn product(x: &[Dim], y: &[Dim], left: bool) -> Option<Vec<Dim>> {
    let (a, b) = if left { (x, y) } else { (y, x) };
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let wide_a = if a.len() == 1 { vec![Dim::Fixed(1), a[0]] } else { a.to_vec() };
    let wide_b = if b.len() == 1 { vec![b[0], Dim::Fixed(1)] } else { b.to_vec() };
    let (outer_a, inner_a) = wide_a.split_at(wide_a.len() - 2);
    let (outer_b, inner_b) = wide_b.split_at(wide_b.len() - 2);
    if !inner_a[1].equals(inner_b[0]) || inner_a[1].least() == 0 {
        return None;
    }
    let mut made = broadcast(outer_a, outer_b)?;
    if a.len() > 1 {
        made.push(inner_a[0]);
    }
    if b.len() > 1 {
        made.push(inner_b[1]);
    }
    Some(made)
}

pub(super) fn gemm(g: &mut Graph) -> Option<()> {
    if g.opset < 9 {
        return None;
    }
    let a = g.value_of(&[Type::F32, Type::F32, Type::F16], |value| {
        value.rank() == 2 && is_filled(value)
    })?;
    let (of, shape) = (g.of(a), g.shape(a));
    let (turned_a, turned_b) = (g.rng.percent(40), g.rng.percent(50));
    let (rows, depth) = if turned_a { (shape[1], shape[0]) } else { (shape[0], shape[1]) };
    let columns = g.any_dim();
    if columns.least() == 0 {
        return None;
    }
    let own = if turned_b { [columns, depth] } else { [depth, columns] };
    let b = g.given(of, &own, factors(of))?;
    let made = vec![rows, columns];
    let mut facts = dot(depth.most(), &g.facts(a), &g.facts(b));
    let mut attributes = Vec::new();
    let factor = |g: &mut Graph, name: &str, facts: Facts, attributes: &mut Vec<_>| -> Facts {
        if !g.rng.percent(35) {
            return facts;
        }
        let by = g.rng.pick(&[0.5, 2.0, 0.25, -1.0]);
        attributes.push(float(name, by));
        facts.times(&Facts { grid: Some(2), ..Facts::between(by, by) })
    };
    facts = factor(g, "alpha", facts, &mut attributes);
    if turned_a {
        attributes.push(int("transA", 1));
    }
    if turned_b {
        attributes.push(int("transB", 1));
    }
    let mut inputs = vec![a, b];
    if g.opset < 11 || g.rng.percent(70) {
        let narrow = super::narrower(g, &made);
        let c = g.given(of, &narrow, factors(of))?;
        inputs.push(c);
        let addend = g.facts(c);
        let addend = factor(g, "beta", addend, &mut attributes);
        facts = facts.plus(&addend);
    }
    g.one("Gemm", &inputs, attributes, (of, made, facts))?;
    Some(())
}

/// Equations, with letters in upper case for dimensions with a fixed size.
const EQUATIONS: &[&str] = &[
    "ij,jk->ik",
    "ij,kj->ik",
    "bij,bjk->bik",
    "bhid,bhjd->bhij",
    "bhij,bhjd->bhid",
    "bihd,bjhd->bhij",
    "ij->ji",
    "ijk->kij",
    "ij->",
    "ij->j",
    "ijk->ik",
    "i,j->ij",
    "i,i->",
    "i,i",
    "ij,kj",
    "ba",
    "ij,ij->",
    "ij,ij->ij",
    "bij,bj->bi",
    "bij,kj->bik",
    "...ij,...jk->...ik",
    "...i,i->...",
    "...ij->...ji",
    "b...,b...->b...",
    "II->I",
    "II->",
    "bII->b",
    "ij,jk,kl->il",
    "a,b,c->abc",
    "bi,bj->bij",
    "bc,bchw->bhw",
    "nchw,oc->nohw",
    " i j , j k -> i k ",
];

pub(super) fn einsum(g: &mut Graph) -> Option<()> {
    if g.opset < 12 {
        return None;
    }
    let equation = g.rng.pick(EQUATIONS);
    let plain: String = equation.chars().filter(|letter| !letter.is_whitespace()).collect();
    let (terms, result) = match plain.split_once("->") {
        Some((terms, result)) => (terms, Some(result)),
        None => (plain.as_str(), None),
    };
    let open = g.rng.below(2);
    let open = g.any_shape(open);
    let mut letters: Vec<(char, Dim)> = Vec::new();
    for letter in terms.chars().filter(|letter| letter.is_ascii_alphabetic()) {
        if !letters.iter().any(|(known, _)| *known == letter) {
            let dim = match letter.is_ascii_uppercase() {
                true => Dim::Fixed(g.rng.between(1, 4) as usize),
                false => g.any_dim(),
            };
            letters.push((letter, dim));
        }
    }
    if letters.iter().any(|(_, dim)| dim.least() == 0) || open.iter().any(|dim| dim.least() == 0) {
        return None;
    }
    let shape_of = |term: &str| -> Vec<Dim> {
        let letter =
            |letter: char| letters.iter().find(|(known, _)| *known == letter).map(|(_, dim)| *dim);
        match term.split_once("...") {
            Some((before, after)) => {
                let (before, after) =
                    (before.chars().filter_map(letter), after.chars().filter_map(letter));
                before.chain(open.iter().copied()).chain(after).collect()
            }
            None => term.chars().filter_map(letter).collect(),
        }
    };
    let of = g.rng.pick(&[Type::F32, Type::F32, Type::F32, Type::I32, Type::I64]);
    g.sums(of)?;
    let mut inputs: Vec<Var> = Vec::new();
    let mut facts: Option<Facts> = None;
    for term in terms.split(',') {
        let shape = shape_of(term);
        let there = g.find(|value| {
            value.of == of
                && value.shape.len() == shape.len()
                && value.shape.iter().zip(&shape).all(|(a, b)| a.equals(*b))
        });
        let var = match there {
            Some(var) if g.rng.percent(60) => var,
            _ => g.given(of, &shape, factors(of))?,
        };
        inputs.push(var);
        let own = g.facts(var);
        facts = Some(facts.map_or(own.clone(), |facts| facts.times(&own)));
    }
    let implicit: String = {
        let mut once: Vec<char> = letters
            .iter()
            .map(|(letter, _)| *letter)
            .filter(|letter| terms.matches(*letter).count() == 1)
            .collect();
        once.sort_unstable();
        let dots = if terms.contains("...") { "..." } else { "" };
        format!("{dots}{}", once.into_iter().collect::<String>())
    };
    let result = result.unwrap_or(&implicit);
    let made = shape_of(result);
    let all: Vec<Dim> = letters.iter().map(|(_, dim)| *dim).collect();
    let summed: Vec<Dim> = letters
        .iter()
        .filter(|(letter, _)| !result.contains(*letter))
        .map(|(_, dim)| *dim)
        .collect();
    if count_most(&all) > 4000 {
        return None;
    }
    let facts = facts?.sum(count_most(&summed).max(1));
    g.one("Einsum", &inputs, vec![text("equation", equation)], (of, made, facts))?;
    Some(())
}

pub(super) fn determinant(g: &mut Graph) -> Option<()> {
    if g.opset < 11 {
        return None;
    }
    let size = g.rng.between(1, 4) as usize;
    let rank = g.rng.below(2);
    let outer = g.any_shape(rank);
    if outer.iter().any(|dim| dim.least() == 0) {
        return None;
    }
    let shape = [outer.as_slice(), &[Dim::Fixed(size), Dim::Fixed(size)]].concat();
    let x = g.given(Type::F32, &shape, Spread::Grid(2, -2.0, 2.0))?;
    let bound = 2f64.powi(size as i32) * [1.0, 1.0, 2.0, 6.0, 24.0][size];
    let facts = Facts::about(-bound, bound, bound * 4e-6);
    g.one("Det", &[x], vec![], (Type::F32, outer, facts))?;
    Some(())
}
