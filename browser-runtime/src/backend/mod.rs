//! What executes nodes.

use flotilla_protocol::Backend;

pub(crate) mod cpu;
pub(crate) mod webgpu;

/// A device was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceLoss {
    /// Whose.
    pub(crate) backend: Backend,
    /// Which of this runtime's devices of that backend, from 1.
    pub(crate) generation: u32,
    /// The browser's words.
    pub(crate) reason: String,
}
