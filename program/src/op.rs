//! What a node computes.

use serde::{Deserialize, Serialize};

use crate::{
    Dft, Expr, GridSample, Interpolation, NgramCounts, Pad, Resample, RoiAlign, Step, Suppress,
    Trees, Unary, dim::Dim,
};

/// An operator. Shapes are in the values; an operator carries only what shapes do not determine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// `activation(alpha * a @ b + bias) `: inputs `a` `[.., m, k]`, `b` `[.., k, n]` (or `[.., n, k]` when
    /// `transpose_b`), then, when `bias`, `[n]`; then, when `residual`, a tensor of the result's shape that is added
    /// after the activation. Leading dimensions broadcast. If `b` is quantized, its scales and zero points follow it; see
    /// [`Quantized`].
    MatMul(MatMul),
    /// Scaled dot-product attention over packed heads: inputs `q` `[batch, q_len, heads * head_dim]`,
    /// `k` and `v` `[batch, kv_len, heads * head_dim]`, then, when `mask`, an additive mask that broadcasts to
    /// `[batch, heads, q_len, kv_len]` (rank 4). Output `[batch, q_len, heads * head_dim]`.
    /// Source: Vaswani et al., "Attention Is All You Need", 3.2.
    Attention(Attention),
    /// Attention with a state `S` per batch and head of keys, `[key_dim, value_dim]`, that is updated from position to position:
    /// `S <- exp(decay) * S`, then `S <- S + key * written^T` and `answer = scale * query^T S`, where `written` is
    /// `rate * (value - S^T key)` with a rate and `value` without.
    /// Inputs `query` `[batch, len, heads * key_dim]`, `key` `[batch, len, key_heads * key_dim]`, `value`
    /// `[batch, len, key_heads * value_dim]`, then, when `past`, the state at the start
    /// `[batch, key_heads, key_dim, value_dim]`; then, when `decay`, `[batch, len, key_heads]` or
    /// `[batch, len, key_heads * key_dim]`; then, when `rate`, `[batch, len, key_heads]` or `[batch, len, 1]`.
    /// Output `[batch, len * heads * value_dim + key_heads * key_dim * value_dim]`: the answers
    /// `[len, heads * value_dim]` and behind them the state at the end. Source: ONNX operators, "LinearAttention".
    LinearAttention(LinearAttention),
    /// Layer normalization over the last dimension: inputs `x` `[.., n]`, `gamma` `[n]`, `beta` `[n]`, then, when
    /// `residual`, a tensor of `x`'s shape that is added to `x` first. Source: Ba et al., "Layer Normalization", eq. 3.
    LayerNorm(LayerNorm),
    /// `exp(x - max) / sum(exp(x - max))` along `axis`.
    Softmax(Softmax),
    /// An expression over broadcast inputs; the output's shape is their broadcast shape.
    Elementwise(Expr),
    /// Reduction over `axes`, which stay as dimensions of 1.
    Reduce(Reduce),
    /// Inputs `data`, `indices` (I32): picks slices of `data` along `axis`; the output has `indices`' shape in the place of
    /// that axis. Negative indices count from the end; one out of range is a run-time error on cpu and reads 0 on
    /// webgpu, where a page cannot fail (WGSL, "Out-of-bounds access"). If `data` is quantized, its scales and zero points follow
    /// `indices`; see [`Quantized`].
    Gather(Gather),
    /// The numbers that quantized integers stand for: input the integers, then what [`Quantized`] says. The output has the shape of
    /// the integers before they were packed. Source: ONNX operators, "DequantizeLinear"; "MatMulNBits" and "MatMulBnb4" of
    /// onnxruntime's operators.
    Dequantize(Quantized),
    /// Reorders dimensions: output dimension `i` is input dimension `perm[i]`.
    Transpose(Transpose),
    /// Same elements in row-major order under the output's shape.
    Reshape,
    /// Repeats dimensions of 1 to the output's shape.
    Broadcast,
    /// Joins inputs along `axis`.
    Concat(Concat),
    /// Elements `start, start + stride, ..` of `axis`; the output's shape says how many.
    Slice(Slice),
    /// `start + stride * i` for each index `i` of a one-dimensional output (I32). No inputs.
    Range(Range),
    /// Numbers that shapes are computed from, one per element of the output (I32). No inputs.
    Sizes(Sizes),
    /// `activation(x * w + bias + residual)`, where `*` is a convolution or, when `transposed`, its transpose: inputs `x`
    /// `[n, c, d1, ..]`, `w` `[m, k1, .., c / groups]` (transposed or not), then, when `bias`, `[m]`; then, when `residual`, a
    /// tensor of the result's shape `[n, m, o1, ..]`. One to three spatial dimensions; what lies outside of `x` is 0.
    /// Source: ONNX operators, "Conv" and "ConvTranspose".
    Conv(Conv),
    /// Pools the elements in a window that slides over the spatial dimensions of `x` `[n, c, d1, ..]`. Source: ONNX operators,
    /// "MaxPool" and "AveragePool".
    Pool(Pool),
    /// The elements of `x` `[n, c, h, w]` that a deformable convolution multiplies, one column per place of the window: inputs
    /// `x`, `offset` `[n, offset_groups * kh * kw * 2, oh, ow]`, then, when `mask`, `[n, offset_groups * kh * kw, oh, ow]`.
    /// Output `[n, c, kh * kw, oh, ow]`. Source: ONNX operators, "DeformConv"; Zhu et al., "Deformable ConvNets v2", eq. 1.
    DeformableColumns(DeformableColumns),
    /// Input `data` of any type, then, in [`crate::PadMode::Constant`], one element: `data` with elements put around or taken
    /// away; the output's shape says how many come after it.
    Pad(Pad),
    /// Inputs `x` (F32), `indices` `[m, taps]` (I32) and `weights` `[m, taps]`: along `axis`, element `i` of the
    /// output is the sum of `weights[i, tap] * x[indices[i, tap]]`. Interpolation in one dimension.
    Resample(Resample),
    /// Inputs `x` `[n, c, (d,) h, w]` and `grid` `[n, (d2,) h2, w2, 2 or 3]`, whose last dimension holds coordinates
    /// `(x, y)` or `(x, y, z)` in -1..1: the output `[n, c, (d2,) h2, w2]` has the input's elements there.
    /// Source: ONNX operators, "GridSample".
    GridSample(GridSample),
    /// Inputs `x` `[n, c, h, w]`, `regions` `[r, 4]` (`x1, y1, x2, y2`) and `batches` `[r]` (I32): the output
    /// `[r, c, h2, w2]` has each region of its image pooled to `h2 x w2` cells.
    /// Source: He et al., "Mask R-CNN", 3; ONNX operators, "RoiAlign".
    RoiAlign(RoiAlign),
    /// Discrete Fourier transform of length `n` along `axis`: inputs `x`, whose last dimension is 1 (real) or 2
    /// (complex), and `twiddles` `[n, 2]`, cosine and sine of `2 pi i / n`. Missing elements count as 0, and the output
    /// has the first ones of its axis; its last dimension is 1 when only real parts are kept, else 2.
    Dft(Dft),
    /// Each matrix of `[.., n, n]` in upper triangular form by Gaussian elimination with partial pivoting. Exchanged rows change
    /// their sign, so that the determinant is preserved.
    Triangular,
    /// Inputs `x` `[rows, length]` (I32), `grams` `[g, longest]` (I32), `lengths` `[g]` (I32) and `starts`
    /// `[columns + 1]` (I32): the output `[rows, columns]` (F32) counts in each row how often the n-grams
    /// `starts[column]..starts[column + 1]` occur. Source: ONNX operators, "TfIdfVectorizer".
    NgramCounts(NgramCounts),
    /// Input `sums` `[n]` (I32), ascending: element `i` of the output `[m]` is the position of the first one above `i`, `n` if
    /// there is none. If `sums` are running counts, these are the positions of the counted elements.
    FirstAbove,
    /// Input `x` `[n, m]`: the output `[n]` (I32) has the position of each row among all of them in lexicographic order;
    /// of equal rows the earlier one comes first.
    RowRanks,
    /// Inputs `boxes` `[b, n, 4]`, `scores` `[b, c, n]` and `order` `[b, c, n]` (I32), the boxes by falling score: the output
    /// `[b, c, k]` (I32) has the first `k` boxes that no selected one overlaps, then -1.
    /// Source: ONNX operators, "NonMaxSuppression".
    Suppress(Suppress),
    /// Decision trees. Inputs `x` `[rows, features]` (F32), `nodes` `[n, 7]` (I32: feature, [`crate::Branch`], next node where it
    /// holds, next where not, whether a missing number holds, first and end of its members in `values`), `values` (F32: the
    /// nodes' thresholds, then members), `starts` `[leaves + 1]`, `targets` and `weights` `[w]` (I32, I32, F32: what each leaf
    /// gives to which column), `roots` `[trees]` (I32). A next node of `-1 - i` is leaf `i`. The output is `[rows, columns]`.
    /// Source: ONNX operators, "TreeEnsemble" of `ai.onnx.ml`.
    Trees(Trees),
    /// Inputs `data`, `indices` (I32) of one rank: the element of `data` at the place of each index, with the index in the
    /// place of the position along `axis`; the output has `indices`' shape. Indices are as in [`Op::Gather`].
    /// Source: ONNX operators, "GatherElements".
    GatherElements(GatherElements),
    /// Inputs `data`, `indices` (I32) `[batch.., picked.., depth]`: the slices of `data` at the tuples of `depth` indices that
    /// follow the batch dimensions. Indices are as in [`Op::Gather`]. Source: ONNX operators, "GatherND".
    GatherNd(GatherNd),
    /// Inputs `data`, `indices` (I32), `updates` of one rank: `data` with every update put where [`Op::GatherElements`] would have
    /// read it. An index out of range is a run-time error on cpu; webgpu leaves its update out.
    /// Source: ONNX operators, "ScatterElements".
    ScatterElements(ScatterElements),
    /// Inputs `data`, `indices` (I32) `[picked.., depth]`, `updates` `[picked.., slice..]`: `data` with slices put at tuples of
    /// indices, as in [`Op::ScatterElements`]. Source: ONNX operators, "ScatterND".
    ScatterNd(ScatterNd),
    /// Positions (I32) along `axis` of its first elements in order of size; the output's shape says how many. Of equal
    /// elements the earlier one comes first. Source: ONNX operators, "TopK".
    TopK(TopK),
    /// Position (I32) along `axis`, which stays as a dimension of 1, of the smallest or largest element.
    /// Source: ONNX operators, "ArgMax" and "ArgMin".
    ArgReduce(ArgReduce),
    /// One direction of a recurrent layer. Inputs: the share of the layer's input in its gates with all biases
    /// `[steps, batch, gates * hidden]`, the recurrent weights `[gates * hidden, hidden]`, the state before the first step
    /// `[batch, hidden]` (LSTM: `[batch, 2 * hidden]`, hidden and cell state); then, when `lengths`, how many steps each sequence
    /// has (I32) `[batch]`; then what the cell adds. Output `[steps + 1, batch, 2 * hidden]`: after each step the hidden state and
    /// what the cell keeps beside it, 0 after a sequence's end; the last row has the state after the last step.
    /// Source: ONNX operators, "RNN", "GRU" and "LSTM".
    Recurrent(Recurrent),
    /// Sums or products of all elements up to each one along `axis`. Source: ONNX operators, "CumSum" and "CumProd".
    Cumulative(Cumulative),
    /// One of two regions: the input is a condition (Bool, one element); the results are those of the region that runs. Regions
    /// have no parameters.
    If(If),
    /// A region that runs repeatedly. Inputs: the condition to begin (Bool, one element), the largest number of iterations (I32,
    /// one element), then the initial values of what is carried from iteration to iteration. The region's parameters are the
    /// iteration's number (I32, no dimension), then the carried values. Its results are whether to go on (Bool, one element), the
    /// carried values for the next iteration, then the collected values. The node's results are the carried values of the last
    /// iteration, then each collected value with a new first dimension of all iterations. Source: ONNX operators, "Loop".
    Loop(Loop),
}

