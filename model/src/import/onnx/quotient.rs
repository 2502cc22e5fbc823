//! Quotients that are rounded once.

use tract_onnx::{
    prelude::{DatumType, Tensor, TractResult, TypedModel},
    tract_hir::internal::tract_core::ops::{
        binary::{BinMiniOp, TypedBinOp},
        math::Div,
    },
};

use super::bf16::rounds_bf16;

/// A quotient that stays one. tract's simplifier makes of many a product with the reciprocal, which is rounded twice; where
/// the result is rounded to an integer or to half precision, that may be another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Quotient;

impl BinMiniOp for Quotient {
    fn name(&self) -> &'static str {
        "Quotient"
    }

    fn result_datum_type(&self, a: DatumType, b: DatumType) -> TractResult<DatumType> {
        Div.result_datum_type(a, b)
    }

    fn eval_in_a(&self, a: &mut Tensor, b: &Tensor) -> TractResult<()> {
        Div.eval_in_a(a, b)
    }

    fn eval_out_of_place(&self, c: &mut Tensor, a: &Tensor, b: &Tensor) -> TractResult<()> {
        Div.eval_out_of_place(c, a, b)
    }
}

/// Gives quotients in half precision an operator that tract's simplifier leaves alone.
pub(super) fn protect(graph: &mut TypedModel) {
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        if !node.op_as::<TypedBinOp>().is_some_and(|op| op.0.is::<Div>()) {
            continue;
        }
        let output = &node.outputs[0];
        let is_half = output.fact.datum_type == DatumType::F16
            || output.successors.iter().any(|reader| rounds_bf16(&graph.nodes[reader.node]));
        if is_half {
            graph.nodes[index].op = Box::new(TypedBinOp(Box::new(Quotient), None));
        }
    }
}
