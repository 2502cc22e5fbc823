//! Arithmetic on dimensions; every result is in normal form.

use std::{
    iter::{Product, Sum},
    ops::{Add, Mul, Neg, Sub},
};

use super::{Bounds, Dim, polynomial::normal};

/// What can be converted to a dimension.
pub trait ToDim {
    /// The dimension.
    fn to_dim(&self) -> Dim;
}

impl<T: ToDim> ToDim for &T {
    fn to_dim(&self) -> Dim {
        (*self).to_dim()
    }
}

impl ToDim for Dim {
    fn to_dim(&self) -> Dim {
        self.clone()
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {
        $(impl ToDim for $number {
            fn to_dim(&self) -> Dim {
                // No length in memory is beyond 63 bits.
                Dim::Fixed(i64::try_from(*self).unwrap_or(i64::MAX))
            }
        })*
    };
}

numbers!(i64, i32, u32, usize);

impl Dim {
    /// The normal form: expressions that are recognized as equal are equal values.
    #[must_use]
    pub fn normalized(&self) -> Dim {
        normal(self)
    }

    /// The quotient, rounded down.
    #[must_use]
    pub fn over(&self, by: impl ToDim) -> Dim {
        normal(&Dim::Quotient(Box::new(self.clone()), Box::new(by.to_dim())))
    }

    /// The quotient, rounded up.
    #[must_use]
    pub fn over_up(&self, by: impl ToDim) -> Dim {
        (self + by.to_dim() - 1).over(by)
    }

    /// The quotient, rounded towards 0.
    #[must_use]
    pub fn over_towards_zero(&self, by: impl ToDim, bounds: &Bounds<'_>) -> Dim {
        let by = by.to_dim();
        if bounds.of(self).0 >= 0 && bounds.of(&by).0 > 0 {
            return self.over(by);
        }
        let negative = (self * &by).less(0, bounds);
        negative.select(-(-self.clone()).over(&by), self.over(by))
    }

    /// The smaller one.
    #[must_use]
    pub fn least(&self, other: impl ToDim, bounds: &Bounds<'_>) -> Dim {
        let other = other.to_dim();
        match bounds.order(self, &other) {
            Some(order) if order.is_le() => self.normalized(),
            Some(_) => other.normalized(),
            None => normal(&Dim::Min(vec![self.clone(), other])),
        }
    }

    /// The larger one.
    #[must_use]
    pub fn most(&self, other: impl ToDim, bounds: &Bounds<'_>) -> Dim {
        let other = other.to_dim();
        match bounds.order(self, &other) {
            Some(order) if order.is_le() => other.normalized(),
            Some(_) => self.normalized(),
            None => normal(&Dim::Max(vec![self.clone(), other])),
        }
    }

    /// 1 where both are equal, else 0.
    #[must_use]
    pub fn equal(&self, other: impl ToDim, bounds: &Bounds<'_>) -> Dim {
        let other = other.to_dim();
        match bounds.differ(self, &other) {
            true => Dim::Fixed(0),
            false => normal(&Dim::Equal(Box::new(self.clone()), Box::new(other))),
        }
    }

    /// 1 where this is less than the other one, else 0.
    #[must_use]
    pub fn less(&self, other: impl ToDim, bounds: &Bounds<'_>) -> Dim {
        let other = other.to_dim();
        let ((low, high), (other_low, other_high)) = (bounds.of(self), bounds.of(&other));
        if high < other_low {
            return Dim::Fixed(1);
        }
        if low >= other_high {
            return Dim::Fixed(0);
        }
        normal(&Dim::Less(Box::new(self.clone()), Box::new(other)))
    }

    /// `yes` where this is not 0, else `no`.
    #[must_use]
    pub fn select(&self, yes: impl ToDim, no: impl ToDim) -> Dim {
        let (yes, no) = (Box::new(yes.to_dim()), Box::new(no.to_dim()));
        normal(&Dim::Select(Box::new(self.clone()), yes, no))
    }