impl Op {
    /// Whether every element of the result is one of an operand, or a number that any type holds. Then a result of a narrow type
    /// needs no rounding.
    pub fn moves_elements(&self) -> bool {
        match self {
            Op::Gather(gather) => gather.quantized.is_none(),
            Op::Transpose(_)
            | Op::Reshape
            | Op::Broadcast
            | Op::Concat(_)
            | Op::Slice(_)
            | Op::GatherElements(_)
            | Op::GatherNd(_)
            | Op::TopK(_)
            | Op::ArgReduce(_)
            | Op::Pad(_) => true,
            Op::GridSample(sample) => sample.interpolation == Interpolation::Nearest,
            Op::ScatterElements(scatter) => scatter.combine == Combine::Replace,
            Op::ScatterNd(scatter) => scatter.combine == Combine::Replace,
            Op::Reduce(reduce) => matches!(reduce.kind, ReduceKind::Min | ReduceKind::Max),
            Op::Pool(pool) => {
                matches!(pool.kind, PoolKind::Max | PoolKind::MaxPosition { .. })
            }
            Op::MatMul(_)
            | Op::Dequantize(_)
            | Op::Conv(_)
            | Op::DeformableColumns(_)
            | Op::Attention(_)
            | Op::LinearAttention(_)
            | Op::LayerNorm(_)
            | Op::Softmax(_)
            | Op::Elementwise(_)
            | Op::Cumulative(_)
            | Op::Recurrent(_)
            | Op::Resample(_)
            | Op::RoiAlign(_)
            | Op::Dft(_)
            | Op::Triangular
            | Op::NgramCounts(_)
            | Op::FirstAbove
            | Op::RowRanks
            | Op::Suppress(_)
            | Op::Trees(_)
            | Op::Range(_)
            | Op::Sizes(_)
            | Op::If(_)
            | Op::Loop(_) => false,
        }
    }

