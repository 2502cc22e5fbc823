//! The walk over a graph: every node in order, each wired into tract's typed graph.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use tract_onnx::{
    Onnx,
    dim_expr::parse_onnx_dim,
    pb::{
        AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
        TypeProto, ValueInfoProto, tensor_proto::DataType,
        tensor_shape_proto::dimension::Value as DimValue, type_proto,
    },
    prelude::{
        DatumType, OutletId, SpecialOps, TDim, TVec, Tensor, TractResult, TypedFact, TypedModel,
    },
    tract_hir::internal::{ToDim, tract_core::ops::identity::Identity},
};

use super::{OPSET_MAX, OnnxError, bf16, library, ops, order::order, structure, wiring::Wiring};
use crate::{
    import::FixedInput,
    reference::{ReferenceTensor, to_tensor},
};

/// Subgraphs and functions within one another; deeper ones are no honest model.
const DEPTH_MAX: usize = 24;
/// Nodes that unrolled loops may come to.
const NODES_MAX: usize = 200_000;
/// Elements of an input that decides shapes; a larger one is data.
const DECIDING_ELEMENTS_MAX: usize = 1024;

/// What a graph has become.
pub(super) struct Built {
    pub(super) graph: TypedModel,
    /// Names of the outputs, in the file's order.
    pub(super) outputs: Vec<String>,
    pub(super) fixed: Vec<FixedInput>,
    /// Names of inputs and outputs that are BF16.
    pub(super) bf16: BTreeSet<String>,
}

/// Values by name; an inner scope sees the outer ones.
#[derive(Clone, Default)]
pub(super) struct Scope {
    values: HashMap<String, OutletId>,
    /// Versions of the operator sets, which a function may import anew.
    opsets: Arc<HashMap<String, i64>>,
    depth: usize,
    /// Put before the names of nodes, so that those of a body that is wired again stay unique.
    prefix: String,
}

impl Scope {
    /// What the names of its nodes begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }
}

/// The typed graph in the making.
pub(super) struct Walk<'p> {
    pub(super) onnx: &'p Onnx,
    pub(super) proto: &'p ModelProto,
    functions: HashMap<(&'p str, &'p str), &'p FunctionProto>,
    pub(super) target: TypedModel,
    /// Outlets whose numbers are BF16.
    pub(super) bf16: HashSet<OutletId>,
    names: HashMap<String, usize>,
}

