//! Element types and tensors as they are sent, stored and compared: a type, a shape and little-endian, row-major bytes.

mod dtype;
mod elements;
mod named;
mod tensor;

pub use dtype::{DType, WORD_BYTES};
pub use elements::{decode, encode};
pub use named::NamedTensor;
pub use tensor::{RANK_MAX, Tensor, TensorError};
