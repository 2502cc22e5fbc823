//! Operators that move elements, repeat them or leave some out.

use super::{any_axis, is_filled, written};
use crate::{
    graph::{Graph, Spread, Var},
    proto::{float, int, ints, text},
    value::{Dim, Facts, RUNS, Type},
};

pub(super) fn concat(g: &mut Graph) -> Option<()> {
    let first = g.value_of(&Type::ALL, |value| value.rank() > 0 && value.is_sized())?;
    let (of, shape) = (g.of(first), g.shape(first));
    let axis = any_axis(g, shape.len());
    let fits = |other: &[Dim]| {
        other.len() == shape.len()
            && (0..shape.len()).all(|at| at == axis || other[at].equals(shape[at]))
    };
    let mut all = vec![first];
    for _ in 0..g.rng.between(0, 3) {
        let there = g.find(|value| value.of == of && value.is_sized() && fits(&value.shape));
        let next = match there {
            Some(var) if g.rng.percent(70) => var,
            _ => {
                let mut other = shape.clone();
                other[axis] = g.any_dim();
                let spread = g.usual(of);
                g.given(of, &other, spread)?
            }
        };
        let at = g.rng.below(all.len() + 1);
        all.insert(at, next);
    }
    let parts: Vec<Dim> = all.iter().map(|&var| g.value(var).shape[axis]).collect();
    let mut made = shape.clone();
    for (at, dim) in made.iter_mut().enumerate().filter(|(at, _)| *at != axis) {
        let fixed = all.iter().map(|&var| g.value(var).shape[at]);
        *dim = fixed.into_iter().find(|dim| matches!(dim, Dim::Fixed(_))).unwrap_or(*dim);
    }
    made[axis] = Dim::of(&parts, |sizes| sizes.iter().sum())?;
    let facts =
        all[1..].iter().fold(g.facts(all[0]).moved(), |facts, &var| facts.or(&g.facts(var)));
    let at = if g.opset < 11 { axis as i64 } else { written(g, axis, shape.len()) };
    g.one("Concat", &all, vec![int("axis", at)], (of, made, facts))?;
    Some(())
}

pub(super) fn split(g: &mut Graph) -> Option<()> {
    let x = g.value_of(&Type::ALL, |value| value.rank() > 0 && is_filled(value))?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let axis = any_axis(g, shape.len());
    let size = shape[axis];
    let at = if g.opset < 11 { axis as i64 } else { written(g, axis, shape.len()) };
    let mut attributes = vec![int("axis", at)];
    let mut inputs = vec![x];
    let parts: Vec<Dim> = if g.rng.percent(45) {
        // Equal parts, the last one possibly smaller.
        let count = g.rng.between(1, 4);
        let sizes = size.sizes()?.map(|size| size as i64);
        let even = sizes.iter().all(|size| size % count == 0);
        if !even && g.opset < 18 {
            return None;
        }
        if g.opset >= 18 {
            attributes.push(int("num_outputs", count));
        }
        let part = Dim::of(&[size], |size| (size[0] + count - 1) / count)?;
        let last = Dim::of(&[size, part], |sizes| sizes[0] - (count - 1) * sizes[1])?;
        if last.least() == 0 {
            return None;
        }
        let mut parts = vec![part; count as usize];
        *parts.last_mut()? = last;
        parts
    } else {
        // Parts of given sizes; one of them may be the remaining elements.
        let first = Dim::Fixed(g.rng.below(size.least() + 1));
        let rest = Dim::of(&[size, first], |sizes| sizes[0] - sizes[1])?;
        let mut parts = if g.rng.percent(50) { vec![first, rest] } else { vec![rest, first] };
        if g.rng.percent(30) {
            let at = g.rng.below(3);
            parts.insert(at, Dim::Fixed(0));
        }
        if g.opset < 13 {
            let fixed = parts.iter().map(|part| part.same_size().map(|size| size as i64));
            attributes.push(ints("split", fixed.collect::<Option<Vec<_>>>()?));
        } else {
            inputs.push(g.row_of_dims(&parts)?);
        }
        parts
    };
    let outputs = parts.into_iter().map(|part| {
        let mut shape = shape.clone();
        shape[axis] = part;
        (of, shape, facts.moved())
    });
    let outputs = outputs.collect();
    g.node("Split", &inputs, attributes, outputs)?;
    Some(())
}

/// How many elements a slice has.
fn sliced(size: i64, start: i64, end: i64, step: i64) -> i64 {
    let counted = |at: i64| if at < 0 { at.saturating_add(size) } else { at };
    let (start, end) = (counted(start), counted(end));
    let way = if step > 0 {
        end.clamp(0, size) - start.clamp(0, size)
    } else {
        start.clamp(0, size - 1) - end.clamp(-1, size - 1)
    };
    let step = step.abs();
    ((way + step - 1) / step).max(0)
}

