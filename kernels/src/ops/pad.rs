//! Elements around a tensor.

use flotilla_program::{Pad, PadMode};

use super::{Kernel, Launch, Operand, Shader};
use crate::call::{Call, Signature, strides};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// Elements before each dimension in this run.
fn before(op: &Pad, call: &Call<'_>) -> Result<Vec<i32>, String> {
    let (input, output) = (call.input(0), call.output());
    if input.len() != output.len() || input.len() != op.before.len() {
        return Err(format!("{input:?} is padded to {output:?} at {} places", op.before.len()));
    }
    if op.mode != PadMode::Constant && input.contains(&0) && !output.contains(&0) {
        return Err(format!("{input:?} has nothing to pad with"));
    }
    let narrow = |before: i64| {
        i32::try_from(before).map_err(|_| format!("a padding of {before} does not fit 32 bits"))
    };
    call.numbers(&op.before)?.into_iter().map(narrow).collect()
}

/// The position that an element is copied from, `None` if it is a new one.
fn source(mode: PadMode, position: i64, size: i64) -> Option<i64> {
    match mode {
        PadMode::Constant => (0..size).contains(&position).then_some(position),
        PadMode::Edge => Some(position.clamp(0, size - 1)),
        PadMode::Wrap => Some(position.rem_euclid(size)),
        PadMode::Reflect if size == 1 => Some(0),
        PadMode::Reflect => {
            let period = 2 * (size - 1);
            let position = position.rem_euclid(period);
            Some(position.min(period - position))
        }
    }
}

impl Kernel for Pad {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(if self.mode == PadMode::Constant { 2 } else { 1 })?;
        for &input in &signature.node.inputs {
            let got = signature.program.value(input).dtype;
            if got != signature.output().dtype {
                return Err(format!("{got:?} is padded to {:?}", signature.output().dtype));
            }
        }
        Ok(())
    }

    fn shaders(&self, _signature: &Signature<'_>) -> Vec<Shader> {
        let mode = match self.mode {
            PadMode::Constant => 0,
            PadMode::Reflect => 1,
            PadMode::Edge => 2,
            PadMode::Wrap => 3,
        };
        let (outside, reads): (_, &[_]) = if self.mode == PadMode::Constant {
            ("fill[0]", &[("data", "u32"), ("fill", "u32")])
        } else {
            ("0u", &[("data", "u32")])
        };
        let body = include_str!("pad.wgsl").replace("OUTSIDE", outside);
        let body = format!("const MODE = {mode}u;\n{body}");
        vec![Shader::new("Pad", reads, "u32", &body)]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let before = before(self, call)?;
        let total = call.elements();
        let mut params = vec![total as u32, before.len() as u32, 0, 0];
        for shape in [call.output(), call.input(0)] {
            params.extend((0..8).map(|axis| shape.get(axis).map_or(1, |&size| size as u32)));
        }
        params.extend((0..8).map(|axis| before.get(axis).map_or(0, |&before| before as u32)));
        Ok(vec![Launch::new(0, call.inputs(), params, total, before.len())])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let before = before(self, call)?;
        let (input, sizes) = (call.input(0), call.output());
        let input_strides = strides(input);
        let data = operands[0].words();
        let fill = match self.mode {
            PadMode::Constant => operands[1].words().first().copied(),
            PadMode::Reflect | PadMode::Edge | PadMode::Wrap => Some(0),
        };
        let fill = fill.ok_or("there is no element to pad with")?;
        // The offset in the input for each position in each dimension.
        let offsets: Vec<Vec<Option<usize>>> = (0..sizes.len())
            .map(|axis| {
                let offset = |position: usize| {
                    let position = position as i64 - i64::from(before[axis]);
                    let position = source(self.mode, position, input[axis] as i64)?;
                    Some(position as usize * input_strides[axis])
                };
                (0..sizes[axis]).map(offset).collect()
            })
            .collect();
        let mut index = vec![0; sizes.len()];
        for element in output {
            let source = index
                .iter()
                .zip(&offsets)
                .try_fold(0, |source, (&at, offsets)| offsets[at].map(|offset| source + offset));
            *element = source.map_or(fill, |source| data[source]);
            for axis in (0..sizes.len()).rev() {
                index[axis] += 1;
                if index[axis] < sizes[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;
    use flotilla_tensor::DType;

    let table: [(&str, PadMode, &[usize], &[i64], &[usize]); 9] = [
        ("zeros around an image", PadMode::Constant, &[1, 2, 3, 4], &[0, 0, 1, 2], &[1, 2, 5, 7]),
        ("less at the start", PadMode::Constant, &[5, 3], &[-2, 1], &[4, 4]),
        ("all of nothing", PadMode::Constant, &[0, 2], &[1, 1], &[2, 4]),
        ("a mirror", PadMode::Reflect, &[3, 4], &[2, 3], &[7, 10]),
        ("a mirror of a mirror", PadMode::Reflect, &[3], &[7], &[17]),
        ("a mirror of one", PadMode::Reflect, &[1, 2], &[2, 0], &[4, 2]),
        ("edges", PadMode::Edge, &[2, 3], &[1, 2], &[4, 7]),
        ("around", PadMode::Wrap, &[2, 3], &[3, 4], &[7, 11]),
        ("around without the start", PadMode::Wrap, &[4], &[-1], &[6]),
    ];
    table
        .into_iter()
        .map(|(name, mode, shape, before, out)| {
            let input = Array::noise(4100, shape);
            let fill = Array::f32(&[], vec![0.25]);
            // A walk in single steps, which turns at the ends or starts again.
            let walk = |mut position: i64, size: i64| -> Option<usize> {
                while mode != PadMode::Constant && !(0..size).contains(&position) {
                    position = match mode {
                        PadMode::Edge => position + if position < 0 { 1 } else { -1 },
                        PadMode::Wrap => position + if position < 0 { size } else { -size },
                        PadMode::Constant | PadMode::Reflect if size == 1 => 0,
                        PadMode::Constant | PadMode::Reflect if position < 0 => -position,
                        PadMode::Constant | PadMode::Reflect => 2 * (size - 1) - position,
                    };
                }
                (0..size).contains(&position).then_some(position as usize)
            };
            let expected = Array::build(DType::F32, out, |index| {
                let source: Option<Vec<usize>> = (0..shape.len())
                    .map(|axis| walk(index[axis] as i64 - before[axis], shape[axis] as i64))
                    .collect();
                source.map_or(0.25, |source| input.at(&source))
            });
            let op =
                Op::Pad(Pad { before: before.iter().map(|&before| before.into()).collect(), mode });
            let inputs: &[&Array] =
                if mode == PadMode::Constant { &[&input, &fill] } else { &[&input] };
            Sketch::single(&format!("pad/{name}"), op, inputs, &expected, Tolerance::Exact)
        })
        .collect()
}
