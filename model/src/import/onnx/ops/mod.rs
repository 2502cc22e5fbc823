//! Operators, a file per family: each function determines its results' shapes and what a program computes for it. Source of
//! every operator: ONNX, "Operator Schemas".

mod attention;
mod contrib;
mod contrib_quantized;
mod control;
mod convolution;
mod counted;
mod dequantize;
mod einsum;
mod elementwise;
mod features;
mod generators;
#[cfg(test)]
mod known;
mod losses;
mod matrices;
mod ml;
mod norm;
#[cfg(test)]
mod old_forms;
mod padding;
mod pooling;
mod quantize;
mod quantized;
mod rearrange;
mod recurrent;
mod reductions;
mod resize;
mod sampling;
mod selection;
mod sequences;
mod shapes;
mod signal;
mod values;
mod window;

use std::{collections::HashMap, sync::LazyLock};

use super::wiring::Wire;

/// The domain of onnxruntime's operators.
pub(super) const MICROSOFT: &str = "com.microsoft";

/// The families of the standard's own domain.
const FAMILIES: &[&[(&str, Wire)]] = &[
    attention::OPERATORS,
    contrib::STANDARD_OPERATORS,
    control::OPERATORS,
    einsum::OPERATORS,
    elementwise::OPERATORS,
    convolution::OPERATORS,
    counted::OPERATORS,
    features::OPERATORS,
    generators::OPERATORS,
    losses::OPERATORS,
    matrices::OPERATORS,
    norm::OPERATORS,
    padding::OPERATORS,
    pooling::OPERATORS,
    quantize::OPERATORS,
    quantized::OPERATORS,
    rearrange::OPERATORS,
    recurrent::OPERATORS,
    reductions::OPERATORS,
    resize::OPERATORS,
    sampling::OPERATORS,
    selection::OPERATORS,
    sequences::OPERATORS,
    shapes::OPERATORS,
    signal::OPERATORS,
    values::OPERATORS,
];

static OPERATORS: LazyLock<HashMap<&'static str, Wire>> =
    LazyLock::new(|| FAMILIES.iter().flat_map(|family| family.iter().copied()).collect());

/// The function that wires an operator, if it is supported.
pub(super) fn operator(domain: &str, name: &str) -> Option<Wire> {
    match domain {
        "" => OPERATORS.get(name).copied(),
        "ai.onnx.ml" => ml::FAMILIES.iter().find_map(|family| named(family, name)),
        MICROSOFT => contrib::operator(name).or_else(|| contrib_quantized::operator(name)),
        "com.microsoft.nchwc" => Some(contrib::blocked),
        "ai.onnx.preview" => named(attention::PREVIEW_OPERATORS, name),
        _ => None,
    }
}

/// Whether an operator takes elements of types that have no `DType`: what it computes of the wider elements is the same.
pub(super) fn takes_small_types(name: &str) -> bool {
    const TAKING: [&str; 4] =
        ["Cast", "DequantizeLinear", "GatherBlockQuantized", "QuantizeLinear"];
    TAKING.contains(&name) || keeps_elements(name)
}

/// Whether an operator only moves elements, so that the result has their type.
pub(super) fn keeps_elements(name: &str) -> bool {
    ["Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"].contains(&name)
}

fn named(family: &[(&str, Wire)], name: &str) -> Option<Wire> {
    family.iter().find(|(known, _)| *known == name).map(|&(_, wire)| wire)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_operator_has_two_wirings() {
        let count: usize = FAMILIES.iter().map(|family| family.len()).sum();
        assert_eq!(count, OPERATORS.len());
    }
}
