//! Constants: from files, and values that are known when a model is loaded.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use flotilla_tensor::{DType, decode, encode};
use tract_onnx::pb::{TensorProto, tensor_proto::DataType};

use super::small::{First, SmallType};
use super::strings::Strings;
use crate::graph::Data;

/// A tensor whose elements are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Constant {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Data,
    /// The type of its elements in the file, if that is not the data's.
    pub(crate) small: Option<SmallType>,
    /// Of a tensor of strings: the strings that its elements are indices of.
    pub(crate) strings: Option<Strings>,
}

/// The `DType` of a file's element type. Source: ONNX, `TensorProto.DataType`.
pub(crate) fn element_type(number: i32) -> Option<DType> {
    Some(match DataType::try_from(number).ok()? {
        DataType::Float => DType::F32,
        DataType::Float16 => DType::F16,
        DataType::Bfloat16 => DType::BF16,
        DataType::Double => DType::F64,
        DataType::Int64 => DType::I64,
        DataType::Int32 => DType::I32,
        DataType::Int16 => DType::I16,
        DataType::Int8 => DType::I8,
        DataType::Uint64 => DType::U64,
        DataType::Uint32 => DType::U32,
        DataType::Uint16 => DType::U16,
        DataType::Uint8 => DType::U8,
        DataType::Bool => DType::Bool,
        _ => return None,
    })
}

impl Constant {
    pub(crate) fn new(dtype: DType, shape: &[usize], bytes: Vec<u8>) -> Constant {
        Constant {
            shape: shape.to_vec(),
            data: Data::new(dtype, bytes),
            small: None,
            strings: None,
        }
    }

    pub(crate) fn i64s(shape: &[usize], numbers: &[i64]) -> Constant {
        Constant::new(DType::I64, shape, encode(numbers, i64::to_le_bytes))
    }

    pub(crate) fn i32s(shape: &[usize], numbers: &[i32]) -> Constant {
        Constant::new(DType::I32, shape, encode(numbers, i32::to_le_bytes))
    }

    pub(crate) fn f32s(shape: &[usize], numbers: &[f32]) -> Constant {
        Constant::new(DType::F32, shape, encode(numbers, f32::to_le_bytes))
    }

    pub(crate) fn bools(shape: &[usize], truths: &[bool]) -> Constant {
        Constant::new(DType::Bool, shape, encode(truths, |truth| [u8::from(truth)]))
    }

    /// One number of a type, of rank 0; floats are rounded to it, integers are kept within it.
    pub(crate) fn scalar(dtype: DType, number: f64) -> Constant {
        Constant::new(dtype, &[], dtype.encode_numbers(&[number]))
    }

    /// Strings; equal ones get one index.
    ///
    /// # Errors
    /// Bytes that are not UTF-8, or a number of strings that does not fit the shape.
    pub(crate) fn strings(shape: &[usize], strings: &[Vec<u8>]) -> Result<Constant> {
        let count = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
        ensure!(count == Some(strings.len()), "{} strings for the shape {shape:?}", strings.len());
        let (mut table, mut places) = (Vec::new(), HashMap::new());
        let mut indices = Vec::with_capacity(strings.len());
        for bytes in strings {
            let text = std::str::from_utf8(bytes)?;
            let place = *places.entry(text).or_insert_with(|| {
                table.push(text.to_owned());
                table.len() as i64 - 1
            });
            indices.push(place);
        }
        let strings = Some(Strings::from(table));
        Ok(Constant { strings, ..Constant::i64s(shape, &indices) })
    }

    /// One integer of 64 bits, of rank 0.
    pub(crate) fn integer(number: i64) -> Constant {
        Constant::i64s(&[], &[number])
    }

