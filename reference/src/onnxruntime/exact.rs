//! Rewrites nodes that onnxruntime computes less exactly than the file specifies.
//!
//! Without VNNI, onnxruntime's products of unsigned activations and signed 8-bit weights add pairs of products in 16 bits, and
//! saturate. Weights that are shifted into unsigned numbers, with their zero points, have the same products and use another
//! kernel. Source: onnxruntime's documentation, "Quantize ONNX models", on U8U8 and U8S8. A `MatMulNBits` may round its
//! activations to 8 bits where the file allows that (`accuracy_level`); a reference does not.

use std::collections::{HashMap, HashSet};

use prost::Message as _;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto, tensor_proto::DataType};

use crate::OnnxFile;

/// Appended to the name of a tensor that was shifted.
const SHIFTED: &str = "/unsigned";
/// `accuracy_level` for F32.
const F32_ACCURACY: i64 = 1;

/// A product of 8-bit integers: where its operands are.
struct Product {
    domain: &'static str,
    op: &'static str,
    weights: usize,
    zero_point: usize,
    /// The zero point of the activations, if these must be unsigned for an implementation to exist.
    unsigned: Option<usize>,
}

const PRODUCTS: [Product; 7] = [
    Product { domain: "", op: "MatMulInteger", weights: 1, zero_point: 3, unsigned: None },
    Product { domain: "", op: "QLinearMatMul", weights: 3, zero_point: 5, unsigned: Some(2) },
    Product { domain: "", op: "QLinearConv", weights: 3, zero_point: 5, unsigned: Some(2) },
    Product { domain: MS, op: "DynamicQuantizeMatMul", weights: 1, zero_point: 3, unsigned: None },
    Product { domain: MS, op: "MatMulIntegerToFloat", weights: 1, zero_point: 5, unsigned: None },
    Product { domain: MS, op: "QGemm", weights: 3, zero_point: 5, unsigned: Some(2) },
    Product { domain: MS, op: "QAttention", weights: 1, zero_point: 7, unsigned: None },
];
const MS: &str = "com.microsoft";

/// The model's bytes with such nodes rewritten; `None` where there are none.
pub(super) fn rewritten(file: &OnnxFile) -> Option<Vec<u8>> {
    let mut proto = file.proto();
    let graph = proto.graph.as_mut().filter(|graph| concerns(graph))?;
    let mut rewriting = Rewriting { file, outer: Vec::new(), has_changed: false };
    rewriting.graph(graph);
    rewriting.has_changed.then(|| proto.encode_to_vec())
}

/// Whether there is a node that may have to be rewritten.
fn concerns(graph: &GraphProto) -> bool {
    graph.node.iter().any(|node| {
        let mut inner = node.attribute.iter().flat_map(|it| it.g.iter().chain(&it.graphs));
        product(node).is_some() || is_nbits(node) || inner.any(concerns)
    })
}

fn product(node: &NodeProto) -> Option<&'static Product> {
    let domain = if node.domain == "ai.onnx" { "" } else { node.domain.as_str() };
    PRODUCTS.iter().find(|product| (product.domain, product.op) == (domain, &*node.op_type))
}

fn is_nbits(node: &NodeProto) -> bool {
    node.domain == MS && node.op_type == "MatMulNBits"
}

struct Rewriting<'f> {
    file: &'f OnnxFile,
    /// Constants and types of the graphs around the current one, the outermost first.
    outer: Vec<Scope>,
    has_changed: bool,
}

/// Facts about the values of a graph, by name.
#[derive(Default)]
struct Scope {
    constants: HashMap<String, TensorProto>,
    /// Values that are unsigned 8-bit integers, whatever computes them.
    unsigned: HashSet<String>,
}

