//! Operators against onnxruntime's results. `golden.jsonl` has a node, its operands and its results per line; operands are
//! multiples of 1/8. A result of operands that are all known is computed during the import, with the kernels that pages use.

use std::collections::HashMap;

use flotilla_tensor::DType;
use serde::Deserialize;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto,
    attribute_proto::AttributeType,
    tensor_shape_proto::{Dimension, dimension::Value as DimValue},
    type_proto,
};

use super::{super::MICROSOFT, FAMILIES};
use crate::{
    fuse,
    graph::Draft,
    import::{
        LoadOptions,
        onnx::{OnnxError, external::TensorFiles, read},
    },
    storage::Storage,
};

const TABLE: &str = include_str!("golden.jsonl");

/// Results are printed with six digits, and sums are rounded in another order.
const TOLERANCE: f64 = 2e-5;

#[derive(Clone, Debug, Deserialize)]
struct Case {
    name: String,
    op: String,
    #[serde(default)]
    domain: Option<String>,
    attributes: HashMap<String, serde_json::Value>,
    inputs: Vec<Option<Operand>>,
    /// Results that nothing is known about are left out.
    outputs: Vec<Option<Operand>>,
}

#[derive(Clone, Debug, Deserialize)]
struct Operand {
    /// Number of the type in the standard.
    dtype: i32,
    shape: Vec<i64>,
    values: Vec<f64>,
    /// Whether it is a constant of the file.
    #[serde(default)]
    fixed: bool,
}

fn cases() -> Vec<Case> {
    TABLE.lines().map(|line| serde_json::from_str(line).expect("a case")).collect()
}

fn case(name: &str) -> Case {
    cases().into_iter().find(|case| case.name == name).expect("there is such a case")
}

fn dtype(operand: &Operand) -> DType {
    crate::import::onnx::constant::element_type(operand.dtype).expect("a type")
}

fn attribute((name, value): (&String, &serde_json::Value)) -> AttributeProto {
    let mut attribute = AttributeProto { name: name.clone(), ..AttributeProto::default() };
    let kind = match value {
        serde_json::Value::String(text) => {
            attribute.s = text.clone().into_bytes();
            AttributeType::String
        }
        serde_json::Value::Number(number) if number.is_i64() => {
            attribute.i = number.as_i64().expect("an integer");
            AttributeType::Int
        }
        serde_json::Value::Array(numbers) if numbers.iter().all(serde_json::Value::is_i64) => {
            attribute.ints = numbers.iter().filter_map(serde_json::Value::as_i64).collect();
            AttributeType::Ints
        }
        serde_json::Value::Array(numbers) => {
            attribute.floats =
                numbers.iter().filter_map(|number| Some(number.as_f64()? as f32)).collect();
            AttributeType::Floats
        }
        number => {
            attribute.f = number.as_f64().expect("a number") as f32;
            AttributeType::Float
        }
    };
    attribute.r#type = kind as i32;
    attribute
}

