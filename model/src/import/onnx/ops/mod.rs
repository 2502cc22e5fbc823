//! Operators that we wire ourselves, a file per family: those that tract's importer does not have, and those where its
//! wiring does not say what the standard says. Source of every operator: ONNX, "Operator Schemas".

mod attention;
mod control;
mod norm;
mod shapes;

use std::{collections::HashMap, sync::LazyLock};

use super::wiring::Wire;

/// The families of the standard's own domain.
const FAMILIES: &[&[(&str, Wire)]] =
    &[attention::OPERATORS, control::OPERATORS, norm::OPERATORS, shapes::OPERATORS];

static OPERATORS: LazyLock<HashMap<&'static str, Wire>> =
    LazyLock::new(|| FAMILIES.iter().flat_map(|family| family.iter().copied()).collect());

/// How to wire an operator, where that is ours to say.
pub(super) fn operator(domain: &str, name: &str) -> Option<Wire> {
    match domain {
        "" => OPERATORS.get(name).copied(),
        "ai.onnx.preview" => {
            let found = attention::PREVIEW.iter().find(|(known, _)| *known == name);
            found.map(|(_, wire)| *wire)
        }
        _ => None,
    }
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
