//! Expressions over broadcast inputs: WGSL generated from them, and blocks of registers on the cpu.

use flotilla_model::program::{Binary, DType, Expr, Step, Unary};

use super::{Kernel, Launch, Operand, Shader, math};
use crate::call::{Call, Signature, broadcast_strides};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// Elements that the cpu interpreter takes through one step at a time; a handful of registers stays in cache.
const REGISTER: usize = 256;

/// Storage buffers that every adapter binds at once, less the output.
const INPUTS_MAX: usize = 7;

/// The type of every step.
fn types(expr: &Expr, input: impl Fn(usize) -> DType) -> Result<Vec<DType>, String> {
    let mut types: Vec<DType> = Vec::with_capacity(expr.steps.len());
    for step in &expr.steps {
        let of = |id: &u32| types[*id as usize];
        let refused =
            |what: &dyn std::fmt::Debug, types: &[DType]| Err(format!("{what:?} of {types:?}"));
        let dtype = match step {
            Step::Input(index) => input(*index as usize),
            Step::Float(_) => DType::F32,
            Step::Int(_) | Step::Dim(_) => DType::I32,
            Step::Unary(unary, a) => {
                let dtype = of(a);
                let fits = match unary {
                    Unary::Not => dtype == DType::Bool,
                    Unary::Neg | Unary::Abs | Unary::Sign | Unary::Square | Unary::Relu => {
                        matches!(dtype, DType::F32 | DType::I32)
                    }
                    _ => dtype == DType::F32,
                };
                if !fits {
                    return refused(unary, &[dtype]);
                }
                dtype
            }
            Step::Binary(binary, a, b) => {
                let (left, right) = (of(a), of(b));
                let number = matches!(left, DType::F32 | DType::I32 | DType::U32);
                let fits = match binary {
                    Binary::Eq | Binary::Ne => true,
                    Binary::And | Binary::Or | Binary::Xor => left != DType::F32,
                    _ => number,
                };
                if left != right || !fits {
                    return refused(binary, &[left, right]);
                }
                if is_comparison(*binary) { DType::Bool } else { left }
            }
            Step::Select(condition, a, b) => {
                if of(condition) != DType::Bool || of(a) != of(b) {
                    return refused(&"Select", &[of(condition), of(a), of(b)]);
                }
                of(a)
            }
            Step::Cast(to, _) => *to,
        };
        if !matches!(dtype, DType::F32 | DType::I32 | DType::U32 | DType::Bool) {
            return Err(format!("{dtype:?} is not computed with"));
        }
        types.push(dtype);
    }
    Ok(types)
}

fn is_comparison(binary: Binary) -> bool {
    matches!(binary, Binary::Eq | Binary::Ne | Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge)
}

fn result_type(types: &[DType]) -> DType {
    types.last().copied().unwrap_or(DType::F32)
}

/// How a shader finds an input's element; known at load.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// At the output's index.
    Same,
    /// The only one.
    Scalar,
    /// By strides.
    Strided,
}

fn access(signature: &Signature<'_>, input: usize) -> Access {
    let (shape, out) = (&signature.input(input).shape, &signature.output().shape);
    if shape == out {
        Access::Same
    } else if shape.iter().all(|dim| dim.as_fixed() == Some(1)) {
        Access::Scalar
    } else {
        Access::Strided
    }
}

fn wgsl_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "f32",
        DType::I32 => "i32",
        DType::U32 => "u32",
        _ => "bool",
    }
}

/// The type in a buffer; WGSL keeps `bool` out of them.
fn buffer_type(dtype: DType) -> &'static str {
    if dtype == DType::Bool { "u32" } else { wgsl_type(dtype) }
}

