//! Decision trees. The two operators of the first versions list nodes by the numbers of trees and nodes; `TreeEnsemble` lists
//! them by position.

use std::collections::{HashMap, HashSet};

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_program::{
    Binary, Branch, Check, Gathered, Op, Trees,
    dim::{Dim, ToDim as _},
};
use flotilla_tensor::DType;

use super::{
    Labels, largest,
    linear::above,
    post_transform::{PostTransform, Second},
    rows, shifted,
};
use crate::import::onnx::{
    constant::Constant,
    facts::Var,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("TreeEnsemble", tree_ensemble),
    ("TreeEnsembleClassifier", tree_ensemble_classifier),
    ("TreeEnsembleRegressor", tree_ensemble_regressor),
];

/// The numbers of a node in the operator's table.
const COLUMNS: usize = 7;

/// Most columns of a result.
const TARGETS_MAX: usize = 1 << 20;

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
    let [_, given]: [Dim; 2] = w
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
    let columns = columns(w)?;
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
    let next = |id: i64, leaf: i64| -> Result<i32> {
        let limit = if leaf != 0 { targets.len() } else { count };
        match usize::try_from(id) {
            Ok(index) if index < limit => {
                Ok(if leaf != 0 { -1 - i32::try_from(id)? } else { i32::try_from(id)? })
            }
            _ => bail!("node {id} is not one of {limit}"),
        }
    };
    let mut forest = Forest::default();
    for node in 0..count {
        let mode = usize::try_from(modes[node]).ok().and_then(|mode| BRANCHES.get(mode));
        let Some(&branch) = mode else { bail!("mode {} is not known", modes[node]) };
        let start = values.len();
        if branch == Branch::Member {
            values.extend(members.next().unwrap_or_default());
        }
        // A number that is missing differs from each threshold.
        let tracks = missing[node] != 0 || branch == Branch::NotEqual;
        forest.nodes.extend([
            i32::try_from(features[node])?,
            branch as i32,
            next(yes[node], yes_leaf[node])?,
            next(no[node], no_leaf[node])?,
            i32::from(tracks),
            i32::try_from(start)?,
            i32::try_from(values.len())?,
        ]);
    }
    for &root in &roots {
        let index = usize::try_from(root).ok().filter(|&index| index < count);
        let Some(index) = index else { bail!("root {root} is not one of {count} nodes") };
        // A tree that consists of a single leaf has it on both sides of its root.
        let is_leaf = yes_leaf[index] != 0 && no_leaf[index] != 0 && yes[index] == no[index];
        forest.roots.push(if is_leaf { next(yes[index], 1)? } else { i32::try_from(root)? });
    }
    let gathered = match w.int("aggregate_function")?.unwrap_or(1) {
        0 => Gathered::Mean,
        1 => Gathered::Sum,
        2 => Gathered::Min,
        3 => Gathered::Max,
        other => bail!("aggregate function {other} is not known"),
    };
    let transform = PostTransform::numbered(w.int("post_transform")?.unwrap_or(0))?;
    forest.values = values;
    forest.targets = targets.into_iter().map(i32::try_from).collect::<Result<_, _>>()?;
    forest.starts = (0..=i32::try_from(forest.targets.len())?).collect();
    forest.weights = weights;
    let dtype = w.dtype(x);
    let x = w.cast(x, DType::F32)?;
    forest.check(w, &given, columns)?;
    let result = forest.wire(w, x, columns, gathered)?;
    let result = transform.apply(w, result)?;
    Ok(vec![w.cast(result, dtype)?])
}

/// How many columns the result has.
fn columns(w: &Wiring<'_, '_>) -> Result<usize> {
    let targets = w.int("n_targets")?.context("n_targets is missing")?;
    usize::try_from(targets).with_context(|| format!("{targets} targets"))
}

/// Trees in the form of the operator of the program.
#[derive(Default)]
struct Forest {
    /// `[nodes, COLUMNS]`.
    nodes: Vec<i32>,
    /// Thresholds, then members.
    values: Vec<f32>,
    /// Where the numbers of each leaf start, and their end.
    starts: Vec<i32>,
    targets: Vec<i32>,
    weights: Vec<f32>,
    roots: Vec<i32>,
}

