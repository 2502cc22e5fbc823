//! Convolutions on the cpu: as matrix products where several channels share their input, else tap by tap.

use std::ops::Range;

use flotilla_program::Conv;
use flotilla_tensor::DType;

use super::{
    super::{
        Operand, math,
        matmul::{self, PANEL, PackedMatrix},
        window::{Sliding, position},
    },
    Geometry, operand_count,
};

/// From this many output channels of a group, gathering their common input costs less than reading it for each.
const PRODUCT_CHANNELS_MIN: usize = 4;
/// Elements of gathered input that are multiplied at once: they stay in the second-level cache.
const GATHERED_MAX: usize = 1 << 15;

/// Computes into `output`; operands are those of [`Conv`].
pub(super) fn compute(
    op: &Conv,
    geometry: Geometry,
    dtype: DType,
    operands: &[Operand<'_>],
    output: &mut [u32],
) {
    let residual = operand_count(op) - 1;
    if dtype == DType::F32 {
        let (x, w) = (operands[0].f32(), operands[1].f32());
        let output: &mut [f32] = bytemuck::cast_slice_mut(output);
        if !op.transposed && geometry.outputs >= PRODUCT_CHANNELS_MIN {
            product(geometry, x, w, output);
        } else {
            direct(op, geometry, x, w, output);
        }
        finish(geometry, op.bias.then(|| operands[2].f32()), output);
        if op.residual {
            output
                .iter_mut()
                .zip(operands[residual].f32())
                .for_each(|(value, term)| *value += term);
        }
        if let Some(activation) = op.activation {
            math::apply(activation, output);
        }
    } else {
        let output: &mut [i32] = bytemuck::cast_slice_mut(output);
        direct(op, geometry, operands[0].i32(), operands[1].i32(), output);
        finish(geometry, op.bias.then(|| operands[2].i32()), output);
        if op.residual {
            let residual = operands[residual].i32();
            output.iter_mut().zip(residual).for_each(|(value, term)| value.add_product(*term, 1));
        }
    }
}

/// Products per place that are added in their own type before their sum is added to the others as `f64`, if sums are
/// rounded.
const SUM_MAX: usize = 128;

/// Elements that are multiplied and added; integers wrap around.
trait Number: Copy {
    const ZERO: Self;
    const ONE: Self;
    const ROUNDS: bool;
    fn add_product(&mut self, a: Self, b: Self);
    fn wide(self) -> f64;
    fn narrow(wide: f64) -> Self;
}

impl Number for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
    const ROUNDS: bool = true;
    fn add_product(&mut self, a: f32, b: f32) {
        *self += a * b;
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
    fn narrow(wide: f64) -> f32 {
        wide as f32
    }
}

impl Number for i32 {
    const ZERO: i32 = 0;
    const ONE: i32 = 1;
    const ROUNDS: bool = false;
    fn add_product(&mut self, a: i32, b: i32) {
        *self = self.wrapping_add(a.wrapping_mul(b));
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
    fn narrow(wide: f64) -> i32 {
        wide as i32
    }
}

/// Adds each channel's bias.
fn finish<T: Number>(geometry: Geometry, bias: Option<&[T]>, output: &mut [T]) {
    let places = geometry.sliding.places();
    let Some(bias) = bias.filter(|_| places > 0) else { return };
    for (plane, bias) in output.chunks_exact_mut(places).zip(bias.iter().cycle()) {
        plane.iter_mut().for_each(|value| value.add_product(*bias, T::ONE));
    }
}

/// Gathers the elements under each place of the window and multiplies them by the weights.
fn product(geometry: Geometry, x: &[f32], w: &[f32], output: &mut [f32]) {
    let Geometry { batches, groups, inputs, outputs, sliding } = geometry;
    let (places, plane) = (sliding.places(), sliding.plane());
    let width = inputs * sliding.taps();
    if places == 0 {
        return;
    }
    if width == 0 {
        output.fill(0.0);
        return;
    }
    let at_once =
        (GATHERED_MAX / width / PANEL * PANEL).clamp(PANEL, places.next_multiple_of(PANEL));
    let mut panels = Vec::new();
    for image in 0..batches * groups {
        let x = &x[image * inputs * plane..][..inputs * plane];
        let w = &w[image % groups * outputs * width..][..outputs * width];
        let output = &mut output[image * outputs * places..][..outputs * places];
        for first in (0..places).step_by(at_once) {
            let count = at_once.min(places - first);
            panels.clear();
            for start in (first..first + count).step_by(PANEL) {
                gather(&sliding, x, inputs, start, &mut panels);
            }
            let gathered = PackedMatrix::of_panels(width, count, panels);
            matmul::multiply(w, width, outputs, &gathered, &mut output[first..], places, |_, _| ());
            panels = gathered.into_panels();
        }
    }
}

/// Appends a panel: for each tap and channel, the elements under eight places from `start`.
fn gather(
    sliding: &Sliding,
    x: &[f32],
    inputs: usize,
    start: usize,
    panels: &mut Vec<[f32; PANEL]>,
) {
    let (plane, taps) = (sliding.plane(), sliding.taps());
    let base = panels.len();
    panels.resize(base + inputs * taps, [0.0; PANEL]);
    let last = sliding.places() - 1;
    let places: [[usize; 3]; PANEL] =
        std::array::from_fn(|lane| position((start + lane).min(last), sliding.output));
    for tap in 0..taps {
        let steps = position(tap, sliding.kernel);
        let found: [Option<usize>; PANEL] = std::array::from_fn(|lane| {
            let at = |axis| sliding.source(axis, places[lane][axis], steps[axis]);
            Some((at(0)? * sliding.input[1] + at(1)?) * sliding.input[2] + at(2)?)
        });
        let lines = &mut panels[base + tap * inputs..][..inputs];
        let neighbours =
            |first: usize| found.iter().enumerate().all(|(lane, &at)| at == Some(first + lane));
        match found[0].filter(|&first| neighbours(first)) {
            Some(first) => {
                for (line, x) in lines.iter_mut().zip(x.chunks_exact(plane)) {
                    line.copy_from_slice(&x[first..first + PANEL]);
                }
            }
            None => {
                for (line, x) in lines.iter_mut().zip(x.chunks_exact(plane)) {
                    for (value, at) in line.iter_mut().zip(found) {
                        *value = at.map_or(0.0, |at| x[at]);
                    }
                }
            }
        }
    }
}

/// Tap by tap, along whole lines of the last dimension.
fn direct<T: Number>(op: &Conv, geometry: Geometry, x: &[T], w: &[T], output: &mut [T]) {
    let Geometry { batches, groups, inputs, outputs, sliding } = geometry;
    let (places, plane, taps) = (sliding.places(), sliding.plane(), sliding.taps());
    output.fill(T::ZERO);
    if plane * taps == 0 {
        return;
    }
    // The transpose adds each element to the places from which the convolution would read it.
    let walk = if op.transposed {
        Sliding { input: sliding.output, output: sliding.input, ..sliding }
    } else {
        sliding
    };
    let is_long = T::ROUNDS && inputs * taps > SUM_MAX;
    let mut totals = vec![0.0f64; if is_long { places } else { 0 }];
    for image in 0..batches * groups {
        for own in 0..outputs {
            let mut summed = 0;
            let to = &mut output[(image * outputs + own) * places..][..places];
            let weights = &w[(image % groups * outputs + own) * inputs * taps..][..inputs * taps];
            for channel in 0..inputs {
                let from = &x[(image * inputs + channel) * plane..][..plane];
                for (tap, &weight) in weights[channel..].iter().step_by(inputs).enumerate() {
                    if is_long && summed == SUM_MAX {
                        set_aside(to, &mut totals);
                        summed = 0;
                    }
                    summed += 1;
                    let steps = position(tap, walk.kernel);
                    let range = |axis: usize| reached(&walk, axis, steps[axis]);
                    for (z, y) in range(0).flat_map(|z| range(1).map(move |y| (z, y))) {
                        let at = |axis, place| walk.source(axis, place, steps[axis]);
                        let (Some(near_z), Some(near_y)) = (at(0, z), at(1, y)) else { continue };
                        let columns = range(2);
                        let Some(near) = at(2, columns.start) else { continue };
                        let far = (z * walk.output[1] + y) * walk.output[2] + columns.start;
                        let near = (near_z * walk.input[1] + near_y) * walk.input[2] + near;
                        let (count, step) = (columns.len(), walk.strides[2]);
                        if op.transposed {
                            add_line(&mut to[near..], step, &from[far..], 1, weight, count);
                        } else {
                            add_line(&mut to[far..], 1, &from[near..], step, weight, count);
                        }
                    }
                }
            }
            if is_long {
                set_aside(to, &mut totals);
                to.iter_mut().zip(&totals).for_each(|(value, &total)| *value = T::narrow(total));
                totals.fill(0.0);
            }
        }
    }
}

/// Adds sums to the totals of their places.
fn set_aside<T: Number>(sums: &mut [T], totals: &mut [f64]) {
    totals.iter_mut().zip(&*sums).for_each(|(total, sum)| *total += sum.wide());
    sums.fill(T::ZERO);
}

/// The places along `axis` whose element at a tap lies inside of the input.
fn reached(sliding: &Sliding, axis: usize, tap: usize) -> Range<usize> {
    let stride = sliding.strides[axis] as i64;
    let offset = (tap * sliding.dilations[axis]) as i64 - sliding.pads[axis];
    let first = (-offset).max(0) + stride - 1;
    let past = sliding.input[axis] as i64 - offset + stride - 1;
    let bound = |at: i64| (at.max(0) / stride).min(sliding.output[axis] as i64) as usize;
    bound(first)..bound(past).max(bound(first))
}

/// `to[i * to_step] += weight * from[i * from_step]`.
fn add_line<T: Number>(
    to: &mut [T],
    to_step: usize,
    from: &[T],
    from_step: usize,
    weight: T,
    count: usize,
) {
    if count == 0 {
        return;
    }
    if (to_step, from_step) == (1, 1) {
        to[..count]
            .iter_mut()
            .zip(&from[..count])
            .for_each(|(to, from)| to.add_product(*from, weight));
    } else {
        to.iter_mut()
            .step_by(to_step)
            .zip(from.iter().step_by(from_step))
            .take(count)
            .for_each(|(to, from)| to.add_product(*from, weight));
    }
}
