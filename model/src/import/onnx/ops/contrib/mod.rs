//! Operators of onnxruntime's own domain `com.microsoft`, which its optimizers and builders write. They are composed of the
//! program's operators. Source of every operator: onnxruntime, "Contrib Operator Schemas".
//!
//! A node with an attribute that its wiring has not read is refused: it may change the result.

mod activation;
mod attention;
mod cache;
mod convolution;
mod group_query;
mod norm;
mod products;
mod rotary;
mod scores;
mod standard;
#[cfg(test)]
mod tests;

use anyhow::{Result, bail};

use super::named;
use crate::import::onnx::{
    facts::Var,
    wiring::{Wire, Wiring},
};

/// The families.
const FAMILIES: &[&[(&str, Wire)]] = &[
    activation::OPERATORS,
    attention::OPERATORS,
    convolution::OPERATORS,
    group_query::OPERATORS,
    norm::OPERATORS,
    products::OPERATORS,
    rotary::OPERATORS,
    standard::OPERATORS,
    &[("GemmFloat8", gemm_float8), ("MurmurHash3", murmur_hash)],
];

/// Operators that onnxruntime puts into the standard's domain.
pub(super) const STANDARD_OPERATORS: &[(&str, Wire)] = norm::STANDARD_OPERATORS;

/// The function that wires an operator of `com.microsoft`, if it is supported.
pub(super) fn operator(name: &str) -> Option<Wire> {
    FAMILIES.iter().find_map(|family| named(family, name))
}

/// Refuses the operators of `com.microsoft.nchwc`.
pub(super) fn blocked(_: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    bail!(
        "operators of the domain com.microsoft.nchwc have their weights in the order of the processor on which the file was \
         saved; save it with the level ORT_ENABLE_EXTENDED instead of ORT_ENABLE_ALL"
    )
}

fn gemm_float8(_: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    bail!("products of 8-bit floats are not supported")
}

fn murmur_hash(_: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    bail!("hashes are not supported")
}
