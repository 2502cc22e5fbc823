//! The importers, the lowering and the reference on whole models.

mod goldens;
mod hostile;
mod laws;
mod lowering;
mod minilm;
mod models;
mod padding;
