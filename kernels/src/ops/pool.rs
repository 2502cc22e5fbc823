//! Windows that slide over the spatial dimensions and give their maximum, sum or mean. Large windows are divided into
//! parts.

use flotilla_program::{Pool, PoolKind, ReduceKind};
use flotilla_tensor::DType;

use super::{
    Kernel, Launch, Memory, Operand, Shader,
    reduce::{self, Lines, Reduction},
    split::{self, Scratchpad},
    window::{self, Sliding, position, sizes},
};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, LONG, LONGEST, Sketch, Tolerance};

/// Most elements of a window that one invocation processes; each may be an iteration of three loops.
const LENGTH_MAX: usize = 4096;

/// Which of a node's shaders: for whole windows, for parts of them, for results from parts, and for means from sums.
const WHOLE: usize = 0;
const PARTS: usize = 1;
const JOIN: usize = 2;
const MEAN: usize = 3;

fn sliding(op: &Pool, call: &Call<'_>) -> Result<Sliding, String> {
    let ([n, c, input @ ..], [out_n, out_c, places @ ..]) = (call.input(0), call.output()) else {
        return Err(format!("{:?} has no batch and channels", call.input(0)));
    };
    if (n, c) != (out_n, out_c) {
        return Err(format!("{:?} does not give {:?}", call.input(0), call.output()));
    }
    Sliding::new(call, &op.window, input, &sizes(&op.kernel), places)
}

/// Elements of the window.
fn taps(op: &Pool) -> usize {
    op.kernel.iter().map(|&size| size as usize).product()
}

/// The first element after the padding, along each of three dimensions.
fn ends(op: &Pool, call: &Call<'_>, sliding: &Sliding) -> Result<[i64; 3], String> {
    let after = call.numbers(&op.pads_after)?;
    let missing = 3 - after.len().min(3);
    Ok(std::array::from_fn(|axis| {
        let after = axis.checked_sub(missing).and_then(|own| after.get(own));
        sliding.input[axis] as i64 + after.copied().unwrap_or(0)
    }))
}

fn wgsl_element(dtype: DType) -> &'static str {
    match dtype {
        DType::I32 => "i32",
        DType::U32 | DType::Bool => "u32",
        DType::F32 | DType::F16 | DType::BF16 | DType::F64 => "f32",
        DType::I64 | DType::I16 | DType::I8 => "i32",
        DType::U64 | DType::U16 | DType::U8 => "u32",
    }
}

