//! Element types.

use serde::{Deserialize, Serialize};

/// Bytes of one element inside a page, whatever its type.
pub const WORD_BYTES: usize = 4;

/// Element type of a tensor.
///
/// Inside a page every element is a 32-bit word of type `F32`, `I32`, `U32` or `Bool` (see [`DType::storage`]). The other types
/// occur in ports (what a client sends and receives), in constants (what a blob contains), and in casts (what a word is rounded or
/// wrapped to).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each variant is named after the type it stands for")]
pub enum DType {
    F32,
    F16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
    /// The upper half of an `F32`.
    BF16,
    /// For clients only: a page computes with `F32`.
    F64,
}

impl DType {
    /// Every type.
    pub const ALL: [DType; 13] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::F64,
        DType::I64,
        DType::I32,
        DType::I16,
        DType::I8,
        DType::U64,
        DType::U32,
        DType::U16,
        DType::U8,
        DType::Bool,
    ];

    /// The type that holds this one's values inside a page: floats of any width are `F32`, integers of any width 32-bit ones,
    /// because WGSL has no other types everywhere. Integers of 64 bits are range-checked on their way in and out.
    pub fn storage(self) -> DType {
        match self {
            DType::F32 | DType::F16 | DType::BF16 | DType::F64 => DType::F32,
            DType::I64 | DType::I32 | DType::I16 | DType::I8 => DType::I32,
            DType::U64 | DType::U32 | DType::U16 | DType::U8 => DType::U32,
            DType::Bool => DType::Bool,
        }
    }

    /// Bytes of one element in a client's tensor (`Bool` is one byte there).
    pub fn wire_bytes(self) -> usize {
        match self {
            DType::I64 | DType::U64 | DType::F64 => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::BF16 | DType::I16 | DType::U16 => 2,
            DType::I8 | DType::U8 | DType::Bool => 1,
        }
    }

    /// Bytes of a client's tensor of this shape; `None` if they are more than a `u64` counts.
    pub fn tensor_bytes(self, shape: &[usize]) -> Option<u64> {
        let element = self.wire_bytes() as u64;
        shape.iter().try_fold(element, |bytes, &dim| bytes.checked_mul(dim as u64))
    }

    /// Whether values are floating point.
    pub fn is_float(self) -> bool {
        self.storage() == DType::F32
    }

    /// Whether values are integers; `Bool` is not an integer type.
    pub fn is_integer(self) -> bool {
        !self.is_float() && self != DType::Bool
    }

    /// Whether a word holds numbers that this type does not hold, so that results have to be rounded or wrapped.
    pub fn is_narrow(self) -> bool {
        self != DType::Bool && self.wire_bytes() < WORD_BYTES
    }
}
