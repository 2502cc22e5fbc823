//! The data of constants.

use std::{borrow::Cow, sync::Arc};

use flotilla_program::{DType, WORD_BYTES};

use crate::weights::OWN_BLOB_BYTES_MIN;

/// Elements of a type, little-endian and row-major. A page keeps narrow ones unchanged until they are loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Data {
    pub(crate) dtype: DType,
    pub(crate) bytes: Arc<[u8]>,
}

impl Data {
    pub(crate) fn new(dtype: DType, bytes: impl Into<Arc<[u8]>>) -> Data {
        Data { dtype, bytes: bytes.into() }
    }

    /// Words of a storage type.
    pub(crate) fn of_words(dtype: DType, words: &[u32]) -> Data {
        let stored = dtype.storage();
        // A truth value is stored as a byte.
        let bytes: Vec<u8> = match stored.wire_bytes() {
            1 => words.iter().map(|&word| u8::from(word != 0)).collect(),
            _ => words.iter().flat_map(|word| word.to_le_bytes()).collect(),
        };
        Data::new(stored, bytes)
    }

    pub(crate) fn elements(&self) -> usize {
        self.bytes.len() / self.dtype.wire_bytes()
    }

    /// Words of the storage type, for a type that is not wider.
    pub(crate) fn words(&self) -> Cow<'_, [u8]> {
        match self.dtype.wire_bytes() {
            WORD_BYTES => Cow::Borrowed(&self.bytes),
            _ => Cow::Owned(widened(self.dtype, &self.bytes)),
        }
    }

    /// The same as numbers.
    pub(crate) fn to_words(&self) -> Vec<u32> {
        self.words()
            .as_chunks::<WORD_BYTES>()
            .0
            .iter()
            .map(|word| u32::from_le_bytes(*word))
            .collect()
    }

    /// The same with its elements moved by `order`, which gets their width in bytes.
    pub(crate) fn reordered(&self, order: impl FnOnce(&[u8], usize) -> Vec<u8>) -> Data {
        Data::new(self.dtype, order(&self.bytes, self.dtype.wire_bytes()))
    }

    /// In the form in which a page stores it: 64 bits become 32 if all elements fit. Of a large tensor whose lower halves
    /// are zero only the upper halves are stored, as for a BF16 model that is stored in F32.
    pub(crate) fn stored(&self) -> Data {
        match self.dtype {
            DType::I64 => {
                match self.narrowed(|wide| i32::try_from(wide as i64).ok().map(|x| x as u32)) {
                    Some(words) => Data::of_words(DType::I32, &words),
                    None => self.clone(),
                }
            }
            DType::U64 => match self.narrowed(|wide| u32::try_from(wide).ok()) {
                Some(words) => Data::of_words(DType::U32, &words),
                None => self.clone(),
            },
            DType::F64 => {
                let wide = self.bytes.as_chunks::<8>().0.iter();
                let floats = wide.flat_map(|wide| (f64::from_le_bytes(*wide) as f32).to_le_bytes());
                Data::new(DType::F32, floats.collect::<Vec<u8>>())
            }
            DType::F32 => match self.upper_halves() {
                Some(halves) => Data::new(DType::BF16, halves),
                None => self.clone(),
            },
            _ => self.clone(),
        }
    }

    fn narrowed(&self, narrow: impl Fn(u64) -> Option<u32>) -> Option<Vec<u32>> {
        let wide = self.bytes.as_chunks::<8>().0.iter();
        wide.map(|wide| narrow(u64::from_le_bytes(*wide))).collect()
    }

    fn upper_halves(&self) -> Option<Vec<u8>> {
        let words = self.bytes.as_chunks::<WORD_BYTES>().0;
        let fits =
            self.bytes.len() >= OWN_BLOB_BYTES_MIN && words.iter().all(|word| word[..2] == [0; 2]);
        fits.then(|| words.iter().flat_map(|word| [word[2], word[3]]).collect())
    }
}

/// Elements of a narrow type as little-endian words of its storage type.
fn widened(dtype: DType, bytes: &[u8]) -> Vec<u8> {
    fn words<const N: usize>(bytes: &[u8], word: impl Fn([u8; N]) -> [u8; 4]) -> Vec<u8> {
        bytes.as_chunks::<N>().0.iter().flat_map(|element| word(*element)).collect()
    }
    match dtype {
        DType::F16 => words(bytes, |half| half::f16::from_le_bytes(half).to_f32().to_le_bytes()),
        DType::BF16 => words(bytes, |half| half::bf16::from_le_bytes(half).to_f32().to_le_bytes()),
        DType::F64 => words(bytes, |wide| (f64::from_le_bytes(wide) as f32).to_le_bytes()),
        DType::I16 => words(bytes, |half| i32::from(i16::from_le_bytes(half)).to_le_bytes()),
        DType::U16 => words(bytes, |half| u32::from(u16::from_le_bytes(half)).to_le_bytes()),
        DType::I8 => words(bytes, |byte| i32::from(i8::from_le_bytes(byte)).to_le_bytes()),
        DType::U8 | DType::Bool => words(bytes, |[byte]| u32::from(byte).to_le_bytes()),
        DType::I64 | DType::U64 => {
            words(bytes, |wide| (u64::from_le_bytes(wide) as u32).to_le_bytes())
        }
        DType::F32 | DType::I32 | DType::U32 => bytes.to_vec(),
    }
}
