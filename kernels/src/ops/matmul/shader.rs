//! WGSL of products: everything known at load becomes part of the text.

use flotilla_program::{MatMul, dim::Dim};
use flotilla_tensor::DType;

use super::{
    super::{Shader, math, split},
    MatrixForm, Reading, ScalingForm,
};
use crate::call::Signature;

/// Rows that an invocation of each shader computes, and roughly what a row costs there. The more rows share the
/// loads of `b`, the cheaper each is, but rows past the end are computed for nothing.
pub(super) const ROWS: [(u32, u32); 3] = [(16, 10), (4, 16), (1, 36)];
/// Index of the shader that joins the parts of sums.
pub(super) const FINISH: usize = ROWS.len();
/// Most steps along `k` of one invocation; a step takes four elements if the matrices are read as `vec4`.
pub(super) const STEPS_MAX: usize = 2048;
/// Columns in `vec4`s that an invocation computes if `n` is a multiple of them.
const UNITS: i64 = 2;

/// What is known at load and determines a shader's text.
pub(super) struct Specialization {
    /// `k` and `n` are multiples of 4, so that both matrices are read as `vec4`.
    pub(super) vectors: bool,
    batched: bool,
    n: Option<i64>,
    k: Option<i64>,
    /// Columns of an invocation, in `vec4`s.
    pub(super) units: u32,
    /// Sums may be so long that they are divided into parts.
    divided: bool,
    /// WGSL's name of the type of an element.
    element: &'static str,
    /// How `b` is read, if it is narrow or quantized.
    reading: Option<Reading>,
}

impl Specialization {
    /// Blocks of elements of a sum that share a scale.
    pub(super) fn blocks(&self) -> usize {
        self.scaling().map_or(1, |scaling| scaling.blocks)
    }

    fn scaling(&self) -> Option<ScalingForm> {
        self.reading.and_then(|reading| reading.scaling)
    }
}

pub(super) fn specialization(op: &MatMul, signature: &Signature<'_>) -> Specialization {
    let b = &signature.input(1).shape;
    let fixed =
        |from_end: usize| b.len().checked_sub(from_end).and_then(|index| b[index].as_fixed());
    let reading = super::reading(op, signature).ok().flatten();
    let (n, k) = match reading {
        Some(Reading { form, .. }) => (Some(form.n as i64), Some(form.k as i64)),
        None if op.transpose_b => (fixed(2), fixed(1)),
        None => (fixed(1), fixed(2)),
    };
    let by_4 = |dim: Option<i64>| dim.is_some_and(|dim| dim > 0 && dim % 4 == 0);
    let b_lead = &b[..b.len().saturating_sub(2)];
    let read_by_4 = reading.is_none_or(|Reading { form, scaling }| {
        let blocks_by_4 =
            |scaling: ScalingForm| scaling.blocks == 1 || scaling.block.is_multiple_of(4);
        form.stride.is_multiple_of(4) && scaling.is_none_or(blocks_by_4)
    });
    let vectors = by_4(n) && by_4(k) && read_by_4;
    let wide = vectors && n.is_some_and(|n| n % (4 * UNITS) == 0);
    let divided = split::may_divide(k.map(|k| if vectors { k / 4 } else { k }), STEPS_MAX);
    Specialization {
        vectors,
        units: if wide { UNITS as u32 } else { 1 },
        batched: !b_lead.iter().all(|dim| *dim == Dim::Fixed(1))
            || signature.input(0).shape.len() < b.len(),
        // Long sums of all sizes share their shaders.
        n: if divided && k.is_some() { None } else { n },
        k: if divided { None } else { k },
        divided,
        reading,
        element: match signature.input(0).dtype {
            DType::I64 | DType::I32 | DType::I16 | DType::I8 => "i32",
            DType::U64 | DType::U32 | DType::U16 | DType::U8 | DType::Bool => "u32",
            DType::F32 | DType::F16 | DType::BF16 | DType::F64 => "f32",
        },
    }
}

