//! Decision trees. If they are many or large, one invocation per row and tree walks through it, and the numbers of the leaves
//! are joined afterwards.

use flotilla_program::{Gathered, Trees};
use flotilla_tensor::DType;

use super::{Kernel, Launch, Memory, Operand, Shader, split::Scratchpad};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// Most steps of one invocation.
const STEPS_MAX: usize = 8192;

/// Which of a node's shaders.
const WHOLE: usize = 0;
const START: usize = 1;
const WALK: usize = 2;
const BEGIN: usize = 3;
const GATHER: usize = 4;
const FINISH: usize = 5;

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
        let all = [
            ("x", "f32"),
            ("nodes", "i32"),
            ("values", "f32"),
            ("starts", "i32"),
            ("leaf_targets", "i32"),
            ("weights", "f32"),
            ("roots", "i32"),
        ];
        let shader = |name: &str, reads: &[(&str, &str)], output: &str, parts: &[&str]| {
            let body = format!(
                "const GATHERED = {gathered}u;\n{}{}",
                include_str!("params.wgsl"),
                parts.concat()
            );
            Shader::new(&format!("Trees, {name}"), reads, output, &body)
        };
        let (join, holds) = (include_str!("join.wgsl"), include_str!("holds.wgsl"));
        let gather = [all[3], all[4], all[5], ("walks", "i32")];
        vec![
            shader("whole", &all, "f32", &[join, holds, include_str!("whole.wgsl")]),
            shader("start", &all[6..], "i32", &[include_str!("start.wgsl")]),
            shader("walk", &all[..3], "i32", &[holds, include_str!("walk.wgsl")]),
            shader("begin", &[], "u32", &[include_str!("begin.wgsl")]),
            shader("gather", &gather, "u32", &[join, include_str!("gather.wgsl")]),
            shader("finish", &[("states", "u32")], "f32", &[include_str!("finish.wgsl")]),
        ]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { features, nodes, columns, trees } = geometry(call)?;
        let total = call.elements();
        // A walk visits each node of its tree at most once, and each node has its own members; each leaf has its own weights.
        let walked = call.input(2).iter().product::<usize>();
        let gathered = trees + call.input(5).iter().product::<usize>();
        let launch = |shader: usize, total: usize, steps: usize| {
            let mut params =
                [total, columns, features, nodes, trees, steps].map(|count| count as u32).to_vec();
            params.extend([f32::NAN.to_bits(), 0]);
            Launch::new(shader, 0, params, total, steps)
        };
        if walked + gathered <= STEPS_MAX {
            let whole = launch(WHOLE, total, walked + gathered);
            return Ok(vec![whole.reading([0, 1, 2, 3, 4, 5, 6].map(Memory::Input))]);
        }
        let mut scratchpad = Scratchpad::default();
        let rows = call.input(0)[0];
        let walks = scratchpad.take(2 * rows * trees);
        let states = scratchpad.take(4 * total);
        let mut launches =
            vec![launch(START, rows * trees, 0).reading([Memory::Input(6)]).writing(walks)];
        for _ in 0..walked.div_ceil(STEPS_MAX) {
            let walk = launch(WALK, rows * trees, STEPS_MAX);
            launches.push(walk.reading([0, 1, 2].map(Memory::Input)).writing(walks));
        }
        launches.push(launch(BEGIN, total, 4).writing(states));
        for _ in 0..gathered.div_ceil(STEPS_MAX) {
            let gather = launch(GATHER, total, STEPS_MAX);
            let reads = [Memory::Input(3), Memory::Input(4), Memory::Input(5), walks];
            launches.push(gather.reading(reads).writing(states));
        }
        launches.push(launch(FINISH, total, 0).reading([states]));
        Ok(launches)
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
                        return Err("a tree has a cycle".to_owned());
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
    let by_hand = [
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
    });
    let long = [Gathered::Sum, Gathered::Mean, Gathered::Max].into_iter().map(long);
    by_hand.into_iter().chain(long).collect()
}

