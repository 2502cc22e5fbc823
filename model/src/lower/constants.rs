//! Constants in the form that a page stores them in.

use std::sync::Arc;

use tract_onnx::prelude::{Datum, DatumType, Tensor};

use super::{draft::Data, element_type};
use crate::weights::OWN_BLOB_BYTES_MIN;
use flotilla_program::{DType, WORD_BYTES};

/// Why a constant cannot be stored.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum ConstantError {
    #[error("constants of type {dtype} are not supported")]
    Type { dtype: String },
    #[error("{value} does not fit 32 bits")]
    Range { value: String },
}

/// A tensor's elements as a page stores them: narrow ones stay narrow until they are loaded.
pub(crate) fn storage_data(tensor: &Arc<Tensor>) -> Result<(DType, Data), ConstantError> {
    Ok(match tensor.datum_type() {
        // i64::MAX and its neighbours stand for "to the end" in slices, which are lowered from dimensions and never
        // get here; anywhere else a number that does not fit would change the result.
        DatumType::I64 => (
            DType::I32,
            narrowed(tensor, |value: i64| Some(i32::try_from(value).ok()?.to_le_bytes()))?,
        ),
        DatumType::U64 => (
            DType::U32,
            narrowed(tensor, |value: u64| Some(u32::try_from(value).ok()?.to_le_bytes()))?,
        ),
        DatumType::F32 if let Some(halves) = upper_halves(tensor) => {
            (DType::F32, Data::Narrow(DType::BF16, halves.into()))
        }
        other => {
            let dtype = plain_dtype(other)
                .ok_or_else(|| ConstantError::Type { dtype: format!("{other:?}") })?;
            (dtype.storage(), Data::Tensor(Arc::clone(tensor)))
        }
    })
}

/// The upper halves of a large tensor's numbers, if the lower ones are empty: a model of BF16 comes as F32.
fn upper_halves(tensor: &Tensor) -> Option<Vec<u8>> {
    let bytes = tensor.as_plain_ram()?.as_bytes();
    let words = bytes.as_chunks::<WORD_BYTES>().0;
    let fits = bytes.len() >= OWN_BLOB_BYTES_MIN && words.iter().all(|word| word[..2] == [0; 2]);
    fits.then(|| words.iter().flat_map(|word| [word[2], word[3]]).collect())
}

/// Our name for an element type that is stored as it is.
pub(super) fn plain_dtype(datum_type: DatumType) -> Option<DType> {
    element_type(datum_type).filter(|dtype| dtype.wire_bytes() <= WORD_BYTES)
}

/// Elements of a narrow type as little-endian words of its storage type.
pub(super) fn widened(dtype: DType, bytes: &[u8]) -> Vec<u8> {
    fn words<const N: usize>(bytes: &[u8], word: impl Fn([u8; N]) -> [u8; 4]) -> Vec<u8> {
        bytes.as_chunks::<N>().0.iter().flat_map(|element| word(*element)).collect()
    }
    match dtype {
        DType::F16 => words(bytes, |half| half::f16::from_le_bytes(half).to_f32().to_le_bytes()),
        DType::BF16 => words(bytes, |half| half::bf16::from_le_bytes(half).to_f32().to_le_bytes()),
        DType::I16 => words(bytes, |half| i32::from(i16::from_le_bytes(half)).to_le_bytes()),
        DType::U16 => words(bytes, |half| u32::from(u16::from_le_bytes(half)).to_le_bytes()),
        DType::I8 => words(bytes, |byte| i32::from(i8::from_le_bytes(byte)).to_le_bytes()),
        DType::U8 | DType::Bool => words(bytes, |[byte]| u32::from(byte).to_le_bytes()),
        DType::F32 | DType::I32 | DType::U32 | DType::I64 | DType::U64 => bytes.to_vec(),
    }
}

fn narrowed<T: Datum + Copy>(
    tensor: &Tensor,
    convert: impl Fn(T) -> Option<[u8; 4]>,
) -> Result<Data, ConstantError> {
    let unreadable = |_| ConstantError::Type { dtype: format!("{:?}", tensor.datum_type()) };
    let plain = tensor.try_as_plain_ram().map_err(unreadable)?;
    let mut bytes = Vec::with_capacity(4 * tensor.len());
    for &element in plain.as_slice::<T>().map_err(unreadable)? {
        bytes.extend(
            convert(element).ok_or_else(|| ConstantError::Range { value: element.to_string() })?,
        );
    }
    Ok(Data::Bytes(bytes.into()))
}
