//! One WebSocket message is one frame: a message and its tensors.
//!
//! ```text
//! u32 head_bytes | u32 checksum | head (postcard of message and tensor headers) | zeros to 16 | tensor bytes, each padded
//! to 16
//! ```
//!
//! All numbers are little-endian. Padding keeps every tensor aligned inside the frame. The checksum is the CRC-32 of
//! everything else, so that a frame whose bytes were changed in transit is an error and never a wrong result.

use std::cmp::Ordering;

use flotilla_tensor::{DType, Tensor, TensorError};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Largest frame that is sent or accepted.
pub const FRAME_BYTES_MAX: usize = 256 << 20;
/// Most tensors in a frame.
pub const FRAME_TENSORS_MAX: usize = 256;

const ALIGNMENT: usize = 16;
/// Length of the head, and checksum.
const PREFIX: usize = 8;

/// Why bytes are not a frame, or a frame cannot be made.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum FrameError {
    #[error("frame of {got} bytes, the limit is {FRAME_BYTES_MAX}")]
    TooLarge { got: usize },
    #[error("{got} tensors in a frame, the limit is {FRAME_TENSORS_MAX}")]
    TooManyTensors { got: usize },
    #[error("frame ends after {got} bytes, {want} are needed")]
    Truncated { got: usize, want: usize },
    #[error("frame was corrupted in transit: its checksum is {got:08x}, its head has {want:08x}")]
    Checksum { got: u32, want: u32 },
    #[error("{extra} bytes follow the frame's end")]
    Trailing { extra: usize },
    #[error("frame head does not decode: {0}")]
    Head(#[from] postcard::Error),
    #[error("frame has a bad tensor: {0}")]
    Tensor(#[from] TensorError),
}

#[derive(Serialize, Deserialize)]
struct TensorHead {
    dtype: DType,
    shape: Vec<u64>,
    bytes: u64,
}

/// Makes a frame of a message and its tensors.
///
/// # Errors
/// Over a limit.
pub fn encode<M: Serialize>(message: &M, tensors: &[Tensor]) -> Result<Vec<u8>, FrameError> {
    if tensors.len() > FRAME_TENSORS_MAX {
        return Err(FrameError::TooManyTensors { got: tensors.len() });
    }
    let heads: Vec<TensorHead> = tensors
        .iter()
        .map(|tensor| TensorHead {
            dtype: tensor.dtype,
            shape: tensor.shape.iter().map(|&dim| dim as u64).collect(),
            bytes: tensor.bytes.len() as u64,
        })
        .collect();
    let head = postcard::to_stdvec(&(message, heads))?;
    let body: usize =
        tensors.iter().map(|tensor| tensor.bytes.len().next_multiple_of(ALIGNMENT)).sum();
    let total = (PREFIX + head.len()).next_multiple_of(ALIGNMENT) + body;
    if total > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge { got: total });
    }
    let mut frame = Vec::with_capacity(total);
    frame.extend_from_slice(&(head.len() as u32).to_le_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(&head);
    frame.resize(frame.len().next_multiple_of(ALIGNMENT), 0);
    for tensor in tensors {
        frame.extend_from_slice(&tensor.bytes);
        frame.resize(frame.len().next_multiple_of(ALIGNMENT), 0);
    }
    let checksum = checksum(&frame);
    frame[4..PREFIX].copy_from_slice(&checksum.to_le_bytes());
    Ok(frame)
}

/// Checksum of everything but the checksum itself.
fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..4]);
    hasher.update(&frame[PREFIX..]);
    hasher.finalize()
}