    /// What two dimensions broadcast to.
    #[must_use]
    pub fn broadcast(&self, other: impl ToDim) -> Dim {
        normal(&Dim::Broadcast(vec![self.clone(), other.to_dim()]))
    }
}

macro_rules! operator {
    ($trait:ident, $method:ident, |$a:ident, $b:ident| $of:expr) => {
        impl<T: ToDim> $trait<T> for Dim {
            type Output = Dim;
            fn $method(self, other: T) -> Dim {
                let ($a, $b) = (self, other.to_dim());
                normal(&$of)
            }
        }
        impl<T: ToDim> $trait<T> for &Dim {
            type Output = Dim;
            fn $method(self, other: T) -> Dim {
                let ($a, $b) = (self.clone(), other.to_dim());
                normal(&$of)
            }
        }
    };
}

operator!(Add, add, |a, b| Dim::Sum(vec![a, b]));
operator!(Sub, sub, |a, b| Dim::Sum(vec![a, Dim::Product(vec![Dim::Fixed(-1), b])]));
operator!(Mul, mul, |a, b| Dim::Product(vec![a, b]));

impl Neg for &Dim {
    type Output = Dim;
    fn neg(self) -> Dim {
        -self.clone()
    }
}

impl Neg for Dim {
    type Output = Dim;
    fn neg(self) -> Dim {
        normal(&Dim::Product(vec![Dim::Fixed(-1), self]))
    }
}

impl<'d> Product<&'d Dim> for Dim {
    fn product<I: Iterator<Item = &'d Dim>>(dims: I) -> Dim {
        normal(&Dim::Product(dims.cloned().collect()))
    }
}

impl Product for Dim {
    fn product<I: Iterator<Item = Dim>>(dims: I) -> Dim {
        normal(&Dim::Product(dims.collect()))
    }
}

impl Sum for Dim {
    fn sum<I: Iterator<Item = Dim>>(dims: I) -> Dim {
        normal(&Dim::Sum(dims.collect()))
    }
}

impl<'d> Sum<&'d Dim> for Dim {
    fn sum<I: Iterator<Item = &'d Dim>>(dims: I) -> Dim {
        normal(&Dim::Sum(dims.cloned().collect()))
    }
}

impl Dim {
    /// The same expression with each symbol replaced.
    #[must_use]
    pub fn substituted(&self, of: &impl Fn(super::Symbol) -> Dim) -> Dim {
        self.replaced(&|dim| match dim {
            Dim::Symbol(symbol) => Some(of(*symbol)),
            _ => None,
        })
    }

    /// The same expression with each part replaced for which there is a replacement.
    #[must_use]
    pub fn replaced(&self, of: &impl Fn(&Dim) -> Option<Dim>) -> Dim {
        if let Some(other) = of(self) {
            return other;
        }
        let all = |dims: &[Dim]| dims.iter().map(|dim| dim.replaced(of)).collect::<Vec<_>>();
        let one = |dim: &Dim| Box::new(dim.replaced(of));
        let dim = match self {
            Dim::Fixed(_) | Dim::Symbol(_) => return self.clone(),
            Dim::Sum(dims) => Dim::Sum(all(dims)),
            Dim::Product(dims) => Dim::Product(all(dims)),
            Dim::Min(dims) => Dim::Min(all(dims)),
            Dim::Max(dims) => Dim::Max(all(dims)),
            Dim::Broadcast(dims) => Dim::Broadcast(all(dims)),
            Dim::Quotient(a, b) => Dim::Quotient(one(a), one(b)),
            Dim::Equal(a, b) => Dim::Equal(one(a), one(b)),
            Dim::Less(a, b) => Dim::Less(one(a), one(b)),
            Dim::Select(condition, yes, no) => Dim::Select(one(condition), one(yes), one(no)),
        };
        normal(&dim)
    }
}
