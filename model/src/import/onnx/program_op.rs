//! One of our own operators inside tract's typed graph.

use std::sync::Arc;

use tract_onnx::{
    prelude::{DatumType, Symbol, TDim, TVec, TractResult, TypedFact, tvec},
    tract_hir::internal::{
        EvalContext, EvalOp, Op, StaticName, TValue, TypedOp, as_op, bail, not_out_of_plan,
        op_as_typed_op,
    },
};

use flotilla_program as program;

/// Carries an operator of a [`Program`](flotilla_program::Program) through the typed graph untouched; tract cannot evaluate it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ProgramOp {
    pub(crate) op: Arc<program::Op>,
    pub(crate) dtype: DatumType,
    pub(crate) shape: TVec<TDim>,
}

// Factors and thresholds of operators are floats; a NaN among them only makes two equal nodes stay two.
impl Eq for ProgramOp {}

impl Op for ProgramOp {
    fn name(&self) -> StaticName {
        self.op.name().into()
    }

    op_as_typed_op!();
}

impl EvalOp for ProgramOp {
    not_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, _inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        bail!("{} has no independent reference", self.op.name())
    }
}

impl TypedOp for ProgramOp {
    as_op!();

    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(TypedFact::dt_shape(self.dtype, &self.shape)))
    }
}

/// Cuts the first operand where its second one, a number, says; what a run's data decide becomes a dimension here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Stands for the number.
    pub(crate) symbol: Symbol,
    /// The most that it can become, which is how long the operand is.
    pub(crate) most: TDim,
    /// The operand's shape with the symbol in it.
    pub(crate) shape: TVec<TDim>,
}

impl Op for Counted {
    fn name(&self) -> StaticName {
        "Counted".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Counted {
    not_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, _inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        bail!("what the data decide has no independent reference")
    }
}

impl TypedOp for Counted {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let [x, _] = inputs else { bail!("{} operands, 2 are needed", inputs.len()) };
        Ok(tvec!(TypedFact::dt_shape(x.datum_type, &self.shape)))
    }
}
