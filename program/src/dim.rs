//! Dimensions as small integer expressions over symbols, evaluated in the page per run.

use serde::{Deserialize, Serialize};

#[cfg(feature = "algebra")]
mod bounds;
#[cfg(feature = "algebra")]
mod operators;
#[cfg(feature = "algebra")]
mod polynomial;
#[cfg(feature = "algebra")]
mod term;

#[cfg(feature = "algebra")]
pub use bounds::Bounds;
#[cfg(feature = "algebra")]
pub use operators::ToDim;
#[cfg(feature = "algebra")]
pub use term::Term;

/// Index into [`crate::Program::symbols`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Symbol(pub u32);

/// An integer expression: a dimension, an offset, or any other number that shapes are computed from. Comparisons are 1 or
/// 0.
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
    /// A quotient, rounded down; it has no value where the divisor is 0.
    Quotient(Box<Dim>, Box<Dim>),
    /// The smallest.
    Min(Vec<Dim>),
    /// The largest.
    Max(Vec<Dim>),
    /// What the dimensions broadcast to: the one that is not 1.
    Broadcast(Vec<Dim>),
    /// 1 where both are equal, else 0.
    Equal(Box<Dim>, Box<Dim>),
    /// 1 where the first is less than the second, else 0.
    Less(Box<Dim>, Box<Dim>),
    /// The second where the first is not 0, else the third. The one that is not selected needs no value.
    Select(Box<Dim>, Box<Dim>, Box<Dim>),
}

impl Dim {
    /// The number, if it does not depend on symbols.
    pub fn as_fixed(&self) -> Option<i64> {
        match self {
            Dim::Fixed(value) => Some(*value),
            _ if self.symbols_below(0) => self.eval(&[]),
            _ => None,
        }
    }

    /// The value for these symbols' values; `None` on overflow, an unknown symbol, a divisor of 0 or dimensions that do not
    /// broadcast.
    pub fn eval(&self, symbols: &[i64]) -> Option<i64> {
        self.eval_with(&|symbol: Symbol| symbols.get(symbol.0 as usize).copied())
    }

    /// The value, where `value` gives the value of each symbol that is known.
    pub fn eval_with(&self, value: &impl Fn(Symbol) -> Option<i64>) -> Option<i64> {
        let of = |dim: &Dim| dim.eval_with(value);
        let all = |dims: &[Dim]| dims.iter().map(of).collect::<Option<Vec<i64>>>();
        match self {
            Dim::Fixed(number) => Some(*number),
            Dim::Symbol(symbol) => value(*symbol),
            Dim::Sum(terms) => all(terms)?.into_iter().try_fold(0i64, i64::checked_add),
            Dim::Product(factors) => all(factors)?.into_iter().try_fold(1i64, i64::checked_mul),
            Dim::Quotient(dim, by) => floor_quotient(of(dim)?, of(by)?),
            Dim::Min(dims) => all(dims)?.into_iter().min(),
            Dim::Max(dims) => all(dims)?.into_iter().max(),
            Dim::Broadcast(dims) => {
                all(dims)?.into_iter().try_fold(1, |all, dim| match (all, dim) {
                    (all, 1) => Some(all),
                    (1, dim) => Some(dim),
                    (all, dim) => (all == dim).then_some(all),
                })
            }
            Dim::Equal(a, b) => Some(i64::from(of(a)? == of(b)?)),
            Dim::Less(a, b) => Some(i64::from(of(a)? < of(b)?)),
            Dim::Select(condition, yes, no) => of(if of(condition)? != 0 { yes } else { no }),
        }
    }

    /// Its operands.
    pub fn parts(&self) -> Vec<&Dim> {
        match self {
            Dim::Fixed(_) | Dim::Symbol(_) => Vec::new(),
            Dim::Sum(dims)
            | Dim::Product(dims)
            | Dim::Min(dims)
            | Dim::Max(dims)
            | Dim::Broadcast(dims) => dims.iter().collect(),
            Dim::Quotient(a, b) | Dim::Equal(a, b) | Dim::Less(a, b) => vec![a, b],
            Dim::Select(condition, yes, no) => vec![condition, yes, no],
        }
    }

    /// Every symbol that it depends on, in the order in which they occur.
    pub fn symbols(&self) -> Vec<Symbol> {
        match self {
            Dim::Symbol(symbol) => vec![*symbol],
            _ => self.parts().into_iter().flat_map(Dim::symbols).collect(),
        }
    }

    /// Whether it depends on a symbol.
    pub fn mentions(&self, symbol: Symbol) -> bool {
        *self == Dim::Symbol(symbol) || self.parts().into_iter().any(|dim| dim.mentions(symbol))
    }

    /// Whether every symbol's index is below `count`.
    pub fn symbols_below(&self, count: usize) -> bool {
        match self {
            Dim::Symbol(Symbol(index)) => (*index as usize) < count,
            _ => self.parts().into_iter().all(|dim| dim.symbols_below(count)),
        }
    }
}

impl From<i64> for Dim {
    fn from(value: i64) -> Dim {
        Dim::Fixed(value)
    }
}

/// The quotient rounded down; `None` for a divisor of 0 and on overflow.
fn floor_quotient(value: i64, by: i64) -> Option<i64> {
    let quotient = value.checked_div(by)?;
    let rest = value.checked_rem(by)?;
    Some(if rest != 0 && (rest < 0) != (by < 0) { quotient - 1 } else { quotient })
}