pub(super) fn slice(g: &mut Graph) -> Option<()> {
    let x = g.value_of(&Type::ALL, |value| value.rank() > 0 && is_filled(value))?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let mut axes: Vec<usize> = (0..shape.len()).filter(|_| g.rng.percent(40)).collect();
    if axes.is_empty() {
        axes.push(any_axis(g, shape.len()));
    }
    if g.rng.percent(50) {
        axes.reverse();
    }
    let (mut starts, mut ends, mut steps) = (Vec::new(), Vec::new(), Vec::new());
    let mut made = shape.clone();
    for &axis in &axes {
        let sizes = shape[axis].sizes()?.map(|size| size as i64);
        let step = if g.opset < 10 { 1 } else { g.rng.pick(&[1, 1, 1, 2, 3, -1, -1, -2]) };
        let far = |g: &mut Graph, step: i64| match step > 0 {
            true => g.rng.pick(&[i64::MAX, i64::from(i32::MAX), 100, 7]),
            false => g.rng.pick(&[i64::MIN, -i64::from(i32::MAX), -100]),
        };
        let start = match g.rng.below(4) {
            0 => [if step > 0 { 0 } else { -1 }; RUNS],
            1 => {
                let other = g.any_dim().sizes()?;
                other.map(|size| size as i64 - 1)
            }
            _ => [g.rng.between(-5, 5); RUNS],
        };
        let end = match g.rng.below(4) {
            0 | 1 => [far(g, step); RUNS],
            2 => {
                let other = g.any_dim().sizes()?;
                let minus = g.rng.below(2) as i64;
                other.map(|size| size as i64 - minus)
            }
            _ => [g.rng.between(-5, 6); RUNS],
        };
        let mut lengths = [0; RUNS];
        for (run, length) in lengths.iter_mut().enumerate() {
            *length = sliced(sizes[run], start[run], end[run], step) as usize;
        }
        if lengths.contains(&0) && !g.rng.percent(4) {
            return None;
        }
        let is_fixed =
            matches!(shape[axis], Dim::Fixed(_)) && start[0] == start[1] && end[0] == end[1];
        made[axis] = if is_fixed { Dim::Fixed(lengths[0]) } else { Dim::Sizes(lengths) };
        starts.push(start);
        ends.push(end);
        steps.push(step);
    }
    let listed: Vec<i64> = axes
        .iter()
        .map(|&axis| if g.opset < 10 { axis as i64 } else { written(g, axis, shape.len()) })
        .collect();
    let in_order = axes.iter().copied().eq(0..axes.len());
    if g.opset < 10 {
        let same = |numbers: &[[i64; RUNS]]| -> Option<Vec<i64>> {
            numbers.iter().map(|number| (number[0] == number[1]).then_some(number[0])).collect()
        };
        let mut attributes = vec![ints("starts", same(&starts)?), ints("ends", same(&ends)?)];
        if !in_order || g.rng.percent(50) {
            attributes.push(ints("axes", listed));
        }
        g.one("Slice", &[x], attributes, (of, made, facts.moved()))?;
        return Some(());
    }
    let row = |g: &mut Graph, numbers: &[[i64; RUNS]]| {
        let huge = numbers.iter().any(|number| number[0].unsigned_abs() > 4096);
        if huge {
            let same = numbers.iter().map(|number| (number[0] == number[1]).then_some(number[0]));
            let same = same.collect::<Option<Vec<i64>>>()?;
            return g.exact_row(&same);
        }
        g.row_of(numbers)
    };
    let mut inputs = vec![x, row(g, &starts)?, row(g, &ends)?, Var::NONE, Var::NONE];
    if !in_order || g.rng.percent(50) {
        inputs[3] = g.row(&listed)?;
    }
    if steps.iter().any(|step| *step != 1) || g.rng.percent(20) {
        inputs[4] = g.row(&steps)?;
    }
    g.one("Slice", &inputs, vec![], (of, made, facts.moved()))?;
    Some(())
}

pub(super) fn tile(g: &mut Graph) -> Option<()> {
    let types = [Type::F32, Type::I8, Type::U8, Type::I32, Type::I64, Type::Bool];
    let x = g.value_of(&types, |value| value.is_sized() && value.rank() > 0)?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let repeats: Vec<Dim> = shape
        .iter()
        .map(|_| match g.rng.below(6) {
            0 => g.any_dim(),
            1 => Dim::Fixed(2),
            2 => Dim::Fixed(3),
            _ => Dim::Fixed(1),
        })
        .collect();
    let made = shape.iter().zip(&repeats).map(|(&size, &by)| Dim::of(&[size, by], |n| n[0] * n[1]));
    let made = made.collect::<Option<Vec<_>>>()?;
    let row = g.row_of_dims(&repeats)?;
    g.one("Tile", &[x, row], vec![], (of, made, facts.moved()))?;
    Some(())
}

