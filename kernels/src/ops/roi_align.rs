//! Regions of images, pooled to a grid of cells.

use flotilla_program::{DType, RoiAlign};

use super::{Kernel, Launch, Operand, Shader};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

struct Geometry {
    images: usize,
    channels: usize,
    height: usize,
    width: usize,
    cells_y: usize,
    cells_x: usize,
}

fn geometry(call: &Call<'_>) -> Result<Geometry, String> {
    let (&[images, channels, height, width], &[regions, _, cells_y, cells_x]) =
        (call.input(0), call.output())
    else {
        return Err(format!("{:?} becomes {:?}", call.input(0), call.output()));
    };
    call.expect_input(1, &[regions, 4])?;
    call.expect_input(2, &[regions])?;
    call.expect_output(&[regions, channels, cells_y, cells_x])?;
    if images * height * width == 0 {
        return Err(format!("there is nothing in {:?}", call.input(0)));
    }
    Ok(Geometry { images, channels, height, width, cells_y, cells_x })
}

fn offset(op: &RoiAlign) -> f32 {
    if op.half_pixel { 0.5 } else { 0.0 }
}

/// One dimension of a region: where its cells start, how long one is, and how many samples each has.
fn cells(op: &RoiAlign, from: f32, to: f32, cells: usize) -> (f32, f32, usize) {
    let start = from * op.scale - offset(op);
    let mut size = to * op.scale - offset(op) - start;
    if !op.half_pixel {
        size = size.max(1.0);
    }
    let step = size / cells as f32;
    let samples = if op.samples == 0 { step.ceil().max(0.0) as usize } else { op.samples as usize };
    (start, step, samples)
}

/// The two elements around a place of one dimension, and how far it is from the first.
fn around(at: f32, size: usize) -> (usize, usize, f32) {
    let inside = at.max(0.0);
    let low = inside as usize;
    if low + 1 >= size { (size - 1, size - 1, 0.0) } else { (low, low + 1, inside - low as f32) }
}

