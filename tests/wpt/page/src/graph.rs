//! A case's graph: read from JSON, built, dispatched and read back.

use std::collections::BTreeMap;

use flotilla_webnn::{
    MlContext, MlContextOptions, MlGraph, MlGraphBuilder, MlOperand, MlOperandDescriptor, MlTensor,
    MlTensorDescriptor, ml,
};
use js_sys::{Object, Promise, Reflect, Uint8Array};
use serde_json::Value;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use crate::{
    arguments::Arguments,
    data::Tensor,
    limits::Limits,
    operators,
    tolerance::{Judged, Tolerance},
};

/// Why a case does not pass.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stop {
    /// Something is not right.
    Failed(String),
    /// The browser lacks what the graph needs; its message.
    Unsupported(String),
}

/// The operators and the expected outputs.
#[derive(Debug)]
pub(crate) struct Graph {
    inputs: Vec<Tensor>,
    constants: Vec<Tensor>,
    operators: Vec<Operator>,
    pub(crate) expected: Vec<Tensor>,
}

/// One call of a builder's method.
#[derive(Debug)]
pub(crate) struct Operator {
    /// The W3C name.
    pub(crate) name: String,
    /// All but the options, with their names and in their order.
    pub(crate) arguments: Vec<(String, Value)>,
    /// An object, or `Value::Null`.
    pub(crate) options: Value,
    outputs: Vec<String>,
}

impl Graph {
    pub(crate) fn read(case: &Value) -> Result<Graph, String> {
        let graph = &case["graph"];
        let tensors = |member: &str| graph[member].as_object().into_iter().flatten();
        let (mut inputs, mut constants) = (Vec::new(), Vec::new());
        for (name, value) in tensors("inputs") {
            let kind =
                if value["constant"] == Value::Bool(true) { &mut constants } else { &mut inputs };
            kind.push(Tensor::read(name, value)?);
        }
        let expected = tensors("expectedOutputs").map(|(name, value)| Tensor::read(name, value));
        let expected = expected.collect::<Result<Vec<_>, _>>()?;
        let operators = graph["operators"].as_array().ok_or("the case has no operators")?;
        let operators = operators.iter().map(Operator::read).collect::<Result<_, _>>()?;
        if expected.is_empty() {
            return Err("the case expects nothing".to_owned());
        }
        Ok(Graph { inputs, constants, operators, expected })
    }

    /// The tolerance of web-platform-tests. It adds up the tolerances of operators; every published case has one.
    pub(crate) fn tolerance(&self) -> Result<Tolerance, String> {
        let ([operator], Some(expected)) = (self.operators.as_slice(), self.expected.first())
        else {
            return Err(format!("the case has {} operators", self.operators.len()));
        };
        let shape = |value: &Value| {
            let name = value.as_str()?;
            let tensor = self.inputs.iter().chain(&self.constants).find(|input| input.name == name);
            Some(tensor?.shape.as_slice())
        };
        Tolerance::of(&Judged {
            operator: &operator.name,
            data_type: expected.data_type,
            shapes: operator.arguments.iter().filter_map(|(_, value)| shape(value)).collect(),
            options: &operator.options,
            axis: operator.argument("axis").and_then(Value::as_u64).map(|axis| axis as usize),
        })
    }

    /// The bytes of the expected outputs.
    pub(crate) async fn compute(&self) -> Result<Vec<Vec<u8>>, Stop> {
        let ml = ml().ok_or_else(|| Stop::Failed("the page has no navigator.ml".to_owned()))?;
        let context = ml.create_context(&MlContextOptions::new()).map_err(failed)?;
        let context: MlContext = settled(context).await.map_err(failed)?;
        let results = self.compute_in(&context).await;
        context.destroy();
        results
    }

    async fn compute_in(&self, context: &MlContext) -> Result<Vec<Vec<u8>>, Stop> {
        let builder = MlGraphBuilder::new(context).map_err(failed)?;
        let limits = Limits::of(context).map_err(Stop::Failed)?;
        let outputs = self.build(&builder, &limits)?;
        let named = Object::new();
        for (tensor, output) in self.expected.iter().zip(&outputs) {
            put(&named, &tensor.name, output)?;
        }
        let built = builder.build(&named).map_err(refused)?;
        let graph: MlGraph = settled(built).await.map_err(refused)?;

        let (named_inputs, named_outputs) = (Object::new(), Object::new());
        for input in &self.inputs {
            let descriptor = MlTensorDescriptor::new(input.data_type.as_str(), &input.shape);
            descriptor.set_writable(true);
            let tensor = created(context, &descriptor).await?;
            let bytes = input.bytes().map_err(Stop::Failed)?;
            context.write_tensor(&tensor, &Uint8Array::from(bytes.as_slice())).map_err(failed)?;
            put(&named_inputs, &input.name, &tensor)?;
        }
        let mut read = Vec::new();
        for output in &self.expected {
            let descriptor = MlTensorDescriptor::new(output.data_type.as_str(), &output.shape);
            descriptor.set_readable(true);
            let tensor = created(context, &descriptor).await?;
            put(&named_outputs, &output.name, &tensor)?;
            read.push(tensor);
        }
        context.dispatch(&graph, &named_inputs, &named_outputs).map_err(failed)?;
        let mut results = Vec::new();
        for tensor in &read {
            let bytes: JsValue = settled(context.read_tensor(tensor)).await.map_err(failed)?;
            results.push(Uint8Array::new(&bytes).to_vec());
        }
        Ok(results)
    }

