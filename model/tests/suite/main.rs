//! The importers on whole models.

mod hostile;
mod laws;
mod minilm;
mod models;
mod padding;
mod programs;
