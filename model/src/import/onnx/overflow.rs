//! Checks, in every run, that integers fit the 32 bits in which a page computes them.
//!
//! The same results are also computed in floats, which have a larger range. The number of results beyond the range of the
//! integers is read back by the run, and it must be 0.

use std::collections::BTreeSet;

use flotilla_program::{
    Binary, Check, Cumulative, Expr, Node, Op, Reduce, ReduceKind, Step, StepId, SymbolSource,
    Unary, ValueId, dim::Dim,
};
use flotilla_tensor::DType;

use super::wide::beyond_one_word;
use crate::graph::Draft;

/// The part of the integers' range that is used; the rest allows for the rounding of floats.
const ROOM: f32 = 1.0 - 1.0 / 1024.0;

/// Whether a node's results can be checked.
pub(super) fn is_checkable(node: &Node) -> bool {
    let one = node.outputs.len() == 1;
    one && match &node.op {
        Op::Elementwise(expr) => expr.steps.iter().any(computes),
        Op::Reduce(reduce) => !matches!(reduce.kind, ReduceKind::Min | ReduceKind::Max),
        Op::Cumulative(_) | Op::MatMul(_) => true,
        _ => false,
    }
}

/// Adds the checks after the nodes that compute these values.
pub(super) fn check_results(draft: &mut Draft, checked: &BTreeSet<ValueId>) {
    if checked.is_empty() {
        return;
    }
    for block in 0..=draft.regions.len() {
        let region = block.checked_sub(1);
        region.into_iter().for_each(|region| draft.swap(region));
        for node in std::mem::take(&mut draft.nodes) {
            let copy = node.outputs.iter().any(|output| checked.contains(output));
            let copy = copy.then(|| node.clone());
            draft.nodes.push(node);
            if let Some(node) = copy {
                check_node(draft, &node);
            }
        }
        region.into_iter().for_each(|region| draft.swap(region));
    }
}

/// Adds the check of one node.
fn check_node(draft: &mut Draft, node: &Node) {
    let output = node.outputs[0];
    let dtype = draft.value(output).dtype;
    let beyond = match &node.op {
        Op::Elementwise(expr) => {
            let shape = draft.shape(output).to_vec();
            let is_float = |input: u32| draft.value(node.inputs[input as usize]).dtype.is_float();
            let beyond = beyond_one_word(node, dtype);
            let op = Op::Elementwise(beyond.unwrap_or_else(|| beyond_of(expr, dtype, is_float)));
            draft.add_node(&node.name, op, node.inputs.clone(), DType::I32, shape)
        }
        op => {
            let inputs: Vec<ValueId> = node
                .inputs
                .iter()
                .map(|input| {
                    let shape = draft.shape(*input).to_vec();
                    let steps =
                        vec![Step::Input(0), Step::Cast(DType::F32, 0), Step::Unary(Unary::Abs, 1)];
                    let op = Op::Elementwise(Expr { steps });
                    draft.add_node(&node.name, op, vec![*input], DType::F32, shape)
                })
                .collect();
            let op = match op {
                // A mean is computed as a sum first.
                Op::Reduce(reduce) if reduce.kind == ReduceKind::Mean => {
                    Op::Reduce(Reduce { kind: ReduceKind::Sum, ..reduce.clone() })
                }
                Op::Cumulative(cumulative) => {
                    Op::Cumulative(Cumulative { exclusive: false, ..cumulative.clone() })
                }
                op => op.clone(),
            };
            let shape = draft.shape(output).to_vec();
            let floats = draft.add_node(&node.name, op, inputs, DType::F32, shape.clone());
            let expr = Expr { steps: vec![Step::Input(0)] };
            let op = Op::Elementwise(counted(expr, &[0], dtype, &[]));
            draft.add_node(&node.name, op, vec![floats], DType::I32, shape)
        }
    };
    let rank = draft.shape(beyond).len();
    let count = match rank {
        0 => beyond,
        _ => {
            let op = Op::Reduce(Reduce { kind: ReduceKind::Sum, axes: (0..rank as u32).collect() });
            draft.add_node(&node.name, op, vec![beyond], DType::I32, vec![Dim::Fixed(1); rank])
        }
    };
    let name = format!("integers of node {} that do not fit", node.name);
    let symbol = draft.add_symbol(name, SymbolSource::Element { value: count, index: 0 });
    draft.decisive.push(Check {
        node: node.name.clone(),
        what: "how many of its integers do not fit 32 bits, and none".to_owned(),
        left: Dim::Symbol(symbol),
        right: Dim::Fixed(0),
    });
}

