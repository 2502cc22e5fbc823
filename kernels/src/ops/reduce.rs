//! Sums, means and extremes over dimensions. Neighbouring dimensions are reduced together, and long
//! lines in parts.

use flotilla_program::{Reduce, ReduceKind};
use flotilla_tensor::DType;

use super::{
    Kernel, Launch, Memory, Operand, Shader,
    split::{self, Scratchpad},
    sums,
};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, LONG, LONGEST, Sketch, Tolerance};

/// Most elements that one invocation joins, four per iteration.
const LENGTH_MAX: usize = 16_384;

/// Lines along a dimension: elements are `[outer, size, inner]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Lines {
    pub(super) outer: usize,
    pub(super) size: usize,
    pub(super) inner: usize,
}

impl Lines {
    fn count(self) -> usize {
        self.outer * self.inner
    }
}

/// The reductions that are done one after the other: each run of neighbouring dimensions, from the last
/// to the first.
fn runs(op: &Reduce, call: &Call<'_>) -> Result<Vec<Lines>, String> {
    let mut shape = call.input(0).to_vec();
    let is_reduced = |axis: usize| op.axes.contains(&(axis as u32));
    let mut runs = Vec::new();
    let mut end = shape.len();
    while let Some(last) = (0..end).rev().find(|&axis| is_reduced(axis)) {
        let first = (0..=last).rev().take_while(|&axis| is_reduced(axis)).last().unwrap_or(last);
        let product = |dims: &[usize]| dims.iter().product();
        runs.push(Lines {
            outer: product(&shape[..first]),
            size: product(&shape[first..=last]),
            inner: product(&shape[last + 1..]),
        });
        shape[first..=last].fill(1);
        end = first;
    }
    call.expect_output(&shape)?;
    runs.retain(|lines| lines.size != 1);
    if runs.is_empty() {
        runs.push(Lines { outer: call.elements(), size: 1, inner: 1 });
    }
    Ok(runs)
}

/// How the results of parts are joined.
fn joining(kind: ReduceKind) -> ReduceKind {
    if kind == ReduceKind::SumOfSquares { ReduceKind::Sum } else { kind }
}

/// A shader that reduces lines of a WGSL type.
pub(super) fn shader(kind: ReduceKind, element: &str) -> Shader {
    let (take, join) = match kind {
        ReduceKind::Sum | ReduceKind::Mean => ("a + b", "a + b"),
        ReduceKind::SumOfSquares => ("a + b * b", "a + b"),
        ReduceKind::Product => ("a * b", "a * b"),
        ReduceKind::Min => ("min(a, b)", "min(a, b)"),
        ReduceKind::Max => ("max(a, b)", "max(a, b)"),
    };
    let last = if kind == ReduceKind::Mean { "x * params.factor" } else { "x" };
    let body = format!(
        "alias Element = {element};
fn take(a: vec4<Element>, b: vec4<Element>) -> vec4<Element> {{ return {take}; }}
fn join(a: Element, b: Element) -> Element {{ return {join}; }}
fn finish(x: Element) -> Element {{ return {last}; }}
{}",
        include_str!("reduce.wgsl")
    );
    Shader::new("Reduce", &[("x", element)], element, &body)
}

/// Reductions of one kind and type with the same two shaders, which may be one.
pub(super) struct Reduction {
    /// The shader for the input.
    pub(super) first: usize,
    /// The shader for the results of `first`.
    pub(super) later: usize,
    /// The result for an empty line, as a word.
    pub(super) none: u32,
}

