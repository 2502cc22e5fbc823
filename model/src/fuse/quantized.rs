//! Products with quantized matrices and lookups in quantized tables read the integers themselves.

use std::collections::HashMap;

use crate::graph::{Draft, Uses};
use flotilla_program::{Op, Quantized, ValueId, dim::Dim};

/// A quantized constant of two dimensions.
struct Table {
    quantized: Quantized,
    /// Integers, scales and zero points.
    operands: Vec<ValueId>,
    /// Whether it is read as its own transpose.
    turned: bool,
}

pub(super) fn apply(draft: &mut Draft, _: &Uses) -> usize {
    let made: HashMap<ValueId, usize> = draft
        .nodes
        .iter()
        .enumerate()
        .flat_map(|(index, node)| node.outputs.iter().map(move |output| (*output, index)))
        .collect();
    let mut found = 0;
    for index in 0..draft.nodes.len() {
        let node = &draft.nodes[index];
        let (op, inputs) = match &node.op {
            Op::MatMul(matmul) if matmul.quantized.is_none() => {
                let Some(table) = table(draft, &made, node.inputs[1]) else { continue };
                let mut matmul = matmul.clone();
                matmul.transpose_b ^= table.turned;
                // Sums go along the rows of a transposed matrix.
                let along = u32::from(matmul.transpose_b);
                let scales = draft.shape(table.operands[1]);
                let fits = scales[along as usize] == Dim::Fixed(1) || table.quantized.axis == along;
                if !fits || table.quantized.bits < 8 && !matmul.transpose_b {
                    continue;
                }
                matmul.quantized = Some(table.quantized);
                let before = [&node.inputs[..1], &table.operands].concat();
                (Op::MatMul(matmul), [&before, &node.inputs[2..]].concat())
            }
            Op::Gather(gather) if gather.quantized.is_none() && gather.axis == 0 => {
                let Some(table) = table(draft, &made, node.inputs[0]) else { continue };
                if table.turned {
                    continue;
                }
                let mut gather = gather.clone();
                gather.quantized = Some(table.quantized);
                let first = [table.operands[0], node.inputs[1]];
                (Op::Gather(gather), [&first, &table.operands[1..]].concat())
            }
            _ => continue,
        };
        draft.nodes[index].op = op;
        draft.nodes[index].inputs = inputs;
        found += 1;
    }
    found
}

/// The constant that a value is the numbers of.
fn table(draft: &Draft, made: &HashMap<ValueId, usize>, value: ValueId) -> Option<Table> {
    let node = &draft.nodes[*made.get(&value)?];
    match &node.op {
        Op::Dequantize(quantized) => {
            let constant = |value: &ValueId| draft.constant(*value).is_some();
            let is_table = draft.shape(value).len() == 2 && node.inputs.iter().all(constant);
            let (quantized, operands) = (*quantized, node.inputs.clone());
            is_table.then_some(Table { quantized, operands, turned: false })
        }
        Op::Transpose(transpose) if transpose.perm == [1, 0] => {
            let table = table(draft, made, node.inputs[0])?;
            Some(Table { turned: !table.turned, ..table })
        }
        _ => None,
    }
}
