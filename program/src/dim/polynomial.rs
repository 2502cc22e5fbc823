//! Normal forms: equal expressions become equal values, as far as equality is recognized.
//!
//! A dimension is a polynomial over atoms. Atoms are symbols and everything that is neither a sum nor a product of
//! others (quotients, extremes, comparisons), each in normal form itself.

use super::{Dim, Term, floor_quotient};

/// Most monomials of a polynomial that is multiplied out.
const MONOMIALS_MAX: usize = 64;
/// Most steps of a division of polynomials.
const DIVISION_STEPS_MAX: usize = 64;

/// A product of atoms, sorted, and its factor.
type Monomial = (Vec<Dim>, i64);

/// A sum of monomials, sorted by their atoms, no factor 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Polynomial {
    monomials: Vec<Monomial>,
}

/// The normal form.
pub(super) fn normal(dim: &Dim) -> Dim {
    Polynomial::of(dim).into_dim()
}

impl Polynomial {
    pub(super) fn of(dim: &Dim) -> Polynomial {
        match dim {
            Dim::Fixed(value) => Polynomial::constant(*value),
            Dim::Symbol(_) => Polynomial::atom(dim.clone()),
            Dim::Sum(terms) => {
                let terms = terms.iter().map(Polynomial::of);
                match terms.clone().try_fold(Polynomial::constant(0), |sum, term| sum.plus(&term)) {
                    Some(sum) => sum,
                    None => Polynomial::atom(Dim::Sum(terms.map(Polynomial::into_dim).collect())),
                }
            }
            Dim::Product(factors) => {
                let factors = factors.iter().map(Polynomial::of);
                let one = Polynomial::constant(1);
                match factors.clone().try_fold(one, |product, factor| product.times(&factor)) {
                    Some(product) => product,
                    None => {
                        let mut factors: Vec<Dim> = factors.map(Polynomial::into_dim).collect();
                        factors.sort();
                        Polynomial::atom(Dim::Product(factors))
                    }
                }
            }
            Dim::Quotient(dim, by) => quotient(&Polynomial::of(dim), &Polynomial::of(by)),
            Dim::Min(dims) => extreme(dims, Dim::Min, |difference| difference < 0),
            Dim::Max(dims) => extreme(dims, Dim::Max, |difference| difference > 0),
            Dim::Broadcast(dims) => {
                let mut dims: Vec<Dim> = dims.iter().flat_map(broadcast_parts).collect();
                dims.retain(|dim| *dim != Dim::Fixed(1));
                dims.sort();
                dims.dedup();
                match dims.as_slice() {
                    [] => Polynomial::constant(1),
                    [only] => Polynomial::of(only),
                    _ => Polynomial::atom(Dim::Broadcast(dims)),
                }
            }
            Dim::Equal(a, b) => {
                let (a, b) = (Polynomial::of(a), Polynomial::of(b));
                match a.difference(&b) {
                    Some(difference) => Polynomial::constant(i64::from(difference == 0)),
                    None => {
                        let mut sides = [a.into_dim(), b.into_dim()];
                        sides.sort();
                        let [a, b] = sides;
                        Polynomial::atom(Dim::Equal(Box::new(a), Box::new(b)))
                    }
                }
            }
            Dim::Less(a, b) => {
                let (a, b) = (Polynomial::of(a), Polynomial::of(b));
                match a.difference(&b) {
                    Some(difference) => Polynomial::constant(i64::from(difference < 0)),
                    None => {
                        Polynomial::atom(Dim::Less(Box::new(a.into_dim()), Box::new(b.into_dim())))
                    }
                }
            }
            Dim::Select(condition, yes, no) => {
                let (condition, yes, no) =
                    (normal(condition), Polynomial::of(yes), Polynomial::of(no));
                match condition {
                    Dim::Fixed(0) => no,
                    Dim::Fixed(_) => yes,
                    _ if yes == no => yes,
                    condition => Polynomial::atom(Dim::Select(
                        Box::new(condition),
                        Box::new(yes.into_dim()),
                        Box::new(no.into_dim()),
                    )),
                }
            }
        }
    }

    fn constant(value: i64) -> Polynomial {
        Polynomial { monomials: if value == 0 { Vec::new() } else { vec![(Vec::new(), value)] } }
    }

