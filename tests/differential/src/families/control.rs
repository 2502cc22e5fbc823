//! Operators with subgraphs.

use super::elementwise::{converted, partner};
use crate::{
    graph::{Graph, Spread, Var},
    proto::{self, body, int, ints},
    sizes::Number,
    value::{Dim, Facts, RUNS, Type, broadcast},
};

/// Carried values of a loop are kept within this.
const KEPT: f64 = 8.0;
/// Most iterations of a loop.
const TURNS_MAX: i64 = 7;

/// A value of the same shape and type with other numbers.
fn altered(g: &mut Graph, x: Var) -> Option<Var> {
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let turned = Facts { low: -facts.high, high: -facts.low, ..facts.moved() };
    match of {
        Type::Bool => g.one("Not", &[x], vec![], (of, shape, Facts::truth())),
        Type::U8 | Type::I8 if g.opset < 14 => g.identity(x),
        _ => match g.rng.below(4) {
            0 if of != Type::U8 => g.one("Neg", &[x], vec![], (of, shape, turned)),
            1 if of == Type::F32 => {
                let error = facts.error + 1e-6;
                g.one("Tanh", &[x], vec![], (of, shape, Facts::about(-1.0, 1.0, error)))
            }
            2 => g.identity(x),
            _ => {
                let y = g.scalar(of, 1.0)?;
                let facts = facts.plus(&Facts::whole(1.0, 1.0));
                g.one("Add", &[x, y], vec![], (of, shape, facts))
            }
        },
    }
}

/// A truth value, and its value in each run if that is known.
fn condition(g: &mut Graph) -> Option<(Var, Option<[bool; RUNS]>)> {
    let row = |g: &mut Graph| if g.rng.percent(30) { vec![Dim::Fixed(1)] } else { vec![] };
    match g.rng.below(4) {
        0 => {
            let shape = row(g);
            let is_true = g.rng.percent(50);
            let sizes: Vec<usize> = shape.iter().map(|_| 1).collect();
            let spread = Spread::these([f64::from(u8::from(is_true))]);
            let var = g.weights(Type::Bool, &sizes, spread)?;
            Some((var, Some([is_true; RUNS])))
        }
        1 => {
            let shape = row(g);
            let both = [g.rng.below(2) as f64, g.rng.below(2) as f64];
            let data = both.map(|number| vec![number]);
            let var = g.input(Type::Bool, shape, Spread::Exactly(data))?;
            Some((var, Some(both.map(|number| number != 0.0))))
        }
        2 => {
            // From sizes.
            let number = g.any_dim().sizes()?.map(|size| size as i64);
            let a = g.number(number)?;
            let bound = g.rng.between(1, 6);
            let b = g.scalar(Type::I64, bound as f64)?;
            let op = if g.opset < 9 { "Equal" } else { g.rng.pick(&["Equal", "Less", "Greater"]) };
            let var = g.one(op, &[a, b], vec![], (Type::Bool, vec![], Facts::truth()))?;
            let holds = number.map(|number| match op {
                "Equal" => number == bound,
                "Less" => number < bound,
                _ => number > bound,
            });
            Some((var, Some(holds)))
        }
        _ => {
            // From data.
            let x = g.value_of(&[Type::F32, Type::I32, Type::I64], |value| {
                value.is_exact() && value.is_filled()
            })?;
            let (of, facts) = (g.of(x), g.facts(x));
            let attributes = vec![int("keepdims", 0)];
            let most = g.one("ReduceMax", &[x], attributes, (of, vec![], facts.moved()))?;
            let bound = g.rng.pick(&[0.0, 2.0, 3.0, 4.0]);
            let y = g.scalar(of, bound)?;
            let op = if of == Type::F32 || g.opset >= 9 { "Less" } else { return None };
            let var = g.one(op, &[most, y], vec![], (Type::Bool, vec![], Facts::truth()))?;
            Some((var, None))
        }
    }
}

