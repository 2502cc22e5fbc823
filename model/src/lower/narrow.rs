//! Results of narrow types: a page computes with 32-bit words, so that what a narrower type does not hold is rounded or
//! wrapped where the typed graph says that it is narrow.

use super::draft::{Draft, Origin};
use flotilla_program::{Binary, DType, Expr, Op, Step, Unary, ValueId};

/// The same value as a narrow type has it. `value` is the result of a node that was just added.
pub(super) fn narrow(draft: &mut Draft, value: ValueId, dtype: DType) -> ValueId {
    if !matches!(draft.value(value).origin, Origin::Node) {
        return value;
    }
    let Some(node) = draft.nodes.iter_mut().rfind(|node| node.outputs == [value]) else {
        return value;
    };
    if let Op::Elementwise(expr) = &mut node.op {
        if !fits(&expr.steps, dtype) {
            expr.steps.push(Step::Cast(dtype, expr.steps.len() as u32 - 1));
        }
        return value;
    }
    if node.op.moves_elements() {
        return value;
    }
    let (name, shape) = (node.name.clone(), draft.shape(value).to_vec());
    let steps = vec![Step::Input(0), Step::Cast(dtype, 0)];
    draft.add_node(&name, Op::Elementwise(Expr { steps }), vec![value], dtype.storage(), shape)
}

/// Whether an expression over operands of this type gives only what the type holds.
fn fits(steps: &[Step], dtype: DType) -> bool {
    let mut fitting: Vec<bool> = Vec::with_capacity(steps.len());
    for step in steps {
        let of = |id: &u32| fitting[*id as usize];
        fitting.push(match step {
            Step::Input(_) => true,
            Step::Select(_, a, b) => of(a) && of(b),
            Step::Unary(function, a) => match function {
                Unary::Relu | Unary::Sign => of(a),
                Unary::Neg | Unary::Abs | Unary::Floor | Unary::Ceil | Unary::Round => {
                    dtype.is_float() && of(a)
                }
                _ => false,
            },
            Step::Binary(function, a, b) => match function {
                Binary::Min | Binary::Max | Binary::And | Binary::Or | Binary::Xor => {
                    of(a) && of(b)
                }
                Binary::ShiftRight => of(a),
                Binary::Rem => !dtype.is_float() && of(a) && of(b),
                _ => false,
            },
            Step::Cast(to, _) => *to == dtype,
            Step::Float(_) | Step::Int(_) | Step::Dim(_) | Step::Bits(..) | Step::Test(..) => false,
        });
    }
    fitting.last().copied().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_program::dim::Dim;

    /// The steps that the sum, or whatever `function` is, of two operands of a type becomes.
    fn narrowed(function: Binary, dtype: DType) -> Vec<Step> {
        let mut draft = Draft::default();
        let shape = vec![Dim::Fixed(3)];
        let a = draft.add_value(dtype.storage(), shape.clone(), Origin::Input);
        let steps = vec![Step::Input(0), Step::Input(1), Step::Binary(function, 0, 1)];
        let op = Op::Elementwise(Expr { steps });
        let result = draft.add_node("sum", op, vec![a, a], dtype.storage(), shape);
        assert_eq!(narrow(&mut draft, result, dtype), result);
        match &draft.nodes[0].op {
            Op::Elementwise(expr) => expr.steps[2..].to_vec(),
            other => panic!("{} is no expression", other.name()),
        }
    }

    #[test]
    fn only_what_may_not_fit_is_rounded_or_wrapped() {
        for dtype in [DType::F16, DType::I8, DType::U16] {
            let sum = narrowed(Binary::Add, dtype);
            assert_eq!(sum, [Step::Binary(Binary::Add, 0, 1), Step::Cast(dtype, 2)]);
            assert_eq!(narrowed(Binary::Max, dtype), [Step::Binary(Binary::Max, 0, 1)]);
        }
        assert_eq!(narrowed(Binary::Rem, DType::F16).len(), 2);
        assert_eq!(narrowed(Binary::Rem, DType::I8).len(), 1);
    }

    #[test]
    fn a_result_of_another_operator_is_rounded_by_a_node_of_its_own_unless_it_moves() {
        for (op, rounded) in
            [(Op::Reshape, false), (Op::Softmax(flotilla_program::Softmax { axis: 0 }), true)]
        {
            let mut draft = Draft::default();
            let shape = vec![Dim::Fixed(3)];
            let x = draft.add_value(DType::F32, shape.clone(), Origin::Input);
            let result = draft.add_node("node", op, vec![x], DType::F32, shape);
            assert_eq!(narrow(&mut draft, result, DType::F16) != result, rounded);
        }
    }
}
