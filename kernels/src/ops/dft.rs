//! Discrete Fourier transforms, as sums. Long sums are divided into parts.

use flotilla_program::{Dft, ReduceKind};
use flotilla_tensor::DType;

use super::{
    Kernel, Launch, Memory, Operand, Shader,
    reduce::{self, Lines, Reduction},
    split::{self, Scratchpad},
};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, LONG, LONGEST, Sketch, Tolerance};

/// Most elements that one invocation adds.
const LENGTH_MAX: usize = 8192;

/// Which of a node's shaders.
const SUM: usize = 0;
const JOIN: usize = 1;

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

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        let reads = [("x", "f32"), ("twiddles", "f32")];
        let mut shaders = vec![Shader::new("Dft", &reads, "f32", include_str!("dft.wgsl"))];
        if split::may_divide(signature.fixed(1, 0), LENGTH_MAX) {
            shaders.push(reduce::shader(ReduceKind::Mean, "f32"));
        }
        shaders
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { given, inner, count, length, parts_in, parts_out } = geometry(self, call)?;
        let total = call.elements() / parts_out;
        let elements = if self.mirrored { length } else { length.min(given) };
        let divisions = split::parts(total, elements, LENGTH_MAX);
        let factor = if self.inverse { 1.0 / length as f32 } else { 1.0 };
        let mut params = [total, given, inner, count, length, parts_in, parts_out]
            .map(|count| count as u32)
            .to_vec();
        params.extend([u32::from(self.inverse), u32::from(self.mirrored), divisions as u32]);
        params.push(if divisions == 1 { factor } else { 1.0f32 }.to_bits());
        let iterations = elements.div_ceil(divisions) + 2 * u32::BITS as usize;
        let sums = Launch::new(SUM, 2, params, total * divisions, iterations);
        if divisions == 1 {
            return Ok(vec![sums]);
        }
        let mut scratchpad = Scratchpad::default();
        let found = scratchpad.take(divisions * call.elements());
        let lines = Lines { outer: 1, size: divisions, inner: call.elements() };
        let reduction = Reduction { first: JOIN, later: JOIN, none: 0 };
        let join = reduction.launches(found, lines, Memory::Output, factor, &mut scratchpad);
        Ok([vec![sums.writing(found)], join].concat())
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
            let mut sum = [0.0f64; 2];
            let mut turn = 0;
            for at in 0..if self.mirrored { length } else { length.min(given) } {
                let conjugate = self.mirrored && at > length / 2;
                let source = if conjugate { length - at } else { at };
                if source < given {
                    let entry = ((outer * given + source) * inner + within) * parts_in;
                    let real = f64::from(x[entry]);
                    let imaginary = match (parts_in, conjugate) {
                        (1, _) => 0.0,
                        (_, true) => -f64::from(x[entry + 1]),
                        (_, false) => f64::from(x[entry + 1]),
                    };
                    let cosine = f64::from(twiddles[turn * 2]);
                    let sine = f64::from(twiddles[turn * 2 + 1]);
                    let sine = if self.inverse { sine } else { -sine };
                    sum[0] += real * cosine - imaginary * sine;
                    sum[1] += real * sine + imaginary * cosine;
                }
                turn = (turn + frequency) % length;
            }
            for (output, sum) in output.iter_mut().zip(sum) {
                *output = if self.inverse { sum / length as f64 } else { sum } as f32;
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
    let mut table: Vec<(String, Vec<usize>, u32, usize, usize, usize, bool, bool)> = table
        .into_iter()
        .map(|(name, shape, axis, length, count, parts, inverse, mirrored)| {
            (name.to_owned(), shape.to_vec(), axis, length, count, parts, inverse, mirrored)
        })
        .collect();
    for size in LONG {
        table.push((format!("{size} numbers"), vec![1, size, 1], 1, size, 3, 2, false, false));
    }
    let size = LONG[7];
    table.push(("long inverse".to_owned(), vec![1, size, 2], 1, size, 2, 2, true, false));
    table.push(("long half".to_owned(), vec![size / 2 + 1, 1, 2], 0, size, 3, 1, true, true));
    table
        .into_iter()
        .map(|(name, shape, axis, length, count, parts, inverse, mirrored)| {
            let shape = shape.as_slice();
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
            let strides = crate::call::strides(shape);
            let number = |index: &[usize]| {
                x.numbers[index.iter().zip(&strides).map(|(at, stride)| at * stride).sum::<usize>()]
            };
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
                        if part < shape[last] { number(&source) } else { 0.0 }
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
            let tolerance = if length < 100 { Tolerance::Approximate } else { Tolerance::Scaled };
            Sketch::single(&name, op, &[&x, &twiddles], &expected, tolerance)
                .everywhere_if(length < 100 || length == LONGEST)
        })
        .collect()
}
