//! Models of one node whose operands are known when the model is loaded, so that the import computes the answers.

use prost::Message as _;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    ValueInfoProto, attribute_proto::AttributeType,
};

use crate::import::{ImportedModel, LoadOptions, MemoryResolver, load};
use flotilla_program::Source;

/// A tensor of floats or integers.
pub(super) enum Given<'a> {
    Floats(&'a [i64], &'a [f32]),
    Ints(&'a [i64], &'a [i64]),
    Strings(&'a [i64], &'a [&'a str]),
}

/// What an attribute has.
pub(super) enum Is<'a> {
    Int(i64),
    Float(f32),
    Text(&'a str),
    Ints(&'a [i64]),
    Floats(&'a [f32]),
    Texts(&'a [&'a str]),
}

fn attribute((name, value): &(&str, Is<'_>)) -> AttributeProto {
    let mut proto = AttributeProto { name: (*name).to_owned(), ..AttributeProto::default() };
    let mut kind = |of: AttributeType| proto.r#type = of as i32;
    match value {
        Is::Int(i) => (kind(AttributeType::Int), proto.i = *i).1,
        Is::Float(f) => (kind(AttributeType::Float), proto.f = *f).1,
        Is::Text(text) => (kind(AttributeType::String), proto.s = text.as_bytes().to_vec()).1,
        Is::Ints(ints) => (kind(AttributeType::Ints), proto.ints = ints.to_vec()).1,
        Is::Floats(floats) => (kind(AttributeType::Floats), proto.floats = floats.to_vec()).1,
        Is::Texts(texts) => {
            kind(AttributeType::Strings);
            proto.strings = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        }
    }
    proto
}

fn tensor(name: String, given: &Given<'_>) -> TensorProto {
    let proto = TensorProto { name, ..TensorProto::default() };
    match given {
        Given::Floats(dims, floats) => {
            TensorProto { dims: dims.to_vec(), data_type: 1, float_data: floats.to_vec(), ..proto }
        }
        Given::Ints(dims, ints) => {
            TensorProto { dims: dims.to_vec(), data_type: 7, int64_data: ints.to_vec(), ..proto }
        }
        Given::Strings(dims, strings) => TensorProto {
            dims: dims.to_vec(),
            data_type: 8,
            string_data: strings.iter().map(|string| string.as_bytes().to_vec()).collect(),
            ..proto
        },
    }
}

fn node(domain: &str, op: &str, inputs: &[String], outputs: usize) -> NodeProto {
    NodeProto {
        name: op.to_owned(),
        op_type: op.to_owned(),
        domain: domain.to_owned(),
        input: inputs.to_vec(),
        output: (0..outputs).map(|index| format!("y{index}")).collect(),
        ..NodeProto::default()
    }
}

pub(super) fn loaded(
    (domain, version): (&str, i64),
    op: &str,
    attributes: &[(&str, Is<'_>)],
    inputs: &[Given<'_>],
    outputs: usize,
) -> Result<ImportedModel, String> {
    let names: Vec<String> = (0..inputs.len()).map(|index| format!("x{index}")).collect();
    let node = NodeProto {
        attribute: attributes.iter().map(attribute).collect(),
        ..node(domain, op, &names, outputs)
    };
    let value = |name: &String| ValueInfoProto { name: name.clone(), ..ValueInfoProto::default() };
    let graph = GraphProto {
        initializer: names.into_iter().zip(inputs).map(|(name, x)| tensor(name, x)).collect(),
        output: node.output.iter().map(value).collect(),
        node: vec![node],
        ..GraphProto::default()
    };
    let imported = OperatorSetIdProto { domain: domain.to_owned(), version };
    let model =
        ModelProto { graph: Some(graph), opset_import: vec![imported], ..ModelProto::default() };
    let files = [("model.onnx".to_owned(), model.encode_to_vec().into())].into();
    load(&MemoryResolver { files }, &LoadOptions::named("ml")).map_err(|error| {
        let mut words = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            words = format!("{words}: {inner}");
            source = inner.source();
        }
        words
    })
}

/// The elements of an output that the import has computed.
pub(super) fn numbers(model: &ImportedModel, output: usize) -> Vec<f64> {
    let value = model.program.value(model.program.outputs[output].value);
    let Source::Constant(constant) = value.source else { panic!("output {output} is not known") };
    let blob = &model.weights.blobs[&constant.blob];
    let start = constant.offset as usize;
    constant.dtype.decode_numbers(&blob[start..start + constant.bytes as usize])
}