impl Reduction {
    /// Reduces lines of `from` into `to`; results are multiplied by `factor` if the kind is a mean.
    pub(super) fn launches(
        &self,
        from: Memory,
        lines: Lines,
        to: Memory,
        factor: f32,
        scratchpad: &mut Scratchpad,
    ) -> Vec<Launch> {
        let (mut from, mut size, mut shader) = (from, lines.size, self.first);
        let mut launches = Vec::new();
        loop {
            let parts = split::parts(lines.count(), size, LENGTH_MAX);
            let total = lines.count() * parts;
            let is_last = parts == 1;
            let writes = if is_last { to } else { scratchpad.take(total) };
            let mut params = [total, size, lines.inner, parts].map(|count| count as u32).to_vec();
            params.push(self.none);
            params.push(if is_last { factor } else { 1.0f32 }.to_bits());
            let iterations = size.div_ceil(parts) / 4 + 3;
            let launch = Launch::new(shader, 0, params, total, iterations);
            launches.push(launch.reading([from]).writing(writes));
            if is_last {
                return launches;
            }
            (from, size, shader) = (writes, parts, self.later);
        }
    }
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
        let mut shaders = vec![shader(self.kind, element)];
        if joining(self.kind) != self.kind {
            shaders.push(shader(joining(self.kind), element));
        }
        shaders
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let runs = runs(self, call)?;
        let later = usize::from(joining(self.kind) != self.kind);
        let mut reduction =
            Reduction { first: 0, later, none: first(self.kind, call.signature.input(0).dtype) };
        let mut scratchpad = Scratchpad::default();
        let (mut launches, mut from) = (Vec::new(), Memory::Input(0));
        for (index, &lines) in runs.iter().enumerate() {
            let to = if index + 1 == runs.len() {
                Memory::Output
            } else {
                scratchpad.take(lines.count())
            };
            let factor = 1.0 / lines.size as f32;
            launches.extend(reduction.launches(from, lines, to, factor, &mut scratchpad));
            (from, reduction.first) = (to, later);
        }
        Ok(launches)
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let runs = runs(self, call)?;
        let dtype = call.signature.input(0).dtype;
        let mut kind = self.kind;
        let mut x = std::borrow::Cow::Borrowed(operands[0].words());
        for (index, &lines) in runs.iter().enumerate() {
            if index + 1 == runs.len() {
                reduce(kind, dtype, lines, &x, output);
            } else {
                let mut joined = vec![0; lines.count()];
                reduce(kind, dtype, lines, &x, &mut joined);
                x = joined.into();
            }
            kind = joining(kind);
        }
        Ok(())
    }
}

/// Reduces lines on the cpu.
fn reduce(kind: ReduceKind, dtype: DType, lines: Lines, x: &[u32], output: &mut [u32]) {
    let first = first(kind, dtype);
    let extreme = matches!(kind, ReduceKind::Min | ReduceKind::Max);
    match dtype {
        DType::F32 => {
            let (x, output) = (bytemuck::cast_slice(x), bytemuck::cast_slice_mut(output));
            floats(kind, lines, x, output, f32::from_bits(first));
        }
        DType::I32 if extreme => {
            let join = if kind == ReduceKind::Min { i32::min } else { i32::max };
            let (x, output) = (bytemuck::cast_slice(x), bytemuck::cast_slice_mut(output));
            fold(lines, x, output, first as i32, join, |x| x);
        }
        // Sums and products that wrap around have the same bits for signed and unsigned integers.
        _ => {
            let join: fn(u32, u32) -> u32 = match kind {
                ReduceKind::Sum | ReduceKind::Mean => u32::wrapping_add,
                ReduceKind::SumOfSquares => |a, b| a.wrapping_add(b.wrapping_mul(b)),
                ReduceKind::Product => u32::wrapping_mul,
                ReduceKind::Min => u32::min,
                ReduceKind::Max => u32::max,
            };
            fold(lines, x, output, first, join, |x| x);
        }
    }
}

fn floats(kind: ReduceKind, lines: Lines, x: &[f32], output: &mut [f32], first: f32) {
    let wide = f64::from(first);
    let size = lines.size as f64;
    let whole = lines.inner == 1 && lines.size > 0;
    let each = |output: &mut [f32], function: &dyn Fn(&[f32]) -> f64| {
        let lines = x.chunks_exact(lines.size).zip(output);
        lines.for_each(|(line, value)| *value = function(line) as f32);
    };
    match kind {
        ReduceKind::Sum if whole => each(output, &|line| sums::sum(line, f64::from)),
        ReduceKind::Mean if whole => each(output, &|line| sums::sum(line, f64::from) / size),
        ReduceKind::SumOfSquares if whole => {
            each(output, &|line| sums::sum(line, |x| f64::from(x) * f64::from(x)));
        }
        ReduceKind::Sum => fold(lines, x, output, wide, |a, b| a + f64::from(b), |x| x as f32),
        ReduceKind::Mean => {
            fold(lines, x, output, wide, |a, b| a + f64::from(b), |x| (x / size) as f32);
        }
        ReduceKind::SumOfSquares => {
            let join = |a, b| a + f64::from(b) * f64::from(b);
            fold(lines, x, output, wide, join, |x| x as f32);
        }
        ReduceKind::Product => {
            fold(lines, x, output, wide, |a, b| a * f64::from(b), |x| x as f32);
        }
        ReduceKind::Min => fold(lines, x, output, first, f32::min, |x| x),
        ReduceKind::Max => fold(lines, x, output, first, f32::max, |x| x),
    }
}

