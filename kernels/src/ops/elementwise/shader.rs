//! WGSL of an expression.

use flotilla_program::{Binary, Expr, Step, Test, Unary};
use flotilla_tensor::DType;

use super::{
    super::{Shader, math},
    convert, result_type, types,
};
use crate::call::Signature;

/// How a shader addresses an input's element; known at load.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// At the output's index.
    Same,
    /// The only one.
    Scalar,
    /// By strides.
    Strided,
}

pub(super) fn access(signature: &Signature<'_>, input: usize) -> Access {
    let (shape, out) = (&signature.input(input).shape, &signature.output().shape);
    if shape == out {
        Access::Same
    } else if shape.iter().all(|dim| dim.as_fixed() == Some(1)) {
        Access::Scalar
    } else {
        Access::Strided
    }
}

/// Most iterations of the functions that an expression calls.
pub(super) fn iterations(expr: &Expr) -> usize {
    let of = |step: &Step| match step {
        // One per exponent of the larger number.
        Step::Binary(Binary::Rem, ..) => 280,
        // One per digit of the exponent.
        Step::Binary(Binary::Pow, ..) => 32,
        _ => 0,
    };
    expr.steps.iter().map(of).sum()
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

/// The complete shader.
pub(super) fn shader(expr: &Expr, signature: &Signature<'_>) -> Shader {
    let inputs = signature.node.inputs.len();
    let types = types(expr, |index| signature.input(index).dtype).unwrap_or_default();
    let accesses: Vec<Access> = (0..inputs).map(|input| access(signature, input)).collect();
    let dims = expr.steps.iter().filter(|step| is_param(step)).count();

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
            Step::Float(value) if value.is_finite() => format!("{:e}f", f64::from(*value)),
            // WGSL has no literal for such a number.
            Step::Float(_) => {
                dim += 1;
                format!("bitcast<f32>({})", param(dim - 1))
            }
            Step::Int(i32::MIN) => "i32(-2147483648)".to_owned(),
            Step::Int(value) => format!("{value}i"),
            Step::Dim(_) => {
                dim += 1;
                param(dim - 1)
            }
            Step::Unary(unary, a) => match (unary, types[*a as usize]) {
                (Unary::Not, DType::Bool) => format!("!v{a}"),
                (Unary::Not, _) => format!("~v{a}"),
                (Unary::Relu, DType::I32) => format!("max(v{a}, 0i)"),
                (Unary::Relu | Unary::Abs, DType::U32) => format!("v{a}"),
                (Unary::Neg, DType::U32) => format!("(0u - v{a})"),
                (Unary::Sign, DType::U32) => format!("min(v{a}, 1u)"),
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
            },
            Step::Binary(binary, a, b) => binary_wgsl(*binary, types[*a as usize], *a, *b, expr),
            Step::Select(condition, a, b) => format!("select(v{b}, v{a}, v{condition})"),
            Step::Cast(to, a) => convert::wgsl(types[*a as usize], *to, &format!("v{a}")),
            Step::Bits(to, a) => format!("bitcast<{}>(v{a})", wgsl_type(*to)),
            Step::Test(Test::Nan, a) => format!("is_nan(v{a})"),
            Step::Test(Test::PositiveInfinity, a) => format!("(bitcast<u32>(v{a}) == 0x7f800000u)"),
            Step::Test(Test::NegativeInfinity, a) => format!("(bitcast<u32>(v{a}) == 0xff800000u)"),
        };
        body += &format!("    let v{index}: {} = {value};\n", wgsl_type(types[index]));
    }
    let last = expr.steps.len().saturating_sub(1);
    body += &match result_type(&types) {
        DType::Bool => format!("    output[index] = select(0u, 1u, v{last});\n}}\n"),
        _ => format!("    output[index] = v{last};\n}}\n"),
    };
    body += &functions;
    body += &called(&body);

    let names: Vec<String> = (0..inputs).map(|input| format!("in{input}")).collect();
    let reads: Vec<(&str, &str)> = names
        .iter()
        .enumerate()
        .map(|(input, name)| (name.as_str(), buffer_type(signature.input(input).dtype)))
        .collect();
    Shader::new("Elementwise", &reads, buffer_type(result_type(&types)), &body)
}

/// Whether a step's value is passed in the params.
fn is_param(step: &Step) -> bool {
    matches!(step, Step::Dim(_)) || matches!(step, Step::Float(value) if !value.is_finite())
}

fn param(index: usize) -> String {
    format!("params.dims[{}].{}", index / 4, ["x", "y", "z", "w"][index % 4])
}

fn binary_wgsl(binary: Binary, dtype: DType, a: u32, b: u32, expr: &Expr) -> String {
    let operator = match binary {
        Binary::Add => "+",
        Binary::Sub => "-",
        Binary::Mul => "*",
        Binary::Div => "/",
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
        Binary::Rem | Binary::ShiftLeft | Binary::ShiftRight => {
            let kind = if dtype == DType::F32 { "f" } else { &wgsl_type(dtype)[..1] };
            return format!("{kind}_{}(v{a}, v{b})", format!("{binary:?}").to_lowercase());
        }
        Binary::Min | Binary::Max => {
            let kind = if dtype == DType::F32 { "f_" } else { "" };
            return format!("{kind}{}(v{a}, v{b})", format!("{binary:?}").to_lowercase());
        }
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

/// The functions that expressions call.
const FUNCTIONS: &str = include_str!("functions.wgsl");

/// The functions that `body` calls, directly or through another one. Without the others a browser compiles less, so
/// loading is faster.
fn called(body: &str) -> String {
    let code = FUNCTIONS.lines().filter(|line| !line.starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n");
    let mut left: Vec<&str> = code.split("fn ").skip(1).collect();
    let mut found = String::new();
    loop {
        let before = left.len();
        left.retain(|function| {
            let name = function.split_once('(').map_or("", |(name, _)| name);
            let call = format!("{name}(");
            let needed = body.contains(&call) || found.contains(&call);
            if needed {
                found += &format!("fn {function}\n");
            }
            !needed
        });
        if left.len() == before {
            return found;
        }
    }
}
