//! Streams blobs into constants and verifies them, so that a model is never in memory twice.

use std::collections::HashMap;

use flotilla_program::{BlobId, ConstantRef, Program, Source, ValueId};
use flotilla_protocol::{BlobSource, LoadError};
use flotilla_tensor::WORD_BYTES;

use crate::{
    fetch::{BlobFetcher, BlobStream},
    platform::Pace,
};

/// Bytes between two reports of progress and two flushes of a backend.
const FLUSH_BYTES: u64 = 16 << 20;

/// Most bytes of a blob that are verified and written without a pause; some browsers pass on megabytes at once.
const PIECE_BYTES: usize = 128 << 10;

/// A part of a blob, and the form in which it is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stored {
    pub(crate) part: ConstantRef,
    /// Whether its elements stay as narrow as they are; else each becomes a word.
    pub(crate) is_narrow: bool,
}

impl Stored {
    /// Bytes in memory, in whole words.
    pub(crate) fn memory_bytes(&self) -> u64 {
        if self.is_narrow {
            self.part.bytes.next_multiple_of(WORD_BYTES as u64)
        } else {
            self.widened_bytes()
        }
    }

    /// Bytes where every element is a word.
    pub(crate) fn widened_bytes(&self) -> u64 {
        self.part.elements() * WORD_BYTES as u64
    }
}

/// The distinct constants of a program; values may share one.
pub(crate) struct Constants {
    pub(crate) refs: Vec<Stored>,
    of_value: Vec<Option<usize>>,
}

