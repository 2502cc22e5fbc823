//! The webnn backend: programs as graphs of the browser's own neural-network interface.
//!
//! A program is lowered to a [`draft`](draft::Draft) for one set of shapes, and the browser builds the draft. The context's
//! limits decide what is refused before anything is built. Source: W3C, "Web Neural Network API".

mod draft;
mod limits;
mod lower;

#[cfg(target_arch = "wasm32")]
mod context;
#[cfg(target_arch = "wasm32")]
mod emit;
#[cfg(target_arch = "wasm32")]
mod loading;
#[cfg(target_arch = "wasm32")]
mod model;
#[cfg(test)]
mod tests;

#[cfg(target_arch = "wasm32")]
pub(crate) use context::{Context, inspect};
#[cfg(target_arch = "wasm32")]
pub(crate) use loading::Loading;
#[cfg(target_arch = "wasm32")]
pub(crate) use lower::{input_sized_nodes, refused_nodes};
#[cfg(target_arch = "wasm32")]
pub(crate) use model::NnModel;