impl Kernel for RoiAlign {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(3)?;
        signature.expect_inputs(&[DType::F32, DType::F32, DType::I32])
    }

    fn shaders(&self, _signature: &Signature<'_>) -> Vec<Shader> {
        let reads = [("data", "f32"), ("regions", "f32"), ("batches", "i32")];
        let body = format!("const MAX = {};\n{}", self.max, include_str!("roi_align.wgsl"));
        vec![Shader::new("RoiAlign", &reads, "f32", &body)]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { images, channels, height, width, cells_y, cells_x } = geometry(call)?;
        let total = call.elements();
        let mut params = [total, channels, height, width, images, cells_y, cells_x]
            .map(|count| count as u32)
            .to_vec();
        params.extend([self.samples, self.scale.to_bits(), offset(self).to_bits()]);
        let samples = self.samples as usize;
        Ok(vec![Launch::new(0, 3, params, total, samples * (1 + samples))])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let Geometry { images, channels, height, width, cells_y, cells_x } = geometry(call)?;
        let (data, regions, batches) = (operands[0].f32(), operands[1].f32(), operands[2].i32());
        let output: &mut [f32] = bytemuck::cast_slice_mut(output);
        for (index, output) in output.iter_mut().enumerate() {
            let (cell_x, cell_y) = (index % cells_x, index / cells_x % cells_y);
            let channel = index / (cells_x * cells_y) % channels;
            let region = index / (cells_x * cells_y * channels);
            let image = usize::try_from(batches[region]).ok().filter(|&image| image < images);
            let image = image.ok_or_else(|| format!("there is no image {}", batches[region]))?;
            let plane = &data[(image * channels + channel) * height * width..][..height * width];
            let &[x1, y1, x2, y2] = &regions[region * 4..][..4] else { continue };
            let (start_x, step_x, samples_x) = cells(self, x1, x2, cells_x);
            let (start_y, step_y, samples_y) = cells(self, y1, y2, cells_y);
            let (mut sum, mut best) = (0.0, None);
            for j in 0..samples_y {
                let y =
                    start_y + cell_y as f32 * step_y + (j as f32 + 0.5) * step_y / samples_y as f32;
                for i in 0..samples_x {
                    let x = start_x
                        + cell_x as f32 * step_x
                        + (i as f32 + 0.5) * step_x / samples_x as f32;
                    let inside =
                        (-1.0..=height as f32).contains(&y) && (-1.0..=width as f32).contains(&x);
                    let corners = if inside {
                        let (top, bottom, down) = around(y, height);
                        let (left, right, along) = around(x, width);
                        [
                            (1.0 - down) * (1.0 - along) * plane[top * width + left],
                            (1.0 - down) * along * plane[top * width + right],
                            down * (1.0 - along) * plane[bottom * width + left],
                            down * along * plane[bottom * width + right],
                        ]
                    } else {
                        [0.0; 4]
                    };
                    sum += corners.iter().sum::<f32>();
                    let largest = corners.into_iter().fold(f32::NEG_INFINITY, f32::max);
                    best = Some(best.map_or(largest, |best: f32| best.max(largest)));
                }
            }
            let samples = (samples_x * samples_y).max(1) as f32;
            *output = if self.max { best.unwrap_or(0.0) } else { sum / samples };
        }
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;

    let table: [(&str, u32, f32, bool, bool); 5] = [
        ("means of four", 2, 1.0, true, false),
        ("as many samples as elements", 0, 1.0, false, false),
        ("another scale", 3, 0.5, true, false),
        ("the largest", 2, 1.0, true, true),
        ("the largest of adaptive samples", 0, 0.75, false, true),
    ];
    table
        .into_iter()
        .map(|(name, samples, scale, half_pixel, max)| {
            let data = Array::noise(4400, &[2, 3, 6, 7]);
            let corners = [
                [0.6, 0.3, 4.7, 5.1],
                [2.2, 1.4, 9.3, 8.9],
                [-2.7, -1.9, 2.4, 3.3],
                [3.1, 3.2, 3.3, 3.35],
            ];
            let regions = Array::f32(&[4, 4], corners.concat());
            let batches = Array::of(DType::I32, &[4], vec![0.0, 1.0, 1.0, 0.0]);
            let op = RoiAlign { samples, scale, half_pixel, max };
            let expected = Array::build(DType::F32, &[4, 3, 2, 3], |index| {
                let &[region, channel, cell_y, cell_x] = index else { return f64::NAN };
                let image = batches.at(&[region]) as usize;
                // Places of one dimension that are sampled for a cell.
                let places = |from: usize, cell: usize, cells: usize| -> Vec<f64> {
                    let move_by = if half_pixel { 0.5 } else { 0.0 };
                    let at = |corner| regions.at(&[region, corner]) * f64::from(scale) - move_by;
                    let least = if half_pixel { f64::MIN } else { 1.0 };
                    let step = (at(from + 2) - at(from)).max(least) / cells as f64;
                    let count = if samples == 0 { step.ceil() as u32 } else { samples };
                    let part = |i| cell as f64 + (f64::from(i) + 0.5) / f64::from(count);
                    (0..count).map(|i| at(from) + step * part(i)).collect()
                };
                let mut found = Vec::new();
                for y in places(1, cell_y, 2) {
                    for x in places(0, cell_x, 3) {
                        if y < -1.0 || x < -1.0 || y > 6.0 || x > 7.0 {
                            found.push([0.0; 4]);
                            continue;
                        }
                        let (y, x) = (y.clamp(0.0, 5.0), x.clamp(0.0, 6.0));
                        // A place on the last row lies between that row and itself.
                        let (top, left) = (y.floor(), x.floor());
                        found.push([(0., 0.), (0., 1.), (1., 0.), (1., 1.)].map(
                            |(down, right)| {
                                let (row, column) = (top + down, left + right);
                                let weight = (1.0 - (y - row).abs()) * (1.0 - (x - column).abs());
                                let (row, column) =
                                    (row.min(5.0) as usize, column.min(6.0) as usize);
                                weight * data.at(&[image, channel, row, column])
                            },
                        ));
                    }
                }
                if max {
                    found.concat().into_iter().fold(f64::MIN, f64::max)
                } else {
                    found.concat().iter().sum::<f64>() / found.len().max(1) as f64
                }
            });
            let inputs = [&data, &regions, &batches];
            let (name, op) = (format!("roi_align/{name}"), Op::RoiAlign(op));
            Sketch::single(&name, op, &inputs, &expected, Tolerance::Approximate)
        })
        .collect()
}
