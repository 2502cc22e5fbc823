//! Decision trees of the domain `ai.onnx.ml`.

use anyhow::{Context as _, Result, bail};
use flotilla_program::{
    Branch, Gathered, Op, Trees, Unary,
    dim::{Dim, ToDim as _},
};
use flotilla_tensor::DType;

use crate::import::onnx::{
    constant::Constant,
    facts::Var,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[("TreeEnsemble", tree_ensemble)];

/// The comparisons by their numbers in the standard.
const BRANCHES: [Branch; 7] = [
    Branch::LessOrEqual,
    Branch::Less,
    Branch::GreaterOrEqual,
    Branch::Greater,
    Branch::Equal,
    Branch::NotEqual,
    Branch::Member,
];

fn tree_ensemble(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let [rows, given]: [Dim; 2] = w
        .shape(x)
        .try_into()
        .or_else(|shape: Vec<_>| bail!("{} dimensions, rows of features have two", shape.len()))?;
    let ints = |name: &str| w.ints(name)?.with_context(|| format!("{name} are missing"));
    let floats = |name: &str| -> Result<Vec<f32>> {
        let Some(tensor) = w.tensor(name)? else { return Ok(Vec::new()) };
        Ok(tensor.floats().into_iter().map(|number| number as f32).collect())
    };
    let modes: Vec<i64> = match w.tensor("nodes_modes")?.and_then(|modes| modes.integers()) {
        Some(modes) => modes,
        None => bail!("the nodes have no modes"),
    };
    let mut values = floats("nodes_splits")?;
    let features = ints("nodes_featureids")?;
    let (yes, no) = (ints("nodes_truenodeids")?, ints("nodes_falsenodeids")?);
    let (yes_leaf, no_leaf) = (ints("nodes_trueleafs")?, ints("nodes_falseleafs")?);
    let missing = w.ints("nodes_missing_value_tracks_true")?;
    let missing = missing.unwrap_or_else(|| vec![0; modes.len()]);
    let (targets, weights) = (ints("leaf_targetids")?, floats("leaf_weights")?);
    let roots = ints("tree_roots")?;
    let columns = usize::try_from(w.int("n_targets")?.context("n_targets is missing")?)?;
    let count = modes.len();
    let lists = [&features, &yes, &no, &yes_leaf, &no_leaf, &missing];
    if values.len() != count || lists.iter().any(|list| list.len() != count) {
        bail!("{count} nodes, and an attribute with fewer or more entries");
    }
    if targets.len() != weights.len() {
        bail!("{} leaves have targets and {} have weights", targets.len(), weights.len());
    }
    // Members are in the order of the nodes that test them, with a NaN after those of each node.
    let members = floats("membership_values")?;
    let mut members = members.split(|member| member.is_nan());
    let width = features.iter().copied().max().unwrap_or(0);
    let next = |id: i64, leaf: i64| -> Result<i32> {
        let limit = if leaf != 0 { targets.len() } else { count };
        match usize::try_from(id) {
            Ok(index) if index < limit => {
                Ok(if leaf != 0 { -1 - i32::try_from(id)? } else { i32::try_from(id)? })
            }
            _ => bail!("node {id} is not one of {limit}"),
        }
    };
    let mut table: Vec<i32> = Vec::new();
    for node in 0..count {
        let mode = usize::try_from(modes[node]).ok().and_then(|mode| BRANCHES.get(mode));
        let Some(&branch) = mode else { bail!("mode {} is not known", modes[node]) };
        let start = values.len();
        if branch == Branch::Member {
            values.extend(members.next().unwrap_or_default());
        }
        table.extend([
            i32::try_from(features[node])?,
            branch as i32,
            next(yes[node], yes_leaf[node])?,
            next(no[node], no_leaf[node])?,
            i32::from(missing[node] != 0),
            i32::try_from(start)?,
            i32::try_from(values.len())?,
        ]);
    }
    if features.iter().any(|&feature| feature < 0)
        || given.as_fixed().is_some_and(|given| width >= given)
        || targets.iter().any(|&target| !(0..columns as i64).contains(&target))
    {
        bail!(
            "a node or leaf names a feature or target out of range: {} features, {columns} targets",
            w.walk.dim_text(&given)
        );
    }
    let mut starting = Vec::new();
    for &root in &roots {
        let index = usize::try_from(root).ok().filter(|&index| index < count);
        let Some(index) = index else { bail!("root {root} is not one of {count} nodes") };
        // A tree that consists of a single leaf has it on both sides of its root.
        let is_leaf = yes_leaf[index] != 0 && no_leaf[index] != 0 && yes[index] == no[index];
        starting.push(if is_leaf { next(yes[index], 1)? } else { i32::try_from(root)? });
    }
    let gathered = match w.int("aggregate_function")?.unwrap_or(1) {
        0 => Gathered::Mean,
        1 => Gathered::Sum,
        2 => Gathered::Min,
        3 => Gathered::Max,
        other => bail!("aggregate function {other} is not known"),
    };
    let transform = w.int("post_transform")?.unwrap_or(0);
    let targets: Vec<i32> = targets.into_iter().map(i32::try_from).collect::<Result<_, _>>()?;
    let starts: Vec<i32> = (0..=targets.len() as i32).collect();
    let dtype = w.dtype(x);
    let x = w.cast(x, DType::F32)?;
    let operands = [
        x,
        w.known(Constant::i32s(&[count, 7], &table)),
        w.known(Constant::f32s(&[values.len()], &values)),
        w.known(Constant::i32s(&[starts.len()], &starts)),
        w.known(Constant::i32s(&[targets.len()], &targets)),
        w.known(Constant::f32s(&[weights.len()], &weights)),
        w.known(Constant::i32s(&[starting.len()], &starting)),
    ];
    let op = Op::Trees(Trees { gathered });
    let result = w.op(op, &operands, DType::F32, vec![rows, columns.to_dim()])?;
    let result = match transform {
        0 => result,
        1 => w.softmax(result, &[1])?,
        2 => w.unary(Unary::Sigmoid, result)?,
        other => bail!("post transform {other} is not supported"),
    };
    Ok(vec![w.cast(result, dtype)?])
}