    fn atom(dim: Dim) -> Polynomial {
        Polynomial { monomials: vec![(vec![dim], 1)] }
    }

    /// The number, if it is one.
    fn as_constant(&self) -> Option<i64> {
        match self.monomials.as_slice() {
            [] => Some(0),
            [(atoms, factor)] if atoms.is_empty() => Some(*factor),
            _ => None,
        }
    }

    /// `self - other`, if that is a number.
    fn difference(&self, other: &Polynomial) -> Option<i64> {
        self.plus(&other.scaled(-1)?)?.as_constant()
    }

    fn from_monomials(mut monomials: Vec<Monomial>) -> Option<Polynomial> {
        monomials.sort();
        let mut joined: Vec<Monomial> = Vec::with_capacity(monomials.len());
        for (atoms, factor) in monomials {
            match joined.last_mut() {
                Some((last, sum)) if *last == atoms => *sum = sum.checked_add(factor)?,
                _ => joined.push((atoms, factor)),
            }
        }
        joined.retain(|(_, factor)| *factor != 0);
        (joined.len() <= MONOMIALS_MAX).then_some(Polynomial { monomials: joined })
    }

    fn plus(&self, other: &Polynomial) -> Option<Polynomial> {
        let both = self.monomials.iter().chain(&other.monomials).cloned();
        Polynomial::from_monomials(both.collect())
    }

    fn scaled(&self, by: i64) -> Option<Polynomial> {
        let scaled = self
            .monomials
            .iter()
            .map(|(atoms, factor)| Some((atoms.clone(), factor.checked_mul(by)?)));
        Polynomial::from_monomials(scaled.collect::<Option<_>>()?)
    }

    fn times(&self, other: &Polynomial) -> Option<Polynomial> {
        if self.monomials.len() * other.monomials.len() > MONOMIALS_MAX {
            return None;
        }
        let mut products = Vec::with_capacity(self.monomials.len() * other.monomials.len());
        for a in &self.monomials {
            for b in &other.monomials {
                products.push(product(a, b)?);
            }
        }
        Polynomial::from_monomials(products)
    }

    /// As a product: the common number and atoms of all monomials, and the sum of what is left of them.
    pub(super) fn into_term(self) -> Term {
        let [first, others @ ..] = self.monomials.as_slice() else { return Term::ZERO };
        let mut number = first.1;
        let mut common = first.0.clone();
        for (atoms, factor) in others {
            number = divisor(number, *factor);
            let mut left = atoms.clone();
            common.retain(|atom| match left.iter().position(|own| own == atom) {
                Some(at) => {
                    left.remove(at);
                    true
                }
                None => false,
            });
        }
        if others.is_empty() {
            return Term::new(number, common);
        }
        let taken = (common.clone(), number);
        let rest: Option<Vec<Monomial>> =
            self.monomials.iter().map(|monomial| over(monomial, &taken)).collect();
        let Some(rest) = rest.and_then(Polynomial::from_monomials) else {
            return Term::new(1, vec![self.into_dim()]);
        };
        common.push(rest.into_dim());
        common.sort();
        Term::new(number, common)
    }

    pub(super) fn into_dim(self) -> Dim {
        let dim = |(mut atoms, factor): Monomial| match (factor, atoms.len()) {
            (factor, 0) => Dim::Fixed(factor),
            (1, 1) => atoms.swap_remove(0),
            (1, _) => Dim::Product(atoms),
            (factor, _) => Dim::Product(std::iter::once(Dim::Fixed(factor)).chain(atoms).collect()),
        };
        let mut monomials = self.monomials;
        match monomials.len() {
            0 => Dim::Fixed(0),
            1 => dim(monomials.swap_remove(0)),
            // The number comes last, as usual.
            _ => {
                if monomials[0].0.is_empty() {
                    monomials.rotate_left(1);
                }
                Dim::Sum(monomials.into_iter().map(dim).collect())
            }
        }
    }
}

fn product((a, factor): &Monomial, (b, other): &Monomial) -> Option<Monomial> {
    let mut atoms = [a.as_slice(), b].concat();
    atoms.sort();
    Some((atoms, factor.checked_mul(*other)?))
}

