//! Sums, means and extremes over dimensions.

use flotilla_program::{DType, Reduce, ReduceKind};

use super::{Kernel, Launch, Operand, Shader};
use crate::call::{Call, Signature, strides};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// Kept and reduced dimensions as `(size, stride in the input)`.
struct Geometry {
    kept: Vec<(usize, usize)>,
    reduced: Vec<(usize, usize)>,
}

fn geometry(op: &Reduce, call: &Call<'_>) -> Result<Geometry, String> {
    let input = call.input(0);
    let is_reduced = |axis: usize| op.axes.contains(&(axis as u32));
    let want: Vec<usize> = input
        .iter()
        .enumerate()
        .map(|(axis, &dim)| if is_reduced(axis) { 1 } else { dim })
        .collect();
    call.expect_output(&want)?;
    let dims = input.iter().copied().zip(strides(input)).enumerate();
    let (reduced, kept): (Vec<_>, Vec<_>) = dims.partition(|&(axis, _)| is_reduced(axis));
    let plain = |dims: Vec<(usize, (usize, usize))>| dims.into_iter().map(|(_, dim)| dim).collect();
    Ok(Geometry { kept: plain(kept), reduced: plain(reduced) })
}

fn count(dims: &[(usize, usize)]) -> usize {
    dims.iter().map(|(size, _)| size).product()
}

/// Offset of a row-major index over these dimensions.
fn offset(dims: &[(usize, usize)], mut index: usize) -> usize {
    let mut offset = 0;
    for &(size, stride) in dims.iter().rev() {
        offset += index % size * stride;
        index /= size;
    }
    offset
}

impl Kernel for Reduce {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(1)?;
        let dtype = signature.input(0).dtype;
        signature.expect_all(dtype)?;
        if let Some(axis) =
            self.axes.iter().find(|&&axis| axis as usize >= signature.input(0).shape.len())
        {
            return Err(format!("there is no dimension {axis}"));
        }
        match (dtype, self.kind) {
            (DType::F32, _) => Ok(()),
            (DType::I32 | DType::U32, kind) if kind != ReduceKind::Mean => Ok(()),
            (DType::Bool, ReduceKind::Min | ReduceKind::Max) => Ok(()),
            (dtype, kind) => Err(format!("{kind:?} of {dtype:?}")),
        }
    }

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        let element = match signature.input(0).dtype {
            DType::F32 => "f32",
            DType::I32 => "i32",
            _ => "u32",
        };
        let join = match self.kind {
            ReduceKind::Sum | ReduceKind::Mean => "a + b",
            ReduceKind::SumOfSquares => "a + b * b",
            ReduceKind::Product => "a * b",
            ReduceKind::Min => "min(a, b)",
            ReduceKind::Max => "max(a, b)",
        };
        let last = if self.kind == ReduceKind::Mean { "x * params.inverse" } else { "x" };
        let body = format!(
            "alias Element = {element};
fn join(a: Element, b: Element) -> Element {{ return {join}; }}
fn finish(x: Element) -> Element {{ return {last}; }}
{}",
            include_str!("reduce.wgsl")
        );
        vec![Shader::new("Reduce", &[("x", element)], element, &body)]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { kept, reduced } = geometry(self, call)?;
        let (total, steps) = (count(&kept), count(&reduced));
        let mut params =
            [total, kept.len(), steps, reduced.len()].map(|count| count as u32).to_vec();
        let first = first(self.kind, call.signature.input(0).dtype);
        params.extend([(1.0 / steps as f32).to_bits(), first, 0, 0]);
        for dims in [&kept, &reduced] {
            params.extend((0..8).map(|axis| dims.get(axis).map_or(1, |dim| dim.0 as u32)));
            params.extend((0..8).map(|axis| dims.get(axis).map_or(0, |dim| dim.1 as u32)));
        }
        Ok(vec![Launch { shader: 0, inputs: vec![0], params, invocations: total as u64 }])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let Geometry { kept, reduced } = geometry(self, call)?;
        let dtype = call.signature.input(0).dtype;
        let (x, first) = (operands[0].words(), first(self.kind, dtype));
        let factor = if self.kind == ReduceKind::Mean { 1.0 / count(&reduced) as f32 } else { 1.0 };
        match dtype {
            DType::F32 => {
                let join: fn(f32, f32) -> f32 = match self.kind {
                    ReduceKind::Sum | ReduceKind::Mean => |a, b| a + b,
                    ReduceKind::SumOfSquares => |a, b| a + b * b,
                    ReduceKind::Product => |a, b| a * b,
                    ReduceKind::Min => f32::min,
                    ReduceKind::Max => f32::max,
                };
                let output: &mut [f32] = bytemuck::cast_slice_mut(output);
                fold(&kept, &reduced, operands[0].f32(), output, f32::from_bits(first), join);
                if factor != 1.0 {
                    output.iter_mut().for_each(|value| *value *= factor);
                }
            }
            DType::I32 if matches!(self.kind, ReduceKind::Min | ReduceKind::Max) => {
                let join = if self.kind == ReduceKind::Min { i32::min } else { i32::max };
                let output = bytemuck::cast_slice_mut(output);
                fold(&kept, &reduced, operands[0].i32(), output, first as i32, join);
            }
            // Sums and products that wrap around have the same bits with and without a sign.
            _ => {
                let join: fn(u32, u32) -> u32 = match self.kind {
                    ReduceKind::Sum | ReduceKind::Mean => u32::wrapping_add,
                    ReduceKind::SumOfSquares => |a, b| a.wrapping_add(b.wrapping_mul(b)),
                    ReduceKind::Product => u32::wrapping_mul,
                    ReduceKind::Min => u32::min,
                    ReduceKind::Max => u32::max,
                };
                fold(&kept, &reduced, x, output, first, join);
            }
        }
        Ok(())
    }
}

