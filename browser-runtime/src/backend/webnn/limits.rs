//! The limits of a context: `opSupportLimits()`.

use std::collections::BTreeMap;

use super::draft::{Shape, Type};

/// The types and ranks that one operand of an operator may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OperandLimits {
    /// Bit `Type as u32` is set for each type that is taken.
    pub(crate) types: u32,
    /// Fewest and most dimensions.
    pub(crate) ranks: (usize, usize),
}

/// Operators by their W3C name, with their operands by theirs.
/// Source: W3C, "Web Neural Network API", `MLOpSupportLimits`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) operators: BTreeMap<String, BTreeMap<String, OperandLimits>>,
    /// Longest tensor in bytes.
    pub(crate) tensor_bytes_max: u64,
}

impl Limits {
    /// Refuses an operand that an operator does not take. An operand for which the context has no limits is
    /// accepted: the context checks it again when the graph is built.
    pub(crate) fn check(
        &self,
        operator: &str,
        operand: &str,
        ty: Type,
        shape: &Shape,
    ) -> Result<(), String> {
        let Some(operands) = self.operators.get(operator) else {
            return Err(format!("the context has no {operator}"));
        };
        let bytes = shape
            .iter()
            .try_fold(ty.bytes(), |bytes, &size| bytes.checked_mul(u64::from(size)))
            .unwrap_or(u64::MAX);
        if self.tensor_bytes_max != 0 && bytes > self.tensor_bytes_max {
            let most = self.tensor_bytes_max;
            return Err(format!("a tensor of {bytes} bytes, the context takes {most}"));
        }
        let Some(limits) = operands.get(operand) else { return Ok(()) };
        if limits.types >> ty as u32 & 1 == 0 {
            return Err(format!("{operator} takes no {} as {operand}", ty.name()));
        }
        let (fewest, most) = limits.ranks;
        if !(fewest..=most).contains(&shape.len()) {
            return Err(format!(
                "{operator} takes {fewest} to {most} dimensions as {operand}, not {}",
                shape.len()
            ));
        }
        Ok(())
    }
}

/// The browser's limits, read by a function that reads a property.
#[cfg(target_arch = "wasm32")]
impl Limits {
    pub(crate) fn read(limits: &js_sys::Object) -> Limits {
        use js_sys::{Array, Object, Reflect};
        use wasm_bindgen::{JsCast, JsValue};

        let get = |object: &JsValue, name: &str| {
            Reflect::get(object, &name.into()).unwrap_or(JsValue::UNDEFINED)
        };
        let pairs = |object: &JsValue| -> Vec<(String, JsValue)> {
            let Some(object) = object.dyn_ref::<Object>() else { return Vec::new() };
            let named = |pair: JsValue| {
                let pair: Array = pair.unchecked_into();
                (pair.get(0).as_string().unwrap_or_default(), pair.get(1))
            };
            Object::entries(object).iter().map(named).collect()
        };
        let operand = |value: &JsValue| {
            let types: Array = get(value, "dataTypes").dyn_into().ok()?;
            let names = types.iter().filter_map(|name| name.as_string());
            let types = names
                .filter_map(|name| Type::ALL.into_iter().find(|ty| ty.name() == name))
                .fold(0, |types, ty| types | 1 << ty as u32);
            let range = get(value, "rankRange");
            let rank = |name: &str| get(&range, name).as_f64().map(|rank| rank as usize);
            let ranks = (rank("min").unwrap_or(0), rank("max").unwrap_or(usize::MAX));
            Some(OperandLimits { types, ranks })
        };
        let operators = pairs(limits).into_iter().filter(|(_, value)| value.is_object());
        let operators = operators.map(|(name, value)| {
            let operands = pairs(&value);
            let operands =
                operands.iter().filter_map(|(name, value)| Some((name.clone(), operand(value)?)));
            (name, operands.collect())
        });
        let bytes = get(limits, "maxTensorByteLength").as_f64().unwrap_or(0.0);
        Limits { operators: operators.collect(), tensor_bytes_max: bytes as u64 }
    }
}