/// A branch: some nodes, and results computed from these values.
fn results(g: &mut Graph, from: &[Var], cut: Option<usize>) -> Option<Vec<Var>> {
    if g.depth < 2 && g.rng.percent(40) {
        for _ in 0..g.rng.between(1, 2) {
            super::grow(g);
        }
    }
    let mut results = Vec::new();
    for (at, &x) in from.iter().enumerate() {
        let (of, shape) = (g.of(x), g.shape(x));
        let there = g.find(|value| value.of == of && value.shape == shape && !value.is_constant);
        let mut var = if g.rng.percent(50) { there.unwrap_or(x) } else { x };
        for _ in 0..g.rng.between(0, 2) {
            var = altered(g, var)?;
        }
        if let (0, Some(axis)) = (at, cut) {
            var = doubled(g, var, axis)?;
        }
        results.push(var);
    }
    Some(results)
}

/// The same value twice, one after the other.
fn doubled(g: &mut Graph, x: Var, axis: usize) -> Option<Var> {
    let (of, facts) = (g.of(x), g.facts(x));
    let mut shape = g.shape(x);
    shape[axis] = Dim::of(&[shape[axis]], |size| size[0] * 2)?;
    g.one("Concat", &[x, x], vec![int("axis", axis as i64)], (of, shape, facts.moved()))
}

pub(super) fn branch(g: &mut Graph) -> Option<()> {
    if g.depth > 1 || g.opset < 9 {
        return None;
    }
    let (condition, known) = condition(g)?;
    let mut from = vec![g.value_of(&Type::ALL, |_| true)?];
    if g.rng.percent(30) {
        from.push(g.value_of(&Type::ALL, |_| true)?);
    }
    let first = g.shape(from[0]);
    let cut =
        (g.opset >= 11 && !first.is_empty() && g.value(from[0]).is_sized() && g.rng.percent(30))
            .then(|| g.rng.below(first.len()));
    let in_then = g.rng.percent(50);
    let (yes, of_yes) = g.within(vec![], |g| results(g, &from, cut.filter(|_| in_then)))?;
    let (no, of_no) = g.within(vec![], |g| results(g, &from, cut.filter(|_| !in_then)))?;
    let mut outputs = Vec::new();
    for (&yes, &no) in of_yes.iter().zip(&of_no) {
        let (of, facts) = (g.of(yes), g.facts(yes).or(&g.facts(no)));
        let pairs: Vec<(Dim, Dim)> = g.shape(yes).into_iter().zip(g.shape(no)).collect();
        let mut shape = Vec::new();
        for (yes, no) in pairs {
            shape.push(match known {
                _ if yes.equals(no) => yes,
                None => g.open_dim(yes.most().max(no.most())),
                Some(known) => {
                    let (yes, no) = (yes.sizes()?, no.sizes()?);
                    let mut sizes = [0; RUNS];
                    for (run, size) in sizes.iter_mut().enumerate() {
                        *size = if known[run] { yes[run] } else { no[run] };
                    }
                    Dim::Sizes(sizes)
                }
            });
        }
        outputs.push((of, shape, facts));
    }
    let attributes = vec![body("then_branch", yes), body("else_branch", no)];
    g.node("If", &[condition], attributes, outputs)?;
    Some(())
}

/// The number of iterations of a loop.
enum Turns {
    /// This many in each run; the flag is whether the file has the number.
    Known(Number, bool),
    /// Data-dependent.
    Open,
}

impl Turns {
    fn dim(&self, g: &mut Graph) -> Dim {
        match self {
            Turns::Known(number, true) => Dim::Fixed(number[0] as usize),
            Turns::Known(number, false) => Dim::Sizes(number.map(|turns| turns as usize)),
            Turns::Open => g.open_dim(TURNS_MAX as usize),
        }
    }
}

/// A value that a loop carries from iteration to iteration.
struct Carried {
    initial: Var,
    of: Type,
    /// The facts about it in every iteration.
    facts: Facts,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// A value is added, and the sum is clipped.
    Clipped(Var),
    /// A part is appended.
    Grows(Var),
    /// An integer that counts.
    Counts,
}