    /// Its elements, if they are integers or truth values; `None` for unsigned 64-bit ones in the upper half of their
    /// range.
    pub(crate) fn integers(&self) -> Option<Vec<i64>> {
        let bytes = &self.data.bytes;
        Some(match self.data.dtype {
            DType::I64 => decode(bytes, i64::from_le_bytes),
            DType::I32 => decode(bytes, |x| i64::from(i32::from_le_bytes(x))),
            DType::I16 => decode(bytes, |x| i64::from(i16::from_le_bytes(x))),
            DType::I8 => decode(bytes, |x| i64::from(i8::from_le_bytes(x))),
            DType::U64 => {
                let wide = decode(bytes, u64::from_le_bytes).into_iter();
                return wide.map(|x| i64::try_from(x).ok()).collect();
            }
            DType::U32 => decode(bytes, |x| i64::from(u32::from_le_bytes(x))),
            DType::U16 => decode(bytes, |x| i64::from(u16::from_le_bytes(x))),
            DType::U8 | DType::Bool => decode(bytes, |[x]: [u8; 1]| i64::from(x)),
            DType::F32 | DType::F16 | DType::BF16 | DType::F64 => return None,
        })
    }

    /// Its elements as floats.
    pub(crate) fn floats(&self) -> Vec<f64> {
        self.data.dtype.decode_numbers(&self.data.bytes)
    }

    /// The contents of a tensor in a file; `external` are its bytes if they are not in `proto`.
    ///
    /// # Errors
    /// A type that is not supported, or elements that do not fit the shape.
    pub(crate) fn of_proto(proto: &TensorProto, external: Option<Bytes>) -> Result<Constant> {
        let shape =
            proto.dims.iter().map(|&dim| usize::try_from(dim)).collect::<Result<Vec<_>, _>>()?;
        if proto.data_type == DataType::String as i32 {
            return Constant::strings(&shape, &proto.string_data);
        }
        if let Some(small) = SmallType::of(proto.data_type) {
            return Constant::of_small(small, shape, proto, external);
        }
        let Some(dtype) = element_type(proto.data_type) else {
            bail!("elements of type {} are not supported", type_name(proto.data_type));
        };
        let bytes = match external {
            Some(external) => external,
            None if proto.raw_data.is_empty() => listed(dtype, proto).into(),
            None => proto.raw_data.clone().into(),
        };
        let constant =
            Constant { shape, data: Data::new(dtype, bytes), small: None, strings: None };
        let shape = &constant.shape;
        ensure!(
            dtype.tensor_bytes(shape) == Some(constant.data.bytes.len() as u64),
            "{} elements of type {dtype:?} for the shape {shape:?}",
            constant.data.elements()
        );
        Ok(constant)
    }

    /// Elements of a type that a page does not have.
    fn of_small(
        small: SmallType,
        shape: Vec<usize>,
        proto: &TensorProto,
        external: Option<Bytes>,
    ) -> Result<Constant> {
        let count = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
        let count = count.with_context(|| format!("an impossible shape {shape:?}"))?;
        let bytes = match &external {
            Some(external) => small.unpacked(external, count, First::Low)?,
            // Each number of the list is one byte.
            None if proto.raw_data.is_empty() => {
                let listed = encode(&proto.int32_data, |x| [x as u8]);
                small.unpacked(&listed, count, First::Low)?
            }
            None => small.unpacked(&proto.raw_data, count, First::Low)?,
        };
        let data = Data::new(small.dtype(), bytes);
        Ok(Constant { shape, data, small: Some(small), strings: None })
    }
}

/// A type's name in the standard.
pub(crate) fn type_name(number: i32) -> String {
    match DataType::try_from(number) {
        Ok(known) => known.as_str_name().to_owned(),
        Err(_) => number.to_string(),
    }
}

/// Elements of a typed field. Source: ONNX, `TensorProto`: which field has which type.
fn listed(dtype: DType, proto: &TensorProto) -> Vec<u8> {
    let ints = &proto.int32_data;
    match dtype {
        DType::F32 => encode(&proto.float_data, f32::to_le_bytes),
        DType::F64 => encode(&proto.double_data, f64::to_le_bytes),
        DType::I64 => encode(&proto.int64_data, i64::to_le_bytes),
        DType::U64 => encode(&proto.uint64_data, u64::to_le_bytes),
        DType::U32 => encode(&proto.uint64_data, |x| (x as u32).to_le_bytes()),
        DType::I32 => encode(ints, i32::to_le_bytes),
        DType::F16 | DType::BF16 | DType::I16 | DType::U16 => {
            encode(ints, |x| (x as u16).to_le_bytes())
        }
        DType::I8 | DType::U8 => encode(ints, |x| [x as u8]),
        DType::Bool => encode(ints, |x| [u8::from(x != 0)]),
    }
}
