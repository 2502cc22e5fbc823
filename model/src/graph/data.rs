//! The data of constants.

use std::borrow::Cow;

use bytes::Bytes;
use flotilla_tensor::{DType, WORD_BYTES, encode};

use crate::{storage::Storage, weights::OWN_BLOB_BYTES_MIN};

/// Elements of a type, little-endian and row-major. A page keeps narrow ones unchanged until they are loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Data {
    pub(crate) dtype: DType,
    pub(crate) bytes: Bytes,
}

impl Data {
    pub(crate) fn new(dtype: DType, bytes: impl Into<Bytes>) -> Data {
        Data { dtype, bytes: bytes.into() }
    }

    /// Words of a storage type.
    pub(crate) fn of_words(dtype: DType, words: &[u32]) -> Data {
        let stored = dtype.storage();
        // A truth value is stored as a byte.
        let bytes: Vec<u8> = match stored.wire_bytes() {
            1 => encode(words, |word| [u8::from(word != 0)]),
            _ => encode(words, u32::to_le_bytes),
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
            _ => Cow::Owned(encode(&self.to_words(), u32::to_le_bytes)),
        }
    }

    /// The same as numbers.
    pub(crate) fn to_words(&self) -> Vec<u32> {
        self.dtype.decode_words(&self.bytes)
    }

    /// The same in a storage.
    pub(crate) fn kept(self, storage: &Storage) -> Data {
        Data { dtype: self.dtype, bytes: storage.keep(self.bytes) }
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
            DType::F64 => Data::new(DType::F32, encode(&self.to_words(), u32::to_le_bytes)),
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
