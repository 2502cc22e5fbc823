//! Tensors with names.

use crate::Tensor;

/// An input or output of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Name of the input or output.
    pub name: String,
    /// Its type, shape and elements.
    pub tensor: Tensor,
}

impl NamedTensor {
    /// A tensor under a name.
    pub fn new(name: impl Into<String>, tensor: Tensor) -> NamedTensor {
        NamedTensor { name: name.into(), tensor }
    }
}
