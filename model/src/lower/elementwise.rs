//! Element-wise operators; each becomes an expression of one step.

use tract_onnx::tract_hir::internal::{
    TypedNode,
    tract_core::ops::{
        binary::TypedBinOp,
        element_wise::ElementWiseOp,
        math::{IsInf, IsNan, PowConst, Round},
        nn::{GeluApproximate, HardSwish, LeakyRelu},
    },
};

use super::{LowerResult, Lowering};
use flotilla_program::{Binary, DType, Expr, Op, Step, Test, Unary, ValueId};

impl Lowering<'_> {
    pub(super) fn unary(&mut self, node: &TypedNode, op: &ElementWiseOp) -> LowerResult<ValueId> {
        let input = self.value_of(node.inputs[0])?;
        let steps = self.unary_steps(node, op)?;
        self.single(node, Op::Elementwise(Expr { steps }), vec![input])
    }

    fn unary_steps(&self, node: &TypedNode, op: &ElementWiseOp) -> LowerResult<Vec<Step>> {
        let op = &op.0;
        if let Some(pow) = op.downcast_ref::<PowConst>() {
            Ok(vec![Step::Input(0), Step::Float(pow.exponent), Step::Binary(Binary::Pow, 0, 1)])
        } else if op.downcast_ref::<GeluApproximate>().is_some_and(|gelu| gelu.fast_impl) {
            Err(self.unsupported(node, "only the cubic approximation of GELU can be had"))
        } else if let Some(leaky) = op.downcast_ref::<LeakyRelu>() {
            Ok(vec![
                Step::Input(0),
                Step::Float(leaky.alpha),
                Step::Binary(Binary::Mul, 0, 1),
                Step::Float(0.0),
                Step::Binary(Binary::Lt, 0, 3),
                Step::Select(4, 2, 0),
            ])
        } else if op.is::<HardSwish>() {
            // x * min(max(x / 6 + 1 / 2, 0), 1). Source: ONNX, "HardSwish".
            Ok(vec![
                Step::Input(0),
                Step::Float(1.0 / 6.0),
                Step::Binary(Binary::Mul, 0, 1),
                Step::Float(0.5),
                Step::Binary(Binary::Add, 2, 3),
                Step::Unary(Unary::Relu, 4),
                Step::Float(1.0),
                Step::Binary(Binary::Min, 5, 6),
                Step::Binary(Binary::Mul, 0, 7),
            ])
        } else if op.is::<Round>() {
            // tract's rounds halves away from zero.
            Ok(vec![
                Step::Input(0),
                Step::Unary(Unary::Abs, 0),
                Step::Unary(Unary::Floor, 1),
                Step::Binary(Binary::Sub, 1, 2),
                Step::Float(0.5),
                Step::Binary(Binary::Ge, 3, 4),
                Step::Cast(DType::F32, 5),
                Step::Binary(Binary::Add, 2, 6),
                Step::Unary(Unary::Sign, 0),
                Step::Binary(Binary::Mul, 7, 8),
            ])
        } else if op.name() == "RoundBf16" {
            // It is ours: see `import::onnx`.
            Ok(vec![Step::Input(0), Step::Cast(DType::BF16, 0)])
        } else if op.is::<IsNan>() {
            Ok(vec![Step::Input(0), Step::Test(Test::Nan, 0)])
        } else if let Some(infinite) = op.downcast_ref::<IsInf>() {
            let tests = [
                (infinite.detect_positive, Test::PositiveInfinity),
                (infinite.detect_negative, Test::NegativeInfinity),
            ];
            let mut wanted = tests.into_iter().filter(|(wanted, _)| *wanted).map(|(_, test)| test);
            let first = match wanted.next() {
                Some(test) => Step::Test(test, 0),
                // No number is less than itself.
                None => Step::Binary(Binary::Lt, 0, 0),
            };
            let mut steps = vec![Step::Input(0), first];
            if let Some(test) = wanted.next() {
                steps.extend([Step::Test(test, 0), Step::Binary(Binary::Or, 1, 2)]);
            }
            Ok(steps)
        } else {
            let function = unary_named(&op.name())
                .ok_or_else(|| self.unsupported(node, "there is no lowering for this function"))?;
            Ok(vec![Step::Input(0), Step::Unary(function, 0)])
        }
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
        if matches!(op.0.name(), "And" | "Or" | "Xor") && operand != DType::Bool {
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
        "Not" | "BitNot" => Unary::Not,
        "Acos" => Unary::Acos,
        "Acosh" => Unary::Acosh,
        "Asin" => Unary::Asin,
        "Asinh" => Unary::Asinh,
        "Atan" => Unary::Atan,
        "Atanh" => Unary::Atanh,
        "Cosh" => Unary::Cosh,
        "Sinh" => Unary::Sinh,
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
        // Quotient is ours: see `import::onnx`.
        "Div" | "Quotient" => (Binary::Div, false),
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
        "ShiftLeft" => (Binary::ShiftLeft, false),
        "ShiftRight" => (Binary::ShiftRight, false),
        _ => return None,
    })
}