fn shader(expr: &Expr, signature: &Signature<'_>) -> Shader {
    let inputs = signature.node.inputs.len();
    let types = types(expr, |index| signature.input(index).dtype).unwrap_or_default();
    let accesses: Vec<Access> = (0..inputs).map(|input| access(signature, input)).collect();
    let dims = expr.steps.iter().filter(|step| matches!(step, Step::Dim(_))).count();

    let mut body =
        "struct Params {\n    total: u32,\n    rank: u32,\n    sizes: array<vec4<u32>, 2>,\n"
            .to_owned();
    let strided: Vec<usize> =
        (0..inputs).filter(|&input| accesses[input] == Access::Strided).collect();
    for input in &strided {
        body += &format!("    strides{input}: array<vec4<u32>, 2>,\n");
    }
    if dims > 0 {
        body += &format!("    dims: array<vec4<i32>, {}>,\n", dims.div_ceil(4));
    }
    body += "}\n\n@compute @workgroup_size(WORKGROUP)\nfn main(@builtin(global_invocation_id) id: vec3<u32>, \
             @builtin(num_workgroups) groups: vec3<u32>) {\n    let index = index_of(id, groups);\n    \
             if (index >= params.total) {\n        return;\n    }\n";
    if !strided.is_empty() {
        for input in &strided {
            body += &format!("    var at{input} = 0u;\n");
        }
        body += "    var rest = index;\n    for (var axis = params.rank; axis > 0u; axis--) {\n        \
                 let at = axis - 1u;\n        let size = params.sizes[at / 4u][at % 4u];\n        \
                 let position = rest % size;\n        rest /= size;\n";
        for input in &strided {
            body += &format!(
                "        at{input} += position * params.strides{input}[at / 4u][at % 4u];\n"
            );
        }
        body += "    }\n";
    }
    let (mut dim, mut functions, mut used) = (0, String::new(), Vec::new());
    for (index, step) in expr.steps.iter().enumerate() {
        let value = match step {
            Step::Input(input) => {
                let place = match accesses[*input as usize] {
                    Access::Same => "index".to_owned(),
                    Access::Scalar => "0".to_owned(),
                    Access::Strided => format!("at{input}"),
                };
                let word = format!("in{input}[{place}]");
                if types[index] == DType::Bool { format!("{word} != 0u") } else { word }
            }
            Step::Float(value) => float(*value),
            Step::Int(i32::MIN) => "i32(-2147483648)".to_owned(),
            Step::Int(value) => format!("{value}i"),
            Step::Dim(_) => {
                dim += 1;
                format!("params.dims[{}].{}", (dim - 1) / 4, ["x", "y", "z", "w"][(dim - 1) % 4])
            }
            Step::Unary(unary, a) => {
                let dtype = types[*a as usize];
                match (unary, dtype) {
                    (Unary::Not, _) => format!("!v{a}"),
                    (Unary::Relu, DType::I32) => format!("max(v{a}, 0i)"),
                    (Unary::Neg, _) => format!("-v{a}"),
                    (Unary::Abs, _) => format!("abs(v{a})"),
                    (Unary::Sign, _) => format!("sign(v{a})"),
                    (Unary::Square, _) => format!("v{a} * v{a}"),
                    (unary, _) => {
                        let name = format!("f_{unary:?}").to_lowercase();
                        if !used.contains(unary) {
                            used.push(*unary);
                            functions += &math::wgsl(*unary, &name, "f32");
                        }
                        format!("{name}(v{a})")
                    }
                }
            }
            Step::Binary(binary, a, b) => binary_wgsl(*binary, types[*a as usize], *a, *b, expr),
            Step::Select(condition, a, b) => format!("select(v{b}, v{a}, v{condition})"),
            Step::Cast(to, a) => match (types[*a as usize], to) {
                (from, to) if from == *to => format!("v{a}"),
                (DType::Bool, to) => format!("select({0}(0), {0}(1), v{a})", wgsl_type(*to)),
                (_, to) => format!("{}(v{a})", wgsl_type(*to)),
            },
        };
        body += &format!("    let v{index}: {} = {value};\n", wgsl_type(types[index]));
    }
    let last = expr.steps.len().saturating_sub(1);
    body += &match result_type(&types) {
        DType::Bool => format!("    output[index] = select(0u, 1u, v{last});\n}}\n"),
        _ => format!("    output[index] = v{last};\n}}\n"),
    };
    if expr.steps.iter().any(|step| matches!(step, Step::Binary(Binary::Pow, ..))) {
        functions += POW;
    }
    body += &functions;

    let names: Vec<String> = (0..inputs).map(|input| format!("in{input}")).collect();
    let reads: Vec<(&str, &str)> = names
        .iter()
        .enumerate()
        .map(|(input, name)| (name.as_str(), buffer_type(signature.input(input).dtype)))
        .collect();
    Shader::new("Elementwise", &reads, buffer_type(result_type(&types)), &body)
}

