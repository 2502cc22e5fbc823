//! One file per operator: what it supports, its shader, its cpu kernel and its table of cases.

#![cfg_attr(
    not(target_arch = "wasm32"),
    expect(clippy::type_complexity, reason = "a row of a table of cases is a tuple")
)]

mod arg_reduce;
mod attention;
mod broadcast;
mod concat;
mod control;
mod conv;
mod cumulative;
mod deformable_columns;
mod dequantize;
mod dft;
mod elementwise;
mod first_above;
mod gather;
mod gather_elements;
mod gather_nd;
mod grid_sample;
mod layer_norm;
mod linear_attention;
mod math;
mod matmul;
mod ngram_counts;
mod order;
mod pad;
mod places;
mod pool;
mod range;
mod recurrent;
mod reduce;
mod resample;
mod reshape;
mod roi_align;
mod row_ranks;
mod scatter;
mod shader;
mod sizes;
mod slice;
mod softmax;
mod split;
mod stored;
mod strided;
mod sums;
mod suppress;
#[cfg(test)]
mod tests;
mod top_k;
mod transpose;
mod trees;
mod triangular;
mod window;

use flotilla_program::Op;

pub use matmul::{MatrixForm, PackedMatrix, Packer};
pub use shader::{ITERATIONS_MAX, Launch, Memory, Scratch, Shader, WORKGROUP};
pub use stored::Stored;
pub use strided::View;

use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::Case;

/// The interface of an operator for backends.
pub trait Kernel {
    /// Refuses a node that cannot run in any shapes.
    ///
    /// # Errors
    /// Why, as text.
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String>;

    /// Every shader that any shape may need; all of them are compiled at load.
    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader>;

    /// The dispatches for a run's shapes.
    ///
    /// # Errors
    /// Shapes that do not fit each other.
    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String>;

    /// Computes on the cpu. Operands are in the order of the node's inputs; `output` has the output's length and
    /// undefined contents.
    ///
    /// # Errors
    /// Shapes that do not fit each other, or an index out of range.
    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String>;

    /// Whether an input may be a constant that is narrower than words ([`flotilla_program::Value::is_narrow`]).
    fn reads_narrow(&self, _signature: &Signature<'_>, _input: usize) -> bool {
        false
    }

    /// The constant input that the cpu kernel needs packed, and how.
    fn packing(&self, _signature: &Signature<'_>) -> Option<Packing> {
        None
    }

    /// Whether the output is the first input under another shape, so that no kernel runs.
    fn is_alias(&self) -> bool {
        false
    }
}

/// A constant that is packed once at load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Packing {
    /// Which of the node's inputs.
    pub input: usize,
    /// How its matrix lies in its words.
    pub form: MatrixForm,
}

/// An operand of a cpu kernel.
#[derive(Clone, Copy)]
pub enum Operand<'a> {
    /// 32-bit elements, row-major.
    Plain(&'a [u32]),
    /// A packed constant.
    Packed(&'a PackedMatrix),
}

impl<'a> Operand<'a> {
    /// The elements; empty for a packed constant, which only its own kernel gets.
    pub fn words(self) -> &'a [u32] {
        match self {
            Operand::Plain(words) => words,
            Operand::Packed(_) => &[],
        }
    }

    /// The elements of a floating-point operand.
    pub fn f32(self) -> &'a [f32] {
        bytemuck::cast_slice(self.words())
    }

    /// The elements of an integer operand.
    pub fn i32(self) -> &'a [i32] {
        bytemuck::cast_slice(self.words())
    }
}

/// The kernel of an operator.
pub fn kernel(op: &Op) -> &dyn Kernel {
    match op {
        Op::MatMul(op) => op,
        Op::Attention(op) => op,
        Op::LinearAttention(op) => op,
        Op::LayerNorm(op) => op,
        Op::Softmax(op) => op,
        Op::Elementwise(op) => op,
        Op::Reduce(op) => op,
        Op::Gather(op) => op,
        Op::Dequantize(op) => op,
        Op::Transpose(op) => op,
        Op::Reshape => &reshape::Reshape,
        Op::Broadcast => &broadcast::Broadcast,
        Op::Concat(op) => op,
        Op::Slice(op) => op,
        Op::Range(op) => op,
        Op::Sizes(op) => op,
        Op::If(_) | Op::Loop(_) => &control::Control,
        Op::Conv(op) => op,
        Op::Pool(op) => op,
        Op::DeformableColumns(op) => op,
        Op::Pad(op) => op,
        Op::Resample(op) => op,
        Op::GridSample(op) => op,
        Op::RoiAlign(op) => op,
        Op::Dft(op) => op,
        Op::Triangular => &triangular::Triangular,
        Op::NgramCounts(op) => op,
        Op::FirstAbove => &first_above::FirstAbove,
        Op::RowRanks => &row_ranks::RowRanks,
        Op::Suppress(op) => op,
        Op::Trees(op) => op,
        Op::GatherElements(op) => op,
        Op::GatherNd(op) => op,
        Op::ScatterElements(op) => op,
        Op::ScatterNd(op) => op,
        Op::TopK(op) => op,
        Op::ArgReduce(op) => op,
        Op::Recurrent(op) => op,
        Op::Cumulative(op) => op,
    }
}

/// Refuses a node that cannot run in any shapes, or that gets a narrow constant where its kernel reads words.
///
/// # Errors
/// Why, as text.
pub fn supports(signature: &Signature<'_>) -> Result<(), String> {
    let kernel = kernel(&signature.node.op);
    kernel.supports(signature)?;
    for (index, &id) in signature.node.inputs.iter().enumerate() {
        let value = signature.program.value(id);
        if value.is_narrow() && !kernel.reads_narrow(signature, index) {
            return Err(format!("input {index} is a narrow {:?}", value.dtype));
        }
    }
    Ok(())
}

/// Every operator's table of cases.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    [
        matmul::cases(),
        attention::cases(),
        linear_attention::cases(),
        layer_norm::cases(),
        softmax::cases(),
        elementwise::cases(),
        reduce::cases(),
        gather::cases(),
        dequantize::cases(),
        transpose::cases(),
        reshape::cases(),
        broadcast::cases(),
        concat::cases(),
        slice::cases(),
        range::cases(),
        sizes::cases(),
        control::cases(),
        conv::cases(),
        pool::cases(),
        deformable_columns::cases(),
        pad::cases(),
        resample::cases(),
        grid_sample::cases(),
        roi_align::cases(),
        dft::cases(),
        triangular::cases(),
        ngram_counts::cases(),
        first_above::cases(),
        row_ranks::cases(),
        suppress::cases(),
        trees::cases(),
        gather_elements::cases(),
        gather_nd::cases(),
        scatter::cases(),
        top_k::cases(),
        arg_reduce::cases(),
        recurrent::cases(),
        cumulative::cases(),
    ]
    .concat()
}
