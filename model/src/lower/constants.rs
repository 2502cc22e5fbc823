//! Constants in the form that a page stores them in.

use std::sync::Arc;

use tract_onnx::prelude::{Datum, DatumType, Tensor};

use super::draft::Data;
use crate::program::DType;

/// Why a constant cannot be stored.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum ConstantError {
    #[error("constants of type {dtype} are not supported")]
    Type { dtype: String },
    #[error("{value} does not fit 32 bits")]
    Range { value: String },
}

/// A tensor's elements as little-endian bytes of the storage type.
pub(crate) fn storage_data(tensor: &Arc<Tensor>) -> Result<(DType, Data), ConstantError> {
    let shared = || Data::Tensor(Arc::clone(tensor));
    Ok(match tensor.datum_type() {
        DatumType::F32 => (DType::F32, shared()),
        DatumType::F16 => (DType::F16, shared()),
        DatumType::I32 => (DType::I32, shared()),
        DatumType::U32 => (DType::U32, shared()),
        // i64::MAX and its neighbours stand for "to the end" in slices, which are lowered from dimensions and never
        // get here; anywhere else a number that does not fit would change the result.
        DatumType::I64 => (
            DType::I32,
            narrowed(tensor, |value: i64| Some(i32::try_from(value).ok()?.to_le_bytes()))?,
        ),
        DatumType::I16 => {
            (DType::I32, narrowed(tensor, |value: i16| Some(i32::from(value).to_le_bytes()))?)
        }
        DatumType::I8 => {
            (DType::I32, narrowed(tensor, |value: i8| Some(i32::from(value).to_le_bytes()))?)
        }
        DatumType::U64 => (
            DType::U32,
            narrowed(tensor, |value: u64| Some(u32::try_from(value).ok()?.to_le_bytes()))?,
        ),
        DatumType::U16 => {
            (DType::U32, narrowed(tensor, |value: u16| Some(u32::from(value).to_le_bytes()))?)
        }
        DatumType::U8 => {
            (DType::U32, narrowed(tensor, |value: u8| Some(u32::from(value).to_le_bytes()))?)
        }
        DatumType::Bool => {
            (DType::Bool, narrowed(tensor, |value: bool| Some(u32::from(value).to_le_bytes()))?)
        }
        other => return Err(ConstantError::Type { dtype: format!("{other:?}") }),
    })
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
