//! What executes nodes.

pub(crate) mod cpu;
pub(crate) mod webgpu;