impl Forest {
    /// Refuses what a page could not walk through: a feature or target that does not exist, or a cycle.
    fn check(&self, w: &mut Wiring<'_, '_>, given: &Dim, columns: usize) -> Result<()> {
        ensure!(
            (1..=TARGETS_MAX).contains(&columns),
            "{columns} targets, the limit is {TARGETS_MAX}"
        );
        ensure!(!self.weights.is_empty(), "no leaf has a weight");
        let count = self.nodes.len() / COLUMNS;
        let features = self.nodes.chunks_exact(COLUMNS).map(|node| i64::from(node[0]));
        let (least, most) = features.fold((0, 0), |(a, b), at| (at.min(a), at.max(b)));
        ensure!(
            least >= 0 && given.as_fixed().is_none_or(|given| count == 0 || most < given),
            "a node reads feature {} of {}",
            if least < 0 { least } else { most },
            w.walk.dim_text(given)
        );
        if given.as_fixed().is_none() && count > 0 {
            let needed = Dim::Fixed(most + 1);
            let left = w.walk.bounded(|bounds| given.least(&needed, bounds));
            w.walk.draft.decisive.push(Check {
                node: w.name.clone(),
                what: "the features that its trees need and those that there are".to_owned(),
                left,
                right: needed,
            });
        }
        for &target in &self.targets {
            let exists = usize::try_from(target).is_ok_and(|target| target < columns);
            ensure!(exists, "a leaf has a weight for target {target} of {columns}");
        }
        // In the order in which the nodes are left, each one comes after its children, unless there is a cycle.
        let mut state = vec![0u8; count];
        for &root in &self.roots {
            let mut open = vec![(root, false)];
            while let Some((node, left)) = open.pop() {
                let Ok(index) = usize::try_from(node) else { continue };
                match (state[index], left) {
                    (_, true) => state[index] = 2,
                    (2, false) => {}
                    (1, false) => bail!("node {index} is below itself"),
                    (_, false) => {
                        state[index] = 1;
                        open.push((node, true));
                        let own = &self.nodes[index * COLUMNS..][..COLUMNS];
                        open.extend([(own[2], false), (own[3], false)]);
                    }
                }
            }
        }
        Ok(())
    }

    /// What the trees give for each row, `[rows, columns]`.
    fn wire(
        &self,
        w: &mut Wiring<'_, '_>,
        x: Var,
        columns: usize,
        gathered: Gathered,
    ) -> Result<Var> {
        let rows = w.dim(x, 0);
        let weights = self.weights.as_slice();
        // A program has no tensors without elements where it walks.
        let nothing = [0; COLUMNS];
        let nodes = if self.nodes.is_empty() { &nothing } else { self.nodes.as_slice() };
        let values = if self.values.is_empty() { &[0.0] } else { self.values.as_slice() };
        let operands = [
            x,
            w.known(Constant::i32s(&[nodes.len() / COLUMNS, COLUMNS], nodes)),
            w.known(Constant::f32s(&[values.len()], values)),
            w.known(Constant::i32s(&[self.starts.len()], &self.starts)),
            w.known(Constant::i32s(&[self.targets.len()], &self.targets)),
            w.known(Constant::f32s(&[weights.len()], weights)),
            w.known(Constant::i32s(&[self.roots.len()], &self.roots)),
        ];
        let op = Op::Trees(Trees { gathered });
        w.op(op, &operands, DType::F32, vec![rows, columns.to_dim()])
    }

    /// The columns that have a weight in some leaf.
    fn named(&self) -> HashSet<i32> {
        self.targets.iter().copied().collect()
    }

    /// Whether every row gets a weight for each of some columns, because for each column there is a tree all of whose leaves have
    /// one.
    fn always_names(&self, columns: usize) -> bool {
        let mut always = vec![false; columns];
        let mut seen: Vec<bool> = vec![false; self.nodes.len() / COLUMNS];
        for &root in &self.roots {
            let mut common: Option<Vec<i32>> = None;
            let mut open = vec![root];
            while let Some(node) = open.pop() {
                if let Ok(index) = usize::try_from(node) {
                    if !std::mem::replace(&mut seen[index], true) {
                        let own = &self.nodes[index * COLUMNS..][..COLUMNS];
                        open.extend([own[2], own[3]]);
                    }
                    continue;
                }
                let leaf = (-1 - node) as usize;
                let range = self.starts[leaf] as usize..self.starts[leaf + 1] as usize;
                let own = &self.targets[range];
                match &mut common {
                    None => common = Some(own.to_vec()),
                    Some(common) => common.retain(|target| own.contains(target)),
                }
            }
            common.unwrap_or_default().iter().for_each(|&target| always[target as usize] = true);
        }
        always.into_iter().all(|always| always)
    }
}

