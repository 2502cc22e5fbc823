//! Resizing, with coordinates that are not on the edge between two elements.

use super::{is_filled, written};
use crate::{
    graph::{Graph, Spread, Var},
    proto::{float, int, ints, text},
    value::{Dim, Facts, RUNS, Type},
};

/// Least distance of a coordinate from a position where it would be rounded to another element.
const EDGE: f64 = 1e-3;

#[derive(Clone, Copy, PartialEq)]
enum Target {
    Scale(f64),
    Size(Dim),
}

pub(super) fn resize(g: &mut Graph) -> Option<()> {
    if g.opset < 10 || (g.opset == 10 && g.rng.percent(50)) {
        return upsample(g);
    }
    let mode = g.rng.pick(&["nearest", "nearest", "linear", "linear", "cubic"]);
    let types: &[Type] = match mode {
        "nearest" => &[Type::F32, Type::F32, Type::F32, Type::I32, Type::U8],
        _ => &[Type::F32],
    };
    let mode = if g.opset < 11 && mode == "cubic" { "linear" } else { mode };
    let x = g.value_of(types, |value| {
        is_filled(value)
            && match mode {
                "nearest" => value.rank() > 0,
                "linear" => (3..6).contains(&value.rank()),
                _ => value.rank() == 4,
            }
    })?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let rank = shape.len();
    let first =
        if mode == "nearest" { rank.saturating_sub(g.rng.between(1, 3) as usize) } else { 2 };
    let mut coordinates = vec!["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"];
    if g.opset >= 19 {
        coordinates.push("half_pixel_symmetric");
    }
    let coordinates = if g.opset < 11 { "asymmetric" } else { g.rng.pick(&coordinates) };
    let crops = g.opset >= 11 && mode != "nearest" && g.rng.percent(8);
    let coordinates = if crops { "tf_crop_and_resize" } else { coordinates };
    let by_size = g.opset >= 11 && g.rng.percent(50);
    let mut targets = vec![Target::Scale(1.0); rank];
    let mut made = shape.clone();
    if crops && !shape.iter().all(|dim| matches!(dim, Dim::Fixed(_))) {
        return None;
    }
    for axis in first..rank {
        if g.rng.percent(15) {
            continue;
        }
        if by_size {
            let size = match g.rng.below(3) {
                0 => Dim::of(&[shape[axis]], |size| size[0] * 2)?,
                1 if !crops => g.any_dim(),
                _ => Dim::Fixed(g.rng.between(1, 8) as usize),
            };
            targets[axis] = Target::Size(size);
            made[axis] = size;
        } else {
            let scale = g.rng.pick(&[2.0, 3.0, 0.5, 1.5, 0.75, 1.3, 2.6, 0.7]);
            // For a length that is not an integer, onnxruntime takes the integer part and ONNX does
            // not.
            let whole = |size: usize| (size as f64 * scale).fract() == 0.0;
            if matches!(coordinates, "align_corners" | "tf_crop_and_resize")
                && !shape[axis].sizes()?.into_iter().all(whole)
            {
                return None;
            }
            targets[axis] = Target::Scale(scale);
            made[axis] = Dim::of(&[shape[axis]], |size| (size[0] as f32 * scale as f32) as i64)?;
        }
        if made[axis].least() == 0 {
            return None;
        }
        // For a single element, ONNX's reference and its text differ.
        if coordinates == "pytorch_half_pixel" && made[axis].least() < 2 {
            return None;
        }
    }
    // If a size does not change, onnxruntime may copy, for any scale and region.
    let stays = (first..rank).any(|axis| {
        let sizes = made[axis].sizes().zip(shape[axis].sizes());
        (crops || matches!(targets[axis], Target::Scale(scale) if scale != 1.0))
            && sizes.is_none_or(|(to, from)| to.iter().zip(from).any(|(to, from)| *to == from))
    });
    if stays {
        return None;
    }
    let nearest = g.rng.pick(&["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]);
    if mode == "nearest" {
        let mode = if g.opset < 11 { "floor" } else { nearest };
        for axis in first..rank {
            clear_of_edges(shape[axis], made[axis], targets[axis], coordinates, mode)?;
        }
    }
    let mut attributes = vec![text("mode", mode)];
    if g.opset < 11 {
        let scales = targets.iter().map(|target| match target {
            Target::Scale(scale) => *scale,
            Target::Size(_) => 1.0,
        });
        let spread = Spread::these(scales);
        let scales = g.constant(Type::F32, &[rank], spread)?;
        let facts = match mode {
            "nearest" => facts.moved(),
            _ => Facts::about(facts.low, facts.high, facts.error + facts.size() * 1e-6),
        };
        g.one("Resize", &[x, scales], attributes, (of, made, facts))?;
        return Some(());
    }
    attributes.push(text("coordinate_transformation_mode", coordinates));
    if mode == "nearest" {
        attributes.push(text("nearest_mode", nearest));
    }
    let mut size = facts.size();
    if mode == "cubic" {
        size *= 2.5;
        if g.rng.percent(40) {
            attributes.push(float("cubic_coeff_a", -0.5));
        }
        if g.rng.percent(40) {
            attributes.push(int("exclude_outside", 1));
        }
    }
    let shrinks = (first..rank).any(|axis| made[axis].least() < shape[axis].most());
    if g.opset >= 18 && mode != "nearest" && shrinks && !crops && g.rng.percent(30) {
        attributes.push(int("antialias", 1));
        size *= 2.0;
    }
    let with_axes = g.opset >= 18 && !crops && g.rng.percent(40);
    let axes: Vec<usize> = if with_axes { (first..rank).collect() } else { (0..rank).collect() };
    if with_axes {
        let listed: Vec<i64> = axes.iter().map(|&axis| written(g, axis, rank)).collect();
        attributes.push(ints("axes", listed));
    }
    let mut inputs = vec![x, Var::NONE, Var::NONE, Var::NONE];
    if crops {
        attributes.push(float("extrapolation_value", 2.5));
        let start = g.rng.pick(&[0.13, -0.17, 0.0]);
        let end = g.rng.pick(&[0.83, 1.19, 0.61]);
        let one = |axis: usize, inner: f64, outer: f64| if axis < first { outer } else { inner };
        let starts = (0..rank).map(|axis| one(axis, start, 0.0));
        let roi: Vec<f64> = starts.chain((0..rank).map(|axis| one(axis, end, 1.0))).collect();
        inputs[1] = g.constant(Type::F32, &[2 * rank], Spread::these(roi))?;
        size = size.max(2.5);
    }
    if by_size {
        let sizes: Vec<Dim> = axes.iter().map(|&axis| made[axis]).collect();
        inputs[3] = g.row_of_dims(&sizes)?;
    } else {
        let scales: Vec<f64> = axes
            .iter()
            .map(|&axis| match targets[axis] {
                Target::Scale(scale) => scale,
                Target::Size(_) => 1.0,
            })
            .collect();
        inputs[2] = g.constant(Type::F32, &[scales.len()], Spread::these(scales))?;
    }
    if g.opset < 13 && inputs[1] == Var::NONE {
        inputs[1] = g.constant(Type::F32, &[0], Spread::these([]))?;
        if inputs[2] == Var::NONE {
            inputs[2] = g.constant(Type::F32, &[0], Spread::these([]))?;
        }
    }
    let made_facts = if mode == "nearest" {
        facts.moved()
    } else {
        Facts::about(-size, size, facts.error * 3.0 + size * 1e-5)
    };
    g.one("Resize", &inputs, attributes, (of, made, made_facts))?;
    Some(())
}

/// Whether no coordinate is where rounding could go either way.
fn clear_of_edges(
    from: Dim,
    to: Dim,
    target: Target,
    coordinates: &str,
    nearest: &str,
) -> Option<()> {
    let (from, to) = (from.sizes()?, to.sizes()?);
    for run in 0..RUNS {
        let (size, resized) = (from[run] as f64, to[run] as f64);
        let scale = match target {
            Target::Scale(scale) => scale,
            Target::Size(_) => resized / size,
        };
        // Products with these are exact.
        let exact = scale.log2().fract() == 0.0 && coordinates != "align_corners";
        if exact || size == resized {
            continue;
        }
        for at in 0..to[run] {
            let at = at as f64;
            let place = match coordinates {
                "asymmetric" => at / scale,
                "align_corners" if resized > 1.0 => at * (size - 1.0) / (resized - 1.0),
                "align_corners" => 0.0,
                "pytorch_half_pixel" if resized <= 1.0 => 0.0,
                "half_pixel_symmetric" => {
                    let adjustment = resized / (scale * size);
                    let offset = size / 2.0 * (1.0 - adjustment);
                    offset + (at + 0.5) / scale - 0.5
                }
                _ => (at + 0.5) / scale - 0.5,
            };
            let edge = if nearest.starts_with("round") { place - 0.5 } else { place };
            let inside = place > 0.0 && place < size - 1.0;
            if inside && (edge - edge.round()).abs() < EDGE {
                return None;
            }
        }
    }
    Some(())
}

fn upsample(g: &mut Graph) -> Option<()> {
    if !(9..10).contains(&g.opset) {
        return None;
    }
    let mode = g.rng.pick(&["nearest", "linear"]);
    let x = g.value_of(&[Type::F32], |value| value.rank() == 4 && is_filled(value))?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let scales = [1.0, 1.0, g.rng.pick(&[1.0, 2.0, 3.0]), g.rng.pick(&[2.0, 1.0, 4.0])];
    let made =
        shape.iter().zip(scales).map(|(&dim, by)| Dim::of(&[dim], |size| size[0] * by as i64));
    let made = made.collect::<Option<Vec<_>>>()?;
    let scales = g.constant(Type::F32, &[4], Spread::these(scales))?;
    let facts = match mode {
        "nearest" => facts.moved(),
        _ => Facts::about(facts.low, facts.high, facts.error + facts.size() * 1e-6),
    };
    g.one("Upsample", &[x, scales], vec![text("mode", mode)], (of, made, facts))?;
    Some(())
}
