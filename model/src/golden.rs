//! A model's inputs and the outputs that they must give, in one safetensors file: `in.NAME` and `out.NAME`.

use safetensors::{Dtype, SafeTensors};

use crate::tensor::ReferenceTensor;
use flotilla_program::DType;

/// What a model is given and what it must answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Golden {
    /// Inputs by name; values of an input that decides shapes are among them.
    pub inputs: Vec<ReferenceTensor>,
    /// Outputs by name; there may be fewer than the model has, or none.
    pub outputs: Vec<ReferenceTensor>,
}

/// Why bytes are no golden.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum GoldenError {
    #[error("it is no safetensors file, or it is cut short: {reason}")]
    Damaged { reason: String },
    #[error("tensor {tensor} is neither in.NAME nor out.NAME")]
    Name { tensor: String },
    #[error("tensor {tensor} holds {dtype}, which no model here takes or gives")]
    Type { tensor: String, dtype: String },
    #[error("there is no in.NAME in it")]
    NoInput,
}

impl Golden {
    /// Reads the contents of a file.
    ///
    /// # Errors
    /// Not a safetensors file, a tensor that is neither input nor output, or a type that no model has.
    pub fn parse(bytes: &[u8]) -> Result<Golden, GoldenError> {
        let tensors = SafeTensors::deserialize(bytes)
            .map_err(|error| GoldenError::Damaged { reason: error.to_string() })?;
        let mut golden = Golden::default();
        for (full, view) in tensors.iter() {
            let dtype = dtype(view.dtype()).ok_or_else(|| GoldenError::Type {
                tensor: full.to_owned(),
                dtype: format!("{:?}", view.dtype()),
            })?;
            let tensor = |name: &str| ReferenceTensor {
                name: name.to_owned(),
                dtype,
                shape: view.shape().to_vec(),
                bytes: view.data().to_vec(),
            };
            match (full.strip_prefix("in."), full.strip_prefix("out.")) {
                (Some(name), _) => golden.inputs.push(tensor(name)),
                (None, Some(name)) => golden.outputs.push(tensor(name)),
                (None, None) => return Err(GoldenError::Name { tensor: full.to_owned() }),
            }
        }
        if golden.inputs.is_empty() {
            return Err(GoldenError::NoInput);
        }
        // The file keeps tensors in the order of its header, which says nothing.
        golden.inputs.sort_by(|a, b| a.name.cmp(&b.name));
        golden.outputs.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(golden)
    }
}

fn dtype(dtype: Dtype) -> Option<DType> {
    let known = [
        (Dtype::F32, DType::F32),
        (Dtype::F64, DType::F64),
        (Dtype::F16, DType::F16),
        (Dtype::BF16, DType::BF16),
        (Dtype::I64, DType::I64),
        (Dtype::I32, DType::I32),
        (Dtype::I16, DType::I16),
        (Dtype::I8, DType::I8),
        (Dtype::U64, DType::U64),
        (Dtype::U32, DType::U32),
        (Dtype::U16, DType::U16),
        (Dtype::U8, DType::U8),
        (Dtype::BOOL, DType::Bool),
    ];
    known.into_iter().find(|(theirs, _)| *theirs == dtype).map(|(_, ours)| ours)
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    fn file(tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
        let views: Vec<(&str, TensorView<'_>)> = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| {
                (*name, TensorView::new(*dtype, shape.clone(), bytes).expect("fits"))
            })
            .collect();
        safetensors::serialize(views, None).expect("serializes")
    }

    #[test]
    fn inputs_and_outputs_are_told_apart() {
        let ids = ("in.ids", Dtype::I64, vec![1, 2], [3i64, 4].map(i64::to_le_bytes).concat());
        let logits = ("out.logits", Dtype::F32, vec![1], 0.5f32.to_le_bytes().to_vec());
        let golden = Golden::parse(&file(&[logits.clone(), ids.clone()])).expect("a golden");
        assert_eq!(golden.inputs, [ReferenceTensor::from_i64("ids", vec![1, 2], &[3, 4])]);
        assert_eq!(golden.outputs, [ReferenceTensor::from_f32("logits", vec![1], &[0.5])]);
        assert_eq!(Golden::parse(&file(&[logits])), Err(GoldenError::NoInput));
        let other = ("weight", Dtype::F32, vec![1], vec![0; 4]);
        assert_eq!(
            Golden::parse(&file(&[ids, other])),
            Err(GoldenError::Name { tensor: "weight".to_owned() })
        );
        let double = ("in.x", Dtype::F8_E5M2, vec![1], vec![0; 1]);
        assert!(matches!(Golden::parse(&file(&[double])), Err(GoldenError::Type { .. })));
        assert!(matches!(Golden::parse(b"text"), Err(GoldenError::Damaged { .. })));
    }
}
