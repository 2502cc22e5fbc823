//! Quotients that are rounded once.

use tract_onnx::{
    prelude::{DatumType, Tensor, TractResult},
    tract_hir::internal::tract_core::ops::{binary::BinMiniOp, math::Div},
};

/// A quotient that stays one. tract's simplifier makes of a division by a constant a product with the reciprocal, which is
/// rounded twice; where the result is rounded to an integer, that may be another integer.
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
