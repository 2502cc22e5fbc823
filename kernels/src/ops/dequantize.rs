//! Numbers of quantized integers.

use flotilla_program::{Quantized, Value};
use flotilla_tensor::DType;

use super::{Kernel, Launch, Operand, Shader, stored::Stored};
use crate::call::{Call, RANK_MAX, Signature, strides};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// How the integers, scales and zero points are stored.
#[derive(Clone, Copy)]
pub(super) struct Form {
    pub(super) integers: Stored,
    pub(super) scales: Stored,
    pub(super) zeros: Option<Stored>,
}

/// The form of operands that begin at input `first` with the integers, and go on with scales and zero points at `scales`.
pub(super) fn form(
    op: &Quantized,
    signature: &Signature<'_>,
    first: usize,
    scales: usize,
) -> Result<Form, String> {
    let is_number = |value: &Value| value.dtype != DType::Bool;
    if !signature.input(scales).dtype.is_float() {
        return Err(format!("scales are {:?}", signature.input(scales).dtype));
    }
    let zeros = op.zeros.then(|| signature.input(scales + 1));
    if zeros.is_some_and(|zeros| !is_number(zeros)) {
        return Err("zero points are Bool".to_owned());
    }
    Ok(Form {
        integers: Stored::quantized(signature.input(first), op)?,
        scales: Stored::of(signature.input(scales)),
        zeros: zeros.map(Stored::of),
    })
}

impl Form {
    /// WGSL's declarations of the buffers, as they come from the inputs: `integers` under this name, scales, zero points.
    pub(super) fn readers(self, integers: &str) -> String {
        let mut text = self.integers.reader(integers) + &self.scales.reader("scales");
        if let Some(zeros) = self.zeros {
            text += &zeros.reader("zeros");
        }
        text
    }

    /// WGSL of the number of the integer at `at`, whose scale is at `block`.
    pub(super) fn number(self, integers: &str) -> String {
        match self.zeros {
            Some(_) => format!("({integers}_at(at) - zeros_at(block)) * scales_at(block)"),
            None => format!("{integers}_at(at) * scales_at(block)"),
        }
    }

    /// The same on the cpu; `parameters` are the words of the scales and of the zero points.
    pub(super) fn compute(
        self,
        integers: &[u32],
        parameters: &[Operand<'_>],
        at: usize,
        block: usize,
    ) -> f32 {
        let scale = self.scales.at(parameters[0].words(), block);
        let zero = self.zeros.map_or(0.0, |zeros| zeros.at(parameters[1].words(), block));
        (self.integers.at(integers, at) - zero) * scale
    }
}

/// Where the integer and the scale of each element are.
pub(super) struct Places {
    /// The elements' shape.
    shape: Vec<usize>,
    /// Integers in a stored row.
    stride: usize,
    /// Between the scales of neighbours, or of neighbouring blocks.
    scale_strides: Vec<usize>,
    axis: usize,
    block: usize,
}

impl Places {
    /// For elements of this shape.
    pub(super) fn new(
        op: &Quantized,
        shape: &[usize],
        stored: &[usize],
        scales: &[usize],
    ) -> Result<Places, String> {
        let (Some(&last), Some(&row)) = (shape.last(), stored.last()) else {
            return Err("quantized numbers have at least one dimension".to_owned());
        };
        let per_element = if op.bits < 8 { (8 / op.bits) as usize } else { 1 };
        let stride = row * per_element;
        let fits = if per_element == 1 { stride == last } else { stride >= last };
        if !fits || shape[..shape.len() - 1] != stored[..stored.len() - 1] {
            return Err(format!("integers {stored:?} of {} bits for {shape:?}", op.bits));
        }
        let (axis, block) = (op.axis as usize, (op.block as usize).max(1));
        if scales.len() != shape.len() {
            return Err(format!("scales of shape {scales:?} for numbers of shape {shape:?}"));
        }
        for (index, (&got, &size)) in scales.iter().zip(shape).enumerate() {
            let blocks = if index == axis { size.div_ceil(block) } else { size };
            if got != 1 && got != blocks {
                return Err(format!(
                    "scales of shape {scales:?} for numbers of shape {shape:?} in blocks of {block} along {axis}"
                ));
            }
        }
        let mut scale_strides = strides(scales);
        for (stride, &size) in scale_strides.iter_mut().zip(scales) {
            if size == 1 {
                *stride = 0;
            }
        }
        Ok(Places { shape: shape.to_vec(), stride, scale_strides, axis, block })
    }

