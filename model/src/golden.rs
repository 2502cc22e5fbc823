//! A model's inputs and expected outputs: tensors called `in.NAME` and `out.NAME`, or by the model's own names.

pub mod npy;

use flotilla_tensor::{DType, NamedTensor, Tensor};
use safetensors::{Dtype, SafeTensors};

/// The inputs of a model and its expected outputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Golden {
    /// Inputs by name, including inputs that decide shapes.
    pub inputs: Vec<NamedTensor>,
    /// Outputs by name; there may be fewer than the model has, or none.
    pub outputs: Vec<NamedTensor>,
}

/// The model's names of its inputs and outputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// In the model's order.
    pub inputs: Vec<String>,
    /// In the model's order.
    pub outputs: Vec<String>,
}

/// Why bytes are not a golden.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum GoldenError {
    #[error("it is not a safetensors file, or it is cut short: {reason}")]
    Damaged { reason: String },
    #[error(
        "tensor {tensor} is neither in.NAME nor out.NAME, nor an input ({inputs:?}) or an output ({outputs:?}) of the model"
    )]
    Name { tensor: String, inputs: Vec<String>, outputs: Vec<String> },
    #[error("tensor {tensor} holds {dtype}, which is not supported for inputs and outputs")]
    Type { tensor: String, dtype: String },
    #[error("it contains no input")]
    NoInput,
    #[error("tensor {tensor} occurs twice")]
    Twice { tensor: String },
}

impl Golden {
    /// Reads the contents of a safetensors file.
    ///
    /// # Errors
    /// Not such a file, or as [`Golden::of`].
    pub fn parse(bytes: &[u8], names: &Names) -> Result<Golden, GoldenError> {
        Golden::of(tensors(bytes)?, names)
    }

    /// Sorts tensors into inputs and outputs: by the model's own names, or else by the prefix of their names.
    ///
    /// # Errors
    /// A tensor that is neither, or as [`Golden::new`].
    pub fn of(tensors: Vec<NamedTensor>, names: &Names) -> Result<Golden, GoldenError> {
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for mut tensor in tensors {
            let full = tensor.name.clone();
            // If the model has an input called `in.x`, the tensor is that input, not its input `x`.
            let side = if names.inputs.contains(&full) {
                &mut inputs
            } else if names.outputs.contains(&full) {
                &mut outputs
            } else if let Some(name) = full.strip_prefix("in.") {
                name.clone_into(&mut tensor.name);
                &mut inputs
            } else if let Some(name) = full.strip_prefix("out.") {
                name.clone_into(&mut tensor.name);
                &mut outputs
            } else {
                let Names { inputs, outputs } = names.clone();
                return Err(GoldenError::Name { tensor: full, inputs, outputs });
            };
            side.push(tensor);
        }
        Golden::new(inputs, outputs)
    }

    /// A golden with these inputs and outputs.
    ///
    /// # Errors
    /// A tensor that occurs twice, or no input.
    pub fn new(
        mut inputs: Vec<NamedTensor>,
        mut outputs: Vec<NamedTensor>,
    ) -> Result<Golden, GoldenError> {
        for side in [&mut inputs, &mut outputs] {
            // The order of tensors in a file has no meaning.
            side.sort_by(|a, b| a.name.cmp(&b.name));
            if let Some([twice, _]) = side.array_windows().find(|[a, b]| a.name == b.name) {
                return Err(GoldenError::Twice { tensor: twice.name.clone() });
            }
        }
        if inputs.is_empty() {
            return Err(GoldenError::NoInput);
        }
        Ok(Golden { inputs, outputs })
    }
}

/// The tensors of a safetensors file, in any order.
///
/// # Errors
/// Not such a file, or a type that no model has.
pub fn tensors(bytes: &[u8]) -> Result<Vec<NamedTensor>, GoldenError> {
    let tensors = SafeTensors::deserialize(bytes)
        .map_err(|error| GoldenError::Damaged { reason: error.to_string() })?;
    let tensors = tensors.iter().map(|(name, view)| {
        let dtype = dtype(view.dtype()).ok_or_else(|| GoldenError::Type {
            tensor: name.to_owned(),
            dtype: format!("{:?}", view.dtype()),
        })?;
        let (shape, bytes) = (view.shape().to_vec(), view.data().to_vec());
        Ok(NamedTensor::new(name, Tensor { dtype, shape, bytes }))
    });
    tensors.collect()
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
        let parse = |tensors: &[_]| Golden::parse(&file(tensors), &Names::default());
        let ids = ("in.ids", Dtype::I64, vec![1, 2], [3i64, 4].map(i64::to_le_bytes).concat());
        let logits = ("out.logits", Dtype::F32, vec![1], 0.5f32.to_le_bytes().to_vec());
        let golden = parse(&[logits.clone(), ids.clone()]).expect("a golden");
        let input = Tensor::from_i64(vec![1, 2], &[3, 4]).expect("fits");
        let output = Tensor::from_f32(vec![1], &[0.5]).expect("fits");
        assert_eq!(golden.inputs, [NamedTensor::new("ids", input)]);
        assert_eq!(golden.outputs, [NamedTensor::new("logits", output)]);
        assert_eq!(parse(&[logits]), Err(GoldenError::NoInput));
        let other = ("weight", Dtype::F32, vec![1], vec![0; 4]);
        assert!(matches!(parse(&[ids, other]), Err(GoldenError::Name { .. })));
        let small = ("in.x", Dtype::F8_E5M2, vec![1], vec![0; 1]);
        assert!(matches!(parse(&[small]), Err(GoldenError::Type { .. })));
        let text = Golden::parse(b"text", &Names::default());
        assert!(matches!(text, Err(GoldenError::Damaged { .. })));
    }

    #[test]
    fn the_models_own_names_are_accepted() {
        let half = Tensor::from_f32(vec![1], &[0.5]).expect("fits");
        let tensor = |name: &str| NamedTensor::new(name, half.clone());
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let names = Names { inputs: owned(&["in.x", "y"]), outputs: owned(&["z"]) };
        let golden = Golden::of(vec![tensor("z"), tensor("y"), tensor("in.x")], &names);
        let golden = golden.expect("a golden");
        assert_eq!(golden.inputs, [tensor("in.x"), tensor("y")]);
        assert_eq!(golden.outputs, [tensor("z")]);
        let twice = Golden::of(vec![tensor("y"), tensor("in.y")], &names);
        assert!(matches!(twice, Err(GoldenError::Twice { .. })));
        let error = Golden::of(vec![tensor("w")], &names).expect_err("no such name").to_string();
        assert!(error.contains("in.x") && error.contains('z'), "{error}");
    }
}
