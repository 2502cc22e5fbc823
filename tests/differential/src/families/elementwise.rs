//! Functions of single elements.

use super::{is_filled, narrower};
use crate::{
    graph::{Graph, Spread, Var},
    proto::{float, int, text},
    value::{Facts, Type, broadcast},
};

/// Error of functions that engines approximate, as a part of the result's size.
const APPROXIMATE: f64 = 4e-7;

/// The kind of a function.
#[derive(Clone, Copy)]
enum Kind {
    /// Computed, by a function that rises, falls or does neither, with its greatest slope.
    Smooth(fn(f64) -> f64, fn(f64, f64) -> f64),
    /// Multiples stay multiples.
    Exact(fn(f64) -> f64),
    /// Integers from exact numbers.
    Whole(fn(f64) -> f64),
}

/// A function of one operand.
struct Function {
    name: &'static str,
    since: i64,
    /// The range of its operand.
    domain: (f64, f64),
    kind: Kind,
    types: &'static [Type],
}

const FLOATS: &[Type] = &[Type::F32, Type::F32, Type::F16];
const SIGNED: &[Type] = &[Type::F32, Type::F32, Type::F16, Type::I8, Type::I32, Type::I64];
const NUMBERS: &[Type] =
    &[Type::F32, Type::F32, Type::F16, Type::I8, Type::U8, Type::I32, Type::I64];
const ANY: (f64, f64) = (-1e9, 1e9);

fn one(_: f64, _: f64) -> f64 {
    1.0
}

fn two(_: f64, _: f64) -> f64 {
    2.0
}

fn bent(x: f64) -> f64 {
    if x < 0.0 { x.exp_m1() } else { x }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn smooth(
    name: &'static str,
    since: i64,
    domain: (f64, f64),
    function: fn(f64) -> f64,
    slope: fn(f64, f64) -> f64,
) -> Function {
    Function { name, since, domain, kind: Kind::Smooth(function, slope), types: FLOATS }
}

fn only_f32(function: Function) -> Function {
    Function { types: &[Type::F32], ..function }
}

fn functions() -> Vec<Function> {
    let exact = |name, since, types, function| Function {
        name,
        since,
        domain: ANY,
        kind: Kind::Exact(function),
        types,
    };
    let whole = |name, since, types, function| Function {
        name,
        since,
        domain: ANY,
        kind: Kind::Whole(function),
        types,
    };
    vec![
        exact("Abs", 6, NUMBERS, f64::abs),
        exact("Neg", 6, SIGNED, |x| -x),
        exact("Relu", 14, &[Type::F32, Type::F16, Type::I8, Type::I32], |x| x.max(0.0)),
        exact("Relu", 6, FLOATS, |x| x.max(0.0)),
        whole("Ceil", 6, FLOATS, f64::ceil),
        whole("Floor", 6, FLOATS, f64::floor),
        whole("Round", 11, FLOATS, f64::round_ties_even),
        whole("Sign", 9, NUMBERS, |x| if x == 0.0 { 0.0 } else { x.signum() }),
        smooth("Acos", 7, (-0.9, 0.9), f64::acos, |_, _| 2.5),
        smooth("Acosh", 9, (1.25, 64.0), f64::acosh, |_, _| 1.5),
        smooth("Asin", 7, (-0.9, 0.9), f64::asin, |_, _| 2.5),
        smooth("Asinh", 9, (-64.0, 64.0), f64::asinh, one),
        smooth("Atan", 7, ANY, f64::atan, one),
        smooth("Atanh", 9, (-0.9, 0.9), f64::atanh, |_, _| 6.0),
        smooth("Cos", 7, (-60.0, 60.0), |_| 1.0, one),
        smooth("Cosh", 9, (-4.0, 4.0), f64::cosh, |low, high| low.cosh().max(high.cosh())),
        smooth("Elu", 6, (-20.0, 64.0), bent, one),
        smooth("Erf", 9, ANY, f64::tanh, two),
        smooth("Exp", 6, (-30.0, 4.0), f64::exp, |_, high| high.exp()),
        smooth("Gelu", 20, (-64.0, 64.0), |x| x.max(-0.2), two),
        smooth("HardSigmoid", 6, ANY, |x| (0.2 * x + 0.5).clamp(0.0, 1.0), one),
        smooth("HardSwish", 14, (-64.0, 64.0), |x| x.max(-0.4), two),
        smooth("LeakyRelu", 6, ANY, |x| x.max(0.01 * x), one),
        smooth("Log", 6, (0.25, 4096.0), f64::ln, |low, _| 1.0 / low),
        smooth("Mish", 18, (-64.0, 64.0), |x| x.max(-0.4), two),
        smooth("Reciprocal", 6, (0.25, 4096.0), |x| 1.0 / x, |low, _| 1.0 / (low * low)),
        smooth(
            "Selu",
            6,
            (-20.0, 64.0),
            |x| if x < 0.0 { 1.8 * x.exp_m1() } else { 1.06 * x },
            two,
        ),
        smooth("Sigmoid", 6, ANY, sigmoid, one),
        smooth("Sin", 7, (-60.0, 60.0), |_| 1.0, one),
        smooth("Sinh", 9, (-4.0, 4.0), f64::sinh, |low, high| low.cosh().max(high.cosh())),
        smooth("Softplus", 1, (-64.0, 64.0), |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), one),
        smooth("Softsign", 1, ANY, |x| x / (1.0 + x.abs()), one),
        smooth("Sqrt", 6, (0.25, 4096.0), f64::sqrt, |low, _| 0.5 / low.sqrt()),
        Function {
            types: &[Type::F32],
            ..smooth("Swish", 24, (-64.0, 64.0), |x| x.max(-0.4), two)
        },
        smooth("Tan", 7, (-1.1, 1.1), f64::tan, |_, _| 5.0),
        smooth("Tanh", 6, ANY, f64::tanh, one),
        only_f32(smooth("ScaledTanh", 1, ANY, f64::tanh, one)),
        only_f32(smooth("ParametricSoftplus", 1, (-64.0, 64.0), |x| x.max(0.0) + 0.7, one)),
        only_f32(smooth("Celu", 12, (-20.0, 64.0), bent, one)),
    ]
}