/// All shaders: those of [`ROWS`], then [`FINISH`] if sums may be divided.
pub(super) fn all(op: &MatMul, signature: &Signature<'_>) -> Vec<Shader> {
    let special = specialization(op, signature);
    let mut shaders: Vec<Shader> =
        ROWS.iter().map(|&(rows, _)| shader(op, &special, rows)).collect();
    if special.divided {
        shaders.push(finish(op, &special));
    }
    shaders
}

/// Adds the parts.
fn finish(op: &MatMul, special: &Specialization) -> Shader {
    let scalar = special.element;
    let vector = format!("vec4<{scalar}>");
    let element = if special.vectors { vector.as_str() } else { scalar };
    let mut reads = vec![("sums", element)];
    if op.bias {
        reads.push(("bias", element));
    }
    if op.residual {
        reads.push(("residual", element));
    }
    let value = value(op, "sum", "bias[index % params.columns]");
    let residual = if op.residual { " + residual[index]" } else { "" };
    let body = include_str!("finish.wgsl").replace("{{value}}", &format!("{value}{residual}"));
    let mut body = format!("alias Element = {element};\n{body}");
    if let Some(activation) = op.activation {
        body += &math::wgsl(activation, "activation", element);
    }
    Shader::new("MatMul, finish", &reads, element, &body)
}

/// The result for a sum before the residual is added.
fn value(op: &MatMul, sum: &str, bias: &str) -> String {
    let scaled = if op.alpha == 1.0 { sum.to_owned() } else { format!("{sum} * params.alpha") };
    let biased = if op.bias { format!("{scaled} + {bias}") } else { scaled };
    if op.activation.is_some() { format!("activation({biased})") } else { biased }
}

fn shader(op: &MatMul, special: &Specialization, rows: u32) -> Shader {
    let scalar = special.element;
    let vector = format!("vec4<{scalar}>");
    let element = if special.vectors { vector.as_str() } else { scalar };
    let mut reads = vec![("a", element)];
    reads.push(("b", if special.reading.is_some() { "u32" } else { element }));
    if let Some(scaling) = special.scaling() {
        reads.push(("scales", "u32"));
        reads.extend(scaling.zeros.map(|_| ("zeros", "u32")));
    }
    if op.bias {
        reads.push(("bias", element));
    }
    if op.residual {
        reads.push(("residual", element));
    }
    let number = |dim: Option<i64>, name: &str| {
        dim.map_or(format!("params.{name}"), |dim| format!("{dim}u"))
    };
    let batch = if special.batched {
        "    var rest = batch;
    for (var axis = params.lead; axis > 0u; axis--) {
        let at = axis - 1u;
        let size = params.sizes[at / 4u][at % 4u];
        let position = rest % size;
        rest /= size;
        a_batch += position * params.a_strides[at / 4u][at % 4u];
        b_batch += position * params.b_strides[at / 4u][at % 4u];
    }"
    } else {
        ""
    };
    let mut body = format!("alias Four = {vector};\n{}", include_str!("matmul.wgsl"));
    for (name, text) in [
        ("rows", rows.to_string()),
        ("columns", (4 * special.units).to_string()),
        ("n", number(special.n, "n")),
        ("k", number(special.k, "k")),
        ("batch", batch.to_owned()),
        ("divide", divide(special).to_owned()),
        (
            "out_batch",
            if special.divided { "(part * params.batches + batch)" } else { "batch" }.to_owned(),
        ),
        ("setup", setup(rows, special)),
        ("sum", sum(op.transpose_b, rows, special)),
        ("store", store(op, rows, special)),
    ] {
        body = body.replace(&format!("{{{{{name}}}}}"), &text);
    }
    if let Some(activation) = op.activation {
        body += &math::wgsl(activation, "activation", "vec4<f32>");
    }
    if let Some(Reading { form, scaling }) = special.reading {
        body += &form.stored.reader("b");
        if let Some(scaling) = scaling {
            body += &scaling.scales.reader("scales");
            body += &scaling.zeros.map_or(String::new(), |stored| stored.reader("zeros"));
        }
    }
    Shader::new("MatMul", &reads, element, &body)
}