/// `a / b`, if that is a monomial.
fn over((a, factor): &Monomial, (b, other): &Monomial) -> Option<Monomial> {
    let mut atoms = a.clone();
    for atom in b {
        atoms.remove(atoms.iter().position(|own| own == atom)?);
    }
    (factor.checked_rem(*other)? == 0).then(|| (atoms, factor / other))
}

/// The quotient rounded down.
fn quotient(dividend: &Polynomial, by: &Polynomial) -> Polynomial {
    let atom = |dividend: &Polynomial, by: &Polynomial| {
        let (dividend, by) = (dividend.clone().into_dim(), by.clone().into_dim());
        Polynomial::atom(Dim::Quotient(Box::new(dividend), Box::new(by)))
    };
    let computed = match by.as_constant() {
        Some(0) => None,
        Some(number) if number < 0 => number
            .checked_neg()
            .and_then(|by| Some(quotient(&dividend.scaled(-1)?, &Polynomial::constant(by)))),
        Some(number) => by_number(dividend, number),
        None => exact(dividend, by).or_else(|| by_monomial(dividend, by)),
    };
    computed.unwrap_or_else(|| atom(dividend, by))
}

/// Terms that the positive divisor divides are moved out of the rounding: `(b t + r) / b = t + r / b`.
fn by_number(dividend: &Polynomial, by: i64) -> Option<Polynomial> {
    let (mut whole, mut rest, mut number) = (Vec::new(), Vec::new(), 0);
    for (atoms, factor) in &dividend.monomials {
        if atoms.is_empty() {
            let part = floor_quotient(*factor, by)?;
            whole.push((Vec::new(), part));
            number = factor - part * by;
        } else if factor % by == 0 {
            whole.push((atoms.clone(), factor / by));
        } else {
            rest.push((atoms.clone(), *factor));
        }
    }
    let whole = Polynomial::from_monomials(whole)?;
    if rest.is_empty() {
        return Some(whole);
    }
    // (g a + m) / (g b) = (a + m / g) / b, all rounded down.
    let common = rest.iter().fold(by, |common, (_, factor)| divisor(common, *factor));
    let by = by / common;
    let mut rest: Vec<Monomial> =
        rest.into_iter().map(|(atoms, factor)| (atoms, factor / common)).collect();
    let number = floor_quotient(number, common)?;
    // (x / d + m) / b = (x + m d) / (d b).
    if let [(atoms, 1)] = rest.as_slice()
        && let [Dim::Quotient(inner, inner_by)] = atoms.as_slice()
        && let Dim::Fixed(inner_by) = **inner_by
    {
        let inner = Polynomial::of(inner);
        let moved = inner.plus(&Polynomial::constant(number.checked_mul(inner_by)?))?;
        let by = Polynomial::constant(inner_by.checked_mul(by)?);
        return whole.plus(&quotient(&moved, &by));
    }
    if number != 0 {
        rest.push((Vec::new(), number));
    }
    let rest = Polynomial::from_monomials(rest)?.into_dim();
    let part = Dim::Quotient(Box::new(rest), Box::new(Dim::Fixed(by)));
    whole.plus(&Polynomial::atom(part))
}

/// Terms that the monomial divides are moved out of the rounding.
fn by_monomial(dividend: &Polynomial, by: &Polynomial) -> Option<Polynomial> {
    let [single] = by.monomials.as_slice() else { return None };
    let (mut whole, mut rest) = (Vec::new(), Vec::new());
    for monomial in &dividend.monomials {
        match over(monomial, single) {
            Some(part) => whole.push(part),
            None => rest.push(monomial.clone()),
        }
    }
    if whole.is_empty() {
        return None;
    }
    let rest = Polynomial::from_monomials(rest)?.into_dim();
    let part = Dim::Quotient(Box::new(rest), Box::new(by.clone().into_dim()));
    Polynomial::from_monomials(whole)?.plus(&Polynomial::atom(part))
}

/// The quotient, if the division has no remainder.
fn exact(dividend: &Polynomial, by: &Polynomial) -> Option<Polynomial> {
    let leading = by.monomials.last()?;
    let (mut rest, mut result) = (dividend.clone(), Vec::new());
    for _ in 0..DIVISION_STEPS_MAX {
        let Some(next) = rest.monomials.last() else {
            return Polynomial::from_monomials(result);
        };
        let part = over(next, leading)?;
        let taken = by.times(&Polynomial { monomials: vec![part.clone()] })?;
        rest = rest.plus(&taken.scaled(-1)?)?;
        result.push(part);
    }
    None
}