pub(super) fn pad(g: &mut Graph) -> Option<()> {
    let types: &[Type] = match g.opset {
        13.. => {
            &[Type::F32, Type::F32, Type::F16, Type::I8, Type::U8, Type::I32, Type::I64, Type::Bool]
        }
        11 | 12 => &[Type::F32, Type::I8, Type::U8, Type::I32, Type::I64],
        _ => &[Type::F32],
    };
    let x = g.value_of(types, |value| is_filled(value) && value.rank() > 0)?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let mut modes = vec!["constant", "constant", "reflect", "edge"];
    if g.opset >= 19 {
        modes.push("wrap");
    }
    let mode = g.rng.pick(&modes);
    let rank = shape.len();
    let with_axes = g.opset >= 18 && g.rng.percent(40);
    let mut axes: Vec<usize> = (0..rank).filter(|_| !with_axes || g.rng.percent(50)).collect();
    if axes.is_empty() {
        axes.push(0);
    }
    let mut made = shape.clone();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for &axis in &axes {
        let least = shape[axis].least() as i64;
        let most = match mode {
            "reflect" => (least - 1).min(3),
            "wrap" => least.min(3),
            _ => 3,
        };
        let one = |g: &mut Graph| -> Option<[i64; RUNS]> {
            if mode == "constant" && g.opset >= 11 && g.rng.percent(12) {
                return Some(g.any_dim().sizes()?.map(|size| size as i64));
            }
            if mode == "constant" && least > 3 && g.rng.percent(12) {
                return Some([-1; RUNS]);
            }
            Some([if g.rng.percent(45) { 0 } else { g.rng.between(0, most) }; RUNS])
        };
        let (first, last) = (one(g)?, one(g)?);
        let sizes = shape[axis].sizes()?;
        let mut padded = [0; RUNS];
        for (run, padded) in padded.iter_mut().enumerate() {
            *padded = usize::try_from(sizes[run] as i64 + first[run] + last[run]).ok()?;
        }
        let is_fixed =
            matches!(shape[axis], Dim::Fixed(_)) && first[0] == first[1] && last[0] == last[1];
        made[axis] = if is_fixed { Dim::Fixed(padded[0]) } else { Dim::Sizes(padded) };
        before.push(first);
        after.push(last);
    }
    let pads = [before, after].concat();
    let mut attributes = Vec::new();
    if mode != "constant" || g.rng.percent(30) {
        attributes.push(text("mode", mode));
    }
    let value: f64 = if of == Type::Bool { 1.0 } else { g.rng.pick(&[0.0, 1.0, 2.0, 3.5]) };
    let value = if of.is_float() { value } else { value.trunc() };
    let has_value = mode == "constant" && g.rng.percent(60);
    let fill = if has_value { value } else { 0.0 };
    let filled = if mode == "constant" {
        facts.or(&Facts { grid: Some(1), ..Facts::between(fill, fill) })
    } else {
        facts.moved()
    };
    if g.opset < 11 {
        attributes.push(ints("pads", pads.iter().map(|pad| pad[0])));
        if has_value {
            attributes.push(float("value", value));
        }
        g.one("Pad", &[x], attributes, (of, made, filled))?;
        return Some(());
    }
    let mut inputs = vec![x, g.row_of(&pads)?, Var::NONE, Var::NONE];
    if has_value {
        inputs[2] = g.scalar(of, value)?;
    }
    if with_axes {
        let listed: Vec<i64> = axes.iter().map(|&axis| written(g, axis, rank)).collect();
        inputs[3] = g.row(&listed)?;
    }
    g.one("Pad", &inputs, attributes, (of, made, filled))?;
    Some(())
}

