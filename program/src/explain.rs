//! A program as text, one line per node: what `flotilla explain` prints and what tests compare.

use std::fmt::{self, Display, Formatter, Write};

use crate::{
    Binary, Conv, Expr, MatMul, Node, Op, Program, Quantized, Source, Step, Unary, ValueId, Window,
    dim::{Dim, Symbol},
};

impl Display for Program {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "program {} ({} nodes)", self.name, self.nodes.len())?;
        for port in &self.inputs {
            writeln!(f, "in  {} = {} ({:?})", self.operand(port.value), port.name, port.dtype)?;
        }
        self.write_block(f, &self.nodes, 0)?;
        for check in &self.checks {
            let (left, right) = (self.dim_text(&check.left), self.dim_text(&check.right));
            writeln!(f, "must {left} == {right}  # {}: {}", check.node, check.what)?;
        }
        for port in &self.outputs {
            writeln!(f, "out {} = {} ({:?})", self.operand(port.value), port.name, port.dtype)?;
        }
        Ok(())
    }
}

impl Program {
    /// A dimension with the symbols' names.
    pub fn dim_text(&self, dim: &Dim) -> String {
        dim_text(dim, &|symbol| self.symbol_name(symbol).to_owned())
    }

    /// A value's type and shape, as in `F32[B,S,384]`.
    pub fn value_text(&self, id: ValueId) -> String {
        let value = self.value(id);
        let dims: Vec<String> = value.shape.iter().map(|dim| self.dim_text(dim)).collect();
        format!("{:?}[{}]", value.dtype, dims.join(","))
    }

    /// Lines of `name op` per operator and how often it occurs, most frequent first.
    pub fn op_counts(&self) -> Vec<(&'static str, usize)> {
        let mut counts = std::collections::BTreeMap::<&'static str, usize>::new();
        for node in self.all_nodes() {
            *counts.entry(node.op.name()).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|&(name, count)| (std::cmp::Reverse(count), name));
        counts
    }

    fn operand(&self, id: ValueId) -> String {
        let sigil = match self.value(id).source {
            Source::Input | Source::Node => '%',
            Source::Constant(_) => '$',
        };
        format!("{sigil}{}:{}", id.0, self.value_text(id))
    }

    fn write_block(&self, f: &mut Formatter<'_>, nodes: &[Node], depth: usize) -> fmt::Result {
        for node in nodes {
            write!(f, "{:width$}", "", width = 2 * depth)?;
            self.write_node(f, node)?;
            for region in node.op.regions() {
                let Some(region) = self.regions.get(region as usize) else { continue };
                let list = |ids: &[ValueId]| {
                    ids.iter().map(|&id| self.operand(id)).collect::<Vec<_>>().join(", ")
                };
                writeln!(f, "{:width$}({})", "", list(&region.parameters), width = 2 * depth + 2)?;
                self.write_block(f, &region.nodes, depth + 2)?;
                writeln!(f, "{:width$}-> {}", "", list(&region.results), width = 2 * depth + 2)?;
            }
        }
        Ok(())
    }

    fn write_node(&self, f: &mut Formatter<'_>, node: &Node) -> fmt::Result {
        let outputs: Vec<String> = node.outputs.iter().map(|&id| self.operand(id)).collect();
        let inputs: Vec<String> = node.inputs.iter().map(|&id| self.operand(id)).collect();
        write!(f, "{} = {}", outputs.join(", "), node.op.name())?;
        let attributes = self.attributes(&node.op);
        if !attributes.is_empty() {
            write!(f, "{{{attributes}}}")?;
        }
        writeln!(f, "({})  # {}", inputs.join(", "), node.name)
    }

