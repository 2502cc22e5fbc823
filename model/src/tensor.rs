//! Input and output tensors of models.

use flotilla_program::DType;

/// A named tensor: little-endian bytes in row-major order, integers in their own width.
#[derive(Clone, Debug, PartialEq)]
pub struct ReferenceTensor {
    /// Name of the input or output.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Its elements.
    pub bytes: Vec<u8>,
}

impl ReferenceTensor {
    /// From 64-bit integers.
    pub fn from_i64(name: impl Into<String>, shape: Vec<usize>, values: &[i64]) -> ReferenceTensor {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        ReferenceTensor { name: name.into(), dtype: DType::I64, shape, bytes }
    }

    /// From floating-point numbers.
    pub fn from_f32(name: impl Into<String>, shape: Vec<usize>, values: &[f32]) -> ReferenceTensor {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        ReferenceTensor { name: name.into(), dtype: DType::F32, shape, bytes }
    }

    /// Its elements as `f64`, which holds every value that a page computes with.
    pub fn numbers(&self) -> Vec<f64> {
        fn read<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
            bytes.as_chunks::<N>().0.iter().map(|chunk| number(*chunk)).collect()
        }
        match self.dtype {
            DType::F32 => read(&self.bytes, |bytes| f64::from(f32::from_le_bytes(bytes))),
            DType::F64 => read(&self.bytes, f64::from_le_bytes),
            DType::F16 => read(&self.bytes, |bytes| half::f16::from_le_bytes(bytes).to_f64()),
            DType::BF16 => read(&self.bytes, |bytes| half::bf16::from_le_bytes(bytes).to_f64()),
            DType::I64 => read(&self.bytes, |bytes| i64::from_le_bytes(bytes) as f64),
            DType::I32 => read(&self.bytes, |bytes| f64::from(i32::from_le_bytes(bytes))),
            DType::I16 => read(&self.bytes, |bytes| f64::from(i16::from_le_bytes(bytes))),
            DType::I8 => read(&self.bytes, |bytes| f64::from(i8::from_le_bytes(bytes))),
            DType::U64 => read(&self.bytes, |bytes| u64::from_le_bytes(bytes) as f64),
            DType::U32 => read(&self.bytes, |bytes| f64::from(u32::from_le_bytes(bytes))),
            DType::U16 => read(&self.bytes, |bytes| f64::from(u16::from_le_bytes(bytes))),
            DType::U8 | DType::Bool => read(&self.bytes, |[byte]: [u8; 1]| f64::from(byte)),
        }
    }

    /// Its elements, if they are `F32`.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        let element = |chunk: &[u8]| f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        (self.dtype == DType::F32).then(|| self.bytes.chunks_exact(4).map(element).collect())
    }
}
