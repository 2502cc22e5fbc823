//! Operators that read or write elements by index.

use super::{any_axis, is_filled, shapes::indices, written};
use crate::{
    graph::{Graph, Spread, Var},
    proto::{int, text},
    value::{Dim, Facts, RUNS, Type},
};

fn index_type(g: &mut Graph) -> Type {
    g.rng.pick(&[Type::I64, Type::I64, Type::I32])
}

pub(super) fn gather(g: &mut Graph) -> Option<()> {
    let x = g.value_of(&Type::ALL, |value| value.rank() > 0 && is_filled(value))?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let axis = any_axis(g, shape.len());
    let index_of = index_type(g);
    let from_end = g.opset >= 11;
    let (low, high) = (-(shape[axis].least() as f64), shape[axis].least() as f64 - 1.0);
    let there = g.find(|value| {
        value.of == index_of
            && value.is_exact()
            && value.facts.within(if from_end { low } else { 0.0 }, high)
            && value.rank() < 3
    });
    let places = match there {
        Some(places) if g.rng.percent(50) => places,
        _ => {
            let rank = g.rng.below(3);
            let places = g.any_shape(rank);
            indices(g, index_of, &places, shape[axis], from_end)?
        }
    };
    let mut made = shape.clone();
    made.splice(axis..=axis, g.shape(places));
    let at = if from_end { written(g, axis, shape.len()) } else { axis as i64 };
    g.one("Gather", &[x, places], vec![int("axis", at)], (of, made, facts.moved()))?;
    Some(())
}

pub(super) fn gather_elements(g: &mut Graph) -> Option<()> {
    if g.opset < 11 {
        return None;
    }
    let x = g.value_of(&Type::ALL, |value| value.rank() > 0 && is_filled(value))?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let axis = any_axis(g, shape.len());
    let mut places = shape.clone();
    places[axis] = g.any_dim();
    for (at, dim) in places.iter_mut().enumerate() {
        // Others may be shorter.
        if at != axis && g.rng.percent(15) {
            *dim = Dim::Fixed(g.rng.between(1, dim.least() as i64) as usize);
        }
    }
    let index_of = index_type(g);
    let index = indices(g, index_of, &places, shape[axis], true)?;
    let at = written(g, axis, shape.len());
    g.one("GatherElements", &[x, index], vec![int("axis", at)], (of, places, facts.moved()))?;
    Some(())
}

/// Rows of indices into the dimensions from `batch` on, with this shape in front; within the sizes of each
/// run.
fn tuples(
    g: &mut Graph,
    shape: &[Dim],
    batch: usize,
    depth: usize,
    outer: &[Dim],
    distinct: bool,
) -> Option<Var> {
    let into = &shape[batch..batch + depth];
    let least: Vec<i64> = into.iter().map(|dim| dim.least() as i64).collect();
    if least.contains(&0) {
        return None;
    }
    let all: i64 = least.iter().product();
    let is_constant = outer.iter().all(|dim| dim.same_size().is_some()) && g.rng.percent(50);
    let mut data: [Vec<f64>; RUNS] = Default::default();
    for (run, data) in data.iter_mut().enumerate() {
        let sizes = outer.iter().map(|dim| Some(dim.sizes()?[run])).collect::<Option<Vec<_>>>()?;
        let rows: usize = sizes.iter().product();
        if distinct && rows as i64 > all {
            return None;
        }
        let order = g.rng.shuffled(all as usize);
        let mut order = order.into_iter().cycle();
        for _ in 0..rows {
            let next = order.next().filter(|_| distinct);
            let mut flat = next.map_or_else(|| g.rng.between(0, all - 1), |next| next as i64);
            let mut tuple = Vec::new();
            for &size in least.iter().rev() {
                let from_end = !distinct && g.opset >= 12 && g.rng.percent(15);
                tuple.push((flat % size - if from_end { size } else { 0 }) as f64);
                flat /= size;
            }
            tuple.reverse();
            data.extend(tuple);
        }
    }
    // Counted from the end of the smallest size: valid for every size, but not the same position.
    let shape = [outer, &[Dim::Fixed(depth)]].concat();
    if is_constant {
        let sizes: Vec<usize> = shape.iter().map(|dim| dim.same_size()).collect::<Option<_>>()?;
        return g.constant(Type::I64, &sizes, Spread::these(data[0].clone()));
    }
    g.input(Type::I64, shape, Spread::Exactly(data))
}

