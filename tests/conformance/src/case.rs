//! Exported cases: the index with their facts, and their tensors.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use flotilla_model::golden;
use flotilla_tensor::NamedTensor;
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

/// Inputs and expected outputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DataSet {
    /// In alphabetical order.
    pub inputs: Vec<NamedTensor>,
    /// In alphabetical order.
    pub outputs: Vec<NamedTensor>,
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
    let mut tensors = golden::tensors(bytes)?;
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    for NamedTensor { name, tensor } in tensors {
        let Some((direction, name)) = name.split_once('.') else {
            bail!("a tensor is called {name}, which is neither in.NAME nor out.NAME")
        };
        match direction {
            "in" => set.inputs.push(NamedTensor::new(name, tensor)),
            "out" => set.outputs.push(NamedTensor::new(name, tensor)),
            other => {
                bail!("a tensor is called {other}.{name}, which is neither in.NAME nor out.NAME")
            }
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use flotilla_tensor::DType;

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
        let names: Vec<&str> = set.inputs.iter().map(|input| input.name.as_str()).collect();
        assert_eq!(names, ["a.b", "x"]);
        assert_eq!(set.inputs[1].tensor.bytes, 1f32.to_le_bytes());
        let output = &set.outputs[0].tensor;
        assert_eq!((output.dtype, output.shape.as_slice()), (DType::I64, &[0][..]));
    }

    #[test]
    fn unknown_names_and_types_are_refused() {
        for head in [
            r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
            r#"{"in.x":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}"#,
        ] {
            assert!(data_set(&file(head, &[0; 4])).is_err(), "{head}");
        }
    }
}
