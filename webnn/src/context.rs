//! `navigator.ml`, its contexts, and the tensors and graphs that belong to a context.

use js_sys::{Object, Promise};
use wasm_bindgen::prelude::*;

use crate::{MlContextOptions, MlOperandDescriptor, MlTensorDescriptor};

/// `navigator.ml` of this window or worker. `None` where the browser has no WebNN or the page is not a secure context.
pub fn ml() -> Option<Ml> {
    js_sys::global().unchecked_into::<GlobalScope>().navigator()?.ml()
}

#[wasm_bindgen]
extern "C" {
    type GlobalScope;

    #[wasm_bindgen(method, getter)]
    fn navigator(this: &GlobalScope) -> Option<Navigator>;

    type Navigator;

    #[wasm_bindgen(method, getter)]
    fn ml(this: &Navigator) -> Option<Ml>;

    /// Where contexts come from.
    #[wasm_bindgen(extends = Object, js_name = ML)]
    #[derive(Clone, Debug)]
    pub type Ml;

    /// Promises an [`MlContext`].
    #[wasm_bindgen(method, catch, js_name = createContext)]
    pub fn create_context(this: &Ml, options: &MlContextOptions) -> Result<Promise, JsValue>;

    /// A device, and what belongs to it. Work given to a context is done in the order in which it was given.
    #[wasm_bindgen(extends = Object, js_name = MLContext)]
    #[derive(Clone, Debug)]
    pub type MlContext;

    /// Promises an [`MlTensor`] of zeros.
    #[wasm_bindgen(method, catch, js_name = createTensor)]
    pub fn create_tensor(
        this: &MlContext,
        descriptor: &MlTensorDescriptor,
    ) -> Result<Promise, JsValue>;

    /// Promises an [`MlTensor`] for [`MlGraphBuilder::constant_tensor`](crate::MlGraphBuilder::constant_tensor).
    /// `input_data` is a buffer or a view of one, and is copied.
    #[wasm_bindgen(method, catch, js_name = createConstantTensor)]
    pub fn create_constant_tensor(
        this: &MlContext,
        descriptor: &MlOperandDescriptor,
        input_data: &Object,
    ) -> Result<Promise, JsValue>;

    /// Copies `input_data`, a buffer or a view of one, into a writable tensor of as many bytes. Failures that the
    /// device finds later lose the context.
    #[wasm_bindgen(method, catch, js_name = writeTensor)]
    pub fn write_tensor(
        this: &MlContext,
        tensor: &MlTensor,
        input_data: &Object,
    ) -> Result<(), JsValue>;

    /// Promises an `ArrayBuffer` with the bytes of a readable tensor, after all work that was dispatched before.
    #[wasm_bindgen(method, js_name = readTensor)]
    pub fn read_tensor(this: &MlContext, tensor: &MlTensor) -> Promise;

    /// As [`read_tensor`](MlContext::read_tensor), into `output_data`, a buffer or a view of one; promises nothing. A
    /// view of wasm memory does not survive that memory's growth.
    #[wasm_bindgen(method, js_name = readTensor)]
    pub fn read_tensor_into(this: &MlContext, tensor: &MlTensor, output_data: &Object) -> Promise;

    /// Runs a graph. `inputs` and `outputs` hold an [`MlTensor`] under every name that the graph has, of its data type
    /// and shape; none may be in both. Failures that the device finds later lose the context.
    #[wasm_bindgen(method, catch)]
    pub fn dispatch(
        this: &MlContext,
        graph: &MlGraph,
        inputs: &Object,
        outputs: &Object,
    ) -> Result<(), JsValue>;

    /// What the context takes: for every operator, under its W3C name, the data types and ranks of its operands.
    #[wasm_bindgen(method, js_name = opSupportLimits)]
    pub fn op_support_limits(this: &MlContext) -> Object;

    /// Whether the context computes on more than the CPU, according to the browser; `None` if it does not report this.
    #[wasm_bindgen(method, getter)]
    pub fn accelerated(this: &MlContext) -> Option<bool>;

    /// Promises an object with a `message` when the context is lost, by `destroy` too.
    #[wasm_bindgen(method, getter)]
    pub fn lost(this: &MlContext) -> Promise;

    /// Loses the context, its tensors and its graphs.
    #[wasm_bindgen(method)]
    pub fn destroy(this: &MlContext);

    /// Memory of a context, in the order of rows.
    #[wasm_bindgen(extends = Object, js_name = MLTensor)]
    #[derive(Clone, Debug)]
    pub type MlTensor;

    /// `"float32"` and so on.
    #[wasm_bindgen(method, getter, js_name = dataType)]
    pub fn data_type(this: &MlTensor) -> String;

    /// Its sizes, outermost first; none for a scalar.
    #[wasm_bindgen(method, getter)]
    pub fn shape(this: &MlTensor) -> Vec<u32>;

    /// Whether [`MlContext::read_tensor`] takes it.
    #[wasm_bindgen(method, getter)]
    pub fn readable(this: &MlTensor) -> bool;

    /// Whether [`MlContext::write_tensor`] takes it.
    #[wasm_bindgen(method, getter)]
    pub fn writable(this: &MlTensor) -> bool;

    /// Whether it is from [`MlContext::create_constant_tensor`].
    #[wasm_bindgen(method, getter)]
    pub fn constant(this: &MlTensor) -> bool;

    /// Frees its memory when the work that uses it is done.
    #[wasm_bindgen(method)]
    pub fn destroy(this: &MlTensor);

    /// A compiled graph of a context.
    #[wasm_bindgen(extends = Object, js_name = MLGraph)]
    #[derive(Clone, Debug)]
    pub type MlGraph;

    /// Frees its memory when the work that uses it is done.
    #[wasm_bindgen(method)]
    pub fn destroy(this: &MlGraph);
}
