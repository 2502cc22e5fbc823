//! A program as text, one line per node: what `flotilla explain` prints and what tests compare.

use std::fmt::{self, Display, Formatter, Write};

use crate::{
    Binary, Conv, Expr, MatMul, Node, Op, Program, Source, Step, Unary, ValueId, Window,
    dim::{Dim, Symbol},
};

impl Display for Program {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "program {} ({} nodes)", self.name, self.nodes.len())?;
        for port in &self.inputs {
            writeln!(f, "in  {} = {} ({:?})", self.operand(port.value), port.name, port.dtype)?;
        }
        for node in &self.nodes {
            self.write_node(f, node)?;
        }
        for count in &self.counts {
            let symbol = self.dim_text(&Dim::Symbol(count.symbol));
            let most = self.dim_text(&count.most);
            writeln!(f, "cut {symbol} = {}, at most {most}", self.operand(count.value))?;
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
        dim_text(dim, &self.symbols)
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
        for node in &self.nodes {
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
            Op::Gather(gather) => format!("axis {}", gather.axis),
            Op::Transpose(transpose) => format!("{:?}", transpose.perm),
            Op::Reshape | Op::Broadcast | Op::Triangular | Op::FirstAbove | Op::RowRanks => {
                String::new()
            }
            Op::Pad(pad) => format!("{:?}, before {:?}", pad.mode, pad.before),
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
            Op::Conv(conv) => conv_text(conv),
            Op::Pool(pool) => {
                format!("{:?}, kernel {:?}, {}", pool.kind, pool.kernel, window_text(&pool.window))
            }
            Op::DeformableColumns(columns) => {
                let mask = if columns.mask { ", mask" } else { "" };
                format!(
                    "kernel {:?}, {}, offset groups {}{mask}",
                    columns.kernel,
                    window_text(&columns.window),
                    columns.offset_groups
                )
            }
        }
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
pub(crate) fn dim_text(dim: &Dim, symbols: &[String]) -> String {
    let list = |dims: &[Dim], separator: &str| {
        dims.iter().map(|dim| dim_text(dim, symbols)).collect::<Vec<_>>().join(separator)
    };
    match dim {
        Dim::Fixed(value) => value.to_string(),
        Dim::Symbol(Symbol(index)) => {
            symbols.get(*index as usize).cloned().unwrap_or_else(|| format!("?{index}"))
        }
        Dim::Sum(dims) => format!("({})", list(dims, "+")),
        Dim::Product(dims) => list(dims, "*"),
        Dim::DivFloor(dim, by) => format!("{}/{by}", dim_text(dim, symbols)),
        Dim::Min(dims) => format!("min({})", list(dims, ",")),
        Dim::Max(dims) => format!("max({})", list(dims, ",")),
        Dim::Broadcast(dims) => format!("broadcast({})", list(dims, ",")),
    }
}

fn matmul_text(matmul: &MatMul) -> String {
    let mut text = String::new();
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

fn window_text(window: &Window) -> String {
    format!(
        "strides {:?}, dilations {:?}, pads {:?}",
        window.strides, window.dilations, window.pads
    )
}

fn conv_text(conv: &Conv) -> String {
    let mut text = window_text(&conv.window);
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
