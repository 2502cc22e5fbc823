//! Chains of element-wise expressions become one, if the values between them are used nowhere else.

use crate::graph::{Draft, Links, Uses};
use flotilla_program::{Expr, Op, Step, StepId, ValueId};

/// Steps of a fused expression; longer ones gain nothing and make shaders slow to compile.
const STEPS_MAX: usize = 48;
/// Operands of a fused expression: a WebGPU device grants 8 storage buffers per stage, and one is the result.
const INPUTS_MAX: usize = 6;

pub(super) fn apply(draft: &mut Draft, uses: &Uses) -> usize {
    let mut links = Links::of(draft, uses);
    let mut found = 0;
    for index in 0..draft.nodes.len() {
        if !matches!(draft.nodes[index].op, Op::Elementwise(_)) {
            continue;
        }
        while inline_one(draft, &mut links, index) {
            found += 1;
        }
        found += usize::from(inline_scalars(draft, &mut links, index));
    }
    found
}

/// Puts the expression of one operand in the operand's place.
fn inline_one(draft: &mut Draft, links: &mut Links, index: usize) -> bool {
    let node = &draft.nodes[index];
    let Op::Elementwise(outer) = &node.op else { return false };
    for (slot, &input) in node.inputs.iter().enumerate() {
        let Some(before) = links.producer(draft, input) else { continue };
        let Op::Elementwise(inner) = &before.op else { continue };
        let same_shape = draft.shape(input) == draft.shape(node.outputs[0]);
        if links.uses(input) != 1
            || !(same_shape || (before.inputs.is_empty() && node.inputs.len() > 1))
        {
            continue;
        }
        let (expr, inputs) = substituted(outer, &node.inputs, slot, inner, &before.inputs);
        if expr.steps.len() > STEPS_MAX || inputs.len() > INPUTS_MAX {
            continue;
        }
        links.rewrite(draft, index, Op::Elementwise(expr), inputs);
        return true;
    }
    false
}

/// Constants of one element become steps.
fn inline_scalars(draft: &mut Draft, links: &mut Links, index: usize) -> bool {
    let node = &draft.nodes[index];
    let Op::Elementwise(expr) = &node.op else { return false };
    let scalars: Vec<Option<Step>> =
        node.inputs.iter().map(|&input| draft.scalar_step(input)).collect();
    let left = scalars.iter().filter(|scalar| scalar.is_none()).count();
    if left == 0 || left == node.inputs.len() {
        return false;
    }
    let inputs: Vec<ValueId> = node
        .inputs
        .iter()
        .zip(&scalars)
        .filter(|(_, scalar)| scalar.is_none())
        .map(|(&input, _)| input)
        .collect();
    // The other operands must still determine the result's shape.
    let rank = draft.shape(node.outputs[0]).len();
    if !inputs.iter().any(|&input| draft.shape(input).len() == rank) {
        return false;
    }
    let steps = expr
        .steps
        .iter()
        .map(|step| match step {
            Step::Input(input) => scalars[*input as usize].clone().unwrap_or_else(|| {
                let before =
                    scalars[..*input as usize].iter().filter(|scalar| scalar.is_none()).count();
                Step::Input(before as u32)
            }),
            step => step.clone(),
        })
        .collect();
    links.rewrite(draft, index, Op::Elementwise(Expr { steps }), inputs);
    true
}

/// `outer` with `inner` in the place of its input `slot`; equal operands and steps occur once.
fn substituted(
    outer: &Expr,
    outer_inputs: &[ValueId],
    slot: usize,
    inner: &Expr,
    inner_inputs: &[ValueId],
) -> (Expr, Vec<ValueId>) {
    let mut joined = Joined::default();
    let replaced = joined.add(inner, inner_inputs, None);
    joined.add(outer, outer_inputs, Some((slot, replaced)));
    (Expr { steps: joined.steps }, joined.inputs)
}

#[derive(Default)]
struct Joined {
    steps: Vec<Step>,
    inputs: Vec<ValueId>,
}

impl Joined {
    /// Appends an expression and returns the step of its result; `known` gives the step that an input has become.
    fn add(&mut self, expr: &Expr, inputs: &[ValueId], known: Option<(usize, StepId)>) -> StepId {
        let mut places: Vec<StepId> = Vec::with_capacity(expr.steps.len());
        for (index, step) in expr.steps.iter().enumerate() {
            let at = |id: &StepId| places[*id as usize];
            let step = match step {
                Step::Input(input) => match known {
                    Some((slot, step)) if slot == *input as usize => {
                        places.push(step);
                        continue;
                    }
                    _ => Step::Input(self.input(inputs[*input as usize])),
                },
                Step::Unary(function, a) => Step::Unary(*function, at(a)),
                Step::Binary(function, a, b) => Step::Binary(*function, at(a), at(b)),
                Step::Select(condition, yes, no) => Step::Select(at(condition), at(yes), at(no)),
                Step::Cast(dtype, a) => Step::Cast(*dtype, at(a)),
                Step::Bits(dtype, a) => Step::Bits(*dtype, at(a)),
                Step::Test(test, a) => Step::Test(*test, at(a)),
                Step::Float(_) | Step::Int(_) | Step::Dim(_) => step.clone(),
            };
            let last = index + 1 == expr.steps.len();
            // The result has to be the last step, so it is never shared with an earlier one.
            let same = if last { None } else { self.steps.iter().position(|known| *known == step) };
            places.push(same.unwrap_or_else(|| {
                self.steps.push(step);
                self.steps.len() - 1
            }) as StepId);
        }
        places.last().copied().unwrap_or_default()
    }

    fn input(&mut self, id: ValueId) -> u32 {
        let at = self.inputs.iter().position(|known| *known == id).unwrap_or_else(|| {
            self.inputs.push(id);
            self.inputs.len() - 1
        });
        at as u32
    }
}
