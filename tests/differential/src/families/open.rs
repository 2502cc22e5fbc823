//! Operators that may follow a value with data-dependent sizes that the generator does not know.

use super::is_filled;
use crate::{
    graph::{Graph, Spread},
    proto::{held, int, ints, tensor},
    value::{Dim, Facts, Type, count_most},
};

pub(super) fn any(g: &mut Graph) -> Option<()> {
    let x = g.find(|value| !value.is_sized())?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let axis = shape.iter().position(|dim| dim.is_open())?;
    let most = shape[axis].most();
    let sizes = Facts::whole(0.0, shape.iter().map(|dim| dim.most()).max()? as f64);
    match g.rng.below(10) {
        0 => {
            let made = vec![Dim::Fixed(shape.len())];
            let row = g.one("Shape", &[x], vec![], (Type::I64, made, sizes))?;
            if g.opset < 9 || g.rng.percent(20) {
                return Some(());
            }
            if g.rng.percent(50) {
                let attributes = vec![held("value", tensor("", Type::F32, &[1], &[2.0]))];
                let filled = (Type::F32, shape, Facts::whole(2.0, 2.0));
                g.one("ConstantOfShape", &[row], attributes, filled)?;
            } else {
                let number = g.scalar(Type::F32, 1.5)?;
                let filled = Facts { grid: Some(1), ..Facts::between(1.5, 1.5) };
                g.one("Expand", &[number, row], vec![], (Type::F32, shape, filled))?;
            }
        }
        1 if matches!(of, Type::F32 | Type::I32 | Type::I64) => {
            // The sum of an empty tensor is 0.
            g.sums(of)?;
            let axes: Vec<usize> =
                (0..shape.len()).filter(|at| *at == axis || g.rng.percent(30)).collect();
            let count = axes.iter().map(|&axis| shape[axis].most()).product();
            let keep = g.rng.below(2) as i64;
            let mut attributes = vec![int("keepdims", keep)];
            let listed: Vec<i64> = axes.iter().map(|&axis| axis as i64).collect();
            let mut inputs = vec![x];
            if g.opset < 13 {
                attributes.push(ints("axes", listed));
            } else {
                inputs.push(g.row(&listed)?);
            }
            let mut made = shape;
            for &axis in axes.iter().rev() {
                if keep == 1 {
                    made[axis] = Dim::Fixed(1);
                } else {
                    made.remove(axis);
                }
            }
            g.one("ReduceSum", &inputs, attributes, (of, made, facts.sum(count)))?;
        }
        2 => {
            let other_size = g.any_dim();
            let mut other = shape.clone();
            other[axis] = other_size;
            if other.iter().any(|dim| dim.is_open()) {
                return None;
            }
            let spread = g.usual(of);
            let y = g.given(of, &other, spread)?;
            let joined = facts.or(&g.facts(y));
            let mut made = shape;
            made[axis] = g.open_dim(most + other_size.most());
            let inputs = if g.rng.percent(50) { [x, y] } else { [y, x] };
            g.one("Concat", &inputs, vec![int("axis", axis as i64)], (of, made, joined))?;
        }
        3 if g.opset >= 10 => {
            let end = g.rng.between(1, 4);
            let mut inputs = vec![x, g.row(&[0])?, g.row(&[end])?, g.row(&[axis as i64])?];
            let backwards = g.rng.percent(40);
            if backwards {
                inputs[1] = g.row(&[-1])?;
                inputs[2] = g.row(&[-1 - end])?;
                inputs.push(g.row(&[-1])?);
            }
            let mut made = shape;
            made[axis] = g.open_dim(most.min(end as usize));
            g.one("Slice", &inputs, vec![], (of, made, facts.moved()))?;
        }
        4 if of == Type::F32 && axis + 1 < shape.len() => {
            let inner = shape[shape.len() - 1];
            if inner.is_open() || inner.least() == 0 {
                return None;
            }
            let columns = g.any_dim();
            let y = g.given(of, &[inner, columns], Spread::Grid(2, -2.0, 2.0))?;
            let made_facts = super::reductions::dot(inner.most(), &facts, &g.facts(y));
            let mut made = shape;
            *made.last_mut()? = columns;
            g.one("MatMul", &[x, y], vec![], (of, made, made_facts))?;
        }
        5 => {
            let row = g.row(&[-1])?;
            let flat = vec![g.open_dim(count_most(&shape))];
            g.one("Reshape", &[x, row], vec![], (of, flat, facts.moved()))?;
        }
        6 if matches!(of, Type::I64 | Type::I32) && shape.len() < 3 && facts.low >= 0.0 => {
            let y = g.value_of(&Type::ALL, |value| {
                value.rank() > 0 && is_filled(value) && value.shape[0].least() as f64 > facts.high
            })?;
            let mut made = g.shape(y);
            made.splice(0..1, shape);
            let (of, facts) = (g.of(y), g.facts(y));
            g.one("Gather", &[y, x], vec![int("axis", 0)], (of, made, facts.moved()))?;
        }
        7 if shape.len() < 5 => {
            // An added dimension, which grows.
            let made = [&[Dim::Fixed(1)], shape.as_slice()].concat();
            let wide = if g.opset < 13 {
                g.one("Unsqueeze", &[x], vec![ints("axes", [0])], (of, made, facts.moved()))?
            } else {
                let axes = g.row(&[0])?;
                g.one("Unsqueeze", &[x, axes], vec![], (of, made, facts.moved()))?
            };
            let ones = vec![1; shape.len()];
            let row = g.row(&[vec![3], ones].concat())?;
            let made = [&[Dim::Fixed(3)], shape.as_slice()].concat();
            g.one("Expand", &[wide, row], vec![], (of, made, facts.moved()))?;
        }
        8 if of == Type::F32 && !shape[shape.len() - 1].is_open() => {
            if shape[shape.len() - 1].least() == 0 || facts.size() > 300.0 || g.opset < 13 {
                return None;
            }
            let made = Facts::about(0.0, 1.0, facts.error + 1e-6);
            g.one("Softmax", &[x], vec![int("axis", -1)], (of, shape, made))?;
        }
        _ => {
            let size = count_most(&shape) as f64;
            g.one("Size", &[x], vec![], (Type::I64, vec![], Facts::whole(0.0, size)))?;
        }
    }
    Some(())
}