pub(super) fn blocks(g: &mut Graph) -> Option<()> {
    let side = g.rng.pick(&[2, 2, 3, 1]);
    let to_space = g.rng.percent(50);
    let of = if g.opset >= 13 { g.rng.pick(&[Type::F32, Type::F32, Type::U8]) } else { Type::F32 };
    let area = side * side;
    let fits = |shape: &[Dim]| {
        let divided = |dim: Dim, by: usize| {
            dim.sizes().is_some_and(|sizes| sizes.iter().all(|size| *size > 0 && size % by == 0))
        };
        shape.len() == 4
            && if to_space {
                divided(shape[1], area)
            } else {
                divided(shape[2], side) && divided(shape[3], side)
            }
    };
    let x = match g.find(|value| value.of == of && fits(&value.shape)) {
        Some(x) => x,
        None => {
            let mut shape = g.any_shape(4);
            if to_space {
                shape[1] = Dim::Fixed(area * g.rng.pick(&[1, 2]));
            } else {
                for axis in [2, 3] {
                    shape[axis] = Dim::of(&[shape[axis]], |size| size[0] * side as i64)?;
                }
            }
            let spread = g.usual(of);
            g.input(of, shape, spread)?
        }
    };
    let (shape, facts) = (g.shape(x), g.facts(x));
    if !g.value(x).is_filled() {
        return None;
    }
    let (side, area) = (side as i64, area as i64);
    let by = |dim: Dim, by: i64| Dim::of(&[dim], |size| size[0] * by);
    let over = |dim: Dim, by: i64| Dim::of(&[dim], |size| size[0] / by);
    let mut attributes = vec![int("blocksize", side)];
    if to_space {
        if g.opset >= 11 && g.rng.percent(60) {
            attributes.push(text("mode", g.rng.pick(&["DCR", "CRD"])));
        }
        let made = vec![shape[0], over(shape[1], area)?, by(shape[2], side)?, by(shape[3], side)?];
        g.one("DepthToSpace", &[x], attributes, (of, made, facts.moved()))?;
    } else {
        let made =
            vec![shape[0], by(shape[1], area)?, over(shape[2], side)?, over(shape[3], side)?];
        g.one("SpaceToDepth", &[x], attributes, (of, made, facts.moved()))?;
    }
    Some(())
}

pub(super) fn reverse(g: &mut Graph) -> Option<()> {
    if g.opset < 10 {
        return None;
    }
    let x = g.value_of(&Type::ALL, |value| value.rank() > 1 && is_filled(value))?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let batch = g.rng.below(2);
    let lengths = Spread::whole(1, shape[1 - batch].least() as i64);
    let lengths = g.given(Type::I64, &[shape[batch]], lengths)?;
    let attributes = vec![int("batch_axis", batch as i64), int("time_axis", 1 - batch as i64)];
    g.one("ReverseSequence", &[x, lengths], attributes, (of, shape, facts.moved()))?;
    Some(())
}

pub(super) fn crop(g: &mut Graph) -> Option<()> {
    if g.opset < 18 {
        return None;
    }
    let types = [Type::F32, Type::I32, Type::I64];
    let x = g.value_of(&types, |value| value.rank() > 0 && is_filled(value))?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let rank = shape.len();
    let axes: Vec<usize> =
        if g.rng.percent(50) { (0..rank).collect() } else { vec![any_axis(g, rank)] };
    let wanted = g.any_shape(axes.len());
    if wanted.iter().any(|dim| dim.least() == 0) {
        return None;
    }
    let mut made = shape;
    for (&axis, &dim) in axes.iter().zip(&wanted) {
        made[axis] = dim;
    }
    let row = g.row_of_dims(&wanted)?;
    let listed: Vec<i64> = axes.iter().map(|&axis| written(g, axis, rank)).collect();
    let facts = facts.or(&Facts::whole(0.0, 0.0));
    g.one("CenterCropPad", &[x, row], vec![ints("axes", listed)], (of, made, facts))?;
    Some(())
}

pub(super) fn triangle(g: &mut Graph) -> Option<()> {
    if g.opset < 14 {
        return None;
    }
    let types = [Type::F32, Type::F32, Type::I32, Type::I64, Type::Bool];
    let x = g.value_of(&types, |value| value.rank() > 1 && is_filled(value))?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let mut inputs = vec![x];
    if g.rng.percent(60) {
        let k = g.rng.between(-3, 4);
        let number = if g.rng.percent(30) {
            g.any_dim().sizes()?.map(|size| size as i64)
        } else {
            [k; RUNS]
        };
        inputs.push(g.number(number)?);
    }
    let attributes = vec![int("upper", g.rng.below(2) as i64)];
    let facts = facts.or(&Facts::whole(0.0, 0.0));
    g.one("Trilu", &inputs, attributes, (of, shape, facts))?;
    Some(())
}

pub(super) fn diagonal(g: &mut Graph) -> Option<()> {
    if g.opset < 9 {
        return None;
    }
    let types = [Type::F32, Type::I32, Type::I64];
    let x = g.value_of(&types, |value| value.rank() == 2 && is_filled(value))?;
    let (of, shape) = (g.of(x), g.shape(x));
    let to = g.rng.pick(&types);
    let mut attributes = vec![int("k", g.rng.between(-3, 3))];
    let to = if g.rng.percent(50) {
        attributes.push(int("dtype", to.in_file() as i64));
        to
    } else {
        of
    };
    g.one("EyeLike", &[x], attributes, (to, shape, Facts::truth()))?;
    Some(())
}
