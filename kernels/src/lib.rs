//! Every operator of a Program: what is supported, its shader, its cpu kernel and its table of cases.
//!
//! A backend gets an operator's [`Kernel`] from [`kernel`] and supplies memory and submission. Importers compute
//! constants with the cpu kernels.

mod call;
mod ops;
#[cfg(not(target_arch = "wasm32"))]
pub mod suite;

pub use call::{Call, RANK_MAX, Shapes, Signature, VALUE_BYTES_MAX, broadcast_strides, strides};
pub use ops::{
    ITERATIONS_MAX, Kernel, Launch, MatrixForm, Memory, Operand, PackedMatrix, Packer, Packing,
    Scratch, Shader, Stored, View, WORKGROUP, kernel, supports,
};

/// All cases of all operators.
#[cfg(not(target_arch = "wasm32"))]
pub fn cases() -> Vec<suite::Case> {
    ops::cases()
}
