//! The elements that a deformable convolution multiplies: read by interpolation at the positions given by the
//! offsets.

use flotilla_program::DeformableColumns;
use flotilla_tensor::DType;

use super::{Kernel, Launch, Operand, Shader, window};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// Sizes from the shapes of a call.
struct Geometry {
    channels: usize,
    size: [usize; 2],
    kernel: [usize; 2],
    out: [usize; 2],
}

fn geometry(op: &DeformableColumns, call: &Call<'_>) -> Result<Geometry, String> {
    let &[n, channels, height, width] = call.input(0) else {
        return Err(format!("{:?} is not an image", call.input(0)));
    };
    let &[_, _, out_height, out_width] = call.input(1) else {
        return Err(format!("offsets of shape {:?}", call.input(1)));
    };
    let &[kernel_height, kernel_width] = op.kernel.as_slice() else {
        return Err(format!("a window of {} dimensions", op.kernel.len()));
    };
    let groups = op.offset_groups as usize;
    if channels % groups != 0 {
        return Err(format!("{channels} channels in {groups} groups of offsets"));
    }
    let taps = (kernel_height * kernel_width) as usize;
    call.expect_input(1, &[n, 2 * groups * taps, out_height, out_width])?;
    if op.mask {
        call.expect_input(2, &[n, groups * taps, out_height, out_width])?;
    }
    call.expect_output(&[n, channels, taps, out_height, out_width])?;
    Ok(Geometry {
        channels,
        size: [height, width],
        kernel: [kernel_height as usize, kernel_width as usize],
        out: [out_height, out_width],
    })
}

