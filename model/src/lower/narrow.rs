//! Results of narrow types: a page computes with 32-bit words, so that what a narrower type does not hold is rounded or
//! wrapped where the typed graph says that it is narrow.

use super::draft::{Draft, Origin};
use crate::program::{Binary, DType, Expr, Op, Step, Unary, ValueId};

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
