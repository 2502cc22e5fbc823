//! A case as text for people.

use std::fmt::Write as _;

use flotilla_tensor::Tensor;
use tract_onnx::pb::{
    AttributeProto, GraphProto, TensorProto, ValueInfoProto, attribute_proto::AttributeType,
    tensor_proto::DataType, tensor_shape_proto::dimension, type_proto,
};

use crate::case::Case;

/// Most elements that are printed.
const ELEMENTS_MAX: usize = 40;

/// Everything about a case.
pub fn shown(case: &Case) -> String {
    let mut text = String::new();
    let opset = case.model.opset_import.first().map_or(0, |opset| opset.version);
    let how = if case.is_blind { "without an example" } else { "with an example" };
    let _ = writeln!(text, "operator set {opset}, imported {how}");
    if let Some(graph) = &case.model.graph {
        graph_text(&mut text, graph, 0);
    }
    for (run, inputs) in case.runs.iter().enumerate() {
        for input in inputs {
            let _ = writeln!(text, "run {run}: {} = {}", input.name, tensor_text(&input.tensor));
        }
    }
    text
}

/// A tensor with its first elements.
pub fn tensor_text(tensor: &Tensor) -> String {
    format!("{:?}{:?} {}", tensor.dtype, tensor.shape, numbers_text(&tensor.numbers()))
}

fn numbers_text(numbers: &[f64]) -> String {
    let shown: Vec<String> =
        numbers.iter().take(ELEMENTS_MAX).map(|number| (*number as f32).to_string()).collect();
    let more = if numbers.len() > ELEMENTS_MAX { ", .." } else { "" };
    format!("({}{more})", shown.join(", "))
}

fn graph_text(text: &mut String, graph: &GraphProto, depth: usize) {
    let indent = "  ".repeat(depth + 1);
    for input in &graph.input {
        let _ = writeln!(text, "{indent}input {}", port_text(input));
    }
    for tensor in &graph.initializer {
        let _ = writeln!(text, "{indent}{} = {}", tensor.name, constant_text(tensor));
    }
    for node in &graph.node {
        let attributes: Vec<String> = node
            .attribute
            .iter()
            .filter(|attribute| attribute.g.is_none())
            .map(attribute_text)
            .collect();
        let attributes = if attributes.is_empty() {
            String::new()
        } else {
            format!(" {{{}}}", attributes.join(", "))
        };
        let inputs: Vec<String> = node
            .input
            .iter()
            .map(|name| if name.is_empty() { "_".to_owned() } else { name.clone() })
            .collect();
        let _ = writeln!(
            text,
            "{indent}{} = {}({}){attributes}",
            node.output.join(", "),
            node.op_type,
            inputs.join(", ")
        );
        for attribute in &node.attribute {
            if let Some(body) = &attribute.g {
                let _ = writeln!(text, "{indent}  {}:", attribute.name);
                graph_text(text, body, depth + 2);
            }
        }
    }
    let outputs: Vec<String> = graph.output.iter().map(port_text).collect();
    let _ = writeln!(text, "{indent}gives {}", outputs.join(", "));
}

fn port_text(port: &ValueInfoProto) -> String {
    let Some(type_proto::Value::TensorType(tensor)) =
        port.r#type.as_ref().and_then(|of| of.value.as_ref())
    else {
        return port.name.clone();
    };
    let of = DataType::try_from(tensor.elem_type).map_or("?", |of| of.as_str_name());
    let dims = match &tensor.shape {
        None => "of any shape".to_owned(),
        Some(shape) => {
            let dims = shape.dim.iter().map(|dim| match &dim.value {
                Some(dimension::Value::DimValue(size)) => size.to_string(),
                Some(dimension::Value::DimParam(name)) => format!("{name:?}"),
                None => "_".to_owned(),
            });
            format!("[{}]", dims.collect::<Vec<_>>().join(", "))
        }
    };
    format!("{}: {of} {dims}", port.name)
}

fn constant_text(tensor: &TensorProto) -> String {
    match flotilla_reference::tensor_proto(&prost::Message::encode_to_vec(tensor)) {
        Ok(tensor) => tensor_text(&tensor.tensor),
        Err(error) => error.to_string(),
    }
}

fn attribute_text(attribute: &AttributeProto) -> String {
    let value = match AttributeType::try_from(attribute.r#type) {
        Ok(AttributeType::Int) => attribute.i.to_string(),
        Ok(AttributeType::Float) => attribute.f.to_string(),
        Ok(AttributeType::Ints) => format!("{:?}", attribute.ints),
        Ok(AttributeType::Floats) => format!("{:?}", attribute.floats),
        Ok(AttributeType::String) => format!("{:?}", String::from_utf8_lossy(&attribute.s)),
        Ok(AttributeType::Strings) => {
            let texts = attribute.strings.iter().map(|text| String::from_utf8_lossy(text));
            format!("{:?}", texts.collect::<Vec<_>>())
        }
        Ok(AttributeType::Tensor) => attribute.t.as_ref().map(constant_text).unwrap_or_default(),
        _ => "..".to_owned(),
    };
    format!("{}: {value}", attribute.name)
}
