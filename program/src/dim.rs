//! Dimensions as small integer expressions over symbols, evaluated in the page per run.

use serde::{Deserialize, Serialize};

#[cfg(feature = "algebra")]
mod term;

#[cfg(feature = "algebra")]
pub use term::Term;

/// Index into [`crate::program::Program::symbols`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Symbol(pub u32);

/// An integer expression; a dimension or an offset.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Dim {
    /// A known number.
    Fixed(i64),
    /// A symbol's value.
    Symbol(Symbol),
    /// A sum.
    Sum(Vec<Dim>),
    /// A product.
    Product(Vec<Dim>),
    /// A quotient, rounded down; the divisor is positive.
    DivFloor(Box<Dim>, u64),
    /// The smallest.
    Min(Vec<Dim>),
    /// The largest.
    Max(Vec<Dim>),
    /// What the dimensions broadcast to: the one that is not 1.
    Broadcast(Vec<Dim>),
}

impl Dim {
    /// The number, when it does not depend on symbols.
    pub fn as_fixed(&self) -> Option<i64> {
        match self {
            Dim::Fixed(value) => Some(*value),
            _ if self.symbols_below(0) => self.eval(&[]),
            _ => None,
        }
    }

    /// The value for these symbols' values; `None` on overflow, an unknown symbol or dimensions that do not broadcast.
    pub fn eval(&self, symbols: &[i64]) -> Option<i64> {
        match self {
            Dim::Fixed(value) => Some(*value),
            Dim::Symbol(Symbol(index)) => symbols.get(*index as usize).copied(),
            Dim::Sum(terms) => {
                terms.iter().try_fold(0i64, |sum, dim| sum.checked_add(dim.eval(symbols)?))
            }
            Dim::Product(factors) => factors
                .iter()
                .try_fold(1i64, |product, dim| product.checked_mul(dim.eval(symbols)?)),
            Dim::DivFloor(dim, by) => {
                dim.eval(symbols)?.checked_div_euclid(i64::try_from(*by).ok()?)
            }
            Dim::Min(dims) => evaluated(dims, symbols)?.into_iter().min(),
            Dim::Max(dims) => evaluated(dims, symbols)?.into_iter().max(),
            Dim::Broadcast(dims) => {
                evaluated(dims, symbols)?.into_iter().try_fold(1, |all, dim| match (all, dim) {
                    (all, 1) => Some(all),
                    (1, dim) => Some(dim),
                    (all, dim) => (all == dim).then_some(all),
                })
            }
        }
    }

    /// Whether it depends on a symbol.
    pub fn mentions(&self, symbol: Symbol) -> bool {
        match self {
            Dim::Fixed(_) => false,
            Dim::Symbol(own) => *own == symbol,
            Dim::DivFloor(dim, _) => dim.mentions(symbol),
            Dim::Sum(dims)
            | Dim::Product(dims)
            | Dim::Min(dims)
            | Dim::Max(dims)
            | Dim::Broadcast(dims) => dims.iter().any(|dim| dim.mentions(symbol)),
        }
    }

    /// Whether every symbol's index is below `count`.
    pub fn symbols_below(&self, count: usize) -> bool {
        match self {
            Dim::Fixed(_) => true,
            Dim::Symbol(Symbol(index)) => (*index as usize) < count,
            Dim::DivFloor(dim, _) => dim.symbols_below(count),
            Dim::Sum(dims)
            | Dim::Product(dims)
            | Dim::Min(dims)
            | Dim::Max(dims)
            | Dim::Broadcast(dims) => dims.iter().all(|dim| dim.symbols_below(count)),
        }
    }
}

impl From<i64> for Dim {
    fn from(value: i64) -> Dim {
        Dim::Fixed(value)
    }
}

fn evaluated(dims: &[Dim], symbols: &[i64]) -> Option<Vec<i64>> {
    dims.iter().map(|dim| dim.eval(symbols)).collect()
}
