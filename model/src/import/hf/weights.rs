//! Safetensors files: named tensors, in one file or in several with an index, checked before they are used.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use safetensors::{Dtype, SafeTensors};

use super::{HfError, ImportError, Resolver, read_json};
use crate::{import::onnx::Weight, resolver::confined, storage::Storage};

/// Weights in one file.
pub(super) const WHOLE: &str = "model.safetensors";
/// The list of the files that weights are divided into.
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// Weights as Python objects, which are not read because reading them runs code of the file.
pub(in crate::import) const PICKLE: &str = "pytorch_model.bin";

/// The tensors of a model or of a module.
#[derive(Default)]
pub(super) struct Tensors {
    /// The file or the index, for messages.
    file: String,
    tensors: BTreeMap<String, Entry>,
    storage: Storage,
    /// Before every name: `bert.` if the model was saved with a head.
    prefix: String,
}

/// A tensor as it is in its file.
struct Entry {
    file: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Bytes,
}

/// The names of the files that tensors are in.
#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Tensors {
    /// Whether a folder (`""` or one that ends in `/`) has weights that can be read.
    pub(super) fn are_in(resolver: &dyn Resolver, folder: &str) -> bool {
        [WHOLE, INDEX].iter().any(|file| resolver.exists(&format!("{folder}{file}")))
    }

    /// Reads the weights of a folder, `""` or one that ends in `/`.
    ///
    /// # Errors
    /// A file is missing or damaged, two files have the same tensor, or there are only Python objects.
    pub(super) fn read(resolver: &dyn Resolver, folder: &str) -> Result<Tensors, ImportError> {
        let [whole, index, pickle] = [WHOLE, INDEX, PICKLE].map(|file| format!("{folder}{file}"));
        let mut tensors = Tensors { storage: resolver.storage(), ..Tensors::default() };
        if !resolver.exists(&whole) && resolver.exists(&index) {
            let Index { weight_map } = read_json(resolver, &index)?;
            let files: BTreeSet<&String> = weight_map.values().collect();
            for file in files {
                let file = confined(&format!("{folder}{file}"))?;
                tensors.add(&file, &resolver.read(&file)?)?;
            }
            if let Some(missing) =
                weight_map.keys().find(|&name| !tensors.tensors.contains_key(name))
            {
                return Err(HfError::Tensor { file: index, tensor: missing.clone() }.into());
            }
            tensors.file = index;
            return Ok(tensors);
        }
        if !resolver.exists(&whole) && resolver.exists(&pickle) {
            return Err(HfError::Pickle { file: pickle }.into());
        }
        tensors.add(&whole, &resolver.read(&whole)?)?;
        tensors.file = whole;
        Ok(tensors)
    }

    fn add(&mut self, file: &str, bytes: &Bytes) -> Result<(), HfError> {
        let parsed = SafeTensors::deserialize(bytes).map_err(|error| HfError::Weights {
            file: file.to_owned(),
            reason: error.to_string(),
        })?;
        for (name, view) in parsed.iter() {
            let entry = Entry {
                file: file.to_owned(),
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                bytes: bytes.slice_ref(view.data()),
            };
            if let Some(Entry { file: first, .. }) = self.tensors.insert(name.to_owned(), entry) {
                let reason = format!("tensor {name} is in {first}, too");
                return Err(HfError::Weights { file: file.to_owned(), reason });
            }
        }
        Ok(())
    }

    /// Finds what stands before every name of the encoder: `anchor` is a name that each model of an architecture has. Models
    /// that were saved with a head have a prefix such as `bert.`.
    ///
    /// # Errors
    /// No tensor has the name, or several have.
    pub(super) fn find_prefix(&mut self, anchor: &str) -> Result<(), HfError> {
        let before = |name: &String| {
            let prefix = name.strip_suffix(anchor)?;
            (prefix.is_empty() || prefix.ends_with('.')).then(|| prefix.to_owned())
        };
        let mut prefixes = self.tensors.keys().filter_map(before);
        let file = self.file.clone();
        match (prefixes.next(), prefixes.next()) {
            (Some(prefix), None) => self.prefix = prefix,
            (None, _) => return Err(HfError::Tensor { file, tensor: anchor.to_owned() }),
            (Some(first), Some(second)) => {
                let reason = format!("both {first}{anchor} and {second}{anchor} are in it");
                return Err(HfError::Weights { file, reason });
            }
        }
        Ok(())
    }

    /// Whether there is a tensor of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(&format!("{}{name}", self.prefix))
    }

    /// The name of the scale or of the shift of a normalization: `weight` and `bias`, or `gamma` and `beta`, as TensorFlow has
    /// them.
    ///
    /// # Errors
    /// Both are there, and nothing tells which one counts.
    pub(super) fn either(&self, name: &str, usual: &str, other: &str) -> Result<String, HfError> {
        let [usual, other] = [usual, other].map(|part| format!("{name}.{part}"));
        match (self.has(&usual), self.has(&other)) {
            (true, true) => Err(HfError::Both {
                file: self.file.clone(),
                first: format!("{}{usual}", self.prefix),
                second: format!("{}{other}", self.prefix),
            }),
            (false, true) => Ok(other),
            (_, false) => Ok(usual),
        }
    }

    /// A tensor as `F32`, if it has the expected shape; a slice of the file if it is `F32` there.
    ///
    /// # Errors
    /// It is not there, or has another shape or a type that is not a float.
    pub(super) fn weight(&self, name: &str, want: &[usize]) -> Result<Weight, HfError> {
        let full = format!("{}{name}", self.prefix);
        let Some(Entry { file, dtype, shape, bytes }) = self.tensors.get(&full) else {
            return Err(HfError::Tensor { file: self.file.clone(), tensor: full });
        };
        let file = file.clone();
        if shape != want {
            let (got, want) = (shape.clone(), want.to_vec());
            return Err(HfError::Shape { file, tensor: full, got, want });
        }
        let halves = || bytes.as_chunks::<2>().0.iter();
        let widened: Bytes = match dtype {
            Dtype::F32 => return Ok(Weight { shape: shape.clone(), bytes: bytes.clone() }),
            Dtype::F16 => halves()
                .flat_map(|half| half::f16::from_le_bytes(*half).to_f32().to_le_bytes())
                .collect(),
            Dtype::BF16 => halves()
                .flat_map(|half| half::bf16::from_le_bytes(*half).to_f32().to_le_bytes())
                .collect(),
            other => {
                return Err(HfError::Type { file, tensor: full, dtype: format!("{other:?}") });
            }
        };
        self.storage.release(bytes);
        Ok(Weight { shape: shape.clone(), bytes: self.storage.keep(widened) })
    }

    /// Where constants go that are made of other numbers.
    pub(super) fn storage(&self) -> &Storage {
        &self.storage
    }
}