    /// The regions that it runs, as indices into [`Program::regions`](crate::Program::regions).
    pub fn regions(&self) -> Vec<u32> {
        match self {
            Op::If(branch) => vec![branch.yes, branch.no],
            Op::Loop(turns) => vec![turns.body],
            _ => Vec::new(),
        }
    }

    /// The dimensions that the operator carries.
    pub fn dims(&self) -> Vec<&Dim> {
        match self {
            Op::Slice(slice) => vec![&slice.start],
            Op::Range(range) => vec![&range.start, &range.stride],
            Op::Sizes(sizes) => sizes.dims.iter().collect(),
            Op::Pad(pad) => pad.before.iter().collect(),
            Op::Conv(conv) => conv.window.pads.iter().collect(),
            Op::Pool(pool) => pool.window.pads.iter().chain(&pool.pads_after).collect(),
            Op::DeformableColumns(columns) => columns.window.pads.iter().collect(),
            Op::Elementwise(expr) => expr
                .steps
                .iter()
                .filter_map(|step| match step {
                    Step::Dim(dim) => Some(dim),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// The same, mutable.
    pub fn dims_mut(&mut self) -> Vec<&mut Dim> {
        match self {
            Op::Slice(slice) => vec![&mut slice.start],
            Op::Range(range) => vec![&mut range.start, &mut range.stride],
            Op::Sizes(sizes) => sizes.dims.iter_mut().collect(),
            Op::Pad(pad) => pad.before.iter_mut().collect(),
            Op::Conv(conv) => conv.window.pads.iter_mut().collect(),
            Op::Pool(pool) => pool.window.pads.iter_mut().chain(&mut pool.pads_after).collect(),
            Op::DeformableColumns(columns) => columns.window.pads.iter_mut().collect(),
            Op::Elementwise(expr) => expr
                .steps
                .iter_mut()
                .filter_map(|step| match step {
                    Step::Dim(dim) => Some(dim),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Its regions' indices, mutable.
    pub fn regions_mut(&mut self) -> Vec<&mut u32> {
        match self {
            Op::If(branch) => vec![&mut branch.yes, &mut branch.no],
            Op::Loop(turns) => vec![&mut turns.body],
            _ => Vec::new(),
        }
    }

    /// The operator's name in messages and tables.
    pub fn name(&self) -> &'static str {
        match self {
            Op::MatMul(_) => "MatMul",
            Op::Attention(_) => "Attention",
            Op::LinearAttention(_) => "LinearAttention",
            Op::LayerNorm(_) => "LayerNorm",
            Op::Softmax(_) => "Softmax",
            Op::Elementwise(_) => "Elementwise",
            Op::Reduce(_) => "Reduce",
            Op::Gather(_) => "Gather",
            Op::Dequantize(_) => "Dequantize",
            Op::Transpose(_) => "Transpose",
            Op::Reshape => "Reshape",
            Op::Broadcast => "Broadcast",
            Op::Concat(_) => "Concat",
            Op::Slice(_) => "Slice",
            Op::Range(_) => "Range",
            Op::Sizes(_) => "Sizes",
            Op::If(_) => "If",
            Op::Loop(_) => "Loop",
            Op::Conv(_) => "Conv",
            Op::Pool(_) => "Pool",
            Op::DeformableColumns(_) => "DeformableColumns",
            Op::Pad(_) => "Pad",
            Op::Resample(_) => "Resample",
            Op::GridSample(_) => "GridSample",
            Op::RoiAlign(_) => "RoiAlign",
            Op::Dft(_) => "Dft",
            Op::Triangular => "Triangular",
            Op::NgramCounts(_) => "NgramCounts",
            Op::FirstAbove => "FirstAbove",
            Op::RowRanks => "RowRanks",
            Op::Suppress(_) => "Suppress",
            Op::Trees(_) => "Trees",
            Op::GatherElements(_) => "GatherElements",
            Op::GatherNd(_) => "GatherNd",
            Op::ScatterElements(_) => "ScatterElements",
            Op::ScatterNd(_) => "ScatterNd",
            Op::TopK(_) => "TopK",
            Op::ArgReduce(_) => "ArgReduce",
            Op::Recurrent(_) => "Recurrent",
            Op::Cumulative(_) => "Cumulative",
        }
    }
}

/// See [`Op::MatMul`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatMul {
    /// How `b`, a constant of two dimensions, is quantized.
    pub quantized: Option<Quantized>,
    /// Whether `b` is stored as `[.., n, k]`.
    pub transpose_b: bool,
    /// Factor on the product.
    pub alpha: f32,
    /// Whether a third input `[n]` is added to the scaled product.
    pub bias: bool,
    /// Applied after the bias.
    pub activation: Option<Unary>,
    /// Whether the last input, of the output's shape, is added at the end.
    pub residual: bool,
}

impl MatMul {
    /// A product and nothing else.
    pub const PLAIN: MatMul = MatMul {
        quantized: None,
        transpose_b: false,
        alpha: 1.0,
        bias: false,
        activation: None,
        residual: false,
    };

    /// Which input is the bias, if there is one.
    pub fn bias_at(&self) -> usize {
        2 + self.quantized.map_or(0, Quantized::operands)
    }

    /// Number of inputs.
    pub fn operands(&self) -> usize {
        self.bias_at() + usize::from(self.bias) + usize::from(self.residual)
    }
}

/// How a constant of two dimensions or more is quantized. An element is `(integer - zero) * scale`, without zero points `integer *
/// scale`, or `levels[integer] * scale`.
///
/// The operands after it are its scales, then, when `zeros`, its zero points, of the same shape. That shape has as many
/// dimensions as the elements; each is 1 (the same for all) or the elements' own, and along `axis` it may also be the number of
/// blocks of `block` elements, of which the last may be shorter. Scales are floats and zero points numbers of any type; both may be
/// stored narrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Quantized {
    /// Bits of an integer: 4 or 2, which lie in bytes (`U8`), the first one in the lowest bits; or 8 and more, which are elements of
    /// the value. Of fewer than 8 bits, the last dimension of the stored bytes has all integers of a row, of which only as many count
    /// as the row has elements.
    pub bits: u32,
    /// Whether integers of fewer than 8 bits have a sign.
    pub signed: bool,
    /// Dimension along which blocks lie.
    pub axis: u32,
    /// Elements of a block.
    pub block: u32,
    /// Whether there are zero points.
    pub zeros: bool,
    /// The numbers that integers of 4 bits stand for, if these are not the integers themselves.
    pub levels: Option<Levels>,
}

impl Quantized {
    /// Number of operands that scales and zero points are.
    pub fn operands(self) -> usize {
        1 + usize::from(self.zeros)
    }
}

/// Types of four bits that integers are looked up in. Source: Dettmers et al., "QLoRA", appendix E; the tables of bitsandbytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Levels {
    /// Floating point with a sign, two bits of exponent and one of mantissa, divided by its largest number.
    Fp4,
    /// Quantiles of the normal distribution.
    Nf4,
}

impl Levels {
    /// The numbers, by integer.
    pub fn numbers(self) -> [f32; 16] {
        match self {
            Levels::Fp4 => [
                0.0,
                0.005_208_333_4,
                0.666_666_7,
                1.0,
                0.333_333_34,
                0.5,
                0.166_666_67,
                0.25,
                -0.0,
                -0.005_208_333_4,
                -0.666_666_7,
                -1.0,
                -0.333_333_34,
                -0.5,
                -0.166_666_67,
                -0.25,
            ],
            Levels::Nf4 => [
                -1.0,
                -0.696_192_8,
                -0.525_073_05,
                -0.394_917_5,
                -0.284_441_38,
                -0.184_773_43,
                -0.091_050_036,
                0.0,
                0.079_580_3,
                0.160_930_2,
                0.246_112_3,
                0.337_915_24,
                0.440_709_83,
                0.562_617,
                0.722_956_84,
                1.0,
            ],
        }
    }
}

/// See [`Op::Attention`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// Number of heads.
    pub heads: u32,
    /// Factor on `q k^T`.
    pub scale: f32,
    /// Whether there is a fourth input, the additive mask.
    pub mask: bool,
}

/// See [`Op::LinearAttention`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearAttention {
    /// Number of heads of the queries; a multiple of `key_heads`.
    pub heads: u32,
    /// Number of heads of keys, values and states.
    pub key_heads: u32,
    /// Factor on the answers.
    pub scale: f32,
    /// Whether the state at the start is given; else it is zero.
    pub past: bool,
    /// Whether a decay is given.
    pub decay: bool,
    /// Whether a rate is given.
    pub rate: bool,
}

/// See [`Op::LayerNorm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerNorm {
    /// Added to the variance.
    pub epsilon: f32,
    /// Whether a fourth input is added to the first.
    pub residual: bool,
}

/// See [`Op::Softmax`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Softmax {
    /// Dimension that sums to one.
    pub axis: u32,
}