/// A forest of full trees of seven levels; some of their nodes test members.
#[cfg(not(target_arch = "wasm32"))]
fn long(gathered: Gathered) -> Case {
    const TREES: usize = 300;
    const INNER: usize = 63;
    const FEATURES: usize = 5;
    const COLUMNS: usize = 3;
    let choices = Array::noise(5300, &[TREES * INNER, 2]);
    let whole = |flat: usize, kinds: f64| {
        ((choices.numbers[flat] + 1.0) / 2.0 * kinds).floor().min(kinds - 1.0)
    };
    let (mut nodes, mut members) = (Vec::new(), Vec::new());
    for node in 0..TREES * INNER {
        let (tree, own) = (node / INNER, node % INNER);
        let leaves = tree * (INNER + 1);
        let next = |child: usize| match child < INNER {
            true => (tree * INNER + child) as f64,
            false => -1.0 - (leaves + child - INNER) as f64,
        };
        let first = (TREES * INNER + members.len()) as f64;
        let is_member = node % 7 == 0;
        if is_member {
            members.extend((0..12).map(|member| f64::from(member) / 16.0 - 0.4));
        }
        let branch = if is_member { 6.0 } else { whole(2 * node, 4.0) };
        let feature = whole(2 * node + 1, FEATURES as f64);
        let end = (TREES * INNER + members.len()) as f64;
        nodes.extend([feature, branch, next(2 * own + 1), next(2 * own + 2), 0.0, first, end]);
    }
    let thresholds = Array::noise(5301, &[TREES * INNER]).map(|x| (x * 16.0).round() / 16.0);
    let values = [thresholds.numbers, members].concat();
    let leaves = TREES * (INNER + 1);
    let starts: Vec<f64> = (0..=leaves).map(|leaf| 2.0 * leaf as f64).collect();
    let targets: Vec<f64> = (0..2 * leaves).map(|at| (at % COLUMNS) as f64).collect();
    let weights = Array::noise(5302, &[2 * leaves]).map(|x| (x * 64.0).round() / 64.0);
    let roots: Vec<f64> = (0..TREES).map(|tree| (tree * INNER) as f64).collect();
    let x = Array::noise(5303, &[4, FEATURES]).map(|x| (x * 16.0).round() / 16.0);
    let mut results = vec![0.0; 4 * COLUMNS];
    for (flat, result) in results.iter_mut().enumerate() {
        let mut given = Vec::new();
        for &root in &roots {
            let mut next = root;
            while next >= 0.0 {
                let node = &nodes[next as usize * 7..][..7];
                let feature = x.numbers[flat / COLUMNS * FEATURES + node[0] as usize];
                let threshold = values[next as usize];
                let holds = match node[1] as usize {
                    0 => feature <= threshold,
                    1 => feature < threshold,
                    2 => feature >= threshold,
                    3 => feature > threshold,
                    _ => values[node[5] as usize..node[6] as usize].contains(&feature),
                };
                next = if holds { node[2] } else { node[3] };
            }
            let leaf = (-1.0 - next) as usize;
            let own = (2 * leaf..2 * leaf + 2).filter(|at| at % COLUMNS == flat % COLUMNS);
            given.extend(own.map(|at| weights.numbers[at]));
        }
        *result = match gathered {
            Gathered::Sum => given.iter().sum(),
            Gathered::Mean => given.iter().sum::<f64>() / TREES as f64,
            _ => given.into_iter().fold(f64::NEG_INFINITY, f64::max),
        };
    }
    let i32s = |shape: &[usize], numbers: Vec<f64>| Array::of(DType::I32, shape, numbers);
    let nodes = i32s(&[TREES * INNER, 7], nodes);
    let values = Array::f32(&[values.len()], values);
    let (starts, targets) = (i32s(&[leaves + 1], starts), i32s(&[2 * leaves], targets));
    let roots = i32s(&[TREES], roots);
    let expected = Array::f32(&[4, COLUMNS], results);
    let inputs = [&x, &nodes, &values, &starts, &targets, &weights, &roots];
    let op = flotilla_program::Op::Trees(Trees { gathered });
    Sketch::single(
        &format!("trees/a forest, {gathered:?}"),
        op,
        &inputs,
        &expected,
        Tolerance::Close,
    )
    .everywhere_if(gathered == Gathered::Sum)
}
