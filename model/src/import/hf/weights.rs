//! `model.safetensors`: named tensors, checked before they are used.

use bytes::Bytes;
use safetensors::{Dtype, SafeTensors};

use super::HfError;
use crate::storage::Storage;

/// A parsed weight file.
pub(super) struct WeightFile<'b> {
    file: &'static str,
    bytes: &'b Bytes,
    storage: Storage,
    tensors: SafeTensors<'b>,
    /// Prefix of every name: `bert.` if the model was saved with a head.
    prefix: &'static str,
}

impl<'b> WeightFile<'b> {
    pub(super) fn parse(
        file: &'static str,
        bytes: &'b Bytes,
        storage: Storage,
    ) -> Result<WeightFile<'b>, HfError> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| HfError::Weights {
            file: file.to_owned(),
            reason: error.to_string(),
        })?;
        let prefix =
            if tensors.names().iter().any(|name| name.starts_with("bert.")) { "bert." } else { "" };
        Ok(WeightFile { file, bytes, storage, tensors, prefix })
    }

    /// A tensor's bytes as `F32`, if it has the expected shape; a slice of the file if it is `F32` there.
    pub(super) fn tensor(&self, name: &str, want: &[usize]) -> Result<Bytes, HfError> {
        let (file, full) = (self.file.to_owned(), format!("{}{name}", self.prefix));
        let Ok(view) = self.tensors.tensor(&full) else {
            return Err(HfError::Tensor { file, tensor: full });
        };
        if view.shape() != want {
            return Err(HfError::Shape {
                file,
                tensor: full,
                got: view.shape().to_vec(),
                want: want.to_vec(),
            });
        }
        let bytes = view.data();
        let halves = || bytes.as_chunks::<2>().0.iter();
        let widened: Bytes = match view.dtype() {
            Dtype::F32 => return Ok(self.bytes.slice_ref(bytes)),
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
        Ok(self.storage.keep(widened))
    }
}
