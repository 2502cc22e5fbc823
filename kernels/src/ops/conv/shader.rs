//! WGSL of convolutions: everything known at load becomes part of the text.

use flotilla_program::{Conv, Window};
use flotilla_tensor::DType;

use super::super::{Shader, math, split, window};
use crate::call::Signature;

/// Channels that an invocation of each shader computes, and roughly what one costs there. The more channels share the
/// loads of the input, the cheaper each is, but channels past the end are computed for nothing.
pub(super) const ROWS: [(u32, u32); 3] = [(16, 10), (4, 16), (1, 36)];
/// Index of the shader that joins the parts of sums.
pub(super) const FINISH: usize = ROWS.len();
/// Most steps of one invocation: channels of one tap, four at a time if their number is a multiple of four.
pub(super) const STEPS_MAX: usize = 2048;

/// What is known at load and determines a shader's text.
#[derive(Clone, Copy)]
pub(super) struct Specialization {
    element: &'static str,
    /// Weights are read as `vec4` over the channels of the input.
    pub(super) vectors: bool,
    /// Each place reads only its own element, and four neighbouring ones are a `vec4`.
    flat: bool,
    /// Sums may be so long that they are divided into parts.
    divided: bool,
}

pub(super) fn specialization(op: &Conv, signature: &Signature<'_>) -> Specialization {
    let (x, w) = (signature.input(0), signature.input(1));
    let inputs = w.shape.last().and_then(|dim| dim.as_fixed());
    let vectors = inputs.is_some_and(|inputs| inputs > 0 && inputs % 4 == 0);
    let plane = x.shape[2..].iter().try_fold(1, |plane, dim| Some(plane * dim.as_fixed()?));
    let single = w.shape[1..w.shape.len() - 1].iter().all(|dim| dim.as_fixed() == Some(1));
    let Window { strides, pads, .. } = &op.window;
    let unmoved = strides.iter().all(|&stride| stride == 1)
        && pads.iter().all(|pad| pad.as_fixed() == Some(0));
    let elements = w.shape[1..].iter().try_fold(1i64, |all, dim| all.checked_mul(dim.as_fixed()?));
    Specialization {
        divided: split::may_divide(
            elements.map(|elements| if vectors { elements / 4 } else { elements }),
            STEPS_MAX,
        ),
        element: if x.dtype == DType::F32 { "f32" } else { "i32" },
        vectors,
        flat: vectors
            && single
            && unmoved
            && x.shape[2..] == signature.output().shape[2..]
            && plane.is_some_and(|plane| plane % 4 == 0),
    }
}

/// All shaders: those of [`ROWS`], then [`FINISH`] if sums may be divided.
pub(super) fn all(op: &Conv, signature: &Signature<'_>) -> Vec<Shader> {
    let special = specialization(op, signature);
    let mut shaders: Vec<Shader> =
        ROWS.iter().map(|&(rows, _)| shader(op, special, rows)).collect();
    if special.divided {
        shaders.push(finish(op, special));
    }
    shaders
}

/// Adds the parts.
fn finish(op: &Conv, special: Specialization) -> Shader {
    let element = special.element;
    let mut reads = vec![("sums", element)];
    if op.bias {
        reads.push(("bias", element));
    }
    if op.residual {
        reads.push(("residual", element));
    }
    let value = value(op, "sum", "index / params.places % params.channels", "index");
    let text = include_str!("finish.wgsl").replace("{{value}}", &value);
    let mut text = format!("alias Element = {element};\n{text}");
    if let Some(activation) = op.activation {
        text += &math::wgsl(activation, "activation", element);
    }
    Shader::new("Conv, finish", &reads, element, &text)
}

/// The result for a sum, in a channel, at a place of the output.
fn value(op: &Conv, sum: &str, channel: &str, at: &str) -> String {
    let mut value = sum.to_owned();
    if op.bias {
        value += &format!(" + bias[{channel}]");
    }
    if op.residual {
        value += &format!(" + residual[{at}]");
    }
    if op.activation.is_some() { format!("activation({value})") } else { value }
}

fn shader(op: &Conv, special: Specialization, rows: u32) -> Shader {
    let Specialization { element, vectors, flat, divided } = special;
    let vector = format!("vec4<{element}>");
    let data = if flat { vector.as_str() } else { element };
    let mut reads = vec![("data", data), ("weights", if vectors { &vector } else { element })];
    if op.bias {
        reads.push(("bias", element));
    }
    if op.residual {
        reads.push(("residual", element));
    }
    let source = if op.transposed {
        "    let spread = place - offset;
    let at = max(spread, vec4<i32>()) / stride;
    let inside = (spread >= vec4<i32>()) & (at * stride == spread) & (at < vec4<i32>(size));"
    } else {
        "    let at = place * stride + offset;
    let inside = (at >= vec4<i32>()) & (at < vec4<i32>(size));"
    };
    let (steps, scale) = if vectors { (4, " / 4u") } else { (1, "") };
    let mut setup = String::new();
    let mut body = String::new();
    for step in 0..steps {
        body += &if flat {
            format!("            let x{step} = data[at.x / 4u];\n")
        } else {
            format!(
                "            let x{step} = select(Four(), Four(data[at.x], data[at.y], data[at.z], data[at.w]), inside);\n"
            )
        };
        body += "            at += plane;\n";
    }
    let mut sums = Vec::new();
    for row in 0..rows {
        setup += &format!(
            "    let w{row} = (channel + min(row + {row}u, params.group_outputs - 1u)) * width{scale};\n    var sum{row} = Four();\n"
        );
        body += &format!("            let f{row} = weights[w{row} + unit];\n");
        body += &if vectors {
            format!(
                "            sum{row} += f{row}.x * x0 + f{row}.y * x1 + f{row}.z * x2 + f{row}.w * x3;\n"
            )
        } else {
            format!("            sum{row} += f{row} * x0;\n")
        };
        sums.push(format!("sum{row}"));
    }
    let value = value(op, "sum[lane]", "own", "at");
    let put = if divided {
        format!(
            "if (params.parts > 1u) {{
                output[part * params.batches * params.groups * params.group_outputs * places + at] = sum[lane];
            }} else {{
                output[at] = {value};
            }}"
        )
    } else {
        format!("output[at] = {value};")
    };
    let store = format!(
        "    var sums = array<Four, {rows}>({});
    for (var other = 0u; other < min({rows}u, params.group_outputs - row); other++) {{
        let own = channel + row + other;
        let sum = sums[other];
        var at = (batch * params.groups * params.group_outputs + own) * places + tile * 4u;
        for (var lane = 0u; lane < min(4u, places - tile * 4u); lane++) {{
            {put}
            at++;
        }}
    }}",
        sums.join(", ")
    );
    let main = if divided { include_str!("divided.wgsl") } else { include_str!("whole.wgsl") };
    let mut text = format!("alias Four = vec4<{element}>;\n{}{main}", include_str!("conv.wgsl"));
    for (name, part) in [
        ("rows", rows.to_string()),
        ("fields", window::FIELDS.to_owned()),
        ("source", source.to_owned()),
        ("setup", setup),
        ("step", steps.to_string()),
        ("body", body),
        ("store", store),
    ] {
        text = text.replace(&format!("{{{{{name}}}}}"), &part);
    }
    if let Some(activation) = op.activation {
        text += &math::wgsl(activation, "activation", "f32");
    }
    Shader::new("Conv", &reads, element, &text)
}
