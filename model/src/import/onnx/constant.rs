//! Constants: from files, and values that are known when a model is loaded.

use anyhow::{Result, bail, ensure};
use flotilla_program::DType;
use tract_onnx::pb::{TensorProto, tensor_proto::DataType};

use crate::graph::Data;

/// A tensor whose elements are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Constant {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Data,
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
        Constant { shape: shape.to_vec(), data: Data::new(dtype, bytes) }
    }

    pub(crate) fn i64s(shape: &[usize], numbers: &[i64]) -> Constant {
        Constant::new(DType::I64, shape, numbers.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    pub(crate) fn i32s(shape: &[usize], numbers: &[i32]) -> Constant {
        Constant::new(DType::I32, shape, numbers.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    pub(crate) fn f32s(shape: &[usize], numbers: &[f32]) -> Constant {
        Constant::new(DType::F32, shape, numbers.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    pub(crate) fn bools(shape: &[usize], truths: &[bool]) -> Constant {
        Constant::new(DType::Bool, shape, truths.iter().map(|&truth| u8::from(truth)).collect())
    }

    /// One number of a type, of rank 0; floats are rounded to it, integers are kept within it.
    pub(crate) fn scalar(dtype: DType, number: f64) -> Constant {
        let bytes = match dtype {
            DType::F32 => (number as f32).to_le_bytes().to_vec(),
            DType::F16 => half::f16::from_f64(number).to_le_bytes().to_vec(),
            DType::BF16 => half::bf16::from_f64(number).to_le_bytes().to_vec(),
            DType::F64 => number.to_le_bytes().to_vec(),
            DType::I64 => (number as i64).to_le_bytes().to_vec(),
            DType::I32 => (number as i32).to_le_bytes().to_vec(),
            DType::I16 => (number as i16).to_le_bytes().to_vec(),
            DType::I8 => (number as i8).to_le_bytes().to_vec(),
            DType::U64 => (number as u64).to_le_bytes().to_vec(),
            DType::U32 => (number as u32).to_le_bytes().to_vec(),
            DType::U16 => (number as u16).to_le_bytes().to_vec(),
            DType::U8 => vec![number as u8],
            DType::Bool => vec![u8::from(number != 0.0)],
        };
        Constant::new(dtype, &[], bytes)
    }

    /// One integer of 64 bits, of rank 0.
    pub(crate) fn integer(number: i64) -> Constant {
        Constant::i64s(&[], &[number])
    }

    /// Its elements, if they are integers or truth values; `None` for unsigned 64-bit ones in the upper half of their
    /// range.
    pub(crate) fn integers(&self) -> Option<Vec<i64>> {
        fn each<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> i64) -> Option<Vec<i64>> {
            Some(bytes.as_chunks::<N>().0.iter().map(|element| number(*element)).collect())
        }
        let bytes = &self.data.bytes;
        match self.data.dtype {
            DType::I64 => each(bytes, i64::from_le_bytes),
            DType::I32 => each(bytes, |x| i64::from(i32::from_le_bytes(x))),
            DType::I16 => each(bytes, |x| i64::from(i16::from_le_bytes(x))),
            DType::I8 => each(bytes, |x| i64::from(i8::from_le_bytes(x))),
            DType::U64 => {
                let wide = bytes.as_chunks::<8>().0.iter();
                wide.map(|x| i64::try_from(u64::from_le_bytes(*x)).ok()).collect()
            }
            DType::U32 => each(bytes, |x| i64::from(u32::from_le_bytes(x))),
            DType::U16 => each(bytes, |x| i64::from(u16::from_le_bytes(x))),
            DType::U8 | DType::Bool => each(bytes, |[x]: [u8; 1]| i64::from(x)),
            DType::F32 | DType::F16 | DType::BF16 | DType::F64 => None,
        }
    }

    /// Its elements as floats.
    pub(crate) fn floats(&self) -> Vec<f64> {
        fn each<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
            bytes.as_chunks::<N>().0.iter().map(|element| number(*element)).collect()
        }
        let bytes = &self.data.bytes;
        match self.data.dtype {
            DType::F32 => each(bytes, |x| f64::from(f32::from_le_bytes(x))),
            DType::F16 => each(bytes, |x| half::f16::from_le_bytes(x).to_f64()),
            DType::BF16 => each(bytes, |x| half::bf16::from_le_bytes(x).to_f64()),
            DType::F64 => each(bytes, f64::from_le_bytes),
            DType::U64 => each(bytes, |x| u64::from_le_bytes(x) as f64),
            _ => self.integers().unwrap_or_default().into_iter().map(|x| x as f64).collect(),
        }
    }

    /// The contents of a tensor in a file.
    ///
    /// # Errors
    /// A type that is not supported, or elements that do not fit the shape.
    pub(crate) fn of_proto(proto: &TensorProto) -> Result<Constant> {
        let Some(dtype) = element_type(proto.data_type) else {
            bail!("elements of type {} cannot be had", type_name(proto.data_type));
        };
        let shape =
            proto.dims.iter().map(|&dim| usize::try_from(dim)).collect::<Result<Vec<_>, _>>()?;
        let bytes =
            if proto.raw_data.is_empty() { listed(dtype, proto) } else { proto.raw_data.clone() };
        let constant = Constant::new(dtype, &shape, bytes);
        let elements = shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
        let fits = elements.and_then(|elements| elements.checked_mul(dtype.wire_bytes()));
        ensure!(
            fits == Some(constant.data.bytes.len()),
            "{} elements of type {dtype:?} for the shape {shape:?}",
            constant.data.elements()
        );
        Ok(constant)
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
    let ints = || proto.int32_data.iter();
    match dtype {
        DType::F32 => proto.float_data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::F64 => proto.double_data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::I64 => proto.int64_data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::U64 => proto.uint64_data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::U32 => proto.uint64_data.iter().flat_map(|&x| (x as u32).to_le_bytes()).collect(),
        DType::I32 => ints().flat_map(|x| x.to_le_bytes()).collect(),
        DType::F16 | DType::BF16 | DType::I16 | DType::U16 => {
            ints().flat_map(|&x| (x as u16).to_le_bytes()).collect()
        }
        DType::I8 | DType::U8 => ints().map(|&x| x as u8).collect(),
        DType::Bool => ints().map(|&x| u8::from(x != 0)).collect(),
    }
}
