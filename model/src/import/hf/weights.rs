//! `model.safetensors`: named tensors, checked before they are used.

use safetensors::{Dtype, SafeTensors};
use tract_onnx::prelude::Tensor;

use super::HfError;

/// A parsed weight file; its bytes are borrowed until each tensor is taken.
pub(super) struct WeightFile<'b> {
    file: &'static str,
    tensors: SafeTensors<'b>,
    /// What stands before every name: `bert.` where the model was saved with a head.
    prefix: &'static str,
}

impl<'b> WeightFile<'b> {
    pub(super) fn parse(file: &'static str, bytes: &'b [u8]) -> Result<WeightFile<'b>, HfError> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| HfError::Weights {
            file: file.to_owned(),
            reason: error.to_string(),
        })?;
        let prefix =
            if tensors.names().iter().any(|name| name.starts_with("bert.")) { "bert." } else { "" };
        Ok(WeightFile { file, tensors, prefix })
    }

    /// A tensor as `F32`, when it has the expected shape.
    pub(super) fn tensor(&self, name: &str, want: &[usize]) -> Result<Tensor, HfError> {
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
        let values: Vec<f32> = match view.dtype() {
            Dtype::F32 => bytes
                .chunks_exact(4)
                .map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]]))
                .collect(),
            Dtype::F16 => bytes
                .chunks_exact(2)
                .map(|c| half::f16::from_le_bytes([c[0], c[1]]).to_f32())
                .collect(),
            Dtype::BF16 => bytes
                .chunks_exact(2)
                .map(|c| half::bf16::from_le_bytes([c[0], c[1]]).to_f32())
                .collect(),
            other => return Err(HfError::Type { file, tensor: full, dtype: format!("{other:?}") }),
        };
        Tensor::from_shape(want, &values)
            .map_err(|error| HfError::Weights { file, reason: format!("{full}: {error}") })
    }
}