/// Trees of the attributes of the first versions; `kind` is "target" or "class".
fn listed(w: &Wiring<'_, '_>, kind: &str) -> Result<Forest> {
    let ints = |name: &str| -> Result<Vec<i64>> { Ok(w.ints(name)?.unwrap_or_default()) };
    let (trees, ids) = (ints("nodes_treeids")?, ints("nodes_nodeids")?);
    let (features, modes) =
        (ints("nodes_featureids")?, w.texts("nodes_modes")?.unwrap_or_default());
    let (yes, no) = (ints("nodes_truenodeids")?, ints("nodes_falsenodeids")?);
    let missing = ints("nodes_missing_value_tracks_true")?;
    let thresholds = numbers(w, "nodes_values")?;
    let count = ids.len();
    ensure!(count > 0, "it has no nodes");
    let lists = [&trees, &features, &yes, &no];
    ensure!(
        lists.iter().all(|list| list.len() == count)
            && modes.len() == count
            && thresholds.len() == count
            && (missing.is_empty() || missing.len() == count),
        "{count} nodes, and an attribute with fewer or more entries"
    );
    let mut places = HashMap::with_capacity(count);
    for (index, place) in trees.iter().copied().zip(ids.iter().copied()).enumerate() {
        ensure!(
            places.insert(place, index).is_none(),
            "node {} of tree {} is there twice",
            place.1,
            place.0
        );
    }
    // The weights of each leaf, in the order of the file.
    let (leaf_trees, leaf_ids) =
        (ints(&format!("{kind}_treeids"))?, ints(&format!("{kind}_nodeids"))?);
    let targets = ints(&format!("{kind}_ids"))?;
    let weights = numbers(w, &format!("{kind}_weights"))?;
    ensure!(
        leaf_trees.len() == leaf_ids.len()
            && leaf_ids.len() == targets.len()
            && targets.len() == weights.len(),
        "{} weights, and an attribute with fewer or more entries",
        weights.len()
    );
    let is_leaf: Vec<bool> = modes.iter().map(|&mode| mode == "LEAF").collect();
    let mut given: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (weight, place) in leaf_trees.iter().copied().zip(leaf_ids.iter().copied()).enumerate() {
        let node = places.get(&place).copied();
        let node = node.with_context(|| {
            format!(
                "a weight belongs to node {} of tree {}, which does not exist",
                place.1, place.0
            )
        })?;
        // Old converters gave weights to inner nodes, too, which onnxruntime leaves out.
        if is_leaf[node] {
            given[node].push(weight);
        }
    }
    let mut forest = Forest { starts: vec![0], ..Forest::default() };
    let mut positions = Vec::with_capacity(count);
    let (mut inner, mut leaves) = (0i32, 0i32);
    for node in 0..count {
        if !is_leaf[node] {
            positions.push(inner);
            inner += 1;
            continue;
        }
        positions.push(-1 - leaves);
        leaves += 1;
        for &weight in &given[node] {
            forest.targets.push(i32::try_from(targets[weight])?);
            forest.weights.push(weights[weight] as f32);
        }
        forest.starts.push(i32::try_from(forest.targets.len())?);
    }
    let child = |tree: i64, id: i64| -> Result<i32> {
        let node = places.get(&(tree, id)).copied();
        let node = node
            .with_context(|| format!("node {id} of tree {tree} is a child, and does not exist"))?;
        Ok(positions[node])
    };
    let mut known = HashSet::new();
    for node in 0..count {
        // A tree begins with its root.
        if node == 0 || trees[node] != trees[node - 1] {
            ensure!(known.insert(trees[node]), "the nodes of tree {} are apart", trees[node]);
            forest.roots.push(positions[node]);
        }
        if is_leaf[node] {
            continue;
        }
        let branch = branch(modes[node])?;
        // A number that is missing differs from each threshold.
        let tracks = missing.get(node).is_some_and(|&tracks| tracks != 0);
        forest.nodes.extend([
            i32::try_from(features[node])?,
            branch as i32,
            child(trees[node], yes[node])?,
            child(trees[node], no[node])?,
            i32::from(tracks || branch == Branch::NotEqual),
            0,
            0,
        ]);
        forest.values.push(threshold(branch, thresholds[node]));
    }
    Ok(forest)
}

/// An attribute with floats, or with `_as_tensor` behind its name.
fn numbers(w: &Wiring<'_, '_>, name: &str) -> Result<Vec<f64>> {
    let floats = w.floats(name)?.unwrap_or_default();
    let tensor = w.tensor(&format!("{name}_as_tensor"))?;
    match tensor {
        Some(_) if !floats.is_empty() => bail!("it has both {name} and {name}_as_tensor"),
        Some(tensor) => Ok(tensor.floats()),
        None => Ok(floats.into_iter().map(f64::from).collect()),
    }
}