fn carried(g: &mut Graph) -> Option<Carried> {
    match g.rng.below(5) {
        0 => {
            let first = g.rng.between(0, 3);
            let initial = g.number([first; RUNS])?;
            let facts = Facts::whole(0.0, 3.0 + 2.0 * TURNS_MAX as f64);
            Some(Carried { initial, of: Type::I64, facts, kind: Kind::Counts })
        }
        1 => {
            let initial = g.value_of(&Type::ALL, |value| {
                (1..4).contains(&value.rank()) && value.is_filled()
            })?;
            let (of, mut shape) = (g.of(initial), g.shape(initial));
            shape[0] = Dim::Fixed(g.rng.between(1, 2) as usize);
            let spread = g.usual(of);
            let part = g.given(of, &shape, spread)?;
            let facts = g.facts(initial).or(&g.facts(part));
            Some(Carried { initial, of, facts, kind: Kind::Grows(part) })
        }
        _ => {
            let types: &[Type] = if g.opset >= 12 {
                &[Type::F32, Type::F32, Type::I32, Type::I64]
            } else {
                &[Type::F32]
            };
            let initial = g.value_of(types, |value| {
                value.is_sized()
                    && value.is_exact()
                    && value.facts.grid.is_some()
                    && value.facts.size() < 1e3
            })?;
            let (of, shape) = (g.of(initial), g.shape(initial));
            g.sums(of)?;
            let small =
                |facts: &Facts| facts.is_exact() && facts.grid.is_some() && facts.size() < 1e3;
            let step = partner(g, initial, small, |_, of| match of {
                Type::F32 => Spread::Grid(2, -2.0, 2.0),
                _ => Spread::whole(-3, 3),
            })?;
            if broadcast(&shape, &g.shape(step))? != shape {
                return None;
            }
            let bound = Facts::whole(-KEPT, KEPT);
            let facts =
                g.facts(initial).or(&bound).or(&Facts { low: 0.0, high: 0.0, ..g.facts(step) });
            Some(Carried { initial, of, facts, kind: Kind::Clipped(step) })
        }
    }
}

/// One iteration for a carried value.
fn turned(g: &mut Graph, carried: &Carried, now: Var) -> Option<Var> {
    let (of, shape, facts) = (g.of(now), g.shape(now), g.facts(now));
    match carried.kind {
        Kind::Counts => {
            let two = g.scalar(Type::I64, 2.0)?;
            g.one("Add", &[now, two], vec![], (of, shape, facts))
        }
        Kind::Grows(part) => {
            let mut made = shape;
            made[0] = g.open_dim(made[0].most() + g.shape(part)[0].most());
            g.one("Concat", &[now, part], vec![int("axis", 0)], (of, made, facts))
        }
        Kind::Clipped(step) => {
            let op = g.rng.pick(&["Add", "Sub"]);
            let sum = facts.plus(&g.facts(step)).or(&facts.minus(&g.facts(step)));
            let next = g.one(op, &[now, step], vec![], (of, shape, sum))?;
            g.clipped(next, -KEPT, KEPT)
        }
    }
}