/// See [`Op::Reduce`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reduce {
    /// What is computed.
    pub kind: ReduceKind,
    /// Dimensions that become 1, ascending.
    pub axes: Vec<u32>,
}

/// What a [`Reduce`] computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each variant is named after what it computes")]
pub enum ReduceKind {
    Sum,
    Mean,
    SumOfSquares,
    Product,
    Min,
    Max,
}

/// See [`Op::Gather`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gather {
    /// Dimension of the data that indices pick from.
    pub axis: u32,
    /// How `data`, a constant, is quantized. Then `axis` is 0.
    pub quantized: Option<Quantized>,
}

impl Gather {
    /// A lookup in data as they are.
    pub fn new(axis: u32) -> Gather {
        Gather { axis, quantized: None }
    }
}

/// See [`Op::Transpose`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transpose {
    /// Input dimension of each output dimension.
    pub perm: Vec<u32>,
}

/// See [`Op::Concat`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Concat {
    /// Dimension that grows.
    pub axis: u32,
}

/// See [`Op::Slice`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// Sliced dimension.
    pub axis: u32,
    /// First index taken, counted from 0.
    pub start: Dim,
    /// Step between indices; not 0, may be negative.
    pub stride: i64,
}

/// See [`Op::Range`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Range {
    /// First element.
    pub start: Dim,
    /// Difference between neighbours.
    pub stride: Dim,
}