impl Kernel for Pool {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(1)?;
        let (from, to) = (signature.input(0).dtype, signature.output().dtype);
        let accepted = match self.kind {
            PoolKind::Max => from == to && matches!(from, DType::F32 | DType::I32 | DType::U32),
            PoolKind::MaxPosition { .. } => {
                to == DType::I32 && matches!(from, DType::F32 | DType::I32 | DType::U32)
            }
            PoolKind::Sum | PoolKind::Mean | PoolKind::PaddedMean => {
                from == DType::F32 && to == DType::F32
            }
        };
        if !accepted {
            return Err(format!("{:?} of {from:?} as {to:?}", self.kind));
        }
        let rank = signature.input(0).shape.len();
        if self.kernel.len() + 2 != rank || self.pads_after.len() != self.kernel.len() {
            return Err(format!("a window of {} dimensions in {rank}", self.kernel.len()));
        }
        window::check(&self.window, rank)
    }

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        let element = wgsl_element(signature.input(0).dtype);
        let output = wgsl_element(signature.output().dtype);
        let fill = |text: &str, parts: &[(&str, &str)]| {
            let mut text = text.replace("{{fields}}", window::FIELDS);
            for (name, part) in parts.iter().chain(&[("element", element)]) {
                text = text.replace(&format!("{{{{{name}}}}}"), part);
            }
            text
        };
        let largest = "if (found == 0u || value > best) {
                        best = value;
                        position = flat;
                    }";
        let column_major =
            "start + position % params.input_size.z * params.input_size.y * params.input_size.x
        + position / params.input_size.z % params.input_size.y * params.input_size.x
        + position / (params.input_size.z * params.input_size.y)";
        let (join, finish) = match self.kind {
            PoolKind::Max => (largest, "best".to_owned()),
            PoolKind::MaxPosition { column_major: false } => {
                (largest, "i32(start + position)".to_owned())
            }
            PoolKind::MaxPosition { column_major: true } => {
                (largest, format!("i32({column_major})"))
            }
            PoolKind::Sum => ("best += value;", "best".to_owned()),
            PoolKind::Mean => ("best += value;", "best / f32(found)".to_owned()),
            PoolKind::PaddedMean => ("best += value;", "best / f32(padded)".to_owned()),
        };
        let whole = fill(include_str!("pool.wgsl"), &[("join", join), ("finish", &finish)]);
        let mut shaders = vec![Shader::new("Pool", &[("data", element)], output, &whole)];
        if !split::may_divide(Some(taps(self) as i64), LENGTH_MAX) {
            return shaders;
        }
        let parts = include_str!("pool_parts.wgsl");
        match self.kind {
            PoolKind::Max | PoolKind::MaxPosition { .. } => {
                let place = "select(0u, position + 1u, found > 0u)";
                let parts = fill(parts, &[("join", largest), ("finish", place)]);
                let join = fill(include_str!("pool_largest.wgsl"), &[("finish", &finish)]);
                let reads = [("data", element), ("positions", "u32")];
                shaders.push(Shader::new("Pool, parts", &reads[..1], "u32", &parts));
                shaders.push(Shader::new("Pool, joining parts", &reads, output, &join));
            }
            PoolKind::Sum | PoolKind::Mean | PoolKind::PaddedMean => {
                let parts = fill(parts, &[("join", join), ("finish", "best")]);
                shaders.push(Shader::new("Pool, parts", &[("data", element)], "f32", &parts));
                shaders.push(reduce::shader(ReduceKind::Sum, "f32"));
            }
        }
        let counts = match self.kind {
            PoolKind::Mean => "taps(corner, vec3<i32>(), vec3<i32>(params.input_size.xyz))",
            PoolKind::PaddedMean => "taps(corner, corner, params.ends.xyz)",
            PoolKind::Sum | PoolKind::Max | PoolKind::MaxPosition { .. } => return shaders,
        };
        let mean = fill(include_str!("pool_mean.wgsl"), &[("counts", counts)]);
        shaders.push(Shader::new("Pool, means", &[("sums", "f32")], "f32", &mean));
        shaders
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let sliding = sliding(self, call)?;
        let total = call.elements();
        let ends = ends(self, call, &sliding)?;
        let parts = split::parts(total, sliding.taps(), LENGTH_MAX);
        let params = |total: usize| {
            let mut params = vec![total as u32, parts as u32, 0, 0];
            params.extend(sliding.params());
            params.extend(ends.map(|end| end as i32 as u32));
            params.push(0);
            params
        };
        if parts == 1 {
            let [depth, height, width] = sliding.kernel;
            let iterations = depth * (1 + height * (1 + width));
            return Ok(vec![Launch::new(WHOLE, 1, params(total), total, iterations)]);
        }
        let mut scratchpad = Scratchpad::default();
        let found = scratchpad.take(total * parts);
        let length = sliding.taps().div_ceil(parts);
        let mut launches = vec![
            Launch::new(PARTS, 1, params(total * parts), total * parts, length).writing(found),
        ];
        let is_mean = matches!(self.kind, PoolKind::Mean | PoolKind::PaddedMean);
        match self.kind {
            PoolKind::Max | PoolKind::MaxPosition { .. } => {
                let join = Launch::new(JOIN, 0, params(total), total, parts);
                launches.push(join.reading([Memory::Input(0), found]));
            }
            PoolKind::Sum | PoolKind::Mean | PoolKind::PaddedMean => {
                let sums = if is_mean { scratchpad.take(total) } else { Memory::Output };
                let lines = Lines { outer: total, size: parts, inner: 1 };
                let reduction = Reduction { first: JOIN, later: JOIN, none: 0 };
                launches.extend(reduction.launches(found, lines, sums, 1.0, &mut scratchpad));
                if is_mean {
                    let mean = Launch::new(MEAN, 0, params(total), total, 0);
                    launches.push(mean.reading([sums]));
                }
            }
        }
        Ok(launches)
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let sliding = sliding(self, call)?;
        let pooling = Pooling { op: self, ends: ends(self, call, &sliding)?, sliding };
        let x = operands[0];
        match (self.kind, wgsl_element(call.signature.input(0).dtype)) {
            (PoolKind::Max | PoolKind::MaxPosition { .. }, "i32") => {
                pooling.largest(x.i32(), output, |value| value as u32);
            }
            (PoolKind::Max | PoolKind::MaxPosition { .. }, "u32") => {
                pooling.largest(x.words(), output, |value| value);
            }
            (PoolKind::Max | PoolKind::MaxPosition { .. }, _) => {
                pooling.largest(x.f32(), output, f32::to_bits);
            }
            (PoolKind::Sum | PoolKind::Mean | PoolKind::PaddedMean, _) => {
                pooling.sums(x.f32(), bytemuck::cast_slice_mut(output));
            }
        }
        Ok(())
    }
}

struct Pooling<'a> {
    op: &'a Pool,
    sliding: Sliding,
    ends: [i64; 3],
}

