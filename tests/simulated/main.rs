//! Everything that needs no browser: `--simulate`, bad input, the commands, the ends.

mod answers;
mod architectures;
mod backends;
mod bad_input;
mod broken_models;
mod broken_onnx;
mod check;
mod clients;
mod commands;
mod ending;
mod fallback;
mod links;
mod padding;
mod persistence;
mod references;
mod state;
mod workers;
