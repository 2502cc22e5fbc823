//! Expressions over known integers: exact ones, or numbers in shapes.

use flotilla_program::{
    Binary, Expr, ReduceKind, Step, Unary,
    dim::{Bounds, Dim},
};
use flotilla_tensor::DType;

/// Largest expression of a dimension; a larger one is computed by the program.
const PARTS_MAX: usize = 200;

/// A step's result, and whether it is a truth value.
#[derive(Clone)]
struct Term {
    dim: Dim,
    truth: bool,
}

/// One element of an expression over integers and truth values. `input` gives the element of each operand and its type.
/// `None` if there is no such number, or its expression would be too long.
pub(super) fn evaluated(
    expr: &Expr,
    input: impl Fn(u32) -> (Dim, DType),
    bounds: &Bounds<'_>,
) -> Option<Dim> {
    let mut terms: Vec<Term> = Vec::with_capacity(expr.steps.len());
    for step in &expr.steps {
        let of = |id: &u32| terms[*id as usize].clone();
        let number = |dim: Dim| Term { dim, truth: false };
        let truth = |dim: Dim| Term { dim, truth: true };
        let term = match step {
            Step::Input(index) => {
                let (dim, dtype) = input(*index);
                if dtype.is_float() {
                    return None;
                }
                Term { dim, truth: dtype == DType::Bool }
            }
            Step::Int(value) => number(Dim::Fixed(i64::from(*value))),
            Step::Dim(dim) => number(dim.clone()),
            Step::Unary(function, a) => unary(*function, of(a), bounds)?,
            Step::Binary(function, a, b) => binary(*function, of(a), of(b), bounds)?,
            Step::Select(condition, yes, no) => {
                let (yes, no) = (of(yes), of(no));
                Term { dim: of(condition).dim.select(yes.dim, no.dim), truth: yes.truth }
            }
            Step::Cast(DType::Bool, a) => match of(a) {
                known @ Term { truth: true, .. } => known,
                Term { dim, .. } => truth(not(&dim.equal(0, bounds))),
            },
            Step::Cast(to, a) if to.is_integer() => number(fitting(of(a).dim, *to, bounds)?),
            Step::Float(_) | Step::Cast(..) | Step::Bits(..) | Step::Test(..) => return None,
        };
        // A number without a value in 64 bits has none here.
        if parts(&term.dim) > PARTS_MAX {
            return None;
        }
        terms.push(term);
    }
    terms.pop().map(|term| term.dim)
}

/// The length of an expression.
pub(super) fn parts(dim: &Dim) -> usize {
    1 + dim.parts().into_iter().map(parts).sum::<usize>()
}

fn not(truth: &Dim) -> Dim {
    -truth + 1
}

/// The same number, if the type certainly holds it. Sizes of tensors fit 32 bits in any case.
fn fitting(dim: Dim, to: DType, bounds: &Bounds<'_>) -> Option<Dim> {
    let (low, high) = match to {
        DType::I64 | DType::U64 => return Some(dim),
        DType::I32 => (i64::from(i32::MIN), i64::from(i32::MAX)),
        DType::U32 => (0, i64::from(u32::MAX)),
        DType::I16 => (i64::from(i16::MIN), i64::from(i16::MAX)),
        DType::U16 => (0, i64::from(u16::MAX)),
        DType::I8 => (i64::from(i8::MIN), i64::from(i8::MAX)),
        DType::U8 => (0, i64::from(u8::MAX)),
        _ => return None,
    };
    let (least, most) = bounds.of(&dim);
    if let Some(number) = dim.as_fixed() {
        let bits = 8 * to.wire_bytes() as u32;
        let wrapped =
            if low < 0 { number << (64 - bits) >> (64 - bits) } else { number & ((1 << bits) - 1) };
        return Some(Dim::Fixed(wrapped));
    }
    let is_size = to == DType::I32;
    (is_size || (low <= least && most <= high)).then_some(dim)
}

fn unary(function: Unary, a: Term, bounds: &Bounds<'_>) -> Option<Term> {
    let Term { dim, truth } = a;
    if truth {
        return (function == Unary::Not).then(|| Term { dim: not(&dim), truth: true });
    }
    let dim = match function {
        Unary::Neg => -dim,
        Unary::Abs => dim.most(-&dim, bounds),
        Unary::Sign => {
            let negative = dim.less(0, bounds);
            let positive = Dim::Fixed(0).less(&dim, bounds);
            positive - negative
        }
        Unary::Square => &dim * &dim,
        Unary::Relu => dim.most(0, bounds),
        Unary::Floor | Unary::Ceil | Unary::Round => dim,
        Unary::Not => -dim - 1,
        _ => return None,
    };
    Some(Term { dim, truth: false })
}