pub(super) fn gather_nd(g: &mut Graph) -> Option<()> {
    if g.opset < 11 {
        return None;
    }
    let x = g.value_of(&Type::ALL, |value| value.rank() > 0 && is_filled(value))?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let batch = if g.opset >= 12 && shape.len() > 1 && g.rng.percent(30) { 1 } else { 0 };
    let depth = g.rng.between(1, (shape.len() - batch) as i64) as usize;
    let count = g.rng.below(3 - batch);
    let outer = [&shape[..batch], &g.any_shape(count)].concat();
    let index = tuples(g, &shape, batch, depth, &outer, false)?;
    let made = [outer.as_slice(), &shape[batch + depth..]].concat();
    let attributes = if batch > 0 { vec![int("batch_dims", batch as i64)] } else { vec![] };
    g.one("GatherND", &[x, index], attributes, (of, made, facts.moved()))?;
    Some(())
}

/// How updates are combined with existing elements, if they may coincide.
fn reduction(g: &mut Graph, of: Type) -> Option<&'static str> {
    let mut ways = vec!["none"];
    if g.opset >= 16 && of != Type::Bool && of != Type::F16 {
        ways.extend(["add", "mul"]);
        if g.opset >= 18 {
            ways.extend(["max", "min"]);
        }
    }
    let way = g.rng.pick(&ways);
    if matches!(way, "add" | "mul") {
        g.sums(of)?;
    }
    Some(way)
}

fn scattered(way: &str, data: &Facts, updates: &Facts, count: usize) -> Option<Facts> {
    Some(match way {
        "add" => data.plus(&updates.sum(count)).or(data),
        "mul" => {
            if count > 6 {
                return None;
            }
            let mut product = data.clone();
            for _ in 0..count {
                product = product.times(updates).or(&product);
            }
            product
        }
        _ => data.or(updates),
    })
}

pub(super) fn scatter_elements(g: &mut Graph) -> Option<()> {
    let op = if g.opset < 11 { "Scatter" } else { "ScatterElements" };
    if g.opset < 9 {
        return None;
    }
    let x = g.value_of(&Type::ALL, |value| value.rank() > 0 && is_filled(value))?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let axis = any_axis(g, shape.len());
    let least = shape[axis].least();
    let mut places = shape.clone();
    places[axis] = Dim::Fixed(g.rng.between(1, least as i64) as usize);
    let way = reduction(g, of)?;
    let index_of = index_type(g);
    let lines = |run: usize| -> Option<Vec<usize>> {
        places.iter().map(|dim| Some(dim.sizes()?[run])).collect()
    };
    // Without a reduction no two updates may have the same position.
    let mut data: [Vec<f64>; RUNS] = Default::default();
    for (run, data) in data.iter_mut().enumerate() {
        let sizes = lines(run)?;
        let inner: usize = sizes[axis + 1..].iter().product();
        let outer: usize = sizes[..axis].iter().product();
        let length = sizes[axis];
        *data = vec![0.0; outer * length * inner];
        for line in 0..outer * inner {
            let order = g.rng.shuffled(least);
            for (step, place) in order.into_iter().enumerate().take(length) {
                let at = ((line / inner) * length + step) * inner + line % inner;
                let place = if way == "none" { place } else { g.rng.below(least) };
                data[at] = place as f64;
            }
        }
    }
    let sizes: Option<Vec<usize>> = places.iter().map(|dim| dim.same_size()).collect();
    let index = match sizes {
        Some(sizes) if g.rng.percent(60) => {
            g.constant(index_of, &sizes, Spread::these(data[0].clone()))?
        }
        _ => g.input(index_of, places.clone(), Spread::Exactly(data))?,
    };
    let spread = g.usual(of);
    let updates = g.given(of, &places, spread)?;
    let count = places[axis].most();
    let made = scattered(way, &facts, &g.facts(updates), count)?;
    let mut attributes =
        vec![int("axis", if g.opset < 11 { axis as i64 } else { written(g, axis, shape.len()) })];
    if way != "none" {
        attributes.push(text("reduction", way));
    }
    g.one(op, &[x, index, updates], attributes, (of, shape, made.moved()))?;
    Some(())
}