fn divisor(mut a: i64, mut b: i64) -> i64 {
    while b != 0 {
        (a, b) = (b, a.checked_rem(b).unwrap_or(0));
    }
    a.saturating_abs().max(1)
}

/// The smallest or largest of several. If two differ by a number only, one of them is dropped.
fn extreme(dims: &[Dim], of: fn(Vec<Dim>) -> Dim, wins: fn(i64) -> bool) -> Polynomial {
    let is_same =
        |dim: &Dim| std::mem::discriminant(dim) == std::mem::discriminant(&of(Vec::new()));
    let mut kept: Vec<Polynomial> = Vec::new();
    let all = dims.iter().map(normal).flat_map(|dim| match &dim {
        Dim::Min(inner) | Dim::Max(inner) if is_same(&dim) => inner.clone(),
        _ => vec![dim],
    });
    for dim in all {
        let next = Polynomial::of(&dim);
        let beaten =
            |other: &Polynomial| other.difference(&next).is_some_and(|d| wins(d) || d == 0);
        if kept.iter().any(beaten) {
            continue;
        }
        kept.retain(|other| next.difference(other).is_none_or(|d| !wins(d)));
        kept.push(next);
    }
    if kept.len() == 1 {
        return kept.swap_remove(0);
    }
    let mut dims: Vec<Dim> = kept.into_iter().map(Polynomial::into_dim).collect();
    dims.sort();
    Polynomial::atom(of(dims))
}

fn broadcast_parts(dim: &Dim) -> Vec<Dim> {
    match normal(dim) {
        Dim::Broadcast(dims) => dims,
        other => vec![other],
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Bounds, Dim, Symbol, ToDim as _};

    fn s(index: u32) -> Dim {
        Dim::Symbol(Symbol(index))
    }

    #[test]
    fn equal_expressions_are_equal_values() {
        let (b, t, h) = (s(0), s(1), s(2));
        let bounds = Bounds::new(&|_| (0, i64::MAX));
        let table = [
            (&b * &t * 768, (&t * 768) * &b),
            ((&t + 1) * 2 - 2, &t * 2),
            ((&t + 1) * &b - &b, &t * &b),
            ((&b * &t * 64).over(&b * 64), t.clone()),
            ((&b * (&t + &h) * 64).over(&b * (&t + &h)), 64.to_dim()),
            ((&t * 2 + 3).over(2), &t + 1),
            ((&t + 7).over(8).over(4), (&t + 7).over(32)),
            (((&t - 1).over(2) + 1 - 1).over(2) + 1, (&t - 1).over(4) + 1),
            (t.least(&t + 1, &bounds), t.clone()),
            (t.most(0, &bounds), t.clone()),
            (t.equal(-1, &bounds).select(5, &h), h.clone()),
            (b.broadcast(1).broadcast(&b), b.clone()),
            ((-&t * 3).over(-3), t.clone()),
        ];
        for (at, (left, right)) in table.into_iter().enumerate() {
            assert_eq!(left, right, "row {at}");
        }
    }

    #[test]
    fn values_are_preserved() {
        let (a, b) = (s(0), s(1));
        let raw = [
            Dim::Quotient(
                Box::new(Dim::Sum(vec![
                    Dim::Product(vec![6.into(), a.clone()]),
                    Dim::Product(vec![(-4).into(), b.clone()]),
                    7.into(),
                ])),
                Box::new(4.into()),
            ),
            Dim::Quotient(
                Box::new(Dim::Sum(vec![
                    Dim::Product(vec![a.clone(), b.clone()]),
                    b.clone(),
                    3.into(),
                ])),
                Box::new(b.clone()),
            ),
            Dim::Max(vec![
                Dim::Sum(vec![a.clone(), (-3).into()]),
                Dim::Min(vec![a.clone(), b.clone(), Dim::Sum(vec![a.clone(), 2.into()])]),
                0.into(),
            ]),
        ];
        for dim in raw {
            let normal = dim.normalized();
            for x in 0..12 {
                for y in 1..9 {
                    assert_eq!(dim.eval(&[x, y]), normal.eval(&[x, y]), "{dim:?} {x} {y}");
                }
            }
        }
    }
}