fn binary(function: Binary, a: Term, b: Term, bounds: &Bounds<'_>) -> Option<Term> {
    let both = a.truth && b.truth;
    let (a, b) = (a.dim, b.dim);
    let number = |dim: Dim| Some(Term { dim, truth: false });
    let truth = |dim: Dim| Some(Term { dim, truth: true });
    match function {
        Binary::Add => number(checked(&a, &b, i64::checked_add, || &a + &b)?),
        Binary::Sub => number(checked(&a, &b, i64::checked_sub, || &a - &b)?),
        Binary::Mul => number(checked(&a, &b, i64::checked_mul, || &a * &b)?),
        Binary::Div if b.as_fixed() == Some(0) => None,
        Binary::Div => {
            number(checked(&a, &b, i64::checked_div, || a.over_towards_zero(&b, bounds))?)
        }
        Binary::Rem if b.as_fixed() == Some(0) => None,
        Binary::Rem => {
            number(checked(&a, &b, i64::checked_rem, || &a - &b * a.over_towards_zero(&b, bounds))?)
        }
        Binary::Pow => {
            let exponent = u32::try_from(b.as_fixed()?).ok().filter(|exponent| *exponent <= 8)?;
            match a.as_fixed() {
                Some(base) => number(Dim::Fixed(base.checked_pow(exponent)?)),
                None => number((0..exponent).fold(Dim::Fixed(1), |power, _| power * &a)),
            }
        }
        Binary::Min => number(a.least(b, bounds)),
        Binary::Max => number(a.most(b, bounds)),
        Binary::Eq => truth(a.equal(b, bounds)),
        Binary::Ne => truth(not(&a.equal(b, bounds))),
        Binary::Lt => truth(a.less(b, bounds)),
        Binary::Ge => truth(not(&a.less(b, bounds))),
        Binary::Gt => truth(b.less(a, bounds)),
        Binary::Le => truth(not(&b.less(a, bounds))),
        Binary::And if both => truth(a * b),
        Binary::Or if both => truth(a.most(b, bounds)),
        Binary::Xor if both => truth(not(&a.equal(b, bounds))),
        Binary::And => number(Dim::Fixed(a.as_fixed()? & b.as_fixed()?)),
        Binary::Or => number(Dim::Fixed(a.as_fixed()? | b.as_fixed()?)),
        Binary::Xor => number(Dim::Fixed(a.as_fixed()? ^ b.as_fixed()?)),
        Binary::ShiftLeft | Binary::ShiftRight => None,
    }
}

/// Computes exact numbers exactly, without a result if 64 bits do not hold it; others as an expression.
fn checked(
    a: &Dim,
    b: &Dim,
    exact: impl Fn(i64, i64) -> Option<i64>,
    symbolic: impl FnOnce() -> Dim,
) -> Option<Dim> {
    match (a.as_fixed(), b.as_fixed()) {
        (Some(a), Some(b)) => exact(a, b).map(Dim::Fixed),
        _ => Some(symbolic()),
    }
}

/// The reduction of integers.
pub(super) fn reduced(kind: ReduceKind, dims: &[Dim], bounds: &Bounds<'_>) -> Option<Dim> {
    let pair = |function: Binary| {
        let mut rest = dims.iter().cloned();
        let first = Term { dim: rest.next()?, truth: false };
        rest.try_fold(first, |all, dim| binary(function, all, Term { dim, truth: false }, bounds))
            .map(|term| term.dim)
            .filter(|dim| parts(dim) <= PARTS_MAX)
    };
    match kind {
        ReduceKind::Sum if dims.is_empty() => Some(Dim::Fixed(0)),
        ReduceKind::Product if dims.is_empty() => Some(Dim::Fixed(1)),
        ReduceKind::Sum => pair(Binary::Add),
        ReduceKind::Product => pair(Binary::Mul),
        ReduceKind::Min => pair(Binary::Min),
        ReduceKind::Max => pair(Binary::Max),
        ReduceKind::Mean | ReduceKind::SumOfSquares => None,
    }
}
