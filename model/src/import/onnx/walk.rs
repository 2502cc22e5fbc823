//! The walk over a graph: every node in order, each wired into the program that is being built.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use anyhow::Result;
use flotilla_program::{
    Assumption, Port, Region, SymbolSource, ValueId,
    dim::{Dim, Symbol},
};
use flotilla_tensor::{DType, Tensor};
use tract_onnx::pb::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TypeProto, ValueInfoProto, tensor_shape_proto::dimension::Value as DimValue, type_proto,
};

use super::{
    OPSET_MAX, OnnxError, Source,
    constant::{Constant, element_type, type_name},
    external::TensorFiles,
    facts::{Known, Var},
    ops,
    order::order,
    small::SmallType,
    strings, structure,
    wiring::Wiring,
};
use crate::{
    graph::{Data, Draft, Origin, drop_dead_nodes},
    import::LoadOptions,
};

/// Greatest nesting depth of subgraphs and functions; no real model needs more.
const DEPTH_MAX: usize = 24;
/// Most nodes that unrolled loops may give.
const NODES_MAX: usize = 100_000;
/// Longest part of a message in bytes, because attributes and lists of operands may be as long as the file.
const WORDS_MAX: usize = 500;

/// Most passes over a graph that may be read in several ways.
const ATTEMPTS_MAX: usize = 24;
/// Largest size of a dimension; a larger tensor does not fit any page.
const SIZE_MAX: i64 = i32::MAX as i64;
/// Names of dimensions without a meaning.
const NAMELESS: [&str; 4] = ["", "?", "-1", "None"];

/// The choices for what a graph leaves open.
#[derive(Clone, Debug, Default)]
struct Reading {
    /// Whether inputs that decide what must be known have the values of the examples permanently.
    fixes_values: bool,
    /// Whether each dimension is separate, whatever its name is.
    splits_names: bool,
    /// The branches that are taken where only one is possible, in the order in which they occur.
    branches: Vec<bool>,
}

/// Values by name; an inner scope sees the outer ones.
#[derive(Clone, Default)]
pub(super) struct Scope {
    values: HashMap<String, Var>,
    /// Versions of the operator sets, which a function may import again.
    opsets: Arc<HashMap<String, i64>>,
    depth: usize,
    /// Prefix of the names of nodes, so that those of a body that is wired again stay unique.
    prefix: String,
}

impl Scope {
    /// The prefix of its nodes' names.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }
}

/// The program that is being built.
pub(super) struct Walk<'p> {
    functions: HashMap<(&'p str, &'p str), &'p FunctionProto>,
    options: &'p LoadOptions,
    /// The contents of the tensors that are not in the graph itself.
    pub(super) files: &'p TensorFiles,
    reading: Reading,
    pub(super) draft: Draft,
    pub(super) facts: Vec<super::facts::Fact>,
    /// The least and the largest value of each symbol.
    pub(super) bounds: Vec<(i64, i64)>,
    /// Symbols of elements of values.
    pub(super) element_symbols: HashMap<(ValueId, u32), Symbol>,
    /// Symbols that stand for long expressions, and the blocks in which they are computed.
    pub(super) shortened: HashMap<Dim, (u32, Symbol)>,
    /// Symbols by their names in the file.
    named: HashMap<String, Symbol>,
    /// The open blocks, from the outside in; nodes of no region are in block 0. A block may have absorbed others.
    blocks: Vec<Vec<u32>>,
    blocks_made: u32,
    /// Nodes that were put into blocks.
    pub(super) made: usize,
    /// Nodes of the file that were wired; those of an unrolled loop count once for each iteration.
    wired: usize,
    /// Branches that were taken without a proof.
    taken: Vec<bool>,
    /// Whether a value that must be known is not.
    pub(super) unknown: Cell<bool>,
    /// Values of the current list of nodes that each of its nodes only converts to floats.
    pub(super) become_floats: HashSet<String>,
    /// The types of values that are computed and have no `DType`.
    smalls: HashMap<Var, SmallType>,
}

