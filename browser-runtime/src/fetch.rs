//! The sources of weights.

use std::collections::BTreeMap;

use flotilla_program::BlobId;
use flotilla_protocol::BlobSource;

/// Opens blobs. A page fetches them over HTTP; native code may read them from anywhere.
#[expect(
    async_fn_in_trait,
    reason = "a runtime stays on one thread, so its futures need not be Send"
)]
pub trait BlobFetcher {
    /// The stream of an opened blob.
    type Stream: BlobStream;

    /// Opens a blob at its first byte.
    ///
    /// # Errors
    /// Why it cannot be opened.
    async fn open(&mut self, source: &BlobSource, blob: BlobId) -> Result<Self::Stream, String>;
}

/// A blob that is being read.
#[expect(
    async_fn_in_trait,
    reason = "a runtime stays on one thread, so its futures need not be Send"
)]
pub trait BlobStream {
    /// The next bytes, in order and of any length; `None` at the end.
    ///
    /// # Errors
    /// Why no more bytes arrive.
    async fn chunk(&mut self) -> Result<Option<Vec<u8>>, String>;
}

/// Blobs that are in memory already; for simulation and tests.
#[derive(Clone, Debug, Default)]
pub struct MemoryBlobs {
    /// The contents.
    pub blobs: BTreeMap<BlobId, Vec<u8>>,
    /// Bytes per chunk; 0 gives a blob whole.
    pub chunk_bytes: usize,
}

/// A blob of [`MemoryBlobs`].
#[derive(Debug)]
pub struct MemoryStream {
    rest: Vec<u8>,
    chunk_bytes: usize,
}

impl BlobFetcher for MemoryBlobs {
    type Stream = MemoryStream;

    async fn open(&mut self, _source: &BlobSource, blob: BlobId) -> Result<MemoryStream, String> {
        let rest = self.blobs.get(&blob).cloned().ok_or("it is not in memory")?;
        Ok(MemoryStream { rest, chunk_bytes: self.chunk_bytes })
    }
}

impl BlobStream for MemoryStream {
    async fn chunk(&mut self) -> Result<Option<Vec<u8>>, String> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let at = if self.chunk_bytes == 0 {
            self.rest.len()
        } else {
            self.chunk_bytes.min(self.rest.len())
        };
        let tail = self.rest.split_off(at);
        Ok(Some(std::mem::replace(&mut self.rest, tail)))
    }
}