pub(super) fn scatter_nd(g: &mut Graph) -> Option<()> {
    if g.opset < 11 {
        return None;
    }
    let x = g.value_of(&Type::ALL, |value| value.rank() > 0 && is_filled(value))?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let depth = g.rng.between(1, shape.len() as i64) as usize;
    let way = reduction(g, of)?;
    let rank = g.rng.between(1, 2) as usize;
    let outer = g.any_shape(rank);
    let index = tuples(g, &shape, 0, depth, &outer, way == "none")?;
    let of_updates = [outer.as_slice(), &shape[depth..]].concat();
    let spread = g.usual(of);
    let updates = g.given(of, &of_updates, spread)?;
    let count = outer.iter().map(|dim| dim.most()).product();
    let made = scattered(way, &facts, &g.facts(updates), count)?;
    let attributes = if way == "none" { vec![] } else { vec![text("reduction", way)] };
    g.one("ScatterND", &[x, index, updates], attributes, (of, shape, made.moved()))?;
    Some(())
}

pub(super) fn one_hot(g: &mut Graph) -> Option<()> {
    if g.opset < 9 {
        return None;
    }
    let types = [Type::I64, Type::I64, Type::I32, Type::F32];
    let x = g.value_of(&types, |value| {
        value.rank() > 0
            && value.is_exact()
            && value.is_filled()
            && value.facts.grid == Some(0)
            && value.facts.size() < 20.0
    })?;
    let shape = g.shape(x);
    if g.opset < 11 && g.facts(x).low < 0.0 {
        return None;
    }
    let depth =
        if g.rng.percent(60) { Dim::Fixed(g.rng.between(1, 8) as usize) } else { g.any_dim() };
    if depth.least() == 0 || (g.opset < 11 && g.facts(x).high >= depth.least() as f64) {
        return None;
    }
    let rank = shape.len() + 1;
    let axis = any_axis(g, rank);
    // Combinations of types of depth, values and indices that onnxruntime has.
    let (depth_of, of) = match (g.of(x), depth) {
        (Type::I64, Dim::Fixed(_)) => g.rng.pick(&[
            (Type::F32, Type::F32),
            (Type::F32, Type::I32),
            (Type::I32, Type::F32),
            (Type::I64, Type::F32),
            (Type::I64, Type::I64),
        ]),
        (Type::I64, _) => g.rng.pick(&[(Type::I64, Type::F32), (Type::I64, Type::I64)]),
        (Type::I32, Dim::Fixed(_)) => g.rng.pick(&[(Type::F32, Type::F32), (Type::I32, Type::F32)]),
        (Type::F32, _) => (Type::I64, Type::I64),
        _ => return None,
    };
    let depth_var = match depth {
        Dim::Fixed(depth) => g.scalar(depth_of, depth as f64)?,
        depth => g.number(depth.sizes()?.map(|size| size as i64))?,
    };
    let values = g.weights(of, &[2], Spread::whole(-3, 4))?;
    let mut made = shape;
    made.insert(axis, depth);
    let at = if axis + 1 == rank { g.rng.pick(&[-1, axis as i64]) } else { axis as i64 };
    let facts = g.facts(values).moved();
    g.one("OneHot", &[x, depth_var, values], vec![int("axis", at)], (of, made, facts))?;
    Some(())
}
