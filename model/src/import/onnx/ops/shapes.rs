//! Operators that return shapes, and those that change the shape of their operand.

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_program::{Check, dim::Dim};

use crate::import::onnx::{
    facts::Var,
    wiring::{SIZES, Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("Expand", expand),
    ("Flatten", flatten),
    ("Reshape", reshape),
    ("Shape", shape),
    ("Size", size),
    ("Squeeze", squeeze),
    ("Transpose", transpose),
    ("Unsqueeze", unsqueeze),
];

/// The dimensions as numbers, or a part of them.
fn shape(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let dims = w.shape(w.input(0)?);
    let rank = dims.len() as i64;
    let end = |given: i64| (if given < 0 { given + rank } else { given }).clamp(0, rank) as usize;
    let (start, stop) = (end(w.int("start")?.unwrap_or(0)), end(w.int("end")?.unwrap_or(rank)));
    let part = dims.get(start..stop).unwrap_or_default().to_vec();
    Ok(vec![w.dimensions(part)])
}

/// The number of elements.
fn size(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let count: Dim = w.shape(w.input(0)?).iter().product();
    Ok(vec![w.dimension(count, flotilla_tensor::DType::I64)?])
}

/// 0 stands for the operand's dimension in this place, -1 for the remaining number of elements.
fn reshape(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let from = w.shape(x);
    let wanted: Vec<Dim> = if w.opset < 5 {
        w.ints("shape")?.context("shape is missing")?.into_iter().map(Dim::Fixed).collect()
    } else {
        w.elements(1, (-1, SIZES.1))?
    };
    let mut sizes = Vec::with_capacity(wanted.len());
    for dim in wanted {
        sizes.push(size_or_marker(w, dim)?);
    }
    let wanted = sizes;
    let keeps_zeros = w.flag("allowzero")?;
    let copied: Vec<Dim> = wanted
        .iter()
        .enumerate()
        .map(|(axis, dim)| match (dim.as_fixed(), from.get(axis)) {
            _ if keeps_zeros => Ok(dim.clone()),
            (Some(0), Some(own)) => Ok(own.clone()),
            (Some(0), None) => bail!("there is no dimension {axis} to copy"),
            (Some(_), _) | (None, None) => Ok(dim.clone()),
            (None, Some(own)) => Ok(w.walk.bounded(|bounds| match bounds.of(dim).0 {
                // A number that may be a marker is decided when it is known.
                ..0 => dim.equal(0, bounds).select(own, dim),
                _ => dim.clone(),
            })),
        })
        .collect::<Result<_>>()?;
    let total: Dim = from.iter().product();
    let left = wanted.iter().filter(|dim| dim.as_fixed() == Some(-1)).count();
    ensure!(left <= 1, "its shape contains -1 {left} times; once is allowed");
    let others = |axis: usize| -> Dim {
        let others = copied.iter().enumerate().filter(|(other, _)| *other != axis);
        others.map(|(_, dim)| dim).product()
    };
    let shape: Vec<Dim> = copied
        .iter()
        .enumerate()
        .map(|(axis, dim)| match dim.as_fixed() {
            Some(-1) => total.over(others(axis)),
            Some(_) => dim.clone(),
            None if left > 0 => dim.clone(),
            None => w.walk.bounded(|bounds| match bounds.of(dim).0 {
                ..0 => dim.less(0, bounds).select(total.over(others(axis)), dim),
                _ => dim.clone(),
            }),
        })
        .collect();
    Ok(vec![w.reshape(x, &shape)?])
}

/// A number of a shape that may be -1, which stands for the remaining elements. A number that a model computes from sizes is
/// either a size in all runs or the marker in all runs: the example decides, and each run checks it.
fn size_or_marker(w: &mut Wiring<'_, '_>, dim: Dim) -> Result<Dim> {
    let below = w.walk.bounded(|bounds| dim.less(0, bounds));
    // A number that is read decides this in each run.
    if matches!(dim, Dim::Symbol(_)) || below.as_fixed().is_some() {
        return Ok(dim);
    }
    let is_size = w.walk.branch(w.walk.example(&dim).map(|size| size >= 0));
    w.walk.draft.decisive.push(Check {
        node: w.name.clone(),
        what:
            "whether a number of its shape is negative and whether it was when the model was loaded"
                .to_owned(),
        left: below,
        right: Dim::Fixed(i64::from(!is_size)),
    });
    Ok(if is_size { w.walk.bounded(|bounds| dim.most(0, bounds)) } else { Dim::Fixed(-1) })
}

/// Two dimensions: the product of those before `axis`, and that of the others.
fn flatten(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let shape = w.shape(x);
    let axis = w.int("axis")?.unwrap_or(1);
    let axis = if axis < 0 { axis + shape.len() as i64 } else { axis };
    let axis = usize::try_from(axis)?.min(shape.len());
    let flat: [Dim; 2] = [shape[..axis].iter().product(), shape[axis..].iter().product()];
    Ok(vec![w.reshape(x, &flat)?])
}

/// The axes that an attribute or, since version 13, an operand names.
fn given_axes(w: &Wiring<'_, '_>) -> Result<Option<Vec<i64>>> {
    match w.optional(1) {
        Some(_) => Ok(Some(w.known_i64s(1)?)),
        None => w.ints("axes"),
    }
}

fn squeeze(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let mut x = w.input(0)?;
    let shape = w.shape(x);
    let axes = match given_axes(w)? {
        Some(axes) => w.axes(&axes, shape.len())?,
        None => {
            let mut axes = Vec::new();
            for (axis, dim) in shape.iter().enumerate() {
                if is_one(w, dim)? {
                    axes.push(axis);
                }
            }
            axes
        }
    };
    for axis in axes.into_iter().rev() {
        x = w.squeeze(x, axis)?;
    }
    Ok(vec![x])
}

/// Whether a dimension is removed as a dimension of 1. A program's values have one rank, so for a dimension that may or may
/// not be 1 the example decides this permanently, and each run checks it.
fn is_one(w: &mut Wiring<'_, '_>, dim: &Dim) -> Result<bool> {
    if let Some(size) = dim.as_fixed() {
        return Ok(size == 1);
    }
    let one = w.walk.bounded(|bounds| dim.equal(1, bounds));
    if let Some(settled) = one.as_fixed() {
        return Ok(settled == 1);
    }
    let is_one = !w.walk.branch(w.walk.example(dim).map(|size| size != 1));
    w.walk.draft.decisive.push(Check {
        node: w.name.clone(),
        what: "whether its dimension is 1 and whether it was when the model was loaded".to_owned(),
        left: one,
        right: Dim::Fixed(i64::from(is_one)),
    });
    Ok(is_one)
}

fn unsqueeze(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let mut x = w.input(0)?;
    let axes = given_axes(w)?.context("it has no axes")?;
    let axes = w.axes(&axes, w.rank(x) + axes.len())?;
    for axis in axes {
        x = w.unsqueeze(x, axis)?;
    }
    Ok(vec![x])
}

fn transpose(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let rank = w.rank(x);
    let perm = match w.ints("perm")? {
        Some(perm) => perm.iter().map(|&axis| w.axis(axis, rank)).collect::<Result<Vec<_>>>()?,
        None => (0..rank).rev().collect(),
    };
    Ok(vec![w.transpose(x, &perm)?])
}

fn expand(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let wanted = w.sizes(1)?;
    let own = w.shape(x);
    for (own, wanted) in own.iter().rev().zip(wanted.iter().rev()) {
        // A number that is not 1 stays; the run's number for it can only be 1 or the same.
        let is_fixed = own.as_fixed().is_some_and(|size| size != 1);
        let left = own.broadcast(wanted.clone());
        if is_fixed && wanted.as_fixed().is_none() && left != *own {
            w.walk.draft.decisive.push(Check {
                node: w.name.clone(),
                what: "a dimension and what it is expanded to".to_owned(),
                left,
                right: own.clone(),
            });
        }
    }
    let shape = w.walk.broadcast(&w.name, &[own, wanted])?;
    Ok(vec![w.broadcast_to(x, &shape)?])
}
