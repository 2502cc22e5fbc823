//! Discrete Fourier transforms, as sums.

use flotilla_program::{DType, Dft};

use super::{Kernel, Launch, Operand, Shader};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// `x` is `[outer, given, inner, parts_in]`, the output `[outer, count, inner, parts_out]`.
struct Geometry {
    given: usize,
    inner: usize,
    count: usize,
    length: usize,
    parts_in: usize,
    parts_out: usize,
}

fn geometry(op: &Dft, call: &Call<'_>) -> Result<Geometry, String> {
    let (x, output, axis) = (call.input(0), call.output(), op.axis as usize);
    let refused = || format!("{x:?} is not transformed to {output:?}");
    let (&[length, 2], Some(&parts_in), Some(&parts_out), Some(&count)) =
        (call.input(1), x.last(), output.last(), output.get(axis))
    else {
        return Err(refused());
    };
    let mut want = x.to_vec();
    let last = want.len() - 1;
    (want[axis], want[last]) = (count, parts_out);
    if want != output || !(1..=2).contains(&parts_in) || !(1..=2).contains(&parts_out) {
        return Err(refused());
    }
    if length == 0 && call.elements() > 0 {
        return Err("a transform of length 0 has no elements".to_owned());
    }
    let inner = x[axis + 1..last].iter().product();
    Ok(Geometry { given: x[axis], inner, count, length, parts_in, parts_out })
}

impl Kernel for Dft {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(2)?;
        signature.expect_all(DType::F32)?;
        if self.axis as usize + 1 >= signature.input(0).shape.len() {
            return Err(format!("there is no dimension {} before the last one", self.axis));
        }
        Ok(())
    }

    fn shaders(&self, _signature: &Signature<'_>) -> Vec<Shader> {
        let reads = [("x", "f32"), ("twiddles", "f32")];
        vec![Shader::new("Dft", &reads, "f32", include_str!("dft.wgsl"))]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { given, inner, count, length, parts_in, parts_out } = geometry(self, call)?;
        let total = call.elements() / parts_out;
        let mut params = [total, given, inner, count, length, parts_in, parts_out]
            .map(|count| count as u32)
            .to_vec();
        params.extend([u32::from(self.inverse), u32::from(self.mirrored)]);
        let iterations = if self.mirrored { length } else { length.min(given) };
        Ok(vec![Launch::new(0, 2, params, total, iterations)])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let Geometry { given, inner, count, length, parts_in, parts_out } = geometry(self, call)?;
        let (x, twiddles) = (operands[0].f32(), operands[1].f32());
        let output: &mut [f32] = bytemuck::cast_slice_mut(output);
        for (index, output) in output.chunks_exact_mut(parts_out).enumerate() {
            let (within, frequency) = (index % inner, index / inner % count);
            let outer = index / (inner * count);
            let mut sum = [0.0; 2];
            let mut turn = 0;
            for at in 0..if self.mirrored { length } else { length.min(given) } {
                let conjugate = self.mirrored && at > length / 2;
                let source = if conjugate { length - at } else { at };
                if source < given {
                    let entry = ((outer * given + source) * inner + within) * parts_in;
                    let real = x[entry];
                    let imaginary = match (parts_in, conjugate) {
                        (1, _) => 0.0,
                        (_, true) => -x[entry + 1],
                        (_, false) => x[entry + 1],
                    };
                    let cosine = twiddles[turn * 2];
                    let sine = twiddles[turn * 2 + 1] * if self.inverse { 1.0 } else { -1.0 };
                    sum[0] += real * cosine - imaginary * sine;
                    sum[1] += real * sine + imaginary * cosine;
                }
                turn = (turn + frequency) % length;
            }
            for (output, sum) in output.iter_mut().zip(sum) {
                *output = if self.inverse { sum / length as f32 } else { sum };
            }
        }
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;

    // Shape, axis, length, elements of the output, parts of the output, inverse, mirrored.
    let table: [(&str, &[usize], u32, usize, usize, usize, bool, bool); 6] = [
        ("of real numbers", &[2, 9, 1], 1, 9, 9, 2, false, false),
        ("of complex numbers", &[5, 2, 2], 0, 5, 5, 2, false, false),
        ("the first half", &[2, 8, 3, 1], 1, 8, 5, 2, false, false),
        ("with zeros at the end", &[1, 5, 2], 1, 8, 8, 2, false, false),
        ("inverse", &[2, 7, 2], 1, 7, 7, 2, true, false),
        ("inverse of half a spectrum", &[2, 6, 2, 2], 1, 10, 10, 1, true, true),
    ];
    table
        .into_iter()
        .map(|(name, shape, axis, length, count, parts, inverse, mirrored)| {
            let at = axis as usize;
            let x = Array::noise(4500, shape);
            let tau = 2.0 * std::f64::consts::PI;
            let twiddles = Array::f32(
                &[length, 2],
                (0..length)
                    .map(|turn| tau * turn as f64 / length as f64)
                    .flat_map(|angle| [angle.cos(), angle.sin()])
                    .collect(),
            );
            let mut out = shape.to_vec();
            let last = out.len() - 1;
            (out[at], out[last]) = (count, parts);
            let expected = Array::build(DType::F32, &out, |index| {
                let mut sum = 0.0;
                for place in 0..length {
                    let fold = mirrored && place > length / 2;
                    let mut source = index.to_vec();
                    source[at] = if fold { length - place } else { place };
                    if source[at] >= shape[at] {
                        continue;
                    }
                    let mut part = |part: usize| {
                        source[last] = part;
                        if part < shape[last] { x.at(&source) } else { 0.0 }
                    };
                    let (real, imaginary) = (part(0), part(1) * if fold { -1.0 } else { 1.0 });
                    let sign = if inverse { 1.0 } else { -1.0 };
                    let angle = sign * tau * (place * index[at]) as f64 / length as f64;
                    sum += if index[last] == 0 {
                        real * angle.cos() - imaginary * angle.sin()
                    } else {
                        real * angle.sin() + imaginary * angle.cos()
                    };
                }
                if inverse { sum / length as f64 } else { sum }
            });
            let op = Op::Dft(Dft { axis, inverse, mirrored });
            let name = format!("dft/{name}");
            Sketch::single(&name, op, &[&x, &twiddles], &expected, Tolerance::Approximate)
        })
        .collect()
}
