//! Everything that needs no browser: `--simulate`, bad input, the commands, shutdown.

mod answers;
mod architectures;
mod backends;
mod bad_input;
mod broken_models;
mod broken_onnx;
mod browsers;
mod check;
mod clients;
mod commands;
mod ending;
mod fallback;
mod links;
mod models;
mod padding;
mod persistence;
mod references;
mod state;
mod tensors;
mod workers;
