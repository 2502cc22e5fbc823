//! Symbolic dimensions: tract's expressions become ours.

use tract_onnx::{
    prelude::{TDim, Tensor, TypedFact},
    tract_hir::internal::TypedNode,
};

use super::{LowerResult, Lowering};
use flotilla_program::dim::{Dim, Symbol};

impl Lowering<'_> {
    /// A dimension in our form; its symbols are numbered in the order in which they are met.
    pub(super) fn dim(&mut self, node: &TypedNode, dim: &TDim) -> LowerResult<Dim> {
        let dims = |lowering: &mut Self, dims: &[TDim]| {
            dims.iter().map(|dim| lowering.dim(node, dim)).collect::<LowerResult<Vec<_>>>()
        };
        Ok(match dim {
            TDim::Val(value) => Dim::Fixed(*value),
            TDim::Sym(symbol) => {
                let index =
                    self.symbols.iter().position(|known| known == symbol).unwrap_or_else(|| {
                        self.symbols.push(symbol.clone());
                        self.draft.symbols.push(symbol.to_string());
                        self.symbols.len() - 1
                    });
                Dim::Symbol(Symbol(index as u32))
            }
            TDim::Add(terms) => Dim::Sum(dims(self, terms)?),
            TDim::Mul(factors) => Dim::Product(dims(self, factors)?),
            TDim::MulInt(factor, dim) => {
                Dim::Product(vec![Dim::Fixed(*factor), self.dim(node, dim)?])
            }
            // tract truncates where we round down; dimensions are not negative, so both give the same.
            TDim::Div(dim, by) => Dim::DivFloor(Box::new(self.dim(node, dim)?), *by),
            TDim::Broadcast(all) => Dim::Broadcast(dims(self, all)?),
            TDim::Min(all) => Dim::Min(dims(self, all)?),
            TDim::Max(all) => Dim::Max(dims(self, all)?),
            TDim::Ge(..) | TDim::Eq(..) => {
                return Err(self.unsupported(node, format!("dimension {dim} is a comparison")));
            }
        })
    }

    pub(super) fn dims(&mut self, node: &TypedNode, dims: &[TDim]) -> LowerResult<Vec<Dim>> {
        dims.iter().map(|dim| self.dim(node, dim)).collect()
    }

    /// A fact's shape in our form.
    pub(super) fn fact_shape(
        &mut self,
        node: &TypedNode,
        fact: &TypedFact,
    ) -> LowerResult<Vec<Dim>> {
        self.dims(node, &fact.shape.to_tvec())
    }
}

/// The elements of an integer or dimension tensor as dimensions.
pub(super) fn tensor_dims(tensor: &Tensor) -> Option<Vec<TDim>> {
    let cast = tensor.cast_to::<TDim>().ok()?;
    Some(cast.try_as_plain_ram().ok()?.as_slice::<TDim>().ok()?.to_vec())
}
