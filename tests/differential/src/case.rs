//! A graph with the inputs of its runs, made from a seed.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use flotilla_tensor::{NamedTensor, Tensor};
use prost::Message as _;
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto};

use crate::{
    families,
    graph::Graph,
    proto,
    random::Random,
    value::{Dim, Facts, RUNS, Type},
};

/// Versions of the operator set, the usual ones more often.
const OPSETS: [i64; 26] = [
    9, 10, 11, 11, 12, 13, 13, 13, 14, 15, 16, 17, 17, 17, 18, 18, 19, 20, 21, 21, 22, 23, 23, 24,
    25, 26,
];
/// Fewest and most nodes of a graph, constants apart.
const NODES: (i64, i64) = (3, 20);
/// Families that may fail to add a node before a graph is finished.
const VAIN_MAX: usize = 120;

/// The generator's claims about a value.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Type of its elements.
    pub of: Type,
    /// Its shape.
    pub shape: Vec<Dim>,
    /// Its elements.
    pub facts: Facts,
}

/// A graph and the inputs of its runs.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its seed.
    pub seed: u64,
    /// The file.
    pub model: ModelProto,
    /// Inputs of each run.
    pub runs: Vec<Vec<NamedTensor>>,
    /// Whether it is imported without an example of its inputs.
    pub is_blind: bool,
    /// Whether it may have integers to which we give bounds.
    pub is_wide: bool,
    /// The claims about its values.
    pub claims: BTreeMap<String, Claim>,
}

impl Case {
    /// The graph of a seed.
    pub fn of_seed(seed: u64) -> Case {
        let mut rng = Random::new(seed);
        let opset = rng.pick(&OPSETS);
        let wanted = rng.between(NODES.0, NODES.1) as usize;
        let halves = if rng.percent(15) { 60 } else { 3 };
        let mut graph = Graph::new(rng, opset);
        graph.halves = halves;
        for _ in 0..graph.rng.between(0, 2) {
            let of = graph.rng.pick(&Type::ALL);
            let rank = graph.rng.below(5);
            graph.attempt(|g| {
                let shape = g.any_shape(rank);
                let spread = g.usual(of);
                g.input(of, shape, spread)
            });
        }
        let mut vain = 0;
        while vain < VAIN_MAX && computing(&graph.nodes) < wanted {
            if families::grow(&mut graph).is_none() {
                vain += 1;
            }
        }
        finished(graph, seed)
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> Vec<u8> {
        self.model.encode_to_vec()
    }

    /// Its operators, subgraphs included.
    pub fn operators(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        if let Some(graph) = &self.model.graph {
            visit(graph, &mut |node| {
                names.insert(node.op_type.clone());
            });
        }
        names
    }

    /// Number of nodes that are not constants, subgraphs included.
    pub fn nodes(&self) -> usize {
        let mut count = 0;
        if let Some(graph) = &self.model.graph {
            visit(graph, &mut |node| count += usize::from(node.op_type != "Constant"));
        }
        count
    }
}

fn computing(nodes: &[NodeProto]) -> usize {
    nodes.iter().filter(|node| node.op_type != "Constant").count()
}

/// The subgraphs of a node.
pub fn bodies(attributes: &[AttributeProto]) -> impl Iterator<Item = &GraphProto> {
    attributes.iter().filter_map(|attribute| attribute.g.as_ref())
}

/// Every node, those of subgraphs included.
pub fn visit(graph: &GraphProto, each: &mut impl FnMut(&NodeProto)) {
    for node in &graph.node {
        each(node);
        for body in bodies(&node.attribute) {
            visit(body, each);
        }
    }
}

/// The values that a node reads, subgraphs included.
pub fn reads(node: &NodeProto) -> HashSet<String> {
    let mut names: HashSet<String> = node.input.iter().cloned().collect();
    for body in bodies(&node.attribute) {
        for node in &body.node {
            names.extend(reads(node));
        }
        names.extend(body.output.iter().map(|port| port.name.clone()));
    }
    names
}

fn finished(mut graph: Graph, seed: u64) -> Case {
    let read: HashSet<String> = graph.nodes.iter().flat_map(reads).collect();
    let vars: Vec<_> = (0..graph.values.len()).map(|index| graph.var(index)).collect();
    let of_nodes: HashSet<String> = graph
        .nodes
        .iter()
        .filter(|node| node.op_type != "Constant")
        .flat_map(|node| node.output.iter().cloned())
        .collect();
    let mut output = Vec::new();
    let mut claims = BTreeMap::new();
    for var in vars {
        let value = graph.value(var).clone();
        if !of_nodes.contains(&value.name) || value.is_list {
            continue;
        }
        let is_visible = graph.visible.contains(&var);
        if !read.contains(&value.name) || (is_visible && graph.rng.percent(10)) {
            let ranked = graph.rng.percent(80);
            output.push(graph.port(var, ranked));
        }
        let claim = Claim { of: value.of, shape: value.shape, facts: value.facts };
        claims.insert(value.name, claim);
    }
    let mut input = Vec::new();
    let mut runs = vec![Vec::new(); RUNS];
    for one in &graph.inputs {
        let value = graph.value(one.var);
        input.push(proto::port(&value.name, value.of, Some(&one.declared)));
        for (run, inputs) in runs.iter_mut().enumerate() {
            let sizes = value.shape.iter().map(|dim| dim.sizes().map_or(0, |sizes| sizes[run]));
            let data = value.data.as_ref().map_or(&[] as &[f64], |data| &data[run]);
            let dtype = value.of.dtype();
            let tensor =
                Tensor { dtype, shape: sizes.collect(), bytes: dtype.encode_numbers(data) };
            inputs.push(NamedTensor::new(value.name.clone(), tensor));
        }
    }
    let is_blind = !graph.needs_example && graph.rng.percent(75);
    if !is_blind {
        runs.truncate(1);
    }
    let is_wide = graph.is_wide;
    let opset = OperatorSetIdProto { domain: String::new(), version: graph.opset };
    let model = ModelProto {
        ir_version: 8,
        opset_import: vec![opset],
        graph: Some(GraphProto {
            name: "random".to_owned(),
            node: graph.nodes,
            initializer: graph.initializers,
            input,
            output,
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    };
    Case { seed, model, runs, is_blind, is_wide, claims }
}
