//! Functions to write an architecture: layers as nodes of an ONNX graph.

use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto,
    attribute_proto::AttributeType,
    tensor_proto::DataType,
    tensor_shape_proto::{Dimension, dimension::Value as DimValue},
    type_proto::{self, Value as TypeValue},
};

use super::{HfError, WeightFile};
use crate::import::onnx::Weight;

/// Version of the operator set of the nodes: the first one with `Gelu`.
const OPSET: i64 = 20;

/// Version of the format that has this operator set.
const IR_VERSION: i64 = 9;

/// A value of the graph, by its name.
pub(super) type Value = String;

type Wired = Result<Value, HfError>;

/// A graph that is being built and the weights that it takes.
pub(super) struct Graph<'w> {
    graph: GraphProto,
    file: &'w WeightFile<'w>,
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

impl<'w> Graph<'w> {
    pub(super) fn new(file: &'w WeightFile<'w>) -> Graph<'w> {
        let graph = GraphProto { name: "model".to_owned(), ..GraphProto::default() };
        Graph { graph, file, weights: Vec::new() }
    }

    /// The graph and its weights.
    pub(super) fn finish(self) -> (ModelProto, Vec<(String, Weight)>) {
        let model = ModelProto {
            ir_version: IR_VERSION,
            producer_name: "flotilla".to_owned(),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
            graph: Some(self.graph),
            ..ModelProto::default()
        };
        (model, self.weights)
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
        self.graph.node.push(NodeProto {
            name: name.to_owned(),
            op_type: op.to_owned(),
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![name.to_owned()],
            attribute: attributes.iter().map(Attribute::proto).collect(),
            ..NodeProto::default()
        });
        name.to_owned()
    }

    fn constant(
        &mut self,
        name: &str,
        dims: &[usize],
        dtype: DataType,
        raw_data: Vec<u8>,
    ) -> Value {
        self.graph.initializer.push(TensorProto {
            name: name.to_owned(),
            dims: dims.iter().map(|&dim| dim as i64).collect(),
            data_type: dtype as i32,
            raw_data,
            ..TensorProto::default()
        });
        name.to_owned()
    }

    /// A row of integers, for operands that are shapes or axes.
    pub(super) fn integers(&mut self, name: &str, numbers: &[i64]) -> Value {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.constant(name, &[numbers.len()], DataType::Int64, bytes)
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

    /// A weight of the model.
    pub(super) fn weight(&mut self, name: &str, shape: &[usize]) -> Wired {
        let bytes = self.file.tensor(name, shape)?;
        self.weights.push((name.to_owned(), Weight { shape: shape.to_vec(), bytes }));
        Ok(name.to_owned())
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

    /// `x @ weight^T + bias` on `[B, S, from]`.
    pub(super) fn linear(&mut self, name: &str, x: &str, from: usize, to: usize) -> Wired {
        let weight = self.weight(&format!("{name}.weight"), &[to, from])?;
        let bias = self.weight(&format!("{name}.bias"), &[to])?;
        let turned = [Attribute::Ints("perm", &[1, 0])];
        let weight = self.node(&format!("{name}.columns"), "Transpose", &[&weight], &turned);
        let product = self.node(&format!("{name}.product"), "MatMul", &[x, &weight], &[]);
        Ok(self.node(name, "Add", &[&product, &bias], &[]))
    }

    /// Over the last of three dimensions.
    pub(super) fn layer_norm(&mut self, name: &str, x: &str, width: usize, epsilon: f32) -> Wired {
        let gamma = self.weight(&format!("{name}.weight"), &[width])?;
        let beta = self.weight(&format!("{name}.bias"), &[width])?;
        let attributes = [Attribute::Int("axis", -1), Attribute::Float("epsilon", epsilon)];
        Ok(self.node(name, "LayerNormalization", &[x, &gamma, &beta], &attributes))
    }

    /// The sum over a dimension, which remains with size 1.
    pub(super) fn sum(&mut self, name: &str, x: &str, axis: i64) -> Value {
        let axes = self.integers(&format!("{name}.axes"), &[axis]);
        self.node(name, "ReduceSum", &[x, &axes], &[Attribute::Int("keepdims", 1)])
    }

    /// Another shape, where 0 is the dimension in the same place and -1 the remaining number of
    /// elements.
    pub(super) fn reshape(&mut self, name: &str, x: &str, shape: &[i64]) -> Value {
        let shape = self.integers(&format!("{name}.shape"), shape);
        self.node(name, "Reshape", &[x, &shape], &[])
    }

    /// A new dimension of 1.
    pub(super) fn unsqueeze(&mut self, name: &str, x: &str, axes: &[i64]) -> Value {
        let axes = self.integers(&format!("{name}.axes"), axes);
        self.node(name, "Unsqueeze", &[x, &axes], &[])
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