/// The values that are read by nodes of this list, all of which convert them to floats. They may be read by subgraphs or be results
/// beside that.
fn become_floats(nodes: &[NodeProto]) -> HashSet<String> {
    /// Numbers of F32, F16, F64 and BF16 in the standard.
    const FLOATS: [i64; 4] = [1, 10, 11, 16];
    let mut reads: HashMap<&str, bool> = HashMap::new();
    for node in nodes {
        let is_cast = node.op_type == "Cast" && node.domain.is_empty();
        let to_float = node.attribute.iter().any(|to| to.name == "to" && FLOATS.contains(&to.i));
        for name in &node.input {
            *reads.entry(name).or_insert(true) &= is_cast && to_float;
        }
    }
    reads.into_iter().filter(|(_, float)| *float).map(|(name, _)| name.to_owned()).collect()
}

/// A region that was made.
pub(super) struct Made {
    pub(super) region: u32,
    ids: Vec<u32>,
    /// How many checks there were before it.
    checks: usize,
    decisive: usize,
}

/// Makes a program of a model.
pub(super) fn build(source: &Source, options: &LoadOptions) -> Result<Draft, OnnxError> {
    let Source { proto, constants, .. } = source;
    let mut reading = Reading::default();
    let mut first = None;
    // A reading whose outputs differ from the file's declarations.
    let mut fallback = None;
    for _ in 0..ATTEMPTS_MAX {
        let mut walk = Walk::new(source, options, reading.clone());
        let error = match walk.graph(proto, constants) {
            Ok(()) => match walk.misfit() {
                true if !reading.splits_names => {
                    reading.splits_names = true;
                    continue;
                }
                _ if walk.taken.is_empty() || walk.has_declared_ranks(proto) => {
                    return walk.finish();
                }
                _ => None,
            },
            Err(error) => Some(error),
        };
        let known = error.is_some() && !options.examples.is_empty() && walk.unknown.get();
        let mut branches = walk.taken.clone();
        match error {
            Some(error) => drop(first.get_or_insert(error)),
            None => drop(fallback.get_or_insert(walk)),
        }
        if known && !reading.fixes_values {
            reading.fixes_values = true;
            reading.branches.clear();
            continue;
        }
        // The latest branch for which the first choice was taken now gets the second choice; the ones after it are open again.
        while branches.pop_if(|taken| !*taken).is_some() {}
        let Some(last) = branches.last_mut() else { break };
        *last = false;
        reading.branches = branches;
    }
    if let Some(walk) = fallback {
        return walk.finish();
    }
    Err(first.unwrap_or_else(|| OnnxError::Graph { reason: "it cannot be read".to_owned() }))
}

/// Versions by domain.
fn opsets(imports: &[OperatorSetIdProto]) -> Result<HashMap<String, i64>, OnnxError> {
    let mut opsets = HashMap::new();
    for import in imports {
        let domain = if import.domain == "ai.onnx" { "" } else { &import.domain };
        if domain.is_empty() && !(1..=OPSET_MAX).contains(&import.version) {
            return Err(OnnxError::OperatorSet {
                domain: "ai.onnx".to_owned(),
                version: import.version,
                max: OPSET_MAX,
            });
        }
        opsets.insert(domain.to_owned(), import.version);
    }
    Ok(opsets)
}

