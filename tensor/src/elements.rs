//! Elements as bytes and bytes as elements.

use half::{bf16, f16};

use crate::DType;

/// The elements in `bytes`, each of which `element` makes from its `N` bytes. Bytes after the last whole element are ignored.
pub fn decode<const N: usize, T>(bytes: &[u8], element: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|bytes| element(*bytes)).collect()
}

/// The bytes of `elements`, one after the other.
pub fn encode<const N: usize, T: Copy>(elements: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    elements.iter().flat_map(|&element| bytes(element)).collect()
}

impl DType {
    /// Elements of this type as numbers; `true` is 1. Integers beyond 2^53 are rounded, all other values are exact.
    pub fn decode_numbers(self, bytes: &[u8]) -> Vec<f64> {
        match self {
            DType::F32 => decode(bytes, |bytes| f64::from(f32::from_le_bytes(bytes))),
            DType::F64 => decode(bytes, f64::from_le_bytes),
            DType::F16 => decode(bytes, |bytes| f16::from_le_bytes(bytes).to_f64()),
            DType::BF16 => decode(bytes, |bytes| bf16::from_le_bytes(bytes).to_f64()),
            DType::I64 => decode(bytes, |bytes| i64::from_le_bytes(bytes) as f64),
            DType::I32 => decode(bytes, |bytes| f64::from(i32::from_le_bytes(bytes))),
            DType::I16 => decode(bytes, |bytes| f64::from(i16::from_le_bytes(bytes))),
            DType::I8 => decode(bytes, |bytes| f64::from(i8::from_le_bytes(bytes))),
            DType::U64 => decode(bytes, |bytes| u64::from_le_bytes(bytes) as f64),
            DType::U32 => decode(bytes, |bytes| f64::from(u32::from_le_bytes(bytes))),
            DType::U16 => decode(bytes, |bytes| f64::from(u16::from_le_bytes(bytes))),
            DType::U8 | DType::Bool => decode(bytes, |[byte]: [u8; 1]| f64::from(byte)),
        }
    }

    /// Elements of this type as the words of its [`storage`](DType::storage) type: bits of floats, sign-extended integers, 0 or 1
    /// for `Bool`. Of 64-bit integers only the lower half is kept, and an `F64` is rounded to `F32`.
    pub fn decode_words(self, bytes: &[u8]) -> Vec<u32> {
        match self {
            DType::F32 | DType::I32 | DType::U32 => decode(bytes, u32::from_le_bytes),
            DType::F16 => decode(bytes, |half| f16::from_le_bytes(half).to_f32().to_bits()),
            DType::BF16 => decode(bytes, |half| bf16::from_le_bytes(half).to_f32().to_bits()),
            DType::I64 | DType::U64 => decode(bytes, |wide| u64::from_le_bytes(wide) as u32),
            DType::F64 => decode(bytes, |wide| (f64::from_le_bytes(wide) as f32).to_bits()),
            DType::I16 => decode(bytes, |half| i32::from(i16::from_le_bytes(half)) as u32),
            DType::U16 => decode(bytes, |half| u32::from(u16::from_le_bytes(half))),
            DType::I8 => decode(bytes, |byte| i32::from(i8::from_le_bytes(byte)) as u32),
            DType::U8 => decode(bytes, |[byte]: [u8; 1]| u32::from(byte)),
            DType::Bool => decode(bytes, |[byte]: [u8; 1]| u32::from(byte != 0)),
        }
    }

    /// The bytes of elements of this type: floats are rounded to the nearest, integers lose their fraction and are limited to
    /// the type's range (`as` in Rust), and whatever is not 0 is `true`.
    pub fn encode_numbers(self, numbers: &[f64]) -> Vec<u8> {
        match self {
            DType::F32 => encode(numbers, |number| (number as f32).to_le_bytes()),
            DType::F64 => encode(numbers, f64::to_le_bytes),
            DType::F16 => encode(numbers, |number| f16::from_f64(number).to_le_bytes()),
            DType::BF16 => encode(numbers, |number| bf16::from_f64(number).to_le_bytes()),
            DType::I64 => encode(numbers, |number| (number as i64).to_le_bytes()),
            DType::I32 => encode(numbers, |number| (number as i32).to_le_bytes()),
            DType::I16 => encode(numbers, |number| (number as i16).to_le_bytes()),
            DType::I8 => encode(numbers, |number| (number as i8).to_le_bytes()),
            DType::U64 => encode(numbers, |number| (number as u64).to_le_bytes()),
            DType::U32 => encode(numbers, |number| (number as u32).to_le_bytes()),
            DType::U16 => encode(numbers, |number| (number as u16).to_le_bytes()),
            DType::U8 => encode(numbers, |number| [number as u8]),
            DType::Bool => encode(numbers, |number| [u8::from(number != 0.0)]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_a_type_holds_are_kept() {
        for dtype in DType::ALL {
            let numbers: &[f64] = match dtype {
                DType::Bool => &[0.0, 1.0],
                DType::U8 | DType::U16 | DType::U32 | DType::U64 => &[0.0, 1.0, 200.0],
                DType::I8 | DType::I16 | DType::I32 | DType::I64 => &[0.0, -128.0, 127.0],
                DType::F16 | DType::BF16 | DType::F32 | DType::F64 => &[0.0, -0.75, 96.0],
            };
            let bytes = dtype.encode_numbers(numbers);
            assert_eq!(bytes.len(), numbers.len() * dtype.wire_bytes(), "{dtype:?}");
            assert_eq!(dtype.decode_numbers(&bytes), numbers, "{dtype:?}");
        }
    }

    #[test]
    fn words_are_widened() {
        // Each element is all ones, so integers are -1 or the largest.
        for (dtype, want) in [
            (DType::U8, 0xff),
            (DType::U16, 0xffff),
            (DType::U32, u32::MAX),
            (DType::U64, u32::MAX),
            (DType::I8, u32::MAX),
            (DType::I16, u32::MAX),
            (DType::I32, u32::MAX),
            (DType::I64, u32::MAX),
            (DType::Bool, 1),
        ] {
            assert_eq!(dtype.decode_words(&vec![0xff; dtype.wire_bytes()]), [want], "{dtype:?}");
        }
        for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
            let bytes = dtype.encode_numbers(&[-0.75]);
            assert_eq!(dtype.decode_words(&bytes), [(-0.75f32).to_bits()], "{dtype:?}");
        }
    }

    #[test]
    fn other_numbers_are_rounded_and_limited() {
        for (dtype, number, want) in [
            (DType::I8, 300.0, 127.0),
            (DType::I8, -1.9, -1.0),
            (DType::U32, -1.0, 0.0),
            (DType::Bool, 2.5, 1.0),
            // A BF16 has eight bits, so 257 lies between 256 and 258.
            (DType::BF16, 257.0, 256.0),
            (DType::F16, 70_000.0, f64::INFINITY),
        ] {
            let got = dtype.decode_numbers(&dtype.encode_numbers(&[number]));
            assert_eq!(got, [want], "{dtype:?} {number}");
        }
    }
}