/// Reads a frame. Never panics, whatever the bytes.
///
/// # Errors
/// Bytes that are not exactly one frame.
pub fn decode<M: DeserializeOwned>(frame: &[u8]) -> Result<(M, Vec<Tensor>), FrameError> {
    if frame.len() > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge { got: frame.len() });
    }
    let truncated = |want: usize| FrameError::Truncated { got: frame.len(), want };
    let Some(&[a, b, c, d, e, f, g, h]) = frame.first_chunk::<PREFIX>() else {
        return Err(truncated(PREFIX));
    };
    let head_bytes = u32::from_le_bytes([a, b, c, d]) as usize;
    let (got, want) = (checksum(frame), u32::from_le_bytes([e, f, g, h]));
    if got != want {
        return Err(FrameError::Checksum { got, want });
    }
    let end = PREFIX.saturating_add(head_bytes);
    let head = frame.get(PREFIX..end).ok_or_else(|| truncated(end))?;
    let ((message, heads), rest) = postcard::take_from_bytes::<(M, Vec<TensorHead>)>(head)?;
    if !rest.is_empty() {
        return Err(FrameError::Trailing { extra: rest.len() });
    }
    if heads.len() > FRAME_TENSORS_MAX {
        return Err(FrameError::TooManyTensors { got: heads.len() });
    }
    let mut at = end.next_multiple_of(ALIGNMENT);
    let mut tensors = Vec::with_capacity(heads.len());
    for TensorHead { dtype, shape, bytes } in heads {
        let end = usize::try_from(bytes)
            .ok()
            .and_then(|bytes| at.checked_add(bytes))
            .filter(|&end| end <= frame.len())
            .ok_or_else(|| truncated(usize::MAX))?;
        let shape = shape
            .iter()
            .map(|&dim| usize::try_from(dim))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| TensorError::TooLarge { shape: Vec::new() })?;
        tensors.push(Tensor::new(dtype, shape, frame[at..end].to_vec())?);
        at = end.next_multiple_of(ALIGNMENT);
    }
    match at.cmp(&frame.len()) {
        Ordering::Less => Err(FrameError::Trailing { extra: frame.len() - at }),
        // The last tensor's padding is part of the frame, too.
        Ordering::Greater => Err(truncated(at)),
        Ordering::Equal => Ok((message, tensors)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Backend, BlobSource, Epoch, FromPage, LoadTerms, PlacementId, RunId, RunReport, ToPage,
    };

    fn tensor() -> impl Strategy<Value = Tensor> {
        proptest::collection::vec(0usize..5, 0..4).prop_flat_map(|shape| {
            let elements = shape.iter().product::<usize>();
            proptest::collection::vec(
                any::<f32>().prop_filter("nan is not equal to itself", |x| !x.is_nan()),
                elements,
            )
            .prop_map(move |values| Tensor::from_f32(shape.clone(), &values).expect("fits"))
        })
    }

    fn sign(frame: &mut [u8]) {
        let checksum = checksum(frame);
        frame[4..PREFIX].copy_from_slice(&checksum.to_le_bytes());
    }

    fn to_page() -> impl Strategy<Value = ToPage> {
        let ids = || (any::<u64>(), any::<u64>());
        prop_oneof![
            any::<u64>().prop_map(|id| ToPage::Unload { placement: PlacementId(id) }),
            (ids(), any::<u64>()).prop_map(|((run, placement), epoch)| ToPage::Run {
                run: RunId(run),
                placement: PlacementId(placement),
                epoch: Epoch(epoch),
            }),
            (ids(), proptest::collection::vec(any::<u8>(), 0..40), ".{0,20}").prop_map(
                |((placement, epoch), program, url_prefix)| ToPage::Load {
                    placement: PlacementId(placement),
                    epoch: Epoch(epoch),
                    backend: Backend::Cpu,
                    program,
                    blobs: BlobSource { url_prefix },
                    terms: LoadTerms::default(),
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn round_trips(run in any::<u64>(), tensors in proptest::collection::vec(tensor(), 0..4)) {
            let message =
                FromPage::Ran { run: RunId(run), epoch: Epoch(3), report: RunReport { run_us: 7, pipelines_created: 0 } };
            let frame = encode(&message, &tensors).expect("encodes");
            let (got, got_tensors) = decode::<FromPage>(&frame).expect("decodes");
            prop_assert_eq!(got, message);
            prop_assert_eq!(got_tensors, tensors);
        }

        #[test]
        fn garbage_is_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<ToPage>(&bytes);
            let _ = decode::<FromPage>(&bytes);
        }

        /// The checksum is right here, so that the decoder itself gets the invalid bytes.
        #[test]
        fn a_frame_that_was_made_wrong_is_an_error_or_another_frame(
            message in to_page(),
            tensors in proptest::collection::vec(tensor(), 0..3),
            changes in proptest::collection::vec((any::<u32>(), any::<u8>()), 1..6),
            length in proptest::option::of(0usize..200),
        ) {
            let mut frame = encode(&message, &tensors).expect("encodes");
            if let Some(length) = length {
                frame.resize(PREFIX + length, 0);
            }
            for (at, byte) in changes {
                let at = at as usize % frame.len();
                frame[at] = byte;
            }
            sign(&mut frame);
            if let Ok((message, tensors)) = decode::<ToPage>(&frame) {
                let again = encode(&message, &tensors).expect("encodes");
                let (other, others) = decode::<ToPage>(&again).expect("decodes");
                prop_assert_eq!(other, message);
                // NaN is not equal to itself, so the bytes are compared.
                prop_assert_eq!(others, tensors);
            }
            let _ = decode::<FromPage>(&frame);
        }

        #[test]
        fn garbage_with_a_right_checksum_is_an_error_and_no_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), PREFIX..300),
            head in 0u32..300,
        ) {
            bytes[..4].copy_from_slice(&head.to_le_bytes());
            sign(&mut bytes);
            let _ = decode::<ToPage>(&bytes);
            let _ = decode::<FromPage>(&bytes);
        }

        #[test]
        fn a_changed_frame_is_refused(tensors in proptest::collection::vec(tensor(), 0..3), at in any::<u32>()) {
            let mut frame = encode(&ToPage::Inspect, &tensors).expect("encodes");
            let bit = at as usize % (frame.len() * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode::<ToPage>(&frame).is_err());
        }

        #[test]
        fn a_cut_frame_is_refused(tensors in proptest::collection::vec(tensor(), 1..3), cut in 1usize..64) {
            let frame = encode(&ToPage::Inspect, &tensors).expect("encodes");
            let cut = cut.min(frame.len());
            prop_assert!(decode::<ToPage>(&frame[..frame.len() - cut]).is_err());
        }
    }
}