impl Rewriting<'_> {
    fn graph(&mut self, graph: &mut GraphProto) {
        self.outer.push(Scope::of(graph));
        let mut shifted: HashMap<String, TensorProto> = HashMap::new();
        for node in &mut graph.node {
            self.node(node, &mut shifted);
            for attribute in &mut node.attribute {
                let inner = attribute.g.iter_mut().chain(&mut attribute.graphs);
                inner.for_each(|inner| self.graph(inner));
            }
        }
        let mut shifted: Vec<TensorProto> = shifted.into_values().collect();
        shifted.sort_by(|a, b| a.name.cmp(&b.name));
        graph.initializer.extend(shifted);
        self.outer.pop();
    }

    fn node(&mut self, node: &mut NodeProto, shifted: &mut HashMap<String, TensorProto>) {
        if is_nbits(node) {
            for attribute in &mut node.attribute {
                if attribute.name == "accuracy_level" && attribute.i > F32_ACCURACY {
                    *attribute = AttributeProto { i: F32_ACCURACY, ..attribute.clone() };
                    self.has_changed = true;
                }
            }
        }
        let Some(product) = product(node) else { return };
        let input = |at: usize| node.input.get(at).map(String::as_str).unwrap_or_default();
        if product.unsigned.is_some_and(|at| !self.is_unsigned(input(at))) {
            return;
        }
        let Some(weights) = self.shift(input(product.weights)) else { return };
        let zero_point = match input(product.zero_point) {
            // Without a zero point it is 0.
            "" => Some(TensorProto {
                name: format!("zero{SHIFTED}"),
                data_type: DataType::Uint8 as i32,
                raw_data: vec![0x80],
                ..TensorProto::default()
            }),
            name => self.shift(name),
        };
        let Some(zero_point) = zero_point else { return };
        let length = node.input.len().max(product.zero_point + 1);
        node.input.resize(length, String::new());
        node.input[product.weights].clone_from(&weights.name);
        node.input[product.zero_point].clone_from(&zero_point.name);
        for tensor in [weights, zero_point] {
            shifted.insert(tensor.name.clone(), tensor);
        }
        self.has_changed = true;
    }

    fn is_unsigned(&self, name: &str) -> bool {
        self.outer.iter().any(|scope| scope.unsigned.contains(name))
    }

    /// A constant of signed 8-bit integers as unsigned ones that are larger by 128.
    fn shift(&self, name: &str) -> Option<TensorProto> {
        let constant = self.outer.iter().rev().find_map(|scope| scope.constants.get(name))?;
        if constant.data_type != DataType::Int8 as i32 {
            return None;
        }
        let raw_data = match self.file.raw(constant) {
            Some(bytes) => bytes.iter().map(|byte| byte ^ 0x80).collect(),
            None => constant.int32_data.iter().map(|&number| (number as u8) ^ 0x80).collect(),
        };
        Some(TensorProto {
            name: format!("{name}{SHIFTED}"),
            dims: constant.dims.clone(),
            data_type: DataType::Uint8 as i32,
            raw_data,
            ..TensorProto::default()
        })
    }
}

impl Scope {
    fn of(graph: &GraphProto) -> Scope {
        let mut scope = Scope::default();
        // A constant that is also an input may get another value.
        let is_input = |name: &str| graph.input.iter().any(|input| input.name == name);
        for tensor in graph.initializer.iter().filter(|tensor| !is_input(&tensor.name)) {
            scope.add(&tensor.name, tensor);
        }
        for node in &graph.node {
            let value = node.attribute.iter().find(|attribute| attribute.name == "value");
            match (node.op_type.as_str(), node.output.as_slice(), value) {
                ("Constant", [name], Some(AttributeProto { t: Some(tensor), .. })) => {
                    scope.add(name, tensor);
                }
                ("DynamicQuantizeLinear", [numbers, _, zero_point], _) => {
                    scope.unsigned.extend([numbers.clone(), zero_point.clone()]);
                }
                _ => {}
            }
        }
        scope
    }

    fn add(&mut self, name: &str, tensor: &TensorProto) {
        if tensor.data_type == DataType::Uint8 as i32 {
            self.unsigned.insert(name.to_owned());
        }
        if tensor.data_type == DataType::Int8 as i32 {
            self.constants.insert(name.to_owned(), tensor.clone());
        }
    }
}
