//! Functions to write an architecture: layers as nodes of an ONNX graph.

use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto,
    attribute_proto::AttributeType,
    tensor_proto::DataType,
    tensor_shape_proto::{Dimension, dimension::Value as DimValue},
    type_proto::{self, Value as TypeValue},
};

use super::{HfError, Tensors};
use crate::import::onnx::Weight;

/// Version of the operator set of the nodes: the first one with `RMSNormalization`.
const OPSET: i64 = 23;

/// Version of the format that has this operator set.
const IR_VERSION: i64 = 11;

/// The first version in which the operators that pooling needs are there: `Range`.
const OPSET_MIN: i64 = 11;

/// A value of the graph, by its name.
pub(super) type Value = String;

pub(super) type Wired = Result<Value, HfError>;

/// A graph that is being built and the weights that it takes.
pub(super) struct Graph {
    model: ModelProto,
    graph: GraphProto,
    opset: i64,
    /// Before all names that are added to a file's graph.
    scope: String,
    /// Before the names of a module.
    part: String,
    /// Before the names of values, where the same weights are used again.
    layer: String,
    tensors: Tensors,
    weights: Vec<(String, Weight)>,
}

/// An attribute of a node.
pub(super) enum Attribute<'a> {
    Int(&'a str, i64),
    Ints(&'a str, &'a [i64]),
    Float(&'a str, f32),
    Text(&'a str, &'a str),
}

impl Attribute<'_> {
    fn proto(&self) -> AttributeProto {
        let (name, r#type) = match self {
            Attribute::Int(name, _) => (name, AttributeType::Int),
            Attribute::Ints(name, _) => (name, AttributeType::Ints),
            Attribute::Float(name, _) => (name, AttributeType::Float),
            Attribute::Text(name, _) => (name, AttributeType::String),
        };
        let mut proto = AttributeProto {
            name: (*name).to_owned(),
            r#type: r#type as i32,
            ..AttributeProto::default()
        };
        match self {
            Attribute::Int(_, value) => proto.i = *value,
            Attribute::Ints(_, values) => proto.ints = values.to_vec(),
            Attribute::Float(_, value) => proto.f = *value,
            Attribute::Text(_, text) => proto.s = text.as_bytes().to_vec(),
        }
        proto
    }
}

impl Graph {
    /// An empty graph of a model with these tensors.
    pub(super) fn new(tensors: Tensors) -> Graph {
        let model = ModelProto {
            ir_version: IR_VERSION,
            producer_name: "flotilla".to_owned(),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
            ..ModelProto::default()
        };
        let graph = GraphProto { name: "model".to_owned(), ..GraphProto::default() };
        let (scope, part, layer) = (String::new(), String::new(), String::new());
        Graph { model, graph, opset: OPSET, scope, part, layer, tensors, weights: Vec::new() }
    }

    /// The graph of a file, to which nodes are added.
    ///
    /// # Errors
    /// It has no graph, or its operators are too old.
    pub(super) fn of_file(mut model: ModelProto, file: &str) -> Result<Graph, HfError> {
        let unsupported = |what: String| HfError::Unsupported { file: file.to_owned(), what };
        let Some(graph) = model.graph.take() else {
            return Err(unsupported("a model without a graph".to_owned()));
        };
        let opsets =
            model.opset_import.iter().filter(|set| ["", "ai.onnx"].contains(&set.domain.as_str()));
        let opset = opsets.map(|set| set.version).max().unwrap_or(1);
        if opset < OPSET_MIN {
            return Err(unsupported(format!(
                "operator set {opset} beside modules.json, whose modules need {OPSET_MIN}"
            )));
        }
        let mut scope = "sentence.".to_owned();
        let is_used = |scope: &str| {
            let made = graph.node.iter().flat_map(|node| &node.output);
            let given = graph.input.iter().map(|input| &input.name);
            let tensors = graph.initializer.iter().map(|tensor| &tensor.name);
            made.chain(given).chain(tensors).any(|name| name.starts_with(scope))
        };
        while is_used(&scope) {
            scope.insert(0, '_');
        }
        let (part, layer, tensors) = (String::new(), String::new(), Tensors::default());
        Ok(Graph { model, graph, opset, scope, part, layer, tensors, weights: Vec::new() })
    }