/// WGSL's `pow` is undefined for a negative base; a whole exponent gives it a value.
const POW: &str = "fn f_pow(x: f32, y: f32) -> f32 {
    let size = select(pow(abs(x), y), 1.0, y == 0.0);
    let odd = abs(y - 2.0 * floor(y * 0.5)) == 1.0;
    return select(size, -size, x < 0.0 && odd);
}
fn i_pow(x: i32, y: i32) -> i32 {
    var result = 1i;
    for (var step = 0i; step < y; step++) {
        result *= x;
    }
    return result;
}
fn u_pow(x: u32, y: u32) -> u32 {
    var result = 1u;
    for (var step = 0u; step < y; step++) {
        result *= x;
    }
    return result;
}
";

fn binary_wgsl(binary: Binary, dtype: DType, a: u32, b: u32, expr: &Expr) -> String {
    let operator = match binary {
        Binary::Add => "+",
        Binary::Sub => "-",
        Binary::Mul => "*",
        Binary::Div => "/",
        Binary::Rem => "%",
        Binary::Eq => "==",
        Binary::Ne => "!=",
        Binary::Lt => "<",
        Binary::Le => "<=",
        Binary::Gt => ">",
        Binary::Ge => ">=",
        Binary::And => "&",
        Binary::Or => "|",
        Binary::Xor if dtype == DType::Bool => "!=",
        Binary::Xor => "^",
        Binary::Min => return format!("min(v{a}, v{b})"),
        Binary::Max => return format!("max(v{a}, v{b})"),
        Binary::Pow => {
            return match (dtype, &expr.steps[b as usize]) {
                (_, Step::Float(2.0) | Step::Int(2)) => format!("v{a} * v{a}"),
                (_, Step::Float(3.0) | Step::Int(3)) => format!("v{a} * v{a} * v{a}"),
                (_, Step::Float(0.5)) => format!("sqrt(v{a})"),
                (_, Step::Float(-0.5)) => format!("1.0 / sqrt(v{a})"),
                (DType::F32, _) => format!("f_pow(v{a}, v{b})"),
                (DType::U32, _) => format!("u_pow(v{a}, v{b})"),
                _ => format!("i_pow(v{a}, v{b})"),
            };
        }
    };
    format!("v{a} {operator} v{b}")
}

/// A literal; WGSL has none for infinities. The digits are those of an `f64`: rounded to the shortest ones, the largest
/// `f32` would be out of range.
fn float(value: f32) -> String {
    let finite = if value.is_nan() { 0.0 } else { value.clamp(f32::MIN, f32::MAX) };
    format!("{:e}f", f64::from(finite))
}