    /// The operands of the expected outputs, with the expected types and shapes.
    fn build(&self, builder: &MlGraphBuilder, limits: &Limits) -> Result<Vec<MlOperand>, Stop> {
        let mut operands = BTreeMap::new();
        for input in &self.inputs {
            let descriptor = MlOperandDescriptor::new(input.data_type.as_str(), &input.shape);
            let operand = builder.input(&input.name, &descriptor).map_err(refused)?;
            operands.insert(input.name.clone(), operand);
        }
        for constant in &self.constants {
            let descriptor = MlOperandDescriptor::new(constant.data_type.as_str(), &constant.shape);
            let bytes = constant.bytes().map_err(Stop::Failed)?;
            let bytes = Uint8Array::from(bytes.as_slice());
            let operand = builder.constant(&descriptor, &bytes).map_err(refused)?;
            operands.insert(constant.name.clone(), operand);
        }
        for operator in &self.operators {
            let arguments = Arguments::new(operator, &operands);
            let outputs = match operators::call(builder, &arguments) {
                // For operands outside of the limits the browser throws a `TypeError`, as for wrong arguments.
                Err(Stop::Failed(words)) if limits.exclude(operator, &operands) => {
                    return Err(Stop::Unsupported(words));
                }
                outcome => outcome?,
            };
            arguments.all_used()?;
            if outputs.len() != operator.outputs.len() {
                return Err(Stop::Failed(format!(
                    "{} has {} outputs and not {}",
                    operator.name,
                    outputs.len(),
                    operator.outputs.len()
                )));
            }
            operands.extend(operator.outputs.iter().cloned().zip(outputs));
        }
        self.expected.iter().map(|expected| described(expected, &operands)).collect()
    }
}

impl Operator {
    fn read(value: &Value) -> Result<Operator, String> {
        let name = value["name"].as_str().ok_or("an operator has no name")?.to_owned();
        let (mut arguments, mut options) = (Vec::new(), Value::Null);
        // A list, because the order matters: one object with one member per argument.
        for argument in value["arguments"].as_array().into_iter().flatten() {
            for (name, value) in argument.as_object().into_iter().flatten() {
                match name.as_str() {
                    "options" => options = value.clone(),
                    _ => arguments.push((name.clone(), value.clone())),
                }
            }
        }
        let outputs = match &value["outputs"] {
            Value::String(output) => vec![output.clone()],
            Value::Array(outputs) => {
                outputs.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            other => return Err(format!("{name} has the outputs {other}")),
        };
        Ok(Operator { name, arguments, options, outputs })
    }

    pub(crate) fn argument(&self, name: &str) -> Option<&Value> {
        self.arguments.iter().find(|(argument, _)| argument == name).map(|(_, value)| value)
    }
}

/// The operand of an expected output, if it has the expected type and shape.
fn described(expected: &Tensor, operands: &BTreeMap<String, MlOperand>) -> Result<MlOperand, Stop> {
    let Tensor { name, data_type, shape, .. } = expected;
    let operand = operands
        .get(name)
        .ok_or_else(|| Stop::Failed(format!("no operator has the output {name}")))?;
    let (got_type, got_shape) = (operand.data_type(), operand.shape());
    if got_type != data_type.as_str() || got_shape != *shape {
        return Err(Stop::Failed(format!(
            "{name} is {got_type} {got_shape:?} and not {} {shape:?}",
            data_type.as_str()
        )));
    }
    Ok(operand.clone())
}

async fn created(context: &MlContext, descriptor: &MlTensorDescriptor) -> Result<MlTensor, Stop> {
    settled(context.create_tensor(descriptor).map_err(failed)?).await.map_err(failed)
}

async fn settled<T: JsCast>(promise: Promise) -> Result<T, JsValue> {
    JsFuture::from(promise).await.map(JsCast::unchecked_into)
}

fn put(record: &Object, name: &str, value: &JsValue) -> Result<(), Stop> {
    Reflect::set(record, &name.into(), value).map(|_| ()).map_err(failed)
}

fn failed(error: JsValue) -> Stop {
    Stop::Failed(words(&error))
}

/// A refusal by the builder.
pub(crate) fn refused(error: JsValue) -> Stop {
    match error.dyn_ref::<js_sys::Error>() {
        Some(known) if known.name() == "NotSupportedError" => Stop::Unsupported(words(&error)),
        _ => failed(error),
    }
}

fn words(error: &JsValue) -> String {
    match error.dyn_ref::<js_sys::Error>() {
        Some(error) => format!("{}: {}", error.name(), error.message()),
        None => format!("{error:?}"),
    }
}
