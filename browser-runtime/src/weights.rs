//! Streams blobs into constants, verified on the way, so that a model is never in memory twice.

use flotilla_model::program::{ConstantRef, Program, Source, ValueId};
use flotilla_protocol::{BlobSource, LoadError};

use crate::fetch::{BlobFetcher, BlobStream};

/// Bytes between two reports of progress and two flushes of a backend.
const FLUSH_BYTES: u64 = 16 << 20;

/// The distinct constants of a program; values may share one.
pub(crate) struct Constants {
    pub(crate) refs: Vec<ConstantRef>,
    of_value: Vec<Option<usize>>,
}

impl Constants {
    pub(crate) fn new(program: &Program) -> Constants {
        let mut refs: Vec<ConstantRef> = Vec::new();
        let mut known = std::collections::HashMap::new();
        let of_value = program
            .values
            .iter()
            .map(|value| match value.source {
                Source::Constant(constant) => {
                    let key = (constant.blob, constant.offset, constant.bytes);
                    Some(*known.entry(key).or_insert_with(|| {
                        refs.push(constant);
                        refs.len() - 1
                    }))
                }
                Source::Input | Source::Node => None,
            })
            .collect();
        Constants { refs, of_value }
    }

    pub(crate) fn of(&self, value: ValueId) -> Option<usize> {
        self.of_value[value.index()]
    }
}

/// What takes the constants in.
pub(crate) trait Sink {
    /// Some bytes of a constant; offset and length are multiples of 4.
    fn write(&mut self, constant: usize, offset: u64, bytes: &[u8]) -> Result<(), LoadError>;

    /// Waits until what was written no longer occupies memory of its own.
    async fn flush(&mut self) -> Result<(), LoadError>;
}

/// Fetches every blob of a program once and writes its parts to the constants that lie in it.
///
/// `progress` is told the verified bytes.
///
/// # Errors
/// A blob that cannot be had or is not what its name says, or what the sink says.
pub(crate) async fn stream<F: BlobFetcher>(
    program: &Program,
    constants: &Constants,
    fetcher: &mut F,
    source: &BlobSource,
    sink: &mut impl Sink,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), LoadError> {
    let total = program.blobs.iter().map(|blob| blob.bytes).sum();
    let mut done = 0;
    for blob in &program.blobs {
        let name = || blob.id.to_hex();
        let mut parts: Vec<(usize, ConstantRef)> = constants
            .refs
            .iter()
            .copied()
            .enumerate()
            .filter(|(_, part)| part.blob == blob.id)
            .collect();
        parts.sort_by_key(|(_, part)| part.offset);
        let fetch = |reason| LoadError::Fetch { blob: name(), reason };
        let mut stream = fetcher.open(source, blob.id).await.map_err(fetch)?;
        let mut hasher = blake3::Hasher::new();
        // Chunks end anywhere, constants at multiples of 4: what is left over waits for the next chunk.
        let mut left_over: Vec<u8> = Vec::new();
        let (mut at, mut flushed) = (0u64, 0u64);
        loop {
            let Some(mut chunk) = stream.chunk().await.map_err(fetch)? else { break };
            hasher.update(&chunk);
            if !left_over.is_empty() {
                left_over.append(&mut chunk);
                chunk = std::mem::take(&mut left_over);
            }
            let whole = chunk.len() / 4 * 4;
            left_over.extend_from_slice(&chunk[whole..]);
            write_parts(&parts, at, &chunk[..whole], sink)?;
            at += whole as u64;
            if at + left_over.len() as u64 > blob.bytes {
                return Err(LoadError::Corrupt { blob: name() });
            }
            if at - flushed >= FLUSH_BYTES {
                flushed = at;
                sink.flush().await?;
                progress(done + at, total);
            }
        }
        if at + left_over.len() as u64 != blob.bytes || hasher.finalize().as_bytes() != &blob.id.0 {
            return Err(LoadError::Corrupt { blob: name() });
        }
        done += blob.bytes;
        progress(done, total);
    }
    sink.flush().await
}

/// Hands the bytes at `at` of a blob to the constants that they belong to.
fn write_parts(
    parts: &[(usize, ConstantRef)],
    at: u64,
    bytes: &[u8],
    sink: &mut impl Sink,
) -> Result<(), LoadError> {
    let end = at + bytes.len() as u64;
    for (constant, part) in parts {
        if part.offset >= end {
            break;
        }
        let (from, to) = (part.offset.max(at), (part.offset + part.bytes).min(end));
        if from < to {
            sink.write(
                *constant,
                from - part.offset,
                &bytes[(from - at) as usize..(to - at) as usize],
            )?;
        }
    }
    Ok(())
}
