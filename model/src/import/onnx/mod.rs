//! ONNX files: parsed by tract, walked by us.
//!
//! [`graph`] goes through the nodes in order and builds tract's typed graph, with exact types and shapes at every step. An
//! operator is wired by our own function where [`ops`] has one, else by tract's importer ([`library`]). What a shape
//! depends on must be known by then; inputs that decide shapes ([`structure`]) are given values when the model is loaded.

mod arithmetic;
mod bf16;
mod convolve;
mod external;
mod graph;
mod library;
mod ops;
mod order;
mod products;
mod program_op;
mod quotient;
mod reals;
mod size;
mod structure;
mod wiring;

use std::collections::{BTreeMap, HashMap};

use tract_onnx::prelude::Framework;

use super::{Family, ImportError, Imported, Resolver};
use crate::reference::ReferenceTensor;
pub(crate) use convolve::Convolve;
use external::ExternalData;
pub(crate) use program_op::{Counted, ProgramOp};
pub(crate) use reals::ToReal;

/// The file that makes a folder an ONNX model.
pub(super) const FILE: &str = "model.onnx";

/// The newest version of the operator set that is understood.
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
    #[error("operator set {domain:?} is not known")]
    Domain { domain: String },
    #[error("input {input} cannot be used: {reason}")]
    Input { input: String, reason: String },
    #[error("node {node} ({op}) reads {value}, which no node and no input gives")]
    Missing { node: String, op: String, value: String },
    #[error("the graph has a cycle: node {node} ({op}) depends on itself through {value}")]
    Cycle { node: String, op: String, value: String },
    #[error("output {output} is given by no node")]
    Output { output: String },
    #[error("node {node}: operator {op} of domain {domain:?}, version {version}, is not known")]
    Unknown { node: String, op: String, domain: String, version: i64 },
    #[error("node {node} ({op} of {inputs}) cannot be used: {reason}")]
    Operator { node: String, op: String, inputs: String, reason: String },
    #[error("its graph cannot be typed: {reason}")]
    Graph { reason: String },
}

impl OnnxError {
    /// With tract's chain of causes in one line.
    pub(super) fn graph(error: tract_onnx::prelude::TractError) -> OnnxError {
        OnnxError::Graph { reason: format!("{error:#}") }
    }
}

/// Reads and types an ONNX file, every symbolic dimension kept. `values` has the inputs that decide shapes.
pub(super) fn import(
    resolver: &dyn Resolver,
    file: &str,
    values: &BTreeMap<String, ReferenceTensor>,
) -> Result<Imported, ImportError> {
    let bytes = resolver.read(file)?;
    let onnx = tract_onnx::onnx();
    let decode =
        |error: tract_onnx::prelude::TractError| OnnxError::Decode { reason: format!("{error:#}") };
    let mut proto = onnx.proto_model_for_read(&mut bytes.as_ref()).map_err(decode)?;
    drop(bytes);
    if proto.graph.is_none() {
        return Err(OnnxError::Decode { reason: "there is no graph in it".to_owned() }.into());
    }
    ExternalData { resolver, files: HashMap::new() }.inline_model(&mut proto)?;
    let graph::Built { mut graph, outputs, fixed, bf16 } = graph::build(&onnx, &proto, values)?;
    drop(proto);
    products::protect(&mut graph);
    quotient::protect(&mut graph);
    reals::protect(&mut graph);
    Ok(Imported { graph, family: Family::Tensors, outputs, fixed, bf16 })
}
