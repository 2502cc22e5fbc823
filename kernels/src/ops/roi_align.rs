//! Regions of images, pooled to a grid of cells. A launch takes as many samples of each cell as one invocation may.

use flotilla_program::RoiAlign;
use flotilla_tensor::DType;

use super::{Kernel, Launch, Operand, Shader};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, LONG, Sketch, Tolerance};

/// Samples of a cell in one dimension if a region is so large that the number of samples is not exact any more.
const SAMPLES_OF_A_REGION_MAX: f32 = 16_777_216.0;
/// Most samples of a cell that one launch takes.
const SAMPLES_MAX: usize = 8192;

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
    let samples = if op.samples == 0 {
        step.ceil().clamp(0.0, SAMPLES_OF_A_REGION_MAX) as usize
    } else {
        op.samples as usize
    };
    (start, step, samples)
}

/// Samples of one dimension that may lie inside of an image; all others lie outside.
fn near(start: f32, step: f32, samples: usize, size: usize) -> std::ops::Range<usize> {
    // All samples of an empty region have the same position.
    if step.abs() <= 1e-30 {
        return 0..samples;
    }
    let spacing = step / samples as f32;
    let a = (-1.0 - start) / spacing - 0.5;
    let b = (size as f32 - start) / spacing - 0.5;
    // A negative number becomes 0.
    let first = ((a.min(b).floor() - 1.0) as usize).min(samples);
    let last = ((a.max(b).ceil() + 2.0) as usize).min(samples);
    first..last.max(first)
}

/// Most samples of one dimension that [`near`] may find in an image of this size. If their number follows from the region,
/// their distance is nearly 1, or at least 1/2 if they are few.
fn near_max(op: &RoiAlign, size: usize) -> usize {
    const FEW: usize = 64;
    if op.samples > 0 {
        return (op.samples as usize).min(1 << 16);
    }
    let apart = (size + 1) * (FEW + 1) / FEW + 5;
    (2 * (size + 1) + 5).min(apart.max(FEW))
}

/// The two elements around a position in one dimension, and its distance from the first.
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
        let samples = near_max(self, height) * near_max(self, width);
        let launch = |first: usize| {
            let end = (first + SAMPLES_MAX).min(samples);
            let is_last = u32::from(end == samples);
            let params = [params.as_slice(), &[first as u32, end as u32, is_last]].concat();
            Launch::new(0, 3, params, total, end - first)
        };
        Ok((0..samples.max(1)).step_by(SAMPLES_MAX).map(launch).collect())
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
            let near_y = near(start_y + cell_y as f32 * step_y, step_y, samples_y, height);
            let near_x = near(start_x + cell_x as f32 * step_x, step_x, samples_x, width);
            let outside = near_y.len() < samples_y || near_x.len() < samples_x;
            let (mut sum, mut best) = (0.0f64, outside.then_some(0.0f32));
            for j in near_y {
                let y =
                    start_y + cell_y as f32 * step_y + (j as f32 + 0.5) * step_y / samples_y as f32;
                for i in near_x.clone() {
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
                    sum += f64::from(corners.iter().sum::<f32>());
                    let largest = corners.into_iter().fold(f32::NEG_INFINITY, f32::max);
                    best = Some(best.map_or(largest, |best: f32| best.max(largest)));
                }
            }
            let samples = (samples_x as f64 * samples_y as f64).max(1.0);
            *output = if self.max { best.unwrap_or(0.0) } else { (sum / samples) as f32 };
        }
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    let table: [(&str, u32, f32, bool, bool); 5] = [
        ("means of four", 2, 1.0, true, false),
        ("as many samples as elements", 0, 1.0, false, false),
        ("another scale", 3, 0.5, true, false),
        ("the largest", 2, 1.0, true, true),
        ("the largest of adaptive samples", 0, 0.75, false, true),
    ];
    let cases = table.into_iter().map(|(name, samples, scale, half_pixel, max)| {
        let corners = [
            [0.6, 0.3, 4.7, 5.1],
            [2.2, 1.4, 9.3, 8.9],
            [-2.7, -1.9, 2.4, 3.3],
            [3.1, 3.2, 3.3, 3.35],
        ];
        let op = RoiAlign { samples, scale, half_pixel, max };
        case(name, op, [6, 7], &corners)
    });
    // Cells with more samples than one launch takes, some of them outside of the image.
    let wide =
        [(0, false), (0, true), (150, false), (150, true)].into_iter().map(|(samples, max)| {
            let corners =
                [[-30.5, 3.25, 419.5, 303.25], [0.0, 0.0, 450.0, 300.0], [9.0, 9.0, 8.0, 8.0]];
            let op = RoiAlign { samples, scale: 1.0, half_pixel: false, max };
            case(&format!("wide cells of {samples}, {max}"), op, [200, 190], &corners)
                .everywhere_if(samples == 0 && !max)
        });
    let long = LONG.into_iter().step_by(3).map(|size| {
        let side = (size as f64).sqrt().ceil();
        let op = RoiAlign { samples: 0, scale: 1.0, half_pixel: true, max: false };
        let corners = [[-0.5, -0.5, 3.0 * side - 0.5, 2.0 * side - 0.5]];
        case(&format!("{size} samples of a cell"), op, [300, 400], &corners).everywhere_if(false)
    });
    cases.chain(wide).chain(long).collect()
}