pub(super) fn repeat(g: &mut Graph) -> Option<()> {
    if g.depth > 1 || g.opset < 11 {
        return None;
    }
    let most_of = |g: &mut Graph| -> Option<(Number, bool)> {
        if g.rng.percent(40) {
            return Some(([g.rng.between(0, 4); RUNS], true));
        }
        let sizes = g.any_dim().sizes()?.map(|size| size as i64);
        sizes.iter().all(|size| *size <= TURNS_MAX).then_some((sizes, false))
    };
    let (number, fixed) = most_of(g)?;
    let way = g.rng.below(4);
    let (turns, most, begins) = match way {
        // A fixed number of iterations.
        0 | 1 => {
            let most =
                if fixed { g.scalar(Type::I64, number[0] as f64)? } else { g.number(number)? };
            let begins = if g.rng.percent(50) { Var::NONE } else { g.scalar(Type::Bool, 1.0)? };
            (Turns::Known(number, fixed), most, begins)
        }
        // Until the iteration limit.
        2 => {
            let most = if g.rng.percent(40) { Var::NONE } else { g.scalar(Type::I64, 100.0)? };
            (
                Turns::Known(number.map(|turns| turns.max(1)), false),
                most,
                g.scalar(Type::Bool, 1.0)?,
            )
        }
        // Until a data-dependent condition.
        _ => (Turns::Open, g.scalar(Type::I64, TURNS_MAX as f64)?, g.scalar(Type::Bool, 1.0)?),
    };
    let mut all = vec![carried(g)?];
    if way == 3 && !matches!(all[0].kind, Kind::Clipped(_)) {
        return None;
    }
    if g.rng.percent(40) {
        all.push(carried(g)?);
    }
    // Without iterations, nothing can be collected whose shape is not in the file.
    let collects = g.rng.percent(60)
        && match &turns {
            Turns::Known(number, _) => number.iter().all(|turns| *turns > 0),
            Turns::Open => true,
        };
    let limit = if way == 2 { Some(g.number(number)?) } else { None };
    let mut parameters = Vec::new();
    let visible = g.visible.len();
    let mut enter = |g: &mut Graph, of: Type, shape: Vec<Dim>, facts: Facts, ranked: bool| {
        let var = g.parameter(of, shape, facts);
        parameters.push(g.port(var, ranked));
        var
    };
    let turn = enter(g, Type::I64, vec![], Facts::whole(0.0, 100.0), true);
    let go_on = enter(g, Type::Bool, vec![], Facts::truth(), true);
    let mut now = Vec::new();
    for one in &all {
        let mut shape = g.shape(one.initial);
        let grows = matches!(one.kind, Kind::Grows(_));
        if grows {
            let most = shape[0].most() + 2 * TURNS_MAX as usize;
            shape[0] = g.open_dim(most);
        }
        let ranked = g.rng.percent(50);
        now.push(enter(g, one.of, shape, one.facts.clone(), ranked));
    }
    let made = g.within(parameters, |g| {
        let mut next = Vec::new();
        for (one, &now) in all.iter().zip(&now) {
            next.push(turned(g, one, now)?);
        }
        let truth = |g: &mut Graph, op: &str, a: Var, b: Var| {
            g.one(op, &[a, b], vec![], (Type::Bool, vec![], Facts::truth()))
        };
        let goes_on = match (way, limit) {
            (2, Some(limit)) => {
                let one = g.scalar(Type::I64, 1.0)?;
                let after = Facts::whole(0.0, 101.0);
                let after = g.one("Add", &[turn, one], vec![], (Type::I64, vec![], after))?;
                truth(g, "Less", after, limit)?
            }
            (3, _) => {
                let (of, facts) = (g.of(next[0]), g.facts(next[0]));
                if !g.value(next[0]).is_filled() {
                    return None;
                }
                let attributes = vec![int("keepdims", 0)];
                let most =
                    g.one("ReduceMax", &[next[0]], attributes, (of, vec![], facts.moved()))?;
                let bound = g.scalar(of, KEPT - 3.0)?;
                truth(g, "Less", most, bound)?
            }
            _ if g.rng.percent(50) => g.identity(go_on)?,
            _ => {
                let yes = g.scalar(Type::Bool, 1.0)?;
                g.identity(yes)?
            }
        };
        let mut results = vec![goes_on];
        results.append(&mut next);
        if collects {
            if g.rng.percent(40) {
                super::grow(g);
            }
            results.push(row(g, turn, &now)?);
        }
        Some(results)
    });
    g.visible.truncate(visible);
    let (graph, results) = made?;
    let mut outputs = Vec::new();
    for one in &all {
        let mut shape = g.shape(one.initial);
        if let Kind::Grows(part) = one.kind {
            let (from, more) = (shape[0], g.shape(part)[0]);
            shape[0] = match &turns {
                Turns::Known(number, _) => {
                    let (from, more) = (from.sizes()?, more.sizes()?);
                    let mut sizes = [0; RUNS];
                    for (run, size) in sizes.iter_mut().enumerate() {
                        *size = from[run] + more[run] * number[run] as usize;
                    }
                    Dim::Sizes(sizes)
                }
                Turns::Open => g.open_dim(from.most() + more.most() * TURNS_MAX as usize),
            };
        }
        outputs.push((one.of, shape, one.facts.clone()));
    }
    if collects {
        let var = *results.last()?;
        let count = turns.dim(g);
        let shape = [&[count], g.shape(var).as_slice()].concat();
        outputs.push((g.of(var), shape, g.facts(var).moved()));
    }
    let mut inputs = vec![most, begins];
    inputs.extend(all.iter().map(|one| one.initial));
    g.node("Loop", &inputs, vec![body("body", graph)], outputs)?;
    Some(())
}