/// Reads a value whose elements are in a domain.
fn tamed(g: &mut Graph, types: &[Type], (low, high): (f64, f64), exact: bool) -> Option<Var> {
    let fits = |facts: &Facts| facts.within(low, high);
    if g.rng.percent(50)
        && let Some(var) = g.find(|value| {
            types.contains(&value.of) && fits(&value.facts) && (value.is_exact() || !exact)
        })
    {
        return Some(var);
    }
    let var = g.value_of(types, |value| value.is_exact() || !exact)?;
    g.clipped(var, low, high)
}

pub(super) fn unary(g: &mut Graph) -> Option<()> {
    let functions = functions();
    let function = &functions[g.rng.below(functions.len())];
    // Two operators that ONNX once had as experimental.
    let is_old = matches!(function.name, "ScaledTanh" | "ParametricSoftplus");
    if g.opset < function.since || (is_old && g.opset >= 10) {
        return None;
    }
    let is_exact = !matches!(function.kind, Kind::Smooth(..));
    let needs_exact = matches!(function.kind, Kind::Whole(_));
    let x = tamed(g, function.types, function.domain, needs_exact)?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    if g.opset < 13 && matches!(function.name, "Neg") && of == Type::U8 {
        return None;
    }
    let (low, high) = (facts.low, facts.high);
    let made = match function.kind {
        Kind::Exact(function) => {
            let (a, b) = (function(low), function(high));
            let inner = if low < 0.0 && high > 0.0 { function(0.0) } else { a };
            let (least, most) = (a.min(b).min(inner), a.max(b).max(inner));
            Facts { low: least, high: most, ..facts.moved() }
        }
        Kind::Whole(function) => {
            let (a, b) = (function(low), function(high));
            Facts::whole(a.min(b), a.max(b))
        }
        Kind::Smooth(of_x, slope) => {
            let (a, b) = (of_x(low), of_x(high));
            let size = a.abs().max(b.abs()).max(0.4);
            let (least, most) = match function.name {
                "Selu" => (a.min(b).min(low), a.max(b).max(0.0)),
                "Cos" | "Sin" | "Erf" => (-1.0, 1.0),
                "Cosh" => (1.0, size),
                "Gelu" | "HardSwish" | "Mish" | "Swish" => (-0.4, size),
                _ => (a.min(b), a.max(b)),
            };
            let error = facts.error * slope(low, high) + size * APPROXIMATE;
            Facts::about(least, most, error)
        }
    };
    let mut attributes = Vec::new();
    let mut made = made;
    if is_old {
        attributes.extend([float("alpha", 1.0), float("beta", 1.0)]);
        (made.low, made.high) = (made.low.min(0.0) - 1.0, made.high + 1.0);
    }
    if !is_exact && g.rng.percent(40) {
        match function.name {
            "Elu" | "LeakyRelu" => {
                let alpha = g.rng.pick(&[0.1, 0.3, 0.75]);
                attributes.push(float("alpha", alpha));
                made.low = (facts.low * alpha).min(0.0).min(made.low);
                made.high = made.high.max(facts.high.max(facts.low.abs() * alpha));
            }
            "HardSigmoid" => {
                attributes.extend([float("alpha", 0.15), float("beta", 0.4)]);
                (made.low, made.high) = (0.0, 1.0);
            }
            "Gelu" if g.rng.percent(70) => attributes.push(text("approximate", "tanh")),
            "Celu" => attributes.push(float("alpha", 1.5)),
            "Swish" => attributes.push(float("alpha", 1.25)),
            "Selu" => {
                attributes.extend([float("alpha", 1.5), float("gamma", 1.1)]);
                made.high = (made.high * 1.1).max(0.0);
                made.low = made.low.min(0.0);
            }
            _ => {}
        }
        if function.name == "Celu" {
            made.low = made.low.min(-1.5);
        }
        if function.name == "Swish" || function.name == "Selu" {
            made.low = made.low.min(-2.0);
        }
    }
    if g.rng.percent(6) && of.is_float() {
        return threshold(g, x);
    }
    g.one(function.name, &[x], attributes, (of, shape, made))?;
    Some(())
}

