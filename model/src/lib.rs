//! Importers, tokenizers and the intermediate forms of models.
//!
//! A model's files come in through a [`Resolver`](import::Resolver) and leave as an [`ImportedModel`](import::ImportedModel):
//!
//! ```text
//! files -> import (ONNX; Hugging Face becomes ONNX) -> graph (a program whose constants carry their data) -> fuse
//!       -> Program + Weights
//! ```

mod fuse;
pub mod golden;
mod graph;
pub mod import;
pub mod padding;
pub mod prompts;
mod resolver;
pub mod storage;
pub mod text;
pub mod weights;