/// Whether a step may give a larger integer than its operands.
fn computes(step: &Step) -> bool {
    matches!(
        step,
        Step::Binary(Binary::Add | Binary::Sub | Binary::Mul | Binary::Pow | Binary::ShiftLeft, ..)
            | Step::Unary(Unary::Neg | Unary::Abs | Unary::Square, _)
            | Step::Cast(DType::I64 | DType::U64 | DType::I32 | DType::U32, _)
    )
}

/// Which steps give floats.
fn floats_of(expr: &Expr, is_float: impl Fn(u32) -> bool) -> Vec<bool> {
    let mut floats: Vec<bool> = Vec::with_capacity(expr.steps.len());
    for step in &expr.steps {
        let of = |id: StepId| floats[id as usize];
        let known = match step {
            Step::Input(input) => is_float(*input),
            Step::Float(_) => true,
            Step::Int(_) | Step::Dim(_) | Step::Test(..) => false,
            Step::Binary(
                Binary::Eq | Binary::Ne | Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge,
                ..,
            ) => false,
            Step::Unary(_, a) | Step::Binary(_, a, _) | Step::Select(_, a, _) => of(*a),
            Step::Cast(to, _) | Step::Bits(to, _) => to.is_float(),
        };
        floats.push(known);
    }
    floats
}

/// 1 where a step of an integer expression gives a number that does not fit, else 0.
fn beyond_of(expr: &Expr, dtype: DType, is_float: impl Fn(u32) -> bool) -> Expr {
    let is_float = floats_of(expr, is_float);
    let mut steps = expr.steps.clone();
    let mut push = |step: Step| {
        steps.push(step);
        steps.len() as StepId - 1
    };
    let (mut floats, mut under) = (Vec::new(), Vec::new());
    for (step, is_float) in expr.steps.iter().zip(&is_float) {
        if *is_float || !computes(step) {
            continue;
        }
        let mut float = |id: StepId| push(Step::Cast(DType::F32, id));
        let step = match step {
            Step::Binary(Binary::ShiftLeft, a, b) => {
                let (a, b, two) = (float(*a), float(*b), push(Step::Float(2.0)));
                let factor = push(Step::Binary(Binary::Pow, two, b));
                Step::Binary(Binary::Mul, a, factor)
            }
            Step::Binary(function, a, b) => {
                if *function == Binary::Sub && dtype == DType::U32 {
                    under.push((*a, *b));
                }
                Step::Binary(*function, float(*a), float(*b))
            }
            Step::Unary(function, a) => Step::Unary(*function, float(*a)),
            Step::Cast(_, a) => Step::Cast(DType::F32, *a),
            _ => continue,
        };
        floats.push(push(step));
    }
    counted(Expr { steps }, &floats, dtype, &under)
}

/// 1 where one of the floats is beyond a word, or the first of a pair of integers is below the second; else 0.
fn counted(expr: Expr, floats: &[StepId], dtype: DType, under: &[(StepId, StepId)]) -> Expr {
    let mut steps = expr.steps;
    let mut push = |step: Step| {
        steps.push(step);
        steps.len() as StepId - 1
    };
    let (least, most) = match dtype {
        DType::U32 => (0.0, 4_294_967_296.0),
        _ => (-2_147_483_648.0, 2_147_483_648.0),
    };
    let mut fits = Vec::new();
    for &float in floats {
        let (low, high) = (push(Step::Float(least * ROOM)), push(Step::Float(most * ROOM)));
        fits.push(push(Step::Binary(Binary::Ge, float, low)));
        fits.push(push(Step::Binary(Binary::Lt, float, high)));
    }
    for &(a, b) in under {
        fits.push(push(Step::Binary(Binary::Ge, a, b)));
    }
    let all = fits.into_iter().reduce(|a, b| push(Step::Binary(Binary::And, a, b)));
    let (zero, one) = (push(Step::Int(0)), push(Step::Int(1)));
    if let Some(all) = all {
        push(Step::Select(all, zero, one));
    }
    Expr { steps }
}