/// Regions of one image's height and width, pooled to 2 x 3 cells.
#[cfg(not(target_arch = "wasm32"))]
fn case(name: &str, op: RoiAlign, [height, width]: [usize; 2], corners: &[[f64; 4]]) -> Case {
    let RoiAlign { samples, scale, half_pixel, max } = op;
    let data = Array::noise(4400, &[2, 3, height, width]);
    let regions = Array::f32(&[corners.len(), 4], corners.concat());
    let batches: Vec<f64> = [0.0, 1.0, 1.0, 0.0][..corners.len()].to_vec();
    let batches = Array::of(DType::I32, &[corners.len()], batches);
    let expected = Array::build(DType::F32, &[corners.len(), 3, 2, 3], |index| {
        let &[region, channel, cell_y, cell_x] = index else { return f64::NAN };
        let plane =
            &data.numbers[(batches.numbers[region] as usize * 3 + channel) * height * width..];
        // Positions in one dimension that are sampled for a cell.
        let places = |from: usize, cell: usize, cells: usize| -> Vec<f64> {
            let move_by = if half_pixel { 0.5 } else { 0.0 };
            let at = |corner| regions.at(&[region, corner]) * f64::from(scale) - move_by;
            let least = if half_pixel { f64::MIN } else { 1.0 };
            let step = (at(from + 2) - at(from)).max(least) / cells as f64;
            let count = if samples == 0 { step.ceil() as u32 } else { samples };
            let part = |i| cell as f64 + (f64::from(i) + 0.5) / f64::from(count);
            (0..count).map(|i| at(from) + step * part(i)).collect()
        };
        let (last_row, last_column) = (height as f64 - 1.0, width as f64 - 1.0);
        let (mut sum, mut count, mut best) = (0.0, 0.0, f64::MIN);
        let columns = places(0, cell_x, 3);
        for y in places(1, cell_y, 2) {
            for &x in &columns {
                count += 1.0;
                if y < -1.0 || x < -1.0 || y > last_row + 1.0 || x > last_column + 1.0 {
                    best = best.max(0.0);
                    continue;
                }
                let (y, x) = (y.clamp(0.0, last_row), x.clamp(0.0, last_column));
                // A position on the last row lies between that row and itself.
                let (top, left) = (y.floor(), x.floor());
                for (down, right) in [(0., 0.), (0., 1.), (1., 0.), (1., 1.)] {
                    let (row, column) = (top + down, left + right);
                    let weight = (1.0 - (y - row).abs()) * (1.0 - (x - column).abs());
                    let (row, column) = (row.min(last_row), column.min(last_column));
                    let value = weight * plane[row as usize * width + column as usize];
                    sum += value;
                    best = best.max(value);
                }
            }
        }
        match (max, count > 0.0) {
            (_, false) => 0.0,
            (true, true) => best,
            (false, true) => sum / count,
        }
    });
    let inputs = [&data, &regions, &batches];
    let (name, op) = (format!("roi_align/{name}"), flotilla_program::Op::RoiAlign(op));
    Sketch::single(&name, op, &inputs, &expected, Tolerance::Approximate)
}