    fn attributes(&self, op: &Op) -> String {
        match op {
            Op::MatMul(matmul) => matmul_text(matmul),
            Op::Attention(attention) => {
                let mask = if attention.mask { ", mask" } else { "" };
                format!("heads {}, scale {}{mask}", attention.heads, attention.scale)
            }
            Op::LinearAttention(attention) => {
                let words = [
                    (attention.past, "past"),
                    (attention.decay, "decay"),
                    (attention.rate, "rate"),
                ]
                .map(|(present, word)| if present { format!(", {word}") } else { String::new() })
                .concat();
                format!(
                    "heads {}, key heads {}, scale {}{words}",
                    attention.heads, attention.key_heads, attention.scale
                )
            }
            Op::LayerNorm(norm) => {
                let residual = if norm.residual { ", residual" } else { "" };
                format!("epsilon {:e}{residual}", norm.epsilon)
            }
            Op::Softmax(softmax) => format!("axis {}", softmax.axis),
            Op::Elementwise(expr) => self.expr_text(expr),
            Op::Reduce(reduce) => format!("{:?}, axes {:?}", reduce.kind, reduce.axes),
            Op::Gather(gather) => match gather.quantized {
                Some(quantized) => format!("axis {}, {}", gather.axis, quantized_text(&quantized)),
                None => format!("axis {}", gather.axis),
            },
            Op::Dequantize(quantized) => quantized_text(quantized),
            Op::Transpose(transpose) => format!("{:?}", transpose.perm),
            Op::Reshape | Op::Broadcast | Op::Triangular | Op::FirstAbove | Op::RowRanks => {
                String::new()
            }
            Op::Pad(pad) => format!("{:?}, before [{}]", pad.mode, self.dims_text(&pad.before)),
            Op::Sizes(sizes) => self.dims_text(&sizes.dims),
            Op::If(_) => String::new(),
            Op::Loop(turns) => format!("carried {}", turns.carried),
            Op::Resample(resample) => format!("axis {}", resample.axis),
            Op::GridSample(sample) => format!(
                "{:?}, outside {:?}, align_corners {}",
                sample.interpolation, sample.outside, sample.align_corners
            ),
            Op::RoiAlign(align) => format!(
                "samples {}, scale {}, half_pixel {}, max {}",
                align.samples, align.scale, align.half_pixel, align.max
            ),
            Op::Dft(dft) => {
                format!("axis {}, inverse {}, mirrored {}", dft.axis, dft.inverse, dft.mirrored)
            }
            Op::Suppress(suppress) => format!(
                "overlap_max {}, score_min {:?}, centres {}",
                suppress.overlap_max, suppress.score_min, suppress.centres
            ),
            Op::Trees(trees) => format!("{:?}", trees.gathered),
            Op::NgramCounts(counts) => format!("distance_max {}", counts.distance_max),
            Op::Concat(concat) => format!("axis {}", concat.axis),
            Op::Slice(slice) => {
                format!(
                    "axis {}, start {}, stride {}",
                    slice.axis,
                    self.dim_text(&slice.start),
                    slice.stride
                )
            }
            Op::GatherElements(gather) => format!("axis {}", gather.axis),
            Op::GatherNd(gather) => format!("batch_dims {}", gather.batch_dims),
            Op::ScatterElements(scatter) => {
                format!("axis {}, {:?}", scatter.axis, scatter.combine)
            }
            Op::ScatterNd(scatter) => format!("{:?}", scatter.combine),
            Op::TopK(top) => {
                format!("axis {}, {} first", top.axis, extreme(top.largest))
            }
            Op::ArgReduce(arg) => {
                let last = if arg.last { ", last" } else { "" };
                format!("axis {}, {}{last}", arg.axis, extreme(arg.largest))
            }
            Op::Recurrent(recurrent) => {
                let reverse = if recurrent.reverse { ", reverse" } else { "" };
                let lengths = if recurrent.lengths { ", lengths" } else { "" };
                let clip = recurrent.clip.map_or_else(String::new, |clip| format!(", clip {clip}"));
                format!("{:?}{reverse}{lengths}{clip}", recurrent.cell)
            }
            Op::Cumulative(cumulative) => {
                let kind = if cumulative.product { "product" } else { "sum" };
                let exclusive = if cumulative.exclusive { ", exclusive" } else { "" };
                let reverse = if cumulative.reverse { ", reverse" } else { "" };
                format!("axis {}, {kind}{exclusive}{reverse}", cumulative.axis)
            }
            Op::Range(range) => {
                format!(
                    "start {}, stride {}",
                    self.dim_text(&range.start),
                    self.dim_text(&range.stride)
                )
            }
            Op::Conv(conv) => self.conv_text(conv),
            Op::Pool(pool) => {
                let window = self.window_text(&pool.window);
                format!("{:?}, kernel {:?}, {window}", pool.kind, pool.kernel)
            }
            Op::DeformableColumns(columns) => {
                let mask = if columns.mask { ", mask" } else { "" };
                format!(
                    "kernel {:?}, {}, offset groups {}{mask}",
                    columns.kernel,
                    self.window_text(&columns.window),
                    columns.offset_groups
                )
            }
        }
    }

    fn dims_text(&self, dims: &[Dim]) -> String {
        dims.iter().map(|dim| self.dim_text(dim)).collect::<Vec<_>>().join(", ")
    }

    fn window_text(&self, window: &Window) -> String {
        format!(
            "strides {:?}, dilations {:?}, pads [{}]",
            window.strides,
            window.dilations,
            self.dims_text(&window.pads)
        )
    }