/// The batch that an invocation computes; if sums are divided, also the part.
fn divide(special: &Specialization) -> &'static str {
    if special.divided {
        "    let batch = tile / params.row_tiles % params.batches;
    let part = tile / params.row_tiles / params.batches;
    if (part >= params.parts) {
        return;
    }
    let first = part * params.length;
    let last = min(first + params.length, params.k);"
    } else {
        "    let batch = tile / params.row_tiles;
    if (batch >= params.batches) {
        return;
    }"
    }
}

fn setup(rows: u32, special: &Specialization) -> String {
    let mut text = String::new();
    let scale = if special.vectors { " / 4u" } else { "" };
    let first = if special.divided { " + first" } else { "" };
    for row in 0..rows {
        text +=
            &format!("    var a{row} = (a_batch + min(row + {row}u, m - 1u) * k{first}){scale};\n");
        for unit in 0..special.units {
            text += &format!("    var sum{row}_{unit} = Four();\n");
        }
    }
    if special.vectors {
        text += "    let b_start = b_batch / 4u;\n    let unit = column / 4u;\n";
        if let Some(Reading { form: MatrixForm { transposed: true, stride, .. }, .. }) =
            special.reading
        {
            for (unit, lane) in
                (0..special.units).flat_map(|unit| (0..4).map(move |lane| (unit, lane)))
            {
                let (place, row) = (4 * unit + lane, stride / 4);
                text += &format!("    let row{lane}_{unit} = (column + {place}u) * {row}u;\n");
            }
        }
    } else {
        for lane in 0..4 {
            text += &format!("    let c{lane} = min(column + {lane}u, n - 1u);\n");
        }
    }
    text
}

/// The loop over `k`; for a quantized matrix a loop over blocks, whose scales are read once, and in it one over their elements.
fn sum(transposed: bool, rows: u32, special: &Specialization) -> String {
    let (first, last) = if special.divided { ("first", "last") } else { ("0u", "k") };
    let step = if special.vectors { 4 } else { 1 };
    let body = product(transposed, rows, special);
    let steps = |first: &str, last: &str| {
        format!("    for (var step = {first}; step < {last}; step += {step}u) {{\n{body}    }}\n")
    };
    let Some(scaling) = special.scaling() else { return steps(first, last) };
    let scales = scales(special, scaling);
    if scaling.blocks == 1 {
        return format!("    let block = 0u;\n{scales}{}", steps(first, last));
    }
    let block = scaling.block;
    format!(
        "    var begin = {first};
    while (begin < {last}) {{
    let block = begin / {block}u;
    let end = min({last}, (block + 1u) * {block}u);
{scales}{}    begin = end;
    }}\n",
        steps("begin", "end")
    )
}

/// The scales and zero points of an invocation's columns in a block: `scale0_0` and so on for each column, or for four columns
/// together where four columns of `b` are read together.
fn scales(special: &Specialization, scaling: ScalingForm) -> String {
    let (by_column, by_block) = scaling.strides;
    let names = [Some("scale"), scaling.zeros.map(|_| "zero")];
    let mut text = String::new();
    for name in names.into_iter().flatten() {
        for unit in 0..special.units {
            for lane in 0..4 {
                let column = if special.vectors {
                    format!("(column + {}u)", 4 * unit + lane)
                } else {
                    format!("c{lane}")
                };
                text += &format!(
                    "    let {name}{lane}_{unit} = {name}s_at({column} * {by_column}u + block * {by_block}u);\n"
                );
            }
            text += &format!(
                "    let {name}_{unit} = vec4({name}0_{unit}, {name}1_{unit}, {name}2_{unit}, {name}3_{unit});\n"
            );
        }
    }
    text
}

/// Numbers of `b` as they are computed with: `read` is what is stored, `column` names their scale.
fn scaled(special: &Specialization, read: &str, column: &str) -> String {
    match special.scaling() {
        None => read.to_owned(),
        Some(ScalingForm { zeros: None, .. }) => format!("{read} * scale{column}"),
        Some(_) => format!("({read} - zero{column}) * scale{column}"),
    }
}

