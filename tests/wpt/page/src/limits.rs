//! The limits of a context.

#[cfg(target_arch = "wasm32")]
use std::collections::BTreeMap;

#[cfg(target_arch = "wasm32")]
use flotilla_webnn::{MlContext, MlOperand};
#[cfg(target_arch = "wasm32")]
use js_sys::JSON;
use serde_json::Value;

#[cfg(target_arch = "wasm32")]
use crate::graph::Operator;

/// `opSupportLimits()`.
#[derive(Debug)]
pub(crate) struct Limits(Value);

#[cfg(target_arch = "wasm32")]
impl Limits {
    pub(crate) fn of(context: &MlContext) -> Result<Limits, String> {
        let text = JSON::stringify(&context.op_support_limits())
            .map_err(|error| format!("the limits are no JSON: {error:?}"))?;
        let limits = serde_json::from_str(&String::from(text));
        limits.map(Limits).map_err(|error| format!("the limits are no JSON: {error}"))
    }

    /// Whether an operand of the operator has a data type or a rank that the context does not take there.
    pub(crate) fn exclude(
        &self,
        operator: &Operator,
        operands: &BTreeMap<String, MlOperand>,
    ) -> bool {
        let arguments = operator.arguments.iter().map(|(name, value)| (name, value));
        let options = operator.options.as_object().into_iter().flatten();
        arguments.chain(options).any(|(name, value)| {
            let names = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            let used = names.iter().filter_map(|name| operands.get(name.as_str()?));
            let limits = &self.0[&operator.name][name];
            used.into_iter()
                .any(|operand| !takes(limits, &operand.data_type(), operand.shape().len()))
        })
    }
}

/// Whether this operand is accepted. An operand without limits accepts everything.
fn takes(limits: &Value, data_type: &str, rank: usize) -> bool {
    let types = limits["dataTypes"].as_array();
    let has_type = types.is_none_or(|types| types.iter().any(|one| one == data_type));
    let end = |name: &str, absent: u64| limits["rankRange"][name].as_u64().unwrap_or(absent);
    has_type && (end("min", 0)..=end("max", u64::MAX)).contains(&(rank as u64))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn types_and_ranks_are_limited() {
        let limits = json!({ "dataTypes": ["float32"], "rankRange": { "min": 1, "max": 4 } });
        assert!(takes(&limits, "float32", 4) && takes(&Value::Null, "int8", 9));
        assert!(!takes(&limits, "int8", 4) && !takes(&limits, "float32", 0));
        assert!(!takes(&limits, "float32", 5));
    }
}