    /// The integer and the scale of the element at a row-major index.
    pub(super) fn of(&self, index: usize) -> (usize, usize) {
        let last = self.shape[self.shape.len() - 1];
        let (mut rest, mut scale) = (index, 0);
        for axis in (0..self.shape.len()).rev() {
            let position = rest % self.shape[axis];
            rest /= self.shape[axis];
            let block = if axis == self.axis { position / self.block } else { position };
            scale += block * self.scale_strides[axis];
        }
        (index / last * self.stride + index % last, scale)
    }

    /// The same as parameters of [`WGSL`].
    pub(super) fn params(&self) -> Vec<u32> {
        let last = self.shape[self.shape.len() - 1];
        let mut params: Vec<u32> =
            [self.shape.len(), last, self.stride, self.axis, self.block, 0, 0, 0]
                .map(|number| number as u32)
                .to_vec();
        for numbers in [&self.shape, &self.scale_strides] {
            params.extend((0..RANK_MAX).map(|axis| numbers.get(axis).map_or(0, |&n| n as u32)));
        }
        params
    }

    /// Iterations of [`WGSL`]'s loops.
    pub(super) fn iterations(&self) -> usize {
        self.shape.len()
    }
}

/// Members of `Params` and functions: `integer_of(index)` and `scale_of(index)`.
pub(super) const WGSL: &str = include_str!("dequantize_places.wgsl");

impl Kernel for Quantized {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(1 + self.operands())?;
        signature.expect_result(DType::F32)?;
        form(self, signature, 0, 1).map(|_| ())
    }

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        let Ok(form) = form(self, signature, 0, 1) else { return Vec::new() };
        let mut reads = vec![("integers", "u32"), ("scales", "u32")];
        reads.extend(form.zeros.map(|_| ("zeros", "u32")));
        let body = include_str!("dequantize.wgsl").replace("{{number}}", &form.number("integers"));
        let body = format!("{WGSL}{}{body}", form.readers("integers"));
        vec![Shader::new("Dequantize", &reads, "f32", &body)]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let places = places(self, call)?;
        let total = call.elements();
        let mut params = places.params();
        params.extend([total as u32, 0, 0, 0]);
        Ok(vec![Launch::new(0, 1 + self.operands(), params, total, places.iterations())])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let (places, form) = (places(self, call)?, form(self, &call.signature, 0, 1)?);
        for (index, word) in output.iter_mut().enumerate() {
            let (at, block) = places.of(index);
            *word = form.compute(operands[0].words(), &operands[1..], at, block).to_bits();
        }
        Ok(())
    }

    fn reads_narrow(&self, _signature: &Signature<'_>, _input: usize) -> bool {
        true
    }
}

fn places(op: &Quantized, call: &Call<'_>) -> Result<Places, String> {
    if op.zeros {
        call.expect_input(2, call.input(1))?;
    }
    Places::new(op, call.output(), call.input(0), call.input(1))
}

/// Integers of fewer than 8 bits as bytes, row by row.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn packed(integers: &Array, bits: u32) -> Array {
    let per_byte = (8 / bits) as usize;
    let last = integers.shape[integers.shape.len() - 1];
    let mut shape = integers.shape.clone();
    *shape.last_mut().expect("a dimension") = last.div_ceil(per_byte);
    let mask = (1i64 << bits) - 1;
    let rows = integers.numbers.chunks(last.max(1)).flat_map(|row| {
        row.chunks(per_byte).map(|elements| {
            let byte = elements.iter().enumerate().fold(0, |byte, (place, &element)| {
                byte | (element as i64 & mask) << (place as u32 * bits)
            });
            byte as f64
        })
    });
    Array::of(DType::U8, &shape, rows.collect())
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::{Levels, Op};

    let plain = Quantized { bits: 8, signed: false, axis: 0, block: 1, zeros: false, levels: None };
    let zeros = Quantized { zeros: true, ..plain };
    let nibbles = Quantized { bits: 4, axis: 1, block: 16, ..zeros };
    let table: [(&str, Quantized, DType, DType, &[usize], &[usize]); 12] = [
        ("one scale", zeros, DType::U8, DType::F32, &[3, 5], &[1, 1]),
        ("signed bytes", plain, DType::I8, DType::F32, &[2, 3, 7], &[1, 3, 1]),
        ("a scale for each row", zeros, DType::I8, DType::F32, &[6, 5], &[6, 1]),
        (
            "blocks of the first dimension",
            Quantized { block: 4, ..zeros },
            DType::U8,
            DType::F32,
            &[10, 6],
            &[3, 6],
        ),
        ("words", zeros, DType::I32, DType::F32, &[4, 5], &[1, 5]),
        ("16 bits", Quantized { bits: 16, ..zeros }, DType::I16, DType::F32, &[4, 5], &[1, 5]),
        ("nibbles", nibbles, DType::U8, DType::F32, &[5, 40], &[5, 3]),
        ("an odd number of nibbles", nibbles, DType::U8, DType::F16, &[3, 33], &[3, 3]),
        (
            "nibbles with a sign",
            Quantized { signed: true, ..nibbles },
            DType::U8,
            DType::F32,
            &[4, 16],
            &[4, 1],
        ),
        ("two bits", Quantized { bits: 2, ..nibbles }, DType::U8, DType::F16, &[3, 32], &[3, 2]),
        (
            "levels of the normal distribution",
            Quantized { levels: Some(Levels::Nf4), zeros: false, ..nibbles },
            DType::U8,
            DType::F32,
            &[4, 32],
            &[4, 2],
        ),
        (
            "levels of floating point",
            Quantized { levels: Some(Levels::Fp4), zeros: false, ..nibbles },
            DType::U8,
            DType::F32,
            &[4, 32],
            &[4, 2],
        ),
    ];
    table
        .into_iter()
        .enumerate()
        .map(|(seed, (name, op, dtype, scale_type, shape, scale_shape))| {
            let sample =
                Sample::new(3600 + 10 * seed as u64, op, dtype, scale_type, shape, scale_shape);
            let expected = Array::f32(shape, sample.numbers.numbers.clone());
            let mut sketch = Sketch::new(&format!("dequantize/{name}"));
            // Half of the cases get words, as a run computes them.
            let operands = sample.operands(&mut sketch, seed % 2 == 0 || op.bits < 8);
            let output = sketch.node(Op::Dequantize(op), &operands, DType::F32, shape);
            sketch.case(output, &expected, Tolerance::Close)
        })
        .collect()
}