/// A value to collect in each iteration.
fn row(g: &mut Graph, turn: Var, now: &[Var]) -> Option<Var> {
    let sized: Vec<Var> = now.iter().copied().filter(|&var| g.value(var).is_sized()).collect();
    match g.rng.below(3) {
        0 if !sized.is_empty() => {
            let var = g.rng.pick(&sized);
            altered(g, var)
        }
        1 => {
            // An element of an outer value, by the number of the iteration.
            let x = g.find(|value| {
                value.rank() > 0 && value.is_sized() && value.shape[0].least() >= TURNS_MAX as usize
            })?;
            let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
            g.one(
                "Gather",
                &[x, turn],
                vec![int("axis", 0)],
                (of, shape[1..].to_vec(), facts.moved()),
            )
        }
        _ => {
            let facts = converted(&Facts::whole(0.0, 100.0), Type::I64, Type::F32)?;
            let to = vec![int("to", Type::F32.in_file() as i64)];
            let number = g.one("Cast", &[turn], to, (Type::F32, vec![], facts.clone()))?;
            let half = g.scalar(Type::F32, 0.5)?;
            let scaled = facts.times(&Facts { grid: Some(1), ..Facts::between(0.5, 0.5) });
            g.one("Mul", &[number, half], vec![], (Type::F32, vec![], scaled))
        }
    }
}

pub(super) fn scan(g: &mut Graph) -> Option<()> {
    if g.depth > 1 || g.opset < 9 {
        return None;
    }
    let x = g.value_of(&[Type::F32, Type::F32, Type::I32, Type::I64], |value| {
        value.is_filled() && (1..4).contains(&value.rank())
    })?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    g.sums(of)?;
    let axis = g.rng.below(shape.len());
    let length = shape[axis];
    let mut inner = shape.clone();
    inner.remove(axis);
    let spread = g.usual(of);
    let initial = g.given(of, &inner, spread)?;
    let before = g.facts(initial);
    let always = before.or(&before.plus(&facts.sum(length.most()))).settled(of)?;
    let (back, back_out) = (g.rng.percent(30), g.rng.percent(30));
    let mut parameters = Vec::new();
    let visible = g.visible.len();
    let state = g.parameter(of, inner.clone(), always.clone());
    let part = g.parameter(of, inner.clone(), facts.moved());
    for var in [state, part] {
        let ranked = g.rng.percent(50);
        parameters.push(g.port(var, ranked));
    }
    let made = g.within(parameters, |g| {
        let next = g.one("Add", &[state, part], vec![], (of, inner.clone(), always.clone()))?;
        if g.rng.percent(30) {
            super::grow(g);
        }
        let row = match g.rng.below(3) {
            0 => part,
            1 => next,
            _ => state,
        };
        let row = altered(g, row)?;
        Some(vec![next, row])
    });
    g.visible.truncate(visible);
    let (graph, results) = made?;
    let row = results[1];
    let mut collected = g.shape(row);
    let out_axis = g.rng.below(collected.len() + 1);
    collected.insert(out_axis, length);
    let mut attributes = vec![body("body", graph), int("num_scan_inputs", 1)];
    if axis != 0 {
        attributes.push(ints("scan_input_axes", [axis as i64]));
    }
    if back {
        attributes.push(ints("scan_input_directions", [1]));
    }
    if out_axis != 0 {
        attributes.push(ints("scan_output_axes", [out_axis as i64]));
    }
    if back_out {
        attributes.push(proto::ints("scan_output_directions", [1]));
    }
    let outputs = vec![(of, inner, always), (g.of(row), collected, g.facts(row).moved())];
    g.node("Scan", &[initial, x], attributes, outputs)?;
    Some(())
}