/// The result for an empty line, as a word. Source: ONNX operators, "ReduceMax" and its like.
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

/// Joins the elements of each line, one row of lines after the other, so that memory is read in its
/// order.
fn fold<T: Copy, A: Copy>(
    lines: Lines,
    x: &[T],
    output: &mut [T],
    first: A,
    join: impl Fn(A, T) -> A,
    finish: impl Fn(A) -> T,
) {
    let Lines { size, inner, .. } = lines;
    let mut row = vec![first; inner];
    for (outer, output) in output.chunks_exact_mut(inner.max(1)).enumerate() {
        row.fill(first);
        for x in x[outer * size * inner..][..size * inner].chunks_exact(inner.max(1)) {
            row.iter_mut().zip(x).for_each(|(joined, &x)| *joined = join(*joined, x));
        }
        output.iter_mut().zip(&row).for_each(|(value, &joined)| *value = finish(joined));
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
    let long = |kind, dtype, shape: &[usize], axes: &[u32]| long(kind, dtype, shape, axes, fold);
    for size in LONG {
        let case = long(ReduceKind::Sum, DType::F32, &[size], &[0]);
        cases.push(case.everywhere_if(size == LONGEST));
    }
    let size = LONG[8];
    for kind in kinds {
        let tables: [(&[usize], &[u32], DType); 6] = [
            (&[2, size], &[1], DType::F32),
            (&[size, 3], &[0], DType::F32),
            (&[2, 192, 3, 192], &[1, 3], DType::F32),
            (&[5000, 40], &[0], DType::F32),
            (&[2, size], &[1], DType::I32),
            (&[3, size], &[1], DType::U32),
        ];
        for (shape, axes, dtype) in tables {
            if dtype == DType::F32 || kind != ReduceKind::Mean {
                let everywhere = shape.len() == 4 && kind == ReduceKind::Mean;
                cases.push(long(kind, dtype, shape, axes).everywhere_if(everywhere));
            }
        }
    }
    cases
}

/// Many elements of each result.
#[cfg(not(target_arch = "wasm32"))]
fn long(
    kind: ReduceKind,
    dtype: DType,
    shape: &[usize],
    axes: &[u32],
    fold: impl Fn(ReduceKind, &[f64]) -> f64,
) -> Case {
    use flotilla_program::Op;

    use crate::suite::unravel;

    let noise = Array::noise(3701, shape);
    let input = match (dtype, kind) {
        // Each factor except 1 adds a rounding.
        (DType::F32, ReduceKind::Product) => {
            noise.map(|x| if x.abs() > 0.99 { f64::from((x * x * x + 0.05) as f32) } else { 1.0 })
        }
        (DType::F32, _) => noise,
        // Products of odd numbers never become 0.
        (_, ReduceKind::Product) => {
            Array { dtype, ..noise.map(|x| f64::from(x > 0.9) * 2.0 + 1.0) }
        }
        (DType::I32, _) => Array { dtype, ..noise.map(|x| (x * 99.0).trunc()) },
        (_, _) => Array { dtype, ..noise.map(|x| (x * 99.0 + 99.0).trunc()) },
    };
    let is_reduced = |axis: usize| axes.contains(&(axis as u32));
    let out: Vec<usize> = shape
        .iter()
        .enumerate()
        .map(|(axis, &dim)| if is_reduced(axis) { 1 } else { dim })
        .collect();
    let strides = crate::call::strides(&out);
    let mut members = vec![Vec::new(); out.iter().product()];
    for (flat, &number) in input.numbers.iter().enumerate() {
        let index = unravel(flat, shape);
        let place = (0..shape.len()).filter(|&axis| !is_reduced(axis));
        members[place.map(|axis| index[axis] * strides[axis]).sum::<usize>()].push(number);
    }
    let result = |members: &Vec<f64>| match (dtype, kind) {
        (DType::F32, _) => fold(kind, members),
        (_, ReduceKind::Product) => {
            let product = members.iter().fold(1u32, |a, &b| a.wrapping_mul(b as u32));
            if dtype == DType::I32 { f64::from(product as i32) } else { f64::from(product) }
        }
        (_, _) => fold(kind, members),
    };
    let expected = Array::of(dtype, &out, members.iter().map(result).collect());
    let name = format!("reduce/{kind:?} of {dtype:?} {shape:?} over {axes:?}");
    let op = Op::Reduce(Reduce { kind, axes: axes.to_vec() });
    let tolerance = if dtype == DType::F32 { Tolerance::Approximate } else { Tolerance::Exact };
    Sketch::single(&name, op, &[&input], &expected, tolerance)
}