    fn conv_text(&self, conv: &Conv) -> String {
        let mut text = self.window_text(&conv.window);
        if conv.groups != 1 {
            text.push_str(&format!(", groups {}", conv.groups));
        }
        for (present, word) in
            [(conv.transposed, "transposed"), (conv.bias, "bias"), (conv.residual, "residual")]
        {
            if present {
                text.push_str(", ");
                text.push_str(word);
            }
        }
        if let Some(activation) = conv.activation {
            text.push_str(", ");
            text.push_str(&unary_text(activation));
        }
        text
    }

    fn expr_text(&self, expr: &Expr) -> String {
        let mut texts: Vec<String> = Vec::with_capacity(expr.steps.len());
        for step in &expr.steps {
            let of =
                |id: &u32| texts.get(*id as usize).cloned().unwrap_or_else(|| format!("?{id}"));
            texts.push(match step {
                Step::Input(index) => format!("i{index}"),
                Step::Float(value) => format!("{value:?}"),
                Step::Int(value) => value.to_string(),
                Step::Dim(dim) => format!("dim({})", self.dim_text(dim)),
                Step::Unary(function, a) => format!("{}({})", unary_text(*function), of(a)),
                Step::Binary(function, a, b) => binary_text(*function, &of(a), &of(b)),
                Step::Select(condition, yes, no) => {
                    format!("select({}, {}, {})", of(condition), of(yes), of(no))
                }
                Step::Cast(dtype, a) => format!("{dtype:?}({})", of(a)),
                Step::Bits(dtype, a) => format!("bits{dtype:?}({})", of(a)),
                Step::Test(test, a) => format!("is{test:?}({})", of(a)),
            });
        }
        texts.pop().unwrap_or_default()
    }
}

/// A dimension with these names for its symbols.
pub fn dim_text(dim: &Dim, name: &impl Fn(Symbol) -> String) -> String {
    let one = |dim: &Dim| dim_text(dim, name);
    let list =
        |dims: &[Dim], separator: &str| dims.iter().map(one).collect::<Vec<_>>().join(separator);
    match dim {
        Dim::Fixed(value) => value.to_string(),
        Dim::Symbol(symbol) => match name(*symbol) {
            unnamed if unnamed.is_empty() => format!("?{}", symbol.0),
            name => name,
        },
        Dim::Sum(dims) => format!("({})", list(dims, "+").replace("+-", "-")),
        Dim::Product(dims) => list(dims, "*"),
        Dim::Quotient(dim, by) => match **by {
            Dim::Product(_) => format!("{}/({})", one(dim), one(by)),
            _ => format!("{}/{}", one(dim), one(by)),
        },
        Dim::Min(dims) => format!("min({})", list(dims, ",")),
        Dim::Max(dims) => format!("max({})", list(dims, ",")),
        Dim::Broadcast(dims) => format!("broadcast({})", list(dims, ",")),
        Dim::Equal(a, b) => format!("({} == {})", one(a), one(b)),
        Dim::Less(a, b) => format!("({} < {})", one(a), one(b)),
        Dim::Select(condition, yes, no) => {
            format!("select({}, {}, {})", one(condition), one(yes), one(no))
        }
    }
}

fn quantized_text(quantized: &Quantized) -> String {
    let Quantized { bits, axis, block, levels, .. } = quantized;
    let levels = levels.map_or(String::new(), |levels| format!(" {levels:?}"));
    format!("{bits} bits{levels}, blocks of {block} along {axis}")
}

fn matmul_text(matmul: &MatMul) -> String {
    let mut text = matmul.quantized.as_ref().map_or(String::new(), quantized_text);
    for (present, word) in
        [(matmul.transpose_b, "transpose_b"), (matmul.bias, "bias"), (matmul.residual, "residual")]
    {
        if present {
            text.push_str(if text.is_empty() { "" } else { ", " });
            text.push_str(word);
        }
    }
    if let Some(activation) = matmul.activation {
        text.push_str(if text.is_empty() { "" } else { ", " });
        text.push_str(&unary_text(activation));
    }
    if matmul.alpha != 1.0 {
        text.push_str(if text.is_empty() { "" } else { ", " });
        // Writing to a `String` cannot fail.
        let _ = write!(text, "alpha {}", matmul.alpha);
    }
    text
}

fn extreme(largest: bool) -> &'static str {
    if largest { "largest" } else { "smallest" }
}

fn unary_text(function: Unary) -> String {
    format!("{function:?}").to_lowercase()
}

fn binary_text(function: Binary, a: &str, b: &str) -> String {
    let infix = match function {
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
        Binary::Xor => "^",
        Binary::ShiftLeft => "<<",
        Binary::ShiftRight => ">>",
        Binary::Pow | Binary::Min | Binary::Max => {
            return format!("{}({a}, {b})", format!("{function:?}").to_lowercase());
        }
    };
    format!("({a} {infix} {b})")
}