/// Quantized numbers for a table of cases.
#[cfg(not(target_arch = "wasm32"))]
pub(super) struct Sample {
    op: Quantized,
    stored: Array,
    scales: Array,
    zeros: Array,
    /// What the integers stand for.
    pub(super) numbers: Array,
}

#[cfg(not(target_arch = "wasm32"))]
impl Sample {
    pub(super) fn new(
        seed: u64,
        op: Quantized,
        dtype: DType,
        scale_type: DType,
        shape: &[usize],
        scale_shape: &[usize],
    ) -> Sample {
        let bits = op.bits.min(12);
        let signed = op.signed || matches!(dtype, DType::I8 | DType::I16 | DType::I32);
        let span = f64::from(1u32 << bits);
        let low = if signed { -span / 2.0 } else { 0.0 };
        let integer = |x: f64| (((x + 1.0) / 2.0 * span).floor()).min(span - 1.0) + low;
        let integers = Array::noise(seed, shape).map(integer);
        let halves = |array: Array| {
            let numbers = scale_type.decode_numbers(&scale_type.encode_numbers(&array.numbers));
            Array::of(scale_type, scale_shape, numbers)
        };
        let scales = halves(Array::noise(seed + 1, scale_shape).map(|x| 0.01 + x.abs() / 16.0));
        let zero_type = match (op.bits, op.signed) {
            (2 | 4, true) => DType::I8,
            (2 | 4, false) => DType::U8,
            _ => dtype,
        };
        let zeros = Array::noise(seed + 2, scale_shape).map(integer);
        let zeros = Array::of(zero_type, scale_shape, zeros.numbers);
        let stored = match op.bits {
            2 | 4 => packed(&integers, op.bits),
            _ => Array::of(dtype, shape, integers.numbers.clone()),
        };
        let place = |index: &[usize]| -> Vec<usize> {
            let at = |(axis, &position): (usize, &usize)| {
                let block = if axis == op.axis as usize { op.block.max(1) as usize } else { 1 };
                (position / block).min(scale_shape[axis] - 1)
            };
            index.iter().enumerate().map(at).collect()
        };
        let numbers = Array::build(DType::F32, shape, |index| {
            let (own, block) = (integers.at(index), place(index));
            let integer = match op.levels {
                Some(levels) => f64::from(levels.numbers()[own as usize]),
                None if op.zeros => own - zeros.at(&block),
                None => own,
            };
            integer * scales.at(&block)
        });
        Sample { op, stored, scales, zeros, numbers }
    }

    /// The operands in order: narrow constants or inputs of a run.
    pub(super) fn operands(
        &self,
        sketch: &mut Sketch,
        narrow: bool,
    ) -> Vec<flotilla_program::ValueId> {
        let mut add = |array: &Array| {
            if narrow { sketch.narrow(array) } else { sketch.input(array) }
        };
        let mut operands = vec![add(&self.stored), add(&self.scales)];
        operands.extend(self.op.zeros.then(|| add(&self.zeros)));
        operands
    }
}
