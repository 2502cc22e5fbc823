//! Importers, the `Program` a page executes, tokenizers and the native reference.
//!
//! Without the `import` feature only the program types and what is proved of them are here; that is what a page links.
//! With it, a model's files come in through a [`Resolver`](import::Resolver) and leave as an [`ImportedModel`](import::ImportedModel):
//!
//! ```text
//! files -> import (ONNX, Hugging Face) -> tract's typed graph -> lower -> fuse -> Program + Weights
//!                                                             -> reference
//! ```

pub mod dim;
mod explain;
#[cfg(feature = "import")]
mod fuse;
#[cfg(feature = "import")]
pub mod golden;
#[cfg(feature = "import")]
pub mod import;
#[cfg(feature = "import")]
pub mod lower;
#[cfg(feature = "import")]
pub mod padding;
pub mod program;
#[cfg(feature = "import")]
pub mod reference;
#[cfg(feature = "import")]
pub mod text;
#[cfg(feature = "import")]
pub mod weights;