/// Step functions.
fn threshold(g: &mut Graph, x: Var) -> Option<()> {
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    if !facts.is_exact() || g.opset < 10 {
        return None;
    }
    let made = |low: f64, high: f64| Facts { low, high, ..facts.moved() };
    if g.rng.percent(50) {
        let alpha = g.rng.pick(&[0.5, 1.0, -0.25]);
        let kept = made(facts.low.min(0.0), facts.high.max(0.0));
        g.one("ThresholdedRelu", &[x], vec![float("alpha", alpha)], (of, shape, kept))?;
        return Some(());
    }
    let attributes = vec![float("lambd", 0.5), float("bias", 0.25)];
    let moved = facts.plus(&Facts { grid: Some(2), ..Facts::between(-0.25, 0.25) });
    let moved = Facts { low: moved.low.min(0.0), high: moved.high.max(0.0), ..moved };
    g.one("Shrink", &[x], attributes, (of, shape, moved))?;
    Some(())
}

/// The second operand of a binary function: a value that fits, a constant or an input of a shape that broadcasts.
pub(super) fn partner(
    g: &mut Graph,
    x: Var,
    want: impl Fn(&Facts) -> bool,
    spread: impl Fn(&mut Graph, Type) -> Spread,
) -> Option<Var> {
    let (of, shape) = (g.of(x), g.shape(x));
    if g.rng.percent(60)
        && let Some(y) = g.find(|value| {
            value.of == of && want(&value.facts) && broadcast(&shape, &value.shape).is_some()
        })
    {
        return Some(y);
    }
    let narrow = narrower(g, &shape);
    let spread = spread(g, of);
    g.given(of, &narrow, spread)
}

fn either_way<T>(g: &mut Graph, a: T, b: T) -> (T, T) {
    if g.rng.percent(50) { (a, b) } else { (b, a) }
}