/// What the reduction of nothing gives, as a word. Source: ONNX operators, "ReduceMax" and its like.
fn first(kind: ReduceKind, dtype: DType) -> u32 {
    match (kind, dtype) {
        (ReduceKind::Sum | ReduceKind::Mean | ReduceKind::SumOfSquares, _) => 0,
        (ReduceKind::Product, DType::F32) => 1.0f32.to_bits(),
        (ReduceKind::Product, _) => 1,
        (ReduceKind::Min, DType::F32) => f32::INFINITY.to_bits(),
        (ReduceKind::Max, DType::F32) => f32::NEG_INFINITY.to_bits(),
        (ReduceKind::Min, DType::I32) => i32::MAX as u32,
        (ReduceKind::Max, DType::I32) => i32::MIN as u32,
        (ReduceKind::Min, DType::Bool) => 1,
        (ReduceKind::Min, _) => u32::MAX,
        (ReduceKind::Max, _) => 0,
    }
}

fn fold<T: Copy>(
    kept: &[(usize, usize)],
    reduced: &[(usize, usize)],
    x: &[T],
    output: &mut [T],
    first: T,
    join: impl Fn(T, T) -> T,
) {
    let steps: Vec<usize> = (0..count(reduced)).map(|step| offset(reduced, step)).collect();
    for (index, value) in output.iter_mut().enumerate() {
        let start = offset(kept, index);
        *value = steps.iter().fold(first, |result, step| join(result, x[start + step]));
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;

    let fold = |kind: ReduceKind, numbers: &[f64]| {
        let sum = numbers.iter().sum::<f64>();
        match kind {
            ReduceKind::Sum => sum,
            ReduceKind::Mean => sum / numbers.len() as f64,
            ReduceKind::SumOfSquares => numbers.iter().map(|x| x * x).sum(),
            ReduceKind::Product => numbers.iter().product(),
            ReduceKind::Min => numbers.iter().copied().fold(f64::INFINITY, f64::min),
            ReduceKind::Max => numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    };
    let kinds = [
        ReduceKind::Sum,
        ReduceKind::Mean,
        ReduceKind::SumOfSquares,
        ReduceKind::Product,
        ReduceKind::Min,
        ReduceKind::Max,
    ];
    let tables: [(&[usize], &[u32], DType); 8] = [
        (&[3, 5, 4], &[1], DType::F32),
        (&[3, 70], &[1], DType::F32),
        (&[2, 3, 4], &[0, 2], DType::F32),
        (&[4, 3], &[0], DType::I32),
        (&[4, 3], &[1], DType::U32),
        (&[3, 3], &[1], DType::Bool),
        (&[2, 0], &[1], DType::F32),
        (&[], &[], DType::F32),
    ];
    let mut cases = Vec::new();
    for (shape, axes, dtype) in tables {
        for kind in kinds {
            let extreme = matches!(kind, ReduceKind::Min | ReduceKind::Max);
            let refused = match dtype {
                DType::F32 => kind == ReduceKind::Mean && shape.contains(&0),
                DType::Bool => !extreme,
                _ => kind == ReduceKind::Mean,
            };
            if refused {
                continue;
            }
            let noise = Array::noise(3700, shape);
            let input = match dtype {
                DType::I32 => Array { dtype, ..noise.map(|x| (x * 9.0).trunc()) },
                DType::U32 => Array { dtype, ..noise.map(|x| (x * 4.0 + 4.0).trunc()) },
                DType::Bool => Array { dtype, ..noise.map(|x| f64::from(x > 0.3)) },
                _ => noise,
            };
            let is_reduced = |axis: usize| axes.contains(&(axis as u32));
            let out: Vec<usize> = shape
                .iter()
                .enumerate()
                .map(|(axis, &dim)| if is_reduced(axis) { 1 } else { dim })
                .collect();
            let expected = Array::build(dtype, &out, |index| {
                let members: Vec<f64> = (0..shape.iter().product())
                    .map(|flat| crate::suite::unravel(flat, shape))
                    .filter(|own| {
                        own.iter()
                            .zip(index)
                            .enumerate()
                            .all(|(axis, (a, b))| is_reduced(axis) || a == b)
                    })
                    .map(|own| input.at(&own))
                    .collect();
                fold(kind, &members)
            });
            let name = format!("reduce/{kind:?} of {dtype:?} {shape:?} over {axes:?}");
            let op = Op::Reduce(Reduce { kind, axes: axes.to_vec() });
            cases.push(Sketch::single(&name, op, &[&input], &expected, Tolerance::Close));
        }
    }
    cases
}