    /// Begins a part of the model with other weights and a text before all names.
    pub(super) fn begin(&mut self, part: &str, tensors: Tensors) {
        self.tensors = tensors;
        part.clone_into(&mut self.part);
    }

    /// The tensors that weights are taken from.
    pub(super) fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// Finds what stands before the names of weights, see [`Tensors::find_prefix`].
    ///
    /// # Errors
    /// As there.
    pub(super) fn find_prefix(&mut self, anchor: &str) -> Result<(), HfError> {
        self.tensors.find_prefix(anchor)
    }

    /// The graph and its weights.
    pub(super) fn finish(self) -> (ModelProto, Vec<(String, Weight)>) {
        let model = ModelProto { graph: Some(self.graph), ..self.model };
        (model, self.weights)
    }

    /// Leaves no output.
    pub(super) fn clear_outputs(&mut self) {
        self.graph.output.clear();
    }

    /// Puts a text before the names of values that are made from now on, so that weights can be used again.
    pub(super) fn enter(&mut self, layer: &str) {
        layer.clone_into(&mut self.layer);
    }

    fn scoped(&self, name: &str) -> Value {
        format!("{}{}{}{name}", self.scope, self.part, self.layer)
    }

    /// An input of `[B, S]` token numbers.
    pub(super) fn tokens(&mut self, name: &str) -> Value {
        self.graph.input.push(declared(name, DataType::Int64, Some(&["B", "S"])));
        name.to_owned()
    }

    /// Makes a value an output with its own name.
    pub(super) fn output(&mut self, name: &str, value: &str) {
        self.graph.output.push(declared(name, DataType::Float, None));
        self.graph.node.push(NodeProto {
            name: name.to_owned(),
            op_type: "Identity".to_owned(),
            input: vec![value.to_owned()],
            output: vec![name.to_owned()],
            ..NodeProto::default()
        });
    }

