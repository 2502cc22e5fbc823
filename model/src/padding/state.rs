//! The facts about a value.

use super::{
    extent::Extent,
    fill::{Fill, Kind},
};
use flotilla_program::dim::{Dim, Symbol};
use flotilla_tensor::DType;

/// A dimension with padding, and the facts about the elements whose index along it is padding, whatever their other
/// indices.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub(super) extent: Extent,
    pub(super) fill: Fill,
}

/// From what elements are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Made {
    /// From the inputs of a run.
    Data,
    /// Each is one of [`Made::Sizes`]; the inputs of a run may select which.
    Picked,
    /// From constants and sizes alone, so that padding is what a run of the larger size would have there.
    Sizes,
}

/// The facts about a value.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) dtype: DType,
    /// Its elements that are not padding; the same as without padding.
    pub(super) real: Fill,
    /// For each dimension, its padding if it has some.
    pub(super) axes: Vec<Option<Axis>>,
    /// From what its elements are computed, padding included.
    pub(super) made: Made,
    /// Of integers: none is negative, and each is less than this.
    pub(super) below: Option<Dim>,
}

impl State {
    /// Without padding.
    pub(super) fn closed(dtype: DType, rank: usize, real: Fill) -> State {
        State { dtype, real, axes: vec![None; rank], made: Made::Data, below: None }
    }

    pub(super) fn is_open(&self) -> bool {
        self.axes.iter().any(Option::is_some)
    }

    pub(super) fn axis(&self, axis: usize) -> Option<&Axis> {
        self.axes.get(axis).and_then(Option::as_ref)
    }

    /// The kind of all its elements.
    pub(super) fn kind(&self) -> Kind {
        let fills = self.axes.iter().flatten().map(|axis| &axis.fill);
        let kinds = fills.chain([&self.real]).map(|fill| fill.kind(self.dtype));
        kinds.max().unwrap_or(Kind::Any)
    }

    /// The facts that hold for every element.
    pub(super) fn everywhere(&self) -> Fill {
        let fills = self.axes.iter().flatten().map(|axis| &axis.fill);
        if fills.clone().all(|fill| *fill == self.real) {
            return self.real.clone();
        }
        Fill::Kind(self.kind())
    }

    /// The facts about the elements whose index along a dimension is padding, or about all of them if the dimension
    /// has none.
    pub(super) fn along(&self, axis: Option<usize>) -> Fill {
        match axis.and_then(|axis| self.axis(axis)) {
            Some(axis) => axis.fill.clone(),
            None => self.everywhere(),
        }
    }
}

/// Whether a dimension depends on the symbol.
pub(super) fn mentions(dims: &[Dim], symbol: Symbol) -> bool {
    dims.iter().any(|dim| dim.mentions(symbol))
}