impl Kernel for Expr {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        let inputs = signature.node.inputs.len();
        signature.expect_operands(inputs)?;
        if inputs > INPUTS_MAX {
            return Err(format!("{inputs} inputs, the limit is {INPUTS_MAX}"));
        }
        let types = types(self, |index| signature.input(index).dtype)?;
        match (result_type(&types), signature.output().dtype) {
            (got, want) if got == want => Ok(()),
            (got, want) => Err(format!("the result is {got:?}, the output {want:?}")),
        }
    }

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        vec![shader(self, signature)]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let output = call.output();
        let total = call.elements();
        let mut params = vec![total as u32, output.len() as u32, 0, 0];
        params.extend((0..8).map(|axis| output.get(axis).map_or(1, |&size| size as u32)));
        for input in 0..call.inputs() {
            let strides = broadcast_strides(call.input(input), output)?;
            if access(&call.signature, input) == Access::Strided {
                params.extend(
                    (0..8).map(|axis| strides.get(axis).map_or(0, |&stride| stride as u32)),
                );
            }
        }
        for step in &self.steps {
            if let Step::Dim(dim) = step {
                params.push(dim_value(call, dim)? as u32);
            }
        }
        Ok(vec![Launch {
            shader: 0,
            inputs: (0..call.inputs()).collect(),
            params,
            invocations: total as u64,
        }])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let types = types(self, |index| call.signature.input(index).dtype)?;
        let shape = call.output();
        let strides = (0..call.inputs())
            .map(|input| broadcast_strides(call.input(input), shape))
            .collect::<Result<Vec<_>, String>>()?;
        let mut registers = vec![[0u32; REGISTER]; self.steps.len()];
        for (index, step) in self.steps.iter().enumerate() {
            match step {
                Step::Float(value) => registers[index] = [value.to_bits(); REGISTER],
                Step::Int(value) => registers[index] = [*value as u32; REGISTER],
                Step::Dim(dim) => registers[index] = [dim_value(call, dim)? as u32; REGISTER],
                _ => {}
            }
        }
        for (block, output) in output.chunks_mut(REGISTER).enumerate() {
            for (index, step) in self.steps.iter().enumerate() {
                let (earlier, rest) = registers.split_at_mut(index);
                let Some(target) = rest.first_mut() else { continue };
                let of = |id: &u32| &earlier[*id as usize];
                match step {
                    Step::Float(_) | Step::Int(_) | Step::Dim(_) => {}
                    Step::Input(input) => {
                        let input = *input as usize;
                        fill(
                            &mut target[..output.len()],
                            operands[input].words(),
                            shape,
                            &strides[input],
                            block * REGISTER,
                        );
                    }
                    Step::Unary(unary, a) => unary_block(*unary, types[*a as usize], of(a), target),
                    Step::Binary(binary, a, b) => {
                        binary_block(*binary, types[*a as usize], of(a), of(b), target);
                    }
                    Step::Select(condition, a, b) => {
                        for (lane, value) in target.iter_mut().enumerate() {
                            *value =
                                if of(condition)[lane] != 0 { of(a)[lane] } else { of(b)[lane] };
                        }
                    }
                    Step::Cast(to, a) => cast_block(types[*a as usize], *to, of(a), target),
                }
            }
            if let Some(result) = registers.last() {
                output.copy_from_slice(&result[..output.len()]);
            }
        }
        Ok(())
    }
}

fn dim_value(call: &Call<'_>, dim: &flotilla_model::dim::Dim) -> Result<i32, String> {
    let value = call.eval(dim)?;
    i32::try_from(value).map_err(|_| format!("{value} leaves 32 bits"))
}

/// Reads the elements of a broadcast input from the flat output index `start` on.
fn fill(target: &mut [u32], input: &[u32], shape: &[usize], strides: &[usize], start: usize) {
    let Some((&size, outer)) = shape.split_last() else {
        target.fill(input[0]);
        return;
    };
    let stride = strides[outer.len()];
    let (mut line, mut at) = (start / size, start % size);
    let mut done = 0;
    while done < target.len() {
        let run = (size - at).min(target.len() - done);
        let mut offset = at * stride;
        let mut rest = line;
        for axis in (0..outer.len()).rev() {
            offset += rest % outer[axis] * strides[axis];
            rest /= outer[axis];
        }
        let target = &mut target[done..done + run];
        match stride {
            0 => target.fill(input[offset]),
            1 => target.copy_from_slice(&input[offset..offset + run]),
            _ => target
                .iter_mut()
                .zip(input[offset..].iter().step_by(stride))
                .for_each(|(value, &word)| *value = word),
        }
        done += run;
        at = 0;
        line += 1;
    }
}

type Register = [u32; REGISTER];

fn unary_block(unary: Unary, dtype: DType, a: &Register, target: &mut Register) {
    *target = *a;
    match dtype {
        DType::F32 => math::apply(unary, bytemuck::cast_slice_mut(target)),
        DType::Bool => target.iter_mut().for_each(|value| *value = u32::from(*value == 0)),
        _ => {
            let function: fn(i32) -> i32 = match unary {
                Unary::Neg => i32::wrapping_neg,
                Unary::Abs => i32::wrapping_abs,
                Unary::Sign => i32::signum,
                Unary::Square => |x| x.wrapping_mul(x),
                Unary::Relu => |x| x.max(0),
                _ => |x| x,
            };
            bytemuck::cast_slice_mut::<u32, i32>(target)
                .iter_mut()
                .for_each(|value| *value = function(*value));
        }
    }
}

