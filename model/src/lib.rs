//! Importers, the `Program` a page executes, tokenizers and the native reference.
//!
//! Without the `import` feature only the program types are here; that is what a page links.

pub mod dim;
pub mod program;