/// Builds the typed graph of a model; `values` has the inputs that decide shapes, and may have others.
pub(super) fn build(
    onnx: &Onnx,
    proto: &ModelProto,
    values: &BTreeMap<String, ReferenceTensor>,
) -> Result<Built, OnnxError> {
    let opsets = opsets(&proto.opset_import)?;
    let functions = proto.functions.iter().map(|function| {
        let name = function.name.as_deref().unwrap_or_default();
        ((function.domain.as_deref().unwrap_or_default(), name), function)
    });
    let mut walk = Walk {
        onnx,
        proto,
        functions: functions.collect(),
        target: TypedModel::default(),
        bf16: HashSet::new(),
        names: HashMap::new(),
    };
    let empty = GraphProto::default();
    let graph = proto.graph.as_ref().unwrap_or(&empty);
    let mut scope = Scope { opsets: Arc::new(opsets), ..Scope::default() };
    walk.initializers(graph, &mut scope)?;
    let deciding = structure::deciding(graph);
    let (mut fixed, mut bf16) = (Vec::new(), BTreeSet::new());
    let inputs = graph.input.iter().filter(|input| !scope.values.contains_key(&input.name));
    let inputs: Vec<&ValueInfoProto> = inputs.collect();
    for (position, input) in inputs.into_iter().enumerate() {
        let (fact, is_bf16) = walk.input_fact(input)?;
        let decides = deciding.contains(input.name.as_str());
        let outlet = match values.get(&input.name).filter(|_| decides) {
            Some(value) if value.shape.iter().product::<usize>() <= DECIDING_ELEMENTS_MAX => {
                let tensor = known(input, &fact, value)?;
                fixed.push(FixedInput {
                    position,
                    name: input.name.clone(),
                    tensor: Arc::new(tensor.clone()),
                });
                walk.constant(&input.name, tensor).map_err(OnnxError::graph)?
            }
            _ => {
                let name = walk.unique(&input.name);
                walk.target.add_source(name, fact).map_err(OnnxError::graph)?
            }
        };
        let outlet = if is_bf16 {
            bf16.insert(input.name.clone());
            walk.marked_bf16(&input.name, outlet).map_err(OnnxError::graph)?
        } else {
            outlet
        };
        scope.values.insert(input.name.clone(), outlet);
    }
    walk.nodes(&graph.node, &mut scope)?;
    let mut outputs = Vec::new();
    let mut outlets = Vec::new();
    for output in &graph.output {
        let name = &output.name;
        let outlet =
            *scope.values.get(name).ok_or_else(|| OnnxError::Output { output: name.clone() })?;
        if walk.bf16.contains(&outlet) {
            bf16.insert(name.clone());
        }
        // An outlet that is an output twice, or that is an input, gets a node of its own for each.
        let node_name = walk.unique(&format!("{name}.output"));
        let outlet =
            walk.target.wire_node(node_name, Identity, &[outlet]).map_err(OnnxError::graph)?[0];
        outlets.push(outlet);
        outputs.push(name.clone());
    }
    walk.target.select_output_outlets(&outlets).map_err(OnnxError::graph)?;
    Ok(Built { graph: walk.target, outputs, fixed, bf16 })
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

/// The value given for an input that decides shapes, if it fits the input.
fn known(
    input: &ValueInfoProto,
    fact: &TypedFact,
    value: &ReferenceTensor,
) -> Result<Tensor, OnnxError> {
    let refuse = |reason: String| OnnxError::Input { input: input.name.clone(), reason };
    let tensor = to_tensor(value).map_err(|error| refuse(error.to_string()))?;
    let fits = tensor.rank() == fact.rank()
        && tensor
            .shape()
            .iter()
            .zip(fact.shape.iter())
            .all(|(&got, want)| want.as_i64().is_none_or(|want| want == got as i64));
    if tensor.datum_type() != fact.datum_type || !fits {
        return Err(refuse(format!(
            "its value is {:?} {:?}, {fact:?} is declared",
            tensor.datum_type(),
            tensor.shape()
        )));
    }
    Ok(tensor)
}

impl<'p> Walk<'p> {
    /// A name that no node has yet.
    pub(super) fn unique(&mut self, name: &str) -> String {
        match self.names.get_mut(name) {
            None => {
                self.names.insert(name.to_owned(), 0);
                name.to_owned()
            }
            Some(count) => {
                *count += 1;
                let next = format!("{name}.{count}");
                self.unique(&next)
            }
        }
    }

    /// A constant outlet; equal constants are one.
    pub(super) fn constant(
        &mut self,
        name: &str,
        tensor: impl Into<Tensor>,
    ) -> TractResult<OutletId> {
        let name = self.unique(name);
        self.target.add_const(name, tensor.into())
    }

    fn initializers(&mut self, graph: &GraphProto, scope: &mut Scope) -> Result<(), OnnxError> {
        for proto in &graph.initializer {
            let fail = |error: tract_onnx::prelude::TractError| OnnxError::Tensor {
                tensor: proto.name.clone(),
                reason: format!("{error:#}"),
            };
            let tensor = library::tensor(self, proto).map_err(fail)?;
            let mut outlet = self.constant(&proto.name, tensor).map_err(fail)?;
            if bf16::is_bf16(proto.data_type) {
                outlet = self.marked_bf16(&proto.name, outlet).map_err(fail)?;
            }
            scope.values.insert(proto.name.clone(), outlet);
        }
        Ok(())
    }

    /// Type and shape of an input, and whether it is BF16; a dimension that the file leaves open gets a symbol of its own.
    fn input_fact(&mut self, input: &ValueInfoProto) -> Result<(TypedFact, bool), OnnxError> {
        let refuse = |reason: &str| OnnxError::Input {
            input: input.name.clone(),
            reason: reason.to_owned(),
        };
        let Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), .. }) =
            &input.r#type
        else {
            return Err(refuse("it is no tensor"));
        };
        let is_bf16 = bf16::is_bf16(tensor.elem_type);
        let dtype: DatumType = DataType::try_from(tensor.elem_type)
            .ok()
            .and_then(|dtype| dtype.try_into().ok())
            .or(is_bf16.then_some(DatumType::F32))
            .ok_or_else(|| {
                refuse(&format!("its element type {} is not supported", tensor.elem_type))
            })?;
        let shape = tensor.shape.as_ref().ok_or_else(|| refuse("its rank is not declared"))?;
        let symbols = self.target.symbols.clone();
        let mut dims: TVec<TDim> = TVec::new();
        for (axis, dim) in shape.dim.iter().enumerate() {
            let open = || symbols.sym(&format!("{}_{axis}", input.name)).to_dim();
            dims.push(match &dim.value {
                Some(DimValue::DimValue(value)) if *value >= 0 => value.to_dim(),
                Some(DimValue::DimParam(name)) if !name.is_empty() && name != "?" => {
                    parse_onnx_dim(&symbols, name).unwrap_or_else(|_| open())
                }
                _ => open(),
            });
        }
        Ok((TypedFact::dt_shape(dtype, dims), is_bf16))
    }

    fn nodes(&mut self, nodes: &[NodeProto], scope: &mut Scope) -> Result<(), OnnxError> {
        for index in order(nodes, |name| scope.values.contains_key(name))? {
            self.node(&nodes[index], scope)?;
        }
        Ok(())
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
        let outlets = self.operator(node, &inputs, scope)?;
        for (name, outlet) in node.output.iter().zip(outlets) {
            if !name.is_empty() {
                scope.values.insert(name.clone(), outlet);
            }
        }
        Ok(())
    }

    /// Wires one operator; one outlet per output, in order, trailing ones left out where nothing wants them.
    pub(super) fn operator(
        &mut self,
        node: &NodeProto,
        inputs: &[Option<OutletId>],
        scope: &Scope,
    ) -> Result<Vec<OutletId>, OnnxError> {
        let named = [node.name.as_str()].into_iter().chain(node.output.iter().map(String::as_str));
        let name = named.into_iter().find(|name| !name.is_empty()).unwrap_or(&node.op_type);
        let label = format!("{}{name}", scope.prefix);
        if self.target.nodes.len() > NODES_MAX {
            return Err(OnnxError::Graph {
                reason: format!("it has more than {NODES_MAX} nodes once its loops are unrolled"),
            });
        }
        let domain = if node.domain == "ai.onnx" { "" } else { node.domain.as_str() };
        if let Some(function) = self.functions.get(&(node.domain.as_str(), node.op_type.as_str())) {
            return self.function(function, node, inputs, scope, &label);
        }
        let Some(&opset) = scope.opsets.get(domain) else {
            return Err(OnnxError::Domain { domain: domain.to_owned() });
        };
        let fail = |walk: &Walk<'p>, error: tract_onnx::prelude::TractError| match error
            .downcast::<OnnxError>()
        {
            Ok(inner) => inner,
            Err(error) => OnnxError::Operator {
                node: label.clone(),
                op: node.op_type.clone(),
                inputs: walk.described(inputs),
                reason: format!("{error:#}"),
            },
        };
        let outlets = if let Some(wire) = ops::operator(domain, &node.op_type) {
            let name = label.clone();
            let mut wiring =
                Wiring { node, opset, name, inputs, scope, walk: self, rounds_steps: false };
            wire(&mut wiring).map_err(|error| fail(self, error))?
        } else if library::knows(self, domain, &node.op_type) {
            library::wire(self, node, inputs, &label, opset).map_err(|error| fail(self, error))?
        } else {
            return Err(OnnxError::Unknown {
                node: label,
                op: node.op_type.clone(),
                domain: domain.to_owned(),
                version: opset,
            });
        };
        self.inherit_bf16(node, inputs, outlets, &label).map_err(|error| fail(self, error))
    }

    /// Wires the body of a function in its place.
    fn function(
        &mut self,
        function: &FunctionProto,
        node: &NodeProto,
        inputs: &[Option<OutletId>],
        scope: &Scope,
        label: &str,
    ) -> Result<Vec<OutletId>, OnnxError> {
        let mut inner = self.inner(scope, label)?;
        inner.values.clear();
        inner.opsets = Arc::new(opsets(&function.opset_import)?);
        let given = function.input.iter().zip(inputs);
        inner.values.extend(given.filter_map(|(name, outlet)| Some((name.clone(), (*outlet)?))));
        let body: Vec<NodeProto> =
            function.node.iter().map(|inner| with_attributes(inner, node)).collect();
        // An optional operand that the caller leaves out is left out inside, too.
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

    /// Wires a subgraph in its place, with these outlets as its inputs; it sees the values around it.
    pub(super) fn subgraph(
        &mut self,
        graph: &GraphProto,
        inputs: &[OutletId],
        scope: &Scope,
        label: &str,
    ) -> Result<Vec<OutletId>, OnnxError> {
        let mut inner = self.inner(scope, label)?;
        self.initializers(graph, &mut inner)?;
        let given = graph.input.iter().zip(inputs);
        inner.values.extend(given.map(|(input, outlet)| (input.name.clone(), *outlet)));
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
    ) -> Result<Vec<OutletId>, OnnxError> {
        names
            .map(|name| {
                let outlet = scope.values.get(name).copied();
                outlet.ok_or_else(|| OnnxError::Output { output: name.clone() })
            })
            .collect()
    }

    /// Types and shapes of operands, for messages.
    fn described(&self, inputs: &[Option<OutletId>]) -> String {
        let inputs: Vec<String> = inputs
            .iter()
            .map(|input| match input.map(|outlet| self.target.outlet_fact(outlet)) {
                Some(Ok(fact)) => {
                    let dims: Vec<String> = fact.shape.iter().map(|dim| dim.to_string()).collect();
                    format!("{:?}[{}]", fact.datum_type, dims.join(","))
                }
                Some(Err(_)) | None => "nothing".to_owned(),
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
