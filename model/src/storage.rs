//! Where an import keeps large data: in memory, or in files that the caller maps.

use std::sync::Arc;

use bytes::Bytes;

/// Bytes that are hashed before they may leave memory.
const HASHED_BYTES: usize = 16 << 20;

/// A place outside of memory for data that an import makes, such as transposed weights.
pub trait Store: Send + Sync {
    /// Keeps bytes, unless they are in a file already, and gives them back from where they are kept now.
    fn keep(&self, bytes: Bytes) -> Bytes;

    /// The import has read these bytes, which may lie in a mapped file, and does not need them in memory for now.
    fn release(&self, bytes: &[u8]);
}

/// A [`Store`], or memory.
#[derive(Clone, Default)]
pub struct Storage(Option<Arc<dyn Store>>);

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Storage(store)" } else { "Storage(memory)" })
    }
}

impl Storage {
    /// Data go to a store.
    pub fn new(store: Arc<dyn Store>) -> Storage {
        Storage(Some(store))
    }

    pub(crate) fn keep(&self, bytes: Bytes) -> Bytes {
        match &self.0 {
            Some(store) => store.keep(bytes),
            None => bytes,
        }
    }

    pub(crate) fn release(&self, bytes: &[u8]) {
        if let Some(store) = &self.0 {
            store.release(bytes);
        }
    }

    /// blake3 of bytes, of which only a part is in memory at a time.
    pub(crate) fn hash(&self, bytes: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for part in bytes.chunks(HASHED_BYTES) {
            hasher.update(part);
            self.release(part);
        }
        hasher.finalize()
    }
}
