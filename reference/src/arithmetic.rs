//! The arithmetic that a model is computed in, and how far two right engines may differ because of it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    str::FromStr,
};

use serde::Serialize;
use tract_onnx::pb::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, ValueInfoProto,
    tensor_proto::DataType,
};

use crate::file::element_type;

/// Greatest nesting depth of functions and subgraphs that is searched.
const DEPTH_MAX: usize = 24;
/// Noise from another order of sums alone, as a part of the root mean square.
const F32_NOISE: f64 = 5e-5;
/// Unit roundoff of half precision and of bfloat16 (IEEE 754-2019, 3.6: 11 and 8 digits).
const F16_NOISE: f64 = 1.0 / 2048.0;
const BF16_NOISE: f64 = 1.0 / 256.0;
/// Rounding to 8 bits: 255 steps over a range of 9 times the root mean square, with each step's error uniformly distributed (a
/// variance of a twelfth of its square).
const INT8_NOISE: f64 = 0.01;
/// If the file has the scales, numbers fall on the same grid in every engine: only those at the edge of a step are rounded to
/// another one. After this many roundings in a row it is assumed that any number may be.
const INT8_STATIC_FULL: f64 = 8.0;
/// A larger difference has no meaning any more (14 dB).
const NOISE_MAX: f64 = 0.2;

/// The coarsest arithmetic on the way from a model's inputs to its outputs, the finest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arithmetic {
    /// Single precision. Integers are exact.
    F32,
    /// Weights of 4 bits or fewer, which an engine may keep in half precision once it has widened them.
    Int4,
    /// Half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// 8 bits with scales in the file.
    Int8Static,
    /// 8 bits with data-dependent scales.
    Int8Dynamic,
}

impl Arithmetic {
    /// All of them.
    pub const ALL: [Arithmetic; 6] = [
        Arithmetic::F32,
        Arithmetic::Int4,
        Arithmetic::F16,
        Arithmetic::Bf16,
        Arithmetic::Int8Static,
        Arithmetic::Int8Dynamic,
    ];

    /// Name in options, tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Arithmetic::F32 => "f32",
            Arithmetic::Int4 => "int4",
            Arithmetic::F16 => "f16",
            Arithmetic::Bf16 => "bf16",
            Arithmetic::Int8Static => "int8-static",
            Arithmetic::Int8Dynamic => "int8-dynamic",
        }
    }

    /// Whether activations are rounded to 8 bits, so that two right engines differ by whole steps here and there.
    pub fn is_quantized(self) -> bool {
        matches!(self, Arithmetic::Int8Static | Arithmetic::Int8Dynamic)
    }

    /// How far two right engines may differ after this many roundings in a row: root mean square of the difference, as a part
    /// of that of the numbers. Independent errors add as the square root of their number.
    pub fn noise(self, roundings: u32) -> f64 {
        let roundings = f64::from(roundings.max(1));
        let each = match self {
            Arithmetic::F32 => return F32_NOISE,
            Arithmetic::Int4 | Arithmetic::F16 => F16_NOISE,
            Arithmetic::Bf16 => BF16_NOISE,
            Arithmetic::Int8Static => {
                INT8_NOISE * ((roundings + 2.0) / (INT8_STATIC_FULL + 2.0)).min(1.0)
            }
            Arithmetic::Int8Dynamic => INT8_NOISE,
        };
        (each * roundings.sqrt()).min(NOISE_MAX)
    }

    /// Whether a node rounds its result to this arithmetic.
    fn rounds(self, node: &NodeProto) -> bool {
        let op = node.op_type.as_str();
        match self {
            Arithmetic::F32 => false,
            Arithmetic::F16 | Arithmetic::Bf16 => !MOVES.contains(&op),
            Arithmetic::Int4 => PRODUCTS.contains(&op) || FOUR_BITS.contains(&op),
            Arithmetic::Int8Static | Arithmetic::Int8Dynamic => {
                op == "QuantizeLinear"
                    || op.starts_with("QLinear")
                    || DYNAMIC.contains(&op)
                    || allows_8_bits(node)
            }
        }
    }
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Arithmetic {
    type Err = String;

    fn from_str(text: &str) -> Result<Arithmetic, String> {
        let found = Arithmetic::ALL.into_iter().find(|arithmetic| arithmetic.name() == text);
        found.ok_or_else(|| format!("write one of {}", Arithmetic::ALL.map(Self::name).join(", ")))
    }
}

