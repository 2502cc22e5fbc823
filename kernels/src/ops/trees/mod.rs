//! Decision trees.

use flotilla_program::{DType, Gathered, Trees};

use super::{Kernel, Launch, Operand, Shader};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// Numbers of a node in its table.
const COLUMNS: usize = 7;

struct Geometry {
    features: usize,
    nodes: usize,
    columns: usize,
    trees: usize,
}

fn geometry(call: &Call<'_>) -> Result<Geometry, String> {
    let (&[rows, features], &[nodes, COLUMNS], &[_, columns], &[trees]) =
        (call.input(0), call.input(1), call.output(), call.input(6))
    else {
        return Err(format!("{:?} with nodes {:?}", call.input(0), call.input(1)));
    };
    call.expect_output(&[rows, columns])?;
    call.expect_input(5, call.input(4))?;
    if call.input(2).iter().product::<usize>() < nodes {
        return Err(format!("{nodes} nodes have only {:?} values", call.input(2)));
    }
    Ok(Geometry { features, nodes, columns, trees })
}

/// Whether a node's comparison holds.
fn holds(node: &[i32], threshold: f32, values: &[f32], feature: f32) -> bool {
    if feature.is_nan() {
        return node[4] != 0;
    }
    match node[1] {
        0 => feature <= threshold,
        1 => feature < threshold,
        2 => feature >= threshold,
        3 => feature > threshold,
        4 => feature == threshold,
        5 => feature != threshold,
        _ => values[node[5] as usize..node[6] as usize].contains(&feature),
    }
}

impl Kernel for Trees {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(7)?;
        let (float, int) = (DType::F32, DType::I32);
        signature.expect_inputs(&[float, int, float, int, int, float, int])
    }

    fn shaders(&self, _signature: &Signature<'_>) -> Vec<Shader> {
        let gathered = match self.gathered {
            Gathered::Sum => 0,
            Gathered::Mean => 1,
            Gathered::Min => 2,
            Gathered::Max => 3,
        };
        let body = format!("const GATHERED = {gathered}u;\n{}", include_str!("trees.wgsl"));
        let reads = [
            ("x", "f32"),
            ("nodes", "i32"),
            ("values", "f32"),
            ("starts", "i32"),
            ("leaf_targets", "i32"),
            ("weights", "f32"),
            ("roots", "i32"),
        ];
        vec![Shader::new("Trees", &reads, "f32", &body)]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { features, nodes, columns, trees } = geometry(call)?;
        let total = call.elements();
        let params = [total, columns, features, nodes, trees].map(|count| count as u32).to_vec();
        let (values, weights) = (call.input(2), call.input(5));
        let iterations =
            trees + values.iter().product::<usize>() + weights.iter().product::<usize>();
        Ok(vec![Launch::new(0, 7, params, total, iterations)])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let Geometry { features, nodes, columns, .. } = geometry(call)?;
        let (x, table, values) = (operands[0].f32(), operands[1].i32(), operands[2].f32());
        let (starts, targets) = (operands[3].i32(), operands[4].i32());
        let (weights, roots) = (operands[5].f32(), operands[6].i32());
        if columns == 0 {
            return Ok(());
        }
        let output: &mut [f32] = bytemuck::cast_slice_mut(output);
        for (row, output) in output.chunks_exact_mut(columns).enumerate() {
            let row = &x[row * features..][..features];
            let mut found = vec![false; columns];
            output.fill(0.0);
            for &root in roots {
                let mut next = root;
                let mut steps = 0;
                while let Ok(index) = usize::try_from(next) {
                    steps += 1;
                    if steps > nodes {
                        return Err("a tree comes back to one of its nodes".to_owned());
                    }
                    let node = &table[index * COLUMNS..][..COLUMNS];
                    let holds = holds(node, values[index], values, row[node[0] as usize]);
                    next = if holds { node[2] } else { node[3] };
                }
                let leaf = (-1 - next) as usize;
                for at in starts[leaf] as usize..starts[leaf + 1] as usize {
                    let (column, weight) = (targets[at] as usize, weights[at]);
                    let result = &mut output[column];
                    *result = match self.gathered {
                        Gathered::Sum | Gathered::Mean => *result + weight,
                        Gathered::Min | Gathered::Max if !found[column] => weight,
                        Gathered::Min => result.min(weight),
                        Gathered::Max => result.max(weight),
                    };
                    found[column] = true;
                }
            }
            if self.gathered == Gathered::Mean {
                output.iter_mut().for_each(|result| *result /= roots.len() as f32);
            }
        }
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::{Branch, Op};

    // Two trees over two features; each leaf gives one number to one of two columns:
    //   x0 <= 0.5 ? (x1 in {1, 3} ? leaf 0 : leaf 1) : (x1 > 2 ? leaf 2 : leaf 3)     and     x1 != 3 ? leaf 4 : leaf 5
    let node =
        |feature: i32, branch: Branch, yes: i32, no: i32, missing: i32, members: [i32; 2]| {
            [feature, branch as i32, yes, no, missing, members[0], members[1]]
        };
    let nodes: Vec<f64> = [
        node(0, Branch::LessOrEqual, 1, 2, 0, [0, 0]),
        node(1, Branch::Member, -1, -2, 0, [4, 6]),
        node(1, Branch::Greater, -3, -4, 1, [0, 0]),
        node(1, Branch::NotEqual, -5, -6, 0, [0, 0]),
    ]
    .concat()
    .into_iter()
    .map(f64::from)
    .collect();
    let nodes = Array::of(DType::I32, &[4, 7], nodes);
    let values = Array::f32(&[6], vec![0.5, 0.0, 2.0, 3.0, 1.0, 3.0]);
    let starts = Array::of(DType::I32, &[7], (0..7).map(f64::from).collect());
    let targets = Array::of(DType::I32, &[6], vec![0., 1., 0., 1., 0., 1.]);
    let weights = Array::f32(&[6], vec![1., 2., 4., 8., 16., -3.]);
    let roots = Array::of(DType::I32, &[2], vec![0., 3.]);
    // Rows reach the leaves 0 and 5, 1 and 4, 2 and 4, 3 and 4; the last one has a number missing: 2 and 5.
    let x = Array::f32(&[5, 2], vec![0.5, 3.0, -1.0, 2.0, 0.6, 2.5, 9.0, 2.0, 1.0, f64::NAN]);
    [
        ("sums", Gathered::Sum, [1., -3., 16., 2., 20., 0., 16., 8., 4., -3.]),
        ("means", Gathered::Mean, [0.5, -1.5, 8., 1., 10., 0., 8., 4., 2., -1.5]),
        ("the smallest", Gathered::Min, [1., -3., 16., 2., 4., 0., 16., 8., 4., -3.]),
        ("the largest", Gathered::Max, [1., -3., 16., 2., 16., 0., 16., 8., 4., -3.]),
    ]
    .into_iter()
    .map(|(name, gathered, results)| {
        let expected = Array::f32(&[5, 2], results.to_vec());
        let inputs = [&x, &nodes, &values, &starts, &targets, &weights, &roots];
        let op = Op::Trees(Trees { gathered });
        Sketch::single(&format!("trees/{name}"), op, &inputs, &expected, Tolerance::Exact)
    })
    .collect()
}
