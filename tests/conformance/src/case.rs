//! Exported cases: the index with their facts, and their tensors.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use flotilla_program::DType;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

/// The name of the index in the folder of cases.
const INDEX: &str = "index.json";

/// The index that `export.py` wrote.
#[derive(Clone, Debug, Deserialize)]
pub struct Index {
    /// Version of the onnx package.
    pub onnx: String,
    /// Every case.
    pub cases: Vec<Facts>,
}

/// Where a case comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// onnx's generator of cases, one or a few nodes each.
    Node,
    /// The data folder `simple`.
    Simple,
    /// The data folder `pytorch-operator`.
    PytorchOperator,
    /// The data folder `pytorch-converted`.
    PytorchConverted,
    /// Real networks with made-up weights.
    Light,
    /// Files inside packages.
    Packaged,
}

/// The contents of a case, nested graphs and functions included.
#[derive(Clone, Debug, Deserialize)]
pub struct Facts {
    /// onnx's name; cases that are not of the generator have `@` and their kind at the end.
    pub name: String,
    /// Where it comes from.
    pub kind: Kind,
    /// Files of its data sets, inputs and outputs each.
    pub data: Vec<String>,
    /// Why a data set could not be written.
    pub no_data: Option<String>,
    /// Operator names.
    pub operators: BTreeSet<String>,
    /// Domains of operators; the empty one is ONNX's own.
    pub domains: BTreeSet<String>,
    /// Element types by their names in `TensorProto.DataType`, in lower case.
    pub types: BTreeSet<String>,
    /// Kinds of values: `tensor`, `sequence`, `optional`, `map`, `sparse`.
    pub kinds: BTreeSet<String>,
    /// Whether a 64-bit integer occurs that 32 bits do not hold.
    pub wide_integers: bool,
    /// Whether a `Dropout` draws random numbers.
    pub random_dropout: bool,
}

/// A named tensor of a data set.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Name of the input or output.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Little-endian elements.
    pub bytes: Vec<u8>,
}

/// Inputs and expected outputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DataSet {
    /// In alphabetical order.
    pub inputs: Vec<Array>,
    /// In alphabetical order.
    pub outputs: Vec<Array>,
}

impl Index {
    /// Reads the index of a folder of cases.
    ///
    /// # Errors
    /// There is none, or it is not an index.
    pub fn read(cases: &Path) -> anyhow::Result<Index> {
        let path = cases.join(INDEX);
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no index", path.display()))
    }
}

impl Facts {
    /// The facts of a file that is known by its name alone, with its data sets.
    pub fn of_file(name: &str, data: Vec<String>) -> Facts {
        Facts {
            name: name.to_owned(),
            kind: Kind::Packaged,
            data,
            no_data: None,
            operators: BTreeSet::new(),
            domains: BTreeSet::new(),
            types: BTreeSet::new(),
            kinds: BTreeSet::new(),
            wide_integers: false,
            random_dropout: false,
        }
    }

    /// The model's bytes.
    ///
    /// # Errors
    /// The file is not there.
    pub fn model(&self, cases: &Path) -> anyhow::Result<Vec<u8>> {
        read(cases.join(&self.name).join("model.onnx"))
    }

    /// One of [`Facts::data`].
    ///
    /// # Errors
    /// The file is not there, or it has a type that no port takes.
    pub fn data_set(&self, cases: &Path, file: &str) -> anyhow::Result<DataSet> {
        data_set(&read(cases.join(&self.name).join(file))?)
    }
}

fn read(path: PathBuf) -> anyhow::Result<Vec<u8>> {
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

fn data_set(bytes: &[u8]) -> anyhow::Result<DataSet> {
    let mut set = DataSet::default();
    let mut tensors = SafeTensors::deserialize(bytes)?.tensors();
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (name, view) in tensors {
        let Some((direction, name)) = name.split_once('.') else {
            bail!("a tensor is called {name}, which is neither in.NAME nor out.NAME")
        };
        let array = Array {
            name: name.to_owned(),
            dtype: dtype(view.dtype())?,
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        match direction {
            "in" => set.inputs.push(array),
            "out" => set.outputs.push(array),
            other => {
                bail!("a tensor is called {other}.{name}, which is neither in.NAME nor out.NAME")
            }
        }
    }
    Ok(set)
}

fn dtype(dtype: Dtype) -> anyhow::Result<DType> {
    Ok(match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U64 => DType::U64,
        Dtype::U32 => DType::U32,
        Dtype::U16 => DType::U16,
        Dtype::U8 => DType::U8,
        Dtype::BOOL => DType::Bool,
        other => bail!("no port takes elements of type {other:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file as `export.py` writes it.
    fn file(head: &str, data: &[u8]) -> Vec<u8> {
        let padded = format!("{head:<width$}", width = head.len().next_multiple_of(8));
        [&(padded.len() as u64).to_le_bytes()[..], padded.as_bytes(), data].concat()
    }

    #[test]
    fn a_data_set_has_inputs_and_outputs() {
        let head = r#"{"in.x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"in.a.b":{"dtype":"BOOL","shape":[],"data_offsets":[4,5]},"out.y":{"dtype":"I64","shape":[0],"data_offsets":[5,5]}}"#;
        let set = data_set(&file(head, &[0, 0, 128, 63, 1])).expect("a data set");
        let names: Vec<&str> = set.inputs.iter().map(|array| array.name.as_str()).collect();
        assert_eq!(names, ["a.b", "x"]);
        assert_eq!(set.inputs[1].bytes, 1f32.to_le_bytes());
        assert_eq!((set.outputs[0].dtype, set.outputs[0].shape.as_slice()), (DType::I64, &[0][..]));
    }

    #[test]
    fn what_no_port_takes_is_reported() {
        for head in [
            r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
            r#"{"in.x":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}"#,
        ] {
            assert!(data_set(&file(head, &[0; 4])).is_err(), "{head}");
        }
    }
}