/// Operators that copy numbers.
const MOVES: [&str; 33] = [
    "Cast",
    "CastLike",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "DepthToSpace",
    "Dropout",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "Identity",
    "If",
    "Loop",
    "Max",
    "MaxPool",
    "Min",
    "NonZero",
    "Pad",
    "Relu",
    "Reshape",
    "Scan",
    "Shape",
    "Size",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Where",
];
const PRODUCTS: [&str; 5] = ["MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum"];
const FOUR_BITS: [&str; 3] = ["MatMulNBits", "MatMulBnb4", "GatherBlockQuantized"];
const DYNAMIC: [&str; 7] = [
    "DynamicQuantizeLinear",
    "DynamicQuantizeLSTM",
    "DynamicQuantizeMatMul",
    "QAttention",
    "QGemm",
    "ConvIntegerToFloat",
    "MatMulIntegerToFloat",
];
/// `accuracy_level` of a `MatMulNBits` whose activations may be rounded to 8 bits.
const ACCURACY_INT8: i64 = 4;

fn allows_8_bits(node: &NodeProto) -> bool {
    node.op_type == "MatMulNBits" && integer(node, "accuracy_level") == Some(ACCURACY_INT8)
}

fn integer(node: &NodeProto, name: &str) -> Option<i64> {
    node.attribute.iter().find(|attribute| attribute.name == name).map(|attribute| attribute.i)
}

/// A model's arithmetic, and how often each output was rounded to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Precision {
    /// The coarsest.
    pub arithmetic: Arithmetic,
    /// Roundings on the longest way to each output; 0 for one that is exact.
    roundings: BTreeMap<String, u32>,
}

impl Precision {
    /// One arithmetic for a model whose operators are not known.
    pub fn of_all(arithmetic: Arithmetic) -> Precision {
        Precision { arithmetic, roundings: BTreeMap::new() }
    }

    /// From the operators and the element types of a file, or `wished` if it is given.
    pub(crate) fn of(proto: &ModelProto, wished: Option<Arithmetic>) -> Precision {
        let Some(graph) = &proto.graph else { return Precision::of_all(Arithmetic::F32) };
        let reading = Reading::new(proto);
        let arithmetic = wished.unwrap_or_else(|| {
            let mut arithmetic = Arithmetic::F32;
            reading.coarsest(graph, &mut arithmetic, 0);
            arithmetic
        });
        Precision { arithmetic, roundings: reading.roundings(graph, arithmetic) }
    }

    /// Roundings on the longest way to an output.
    pub fn roundings(&self, output: &str) -> u32 {
        self.roundings.get(output).copied().unwrap_or(1)
    }

    /// The most of all outputs.
    pub fn roundings_max(&self) -> u32 {
        self.roundings.values().copied().max().unwrap_or(1)
    }

    /// The arithmetic of an output. It is `F32` if no node on the way to it rounds.
    pub fn of_output(&self, output: &str) -> Arithmetic {
        if self.roundings(output) == 0 { Arithmetic::F32 } else { self.arithmetic }
    }

    /// As [`Arithmetic::noise`], for an output.
    pub fn noise(&self, output: &str) -> f64 {
        self.of_output(output).noise(self.roundings(output))
    }
}

struct Reading<'p> {
    functions: HashMap<(&'p str, &'p str), &'p FunctionProto>,
}

/// Roundings on the longest way to each value.
type Depths<'p> = HashMap<&'p str, u32>;

impl<'p> Reading<'p> {
    fn new(proto: &'p ModelProto) -> Reading<'p> {
        let functions = proto.functions.iter().map(|function| {
            let name = function.name.as_deref().unwrap_or_default();
            ((function.domain.as_deref().unwrap_or_default(), name), function)
        });
        Reading { functions: functions.collect() }
    }

    fn function(&self, node: &NodeProto) -> Option<&'p FunctionProto> {
        self.functions.get(&(node.domain.as_str(), node.op_type.as_str())).copied()
    }