pub(super) fn arithmetic(g: &mut Graph) -> Option<()> {
    let op = g.rng.pick(&["Add", "Add", "Sub", "Mul", "Mul", "Div"]);
    let types: &[Type] =
        if g.opset >= 14 { NUMBERS } else { &[Type::F32, Type::F16, Type::I32, Type::I64] };
    let x = g.value_of(types, |_| true)?;
    let of = g.of(x);
    if op == "Div" {
        let low = if of.is_float() { 0.25 } else { 1.0 };
        let away = |facts: &Facts| facts.low >= low || facts.high <= -low;
        let y = partner(
            g,
            x,
            |facts| away(facts) && facts.size() < 1e4,
            |g, of| match of {
                Type::U8 => Spread::whole(1, 9),
                of if of.is_float() => Spread::Grid(2, 0.5, 6.0),
                _ if g.rng.percent(50) => Spread::whole(-9, -1),
                _ => Spread::whole(1, 9),
            },
        )?;
        return divided(g, x, y);
    }
    let y = partner(g, x, |_| true, Graph::usual)?;
    let (a, b) = either_way(g, x, y);
    let shape = broadcast(&g.shape(a), &g.shape(b))?;
    let (of_a, of_b) = (g.facts(a), g.facts(b));
    // Some later operators may not take two words.
    g.is_wide |= op == "Mul" && of == Type::I64;
    let facts = match op {
        "Add" => of_a.plus(&of_b),
        "Sub" => of_a.minus(&of_b),
        _ => of_a.times(&of_b),
    };
    g.one(op, &[a, b], vec![], (of, shape, facts))?;
    Some(())
}

fn divided(g: &mut Graph, a: Var, b: Var) -> Option<()> {
    let of = g.of(a);
    let shape = broadcast(&g.shape(a), &g.shape(b))?;
    let (of_a, of_b) = (g.facts(a), g.facts(b));
    let least = of_b.low.abs().min(of_b.high.abs());
    let size = of_a.size() / least;
    let facts = if of.is_float() {
        let error = of_a.error / least + of_b.error * of_a.size() / (least * least);
        Facts::about(-size, size, error)
    } else {
        // The quotient of the smallest number and -1 wraps around.
        if of == Type::I8 && of_a.low <= -128.0 {
            return None;
        }
        let low = if of_a.low >= 0.0 && of_b.low >= 0.0 { 0.0 } else { -size };
        Facts::whole(low, size)
    };
    g.one("Div", &[a, b], vec![], (of, shape, facts))?;
    Some(())
}

pub(super) fn comparison(g: &mut Graph) -> Option<()> {
    let mut ops = vec!["Equal", "Greater", "Less"];
    if g.opset >= 12 {
        ops.extend(["GreaterOrEqual", "LessOrEqual"]);
    }
    let op = g.rng.pick(&ops);
    let types: &[Type] = match op {
        "Equal" if g.opset < 11 => &[Type::Bool, Type::I32, Type::I64],
        "Equal" => &Type::ALL,
        _ => NUMBERS,
    };
    let x = g.value_of(types, |value| value.is_exact())?;
    let y = partner(g, x, Facts::is_exact, Graph::usual)?;
    let (a, b) = either_way(g, x, y);
    let shape = broadcast(&g.shape(a), &g.shape(b))?;
    g.one(op, &[a, b], vec![], (Type::Bool, shape, Facts::truth()))?;
    Some(())
}

/// A truth value for each element of a shape that broadcasts to this one.
pub(super) fn truth(g: &mut Graph, shape: &[crate::value::Dim]) -> Option<Var> {
    if let Some(var) = g.find(|value| {
        value.of == Type::Bool && broadcast(shape, &value.shape).is_some_and(|made| made == shape)
    }) {
        return Some(var);
    }
    let shape = narrower(g, shape);
    g.given(Type::Bool, &shape, Spread::whole(0, 1))
}

pub(super) fn logic(g: &mut Graph) -> Option<()> {
    let x = g.value_of(&[Type::Bool], |_| true)?;
    let op = g.rng.pick(&["Not", "And", "Or", "Xor"]);
    if op == "Not" {
        let shape = g.shape(x);
        g.one(op, &[x], vec![], (Type::Bool, shape, Facts::truth()))?;
        return Some(());
    }
    let y = partner(g, x, |_| true, |_, _| Spread::whole(0, 1))?;
    let shape = broadcast(&g.shape(x), &g.shape(y))?;
    g.one(op, &[x, y], vec![], (Type::Bool, shape, Facts::truth()))?;
    Some(())
}

pub(super) fn select(g: &mut Graph) -> Option<()> {
    if g.opset < 9 {
        return None;
    }
    let x = g.value_of(NUMBERS, |_| true)?;
    let y = partner(g, x, |_| true, Graph::usual)?;
    let (a, b) = either_way(g, x, y);
    let shape = broadcast(&g.shape(a), &g.shape(b))?;
    let condition = truth(g, &shape)?;
    let shape = broadcast(&shape, &g.shape(condition))?;
    let facts = g.facts(a).or(&g.facts(b));
    g.one("Where", &[condition, a, b], vec![], (g.of(a), shape, facts))?;
    Some(())
}

