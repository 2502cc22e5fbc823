//! Elements of an image or a volume at given coordinates.

use flotilla_program::{GridSample, Interpolation, Outside};
use flotilla_tensor::DType;

use super::{Kernel, Launch, Operand, Shader};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// An image is a volume of depth 1.
struct Geometry {
    channels: usize,
    /// Depth, height, width.
    sizes: [usize; 3],
    points: usize,
}

fn geometry(call: &Call<'_>) -> Result<Geometry, String> {
    let (x, grid) = (call.input(0), call.input(1));
    let refused = || format!("a grid of {grid:?} does not sample {x:?}");
    let (&[images, channels, ref sizes @ ..], [grid_images, points @ .., spatial]) = (x, grid)
    else {
        return Err(refused());
    };
    let sizes = match *sizes {
        [height, width] => [1, height, width],
        [depth, height, width] => [depth, height, width],
        _ => return Err(refused()),
    };
    if images != *grid_images || points.len() != *spatial || x.len() != spatial + 2 {
        return Err(refused());
    }
    call.expect_output(&[&[images, channels], points].concat())?;
    Ok(Geometry { channels, sizes, points: points.iter().product() })
}

/// Number of elements that are weighted in each dimension, and how many of them are before the nearest
/// element below.
fn taps(interpolation: Interpolation) -> (i64, i64) {
    match interpolation {
        Interpolation::Nearest => (1, 0),
        Interpolation::Linear => (2, 0),
        Interpolation::Cubic => (4, 1),
    }
}

/// Mirrors at `low` and `high` until the position lies between them.
fn reflected(x: f32, low: f32, high: f32) -> f32 {
    let range = high - low;
    if range <= 0.0 {
        return low;
    }
    let distance = (x - low).abs();
    let turns = (distance / range).floor();
    let rest = distance - turns * range;
    if turns % 2.0 == 0.0 { low + rest } else { high - rest }
}

/// Position of a coordinate of -1..1 among `size` elements.
fn position(op: &GridSample, at: f32, size: usize) -> f32 {
    let length = size as f32;
    let (x, low, high) = if op.align_corners {
        ((at + 1.0) / 2.0 * (length - 1.0), 0.0, length - 1.0)
    } else {
        (((at + 1.0) * length - 1.0) / 2.0, -0.5, length - 0.5)
    };
    let x = if op.interpolation == Interpolation::Nearest { x.round_ties_even() } else { x };
    let x = match op.outside {
        Outside::Zeros => x,
        // Before the first centre and after the last one a cubic curve still has a slope.
        Outside::Border if x < low || x > high => x.clamp(0.0, (length - 1.0).max(0.0)),
        Outside::Border => x,
        Outside::Reflection if x < low || x > high => reflected(x, low, high),
        Outside::Reflection => x,
    };
    // Positions farther out give the same result.
    x.clamp(-3.0, length + 2.0)
}

/// The element at a position, `None` if it is a zero.
fn element(op: &GridSample, at: i64, size: usize) -> Option<usize> {
    let last = size as i64 - 1;
    if (0..=last).contains(&at) {
        return Some(at as usize);
    }
    let inside = match op.outside {
        Outside::Zeros => return None,
        Outside::Border => at.clamp(0, last),
        Outside::Reflection if op.align_corners => reflected(at as f32, 0.0, last as f32) as i64,
        Outside::Reflection => reflected(at as f32, -0.5, last as f32 + 0.5) as i64,
    };
    Some(inside.clamp(0, last) as usize)
}

fn weight(interpolation: Interpolation, tap: i64, fraction: f32) -> f32 {
    match interpolation {
        Interpolation::Nearest => 1.0,
        Interpolation::Linear if tap == 0 => 1.0 - fraction,
        Interpolation::Linear => fraction,
        Interpolation::Cubic => {
            let a = -0.75;
            let x = (tap as f32 - 1.0 - fraction).abs();
            if x <= 1.0 {
                ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
            } else {
                ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
            }
        }
    }
}

