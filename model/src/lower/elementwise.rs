//! Element-wise operators; each becomes an expression of one step.

use tract_onnx::tract_hir::internal::{
    TypedNode,
    tract_core::ops::{
        binary::TypedBinOp, element_wise::ElementWiseOp, math::PowConst, nn::GeluApproximate,
    },
};

use super::{LowerResult, Lowering};
use crate::program::{Binary, DType, Expr, Op, Step, Unary, ValueId};

impl Lowering<'_> {
    pub(super) fn unary(&mut self, node: &TypedNode, op: &ElementWiseOp) -> LowerResult<ValueId> {
        let input = self.value_of(node.inputs[0])?;
        let steps = if let Some(pow) = op.0.downcast_ref::<PowConst>() {
            vec![Step::Input(0), Step::Float(pow.exponent), Step::Binary(Binary::Pow, 0, 1)]
        } else if op.0.downcast_ref::<GeluApproximate>().is_some_and(|gelu| gelu.fast_impl) {
            return Err(self.unsupported(node, "only the cubic approximation of GELU can be had"));
        } else {
            let function = unary_named(&op.0.name())
                .ok_or_else(|| self.unsupported(node, "there is no lowering for this function"))?;
            vec![Step::Input(0), Step::Unary(function, 0)]
        };
        self.single(node, Op::Elementwise(Expr { steps }), vec![input])
    }

    pub(super) fn binary(&mut self, node: &TypedNode, op: &TypedBinOp) -> LowerResult<ValueId> {
        let (function, swapped) = binary_named(op.0.name())
            .ok_or_else(|| self.unsupported(node, "there is no lowering for this function"))?;
        let (a, b) = (self.value_of(node.inputs[0])?, self.value_of(node.inputs[1])?);
        let (a, b) = if swapped { (b, a) } else { (a, b) };
        let operand = self.draft.value(a).dtype;
        if operand != self.draft.value(b).dtype {
            return Err(self.unsupported(node, "its operands have different types"));
        }
        let logic = matches!(function, Binary::And | Binary::Or | Binary::Xor);
        if logic && operand != DType::Bool {
            return Err(self
                .unsupported(node, format!("operands of type {operand:?}, only Bool can be had")));
        }
        let steps = if a == b {
            vec![Step::Input(0), Step::Binary(function, 0, 0)]
        } else {
            vec![Step::Input(0), Step::Input(1), Step::Binary(function, 0, 1)]
        };
        let inputs = if a == b { vec![a] } else { vec![a, b] };
        self.single(node, Op::Elementwise(Expr { steps }), inputs)
    }

    pub(super) fn select(&mut self, node: &TypedNode) -> LowerResult<ValueId> {
        let inputs = self.values(node)?;
        let steps = vec![Step::Input(0), Step::Input(1), Step::Input(2), Step::Select(0, 1, 2)];
        self.single(node, Op::Elementwise(Expr { steps }), inputs)
    }
}

/// Our function for the name of one of tract's element-wise operators.
fn unary_named(name: &str) -> Option<Unary> {
    Some(match name {
        "Neg" => Unary::Neg,
        "Abs" => Unary::Abs,
        "Sign" => Unary::Sign,
        "Square" => Unary::Square,
        "Sqrt" => Unary::Sqrt,
        "Rsqrt" => Unary::Rsqrt,
        "Recip" => Unary::Recip,
        "Exp" => Unary::Exp,
        "Ln" => Unary::Ln,
        "Sin" => Unary::Sin,
        "Cos" => Unary::Cos,
        "Tan" => Unary::Tan,
        "Tanh" => Unary::Tanh,
        "Sigmoid" => Unary::Sigmoid,
        "Silu" => Unary::Silu,
        "GeluExact" => Unary::GeluErf,
        "GeluApproximate" => Unary::GeluTanh,
        "Erf" => Unary::Erf,
        "Floor" => Unary::Floor,
        "Ceil" => Unary::Ceil,
        "RoundHalfToEven" => Unary::Round,
        "Not" => Unary::Not,
        _ => return None,
    })
}

/// Our function for the name of one of tract's binary operators, and whether its operands change places.
fn binary_named(name: &str) -> Option<(Binary, bool)> {
    Some(match name {
        "Add" => (Binary::Add, false),
        "Sub" => (Binary::Sub, false),
        "SubF" => (Binary::Sub, true),
        // DimMul is ours: see `import::onnx`.
        "Mul" | "DimMul" => (Binary::Mul, false),
        "Div" => (Binary::Div, false),
        "Rem" => (Binary::Rem, false),
        "Pow" => (Binary::Pow, false),
        "Min" => (Binary::Min, false),
        "Max" => (Binary::Max, false),
        "Eq" => (Binary::Eq, false),
        "NE" => (Binary::Ne, false),
        "LT" => (Binary::Lt, false),
        "LTE" => (Binary::Le, false),
        "GT" => (Binary::Gt, false),
        "GTE" => (Binary::Ge, false),
        "And" | "BitAnd" => (Binary::And, false),
        "Or" | "BitOr" => (Binary::Or, false),
        "Xor" | "BitXor" => (Binary::Xor, false),
        _ => return None,
    })
}