/// The facts about numbers converted to another type.
pub(super) fn converted(facts: &Facts, from: Type, to: Type) -> Option<Facts> {
    let (low, high) = to.range();
    Some(match (from, to) {
        (_, Type::Bool) => facts.is_exact().then(Facts::truth)?,
        (from, to) if from.is_float() && !to.is_float() => {
            if !facts.is_exact() || !facts.within(low, high) {
                return None;
            }
            Facts::whole(facts.low.trunc(), facts.high.trunc())
        }
        (_, to) if to.is_float() => match facts.grid {
            Some(_) => facts.moved(),
            // Rounded, but in the same way by every engine.
            None => Facts::about(facts.low, facts.high, facts.error),
        },
        _ if !facts.is_exact() => return None,
        // Narrow integers wrap around.
        (_, Type::I8 | Type::U8) if !facts.within(low, high) => Facts::whole(low, high),
        _ if facts.within(low, high) => Facts { numbers: facts.numbers.clone(), ..facts.moved() },
        _ => return None,
    })
}

pub(super) fn cast(g: &mut Graph) -> Option<()> {
    let x = g.value_of(&Type::ALL, |_| true)?;
    let to = g.rng.pick(&Type::ALL);
    let (of, shape) = (g.of(x), g.shape(x));
    if g.opset >= 26 && matches!((of, to), (Type::I8, Type::U8) | (Type::U8, Type::I8)) {
        let (low, high) = to.range();
        let attributes = vec![int("to", to.in_file() as i64)];
        g.one("BitCast", &[x], attributes, (to, shape, Facts::whole(low, high)))?;
        return Some(());
    }
    let facts = converted(&g.facts(x), of, to)?;
    if g.opset >= 15 && g.rng.percent(20) {
        let like = g.find(|value| value.of == to)?;
        g.one("CastLike", &[x, like], vec![], (to, shape, facts))?;
        return Some(());
    }
    g.one("Cast", &[x], vec![int("to", to.in_file() as i64)], (to, shape, facts))?;
    Some(())
}

pub(super) fn several(g: &mut Graph) -> Option<()> {
    let op = g.rng.pick(&["Max", "Min", "Sum", "Mean"]);
    if g.opset < 8 {
        return None;
    }
    let types: &[Type] = match op {
        "Max" | "Min" if g.opset >= 12 => NUMBERS,
        _ => FLOATS,
    };
    let mut all = vec![g.value_of(types, |_| true)?];
    for _ in 0..g.rng.below(4) {
        all.push(partner(g, all[0], |_| true, Graph::usual)?);
    }
    let mut shape = g.shape(all[0]);
    let mut facts = g.facts(all[0]).moved();
    for &next in &all[1..] {
        shape = broadcast(&shape, &g.shape(next))?;
        let other = g.facts(next);
        facts = match op {
            "Max" => Facts {
                low: facts.low.max(other.low),
                high: facts.high.max(other.high),
                ..facts.or(&other)
            },
            "Min" => Facts {
                low: facts.low.min(other.low),
                high: facts.high.min(other.high),
                ..facts.or(&other)
            },
            _ => facts.plus(&other),
        };
    }
    if op == "Mean" {
        let count = all.len() as f64;
        facts = Facts::about(facts.low / count, facts.high / count, facts.error / count);
    }
    g.one(op, &all, vec![], (g.of(all[0]), shape, facts))?;
    Some(())
}

