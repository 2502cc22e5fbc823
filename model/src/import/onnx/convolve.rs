//! A convolution that tract's simplifier leaves in one piece.

use tract_onnx::{
    prelude::{TVec, TractResult, TypedFact},
    tract_hir::internal::{
        EvalContext, EvalOp, Op, StaticName, TValue, TypedOp, as_op, op_as_typed_op,
        op_out_of_plan, tract_core::ops::cnn::Conv,
    },
};

/// tract's convolution, without the rules that make slices and products between transpositions of some: what follows it
/// can then be taken over by it. The reference still computes it as tract does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Convolve(pub(crate) Conv);

impl Op for Convolve {
    fn name(&self) -> StaticName {
        "Conv".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        self.0.info()
    }

    op_as_typed_op!();
}

impl EvalOp for Convolve {
    op_out_of_plan!();

    fn eval(&self, ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        self.0.eval(ctx, inputs)
    }
}

impl TypedOp for Convolve {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        self.0.output_facts(inputs)
    }
}
