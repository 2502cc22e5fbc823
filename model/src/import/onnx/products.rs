//! Products of dimensions.

use tract_onnx::{
    prelude::{DatumType, Tensor, TractResult, TypedModel},
    tract_hir::internal::tract_core::ops::{
        binary::{BinMiniOp, TypedBinOp},
        math::Mul,
    },
};

/// A product of dimension tensors. tract's simplifier wants to read the factors of its own product as numbers and fails
/// where they are symbols, so such products are given an operator that it leaves alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct DimMul;

impl BinMiniOp for DimMul {
    fn name(&self) -> &'static str {
        "DimMul"
    }

    fn result_datum_type(&self, a: DatumType, b: DatumType) -> TractResult<DatumType> {
        Mul.result_datum_type(a, b)
    }

    fn eval_in_a(&self, a: &mut Tensor, b: &Tensor) -> TractResult<()> {
        Mul.eval_in_a(a, b)
    }

    fn eval_out_of_place(&self, c: &mut Tensor, a: &Tensor, b: &Tensor) -> TractResult<()> {
        Mul.eval_out_of_place(c, a, b)
    }
}

/// Gives products of dimension tensors an operator that tract's simplifier leaves alone.
pub(super) fn protect(graph: &mut TypedModel) {
    for node in &mut graph.nodes {
        let of_dims = node.outputs.iter().any(|output| output.fact.datum_type == DatumType::TDim);
        if of_dims && node.op_as::<TypedBinOp>().is_some_and(|op| op.0.is::<Mul>()) {
            node.op = Box::new(TypedBinOp(Box::new(DimMul), None));
        }
    }
}