fn binary_block(binary: Binary, dtype: DType, a: &Register, b: &Register, target: &mut Register) {
    match dtype {
        DType::F32 => float_block(binary, bytemuck::cast_ref(a), bytemuck::cast_ref(b), target),
        DType::I32 => signed_block(binary, bytemuck::cast_ref(a), bytemuck::cast_ref(b), target),
        _ => unsigned_block(binary, a, b, target),
    }
}

/// Applies a function lane by lane; generic, so that each use vectorizes.
#[inline(always)]
fn lanes<T: Copy, R>(
    a: &[T; REGISTER],
    b: &[T; REGISTER],
    target: &mut [R; REGISTER],
    function: impl Fn(T, T) -> R,
) {
    for lane in 0..REGISTER {
        target[lane] = function(a[lane], b[lane]);
    }
}

fn float_block(binary: Binary, a: &[f32; REGISTER], b: &[f32; REGISTER], target: &mut Register) {
    match binary {
        Binary::Eq => return lanes(a, b, target, |a, b| u32::from(a == b)),
        Binary::Ne => return lanes(a, b, target, |a, b| u32::from(a != b)),
        Binary::Lt => return lanes(a, b, target, |a, b| u32::from(a < b)),
        Binary::Le => return lanes(a, b, target, |a, b| u32::from(a <= b)),
        Binary::Gt => return lanes(a, b, target, |a, b| u32::from(a > b)),
        Binary::Ge => return lanes(a, b, target, |a, b| u32::from(a >= b)),
        _ => {}
    }
    let target: &mut [f32; REGISTER] = bytemuck::cast_mut(target);
    match binary {
        Binary::Add => lanes(a, b, target, |a, b| a + b),
        Binary::Sub => lanes(a, b, target, |a, b| a - b),
        Binary::Mul => lanes(a, b, target, |a, b| a * b),
        Binary::Div => lanes(a, b, target, |a, b| a / b),
        Binary::Rem => lanes(a, b, target, |a, b| a % b),
        Binary::Pow => lanes(a, b, target, f32::powf),
        Binary::Min => lanes(a, b, target, f32::min),
        _ => lanes(a, b, target, f32::max),
    }
}

/// Division as in WGSL: by zero it gives the dividend, and the remainder 0.
fn signed_block(binary: Binary, a: &[i32; REGISTER], b: &[i32; REGISTER], target: &mut Register) {
    match binary {
        Binary::Lt => return lanes(a, b, target, |a, b| u32::from(a < b)),
        Binary::Le => return lanes(a, b, target, |a, b| u32::from(a <= b)),
        Binary::Gt => return lanes(a, b, target, |a, b| u32::from(a > b)),
        Binary::Ge => return lanes(a, b, target, |a, b| u32::from(a >= b)),
        _ => {}
    }
    let result: &mut [i32; REGISTER] = bytemuck::cast_mut(target);
    match binary {
        Binary::Div => lanes(a, b, result, |a, b| if b == 0 { a } else { a.wrapping_div(b) }),
        Binary::Rem => lanes(a, b, result, |a, b| if b == 0 { 0 } else { a.wrapping_rem(b) }),
        Binary::Pow => lanes(a, b, result, |a, b| a.wrapping_pow(b.max(0) as u32)),
        Binary::Min => lanes(a, b, result, i32::min),
        Binary::Max => lanes(a, b, result, i32::max),
        _ => unsigned_block(binary, bytemuck::cast_ref(a), bytemuck::cast_ref(b), target),
    }
}