impl Kernel for DeformableColumns {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(2 + usize::from(self.mask))?;
        signature.expect_all(DType::F32)?;
        if signature.input(0).shape.len() != 4 || self.kernel.len() != 2 {
            return Err("a deformable convolution has two spatial dimensions".to_owned());
        }
        if self.offset_groups == 0 || self.kernel.contains(&0) {
            return Err("there are no groups of offsets, or the window is empty".to_owned());
        }
        window::check(&self.window, signature.input(0).shape.len())
    }

    fn shaders(&self, _signature: &Signature<'_>) -> Vec<Shader> {
        let mut reads = vec![("data", "f32"), ("offset", "f32")];
        if self.mask {
            reads.push(("mask", "f32"));
        }
        let mask = if self.mask { " * mask[pair * places + place]" } else { "" };
        let text = include_str!("deformable_columns.wgsl").replace("{{mask}}", mask);
        vec![Shader::new("DeformableColumns", &reads, "f32", &text)]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { channels, size, kernel, out } = geometry(self, call)?;
        let total = call.elements();
        let mut params: Vec<u32> = vec![total as u32, channels as u32];
        params.extend(size.map(|size| size as u32));
        params.extend([(kernel[0] * kernel[1]) as u32, kernel[1] as u32]);
        params.extend(out.map(|size| size as u32));
        params.extend(&self.window.strides);
        params.extend(&self.window.dilations);
        params.extend(call.numbers(&self.window.pads)?.into_iter().map(|pad| pad as u32));
        params.extend([self.offset_groups, 0]);
        Ok(vec![Launch::new(0, 2 + usize::from(self.mask), params, total, 0)])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let Geometry { channels, size, kernel, out } = geometry(self, call)?;
        let (data, offset) = (operands[0].f32(), operands[1].f32());
        let pads = call.numbers(&self.window.pads)?;
        let (taps, places) = (kernel[0] * kernel[1], out[0] * out[1]);
        let groups = self.offset_groups as usize;
        let output: &mut [f32] = bytemuck::cast_slice_mut(output);
        for (index, value) in output.iter_mut().enumerate() {
            let (place, tap) = (index % places, index / places % taps);
            let plane = index / (places * taps);
            let group = plane % channels / (channels / groups);
            let pair = (plane / channels * groups + group) * taps + tap;
            let at = |axis: usize, place: usize, tap: usize| {
                let grid = (place * self.window.strides[axis] as usize
                    + tap * self.window.dilations[axis] as usize) as f32
                    - pads[axis] as f32;
                (grid + offset[(2 * pair + axis) * places + index % places])
                    .clamp(-1.0, size[axis] as f32)
            };
            let y = at(0, place / out[1], tap / kernel[1]);
            let x = at(1, place % out[1], tap % kernel[1]);
            let (low_y, low_x) = (y.floor(), x.floor());
            let element = |y: i64, x: i64| match (usize::try_from(y), usize::try_from(x)) {
                (Ok(y), Ok(x)) if y < size[0] && x < size[1] => {
                    data[(plane * size[0] + y) * size[1] + x]
                }
                _ => 0.0,
            };
            let mix = |a: f32, b: f32, part: f32| a * (1.0 - part) + b * part;
            let line = |y: i64| {
                let left = low_x as i64;
                mix(element(y, left), element(y, left + 1), x - low_x)
            };
            *value = mix(line(low_y as i64), line(low_y as i64 + 1), y - low_y);
            if self.mask {
                *value *= operands[2].f32()[pair * places + place];
            }
        }
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::{Op, Window};

    let table: [(&str, [usize; 4], u32, bool, [u32; 2], [i32; 2], [usize; 2]); 3] = [
        ("a small window", [1, 1, 3, 3], 1, false, [2, 2], [0, 0], [2, 2]),
        ("a mask and padding", [2, 4, 5, 6], 1, true, [3, 3], [1, 1], [5, 6]),
        ("groups of offsets", [2, 4, 5, 6], 2, true, [3, 2], [1, 0], [5, 5]),
    ];
    table
        .into_iter()
        .map(|(name, shape, offset_groups, mask, kernel, pads, out)| {
            let op = DeformableColumns {
                kernel: kernel.to_vec(),
                window: Window {
                    strides: vec![1, 1],
                    dilations: vec![1, 1],
                    pads: pads.iter().map(|&pad| i64::from(pad).into()).collect(),
                },
                offset_groups,
                mask,
            };
            let taps = (kernel[0] * kernel[1]) as usize;
            let groups = offset_groups as usize;
            let x = Array::noise(4300, &shape);
            // Most offsets stay near their place; some leave the image on either side.
            let offset = Array::noise(4301, &[shape[0], 2 * groups * taps, out[0], out[1]])
                .map(|x| f64::from((x * x * x * 9.0) as f32));
            let weights = Array::noise(4302, &[shape[0], groups * taps, out[0], out[1]]);
            let result = [shape[0], shape[1], taps, out[0], out[1]];
            let expected = Array::build(DType::F32, &result, |index| {
                let &[n, c, tap, oy, ox] = index else { unreachable!("five dimensions") };
                let pair = c / (shape[1] / groups) * taps + tap;
                let steps = [tap / kernel[1] as usize, tap % kernel[1] as usize];
                let at = |axis: usize, place: usize| {
                    (place + steps[axis]) as f64 - f64::from(pads[axis])
                        + offset.at(&[n, 2 * pair + axis, oy, ox])
                };
                let (y, x_at) = (at(0, oy), at(1, ox));
                // Every element is weighted by its distance: the tent function in both directions.
                let mut sum = 0.0;
                for h in 0..shape[2] {
                    for w in 0..shape[3] {
                        let tent = |distance: f64| (1.0 - distance.abs()).max(0.0);
                        sum += x.at(&[n, c, h, w]) * tent(y - h as f64) * tent(x_at - w as f64);
                    }
                }
                sum * if mask { weights.at(&[n, pair, oy, ox]) } else { 1.0 }
            });
            let mut given = vec![&x, &offset];
            if mask {
                given.push(&weights);
            }
            Sketch::single(
                &format!("deformable columns/{name}"),
                Op::DeformableColumns(op),
                &given,
                &expected,
                Tolerance::Approximate,
            )
        })
        .collect()
}
