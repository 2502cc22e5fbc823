//! The builder of graphs, without its operators.

use js_sys::{Object, Promise};
use wasm_bindgen::prelude::*;

use crate::{MlContext, MlOperandDescriptor, MlTensor};

#[wasm_bindgen]
extern "C" {
    /// A value of the graph that is being built; its shape is known.
    #[wasm_bindgen(extends = Object, js_name = MLOperand)]
    #[derive(Clone, Debug)]
    pub type MlOperand;

    /// `"float32"` and so on.
    #[wasm_bindgen(method, getter, js_name = dataType)]
    pub fn data_type(this: &MlOperand) -> String;

    /// Its sizes, outermost first; none for a scalar.
    #[wasm_bindgen(method, getter)]
    pub fn shape(this: &MlOperand) -> Vec<u32>;

    /// Builds one graph: inputs, constants, operators, and [`build`](MlGraphBuilder::build) at last.
    #[wasm_bindgen(extends = Object, js_name = MLGraphBuilder)]
    #[derive(Clone, Debug)]
    pub type MlGraphBuilder;

    /// A builder for graphs of this context.
    #[wasm_bindgen(constructor, catch, js_class = "MLGraphBuilder")]
    pub fn new(context: &MlContext) -> Result<MlGraphBuilder, JsValue>;

    /// An input of the graph. No two have the same name, and none an empty one.
    #[wasm_bindgen(method, catch)]
    pub fn input(
        this: &MlGraphBuilder,
        name: &str,
        descriptor: &MlOperandDescriptor,
    ) -> Result<MlOperand, JsValue>;

    /// A constant. `buffer` is a buffer or a view of one, has as many bytes as the descriptor says, and is copied.
    #[wasm_bindgen(method, catch)]
    pub fn constant(
        this: &MlGraphBuilder,
        descriptor: &MlOperandDescriptor,
        buffer: &Object,
    ) -> Result<MlOperand, JsValue>;

    /// A constant scalar. `value` is a number or, for integers of 64 bits, a `BigInt`.
    #[wasm_bindgen(method, catch, js_name = constant)]
    pub fn constant_scalar(
        this: &MlGraphBuilder,
        data_type: &str,
        value: &JsValue,
    ) -> Result<MlOperand, JsValue>;

    /// A constant that exists in the context already; see [`MlContext::create_constant_tensor`].
    #[wasm_bindgen(method, catch, js_name = constant)]
    pub fn constant_tensor(this: &MlGraphBuilder, tensor: &MlTensor) -> Result<MlOperand, JsValue>;

    /// Promises an [`MlGraph`](crate::MlGraph) with these outputs: an [`MlOperand`] under every name. An input or a
    /// constant cannot be an output. The builder cannot be used afterwards.
    #[wasm_bindgen(method, catch)]
    pub fn build(this: &MlGraphBuilder, outputs: &Object) -> Result<Promise, JsValue>;
}