    /// A node with one result, which has the node's name.
    pub(super) fn node(
        &mut self,
        name: &str,
        op: &str,
        inputs: &[&str],
        attributes: &[Attribute<'_>],
    ) -> Value {
        let name = self.scoped(name);
        self.graph.node.push(NodeProto {
            name: name.clone(),
            op_type: op.to_owned(),
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![name.clone()],
            attribute: attributes.iter().map(Attribute::proto).collect(),
            ..NodeProto::default()
        });
        name
    }

    fn constant(
        &mut self,
        name: &str,
        dims: &[usize],
        dtype: DataType,
        raw_data: Vec<u8>,
    ) -> Value {
        let name = self.scoped(name);
        self.graph.initializer.push(TensorProto {
            name: name.clone(),
            dims: dims.iter().map(|&dim| dim as i64).collect(),
            data_type: dtype as i32,
            raw_data,
            ..TensorProto::default()
        });
        name
    }

    /// A row of integers, for operands that are shapes or axes.
    pub(super) fn integers(&mut self, name: &str, numbers: &[i64]) -> Value {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.constant(name, &[numbers.len()], DataType::Int64, bytes)
    }

    /// An integer.
    pub(super) fn integer(&mut self, name: &str, number: i64) -> Value {
        self.constant(name, &[], DataType::Int64, number.to_le_bytes().to_vec())
    }

    /// Another type, by its number in the standard.
    pub(super) fn cast(&mut self, name: &str, x: &str, to: i64) -> Value {
        self.node(name, "Cast", &[x], &[Attribute::Int("to", to)])
    }

    /// A number.
    pub(super) fn number(&mut self, name: &str, number: f32) -> Value {
        self.constant(name, &[], DataType::Float, number.to_le_bytes().to_vec())
    }

    /// An operation with a number as its right operand.
    pub(super) fn with_number(&mut self, name: &str, op: &str, a: &str, number: f32) -> Value {
        let number = self.number(&format!("{name}.constant"), number);
        self.node(name, op, &[a, &number], &[])
    }

    /// A row of numbers.
    pub(super) fn numbers(&mut self, name: &str, numbers: &[f32]) -> Value {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.constant(name, &[numbers.len()], DataType::Float, bytes)
    }

    /// A weight of the model.
    pub(super) fn weight(&mut self, name: &str, shape: &[usize]) -> Wired {
        let weight = self.tensors.weight(name, shape)?;
        Ok(self.table(name, weight))
    }

    /// A large constant.
    pub(super) fn table(&mut self, name: &str, weight: Weight) -> Value {
        let name = format!("{}{}{name}", self.scope, self.part);
        // Layers may share weights.
        if self.layer.is_empty() || !self.weights.iter().any(|(other, _)| *other == name) {
            self.weights.push((name.clone(), weight));
        }
        name
    }

    /// Rows of a table of `[rows, width]`, selected by token numbers.
    pub(super) fn embedding(
        &mut self,
        name: &str,
        indices: &str,
        rows: usize,
        width: usize,
    ) -> Wired {
        let table = self.weight(&format!("{name}.weight"), &[rows, width])?;
        Ok(self.node(name, "Gather", &[&table, indices], &[]))
    }

    /// The sum over a dimension, which remains with size 1.
    pub(super) fn sum(&mut self, name: &str, x: &str, axis: i64) -> Value {
        self.over_axes(name, "ReduceSum", x, &[axis], 13, Some(true))
    }

    /// The largest element along a dimension, which remains with size 1.
    pub(super) fn largest(&mut self, name: &str, x: &str, axis: i64) -> Value {
        self.over_axes(name, "ReduceMax", x, &[axis], 18, Some(true))
    }

    /// The mean over a dimension, which remains with size 1.
    pub(super) fn mean(&mut self, name: &str, x: &str, axis: i64) -> Value {
        self.over_axes(name, "ReduceMean", x, &[axis], 18, Some(true))
    }

    /// A new dimension of 1.
    pub(super) fn unsqueeze(&mut self, name: &str, x: &str, axes: &[i64]) -> Value {
        self.over_axes(name, "Unsqueeze", x, axes, 13, None)
    }

    /// Without dimensions of 1.
    pub(super) fn squeeze(&mut self, name: &str, x: &str, axes: &[i64]) -> Value {
        self.over_axes(name, "Squeeze", x, axes, 13, None)
    }

    /// An operator whose axes are an operand since a version of the operator set, and were an attribute before.
    fn over_axes(
        &mut self,
        name: &str,
        op: &str,
        x: &str,
        axes: &[i64],
        since: i64,
        keep: Option<bool>,
    ) -> Value {
        let mut attributes = Vec::new();
        attributes.extend(keep.map(|keep| Attribute::Int("keepdims", keep.into())));
        if self.opset < since {
            attributes.push(Attribute::Ints("axes", axes));
            return self.node(name, op, &[x], &attributes);
        }
        let axes = self.integers(&format!("{name}.axes"), axes);
        self.node(name, op, &[x, &axes], &attributes)
    }

    /// Whether the operators of a version can be used.
    pub(super) fn has_opset(&self, version: i64) -> bool {
        self.opset >= version
    }

    /// Another shape, where 0 is the dimension in the same place and -1 the remaining number of
    /// elements.
    pub(super) fn reshape(&mut self, name: &str, x: &str, shape: &[i64]) -> Value {
        let shape = self.integers(&format!("{name}.shape"), shape);
        self.node(name, "Reshape", &[x, &shape], &[])
    }

    /// Elements `start..end` of a dimension, both given as values `[1]`.
    pub(super) fn slice(&mut self, name: &str, x: &str, ends: [&str; 2], axis: i64) -> Value {
        let axes = self.integers(&format!("{name}.axes"), &[axis]);
        self.node(name, "Slice", &[x, ends[0], ends[1], &axes], &[])
    }
}

/// A value of a type, with named dimensions or of any shape.
fn declared(name: &str, dtype: DataType, dims: Option<&[&str]>) -> ValueInfoProto {
    let dim = |name: &&str| Dimension {
        value: Some(DimValue::DimParam((*name).to_owned())),
        ..Dimension::default()
    };
    let shape = dims.map(|dims| TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: dtype as i32, shape };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            value: Some(TypeValue::TensorType(tensor)),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}
