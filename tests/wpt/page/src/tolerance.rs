//! How far results may differ from the expected ones.
//!
//! Source: web-platform-tests, `webnn/resources/utils.js` and the operators' files in `webnn/conformance_tests`, as of early 2026.

use serde_json::Value;

use crate::data::DataType;

/// How far two elements may differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Tolerance {
    /// Units in the last place; for integers their difference.
    Ulp(u64),
    /// The absolute difference.
    Absolute(f64),
}

/// The inputs of a tolerance.
#[derive(Debug)]
pub(crate) struct Judged<'a> {
    pub(crate) operator: &'a str,
    /// Of the expected output.
    pub(crate) data_type: DataType,
    /// Of the operands, in their order.
    pub(crate) shapes: Vec<&'a [u32]>,
    /// The operator's own; `Value::Null` for none.
    pub(crate) options: &'a Value,
    /// The argument of that name; it is not an operand.
    pub(crate) axis: Option<usize>,
}

impl Tolerance {
    /// The tolerance of web-platform-tests; an error for operators and types that it does not name.
    pub(crate) fn of(judged: &Judged<'_>) -> Result<Tolerance, String> {
        let by_type = |float32: u64, float16: u64| match judged.data_type {
            DataType::Float32 => Tolerance::Ulp(float32),
            DataType::Float16 => Tolerance::Ulp(float16),
            DataType::Int32
            | DataType::Uint32
            | DataType::Int64
            | DataType::Uint64
            | DataType::Int8
            | DataType::Uint8 => Tolerance::Ulp(0),
        };
        Ok(match judged.operator {
            "add" | "sub" | "mul" | "sqrt" | "cast" => by_type(1, 1),
            "leakyRelu" => by_type(1, 2),
            "div" | "hardSigmoid" | "linear" => by_type(2, 2),
            "hardSwish" => by_type(4, 4),
            "batchNormalization" => by_type(6, 6),
            "tanh" => by_type(16, 16),
            "elu" => by_type(18, 18),
            "exp" => by_type(32, 1),
            "pow" => by_type(32, 2),
            "sigmoid" => by_type(34, 10),
            "instanceNormalization" => by_type(840, 8400),
            "log" => Tolerance::Absolute(1.0 / 1024.0),
            "layerNormalization" if judged.data_type == DataType::Float16 => {
                Tolerance::Absolute(1.0 / 512.0)
            }
            "layerNormalization" => Tolerance::Absolute(1.0 / 1024.0),
            "conv2d" | "convTranspose2d" => {
                let terms = judged.convolved()?;
                by_type(2 * terms, 2 * terms)
            }
            "matmul" => {
                let terms = judged.shape(0)?.last().map_or(0, |&size| u64::from(size));
                by_type(2 * terms, 2 * terms)
            }
            "softmax" => {
                let axis = judged.axis.ok_or("softmax has no axis")?;
                let terms = judged.size(0, axis)?;
                by_type(3 * terms + 3, 3 * terms + 3)
            }
            reduction if reduction.starts_with("reduce") => {
                let count = judged.reduced()?;
                let most = match reduction {
                    "reduceL1" | "reduceProduct" | "reduceSum" => count,
                    "reduceL2" => 2 * count + 2,
                    "reduceLogSum" => count + 18,
                    "reduceLogSumExp" => 2 * count + 18,
                    "reduceMean" => count + 2,
                    "reduceSumSquare" => 2 * count,
                    _ => 0,
                };
                by_type(most, most)
            }
            _ => Tolerance::Ulp(0),
        })
    }
}

impl Judged<'_> {
    fn shape(&self, operand: usize) -> Result<&[u32], String> {
        let shape = self.shapes.get(operand).copied();
        shape.ok_or_else(|| format!("{} has no operand {operand}", self.operator))
    }

    fn size(&self, operand: usize, axis: usize) -> Result<u64, String> {
        let size = self.shape(operand)?.get(axis).copied().map(u64::from);
        size.ok_or_else(|| format!("operand {operand} of {} has no axis {axis}", self.operator))
    }

    /// Products that are added for one element of a convolution.
    fn convolved(&self) -> Result<u64, String> {
        let layout = |member: &str| self.options[member].as_str().unwrap_or_default();
        let channels = self.size(0, if layout("inputLayout") == "nhwc" { 3 } else { 1 })?;
        let (rows, columns) = match layout("filterLayout") {
            "hwio" | "hwoi" => (0, 1),
            "ohwi" | "ihwo" => (1, 2),
            _ => (2, 3),
        };
        let groups = self.options["groups"].as_u64().unwrap_or(1);
        Ok(self.size(1, rows)? * self.size(1, columns)? * channels / groups)
    }

    /// Elements that are reduced to one.
    fn reduced(&self) -> Result<u64, String> {
        match self.options["axes"].as_array() {
            None => Ok(self.shape(0)?.iter().map(|&size| u64::from(size)).product()),
            Some(axes) => axes
                .iter()
                .map(|axis| self.size(0, axis.as_u64().unwrap_or(u64::MAX) as usize))
                .product(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tolerances_follow_operator_type_and_size() {
        let cases = [
            ("sub", DataType::Int8, json!({}), Tolerance::Ulp(0)),
            ("exp", DataType::Float16, json!({}), Tolerance::Ulp(1)),
            ("reshape", DataType::Float32, json!({}), Tolerance::Ulp(0)),
            ("reduceSum", DataType::Float32, json!({}), Tolerance::Ulp(120)),
            ("reduceMean", DataType::Float32, json!({ "axes": [1, 2] }), Tolerance::Ulp(14)),
            ("reduceL2", DataType::Float32, json!({ "axes": [] }), Tolerance::Ulp(4)),
            ("matmul", DataType::Float32, json!({}), Tolerance::Ulp(10)),
            ("softmax", DataType::Float16, json!({}), Tolerance::Ulp(12)),
            ("conv2d", DataType::Float32, json!({}), Tolerance::Ulp(2 * 3 * 4 * 3)),
            (
                "conv2d",
                DataType::Float32,
                json!({ "inputLayout": "nhwc", "filterLayout": "ohwi", "groups": 5 }),
                Tolerance::Ulp(2 * 2 * 3),
            ),
            ("layerNormalization", DataType::Float16, json!({}), Tolerance::Absolute(1.0 / 512.0)),
        ];
        for (operator, data_type, options, tolerance) in cases {
            let shapes: Vec<&[u32]> = vec![&[2, 3, 4, 5], &[1, 2, 3, 4]];
            let judged = Judged { operator, data_type, shapes, options: &options, axis: Some(1) };
            assert_eq!(Tolerance::of(&judged), Ok(tolerance), "{operator}");
        }
    }
}