impl Pooling<'_> {
    /// Calls `see` with the flat index of each element of the input under a place, in row-major order.
    fn visit(&self, place: usize, mut see: impl FnMut(usize)) {
        let sliding = &self.sliding;
        let place = position(place, sliding.output);
        let [depth, height, width] = sliding.kernel;
        for z in (0..depth).filter_map(|tap| sliding.source(0, place[0], tap)) {
            for y in (0..height).filter_map(|tap| sliding.source(1, place[1], tap)) {
                let line = (z * sliding.input[1] + y) * sliding.input[2];
                (0..width)
                    .filter_map(|tap| sliding.source(2, place[2], tap))
                    .for_each(|x| see(line + x));
            }
        }
    }

    /// Number of elements under a place, those of the padding included.
    fn padded_count(&self, place: usize) -> usize {
        let sliding = &self.sliding;
        let place = position(place, sliding.output);
        (0..3)
            .map(|axis| {
                let corner = (place[axis] * sliding.strides[axis]) as i64 - sliding.pads[axis];
                (0..sliding.kernel[axis])
                    .filter(|tap| {
                        corner + ((tap * sliding.dilations[axis]) as i64) < self.ends[axis]
                    })
                    .count()
            })
            .product()
    }

    fn largest<T: Copy + Default + PartialOrd>(
        &self,
        x: &[T],
        output: &mut [u32],
        bits: impl Fn(T) -> u32,
    ) {
        let (places, plane) = (self.sliding.places(), self.sliding.plane());
        let [depth, height, _] = self.sliding.input;
        for (index, result) in output.iter_mut().enumerate() {
            let start = index / places * plane;
            let mut best: Option<(usize, T)> = None;
            self.visit(index % places, |flat| {
                let value = x[start + flat];
                if best.is_none_or(|(_, best)| value > best) {
                    best = Some((flat, value));
                }
            });
            *result = match (self.op.kind, best) {
                (PoolKind::MaxPosition { column_major: true }, Some((flat, _))) => {
                    let [z, y, x] = position(flat, self.sliding.input);
                    (start + (x * height + y) * depth + z) as u32
                }
                (PoolKind::MaxPosition { .. }, best) => {
                    (start + best.map_or(0, |(flat, _)| flat)) as u32
                }
                (PoolKind::Max | PoolKind::Sum | PoolKind::Mean | PoolKind::PaddedMean, best) => {
                    bits(best.map_or(T::default(), |(_, value)| value))
                }
            };
        }
    }

    fn sums(&self, x: &[f32], output: &mut [f32]) {
        let (places, plane) = (self.sliding.places(), self.sliding.plane());
        for (index, result) in output.iter_mut().enumerate() {
            let x = &x[index / places * plane..][..plane];
            let (mut sum, mut count) = (0.0f64, 0usize);
            self.visit(index % places, |flat| {
                sum += f64::from(x[flat]);
                count += 1;
            });
            let value = match self.op.kind {
                PoolKind::Mean => sum / count as f64,
                PoolKind::PaddedMean => sum / self.padded_count(index % places) as f64,
                PoolKind::Sum | PoolKind::Max | PoolKind::MaxPosition { .. } => sum,
            };
            *result = value as f32;
        }
    }
}

