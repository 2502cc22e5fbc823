//! Finds which places along a dimension become padding.

use flotilla_program::dim::{Dim, Symbol, Term};

/// A dimension that the symbol enlarges, as `outer x own x inner` places in row-major order: places whose middle index is
/// at least the real size of `own` are padding. With `outer` 1 these are the last ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) outer: Term,
    pub(super) own: Term,
    pub(super) inner: Term,
}

impl Extent {
    /// With the padding at the end; `None` for a dimension that the symbol does not enlarge.
    pub(super) fn suffix(dim: &Dim, symbol: Symbol) -> Option<Extent> {
        let (own, inner) = Term::of(dim).split(symbol);
        (own != Term::ONE).then_some(Extent { outer: Term::ONE, own, inner })
    }

    /// Whether the padding is at the end.
    pub(super) fn is_suffix(&self) -> bool {
        self.outer == Term::ONE
    }

    /// Whether each place is an index of the enlarged dimension itself.
    pub(super) fn is_plain(&self) -> bool {
        self.outer == Term::ONE && self.inner == Term::ONE
    }

    /// The length of the dimension.
    pub(super) fn whole(&self) -> Term {
        self.outer.times(&self.own).times(&self.inner)
    }
}

/// The enlarged dimensions of a tensor under another shape; `None` if the shape is not such a product, or two of them
/// become one.
///
/// Row-major order is kept, so both shapes are the same sequence of enlarged parts with fixed products between them.
pub(super) fn reshaped(
    from: &[(Term, Option<&Extent>)],
    to: &[Dim],
    symbol: Symbol,
) -> Option<Vec<Option<(usize, Extent)>>> {
    // For each enlarged part, the product between it and the one before; then the product after the last.
    let mut between = vec![Term::ONE];
    let mut opened: Vec<(usize, &Term)> = Vec::new();
    for (axis, (whole, extent)) in from.iter().enumerate() {
        let last = between.last_mut()?;
        match extent {
            None => *last = last.times(whole),
            Some(extent) => {
                *last = last.times(&extent.outer);
                opened.push((axis, &extent.own));
                between.push(extent.inner.clone());
            }
        }
    }
    let mut extents = Vec::with_capacity(to.len());
    let (mut next, mut passed) = (0, Term::ONE);
    for dim in to {
        let (own, rest) = Term::of(dim).split(symbol);
        if own == Term::ONE {
            passed = passed.times(&rest);
            extents.push(None);
            continue;
        }
        let &(axis, expected) = opened.get(next)?;
        if own != *expected {
            return None;
        }
        let outer = between[next].over(&passed)?;
        let inner = rest.over(&outer)?;
        passed = inner.clone();
        next += 1;
        extents.push(Some((axis, Extent { outer, own, inner })));
    }
    (next == opened.len() && passed == *between.last()?).then_some(extents)
}

/// Whether a dimension never shrinks when the symbol grows, and never jumps as a broadcast dimension does.
pub(super) fn grows(dim: &Dim, symbol: Symbol) -> bool {
    let each = |dims: &[Dim]| dims.iter().all(|dim| grows(dim, symbol));
    match dim {
        Dim::Fixed(_) | Dim::Symbol(_) => true,
        Dim::Sum(terms) => each(terms),
        Dim::Product(factors) => {
            let negative = factors.iter().any(|dim| dim.as_fixed().is_some_and(|value| value < 0));
            !dim.mentions(symbol) || !negative && each(factors)
        }
        Dim::Quotient(dim, by) => by.as_fixed().is_some_and(|by| by > 0) && grows(dim, symbol),
        Dim::Min(dims) | Dim::Max(dims) => each(dims),
        Dim::Broadcast(_) | Dim::Equal(..) | Dim::Less(..) | Dim::Select(..) => {
            !dim.mentions(symbol)
        }
    }
}