/// Elements of one dimension with their weights.
fn parts(op: &GridSample, at: f32, size: usize, parts: &mut Vec<(usize, f32)>) {
    let (taps, before) = taps(op.interpolation);
    let x = position(op, at, size);
    let first = x.floor();
    parts.clear();
    for tap in 0..taps {
        if let Some(element) = element(op, first as i64 + tap - before, size) {
            parts.push((element, weight(op.interpolation, tap, x - first)));
        }
    }
}

impl Kernel for GridSample {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(2)?;
        signature.expect_all(DType::F32)?;
        match signature.input(0).shape.len() {
            4 | 5 => Ok(()),
            rank => Err(format!("{rank} dimensions, an image has 4 and a volume 5")),
        }
    }

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        let (taps, before) = taps(self.interpolation);
        let interpolation = match self.interpolation {
            Interpolation::Nearest => 0,
            Interpolation::Linear => 1,
            Interpolation::Cubic => 2,
        };
        let outside = match self.outside {
            Outside::Zeros => 0,
            Outside::Border => 1,
            Outside::Reflection => 2,
        };
        let spatial = signature.input(0).shape.len() - 2;
        let body = format!(
            "const INTERPOLATION = {interpolation}u;\nconst OUTSIDE = {outside}u;\n\
             const ALIGN_CORNERS = {};\nconst TAPS = {taps}u;\nconst TAPS_BEFORE = {before};\n\
             const SPATIAL = {spatial}u;\n{}",
            self.align_corners,
            include_str!("grid_sample.wgsl")
        );
        vec![Shader::new("GridSample", &[("data", "f32"), ("grid", "f32")], "f32", &body)]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { channels, sizes: [depth, height, width], points } = geometry(call)?;
        let total = call.elements();
        let params =
            [total, channels, depth, height, width, points].map(|count| count as u32).to_vec();
        let taps = taps(self.interpolation).0 as usize;
        let plane = taps + taps * taps;
        let iterations = if call.input(0).len() == 5 { taps + taps * plane } else { 1 + plane };
        Ok(vec![Launch::new(0, 2, params, total, iterations)])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let Geometry { channels, sizes, points } = geometry(call)?;
        let [depth, height, width] = sizes;
        let spatial = call.input(0).len() - 2;
        let (x, grid) = (operands[0].f32(), operands[1].f32());
        let output: &mut [f32] = bytemuck::cast_slice_mut(output);
        let (mut from_z, mut from_y, mut from_x) = (vec![(0, 1.0)], Vec::new(), Vec::new());
        for (at, place) in grid.chunks_exact(spatial).enumerate() {
            let (image, point) = (at / points, at % points);
            parts(self, place[0], width, &mut from_x);
            parts(self, place[1], height, &mut from_y);
            if let Some(&z) = place.get(2) {
                parts(self, z, depth, &mut from_z);
            }
            for plane in image * channels..(image + 1) * channels {
                let mut sum = 0.0;
                for &(z, weight_z) in &from_z {
                    for &(y, weight_y) in &from_y {
                        let row = ((plane * depth + z) * height + y) * width;
                        for &(column, weight_x) in &from_x {
                            sum += weight_z * weight_y * weight_x * x[row + column];
                        }
                    }
                }
                output[plane * points + point] = sum;
            }
        }
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;
    use {Interpolation::*, Outside::*};

    let table: [(&str, Interpolation, Outside, bool, &[usize], &[usize]); 10] = [
        ("linear", Linear, Zeros, false, &[2, 3, 4, 5], &[3, 2]),
        ("linear at corners", Linear, Border, true, &[1, 2, 3, 4], &[4, 4]),
        ("linear in a mirror", Linear, Reflection, false, &[1, 1, 3, 4], &[5, 5]),
        ("nearest", Nearest, Zeros, false, &[1, 2, 5, 4], &[4, 3]),
        ("nearest in a mirror", Nearest, Reflection, true, &[1, 2, 5, 4], &[4, 3]),
        ("cubic", Cubic, Zeros, true, &[1, 2, 5, 4], &[3, 3]),
        ("cubic at a border", Cubic, Border, false, &[1, 2, 4, 4], &[5, 5]),
        ("cubic in a mirror", Cubic, Reflection, false, &[2, 1, 4, 4], &[3, 3]),
        ("a volume", Linear, Zeros, true, &[1, 2, 3, 4, 3], &[2, 2, 3]),
        ("nearest in a volume", Nearest, Border, false, &[1, 1, 3, 4, 3], &[2, 3, 2]),
    ];
    table
        .into_iter()
        .map(|(name, interpolation, outside, align_corners, shape, points)| {
            let x = Array::noise(4300, shape);
            let spatial = points.len();
            let grid_shape = [&shape[..1], points, &[spatial]].concat();
            let grid = Array::f32(
                &grid_shape,
                Array::noise(4301, &grid_shape).numbers.iter().map(|at| at * 1.7).collect(),
            );
            let expected = Array::build(
                flotilla_tensor::DType::F32,
                &[&shape[..2], points].concat(),
                |index| {
                    let mut place = vec![index[0]];
                    place.extend(&index[2..]);
                    place.push(0);
                    // Coordinates are (x, y, z), dimensions (z, y, x).
                    let positions: Vec<f64> = (0..spatial)
                        .map(|axis| {
                            place[spatial + 1] = spatial - 1 - axis;
                            let (at, size) = (grid.at(&place), shape[2 + axis] as f64);
                            if align_corners {
                                (at + 1.0) / 2.0 * (size - 1.0)
                            } else {
                                ((at + 1.0) * size - 1.0) / 2.0
                            }
                        })
                        .collect();
                    naive(&x, &index[..2], &positions, interpolation, outside, align_corners)
                },
            );
            let op = Op::GridSample(GridSample { interpolation, outside, align_corners });
            let name = format!("grid_sample/{name}");
            Sketch::single(&name, op, &[&x, &grid], &expected, Tolerance::Approximate)
        })
        .collect()
}