/// The body of the loop over `k`: one step of 4 with vectors, of 1 without.
fn product(transposed: bool, rows: u32, special: &Specialization) -> String {
    let mut text = String::new();
    let stride = match special.reading {
        Some(Reading { form, .. }) => format!("{}u", form.stride),
        None => if transposed { "k" } else { "n" }.to_owned(),
    };
    if !special.vectors {
        let columns: Vec<String> = (0..4)
            .map(|lane| {
                let place = match transposed {
                    false => format!("b_batch + step * {stride} + c{lane}"),
                    true => format!("b_batch + c{lane} * {stride} + step"),
                };
                if special.reading.is_some() {
                    format!("b_at({place})")
                } else {
                    format!("b[{place}]")
                }
            })
            .collect();
        let four = scaled(special, &format!("Four({})", columns.join(", ")), "_0");
        text += &format!("        let b0 = {four};\n");
        for row in 0..rows {
            text += &format!("        sum{row}_0 += a[a{row}] * b0;\n        a{row}++;\n");
        }
        return text;
    }
    for unit in 0..special.units {
        for lane in 0..4 {
            let (place, column) = match transposed {
                false => (
                    format!("(step + {lane}u) * ({stride} / 4u) + unit + {unit}u"),
                    format!("_{unit}"),
                ),
                true if special.reading.is_some() => {
                    (format!("row{lane}_{unit} + step / 4u"), format!("{lane}_{unit}"))
                }
                true => (
                    format!("((column + {}u) * {stride} + step) / 4u", 4 * unit + lane),
                    format!("{lane}_{unit}"),
                ),
            };
            let read = match special.reading {
                Some(_) => scaled(special, &format!("b_4({place})"), &column),
                None => format!("b[b_start + {place}]"),
            };
            text += &format!("        let b{lane}_{unit} = {read};\n");
        }
    }
    for row in 0..rows {
        text += &format!("        let x{row} = a[a{row}];\n        a{row}++;\n");
        for unit in 0..special.units {
            let product = match transposed {
                false => format!(
                    "x{row}.x * b0_{unit} + x{row}.y * b1_{unit} + x{row}.z * b2_{unit} + x{row}.w * b3_{unit}"
                ),
                true => {
                    let dots: Vec<String> =
                        (0..4).map(|lane| format!("dot(x{row}, b{lane}_{unit})")).collect();
                    format!("Four({})", dots.join(", "))
                }
            };
            text += &format!("        sum{row}_{unit} += {product};\n");
        }
    }
    text
}

/// The epilogue is a loop, so that the driver compiles the activation once and not for every row.
fn store(op: &MatMul, rows: u32, special: &Specialization) -> String {
    let mut text = String::new();
    for unit in 0..special.units {
        let sums: Vec<String> = (0..rows).map(|row| format!("sum{row}_{unit}")).collect();
        text += &format!("    var sums{unit} = array<Four, {rows}>({});\n", sums.join(", "));
        if op.bias && special.vectors {
            text += &format!("    let bias{unit} = bias[unit + {unit}u];\n");
        } else if op.bias {
            text += "    let bias0 = Four(bias[c0], bias[c1], bias[c2], bias[c3]);\n";
        }
    }
    let residual = if op.residual { " + residual[at]" } else { "" };
    text += &format!("    for (var line = 0u; line < min({rows}u, m - row); line++) {{\n");
    text += "        var at = out_batch + (row + line) * n + column;\n";
    for unit in 0..special.units {
        let sum = format!("sums{unit}[line]");
        let value = value(op, &sum, &format!("bias{unit}"));
        if special.vectors {
            let step = if unit == 0 { "at /= 4u;" } else { "at++;" };
            text += &format!("        {step}\n");
            text += &put(special, &sum, &format!("{value}{residual}"));
        } else {
            text += &format!("        let sum = {sum};\n        let value = {value};\n");
            text += "        for (var lane = 0u; lane < min(4u, n - column); lane++) {\n";
            text += &put(special, "sum[lane]", &format!("value[lane]{residual}"));
            text += "            at++;\n        }\n";
        }
    }
    text + "    }\n"
}

/// Writes a value, or only the sum if it is a part.
fn put(special: &Specialization, sum: &str, value: &str) -> String {
    if special.divided {
        format!(
            "        if (params.parts > 1u) {{
            output[at] = {sum};
        }} else {{
            output[at] = {value};
        }}\n"
        )
    } else {
        format!("        output[at] = {value};\n")
    }
}
