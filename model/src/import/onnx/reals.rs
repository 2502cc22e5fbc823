//! Integers that become real numbers.

use tract_onnx::{
    prelude::{TVec, TractResult, TypedFact, TypedModel},
    tract_hir::internal::{
        EvalContext, EvalOp, Op, StaticName, TValue, TypedOp, as_op, op_as_typed_op,
        tract_core::ops::cast::Cast,
    },
};

/// A conversion to floating point. tract's simplifier follows integers that are known from shapes through its own one, and
/// then divides the floats as if they were integers: half of a position becomes 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ToReal {
    /// What it does.
    pub(crate) cast: Cast,
}

impl Op for ToReal {
    fn name(&self) -> StaticName {
        "ToReal".into()
    }

    op_as_typed_op!();
}

impl EvalOp for ToReal {
    fn eval_out_of_plan(&self, inputs: TVec<TValue>) -> TractResult<Option<TVec<TValue>>> {
        self.cast.eval_out_of_plan(inputs)
    }

    fn eval(&self, ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        self.cast.eval(ctx, inputs)
    }
}

impl TypedOp for ToReal {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut facts = self.cast.output_facts(inputs)?;
        facts.iter_mut().for_each(|fact| fact.uniform_tdim = None);
        Ok(facts)
    }
}

/// Gives conversions of integers to floating point an operator that tract's simplifier does not follow numbers through.
pub(super) fn protect(graph: &mut TypedModel) {
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        if let Some(cast) = node.op_as::<Cast>().cloned()
            && cast.to.is_float()
            && let Ok(from) = graph.outlet_fact(node.inputs[0])
            && !from.datum_type.is_float()
        {
            graph.nodes[index].op = Box::new(ToReal { cast });
        }
        // What was followed until here is forgotten; the simplifier finds anew what it may know.
        graph.nodes[index].outputs.iter_mut().for_each(|output| output.fact.uniform_tdim = None);
    }
}
