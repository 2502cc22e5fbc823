//! Tensors as they are transferred: element type, shape and little-endian, row-major bytes.

use flotilla_program::DType;

/// Most dimensions of a tensor.
pub const RANK_MAX: usize = 8;

/// A tensor with its bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Element type.
    pub dtype: DType,
    /// Row-major shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// Little-endian elements.
    pub bytes: Vec<u8>,
}

/// Why bytes and shape do not make a tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum TensorError {
    #[error("shape {shape:?} of {dtype:?} needs {want} bytes, {got} given")]
    Length { dtype: DType, shape: Vec<usize>, want: u64, got: usize },
    #[error("shape {shape:?} has more elements than memory could hold")]
    TooLarge { shape: Vec<usize> },
    #[error("{rank} dimensions, the limit is {RANK_MAX}")]
    Rank { rank: usize },
    #[error("tensor holds {got:?}, {want:?} was asked for")]
    Type { got: DType, want: DType },
}

impl Tensor {
    /// A tensor of these bytes.
    ///
    /// # Errors
    /// The length does not fit the shape, or the rank is over [`RANK_MAX`].
    pub fn new(dtype: DType, shape: Vec<usize>, bytes: Vec<u8>) -> Result<Tensor, TensorError> {
        if shape.len() > RANK_MAX {
            return Err(TensorError::Rank { rank: shape.len() });
        }
        let want = shape
            .iter()
            .try_fold(dtype.wire_bytes() as u64, |product, &dim| product.checked_mul(dim as u64))
            .ok_or_else(|| TensorError::TooLarge { shape: shape.clone() })?;
        if want != bytes.len() as u64 {
            return Err(TensorError::Length { dtype, shape, want, got: bytes.len() });
        }
        Ok(Tensor { dtype, shape, bytes })
    }

    /// A tensor of `f32` values; `values.len()` must be the product of `shape`.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn from_f32(shape: Vec<usize>, values: &[f32]) -> Result<Tensor, TensorError> {
        Tensor::new(
            DType::F32,
            shape,
            values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        )
    }

    /// A tensor of `i64` values; `values.len()` must be the product of `shape`.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn from_i64(shape: Vec<usize>, values: &[i64]) -> Result<Tensor, TensorError> {
        Tensor::new(
            DType::I64,
            shape,
            values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        )
    }

    /// The values of an F32 tensor.
    ///
    /// # Errors
    /// Another element type.
    pub fn to_f32(&self) -> Result<Vec<f32>, TensorError> {
        if self.dtype != DType::F32 {
            return Err(TensorError::Type { got: self.dtype, want: DType::F32 });
        }
        let (chunks, _) = self.bytes.as_chunks::<4>();
        Ok(chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect())
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}
