//! The pieces of an ONNX file.

use flotilla_tensor::NamedTensor;
use prost::Message as _;
use tract_onnx::pb::{
    AttributeProto, GraphProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    attribute_proto::AttributeType,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};

use crate::value::Type;

fn attribute(name: &str, of: AttributeType) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: of as i32, ..AttributeProto::default() }
}

/// An integer attribute.
pub fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { i, ..attribute(name, AttributeType::Int) }
}

/// A list of integers.
pub fn ints(name: &str, ints: impl IntoIterator<Item = i64>) -> AttributeProto {
    AttributeProto { ints: ints.into_iter().collect(), ..attribute(name, AttributeType::Ints) }
}

/// A number.
pub fn float(name: &str, f: f64) -> AttributeProto {
    AttributeProto { f: f as f32, ..attribute(name, AttributeType::Float) }
}

/// A list of numbers.
pub fn floats(name: &str, floats: impl IntoIterator<Item = f64>) -> AttributeProto {
    let floats = floats.into_iter().map(|number| number as f32).collect();
    AttributeProto { floats, ..attribute(name, AttributeType::Floats) }
}

/// A text.
pub fn text(name: &str, text: &str) -> AttributeProto {
    AttributeProto { s: text.as_bytes().to_vec(), ..attribute(name, AttributeType::String) }
}

/// A list of texts.
pub fn texts(name: &str, texts: &[&str]) -> AttributeProto {
    let strings = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    AttributeProto { strings, ..attribute(name, AttributeType::Strings) }
}

/// A tensor.
pub fn held(name: &str, tensor: TensorProto) -> AttributeProto {
    AttributeProto { t: Some(tensor), ..attribute(name, AttributeType::Tensor) }
}

/// A graph.
pub fn body(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(graph), ..attribute(name, AttributeType::Graph) }
}

/// A tensor of the file.
pub fn tensor(name: &str, of: Type, sizes: &[usize], numbers: &[f64]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: sizes.iter().map(|&size| size as i64).collect(),
        data_type: of.in_file() as i32,
        raw_data: of.dtype().encode_numbers(numbers),
        ..TensorProto::default()
    }
}

/// An input of a run, as a file of one tensor.
pub fn file_of(NamedTensor { name, tensor }: &NamedTensor) -> Vec<u8> {
    let of = Type::ALL.into_iter().find(|of| of.dtype() == tensor.dtype);
    let file = TensorProto {
        name: name.clone(),
        dims: tensor.shape.iter().map(|&size| size as i64).collect(),
        data_type: of.map_or(0, |of| of.in_file() as i32),
        raw_data: tensor.bytes.clone(),
        ..TensorProto::default()
    };
    file.encode_to_vec()
}

/// A dimension in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Declared {
    /// A number.
    Number(usize),
    /// A name.
    Name(String),
    /// No number and no name.
    Nothing,
}

/// An input or output; without a shape, none is declared.
pub fn port(name: &str, of: Type, shape: Option<&[Declared]>) -> ValueInfoProto {
    let dim = |declared: &Declared| Dimension {
        value: match declared {
            Declared::Number(size) => Some(dimension::Value::DimValue(*size as i64)),
            Declared::Name(name) => Some(dimension::Value::DimParam(name.clone())),
            Declared::Nothing => None,
        },
        ..Dimension::default()
    };
    let shape = shape.map(|shape| TensorShapeProto { dim: shape.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: of.in_file() as i32, shape };
    let value = Some(type_proto::Value::TensorType(tensor));
    let of = Some(TypeProto { value, ..TypeProto::default() });
    ValueInfoProto { name: name.to_owned(), r#type: of, ..ValueInfoProto::default() }
}
