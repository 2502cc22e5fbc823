//! Lower and upper bounds of a dimension, as far as they follow from its symbols' bounds.

use std::cmp::Ordering;

use super::{Dim, Symbol};

/// Bounds of symbols: the least and the largest value of each.
#[derive(Clone, Copy)]
pub struct Bounds<'a> {
    of_symbol: &'a dyn Fn(Symbol) -> (i64, i64),
}

/// Most terms of a sum in which remainders are looked for.
const TERMS_MAX: usize = 16;

/// No bound.
const NONE: (i64, i64) = (i64::MIN, i64::MAX);

impl<'a> Bounds<'a> {
    /// From each symbol's bounds; `i64::MIN` and `i64::MAX` stand for none.
    pub fn new(of_symbol: &'a dyn Fn(Symbol) -> (i64, i64)) -> Bounds<'a> {
        Bounds { of_symbol }
    }

    /// The least and the largest value; `i64::MIN` and `i64::MAX` stand for none.
    pub fn of(&self, dim: &Dim) -> (i64, i64) {
        let all = |dims: &[Dim]| dims.iter().map(|dim| self.of(dim)).collect::<Vec<_>>();
        match dim {
            Dim::Fixed(value) => (*value, *value),
            Dim::Symbol(symbol) => (self.of_symbol)(*symbol),
            Dim::Sum(terms) => {
                let plain = all(terms).into_iter().fold((0, 0), sum);
                match self.remainder(terms) {
                    Some(found) => (plain.0.max(found.0), plain.1.min(found.1)),
                    None => plain,
                }
            }
            Dim::Product(factors) => all(factors).into_iter().fold((1, 1), product),
            Dim::Quotient(dim, by) => quotient(self.of(dim), self.of(by)),
            Dim::Min(dims) => {
                let all = all(dims);
                let low = all.iter().map(|bounds| bounds.0).min().unwrap_or(i64::MIN);
                (low, all.iter().map(|bounds| bounds.1).min().unwrap_or(i64::MAX))
            }
            Dim::Max(dims) => {
                let all = all(dims);
                let low = all.iter().map(|bounds| bounds.0).max().unwrap_or(i64::MIN);
                (low, all.iter().map(|bounds| bounds.1).max().unwrap_or(i64::MAX))
            }
            // Any of them, or 1.
            Dim::Broadcast(dims) => all(dims).into_iter().fold((1, 1), either),
            Dim::Equal(..) | Dim::Less(..) => (0, 1),
            Dim::Select(_, yes, no) => either(self.of(yes), self.of(no)),
        }
    }

    /// Bounds of a sum that contains a remainder: `x - n * (x / n)` is not negative and less than `n`.
    fn remainder(&self, terms: &[Dim]) -> Option<(i64, i64)> {
        if !(2..=TERMS_MAX).contains(&terms.len()) {
            return None;
        }
        terms.iter().find_map(|term| {
            let (factor, dividend, by) = match term {
                Dim::Quotient(dividend, by) => (1, dividend, by.as_fixed()?),
                Dim::Product(parts) => match parts.as_slice() {
                    [Dim::Fixed(factor), Dim::Quotient(dividend, by)] => {
                        (*factor, dividend, by.as_fixed()?)
                    }
                    _ => return None,
                },
                _ => return None,
            };
            let n = factor.checked_abs().filter(|n| *n > 0 && by > 0 && by % n == 0)?;
            // `x` itself may be a quotient; then `x / n` is one quotient.
            let x = if by == n { (**dividend).clone() } else { dividend.over(by / n) };
            let x = if factor < 0 { x } else { -x };
            let rest = terms.iter().filter(|other| *other != term).cloned();
            let rest = (Dim::Sum(rest.collect()) - x).normalized();
            let is_shorter = match &rest {
                Dim::Sum(left) => left.len() + 1 < terms.len(),
                _ => true,
            };
            let part = if factor < 0 { (0, n - 1) } else { (1 - n, 0) };
            is_shorter.then(|| sum(self.of(&rest), part))
        })
    }

    /// How two dimensions compare for all values of their symbols. If they may also be equal, either
    /// order is returned.
    pub fn order(&self, a: &Dim, b: &Dim) -> Option<Ordering> {
        let (low, high) = self.of(&(a - b));
        let ((a_low, a_high), (b_low, b_high)) = (self.of(a), self.of(b));
        if high <= 0 || a_high <= b_low {
            Some(Ordering::Less)
        } else if low >= 0 || a_low >= b_high {
            Some(Ordering::Greater)
        } else {
            None
        }
    }

    /// Whether two dimensions are never equal.
    pub fn differ(&self, a: &Dim, b: &Dim) -> bool {
        let (low, high) = self.of(&(a - b));
        let ((a_low, a_high), (b_low, b_high)) = (self.of(a), self.of(b));
        low > 0 || high < 0 || a_high < b_low || b_high < a_low
    }
}

fn either(a: (i64, i64), b: (i64, i64)) -> (i64, i64) {
    (a.0.min(b.0), a.1.max(b.1))
}

fn sum(a: (i64, i64), b: (i64, i64)) -> (i64, i64) {
    let low = if a.0 == i64::MIN || b.0 == i64::MIN { i64::MIN } else { a.0.saturating_add(b.0) };
    let high = if a.1 == i64::MAX || b.1 == i64::MAX { i64::MAX } else { a.1.saturating_add(b.1) };
    (low, high)
}

fn product(a: (i64, i64), b: (i64, i64)) -> (i64, i64) {
    let corners = [(a.0, b.0), (a.0, b.1), (a.1, b.0), (a.1, b.1)].map(|(a, b)| times(a, b));
    let low = corners.iter().copied().min().unwrap_or(i64::MIN);
    (low, corners.iter().copied().max().unwrap_or(i64::MAX))
}

/// A product in which the ends of the range stand for infinities.
fn times(a: i64, b: i64) -> i64 {
    if a == 0 || b == 0 { 0 } else { a.saturating_mul(b) }
}

fn quotient(dividend: (i64, i64), by: (i64, i64)) -> (i64, i64) {
    if by.0 <= 0 {
        return NONE;
    }
    let down = |value: i64, by: i64| match value {
        i64::MIN | i64::MAX => value,
        value => value.div_euclid(by),
    };
    let low = if dividend.0 >= 0 { by.1 } else { by.0 };
    let high = if dividend.1 >= 0 { by.0 } else { by.1 };
    (down(dividend.0, low), down(dividend.1, high))
}
