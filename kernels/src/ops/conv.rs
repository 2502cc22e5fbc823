//! Convolutions and their transposes, of floats and of integers.

use flotilla_program::{Conv, DType, Window};

use super::{
    Kernel, Launch, Operand, Shader, conv_cpu, math,
    window::{self, Sliding},
};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// Channels that an invocation of each shader computes, and how much one costs there, roughly: the more share the loads
/// of the input, the cheaper each is, but channels past the end are computed in vain.
const SHADER_ROWS: [(u32, u32); 3] = [(16, 10), (4, 16), (1, 36)];
/// Neighbouring places that an invocation computes.
const PLACES: usize = 4;

/// What the shapes of a call say.
#[derive(Clone, Copy)]
pub(super) struct Geometry {
    pub(super) batches: usize,
    pub(super) groups: usize,
    /// Channels of one group of the input.
    pub(super) inputs: usize,
    /// Channels of one group of the output.
    pub(super) outputs: usize,
    pub(super) sliding: Sliding,
}

/// Number of operands.
pub(super) fn operand_count(op: &Conv) -> usize {
    2 + usize::from(op.bias) + usize::from(op.residual)
}

fn geometry(op: &Conv, call: &Call<'_>) -> Result<Geometry, String> {
    let (x, w, output) = (call.input(0), call.input(1), call.output());
    let ([n, c, input @ ..], [m, kernel @ .., inputs], [out_n, out_m, places @ ..]) =
        (x, w, output)
    else {
        return Err(format!("{x:?} and {w:?} are not an input and weights"));
    };
    let groups = op.groups as usize;
    if *c != inputs * groups || m % groups != 0 || (out_n, out_m) != (n, m) {
        return Err(format!("{x:?} and {w:?} in {groups} groups do not give {output:?}"));
    }
    if op.bias {
        call.expect_input(2, &[*m])?;
    }
    if op.residual {
        call.expect_input(operand_count(op) - 1, output)?;
    }
    Ok(Geometry {
        batches: *n,
        groups,
        inputs: *inputs,
        outputs: m / groups,
        sliding: Sliding::new(&op.window, input, kernel, places)?,
    })
}

/// What is known at load and shapes a shader's text.
#[derive(Clone, Copy)]
struct Specialization {
    element: &'static str,
    /// Weights are read as `vec4` over the channels of the input.
    vectors: bool,
    /// Each place has its own element alone, and four neighbouring ones are a `vec4`.
    flat: bool,
}

fn specialization(op: &Conv, signature: &Signature<'_>) -> Specialization {
    let (x, w) = (signature.input(0), signature.input(1));
    let inputs = w.shape.last().and_then(|dim| dim.as_fixed());
    let vectors = inputs.is_some_and(|inputs| inputs > 0 && inputs % 4 == 0);
    let plane = x.shape[2..].iter().try_fold(1, |plane, dim| Some(plane * dim.as_fixed()?));
    let single = w.shape[1..w.shape.len() - 1].iter().all(|dim| dim.as_fixed() == Some(1));
    let Window { strides, pads, .. } = &op.window;
    let unmoved = strides.iter().all(|&stride| stride == 1) && pads.iter().all(|&pad| pad == 0);
    Specialization {
        element: if x.dtype == DType::F32 { "f32" } else { "i32" },
        vectors,
        flat: vectors
            && single
            && unmoved
            && x.shape[2..] == signature.output().shape[2..]
            && plane.is_some_and(|plane| plane % 4 == 0),
    }
}

fn shader(op: &Conv, special: Specialization, rows: u32) -> Shader {
    let Specialization { element, vectors, flat } = special;
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
            format!("                    let x{step} = data[at.x / 4u];\n")
        } else {
            format!(
                "                    let x{step} = select(Four(), Four(data[at.x], data[at.y], data[at.z], data[at.w]), inside);\n"
            )
        };
        body += "                    at += plane;\n";
    }
    let mut sums = Vec::new();
    for row in 0..rows {
        setup += &format!(
            "    let w{row} = (channel + min(row + {row}u, params.group_outputs - 1u)) * width{scale};\n    var sum{row} = Four();\n"
        );
        body += &format!("                    let f{row} = weights[w{row} + unit];\n");
        body += &if vectors {
            format!(
                "                    sum{row} += f{row}.x * x0 + f{row}.y * x1 + f{row}.z * x2 + f{row}.w * x3;\n"
            )
        } else {
            format!("                    sum{row} += f{row} * x0;\n")
        };
        sums.push(format!("sum{row}"));
    }
    let bias = if op.bias { " + bias[own]" } else { "" };
    let residual = if op.residual { " + residual[at]" } else { "" };
    let value = format!("sum[lane]{bias}{residual}");
    let value = if op.activation.is_some() { format!("activation({value})") } else { value };
    let store = format!(
        "    var sums = array<Four, {rows}>({});
    for (var other = 0u; other < min({rows}u, params.group_outputs - row); other++) {{
        let own = channel + row + other;
        let sum = sums[other];
        var at = (batch * params.groups * params.group_outputs + own) * places + tile * 4u;
        for (var lane = 0u; lane < min(4u, places - tile * 4u); lane++) {{
            output[at] = {value};
            at++;
        }}
    }}",
        sums.join(", ")
    );
    let mut text = format!("alias Four = vec4<{element}>;\n{}", include_str!("conv.wgsl"));
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