/// One dimension after the other, by definition.
#[cfg(not(target_arch = "wasm32"))]
fn naive(
    x: &Array,
    index: &[usize],
    positions: &[f64],
    interpolation: Interpolation,
    outside: Outside,
    align_corners: bool,
) -> f64 {
    let Some((&position, rest)) = positions.split_first() else { return x.at(index) };
    let size = x.shape[index.len()] as f64;
    let (low, high) = if align_corners { (0.0, size - 1.0) } else { (-0.5, size - 0.5) };
    let bring_in = |mut at: f64, nearest_inside: bool| {
        while outside == Outside::Reflection && (at < low || at > high) {
            at = if at < low { 2.0 * low - at } else { 2.0 * high - at };
        }
        let is_outside = outside == Outside::Border && (at < low || at > high);
        if is_outside || nearest_inside { at.clamp(0.0, size - 1.0) } else { at }
    };
    let position = match interpolation {
        Interpolation::Nearest => bring_in(position.round_ties_even(), false),
        Interpolation::Linear | Interpolation::Cubic => bring_in(position, false),
    };
    let cubic = |distance: f64| match distance.abs() {
        x if x <= 1.0 => 1.25 * x.powi(3) - 2.25 * x.powi(2) + 1.0,
        x if x < 2.0 => -0.75 * x.powi(3) + 3.75 * x.powi(2) - 6.0 * x + 3.0,
        _ => 0.0,
    };
    // Every element that may have a weight; it is 0 for most.
    (-40..40)
        .map(|tap| {
            let distance = position - f64::from(tap);
            let weight = match interpolation {
                Interpolation::Nearest => f64::from(u8::from(distance == 0.0)),
                Interpolation::Linear => (1.0 - distance.abs()).max(0.0),
                Interpolation::Cubic => cubic(distance),
            };
            let tap = f64::from(tap);
            let inside = (0.0..size).contains(&tap);
            if weight == 0.0 || (outside == Outside::Zeros && !inside) {
                return 0.0;
            }
            let source = bring_in(tap, true) as usize;
            let index = [index, &[source]].concat();
            weight * naive(x, &index, rest, interpolation, outside, align_corners)
        })
        .sum()
}
