//! ONNX's file format of one tensor, as the folders `test_data_set_N` hold it.

use flotilla_tensor::{DType, NamedTensor, Tensor, encode};
use prost::Message as _;
use tract_onnx::pb::{TensorProto, tensor_proto::DataType};

use crate::file::is_external;

/// Why bytes are not a tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum TensorProtoError {
    #[error("it is not an ONNX tensor, or it is cut short: {reason}")]
    Decode { reason: String },
    #[error("it holds {kind}, which is not supported for inputs and outputs")]
    Type { kind: String },
    #[error("its data lie in another file")]
    External,
    #[error("a shape of {shape:?} needs {want} bytes of data, there are {got}")]
    Length { shape: Vec<i64>, got: usize, want: u64 },
}

/// Reads a `TensorProto`; its name may be empty.
///
/// # Errors
/// Damaged bytes, or a type that no model has.
pub fn tensor_proto(bytes: &[u8]) -> Result<NamedTensor, TensorProtoError> {
    let tensor = TensorProto::decode(bytes)
        .map_err(|error| TensorProtoError::Decode { reason: error.to_string() })?;
    if is_external(&tensor) {
        return Err(TensorProtoError::External);
    }
    let kind = DataType::try_from(tensor.data_type);
    let other = || TensorProtoError::Type {
        kind: kind.map_or_else(|_| "no tensor".to_owned(), |kind| kind.as_str_name().to_owned()),
    };
    let dtype = match kind {
        Ok(DataType::Float) => DType::F32,
        Ok(DataType::Double) => DType::F64,
        Ok(DataType::Float16) => DType::F16,
        Ok(DataType::Bfloat16) => DType::BF16,
        Ok(DataType::Int64) => DType::I64,
        Ok(DataType::Int32) => DType::I32,
        Ok(DataType::Int16) => DType::I16,
        Ok(DataType::Int8) => DType::I8,
        Ok(DataType::Uint64) => DType::U64,
        Ok(DataType::Uint32) => DType::U32,
        Ok(DataType::Uint16) => DType::U16,
        Ok(DataType::Uint8) => DType::U8,
        Ok(DataType::Bool) => DType::Bool,
        _ => return Err(other()),
    };
    let width = dtype.wire_bytes();
    let data = if tensor.raw_data.is_empty() { fields(&tensor, width) } else { tensor.raw_data };
    let want = tensor
        .dims
        .iter()
        .try_fold(width as u64, |bytes, &dim| bytes.checked_mul(u64::try_from(dim).ok()?));
    if want != Some(data.len() as u64) {
        let want = want.unwrap_or(u64::MAX);
        return Err(TensorProtoError::Length { shape: tensor.dims, got: data.len(), want });
    }
    let shape = tensor.dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).collect();
    Ok(NamedTensor::new(tensor.name, Tensor { dtype, shape, bytes: data }))
}

/// The elements of a typed field, each in the type's own width. Narrow types are kept in wider fields.
fn fields(tensor: &TensorProto, width: usize) -> Vec<u8> {
    let cut = |bytes: [u8; 8]| bytes[..width].to_vec();
    let narrow = tensor.int32_data.iter().flat_map(|&number| cut(i64::from(number).to_le_bytes()));
    let floats = encode(&tensor.float_data, f32::to_le_bytes);
    let doubles = encode(&tensor.double_data, f64::to_le_bytes);
    let signed = encode(&tensor.int64_data, i64::to_le_bytes);
    let unsigned = tensor.uint64_data.iter().flat_map(|&number| cut(number.to_le_bytes()));
    narrow.chain(floats).chain(doubles).chain(signed).chain(unsigned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_read_from_either_field() {
        let base = TensorProto {
            name: "x".to_owned(),
            dims: vec![2],
            data_type: DataType::Int8 as i32,
            ..TensorProto::default()
        };
        let raw = TensorProto { raw_data: vec![0xff, 2], ..base.clone() };
        let typed = TensorProto { int32_data: vec![-1, 2], ..base.clone() };
        for tensor in [raw, typed] {
            let got = tensor_proto(&tensor.encode_to_vec()).expect("reads");
            assert_eq!(got.name, "x");
            assert_eq!((got.tensor.dtype, got.tensor.bytes), (DType::I8, vec![0xff, 2]));
        }
        let data_type = DataType::Double as i32;
        let double =
            TensorProto { data_type, dims: vec![], double_data: vec![0.1], ..base.clone() };
        let NamedTensor { tensor: got, .. } = tensor_proto(&double.encode_to_vec()).expect("reads");
        assert_eq!((got.dtype, got.numbers()), (DType::F64, vec![0.1]));
        let error = tensor_proto(&base.encode_to_vec()).expect_err("no data");
        assert!(matches!(error, TensorProtoError::Length { got: 0, want: 2, .. }), "{error}");
        let huge = TensorProto { dims: vec![i64::MAX, 16], ..base.clone() };
        assert!(tensor_proto(&huge.encode_to_vec()).is_err());
        let text = TensorProto { data_type: DataType::String as i32, ..base };
        let error = tensor_proto(&text.encode_to_vec()).expect_err("text");
        assert!(error.to_string().contains("STRING"), "{error}");
        assert!(matches!(tensor_proto(b"\xff\xff"), Err(TensorProtoError::Decode { .. })));
    }
}
