//! Importers, tokenizers and the native reference.
//!
//! A model's files come in through a [`Resolver`](import::Resolver) and leave as an [`ImportedModel`](import::ImportedModel):
//!
//! ```text
//! files -> import (ONNX, Hugging Face) -> tract's typed graph -> lower -> fuse -> Program + Weights
//!                                                             -> reference
//! ```

mod fuse;
pub mod golden;
pub mod import;
pub mod lower;
pub mod padding;
pub mod reference;
pub mod tensor;
pub mod text;
pub mod weights;