/// A model of one node. Operands that are not constants of the file are inputs with symbolic dimensions, or all are constants.
fn model(case: &Case, symbolic: bool) -> ModelProto {
    let name = |index: usize| format!("operand {index}");
    let (mut input, mut initializer) = (Vec::new(), Vec::new());
    for (index, operand) in case.inputs.iter().enumerate() {
        let Some(operand) = operand else { continue };
        if !symbolic || operand.fixed {
            initializer.push(TensorProto {
                name: name(index),
                data_type: operand.dtype,
                dims: operand.shape.clone(),
                raw_data: dtype(operand).encode_numbers(&operand.values),
                ..TensorProto::default()
            });
            continue;
        }
        let last = operand.shape.len().saturating_sub(1);
        let dim = |(axis, &size): (usize, &i64)| Dimension {
            // Widths are known in any model.
            value: Some(match axis {
                _ if axis == last && last > 0 && operand.dtype == 1 => DimValue::DimValue(size),
                1 if operand.shape.len() >= 4 => DimValue::DimValue(size),
                _ if size <= 1 => DimValue::DimValue(size),
                _ => DimValue::DimParam(format!("size {size}")),
            }),
            ..Dimension::default()
        };
        let shape = TensorShapeProto { dim: operand.shape.iter().enumerate().map(dim).collect() };
        let tensor = type_proto::Tensor { elem_type: operand.dtype, shape: Some(shape) };
        input.push(ValueInfoProto {
            name: name(index),
            r#type: Some(TypeProto {
                value: Some(type_proto::Value::TensorType(tensor)),
                ..TypeProto::default()
            }),
            ..ValueInfoProto::default()
        });
    }
    let outputs = || {
        (0..case.outputs.len()).map(|index| match case.outputs[index] {
            Some(_) => format!("result {index}"),
            None => String::new(),
        })
    };
    let node = NodeProto {
        name: "the node".to_owned(),
        op_type: case.op.clone(),
        domain: case.domain.clone().unwrap_or_else(|| MICROSOFT.to_owned()),
        input: case
            .inputs
            .iter()
            .enumerate()
            .map(|(index, operand)| operand.as_ref().map_or_else(String::new, |_| name(index)))
            .collect(),
        output: outputs().collect(),
        attribute: case.attributes.iter().map(attribute).collect(),
        ..NodeProto::default()
    };
    let output = outputs().filter(|name| !name.is_empty());
    let graph = GraphProto {
        node: vec![node],
        input,
        initializer,
        output: output.map(|name| ValueInfoProto { name, ..ValueInfoProto::default() }).collect(),
        ..GraphProto::default()
    };
    let opset =
        |domain: &str, version: i64| OperatorSetIdProto { domain: domain.to_owned(), version };
    ModelProto {
        graph: Some(graph),
        opset_import: vec![opset("", 17), opset(MICROSOFT, 1)],
        ..ModelProto::default()
    }
}

fn imported(case: &Case, symbolic: bool) -> Result<Draft, OnnxError> {
    let files = TensorFiles::none(Storage::default());
    read(model(case, symbolic), HashMap::new(), files, &LoadOptions::named("case"))
}

fn refusal(case: &Case) -> String {
    match imported(case, true) {
        Ok(_) => panic!("{} is not refused", case.name),
        Err(error) => error.to_string(),
    }
}