fn unsigned_block(binary: Binary, a: &Register, b: &Register, target: &mut Register) {
    match binary {
        Binary::Add => lanes(a, b, target, u32::wrapping_add),
        Binary::Sub => lanes(a, b, target, u32::wrapping_sub),
        Binary::Mul => lanes(a, b, target, u32::wrapping_mul),
        Binary::Div => lanes(a, b, target, |a, b| a.checked_div(b).unwrap_or(a)),
        Binary::Rem => lanes(a, b, target, |a, b| a.checked_rem(b).unwrap_or(0)),
        Binary::Pow => lanes(a, b, target, u32::wrapping_pow),
        Binary::Min => lanes(a, b, target, u32::min),
        Binary::Max => lanes(a, b, target, u32::max),
        Binary::Eq => lanes(a, b, target, |a, b| u32::from(a == b)),
        Binary::Ne => lanes(a, b, target, |a, b| u32::from(a != b)),
        Binary::Lt => lanes(a, b, target, |a, b| u32::from(a < b)),
        Binary::Le => lanes(a, b, target, |a, b| u32::from(a <= b)),
        Binary::Gt => lanes(a, b, target, |a, b| u32::from(a > b)),
        Binary::Ge => lanes(a, b, target, |a, b| u32::from(a >= b)),
        Binary::And => lanes(a, b, target, |a, b| a & b),
        Binary::Or => lanes(a, b, target, |a, b| a | b),
        Binary::Xor => lanes(a, b, target, |a, b| a ^ b),
    }
}

fn cast_block(from: DType, to: DType, a: &Register, target: &mut Register) {
    let each = |target: &mut Register, function: fn(u32) -> u32| {
        target.iter_mut().zip(a).for_each(|(value, &word)| *value = function(word));
    };
    match (from, to) {
        (DType::F32, DType::I32) => each(target, |word| f32::from_bits(word) as i32 as u32),
        (DType::F32, DType::U32) => each(target, |word| f32::from_bits(word) as u32),
        (DType::F32, DType::Bool) => each(target, |word| u32::from(f32::from_bits(word) != 0.0)),
        (DType::I32, DType::F32) => each(target, |word| (word as i32 as f32).to_bits()),
        (DType::U32 | DType::Bool, DType::F32) => each(target, |word| (word as f32).to_bits()),
        (DType::I32 | DType::U32, DType::Bool) => each(target, |word| u32::from(word != 0)),
        _ => *target = *a,
    }
}

/// One step in `f64`; integers and booleans are whole numbers there.
#[cfg(not(target_arch = "wasm32"))]
fn exact(expr: &Expr, types: &[DType], input: impl Fn(usize) -> f64) -> f64 {
    let mut values: Vec<f64> = Vec::new();
    for (index, step) in expr.steps.iter().enumerate() {
        let of = |id: &u32| values[*id as usize];
        let truth = |condition: bool| f64::from(u8::from(condition));
        let value = match step {
            Step::Input(index) => input(*index as usize),
            Step::Float(value) => f64::from(*value),
            Step::Int(value) => f64::from(*value),
            Step::Dim(dim) => dim.as_fixed().unwrap_or(0) as f64,
            Step::Unary(unary, a) => math::exact(*unary, of(a)),
            Step::Binary(binary, a, b) => {
                let (a, b, whole) = (of(a), of(b), types[index] != DType::F32);
                match binary {
                    Binary::Add => a + b,
                    Binary::Sub => a - b,
                    Binary::Mul => a * b,
                    Binary::Div if whole => (a / b).trunc(),
                    Binary::Div => a / b,
                    Binary::Rem => a % b,
                    Binary::Pow => a.powf(b),
                    Binary::Min => a.min(b),
                    Binary::Max => a.max(b),
                    Binary::Eq => truth(a == b),
                    Binary::Ne => truth(a != b),
                    Binary::Lt => truth(a < b),
                    Binary::Le => truth(a <= b),
                    Binary::Gt => truth(a > b),
                    Binary::Ge => truth(a >= b),
                    Binary::And => (a as i64 & b as i64) as f64,
                    Binary::Or => (a as i64 | b as i64) as f64,
                    Binary::Xor => (a as i64 ^ b as i64) as f64,
                }
            }
            Step::Select(condition, a, b) => {
                if of(condition) == 0.0 {
                    of(b)
                } else {
                    of(a)
                }
            }
            Step::Cast(DType::Bool, a) => truth(of(a) != 0.0),
            Step::Cast(DType::I32 | DType::U32, a) => of(a).trunc(),
            Step::Cast(_, a) => of(a),
        };
        values.push(value);
    }
    values.last().copied().unwrap_or(f64::NAN)
}

