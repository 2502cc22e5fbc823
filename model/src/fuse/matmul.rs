//! Fuses the scale, bias, activation and residual that follow a product into it.

use super::layer_norm::{flattened, is_row};
use crate::graph::{Draft, Formula, Links, Uses};
use flotilla_program::{Binary, MatMul, Op, Unary, ValueId};
use flotilla_tensor::DType;

pub(super) fn apply(draft: &mut Draft, uses: &Uses) -> usize {
    let mut links = Links::of(draft, uses);
    let mut found = 0;
    for index in 0..draft.nodes.len() {
        let [output] = draft.nodes[index].outputs[..] else { continue };
        let formula = Formula { draft, links: &links };
        let Some(step) = recognize(&formula, output) else { continue };
        let Absorbed { mut matmul, mut inputs, extra } = step;
        match extra {
            Extra::Nothing => {}
            Extra::Bias(bias) => {
                inputs.push(flattened(draft, bias));
                matmul.bias = true;
            }
            Extra::Residual(residual) => {
                inputs.push(residual);
                matmul.residual = true;
            }
        }
        links.rewrite(draft, index, Op::MatMul(matmul), inputs);
        found += 1;
    }
    found
}

enum Extra {
    Nothing,
    Bias(ValueId),
    Residual(ValueId),
}

struct Absorbed {
    matmul: MatMul,
    inputs: Vec<ValueId>,
    extra: Extra,
}

fn recognize(formula: &Formula<'_>, output: ValueId) -> Option<Absorbed> {
    let absorbed = |source: ValueId, change: &dyn Fn(&mut MatMul), extra: Extra| {
        let (mut matmul, inputs) = product(formula, source)?;
        change(&mut matmul);
        Some(Absorbed { matmul, inputs: inputs.to_vec(), extra })
    };
    if let Some((source, factor)) = formula.scaled(output)
        && let Some((matmul, _)) = product(formula, source)
        && !matmul.bias
        && matmul.activation.is_none()
        && !matmul.residual
    {
        return absorbed(source, &|matmul| matmul.alpha *= factor, Extra::Nothing);
    }
    if let Some((function, source)) = formula.any_unary(output)
        && function != Unary::Not
        && formula.draft.value(output).dtype == DType::F32
        && let Some((matmul, _)) = product(formula, source)
        && matmul.activation.is_none()
        && !matmul.residual
    {
        return absorbed(source, &|matmul| matmul.activation = Some(function), Extra::Nothing);
    }
    for (source, term) in formula.either(output, Binary::Add) {
        let Some((matmul, _)) = product(formula, source) else { continue };
        if matmul.residual || formula.draft.shape(source) != formula.draft.shape(output) {
            continue;
        }
        let Some(columns) = formula.draft.shape(output).last() else { continue };
        if !matmul.bias && matmul.activation.is_none() && is_row(formula.draft, term, columns) {
            return absorbed(source, &|_| (), Extra::Bias(term));
        }
        if formula.draft.shape(term) == formula.draft.shape(output) {
            return absorbed(source, &|_| (), Extra::Residual(term));
        }
    }
    None
}

/// A product that is used only here.
fn product<'f>(formula: &'f Formula<'_>, id: ValueId) -> Option<(MatMul, &'f [ValueId])> {
    if formula.links.uses(id) != 1 {
        return None;
    }
    formula.produced(id, |op| match op {
        Op::MatMul(matmul) => Some(matmul.clone()),
        _ => None,
    })
}
