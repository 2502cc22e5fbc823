//! Weight blobs: the constants of a program, content-addressed.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_program::{BlobId, BlobRef, ConstantRef};
use flotilla_tensor::{DType, WORD_BYTES};

use crate::storage::Storage;

/// Constants of at least this size have a blob of their own; smaller ones share one.
pub const OWN_BLOB_BYTES_MIN: usize = 64 << 10;

/// Constants in a shared blob start at multiples of this, WebGPU's strictest vector alignment.
const PACK_ALIGNMENT: usize = 16;

/// The blobs that contain a program's constants.
#[derive(Clone, Default)]
pub struct Weights {
    /// Each blob's bytes by its hash.
    pub blobs: BTreeMap<BlobId, Bytes>,
}

impl Weights {
    /// All blobs together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.blobs.values().map(|blob| blob.len() as u64).sum()
    }

    /// The bytes of a constant; `None` if its blob is missing or too short.
    pub fn constant(&self, constant: ConstantRef) -> Option<&[u8]> {
        let start = usize::try_from(constant.offset).ok()?;
        let end = start.checked_add(usize::try_from(constant.bytes).ok()?)?;
        self.blobs.get(&constant.blob)?.get(start..end)
    }
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Weights")
            .field("blobs", &self.blobs.len())
            .field("bytes", &self.bytes())
            .finish()
    }
}

/// blake3 name of a blob.
pub fn blob_id(bytes: &[u8]) -> BlobId {
    BlobId(*blake3::hash(bytes).as_bytes())
}

/// The position of a packed constant, once the shared blob is complete.
#[derive(Clone, Copy)]
pub(crate) enum Placed {
    Own { blob: BlobId, bytes: u64 },
    Shared { offset: u64, bytes: u64 },
}

/// Collects constants into blobs; equal constants are stored once.
#[derive(Default)]
pub(crate) struct Packer {
    blobs: BTreeMap<BlobId, Bytes>,
    shared: Vec<u8>,
    seen: BTreeMap<BlobId, Placed>,
    storage: Storage,
}

impl Packer {
    /// Large constants go to a storage if they need another form.
    pub(crate) fn new(storage: Storage) -> Packer {
        Packer { storage, ..Packer::default() }
    }

    pub(crate) fn add(&mut self, bytes: Bytes) -> Placed {
        let id = self.name(&bytes);
        if let Some(placed) = self.seen.get(&id) {
            return *placed;
        }
        let length = bytes.len() as u64;
        let placed = if bytes.len() >= OWN_BLOB_BYTES_MIN {
            // Pages read blobs in words.
            let rest = bytes.len().next_multiple_of(WORD_BYTES) - bytes.len();
            let (blob, contents) = if rest == 0 {
                (id, bytes)
            } else {
                let padded = Bytes::from([&bytes, &[0; WORD_BYTES][..rest]].concat());
                (self.name(&padded), self.storage.keep(padded))
            };
            self.blobs.insert(blob, contents);
            Placed::Own { blob, bytes: length }
        } else {
            // Constants without elements need a position, too: they are at the start of the blob.
            let begin = self.shared.len().next_multiple_of(PACK_ALIGNMENT);
            self.shared.resize(if bytes.is_empty() { begin.max(PACK_ALIGNMENT) } else { begin }, 0);
            let offset = self.shared.len() as u64;
            self.shared.extend_from_slice(&bytes);
            Placed::Shared { offset, bytes: length }
        };
        self.seen.insert(id, placed);
        placed
    }

    fn name(&self, bytes: &[u8]) -> BlobId {
        BlobId(*self.storage.hash(bytes).as_bytes())
    }

    /// The weights, the list of blobs and the name of the shared one.
    pub(crate) fn finish(mut self) -> (Weights, Vec<BlobRef>, BlobId) {
        // Copies to a GPU are in units of four bytes.
        self.shared.resize(self.shared.len().next_multiple_of(PACK_ALIGNMENT), 0);
        let shared = blob_id(&self.shared);
        if !self.shared.is_empty() {
            self.blobs.insert(shared, self.shared.into());
        }
        let list =
            self.blobs.iter().map(|(&id, blob)| BlobRef { id, bytes: blob.len() as u64 }).collect();
        (Weights { blobs: self.blobs }, list, shared)
    }
}

impl Placed {
    /// The constant's position, with elements of type `dtype`.
    pub(crate) fn resolve(self, shared: BlobId, dtype: DType) -> ConstantRef {
        match self {
            Placed::Own { blob, bytes } => ConstantRef { blob, offset: 0, bytes, dtype },
            Placed::Shared { offset, bytes } => ConstantRef { blob: shared, offset, bytes, dtype },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_constants_have_their_own_blob_and_equal_ones_share() {
        let large = vec![1u8; OWN_BLOB_BYTES_MIN];
        let odd = vec![4u8; OWN_BLOB_BYTES_MIN + 1];
        let mut packer = Packer::default();
        let placed: Vec<Placed> = [&large[..], &[2; 4], &[3; 20], &[2; 4], &large[..], &odd]
            .iter()
            .map(|bytes| packer.add(Bytes::copy_from_slice(bytes)))
            .collect();
        let (weights, list, shared) = packer.finish();
        assert_eq!(list.len(), 3);
        assert!(list.iter().all(|blob| blob.bytes % WORD_BYTES as u64 == 0));
        let constants: Vec<ConstantRef> =
            placed.into_iter().map(|placed| placed.resolve(shared, DType::U8)).collect();
        assert_eq!(constants[0], constants[4]);
        assert_eq!(constants[1], constants[3]);
        assert_eq!(constants[2].offset, 16);
        assert_eq!(weights.constant(constants[2]), Some(&[3u8; 20][..]));
        assert_eq!(weights.constant(constants[0]), Some(&large[..]));
        assert_eq!(weights.constant(constants[5]), Some(&odd[..]));
    }
}