/// The expected result of a [`Pool`], from the elements and paddings under each place.
#[cfg(not(target_arch = "wasm32"))]
fn expected(op: &Pool, x: &Array, out: &[usize], dtype: DType) -> Array {
    let spatial = x.shape.len() - 2;
    let kernel = sizes(&op.kernel);
    Array::build(dtype, out, |index| {
        let (mut under, mut padded) = (Vec::new(), 0.0);
        let strides = crate::call::strides(&x.shape);
        let number = |own: &[usize]| {
            x.numbers[own.iter().zip(&strides).map(|(at, stride)| at * stride).sum::<usize>()]
        };
        for flat in 0..kernel.iter().product::<usize>() {
            let tap = crate::suite::unravel(flat, &kernel);
            let mut at = [0i64; 3];
            for (axis, at) in at[..spatial].iter_mut().enumerate() {
                *at = (index[axis + 2] * op.window.strides[axis] as usize
                    + tap[axis] * op.window.dilations[axis] as usize) as i64
                    - op.window.pads[axis].as_fixed().unwrap_or(0);
            }
            let within = |axis: usize, pad: i64| at[axis] < x.shape[axis + 2] as i64 + pad;
            padded += f64::from(
                (0..spatial).all(|axis| within(axis, op.pads_after[axis].as_fixed().unwrap_or(0))),
            );
            if (0..spatial).all(|axis| at[axis] >= 0 && within(axis, 0)) {
                let mut own = [index[0], index[1], 0, 0, 0];
                own[2..].iter_mut().zip(at).for_each(|(own, at)| *own = at as usize);
                under.push((number(&own[..spatial + 2]), own));
            }
        }
        let sum: f64 = under.iter().map(|(value, _)| value).sum();
        let best = under.iter().map(|(value, _)| *value).fold(f64::NEG_INFINITY, f64::max);
        match op.kind {
            PoolKind::Max => best,
            PoolKind::MaxPosition { column_major } => {
                let (_, own) = under.iter().find(|(value, _)| *value == best).expect("one is");
                let planes = own[0] * x.shape[1] + own[1];
                let mut order: Vec<usize> = (2..spatial + 2).collect();
                if column_major {
                    order.reverse();
                }
                order.iter().fold(planes, |flat, &axis| flat * x.shape[axis] + own[axis]) as f64
            }
            PoolKind::Sum => sum,
            PoolKind::Mean => sum / under.len() as f64,
            PoolKind::PaddedMean => sum / padded,
        }
    })
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Window;

    let kinds = [
        PoolKind::Max,
        PoolKind::MaxPosition { column_major: false },
        PoolKind::MaxPosition { column_major: true },
        PoolKind::Sum,
        PoolKind::Mean,
        PoolKind::PaddedMean,
    ];
    let table: [(&str, &[u32], &[u32], &[u32], &[i32], &[i32], &[usize], &[usize]); 4] = [
        ("a line", &[3], &[2], &[1], &[0], &[0], &[2, 3, 9], &[2, 3, 4]),
        ("padding", &[3, 3], &[2, 2], &[1, 1], &[1, 1], &[1, 0], &[1, 4, 6, 5], &[1, 4, 3, 2]),
        (
            "a last place that is cut off",
            &[3, 2],
            &[2, 2],
            &[1, 1],
            &[0, 1],
            &[0, 1],
            &[2, 2, 6, 6],
            &[2, 2, 3, 4],
        ),
        (
            "three dilated dimensions",
            &[2, 2, 3],
            &[1, 2, 1],
            &[2, 1, 2],
            &[0, 1, 1],
            &[1, 0, 1],
            &[1, 2, 4, 5, 6],
            &[1, 2, 3, 3, 4],
        ),
    ];
    let mut cases = Vec::new();
    for (name, kernel, strides, dilations, pads, after, shape, out) in table {
        for kind in kinds {
            for dtype in [DType::F32, DType::I32, DType::U32] {
                let positions = matches!(kind, PoolKind::MaxPosition { .. });
                if dtype != DType::F32 && !positions && kind != PoolKind::Max {
                    continue;
                }
                let window = Window {
                    strides: strides.to_vec(),
                    dilations: dilations.to_vec(),
                    pads: window::fixed(pads),
                };
                let op = Pool {
                    kind,
                    kernel: kernel.to_vec(),
                    window,
                    pads_after: window::fixed(after),
                };
                cases.push(case(name, op, dtype, shape, out));
            }
        }
    }
    for size in LONG {
        // A line of the next larger size, so that the window has two places.
        let kind = if size % 2 == 0 { PoolKind::Max } else { PoolKind::Mean };
        let window = Window { strides: vec![1], dilations: vec![1], pads: window::fixed(&[0]) };
        let op = Pool { kind, kernel: vec![size as u32], window, pads_after: window::fixed(&[0]) };
        let case = case(&format!("{size} elements"), op, DType::F32, &[1, 1, size + 1], &[1, 1, 2]);
        cases.push(case.everywhere_if(size == LONGEST));
    }
    for kind in kinds {
        let window =
            Window { strides: vec![300, 2], dilations: vec![1, 3], pads: window::fixed(&[5, 7]) };
        let op = Pool { kind, kernel: vec![300, 60], window, pads_after: window::fixed(&[7, 9]) };
        let dtype = if kind == PoolKind::Max { DType::I32 } else { DType::F32 };
        let case = case("a wide one", op, dtype, &[1, 2, 301, 200], &[1, 2, 1, 19]);
        cases.push(case.everywhere_if(false));
    }
    cases
}

/// A case of one window.
#[cfg(not(target_arch = "wasm32"))]
fn case(name: &str, op: Pool, dtype: DType, shape: &[usize], out: &[usize]) -> Case {
    let noise = Array::noise(4100, shape);
    let x = match dtype {
        DType::I32 => Array { dtype, ..noise.map(|x| (x * 9.0).trunc()) },
        DType::U32 => Array { dtype, ..noise.map(|x| (x.abs() * 2e9).trunc()) },
        _ => noise,
    };
    let positions = matches!(op.kind, PoolKind::MaxPosition { .. });
    let expected = expected(&op, &x, out, if positions { DType::I32 } else { dtype });
    let kind = op.kind;
    let name = format!("pool/{kind:?} of {dtype:?}, {name}");
    let tolerance = if dtype == DType::F32 { Tolerance::Approximate } else { Tolerance::Exact };
    Sketch::single(&name, flotilla_program::Op::Pool(op), &[&x], &expected, tolerance)
}