    fn coarsest(&self, graph: &GraphProto, arithmetic: &mut Arithmetic, depth: usize) {
        let ports = graph.input.iter().chain(&graph.output);
        let types =
            ports.filter_map(|port| Some((&port.name, element_type(port.r#type.as_ref()?)?)));
        let constants = graph
            .initializer
            .iter()
            .filter_map(|tensor| Some((&tensor.name, DataType::try_from(tensor.data_type).ok()?)));
        // A value that is only widened is stored in that type, and not computed in it.
        let is_widened = |node: &&NodeProto| node.op_type == "Cast";
        let used = graph.node.iter().filter(|node| !is_widened(node)).flat_map(|node| &node.input);
        let used: HashSet<&String> =
            used.chain(graph.output.iter().map(|port| &port.name)).collect();
        for (_, element) in types.chain(constants).filter(|(name, _)| used.contains(name)) {
            *arithmetic = (*arithmetic).max(of_type(element));
        }
        self.coarsest_of(&graph.node, arithmetic, depth);
    }

    fn coarsest_of(&self, nodes: &[NodeProto], arithmetic: &mut Arithmetic, depth: usize) {
        for node in nodes {
            *arithmetic = (*arithmetic).max(of_node(node));
            if depth >= DEPTH_MAX {
                continue;
            }
            if let Some(function) = self.function(node) {
                self.coarsest_of(&function.node, arithmetic, depth + 1);
            }
            for graph in graphs(&node.attribute) {
                self.coarsest(graph, arithmetic, depth + 1);
            }
        }
    }

    fn roundings(&self, graph: &'p GraphProto, arithmetic: Arithmetic) -> BTreeMap<String, u32> {
        let mut depths = Depths::new();
        self.walk(&graph.node, arithmetic, &mut depths, 0);
        let depth = |name: &String| depths.get(name.as_str()).copied().unwrap_or(0);
        // A narrow output is rounded once more than is counted where nothing but that rounds.
        let is_narrow = |port: &ValueInfoProto| {
            let element = port.r#type.as_ref().and_then(element_type);
            element.is_some_and(|element| of_type(element) > Arithmetic::F32)
        };
        let one = |port: &ValueInfoProto| {
            (port.name.clone(), depth(&port.name).max(u32::from(is_narrow(port))))
        };
        graph.output.iter().map(one).collect()
    }

    /// Adds the depths of these nodes' results. A body counts once, however often it runs.
    fn walk(
        &self,
        nodes: &'p [NodeProto],
        arithmetic: Arithmetic,
        depths: &mut Depths<'p>,
        level: usize,
    ) {
        for node in nodes {
            let known = |name: &String| depths.get(name.as_str()).copied().unwrap_or(0);
            let before = node.input.iter().map(known).max().unwrap_or(0);
            let mut within = u32::from(arithmetic.rounds(node));
            let mut inner = |nodes: &'p [NodeProto], outer: Depths<'p>| {
                let mut inside = outer;
                if level < DEPTH_MAX {
                    self.walk(nodes, arithmetic, &mut inside, level + 1);
                }
                within = within.max(inside.into_values().max().unwrap_or(0));
            };
            if let Some(function) = self.function(node) {
                inner(&function.node, Depths::new());
            }
            for graph in graphs(&node.attribute) {
                inner(&graph.node, Depths::new());
            }
            for (at, output) in node.output.iter().enumerate() {
                // The scale that belongs to rounded numbers is not rounded.
                let is_scale = node.op_type == "DynamicQuantizeLinear" && at == 1;
                let within = if is_scale { 0 } else { within };
                depths.insert(output, before.saturating_add(within));
            }
        }
    }
}

fn graphs(attributes: &[AttributeProto]) -> impl Iterator<Item = &GraphProto> {
    attributes.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs))
}

fn of_type(element: DataType) -> Arithmetic {
    match element {
        DataType::Float16 => Arithmetic::F16,
        DataType::Bfloat16 => Arithmetic::Bf16,
        DataType::Uint4 | DataType::Int4 | DataType::Float4e2m1 => Arithmetic::Int4,
        _ => Arithmetic::F32,
    }
}

fn of_node(node: &NodeProto) -> Arithmetic {
    let op = node.op_type.as_str();
    if DYNAMIC.contains(&op) || allows_8_bits(node) {
        return Arithmetic::Int8Dynamic;
    }
    if op == "QuantizeLinear" || op.starts_with("QLinear") {
        return Arithmetic::Int8Static;
    }
    let few_bits = op == "MatMulNBits" && integer(node, "bits").unwrap_or(4) <= 4;
    if few_bits || op == "MatMulBnb4" || op == "GatherBlockQuantized" {
        return Arithmetic::Int4;
    }
    let made = match op {
        "Cast" => integer(node, "to").and_then(|to| DataType::try_from(to as i32).ok()),
        "Constant" => {
            let value = node.attribute.iter().find(|attribute| attribute.name == "value");
            let tensor = value.and_then(|attribute| attribute.t.as_ref());
            tensor.and_then(|tensor| DataType::try_from(tensor.data_type).ok())
        }
        _ => None,
    };
    made.map_or(Arithmetic::F32, of_type)
}
