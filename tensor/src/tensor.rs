//! A tensor with its bytes.

use crate::{DType, decode, encode};

/// Most dimensions of a tensor.
pub const RANK_MAX: usize = 8;

/// An element type, a shape, and the elements' bytes, integers in their own width.
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
        let tensor = Tensor { dtype, shape, bytes };
        tensor.check()?;
        Ok(tensor)
    }

    /// Whether the bytes make a tensor of this type and shape; for one that was not made by [`Tensor::new`].
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn check(&self) -> Result<(), TensorError> {
        let Tensor { dtype, shape, bytes } = self;
        if shape.len() > RANK_MAX {
            return Err(TensorError::Rank { rank: shape.len() });
        }
        let want = dtype
            .tensor_bytes(shape)
            .ok_or_else(|| TensorError::TooLarge { shape: shape.clone() })?;
        if want != bytes.len() as u64 {
            let (dtype, shape, got) = (*dtype, shape.clone(), bytes.len());
            return Err(TensorError::Length { dtype, shape, want, got });
        }
        Ok(())
    }

    /// A tensor of `f32` values; `values.len()` must be the product of `shape`.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn from_f32(shape: Vec<usize>, values: &[f32]) -> Result<Tensor, TensorError> {
        Tensor::new(DType::F32, shape, encode(values, f32::to_le_bytes))
    }

    /// A tensor of `i64` values; `values.len()` must be the product of `shape`.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn from_i64(shape: Vec<usize>, values: &[i64]) -> Result<Tensor, TensorError> {
        Tensor::new(DType::I64, shape, encode(values, i64::to_le_bytes))
    }

    /// The values of an F32 tensor.
    ///
    /// # Errors
    /// Another element type.
    pub fn to_f32(&self) -> Result<Vec<f32>, TensorError> {
        match self.dtype {
            DType::F32 => Ok(decode(&self.bytes, f32::from_le_bytes)),
            got => Err(TensorError::Type { got, want: DType::F32 }),
        }
    }

    /// The elements as numbers, see [`DType::decode_numbers`].
    pub fn numbers(&self) -> Vec<f64> {
        self.dtype.decode_numbers(&self.bytes)
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_must_fit_the_shape() {
        let made = |shape: &[usize], bytes: usize| {
            Tensor::new(DType::F16, shape.to_vec(), vec![0; bytes]).map(|tensor| tensor.elements())
        };
        assert_eq!(made(&[2, 3], 12), Ok(6));
        assert_eq!(made(&[], 2), Ok(1));
        assert_eq!(made(&[0, usize::MAX], 0), Ok(0));
        let length =
            TensorError::Length { dtype: DType::F16, shape: vec![2, 3], want: 12, got: 11 };
        assert_eq!(made(&[2, 3], 11), Err(length));
        assert_eq!(made(&[1; RANK_MAX + 1], 2), Err(TensorError::Rank { rank: RANK_MAX + 1 }));
        let shape = vec![usize::MAX, 2];
        assert_eq!(made(&shape, 0), Err(TensorError::TooLarge { shape }));
    }

    #[test]
    fn values_come_back_in_their_own_type_only() {
        let floats = Tensor::from_f32(vec![2], &[0.5, -1.0]).expect("fits");
        assert_eq!(floats.to_f32(), Ok(vec![0.5, -1.0]));
        assert_eq!(floats.numbers(), [0.5, -1.0]);
        let integers = Tensor::from_i64(vec![1], &[-3]).expect("fits");
        let wrong = TensorError::Type { got: DType::I64, want: DType::F32 };
        assert_eq!((integers.to_f32(), integers.numbers()), (Err(wrong), vec![-3.0]));
    }
}