#[cfg(not(target_arch = "wasm32"))]
fn case(
    name: &str,
    steps: Vec<Step>,
    inputs: &[Array],
    out: &[usize],
    tolerance: Tolerance,
) -> Case {
    use flotilla_model::program::Op;

    let expr = Expr { steps };
    let types = types(&expr, |index| inputs[index].dtype)
        .unwrap_or_else(|reason| panic!("{name}: {reason}"));
    let expected = Array::build(result_type(&types), out, |index| {
        exact(&expr, &types, |input| {
            let array = &inputs[input];
            let index = &index[out.len() - array.shape.len()..];
            let own: Vec<usize> = array
                .shape
                .iter()
                .zip(index)
                .map(|(&size, &at)| if size == 1 { 0 } else { at })
                .collect();
            array.at(&own)
        })
    });
    let name = format!("elementwise/{name}");
    Sketch::single(
        &name,
        Op::Elementwise(expr),
        &inputs.iter().collect::<Vec<_>>(),
        &expected,
        tolerance,
    )
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use Step::{Cast, Dim, Float, Input, Int, Select};

    let unary = |unary| vec![Input(0), Step::Unary(unary, 0)];
    let binary = |binary| vec![Input(0), Input(1), Step::Binary(binary, 0, 1)];
    let mut cases = Vec::new();
    let any = Array::noise(3800, &[3, 100]).map(|x| f64::from((x * 8.0) as f32));
    let positive = any.map(|x| f64::from((x.abs() + 0.01) as f32));
    for function in [
        Unary::Neg,
        Unary::Abs,
        Unary::Sign,
        Unary::Square,
        Unary::Sin,
        Unary::Cos,
        Unary::Tanh,
        Unary::Sigmoid,
        Unary::Silu,
        Unary::GeluErf,
        Unary::GeluTanh,
        Unary::Erf,
        Unary::Relu,
        Unary::Floor,
        Unary::Ceil,
        Unary::Round,
        Unary::Exp,
    ] {
        let name = format!("{function:?}");
        cases.push(case(
            &name,
            unary(function),
            std::slice::from_ref(&any),
            &[3, 100],
            Tolerance::Approximate,
        ));
    }
    for function in [Unary::Sqrt, Unary::Rsqrt, Unary::Recip, Unary::Ln] {
        let name = format!("{function:?}");
        cases.push(case(
            &name,
            unary(function),
            std::slice::from_ref(&positive),
            &[3, 100],
            Tolerance::Approximate,
        ));
    }
    let small = any.map(|x| f64::from((x / 8.0) as f32));
    cases.push(case("Tan", unary(Unary::Tan), &[small], &[3, 100], Tolerance::Approximate));
    let far = Array::noise(3809, &[200]).map(|x| f64::from((x * 2000.0) as f32));
    cases.push(case(
        "Sin of large angles",
        unary(Unary::Sin),
        std::slice::from_ref(&far),
        &[200],
        Tolerance::Approximate,
    ));
    cases.push(case(
        "Cos of large angles",
        unary(Unary::Cos),
        &[far],
        &[200],
        Tolerance::Approximate,
    ));

    let left = Array::noise(3801, &[4, 1, 9]);
    let right = Array::noise(3802, &[5, 1]).map(|x| if x.abs() < 0.1 { 0.5 } else { x });
    for function in [
        Binary::Add,
        Binary::Sub,
        Binary::Mul,
        Binary::Div,
        Binary::Rem,
        Binary::Min,
        Binary::Max,
        Binary::Lt,
    ] {
        let inputs = [left.clone(), right.clone()];
        cases.push(case(
            &format!("{function:?}"),
            binary(function),
            &inputs,
            &[4, 5, 9],
            Tolerance::Close,
        ));
    }
    let whole =
        |seed| Array { dtype: DType::I32, ..Array::noise(seed, &[40]).map(|x| (x * 5.0).round()) };
    let divisor =
        Array { dtype: DType::I32, ..whole(3804).map(|x| if x == 0.0 { 3.0 } else { x }) };
    for function in [
        Binary::Add,
        Binary::Sub,
        Binary::Mul,
        Binary::Div,
        Binary::Rem,
        Binary::Min,
        Binary::Max,
        Binary::Eq,
        Binary::Ne,
        Binary::Lt,
        Binary::Le,
        Binary::Gt,
        Binary::Ge,
        Binary::And,
        Binary::Or,
        Binary::Xor,
    ] {
        let inputs = [whole(3803), divisor.clone()];
        cases.push(case(
            &format!("{function:?} of integers"),
            binary(function),
            &inputs,
            &[40],
            Tolerance::Exact,
        ));
    }
    let base = Array::noise(3805, &[30]).map(|x| f64::from((x * 3.0) as f32));
    let power = |exponent| vec![Input(0), Float(exponent), Step::Binary(Binary::Pow, 0, 1)];
    for exponent in [2.0, 3.0, 5.0, -2.0] {
        let base =
            if exponent < 0.0 { base.map(|x| x.signum() * (x.abs() + 0.5)) } else { base.clone() };
        let base = Array::f32(&[30], base.numbers);
        cases.push(case(
            &format!("to the {exponent}th"),
            power(exponent),
            &[base],
            &[30],
            Tolerance::Approximate,
        ));
    }
    let raised = base.map(|x| f64::from((x.abs() + 0.1) as f32));
    cases.push(case(
        "Pow",
        binary(Binary::Pow),
        &[raised, base.clone()],
        &[30],
        Tolerance::Approximate,
    ));

    let mask = Array::of(DType::I32, &[2, 1, 1, 4], vec![1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0]);
    let to_mask = vec![
        Input(0),
        Int(0),
        Step::Binary(Binary::Eq, 0, 1),
        Float(f32::MIN),
        Float(0.0),
        Select(2, 3, 4),
    ];
    cases.push(case(
        "a mask from integers",
        to_mask,
        std::slice::from_ref(&mask),
        &[2, 1, 1, 4],
        Tolerance::Exact,
    ));
    let logic = vec![
        Input(0),
        Cast(DType::Bool, 0),
        Step::Unary(Unary::Not, 1),
        Input(1),
        Step::Binary(Binary::And, 2, 3),
        Step::Binary(Binary::Xor, 4, 1),
    ];
    let flag = Array::of(DType::Bool, &[4], vec![1.0, 0.0, 1.0, 0.0]);
    cases.push(case(
        "booleans",
        logic,
        &[mask.clone(), flag.clone()],
        &[2, 1, 1, 4],
        Tolerance::Exact,
    ));
    let casts =
        vec![Input(0), Cast(DType::I32, 0), Cast(DType::F32, 1), Step::Binary(Binary::Sub, 0, 2)];
    cases.push(case("truncation", casts, &[base], &[30], Tolerance::Close));
    let unsigned = vec![Input(0), Cast(DType::U32, 0), Cast(DType::F32, 1)];
    cases.push(case("a flag as a number", unsigned, &[flag], &[4], Tolerance::Exact));
    let dims = vec![
        Input(0),
        Dim(7.into()),
        Step::Binary(Binary::Mul, 0, 1),
        Dim(2.into()),
        Step::Binary(Binary::Add, 2, 3),
    ];
    cases.push(case("dimensions", dims, &[mask], &[2, 1, 1, 4], Tolerance::Exact));
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ill_typed_expressions_are_refused() {
        let check = |steps: Vec<Step>, input: DType| {
            types(&Expr { steps }, |_| input).map(|types| result_type(&types))
        };
        let sum = || vec![Step::Input(0), Step::Float(1.0), Step::Binary(Binary::Add, 0, 1)];
        assert_eq!(check(sum(), DType::F32), Ok(DType::F32));
        assert!(check(sum(), DType::I32).is_err());
        assert!(check(vec![Step::Input(0), Step::Unary(Unary::Exp, 0)], DType::I32).is_err());
        assert!(check(vec![Step::Input(0), Step::Select(0, 0, 0)], DType::F32).is_err());
        assert!(check(vec![Step::Input(0), Step::Cast(DType::F16, 0)], DType::F32).is_err());
    }
}