/// See [`Op::Sizes`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sizes {
    /// The numbers, row-major; at most [`Sizes::MAX`].
    pub dims: Vec<Dim>,
}

impl Sizes {
    /// Most numbers, which a launch's parameters hold.
    pub const MAX: usize = 64;
}

/// See [`Op::If`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct If {
    /// What runs where the condition is true.
    pub yes: u32,
    /// What runs where it is not.
    pub no: u32,
}

/// See [`Op::Loop`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loop {
    /// What an iteration runs.
    pub body: u32,
    /// How many values are carried from iteration to iteration.
    pub carried: u32,
}

/// How a window slides: one number per spatial dimension each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Distance between neighbouring places of the window; not 0.
    pub strides: Vec<u32>,
    /// Distance between neighbouring elements inside of it; not 0.
    pub dilations: Vec<u32>,
    /// How far the first place lies before the first element.
    pub pads: Vec<Dim>,
}

/// See [`Op::Conv`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conv {
    /// The window; when `transposed`, that of the convolution whose transpose this is.
    pub window: Window,
    /// Groups of channels that are computed independently.
    pub groups: u32,
    /// Whether the gradient of a convolution with respect to its input is computed instead.
    pub transposed: bool,
    /// Whether a third input `[m]` is added.
    pub bias: bool,
    /// Whether the last input, of the output's shape, is added.
    pub residual: bool,
    /// Applied at the end.
    pub activation: Option<Unary>,
}