fn branch(mode: &str) -> Result<Branch> {
    Ok(match mode {
        "BRANCH_LEQ" => Branch::LessOrEqual,
        "BRANCH_LT" => Branch::Less,
        "BRANCH_GTE" => Branch::GreaterOrEqual,
        "BRANCH_GT" => Branch::Greater,
        "BRANCH_EQ" => Branch::Equal,
        "BRANCH_NEQ" => Branch::NotEqual,
        other => bail!("mode {other:?} is not known"),
    })
}

/// A threshold as a float of 32 bits with which each such float compares as with the threshold.
fn threshold(branch: Branch, exact: f64) -> f32 {
    let near = exact as f32;
    let wide = f64::from(near);
    match branch {
        Branch::LessOrEqual | Branch::Greater if wide > exact => near.next_down(),
        Branch::Less | Branch::GreaterOrEqual if wide < exact => near.next_up(),
        Branch::Equal | Branch::NotEqual if wide != exact => f32::NAN,
        _ => near,
    }
}

fn tree_ensemble_regressor(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let forest = listed(w, "target")?;
    let columns = columns(w)?;
    let base = numbers(w, "base_values")?;
    let transform = PostTransform::of(w)?;
    let gathered = match w.text("aggregate_function")?.unwrap_or("SUM") {
        "AVERAGE" => Gathered::Mean,
        "SUM" => Gathered::Sum,
        "MIN" => Gathered::Min,
        "MAX" => Gathered::Max,
        other => bail!("aggregate_function {other:?} is not known"),
    };
    let (x, _, features) = rows(w)?;
    forest.check(w, &features, columns)?;
    let y = forest.wire(w, x, columns, gathered)?;
    let y = based(w, y, &base, columns)?;
    Ok(vec![transform.apply(w, y)?])
}

/// Scores with the attribute `base_values` added.
fn based(w: &mut Wiring<'_, '_>, scores: Var, base: &[f64], columns: usize) -> Result<Var> {
    if base.is_empty() {
        return Ok(scores);
    }
    ensure!(base.len() == columns, "{} base_values for {columns} columns", base.len());
    let base: Vec<f32> = base.iter().map(|&base| base as f32).collect();
    shifted(w, scores, &base)
}

fn tree_ensemble_classifier(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let forest = listed(w, "class")?;
    let labels = Labels::of(w, "classlabels_int64s")?;
    let base = numbers(w, "base_values")?;
    let transform = PostTransform::of(w)?;
    let (x, count, features) = rows(w)?;
    let classes = labels.count();
    ensure!(classes > 1, "a classifier of one class");
    forest.check(w, &features, classes)?;
    let scores = forest.wire(w, x, classes, Gathered::Sum)?;
    let named = forest.named();
    if classes > 2 || named.len() != 1 {
        let scores = based(w, scores, &base, classes)?;
        // Without base values a class that no leaf names is never the answer, whatever the scores of the others are.
        let positive = forest.weights.iter().all(|&weight| weight > 0.0);
        let mut compared = scores;
        if classes > 2 && base.is_empty() && !positive && !forest.always_names(classes) {
            let ones = vec![1.0; forest.weights.len()];
            let counts = Forest { weights: ones, ..forest }.wire(w, x, classes, Gathered::Max)?;
            let zero = w.scalar(DType::F32, 0.0);
            let is_named = w.binary(Binary::Gt, counts, zero)?;
            let never = w.scalar(DType::F32, f64::from(f32::MIN));
            compared = w.select(is_named, scores, never)?;
        }
        let best = largest(w, compared)?;
        let label = labels.at(w, best)?;
        return Ok(vec![label, transform.apply(w, scores)?]);
    }
    // Of two classes one has a score.
    let positive = forest.weights.iter().all(|&weight| weight >= 0.0);
    let limit = if positive { 0.5 } else { 0.0 };
    let is_second = named.contains(&1);
    let own = i64::from(is_second);
    let mut score = w.slice(scores, 1, own, own + 1)?;
    if is_second || base.len() > 1 {
        ensure!(
            base.is_empty(),
            "{} base_values for two classes of which only class {own} has weights",
            base.len()
        );
    }
    if let &[base] = base.as_slice() {
        score = shifted(w, score, &[base as f32])?;
    }
    let chosen = above(w, score, limit, &count)?;
    let label = labels.at(w, chosen)?;
    let scores = if is_second {
        let zero = w.scalar(DType::F32, 0.0);
        let first = w.mul(score, zero)?;
        let both = w.concat(1, &[first, score])?;
        transform.apply(w, both)?
    } else {
        let second = if positive { Second::Complement } else { Second::Opposite };
        transform.apply_to_pair(w, score, second)?
    };
    Ok(vec![label, scores])
}
