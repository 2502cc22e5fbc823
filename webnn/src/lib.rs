//! The W3C Web Neural Network API, declared for wasm-bindgen and nothing more.
//!
//! Source: W3C, "Web Neural Network API", <https://www.w3.org/TR/webnn/>. Names are the specification's in Rust's case;
//! behaviour is the browser's. A failure gives the browser's own exception: `TypeError` if an argument breaks the
//! specification's rules, `NotSupportedError` if the browser lacks the requested operator or type.
//!
//! - Values of an enumeration are the specification's strings, such as `"float32"`; the browser throws at unknown ones
//!   when the dictionary or the argument is used.
//! - A sequence of numbers is a slice, a sequence of operands an `js_sys::Array`, a record an
//!   `js_sys::Object` made with `Reflect::set`.
//! - Every operator takes its dictionary of options last. A member that is not set is absent, so it has the
//!   specification's default.
//!
//! A browser may lack an operator of the current text; `MlContext::op_support_limits` names those it has.
//!
//! On native targets the crate is empty: only pages have WebNN.

#![cfg(target_arch = "wasm32")]

mod builder;
mod context;
mod operators;
mod options;

pub use builder::{MlGraphBuilder, MlOperand};
pub use context::{Ml, MlContext, MlGraph, MlTensor, ml};
pub use options::{
    MlArgMinMaxOptions, MlBatchNormalizationOptions, MlClampOptions, MlContextOptions,
    MlConv2dOptions, MlConvTranspose2dOptions, MlCumulativeSumOptions, MlEluOptions,
    MlGatherOptions, MlGemmOptions, MlGruCellOptions, MlGruOptions, MlHardSigmoidOptions,
    MlInstanceNormalizationOptions, MlLayerNormalizationOptions, MlLeakyReluOptions,
    MlLinearOptions, MlLstmCellOptions, MlLstmOptions, MlOperandDescriptor, MlOperatorOptions,
    MlPadOptions, MlPool2dOptions, MlReduceOptions, MlResample2dOptions, MlReverseOptions,
    MlScatterOptions, MlSliceOptions, MlSplitOptions, MlTensorDescriptor, MlTransposeOptions,
    MlTriangularOptions,
};