/// See [`Op::Pool`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// What is computed of the elements in a window.
    pub kind: PoolKind,
    /// Size of the window.
    pub kernel: Vec<u32>,
    /// Its places.
    pub window: Window,
    /// How many elements of padding are after the last one; only [`PoolKind::PaddedMean`] uses this.
    pub pads_after: Vec<Dim>,
}

/// What a [`Pool`] computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PoolKind {
    /// The largest.
    Max,
    /// Where the largest is, as a row-major index into all of `x` (I32); the first one, when several are. With
    /// `column_major` the spatial part of the index counts the first spatial dimension fastest.
    MaxPosition {
        /// Order of the spatial part.
        column_major: bool,
    },
    /// The sum.
    Sum,
    /// The sum divided by the number of elements of `x` in the window.
    Mean,
    /// The sum divided by the number of elements in the window, those of the padding included.
    PaddedMean,
}

/// See [`Op::DeformableColumns`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeformableColumns {
    /// Size of the window, `[kh, kw]`.
    pub kernel: Vec<u32>,
    /// Its places.
    pub window: Window,
    /// Groups of channels that share their offsets.
    pub offset_groups: u32,
    /// Whether a third input weighs the elements.
    pub mask: bool,
}

/// See [`Op::GatherElements`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatherElements {
    /// Dimension that indices are positions of.
    pub axis: u32,
}

