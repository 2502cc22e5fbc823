//! ONNX files: a library reads their protocol buffers, and this module walks the graph.
//!
//! [`walk`] processes the nodes in order. [`ops`] has a function for each operator, which determines the shapes of its results
//! and puts nodes into a [`Draft`]. Constants are computed during the walk ([`emit`]). Numbers in shapes are followed as
//! expressions of the inputs' dimensions ([`symbolic`]). Data-dependent numbers are read while the program runs ([`facts`]).
//! Integers that a word may not hold get two words ([`wide`]). Dimensions that must be equal, but are not proved to be, are
//! checked in each run.

mod arithmetic;
mod constant;
mod contract;
mod detach;
mod emit;
mod external;
mod facts;
mod ops;
mod order;
mod overflow;
mod pairs;
mod ranges;
mod small;
mod strings;
mod structure;
mod symbolic;
mod walk;
mod wide;
mod wiring;

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message as _;
use tract_onnx::pb::ModelProto;

use super::{ImportError, LoadOptions, Resolver, Within};
use crate::{
    graph::{Data, Draft},
    storage::Storage,
};
use constant::Constant;
use external::TensorFiles;
use flotilla_tensor::DType;

/// A folder with this file is an ONNX model.
pub(super) const FILE: &str = "model.onnx";

/// Where an ONNX model is in a folder, the first one that is there. Exporters for browsers use a sub-folder.
pub(super) const FILES: [&str; 2] = [FILE, "onnx/model.onnx"];

/// The newest supported version of the operator set.
const OPSET_MAX: i64 = 28;

/// Why an ONNX file cannot be imported.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum OnnxError {
    #[error("it is not an ONNX file, or it is cut short: {reason}")]
    Decode { reason: String },
    #[error("tensor {tensor} has {got} bytes of data, its shape {shape:?} needs {want}")]
    TensorData { tensor: String, shape: Vec<i64>, got: usize, want: u64 },
    #[error("tensor {tensor} has an impossible shape {shape:?}")]
    TensorShape { tensor: String, shape: Vec<i64> },
    #[error("external data of tensor {tensor} is unusable: {reason}")]
    External { tensor: String, reason: String },
    #[error("tensor {tensor} cannot be read: {reason}")]
    Tensor { tensor: String, reason: String },
    #[error("operator set {domain:?} of version {version} is not known, the newest known is {max}")]
    OperatorSet { domain: String, version: i64, max: i64 },
    #[error(
        "node {node}: operator {op} is of domain {domain:?}, of which the file imports no version"
    )]
    Domain { node: String, op: String, domain: String },
    #[error("input {input} cannot be used: {reason}")]
    Input { input: String, reason: String },
    #[error("node {node} ({op}) reads {value}, which is neither an input nor a node's output")]
    Missing { node: String, op: String, value: String },
    #[error("the graph has a cycle: node {node} ({op}) depends on itself through {value}")]
    Cycle { node: String, op: String, value: String },
    #[error("no dimension of an input is called {name}; there are {names:?}")]
    Dimension { name: String, names: Vec<String> },
    #[error("no node computes output {output}")]
    Output { output: String },
    #[error("node {node}: operator {op} of domain {domain:?}, version {version}, is not known")]
    Unknown { node: String, op: String, domain: String, version: i64 },
    #[error("node {node} ({op} of {inputs}) cannot be used: {reason}")]
    Operator { node: String, op: String, inputs: String, reason: String },
    #[error("its graph cannot be used: {reason}")]
    Graph { reason: String },
}

/// A model and what its tensors contain.
struct Source {
    proto: ModelProto,
    /// Contents of the graph's own tensors, by name.
    constants: HashMap<String, Constant>,
    files: TensorFiles,
}

/// A tensor of F32.
pub(super) struct Weight {
    pub(super) shape: Vec<usize>,
    /// Little-endian and row-major.
    pub(super) bytes: Bytes,
}

/// What is added to a file's graph, with its weights.
type Extension = Option<(ModelProto, Vec<(String, Weight)>)>;

/// Decodes a file.
pub(super) fn decode(bytes: &[u8]) -> Result<ModelProto, OnnxError> {
    let fail = |error: prost::DecodeError| OnnxError::Decode { reason: format!("{error:#}") };
    ModelProto::decode(bytes).map_err(fail)
}

/// Reads an ONNX file, adds what `extend` gives and keeps every symbolic dimension.
pub(super) fn import(
    resolver: &dyn Resolver,
    file: &str,
    options: &LoadOptions,
    extend: &dyn Fn(&ModelProto) -> Result<Extension, ImportError>,
) -> Result<Draft, ImportError> {
    let bytes = resolver.read(file)?;
    let beside = Within::beside(resolver, file);
    let name = file.rsplit('/').next().unwrap_or(file);
    // What cannot be taken apart is decoded as it is, which tells what is wrong.
    let small = detach::detached(&bytes, name).map_or_else(|| bytes.clone(), Bytes::from);
    let proto = decode(&small)?;
    let files = TensorFiles::of(&proto, (name, bytes), &beside)?;
    let (proto, weights) = match extend(&proto)? {
        Some(extended) => extended,
        None => (proto, Vec::new()),
    };
    Ok(read(proto, constants(weights), files, options)?)
}

fn constants(weights: impl IntoIterator<Item = (String, Weight)>) -> HashMap<String, Constant> {
    let constants = weights.into_iter().map(|(name, Weight { shape, bytes })| {
        (name, Constant { shape, data: Data::new(DType::F32, bytes), small: None, strings: None })
    });
    constants.collect()
}

/// A model whose weights are given beside it.
pub(super) fn read_with(
    proto: ModelProto,
    weights: impl IntoIterator<Item = (String, Weight)>,
    storage: Storage,
    options: &LoadOptions,
) -> Result<Draft, OnnxError> {
    read(proto, constants(weights), TensorFiles::none(storage), options)
}

fn read(
    mut proto: ModelProto,
    mut constants: HashMap<String, Constant>,
    files: TensorFiles,
    options: &LoadOptions,
) -> Result<Draft, OnnxError> {
    let Some(graph) = &mut proto.graph else {
        return Err(OnnxError::Decode { reason: "there is no graph in it".to_owned() });
    };
    for mut tensor in std::mem::take(&mut graph.initializer) {
        let constant = files.constant(&tensor)?;
        constants.insert(std::mem::take(&mut tensor.name), constant);
    }
    walk::build(&Source { proto, constants, files }, options)
}