impl<'p> Walk<'p> {
    fn new(source: &'p Source, options: &'p LoadOptions, reading: Reading) -> Walk<'p> {
        let Source { proto, files, .. } = source;
        let functions = proto.functions.iter().map(|function| {
            let name = function.name.as_deref().unwrap_or_default();
            ((function.domain.as_deref().unwrap_or_default(), name), function)
        });
        Walk {
            functions: functions.collect(),
            options,
            files,
            reading,
            draft: Draft {
                name: options.name.clone(),
                storage: files.storage().clone(),
                ..Draft::default()
            },
            facts: Vec::new(),
            bounds: Vec::new(),
            element_symbols: HashMap::new(),
            shortened: HashMap::new(),
            named: HashMap::new(),
            blocks: vec![vec![0]],
            blocks_made: 0,
            made: 0,
            wired: 0,
            taken: Vec::new(),
            unknown: Cell::new(false),
            become_floats: HashSet::new(),
            smalls: HashMap::new(),
        }
    }

    /// The whole graph.
    fn graph(
        &mut self,
        proto: &ModelProto,
        constants: &HashMap<String, Constant>,
    ) -> Result<(), OnnxError> {
        let empty = GraphProto::default();
        let graph = proto.graph.as_ref().unwrap_or(&empty);
        let opsets = Arc::new(opsets(&proto.opset_import)?);
        let mut scope = Scope { opsets, ..Scope::default() };
        for (name, constant) in constants {
            let var = self.constant(constant.clone());
            scope.values.insert(name.clone(), var);
        }
        let deciding = structure::deciding(graph);
        let given = graph.input.iter().filter(|input| !constants.contains_key(&input.name));
        let given: Vec<&ValueInfoProto> = given.collect();
        self.check_dimension_names(&given)?;
        for input in given {
            let fixes = self.reading.fixes_values && deciding.contains(input.name.as_str());
            let var = self.input(input, fixes)?;
            scope.values.insert(input.name.clone(), var);
        }
        self.nodes(&graph.node, &mut scope)?;
        for output in &graph.output {
            let name = &output.name;
            let var = scope.values.get(name).copied();
            let var = var.ok_or_else(|| OnnxError::Output { output: name.clone() })?;
            match self.fact(var).known.clone() {
                // A program has only tensors: each element of a sequence is an output of its own.
                Some(Known::Sequence(items)) => {
                    for (index, item) in items.into_iter().enumerate() {
                        self.output(&format!("{name}[{index}]"), item)?;
                    }
                }
                _ => self.output(name, var)?,
            }
        }
        Ok(())
    }

    /// A value as an output.
    fn output(&mut self, name: &str, var: Var) -> Result<(), OnnxError> {
        let dtype = self.fact(var).dtype;
        let value = self.value(var).map_err(|error| OnnxError::Graph {
            reason: format!("output {name} cannot be computed: {error:#}"),
        })?;
        if let Some(strings) = &self.fact(var).strings {
            self.draft.strings.insert(name.to_owned(), strings.to_vec());
        }
        self.draft.outputs.push(Port { name: name.to_owned(), dtype, value, high: None });
        Ok(())
    }

    fn finish(mut self) -> Result<Draft, OnnxError> {
        self.draft.assume_checks();
        drop_dead_nodes(&mut self.draft);
        super::wide::widen(&mut self.draft, &self.bounds)?;
        Ok(self.draft)
    }

    /// Whether all outputs have the rank that the file declares, if it declares one.
    fn has_declared_ranks(&self, proto: &ModelProto) -> bool {
        let mut declared = proto.graph.iter().flat_map(|graph| &graph.output);
        declared.all(|info| {
            let port = self.draft.outputs.iter().find(|port| port.name == info.name);
            let rank = Walk::declared(info).map(|dims| dims.len());
            rank.zip(port).is_none_or(|(rank, port)| rank == self.draft.shape(port.value).len())
        })
    }

    /// An input as a value.
    fn input(&mut self, input: &ValueInfoProto, fixes: bool) -> Result<Var, OnnxError> {
        let (dtype, shape) = self.input_type(input)?;
        let value = self.draft.add_value(dtype, shape, Origin::Input);
        let number = self.draft.inputs.len() as u32;
        let port = Port { name: input.name.clone(), dtype, value, high: None };
        self.draft.inputs.push(port);
        match self.options.examples.get(&input.name).filter(|_| fixes) {
            Some(example) => {
                let constant = self.fixed_value(input, value, example)?;
                let stored = constant.data.stored();
                if stored.dtype.wire_bytes() > 4 {
                    return Err(OnnxError::Input {
                        input: input.name.clone(),
                        reason: "a number in it does not fit 32 bits".to_owned(),
                    });
                }
                self.draft.assumptions.push(Assumption { input: number, words: stored.to_words() });
                Ok(self.constant_of(dtype, constant))
            }
            None => Ok(self.placed(dtype, value)),
        }
    }

    /// The value of an example that an input gets permanently, if it fits the input.
    fn fixed_value(
        &mut self,
        input: &ValueInfoProto,
        value: ValueId,
        example: &Tensor,
    ) -> Result<Constant, OnnxError> {
        let (element, declared) = (self.draft.value(value).element, self.draft.shape(value));
        let fits = example.shape.len() == declared.len()
            && example.dtype == element
            && example
                .shape
                .iter()
                .zip(declared)
                .all(|(&got, want)| want.as_fixed().is_none_or(|want| want == got as i64));
        if !fits {
            return Err(OnnxError::Input {
                input: input.name.clone(),
                reason: format!(
                    "its value is {:?} {:?}, {element:?} {} is declared",
                    example.dtype,
                    example.shape,
                    self.shape_text(declared)
                ),
            });
        }
        let shape = example.shape.iter().map(|&size| Dim::Fixed(size as i64)).collect();
        self.draft.values[value.index()].shape = shape;
        let data = Data::new(example.dtype, example.bytes.clone());
        Ok(Constant { shape: example.shape.clone(), data, small: None, strings: None })
    }

    /// The dimensions of an input, with the names of the file; `None` stands for one without a name.
    fn declared(input: &ValueInfoProto) -> Option<Vec<Result<i64, Option<&str>>>> {
        let Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), .. }) =
            &input.r#type
        else {
            return None;
        };
        let dims = tensor.shape.as_ref()?.dim.iter().map(|dim| match &dim.value {
            Some(DimValue::DimValue(size)) if *size >= 0 => Ok(*size),
            Some(DimValue::DimParam(name)) if !NAMELESS.contains(&name.as_str()) => {
                Err(Some(name.as_str()))
            }
            _ => Err(None),
        });
        Some(dims.collect())
    }

    /// The clients' names of the open dimensions.
    fn dimension_name(input: &ValueInfoProto, axis: usize, name: Option<&str>) -> String {
        name.map_or_else(|| format!("{}_{axis}", input.name), str::to_owned)
    }

    /// Refuses a size for a dimension that does not exist.
    fn check_dimension_names(&self, inputs: &[&ValueInfoProto]) -> Result<(), OnnxError> {
        let mut names: Vec<String> = Vec::new();
        for input in inputs {
            for (axis, dim) in Walk::declared(input).into_iter().flatten().enumerate() {
                if let Err(name) = dim {
                    names.push(Walk::dimension_name(input, axis, name));
                }
            }
        }
        names.sort();
        names.dedup();
        match self.options.dims.keys().find(|name| !names.contains(name)) {
            Some(name) => Err(OnnxError::Dimension { name: name.clone(), names }),
            None => Ok(()),
        }
    }

    /// Type and shape of an input. A dimension that the file leaves open gets a symbol; the name means only that dimensions of
    /// the same name are equal.
    fn input_type(&mut self, input: &ValueInfoProto) -> Result<(DType, Vec<Dim>), OnnxError> {
        let refuse = |reason: String| OnnxError::Input { input: input.name.clone(), reason };
        let Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), .. }) =
            &input.r#type
        else {
            return Err(refuse("it is not a tensor".to_owned()));
        };
        let Some(dtype) = element_type(tensor.elem_type) else {
            let name = type_name(tensor.elem_type);
            return Err(refuse(format!("its element type {name} is not supported")));
        };
        let example = self.options.examples.get(&input.name);
        let declared = match (Walk::declared(input), example) {
            (Some(declared), _) => declared,
            // Without a declared rank, the example's rank is used.
            (None, Some(example)) => vec![Err(None); example.shape.len()],
            (None, None) => {
                return Err(refuse(
                    "its rank is not declared, and no example of it is given".to_owned(),
                ));
            }
        };
        let mut dims = Vec::with_capacity(declared.len());
        for (axis, dim) in declared.into_iter().enumerate() {
            let name = match dim {
                Ok(size) => {
                    dims.push(Dim::Fixed(size));
                    continue;
                }
                Err(name) => name,
            };
            let shown = Walk::dimension_name(input, axis, name);
            if let Some(size) = self.options.dims.get(&shown) {
                dims.push(Dim::Fixed(*size));
                continue;
            }
            let key = match name {
                Some(name) if !self.reading.splits_names => name.to_owned(),
                _ => format!("{}_{axis}", input.name),
            };
            let symbol = match self.named.get(&key) {
                Some(symbol) => *symbol,
                None => {
                    let symbol = self.symbol(key.clone(), SymbolSource::Input, (0, SIZE_MAX));
                    self.named.insert(key, symbol);
                    symbol
                }
            };
            dims.push(Dim::Symbol(symbol));
        }
        Ok((dtype, dims))
    }

    /// Whether the examples have two sizes for one name of the file.
    fn misfit(&self) -> bool {
        let shapes: Option<Vec<&[usize]>> = self
            .draft
            .inputs
            .iter()
            .map(|port| Some(self.options.examples.get(&port.name)?.shape.as_slice()))
            .collect();
        let Some(shapes) = shapes else { return false };
        let mut sizes: BTreeMap<Symbol, usize> = BTreeMap::new();
        self.draft.inputs.iter().zip(shapes).any(|(port, shape)| {
            let declared = self.draft.shape(port.value);
            declared.iter().zip(shape).any(|(dim, &size)| match dim {
                Dim::Symbol(symbol) => *sizes.entry(*symbol).or_insert(size) != size,
                _ => false,
            })
        })
    }

    /// The value of a number for the examples, as far as they determine it.
    pub(super) fn example(&self, dim: &Dim) -> Option<i64> {
        let of = |symbol: Symbol| {
            self.draft.inputs.iter().find_map(|port| {
                let shape = self.draft.shape(port.value);
                let axis = shape.iter().position(|dim| *dim == Dim::Symbol(symbol))?;
                let example = self.options.examples.get(&port.name)?;
                example.shape.get(axis).map(|&size| size as i64)
            })
        };
        dim.eval_with(&of)
    }

    /// Whether the values of inputs may still be taken permanently from the examples.
    pub(super) fn may_fix_values(&self) -> bool {
        !self.options.examples.is_empty() && !self.reading.fixes_values
    }

    /// Which branch to take if only one is possible and nothing decides: the attempt's choice, else the first.
    pub(super) fn branch(&mut self, likely: Option<bool>) -> bool {
        let index = self.taken.len();
        let branch = self.reading.branches.get(index).copied();
        let branch = branch.unwrap_or(likely.unwrap_or(true));
        self.taken.push(branch);
        branch
    }

    /// The block into which nodes are put now.
    pub(super) fn block(&self) -> u32 {
        self.blocks.last().and_then(|block| block.first()).copied().unwrap_or(0)
    }

    /// Whether the values of a block can be read now.
    pub(super) fn is_open(&self, block: u32) -> bool {
        self.blocks.iter().any(|open| open.contains(&block))
    }

    /// Puts the nodes that `work` makes into a region.
    pub(super) fn region<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> (Made, Result<T>) {
        let region = self.draft.regions.len();
        self.draft.regions.push(Region::default());
        self.blocks_made += 1;
        self.blocks.push(vec![self.blocks_made]);
        let outer = std::mem::take(&mut self.draft.nodes);
        let (checks, decisive) = (self.draft.checks.len(), self.draft.decisive.len());
        let result = work(self);
        self.draft.regions[region].nodes = std::mem::replace(&mut self.draft.nodes, outer);
        let ids = self.blocks.pop().unwrap_or_default();
        (Made { region: region as u32, ids, checks, decisive }, result)
    }

    /// Moves the nodes of a region that was just made into this block.
    pub(super) fn absorb(&mut self, made: Made) {
        let Region { nodes, .. } = std::mem::take(&mut self.draft.regions[made.region as usize]);
        self.draft.nodes.extend(nodes);
        if let Some(block) = self.blocks.last_mut() {
            block.extend(made.ids);
        }
    }

    /// Drops a region and its checks.
    pub(super) fn discard(&mut self, made: &Made) {
        self.draft.regions[made.region as usize] = Region::default();
        self.draft.checks.truncate(made.checks);
        self.draft.decisive.truncate(made.decisive);
    }

    fn nodes(&mut self, nodes: &[NodeProto], scope: &mut Scope) -> Result<(), OnnxError> {
        let order = order(nodes, |name| scope.values.contains_key(name))?;
        let around = std::mem::replace(&mut self.become_floats, become_floats(nodes));
        let wired = order.into_iter().try_for_each(|index| self.node(&nodes[index], scope));
        self.become_floats = around;
        wired
    }

    fn node(&mut self, node: &NodeProto, scope: &mut Scope) -> Result<(), OnnxError> {
        let inputs = node
            .input
            .iter()
            .map(|name| match name.as_str() {
                "" => Ok(None),
                name => {
                    scope.values.get(name).copied().map(Some).ok_or_else(|| OnnxError::Missing {
                        node: node.name.clone(),
                        op: node.op_type.clone(),
                        value: name.to_owned(),
                    })
                }
            })
            .collect::<Result<Vec<_>, _>>()?;
        let vars = self.operator(node, &inputs, scope)?;
        for (name, var) in node.output.iter().zip(vars) {
            if !name.is_empty() {
                scope.values.insert(name.clone(), var);
            }
        }
        Ok(())
    }

    /// Wires one operator; one value per output, in order; trailing ones that are not used are left out.
    pub(super) fn operator(
        &mut self,
        node: &NodeProto,
        inputs: &[Option<Var>],
        scope: &Scope,
    ) -> Result<Vec<Var>, OnnxError> {
        let named = [node.name.as_str()].into_iter().chain(node.output.iter().map(String::as_str));
        let name = named.into_iter().find(|name| !name.is_empty()).unwrap_or(&node.op_type);
        let label = format!("{}{name}", scope.prefix);
        // Nodes that become constants count, too.
        self.wired += 1;
        if self.made.max(self.wired) > NODES_MAX {
            return Err(OnnxError::Graph {
                reason: format!("it has more than {NODES_MAX} nodes once its loops are unrolled"),
            });
        }
        let domain = if node.domain == "ai.onnx" { "" } else { node.domain.as_str() };
        if let Some(function) = self.functions.get(&(node.domain.as_str(), node.op_type.as_str())) {
            return self.function(function, node, inputs, scope, &label);
        }
        // onnxruntime adds its own domain to files that leave it out.
        let implied = (domain == ops::MICROSOFT).then_some(&1);
        let Some(&version) = scope.opsets.get(domain).or(implied) else {
            return Err(OnnxError::Domain {
                node: brief(label),
                op: brief(node.op_type.clone()),
                domain: brief(domain.to_owned()),
            });
        };
        let Some(wire) = ops::operator(domain, &node.op_type) else {
            return Err(OnnxError::Unknown {
                node: brief(label),
                op: brief(node.op_type.clone()),
                domain: brief(domain.to_owned()),
                version,
            });
        };
        // The wiring that it shares with the standard's operators takes the newest form.
        let is_contrib = domain == ops::MICROSOFT;
        let opset = if is_contrib { OPSET_MAX } else { version };
        let name = label.clone();
        let refused = |walk: &Self, error: anyhow::Error| OnnxError::Operator {
            node: brief(label.clone()),
            op: brief(node.op_type.clone()),
            inputs: brief(walk.described(inputs)),
            reason: brief(format!("{error:#}")),
        };
        let small = inputs.iter().flatten().find_map(|input| self.small(*input));
        if let Some(small) = small
            && !ops::takes_small_types(&node.op_type)
        {
            let error = anyhow::anyhow!("elements of type {} are not supported here", small.name());
            return Err(refused(self, error));
        }
        let has_strings = inputs.iter().flatten().any(|var| self.fact(*var).strings.is_some());
        let read = RefCell::default();
        let mut wiring = Wiring { node, opset, name, inputs, scope, walk: self, read };
        let results = match has_strings {
            true => strings::wire(&mut wiring, domain, wire),
            false => wire(&mut wiring),
        };
        let wired = results.and_then(|results| {
            if is_contrib {
                wiring.check_attributes()?;
            }
            Ok(results)
        });
        let vars = wired.map_err(|error| match error.downcast::<OnnxError>() {
            Ok(inner) => inner,
            Err(error) => refused(self, error),
        })?;
        if let (Some(small), Some(first)) = (small, vars.first())
            && ops::keeps_elements(&node.op_type)
        {
            self.set_small(*first, small);
        }
        Ok(vars)
    }

    /// The type of a value's elements in the file, if it has no `DType`.
    pub(super) fn small(&self, var: Var) -> Option<SmallType> {
        let fact = self.fact(var);
        let small = match &fact.known {
            Some(Known::Constant(constant)) if constant.small.is_some() => constant.small,
            _ => self.smalls.get(&var).copied(),
        };
        // Elements that were converted to another type have only that type.
        small.filter(|small| small.dtype() == fact.dtype)
    }

    /// Notes the type of a computed value's elements in the file.
    pub(super) fn set_small(&mut self, var: Var, small: SmallType) {
        self.smalls.insert(var, small);
    }

    /// Wires the body of a function in its place.
    fn function(
        &mut self,
        function: &FunctionProto,
        node: &NodeProto,
        inputs: &[Option<Var>],
        scope: &Scope,
        label: &str,
    ) -> Result<Vec<Var>, OnnxError> {
        let mut inner = self.inner(scope, label)?;
        inner.values.clear();
        inner.opsets = Arc::new(opsets(&function.opset_import)?);
        let given = function.input.iter().zip(inputs);
        inner.values.extend(given.filter_map(|(name, var)| Some((name.clone(), (*var)?))));
        let body: Vec<NodeProto> =
            function.node.iter().map(|inner| with_attributes(inner, node)).collect();
        // An optional operand that the caller leaves out is left out in the body, too.
        let body: Vec<NodeProto> = body
            .into_iter()
            .map(|mut body| {
                for name in &mut body.input {
                    if function.input.contains(name) && !inner.values.contains_key(name.as_str()) {
                        name.clear();
                    }
                }
                body
            })
            .collect();
        self.nodes(&body, &mut inner)?;
        self.results(function.output.iter(), &inner)
    }

    /// A scope for a subgraph, which sees the outer values and has its own constants.
    pub(super) fn subgraph_scope(
        &mut self,
        graph: &GraphProto,
        scope: &Scope,
        label: &str,
    ) -> Result<Scope, OnnxError> {
        let mut inner = self.inner(scope, label)?;
        for proto in &graph.initializer {
            let var = self.constant(self.files.constant(proto)?);
            inner.values.insert(proto.name.clone(), var);
        }
        Ok(inner)
    }

    /// Wires a subgraph in its place, with these values as its inputs.
    pub(super) fn subgraph(
        &mut self,
        graph: &GraphProto,
        inputs: &[Var],
        mut inner: Scope,
    ) -> Result<Vec<Var>, OnnxError> {
        let given = graph.input.iter().zip(inputs);
        inner.values.extend(given.map(|(input, var)| (input.name.clone(), *var)));
        self.nodes(&graph.node, &mut inner)?;
        self.results(graph.output.iter().map(|output| &output.name), &inner)
    }

    fn inner(&self, scope: &Scope, label: &str) -> Result<Scope, OnnxError> {
        if scope.depth >= DEPTH_MAX {
            return Err(OnnxError::Graph {
                reason: format!("more than {DEPTH_MAX} graphs lie within one another at {label}"),
            });
        }
        let (depth, prefix) = (scope.depth + 1, format!("{label}/"));
        Ok(Scope { depth, prefix, ..scope.clone() })
    }

    fn results<'n>(
        &self,
        names: impl Iterator<Item = &'n String>,
        scope: &Scope,
    ) -> Result<Vec<Var>, OnnxError> {
        names
            .map(|name| {
                let var = scope.values.get(name).copied();
                var.ok_or_else(|| OnnxError::Output { output: name.clone() })
            })
            .collect()
    }

    /// Types and shapes of operands, for messages.
    fn described(&self, inputs: &[Option<Var>]) -> String {
        let inputs: Vec<String> = inputs
            .iter()
            .map(|input| match input.map(|var| (self.small(var), self.fact(var))) {
                Some((Some(small), fact)) => {
                    format!("{}{}", small.name(), self.shape_text(&fact.shape))
                }
                Some((None, fact)) => format!("{:?}{}", fact.dtype, self.shape_text(&fact.shape)),
                None => "nothing".to_owned(),
            })
            .collect();
        inputs.join(", ")
    }
}

/// A node of a function's body with the attributes that it takes from the call.
fn with_attributes(body: &NodeProto, call: &NodeProto) -> NodeProto {
    let attributes = body.attribute.iter().filter_map(|attribute| {
        if attribute.ref_attr_name.is_empty() {
            return Some(attribute.clone());
        }
        let given = call.attribute.iter().find(|given| given.name == attribute.ref_attr_name)?;
        Some(AttributeProto { name: attribute.name.clone(), ..given.clone() })
    });
    NodeProto { attribute: attributes.collect(), ..body.clone() }
}

/// The beginning of a text that is too long for a message.
fn brief(mut words: String) -> String {
    if words.len() > WORDS_MAX {
        words.truncate(words.floor_char_boundary(WORDS_MAX));
        words.push_str(" ..");
    }
    words
}