/// See [`Op::GatherNd`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatherNd {
    /// How many leading dimensions data and indices have in common.
    pub batch_dims: u32,
}

/// See [`Op::ScatterElements`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScatterElements {
    /// Dimension that indices are positions of.
    pub axis: u32,
    /// How an update is combined with the element in its place.
    pub combine: Combine,
}

/// See [`Op::ScatterNd`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScatterNd {
    /// How an update is combined with the element in its place.
    pub combine: Combine,
}

/// How an update is combined with the element in its place. With [`Combine::Replace`], one of several updates of one place stays;
/// which one is unspecified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each variant is named after what it does")]
pub enum Combine {
    Replace,
    Add,
    Multiply,
    Min,
    Max,
}

/// See [`Op::TopK`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopK {
    /// Dimension that is put in order.
    pub axis: u32,
    /// Whether the largest come first.
    pub largest: bool,
}

/// See [`Op::ArgReduce`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArgReduce {
    /// Dimension that becomes 1.
    pub axis: u32,
    /// Whether the largest element is selected.
    pub largest: bool,
    /// Whether the last of equal elements is selected.
    pub last: bool,
}

/// See [`Op::Recurrent`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recurrent {
    /// What a step computes.
    pub cell: Cell,
    /// Whether each sequence is processed from its end.
    pub reverse: bool,
    /// Whether there are lengths of sequences.
    pub lengths: bool,
    /// Bound on the absolute value of what goes into the activations.
    pub clip: Option<f32>,
}

