//! Files that tests write, and the engines that run them.

use std::{collections::BTreeMap, path::PathBuf};

use flotilla_model::import::MemoryResolver;
use flotilla_reference::{Engine, FileError, OnnxFile, OnnxRuntime, onnxruntime};
use flotilla_tensor::{DType, NamedTensor, Tensor, encode};
use prost::Message as _;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    tensor_proto::{DataLocation, DataType},
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};

/// The library of `FLOTILLA_ONNXRUNTIME`, or the one of the user's data folder.
#[expect(clippy::print_stdout, reason = "a skipped test says why")]
pub(crate) fn library() -> Option<OnnxRuntime> {
    let named = std::env::var_os("FLOTILLA_ONNXRUNTIME").map(PathBuf::from);
    let home = std::env::var_os("FLOTILLA_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share/flotilla")));
    let path = named.or_else(|| onnxruntime::installed(&home?));
    let Some(path) = path else {
        println!("skipped: onnxruntime is not installed: run `cargo xtask setup`");
        return None;
    };
    Some(OnnxRuntime::load(&path).expect("a library that can be loaded"))
}

pub(crate) fn engines() -> Vec<Engine> {
    library().map(Engine::OnnxRuntime).into_iter().chain([Engine::Tract]).collect()
}

/// A file under construction.
#[derive(Default)]
pub(crate) struct Model {
    graph: GraphProto,
    domains: Vec<&'static str>,
}

impl Model {
    pub(crate) fn input(mut self, name: &str, of: DataType, shape: &[&str]) -> Model {
        self.graph.input.push(port(name, of, shape));
        self
    }

    pub(crate) fn output(mut self, name: &str, of: DataType, shape: &[&str]) -> Model {
        self.graph.output.push(port(name, of, shape));
        self
    }

    pub(crate) fn constant(mut self, name: &str, of: DataType, dims: &[i64], raw: &[u8]) -> Model {
        self.graph.initializer.push(TensorProto {
            name: name.to_owned(),
            dims: dims.to_vec(),
            data_type: of as i32,
            raw_data: raw.to_vec(),
            ..TensorProto::default()
        });
        self
    }

    pub(crate) fn external(mut self, name: &str, dims: &[i64], entries: &[(&str, &str)]) -> Model {
        let entry = |&(key, value): &(&str, &str)| StringStringEntryProto {
            key: key.to_owned(),
            value: value.to_owned(),
        };
        self.graph.initializer.push(TensorProto {
            name: name.to_owned(),
            dims: dims.to_vec(),
            data_type: DataType::Float as i32,
            data_location: Some(DataLocation::External as i32),
            external_data: entries.iter().map(entry).collect(),
            ..TensorProto::default()
        });
        self
    }

    pub(crate) fn node(
        self,
        op: &str,
        inputs: &[&str],
        outputs: &[&str],
        ints: &[(&str, i64)],
    ) -> Model {
        self.node_of("", op, inputs, outputs, ints)
    }

    pub(crate) fn node_of(
        mut self,
        domain: &'static str,
        op: &str,
        inputs: &[&str],
        outputs: &[&str],
        ints: &[(&str, i64)],
    ) -> Model {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let attribute = |&(name, i): &(&str, i64)| AttributeProto {
            name: name.to_owned(),
            r#type: 2,
            i,
            ..AttributeProto::default()
        };
        self.graph.node.push(NodeProto {
            op_type: op.to_owned(),
            domain: domain.to_owned(),
            input: owned(inputs),
            output: owned(outputs),
            attribute: ints.iter().map(attribute).collect(),
            ..NodeProto::default()
        });
        self.domains.push(domain);
        self
    }

    pub(crate) fn bytes(mut self) -> Vec<u8> {
        self.graph.name = "test".to_owned();
        let opset =
            |domain: &str, version| OperatorSetIdProto { domain: domain.to_owned(), version };
        let mut opset_import = vec![opset("", 17)];
        self.domains.sort_unstable();
        self.domains.dedup();
        let others = self.domains.iter().filter(|domain| !domain.is_empty());
        opset_import.extend(others.map(|domain| opset(domain, 1)));
        let graph = Some(self.graph);
        ModelProto { ir_version: 8, opset_import, graph, ..ModelProto::default() }.encode_to_vec()
    }

    pub(crate) fn file(self) -> OnnxFile {
        read(self.bytes(), &[]).expect("a good file")
    }
}

fn port(name: &str, of: DataType, shape: &[&str]) -> ValueInfoProto {
    let dim = |text: &&str| Dimension {
        value: Some(match text.parse() {
            Ok(size) => dimension::Value::DimValue(size),
            Err(_) => dimension::Value::DimParam((*text).to_owned()),
        }),
        ..Dimension::default()
    };
    let shape = Some(TensorShapeProto { dim: shape.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: of as i32, shape };
    let value = Some(type_proto::Value::TensorType(tensor));
    let of = Some(TypeProto { value, ..TypeProto::default() });
    ValueInfoProto { name: name.to_owned(), r#type: of, ..ValueInfoProto::default() }
}

pub(crate) fn read(model: Vec<u8>, others: &[(&str, Vec<u8>)]) -> Result<OnnxFile, FileError> {
    let others = others.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone().into()));
    let files: BTreeMap<_, _> = others.chain([("model.onnx".to_owned(), model.into())]).collect();
    OnnxFile::read(&MemoryResolver { files }, "model.onnx")
}

pub(crate) fn floats(values: &[f32]) -> Vec<u8> {
    encode(values, f32::to_le_bytes)
}

pub(crate) fn tensor(name: &str, dtype: DType, shape: &[usize], bytes: Vec<u8>) -> NamedTensor {
    NamedTensor::new(name, Tensor { dtype, shape: shape.to_vec(), bytes })
}