impl Kernel for Conv {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(operand_count(self))?;
        let dtype = signature.input(0).dtype;
        signature.expect_all(dtype)?;
        if !matches!(dtype, DType::F32 | DType::I32) {
            return Err(format!("a convolution of {dtype:?}"));
        }
        if dtype != DType::F32 && self.activation.is_some() {
            return Err("an activation of integers".to_owned());
        }
        if self.groups == 0 {
            return Err("there are 0 groups".to_owned());
        }
        window::check(&self.window, signature.input(0).shape.len())
    }

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        let special = specialization(self, signature);
        SHADER_ROWS.iter().map(|&(rows, _)| shader(self, special, rows)).collect()
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { batches, groups, inputs, outputs, sliding } = geometry(self, call)?;
        let variants = SHADER_ROWS.iter().enumerate().map(|(shader, &(rows, cost))| {
            let blocks = outputs.div_ceil(rows as usize);
            (blocks * (rows * cost) as usize, blocks, shader)
        });
        let (_, blocks, shader) = variants.min().unwrap_or_default();
        let tiles = sliding.places().div_ceil(PLACES);
        let mut params: Vec<u32> = [batches, groups, inputs, outputs, blocks, tiles, 0, 0]
            .map(|count| count as u32)
            .to_vec();
        params.extend(sliding.params());
        let [depth, height, width] = sliding.kernel;
        let steps = if specialization(self, &call.signature).vectors { inputs / 4 } else { inputs };
        let stored = 5 * SHADER_ROWS[shader].0 as usize;
        let iterations = depth * (1 + height * (1 + width * (1 + steps))) + stored;
        let invocations = batches * groups * blocks * tiles;
        Ok(vec![Launch::new(shader, operand_count(self), params, invocations, iterations)])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        conv_cpu::compute(
            self,
            geometry(self, call)?,
            call.signature.input(0).dtype,
            operands,
            output,
        );
        Ok(())
    }
}

