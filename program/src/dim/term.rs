//! Dimensions as products in normal form, to compare and divide them.

use super::{Dim, Symbol};

/// A product in normal form, so that equal dimensions are equal values: a number and sorted parts that are no products.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    factor: i64,
    parts: Vec<Dim>,
}

impl Term {
    /// No product at all.
    pub const ZERO: Term = Term { factor: 0, parts: Vec::new() };
    /// The empty product.
    pub const ONE: Term = Term { factor: 1, parts: Vec::new() };

    /// A dimension in normal form.
    pub fn of(dim: &Dim) -> Term {
        match dim {
            Dim::Fixed(value) => Term { factor: *value, parts: Vec::new() },
            Dim::Symbol(_) => Term { factor: 1, parts: vec![dim.clone()] },
            Dim::Product(factors) => {
                factors.iter().fold(Term::ONE, |product, dim| product.times(&Term::of(dim)))
            }
            Dim::Sum(terms) => sum(terms.iter().map(Term::of)),
            Dim::DivFloor(dim, by) => {
                let dividend = Term::of(dim);
                match i64::try_from(*by) {
                    Ok(by) if by > 0 && dividend.factor % by == 0 => {
                        Term { factor: dividend.factor / by, parts: dividend.parts }
                    }
                    _ => Term::part(Dim::DivFloor(Box::new(dividend.dim()), *by)),
                }
            }
            Dim::Min(dims) => several(dims, Dim::Min),
            Dim::Max(dims) => several(dims, Dim::Max),
            Dim::Broadcast(dims) => {
                let others: Vec<Dim> =
                    dims.iter().filter(|dim| dim.as_fixed() != Some(1)).cloned().collect();
                if others.is_empty() { Term::ONE } else { several(&others, Dim::Broadcast) }
            }
        }
    }

    fn part(dim: Dim) -> Term {
        Term { factor: 1, parts: vec![dim] }
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

    /// The quotient, where it is a product again.
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

    /// What depends on the symbol, and the rest, which keeps the number.
    pub fn split(&self, symbol: Symbol) -> (Term, Term) {
        let (own, rest) = self.parts.iter().cloned().partition(|part| part.mentions(symbol));
        (Term { factor: 1, parts: own }, Term { factor: self.factor, parts: rest })
    }
}

/// The sum of products: a product where one number or part of it is in all of them, as in `2 S + 2 = 2 (S + 1)`.
fn sum(terms: impl Iterator<Item = Term>) -> Term {
    let mut sum: Vec<Term> = Vec::new();
    for term in terms {
        // A sum inside of a sum is part of it.
        let flat = match term.parts.as_slice() {
            [Dim::Sum(inner)] => inner
                .iter()
                .map(|dim| Term { factor: term.factor, parts: Vec::new() }.times(&Term::of(dim)))
                .collect(),
            _ => vec![term],
        };
        for term in flat {
            match sum.iter_mut().find(|known| known.parts == term.parts) {
                Some(known) => known.factor = known.factor.saturating_add(term.factor),
                None => sum.push(term),
            }
        }
    }
    sum.retain(|term| term.factor != 0);
    sum.sort_by(|a, b| a.parts.cmp(&b.parts));
    match sum.as_slice() {
        [] => return Term::ZERO,
        [only] => return only.clone(),
        _ => {}
    }
    let common = sum.iter().fold(0, |common, term| divisor(common, term.factor));
    let terms = sum.iter().map(|term| Term { factor: term.factor / common, ..term.clone() }.dim());
    Term { factor: common, parts: vec![Dim::Sum(terms.collect())] }
}

fn divisor(mut a: i64, mut b: i64) -> i64 {
    while b != 0 {
        (a, b) = (b, a.checked_rem(b).unwrap_or(0));
    }
    a.saturating_abs()
}

fn several(dims: &[Dim], of: impl Fn(Vec<Dim>) -> Dim) -> Term {
    let mut dims: Vec<Dim> = dims.iter().map(|dim| Term::of(dim).dim()).collect();
    dims.sort();
    dims.dedup();
    match dims.as_slice() {
        [only] => Term::of(only),
        _ => Term::part(of(dims)),
    }
}