#[test]
fn no_operator_has_two_wirings() {
    let mut names: Vec<&str> =
        FAMILIES.iter().flat_map(|family| family.iter().map(|(name, _)| *name)).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn results_are_those_of_onnxruntime() {
    for case in cases() {
        let mut draft =
            imported(&case, false).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        fuse::fuse(&mut draft);
        let wanted = case.outputs.iter().flatten();
        for (index, (port, wanted)) in draft.outputs.iter().zip(wanted).enumerate() {
            let what = format!("{}, output {index}", case.name);
            let data =
                draft.constant(port.value).unwrap_or_else(|| panic!("{what} is not computed"));
            let shape: Vec<i64> =
                draft.shape(port.value).iter().filter_map(|dim| dim.as_fixed()).collect();
            assert_eq!(shape, wanted.shape, "{what}");
            let got = data.dtype.decode_numbers(&data.bytes);
            let scale = wanted.values.iter().fold(1.0f64, |most, value| most.max(value.abs()));
            for (at, (got, wanted)) in got.iter().zip(&wanted.values).enumerate() {
                assert!(
                    (got - wanted).abs() <= TOLERANCE * scale,
                    "{what}[{at}]: {got}, not {wanted}"
                );
            }
        }
    }
}

#[test]
fn dimensions_may_be_symbols() {
    for case in cases() {
        let draft = imported(&case, true).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        for (port, wanted) in draft.outputs.iter().zip(case.outputs.iter().flatten()) {
            let shape = draft.shape(port.value);
            assert_eq!(shape.len(), wanted.shape.len(), "{}", case.name);
        }
    }
}

#[test]
fn an_attribute_that_is_not_known_is_refused() {
    let mut case = case("mha");
    case.attributes.insert("new_rule".to_owned(), 1.into());
    assert_eq!(
        refusal(&case).split_once("cannot be used: ").map(|(_, reason)| reason.to_owned()),
        Some("attribute \"new_rule\" is not known".to_owned())
    );
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let with = |name: &str, attribute: &str, value: serde_json::Value| {
        let mut case = case(name);
        case.attributes.insert(attribute.to_owned(), value);
        refusal(&case)
    };
    for (got, wanted) in [
        (with("mha", "num_heads", 0.into()), "num_heads is 0, 1 to 65536 are supported"),
        (with("mha", "num_heads", (-1).into()), "num_heads is -1"),
        (with("mha", "num_heads", i64::MAX.into()), "num_heads is 9223372036854775807"),
        (with("mha", "num_heads", 5.into()), "queries are 4 wide, which 5 does not divide"),
        (
            with("attention", "qkv_hidden_sizes", vec![i64::MAX, i64::MIN, 1].into()),
            "do not divide 12 columns of weights",
        ),
        (with("group_query", "kv_num_heads", 3.into()), "cannot share 3 of keys"),
        (
            with("group_query", "k_quant_type", "PER_TENSOR".into()),
            "k_quant_type is \"PER_TENSOR\"",
        ),
        (
            with("group_query", "sliding_window_cache", 1.into()),
            "sliding_window_cache is 1, only 0",
        ),
        (with("rotary", "is_packed_batching", 1.into()), "is_packed_batching is 1, only 0"),
        (with("rotary", "rotary_embedding_dim", 6.into()), "num_heads is needed"),
        (with("rotary", "num_heads", i64::MAX.into()), "features are 8 wide"),
        (with("fused_conv", "activation", "Snake".into()), "activation \"Snake\" is not known"),
        (with("fused_conv", "kernel_shape", vec![7, 7].into()), "kernel_shape must be equal"),
        (with("group_norm_of", "groups", (-2).into()), "which 0 does not divide"),
    ] {
        assert!(got.contains(wanted), "{got}\nand not {wanted}");
        assert!(got.contains("the node"), "{got}");
    }
    let operator = |domain: &str, op: &str| {
        let mut case = case("mha");
        (case.domain, case.op) = (Some(domain.to_owned()), op.to_owned());
        refusal(&case)
    };
    for (got, wanted) in [
        (
            operator(MICROSOFT, "Nothing"),
            "operator Nothing of domain \"com.microsoft\", version 1, is not known",
        ),
        (
            operator("example.org", "Nothing"),
            "operator Nothing is of domain \"example.org\", of which the file imports no version",
        ),
        (operator("com.microsoft.nchwc", "Conv"), "of which the file imports no version"),
        (operator(MICROSOFT, "GemmFloat8"), "products of 8-bit floats are not supported"),
    ] {
        assert!(got.contains(wanted), "{got}\nand not {wanted}");
    }
}

#[test]
fn operands_of_impossible_ranks_are_refused() {
    let mut panicked = Vec::new();
    for case in cases() {
        for index in 0..case.inputs.len() {
            for shape in [vec![], vec![0], vec![3], vec![2, 2], vec![1, 2, 1, 2, 1, 2]] {
                let mut case = case.clone();
                let Some(operand) = &mut case.inputs[index] else { continue };
                operand.values = vec![1.0; shape.iter().product::<i64>() as usize];
                operand.shape.clone_from(&shape);
                for symbolic in [false, true] {
                    // A result or a refusal is fine, a panic is not.
                    let work = std::panic::AssertUnwindSafe(|| drop(imported(&case, symbolic)));
                    if std::panic::catch_unwind(work).is_err() {
                        panicked.push(format!("{}, operand {index}, {shape:?}", case.name));
                    }
                }
            }
        }
    }
    assert!(panicked.is_empty(), "{panicked:#?}");
}