pub(super) fn power(g: &mut Graph) -> Option<()> {
    if g.rng.percent(30) && g.opset >= 12 {
        let x = tamed(g, &[Type::I32, Type::I64], (-5.0, 5.0), true)?;
        let of = g.of(x);
        let exponent_of = g.rng.pick(&[of, Type::F32, Type::I32]);
        let narrow = narrower(g, &g.shape(x));
        let y = g.given(exponent_of, &narrow, Spread::whole(0, 4))?;
        let shape = broadcast(&g.shape(x), &g.shape(y))?;
        g.one("Pow", &[x, y], vec![], (of, shape, Facts::whole(-625.0, 625.0)))?;
        return Some(());
    }
    let whole = g.rng.percent(40);
    let (domain, exponents) = match whole {
        true => ((-6.0, 6.0), [2.0, 3.0, 1.0, 0.0]),
        false => ((0.5, 6.0), [0.5, -1.0, 1.5, -2.0]),
    };
    let x = tamed(g, FLOATS, domain, false)?;
    let (of, facts) = (g.of(x), g.facts(x));
    let exponent = g.rng.pick(&exponents);
    let y = match g.rng.below(2) {
        0 => g.scalar(of, exponent)?,
        _ => g.constant(of, &[1], Spread::these([exponent]))?,
    };
    let shape = broadcast(&g.shape(x), &g.shape(y))?;
    let (a, b) = (facts.low.powf(exponent), facts.high.powf(exponent));
    let size = a.abs().max(b.abs()).max(1.0);
    let slope = exponent.abs() * size * if whole { 1.0 } else { 2.0 };
    let low = if whole && exponent % 2.0 == 1.0 { a.min(b) } else { 0.0 };
    let facts = Facts::about(low.min(0.0), size, facts.error * slope + size * 1e-6);
    g.one("Pow", &[x, y], vec![], (of, shape, facts))?;
    Some(())
}

pub(super) fn remainder(g: &mut Graph) -> Option<()> {
    if g.opset < 10 {
        return None;
    }
    let types = &[Type::F32, Type::F16, Type::I8, Type::U8, Type::I32, Type::I64];
    let x = g.value_of(types, |value| value.is_exact() && value.facts.size() < 1e6)?;
    let (of, facts) = (g.of(x), g.facts(x));
    if of.is_float() && facts.grid.is_none() {
        return None;
    }
    let signed = of != Type::U8;
    let y = partner(
        g,
        x,
        |_| false,
        |g, of| match of {
            of if of.is_float() => Spread::Grid(1, 0.5, 4.0),
            _ if signed && g.rng.percent(40) => Spread::whole(-7, -1),
            _ => Spread::whole(1, 7),
        },
    )?;
    let shape = broadcast(&g.shape(x), &g.shape(y))?;
    let size = g.facts(y).size();
    let fmod = of.is_float() || g.rng.percent(40);
    let low = if signed { -size } else { 0.0 };
    let grid = facts.grid.zip(g.facts(y).grid).map(|(a, b)| a.max(b));
    let made = Facts { grid, ..Facts::between(low, size) };
    g.one("Mod", &[x, y], vec![int("fmod", i64::from(fmod))], (of, shape, made))?;
    Some(())
}

pub(super) fn bits(g: &mut Graph) -> Option<()> {
    if g.opset >= 11 && g.rng.percent(40) {
        let x = g.value_of(&[Type::U8], |value| value.facts.high < 32.0)?;
        let left = g.rng.percent(50);
        let direction = if left { "LEFT" } else { "RIGHT" };
        let y = partner(g, x, |_| false, |_, _| Spread::whole(0, 2))?;
        let shape = broadcast(&g.shape(x), &g.shape(y))?;
        let high = g.facts(x).high * if left { 4.0 } else { 1.0 };
        let facts = Facts::whole(0.0, high);
        g.one("BitShift", &[x, y], vec![text("direction", direction)], (Type::U8, shape, facts))?;
        return Some(());
    }
    if g.opset < 18 {
        return None;
    }
    let types = &[Type::I8, Type::U8, Type::I32, Type::I64];
    let x = g.value_of(types, |value| value.is_exact() && value.facts.size() < 1e6)?;
    let of = g.of(x);
    let size = |facts: &Facts| 2f64.powf((facts.size() + 1.0).log2().ceil());
    let bound = |size: f64| match of {
        Type::U8 => Facts::whole(0.0, 255.0),
        Type::I8 => Facts::whole(-128.0, 127.0),
        _ => Facts::whole(-size, size),
    };
    if g.rng.percent(25) {
        let (shape, facts) = (g.shape(x), bound(size(&g.facts(x))));
        g.one("BitwiseNot", &[x], vec![], (of, shape, facts))?;
        return Some(());
    }
    let op = g.rng.pick(&["BitwiseAnd", "BitwiseOr", "BitwiseXor"]);
    let y = partner(g, x, |facts| facts.is_exact() && facts.size() < 1e6, Graph::usual)?;
    let shape = broadcast(&g.shape(x), &g.shape(y))?;
    let facts = bound(size(&g.facts(x)).max(size(&g.facts(y))));
    g.one(op, &[x, y], vec![], (of, shape, facts))?;
    Some(())
}

