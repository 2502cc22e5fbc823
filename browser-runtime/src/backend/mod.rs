//! What executes nodes.

use flotilla_protocol::Backend;

pub(crate) mod cpu;
pub(crate) mod webgpu;
#[cfg(any(target_arch = "wasm32", test))]
#[cfg_attr(not(target_arch = "wasm32"), expect(dead_code, reason = "only pages have WebNN"))]
pub(crate) mod webnn;

/// A device was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceLoss {
    /// The backend whose device was lost.
    pub(crate) backend: Backend,
    /// Which of this runtime's devices of that backend, from 1.
    pub(crate) generation: u32,
    /// The browser's message.
    pub(crate) reason: String,
}