impl Constants {
    pub(crate) fn new(program: &Program) -> Constants {
        let mut refs: Vec<Stored> = Vec::new();
        let mut known = HashMap::new();
        let of_value = program
            .values
            .iter()
            .map(|value| match value.source {
                Source::Constant(part) => {
                    let stored = Stored { part, is_narrow: value.is_narrow() };
                    Some(*known.entry(stored).or_insert_with(|| {
                        refs.push(stored);
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

/// Writes some words of a constant into memory. The memory is reserved whole with the first ones and written only as far as words
/// have arrived: filling tens of megabytes with zeros at once would hold up the runs of other models. `missing` are the
/// constant's bytes that have not arrived yet, including these.
pub(crate) fn put(
    memory: &mut Vec<u32>,
    missing: &mut u64,
    offset: u64,
    bytes: &[u8],
) -> Result<(), LoadError> {
    if memory.capacity() == 0 {
        let words = ((offset + *missing) / WORD_BYTES as u64) as usize;
        memory
            .try_reserve_exact(words)
            .map_err(|error| LoadError::OutOfMemory { reason: error.to_string() })?;
    }
    let (words, _) = bytes.as_chunks::<WORD_BYTES>();
    let begin = (offset / WORD_BYTES as u64) as usize;
    memory.resize(memory.len().max(begin), 0);
    let (again, new) = words.split_at((memory.len() - begin).min(words.len()));
    let number = |word: &[u8; WORD_BYTES]| u32::from_le_bytes(*word);
    memory[begin..].iter_mut().zip(again).for_each(|(target, word)| *target = number(word));
    memory.extend(new.iter().map(number));
    *missing = missing.saturating_sub(bytes.len() as u64);
    Ok(())
}

/// Receives constants.
pub(crate) trait Sink {
    /// Some words of a constant; offset and length in bytes are multiples of 4.
    fn write(&mut self, constant: usize, offset: u64, bytes: &[u8]) -> Result<(), LoadError>;

    /// Finishes what is complete after some writes, with pauses.
    async fn settle(&mut self, pace: &mut Pace) -> Result<(), LoadError>;

    /// Waits until written bytes no longer occupy memory of their own.
    async fn flush(&mut self) -> Result<(), LoadError>;
}

/// Fetches every blob of a program once and writes its parts to the constants that lie in it.
///
/// `progress` gets the verified bytes.
///
/// # Errors
/// A blob that is not available or has another hash than its name, or an error of the sink.
pub(crate) async fn stream<F: BlobFetcher>(
    program: &Program,
    constants: &Constants,
    fetcher: &mut F,
    source: &BlobSource,
    sink: &mut impl Sink,
    pace: &mut Pace,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), LoadError> {
    let total = program.blobs.iter().map(|blob| blob.bytes).sum();
    let mut done = 0;
    let mut parts_of: HashMap<BlobId, Vec<(usize, Stored)>> = HashMap::new();
    for (index, stored) in constants.refs.iter().enumerate() {
        parts_of.entry(stored.part.blob).or_default().push((index, *stored));
    }
    parts_of.values_mut().for_each(|parts| parts.sort_by_key(|(_, stored)| stored.part.offset));
    for blob in &program.blobs {
        let name = || blob.id.to_hex();
        let parts = parts_of.get(&blob.id).map_or(&[][..], Vec::as_slice);
        let fetch = |reason| LoadError::Fetch { blob: name(), reason };
        let mut stream = fetcher.open(source, blob.id).await.map_err(fetch)?;
        let mut hasher = blake3::Hasher::new();
        // Chunks end anywhere, constants at multiples of 4: the remaining bytes wait for the next chunk.
        let mut left_over: Vec<u8> = Vec::new();
        let (mut at, mut flushed) = (0u64, 0u64);
        loop {
            let Some(chunk) = stream.chunk().await.map_err(fetch)? else { break };
            for piece in chunk.chunks(PIECE_BYTES) {
                hasher.update(piece);
                left_over.extend_from_slice(piece);
                let joined = std::mem::take(&mut left_over);
                let (words, rest) = joined.split_at(joined.len() / WORD_BYTES * WORD_BYTES);
                left_over.extend_from_slice(rest);
                write_parts(parts, at, words, sink)?;
                at += words.len() as u64;
                sink.settle(pace).await?;
                pace.rest().await;
            }
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

/// Passes the bytes at `at` of a blob to the constants that they belong to.
fn write_parts(
    parts: &[(usize, Stored)],
    at: u64,
    bytes: &[u8],
    sink: &mut impl Sink,
) -> Result<(), LoadError> {
    let end = at + bytes.len() as u64;
    for &(constant, Stored { part, is_narrow }) in parts {
        if part.offset >= end {
            break;
        }
        let (from, to) = (part.offset.max(at), (part.offset + part.bytes).min(end));
        if from < to {
            let elements = &bytes[(from - at) as usize..(to - at) as usize];
            let width = part.dtype.wire_bytes();
            let offset = from - part.offset;
            if is_narrow && !elements.len().is_multiple_of(WORD_BYTES) {
                // Only the end of a constant may lie within a word.
                let mut words = elements.to_vec();
                words.resize(words.len().next_multiple_of(WORD_BYTES), 0);
                sink.write(constant, offset, &words)?;
            } else if is_narrow || width == WORD_BYTES {
                sink.write(constant, offset, elements)?;
            } else {
                let words = part.dtype.decode_words(elements);
                let offset = offset / width as u64 * WORD_BYTES as u64;
                sink.write(constant, offset, bytemuck::cast_slice(&words))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use flotilla_tensor::{DType, decode, encode};

    use super::*;

    #[derive(Default)]
    struct Words(Vec<u32>);

    impl Sink for Words {
        fn write(&mut self, _: usize, offset: u64, bytes: &[u8]) -> Result<(), LoadError> {
            self.0.resize(offset as usize / WORD_BYTES, 0);
            self.0.extend(decode(bytes, u32::from_le_bytes));
            Ok(())
        }

        async fn settle(&mut self, _: &mut Pace) -> Result<(), LoadError> {
            Ok(())
        }

        async fn flush(&mut self) -> Result<(), LoadError> {
            Ok(())
        }
    }

    #[test]
    fn words_are_written_as_they_arrive_and_again_over_others() {
        let bytes = |words: &[u32]| -> Vec<u8> { encode(words, u32::to_le_bytes) };
        let (mut memory, mut missing) = (Vec::new(), 5 * 4);
        for (offset, words) in [(0, &[1, 2][..]), (4, &[3, 4]), (16, &[5])] {
            put(&mut memory, &mut missing, offset, &bytes(words)).expect("memory");
        }
        assert_eq!(memory, [1, 3, 4, 0, 5]);
        assert_eq!((missing, memory.capacity()), (0, 5));
    }

    #[test]
    fn narrow_constants_are_widened_wherever_chunks_end() {
        let halves = [0x3c00u16, 0xc000, 0x7c00];
        let bytes = encode(&halves, u16::to_le_bytes);
        let blob = [&[0; 16], bytes.as_slice(), &[0; 2]].concat();
        let constant =
            ConstantRef { blob: BlobId([0; 32]), offset: 16, bytes: 6, dtype: DType::F16 };
        let widened = Stored { part: constant, is_narrow: false };
        for split in [16, 20] {
            let mut words = Words::default();
            write_parts(&[(0, widened)], 0, &blob[..split], &mut words).expect("is taken");
            write_parts(&[(0, widened)], split as u64, &blob[split..], &mut words)
                .expect("is taken");
            let want = [1.0, -2.0, f32::INFINITY].map(f32::to_bits);
            assert_eq!(words.0, want, "split at {split}");
        }
        assert_eq!(widened.memory_bytes(), 12);
        let narrow = Stored { part: constant, is_narrow: true };
        for split in [16, 20] {
            let mut words = Words::default();
            write_parts(&[(0, narrow)], 0, &blob[..split], &mut words).expect("is taken");
            write_parts(&[(0, narrow)], split as u64, &blob[split..], &mut words)
                .expect("is taken");
            assert_eq!(words.0, [0xc000_3c00, 0x7c00], "split at {split}");
        }
        assert_eq!(narrow.memory_bytes(), 8);
    }
}