/// What a step of a [`Recurrent`] computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Cell {
    /// One gate, which is the new hidden state.
    Rnn {
        /// Of the hidden state.
        activation: Activation,
    },
    /// Gates update, reset, hidden. With `reset_after` the hidden gate's recurrent share is reset after the product, and the last
    /// input is its bias `[hidden]`. Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", 2.3.
    Gru {
        /// Of the gates, then of the hidden gate.
        activations: [Activation; 2],
        /// `linear_before_reset`.
        reset_after: bool,
    },
    /// Gates input, output, forget, cell. With `peepholes` the last input has the weights of the cell state in the input, output
    /// and forget gates `[3 * hidden]`. Source: Hochreiter and Schmidhuber, "Long Short-Term Memory"; Gers et al., "Learning
    /// Precise Timing with LSTM Recurrent Networks".
    Lstm {
        /// Of the gates, of the cell gate, of the cell state on its way out.
        activations: [Activation; 3],
        /// Whether there are peephole weights.
        peepholes: bool,
        /// Whether the forget gate is one minus the input gate.
        input_forget: bool,
    },
}

/// A function inside of a [`Cell`]. Source: ONNX operators, "LSTM", attribute `activations`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Activation {
    /// `tanh(x)`.
    Tanh,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `max(x, 0)`.
    Relu,
    /// `alpha * x + beta`.
    Affine(f32, f32),
    /// `x` where it is not negative, else `alpha * x`.
    LeakyRelu(f32),
    /// `x` where it is over `alpha`, else 0.
    ThresholdedRelu(f32),
    /// `alpha * tanh(beta * x)`.
    ScaledTanh(f32, f32),
    /// `alpha * x + beta`, kept within 0 and 1.
    HardSigmoid(f32, f32),
    /// `x` where it is not negative, else `alpha * (exp(x) - 1)`.
    Elu(f32),
    /// `x / (1 + |x|)`.
    Softsign,
    /// `ln(1 + exp(x))`.
    Softplus,
}

/// See [`Op::Cumulative`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cumulative {
    /// Dimension along which it accumulates.
    pub axis: u32,
    /// Products instead of sums.
    pub product: bool,
    /// Whether an element is left out of its own result.
    pub exclusive: bool,
    /// Whether it goes from the last element to the first.
    pub reverse: bool,
}