pub(super) fn clip(g: &mut Graph) -> Option<()> {
    let types: &[Type] = if g.opset >= 12 { NUMBERS } else { &[Type::F32] };
    let x = g.value_of(types, |_| true)?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let (low, high) = if of == Type::U8 { (2.0, 9.0) } else { (-2.0, 1.0) };
    if g.opset < 11 {
        g.clipped(x, low, high)?;
        return Some(());
    }
    let bound = |g: &mut Graph, number: f64| -> Option<Var> {
        if g.rng.percent(25) {
            return g.input(of, vec![], Spread::these([number]));
        }
        g.scalar(of, number)
    };
    let (has_low, has_high) = (g.rng.percent(70), g.rng.percent(70));
    let mut made = facts.moved();
    let mut inputs = vec![x, Var::NONE, Var::NONE];
    if has_low {
        inputs[1] = bound(g, low)?;
        (made.low, made.high) = (made.low.max(low), made.high.max(low));
    }
    if has_high {
        inputs[2] = bound(g, high)?;
        (made.low, made.high) = (made.low.min(high), made.high.min(high));
    }
    g.one("Clip", &inputs, vec![], (of, shape, made))?;
    Some(())
}

pub(super) fn prelu(g: &mut Graph) -> Option<()> {
    let x = g.value_of(FLOATS, is_filled)?;
    let (of, shape) = (g.of(x), g.shape(x));
    let narrow = narrower(g, &shape);
    let slope = g.given(of, &narrow, Spread::Grid(2, -1.0, 1.0))?;
    if broadcast(&shape, &g.shape(slope))? != shape {
        return None;
    }
    let facts = g.facts(x);
    let facts = facts.times(&g.facts(slope)).or(&facts);
    g.one("PRelu", &[x, slope], vec![], (of, shape, facts))?;
    Some(())
}

/// Infinities and NaN.
pub(super) fn special(g: &mut Graph) -> Option<()> {
    let x = g.value_of(&[Type::F32], |value| value.is_exact())?;
    let shape = g.shape(x);
    let narrow = narrower(g, &shape);
    let sizes: Vec<usize> = narrow.iter().map(|dim| dim.same_size()).collect::<Option<_>>()?;
    let count: usize = sizes.iter().product();
    let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.0, -2.0];
    let numbers: Vec<f64> = (0..count).map(|_| g.rng.pick(&odd)).collect();
    let is_inf = g.opset >= 10 && g.rng.percent(60);
    if g.opset < 9 {
        return None;
    }
    // No range is known for these, so only tests of their kind are used.
    let odd = g.odd_constant(&sizes, &numbers);
    let condition = truth(g, &shape)?;
    let mixed = broadcast(&broadcast(&shape, &narrow)?, &g.shape(condition))?;
    let facts = Facts::about(0.0, 0.0, 1e-9);
    let mixed_var =
        g.one("Where", &[condition, x, odd], vec![], (Type::F32, mixed.clone(), facts))?;
    let (op, attributes) = match is_inf {
        true => {
            let detect = |g: &mut Graph| i64::from(g.rng.percent(70));
            let (up, down) = (detect(g), detect(g));
            ("IsInf", vec![int("detect_positive", up), int("detect_negative", down)])
        }
        false => ("IsNaN", vec![]),
    };
    g.one(op, &[mixed_var], attributes, (Type::Bool, mixed, Facts::truth()))?;
    g.hide(&[odd, mixed_var]);
    Some(())
}

/// Operators that change nothing.
pub(super) fn same(g: &mut Graph) -> Option<()> {
    let x = g.value_of(&Type::ALL, |_| true)?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    if of.is_float() && g.rng.percent(50) {
        let mut inputs = vec![x];
        if g.opset >= 12 && g.rng.percent(50) {
            inputs.push(g.scalar(Type::F32, 0.3)?);
        }
        let mut outputs = vec![(of, shape.clone(), facts)];
        if g.opset >= 12 && g.rng.percent(40) {
            outputs.push((Type::Bool, shape, Facts::whole(1.0, 1.0)));
        }
        g.node("Dropout", &inputs, vec![], outputs)?;
        return Some(());
    }
    g.identity(x)?;
    Some(())
}
