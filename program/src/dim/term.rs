//! Dimensions as products in normal form, to compare and divide them.

use super::{Dim, Symbol, polynomial::Polynomial};

/// A product in normal form, so that equal dimensions are equal values: a number and sorted factors that are not
/// products.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    factor: i64,
    parts: Vec<Dim>,
}

impl Term {
    /// The product that is 0.
    pub const ZERO: Term = Term { factor: 0, parts: Vec::new() };
    /// The empty product.
    pub const ONE: Term = Term { factor: 1, parts: Vec::new() };

    /// A dimension as a product: factors common to all terms of a sum are taken out of it, as in
    /// `2 S T + 2 T = 2 T (S + 1)`.
    pub fn of(dim: &Dim) -> Term {
        Polynomial::of(dim).into_term()
    }

    pub(super) fn new(factor: i64, parts: Vec<Dim>) -> Term {
        Term { factor, parts }
    }

    /// The product.
    #[must_use]
    pub fn times(&self, other: &Term) -> Term {
        let factor = self.factor.saturating_mul(other.factor);
        let mut parts = match factor {
            0 => Vec::new(),
            _ => [self.parts.as_slice(), &other.parts].concat(),
        };
        parts.sort();
        Term { factor, parts }
    }

    /// The quotient, if it is a product again.
    pub fn over(&self, other: &Term) -> Option<Term> {
        let mut parts = self.parts.clone();
        for part in &other.parts {
            parts.remove(parts.iter().position(|own| own == part)?);
        }
        let factor = self.factor.checked_rem(other.factor)? == 0;
        factor.then(|| Term { factor: self.factor / other.factor, parts })
    }

    /// The dimension.
    pub fn dim(&self) -> Dim {
        match (self.factor, self.parts.as_slice()) {
            (factor, []) => Dim::Fixed(factor),
            (1, [part]) => part.clone(),
            (1, parts) => Dim::Product(parts.to_vec()),
            (factor, parts) => {
                let factors = std::iter::once(Dim::Fixed(factor)).chain(parts.iter().cloned());
                Dim::Product(factors.collect())
            }
        }
    }

    /// The part that depends on the symbol, and the rest, which keeps the number.
    pub fn split(&self, symbol: Symbol) -> (Term, Term) {
        let (own, rest) = self.parts.iter().cloned().partition(|part| part.mentions(symbol));
        (Term { factor: 1, parts: own }, Term { factor: self.factor, parts: rest })
    }
}
