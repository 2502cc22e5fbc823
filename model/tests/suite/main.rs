//! The importers on whole models.

mod hostile;
mod hugging_face;
mod laws;
mod minilm;
mod models;
mod padding;
mod programs;