/// What a [`Conv`] must give: the sum over all elements and taps that belong together.
#[cfg(not(target_arch = "wasm32"))]
fn expected(op: &Conv, given: &[&Array], out: &[usize]) -> Array {
    let (x, w) = (given[0], given[1]);
    let spatial = x.shape.len() - 2;
    let channels = w.shape[spatial + 1];
    let per_group = w.shape[0] / op.groups as usize;
    Array::build(x.dtype, out, |index| {
        let (m, places) = (index[1], &index[2..]);
        let group = m / per_group;
        let mut sum = 0.0;
        for flat in 0..w.shape[1..].iter().product::<usize>() {
            let tap = crate::suite::unravel(flat, &w.shape[1..]);
            let mut own = vec![index[0], group * channels + tap[spatial]];
            for axis in 0..spatial {
                let (stride, pad) =
                    (i64::from(op.window.strides[axis]), i64::from(op.window.pads[axis]));
                let step = tap[axis] as i64 * i64::from(op.window.dilations[axis]);
                let place = places[axis] as i64;
                let at = match op.transposed {
                    false => Some(place * stride - pad + step),
                    true => {
                        let spread = place + pad - step;
                        (spread.rem_euclid(stride) == 0).then_some(spread.div_euclid(stride))
                    }
                };
                let inside = at.and_then(|at| usize::try_from(at).ok());
                own.extend(inside.filter(|&at| at < x.shape[axis + 2]));
            }
            if own.len() == spatial + 2 {
                sum += x.at(&own) * w.at(&[&[m], tap.as_slice()].concat());
            }
        }
        sum += if op.bias { given[2].at(&[m]) } else { 0.0 };
        sum += if op.residual { given[operand_count(op) - 1].at(index) } else { 0.0 };
        op.activation.map_or(sum, |unary| math::exact(unary, sum))
    })
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::{Op, Unary};

    let plain = |strides: &[u32], dilations: &[u32], pads: &[i32]| Conv {
        window: Window {
            strides: strides.to_vec(),
            dilations: dilations.to_vec(),
            pads: pads.to_vec(),
        },
        groups: 1,
        transposed: false,
        bias: false,
        residual: false,
        activation: None,
    };
    let square = plain(&[1, 1], &[1, 1], &[1, 1]);
    let strided = plain(&[2, 2], &[1, 1], &[3, 3]);
    let all = Conv {
        bias: true,
        residual: true,
        activation: Some(Unary::Relu),
        ..plain(&[2, 1], &[1, 2], &[0, 2])
    };
    let depthwise = Conv { groups: 6, bias: true, ..square.clone() };
    let grouped = Conv { groups: 2, ..plain(&[1], &[2], &[2]) };
    let transposed = |op: Conv| Conv { transposed: true, ..op };
    let table: Vec<(&str, Conv, &[usize], &[usize], &[usize])> = vec![
        ("a square window", square.clone(), &[2, 3, 5, 6], &[9, 3, 3, 3], &[2, 9, 5, 6]),
        ("a strided one", strided, &[1, 3, 13, 13], &[16, 7, 7, 3], &[1, 16, 7, 7]),
        ("everything behind it", all, &[2, 4, 7, 6], &[5, 3, 3, 4], &[2, 5, 3, 6]),
        ("a group per channel", depthwise, &[1, 6, 6, 9], &[6, 3, 3, 1], &[1, 6, 6, 9]),
        ("one dimension in groups", grouped, &[2, 8, 11], &[4, 3, 4], &[2, 4, 11]),
        (
            "three dimensions",
            plain(&[1, 2, 1], &[1, 1, 1], &[0, 1, 0]),
            &[1, 2, 3, 4, 5],
            &[3, 2, 3, 2, 2],
            &[1, 3, 2, 2, 4],
        ),
        (
            "a single element",
            plain(&[1, 1], &[1, 1], &[0, 0]),
            &[1, 70, 9, 9],
            &[12, 1, 1, 70],
            &[1, 12, 9, 9],
        ),
        (
            "a single element of whole vectors",
            Conv { bias: true, activation: Some(Unary::Relu), ..plain(&[1, 1], &[1, 1], &[0, 0]) },
            &[2, 8, 3, 4],
            &[18, 1, 1, 8],
            &[2, 18, 3, 4],
        ),
        (
            "a single strided element",
            plain(&[2, 2], &[1, 1], &[0, 0]),
            &[2, 8, 6, 8],
            &[5, 1, 1, 8],
            &[2, 5, 3, 4],
        ),
        (
            "transposed and strided",
            transposed(plain(&[3, 2], &[1, 1], &[1, 0])),
            &[1, 4, 3, 4],
            &[6, 3, 3, 4],
            &[1, 6, 8, 10],
        ),
        (
            "transposed, dilated, in groups",
            transposed(Conv { groups: 2, bias: true, ..plain(&[2], &[2], &[1]) }),
            &[2, 4, 5],
            &[6, 3, 2],
            &[2, 6, 11],
        ),
    ];
    let mut cases = Vec::new();
    for (seed, (name, op, x, w, out)) in table.into_iter().enumerate() {
        for dtype in [DType::F32, DType::I32] {
            if dtype == DType::I32 && op.activation.is_some() {
                continue;
            }
            let array = |offset: u64, shape: &[usize]| {
                let noise = Array::noise(3900 + 10 * seed as u64 + offset, shape);
                if dtype == DType::I32 {
                    Array { dtype, ..noise.map(|x| (x * 200.0).trunc()) }
                } else {
                    noise
                }
            };
            let mut arrays = vec![array(0, x), array(1, w)];
            if op.bias {
                arrays.push(array(2, &w[..1]));
            }
            if op.residual {
                arrays.push(array(3, out));
            }
            let given: Vec<&Array> = arrays.iter().collect();
            let expected = expected(&op, &given, out);
            let tolerance =
                if dtype == DType::I32 { Tolerance::Exact } else { Tolerance::Approximate };
            let name = format!("conv/{name} of {dtype:?}");
            cases.push(Sketch::single(&name, Op::Conv(op.clone()), &given, &expected, tolerance));
        }
    }
    cases
}
