//! The arguments of an operator's call.

use std::{cell::Cell, collections::BTreeMap};

use flotilla_webnn::MlOperand;
use js_sys::{Array, BigInt};
use serde_json::Value;
use wasm_bindgen::JsValue;

use crate::{
    data::{self, DataType, Element},
    graph::{Operator, Stop},
};

/// The arguments of one operator, in addition to the existing operands.
pub(crate) struct Arguments<'a> {
    /// The operator's W3C name.
    pub(crate) name: &'a str,
    operator: &'a Operator,
    operands: &'a BTreeMap<String, MlOperand>,
    asked: Cell<usize>,
}

impl<'a> Arguments<'a> {
    pub(crate) fn new(
        operator: &'a Operator,
        operands: &'a BTreeMap<String, MlOperand>,
    ) -> Arguments<'a> {
        Arguments { name: &operator.name, operator, operands, asked: Cell::new(0) }
    }

    /// The argument of that name.
    pub(crate) fn named(&self, name: &str) -> Result<&'a Value, Stop> {
        self.asked.set(self.asked.get() + 1);
        let value = self.operator.argument(name);
        value.ok_or_else(|| Stop::Failed(format!("{} has no argument {name}", self.name)))
    }

    /// The options that the case has.
    pub(crate) fn options(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.operator.options.as_object().into_iter().flatten()
    }

    /// An unused argument would be missing in the call.
    pub(crate) fn all_used(&self) -> Result<(), Stop> {
        let count = self.operator.arguments.len();
        if self.asked.get() == count {
            return Ok(());
        }
        Err(Stop::Failed(format!("{} has {count} arguments", self.name)))
    }

    pub(crate) fn operand(&self, value: &Value) -> Result<MlOperand, Stop> {
        let operand = value.as_str().and_then(|name| self.operands.get(name));
        operand.cloned().ok_or_else(|| self.refuse(value, "operand"))
    }

    pub(crate) fn operands(&self, value: &Value) -> Result<Array, Stop> {
        let values = value.as_array().ok_or_else(|| self.refuse(value, "list of operands"))?;
        values.iter().map(|value| self.operand(value).map(JsValue::from)).collect()
    }

    pub(crate) fn size(&self, value: &Value) -> Result<u32, Stop> {
        data::size(value).map_err(Stop::Failed)
    }

    pub(crate) fn sizes(&self, value: &Value) -> Result<Vec<u32>, Stop> {
        let values = value.as_array().ok_or_else(|| self.refuse(value, "list of sizes"))?;
        values.iter().map(|value| self.size(value)).collect()
    }

    pub(crate) fn number(&self, value: &Value) -> Result<f64, Stop> {
        value.as_f64().ok_or_else(|| self.refuse(value, "number"))
    }

    pub(crate) fn flag(&self, value: &Value) -> Result<bool, Stop> {
        value.as_bool().ok_or_else(|| self.refuse(value, "truth value"))
    }

    pub(crate) fn text<'v>(&self, value: &'v Value) -> Result<&'v str, Stop> {
        value.as_str().ok_or_else(|| self.refuse(value, "text"))
    }

    /// `MLNumber`: a `BigInt` if the case has one, as `"12n"`.
    pub(crate) fn scalar(&self, value: &Value) -> Result<JsValue, Stop> {
        let is_big = value.as_str().is_some_and(|text| text.ends_with('n'));
        let kind = if is_big { DataType::Int64 } else { DataType::Float32 };
        match data::element(value, kind).map_err(Stop::Failed)? {
            Element::Float(number) => Ok(number.into()),
            Element::Integer(number) => Ok(BigInt::from(number).into()),
        }
    }

    fn refuse(&self, value: &Value, kind: &str) -> Stop {
        Stop::Failed(format!("{}: {value} is no {kind}", self.name))
    }
}
